"""A loss that sits at its trivial value is reported: once, late in the training, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvp_bench.pretraining.training_log import TrainingLog

MARK = 0.98


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize(("value", "warned"), [(1.0, True), (0.99, True), (0.97, False), (1.5, True)])
def test_above_the_mark_and_only_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, value: float, warned: bool
) -> None:
    log = TrainingLog(tmp_path / "log.csv", watch_after=50, plateau=MARK)
    for step in (10, 50, 60):
        log.add({"total": value, "contrastive": value, "contrastive_trivial": 1.0})
        log.write(step, 60, 1e-3)
        assert len(warnings(caplog)) == (warned and step >= 50), "early values say nothing; one report is enough"
    if warned:
        (text,) = warnings(caplog)
        assert "loss contrastive" in text and "at step 50" in text and "trivial" in text


def test_the_mean_over_the_window_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = TrainingLog(tmp_path / "log.csv", watch_after=0, plateau=MARK)
    for value in (1.2, 0.4):  # one bad step is no plateau
        log.add({"total": value, "mae": value, "mae_trivial": 1.0})
    assert log.write(2, 4, 1e-3)["mae"] == pytest.approx(0.8) and not warnings(caplog)


def test_a_resumed_log_does_not_warn_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = TrainingLog(tmp_path / "log.csv", watch_after=0, plateau=MARK)
    log.add({"mae": 1.0, "mae_trivial": 1.0})
    log.write(1, 4, 1e-3)
    again = TrainingLog(tmp_path / "log.csv", watch_after=0, plateau=MARK)
    again.load_state(log.state())
    again.add({"mae": 1.0, "mae_trivial": 1.0})
    again.write(2, 4, 1e-3)
    assert len(warnings(caplog)) == 1 and len((tmp_path / "log.csv").read_text().splitlines()) == 3
