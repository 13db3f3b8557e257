"""Tiny releases laid out like the real ones: 8 x 9 x 10 voxels, written on the fly."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np

from mvp_bench.datasets.catalog import find_card, load_cards
from mvp_bench.datasets.geometry.derive import Derived, write_derived
from mvp_bench.datasets.reading.conversion import Conversion
from mvp_bench.datasets.schema import Card
from mvp_bench.registry import CONVERTERS

SHAPE = (8, 9, 10)
SRI24 = np.array([[-1.0, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])


def image(path: Path, affine: np.ndarray = SRI24, shape: tuple[int, ...] = SHAPE, fill: float | None = None) -> Path:
    """An image whose content depends on its path alone, so that no two are equal."""
    generator = np.random.default_rng(list(str(path).encode()))
    data = generator.uniform(1, 100, shape).astype(np.float32)
    data[0] = 0
    return save(path, np.full(shape, fill, np.float32) if fill is not None else data, affine)


def mask(path: Path, values: Iterable[float] = (1, 2, 3), affine: np.ndarray = SRI24, dtype: Any = np.uint8) -> Path:
    """A mask with four voxels of each value."""
    data = np.zeros(SHAPE, dtype)
    for index, value in enumerate(values):
        data[2 + index, 2:4, 2:4] = value
    return save(path, data, affine)


def save(path: Path, data: np.ndarray, affine: np.ndarray = SRI24) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def truncate(path: Path, keep: float = 0.6) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    return path


def table(path: Path, *rows: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n", encoding=encoding)
    return path


def brats_case(
    folder: Path,
    case: str,
    contrasts: str = "-t1n -t1c -t2w -t2f",
    seg: str | None = "-seg",
    values: Iterable[float] = (1, 2, 3),
    ending: str = ".nii.gz",
) -> Path:
    """One case folder of the BraTS family."""
    for contrast in contrasts.split():
        image(folder / case / f"{case}{contrast}{ending}")
    if seg:
        mask(folder / case / f"{case}{seg}{ending}", values)
    return folder / case


def brats_release(root: Path, cohort: str = "PED", cases: int = 6, **options: Any) -> Path:
    """The training folder of a BraTS 2023 cohort."""
    top = root / f"ASNR-MICCAI-BraTS2023-{cohort}-Challenge-TrainingData"
    for number in range(cases):
        brats_case(top, f"BraTS-{cohort}-{number:05d}-000", **options)
    return top


def shipped(id_or_name: int | str, **changes: Any) -> Card:
    """A shipped card, with fields replaced."""
    card = find_card(load_cards(None), id_or_name)
    return Card.model_validate({**card.model_dump(), **changes}) if changes else card


def with_options(card: Card, **options: Any) -> Card:
    return Card.model_validate({**card.model_dump(), "converter_options": {**card.converter_options, **options}})


def convert(card: Card, source: Path, output: Path | None = None) -> Conversion:
    return CONVERTERS[card.converter](source, card, output or source.parent / "output")


def reasons(conversion: Conversion) -> dict[str, str]:
    return {item.what: item.reason for item in conversion.excluded}


def own_card(converter: str, kind: str = "segmentation", modalities: str = "t1 flair", **options: Any) -> Card:
    """A card as a group would write it; ``options`` are the converter's."""
    return Card.model_validate(
        {
            "id": 700,
            "name": "Mine",
            "title": "mine",
            "kind": kind,
            "modalities": modalities.split(),
            "labels": {"background": 0, "lesion": 1} if kind == "segmentation" else {},
            "regions": {"lesion": [1]} if kind == "segmentation" else {},
            "classes": ["ill", "well"] if kind == "classification" else [],
            **{name: "none" for name in ("patient_rule", "licence", "access", "url", "citation")},
            "converter": converter,
            "converter_options": options,
        }
    )


def documented_card(module: ModuleType) -> Card:
    """The example card in a converter's docstring."""
    text = str(module.__doc__)
    return Card.model_validate(json.JSONDecoder().raw_decode(text[text.index('{"id"') :])[0])


def make(derived: Iterable[Derived]) -> None:
    """Write planned files in their order."""
    for item in sorted(derived, key=lambda item: item.step):
        write_derived(item)


def voxels(path: str | Path | None) -> np.ndarray:
    return np.asanyarray(nib.load(str(path)).dataobj)
