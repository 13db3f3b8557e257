"""UniFormer in three dimensions (Li et al., ICLR 2022), as BrainMVP uses it (Rui et al., CVPR 2025).

Two stages of depthwise-convolution blocks, then stages of global self-attention. Parameter names, shapes and epsilons
are those of the released checkpoints; the axes are (z, y, x), see :mod:`mvp_bench.models.released` for theirs.

With tensors in channels_last_3d the changes between maps (B, C, z, y, x) and tokens (B, N, C) are views, and attention
runs through PyTorch's fused kernels, which never hold the N x N weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

TOKEN_NORM_EPS = 1e-6
"""LayerNorm inside attention blocks."""
EMBED_NORM_EPS = 1e-5
"""LayerNorm after each patch embedding."""
POSITION_KERNEL = 3
"""Edge in voxels of the depthwise convolution that takes the place of a positional table."""
LOCAL_KERNEL = 5
"""Edge in voxels of the depthwise convolution that takes the place of attention in the first stages."""


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, z, y, x)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class PatchEmbed(nn.Module):
    """Strided convolution without overlap, and a norm over channels."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(in_channels, channels, stride, stride)
        self.norm = ChannelNorm(channels, eps=EMBED_NORM_EPS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.proj(x))


class Mlp(nn.Module):
    """Two pointwise layers with GELU between them.

    GELU's output, the largest tensor of a block, is not kept for the backward pass but computed again from its input,
    which is kept anyway.
    """

    def __init__(self, channels: int, expansion: int, layer: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.fc1 = layer(channels, expansion * channels)
        self.fc2 = layer(expansion * channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.fc1(x)
        active = functional.gelu(inner)
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():  # the compiler chooses what to keep itself
            return self.fc2(active)
        recomputed = _Recomputed(inner.detach(), active)
        with torch.autograd.graph.saved_tensors_hooks(recomputed.pack, recomputed.unpack):
            return self.fc2(active)


class _Recomputed:
    """Keeps GELU's input in place of its output."""

    def __init__(self, inner: torch.Tensor, active: torch.Tensor) -> None:
        self.inner = inner
        self.address, self.dtype = active.data_ptr(), active.dtype
        self.shape, self.strides, self.contiguous = active.shape, active.stride(), active.is_contiguous()

    def pack(self, saved: torch.Tensor) -> torch.Tensor | torch.Size:
        """The shape alone if it is GELU's output in its own or in rows' order, else the tensor."""
        if saved.data_ptr() != self.address or saved.dtype != self.dtype or saved.numel() != self.shape.numel():
            return saved
        as_it_was = saved.shape == self.shape and saved.stride() == self.strides
        return saved.shape if as_it_was or (self.contiguous and saved.is_contiguous()) else saved

    def unpack(self, packed: torch.Tensor | torch.Size) -> torch.Tensor:
        if isinstance(packed, torch.Tensor):
            return packed
        return functional.gelu(self.inner).view(packed)


def _pointwise(in_channels: int, out_channels: int) -> nn.Conv3d:
    return nn.Conv3d(in_channels, out_channels, 1)


class Depthwise(nn.Conv3d):
    """Depthwise convolution that keeps the shape of (B, C, z, y, x)."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__(channels, channels, kernel, padding=kernel // 2, groups=channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu") or not torch.is_grad_enabled():
            return super().forward(x)
        low = torch.get_autocast_dtype("cpu")
        return _DepthwiseOnCpu.apply(x.to(low), self.weight.to(low), self.bias.to(low), self.padding)


class _DepthwiseOnCpu(torch.autograd.Function):
    """Forward in bfloat16. The gradient of the input is the convolution of the output's with the mirrored kernel, which
    as a forward pass takes oneDNN a twentieth of the time of its own backward pass; the kernel's is computed in
    float32, in which oneDNN takes less than in bfloat16 (64 channels, 48^3 voxels, kernel of 5^3, one thread with
    AVX-512 BF16: 0.02 s instead of 0.44 s, 0.58 s instead of 0.91 s)."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, padding: tuple[int, ...]
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return functional.conv3d(x, weight, bias, padding=padding, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = gradients[0].to(x.dtype).contiguous(memory_format=torch.channels_last_3d)
        of_input = functional.conv3d(gradient, weight.flip(2, 3, 4), padding=ctx.padding, groups=len(weight))
        _, of_weight, of_bias = torch.ops.aten.convolution_backward(
            gradient.float(),
            x.float(),
            weight.float(),
            [len(weight)],
            [1, 1, 1],
            list(ctx.padding),
            [1, 1, 1],
            False,
            [0, 0, 0],
            len(weight),
            [False, True, True],
        )
        return of_input, of_weight.to(weight.dtype), of_bias.to(weight.dtype), None


class ConvBlock(nn.Module):
    """Local block on (B, C, z, y, x): position, depthwise mixing, MLP; each added to its input."""

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        self.pos_embed = Depthwise(channels, POSITION_KERNEL)
        self.norm1 = nn.BatchNorm3d(channels)
        self.conv1 = _pointwise(channels, channels)
        self.attn = Depthwise(channels, LOCAL_KERNEL)
        self.conv2 = _pointwise(channels, channels)
        self.norm2 = nn.BatchNorm3d(channels)
        self.mlp = Mlp(channels, expansion, _pointwise)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.pos_embed(x)
        x = x + self.conv2(self.attn(self.conv1(self.norm1(x))))
        return x + self.mlp(self.norm2(x))


class Attention(nn.Module):
    """Multi-head self-attention on tokens (B, N, C), scaled by head_width^-1/2.

    Args:
        channels: C, a multiple of ``head_width``.
        head_width: channels per head.
    """

    def __init__(self, channels: int, head_width: int) -> None:
        super().__init__()
        self.head_width = head_width
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        query, key, value = self.qkv(tokens).unflatten(2, (3, -1, self.head_width)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)  # (B, heads, N, head_width)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class AttentionBlock(nn.Module):
    """Global block on (B, C, z, y, x): position on the map; attention and MLP on its tokens."""

    def __init__(self, channels: int, expansion: int, head_width: int) -> None:
        super().__init__()
        self.pos_embed = Depthwise(channels, POSITION_KERNEL)
        self.norm1 = nn.LayerNorm(channels, eps=TOKEN_NORM_EPS)
        self.attn = Attention(channels, head_width)
        self.norm2 = nn.LayerNorm(channels, eps=TOKEN_NORM_EPS)
        self.mlp = Mlp(channels, expansion, nn.Linear)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.pos_embed(x)
        grid = x.shape[2:]
        tokens = x.movedim(1, -1).flatten(1, 3)
        tokens = tokens + self.attn(self.norm1(tokens))
        tokens = tokens + self.mlp(self.norm2(tokens))
        return tokens.unflatten(1, grid).movedim(-1, 1)


class Uniformer(nn.Module):
    """(B, in_channels, z, y, x) -> the stages' maps, finest first; the last one after a BatchNorm.

    No positional table: every input whose axes are multiples of the total stride fits.

    Args:
        in_channels: channels of the input.
        features: channels per stage.
        strides: down-sampling of each stage's patch embedding, in voxels.
        blocks: blocks per stage.
        local_stages: the first so many stages have convolution blocks, the others attention.
        head_width: channels per attention head.
        expansion: width of an MLP's hidden layer as a multiple of its input.
    """

    def __init__(
        self,
        in_channels: int,
        features: Sequence[int],
        strides: Sequence[int],
        blocks: Sequence[int],
        local_stages: int,
        head_width: int,
        expansion: int,
    ) -> None:
        super().__init__()
        self.stages = len(features)
        sources = [in_channels, *features[:-1]]
        for stage, (source, channels) in enumerate(zip(sources, features, strict=True)):
            self.add_module(f"patch_embed{stage + 1}", PatchEmbed(source, channels, strides[stage]))
        for stage, channels in enumerate(features):
            made: list[nn.Module] = [
                ConvBlock(channels, expansion)
                if stage < local_stages
                else AttentionBlock(channels, expansion, head_width)
                for _ in range(blocks[stage])
            ]
            self.add_module(f"blocks{stage + 1}", nn.Sequential(*made))
        self.norm = nn.BatchNorm3d(features[-1])
        self.apply(_initialise)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        maps, x = [], images
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"blocks{stage}")(getattr(self, f"patch_embed{stage}")(x))
            maps.append(x)
        maps[-1] = self.norm(x)
        return maps


def _initialise(module: nn.Module) -> None:
    """Convolutions as released; linear layers and norms keep PyTorch's defaults."""
    if isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
