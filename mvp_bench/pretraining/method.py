"""What a pre-training method is: declarations, options, parts, and losses. The engine knows nothing else of it.

A method is one file (or package) in ``pretraining/methods``::

    @METHODS.register("mae", summary="masked auto-encoder")
    class MaskedAutoencoder(Method[MaeOptions]):
        declaration = Declaration(...)
        Options = MaeOptions
        def build(self, context): self.decoder = unet_decoder(context.encoder)
        def losses(self, batch, step, generator): ...
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from torch import nn

from mvp_bench.errors import InputError
from mvp_bench.models.encoders.base import EncoderSpec
from mvp_bench.pretraining.sampling import Batch, Intensity, SamplingSpec, Size
from mvp_bench.registry import METHODS, unknown_name

OptionsT = TypeVar("OptionsT")


@dataclass(frozen=True)
class Declaration:
    """Facts on a method, shown in lists, the model card and the leaderboard's table of methods."""

    title: str
    intensity: tuple[Intensity, ...]
    """Intensities it can be fed with."""
    modalities: Literal["independent", "uses", "needs"]
    """Images are independent samples; several modalities of a case are used where there are; or are required."""
    transferred: str
    """Which part of the network fine-tuning gets."""
    deviations: tuple[str, ...]
    """From the original."""
    citation: str
    licence_note: str
    min_batch: int = 1
    """Cases per step below which a loss has no meaning."""


@dataclass(frozen=True)
class Context:
    """What a method may know of the run when it builds its parts."""

    encoder: EncoderSpec
    patch: Size
    modalities: tuple[str, ...]
    """All modalities of the data; ``Batch.modality`` indexes it."""
    spacing: tuple[float, float, float]
    """Voxel edges of the data (z, y, x), mm."""
    largest: tuple[float, float, float]
    """Largest extent of a case per axis (z, y, x), mm."""
    world_box: tuple[tuple[float, float, float], tuple[float, float, float]]
    """Centres of the outermost voxels of all cases: lowest and highest RAS position per axis (z, y, x), mm."""
    most_modalities: int
    """Modalities of the best-equipped case."""
    batch_size: int
    steps: int

    def fraction(self, step: int) -> float:
        """Part of the training done before ``step``."""
        return step / self.steps


@dataclass(frozen=True)
class LossTerm:
    """One loss of one step."""

    value: torch.Tensor
    """Scalar, float32, differentiable."""
    weight: float
    """Its factor in the total."""
    trivial: float | torch.Tensor
    """What the trivial solution would get on the same batch (a constant prediction, equal features, ...)."""


class Method(nn.Module, ABC, Generic[OptionsT]):
    """Base of all methods. ``self.encoder`` is what is kept afterwards.

    Args:
        options: the method's own fields.
        context: the run.

    Raises:
        InputError: from :meth:`check`.
    """

    declaration: ClassVar[Declaration]
    Options: ClassVar[type]
    """Frozen dataclass; may have a class method ``presets() -> dict[str, Options]``."""

    options: OptionsT

    def __init__(self, options: OptionsT, context: Context) -> None:
        super().__init__()
        self.options, self.context = options, context
        self.check(context)
        self.encoder = context.encoder.build(1)
        self.build(context)

    def check(self, context: Context) -> None:
        """Refuse a run that cannot work, before it starts.

        Raises:
            InputError: if the batch or the data's modalities are too few, or the patch does not fit the encoder.
        """
        stride = context.encoder.stride
        if any(edge % stride for edge in context.patch):
            raise InputError(
                "--patch-size",
                found=" x ".join(map(str, context.patch)),
                expected=f"multiples of {stride}, the total stride of {context.encoder.name}",
            )
        if context.batch_size < self.declaration.min_batch:
            raise InputError(
                "--batch-size",
                found=context.batch_size,
                expected=f"at least {self.declaration.min_batch} for {self.declaration.title}",
            )
        if self.declaration.modalities == "needs" and context.most_modalities < 2:
            raise InputError(
                "pre-training data",
                found="no case with two modalities",
                expected=f"several modalities per case for {self.declaration.title}",
            )

    @abstractmethod
    def build(self, context: Context) -> None:
        """Create the method's modules beside ``self.encoder``."""

    @abstractmethod
    def losses(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, LossTerm]:
        """The losses of one step. Every random draw comes from ``generator`` (CPU)."""

    def sampling(self) -> SamplingSpec:
        """How patches are drawn."""
        return SamplingSpec()

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """AdamW's groups; ``lr`` is the group's peak rate. Default: one group."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        return [{"params": parameters, "lr": learning_rate, "weight_decay": weight_decay}]

    def after_step(self, step: int) -> None:
        """Called after each optimiser step (moving averages and the like)."""

    def save_templates(self, folder: Path) -> dict[str, str]:
        """Write what was learned per modality; modality -> file relative to ``folder``. Default: nothing."""
        return {}

    def forward(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, LossTerm]:
        """:meth:`losses`, under the name that wrappers of modules call."""
        return self.losses(batch, step, generator)


def resolve_options(method: str, preset: str | None, profile: str) -> Any:
    """The options of ``method`` under a preset; without one, the preset named like the profile, else the defaults.

    Raises:
        InputError: for an unknown method or preset.
    """
    kind = METHODS[method]
    presets: Mapping[str, Any] = kind.Options.presets() if hasattr(kind.Options, "presets") else {}
    if preset is not None:
        if preset not in presets:
            raise unknown_name(f"preset of {method}", preset, presets)
        return presets[preset]
    return presets.get(profile, kind.Options())
