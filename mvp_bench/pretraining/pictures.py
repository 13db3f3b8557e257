"""Pictures during training: middle slices of what a method shows, drawn in a thread beside the training."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np
import torch

from mvp_bench.io import atomic_path

PICTURES = "pictures"
MOST_ROWS = 4
"""Samples drawn at most."""
CELL_INCHES = 1.6
CELL_DPI = 90

Slices = dict[str, np.ndarray]


class PictureBook:
    """Writes ``<name>_<step>.png`` into a folder, one drawing at a time, without holding up the training.

    Args:
        folder: made with the first picture.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pictures")
        self._drawing: list[Future[None]] = []

    def add(self, step: int, shown: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """Have pictures drawn.

        Args:
            step: for the file names.
            shown: name of the picture -> title of a column -> volumes (N, z, y, x) or (N, 1, z, y, x), one a row.

        Raises:
            OSError: of an earlier drawing that could not be written.
        """
        for future in self._drawing:
            future.result()
        self._drawing = [
            self._thread.submit(
                draw, self.folder / f"{name}_{step:08d}.png", {t: middle(v) for t, v in columns.items()}
            )
            for name, columns in shown.items()
        ]

    def __enter__(self) -> PictureBook:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True)
        if error is None:
            for future in self._drawing:
                future.result()


def middle(volumes: torch.Tensor) -> np.ndarray:
    """Middle axial slices, (N, y, x), of the first volumes; only they leave the device."""
    volumes = volumes.detach().flatten(0, -4)[:MOST_ROWS]
    return volumes[:, volumes.shape[1] // 2].float().cpu().numpy().copy()


def draw(path: Path, columns: Slices) -> None:
    """Write a grid of slices, one column per title; a row has one grey scale, that of its first column."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = max(len(slices) for slices in columns.values())
    figure = Figure((CELL_INCHES * len(columns), CELL_INCHES * (rows + 0.2)), dpi=CELL_DPI, layout="constrained")
    axes = figure.subplots(rows, len(columns), squeeze=False)
    first = next(iter(columns.values()))
    for column, (title, slices) in enumerate(columns.items()):
        axes[0, column].set_title(title, fontsize=7)
        for row in range(rows):
            axes[row, column].set_axis_off()
            if row < len(slices):
                scale = first[row] if first.shape == slices.shape else slices[row]
                low, high = float(scale.min()), float(scale.max())
                axes[row, column].imshow(slices[row], cmap="gray", origin="lower", vmin=low, vmax=max(high, low + 1e-6))
    FigureCanvasAgg(figure)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, metadata={"Software": None})
