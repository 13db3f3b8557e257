"""A BrainMVP step as one would write it first: plain eager float32, nothing kept between samples.

The network under the project's parameter names but in modules of its own, attention weights written out; NIfTI files
decoded and normalised for every sample; templates copied and scaled whole. Draws are the project's, in its order.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from pretrain_setting import MODALITIES, PRESENT, SEED, Setting, content_box
from torch import nn
from torch.nn import functional

from mvp_bench.models.encoders.base import EncoderSpec
from mvp_bench.models.encoders.uniformer import UniformerSpec
from mvp_bench.pretraining import masking
from mvp_bench.pretraining.engine import rate_factor, step_seed
from mvp_bench.pretraining.methods.brainmvp import BrainMvpOptions
from mvp_bench.pretraining.sampling import draw_slots, draw_window
from mvp_bench.registry import ENCODERS


class PlainNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3).contiguous()


class PlainConvBlock(nn.Module):
    """UniFormer's local block."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.pos_embed = nn.Conv3d(channels, channels, 3, padding=1, groups=channels)
        self.norm1, self.norm2 = nn.BatchNorm3d(channels), nn.BatchNorm3d(channels)
        self.conv1, self.conv2 = nn.Conv3d(channels, channels, 1), nn.Conv3d(channels, channels, 1)
        self.attn = nn.Conv3d(channels, channels, 5, padding=2, groups=channels)
        self.mlp = nn.ModuleDict({"fc1": nn.Conv3d(channels, hidden, 1), "fc2": nn.Conv3d(hidden, channels, 1)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.pos_embed(x)
        x = x + self.conv2(self.attn(self.conv1(self.norm1(x))))
        return x + self.mlp["fc2"](functional.gelu(self.mlp["fc1"](self.norm2(x))))


class PlainAttentionBlock(nn.Module):
    """UniFormer's global block, with the attention weights written out."""

    def __init__(self, channels: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.pos_embed = nn.Conv3d(channels, channels, 3, padding=1, groups=channels)
        self.norm1, self.norm2 = nn.LayerNorm(channels, eps=1e-6), nn.LayerNorm(channels, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(channels, 3 * channels), "proj": nn.Linear(channels, channels)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(channels, hidden), "fc2": nn.Linear(hidden, channels)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.pos_embed(x)
        shape = x.shape
        x = x.flatten(2).transpose(1, 2)
        rows, tokens, channels = x.shape
        qkv = self.attn["qkv"](self.norm1(x)).reshape(rows, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = (qkv[0] @ qkv[1].transpose(-2, -1) * qkv.shape[-1] ** -0.5).softmax(dim=-1)
        x = x + self.attn["proj"]((weights @ qkv[2]).transpose(1, 2).reshape(rows, tokens, channels))
        x = x + self.mlp["fc2"](functional.gelu(self.mlp["fc1"](self.norm2(x))))
        return x.transpose(1, 2).reshape(shape)


class PlainUniformer(nn.Module):
    """The encoder under the same names."""

    def __init__(self, spec: UniformerSpec) -> None:
        super().__init__()
        before = 1
        for stage, (width, stride) in enumerate(zip(spec.features, spec.strides, strict=True)):
            embed = {"proj": nn.Conv3d(before, width, stride, stride), "norm": PlainNorm(width)}
            hidden, heads = spec.expansion * width, width // spec.head_width
            blocks: list[nn.Module] = [
                PlainConvBlock(width, hidden)
                if stage < spec.local_stages
                else PlainAttentionBlock(width, hidden, heads)
                for _ in range(spec.blocks[stage])
            ]
            self.add_module(f"patch_embed{stage + 1}", nn.ModuleDict(embed))
            self.add_module(f"blocks{stage + 1}", nn.Sequential(*blocks))
            before = width
        self.norm = nn.BatchNorm3d(before)
        self.stages = len(spec.features)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        for stage in range(1, self.stages + 1):
            embed = getattr(self, f"patch_embed{stage}")
            x = getattr(self, f"blocks{stage}")(embed["norm"](embed["proj"](x)))
        return [self.norm(x)]


class NaiveCases:
    """The same samples as the project's sampler draws, from NIfTI files."""

    def __init__(self, folder: Path, setting: Setting) -> None:
        self.cases, self.patch = sorted((folder / "nifti").iterdir()), setting.patch

    def sample(self, position: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images (slots, z, y, x), their modalities' numbers, and the first voxel (z, y, x) in the whole volume."""
        number, place = divmod(position, len(self.cases))
        case = self.cases[np.random.default_rng([SEED, 0, number]).permutation(len(self.cases))[place]]
        images = [self.load(case / f"{modality}.nii.gz") for modality in PRESENT]
        low, high = content_box(np.any([image > 0 for image in images], axis=0)).T
        rng = np.random.default_rng([SEED, 1, position])
        chosen = draw_slots(len(PRESENT), len(PRESENT), rng)
        size = high - low
        start = draw_window((size[0], size[1], size[2]), (self.patch,) * 3, rng) + low
        window = tuple(slice(s, s + self.patch) for s in start)
        return np.stack([images[slot][window] for slot in chosen]), chosen, start

    def load(self, path: Path) -> np.ndarray:
        """A whole image, percentiles 5 to 95 of the brain mapped to 0 to 1 and clipped: float32 (z, y, x)."""
        image = nib.as_closest_canonical(nib.load(path)).get_fdata(dtype=np.float32).transpose(2, 1, 0)
        brain = image != 0
        low, high = np.percentile(image[brain], (5, 95))
        return np.where(brain, np.clip((image - low) / (high - low), 0, 1), 0).astype(np.float32)


class NaiveBrainMvp(nn.Module):
    """Encoder, decoder, templates, and the three losses."""

    def __init__(self, spec: EncoderSpec, setting: Setting, options: BrainMvpOptions) -> None:
        super().__init__()
        torch.manual_seed(SEED)  # the same initial weights as the project's
        built = spec.build(1)
        self.decoder = spec.skip_free_decoder(linear=True)
        self.encoder = built
        if isinstance(spec, UniformerSpec):
            self.encoder = PlainUniformer(spec)
            self.encoder.load_state_dict(built.state_dict())
        x, y, z = setting.volume
        self.templates = nn.Parameter(torch.zeros(len(MODALITIES), z, y, x))
        self.patch, self.options = setting.patch, options

    def losses(
        self, images: torch.Tensor, modality: torch.Tensor, starts: Iterable[np.ndarray], generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Of images (B, K, z, y, x) that begin at voxels ``starts`` of the templates."""
        size, slots = images.shape[:2]
        slot = torch.randint(slots, (size,), generator=generator)
        chance = torch.rand(size, slots, generator=generator)
        chance[torch.arange(size), slot] = -1
        target = images[torch.arange(size), slot].unsqueeze(1)
        other = images[torch.arange(size), chance.argmax(dim=1)].unsqueeze(1)
        windows = []
        for number, start in zip(modality[torch.arange(size), slot], starts, strict=True):
            whole = self.templates[int(number)].clone()
            scaled = (whole - whole.amin()) / (whole.amax() - whole.amin() + self.options.epsilon)
            windows.append(scaled[tuple(slice(s, s + self.patch) for s in start)])
        template = torch.stack(windows).unsqueeze(1)
        block = self.options.block
        grid = (self.patch // block,) * 3
        drawn = masking.draw_kept(
            2 * size, grid, masking.kept_blocks(math.prod(grid), self.options.mask_ratio), generator
        )
        kept = torch.kron(drawn.float(), torch.ones(1, block, block, block)).unsqueeze(1)
        first = target * kept[:size] + template * (1 - kept[:size])
        second = target * kept[size:] + other * (1 - kept[size:])
        deepest = self.encoder(torch.cat([first, second]))[-1]
        rebuilt = self.decoder([deepest])
        one, two = (functional.normalize(part.flatten(1), dim=1) for part in deepest.chunk(2))
        similarity, diagonal = two @ one.T / self.options.temperature, torch.arange(size)
        return {
            "distillation": functional.mse_loss(rebuilt[:size], target),
            "cross_modal": functional.mse_loss(rebuilt[size:], target),
            "contrastive": (
                functional.cross_entropy(similarity, diagonal) + functional.cross_entropy(similarity.T, diagonal)
            )
            / 2,
        }


def naive_steps(folder: Path, setting: Setting) -> dict[str, Any]:
    """The naive loop."""
    config, options, cases = setting.config(), setting.options(), NaiveCases(folder, setting)
    model = NaiveBrainMvp(ENCODERS[setting.encoder], setting, options).train()
    networks = [p for p in model.parameters() if p is not model.templates]
    groups = [
        {"params": networks, "weight_decay": config.weight_decay},
        {"params": [model.templates], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate)
    seconds, losses = [], []
    for step in range(setting.all_steps):
        began = time.perf_counter()
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * rate_factor(step, config.steps, 0)
        images, modality, starts = zip(
            *(cases.sample(step * setting.batch + i) for i in range(setting.batch)), strict=True
        )
        generator = torch.Generator().manual_seed(step_seed(SEED, step, 0))
        drawn = torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(modality))
        terms = model.losses(*drawn, starts, generator)
        weights = (options.weight_distillation, options.weight_cross_modal, options.weight_contrastive)
        total = torch.stack([w * value for w, value in zip(weights, terms.values(), strict=True)]).sum()
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        seconds.append(time.perf_counter() - began)
        losses.append({"total": total.item(), **{name: value.item() for name, value in terms.items()}})
    return {"seconds": seconds, "losses": losses, "how": "fp32, contiguous"}
