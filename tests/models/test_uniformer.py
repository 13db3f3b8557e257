"""The Uniformer encoder: counts, shapes, attention and block order against slow formulas, layout and precision."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from mvp_bench.models.encoders.uniformer import UniformerSpec
from mvp_bench.models.networks.uniformer import Attention, ChannelNorm, Depthwise, Mlp, Uniformer
from mvp_bench.models.weights import stem_name
from mvp_bench.registry import ENCODERS

SMOKE = ENCODERS["uniformer-smoke"]


def test_the_papers_size() -> None:
    spec = ENCODERS["uniformer-s"]
    assert spec.parameters == 22_038_464
    assert spec.stride == 16 and spec.out_channels == 512
    with torch.device("meta"):
        encoder = spec.build(1)
    assert len(encoder.state_dict()) == 329
    assert stem_name(encoder) == "patch_embed1.proj"
    assert encoder.patch_embed1.proj.weight.shape == (64, 1, 2, 2, 2)


@pytest.mark.parametrize("patch", [(32, 16, 24), (8, 16, 8)])
def test_any_multiple_of_the_stride_fits(patch: tuple[int, int, int]) -> None:
    maps = SMOKE.build(2).eval()(torch.randn(1, 2, *patch))
    assert [m.shape[1] for m in maps] == list(SMOKE.features)
    assert [tuple(m.shape[2:]) for m in maps] == [tuple(e // 2**k for e in patch) for k in (1, 2, 3)]
    assert tuple(maps[-1].shape[2:]) == SMOKE.deepest(patch)


def test_attention_is_softmax_of_scaled_products() -> None:
    torch.manual_seed(0)
    attention, tokens = Attention(32, 16).double(), torch.randn(2, 5, 32, dtype=torch.float64)
    query, key, value = attention.qkv(tokens).chunk(3, dim=-1)
    mixed = torch.zeros_like(tokens)
    for head in (slice(0, 16), slice(16, 32)):
        weights = torch.softmax(query[..., head] @ key[..., head].transpose(1, 2) / math.sqrt(16), dim=-1)
        mixed[..., head] = weights @ value[..., head]
    assert torch.allclose(attention(tokens), attention.proj(mixed), atol=1e-12)


def test_channel_norm() -> None:
    torch.manual_seed(0)
    norm, x = ChannelNorm(6), torch.randn(2, 6, 3, 4, 5) + 2
    mean, variance = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
    assert torch.allclose(norm(x), (x - mean) / torch.sqrt(variance + 1e-5), atol=1e-5)


def test_batch_norm_shares_statistics_of_the_batch_and_ends_the_encoder() -> None:
    torch.manual_seed(0)
    encoder = SMOKE.build(1)
    deepest = encoder(torch.randn(4, 1, 16, 16, 16))[-1]
    assert torch.allclose(deepest.mean((0, 2, 3, 4)), torch.zeros(32), atol=1e-5)
    assert encoder.norm.num_batches_tracked == 1
    assert encoder.eval()(torch.randn(1, 1, 16, 16, 16))[-1].isfinite().all()
    assert encoder.norm.num_batches_tracked == 1


def test_initial_values() -> None:
    torch.manual_seed(0)
    block = Uniformer(1, (64,), (2,), (1,), 1, 64, 4).blocks1[0]
    for convolution in (block.conv1, block.mlp.fc1):
        assert convolution.bias.abs().max() == 0
        assert convolution.weight.std().item() == pytest.approx(math.sqrt(2 / convolution.out_channels), rel=0.05)


def test_bfloat16_and_channels_last_agree_with_float32() -> None:
    torch.manual_seed(0)
    encoder, image = SMOKE.build(1).eval(), torch.randn(2, 1, 16, 16, 24)
    with torch.inference_mode():
        expected = encoder(image)[-1]
        laid_out = encoder(image.to(memory_format=torch.channels_last_3d))
        with torch.autocast("cpu", torch.bfloat16):
            half = encoder(image)[-1]
    assert torch.allclose(laid_out[-1], expected, atol=1e-5)
    assert all(m.is_contiguous(memory_format=torch.channels_last_3d) for m in laid_out)
    assert half.dtype == torch.bfloat16
    assert functional.cosine_similarity(half.float().flatten(), expected.flatten(), dim=0) > 0.999


@pytest.mark.parametrize("layer", ["linear", "convolution"])
@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_gelu_is_recomputed_exactly(layer: str, precision: torch.dtype | None) -> None:
    torch.manual_seed(0)
    if layer == "linear":
        mlp, image = Mlp(8, 4, torch.nn.Linear), torch.randn(2, 5, 8)
    else:
        mlp = Mlp(8, 4, lambda i, o: torch.nn.Conv3d(i, o, 1))
        image = torch.randn(2, 8, 4, 4, 4).contiguous(memory_format=torch.channels_last_3d)
    gradients, kept = [], []
    for plain in (False, True):
        mlp.zero_grad()
        x = image.clone().requires_grad_()
        sizes: list[int] = []

        def note(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with (
            torch.autocast("cpu", precision or torch.bfloat16, enabled=precision is not None),
            torch.autograd.graph.saved_tensors_hooks(note, lambda t: t),
        ):
            y = mlp.fc2(functional.gelu(mlp.fc1(x))) if plain else mlp(x)
        y.float().square().sum().backward()
        kept.append(sizes.count(4 * image.numel()))
        gradients.append([x.grad, *(p.grad for p in mlp.parameters())])
    assert kept == [1, 2], "GELU's input, and without recomputing its output too"
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_depthwise_gradients_in_float32_on_cpus() -> None:
    torch.manual_seed(0)
    convolution, image = Depthwise(8, 5), torch.randn(2, 8, 6, 6, 6, requires_grad=True)
    convolution(image).square().mean().backward()
    expected = [image.grad, convolution.weight.grad, convolution.bias.grad]
    image.grad = None
    convolution.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        output = convolution(image)
    assert output.dtype == torch.bfloat16
    output.float().square().mean().backward()
    for found, wanted in zip([image.grad, convolution.weight.grad, convolution.bias.grad], expected, strict=True):
        assert found.dtype == torch.float32
        assert float((found - wanted).norm() / wanted.norm()) < 0.02


def test_widths_must_hold_whole_heads() -> None:
    with pytest.raises(ValueError, match="multiples of 64"):
        UniformerSpec("odd", (64, 100), (2, 2), blocks=(1, 1), local_stages=1)
    with pytest.raises(ValueError, match="one entry per stage"):
        UniformerSpec("odd", (64, 128), (2, 2), blocks=(1,))
