"""BrainMVP's two networks as they were released: names, shapes, and axes in their order.

The project works in (z, y, x). The released networks get images in (x, y, z); the Uniformer's encoder turns them into
(z, x, y) before it does anything else, its decoder turns the features back. A checkpoint therefore fits the project's
networks name for name, but its kernels have to be turned (:func:`turned`): all of them are cubes, so that nothing else
would notice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from monai.networks.blocks import UnetOutBlock, UnetrUpBlock
from torch import nn

from mvp_bench.models.encoders.unet3d import UNET3D
from mvp_bench.models.encoders.uniformer import UNIFORMER_S
from mvp_bench.models.networks.unet3d import UNet3dEncoder, add_up_path, climb
from mvp_bench.models.networks.unetr_decoder import ImageStem

TEMPLATE_MODALITIES = ("flair", "t1", "t1c", "t2", "mra", "pd", "dwi", "adc")
"""Order of the released templates."""
TEMPLATE_SHAPE = (240, 240, 155)
"""Voxels (x, y, z) of a released template: the SRI24 grid of 1 mm."""
ENCODER_PREFIX = {"uniformer-s": "encoder.uniformer.", "unet3d": ""}
"""Encoder -> what stands before its names in a released checkpoint."""
_PERMUTED = "encoder.uniformer."
"""Kernels of these names are in (z, x, y), all others in (x, y, z)."""


def turned(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of a released network, by their released names, with the axes of all kernels (out, in, ., ., .) turned
    from the released order to (z, y, x), or back: the function is its own inverse. Templates are left as they are."""
    return {
        name: tensor.permute((0, 1, 2, 4, 3) if name.startswith(_PERMUTED) else (0, 1, 4, 3, 2)).contiguous()
        if tensor.dim() == 5
        else tensor
        for name, tensor in state.items()
    }


def _add_templates(owner: nn.Module, count: int, shape: Sequence[int]) -> None:
    """Give a network its ``rep_template`` (modality, x, y, z): as learned, not normalised; zeros at first."""
    if count:
        owner.register_parameter("rep_template", nn.Parameter(torch.zeros(count, *shape)))


class _ReleasedDecoder(nn.Module):
    """Four transposed convolutions and a 1^3 convolution. The residual blocks and ``proj1`` are in the checkpoints,
    but pre-training never uses them."""

    def __init__(self, features: Sequence[int]) -> None:
        super().__init__()
        targets = [features[0], *features[:-1]]
        self.steps = [f"decoder{level + 2}" for level in reversed(range(len(features)))]
        for step, source, target in zip(self.steps, reversed(features), reversed(targets), strict=True):
            self.add_module(step, UnetrUpBlock(3, source, target, 3, 2, norm_name="instance", res_block=True))
        self.proj1 = ImageStem(1, features[0])
        self.out_1 = UnetOutBlock(3, features[0], 1)

    def forward(self, deepest: torch.Tensor) -> torch.Tensor:
        for step in self.steps:
            deepest = getattr(self, step).transp_conv(deepest)
        return self.out_1(deepest)


class ReleasedUniformer(nn.Module):
    """(B, 1, x, y, z) -> the encoder's four maps in (z, x, y), and the reconstruction (B, 1, x, y, z).

    Args:
        templates: number of templates, 8 as released; 0 leaves them out.
        template_shape: voxels of each.
    """

    def __init__(
        self, templates: int = len(TEMPLATE_MODALITIES), template_shape: Sequence[int] = TEMPLATE_SHAPE
    ) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"uniformer": UNIFORMER_S.build(1)})
        self.decoder = _ReleasedDecoder(UNIFORMER_S.features)
        _add_templates(self, templates, template_shape)

    def forward(self, images: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        maps = self.encoder["uniformer"](images.permute(0, 1, 4, 2, 3))
        return maps, self.decoder(maps[-1].permute(0, 1, 3, 4, 2))


class ReleasedUNet3d(UNet3dEncoder):
    """(B, 1, x, y, z) -> the encoder's four maps and the reconstruction, all in (x, y, z).

    Args:
        templates: number of templates, 8 as released; 0 leaves them out.
        template_shape: voxels of each.
    """

    def __init__(
        self, templates: int = len(TEMPLATE_MODALITIES), template_shape: Sequence[int] = TEMPLATE_SHAPE
    ) -> None:
        super().__init__(1, UNET3D.features, UNET3D.blocks, UNET3D.groups)
        add_up_path(self, UNET3D.features, UNET3D.groups, 1)
        _add_templates(self, templates, template_shape)

    def forward(self, images: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:  # type: ignore[override]
        maps = super().forward(images)
        return maps, self.up1conv(climb(self, maps, skips=False)[0])
