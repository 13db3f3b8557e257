"""``imported:NAME``: a finished run, of whatever origin, as a row of the benchmark."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from mvp_bench.benchmark.grid import check_methods
from mvp_bench.benchmark.verb import run_benchmark
from mvp_bench.cells.leak import LEAK_FILE
from mvp_bench.datasets.overlap.crosswalk import add_crosswalks
from mvp_bench.errors import InputError
from mvp_bench.io import read_json, write_json
from mvp_bench.leaderboard.reading import read_cells
from mvp_bench.leaderboard.render.files import write_leaderboards
from mvp_bench.models.formats.importing import ImportChoices, import_checkpoint
from mvp_bench.models.record import RECORD_FILE, read_record
from mvp_bench.workspace import Workspace
from tests.benchmark.conftest import CONFIG
from tests.models.foreign import make_run, nnssl_checkpoint, nnunet_checkpoint, nnunet_network

CHECKPOINT = replace(CONFIG, methods=("imported:open.mind",), pretrain_datasets=())


@pytest.fixture
def foreign(toys: Workspace, tmp_path: Path) -> Path:
    """The run of an imported checkpoint; who was trained on is unknown."""
    path = nnssl_checkpoint(tmp_path / "checkpoint_final.pth", nnunet_network("resenc-smoke"))
    import_checkpoint(path, toys.pretraining / "open.mind")
    return toys.pretraining / "open.mind"


def test_a_foreign_checkpoint_is_a_row_of_both_boards(toys: Workspace, foreign: Path) -> None:
    outcome = run_benchmark(toys, replace(CHECKPOINT, methods=("scratch,imported:open.mind",)))
    assert (outcome.finished, outcome.failed) == (4, [])
    (segmentation,) = (toys.cells / "Dataset901_Toy901" / "imported-open.mind").iterdir()
    record = read_json(segmentation / "cell.json")
    assert record["spec"]["method"] == "imported:open.mind"
    assert record["spec"]["needs"]["encoder"] == record["weights"] == read_record(foreign).weights_sha256
    assert record["load_report"]["loaded"] > 0 and record["load_report"]["new"] == 2, "the stem is drawn anew"
    assert record["cost"]["pretraining_wall_time_s"] is None and record["cost"]["pretraining_voxels_seen"] is None
    leaks = [read_json(path) for path in toys.cells.rglob(LEAK_FILE)]
    assert [(leak["leak_percent"], "not known" in leak["note"]) for leak in leaks] == [(None, True)] * 2
    write_leaderboards(toys, CONFIG.statistics, 0)
    for kind in ("segmentation", "classification"):
        board = pd.read_csv(toys.results / f"leaderboard_{kind}.csv").set_index("method")
        assert set(board.index) == {"scratch", "imported:open.mind"}
        assert board.loc["imported:open.mind", "leak_percent"].isna().all()
        assert board.loc["imported:open.mind", "difference_to_scratch"].notna().any()
    cost = pd.read_csv(toys.results / "cost.csv").set_index("method")
    assert cost.loc["imported:open.mind", ["pretraining_wall_time_s", "pretraining_voxels_seen"]].isna().all(axis=None)
    assert (cost.loc["scratch", "pretraining_voxels_seen"] == 0).all()
    again = run_benchmark(toys, CHECKPOINT)
    assert (again.finished, again.reused) == (0, 2)


@pytest.mark.parametrize("stem", ["repeat", "by_modality"])
def test_the_stem_rule_applies_to_stems_of_several_channels(toys: Workspace, tmp_path: Path, stem: str) -> None:
    network = nnunet_network("resenc-smoke", channels=2)
    path = nnunet_checkpoint(tmp_path / "checkpoint_final.pth", network, "resenc-smoke", ("t1", "t2"))
    record = import_checkpoint(path, toys.pretraining / "nnunet", ImportChoices(modalities=("flair", "t1")))
    assert record.stem_modalities == ["flair", "t1"], "the task has t1, flair"
    config = replace(CHECKPOINT, methods=("imported:nnunet",), stem=stem, tasks=("902",))
    assert run_benchmark(toys, config).finished == 1
    (cell,) = toys.cells.rglob("cell.json")
    assert read_json(cell)["load_report"]["adapted"] == 1 and read_json(cell)["load_report"]["new"] == 0


def test_leaks_of_known_data_are_counted(toys: Workspace) -> None:
    """A run of this workspace under its own name; a crosswalk says that p01 of 903 is p05 of 902, who is tested."""
    mae = replace(CONFIG, methods=("mae",), tasks=("902",), pretrain_datasets=("903",))
    run_benchmark(toys, mae)
    (run,) = toys.pretraining.glob("mae-*")
    config = replace(CHECKPOINT, methods=(f"imported:{run.name}",), tasks=("902",))
    assert run_benchmark(toys, config).finished == 1
    folder = toys.cells / "Dataset902_Toy902"
    (leak,) = (folder / f"imported-{run.name}").rglob(LEAK_FILE)
    assert read_json(leak)["leak_percent"] is None and "images of" in read_json(leak)["note"]
    table = toys.root / "table.csv"
    table.write_text("Toy902,Toy903\np05,p01")
    add_crosswalks(toys, [table])
    assert run_benchmark(toys, config).reused == 1
    assert read_json(leak)["leak_percent"] == 50 and read_json(leak)["shared"] == ["p05"]
    imported, trained = (
        read_json(next((folder / name).rglob("cell.json"))) for name in (f"imported-{run.name}", run.name[:3])
    )
    assert imported["cost"]["pretraining_voxels_seen"] == trained["cost"]["pretraining_voxels_seen"] > 0
    scores = [next((folder / name).rglob("per_case.csv")).read_bytes() for name in (f"imported-{run.name}", "mae")]
    assert scores[0] == scores[1], "the same weights, the same result"


def test_a_run_on_data_that_are_not_here_leaks_one_knows_not_what(toys: Workspace) -> None:
    make_run(toys.pretraining / "elsewhere")  # says that it saw p0 of 901, whom 901 does not have
    run_benchmark(toys, replace(CHECKPOINT, methods=("imported:elsewhere",), tasks=("901",)))
    (leak,) = toys.cells.rglob(LEAK_FILE)
    assert list(toys.cells.rglob("metrics.json")) and read_json(leak)["leak_percent"] is None


def test_unknown_and_unfinished_runs(toys: Workspace, foreign: Path) -> None:
    make_run(toys.pretraining / "mine")
    (toys.pretraining / "unfinished").mkdir()
    for name in ("openmind", "unfinished", "", "../open.mind"):
        with pytest.raises(InputError, match=r"one of mine, open\.mind") as refused:
            run_benchmark(toys, replace(CHECKPOINT, methods=(f"imported:{name}",)))
        assert "mvp_weights import" in str(refused.value)
    assert not toys.cells.exists()
    assert check_methods(("all", "imported:a"), ["a"])[-1] == "imported:a"
    with pytest.raises(InputError, match="there is none"):
        check_methods(("imported:a",))


def test_weights_are_checked_before_anything_runs(toys: Workspace, foreign: Path) -> None:
    with pytest.raises(InputError, match=r"open\.mind.*encoder resenc-smoke.*encoder resenc-mini.*--encoder"):
        run_benchmark(toys, replace(CHECKPOINT, encoder="resenc-mini"))
    weights = foreign / "encoder.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(InputError, match=r"encoder\.safetensors"):
        run_benchmark(toys, CHECKPOINT)
    assert not toys.cells.exists() and not any(toys.plans.iterdir())


def test_phantom_weights_stay_off_real_tasks(toys: Workspace) -> None:
    make_run(toys.pretraining / "mine")
    record = read_json(toys.pretraining / "mine" / RECORD_FILE)
    write_json(toys.pretraining / "mine" / RECORD_FILE, {**record, "source": "real"})
    with pytest.raises(InputError, match=r"imported:mine.*real data.*phantom data"):
        run_benchmark(toys, replace(CHECKPOINT, methods=("imported:mine",)))
    assert not toys.cells.exists()


def test_a_failed_cell_is_listed_under_its_method(toys: Workspace, foreign: Path) -> None:
    run_benchmark(toys, replace(CHECKPOINT, tasks=("902",)))
    (metrics,) = toys.cells.rglob("metrics.json")
    metrics.unlink()
    (cell,) = read_cells(toys.cells).open
    assert cell.method == "imported:open.mind" and cell.status == "unfinished"


def test_nobody_can_be_left_out_of_imported_weights(toys: Workspace, foreign: Path, caplog) -> None:
    run_benchmark(toys, replace(CHECKPOINT, tasks=("902",), exclude_overlap=True))
    assert "leaves nobody out of what imported:open.mind has seen" in caplog.text
