"""Weights for MONAI's Swin UNETR: its own self-supervised ones, VoCo's, whole segmentation networks.

All have the same Swin transformer under different names: below ``swinViT.``, ``swin_vit.``, ``backbone.``,
``student.`` or at the top; a stage as ``layers1.0.`` or, where each layer is a list in a list, ``layers1.0.0.``; the
inner layers of an MLP as ``linear1`` or ``fc1``. Images were (x, y, z) arrays; the encoder here does the turning
itself, since the transformer's merging of patches treats its three axes differently.
"""

from __future__ import annotations

import re

import torch

from mvp_bench.errors import InputError
from mvp_bench.models.formats.base import Foreign
from mvp_bench.models.formats.raw import RawFile

STEM = "patch_embed.proj.weight"
_FIRST_STAGE = re.compile(r"(^|\.)layers1\.0\.")
_RENAMED = (
    (re.compile(r"(layers\d)\.0\.0\.(blocks|downsample)"), r"\1.0.\2"),
    (re.compile(r"\.mlp\.fc([12])\."), r".mlp.linear\1."),
)
_PARTS = re.compile(r"patch_embed\.|pos_drop|layers[1-4](c)?\.")
_INDEX = "relative_position_index"


class Swin:
    """See the module."""

    name = "swin"
    summary = "Swin UNETR weights (MONAI, VoCo)"

    def recognises(self, raw: RawFile) -> bool:
        names = raw.tensors() if "network_weights" not in raw.content else {}
        return any(n.endswith(STEM) for n in names) and any(_FIRST_STAGE.search(n) for n in names)

    def read(self, raw: RawFile) -> Foreign:
        state = raw.tensors()
        roots = sorted(n.removesuffix(STEM) for n in state if n.endswith(STEM))
        root = _chosen(roots)
        tensors, raw_names, unused, others = {}, {}, [], []
        for name, tensor in state.items():
            inner = name.removeprefix(root)
            if not name.startswith(root) or not _PARTS.match(inner):
                unused.append(name)
                continue
            for pattern, ours in _RENAMED:
                inner = pattern.sub(ours, inner)
            if inner in raw_names:
                others.append(name)
                continue
            tensors[inner], raw_names[inner] = tensor, name
        if others:
            raise InputError(raw.path, found=f"{others[0]} twice, under two names", expected="each tensor once")
        _add_indices(tensors, raw_names)
        left_out = {"decoder, heads, norms after the last stage": unused} if unused else {}
        notes = (f"of {len(roots)} networks in the file ({', '.join(roots)}) the one below {root!r}",)
        return Foreign(
            format=self.name,
            tensors=tensors,
            raw_names=raw_names,
            unused=left_out,
            citation="Tang et al. Self-Supervised Pre-Training of Swin Transformers for 3D Medical Image Analysis. "
            "CVPR 2022 (MONAI); Wu et al. VoCo. CVPR 2024 (VoCo).",
            details={"root": root},
            notes=notes if len(roots) > 1 else (),
        )


def _chosen(roots: list[str]) -> str:
    """Of several networks the student or online one, which is what its authors transfer; else the first."""
    return next((r for r in roots if "teacher" not in r and "momentum" not in r and "ema" not in r), roots[0])


def _add_indices(tensors: dict[str, torch.Tensor], raw_names: dict[str, str]) -> None:
    """Some files leave out the buffer of relative positions, which follows from the window alone."""
    tables = [n for n in tensors if n.endswith("relative_position_bias_table")]
    for name in tables:
        index = name.replace("relative_position_bias_table", _INDEX)
        if index not in tensors:
            tensors[index] = relative_positions(round(((len(tensors[name])) ** (1 / 3) + 1) / 2))
            raw_names[index] = f"(computed for {raw_names[name]})"


def relative_positions(window: int) -> torch.Tensor:
    """Row of the bias table for each pair of tokens of a cubic window: int64 (window^3, window^3)."""
    axis = torch.arange(window)
    tokens = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).flatten(1)
    apart = tokens[:, :, None] - tokens[:, None, :] + window - 1
    reach = 2 * window - 1
    return apart[0] * reach * reach + apart[1] * reach + apart[2]
