"""model_card.md says, in numbers that are the run's own, what one must know before using an encoder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mvp_bench.datasets.overlap.audit import Leak
from mvp_bench.models.record import EncoderRecord
from mvp_bench.pretraining.methods.brainmvp import BrainMvp
from mvp_bench.pretraining.model_card import CURVE_LINES, model_card
from tests.pretraining.conftest import MODALITIES, source
from tests.pretraining.fake_store import brains

LEAK = Leak("Dataset501_BraTS2023-PED", 0, 4, ("p1",))


def sections(card: str) -> dict[str, str]:
    """Heading -> text."""
    parts = re.split(r"^#+ (.*)\n", card, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def table(text: str) -> list[dict[str, str]]:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


@pytest.fixture
def trained(tmp_path: Path) -> tuple[EncoderRecord, str]:
    """A run on two datasets, one patient left out: its record and its card."""
    from mvp_bench.pretraining.run import pretrain
    from tests.pretraining.conftest import EXACT, SMALL

    data = [
        source(brains(3, MODALITIES), excluded=frozenset({"patient-case01"})),
        source(brains(2, ["t1"], seed=5), dataset="Dataset525_IXI", licence="CC-BY-SA-3.0"),
    ]
    record = pretrain(data, SMALL, None, "resenc-smoke", EXACT, 0, "smoke", tmp_path / "run", leaks=[LEAK])
    return record, (tmp_path / "run" / "model_card.md").read_text()


def test_every_run_writes_a_whole_card(trained: tuple[EncoderRecord, str]) -> None:
    record, card = trained
    found = sections(card)
    data = {row["dataset"]: row for row in table(found["Data"])}
    assert {name: (row["patients"], row["cases"], row["patients left out"]) for name, row in data.items()} == {
        "Dataset521_Fake": ("2", "2", "1"),
        "Dataset525_IXI": ("2", "2", "0"),
    }
    assert data["Dataset521_Fake"]["licence"] == "CC0" and data["Dataset525_IXI"]["licence"] == "CC-BY-SA-3.0"
    assert {row["source"] for row in data.values()} == {"phantom"}
    (leak,) = table(found["Leaks"])
    assert leak["task"] == LEAK.task and (leak["test patients"], leak["seen in pre-training"]) == ("4", "1")
    assert leak["leak %"] == "25.0"
    config = json.loads(found["Configuration"].split("```json")[1].split("```")[0])
    assert config == record.config and record.config_hash[:12] in found["Configuration"]
    curves = table(found["Losses"])
    assert [row["step"] for row in curves] == ["3", "6", "8"]
    last = record.final_losses
    for name in ("distillation", "cross_modal", "distillation_trivial"):
        assert float(curves[-1][name]) == pytest.approx(last[name], rel=1e-3)
    cost = found["PretrainingCost"]
    assert f"{record.cost.wall_time_s:.0f} s" in cost and f"{record.cost.parameters:,} trained parameters" in cost
    assert f"{record.cost.peak_memory_mb:.0f} MB" in cost and f"{record.cost.voxels_seen:,} voxels" in cost
    assert BrainMvp.declaration.citation in found["Method"]
    assert all(deviation in found["Method"] for deviation in BrainMvp.declaration.deviations)


def test_no_task_no_leaks_and_the_card_says_so(run: Callable[..., EncoderRecord], tmp_path: Path) -> None:
    run()
    assert "Not looked for" in sections((tmp_path / "run" / "model_card.md").read_text())["Leaks"]


def test_long_curves_are_thinned_and_keep_their_end(trained: tuple[EncoderRecord, str]) -> None:
    rows = [{"step": float(step), "total": 1 / step} for step in range(1, 101)]
    curves = table(sections(model_card(trained[0], BrainMvp.declaration, rows))["Losses"])
    assert len(curves) <= CURVE_LINES and curves[-1]["step"] == "100"
