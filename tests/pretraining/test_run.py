"""The loop and its folder: schedule, log, record, interruption, refusal."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from mvp_bench.errors import InputError
from mvp_bench.models.record import EncoderRecord, read_record
from mvp_bench.models.templates import fill_missing, frame_of, load_templates
from mvp_bench.models.weights import check_encoder, initialise_encoder, load_pretrained
from mvp_bench.pretraining.engine import rate_factor, step_seed
from mvp_bench.pretraining.methods.brainmvp import BrainMvpOptions
from mvp_bench.pretraining.methods.mae import MaeOptions
from mvp_bench.registry import ENCODERS
from mvp_bench.training.checkpoint import load_checkpoint, save_checkpoint
from tests.pretraining.conftest import EXACT, MODALITIES, SMALL, source
from tests.pretraining.fake_store import FakeStore, brains

Run = Callable[..., EncoderRecord]
RESULTS = ("encoder.safetensors", "log.csv", "templates/t1.nii.gz", "templates/t2.nii.gz")


class Unplugged(FakeStore):
    """Raises after some reads, like a machine that is switched off."""

    reads_left = 10**9

    def read(self, *arguments):  # type: ignore[no-untyped-def]
        self.reads_left -= 1
        if self.reads_left < 0:
            raise KeyboardInterrupt
        return super().read(*arguments)


def test_learning_rate() -> None:
    assert rate_factor(500, 1000, 0) == pytest.approx(0.5)
    assert rate_factor(500, 1000, 20) == pytest.approx(0.5)
    assert rate_factor(1000, 1000, 20) == pytest.approx(0.0)
    assert rate_factor(0, 1000, 20) == pytest.approx(1 / 20)
    assert max(rate_factor(s, 1000, 20) for s in range(1000)) <= 1.0


def test_random_state_differs_between_steps_ranks_and_seeds() -> None:
    seeds = {step_seed(s, t, r) for s in range(3) for t in range(3) for r in range(3)}
    assert len(seeds) == 27 and step_seed(1, 2, 0) == step_seed(1, 2, 0)


@pytest.mark.parametrize("method", ["mae", "brainmvp"])
def test_a_run_leaves_weights_log_card_and_record(run: Run, tmp_path: Path, method: str) -> None:
    record = run(method=method)
    folder = tmp_path / "run"
    assert record == read_record(folder)
    state, again = load_pretrained(folder)
    encoder = ENCODERS["resenc-smoke"].build(4)
    assert len(initialise_encoder(encoder, state, "repeat", 4).loaded) == len(state) - 1
    check_encoder(again, "resenc-smoke", folder)
    with pytest.raises(InputError, match=r"resenc-smoke.*resenc-mini"):
        check_encoder(again, "resenc-mini", folder)
    assert record.source == "phantom" and record.licences == ["CC0"] and record.modalities == list(MODALITIES)
    assert record.data[0].patients == [f"patient-case{i:02d}" for i in range(3)]
    assert record.cost.voxels_seen == 8 * 2 * 16**3
    with (folder / "log.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [row["step"] for row in rows] == ["3", "6", "8"]
    for name in rows[0]:
        if name not in ("step", "learning_rate", "total") and not name.endswith("_trivial"):
            assert f"{name}_trivial" in rows[0]
    card = (folder / "model_card.md").read_text()
    assert "CC0" in card and "phantom" in card and "Citation" not in card and "CVPR" in card
    for modality, file in record.templates.items():
        assert modality in MODALITIES and nib.load(folder / file).shape == (24, 28, 24)
    assert bool(record.templates) == (method == "brainmvp")
    assert record.template_frame == ("centre" if method == "brainmvp" else None)


@pytest.mark.parametrize("align", ["world", "centre", "volume"])
def test_templates_of_a_run_fill_a_missing_modality(run: Run, tmp_path: Path, align: Any) -> None:
    """What pre-training fills a patch with is what the function for later puts in a missing modality's place."""
    store = brains(3, MODALITIES)
    store._origins = {"case00": (-20.0, -30.0, 5.0), "case01": (-16.0, -34.0, 9.0), "case02": (-18.0, -30.0, 7.0)}
    store._middles = {"case00": (4.0, 0.0, 31.0), "case01": (10.0, -4.0, 33.0), "case02": (8.0, 0.0, 29.0)}
    record = run(store=store, options=BrainMvpOptions(align=align, template_rate=300.0))
    assert record.template_frame == frame_of(record) == align
    templates = load_templates(tmp_path / "run", record)
    info = store.info("case01")
    images = np.array(store.volumes["case01"])
    images[1] = 0
    filled = fill_missing(images, MODALITIES, ("t1", "flair"), info.affine, templates, record, middle=info.middle)
    assert np.array_equal(filled[[0, 2]], images[[0, 2]])
    brain = (images != 0).any(axis=0)
    assert filled[1][brain].any() and not filled[1][~brain].any()
    template = templates["t2"]
    first = {
        "world": np.array([9.0, -34.0, -16.0]),
        "centre": -(np.array(info.shape) - 1) / 2 * 2.0,
        "volume": np.array([9.0, -34.0, -16.0]) - np.array([33.0, -4.0, 10.0]),
    }[align]
    start = np.round((first - template.affine[2::-1, 3]) / 2.0).astype(int)
    z, y, x = (slice(s, s + n) for s, n in zip(start, info.shape, strict=True))
    assert np.allclose(filled[1], np.where(brain, template.volume[z, y, x], 0), atol=1e-5)


def test_same_seed_same_bytes(run: Run, tmp_path: Path) -> None:
    run("a")
    run("b", loaders=1, checkpoint_every=5)  # what must not matter
    run("c", seed=1)
    for file in RESULTS:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
        assert (tmp_path / "a" / file).read_bytes() != (tmp_path / "c" / file).read_bytes(), file


def test_a_finished_run_is_returned_as_it_is(run: Run, tmp_path: Path) -> None:
    first = run()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*") if p.is_file() and p.suffix != ".lock"}
    assert run() == first
    assert before == {p: p.stat().st_mtime_ns for p in before}


@pytest.mark.parametrize(("reads", "precision"), [(5, "fp32"), (9, "bf16"), (15, "fp32")])
def test_interrupted_and_resumed_equals_uninterrupted(run: Run, tmp_path: Path, reads: int, precision: str) -> None:
    run("whole", precision=precision)
    store = brains(3, MODALITIES)
    store.__class__ = Unplugged
    store.reads_left = reads  # type: ignore[attr-defined]  # 2 per step
    with pytest.raises(KeyboardInterrupt):
        run("parts", store=store, precision=precision)
    assert not (tmp_path / "parts" / "encoder.json").exists()
    store.reads_left = 10**9  # type: ignore[attr-defined]
    run("parts", store=store, precision=precision)
    for file in RESULTS:
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes(), file


def test_killed_and_resumed_equals_uninterrupted(run: Run, tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys, time
        from dataclasses import replace
        from pathlib import Path
        import torch
        from mvp_bench.pretraining.run import pretrain
        from tests.pretraining.conftest import EXACT, MODALITIES, SMALL, source
        from tests.pretraining.fake_store import FakeStore, brains

        class Slow(FakeStore):
            def read(self, *arguments):
                time.sleep(0.1)
                return super().read(*arguments)

        torch.set_num_threads(1)
        store = brains(3, MODALITIES)
        store.__class__ = Slow
        pretrain([source(store)], SMALL, None, "resenc-smoke", EXACT, 0, "smoke", Path(sys.argv[1]))
        """
    )
    folder = tmp_path / "killed"
    root = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", script, str(folder)], cwd=root)
    deadline = time.monotonic() + 60
    while not (folder / "checkpoint_last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert (folder / "checkpoint_last.pt").exists() and not (folder / "encoder.json").exists()
    run("killed")
    run("whole")
    for file in RESULTS:
        assert (tmp_path / "whole" / file).read_bytes() == (folder / file).read_bytes(), file


def test_resuming_restores_the_templates(run: Run, tmp_path: Path) -> None:
    run()
    (tmp_path / "run" / "encoder.json").unlink()
    content = torch.load(tmp_path / "run" / "checkpoint_last.pt", weights_only=True)
    stored = content["method"]["templates.volumes"]
    assert stored.any()
    record = run()  # nothing is left to train
    volume = np.asarray(nib.load(tmp_path / "run" / record.templates["t1"]).dataobj).transpose(2, 1, 0)
    assert np.array_equal(volume, stored[0].numpy())


def test_another_configuration_is_refused(run: Run, tmp_path: Path) -> None:
    run(options=BrainMvpOptions())
    with pytest.raises(InputError, match=r"options.mask_ratio 0.8, now 0.5"):
        run(options=BrainMvpOptions(mask_ratio=0.5))
    (tmp_path / "run" / "encoder.json").unlink()
    with pytest.raises(InputError, match=r"pretrain.learning_rate 0.001, now 0.002"):
        run(options=BrainMvpOptions(), learning_rate=2e-3)
    with pytest.raises(InputError, match=r"data.Dataset521_Fake"):
        run(options=BrainMvpOptions(), data_hash="another")


def test_corrupt_checkpoint(run: Run, tmp_path: Path) -> None:
    run()
    (tmp_path / "run" / "encoder.json").unlink()
    path = tmp_path / "run" / "checkpoint_last.pt"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match="not a whole checkpoint"):
        run()
    path.write_bytes(b"")
    with pytest.raises(InputError, match="not a whole checkpoint"):
        run()


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):  # type: ignore[no-untyped-def]
            return os.mkdir, (str(tmp_path / "evil"),)

    torch.save({"identity": "{}", "method": Evil()}, tmp_path / "checkpoint_last.pt")
    with pytest.raises(InputError, match="not a whole checkpoint"):
        load_checkpoint(tmp_path / "checkpoint_last.pt", {})
    assert not (tmp_path / "evil").exists()


def test_full_disk_keeps_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint_last.pt"
    save_checkpoint(path, {"a": 1}, {"step": 2})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match="No space left"):
        save_checkpoint(path, {"a": 1}, {"step": 4})
    monkeypatch.undo()
    content = load_checkpoint(path, {"a": 1})
    assert content is not None and content["step"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint_last.pt"]


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_cases(run: Run, tmp_path: Path) -> None:
    store = brains(3, MODALITIES)
    store.volumes["case01"][:] = np.nan
    with pytest.raises(InputError, match=r"Dataset521_Fake/case01") as caught:
        run(store=store, batch_size=2)
    assert "distillation" in caught.value.found
    assert not (tmp_path / "run" / "encoder.json").exists()
    stored = tmp_path / "run" / "checkpoint_last.pt"
    if stored.exists():
        content = torch.load(stored, weights_only=True)
        assert all(t.isfinite().all() for t in content["method"].values())


def test_changed_weights_are_noticed(run: Run, tmp_path: Path) -> None:
    run()
    path = tmp_path / "run" / "encoder.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match="SHA-256"):
        load_pretrained(tmp_path / "run")


def test_a_record_with_a_wrong_field(run: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_record(tmp_path / "run")
    run()
    path = tmp_path / "run" / "encoder.json"
    content = json.loads(path.read_text())
    content["seed"] = "many"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"encoder.json: seed"):
        read_record(tmp_path / "run")


def test_unknown_names(run: Run) -> None:
    with pytest.raises(InputError, match="brainmvp"):
        run(method="brainmpv")
    with pytest.raises(InputError, match="official"):
        run(preset="offical")
    with pytest.raises(InputError, match="preset of mae"):
        run(method="mae", preset="mini")


def test_sitting_at_the_trivial_value_is_reported(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="mvp_bench"):
        run(method="mae", options=MaeOptions(), steps=102, log_every=51, learning_rate=1e-9, checkpoint_every=200)
    assert [r for r in caplog.records if "loss mae" in r.getMessage() and "trivial" in r.getMessage()]


def test_spacings_must_agree() -> None:
    from mvp_bench.pretraining.run import take_census

    coarse = FakeStore(brains(1, MODALITIES).volumes, MODALITIES, (3.0, 3.0, 3.0))
    with pytest.raises(InputError, match="one spacing"):
        take_census([source(brains(1, MODALITIES)), source(coarse, dataset="Dataset522_Other")])


def test_no_data() -> None:
    from mvp_bench.pretraining.run import pretrain

    with pytest.raises(InputError, match="no case"):
        pretrain([], SMALL, None, "resenc-smoke", EXACT, 0, "smoke", Path("nowhere"))
    assert not Path("nowhere").exists()
