"""The groups of numbers that verbs share; :mod:`mvp_bench.config.verbs` puts them together.

Field docstrings are the command line's help texts. Method-specific fields live in the method's own file
(``pretraining/methods``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from mvp_bench.config.marks import DECIDED, KEEPING, LATER, PROCESSES, SHOWN

Precision = Literal["auto", "bf16", "fp16", "fp32"]
StemRule = Literal["reinit", "repeat", "by_modality"]


@dataclass(frozen=True)
class PhantomConfig:
    """Size of the synthetic cohort (anatomy and physics are in datasets/phantom)."""

    spacing_mm: float = 1.0
    """In-plane voxel edge of the phantom releases; slice thickness follows the real release in proportion."""
    segmentation_patients: int = 60
    """Patients per segmentation dataset."""
    classification_patients: int = 120
    """Patients per classification dataset."""
    pretraining_patients: int = 60
    """Patients per pre-training dataset."""


@dataclass(frozen=True)
class CheckConfig:
    """What the integrity check accepts, repairs and warns of."""

    grid_tolerance: float = 0.05
    """Two grids are one if no corner lies further apart than this many voxels."""
    drift_tolerance: float = 0.5
    """Headers of equal shape whose corners lie at most this many voxels apart are repaired: the reference's is
    copied. More is an error."""
    min_spacing_mm: Annotated[float, SHOWN] = 0.2
    """Voxel edges below this are warned of."""
    max_spacing_mm: Annotated[float, SHOWN] = 10.0
    """Voxel edges above this are warned of."""
    min_extent_mm: Annotated[float, SHOWN] = 80.0
    """Fields of view below this (shortest edge) are warned of."""
    max_extent_mm: Annotated[float, SHOWN] = 500.0
    """Fields of view above this (longest edge) are warned of."""


@dataclass(frozen=True)
class RegistrationConfig:
    """Rigid registration within a case, for releases whose modalities lie on different grids."""

    min_overlap: float = 0.5
    """Dice of the two foregrounds below which an image is left out of its case."""
    min_information: float = 0.06
    """Mutual information (nats) below which the two foregrounds have nothing in common: the registration is refused."""
    min_common: float = 0.25
    """Share of either foreground in the common field of view from which overlap and information are measured."""
    slack: float = 0.05
    """A registration is refused if it lowers overlap or information by more than this part of what the headers gave."""
    working_mm: float = 2.0
    """Voxel edge, roughly, at which images are registered; finer ones are averaged to it."""
    shading_mm: float = 30.0
    """Standard deviation in mm of the smooth shading that is divided out before."""
    search_mm: float = 8.0
    """Voxel edge at which the starting positions are compared."""
    search_degrees: tuple[float, ...] = (-20.0, 0.0, 20.0)
    """Rotations about each axis that are tried as starting positions."""
    starts: int = 4
    """Best starting positions that are optimised."""
    search_iterations: int = 60
    """Most steps from each of them."""
    bins: int = 32
    """Histogram bins of the mutual information (Mattes)."""
    margin_mm: float = 8.0
    """Rim around the fixed foreground in which mutual information is measured too."""
    sampling: tuple[float, ...] = (0.5, 0.15)
    """Share of the voxels that are sampled, level by level."""
    shrink_factors: tuple[int, ...] = (2, 1)
    """Factors by which the working images are shrunk, level by level."""
    smoothing_mm: tuple[float, ...] = (3.0, 0.0)
    """Standard deviation of the smoothing in mm, level by level."""
    step_mm: float = 2.0
    """First step of the optimiser (regular steps, halved at every turn) in mm."""
    min_step_mm: float = 0.002
    """Step at which it stops."""
    iterations: int = 150
    """Most steps per level."""
    seed: int = 0
    """Of the samples."""


@dataclass(frozen=True)
class PreparationConfig:
    """How a release becomes a dataset; part of what a preparation is known by."""

    split: Literal["card", "ratio", "leave_one_out", "k_fold"] = "card"
    """Scheme of the splits; card: the dataset's own (official lists where there are any)."""
    k: int = 5
    """Folds, for --split k_fold."""
    exclude_faulty: bool = False
    """Go on without cases that fail the check, each listed with its reason; else any fault stops the preparation."""
    check: CheckConfig = field(default_factory=CheckConfig)
    registration: RegistrationConfig = field(default_factory=RegistrationConfig)


@dataclass(frozen=True)
class OverlapConfig:
    """When two scans count as the same person."""

    images: Annotated[bool, DECIDED] = True
    """Compare perceptual hashes of the images, besides ids and crosswalks."""
    hash_distance: Annotated[float, DECIDED] = 0.15
    """Share of differing bits up to which two images are candidates for one scan. Measured on phantoms: one scan stored
    otherwise (turned by 10 degrees, resampled, gamma) at most 0.06; 530 different people 0.21 to 0.5."""
    scan_correlation: Annotated[float, DECIDED] = 0.85
    """Correlation after registration from which a candidate pair counts as one scan. Measured: one scan at least 0.95;
    the most alike of 530 people 0.74."""


@dataclass(frozen=True)
class PlanningConfig:
    """How a dataset is turned into a plan."""

    spacing: tuple[float, float, float] | None = None
    """Target spacing in mm, array order (z, y, x: inferior-superior, posterior-anterior, left-right); default: from
    the fingerprint."""
    memory_gb: float = 8.0
    """Memory that patch and batch size are planned for (nnU-Net's rule, calibrated on GPU training)."""
    max_patch_edge: int = 192
    """No patch axis is longer than this many voxels."""
    foreground_samples: int = 100_000_000
    """Voxels in all from which the fingerprint's intensity statistics are taken."""
    workers: Annotated[int, PROCESSES] = 4
    """Processes that read and preprocess cases."""


@dataclass(frozen=True)
class PretrainConfig:
    """The one training loop shared by all methods."""

    method: str = "brainmvp"
    """Registered pre-training method (see --list)."""
    preset: Annotated[str | None, DECIDED] = None
    """Named set of the method's fields (for brainmvp: mini, paper, official); default: the method's own defaults."""
    steps: int = 250_000
    """Optimiser steps."""
    batch_size: int = 4
    """Cases per forward pass of each process; a step sees batch_size x accumulation x processes of them."""
    accumulation: int = 1
    """Forward passes whose gradients are averaged into one optimiser step."""
    patch_size: tuple[int, int, int] = (96, 96, 96)
    """Patch in voxels (z, y, x), multiples of the encoder's stride."""
    spacing: float | None = None
    """Isotropic spacing in mm at which all pre-training data are sampled; default: median of the datasets' plans."""
    deduplicate: int | None = None
    """Leave out cases whose 64-bit difference hashes lie within this Hamming distance of an earlier case of the dataset
    (Wolf et al. 2024 found 6 best for CT slices); default: none."""
    learning_rate: float = 3e-4
    """AdamW's peak rate; cosine to zero."""
    weight_decay: float = 1e-5
    """AdamW's decoupled decay."""
    warmup_fraction: float = 0.02
    """Part of the steps with a linearly rising rate."""
    gradient_clip: float = 12.0
    """Largest norm of the whole gradient."""
    ema_decay: float = 0.0
    """Decay per step of a running average of the weights, which is written instead of the last weights; 0: none."""
    compile: bool = False
    """Compile the networks (torch.compile): minutes at the start, faster steps on GPUs."""
    checkpoint_every: Annotated[int, KEEPING] = 1000
    """Steps between resumable checkpoints."""
    log_every: Annotated[int, KEEPING] = 50
    """Steps between log lines."""
    workers: Annotated[int, PROCESSES] = 4
    """Processes that read patches; 0 reads in the training process."""
    pictures_every: Annotated[int, KEEPING] = 0
    """Steps between pictures (PNG) of inputs, reconstructions and templates; 0: none."""
    tensorboard: Annotated[bool, SHOWN] = False
    """Write the log's lines for TensorBoard too (needs the package tensorboard)."""


@dataclass(frozen=True)
class SegmentationConfig:
    """Fine-tuning for segmentation: nnU-Net's trainer and rules, with these values."""

    epochs: int = 300
    """Epochs."""
    iterations_per_epoch: int = 250
    """Training steps per epoch."""
    validation_iterations: Annotated[int, SHOWN] = 50
    """Validation patches per epoch (for the curve; no choice depends on them)."""
    learning_rate: float = 1e-2
    """Peak rate of SGD with Nesterov momentum; polynomial decay (0.9)."""
    warmup_epochs: int = 0
    """Epochs with a linearly rising rate."""
    weight_decay: float = 3e-5
    """L2 penalty."""
    momentum: float = 0.99
    """Nesterov momentum."""
    gradient_clip: float = 12.0
    """Largest norm of the whole gradient."""
    oversample_foreground: float = 0.33
    """Part of each batch that is centred on a labelled voxel."""
    deep_supervision: bool = True
    """Losses on the decoder's coarser outputs too."""
    augment: bool = True
    """nnU-Net's augmentation."""
    mirror: bool = True
    """Mirror in augmentation and in inference (test-time augmentation)."""
    tile_step: float = 0.5
    """Step of the sliding window as part of the patch."""
    checkpoint_every: Annotated[int, KEEPING] = 10
    """Epochs between resumable checkpoints."""
    workers: int = 6
    """Augmentation processes; 0 augments in the training process. Each draws from a seed of its own, so that results
    are exactly repeatable for one value of it."""
    keep_predictions: Annotated[bool, SHOWN] = False
    """Keep the predicted masks of the test cases (NIfTI) in the cell's folder."""


@dataclass(frozen=True)
class ClassificationConfig:
    """Fine-tuning for classification: encoder, average pooling, linear head, cross-entropy."""

    epochs: int = 200
    """Passes over the training cases."""
    batch_size: int = 4
    """Cases per step."""
    learning_rate: float = 3e-4
    """AdamW's peak rate of the head; cosine to zero."""
    encoder_rate: float = 1.0
    """The encoder's rate as a multiple of the head's."""
    weight_decay: float = 1e-2
    """AdamW's decoupled decay."""
    warmup_fraction: float = 0.05
    """Part of the steps with a linearly rising rate."""
    gradient_clip: float = 1.0
    """Largest norm of the whole gradient."""
    pooling_grid: int = 3
    """Boxes per axis over which the deepest features are averaged, beside their global maximum. 0 is global average
    pooling, as in the paper; with instance norm it hides most of what tells images apart (a norm fixes each channel's
    global mean)."""
    dropout: float = 0.2
    """Before the head."""
    augment: bool = True
    """Left-right flips, small shifts, intensity scaling and offset."""
    shift_voxels: int = 4
    """Largest shift along each axis in voxels."""
    intensity_jitter: float = 0.1
    """Largest relative gain and absolute offset (in z-score units) of a modality."""
    checkpoint_every: Annotated[int, KEEPING] = 10
    """Epochs between resumable checkpoints."""


@dataclass(frozen=True)
class RuntimeConfig:
    """Where and how arithmetic is done; never changes which experiment is run."""

    device: str = "auto"
    """auto (cuda where available, else cpu), cpu, cuda or cuda:N."""
    precision: Precision = "auto"
    """Autocast type; auto: fp16 on CUDA, bf16 on CPUs with bf16 instructions, else fp32."""
    threads: int = 1
    """CPU threads of each training process (results are exactly repeatable for one value of it)."""


@dataclass(frozen=True)
class StatisticsConfig:
    """Error bars of the leaderboards."""

    bootstrap_samples: Annotated[int, LATER] = 2000
    """Resamplings of the test cases for the 95 % intervals."""
    confidence: Annotated[float, LATER] = 0.95
    """Level of the intervals."""
    winner_seeds: Annotated[int, LATER] = 3
    """A method is called better or worse than scratch only if both were run with at least this many seeds, or ..."""
    winner_folds: Annotated[int, LATER] = 2
    """... on at least this many folds."""
