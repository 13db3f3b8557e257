"""BrainMVP's own fields, and the sets of values that were published, released, and found to work in short runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from mvp_bench.config.profiles import PROFILES
from mvp_bench.pretraining.reconstruction import Error
from mvp_bench.pretraining.sampling import Intensity

SRI24 = (155, 240, 240)
"""Voxels (z, y, x) of the SRI24 atlas at 1 mm, the frame of the BraTS releases."""
EPOCHS, CASES, CASES_PER_STEP = 1500, 3755, 24
"""Of the publication: passes over its cases, and cases that met in a step (8 x 3, or 4 x 3 x 2)."""


@dataclass(frozen=True)
class BrainMvpOptions:
    """BrainMVP's own fields."""

    mask_ratio: float = 0.8
    """Part of the blocks that is hidden and filled, in either view."""
    block: int = 8
    """Edge of a block in voxels."""
    min_blocks: int = 4
    """Blocks per patch axis at least: ``block`` is halved until there are as many."""
    weight_distillation: float = 1.0
    """Factor of the template view's reconstruction error; 0 leaves the loss out."""
    weight_cross_modal: float = 1.0
    """Factor of the other-modality view's reconstruction error."""
    weight_contrastive: float = 1.0
    """Factor of the contrastive loss between the views' deepest features."""
    contrastive: Literal["infonce", "symile", "gram", "mv_infonce", "mv_dhel"] = "infonce"
    """infonce: between the two views of each target. The others are losses of any number of views (Symile, GRAM,
    MV-InfoNCE, MV-DHEL): of the two of a target or, with target all, of both of each of the case's modalities."""
    temperature: float = 0.2
    """Of the contrastive loss: divides cosines, Symile's scores (1 / temperature is its scale), GRAM's volumes."""
    label_smoothing: float = 0.1
    """Of GRAM's labels; the other losses have none."""
    contrastive_start: float = 2 / 3
    """Part of the training before the contrastive loss is switched on (templates must have formed)."""
    cross_modal_start: float = 0.2
    """Part of the training during which the second view, too, is filled from the template."""
    gather_negatives: bool = True
    """With several processes: the other processes' samples are negatives too."""
    reconstruction: Error = "mse"
    """Error of the reconstructions over all voxels, hidden and visible: mean square, or root of it per sample (l2)."""
    slots: int = 2
    """Images drawn per case (a target and another one need two); 0: as many as the best-equipped case has."""
    target: Literal["sample", "batch", "all"] = "sample"
    """Draw the slot to be reconstructed for each sample, or one for the whole batch; or reconstruct all slots."""
    intensity: Intensity = "zscore"
    """Intensities fed in: z-scores as preprocessed, or percentiles 5 to 95 of the brain mapped to 0 to 1."""
    parametrisation: Literal["direct", "minmax"] = "direct"
    """direct: the parameters are the template, in the images' units. minmax: the template is the parameters scaled to
    0 to 1 over the whole volume, with gradient through both extremes (for intensities in 0 to 1)."""
    epsilon: float = 1e-3
    """Added to the denominator of ``minmax``. With 1e-9 and zero parameters the first gradient is about 1e9 times the
    later ones, and Adam's second moment then blocks the template for thousands of steps."""
    template_rate: float = 30.0
    """Learning rate of the templates as a multiple of the networks'; 0: no templates, hidden blocks are zeros."""
    template_decay: float = 0.0
    """AdamW's decoupled decay of the templates. What the decoder cannot see of a template gets no gradient: noise from
    the first steps stays in it for good, unless it decays."""
    template_coarsening: float = 1.0
    """Voxel edge of the templates as a multiple of the data's. In short runs a voxel of a fine template is visited a
    few dozen times only; a coarser one (interpolated) sees more and forms sooner."""
    template_shape: tuple[int, int, int] | None = None
    """Voxels (z, y, x) of the templates; default: as many as the largest case needs."""
    align: Literal["centre", "volume", "world"] = "centre"
    """What makes two cases' voxels correspond to one template voxel: the same offset in mm from the middle of the
    brain's bounding box (right whatever frame each data set lives in), the same offset from the middle of the image as
    it was before it was cropped to the brain, or the same world position."""
    subvoxel: bool = False
    """Interpolate templates at fractions of a voxel. Otherwise positions are rounded to whole template voxels, unless
    a case's spacing differs from the template's."""
    linear_decoder: bool = True
    """A decoder without norms, activations and biases, as released. It also learns faster: after 250 steps of the mini
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
            "gradient_clip": 0.0,
        }
        mini = {k: v for k, v in asdict(PROFILES["mini"].pretrain).items() if k not in ("method", "preset")}
        return {
            "paper": {**shared, "accumulation": 1},
            "official": {**shared, "accumulation": 2},
            "mini": {"encoder": PROFILES["mini"].encoder, **mini},
        }
