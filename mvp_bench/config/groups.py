"""The groups of numbers that verbs share; :mod:`mvp_bench.config.verbs` puts them together.

Field docstrings are the command line's help texts, and each type holds the field's range. Method-specific fields live
in the method's own file (``pretraining/methods``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from mvp_bench.config.fields import Broken, option
from mvp_bench.config.marks import DECIDED, EXPERT, KEEPING, LATER, PROCESSES, SHOWN, Off
from mvp_bench.config.ranges import (
    Count,
    CountOrNone,
    Decay,
    Degrees,
    Device,
    Edge,
    Factor,
    Few,
    Ge,
    Gt,
    Helpers,
    InnerShare,
    Le,
    Len,
    MethodName,
    Millimetres,
    PartialShare,
    Positive,
    Rate,
    Seed,
    Share,
    SomeShare,
    Spacing,
    Text,
    Voxels,
    Workers,
)

Precision = Literal["auto", "bf16", "fp16", "fp32"]
StemRule = Literal["reinit", "repeat", "by_modality"]


@dataclass(frozen=True)
class PhantomConfig:
    """Size of the synthetic cohort (anatomy and physics are in datasets/phantom)."""

    spacing_mm: Annotated[float, Ge(0.5), Le(10)] = 1.0
    """Voxel edge of the phantom releases within a slice, mm. Slice thickness follows the real release in proportion."""
    segmentation_patients: Annotated[int, Ge(1), Le(100_000)] = 60
    """Patients per segmentation dataset."""
    classification_patients: Annotated[int, Ge(1), Le(100_000)] = 120
    """Patients per classification dataset."""
    pretraining_patients: Annotated[int, Ge(1), Le(100_000)] = 60
    """Patients per pre-training dataset."""


@dataclass(frozen=True)
class CheckConfig:
    """What the integrity check accepts, repairs and warns of."""

    grid_tolerance: Annotated[Share, EXPERT] = 0.05
    """Distance of corners, in voxels, up to which two grids are one."""
    drift_tolerance: Annotated[Factor, EXPERT] = 0.5
    """Distance of corners, in voxels, up to which headers of equal shape are repaired: the reference's is copied. More
    is an error."""
    min_spacing_mm: Annotated[Spacing, SHOWN, EXPERT] = 0.2
    """Voxel edge in mm; shorter ones are warned of."""
    max_spacing_mm: Annotated[Spacing, SHOWN, EXPERT] = 10.0
    """Voxel edge in mm; longer ones are warned of."""
    min_extent_mm: Annotated[Factor, SHOWN, EXPERT] = 80.0
    """Field of view in mm (shortest edge); smaller ones are warned of."""
    max_extent_mm: Annotated[Factor, SHOWN, EXPERT] = 500.0
    """Field of view in mm (longest edge); larger ones are warned of."""
    max_value: Annotated[float, Gt(0), Le(1e18), EXPERT] = 1e15
    """Largest value of an image, up or down. Larger ones are a fault: their squares leave single precision."""
    least_contrast: Annotated[float, Gt(0), Le(1), EXPERT] = 1e-4
    """Standard deviation of a brain's values, below which an image that cannot be normalised is multiplied by a power
    of 1000."""
    min_spread: Annotated[InnerShare, EXPERT] = 0.5
    """Least standard deviation of a brain after normalisation, its 1 % of outermost values left out. Sound images have
    0.87 to 0.99."""
    max_spread: Annotated[float, Ge(1), Le(100), EXPERT] = 1.5
    """Largest standard deviation of a brain after normalisation."""
    outlier_spreads: Annotated[float, Ge(3), Le(10_000), EXPERT] = 30.0
    """Distance from the median, in standard deviations, from which a value is odd. Sound images end at 20."""
    max_outliers: Annotated[Share, EXPERT] = 0.001
    """Largest share of a brain's voxels with odd values. Up to it, they are brought nearer where an image cannot be
    normalised otherwise."""

    def broken(self) -> Iterator[Broken]:
        """Rules between the fields that do not hold."""
        for low, high in (
            ("grid_tolerance", "drift_tolerance"),
            ("min_spacing_mm", "max_spacing_mm"),
            ("min_extent_mm", "max_extent_mm"),
        ):
            if getattr(self, low) > getattr(self, high):
                yield Broken(low, f"at most {option(high)}, which is {getattr(self, high):g}")


@dataclass(frozen=True)
class RegistrationConfig:
    """Rigid registration within a case, for releases whose modalities lie on different grids."""

    min_overlap: Share = 0.5
    """Dice of the two foregrounds below which an image is left out of its case."""
    min_information: Factor = 0.06
    """Mutual information (nats) below which the two foregrounds have nothing in common: the registration is refused."""
    min_common: Share = 0.25
    """Share of either foreground in the common field of view from which overlap and information are measured."""
    slack: Share = 0.05
    """Share of the overlap or information that the headers gave by which a registration may lower it at most."""
    working_mm: Millimetres = 2.0
    """Voxel edge in mm, roughly, at which images are registered; finer ones are averaged to it."""
    shading_mm: Millimetres = 30.0
    """Standard deviation in mm of the smooth shading that is divided out before."""
    search_mm: Millimetres = 8.0
    """Voxel edge in mm at which the starting positions are compared."""
    search_degrees: Annotated[tuple[Degrees, ...], Len(1, 36)] = (-20.0, 0.0, 20.0)
    """Rotations about each axis that are tried as starting positions."""
    starts: Few = 4
    """Starting positions, the best ones, that are optimised."""
    search_iterations: Count = 60
    """Steps, at most, from each of them."""
    bins: Annotated[int, Ge(5), Le(4096)] = 32
    """Histogram bins of the mutual information (Mattes)."""
    margin_mm: Factor = 8.0
    """Rim in mm around the fixed foreground in which mutual information is measured too."""
    sampling: Annotated[tuple[SomeShare, ...], Len(1, 8)] = (0.5, 0.15)
    """Share of the voxels that are sampled, level by level."""
    shrink_factors: Annotated[tuple[Annotated[int, Ge(1), Le(64)], ...], Len(1, 8)] = (2, 1)
    """Factors by which the working images are shrunk, level by level."""
    smoothing_mm: Annotated[tuple[Factor, ...], Len(1, 8)] = (3.0, 0.0)
    """Standard deviation of the smoothing in mm, level by level."""
    step_mm: Millimetres = 2.0
    """First step of the optimiser in mm (regular steps, halved at every turn)."""
    min_step_mm: Millimetres = 0.002
    """Step in mm at which the optimiser stops."""
    iterations: Count = 150
    """Steps, at most, per level."""
    sampling_seed: Seed = 0
    """Seed of the voxels that registration samples."""

    def broken(self) -> Iterator[Broken]:
        """Rules between the fields that do not hold."""
        levels = len(self.sampling)
        for name in ("shrink_factors", "smoothing_mm"):
            if len(getattr(self, name)) != levels:
                yield Broken(name, f"{levels} values, one for each level of {option('sampling')}")
        if self.min_step_mm > self.step_mm:
            yield Broken("min_step_mm", f"at most {option('step_mm')}, which is {self.step_mm:g}")


@dataclass(frozen=True)
class PreparationConfig:
    """How a release becomes a dataset; part of what a preparation is known by."""

    split: Literal["card", "ratio", "leave_one_out", "k_fold"] = "card"
    """Scheme of the splits. card: the dataset's own (official lists where there are any)."""
    k: Annotated[int, Ge(2), Le(1000)] = 5
    """Folds of --split k_fold."""
    exclude_faulty: bool = False
    """Exclusion of the cases that fail the check, each listed with its reason. Else any fault stops the preparation."""
    nan_background: bool = False
    """Reading of NaN, as SPM writes it outside the head, as background (0) in images and masks, each file listed. Else
    it is a fault."""
    check: CheckConfig = field(default_factory=CheckConfig)
    registration: Annotated[RegistrationConfig, EXPERT] = field(default_factory=RegistrationConfig)


@dataclass(frozen=True)
class OverlapConfig:
    """When two scans count as the same person."""

    images: Annotated[
        bool, DECIDED, Off("Identity by ids and crosswalks alone; what images would tell is unknown.")
    ] = True
    """Comparison of the images by perceptual hashes, besides ids and crosswalks."""
    hash_distance: Annotated[Share, DECIDED, EXPERT] = 0.15
    """Share of differing bits up to which two images are candidates for one scan. Measured on phantoms: one scan stored
    otherwise (turned by 10 degrees, resampled, gamma) at most 0.06; 530 different people 0.21 to 0.5."""
    scan_correlation: Annotated[Share, DECIDED, EXPERT] = 0.85
    """Correlation after registration from which a candidate pair counts as one scan. Measured: one scan at least 0.95;
    the most alike of 530 people 0.74."""


@dataclass(frozen=True)
class PlanningConfig:
    """How a dataset is turned into a plan."""

    spacing: tuple[Spacing, Spacing, Spacing] | None = None
    """Target spacing in mm. Array order (z, y, x: inferior-superior, posterior-anterior, left-right); default: from
    the fingerprint."""
    memory_gb: Annotated[float, Ge(0.001), Le(10_000)] = 8.0
    """Memory in GB that patch and batch size are planned for (nnU-Net's rule, calibrated on GPU training)."""
    max_patch_edge: Annotated[Edge, EXPERT] = 192
    """Longest patch edge in voxels that is planned."""
    foreground_samples: Annotated[Count, EXPERT] = 100_000_000
    """Voxels in all from which the fingerprint's intensity statistics are taken."""


@dataclass(frozen=True)
class LoopConfig:
    """The one training loop shared by all methods."""

    preset: Annotated[Text | None, DECIDED] = None
    """Named set of the method's own options (for brainmvp: mini, paper, official). Default: the one that is named like
    the profile, where there is one, else the method's defaults."""
    steps: Count = 250_000
    """Optimiser steps."""
    batch_size: Few = 4
    """Cases per step and process. With --accumulation, cases per forward pass."""
    accumulation: Few = 1
    """Forward passes whose gradients are averaged into one optimiser step."""
    patch_size: Voxels = (96, 96, 96)
    """Patch in voxels (z, y, x), multiples of the encoder's total stride."""
    spacing: Spacing | None = None
    """Target spacing in mm. The same along all axes, for all pre-training data; default: median of the datasets'
    plans."""
    deduplicate: Annotated[Annotated[int, Ge(0), Le(64)] | None, EXPERT] = None
    """Hamming distance of 64-bit difference hashes up to which a case counts as a duplicate of an earlier case of its
    dataset and is left out (Wolf et al. 2024 found 6 best for CT slices). Default: every case is used."""
    learning_rate: Rate = 3e-4
    """Peak learning rate. AdamW's; it falls along a cosine to zero."""
    weight_decay: Decay = 1e-5
    """Weight decay of the optimiser. AdamW's, decoupled from the gradient."""
    warmup_fraction: PartialShare = 0.02
    """Share of the training during which the learning rate rises linearly."""
    gradient_clip: Positive | None = 12.0
    """Largest norm of the whole gradient. None: gradients are left as they are."""
    ema_decay: Annotated[PartialShare, EXPERT] = 0.0
    """Decay per step of a running average of the weights, which is written instead of the last weights. 0: none."""
    compile: bool = False
    """Compilation of the networks (torch.compile): minutes at the start, faster steps on GPUs."""
    checkpoint_every: Annotated[Count, KEEPING] = 1000
    """Interval between resumable checkpoints. In steps."""
    log_every: Annotated[Count, KEEPING] = 50
    """Steps between log lines."""
    loaders: Annotated[Helpers, PROCESSES] = 4
    """Processes that load patches for each training. 0: the training process loads them itself."""
    pictures_every: Annotated[CountOrNone, KEEPING] = 0
    """Steps between pictures (PNG) of inputs, reconstructions and templates. 0: none."""
    tensorboard: Annotated[bool, SHOWN] = False
    """Copy of the log for TensorBoard (needs the package tensorboard)."""

    def of(self, method: str) -> PretrainConfig:
        """The loop with a method in it."""
        return PretrainConfig(**vars(self) | {"method": method})


@dataclass(frozen=True)
class PretrainConfig(LoopConfig):
    """A method in its training loop."""

    method: MethodName = "brainmvp"
    """Registered pre-training method (see mvp_pretrain --list)."""

    @property
    def loop(self) -> LoopConfig:
        """The loop without the method."""
        return LoopConfig(**{name: value for name, value in vars(self).items() if name != "method"})


@dataclass(frozen=True)
class SegmentationConfig:
    """Fine-tuning for segmentation: nnU-Net's trainer and rules, with these values."""

    epochs: Count = 300
    """Epochs of training. For segmentation, rounds of --segmentation.iterations-per-epoch steps."""
    iterations_per_epoch: Count = 250
    """Training steps per epoch."""
    validation_iterations: Annotated[CountOrNone, SHOWN, EXPERT] = 50
    """Validation patches per epoch (for the curve; no choice depends on them)."""
    learning_rate: Rate = 1e-2
    """Peak learning rate. That of SGD with Nesterov momentum; it falls as a polynomial (power 0.9)."""
    warmup_epochs: CountOrNone = 0
    """Epochs with a linearly rising learning rate; fewer than all."""
    weight_decay: Decay = 3e-5
    """Weight decay of the optimiser. An L2 penalty here."""
    momentum: Annotated[InnerShare, EXPERT] = 0.99
    """Nesterov momentum of SGD."""
    gradient_clip: Positive | None = 12.0
    """Largest norm of the whole gradient. None: gradients are left as they are."""
    oversample_foreground: Annotated[Share, EXPERT] = 0.33
    """Share of each batch that is centred on a labelled voxel."""
    deep_supervision: Annotated[bool, EXPERT, Off("Loss on the decoder's finest output alone.")] = True
    """Losses on the decoder's coarser outputs too."""
    augment: Annotated[bool, Off("Training on images as they are, without augmentation.")] = True
    """Augmentation of the training images. For segmentation, nnU-Net's."""
    mirror: Annotated[bool, Off("No mirroring, neither in augmentation nor in inference.")] = True
    """Mirroring in augmentation and in inference (test-time augmentation)."""
    tile_step: Annotated[float, Ge(0.05), Le(1), EXPERT] = 0.5
    """Step of the sliding window as a share of the patch."""
    checkpoint_every: Annotated[Count, KEEPING] = 10
    """Interval between resumable checkpoints. In epochs."""
    loaders: Helpers = 6
    """Processes that load patches for each training. 0: the training process loads them itself. Each augments from a
    seed of its own, so that results are exactly repeatable for one value of it."""
    keep_predictions: Annotated[bool, SHOWN] = False
    """Predicted masks of the test cases (NIfTI), kept in the cell's folder."""

    def broken(self) -> Iterator[Broken]:
        """Rules between the fields that do not hold."""
        if self.warmup_epochs >= self.epochs:
            yield Broken("warmup_epochs", f"below {option('epochs')}, which is {self.epochs}")


@dataclass(frozen=True)
class ClassificationConfig:
    """Fine-tuning for classification: encoder, average pooling, linear head, cross-entropy."""

    epochs: Count = 200
    """Epochs of training. For classification, passes over the training cases."""
    batch_size: Few = 4
    """Cases per step and process."""
    learning_rate: Rate = 3e-4
    """Peak learning rate. That of AdamW for the head; it falls along a cosine to zero."""
    encoder_rate: Factor = 1.0
    """Learning rate of the encoder as a multiple of the head's. 0: the encoder is not trained."""
    weight_decay: Decay = 1e-2
    """Weight decay of the optimiser. AdamW's, decoupled from the gradient."""
    warmup_fraction: PartialShare = 0.05
    """Share of the training during which the learning rate rises linearly."""
    gradient_clip: Positive | None = 1.0
    """Largest norm of the whole gradient. None: gradients are left as they are."""
    pooling_grid: Annotated[int, Ge(0), Le(16), EXPERT] = 3
    """Boxes per axis over which the deepest features are averaged. Their global maximum is added. 0 is global average
    pooling, as in the paper; with instance norm it hides most of what tells images apart (a norm fixes each channel's
    global mean)."""
    dropout: PartialShare = 0.2
    """Share of the features that is set to zero before the head, in training."""
    augment: Annotated[bool, Off("Training on images as they are, without augmentation.")] = True
    """Augmentation of the training images. For classification, left-right flips, small shifts, intensity scaling and
    offset."""
    shift_voxels: Annotated[int, Ge(0), Le(64), EXPERT] = 4
    """Largest shift along each axis in voxels, in augmentation."""
    intensity_jitter: Annotated[Share, EXPERT] = 0.1
    """Largest relative gain and absolute offset (in z-score units) of a modality, in augmentation."""
    checkpoint_every: Annotated[Count, KEEPING] = 10
    """Interval between resumable checkpoints. In epochs."""


@dataclass(frozen=True)
class RuntimeConfig:
    """Where and how arithmetic is done."""

    device: Device = "auto"
    """Device that trains: cpu, cuda or cuda:N. auto: cuda where it is available, else cpu."""
    precision: Precision = "auto"
    """Number format of autocast. auto: fp16 on CUDA, bf16 on CPUs with bf16 instructions, else fp32."""
    threads: Workers = 1
    """CPU threads of each training process (results are exactly repeatable for one value of it)."""


@dataclass(frozen=True)
class StatisticsConfig:
    """Error bars of the leaderboards."""

    bootstrap_samples: Annotated[int, Ge(1), Le(10_000_000), LATER] = 2000
    """Resamplings of the test cases for the intervals."""
    confidence: Annotated[InnerShare, LATER] = 0.95
    """Level of the intervals."""
    winner_seeds: Annotated[Count, LATER, EXPERT] = 3
    """Seeds that a method and scratch were both run with, at least, before one is called better than the other."""
    winner_folds: Annotated[Count, LATER, EXPERT] = 2
    """Folds that both were run on, at least, where there are fewer seeds than that."""
