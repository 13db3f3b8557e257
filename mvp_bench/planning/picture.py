"""A picture of the evaluated regions over the images: a wrong label convention is seen before anything trains."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mvp_bench.io import atomic_path
from mvp_bench.planning.store import CaseStore

CANDIDATES, SHOWN = 12, 3
"""Cases looked at (evenly spaced by name), and those drawn: the ones with the largest outermost region."""
_INCHES, _DPI = 2.2, 110
_COLOUR = "#E69F00"


def draw_regions(path: Path, store: CaseStore, regions: dict[str, list[int]], labels: dict[str, int]) -> None:
    """Write a PNG: one row per case, the bare image first, then one column per region in its own fullest slice.

    The modality drawn is the case's last one that it has (FLAIR in most datasets). Axial slices, seen from the feet as
    radiologists do: the patient's left is on the right.

    Args:
        regions: region -> label values.
        labels: label name -> value, for the headings.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, and used here only
    from matplotlib.figure import Figure

    outermost = next(iter(regions.values()))
    chosen = _largest(store, outermost)
    names = {value: name for name, value in labels.items()}
    figure = Figure((_INCHES * (1 + len(regions)), _INCHES * len(chosen) + 0.4), dpi=_DPI, layout="constrained")
    axes = figure.subplots(len(chosen), 1 + len(regions), squeeze=False)
    for row, case in zip(axes, chosen, strict=True):
        info = store.info(case)
        modality = info.present[-1]
        image = store.read(case, [store.modalities.index(modality)], (0, 0, 0), info.shape)[0]
        seg = store.read_seg(case, (0, 0, 0), info.shape)
        low, high = np.percentile(image[image != 0], (1, 99)) if image.any() else (0, 1)
        for column, (axis, region) in enumerate(zip(row, [outermost, *regions.values()], strict=True)):
            mask = np.isin(seg, region)
            height = int(np.argmax(mask.sum((1, 2)))) if mask.any() else info.shape[0] // 2
            background_left_out = np.ma.masked_equal(image[height, ::-1, ::-1], 0)
            axis.imshow(background_left_out, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
            if column and mask[height].any():
                axis.contour(mask[height, ::-1, ::-1], levels=[0.5], colors=_COLOUR, linewidths=1)
            axis.set(xticks=[], yticks=[], facecolor="black")
        row[0].set_ylabel(f"{case}\n{modality}", fontsize=6)
    for axis, (title, values) in zip(axes[0][1:], regions.items(), strict=True):
        axis.set_title(f"{title}\n{' + '.join(f'{names[v]} ({v})' for v in values)}", fontsize=7)
    with atomic_path(path) as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary), metadata={"Software": None})


def _largest(store: CaseStore, values: list[int]) -> list[str]:
    cases = store.cases
    spread = [cases[i] for i in np.unique(np.linspace(0, len(cases) - 1, min(CANDIDATES, len(cases))).astype(int))]
    volumes = {case: np.isin(store.read_seg(case, (0, 0, 0), store.info(case).shape), values).sum() for case in spread}
    return sorted(sorted(spread, key=lambda case: (-volumes[case], case))[:SHOWN])
