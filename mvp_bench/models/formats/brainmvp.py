"""BrainMVP's released checkpoints (Rui et al., CVPR 2025): the UniFormer and the U-Net, with eight templates.

``state_dict`` holds encoder, decoder and ``rep_template``. Images there are (x, y, z) arrays; the UniFormer permutes
them to (z, x, y) before anything else, the U-Net does not. Ours are (z, y, x), so that every convolution kernel is
turned: the UniFormer's last two axes change places, the U-Net's come in reverse. Attention and norms know no axes.

Templates are (flair, t1, t1c, t2, mra, pd, dwi, adc) volumes of raw parameters on the 240 x 240 x 155 voxels of 1 mm
that BraTS releases have; as they filled images, each is scaled to 0 to 1 over its whole volume.
"""

from __future__ import annotations

import numpy as np
import torch

from mvp_bench.errors import InputError
from mvp_bench.models.formats.base import Foreign, LearnedTemplates, by_prefix
from mvp_bench.models.formats.raw import RawFile, plain
from mvp_bench.models.released import ENCODER_PREFIX, TEMPLATE_MODALITIES, turned

UNIFORMER_STEM = "patch_embed1.proj.weight"
UNIFORMER_ROOTS = (ENCODER_PREFIX["uniformer-s"], "encoder.")
"""Where the UniFormer's names begin: after pre-training, and after the released fine-tuning."""
UNET_STEM, UNET_LAST = "conv1a.weight", "conv4d.conv2.weight"
UNET_DECODER = ("up4", "up3", "up2", "up1")
TEMPLATES = "rep_template"
EPSILON = 1e-9
"""Summand in the denominator of the released min-max normalisation."""


class BrainMvpFormat:
    """See the module."""

    name = "brainmvp"
    summary = "released BrainMVP checkpoint (UniFormer or U-Net, templates)"

    def recognises(self, raw: RawFile) -> bool:
        names = raw.tensors() if "network_weights" not in raw.content else {}
        return any(root + UNIFORMER_STEM in names for root in UNIFORMER_ROOTS) or {UNET_STEM, UNET_LAST} <= set(names)

    def read(self, raw: RawFile) -> Foreign:
        state = raw.tensors()
        templates = _templates(raw, state.pop(TEMPLATES, None))
        root = next((root for root in UNIFORMER_ROOTS if root + UNIFORMER_STEM in state), None)
        if root is not None:
            encoder = "uniformer-s"
            inside, decoder = by_prefix(state, root)
        else:
            encoder, root = "unet3d", ""
            decoder = [name for name in state if name.startswith(UNET_DECODER)]
            inside = {name: tensor for name, tensor in state.items() if name not in set(decoder)}
        prefix = ENCODER_PREFIX[encoder]
        ours = turned({prefix + name: tensor for name, tensor in inside.items()})
        inside = {name.removeprefix(prefix): tensor for name, tensor in ours.items()}
        raw_names = {name: root + name for name in inside}
        unused = {"decoder (linear, or never trained)": decoder}
        if templates:
            unused["kept as templates"] = [templates.raw_name]
        return Foreign(
            format=self.name,
            tensors=inside,
            raw_names=raw_names,
            unused=unused,
            encoder=encoder,
            modalities=TEMPLATE_MODALITIES,
            templates=templates,
            spacing=(1.0, 1.0, 1.0),
            patch_size=(96, 96, 96),
            intensity="unit",
            licence="none stated by its authors; part of the code it was made with is AGPL-3.0",
            citation="Rui et al. BrainMVP: Multi-modal Vision Pre-training for Brain Image Analysis using "
            "Multi-parametric MRI. CVPR 2025.",
            details={"epoch": plain(raw.content.get("current_epoch"))},
            notes=(
                "trained on BraTS2021, BraTS2023-MEN, BraTS2023-SSA, IXI and UCSF-PDGM by its authors' account: BraTS "
                "tasks and UPENN-GBM may share patients with these",
                "trained on intensities scaled to 0 to 1 (percentiles 5 to 95); here tasks are z-scored",
            )
            + (() if templates else ("the file has no templates",)),
        )


def _templates(raw: RawFile, volumes: torch.Tensor | None) -> LearnedTemplates | None:
    if volumes is None:
        return None
    if volumes.dim() != 4 or len(volumes) != len(TEMPLATE_MODALITIES) or not bool(torch.isfinite(volumes).all()):
        raise InputError(
            f"{raw.path}: {TEMPLATES}",
            found=f"shape {tuple(volumes.shape)}" + ("" if torch.isfinite(volumes).all() else ", not finite"),
            expected=f"({len(TEMPLATE_MODALITIES)}, x, y, z), finite",
        )
    volumes = volumes.float()
    low, high = (f(volumes, dim=(1, 2, 3), keepdim=True) for f in (torch.amin, torch.amax))
    scaled = (volumes - low).div_(high - low + EPSILON).numpy()
    return LearnedTemplates(
        TEMPLATE_MODALITIES, scaled.transpose(0, 3, 2, 1), brats_affine(volumes.shape[1]), TEMPLATES
    )


def brats_affine(width: int) -> np.ndarray:
    """Voxel (x, y, z) of a RAS array of ``width`` columns -> position in mm, as headers of BraTS releases have it:
    stored from left to right decreasing, so that the last column of the RAS array lies at x = 0."""
    affine = np.eye(4)
    affine[0, 3] = -(width - 1)
    return affine
