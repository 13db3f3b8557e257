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

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from torch import nn

from mvp_bench.config.check import check
from mvp_bench.errors import InputError
from mvp_bench.models.encoders.base import EncoderSpec
from mvp_bench.pretraining.census import Census
from mvp_bench.pretraining.sampling import Batch, Intensity, SamplingSpec
from mvp_bench.pretraining.source import Size
from mvp_bench.registry import ENCODERS, METHODS, unknown_name

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
    """Deviations from the original."""
    views: str
    """What the network is shown of a patch."""
    heads: str
    """What is trained on top of the encoder and thrown away."""
    budget: str
    """As published: steps or epochs, batch, patch. Here every method gets the same (``PretrainConfig``)."""
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
    """Cases per forward pass of one process."""
    steps: int
    world: int = 1
    """Processes that share a step."""
    largest_cases: tuple[str, str, str] = ("", "", "")
    """The cases that have the largest extents, for messages."""
    smallest: tuple[float, float, float] = (math.inf, math.inf, math.inf)
    """Smallest extent of a case per axis (z, y, x), mm."""
    smallest_cases: tuple[str, str, str] = ("", "", "")
    """The cases that have the smallest extents, for messages."""
    volume_reach: tuple[float, float, float] = (math.nan, math.nan, math.nan)
    """Per axis (z, y, x), mm, twice the largest distance of an outermost voxel from the middle of the uncropped image;
    NaN: not known."""

    @classmethod
    def of(
        cls, census: Census, encoder: EncoderSpec, patch: Size, batch_size: int, steps: int, world: int = 1
    ) -> Context:
        """The context of a run on the cases of a census."""
        return cls(
            encoder=encoder,
            patch=patch,
            modalities=census.modalities,
            spacing=census.spacing,
            largest=census.largest,
            world_box=census.world_box,
            most_modalities=census.most_modalities,
            batch_size=batch_size,
            steps=steps,
            world=world,
            largest_cases=census.largest_cases,
            smallest=census.smallest,
            smallest_cases=census.smallest_cases,
            volume_reach=census.volume_reach,
        )

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

    leaves_parameters_unused: ClassVar[bool] = False
    """Whether some parameters may get no gradient in a step (several processes must know before they wait for it)."""

    options: OptionsT

    def __init__(self, options: OptionsT, context: Context) -> None:
        super().__init__()
        self.options, self.context = options, context
        self.check(context)
        self.encoder = context.encoder.build(1)
        self.build(context)

    @classmethod
    def misfit(cls, encoder: EncoderSpec) -> str:
        """Why the method makes no sense on an encoder, for the user; "" where it does."""
        return ""

    @classmethod
    def check_settings(
        cls, options: OptionsT, encoder: EncoderSpec, patch: Size, batch_size: int, world: int = 1
    ) -> None:
        """Refuse settings that cannot work on any data. Called before data are touched.

        Args:
            batch_size: cases per forward pass of one process.
            world: processes that share a step.

        Raises:
            InputError: if an option is out of its range, the encoder or the intensities are none that the method works
                with, the batch is too small, or the patch does not fit the encoder.
        """
        check(options)
        reason = cls.misfit(encoder)
        if reason:
            fitting = [name for name in ENCODERS if not cls.misfit(ENCODERS[name])]
            raise InputError("--encoder", found=encoder.name, expected=f"one of {', '.join(fitting)}", fix=reason)
        intensity = getattr(options, "intensity", cls.declaration.intensity[0])
        if intensity not in cls.declaration.intensity:
            raise InputError(
                "--intensity",
                found=intensity,
                expected=f"{' or '.join(cls.declaration.intensity)} for {cls.declaration.title}",
            )
        stride = encoder.stride
        if any(edge < stride or edge % stride for edge in patch):
            raise InputError(
                "--patch-size",
                found=" x ".join(map(str, patch)),
                expected=f"multiples of {stride}, the total stride of {encoder.name}",
            )
        if math.prod(encoder.deepest(patch)) < 2:
            raise InputError(
                "--patch-size",
                found=f"{' x '.join(map(str, patch))}, one voxel in the deepest map of {encoder.name}",
                expected="at least two: norms over space have nothing to go by",
            )
        if batch_size < cls.declaration.min_batch:
            raise InputError(
                "--batch-size",
                found=batch_size,
                expected=f"at least {cls.declaration.min_batch} for {cls.declaration.title}",
            )

    def check(self, context: Context) -> None:
        """Refuse a run that cannot work, before it starts.

        Raises:
            InputError: from :meth:`check_settings`, or if the data's modalities are too few.
        """
        self.check_settings(self.options, context.encoder, context.patch, context.batch_size, context.world)
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
        """The losses of one forward pass. Every random draw comes from ``generator`` (CPU).

        Where several processes share a step, ``generator`` is in the same state in all of them: draw for the samples of
        all (``batch.shard.world`` times as many) and keep ``batch.shard.own(drawn)``, so that how a step is shared out
        does not change it. Features of the other processes' samples come from ``distributed.rows_of_all``.
        """

    def sampling(self) -> SamplingSpec:
        """How patches are drawn."""
        return SamplingSpec()

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """AdamW's groups; ``lr`` is the group's peak rate. Default: one group."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        return [{"params": parameters, "lr": learning_rate, "weight_decay": weight_decay}]

    def after_step(self, step: int) -> None:
        """Called after each optimiser step (moving averages and the like)."""

    def pictures(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, dict[str, torch.Tensor]]:
        """What is worth looking at: name of a picture -> title -> volumes (N, z, y, x). Default: nothing.

        Called without gradients, in evaluation mode, with the generator that the losses of ``step`` had.
        """
        return {}

    @property
    def template_frame(self) -> Literal["world", "centre", "volume"] | None:
        """What the templates' positions are relative to (``EncoderRecord.template_frame``). Default: there are none."""
        return None

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
