"""A segmentation network around any registered encoder, as nnU-Net builds it from a plan."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import nn

from mvp_bench.errors import InputError
from mvp_bench.registry import ENCODERS

_Arguments = tuple[int, int, str, tuple[int, ...], tuple[tuple[int, ...], ...]]
_COUNTED = (nn.Conv3d, nn.ConvTranspose3d, nn.Linear)


class EncoderUNet(nn.Module):
    """``encoder`` and ``decoder`` as nnU-Net's trainer expects them: (B, C, z, y, x) -> logits (B, classes, z, y, x).

    A plan names this class and the encoder, so that stock nnU-Net trains the same network wherever mvp_bench is
    installed. Resolutions begin at the image's: an encoder whose first stage is strided gets a full-resolution level
    from its decoder.

    Args:
        input_channels: C.
        num_classes: channels of the output.
        encoder: registered name.
        features: channels of the encoder's maps; must be those of the registered encoder.
        strides: down-sampling per resolution, (z, y, x) each; nnU-Net reads it from the plan for deep supervision.
        deep_supervision: return the list of outputs at all resolutions but the coarsest, finest first.

    Raises:
        InputError: if the encoder is not registered, or is another than the plan was made for.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        encoder: str,
        features: Sequence[int],
        strides: Sequence[Sequence[int]],
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        spec = ENCODERS[encoder]
        if (list(features), [list(s) for s in strides]) != (list(spec.features), spec.resolutions()):
            raise InputError(
                f"plan for encoder {encoder}",
                found=f"features {list(features)}, strides {[s[0] for s in strides]}",
                expected=f"features {list(spec.features)}, strides {[s[0] for s in spec.resolutions()]}",
                fix="The encoder has changed since: plan again with mvp_plan.",
            )
        self.arguments: _Arguments = (
            input_channels,
            num_classes,
            encoder,
            spec.features,
            tuple(tuple(s) for s in spec.resolutions()),
        )
        self.encoder = spec.build(input_channels)
        self.decoder = spec.unet_decoder(
            num_classes, image_channels=input_channels, deep_supervision=bool(deep_supervision)
        )
        self.image_skip = spec.strides[0] > 1

    def forward(self, images: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        maps = self.encoder(images)
        return self.decoder(maps, images) if self.image_skip else self.decoder(maps)

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Elements that the convolutions and linear layers put out for one patch (z, y, x), as nnU-Net counts them.

        Counted in a pass on the meta device, which computes nothing. What a training step keeps is proportional to it
        with much the same factor for all encoders (measured in bytes per element, float32, 64^3 voxels: resenc-l 7.9,
        plain-l 7.9, unet3d 7.8, uniformer-s 6.6, swinunetr 5.4), so that nnU-Net's reference value holds.
        """
        return _count_outputs(self.arguments, tuple(int(edge) for edge in input_size))


@lru_cache(maxsize=2)
def _without_memory(arguments: _Arguments) -> EncoderUNet:
    with torch.device("meta"):
        return EncoderUNet(*arguments, deep_supervision=True).to("meta").eval()


@lru_cache(maxsize=1024)
def _count_outputs(arguments: _Arguments, size: tuple[int, ...]) -> int:
    network, total = _without_memory(arguments), 0

    def count(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        nonlocal total
        total += output.numel()

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, _COUNTED)]
    with torch.no_grad():
        network(torch.empty((1, arguments[0], *size), device="meta"))
    for hook in hooks:
        hook.remove()
    return total
