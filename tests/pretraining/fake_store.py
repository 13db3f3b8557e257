"""A store of preprocessed cases in memory, with smooth brain-like volumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

Size = tuple[int, int, int]


@dataclass(frozen=True)
class FakeInfo:
    case: str
    patient: str
    present: tuple[str, ...]
    shape: Size
    affine: np.ndarray
    class_name: str | None = None
    middle: np.ndarray | None = None
    ranges: np.ndarray | None = None


class FakeStore:
    """Same interface as ``mvp_bench.planning.store.CaseStore``."""

    def __init__(
        self,
        volumes: dict[str, np.ndarray],
        modalities: Sequence[str],
        spacing: tuple[float, float, float] = (2.0, 2.0, 2.0),
        present: dict[str, tuple[str, ...]] | None = None,
        origins: dict[str, tuple[float, float, float]] | None = None,
        middles: dict[str, tuple[float, float, float]] | None = None,
    ) -> None:
        self.volumes, self.modalities, self.spacing = volumes, list(modalities), spacing
        self._present, self._origins, self._middles = present or {}, origins or {}, middles

    @property
    def cases(self) -> list[str]:
        return sorted(self.volumes)

    def info(self, case: str) -> FakeInfo:
        affine = np.diag([*self.spacing[::-1], 1.0])
        affine[:3, 3] = self._origins.get(case, (0.0, 0.0, 0.0))
        shape = self.volumes[case].shape[1:]
        present = self._present.get(case, tuple(self.modalities))
        middle = affine[:3, :3] @ ((np.array(shape[::-1]) - 1) / 2) + affine[:3, 3]
        if self._middles is not None:  # of cropped cases; else stored whole
            middle = np.array(self._middles[case], dtype=np.float64) if case in self._middles else None
        return FakeInfo(case, f"patient-{case}", present, (shape[0], shape[1], shape[2]), affine, middle=middle)

    def forget(self) -> None:
        """Nothing to free."""

    def read(self, case: str, channels: Sequence[int], start: Size, size: Size) -> np.ndarray:
        volume = self.volumes[case]
        window = np.zeros((len(channels), *size), np.float32)
        inside = [slice(max(s, 0), min(s + n, e)) for s, n, e in zip(start, size, volume.shape[1:], strict=True)]
        if any(i.start >= i.stop for i in inside):
            return window
        to = tuple(slice(i.start - s, i.stop - s) for i, s in zip(inside, start, strict=True))
        window[(slice(None), *to)] = volume[(list(channels), *inside)]
        return window


def brains(
    cases: int, modalities: Sequence[str], shape: Size = (24, 28, 24), seed: int = 0, variation: float = 0.3
) -> FakeStore:
    """Cases that share an anatomy (a smooth field inside an ellipsoid) and differ by ``variation`` of it.

    Modalities are different functions of the same field; z-scored inside the ellipsoid, 0 outside.
    """
    rng = np.random.default_rng([seed, 7])
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    brain = sum(a**2 for a in axes) < 1
    anatomy = gaussian_filter(rng.standard_normal(shape), 2.0)
    anatomy /= anatomy.std()
    volumes = {}
    for number in range(cases):
        own = gaussian_filter(rng.standard_normal(shape), 2.0)
        field = anatomy + variation * own / own.std()
        channels = []
        for index in range(len(modalities)):
            image = np.sin((1 + 0.4 * index) * field + index)
            image = np.where(brain, (image - image[brain].mean()) / image[brain].std(), 0.0)
            channels.append(image.astype(np.float32))
        volumes[f"case{number:02d}"] = np.stack(channels)
    return FakeStore(volumes, modalities)
