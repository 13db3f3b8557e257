"""The leaderboards as one picture: per task a small forest plot of all methods around scratch."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mvp_bench.io import atomic_path
from mvp_bench.leaderboard.labels import METRIC_NAMES, condition_label, entry_labels, seeds_label, task_label
from mvp_bench.leaderboard.overall import ranking_rows
from mvp_bench.leaderboard.statistics import BETTER, WORSE
from mvp_bench.registry import SCRATCH

if TYPE_CHECKING:
    from mvp_bench.leaderboard.tables import Leaderboards

# Okabe and Ito's palette (told apart with any colour vision), without its yellow, which vanishes on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "v", "P", "X")
_SCRATCH_COLOUR = "#444444"
_CONDITION = ["source", "profile", "mode", "label_fraction"]
_PANEL = ["kind", "task", *_CONDITION, "data_hash", "splits_hash"]


@dataclass(frozen=True)
class Layout:
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


def leaderboard_figure(leaderboards: Leaderboards, path: Path, layout: Layout | None = None) -> None:
    """Draw mean and interval of every method on every task, segmentation left, classification right, as PNG.

    Each task has its own horizontal axis; the dashed line is scratch. A filled marker means that the method is called
    better or worse than scratch (see ``verdict``), a hollow one that it is not. The file holds no date: the same tables
    give the same bytes.

    Args:
        leaderboards: the tables to draw.
        path: PNG to write.
        layout: sizes.
    """
    with style.context("default"), atomic_path(path) as temporary:
        figure = _draw(leaderboards, layout or Layout())
        figure.savefig(temporary, format="png", facecolor="white", metadata={"Software": None})


def _draw(leaderboards: Leaderboards, layout: Layout) -> Figure:
    rows = ranking_rows(leaderboards.segmentation, leaderboards.classification)
    if rows.empty:
        figure = Figure(figsize=(layout.width, 1), dpi=layout.dpi)
        FigureCanvasAgg(figure)
        figure.text(0.5, 0.5, "No finished cells yet.", ha="center", va="center", fontsize=11)
        return figure
    rows = rows.assign(label=_labels(rows))
    label_width = 0.15 + layout.label_character * max(8, int(rows["label"].str.len().max()))
    styles = _styles(rows)
    columns = [rows[rows["kind"] == kind] for kind in ("segmentation", "classification")]
    columns = [column for column in columns if len(column)]
    caption = textwrap.wrap(_caption(rows, leaderboards.confidence), 165)
    bottom = layout.caption_line * (len(caption) + 1.2) + layout.legend
    body = max(sum(_height(panel, layout) for _, panel in column.groupby(_PANEL)) for column in columns)
    height = layout.heading + body + bottom
    figure = Figure(figsize=(layout.width, height), dpi=layout.dpi)
    FigureCanvasAgg(figure)
    several = len(rows[_CONDITION].drop_duplicates()) > 1
    for index, column in enumerate(columns):
        left = layout.gap + index * layout.width / len(columns)
        metrics = " / ".join(METRIC_NAMES[m] for m in column["metric"].unique())
        heading = f"{column['kind'].iloc[0].capitalize()}: {metrics}"
        figure.text(left / layout.width, 1 - 0.2 / height, heading, fontsize=12.5, fontweight="bold", va="center")
        top = layout.heading
        for _, panel in column.groupby(_PANEL, sort=True):
            tall = layout.row * len(panel) + 0.08
            wide = layout.width / len(columns) - layout.gap - label_width - layout.number_width
            box = (left + label_width, height - top - layout.above_axes - tall, wide, tall)
            axes = figure.add_axes((box[0] / layout.width, box[1] / height, box[2] / layout.width, box[3] / height))
            _panel(axes, panel, styles, several, label_width)
            top += _height(panel, layout)
    _legend(figure, height, bottom, layout)
    for line, text in enumerate(caption):
        y = (bottom - layout.legend - layout.caption_line * (line + 0.8)) / height
        figure.text(layout.gap / layout.width, y, text, fontsize=8.5, color="#333333", va="center")
    return figure


def _panel(
    axes: Axes, panel: pd.DataFrame, styles: dict[str, tuple[str, str]], several: bool, label_width: float
) -> None:
    """One task: a row per entry, on an axis of its own."""
    positions = np.arange(len(panel))[::-1]
    scratch = panel.loc[panel["method"] == SCRATCH, "mean"].dropna()
    for value in scratch:
        axes.axvline(value, color=_SCRATCH_COLOUR, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for y, row in zip(positions, panel.to_dict("records"), strict=True):
        colour, marker = styles[row["label"]]
        number = f"{row['mean']:.3f}"
        if np.isnan(row["mean"]):
            axes.annotate(
                "no result", (1.02, y), xycoords=("axes fraction", "data"), fontsize=8.5, va="center", color="#AA0000"
            )
            continue
        if not np.isnan(row["difference_to_scratch"]):
            number += f" ({round(row['difference_to_scratch'], 3) + 0.0:+.3f})".replace("-", "\N{MINUS SIGN}")
        axes.plot([row["ci_low"], row["ci_high"]], [y, y], color=colour, linewidth=2, solid_capstyle="butt", zorder=2)
        filled = row["verdict"] in (BETTER, WORSE) or row["method"] == SCRATCH
        face = colour if filled else "white"
        axes.plot(
            row["mean"], y, marker, color=colour, markerfacecolor=face, markersize=6, markeredgewidth=1.5, zorder=3
        )
        weight = "bold" if row["verdict"] == BETTER else "normal"
        axes.annotate(
            number, (1.02, y), xycoords=("axes fraction", "data"), fontsize=8.5, va="center", fontweight=weight
        )
    axes.set_ylim(-0.7, len(panel) - 0.3)
    axes.set_yticks(positions, panel["label"], fontsize=9)
    _limits(axes, panel)
    first = panel.iloc[0]
    n_patients = panel["n_patients"].max()
    title = task_label(first["task"])
    if several:
        title += f" \N{MIDDLE DOT} {condition_label(*(first[name] for name in _CONDITION))}"
    above = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "bottom"}
    # From the labels' left edge, so that a long title stays clear of the numbers' column.
    axes.annotate(title, (0, 1), xytext=(-72 * label_width, 5), fontsize=9.5, fontweight="bold", **above)
    axes.annotate(f"{n_patients} patients", (1.02, 1), xytext=(0, 5), fontsize=8.5, color="#555555", **above)
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


def _height(panel: pd.DataFrame, layout: Layout) -> float:
    return layout.above_axes + layout.row * len(panel) + 0.08 + layout.below_axes


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


def _legend(figure: Figure, height: float, bottom: float, layout: Layout) -> None:
    grey = "#777777"
    shape = {"marker": "o", "markersize": 6, "markeredgewidth": 1.5, "linewidth": 2}
    handles = [
        Line2D(
            [], [], color=_SCRATCH_COLOUR, marker="D", markersize=6, linewidth=1, linestyle=(0, (4, 3)), label="scratch"
        ),
        Line2D([], [], color=grey, markerfacecolor=grey, label="called better or worse than scratch", **shape),
        Line2D([], [], color=grey, markerfacecolor="white", label="no winner called", **shape),
    ]
    figure.legend(
        handles=handles, loc="center left", ncols=3, frameon=False, fontsize=8.5, borderaxespad=0, handlelength=3,
        bbox_to_anchor=(layout.gap / layout.width, (bottom - 0.5 * layout.legend) / height),
    )  # fmt: skip


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
