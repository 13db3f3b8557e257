"""ADHD-200 and ABIDE I in every form: which subjects, of which site and class, and why others are left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mvp_bench.config.groups import PreparationConfig
from mvp_bench.datasets.integrity.report import load_integrity
from mvp_bench.datasets.prepare import prepare_dataset
from mvp_bench.datasets.prepared import load_splits
from mvp_bench.datasets.reading.conversion import Conversion
from mvp_bench.errors import InputError
from mvp_bench.workspace import Workspace

from .layouts import indi
from .releases import convert, image, reasons, shipped, table, truncate


def facts(conversion: Conversion) -> dict[str, tuple[str, str | None, str | None, str | None]]:
    """Case -> patient, session, site, class."""
    assert not conversion.repairs and not conversion.derived
    return {name: (c.patient, c.session, c.site, c.class_name) for name, c in conversion.cases.items()}


def files(conversion: Conversion, top: Path) -> dict[str, str]:
    return {
        name: Path(str(case.images["t1"])).relative_to(top).as_posix().removesuffix(".nii.gz")
        for name, case in conversion.cases.items()
    }


# ------------------------------------------------------------------------------------------------------------ ADHD-200


def test_adhd200_bids(tmp_path: Path) -> None:
    top = indi.adhd200_bids(tmp_path)
    conversion = convert(shipped(513), top)
    assert facts(conversion) == {
        "sub-0090001": ("0090001", "1", "NYU", "ADHD"),
        "sub-0090002": ("0090002", "1", "NYU", "NC"),
        "sub-0090003": ("0090003", "1", "NYU", "NC"),
        "sub-0090021": ("0090021", "2", "WashU", "NC"),
        "sub-0090022": ("0090022", "3", "WashU", "NC"),
        "sub-9900011": ("9900011", "1", "Peking_3", "NC"),
        "sub-9900012": ("9900012", "1", "Peking_3", "ADHD"),
        "sub-9900044": ("9900044", "1", "KKI", "ADHD"),
    }
    chosen = files(conversion, top)
    first = "Peking_3/sub-9900011/ses-1/anat/sub-9900011_ses-1_acq-1_run-1_T1w"
    assert chosen["sub-9900011"] == first and chosen["sub-9900012"] == first.replace("11", "12").replace("q-1", "q-2")
    assert chosen["sub-0090021"] == "WashU/sub-0090021/ses-2/anat/sub-0090021_ses-2_run-2_T1w"
    other = f"RawDataBIDS/{first}".replace("acq-1", "acq-{}")
    third = "RawDataBIDS/WashU/sub-0090022/ses-3/anat/sub-0090022_ses-3_run-1_T1w"
    assert reasons(conversion) == {
        "sub-0090004": "the tables contradict each other: ADHD-Inattentive, Typically Developing Children",
        "sub-0090005": "dx is '-999'",
        "sub-0090006": "no row for 0090006 in Brown_TestRelease_phenotypic.csv, KKI_TestRelease_phenotypic.csv, "
        "KKI_phenotypic.csv and 4 more",
        "sub-0090031": "DX is 'pending'",
        "3 rows such as 9900041 in KKI_TestRelease_phenotypic.csv": "no image",
        "0090023 in WashU_phenotypic.csv": "no image",
        **{other.format(n): f"sub-9900011 has another file for t1: {other.format(1)}" for n in (2, 3, 4, 5, 10)},
        third.replace("ses-3", "ses-4"): f"sub-0090022 has another file for t1: {third}",
        "RawDataBIDS/NYU/sub-0090001/ses-1/func/sub-0090001_ses-1_task-rest_run-1_bold": "functional series",
        "RawDataBIDS/derivatives/fmriprep/sub-0090001/anat/sub-0090001_T1w": "not the raw release",
    }


def test_adhd200_archives(tmp_path: Path) -> None:
    conversion = convert(shipped(513), indi.adhd200_archives(tmp_path / "in"))
    assert facts(conversion) == {
        "sub-0090001": ("0090001", "1", "NYU", "ADHD"),
        "sub-0090021": ("0090021", "2", "WashU", "NC"),
        "sub-9900044": ("9900044", "1", "KKI", "ADHD"),
    }
    assert reasons(conversion) == {
        "sub-0090007": "DX is ''",
        "4 files such as in/ADHD200/KKI/9900044/session_1/rest_1/rest": "functional series",
        "in/athena/NYU/0090001/wssd0090001_session_1_anat": "preprocessed (Athena or NIAK), not the raw release",
    }


def test_adhd200_nitrc(tmp_path: Path) -> None:
    """The T1 is told from the functional series of the same name by its folder."""
    conversion = convert(shipped(513), indi.adhd200_nitrc(tmp_path / "in"))
    assert facts(conversion) == {
        "sub-0090031": ("0090031", "1", "Brown", "ADHD"),
        "sub-9900013": ("9900013", "1", "Peking_1", "NC"),
    }
    assert all("/anat" in path and path.endswith("/rest") for path in files(conversion, tmp_path).values())
    assert reasons(conversion) == {
        "2 files such as in/Brown_90031_1/scans/rest/resources/NIfTI/files/rest": "functional series"
    }


def test_adhd200_in_two_forms_at_once(tmp_path: Path) -> None:
    """A subject that is there in BIDS and in an archive is one case."""
    top = indi.adhd200_bids(tmp_path / "in")
    indi.archive(tmp_path / "in" / "KKI", "9900044")
    conversion = convert(shipped(513), tmp_path / "in")
    assert files(conversion, top)["sub-9900044"].startswith("KKI/sub-9900044")
    assert "another file for t1" in reasons(conversion)["in/KKI/9900044/session_1/anat_1/mprage"]


# --------------------------------------------------------------------------------------------------------------- ABIDE

ABIDE = {
    "sub-0090642": ("0090642", "CMU_a", "ASD"),
    "sub-0090952": ("0090952", "NYU", "ASD"),
    "sub-0090953": ("0090953", "NYU", "NC"),
}
NO_T1 = {"2 rows such as 0091232 in Phenotypic_V1_0b.csv": "no image"}


def test_abide_archives(tmp_path: Path) -> None:
    """DSM_IV_TR 0 with DX_GROUP 1 is autism; the table's SITE_ID is not used."""
    conversion = convert(shipped(514), indi.abide_archives(tmp_path / "in"))
    assert facts(conversion) == {name: (patient, "1", site, c) for name, (patient, site, c) in ABIDE.items()}
    assert reasons(conversion) == {
        "sub-0090643": "DX_GROUP is '-9999'",
        "sub-0090999": "no row for 0090999 in Phenotypic_V1_0b.csv",
        "6 files such as in/RawData/CMU_a/0090642/session_1/rest_1/rest": "functional series",
        **NO_T1,
    }


def test_abide_bids(tmp_path: Path) -> None:
    conversion = convert(shipped(514), indi.abide_bids(tmp_path / "in"))
    assert facts(conversion) == {name: (patient, None, site, c) for name, (patient, site, c) in ABIDE.items()}
    func = "in/RawDataBIDS/CMU_a/sub-0090642/func/sub-0090642_task-rest_run-1_bold"
    assert reasons(conversion) == {
        "sub-0090643": "DX_GROUP is '-9999'",
        f"4 files such as {func}": "functional series",
        **NO_T1,
    }


def test_abide_nitrc(tmp_path: Path) -> None:
    conversion = convert(shipped(514), indi.abide_nitrc(tmp_path / "in"))
    sites = {"sub-0090642": "CMU", "sub-0090952": "NYU", "sub-0090953": "NYU"}
    assert facts(conversion) == {n: (patient, None, sites[n], c) for n, (patient, _, c) in ABIDE.items()}
    assert reasons(conversion) == {
        "3 files such as in/CMU_90642/scans/rest/NIfTI/rest": "functional series",
        "3 rows such as 0090643 in Phenotypic_V1_0b.csv": "no image",
    }


def test_abide_from_the_image_archive(tmp_path: Path) -> None:
    conversion = convert(shipped(514), indi.abide_ida(tmp_path / "in"))
    assert facts(conversion) == {
        "sub-0090952": ("0090952", "2000-01-01", None, "ASD"),
        "sub-0090953": ("0090953", "2000-01-01", None, "NC"),
    }
    (series,) = (tmp_path / "in/ABIDE/90953/Resting_State_fMRI").rglob("*.nii")
    assert reasons(conversion) == {
        series.relative_to(tmp_path).with_suffix("").as_posix(): "fits no pattern of the card",
        "0090954 in mine_1_01_2020.csv": "no image",
    }


def test_abide_preprocessed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"preprocessed \(PCP\), there is no raw T1 in it: download RawData"):
        convert(shipped(514), indi.abide_preprocessed(tmp_path / "in"))
    indi.abide_archives(tmp_path / "in")
    conversion = convert(shipped(514), tmp_path / "in")
    assert set(conversion.cases) == set(ABIDE)
    pcp = next(what for what, reason in reasons(conversion).items() if "PCP" in reason)
    assert pcp.startswith("3 files such as in/Outputs/")


# -------------------------------------------------------------------------------------------------------------- tables


def test_tables_that_contradict_each_other(tmp_path: Path) -> None:
    source = indi.abide_bids(tmp_path / "in")
    table(source / "Phenotypic_V1_0b_preprocessed1.csv", ",SUB_ID,DX_GROUP", "1,90952,2", "2,90953,2")
    conversion = convert(shipped(514), source)
    assert reasons(conversion)["sub-0090952"] == "the tables contradict each other: 1, 2"
    assert set(conversion.cases) == {"sub-0090642", "sub-0090953"}


def test_lines_with_a_comma_at_the_end(tmp_path: Path) -> None:
    """They have a field more than the header, which must not shift the columns."""
    image(tmp_path / "in/NYU/0090952/session_1/anat_1/mprage.nii.gz")
    table(tmp_path / "in/Phenotypic_V1_0b.csv", "SITE_ID,SUB_ID,DX_GROUP", "NYU,90952,2,", "NYU,90953,1,")
    assert facts(convert(shipped(514), tmp_path / "in"))["sub-0090952"][-1] == "NC"


def test_blanks_marks_and_decimals(tmp_path: Path) -> None:
    """What spreadsheets leave behind: a byte-order mark, blanks around names and cells, ids as decimal numbers."""
    image(tmp_path / "in/NYU/sub-0090001/ses-1/anat/sub-0090001_ses-1_run-1_T1w.nii.gz")
    table(tmp_path / "in/NYU_phenotypic.csv", "ScanDir ID , DX ,Site", " 90001.0 , 1.0 ,5", encoding="utf-8-sig")
    assert facts(convert(shipped(513), tmp_path / "in"))["sub-0090001"][-1] == "ADHD"


def test_without_the_table(tmp_path: Path) -> None:
    source = indi.abide_archives(tmp_path / "in")
    (source / "Phenotypic_V1_0b.csv").unlink()
    with pytest.raises(InputError, match=r"SUB_ID.*DX_GROUP"):
        convert(shipped(514), source)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("", "an empty file"),
        ('"a,b\n1,2\n', "cannot be read"),
        ("SUB_ID,DX_GROUP\n90953,1\n90952,1,2\n", "too many cells in line 3"),
        ("SUB_ID,GROUP\n90953,1\n", "none with the columns"),
    ],
)
def test_a_table_that_cannot_be_read(tmp_path: Path, content: str, found: str) -> None:
    source = indi.abide_archives(tmp_path / "in")
    (source / "Phenotypic_V1_0b.csv").write_text(content)
    with pytest.raises(InputError, match=f"in.*{found}"):
        convert(shipped(514), source)


# ------------------------------------------------------------------------------------------------------ from end to end


@pytest.mark.parametrize(
    ("number", "release"),
    [
        (513, indi.adhd200_bids),
        (513, indi.adhd200_archives),
        (514, indi.abide_archives),
        (514, indi.abide_bids),
    ],
)
def test_prepared(workspace: Workspace, tmp_path: Path, number: int, release: Callable[[Path], Path]) -> None:
    """Six more subjects, so that each part of the split has some of each class."""
    source = release(tmp_path / "in")
    indi.cohort(source, number, 6)
    expected = convert(shipped(number), source)
    block = prepare_dataset(workspace, shipped(number), source=source)
    assert block.cases.keys() == expected.cases.keys() and not block.repairs
    assert {n: c.class_name for n, c in block.cases.items()} == {n: c.class_name for n, c in expected.cases.items()}
    assert block.excluded == expected.excluded
    assert load_integrity(workspace, shipped(number)).cases.keys() == block.cases.keys()
    assert load_splits(workspace, shipped(number)).patients == {n: c.patient for n, c in block.cases.items()}


def test_a_truncated_image_is_a_fault(workspace: Workspace, tmp_path: Path) -> None:
    source = indi.abide_archives(tmp_path / "in")
    indi.cohort(source, 514, 6)
    truncate(source / "RawData/NYU/0090953/session_1/anat_1/mprage.nii.gz")
    with pytest.raises(InputError, match=r"(?s)1 fault in 1 of 9 cases.*0090953/session_1/anat_1/mprage\.nii\.gz"):
        prepare_dataset(workspace, shipped(514), source=source)
    preparation = PreparationConfig(exclude_faulty=True)
    block = prepare_dataset(workspace, shipped(514), source=source, preparation=preparation)
    assert len(block.cases) == 8 and "truncated" in {e.what: e.reason for e in block.excluded}["sub-0090953"]
