"""Folder layouts, file names, label values, grids and resumption of the phantom releases."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mvp_bench.config.groups import PhantomConfig
from mvp_bench.datasets.phantom import release
from mvp_bench.datasets.phantom.cohorts import COHORTS
from mvp_bench.datasets.phantom.release import phantom_patients, write_phantom_release
from mvp_bench.datasets.phantom.request import MANIFEST
from mvp_bench.datasets.phantom.subject import draw_person
from mvp_bench.datasets.schema import Card
from mvp_bench.errors import InputError
from tests.datasets.phantom.conftest import IDS, SMALL

_PED = r"BraTS-PED-(\d{5})-000/BraTS-PED-\1-000-(t1n|t1c|t2w|t2f|seg)\.nii\.gz"
_MET = (
    r"ASNR-MICCAI-BraTS2023-MET-Challenge-TrainingData(_Additional)?/"
    r"BraTS-MET-(\d{5})-000/BraTS-MET-\2-000-(t1n|t1c|t2w|t2f|seg)\.nii\.gz"
)
_ISLES = (
    r"(derivatives/)?sub-strokecase(\d{4})/ses-0001/"
    r"(dwi/sub-strokecase\2_ses-0001_(dwi|adc)|anat/sub-strokecase\2_ses-0001_FLAIR|sub-strokecase\2_ses-0001_msk)"
    r"\.nii\.gz"
)
_UPENN = (
    r"UPENN-GBM/NIfTI-files/(images_structural/UPENN-GBM-(\d{5})_11/UPENN-GBM-\2_11_(T1|T1GD|T2|FLAIR)"
    r"|images_segm/UPENN-GBM-\d{5}_11_segm)\.nii\.gz"
)
_ADNI = (
    r"ADNI/(\d{3}_S_\d{4})/([^/]+)/\d{4}-\d\d-\d\d_\d\d_\d\d_\d\d\.\d/(I\d+)/"
    r"ADNI_\1_MR_\2_Br_\d+_S\d+_\3\.nii"
)
PATTERNS = {
    501: _PED,
    502: _MET,
    503: _ISLES,
    504: r"(TrainingData|TestData)/\d+/(T1|T1_IR|T2_FLAIR|LabelsForTesting)\.nii",
    505: _UPENN,
    506: r"vs_gk_\d+/vs_gk_(t1|t2|seg)_refT1\.nii\.gz",
    511: r"(HGG|LGG)/(Brats18_[A-Za-z0-9]+_\d+_1)/\2_(t1|t1ce|t2|flair|seg)\.nii\.gz",
    512: _ADNI,
    513: r"[A-Za-z_1]+/sub-(\d{7})/ses-1/anat/sub-\1_ses-1_run-1_T1w\.nii\.gz",
    514: r"[A-Za-z_1]+/\d{7}/session_1/anat_1/mprage\.nii\.gz",
    521: r"BraTS2021_Training_Data/(BraTS2021_\d{5})/\1_(t1|t1ce|t2|flair|seg)\.nii\.gz",
    522: _PED.replace("PED", "SSA").replace("BraTS-SSA-(", r"ASNR-\S+-SSA-Challenge-TrainingData_V2/BraTS-SSA-("),
    523: _PED.replace("PED", "MEN").replace("BraTS-MEN-(", r"ASNR-\S+-MEN-Challenge-TrainingData/\S+/BraTS-MEN-("),
    524: r"(UCSF-PDGM-\d{4})_nifti/\1_(T1|T1c|T2|FLAIR|DWI|ADC|tumor_segmentation)\.nii\.gz",
    525: r"IXI-(T1|T2|PD|MRA)/IXI\d{3}-(Guys|HH|IOP)-\d{4}-\1\.nii\.gz",
}
MASKS = re.compile(r"(seg|segm|msk|tumor_segmentation|LabelsForTesting|seg_refT1)\.nii(\.gz)?$")


def _images(top: Path) -> list[Path]:
    return sorted(p for p in top.rglob("*") if p.name.endswith((".nii", ".nii.gz")))


def _digest(top: Path) -> dict[str, str]:
    return {str(p.relative_to(top)): hashlib.sha256(p.read_bytes()).hexdigest() for p in top.rglob("*") if p.is_file()}


@pytest.mark.parametrize("dataset", IDS)
def test_files_are_named_as_in_the_real_release(dataset: int, releases: dict[int, Path]) -> None:
    top = releases[dataset]
    names = [p.relative_to(top).as_posix() for p in _images(top)]
    assert names
    assert [n for n in names if not re.fullmatch(PATTERNS[dataset], n)] == []


@pytest.mark.parametrize("dataset", IDS)
def test_manifest_tells_every_patient(dataset: int, releases: dict[int, Path], cards: dict[int, Card]) -> None:
    manifest = json.loads((releases[dataset] / MANIFEST).read_text())
    assert manifest["seed"] == 0 and manifest["config"]["spacing_mm"] == SMALL.spacing_mm
    subjects = manifest["subjects"]
    assert [s["patient"] for s in subjects] == phantom_patients(cards[dataset], SMALL)
    assert len({s["patient"] for s in subjects}) == len(subjects)
    for subject in subjects:
        assert {"age", "sex", "scanner", "class", "modalities", "volumes_ml"} <= set(subject)
    if cards[dataset].kind == "classification":
        assert len({s["class"] for s in subjects}) == 2


@pytest.mark.parametrize("dataset", IDS)
def test_masks_hold_the_conventions_values_on_the_images_grid(dataset: int, releases: dict[int, Path]) -> None:
    allowed = set(COHORTS[dataset].label_values)
    masks = [p for p in _images(releases[dataset]) if MASKS.search(p.name)]
    assert bool(masks) == bool(allowed)
    found: set[int] = set()
    for path in masks:
        values = np.asanyarray(nib.load(path).dataobj)
        found |= set(np.unique(values).tolist()) - {0}
        assert values.any(), f"{path.name} is empty"
    assert found <= allowed
    if dataset in (504, 505, 521, 524):
        assert found == allowed
    grids = {(nib.load(p).shape, nib.load(p).affine.tobytes()) for p in _images(releases[dataset])}
    assert len(grids) == 1 or dataset == 503


@pytest.mark.parametrize("dataset", [501, 505, 524])
def test_the_brats_grid_at_any_spacing(dataset: int, releases: dict[int, Path]) -> None:
    image = nib.load(_images(releases[dataset])[0])
    assert image.shape == (40, 40, 26)
    expected = np.diag([-6.0, -6.0, 6.0, 1.0])
    expected[:3, 3] = (0, 239, 0)
    np.testing.assert_array_equal(image.affine, expected)
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")


@pytest.mark.parametrize("dataset", [501, 502, 503, 505, 511, 521, 522, 523, 524])
def test_stripped_releases_are_zero_outside_the_brain(dataset: int, releases: dict[int, Path]) -> None:
    for path in _images(releases[dataset])[:4]:
        values = np.asanyarray(nib.load(path).dataobj)
        border = np.concatenate([values[0].ravel(), values[-1].ravel(), values[:, 0].ravel(), values[:, -1].ravel()])
        assert not border.any()
        if not MASKS.search(path.name):
            assert 0.08 < np.mean(values != 0) < 0.4


def test_heads_keep_their_scalp(releases: dict[int, Path]) -> None:
    stripped = nib.load(_images(releases[501])[1])
    whole = nib.load(_images(releases[513])[0])

    def litres(image: nib.Nifti1Image) -> float:
        return float(np.count_nonzero(image.get_fdata()) * np.prod(image.header.get_zooms()) / 1e6)

    assert litres(whole) > 2 * litres(stripped)


def test_adc_units_are_mixed_in_isles(cards: dict[int, Card], tmp_path: Path) -> None:
    top = write_phantom_release(cards[503], tmp_path, replace(SMALL, segmentation_patients=8), seed=0)
    scales = {
        round(np.log10(np.median(v[v > 0]))) for v in (nib.load(p).get_fdata() for p in top.rglob("*_adc.nii.gz"))
    }
    assert len(scales) >= 2


def test_some_pretraining_cases_lack_modalities(cards: dict[int, Card], tmp_path: Path) -> None:
    lacking = {
        cohort.dataset: [set(cohort.modalities) - set(draw_person(cohort, 0, i).modalities) for i in range(400)]
        for cohort in (COHORTS[521], COHORTS[524], COHORTS[525])
    }
    share = {d: np.mean([bool(s) for s in sets]) for d, sets in lacking.items()}
    assert 0.02 < share[521] < 0.15
    assert 0.1 < share[524] < 0.4
    assert 0.18 < np.mean(["mra" in s for s in lacking[525]]) < 0.32
    with_all = [d for d in COHORTS if d < 520 and COHORTS[d].missing]
    assert with_all == []
    one = write_phantom_release(cards[525], tmp_path, replace(SMALL, pretraining_patients=8), seed=0)
    counts = {m: len(list((one / f"IXI-{m}").glob("*.nii.gz"))) for m in ("T1", "MRA")}
    assert counts["T1"] == 8 and counts["MRA"] == sum("mra" not in s for s in lacking[525][:8])


def test_same_bytes_with_two_processes_and_others_with_another_seed(cards: dict[int, Card], tmp_path: Path) -> None:
    config = replace(SMALL, segmentation_patients=2)
    first = write_phantom_release(cards[506], tmp_path / "a", config, seed=3)
    second = write_phantom_release(cards[506], tmp_path / "b", config, seed=3, workers=2)
    other = write_phantom_release(cards[506], tmp_path / "c", config, seed=4)
    assert _digest(first) == _digest(second)
    assert _digest(first).keys() == _digest(other).keys()
    image = "vs_gk_1/vs_gk_t1_refT1.nii.gz"
    assert _digest(first)[image] != _digest(other)[image]


def test_a_patient_does_not_depend_on_the_others(cards: dict[int, Card], tmp_path: Path) -> None:
    few = write_phantom_release(cards[501], tmp_path / "few", replace(SMALL, segmentation_patients=1), seed=0)
    more = write_phantom_release(cards[501], tmp_path / "more", replace(SMALL, segmentation_patients=2), seed=0)
    a, b = _digest(few), _digest(more)
    assert {k: b[k] for k in a if k != MANIFEST} == {k: v for k, v in a.items() if k != MANIFEST}


def test_a_killed_run_goes_on(cards: dict[int, Card], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write_phantom_release(cards[502], tmp_path / "whole", SMALL, seed=0)
    made: list[int] = []
    original = release.make_subject

    def dies_at_the_second(cohort, spacing_mm, seed, index):  # type: ignore[no-untyped-def]
        if index == 1 and not made.count(99):
            made.append(99)
            raise KeyboardInterrupt
        made.append(index)
        return original(cohort, spacing_mm, seed, index)

    monkeypatch.setattr(release, "make_subject", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        write_phantom_release(cards[502], tmp_path / "killed", SMALL, seed=0)
    top = tmp_path / "killed" / whole.name
    assert not (top / MANIFEST).exists()
    assert write_phantom_release(cards[502], tmp_path / "killed", SMALL, seed=0) == top
    assert made == [0, 99, 1, 2]
    assert _digest(top) == _digest(whole)
    write_phantom_release(cards[502], tmp_path / "killed", SMALL, seed=0)
    assert made == [0, 99, 1, 2], "a complete release is left alone"


def test_another_request_starts_anew_but_never_on_foreign_files(cards: dict[int, Card], tmp_path: Path) -> None:
    config = PhantomConfig(spacing_mm=6.0, segmentation_patients=2, classification_patients=2, pretraining_patients=2)
    top = write_phantom_release(cards[501], tmp_path, config, seed=0)
    write_phantom_release(cards[501], tmp_path, replace(config, segmentation_patients=1), seed=0)
    assert len(list(top.glob("BraTS-PED-*"))) == 1
    (top / MANIFEST).unlink()
    with pytest.raises(InputError, match="not of a phantom"):
        write_phantom_release(cards[501], tmp_path, config, seed=0)
    assert len(list(top.glob("BraTS-PED-*"))) == 1


def test_tables_name_every_patient(releases: dict[int, Path]) -> None:
    adni = next(releases[512].glob("*.csv"))
    header = adni.read_text().splitlines()[0]
    assert header == (
        '"Image Data ID","Subject","Group","Sex","Age","Visit","Modality","Description","Type","Acq Date","Format",'
        '"Downloaded"'
    )
    rows = list(csv.DictReader(adni.open()))
    assert {r["Group"] for r in rows} <= {"CN", "MCI", "LMCI", "EMCI"} and len(rows) == 4
    for row in rows:
        assert list(releases[512].rglob(f"ADNI_{row['Subject']}_*_{row['Image Data ID']}.nii"))
    abide = list(csv.DictReader((releases[514] / "Phenotypic_V1_0b.csv").open()))
    assert {r["DX_GROUP"] for r in abide} == {"1", "2"}
    for row in abide:
        assert list(releases[514].glob(f"*/{int(row['SUB_ID']):07d}"))
    adhd = [row for path in releases[513].glob("*/*_phenotypic.csv") for row in csv.DictReader(path.open())]
    assert len(adhd) == 4 and {r["DX"] for r in adhd} & {"1", "2", "3"}
    assert "Secondary Dx " in adhd[0]
