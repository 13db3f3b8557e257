"""What a format must say of a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from mvp_bench.datasets.reading.sources import ALIASES
from mvp_bench.models.formats.raw import RawFile, State

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class LearnedTemplates:
    """A volume per modality, as the file has it."""

    modalities: tuple[str, ...]
    volumes: np.ndarray
    """float32 (M, z, y, x)."""
    affine: np.ndarray
    """4 x 4: voxel (x, y, z) -> RAS position in mm."""
    raw_name: str
    """Name in the file."""


@dataclass(frozen=True)
class Foreign:
    """A checkpoint in our words: tensors under our names and in our axis order (z, y, x)."""

    format: str
    tensors: State
    """Everything the file has in the encoder's place, under our names where there is one."""
    raw_names: dict[str, str]
    """Our name -> name in the file."""
    unused: dict[str, list[str]]
    """Why it is left out -> names in the file (decoder, heads, templates)."""
    encoder: str | None = None
    """Our preset, where the file says which; else it is found by the tensors' names and shapes."""
    topology: dict[str, Any] = field(default_factory=dict)
    """``arch_kwargs`` of nnU-Net's plan, where the file has them."""
    modalities: tuple[str, ...] = ()
    """Seen in training."""
    stem_modalities: tuple[str, ...] = ()
    """Modality of each input channel; empty where the file does not say, or one channel serves every modality."""
    templates: LearnedTemplates | None = None
    spacing: Triple | None = None
    """Voxel edges (z, y, x) in mm."""
    patch_size: tuple[int, int, int] | None = None
    intensity: Literal["zscore", "unit"] | None = None
    licence: str = "not stated in the file"
    citation: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    """Whatever else is worth keeping (adaptation plan, trainer)."""
    notes: tuple[str, ...] = ()
    """What a reader should know."""


class Format(Protocol):
    """A kind of checkpoint. Modules of this package have one each, listed in ``known``."""

    name: str
    summary: str

    def recognises(self, raw: RawFile) -> bool:
        """Whether the file is of this kind, by its keys."""

    def read(self, raw: RawFile) -> Foreign:
        """The file in our words.

        Raises:
            InputError: if it is of this kind, but not one we can use.
        """


def modality_of(name: str) -> str | None:
    """Our name of a modality that goes by ``name`` (T1ce, t2w, FLAIR, ...)."""
    plain = "".join(c for c in name.lower() if c.isalnum())
    return next((str(modality) for modality, names in ALIASES.items() if plain in names.split()), None)


def by_prefix(state: State, prefix: str) -> tuple[State, list[str]]:
    """Tensors below a prefix, without it; and the names of the others."""
    inside = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    return inside, [name for name in state if not name.startswith(prefix)]


def permute_kernels(state: State, axes: Sequence[int]) -> State:
    """Convolution kernels (out, in, 3 axes) with their spatial axes put into another order: new axis ``i`` is old axis
    ``axes[i]``. Everything else is the same object."""
    order = (0, 1, *(2 + a for a in axes))
    if list(axes) == [0, 1, 2]:
        return dict(state)
    return {name: t.permute(order).contiguous() if t.dim() == 5 else t for name, t in state.items()}
