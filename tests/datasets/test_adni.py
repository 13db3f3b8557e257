"""ADNI: which scan of whom is used, what class it has, and why every other one is left out."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mvp_bench.config.groups import PreparationConfig
from mvp_bench.datasets.geometry.derive import write_derived
from mvp_bench.datasets.integrity.report import load_integrity
from mvp_bench.datasets.prepare import prepare_dataset
from mvp_bench.datasets.prepared import load_splits
from mvp_bench.datasets.reading.conversion import Conversion
from mvp_bench.datasets.schema import DatasetBlock
from mvp_bench.errors import InputError
from mvp_bench.workspace import Workspace

from .layouts import adni
from .layouts.adni import Scan
from .releases import SHAPE, convert, reasons, shipped, table, with_options

CSV = "ADNI1_Complete_1Yr_1.5T_1_01_2020.csv"


def facts(conversion: Conversion) -> dict[str, tuple[str, str | None, str | None, str | None]]:
    """Case -> patient, session, site, class."""
    return {name: (c.patient, c.session, c.site, c.class_name) for name, c in conversion.cases.items()}


def classes(conversion: Conversion | DatasetBlock) -> dict[str, str | None]:
    return {name: case.class_name for name, case in conversion.cases.items()}


def test_tree_a_with_every_trap(tmp_path: Path) -> None:
    conversion = convert(shipped(512), adni.release(tmp_path / "in"))
    assert facts(conversion) == {
        "901_S_9001_I902": ("901_S_9001", "2006-04-18", "901", "CN"),
        "901_S_9002_I911": ("901_S_9002", "2006-05-02", "901", "MCI"),
        "903_S_90081_I973": ("903_S_90081", "2006-04-18", "903", "MCI"),
    }
    assert {Path(str(case.images["t1"])).name[-13:] for case in conversion.cases.values()} == {
        "3408_I902.nii",
        "3408_I911.nii",
        "8_I973.nii.gz",
    }
    t2, mask = (Scan(n, "903_S_90081", description=d) for n, d in ((971, "Axial_T2_Star"), (972, "MPR_Mask")))
    assert reasons(conversion) == {
        "901_S_9001_I901": "another image of 901_S_9001 (2006-04-18); 901_S_9001_I902 is kept",
        "901_S_9001_I903": "another image of 901_S_9001 (2006-04-18); 901_S_9001_I902 is kept",
        "901_S_9001_I904": "another visit of 901_S_9001 (2007-04-19); 901_S_9001_I902 is kept",
        "902_S_9003_I921": "Group is 'SMC'",
        "902_S_9005_I941": f"no row for I941 in {CSV}, ADNI2_1_01_2020.csv",
        "902_S_9006_I951": "the tables contradict each other: CN, MCI",
        "902_S_9007_I961": f"{CSV} says that I961 is of subject 902_S_9999",
        "902_S_9008_I962": f"{CSV} says that I962 is of 2006-05-18, not of 2006-04-18",
        f"2 rows such as I981 in {CSV}": "no image",
        "I991 in ADNI2_1_01_2020.csv": "no image",
        _key(tmp_path / "in", t2): "its description Axial_T2_Star is none of a T1 image",
        _key(tmp_path / "in", mask): "its description MPR_Mask is none of a T1 image",
        "in/ADNI/901_S_9001/notes": "its path is not that of an image of ADNI",
    }
    assert not conversion.derived and not conversion.repairs


def _key(root: Path, scan: Scan) -> str:
    return (scan.folder(root) / scan.name()).relative_to(root.parent).as_posix()


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"visit": "all"}, {"901_S_9001_I902", "901_S_9001_I904", "901_S_9002_I911", "903_S_90081_I973"}),
        ({"visit": ["M12", "m24"]}, {"901_S_9001_I904"}),
        ({"visit": ["sc", "m12"]}, {"901_S_9001_I902", "901_S_9001_I904", "901_S_9002_I911", "903_S_90081_I973"}),
        ({"groups": {"SMC": "CN", "CN": "CN"}}, {"901_S_9001_I902", "902_S_9003_I921"}),
        ({"processing": [".*Scaled_2", "MPR-R.*"]}, {"901_S_9001_I901", "901_S_9002_I911", "903_S_90081_I973"}),
        ({"processing": ["MPR-R.*"]}, {"901_S_9001_I903", "901_S_9002_I911", "903_S_90081_I973"}),
        ({"descriptions": "MP-RAGE"}, {"903_S_90081_I973"}),
        ({"exclude": {"901_S_9001_I902": "blurred"}}, {"901_S_9001_I901", "901_S_9002_I911", "903_S_90081_I973"}),
    ],
)
def test_options(tmp_path: Path, options: dict, kept: set[str]) -> None:
    conversion = convert(with_options(shipped(512), **options), adni.release(tmp_path / "in"))
    assert set(conversion.cases) == kept


def test_visit_codes_that_are_not_wanted_are_listed(tmp_path: Path) -> None:
    found = reasons(convert(with_options(shipped(512), visit=["m12"]), adni.release(tmp_path / "in")))
    assert found["901_S_9001_I902"] == "visit 'sc' is not one of m12"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"visit": "latest"}, "visit"),
        ({"diagnosis": "baseline"}, "diagnosis"),
        ({"max_days": -1}, "max_days"),
        ({"processing": ["("]}, "processing"),
        ({"images": {}}, "images"),
    ],
)
def test_wrong_options(tmp_path: Path, options: dict, field: str) -> None:
    with pytest.raises(InputError, match=field):
        convert(with_options(shipped(512), **options), adni.release(tmp_path / "in"))


# --------------------------------------------------------------------------------------------- where classes come from


def visits(root: Path) -> Path:
    """Subject 1 has three visits, subject 2 one, subject 3 none with a diagnosis; no collection table."""
    for scan in (
        Scan(901, "901_S_9001", "2006-04-18"),
        Scan(902, "901_S_9001", "2007-04-19"),
        Scan(903, "901_S_9001", "2008-04-20"),
        Scan(911, "901_S_0092", "2006-05-02"),
        Scan(921, "901_S_9003", "2006-05-02"),
    ):
        adni.nifti(root, scan)
    return root


@pytest.mark.parametrize("name", ["ADNIMERGE.csv", "tables/ADNIMERGE_12Jan2024.csv"])
def test_diagnosis_at_the_visit_from_adnimerge(tmp_path: Path, name: str) -> None:
    source = visits(tmp_path / "in")
    adni.merge_table(
        source / name,
        "901_S_9001,bl,2006-03-01,CN",
        "901_S_9001,m06,2006-09-01,",
        "901_S_9001,m12,2007-04-30,MCI",
        "901_S_9001,m24,2008-04-20,Dementia",
        "901_S_0092,bl,2006-08-01,MCI",
    )
    card = with_options(shipped(512), diagnosis="visit", visit="all")
    conversion = convert(card, source)
    assert classes(conversion) == {"901_S_9001_I901": "CN", "901_S_9001_I902": "MCI"}
    assert reasons(conversion) == {
        "901_S_9001_I903": "the diagnosis at the visit is 'Dementia'",
        "901_S_0092_I911": "the nearest diagnosis (2006-08-01) is 91 days from the scan, more than 90",
        "901_S_9003_I921": f"no diagnosis of 901_S_9003 in {Path(name).name}",
    }
    assert classes(convert(with_options(card, max_days=91), source))["901_S_0092_I911"] == "MCI"
    assert set(convert(with_options(card, visit=["m12"]), source).cases) == {"901_S_9001_I902"}


def test_diagnosis_at_the_visit_from_dxsum(tmp_path: Path) -> None:
    """Each phase filled another column; subjects stand there by roster number, without zeros in front."""
    source = visits(tmp_path / "in")
    rows = ["9001,bl,2006-04-18,,,1.0", "9001,m12,4/19/2007,4,,", "9001,m24,2008-04-20,-4,,2", "92,bl,2006-05-02,,2,"]
    table(
        source / "DXSUM_PDXCONV_ADNIALL.csv", "RID,VISCODE,EXAMDATE,DXCHANGE,DXCURREN,DIAGNOSIS", *rows,
        "9003,bl,2006-05-02,5,,",
    )  # fmt: skip
    conversion = convert(with_options(shipped(512), diagnosis="visit", visit="all"), source)
    assert classes(conversion) == {
        "901_S_0092_I911": "MCI",
        "901_S_9001_I901": "CN",
        "901_S_9001_I902": "MCI",
        "901_S_9001_I903": "MCI",
    }
    assert reasons(conversion) == {"901_S_9003_I921": "the diagnosis at the visit is 'Dementia'"}


@pytest.mark.parametrize(
    ("code", "name"), [("1", "CN"), ("7", "CN"), ("9", "CN"), ("2", "MCI"), ("4", "MCI"), ("8", "MCI"), ("3", None)]
)
def test_codes_of_change(tmp_path: Path, code: str, name: str | None) -> None:
    source = visits(tmp_path / "in")
    table(source / "DXSUM.csv", "PTID,EXAMDATE,DXCHANGE", f"901_S_9001,2006-04-18,{code}", "901_S_9003,2006-05-02,1")
    found = classes(convert(with_options(shipped(512), diagnosis="visit"), source))
    assert found == {"901_S_9003_I921": "CN", **({"901_S_9001_I901": name} if name else {})}


def test_two_diagnoses_of_one_day(tmp_path: Path) -> None:
    source = visits(tmp_path / "in")
    rows = ("901_S_9001,bl,2006-04-18,CN", "901_S_9001,sc,2006-04-18,MCI", "901_S_9003,bl,2006-05-02,CN")
    adni.merge_table(source / "ADNIMERGE.csv", *rows)
    conversion = convert(with_options(shipped(512), diagnosis="visit"), source)
    assert reasons(conversion)["901_S_9001_I901"] == "ADNIMERGE.csv contradicts itself on 2006-04-18: CN, MCI"


def test_visit_diagnoses_need_their_table(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ADNIMERGE\*\.csv or DXSUM\*\.csv"):
        convert(with_options(shipped(512), diagnosis="visit"), adni.release(tmp_path / "in"))


def test_sidecars_stand_in_for_the_table(tmp_path: Path) -> None:
    source = visits(tmp_path / "in")
    adni.sidecar(source, Scan(901, "901_S_9001"), "CN", "ADNI1 Screening")
    adni.sidecar(source, Scan(902, "901_S_9001"), "CN", "ADNI1/GO Month 12")
    adni.sidecar(source, Scan(911, "901_S_0092"), "EMCI", "ADNIGO Screening MRI")
    conversion = convert(shipped(512), source)
    assert classes(conversion) == {"901_S_0092_I911": "MCI", "901_S_9001_I901": "CN"}
    assert "no row for I921" in reasons(conversion)["901_S_9003_I921"]
    later = convert(with_options(shipped(512), visit=["ADNI1/GO Month 12"]), source)
    assert set(later.cases) == {"901_S_9001_I902"}
    adni.collection(source / "collection.csv", [Scan(911, "901_S_0092", "2006-05-02").row("CN")])
    assert classes(convert(shipped(512), source)) == {"901_S_0092_I911": "CN"}


def test_a_damaged_sidecar(tmp_path: Path) -> None:
    source = visits(tmp_path / "in")
    path = adni.sidecar(source, Scan(901, "901_S_9001"), "CN", "sc")
    path.write_text(path.read_text()[:200])
    with pytest.raises(InputError, match=r"I901\.xml.*no XML"):
        convert(shipped(512), source)


def test_without_any_table(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Image Data ID"):
        convert(shipped(512), visits(tmp_path / "in"))


@pytest.mark.parametrize("content", ["", '"a,b\n1,2\n'])
def test_a_table_that_cannot_be_read(tmp_path: Path, content: str) -> None:
    source = visits(tmp_path / "in")
    (source / "collection.csv").write_text(content)
    with pytest.raises(InputError, match=r"collection\.csv"):
        convert(shipped(512), source)


# --------------------------------------------------------------------------------------------------------------- DICOM


def test_tree_b(tmp_path: Path) -> None:
    """DICOM and NIfTI in one download; an image that is there as both; a series with a missing slice."""
    source, output = tmp_path / "in", tmp_path / "output"
    series, both, holed = Scan(801, "901_S_9001"), Scan(802, "901_S_9002"), Scan(803, "901_S_9003")
    voxels = adni.dicom(source, series)
    adni.dicom(source, both)
    adni.nifti(source, both)
    adni.dicom(source, holed, skip=(4,))
    (series.folder(source) / "LICENSE").write_text("text")
    adni.collection(source / "collection.csv", [s.row(g) for s, g in ((series, "CN"), (both, "MCI"), (holed, "CN"))])
    conversion = convert(shipped(512), source, output)
    assert classes(conversion) == {"901_S_9001_I801": "CN", "901_S_9002_I802": "MCI", "901_S_9003_I803": "CN"}
    nifti = both.folder(source) / f"{both.name()}.nii"
    first = both.folder(source) / f"{both.name(part='1_')}"
    assert conversion.cases["901_S_9002_I802"].images == {"t1": str(nifti)}
    assert reasons(conversion) == {
        first.relative_to(tmp_path).as_posix(): f"901_S_9002_I802 has another file for t1: {_key(source, both)}"
    }
    made, faulty = conversion.derived
    assert [item.source.parent for item in conversion.derived] == [series.folder(source), holed.folder(source)]
    target = output / "images" / "901_S_9001_I801_t1.nii.gz"
    assert conversion.cases["901_S_9001_I801"].images == {"t1": str(target)} and made.target == target
    (outcome,) = write_derived(made)
    assert outcome.path == str(target) and outcome.repair == "DICOM series written as NIfTI" and not outcome.refused
    written = nib.load(target)
    assert np.array_equal(np.asanyarray(written.dataobj), voxels)
    assert nib.aff2axcodes(written.affine) == ("L", "P", "S")
    np.testing.assert_allclose(written.header.get_zooms(), (1, 1, 1.2), rtol=1e-6)
    with pytest.raises(InputError, match=r"slices 4 and 5 of 9 2\.4 mm apart instead of 1\.2 mm: 1 missing"):
        write_derived(faulty)


def test_two_copies_of_one_image(tmp_path: Path) -> None:
    """The archive hands large collections out in several zips, which overlap."""
    source, scan = tmp_path / "in", Scan(921, "901_S_9003")
    adni.nifti(source / "part1", scan)
    shutil.copytree(source / "part1", source / "part2")
    adni.collection(source / "all.csv", [scan.row("MCI")])
    conversion = convert(shipped(512), source)
    first, second = (_key(source / part, scan) for part in ("part1", "part2"))
    assert set(conversion.cases) == {"901_S_9003_I921"}
    assert reasons(conversion) == {f"in/{second}": f"identical copy of in/{first}"}
    adni.dicom(source / "part1", Scan(922, "901_S_9004"))
    shutil.copytree(source / "part1", source / "part2", dirs_exist_ok=True)
    adni.collection(source / "all.csv", [scan.row("MCI"), Scan(922, "901_S_9004").row("CN")])
    conversion = convert(shipped(512), source)
    assert [item.source.parent for item in conversion.derived] == [Scan(922, "901_S_9004").folder(source / "part1")]
    assert len(conversion.excluded) == 2 and all("identical copy of" in text for text in reasons(conversion).values())


# ------------------------------------------------------------------------------------------------------ from end to end


def test_prepared(workspace: Workspace, tmp_path: Path) -> None:
    """A release with all traps becomes a dataset; a faulty series stops it, or is listed where that was asked for."""
    source = adni.release(tmp_path / "in")
    first, *_ = adni.cohort(source, 8)
    holed = Scan(803, "901_S_9303")
    adni.dicom(source, holed, skip=(4,))
    adni.collection(source / "more.csv", [holed.row("CN")])
    with pytest.raises(InputError, match=r"(?s)1 fault in 1 of 12 cases.*2\.4 mm apart instead of 1\.2 mm"):
        prepare_dataset(workspace, shipped(512), source=source)
    block = prepare_dataset(workspace, shipped(512), source=source, preparation=PreparationConfig(exclude_faulty=True))
    expected = convert(shipped(512), source)
    name = f"{first.subject}_I{first.image}"
    assert classes(block) == {n: c for n, c in classes(expected).items() if "I803" not in n} and len(block.cases) == 11
    assert block.cases[name].images == {"t1": f"images/{name}_t1.nii.gz"}
    folder = workspace.dataset("Dataset512_ADNI")
    assert nib.load(folder / "images" / f"{name}_t1.nii.gz").shape == SHAPE
    listed = {item.what: item.reason for item in block.excluded}
    assert listed.items() >= reasons(expected).items()
    assert "1 missing" in listed["901_S_9303_I803"] and len(listed) == len(reasons(expected)) + 1
    assert [(item.what, item.repair) for item in block.repairs] == [
        (
            (first.folder(source) / f"{first.name(part='1_')}.dcm").relative_to(source).as_posix(),
            "DICOM series written as NIfTI",
        )
    ]
    report = load_integrity(workspace, shipped(512))
    assert report.cases.keys() == block.cases.keys() and report.excluded == block.excluded
    fold = load_splits(workspace, shipped(512)).folds[0]
    assert (
        {block.cases[n].class_name for n in fold.train}
        == {block.cases[n].class_name for n in fold.test}
        == {"CN", "MCI"}
    )
