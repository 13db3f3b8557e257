"""Segmentation: nnU-Net's trainer under our plan, with pre-trained weights, our schedule and exact repeatability.

Kept from nnU-Net: network, loss (Dice + cross-entropy, or + binary cross-entropy for regions), deep supervision,
patch sampling, augmentation, sliding-window inference with Gaussian weights, export to the source's grid. Replaced: the
loop (state derived per epoch, resumable checkpoints without pickled code, no choice made on validation cases) and the
optimiser's numbers, which come from :class:`~mvp_bench.config.groups.SegmentationConfig`.
"""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from mvp_bench.config.groups import SegmentationConfig
from mvp_bench.datasets.prepared import BLOCK
from mvp_bench.datasets.schema import Fold
from mvp_bench.finetuning.job import FineTuneJob, write_curve
from mvp_bench.finetuning.model import ModelRecord, save_model
from mvp_bench.finetuning.weights import load_into
from mvp_bench.planning.nnunet_dataset import VerifiedDataset
from mvp_bench.planning.planner import CONFIGURATION
from mvp_bench.training.checkpoint import CHECKPOINT_FILE, load_checkpoint, save_checkpoint
from mvp_bench.training.runtime import Runtime
from mvp_bench.training.seeds import INITIALISATION, epoch_seeds
from mvp_bench.workspace import point_nnunet_results

NNUNET_FOLDER, NNUNET_OUTPUT = "nnunet", "nnunet_output.txt"
"""What nnU-Net writes of its own, and what it prints, in the job's folder."""


class SegmentationTrainer(nnUNetTrainer):
    """nnU-Net's trainer with the configuration given from outside. Call :meth:`set_up` before anything else."""

    config: SegmentationConfig
    runtime: Runtime
    seed: int
    split: Fold

    def set_up(self, job: FineTuneJob, runtime: Runtime) -> None:
        """Take the job's numbers; build network, loss and optimiser from the job's seed."""
        assert isinstance(job.config, SegmentationConfig)
        self.config, self.seed, self.split, self.runtime = job.config, job.seed, job.fold, runtime
        self.initial_lr = job.config.learning_rate
        self.weight_decay = job.config.weight_decay
        self.oversample_foreground_percent = job.config.oversample_foreground
        self.num_iterations_per_epoch = job.config.iterations_per_epoch
        self.num_val_iterations_per_epoch = job.config.validation_iterations
        self.num_epochs = job.config.epochs
        self.enable_deep_supervision = job.config.deep_supervision
        self.preprocessed_dataset_folder = str(job.cases_folder)
        _seed_everything(epoch_seeds(self.seed, INITIALISATION)[0])
        self.initialize()
        self.dataset_class = VerifiedDataset
        self.runtime.place(self.network)

    def print_to_log_file(self, *args: Any, also_print_to_console: bool = True, add_timestamp: bool = True) -> None:
        super().print_to_log_file(*args, also_print_to_console=False, add_timestamp=add_timestamp)

    def do_split(self) -> tuple[list[str], list[str]]:
        return list(self.split.train), list(self.split.val)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, None]:
        optimizer = torch.optim.SGD(
            self.network.parameters(),
            self.initial_lr,
            weight_decay=self.weight_decay,
            momentum=self.config.momentum,
            nesterov=True,
        )
        return optimizer, None

    def learning_rate(self, epoch: int) -> float:
        """Linear warm-up, then nnU-Net's polynomial decay with exponent 0.9."""
        warmup = self.config.warmup_epochs
        if epoch < warmup:
            return self.initial_lr * (epoch + 1) / warmup
        return self.initial_lr * (1 - (epoch - warmup) / (self.num_epochs - warmup)) ** 0.9

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple:
        rotation, dummy_2d, initial_patch, mirror_axes = (
            super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        if not self.config.mirror:
            mirror_axes = ()
            self.inference_allowed_mirroring_axes = None
        if not self.config.augment:
            initial_patch = np.array(self.configuration_manager.patch_size)
        return rotation, dummy_2d, initial_patch, mirror_axes

    def make_loaders(self) -> tuple[nnUNetDataLoader, nnUNetDataLoader | None]:
        """Patch sources for training and, where there are validation cases, validation."""
        scales = self._get_deep_supervision_scales()
        rotation, dummy_2d, initial_patch, mirror_axes = (
            self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        regions = self.label_manager.foreground_regions if self.label_manager.has_regions else None
        patch = self.configuration_manager.patch_size
        plain = self.get_validation_transforms(
            scales, foreground_labels=self.label_manager.foreground_labels, regions=regions
        )
        augmented = self.get_training_transforms(
            patch,
            rotation,
            scales,
            mirror_axes,
            dummy_2d,
            use_mask_for_norm=self.configuration_manager.use_mask_for_norm,
            foreground_labels=self.label_manager.foreground_labels,
            regions=regions,
        )
        _make_repeatable(augmented)
        training, validation = self.get_tr_and_val_datasets()
        options = {"oversample_foreground_percent": self.oversample_foreground_percent}
        train_loader = SeededLoader(
            training,
            self.batch_size,
            initial_patch,
            patch,
            self.label_manager,
            transforms=augmented if self.config.augment else plain,
            **options,
        )
        if not validation.identifiers or not self.num_val_iterations_per_epoch:
            return train_loader, None
        val_loader = SeededLoader(
            validation, self.batch_size, patch, patch, self.label_manager, transforms=plain, **options
        )
        return train_loader, val_loader

    def train(self, checkpoint: Path, job_hash: str) -> list[dict[str, float]]:
        """Train to the last epoch, going on from ``checkpoint`` if there is one. Returns the curve."""
        curve: list[dict[str, float]] = []
        identity = {"cell": job_hash}
        if state := load_checkpoint(checkpoint, identity):
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.grad_scaler is not None and state["scaler"]:
                self.grad_scaler.load_state_dict(state["scaler"])
            self.current_epoch, curve = state["epoch"], state["curve"]
        self.set_deep_supervision_enabled(self.enable_deep_supervision)
        train_loader, val_loader = self.make_loaders()
        for epoch in range(self.current_epoch, self.num_epochs):
            curve.append(self._epoch(epoch, train_loader, val_loader))
            done = epoch + 1
            if done % self.config.checkpoint_every == 0 and done < self.num_epochs:
                state = {
                    "network": self.network.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "scaler": self.grad_scaler.state_dict() if self.grad_scaler is not None else {},
                    "epoch": done,
                    "curve": curve,
                }
                save_checkpoint(checkpoint, identity, state)
        return curve

    def _epoch(
        self, epoch: int, train_loader: nnUNetDataLoader, val_loader: nnUNetDataLoader | None
    ) -> dict[str, float]:
        seeds = epoch_seeds(self.seed, epoch, 2 + self.config.loaders)
        rate = self.learning_rate(epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.network.train()
        losses = []
        with _batches(train_loader, seeds[0], seeds[2:]) as batches:
            for _ in range(self.num_iterations_per_epoch):
                losses.append(self.train_step(next(batches))["loss"])
        row = {"epoch": epoch, "learning_rate": rate, "train_loss": float(np.mean(losses))}
        if not np.isfinite(row["train_loss"]):
            raise FloatingPointError(f"loss is not finite in epoch {epoch}")
        if val_loader is not None:
            self.network.eval()
            with torch.no_grad(), _batches(val_loader, seeds[1], []) as batches:
                row["val_loss"] = float(
                    np.mean([float(self._loss(next(batches))) for _ in range(self.num_val_iterations_per_epoch)])
                )
        return row

    def train_step(self, batch: dict) -> dict:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(batch)
        if self.grad_scaler is not None:
            self.grad_scaler.scale(loss).backward()
            self.grad_scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.gradient_clip)
            self.grad_scaler.step(self.optimizer)
            self.grad_scaler.update()
        else:
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.gradient_clip)
            self.optimizer.step()
        return {"loss": float(loss.detach())}

    def _loss(self, batch: dict) -> torch.Tensor:
        data = batch["data"].to(self.device, non_blocking=True)
        if self.runtime.channels_last:
            data = data.to(memory_format=torch.channels_last_3d)
        target = batch["target"]
        many = isinstance(target, list)
        moved = [t.to(self.device, non_blocking=True) for t in (target if many else [target])]
        with self.runtime.autocast():
            output = self.network(data)
        outputs = [o.float() for o in (output if isinstance(output, (list, tuple)) else [output])]
        return self.loss(outputs, moved) if many else self.loss(outputs[0], moved[0])


class SeededLoader(nnUNetDataLoader):
    """nnU-Net's patch source; augmentation processes get torch seeds of their own (nnU-Net seeds NumPy's only)."""

    torch_seeds: list[int]

    def set_thread_id(self, thread_id: int) -> None:
        super().set_thread_id(thread_id)
        if self.torch_seeds:
            torch.manual_seed(self.torch_seeds[thread_id])
            random.seed(self.torch_seeds[thread_id])


@contextlib.contextmanager
def _batches(loader: SeededLoader, seed: int, worker_seeds: list[int]) -> Any:
    """An endless source of batches, in this process or in one process per worker seed, in a fixed order."""
    _seed_everything(seed)
    loader.torch_seeds = worker_seeds
    if not worker_seeds:
        yield SingleThreadedAugmenter(loader, None)
        return
    source = MultiThreadedAugmenter(
        loader, None, len(worker_seeds), seeds=worker_seeds, pin_memory=torch.cuda.is_available()
    )
    try:
        yield source
    finally:
        source._finish()


def _make_repeatable(transforms: Any) -> None:
    """Stop the blur from choosing its algorithm by timing it, which makes runs differ in the last bits."""
    for transform in transforms.transforms:
        inner = transform.transform if isinstance(transform, RandomTransform) else transform
        if isinstance(inner, GaussianBlurTransform):
            inner.benchmark = False


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # nnU-Net's patch sampling draws from the global state
    torch.manual_seed(seed)


def fit_segmentation(job: FineTuneJob) -> ModelRecord:
    """Train on the job's training cases, and keep the last epoch's network in the job's folder.

    Writes ``log.csv`` (the curve), ``model.safetensors`` and, last, ``model.json``.

    Raises:
        InputError: if the checkpoint to go on from is unreadable or of another job, or the weights do not fit.
    """
    assert isinstance(job.config, SegmentationConfig)
    torch.set_num_threads(job.runtime.threads)
    runtime = Runtime.resolve(job.runtime)
    job.folder.mkdir(parents=True, exist_ok=True)
    point_nnunet_results(job.folder / NNUNET_FOLDER)
    block = job.plan[BLOCK]
    with (job.folder / NNUNET_OUTPUT).open("a") as sink, contextlib.redirect_stdout(sink):
        trainer = SegmentationTrainer(
            {**job.plan, "continue_training": False}, CONFIGURATION, 0, dict(block["dataset_json"]), runtime.device
        )
        trainer.set_up(job, runtime)
        report = load_into(trainer.network.encoder, job, block["modalities"])
        curve = trainer.train(job.folder / CHECKPOINT_FILE, job.key)
    write_curve(job.folder / "log.csv", curve, "val_loss")
    mirror_axes = trainer.inference_allowed_mirroring_axes if job.config.mirror else None
    patch_voxels = int(np.prod(trainer.configuration_manager.patch_size)) * trainer.batch_size
    record = ModelRecord(
        key=job.key,
        kind="segmentation",
        task=job.task,
        encoder=job.encoder,
        modalities=list(block["modalities"]),
        regions=job.regions,
        arrays=job.arrays,
        plan=job.plan,
        inference={
            "mirror_axes": None if mirror_axes is None else list(mirror_axes),
            "tile_step": job.config.tile_step,
        },
        parameters=sum(p.numel() for p in trainer.network.parameters()),
        voxels_seen=patch_voxels * job.config.epochs * job.config.iterations_per_epoch,
        load_report=report,
    )
    return save_model(job.folder, trainer.network, record)
