"""Classification: encoder, average pooling, linear head; the same preprocessing and weights as segmentation.

Each case is read whole (the plan's patch holds the median case; a larger one is cropped about its centre, a smaller one
padded with background). Training cases are drawn with inverse class frequency, the loss is cross-entropy, the optimiser
AdamW with a cosine schedule. The last epoch's network is tested: no choice is made on validation cases.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import torch
from torch import nn

from mvp_bench.config.groups import ClassificationConfig
from mvp_bench.finetuning.classification_model import forward, read_whole
from mvp_bench.finetuning.job import FineTuneJob, write_curve
from mvp_bench.finetuning.model import ModelRecord, save_model
from mvp_bench.finetuning.weights import load_into
from mvp_bench.models.heads import Classifier
from mvp_bench.planning.store import CaseStore, Size
from mvp_bench.registry import ENCODERS
from mvp_bench.training.checkpoint import CHECKPOINT_FILE, load_checkpoint, save_checkpoint
from mvp_bench.training.runtime import Runtime
from mvp_bench.training.seeds import INITIALISATION, epoch_seeds

CONFIGURATION = "3d_fullres"  # planning's own constant brings nnU-Net, which takes seconds to import


def augment(images: np.ndarray, generator: np.random.Generator, config: ClassificationConfig) -> np.ndarray:
    """Left-right flip (p = 1/2), one gain and one offset per modality for brain voxels; background stays 0."""
    if generator.random() < 0.5:
        images = images[..., ::-1]
    channels = len(images)
    gain = generator.uniform(1 - config.intensity_jitter, 1 + config.intensity_jitter, (channels, 1, 1, 1))
    offset = generator.uniform(-config.intensity_jitter, config.intensity_jitter, (channels, 1, 1, 1))
    return np.where(images != 0, images * gain + offset, 0).astype(np.float32)


class _Training:
    """State and loop of one fine-tuning."""

    def __init__(self, job: FineTuneJob, runtime: Runtime) -> None:
        assert isinstance(job.config, ClassificationConfig)
        self.job, self.config = job, job.config
        self.runtime = runtime
        self.store = CaseStore(job.cases_folder, job.arrays)
        self.size: Size = tuple(job.plan["configurations"][CONFIGURATION]["patch_size"])
        torch.manual_seed(epoch_seeds(job.seed, INITIALISATION)[0])
        spec = ENCODERS[job.encoder]
        encoder = spec.build(len(self.store.modalities))
        model = Classifier(encoder, spec.out_channels, len(job.classes), job.config.dropout, job.config.pooling_grid)
        self.report = load_into(encoder, job, self.store.modalities)
        self.model = runtime.place(model)
        self.optimizer = torch.optim.AdamW(
            [
                {"params": self.model.encoder.parameters(), "factor": job.config.encoder_rate},
                {"params": self.model.head.parameters(), "factor": 1.0},
            ],
            lr=job.config.learning_rate,
            weight_decay=job.config.weight_decay,
        )
        self.scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.precision == torch.float16)
        self.steps_per_epoch = -(-len(job.fold.train) // job.config.batch_size)

    def run(self) -> list[dict[str, float]]:
        """Train to the last epoch, going on from a checkpoint if there is one."""
        checkpoint, identity = self.job.folder / CHECKPOINT_FILE, {"cell": self.job.key}
        start, curve = 0, []
        if state := load_checkpoint(checkpoint, identity):
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            start, curve = state["epoch"], state["curve"]
        for epoch in range(start, self.config.epochs):
            curve.append(self._epoch(epoch))
            if (epoch + 1) % self.config.checkpoint_every == 0 and epoch + 1 < self.config.epochs:
                state = {
                    "model": self.model.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "scaler": self.scaler.state_dict(),
                    "epoch": epoch + 1,
                    "curve": curve,
                }
                save_checkpoint(checkpoint, identity, state)
        return curve

    def _epoch(self, epoch: int) -> dict[str, float]:
        data_seed, torch_seed = epoch_seeds(self.job.seed, epoch, 2)
        generator = np.random.default_rng(data_seed)
        torch.manual_seed(torch_seed)  # dropout
        self.model.train()
        losses = []
        for step, cases in enumerate(self._draw(generator)):
            rate = self._rate(epoch * self.steps_per_epoch + step)
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group["factor"]
            losses.append(self._step(cases, generator))
        if not np.all(np.isfinite(losses)):
            raise FloatingPointError(f"loss is not finite in epoch {epoch}")
        return {"epoch": epoch, "learning_rate": rate, "train_loss": float(np.mean(losses))}

    def _draw(self, generator: np.random.Generator) -> list[list[str]]:
        """An epoch's batches: as many draws as training cases, with replacement, classes equally likely."""
        cases = self.job.fold.train
        counts = Counter(self.store.info(c).class_name for c in cases)
        weights = np.array([1 / counts[self.store.info(c).class_name] for c in cases])
        size = self.config.batch_size
        drawn = generator.choice(cases, self.steps_per_epoch * size, p=weights / weights.sum()).tolist()
        return [drawn[i : i + size] for i in range(0, len(drawn), size)]

    def _rate(self, step: int) -> float:
        total = self.steps_per_epoch * self.config.epochs
        warmup = max(1, round(total * self.config.warmup_fraction))
        if step < warmup:
            return self.config.learning_rate * (step + 1) / warmup
        return self.config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    def _step(self, cases: list[str], generator: np.random.Generator) -> float:
        arrays = []
        for case in cases:
            limit = self.config.shift_voxels if self.config.augment else 0
            shift = tuple(int(s) for s in generator.integers(-limit, limit + 1, 3))
            images = read_whole(self.store, case, self.size, shift)  # type: ignore[arg-type]
            arrays.append(augment(images, generator, self.config) if self.config.augment else images)
        target = torch.tensor([self.job.classes.index(str(self.store.info(c).class_name)) for c in cases])
        self.optimizer.zero_grad(set_to_none=True)
        logits = forward(self.model, self.runtime, np.stack(arrays))
        loss = nn.functional.cross_entropy(logits, target.to(self.runtime.device))
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return float(loss.detach())


def fit_classification(job: FineTuneJob) -> ModelRecord:
    """Train on the job's training cases, and keep the last epoch's network in the job's folder.

    Writes ``log.csv`` (the curve), ``model.safetensors`` and, last, ``model.json``.

    Raises:
        InputError: if the checkpoint to go on from is unreadable or of another job, or the weights do not fit.
    """
    assert isinstance(job.config, ClassificationConfig)
    torch.set_num_threads(job.runtime.threads)
    job.folder.mkdir(parents=True, exist_ok=True)
    training = _Training(job, Runtime.resolve(job.runtime))
    curve = training.run()
    write_curve(job.folder / "log.csv", curve)
    voxels = int(np.prod(training.size)) * job.config.batch_size * training.steps_per_epoch
    record = ModelRecord(
        key=job.key,
        kind="classification",
        task=job.task,
        encoder=job.encoder,
        modalities=training.store.modalities,
        classes=job.classes,
        arrays=job.arrays,
        plan=job.plan,
        inference={
            "size": list(training.size),
            "pooling_grid": job.config.pooling_grid,
            "dropout": job.config.dropout,
        },
        parameters=sum(p.numel() for p in training.model.parameters()),
        voxels_seen=voxels * job.config.epochs,
        load_report=training.report,
    )
    return save_model(job.folder, training.model, record)
