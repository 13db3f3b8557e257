"""The figure and the terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console

from mvp_bench.cells.leak import leak_of, write_leak
from mvp_bench.config.groups import StatisticsConfig
from mvp_bench.leaderboard.labels import condition_label, entry_labels, task_label
from mvp_bench.leaderboard.overall import ranking_rows
from mvp_bench.leaderboard.reading import Current, CurrentData, read_cells
from mvp_bench.leaderboard.render.figure import FigureSizes, draw, leaderboard_figure
from mvp_bench.leaderboard.render.terminal import print_leaderboards
from mvp_bench.leaderboard.tables import build_leaderboards
from mvp_bench.leaderboard.view import Leaderboards

PED, ISLES, ADNI = "Dataset501_BraTS2023-PED", "Dataset503_ISLES22", "Dataset512_ADNI"


def build(cells, current: Current | None = None) -> Leaderboards:
    return build_leaderboards(read_cells(cells.workspace.cells, current), StatisticsConfig(bootstrap_samples=200), 0)


def printed(boards: Leaderboards, ansi: bool = False) -> str:
    stream = io.StringIO()
    print_leaderboards(
        boards, Console(file=stream, width=160, force_terminal=ansi, color_system="standard" if ansi else None)
    )
    return stream.getvalue()


def drawn(boards: Leaderboards) -> Figure:
    return draw(boards, FigureSizes())


def texts(figure: Figure) -> list[str]:
    found = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        found += [text.get_text() for text in axes.texts]
        found += [label.get_text() for label in axes.get_yticklabels()]
    return found


def test_figure_bytes_are_stable_and_free_of_dates(cells, tmp_path: Path) -> None:
    for method in ("scratch", "mae"):
        cells.write(PED, method)
    boards = build(cells)
    for name in ("a.png", "b.png"):
        leaderboard_figure(boards, tmp_path / name)
    content = (tmp_path / "a.png").read_bytes()
    assert content == (tmp_path / "b.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert b"tEXt" not in content and b"tIME" not in content


def test_figure_shows_every_task_method_and_number(cells) -> None:
    cells.write_all(seeds=(0,))
    boards = build(cells)
    figure = drawn(boards)
    assert len(figure.axes) == 10
    shown = texts(figure)
    for row in ranking_rows(boards.segmentation, boards.classification).itertuples():
        assert task_label(row.task) in shown and row.method in shown
        assert any(text.startswith(f"{row.mean:.3f}") for text in shown)
    assert any("Phantom data, profile mini; 1 seed." in text for text in shown)


def test_figure_text_does_not_overlap_or_leave_the_page(cells) -> None:
    for method in ("scratch", "mae", "brainmvp", "a_method_with_a_long_name"):
        for task in (PED, ISLES, ADNI):
            cells.write(task, method, source="real" if task == PED else "phantom")
    cells.fail(ISLES, "moco")
    figure = drawn(build(cells))
    renderer = figure.canvas.get_renderer()
    figure.draw(renderer)
    items = [*figure.texts]
    for axes in figure.axes:
        items += [*axes.texts, *axes.get_yticklabels()]
    boxes = [(item.get_text(), item.get_window_extent(renderer)) for item in items if item.get_text()]
    for index, (text, box) in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text
        for other, other_box in boxes[:index]:
            assert not box.overlaps(other_box), (text, other)


def test_figure_of_real_and_phantom_says_which_is_which(cells) -> None:
    for source in ("real", "phantom"):
        cells.write(ISLES, "scratch", source=source)
    shown = texts(drawn(build(cells)))
    assert {"503 ISLES22 · phantom data, profile mini", "503 ISLES22 · real data, profile mini"} <= set(shown)


def test_figure_without_cells(cells) -> None:
    assert texts(drawn(build(cells))) == ["No finished cells yet."]


def test_terminal_shows_means_ranks_and_failures(cells) -> None:
    for method in ("scratch", "mae"):
        cells.write(PED, method)
    cells.write(ISLES, "scratch")
    cells.fail(ISLES, "moco")
    boards = build(cells)
    text = printed(boards)
    row = boards.segmentation.query("task == @PED and method == 'mae' and target == 'mean'").iloc[0]
    assert f"{row['mean']:.3f} [{row['ci_low']:.2f}, {row['ci_high']:.2f}]" in text
    assert "phantom data, profile mini" in text
    assert "1 cells without a result" not in text and "1 cell without a result" in text
    assert "RuntimeError: out of memory" in text
    assert "no result" in text


def test_terminal_prints_the_best_in_bold_only_if_called(cells) -> None:
    for seeds, bold in ((1, False), (3, True)):
        for seed in range(seeds):
            for method in ("scratch", "brainmvp"):
                cells.write(ISLES, method, seed)
        boards = build(cells)
        best = boards.segmentation.query("method == 'brainmvp' and target == 'mean'").iloc[0]
        assert (f"\x1b[1m{best['mean']:.3f}" in printed(boards, ansi=True)) is bold


def test_terminal_without_cells(cells) -> None:
    assert "No finished cells yet." in printed(build(cells))


def test_labels_grow_only_where_they_must() -> None:
    rows = pd.DataFrame(
        {
            "task": ["t", "t", "t", "u"],
            "method": ["scratch", "mae", "mae", "mae"],
            "encoder": ["e", "e", "f", "e"],
            "stem": "reinit",
        }
    )
    assert entry_labels(rows).tolist() == ["scratch", "mae e", "mae f", "mae e"]
    assert entry_labels(rows[rows["encoder"] == "e"]).tolist() == ["scratch", "mae", "mae"]
    by_stem = rows.assign(encoder="e", stem=["reinit", "reinit", "repeat", "reinit"])
    assert entry_labels(by_stem).tolist() == ["scratch", "mae reinit", "mae repeat", "mae reinit"]
    by_weights = rows.assign(encoder="e", comparison_key=["a", "a", "a", "b"], encoder_key=["", "x", "y", "x"])
    assert entry_labels(by_weights).tolist() == ["scratch", "mae x", "mae y", "mae x"], "settings differ by task only"


def test_condition_and_task_labels() -> None:
    assert condition_label("real", "full", "finetune", 1.0) == "real data, profile full"
    assert condition_label("real", "full", "probe", 0.2) == "real data, profile full, probe, 20 % of the labels"
    assert task_label("Dataset501_BraTS2023-PED") == "501 BraTS2023-PED"
    assert task_label("mine") == "mine"


def test_terminal_names_leaks(cells) -> None:
    for method in ("scratch", "mae"):
        folder = cells.write(PED, method)
    assert "leak" not in printed(build(cells))
    write_leak(folder, leak_of(8, ["0001"]))
    output = " ".join(printed(build(cells)).split())
    assert "leak 12 %" in output and "leak: test patients who were in the pre-training data" in output


def test_labels_of_two_versions_of_the_data_are_the_same(cells) -> None:
    """They stand in tasks of their own: nothing needs to be told apart."""
    for data in ("old", "new"):
        for method in ("scratch", "mae"):
            cells.write(PED, method, needs={"dataset": data, "plan": data})
    boards = build(cells)
    rows = ranking_rows(boards.segmentation, boards.classification)
    assert sorted(set(entry_labels(rows))) == ["mae", "scratch"]


def test_terminal_counts_what_is_superseded(cells) -> None:
    cells.write(PED, "scratch")
    cells.fail(PED, "mae")
    cells.write(ISLES, "mae")
    spec = cells.spec(PED, "scratch")
    current = Current({PED: CurrentData("other", spec.needs.splits)})
    output = " ".join(printed(build(cells, current)).split())
    assert "2 superseded cells left out (2 other data); cost.csv lists them with the reason" in output
    assert "without a result" not in output
    assert "superseded" not in printed(build(cells))


def test_markup_in_names_is_text(cells) -> None:
    cells.write(PED, "scratch")
    cells.write(PED, "[red]mae")
    cells.fail(ISLES, "[bold]x")
    output = printed(build(cells))
    assert "[red]mae" in output and "[bold]x" in output
