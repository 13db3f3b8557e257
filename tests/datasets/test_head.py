"""Skull and flips: phantom releases, real scans where they are at hand, and what must not be guessed."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mvp_bench.config.groups import CheckConfig
from mvp_bench.datasets.geometry.volumes import read_volume
from mvp_bench.datasets.integrity.cases import check_cases
from mvp_bench.datasets.integrity.head import CoarseImage, coarse_image, label_is_mirrored, mirrored_images, skull_of
from mvp_bench.datasets.journal import Journal
from mvp_bench.datasets.phantom.cohorts import COHORTS
from mvp_bench.datasets.phantom.subject import make_subject
from mvp_bench.datasets.schema import Case
from mvp_bench.parallel import Inline

from .releases import save, shipped

SPACING = 2.5
STRIPPED, WITH_SKULL = (501, 503, 521, 524), (504, 512, 513, 514, 525)
REAL = Path(__file__).resolve().parents[3] / "shared" / "realdata"
real_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real scans in {REAL}")
BRATS = {"flair": "Flair_subtrMeanDivStd", "t1c": "T1c_subtrMeanDivStd", "label": "OTMultiClass"}
OPENMS = {"t1": "T1", "t1c": "T1POST", "t2": "T2", "flair": "FLAIR", "label": "lesion"}


@cache
def phantom(dataset: int, index: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray | None]:
    """Images of a subject (i, j, k), their affine, and the mask in the convention of the cards."""
    subject = make_subject(COHORTS[dataset], SPACING, seed=0, index=index)
    stored = {modality: subject.grid.image(array) for modality, array in subject.images.items()}
    label = subject.labels if subject.labels is None else np.asanyarray(subject.grid.image(subject.labels).dataobj)
    label = np.where(label == 4, 3, label).astype(np.uint8) if label is not None and dataset == 505 else label
    images = {modality: np.asanyarray(image.dataobj) for modality, image in stored.items()}
    return images, next(iter(stored.values())).affine, label


def coarse(dataset: int, index: int = 0) -> dict[str, CoarseImage]:
    images, affine, _ = phantom(dataset, index)
    return {modality: coarse_image(data, affine) for modality, data in images.items()}


def flipped(data: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The array turned round along the axis that runs from left to right, as a careless converter leaves it."""
    return np.flip(data, int(np.flatnonzero(nib.io_orientation(affine)[:, 0] == 0)[0]))


@pytest.mark.parametrize("dataset", STRIPPED)
def test_stripped_phantoms(dataset: int) -> None:
    states = [skull_of(image) for image in coarse(dataset).values()]
    assert "with skull" not in states and states.count("stripped") >= len(states) / 2


@pytest.mark.parametrize("dataset", WITH_SKULL)
def test_phantoms_with_skull(dataset: int) -> None:
    states = {modality: skull_of(image) for modality, image in coarse(dataset).items()}
    assert states["t1"] == "with skull" and "stripped" not in states.values()


def test_other_units_orientations_and_backgrounds() -> None:
    images, affine, _ = phantom(512)
    head = images["t1"]
    turned = nib.Nifti1Image(head, affine).as_reoriented([[2, -1], [0, 1], [1, -1]])
    noisy = np.abs(head + np.random.default_rng(0).normal(0, 0.03 * head.max(), head.shape))
    brain, brain_affine, _ = phantom(521)
    for data, where, expected in (
        (head * 0.001 - 5, affine, "with skull"),
        (np.asanyarray(turned.dataobj), turned.affine, "with skull"),
        (noisy, affine, "with skull"),
        (brain["t1"] * 7 - 3, brain_affine, "stripped"),
        (np.zeros((20, 20, 20)), np.eye(4), "unclear"),
        (np.random.default_rng(0).uniform(size=(9, 3, 4)), np.eye(4), "unclear"),
    ):
        assert skull_of(coarse_image(data.astype(np.float32), where)) == expected


@pytest.mark.parametrize("dataset", [501, 503, 504, 506, 525])
def test_a_mirrored_modality_is_found_and_no_other(dataset: int) -> None:
    images, affine, _ = phantom(dataset)
    sound = coarse(dataset)
    assert mirrored_images(sound) == []
    for modality in list(images)[1:]:
        one_turned = {**sound, modality: coarse_image(flipped(images[modality], affine), affine)}
        assert mirrored_images(one_turned) == [modality]


def test_noise_and_tiny_images_say_nothing() -> None:
    generator = np.random.default_rng(0)
    for edge in (8, 64, 200):
        noise = [coarse_image(generator.uniform(size=(edge,) * 3), np.eye(4)) for _ in range(2)]
        assert mirrored_images({"t1": noise[0], "t2": noise[1]}) == []
        blob = np.zeros((edge,) * 3)
        blob[: edge // 3, : edge // 3, : edge // 3] = 1
        assert not label_is_mirrored({"t1": noise[0]}, coarse_image(blob, np.eye(4)))


@pytest.mark.parametrize("dataset", [501, 502, 503, 504, 505, 506])
def test_sound_masks_are_not_suspected(dataset: int) -> None:
    _, affine, label = phantom(dataset)
    assert label is not None and not label_is_mirrored(coarse(dataset), coarse_image(label, affine))


def test_most_mirrored_masks_of_large_lesions_are_found() -> None:
    found = 0
    for index in range(4):
        _, affine, label = phantom(505, index)
        assert label is not None
        found += label_is_mirrored(coarse(505, index), coarse_image(flipped(label, affine), affine))
    assert found >= 3


@real_data
@pytest.mark.parametrize(("pattern", "names"), [("brats2013/*_1", BRATS), ("openms/patient??", OPENMS)])
def test_real_scans(pattern: str, names: dict[str, str]) -> None:
    found = 0
    folders = sorted(REAL.glob(pattern))
    for folder in folders:
        volumes = {role: read_volume(folder / f"{name}.nii.gz") for role, name in names.items()}
        label = volumes.pop("label")
        images = {role: coarse_image(v.data, v.grid.affine) for role, v in volumes.items()}
        assert {skull_of(image) for image in images.values()} == {"stripped"}
        assert mirrored_images(images) == []
        assert not label_is_mirrored(images, coarse_image(label.data, label.grid.affine))
        last, volume = list(volumes.items())[-1]
        turned = coarse_image(flipped(volume.data, volume.grid.affine), volume.grid.affine)
        assert mirrored_images({**images, last: turned}) == [last]
        turned = coarse_image(flipped(label.data, label.grid.affine), label.grid.affine)
        found += label_is_mirrored(images, turned)
    assert found >= len(folders) / 2


def test_cost() -> None:
    data = np.random.default_rng(0).normal(size=(240, 240, 155)).astype(np.float32)
    data[:40], data[200:] = 0, 0
    best = np.inf
    for _ in range(3):
        started = time.perf_counter()
        skull_of(coarse_image(data, np.eye(4)))
        best = min(best, time.perf_counter() - started)
    assert best < 1.0  # 0.1 s on an idle core


def test_what_the_check_says(tmp_path: Path) -> None:
    images, affine, label = phantom(505)
    assert label is not None
    files = {m: save(tmp_path / f"{m}.nii.gz", data, affine) for m, data in images.items()}
    save(files["t2"], flipped(images["t2"], affine), affine)
    mask = save(tmp_path / "seg.nii.gz", flipped(label, affine).astype(np.uint8), affine)
    unsure = nib.load(files["flair"])
    unsure.set_qform(np.diag([-1, 1, 1, 1]) @ unsure.affine, code=1)
    nib.save(unsure, tmp_path / "flair2.nii.gz")
    paths = {m: str(path) for m, path in files.items()} | {"flair": str(tmp_path / "flair2.nii.gz")}
    case = Case.model_validate({"patient": "p", "images": paths, "label": str(mask)})
    facts = check_cases({"c": case}, shipped(505), Inline(), CheckConfig(), Journal())["c"].facts
    assert not facts.faults
    texts = sorted(facts.warnings)
    assert texts[0].startswith("flair2.nii.gz: the header's qform is the mirror image of its sform")
    assert texts[1] == "seg.nii.gz: suspected to be flipped left to right"
    assert texts[2] == "t2.nii.gz: suspected to be flipped left to right relative to t1.nii.gz" and len(texts) == 3
    assert facts.files["t1"].skull == "stripped" and facts.files["label"].skull is None
    hashed = {role for role, file in facts.files.items() if file.perceptual}
    assert hashed == {"t1", "t1c"}
