"""Tables of paths: one row per image, one row per case, and every fault of a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from mvp_bench.datasets.converters import table as converter
from mvp_bench.datasets.converters.table import TableOptions
from mvp_bench.datasets.prepare import prepare_dataset
from mvp_bench.datasets.reading.conversion import parse_options
from mvp_bench.datasets.reading.sources import ALIASES, SourceOptions
from mvp_bench.datasets.schema import Card
from mvp_bench.errors import InputError
from mvp_bench.workspace import Workspace

from .releases import convert, documented_card, image, make, mask, own_card, reasons, table, voxels

LONG = ["patient,session,modality,path,label,site,note"]


def scans(root: Path, *names: str) -> Path:
    for name in names or ("p1_t1", "p1_flair", "p2_t1", "p2_flair"):
        image(root / "scans" / f"{name}.nii.gz")
    for patient in ("p1", "p2"):
        mask(root / "masks" / f"{patient}.nii.gz", (1,))
    return root


def long_table(root: Path, name: str = "images.csv") -> Path:
    rows = [
        "p1,a,T1w,scans/p1_t1.nii.gz,masks/p1.nii.gz,Ghent,first",
        "p1,a,FLAIR,scans/p1_flair.nii.gz,,Ghent,",
        "p2,,t1-n,scans/p2_t1.nii.gz,masks/p2.nii.gz,n/a,",
        "p2,,T2-FLAIR,scans/p2_flair.nii.gz,masks/p2.nii.gz,,",
    ]
    return table(root / name, *LONG, *rows)


@pytest.mark.parametrize("point_at", ["folder", "table"])
def test_one_row_per_image(tmp_path: Path, point_at: str) -> None:
    path = long_table(scans(tmp_path))
    conversion = convert(own_card("table"), tmp_path if point_at == "folder" else path)
    assert list(conversion.cases) == ["p1_a", "p2"] and not conversion.excluded and not conversion.derived
    one, two = conversion.cases.values()
    assert (one.patient, one.session, one.site) == ("p1", "a", "Ghent")
    assert (two.patient, two.session, two.site) == ("p2", None, None)
    assert one.images == {m: str(tmp_path / f"scans/p1_{m}.nii.gz") for m in ("t1", "flair")}
    assert one.label == str(tmp_path / "masks/p1.nii.gz")


def test_masks_in_rows_of_their_own(tmp_path: Path) -> None:
    scans(tmp_path)
    rows = ["p1,t1,scans/p1_t1.nii.gz", "p1,label,masks/p1.nii.gz", "p1,brain_mask,masks/p2.nii.gz"]
    path = table(tmp_path / "t.csv", "patient,modality,path", *rows)
    conversion = convert(own_card("table", modalities="t1"), path)
    assert conversion.cases["p1"].label == str(tmp_path / "masks/p1.nii.gz")
    (item,) = conversion.derived
    assert item.source == tmp_path / "scans/p1_t1.nii.gz" and item.mask == tmp_path / "masks/p2.nii.gz"


def test_one_row_per_case_with_classes(tmp_path: Path) -> None:
    """Semicolons, other column names, a byte order mark, absolute paths, values that are no class."""
    scans(tmp_path)
    rows = [
        f"P1;{tmp_path}/scans/p1_t1.nii.gz;scans/p1_flair.nii.gz;AD;71",
        "P2;scans/p2_t1.nii.gz;scans/p2_flair.nii.gz;HC;70",
        "P3;scans/p1_t1.nii.gz;scans/p2_flair.nii.gz;MCI;70",
        "P4;scans/p1_t1.nii.gz;scans/p2_flair.nii.gz;;70",
        "P5;scans/p1_t1.nii.gz;n/a;HC;70",
    ]
    path = table(tmp_path / "c.csv", "\ufeffSubject;T1 MPRAGE;t2f;Group;age", *rows)
    mine = own_card(
        "table",
        "classification",
        columns={"patient": "subject", "class": "group"},
        class_map={"AD": "ill", "HC": "well"},
        modality_names={"t1_mprage": "t1"},
    )
    conversion = convert(mine, path)
    assert {name: case.class_name for name, case in conversion.cases.items()} == {"P1": "ill", "P2": "well"}
    assert reasons(conversion) == {
        "P3": "class 'MCI' is not in class_map",
        "P4": "the source gives no class",
        "P5": "lacks flair",
    }


def test_modalities_that_the_card_does_not_want_are_listed(tmp_path: Path) -> None:
    scans(tmp_path, "p1_t1", "p1_t2", "p1_asl")
    rows = ["p1,t1,scans/p1_t1.nii.gz", "p1,T2,scans/p1_t2.nii.gz", "p1,ASL,scans/p1_asl.nii.gz"]
    path = table(tmp_path / "t.csv", "patient,modality,path", *rows)
    conversion = convert(own_card("table", "pretraining", modality_names={"asl": None}), path)
    assert conversion.cases["p1"].modalities == ["t1"]
    assert reasons(conversion) == {f"{tmp_path.name}/scans/p1_t2": "t2 is not a modality of the card"}


@pytest.mark.parametrize(
    ("row", "number", "message"),
    [
        ("p3,,T1w,scans/none.nii.gz,,,", 6, "no file .*none.nii.gz"),
        ("p3,,T9,scans/p1_t1.nii.gz,,,", 6, "the modality 'T9'"),
        ("p2,,T1,scans/p1_t1.nii.gz,,,", 6, "another file for t1 of p2, as in row 4"),
        ("p2,,T1,scans/p2_t1.nii.gz,,,", 6, "another file for t1 of p2, as in row 4"),
        ("p2,,,,masks/p1.nii.gz,,", 6, "another file for label of p2, as in row 4"),
        (",,T1,scans/p1_t1.nii.gz,,,", 6, "no patient"),
        ("p3,,T1,,,,", 6, "no file"),
        ("p3,,T1,a,b,c,d,e", 6, "8 cells"),
    ],
)
def test_faults_name_the_row(tmp_path: Path, row: str, number: int, message: str) -> None:
    path = long_table(scans(tmp_path))
    path.write_text(path.read_text() + row + "\n")
    with pytest.raises(InputError, match=message) as caught:
        convert(own_card("table"), path)
    assert caught.value.where == f"{path}: row {number}"


def test_all_faulty_rows_are_named_at_once(tmp_path: Path) -> None:
    path = long_table(scans(tmp_path))
    path.write_text(path.read_text() + "p3,,T1,x.nii.gz,,,\np3,,FLAIR,y.nii.gz,,,\np4,,Q,y.nii.gz,,,\n")
    with pytest.raises(InputError, match=r"row 6: .*2 more faults, in rows 7, 8"):
        convert(own_card("table"), path)


def test_two_classes_of_one_case(tmp_path: Path) -> None:
    scans(tmp_path)
    rows = ["p1,t1,scans/p1_t1.nii.gz,ill", "p1,flair,scans/p1_flair.nii.gz,well"]
    path = table(tmp_path / "t.csv", "patient,modality,path,class", *rows)
    with pytest.raises(InputError, match=r"row 3: found class 'well' for p1, 'ill' in row 2"):
        convert(own_card("table", "classification"), path)


@pytest.mark.parametrize(
    ("header", "options", "message"),
    [
        ("subject,t1", {}, "a column patient"),
        ("patient,t1", {"columns": {"class": "dx"}}, "a column dx"),
        ("patient,age", {}, "columns modality and path"),
        ("patient,t1,T1w", {}, "two columns for t1"),
        ("patient,t1,T1", {}, "columns, each once"),
        ("", {}, "columns, each once"),
    ],
)
def test_faulty_columns(tmp_path: Path, header: str, options: dict, message: str) -> None:
    path = table(tmp_path / "t.csv", header, *[",".join("x" for _ in header.split(","))] * bool(header))
    with pytest.raises(InputError, match=message):
        convert(own_card("table", **options), path)


def test_which_table(tmp_path: Path) -> None:
    long_table(scans(tmp_path))
    table(tmp_path / "ages.tsv", "patient\tage", "p1\t3")
    with pytest.raises(InputError, match=r"2 tables \(ages.tsv, images.csv\)"):
        convert(own_card("table"), tmp_path)
    assert len(convert(own_card("table", table="images.csv"), tmp_path).cases) == 2
    with pytest.raises(InputError, match="0 tables"):
        convert(own_card("table"), tmp_path / "scans")


def test_files_that_are_not_nifti(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.full((4, 5, 6), 3, np.int16)), str(tmp_path / "t1.nrrd"))
    path = table(tmp_path / "t.csv", "patient,t1", "p1,t1.nrrd")
    conversion = convert(own_card("table", "pretraining"), path, tmp_path / "out")
    make(conversion.derived)
    written = voxels(conversion.cases["p1"].images["t1"])
    assert written.shape == (6, 5, 4) and (written == 3).all()


def test_encoding(tmp_path: Path) -> None:
    scans(tmp_path)
    rows = ["patient\tsite\tt1", "p1\tLiège\tscans/p1_t1.nii.gz"]
    path = table(tmp_path / "t.tsv", *rows, encoding="latin-1")
    with pytest.raises(InputError, match=r"converter_options\.encoding"):
        convert(own_card("table", "pretraining"), path)
    case = convert(own_card("table", "pretraining", encoding="latin-1"), path).cases["p1"]
    assert case.site == "Liège"


def test_the_documented_card(tmp_path: Path) -> None:
    card = documented_card(converter)
    parse_options(TableOptions, card)
    scans(tmp_path)
    rows = ["A1,ill,scans/p1_t1.nii.gz,scans/p1_flair.nii.gz", "A2,well,scans/p2_t1.nii.gz,scans/p2_flair.nii.gz"]
    path = table(tmp_path / "t.csv", "patient_id,group,MPRAGE_sag,FLAIR", *rows)
    cases = convert(card, path).cases
    assert {name: case.class_name for name, case in cases.items()} == {"A1": "patient", "A2": "control"}


def test_prepared_from_the_table_itself(workspace: Workspace, tmp_path: Path) -> None:
    """The source of a preparation may be a file; paths outside its folder are fine."""
    scans(tmp_path)
    rows = [f"p{n},../scans/p{n}_t1.nii.gz" for n in (1, 2)]
    path = table(tmp_path / "lists" / "t.csv", "patient,t1", *rows)
    card = Card.model_validate({**own_card("table", "pretraining", "t1").model_dump(), "split": {"ratio": (1, 0, 0)}})
    block = prepare_dataset(workspace, card, source=path)
    assert list(block.cases) == ["p1", "p2"] and block.release == str(path)


def test_every_alias_means_one_modality() -> None:
    names = [name for names in ALIASES.values() for name in names.split()]
    assert len(set(names)) == len(names)
    options = SourceOptions(modality_names={"T2 FLAIR": "t2", "DTI": None})
    assert [options.modality_of(name) for name in ("T1-Gd", "t2_flair", "dti", "PDw", "TOF")] == [
        "t1c", "t2", None, "pd", "mra",
    ]  # fmt: skip
    with pytest.raises(KeyError):
        options.modality_of("CT")
