"""Which patches a step sees. Everything follows from (seed, step, index in the batch), whoever reads it.

Cases first, then modalities, so that a case with six images weighs no more than one with two: the cases are gone
through in a new random order per pass; of the case at hand ``slots`` modalities are drawn, all read at one place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from mvp_bench.errors import InputError

Size = tuple[int, int, int]
Intensity = Literal["zscore", "unit"]


class CaseInfoLike(Protocol):
    """Facts on a preprocessed case that sampling needs (``mvp_bench.planning.store.CaseInfo`` has them)."""

    @property
    def patient(self) -> str: ...
    @property
    def present(self) -> tuple[str, ...]: ...
    @property
    def shape(self) -> Size: ...
    @property
    def affine(self) -> np.ndarray: ...


class StoreLike(Protocol):
    """Preprocessed cases that can be read by patch (``mvp_bench.planning.store.CaseStore`` can)."""

    @property
    def spacing(self) -> tuple[float, float, float]: ...
    @property
    def modalities(self) -> list[str]: ...
    @property
    def cases(self) -> list[str]: ...
    def info(self, case: str) -> CaseInfoLike: ...
    def read(self, case: str, channels: Sequence[int], start: Size, size: Size) -> np.ndarray: ...


@dataclass(frozen=True)
class PretrainSource:
    """One dataset to pre-train on."""

    dataset: str
    """DatasetNNN_Name."""
    store: StoreLike
    source: Literal["real", "phantom"]
    excluded: frozenset[str] = frozenset()
    """Patients that must not be seen (test patients of the tasks)."""
    licence: str = ""
    data_hash: str = ""
    """Of the preprocessed cases; part of the run's identity."""

    def included(self) -> list[str]:
        """Cases whose patient is not excluded and that have an image, in the store's order."""
        cases = []
        for case in self.store.cases:
            info = self.store.info(case)
            if info.patient not in self.excluded and info.present:
                cases.append(case)
        return cases


@dataclass(frozen=True)
class SamplingSpec:
    """How a method wants its patches drawn."""

    slots: int = 1
    """Images per case and draw."""
    minimum_content: float = 0.0
    """Redraw a window of which less than this part is brain (non-zero); 0: take the first."""
    attempts: int = 4
    """Draws of the window at most; the last is taken as it is."""
    intensity: Intensity = "zscore"
    """``zscore``: as stored, background 0. ``unit``: per image, percentiles of the brain to 0 and 1, clipped,
    background 0."""
    percentiles: tuple[float, float] = (5.0, 95.0)
    """For ``unit``."""


@dataclass
class Batch:
    """One step's patches: B samples, each with K images (slots) of one case at one place."""

    images: torch.Tensor
    """float32 (B, K, z, y, x)."""
    modality: torch.Tensor
    """int64 (B, K): index into the run's list of modalities. A case with fewer than K fills up by repetition."""
    centre_offset: torch.Tensor
    """float64 (B, 3): from the middle of the case's volume to the centre of the patch's first voxel, mm, (z, y, x)."""
    world: torch.Tensor
    """float64 (B, 3): RAS position of the centre of the patch's first voxel, mm, (z, y, x) = (S, A, R)."""
    spacing: torch.Tensor
    """float64 (B, 3): voxel edges, mm."""
    cases: list[str]
    """dataset/case of each sample, for messages."""

    def to(self, device: torch.device) -> Batch:
        """The batch with images and modalities on ``device``; positions stay on the CPU, where they are needed."""
        if device.type == "cpu":
            return self
        return replace(
            self,
            images=self.images.to(device, non_blocking=True),
            modality=self.modality.to(device, non_blocking=True),
        )

    def select(self, order: Sequence[int]) -> Batch:
        """The samples ``order``, in that order."""
        index = torch.as_tensor(list(order))
        tensors = {f.name: getattr(self, f.name)[index] for f in fields(self) if f.name != "cases"}
        return Batch(**tensors, cases=[self.cases[i] for i in order])


def draw_slots(present: int, slots: int, rng: np.random.Generator) -> np.ndarray:
    """``slots`` positions in a list of ``present`` modalities, in random order.

    Enough of them: without repetition. Too few: every one at least once, the rest drawn with replacement.
    """
    order = rng.permutation(present)
    if present >= slots:
        return order[:slots]
    return rng.permutation(np.concatenate([order, rng.integers(0, present, slots - present)]))


def draw_window(shape: Size, size: Size, rng: np.random.Generator) -> Size:
    """First voxel of a uniformly drawn window inside the volume; centred, with padding, where an axis is too short."""
    start = []
    for length, extent in zip(shape, size, strict=True):
        room = length - extent
        start.append(int(rng.integers(0, room + 1)) if room >= 0 else -((-room) // 2))
    return start[0], start[1], start[2]


class PatchSampler(Dataset[Batch]):
    """Item ``step`` is the batch of that step: a pure function of (seed, step), whichever process asks.

    What it holds of a case is its id, and two numbers per image where intensities are mapped to 0 to 1.

    Args:
        sources: datasets; their cases form one list, whatever the dataset.
        modalities: the run's modalities; defines ``Batch.modality``.
        patch: voxels (z, y, x).
        batch_size: cases per step of this process.
        spec: what the method wants.
        seed: of the whole run.
        steps: length.
        rank, world: this process among those that share a step; together they see ``world * batch_size`` cases.

    Raises:
        InputError: if no case is left.
    """

    def __init__(
        self,
        sources: Sequence[PretrainSource],
        modalities: Sequence[str],
        patch: Size,
        batch_size: int,
        spec: SamplingSpec,
        seed: int,
        steps: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.sources, self.patch, self.batch_size, self.spec = list(sources), patch, batch_size, spec
        self.seed, self.steps, self.rank, self.world = seed, steps, rank, world
        self._number = {modality: i for i, modality in enumerate(modalities)}
        self._cases = [source.included() for source in self.sources]
        self._ends = np.cumsum([len(cases) for cases in self._cases])
        if not len(self._ends) or self._ends[-1] == 0:
            raise InputError(
                "pre-training data", found="no case", expected="at least one", fix="Prepare and plan a dataset first."
            )
        self._pass: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))
        self._ranges: dict[tuple[int, str, int], tuple[float, float]] = {}

    def __len__(self) -> int:
        return self.steps

    @property
    def n_cases(self) -> int:
        """Cases in a pass."""
        return int(self._ends[-1])

    def __getitem__(self, step: int) -> Batch:
        first = (step * self.world + self.rank) * self.batch_size
        return collate([self.sample(first + i) for i in range(self.batch_size)])

    def case_at(self, position: int) -> tuple[int, str]:
        """Source number and case id at a position of the endless sequence of passes."""
        number, place = divmod(position, self.n_cases)
        if self._pass[0] != number:
            self._pass = (number, np.random.default_rng([self.seed, 0, number]).permutation(self.n_cases))
        index = int(self._pass[1][place])
        source = int(np.searchsorted(self._ends, index, side="right"))
        return source, self._cases[source][index - (int(self._ends[source - 1]) if source else 0)]

    def sample(self, position: int) -> Batch:
        """The sample at a position of the sequence, as a batch of one."""
        number, case = self.case_at(position)
        source = self.sources[number]
        info = source.store.info(case)
        rng = np.random.default_rng([self.seed, 1, position])
        names = [info.present[i] for i in draw_slots(len(info.present), self.spec.slots, rng)]
        order = source.store.modalities
        channels = [order.index(name) for name in names]
        for attempt in range(self.spec.attempts):
            start = draw_window(info.shape, self.patch, rng)
            last = self.spec.minimum_content <= 0 or attempt == self.spec.attempts - 1
            patch = source.store.read(case, channels, start, self.patch)
            if last or np.count_nonzero(patch[0]) >= self.spec.minimum_content * patch[0].size:
                break
        if self.spec.intensity == "unit":
            for image, channel in zip(patch, channels, strict=True):
                to_unit(image, *self._range(number, case, channel))
        spacing = np.asarray(source.store.spacing, dtype=np.float64)
        affine = np.asarray(info.affine, dtype=np.float64)
        origin, steps = affine[:3, 3][::-1], np.diag(affine)[:3][::-1]
        first = np.asarray(start, dtype=np.float64)
        return Batch(
            images=torch.from_numpy(patch)[None],
            modality=torch.tensor([[self._number[name] for name in names]]),
            centre_offset=torch.from_numpy((first - np.asarray(info.shape) / 2 + 0.5) * spacing)[None],
            world=torch.from_numpy(origin + first * steps)[None],
            spacing=torch.from_numpy(spacing)[None],
            cases=[f"{source.dataset}/{case}"],
        )

    def _range(self, number: int, case: str, channel: int) -> tuple[float, float]:
        """Percentiles of an image's brain voxels; two numbers per image are remembered."""
        key = (number, case, channel)
        if key not in self._ranges:
            store = self.sources[number].store
            volume = store.read(case, [channel], (0, 0, 0), store.info(case).shape)
            brain = volume[volume != 0]
            low, high = np.percentile(brain, self.spec.percentiles) if brain.size else (0.0, 1.0)
            self._ranges[key] = (float(low), float(high))
        return self._ranges[key]


def to_unit(image: np.ndarray, low: float, high: float) -> None:
    """Map ``low``..``high`` to 0..1 in place, clipped; zeros (background) stay 0."""
    background = image == 0
    np.clip((image - low) / max(high - low, np.finfo(np.float32).eps), 0.0, 1.0, out=image)
    image[background] = 0.0


def collate(samples: Sequence[Batch]) -> Batch:
    """Batches of one, stacked."""
    tensors = {f.name: torch.cat([getattr(s, f.name) for s in samples]) for f in fields(Batch) if f.name != "cases"}
    return Batch(**tensors, cases=[case for s in samples for case in s.cases])


def loader(sampler: PatchSampler, first_step: int, workers: int) -> DataLoader[Batch]:
    """Batches of the steps from ``first_step`` on, in order; ``workers`` processes read ahead (0: none)."""
    return DataLoader(
        sampler,
        batch_size=None,
        sampler=range(first_step, sampler.steps),
        num_workers=workers,
        generator=torch.Generator().manual_seed(0),  # else the loader draws from the global random state
        collate_fn=_as_it_is,
        persistent_workers=False,
    )


def _as_it_is(batch: Batch) -> Batch:
    return batch
