"""Which patches a step sees. Everything follows from (seed, step, index in the batch), whoever reads it.

Cases first, then modalities, so that a case with six images weighs no more than one with two: the cases are gone
through in a new random order per pass; of the case at hand ``slots`` modalities are drawn, all read at one place.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from mvp_bench.errors import InputError
from mvp_bench.parallel import worker_died
from mvp_bench.planning.store import RANGE_PERCENTILES
from mvp_bench.pretraining.case_table import CaseRow, CaseTable
from mvp_bench.pretraining.source import PretrainSource, Size

Intensity = Literal["zscore", "unit"]


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
    percentiles: tuple[float, float] = RANGE_PERCENTILES
    """Percentiles for ``unit``: those that preprocessing stored, unless a store knows none."""
    centre: Literal["brain", "volume"] = "brain"
    """What ``Batch.centre_offset`` is relative to: the middle of the stored volume, which is cropped to the brain, or
    that of the image before it was cropped."""


@dataclass(frozen=True)
class Shard:
    """Which of the equal parts of a step's samples a batch is; part r is trained on by process r."""

    rank: int = 0
    world: int = 1

    def own(self, drawn: torch.Tensor) -> torch.Tensor:
        """This part's rows of what was drawn for the samples of all parts (dimension 0)."""
        size = len(drawn) // self.world
        return drawn[self.rank * size : (self.rank + 1) * size]


@dataclass
class Batch:
    """One step's patches: B samples, each with K images (slots) of one case at one place."""

    images: torch.Tensor
    """float32 (B, K, z, y, x)."""
    modality: torch.Tensor
    """int64 (B, K): index into the run's list of modalities. A case with fewer than K fills up by repetition."""
    centre_offset: torch.Tensor
    """float64 (B, 3): from the case's middle (``SamplingSpec.centre``) to the centre of the patch's first voxel, mm,
    (z, y, x)."""
    world: torch.Tensor
    """float64 (B, 3): RAS position of the centre of the patch's first voxel, mm, (z, y, x) = (S, A, R)."""
    spacing: torch.Tensor
    """float64 (B, 3): voxel edges, mm."""
    cases: list[str]
    """dataset/case of each sample, for messages."""
    shard: Shard = Shard()
    """Which part of the step's samples these are."""

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
        tensors = {name: getattr(self, name)[index] for name in TENSORS}
        return replace(self, **tensors, cases=[self.cases[i] for i in order])

    def pin_memory(self) -> Batch:
        """The batch with images and modalities in page-locked memory, from which a GPU copies in the background."""
        return replace(self, images=self.images.pin_memory(), modality=self.modality.pin_memory())


TENSORS = tuple(f.name for f in fields(Batch) if f.name not in ("cases", "shard"))
"""The fields of a batch with one row per sample."""


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
    """Item ``i`` is the i-th batch: a pure function of (seed, i), whichever process asks.

    A worker holds no list of cases: their facts lie in ``table``, which can be in memory-mapped files, and the order of
    the pass at hand takes four bytes a case.

    Args:
        sources: datasets; their cases form one list, whatever the dataset.
        modalities: the run's modalities; defines ``Batch.modality``.
        patch: voxels (z, y, x).
        batch_size: cases per batch of this process.
        spec: what the method wants.
        seed: of the whole run.
        steps: length, in batches.
        rank, world: this process among those that share a step; together they see ``world * batch_size`` cases.
        table: of the sources' cases, where it has been made already.

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
        table: CaseTable | None = None,
    ) -> None:
        self.patch, self.batch_size, self.spec = patch, batch_size, spec
        self.seed, self.steps, self.rank, self.world = seed, steps, rank, world
        self.table = CaseTable.of(sources) if table is None else table
        self._stores = [source.store for source in sources]
        self._datasets = [source.dataset for source in sources]
        self._spacings = [np.asarray(source.store.spacing, dtype=np.float64) for source in sources]
        number = {modality: i for i, modality in enumerate(modalities)}
        self._numbers = [[number.get(name, -1) for name in source.store.modalities] for source in sources]
        if not len(self.table):
            raise InputError(
                "pre-training data", found="no case", expected="at least one", fix="Prepare and plan a dataset first."
            )
        self._pass: tuple[int, np.ndarray] = (-1, np.empty(0, np.int32))

    def __len__(self) -> int:
        return self.steps

    @property
    def n_cases(self) -> int:
        """Cases in a pass."""
        return len(self.table)

    def __getitem__(self, step: int) -> Batch:
        first = (step * self.world + self.rank) * self.batch_size
        batch = collate([self.sample(first + i) for i in range(self.batch_size)])
        return replace(batch, shard=Shard(self.rank, self.world))

    def case_at(self, position: int) -> int:
        """Row of the table at a position of the endless sequence of passes: the same in every process."""
        number, place = divmod(position, self.n_cases)
        if self._pass[0] != number:
            order = np.random.default_rng([self.seed, 0, number]).permutation(self.n_cases)
            self._pass = (number, order.astype(np.int32))
        return int(self._pass[1][place])

    def sample(self, position: int) -> Batch:
        """The sample at a position of the sequence, as a batch of one.

        Raises:
            InputError: if the case's file is damaged.
        """
        index = self.case_at(position)
        case = self.table.row(index)
        name = f"{self._datasets[case.source]}/{case.name}"
        rng = np.random.default_rng([self.seed, 1, position])
        channels = [case.channels[i] for i in draw_slots(len(case.channels), self.spec.slots, rng)]
        for attempt in range(self.spec.attempts):
            start = draw_window(case.shape, self.patch, rng)
            last = self.spec.minimum_content <= 0 or attempt == self.spec.attempts - 1
            patch = self._read(case, name, channels, start, self.patch)
            if last or np.count_nonzero(patch[0]) >= self.spec.minimum_content * patch[0].size:
                break
        if self.spec.intensity == "unit":
            for image, channel in zip(patch, channels, strict=True):
                to_unit(image, *self._range(index, case, name, channel))
        spacing = self._spacings[case.source]
        first = np.asarray(start, dtype=np.float64)
        world = case.origin + first * case.steps
        from_brain = (first - np.asarray(case.shape) / 2 + 0.5) * spacing
        from_middle = from_brain if self.spec.centre == "brain" else world - case.middle
        return Batch(
            images=torch.from_numpy(patch)[None],
            modality=torch.tensor([[self._numbers[case.source][channel] for channel in channels]]),
            centre_offset=torch.from_numpy(from_middle)[None],
            world=torch.from_numpy(world)[None],
            spacing=torch.from_numpy(spacing)[None],
            cases=[name],
        )

    def _read(self, case: CaseRow, name: str, channels: Sequence[int], start: Size, size: Size) -> np.ndarray:
        try:
            return self._stores[case.source].read(case.name, channels, start, size)
        except (OSError, RuntimeError, ValueError) as error:  # what blosc2 raises on absent and damaged files
            raise InputError(
                name,
                found=f"its preprocessed images cannot be read ({type(error).__name__}: {error})",
                expected="a whole file, as mvp_plan wrote it",
                fix="Delete the dataset's folder of preprocessed cases and start the same command again.",
            ) from error

    def _range(self, index: int, case: CaseRow, name: str, channel: int) -> tuple[float, float]:
        """Percentiles of an image's brain voxels, measured once by whoever needs them first."""
        known = self.table.ranges[index, channel]
        if np.isnan(known).any():
            volume = self._read(case, name, [channel], (0, 0, 0), case.shape)
            brain = volume[volume != 0]
            known[:] = np.percentile(brain, self.spec.percentiles) if brain.size else (0.0, 1.0)
        return float(known[0]), float(known[1])


def to_unit(image: np.ndarray, low: float, high: float) -> None:
    """Map ``low``..``high`` to 0..1 in place, clipped; zeros (background) stay 0."""
    content = image != 0
    np.subtract(image, low, out=image)
    np.multiply(image, 1.0 / max(high - low, np.finfo(np.float32).eps), out=image)
    np.clip(image, 0.0, 1.0, out=image)
    np.multiply(image, content, out=image)


def collate(samples: Sequence[Batch]) -> Batch:
    """Batches of one, stacked."""
    tensors = {name: torch.cat([getattr(s, name) for s in samples]) for name in TENSORS}
    return Batch(**tensors, cases=[case for s in samples for case in s.cases])


@dataclass
class _Fault:
    """An error on its way out of a worker process, whose exceptions torch would rebuild from their text alone."""

    error: InputError


class _Guarded(Dataset["Batch | _Fault"]):
    """A sampler whose bad input comes out as an item."""

    def __init__(self, sampler: PatchSampler) -> None:
        self.sampler = sampler

    def __getitem__(self, step: int) -> Batch | _Fault:
        try:
            return self.sampler[step]
        except InputError as error:
            return _Fault(error)


def batches(sampler: PatchSampler, first: int, workers: int, pin: bool = False) -> Generator[Batch, None, None]:
    """The batches from number ``first`` on, in order.

    Args:
        workers: processes that read ahead; 0: none.
        pin: put images into page-locked memory (for GPUs).

    Raises:
        InputError: naming the case whose file is damaged, or if a worker died.
    """
    loader = DataLoader(
        _Guarded(sampler),
        batch_size=None,
        sampler=range(first, sampler.steps),
        num_workers=workers,
        pin_memory=pin,
        generator=torch.Generator().manual_seed(0),  # else the loader draws from the global random state
        collate_fn=_as_it_is,
        persistent_workers=False,
    )
    try:
        for item in loader:
            if isinstance(item, _Fault):
                raise item.error
            yield item
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        if "shared memory" in str(error):  # torch's own guess at the cause of a bus error
            raise InputError(
                "/dev/shm",
                found="too little shared memory for the processes that read patches",
                expected="room for a few batches per worker",
                fix="Give the container more (docker run --shm-size=8g), or use --loaders 0.",
            ) from error
        raise worker_died("reading patches") from error


def _as_it_is(item: Any) -> Any:
    return item
