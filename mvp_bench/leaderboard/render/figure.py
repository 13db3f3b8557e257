"""The leaderboards as one picture: per task a small forest plot of all methods around scratch."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mvp_bench.io import atomic_path
from mvp_bench.leaderboard.columns import CONDITION
from mvp_bench.leaderboard.labels import condition_label, entry_labels, metric_label, seeds_label, task_label
from mvp_bench.leaderboard.overall import ranking_rows
from mvp_bench.leaderboard.statistics import BETTER, WORSE
from mvp_bench.leaderboard.view import Leaderboards
from mvp_bench.registry import SCRATCH

# Okabe and Ito's palette (told apart with any colour vision), without its yellow, which vanishes on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "v", "P", "X")
_SCRATCH_COLOUR = "#444444"
_CONDITION = list(CONDITION)
_PANEL = ["kind", "task", *_CONDITION, "dataset_key", "splits_key"]


@dataclass(frozen=True)
class FigureSizes:
    """Sizes in inches; the height follows from the number of tasks and methods."""

    width: float = 11.0
    label_character: float = 0.076
    number_width: float = 1.25
    gap: float = 0.25
    row: float = 0.21
    above_axes: float = 0.34
    below_axes: float = 0.28
    heading: float = 0.45
    caption_line: float = 0.17
    legend: float = 0.3
    dpi: int = 150

    def panel_height(self, panel: pd.DataFrame) -> float:
        """Height of one task's plot with its title and axis."""
        return self.above_axes + self.axes_height(panel) + self.below_axes

    def axes_height(self, panel: pd.DataFrame) -> float:
        """Height of the plot alone."""
        return self.row * len(panel) + 0.08


def leaderboard_figure(leaderboards: Leaderboards, path: Path, sizes: FigureSizes | None = None) -> None:
    """Draw mean and interval of every method on every task, segmentation left, classification right, as PNG.

    Each task has its own horizontal axis; the dashed line is scratch. A filled marker means that the method is called
    better or worse than scratch (see ``verdict``), a hollow one that it is not. The file holds no date: the same tables
    give the same bytes.

    Args:
        leaderboards: the tables to draw.
        path: PNG to write.
        sizes: of everything drawn.
    """
    with style.context("default"), atomic_path(path) as temporary:
        figure = draw(leaderboards, sizes or FigureSizes())
        figure.savefig(temporary, format="png", facecolor="white", metadata={"Software": None})


def draw(leaderboards: Leaderboards, sizes: FigureSizes) -> Figure:
    """The picture, not yet written."""
    rows = ranking_rows(leaderboards.segmentation, leaderboards.classification)
    if rows.empty:
        figure = Figure(figsize=(sizes.width, 1), dpi=sizes.dpi)
        FigureCanvasAgg(figure)
        figure.text(0.5, 0.5, "No finished cells yet.", ha="center", va="center", fontsize=11)
        return figure
    rows = rows.assign(label=_labels(rows))
    caption = textwrap.wrap(_caption(rows, leaderboards.confidence), 165)
    columns = [rows[rows["kind"] == kind] for kind in ("segmentation", "classification")]
    page = _Page(rows, [column for column in columns if len(column)], sizes, len(caption))
    for index in range(len(page.columns)):
        page.draw_column(index)
    page.draw_foot(caption)
    return page.figure


class _Page:
    """The figure and where things stand on it.

    Args:
        rows: everything shown, with a column ``label``.
        columns: the rows of each column of plots.
        sizes: in inches.
        n_lines: of the caption.
    """

    def __init__(self, rows: pd.DataFrame, columns: list[pd.DataFrame], sizes: FigureSizes, n_lines: int) -> None:
        self.columns, self._sizes = columns, sizes
        self._label_width = 0.15 + sizes.label_character * max(8, int(rows["label"].str.len().max()))
        self._styles = _styles(rows)
        self._several = len(rows[_CONDITION].drop_duplicates()) > 1
        self._bottom = sizes.caption_line * (n_lines + 1.2) + sizes.legend
        body = max(sum(sizes.panel_height(panel) for _, panel in column.groupby(_PANEL)) for column in columns)
        self._height = sizes.heading + body + self._bottom
        self.figure = Figure(figsize=(sizes.width, self._height), dpi=sizes.dpi)
        FigureCanvasAgg(self.figure)

    def draw_column(self, index: int) -> None:
        """One kind of task: a heading and a plot per task."""
        sizes, height, column = self._sizes, self._height, self.columns[index]
        share = sizes.width / len(self.columns)
        left = sizes.gap + index * share
        metrics = " / ".join(metric_label(name) for name in column["metric"].unique())
        heading = f"{column['kind'].iloc[0].capitalize()}: {metrics}"
        self.figure.text(left / sizes.width, 1 - 0.2 / height, heading, fontsize=12.5, fontweight="bold", va="center")
        top = sizes.heading
        wide = share - sizes.gap - self._label_width - sizes.number_width
        for _, panel in column.groupby(_PANEL, sort=True):
            tall = sizes.axes_height(panel)
            x, y = left + self._label_width, height - top - sizes.above_axes - tall
            box = (x / sizes.width, y / height, wide / sizes.width, tall / height)
            self._draw_panel(self.figure.add_axes(box), panel)
            top += sizes.panel_height(panel)

    def draw_foot(self, caption: list[str]) -> None:
        """Legend and caption."""
        sizes = self._sizes
        _legend(self.figure, sizes.gap / sizes.width, (self._bottom - 0.5 * sizes.legend) / self._height)
        for line, text in enumerate(caption):
            y = (self._bottom - sizes.legend - sizes.caption_line * (line + 0.8)) / self._height
            self.figure.text(sizes.gap / sizes.width, y, text, fontsize=8.5, color="#333333", va="center")

    def _draw_panel(self, axes: Axes, panel: pd.DataFrame) -> None:
        """One task: a row per entry, on an axis of its own."""
        positions = np.arange(len(panel))[::-1]
        for value in panel.loc[panel["method"] == SCRATCH, "mean"].dropna():
            axes.axvline(value, color=_SCRATCH_COLOUR, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        for y, row in zip(positions, panel.to_dict("records"), strict=True):
            _draw_row(axes, float(y), row, *self._styles[row["label"]])
        axes.set_ylim(-0.7, len(panel) - 0.3)
        axes.set_yticks(positions, panel["label"], fontsize=9)
        _limits(axes, panel)
        first = panel.iloc[0]
        title = task_label(first["task"])
        if self._several:
            title += f" \N{MIDDLE DOT} {condition_label(*(first[name] for name in _CONDITION))}"
        above: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "bottom"}
        # From the labels' left edge, so that a long title stays clear of the numbers' column.
        offset = (-72 * self._label_width, 5)
        axes.annotate(title, (0, 1), xytext=offset, fontsize=9.5, fontweight="bold", **above)
        patients = f"{panel['n_patients'].max()} patients"
        axes.annotate(patients, (1.02, 1), xytext=(0, 5), fontsize=8.5, color="#555555", **above)
        _plain_axes(axes)


def _draw_row(axes: Axes, y: float, row: dict[Any, Any], colour: str, marker: str) -> None:
    """One entry: interval, marker and numbers."""
    beside: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "fontsize": 8.5, "va": "center"}
    if np.isnan(row["mean"]):
        axes.annotate("no result", (1.02, y), color="#AA0000", **beside)
        return
    number = f"{row['mean']:.3f}"
    if not np.isnan(row["difference_to_scratch"]):
        number += f" ({round(row['difference_to_scratch'], 3) + 0.0:+.3f})".replace("-", "\N{MINUS SIGN}")
    axes.plot([row["ci_low"], row["ci_high"]], [y, y], color=colour, linewidth=2, solid_capstyle="butt", zorder=2)
    face = colour if row["verdict"] in (BETTER, WORSE) or row["method"] == SCRATCH else "white"
    axes.plot(row["mean"], y, marker, color=colour, markerfacecolor=face, markersize=6, markeredgewidth=1.5, zorder=3)
    weight = "bold" if row["verdict"] == BETTER else "normal"
    axes.annotate(number, (1.02, y), fontweight=weight, **beside)


def _plain_axes(axes: Axes) -> None:
    axes.tick_params(axis="both", length=0)
    axes.tick_params(axis="x", labelsize=8, labelcolor="#555555", pad=2)
    axes.grid(axis="x", color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#999999")


def _limits(axes: Axes, panel: pd.DataFrame) -> None:
    """Fit the axis to the intervals, never narrower than 0.1, so that noise does not look like a gulf."""
    values = panel[["mean", "ci_low", "ci_high"]].to_numpy(dtype=float)
    low, high = (0.0, 1.0) if np.isnan(values).all() else (float(np.nanmin(values)), float(np.nanmax(values)))
    middle, half = (low + high) / 2, max(0.05, 0.55 * (high - low))
    axes.set_xlim(middle - half, middle + half)
    axes.locator_params(axis="x", nbins=6)


def _labels(rows: pd.DataFrame) -> pd.Series:
    groups = [entry_labels(group) for _, group in rows.groupby(_CONDITION)]
    return pd.concat(groups).reindex(rows.index)


def _styles(rows: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Label -> colour and marker, the same on every task."""
    styles: dict[str, tuple[str, str]] = {}
    count = 0
    for label, method in rows[["label", "method"]].drop_duplicates().sort_values("label").itertuples(index=False):
        if method == SCRATCH:
            styles[label] = (_SCRATCH_COLOUR, "D")
        else:
            styles[label] = (_COLOURS[count % len(_COLOURS)], _MARKERS[count // len(_COLOURS) % len(_MARKERS)])
            count += 1
    return styles


def _legend(figure: Figure, x: float, y: float) -> None:
    grey = "#777777"
    shape: dict[str, Any] = {"marker": "o", "markersize": 6, "markeredgewidth": 1.5, "linewidth": 2}
    scratch: dict[str, Any] = {"marker": "D", "markersize": 6, "linewidth": 1, "linestyle": (0, (4, 3))}
    handles = [
        Line2D([], [], color=_SCRATCH_COLOUR, label="scratch", **scratch),
        Line2D([], [], color=grey, markerfacecolor=grey, label="called better or worse than scratch", **shape),
        Line2D([], [], color=grey, markerfacecolor="white", label="no winner called", **shape),
    ]
    placed: dict[str, Any] = {"loc": "center left", "borderaxespad": 0, "bbox_to_anchor": (x, y)}
    figure.legend(handles=handles, ncols=3, frameon=False, fontsize=8.5, handlelength=3, **placed)


def _caption(rows: pd.DataFrame, confidence: float) -> str:
    conditions = rows[_CONDITION].drop_duplicates().sort_values(_CONDITION).itertuples(index=False)
    what = "; ".join(condition_label(*condition) for condition in conditions)
    scored = rows[rows["mean"].notna()]
    seeds = seeds_label(int(scored["n_seeds"].min()), int(scored["n_seeds"].max())) if len(scored) else "no seeds"
    return (
        f"{what[0].upper()}{what[1:]}; {seeds}. "
        f"Markers: mean over test cases; bars: {100 * confidence:g} % bootstrap interval over patients. "
        "Right: the mean and, in brackets, its difference to scratch (bold: called better). Each task has its own axis."
    )
