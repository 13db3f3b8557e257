"""Convolutions of maps that are shallower than their kernel, on CPUs in bfloat16.

oneDNN's gradient of the kernel is wrong there, and written past its end (torch 2.14, AVX-512 BF16: 3^3 kernels on maps
two voxels deep along the first axis, 5^3 ones on two to four; other axes, strides of two and one voxel are right). No
error is raised: networks train on noise, or the process dies. The deepest maps of small patches and crops are such.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_plain = nn.Conv3d._conv_forward


def miscomputed(maps: torch.Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether the gradient of the kernel (its edges) on maps (..., z, y, x) cannot be left to bfloat16 here and now."""
    return 1 < maps.shape[-3] < kernel[0] and stride[0] == 1 and maps.device.type == "cpu" and _in_low_precision()


def _in_low_precision() -> bool:
    return torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()


def _conv_forward(self: nn.Conv3d, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> Any:
    if not miscomputed(input, self.kernel_size, self.stride):
        return _plain(self, input, weight, bias)
    low = torch.get_autocast_dtype("cpu")
    with torch.autocast("cpu", enabled=False):
        return _plain(self, input.float(), weight.float(), None if bias is None else bias.float()).to(low)


def guard_convolutions() -> None:
    """Make every Conv3d compute such maps in float32 from now on, in this process."""
    nn.Conv3d._conv_forward = _conv_forward
