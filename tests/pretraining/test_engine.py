"""The loop's options: accumulation, averaging, pictures, TensorBoard; what it does when something goes wrong."""

from __future__ import annotations

import csv
import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch

from mvp_bench.errors import InputError
from mvp_bench.models.record import EncoderRecord
from mvp_bench.models.weights import load_state
from mvp_bench.pretraining import sampling, training_log
from mvp_bench.pretraining.engine import Engine
from mvp_bench.pretraining.methods.brainmvp import BrainMvpOptions
from mvp_bench.pretraining.methods.mae import MaeOptions
from mvp_bench.pretraining.sampling import Batch, PatchSampler
from mvp_bench.training.runtime import Runtime
from tests.pretraining.conftest import EXACT, MODALITIES, SMALL, build
from tests.pretraining.fake_store import FakeStore, brains
from tests.pretraining.test_run import Unplugged

Run = Callable[..., EncoderRecord]
UNMASKED = BrainMvpOptions(mask_ratio=0.0, slots=1, weight_contrastive=0.0)
"""Nothing is drawn, so that a step's losses depend on its cases and weights alone."""


def losses(folder: Path) -> list[dict[str, float]]:
    with (folder / "log.csv").open() as handle:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(handle)]


def test_two_forward_passes_per_step_equal_one_with_twice_the_batch(run: Run, tmp_path: Path) -> None:
    """Also across the ends of passes over the three cases, which fall into steps."""
    run("whole", options=UNMASKED, batch_size=4, log_every=1, steps=10)
    run("parts", options=UNMASKED, batch_size=2, accumulation=2, log_every=1, steps=10)
    run("other", options=UNMASKED, batch_size=2, log_every=1, steps=10)
    whole, parts, other = (losses(tmp_path / name) for name in ("whole", "parts", "other"))
    assert max(abs(a["total"] - b["total"]) for a, b in zip(whole, parts, strict=True)) < 1e-5
    assert max(abs(a["total"] - b["total"]) for a, b in zip(whole, other, strict=True)) > 1e-3


def test_every_step_uses_all_its_forward_passes_and_none_of_another(tmp_path: Path) -> None:
    """The gradient at each update is the mean over that step's batches: nothing leaks, the first step is whole."""
    engine = built(tmp_path, steps=3, accumulation=3)
    seen: list[torch.Tensor] = []
    kernel = next(p for p in engine.method.parameters() if p.dim() == 5)
    step = engine.scaler.step
    engine.scaler.step = lambda optimiser: (seen.append(kernel.grad.clone()), step(optimiser))  # type: ignore
    states = [{k: v.clone() for k, v in engine.method.state_dict().items()}]
    after = engine.method.after_step
    engine.method.after_step = lambda number: (  # type: ignore[method-assign]
        after(number),
        states.append({k: v.clone() for k, v in engine.method.state_dict().items()}),
    )
    engine.train()
    fresh = built(tmp_path / "fresh", steps=3)
    for number, found in enumerate(seen):
        fresh.method.load_state_dict(states[number])
        parts = []
        for part in range(3):
            fresh.method.zero_grad()
            terms = fresh.method(engine.sampler[3 * number + part], number, torch.Generator())
            torch.stack([t.weight * t.value for t in terms.values()]).sum().backward()
            parts.append(next(p for p in fresh.method.parameters() if p.dim() == 5).grad.clone())
        assert torch.allclose(found, torch.stack(parts).mean(0), atol=1e-6)


def built(folder: Path, **changes: Any) -> Engine:
    config = replace(SMALL, gradient_clip=0.0, **changes)
    method, sampler = build("brainmvp", brains(3, MODALITIES), UNMASKED, steps=config.steps * config.accumulation)
    return Engine(method, sampler, config, Runtime.resolve(EXACT), 0, {}, folder)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_rates_are_half_at_the_middle_and_nothing_at_the_end(tmp_path: Path, accumulation: int) -> None:
    """Of every group, whatever the number of forward passes per step."""
    engine = built(tmp_path, steps=6, accumulation=accumulation)
    used: list[list[float]] = []
    step = engine.scaler.step
    engine.scaler.step = lambda optimiser: (  # type: ignore[method-assign]
        used.append([group["lr"] for group in optimiser.param_groups]),
        step(optimiser),
    )
    engine.train()
    rates = np.array(used) / np.array(engine.peaks)
    assert rates.shape == (6, 2), "networks and templates, one update per step"
    assert rates[3] == pytest.approx([0.5, 0.5]) and rates[0] == pytest.approx([1.0, 1.0])
    assert (np.diff(rates[:, 0]) < 0).all() and 0 < rates[-1, 0] < 0.07, "it falls to the end, where it would be 0"


def test_averaged_weights(tmp_path: Path) -> None:
    engine = built(tmp_path, steps=4, ema_decay=0.75)
    history: list[torch.Tensor] = []
    kernel = next(p for p in engine.method.parameters() if p.dim() == 5)
    engine.method.after_step = lambda step: history.append(kernel.detach().clone())  # type: ignore[method-assign]
    engine.train()
    expected = history[0]
    for value in history[1:]:
        expected = 0.75 * expected + 0.25 * value
    kept = next(p for p in engine.trained.parameters() if p.dim() == 5)
    assert torch.allclose(kept, expected, atol=1e-6) and not torch.allclose(kept, kernel, atol=1e-6)


@pytest.mark.parametrize("changes", [{"accumulation": 2}, {"ema_decay": 0.5}])
def test_resuming_is_exact_with_every_option(run: Run, tmp_path: Path, changes: dict[str, Any]) -> None:
    run("whole", **changes)
    store = brains(3, MODALITIES)
    store.__class__ = Unplugged
    store.reads_left = 11  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        run("parts", store=store, **changes)
    assert (tmp_path / "parts" / "checkpoint_last.pt").exists()
    store.reads_left = 10**9  # type: ignore[attr-defined]
    run("parts", store=store, **changes)
    run("plain")
    for file in ("encoder.safetensors", "log.csv", "templates/t1.nii.gz"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes(), file
    weights = "encoder.safetensors"
    assert (tmp_path / "whole" / weights).read_bytes() != (tmp_path / "plain" / weights).read_bytes()


def test_pictures_are_drawn_and_change_nothing(run: Run, tmp_path: Path) -> None:
    run("with", pictures_every=4)
    run("without")
    drawn = sorted(p.name for p in (tmp_path / "with" / "pictures").iterdir())
    assert drawn == [f"{name}_{step:08d}.png" for name in ("templates", "views") for step in (4, 8)]
    image = matplotlib.image.imread(tmp_path / "with" / "pictures" / "views_00000008.png")
    assert image.std() > 0.1 and image.shape[1] > image.shape[0]
    for file in ("encoder.safetensors", "log.csv", "templates/t1.nii.gz"):
        assert (tmp_path / "with" / file).read_bytes() == (tmp_path / "without" / file).read_bytes(), file
    run("mae", method="mae", options=MaeOptions(), pictures_every=8)
    assert [p.name for p in (tmp_path / "mae" / "pictures").iterdir()] == ["views_00000008.png"]


def test_tensorboard_has_the_lines_of_the_log(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tensorboard=True)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    for kind, column in (("value", "distillation"), ("trivial", "distillation_trivial")):
        points = events.Scalars(f"distillation/{kind}")
        rows = losses(tmp_path / "run")
        assert [p.step for p in points] == [row["step"] for row in rows]
        assert np.allclose([p.value for p in points], [row[column] for row in rows], rtol=1e-6)


def test_tensorboard_absent(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"--tensorboard.*pip install tensorboard"):
        run(tensorboard=True)
    assert not (tmp_path / "run").exists()


def test_networks_are_compiled_in_place(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(type(self).__name__))
    run("compiled", compile=True)
    run("plain")
    assert len(compiled) >= 2
    names = [load_state(tmp_path / name / "encoder.safetensors")[0].keys() for name in ("compiled", "plain")]
    assert names[0] == names[1]


class Spoilt(FakeStore):
    """From some read on, one case holds NaN."""

    reads = 0

    def read(self, case: str, *more: Any) -> np.ndarray:
        self.reads += 1
        patch = super().read(case, *more)
        if self.reads > 12 and case == "case01":
            patch[:, 3, 3, 3] = np.nan
        return patch


def test_after_a_loss_that_is_not_finite_the_last_good_state_goes_on(run: Run, tmp_path: Path) -> None:
    run("whole")
    store = brains(3, MODALITIES)
    store.__class__ = Spoilt
    with pytest.raises(InputError, match="values that are not finite: Dataset521_Fake/case01") as caught:
        run("parts", store=store)
    assert "step " in caught.value.where and "checkpoint_last.pt" in caught.value.fix
    content = torch.load(tmp_path / "parts" / "checkpoint_last.pt", weights_only=True)
    assert 0 < content["step"] < 8 and all(t.isfinite().all() for t in content["method"].values())
    run("parts")  # the file has been mended
    for file in ("encoder.safetensors", "log.csv", "templates/t1.nii.gz"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes(), file


def test_a_checkpoint_with_missing_or_unexpected_tensors(run: Run, tmp_path: Path) -> None:
    run()
    (tmp_path / "run" / "encoder.json").unlink()
    path = tmp_path / "run" / "checkpoint_last.pt"
    whole = torch.load(path, weights_only=True)
    for change in (
        lambda c: c["method"].pop("templates.volumes"),
        lambda c: c["method"].update(surprise=torch.zeros(1)),
        lambda c: c.update(optimiser={}),
        lambda c: c.pop("log"),
    ):
        content = {**whole, "method": dict(whole["method"])}
        change(content)
        torch.save(content, path)
        with pytest.raises(InputError, match=r"checkpoint_last.pt: found contents that do not fit"):
            run()
    assert not (tmp_path / "run" / "encoder.json").exists()


@pytest.mark.parametrize("where", ["log", "weights", "picture"])
def test_a_full_disk(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if where == "log":
        monkeypatch.setattr(training_log, "write_text", full)
    elif where == "weights":
        monkeypatch.setattr("mvp_bench.pretraining.run.save_encoder", full)
    else:
        monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.raises(InputError, match="No space left"):
        run(pictures_every=4)
    monkeypatch.undo()
    folder = tmp_path / "run"
    assert not (folder / "encoder.json").exists() and not list(folder.rglob("*.tmp*"))
    run(pictures_every=4)
    run("whole")
    assert (folder / "encoder.safetensors").read_bytes() == (tmp_path / "whole/encoder.safetensors").read_bytes()


@pytest.mark.parametrize("loaders", [0, 1])
def test_a_damaged_case_is_named(run: Run, loaders: int) -> None:
    store = brains(3, MODALITIES)
    store.__class__ = Damaged
    with pytest.raises(InputError, match=r"Dataset521_Fake/case02: found .*blosc2.*mvp_plan"):
        run(store=store, loaders=loaders)


class Damaged(FakeStore):
    def read(self, case: str, *more: Any) -> np.ndarray:
        if case == "case02":
            raise RuntimeError("blosc2 cannot decompress")
        return super().read(case, *more)


def test_a_worker_that_dies_is_reported(run: Run) -> None:
    store = brains(3, MODALITIES)
    store.__class__ = Deadly
    with pytest.raises(InputError, match=r"a worker process died"):
        run(store=store, loaders=1)


class Deadly(FakeStore):
    def read(self, case: str, *more: Any) -> np.ndarray:
        import os

        os._exit(9)


def test_losses_of_a_shared_step_average_to_those_of_the_whole() -> None:
    """Every method keeps its rows of what it draws for all (losses without cross-talk between samples)."""
    for name, options in (("mae", MaeOptions()), ("brainmvp", BrainMvpOptions(weight_contrastive=0.0))):
        method, whole = build(name, brains(5, MODALITIES), options, batch=4)
        parts = [
            PatchSampler([_source()], MODALITIES, (16,) * 3, 2, method.sampling(), 0, 10, rank=rank, world=2)
            for rank in range(2)
        ]
        expected = values(method, whole[3])
        shares = [values(method, part[3]) for part in parts]
        for key, value in expected.items():
            assert np.mean([share[key] for share in shares]) == pytest.approx(value, rel=1e-4), (name, key)


def _source() -> Any:
    from tests.pretraining.conftest import source

    return source(brains(5, MODALITIES))


def values(method: Any, batch: Batch) -> dict[str, float]:
    with torch.no_grad():
        terms = method(batch, 9, torch.Generator().manual_seed(1))
    return {name: float(term.value) for name, term in terms.items()}


@pytest.mark.parametrize("scale", [1024.0, 2.0**127])
def test_scaled_losses_train_like_unscaled_ones(tmp_path: Path, scale: float) -> None:
    """The gradient scaler of fp16 (which needs a GPU) on float32: clipped after unscaling, overflows skipped."""
    logs = []
    for name in ("plain", "scaled"):
        engine = built(tmp_path / name, steps=12, log_every=1)
        engine.config = replace(engine.config, gradient_clip=0.5)
        engine.method.options = replace(UNMASKED, weight_distillation=8.0)  # times 2^127: beyond float32
        if name == "scaled":
            engine.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        engine.train()
        logs.append([row["total"] for row in losses(tmp_path / name)])
        content = torch.load(tmp_path / name / "checkpoint_last.pt", weights_only=True)
        assert bool(content["scaler"]) == (name == "scaled")
    if scale < 1e6:
        assert np.allclose(*logs, rtol=1e-5)
    else:
        assert content["scaler"]["scale"] < scale  # halved at each overflow, whose step was left out
        assert np.isfinite(logs[1]).all() and logs[1][-1] != logs[1][0]


def test_small_shared_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loader:
        def __init__(self, *_: object, **__: object) -> None: ...

        def __iter__(self) -> Any:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that "
                               "dataloader's workers are out of shared memory.")  # fmt: skip

    monkeypatch.setattr(sampling, "DataLoader", Loader)
    _, sampler = build("mae", brains(3, MODALITIES))
    with pytest.raises(InputError, match=r"/dev/shm.*--shm-size"):
        next(sampling.batches(sampler, 0, 2))
