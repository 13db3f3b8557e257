"""BrainMVP's two networks compute what the released ones do, in the released axes and in ours.

The numbers were taken from the released networks, weights filled by :func:`fill`; none of their code is needed.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mvp_bench.models.decoders import skip_free_decoder
from mvp_bench.models.released import ENCODER_PREFIX, ReleasedUNet3d, ReleasedUniformer, turned
from mvp_bench.registry import ENCODERS

NUMBERS = json.loads((Path(__file__).parent / "released_numbers.json").read_text())
NETWORKS = {"uniformer-s": ReleasedUniformer, "unet3d": ReleasedUNet3d}
TOLERANCE = 1e-4
"""Relative, in the Euclidean norm."""
SMALL = (16, 32, 48)
"""Voxels (x, y, z) where no released number is needed."""


def fill(state: dict[str, torch.Tensor]) -> None:
    """Weights by rule: w = sin(0.1 (t + 1) + 0.7 j) for element j of tensor t, names sorted."""
    for number, name in enumerate(sorted(state)):
        tensor = state[name]
        wave = np.sin(0.1 * (number + 1) + 0.7 * np.arange(tensor.numel()))
        if name.endswith("num_batches_tracked"):
            wave = np.zeros(1)
        elif tensor.dim() > 1:
            wave *= (4.0 if name.startswith(("decoder.", "up")) else 0.5) / np.sqrt(tensor[0].numel())
        elif name.endswith(("weight", "running_var")):
            wave = 1 + 0.1 * wave
        else:
            wave *= 0.1
        tensor.copy_(torch.from_numpy(wave.reshape(tensor.shape)))


@cache
def filled(name: str) -> nn.Module:
    network = NETWORKS[name](templates=0).eval()
    with torch.no_grad():
        fill(network.state_dict())
    return network


def image(x: int = 32, y: int = 48, z: int = 64) -> torch.Tensor:
    """(1, 1, x, y, z)."""
    i, j, k = np.ogrid[:x, :y, :z]
    return torch.from_numpy(np.sin(0.3 * i + 0.2 * j + 0.1 * k)).float()[None, None]


def stages(name: str, network: nn.Module) -> dict[str, torch.Tensor]:
    """The maps that the released encoder returns, and the reconstruction."""
    found: dict[str, torch.Tensor] = {}
    hooks = []
    if name == "unet3d":  # the released encoder returns the strided convolutions' outputs, ours the levels'
        for number, part in enumerate(("ds1", "ds2", "ds3", "conv4d"), start=1):

            def keep(module: nn.Module, inputs: Any, output: torch.Tensor, key: str = f"stage{number}") -> None:
                found[key] = output

            hooks.append(getattr(network, part).register_forward_hook(keep))
    with torch.inference_mode():
        maps, rebuilt = network(image())
    for hook in hooks:
        hook.remove()
    return {**(found or {f"stage{i}": m for i, m in enumerate(maps, start=1)}), "reconstruction": rebuilt}


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative, in the Euclidean norm."""
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_the_released_ones(name: str) -> None:
    for key, output in stages(name, filled(name)).items():
        expected = NUMBERS[name]["outputs"][key]
        flat = output.flatten().double()
        sample, wanted = flat[expected["at"]], torch.tensor(expected["values"], dtype=torch.float64)
        assert difference(sample, wanted) < TOLERANCE, key
        assert abs(flat.mean() - expected["mean"]) < TOLERANCE * expected["std"], key
        assert abs(flat.std(correction=0) - expected["std"]) < TOLERANCE * expected["std"], key


@pytest.mark.parametrize("name", NETWORKS)
def test_names_and_shapes_are_the_released_ones(name: str) -> None:
    state = filled(name).state_dict()
    listed = json.dumps([[key, list(state[key].shape)] for key in sorted(state)], separators=(",", ":"))
    assert len(state) == NUMBERS[name]["tensors"]
    assert hashlib.sha256(listed.encode()).hexdigest() == NUMBERS[name]["names_sha256"]


def test_sizes_with_full_templates() -> None:
    with torch.device("meta"):
        uniformer, unet = ReleasedUniformer(), ReleasedUNet3d()
    assert uniformer.rep_template.shape == (8, 240, 240, 155)
    state = uniformer.state_dict()
    assert len(state) == 352
    assert sum(t.numel() for t in state.values()) == 105_744_016
    assert len([key for key in state if key.startswith("encoder.uniformer.")]) == 329
    assert sum(p.numel() for key, p in unet.named_parameters() if key != "rep_template") == 18_799_937


def ours(name: str, state: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Deepest map and reconstruction (z, y, x) of our encoder and decoder with the tensors of a released network."""
    spec, prefix = ENCODERS[name], ENCODER_PREFIX[name]
    encoder, decoder = spec.build(1).eval(), skip_free_decoder(spec, linear=True)
    inside = {key.removeprefix(prefix): t for key, t in state.items() if key.startswith(prefix)}
    encoder.load_state_dict({key: inside[key] for key in encoder.state_dict()})
    if name == "unet3d":
        decoder.load_state_dict({key: state[key] for key in decoder.state_dict()})
    else:
        kernels = [state[f"decoder.decoder{level}.transp_conv.conv.weight"] for level in (5, 4, 3, 2)]
        values = [*kernels, state["decoder.out_1.conv.conv.weight"], state["decoder.out_1.conv.conv.bias"]]
        decoder.load_state_dict(dict(zip(decoder.state_dict(), values, strict=True)))
    with torch.inference_mode():
        maps = encoder(image(*SMALL).permute(0, 1, 4, 3, 2))
        return maps[-1], decoder(maps)


@pytest.mark.parametrize("name", NETWORKS)
def test_ours_with_turned_kernels_is_the_same_function(name: str) -> None:
    with torch.inference_mode():
        maps, rebuilt = filled(name)(image(*SMALL))
    # The released maps are (z, x, y) for the Uniformer, (x, y, z) for the U-Net; reconstructions (x, y, z).
    expected = maps[-1].permute(*((0, 1, 2, 4, 3) if name == "uniformer-s" else (0, 1, 4, 3, 2)))
    state = filled(name).state_dict()
    deepest, reconstruction = ours(name, turned(state))
    assert difference(deepest, expected) < TOLERANCE
    assert difference(reconstruction, rebuilt.permute(0, 1, 4, 3, 2)) < TOLERANCE
    deepest, reconstruction = ours(name, state)
    assert difference(deepest, expected) > 100 * TOLERANCE
    assert difference(reconstruction, rebuilt.permute(0, 1, 4, 3, 2)) > 100 * TOLERANCE


def test_turning_twice_changes_nothing() -> None:
    state = filled("uniformer-s").state_dict()
    again = turned(turned(state))
    assert all(torch.equal(tensor, again[key]) for key, tensor in state.items())
