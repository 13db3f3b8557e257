"""Tiny prepared datasets for tests: a bright ball in smooth noise, written as mvp_prepare would leave them."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter

from mvp_bench.datasets.dataset_json import dataset_json
from mvp_bench.datasets.preparation.sources import SOURCES, Sources
from mvp_bench.datasets.prepared import card_facts, dataset_key, splits_key
from mvp_bench.datasets.schema import Card, Case, DatasetBlock, Fold, Splits
from mvp_bench.sealed import write_sealed
from mvp_bench.workspace import Workspace


def toy_card(kind: str = "segmentation", number: int = 901, modalities: tuple[str, ...] = ("t1", "flair")) -> Card:
    """A card for :func:`toy_dataset`."""
    return Card(
        id=number,
        name=f"Toy{number}",
        title="toy",
        kind=kind,  # type: ignore[arg-type]
        modalities=list(modalities),  # type: ignore[arg-type]
        labels={"background": 0, "core": 1, "rim": 2} if kind == "segmentation" else {},
        regions={"whole": [1, 2], "core": [1]} if kind == "segmentation" else {},
        classes=["small", "large"] if kind == "classification" else [],
        patient_rule="case",
        licence="none",
        access="none",
        url="none",
        citation="none",
        converter="generic",
        metrics=["dice"] if kind == "segmentation" else ["accuracy"],
    )


def toy_dataset(
    workspace: Workspace,
    card: Card,
    cases: int = 6,
    shape: tuple[int, int, int] = (24, 28, 20),
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    missing: dict[int, str] | None = None,
    orientation: str = "RAS",
    seed: int = 0,
) -> None:
    """Write images, dataset.json and splits.json. ``shape`` and ``spacing`` are (x, y, z) of the stored file."""
    folder = workspace.dataset(card.dataset_name)
    (folder / "source").mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng([seed, card.id])
    records, patients = {}, {}
    for index in range(cases):
        name = f"case{index:02d}"
        labels, images, class_name = _volumes(generator, card, shape, index)
        affine = _affine(shape, spacing, orientation)
        paths: dict[str, str | None] = {}
        for modality, image in zip(card.modalities, images, strict=True):
            absent = (missing or {}).get(index) == modality
            paths[modality] = None if absent else f"source/{name}_{modality}.nii.gz"
            if not absent:
                nib.save(nib.Nifti1Image(image.astype(np.float32), affine), folder / str(paths[modality]))
        label = None
        if card.kind == "segmentation":
            label = f"source/{name}_seg.nii.gz"
            nib.save(nib.Nifti1Image(labels.astype(np.uint8), affine), folder / label)
        patients[name] = f"p{index:02d}"
        records[name] = {
            "patient": patients[name],
            "images": paths,
            "label": label,
            "class": class_name if card.kind == "classification" else None,
        }
    block = DatasetBlock(
        card_id=card.id,
        card_name=card.name,
        kind=card.kind,
        source="phantom",
        release="source",
        modalities=card.modalities,
        labels=card.labels,
        regions=card.regions,
        classes=card.classes,
        card=json.loads(json.dumps(card_facts(card))),
        cases={name: Case.model_validate(record) for name, record in records.items()},
        data_hash=f"{seed}-{shape}-{spacing}-{cases}-{orientation}",
        code_version="test",
    )
    names = sorted(records)
    test = names[-max(1, cases // 3) :]
    fold = Fold(train=names[: -len(test)], val=[], test=test)
    splits = Splits(scheme="ratio", seed=0, stratify="none", patients=patients, folds=[fold])
    write_prepared(folder, card, block, splits)


def write_prepared(folder: Path, card: Card, block: DatasetBlock, splits: Splits) -> None:
    """Write dataset.json, splits.json and a sources.json that watches nothing, with their keys and checksums."""
    block = block.model_copy(update={"key": dataset_key(block)})
    splits = splits.model_copy(update={"key": splits_key(splits, block.key)})
    sources = Sources(dataset=card.dataset_name, folder=".", files={}, folders={})
    write_sealed(folder / "sources.json", sources.model_dump(mode="json"))
    write_sealed(folder / "splits.json", splits.model_dump(mode="json"))
    write_sealed(folder / "dataset.json", dataset_json(card, block))
    nothing = Sources(dataset=card.dataset_name, folder="source", files={}, folders={})  # no release is watched
    write_sealed(folder / SOURCES, nothing.model_dump(mode="json"))


def _volumes(
    generator: np.random.Generator, card: Card, shape: tuple[int, int, int], index: int
) -> tuple[np.ndarray, list[np.ndarray], str]:
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    brain = (grid**2).sum(0) < 0.9
    centre = generator.uniform(-0.3, 0.3, 3)[:, None, None, None]
    large = index % 2 == 1
    distance = np.sqrt(((grid - centre) ** 2).sum(0))
    radius = 0.5 if large else 0.35
    labels = np.where(distance < radius * 0.6, 1, np.where(distance < radius, 2, 0)) * brain
    images = []
    for channel in range(len(card.modalities)):
        noise = gaussian_filter(generator.normal(size=shape), 1)
        images.append((100 + 20 * noise + (40 + 10 * channel) * (labels > 0) + 20 * (labels == 1)) * brain)
    return labels, images, card.classes[large] if card.classes else ""


def _affine(shape: tuple[int, int, int], spacing: tuple[float, float, float], orientation: str) -> np.ndarray:
    ornt = nib.orientations.axcodes2ornt(orientation)
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, (world, sign) in enumerate(ornt):
        affine[int(world), axis] = sign * spacing[axis]
        affine[int(world), 3] = 5.0 if sign > 0 else 5.0 + spacing[axis] * (shape[axis] - 1)
    return affine


def write_cards(root: Path, *cards: Card) -> None:
    """Put cards into a workspace."""
    (root / "datasets").mkdir(parents=True, exist_ok=True)
    for card in cards:
        (root / "datasets" / f"{card.dataset_name}.json").write_text(card.model_dump_json(by_alias=True))


def brats_release(top: Path, year: int = 2023, patients: int = 6, edge: int = 12) -> Path:
    """A faultless release of tiny volumes in the layout of BraTS2023-PED, or of BraTS2021."""
    old = year == 2021
    names = {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair"}
    generator = np.random.default_rng(year)
    for number in range(patients):
        name = f"BraTS2021_{number:05d}" if old else f"BraTS-PED-{number:05d}-000"
        folder = top / name
        folder.mkdir(parents=True)
        labels = np.zeros((edge,) * 3, np.uint8)
        labels[2:8, 2:8, 2:8] = 2
        labels[3:6, 3:6, 3:6] = 1
        labels[3:5, 3:5, 3:5] = 4 if old else 3
        for new, former in names.items():
            image = generator.uniform(1, 2, labels.shape).astype(np.float32)
            file = f"{name}_{former}.nii.gz" if old else f"{name}-{new}.nii.gz"
            nib.save(nib.Nifti1Image(image, np.eye(4)), folder / file)
        nib.save(nib.Nifti1Image(labels, np.eye(4)), folder / f"{name}{'_' if old else '-'}seg.nii.gz")
    return top
