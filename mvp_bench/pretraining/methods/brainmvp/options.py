"""BrainMVP's own fields, and the sets of values that were published, released, and found to work in short runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from mvp_bench.config.marks import Off
from mvp_bench.config.profiles import PROFILES
from mvp_bench.config.ranges import (
    Decay,
    Edge,
    Factor,
    Few,
    FewOrNone,
    Ge,
    Le,
    PartialShare,
    Positive,
    Share,
    Voxels,
)
from mvp_bench.pretraining.reconstruction import Error
from mvp_bench.pretraining.sampling import Intensity

SRI24 = (155, 240, 240)
"""Voxels (z, y, x) of the SRI24 atlas at 1 mm, the frame of the BraTS releases."""
EPOCHS, CASES, CASES_PER_STEP = 1500, 3755, 24
"""The publication's passes over its cases, and cases that met in a step (8 x 3, or 4 x 3 x 2)."""


@dataclass(frozen=True)
class BrainMvpOptions:
    """BrainMVP's own fields."""

    mask_ratio: PartialShare = 0.8
    """Share of the image that is hidden. Of its blocks, in either view; they are filled."""
    block: Edge = 8
    """Edge of a block in voxels."""
    min_blocks: Few = 4
    """Least number of blocks per patch axis: the block is halved until there are as many."""
    weight_distillation: Factor = 1.0
    """Factor of the template view's reconstruction error. 0 leaves the loss out."""
    weight_cross_modal: Factor = 1.0
    """Factor of the other-modality view's reconstruction error."""
    weight_contrastive: Factor = 1.0
    """Factor of the contrastive loss. It compares the views' deepest features."""
    contrastive: Literal["infonce", "symile", "gram", "mv_infonce", "mv_dhel"] = "infonce"
    """Contrastive loss. infonce: between the two views of each target. The others are losses of any number of views
    (Symile, GRAM, MV-InfoNCE, MV-DHEL): of the two of a target or, with --target all, of both of each of the case's
    modalities."""
    temperature: Positive = 0.2
    """Temperature of the contrastive loss, by which similarities are divided. Symile's scores are (1 / temperature is
    its scale), and GRAM's volumes."""
    label_smoothing: PartialShare = 0.1
    """Smoothing of GRAM's labels; the other losses have none."""
    contrastive_start: Share = 2 / 3
    """Share of the training before the contrastive loss is switched on (templates must have formed)."""
    cross_modal_start: Share = 0.2
    """Share of the training during which the second view, too, is filled from the template."""
    gather_negatives: Annotated[bool, Off("Negatives from the own process alone.")] = True
    """Negatives from the other processes' samples too, where there are several."""
    reconstruction: Error = "mse"
    """Error of the reconstructions over all voxels, hidden and visible. mse: mean square; l2: root of it per sample."""
    slots: FewOrNone = 2
    """Images read per case. 0: as many as the best-equipped case has. A target and another one need two."""
    target: Literal["sample", "batch", "all"] = "sample"
    """Images to be reconstructed. sample: one drawn for each sample; batch: one for the whole batch; all: all of
    them."""
    intensity: Intensity = "zscore"
    """Intensities fed in. zscore: z-scores as preprocessed; unit: percentiles 5 to 95 of the brain mapped to 0 to 1."""
    parametrisation: Literal["direct", "minmax"] = "direct"
    """Parametrisation of the templates. direct: the parameters are the template, in the images' units. minmax: the
    template is the parameters scaled to 0 to 1 over the whole volume, with gradient through both extremes (for
    intensities in 0 to 1)."""
    epsilon: Positive = 1e-3
    """Number added to the denominator of --parametrisation minmax. With 1e-9 and zero parameters the first gradient is
    about 1e9 times the later ones, and Adam's second moment then blocks the template for thousands of steps."""
    template_rate: Factor = 30.0
    """Learning rate of the templates as a multiple of the networks'. 0: no templates, hidden blocks are zeros."""
    template_decay: Decay = 0.0
    """Weight decay of the templates. AdamW's, decoupled. What the decoder cannot see of a template gets no gradient:
    noise from the first steps stays in it for good, unless it decays."""
    template_coarsening: Annotated[float, Ge(0.1), Le(1000)] = 1.0
    """Voxel edge of the templates as a multiple of the data's. In short runs a voxel of a fine template is visited a
    few dozen times only; a coarser one (interpolated) sees more and forms sooner."""
    template_shape: Voxels | None = None
    """Voxels (z, y, x) of the templates. Default: as many as the largest case needs."""
    align: Literal["centre", "volume", "world"] = "centre"
    """Correspondence of two cases' voxels with one voxel of what is learned. centre: the same offset in mm from the
    middle of the brain's bounding box (right whatever frame each dataset lives in); volume: from the middle of the
    image as it was before it was cropped to the brain; world: the same world position."""
    subvoxel: bool = False
    """Interpolation of templates at fractions of a voxel. Otherwise positions are rounded to whole template voxels,
    unless a case's spacing differs from the template's."""
    linear_decoder: Annotated[bool, Off("Decoder with norms, activations and biases.")] = True
    """Decoder without norms, activations and biases, as released. It also learns faster: after 250 steps of the mini
    profile its error was 0.61 where that of the decoder with norms and activations was 0.66 (a constant gets 0.78)."""

    @classmethod
    def presets(cls) -> dict[str, BrainMvpOptions]:
        """``paper``: as published. ``official``: as released. ``mini``: for some thousand steps on small patches.

        ``mini`` hides few blocks: with 60 % hidden, the second view's error was 0.94 of a constant's after 400 steps
        and 0.84 after 1500; with 20 %, 0.49 after 1600.
        """
        paper = cls(
            mask_ratio=0.875,
            min_blocks=1,
            temperature=1.0,
            slots=0,
            target="all",
            intensity="unit",
            parametrisation="minmax",
            template_rate=1.0,
            template_decay=1e-5,
            align="world",
        )
        official = cls(
            mask_ratio=0.8,
            min_blocks=1,
            weight_distillation=10.0,
            temperature=1.0,
            slots=4,
            target="batch",
            intensity="unit",
            parametrisation="minmax",
            epsilon=1e-9,
            template_rate=1.0,
            template_decay=1e-5,
            template_shape=SRI24,
            align="volume",
        )
        mini = cls(
            mask_ratio=0.2,
            weight_contrastive=0.1,
            contrastive_start=0.2,
            template_rate=2.0,
            template_decay=0.1,
            template_coarsening=4.0,
        )
        return {"mini": mini, "paper": paper, "official": official}

    @classmethod
    def loops(cls) -> dict[str, dict[str, Any]]:
        """What the presets set beside these fields: ``encoder``, and fields of the training loop.

        ``paper`` was trained by eight processes (torchrun), ``official`` by four.
        """
        shared = {
            "encoder": "uniformer-s",
            "steps": EPOCHS * (CASES // CASES_PER_STEP),
            "batch_size": 3,
            "patch_size": (96, 96, 96),
            "spacing": 1.0,
            "learning_rate": 3e-4,
            "weight_decay": 1e-5,
            "warmup_fraction": 0.0,
            "gradient_clip": None,
        }
        mini = {k: v for k, v in asdict(PROFILES["mini"].pretrain).items() if k not in ("method", "preset")}
        return {
            "paper": {**shared, "accumulation": 1},
            "official": {**shared, "accumulation": 2},
            "mini": {"encoder": PROFILES["mini"].encoder, **mini},
        }
