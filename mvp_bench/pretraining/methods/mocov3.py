"""MoCo v3: momentum contrast (Chen, Xie, He, ICCV 2021) between two views of a patch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from mvp_bench.config.ranges import CountOrNone, Factor, Gamma, Grid, PartialShare, Positive, Share, Shares, Width
from mvp_bench.errors import InputError
from mvp_bench.models.encoders.base import EncoderSpec
from mvp_bench.pretraining.distributed import rows_of_all
from mvp_bench.pretraining.method import Context, Declaration, LossTerm, Method
from mvp_bench.pretraining.parts.contrastive import case_numbers, cosines, normalised
from mvp_bench.pretraining.parts.heads import Projector, pooled, pooled_features
from mvp_bench.pretraining.parts.momentum import Teacher, cosine_momentum
from mvp_bench.pretraining.sampling import Batch, Intensity, SamplingSpec
from mvp_bench.pretraining.source import Size
from mvp_bench.pretraining.views.intensity import gaussian_noise
from mvp_bench.pretraining.views.looks import draw_looks, show
from mvp_bench.registry import METHODS

NOBODY = 0
"""Case number of the queue's places that are still empty."""


@dataclass(frozen=True)
class MocoOptions:
    """MoCo v3's own fields."""

    crop_volume: Shares = (0.2, 1.0)
    """Least and largest share of the patch's volume that a view shows, resized to the whole patch."""
    flip: Share = 0.5
    """Probability of mirroring. Per axis of a view."""
    blur: Factor = 1.0
    """Largest standard deviation of the blur, voxels."""
    gamma: Gamma = 1.5
    """Largest exponent of the change of contrast; the least is one over it."""
    gain: PartialShare = 0.2
    """Largest relative change of intensities: they are multiplied by 1 +- this at most."""
    offset: Factor = 0.2
    """Largest number added to intensities, in their units."""
    noise: Factor = 0.2
    """Largest standard deviation of the noise. In units of intensity."""
    temperature: Positive = 0.2
    """Temperature of the contrastive loss, by which similarities are divided."""
    branch_momentum: Share = 0.99
    """Share of the momentum branch that is kept at a step. At the first one; it rises to 1 along half a cosine."""
    hidden: Width = 1024
    """Width of the hidden layers of the heads."""
    features: Width = 256
    """Width of the embedding."""
    queue: CountOrNone = 1024
    """Keys of earlier steps that serve as further negatives. 0: none, as published (for batches of 4096)."""
    pooling_grid: Grid = 1
    """Boxes per axis over which the deepest features are averaged. 1: the whole map."""
    cross_modal: bool = False
    """Pairs of views across the modalities of a case. Where there are two; else of one."""
    intensity: Intensity = "zscore"
    """Intensities fed in. zscore: z-scores as preprocessed; unit: percentiles 5 to 95 of the brain mapped to 0 to 1."""

    @classmethod
    def presets(cls) -> dict[str, MocoOptions]:
        """``mini`` and ``smoke``: for narrow encoders and few steps. ``paper``: numbers for ResNet-50, no queue."""
        small = cls(hidden=128, features=64, queue=128)
        paper = cls(hidden=4096, temperature=1.0, queue=0)
        return {"mini": small, "smoke": small, "paper": paper}


def not_compared(own: torch.Tensor, everyone: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
    """Which keys a query is not compared with: bool (B, N).

    Those of its own case but its positive, unless there are no others, and the queue's empty places.

    Args:
        own: (B,) case numbers of the queries.
        everyone: (N,) those of the keys; ``NOBODY`` for an empty place.
        positives: (B,) the key that each query belongs to.
    """
    empty = everyone == NOBODY
    same = own[:, None] == everyone
    alone = (same | empty).all(dim=1, keepdim=True)
    return ((same & ~alone) | empty).scatter(1, positives[:, None], False)


def contrast(
    queries: torch.Tensor, keys: torch.Tensor, positives: torch.Tensor, left_out: torch.Tensor, temperature: float
) -> torch.Tensor:
    """ctr = 2 t CE(cos(q, k) / t, positives), the mean over the queries.

    Args:
        queries, keys: (B, D), (N, D).
        positives: (B,) the key that each query belongs to.
        left_out: bool (B, N), see :func:`not_compared`.
        temperature: t.
    """
    similarity = (cosines(queries, keys) / temperature).masked_fill(left_out, -torch.inf)
    return 2 * temperature * functional.cross_entropy(similarity, positives)


def equal_features(left_out: torch.Tensor, temperature: float) -> torch.Tensor:
    """:func:`contrast` where all features are equal: 2 t ln N, N the number of keys that a query is compared with."""
    return 2 * temperature * (~left_out).sum(dim=1).float().log().mean()


@METHODS.register("mocov3", summary="MoCo v3: two views of a patch agree, against a momentum encoder's other keys")
class MomentumContrast(Method[MocoOptions]):
    """Queries q = predictor(projector(encoder(view))), keys k = the same of the other view without the predictor, by a
    momentum encoder and projector; loss ctr(q1, k2) + ctr(q2, k1), see :func:`contrast`. Keys of all processes, and of
    earlier steps (``queue``), are the negatives; other keys of the same case are not among them.
    """

    declaration = Declaration(
        title="MoCo v3",
        intensity=("zscore", "unit"),
        modalities="independent",
        transferred="stem and encoder; projector, predictor and momentum branch are discarded",
        deviations=(
            "a queue of 1024 keys of earlier steps, since batches of volumes are small (option: none, as published)",
            "keys of the query's own case are no negatives, unless there are no others",
            "three-dimensional views: crops in all axes; blur, contrast, brightness and noise instead of colour",
            "projector and predictor are 1024 wide (published: 4096), their batch norms see both views together",
            "AdamW with the shared schedule instead of LARS; temperature 0.2, as for transformers (ResNet: 1)",
            "option: the two views are two modalities of a case",
        ),
        views="two random crops (20 to 100 % of the patch, resized to it), mirrored, blurred, with changed contrast, "
        "brightness and noise",
        heads="projector and predictor of 2 layers with batch norm; momentum branch of encoder and projector",
        budget="100 to 1000 epochs of ImageNet, batch 4096 (images)",
        citation="Chen, Xie, He. An Empirical Study of Training Self-Supervised Vision Transformers. ICCV 2021.",
        licence_note="written from the publication; the released code is CC BY-NC 4.0",
    )
    Options = MocoOptions
    queue: torch.Tensor
    queue_cases: torch.Tensor

    @classmethod
    def check_settings(
        cls, options: MocoOptions, encoder: EncoderSpec, patch: Size, batch_size: int, world: int = 1
    ) -> None:
        super().check_settings(options, encoder, patch, batch_size, world)
        if batch_size * world < 2:
            raise InputError(
                "--batch-size",
                found=batch_size,
                expected="at least 2 cases per step for MoCo v3: one has no negatives",
            )

    def check(self, context: Context) -> None:
        super().check(context)
        if self.options.cross_modal and context.most_modalities < 2:
            raise InputError(
                "pre-training data",
                found="one modality in every case",
                expected="a case with two modalities, for views from different ones",
                fix="Add multi-modal data, or leave out --cross-modal.",
            )

    def build(self, context: Context) -> None:
        options = self.options
        width = pooled_features(context.encoder, grid=options.pooling_grid)
        self.projector = Projector(width, options.hidden, options.features)
        self.predictor = nn.Sequential(
            nn.Linear(options.features, options.hidden, bias=False),
            nn.BatchNorm1d(options.hidden),
            nn.ReLU(inplace=True),
            nn.Linear(options.hidden, options.features),
        )
        self.teacher_encoder, self.teacher_projector = Teacher(self.encoder), Teacher(self.projector)
        self.register_buffer("queue", torch.zeros(options.queue, options.features))
        self.register_buffer("queue_cases", torch.full((options.queue,), NOBODY))
        self._arrived: list[tuple[torch.Tensor, torch.Tensor]] = []

    def sampling(self) -> SamplingSpec:
        return SamplingSpec(slots=2 if self.options.cross_modal else 1, intensity=self.options.intensity)

    def losses(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, LossTerm]:
        views = torch.cat(self.views(batch, generator))
        queries = self.predict(self.projector(self._pooled(self.encoder(views))))
        keys = self.teacher_projector(self._pooled(self.teacher_encoder(views)))
        first, second = (rows_of_all(normalised(part)) for part in keys.chunk(2))
        own = case_numbers(batch.cases, views.device)
        cases = rows_of_all(own)
        if self.options.queue and self.training:
            self._arrived.append((torch.cat([first, second]), cases.repeat(2)))
        positives = torch.arange(len(own), device=own.device) + batch.shard.rank * len(own)
        left_out = not_compared(own, torch.cat([cases, self.queue_cases]), positives)
        options = self.options
        value = sum(
            contrast(part, torch.cat([others, self.queue]), positives, left_out, options.temperature)
            for part, others in zip(queries.chunk(2), (second, first), strict=True)
        )
        return {"contrast": LossTerm(value, 1.0, 2 * equal_features(left_out, options.temperature))}

    def predict(self, projected: torch.Tensor) -> torch.Tensor:
        """The queries, in float32."""
        with torch.autocast(projected.device.type, enabled=False):
            return self.predictor(projected.float())

    def _pooled(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        return pooled(maps, grid=self.options.pooling_grid)

    def views(self, batch: Batch, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Two views (B, 1, z, y, x) of each sample: of its first and of its last slot."""
        images, shard = batch.images, batch.shard
        patch = (images.shape[2], images.shape[3], images.shape[4])
        looks = draw_looks(2 * len(images) * shard.world, patch, self.options, generator)
        noise = gaussian_noise((1, 1, *patch), generator).to(images.device)
        first, second = (part.own(shard) for part in looks.chunk(2))
        return show(images[:, :1], first, noise), show(images[:, -1:], second, noise)

    def after_step(self, step: int) -> None:
        """Move the momentum branch, and the step's keys into the queue (the oldest fall out)."""
        momentum = cosine_momentum(step, max(self.context.steps - 1, 1), self.options.branch_momentum)
        self.teacher_encoder.update(self.encoder, momentum)
        self.teacher_projector.update(self.projector, momentum)
        if self._arrived:
            keys, cases = (torch.cat(parts) for parts in zip(*reversed(self._arrived), strict=True))
            self.queue.copy_(torch.cat([keys, self.queue])[: self.options.queue])
            self.queue_cases.copy_(torch.cat([cases, self.queue_cases])[: self.options.queue])
            self._arrived.clear()

    def pictures(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, dict[str, torch.Tensor]]:
        first, second = self.views(batch, generator)
        return {"views": {"patch": batch.images[:, :1], "view 1": first, "view 2": second}}
