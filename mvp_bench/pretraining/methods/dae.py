"""DAE, disruptive auto-encoders (Valanarasu et al., MIDL 2024): undo noise, lost resolution and lost channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from mvp_bench.config.fields import option
from mvp_bench.config.ranges import Edge, Factor, PartialShare, Positive, Width
from mvp_bench.errors import InputError
from mvp_bench.models.decoders import skip_free_decoder
from mvp_bench.models.encoders.base import EncoderSpec
from mvp_bench.models.weights import stem_name
from mvp_bench.pretraining import masking
from mvp_bench.pretraining.distributed import rows_of_all
from mvp_bench.pretraining.method import Context, Declaration, LossTerm, Method
from mvp_bench.pretraining.parts.contrastive import cosines
from mvp_bench.pretraining.parts.heads import Projector, pooled, pooled_features
from mvp_bench.pretraining.reconstruction import constant_l1, masked_l1
from mvp_bench.pretraining.sampling import Batch, Intensity, SamplingSpec
from mvp_bench.pretraining.source import Size
from mvp_bench.pretraining.views.intensity import gaussian_noise
from mvp_bench.registry import METHODS


@dataclass(frozen=True)
class DaeOptions:
    """DAE's own fields."""

    noise_variance: Factor = 0.1
    """Variance of the Gaussian noise, in squared z-scores."""
    coarsening: Edge = 4
    """Edge in voxels of the cells that keep one value each (nearest-neighbour down- and up-sampling). 1: none."""
    channel_dropout: PartialShare = 0.6
    """Share of the stem's channels that is set to zero, drawn anew for every token."""
    token: Edge = 2
    """Edge of a token in voxels; one site where the stem's stride is larger."""
    weight_contrastive: Factor = 0.03
    """Factor of the contrastive loss. It draws images of one modality together (supervised contrast); 0 leaves it
    out."""
    temperature: Positive = 0.5
    """Temperature of the contrastive loss, by which similarities are divided."""
    features: Width = 512
    """Width of the embedding."""
    intensity: Intensity = "zscore"
    """Intensities fed in. zscore alone, which the noise is measured in."""

    @classmethod
    def presets(cls) -> dict[str, DaeOptions]:
        """``mini`` and ``smoke``: no contrastive loss, which two cases per step cannot give."""
        alone = cls(weight_contrastive=0.0)
        return {"mini": alone, "smoke": alone}


class ChannelDropout(nn.Module):
    """Sets channels of the stem's output to zero, per token (a small cube of sites), while :attr:`dropped` is given.

    Nothing is scaled up in return, and nothing is dropped outside pre-training.

    Args:
        stem: the encoder's first convolution; a hook is left on it, which adds nothing to its state.
        edge: of a token, in sites of the stem's output.
    """

    def __init__(self, stem: nn.Conv3d, edge: int) -> None:
        super().__init__()
        self.edge, self.channels = edge, stem.out_channels
        self.dropped: torch.Tensor | None = None
        """bool (B, channels, tokens)."""
        stem.register_forward_hook(self.apply_to)  # a bound method: a deep copy's hook points to the copy

    def apply_to(self, stem: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        """The stem's output (B, channels, z, y, x), with zeros."""
        return output if self.dropped is None else drop_channels(output, self.dropped, self.edge)


def drop_channels(maps: torch.Tensor, dropped: torch.Tensor, edge: int) -> torch.Tensor:
    """Zero where ``dropped`` (B, C, tokens) says so; a token is ``edge``^3 sites of ``maps`` (B, C, z, y, x)."""
    cells = maps
    for axis in (4, 3, 2):
        cells = cells.unflatten(axis, (-1, edge))
    z, y, x = cells.shape[2:8:2]
    mask = dropped.reshape(*dropped.shape[:2], z, 1, y, 1, x, 1)
    return cells.masked_fill(mask, 0.0).reshape(maps.shape)


def coarse_shape(patch: Sequence[int], factor: int) -> tuple[int, ...]:
    """Cells per axis."""
    return tuple(edge // factor for edge in patch)


def corrupt(images: torch.Tensor, noise: torch.Tensor, factor: int) -> torch.Tensor:
    """Noise, then nearest-neighbour down- and up-sampling: every cell of ``factor``^3 voxels takes its middle's value.

    Noise is needed at the voxels that are kept only: the result is that of noise on all voxels.

    Args:
        images: (B, 1, z, y, x).
        noise: (B, 1, *coarse_shape), in the images' units.
    """
    middle = slice(factor // 2, None, factor)
    corrupted = images[..., middle, middle, middle] + noise
    for axis in (2, 3, 4):
        corrupted = corrupted.repeat_interleave(factor, dim=axis)
    return corrupted


def supervised_contrastive(features: torch.Tensor, labels: torch.Tensor, temperature: float) -> torch.Tensor:
    """Supervised contrastive loss (Khosla et al., NeurIPS 2020, L_out) of cosines: the mean over samples i that share
    their label of mean_{p in P(i)} -log(e^{s_ip / t} / sum_{k != i} e^{s_ik / t}).

    Samples whose label occurs once are no anchors; with none, 0. All features equal: log(N - 1).

    Args:
        features: (N, D), N >= 2.
        labels: int64 (N,).
        temperature: t.
    """
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    share = (cosines(features, features) / temperature).masked_fill(itself, -torch.inf).log_softmax(dim=1)
    positive = (labels[:, None] == labels) & ~itself
    count = positive.sum(dim=1)
    each = -share.masked_fill(~positive, 0.0).sum(dim=1) / count.clamp_min(1)
    return each.sum() / (count > 0).sum().clamp_min(1)


@METHODS.register(
    "dae", summary="DAE: a clean patch from a noisy, coarse one with dropped channels; modalities attract"
)
class DisruptiveAutoencoder(Method[DaeOptions]):
    """The patch gets noise and loses resolution, the stem's output loses channels token by token; a decoder without
    skips rebuilds the clean patch (mean absolute error over all voxels), and pooled features of images of the same
    modality attract each other. Trivial: the median of each sample; equal features.
    """

    declaration = Declaration(
        title="DAE",
        intensity=("zscore",),
        modalities="independent",
        transferred="stem and encoder; decoder and head are discarded",
        deviations=(
            "contrastive positives are the images of the same modality (released: the class number used as a column), "
            "similarities divided by the temperature (released: multiplied by its exponential)",
            "each step's positives and negatives come from all processes; the loss is left out of steps in which no "
            "modality occurs twice, or all images are of one",
            "on any encoder: channels are dropped with a chance of 0.6 each, per 2^3 voxels of the first convolution's "
            "output",
            "a cell of the coarse image takes the value in its middle, so that nothing is displaced",
        ),
        views="the patch with noise of variance 0.1, coarsened by 4, 60 % of the stem's channels dropped per token",
        heads="decoder without skips; linear layer on pooled features, 512 wide",
        budget="300 epochs (1000 on combined data), AdamW 1e-4, patch 96^3",
        citation="Valanarasu et al. Disruptive Autoencoders: Leveraging Low-level features for 3D Medical Image "
        "Pre-training. MIDL 2024.",
        licence_note="written from the publication; the released code (MONAI research-contributions) is Apache-2.0",
    )
    Options = DaeOptions
    leaves_parameters_unused = True  # the head's, in steps without a pair of one modality

    @classmethod
    def check_settings(
        cls, options: DaeOptions, encoder: EncoderSpec, patch: Size, batch_size: int, world: int = 1
    ) -> None:
        super().check_settings(options, encoder, patch, batch_size, world)
        if options.weight_contrastive and batch_size * world < 3:
            raise InputError(
                "--batch-size",
                found=f"{batch_size * world} cases per step with the contrastive loss on",
                expected="at least 3: two of one modality and one of another",
                fix="Raise --batch-size, or use --weight-contrastive 0.",
            )
        site = encoder.strides[0]
        for name, edge in (("coarsening", options.coarsening), ("token", max(options.token, site))):
            if any(length % edge for length in patch) or (name == "token" and edge % site):
                raise InputError(
                    option(name),
                    found=f"{getattr(options, name)} in a patch of {' x '.join(map(str, patch))}",
                    expected=f"an edge that divides the patch's{f' and is a multiple of {site}' * (name == 'token')}",
                )

    def check(self, context: Context) -> None:
        super().check(context)
        if self.options.weight_contrastive and len(context.modalities) < 2:
            raise InputError(
                "pre-training data",
                found=f"one modality ({', '.join(context.modalities)})",
                expected="at least two, which the contrastive loss tells apart",
                fix="Add data of another modality, or use --weight-contrastive 0.",
            )

    def build(self, context: Context) -> None:
        spec, options = context.encoder, self.options
        edge = max(1, options.token // spec.strides[0])
        self.dropout = ChannelDropout(self.encoder.get_submodule(stem_name(self.encoder)), edge)
        self.tokens = math.prod(masking.grid_shape(context.patch, edge * spec.strides[0]))
        self.decoder = skip_free_decoder(spec)
        if options.weight_contrastive:
            width = options.features
            self.head = Projector(pooled_features(spec), width, width, layers=1, batch_norm=False)

    def sampling(self) -> SamplingSpec:
        return SamplingSpec(intensity=self.options.intensity)

    def losses(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, LossTerm]:
        options, target = self.options, batch.images[:, :1]
        maps = self.encode(self.corrupted(batch, generator), batch, generator)
        terms = {"reconstruction": LossTerm(masked_l1(self.decoder(maps), target), 1.0, constant_l1(target))}
        if options.weight_contrastive:
            labels = rows_of_all(batch.modality[:, 0])
            different = len(labels.unique())
            if 1 < different < len(labels):
                features = rows_of_all(self.head(pooled(maps)))
                value = supervised_contrastive(features, labels, options.temperature)
                terms["contrastive"] = LossTerm(value, options.weight_contrastive, math.log(len(labels) - 1))
        return terms

    def corrupted(self, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        """The patches (B, 1, z, y, x) with noise, coarsened."""
        images, factor = batch.images[:, :1], self.options.coarsening
        cells = coarse_shape(images.shape[2:], factor)
        noise = batch.shard.own(gaussian_noise((len(images) * batch.shard.world, 1, *cells), generator))
        return corrupt(images, math.sqrt(self.options.noise_variance) * noise.to(images.device), factor)

    def encode(self, images: torch.Tensor, batch: Batch, generator: torch.Generator) -> list[torch.Tensor]:
        """The encoder's maps, channels dropped behind its stem."""
        shape = (len(images) * batch.shard.world, self.dropout.channels, self.tokens)
        chance = batch.shard.own(torch.rand(shape, generator=generator))
        self.dropout.dropped = (chance < self.options.channel_dropout).to(images.device)
        try:
            return self.encoder(images)
        finally:
            self.dropout.dropped = None

    def pictures(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, dict[str, torch.Tensor]]:
        corrupted = self.corrupted(batch, generator)
        rebuilt = self.decoder(self.encode(corrupted, batch, generator))
        return {"views": {"target": batch.images[:, :1], "input": corrupted, "reconstruction": rebuilt}}
