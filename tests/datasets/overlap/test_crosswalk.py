"""The mapping tables as they are handed around: other separators, encodings, headers; all ids are made up."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from mvp_bench.datasets.catalog import load_cards
from mvp_bench.datasets.overlap.crosswalk import (
    Crosswalk,
    add_crosswalks,
    crosswalk_folder,
    read_crosswalk,
    read_crosswalks,
)
from mvp_bench.errors import InputError
from mvp_bench.workspace import Workspace
from tests.toy import toy_card, write_cards

GLI = [
    "BraTS2023,BraTS2021,BraTS2020,BraTS2019,BraTS2018,BraTS2017,Cohort Name (if publicly available),"
    "Site No (represents the originating institution),Local ID",
    "BraTS-GLI-90001-000,BraTS2021_90001,BraTS20_Training_901,BraTS19_TCIA99_901_1,Brats18_TCIA99_901_1,"
    "Brats17_TCIA_901_1,TCGA-GBM,1,TCGA-99-0001_1999.01.02",
    "BraTS-GLI-90001-001,BraTS2021_91538,,,,,UCSF-PDGM_Additional,18,77",
    "BraTS-GLI-90002-000,BraTS2021_90002,,,,,Private Collection,5,1",
]
GLI_LINKS = (
    (
        "brats-gli:90001",
        "brats20:training_901",
        "brats-19:tcia99_901_1",
        "brats-18:tcia99_901_1",
        "brats-17:tcia_901_1",
        "tcga:tcga-99-0001",
    ),
    ("brats-gli:90001", "brats-gli:91538", "ucsf-pdgm_additional:77"),
)


def read(path: Path) -> Crosswalk:
    return read_crosswalk(path, load_cards(None).values())


def write(path: Path, lines: list[str], encoding: str = "utf-8", separator: str = ",", end: str = "\n") -> Path:
    path.write_bytes(end.join(line.replace(",", separator) for line in lines).encode(encoding))
    return path


def workbook(path: Path, lines: list[str], above: int = 0) -> Path:
    rows = [["a title"]] * above + [line.split(",") for line in lines]
    with pd.ExcelWriter(path) as writer:
        pd.DataFrame([["read me"]]).to_excel(writer, sheet_name="notes", index=False, header=False)
        pd.DataFrame(rows).to_excel(writer, sheet_name="data", index=False, header=False)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_the_2023_sheet_saved_as_text(tmp_path: Path, encoding: str, separator: str) -> None:
    table = read(write(tmp_path / "gli.csv", [*GLI, ",,,,,,Köln,,"], encoding, separator, "\r\n"))
    assert table.links == GLI_LINKS


@pytest.mark.parametrize("above", [0, 2])
def test_the_2023_sheet_as_a_workbook(tmp_path: Path, above: int) -> None:
    assert read(workbook(tmp_path / "BraTS2023_2017_GLI_Mapping.xlsx", GLI, above)).links == GLI_LINKS


def test_the_2021_table_with_its_blank_and_missing_values(tmp_path: Path) -> None:
    lines = [
        "BraTS2021,BraTS2020,BraTS2019,BraTS2018,BraTS2017,Cohort Name (if publicly available),Site No,Local ID\u00a0",
        "BraTS2021_90003,N/A,N/A,Brats18_2013_99_1,N/A,priorToBraTS2017,21,HGG_0099",
        "N/A,BraTS20_Training_953,N/A,N/A,N/A,IvyGAP,2,W99",
        "BraTS2021_90004,N/A,N/A,N/A,N/A,Private Collection,3,12",
    ]
    assert read(write(tmp_path / "BraTS21-17_Mapping.csv", lines)).links == (
        ("brats-gli:90003", "brats-18:2013_99_1"),
        ("brats20:training_953", "ivygap:w99"),
    )


def test_tcia_sheet_with_bare_numbers(tmp_path: Path) -> None:
    lines = [
        "Data Collection (as on TCIA),Site No,TCIA PatientID,BraTS2021 ID,Segmentation (Task 1) Cohort,MGMT value",
        "UCSF-PDGM,18,9,BraTS2021_90009,Training,1",
        "UPENN-GBM,20,UPENN-GBM-90010,BraTS2021_90010,Validation,",
        "new-not-previously-in-TCIA,5,17,BraTS2021_90011,Training,0",
        "UCSF-PDGM,18,,BraTS2021_90012,Training,0",
    ]
    expected = (("ucsf-pdgm:9", "brats-gli:90009"), ("upenn-gbm:90010", "brats-gli:90010"))
    assert read(workbook(tmp_path / "BraTS2021_MappingToTCIA.xlsx", lines)).links == expected
    assert read(write(tmp_path / "same.csv", lines)).links == expected


def test_numbers_of_a_workbook_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "numbers.xlsx"
    pd.DataFrame(
        {"Data Collection": ["UCSF-PDGM", "UCSF-PDGM"], "TCIA PatientID": [9, None], "BraTS2021 ID": [90009, 90010]}
    ).to_excel(path, index=False)
    assert read(path).links == (("ucsf-pdgm:9", "brats-gli:90009"),)


def test_ucsf_metadata(tmp_path: Path) -> None:
    lines = [
        "ID,Sex,Age at MRI,MGMT status,BraTS21 ID,BraTS21 Segmentation Cohort,BraTS21 MGMT Cohort",
        "UCSF-PDGM-904,M,66,unknown,BraTS2021_90097,Training,Training",
        "UCSF-PDGM-905,F,80,negative,,,",
        "UCSF-PDGM-906,F,80,negative,unknown,,",
        "UCSF-PDGM-0907_FU003d,F,80,negative,BraTS2021_90098,,",
    ]
    assert read(write(tmp_path / "UCSF-PDGM-metadata_v5.csv", lines)).links == (
        ("ucsf-pdgm:904", "brats-gli:90097"),
        ("ucsf-pdgm:907", "brats-gli:90098"),
    )


def test_name_mapping_of_2020(tmp_path: Path) -> None:
    lines = [
        "Grade,BraTS_2017_subject_ID,BraTS_2018_subject_ID,TCGA_TCIA_subject_ID,BraTS_2019_subject_ID,"
        "BraTS_2020_subject_ID",
        "HGG,Brats17_CBICA_ZZZ_1,Brats18_CBICA_ZZZ_1,NA,BraTS19_CBICA_ZZZ_1,BraTS20_Training_901",
        "LGG,NA,NA,TCGA-99-7777,NA,BraTS20_Training_902",
        "LGG,NA,NA,NA,NA,BraTS20_Training_903",
    ]
    assert read(write(tmp_path / "name_mapping.csv", lines)).links == (
        ("brats-17:cbica_zzz_1", "brats-18:cbica_zzz_1", "brats-19:cbica_zzz_1", "brats20:training_901"),
        ("tcga:tcga-99-7777", "brats20:training_902"),
    )


def test_a_table_of_ones_own(workspace: Workspace, tmp_path: Path) -> None:
    write_cards(
        workspace.root, toy_card(number=901), toy_card(number=902).model_copy(update={"patient_space": "Hospital"})
    )
    path = write(tmp_path / "own.csv", ["Toy901;hospital;note", "p01;0007;x", "p02;UPENN-GBM-90002;y", "p03;;z"])
    assert read_crosswalk(path, load_cards(workspace.root).values()).links == (
        ("dataset901_toy901:p01", "hospital:7"),
        ("dataset901_toy901:p02", "upenn-gbm:90002"),
    )


def test_tables_are_kept_in_the_workspace(workspace: Workspace, tmp_path: Path) -> None:
    path = write(tmp_path / "gli.csv", GLI)
    (target,) = add_crosswalks(workspace, [path])
    assert target.parent == crosswalk_folder(workspace) == workspace.datasets / "crosswalks"
    assert target.read_bytes() == path.read_bytes()
    (crosswalk_folder(workspace) / ".gli.csv.swp").write_text("x")
    (crosswalk_folder(workspace) / "notes.md").write_text("x")
    assert [table.links for table in read_crosswalks(workspace, [])] == [GLI_LINKS]
    assert load_cards(workspace.root) == load_cards(None)


def test_a_faulty_table_is_refused_and_none_is_copied(workspace: Workspace, tmp_path: Path) -> None:
    good = write(tmp_path / "gli.csv", GLI)
    faults = {
        "columns Age, Site": write(tmp_path / "ages.csv", ["Age,Site", "1,2"]),
        "columns ID, Age": write(tmp_path / "one.csv", ["ID,Age", "UCSF-PDGM-904,2"]),
        "no row with two ids": write(tmp_path / "none.csv", ["BraTS2021,BraTS2020", "BraTS2021_90001,NA"]),
        "no such file": tmp_path / "absent.csv",
        "a file .xls": write(tmp_path / "old.xls", GLI),
        "no Excel workbook": write(tmp_path / "false.xlsx", GLI),
        r"\(none\)": write(tmp_path / "empty.csv", []),
    }
    for message, path in faults.items():
        with pytest.raises(InputError, match=message):
            add_crosswalks(workspace, [good, path])
    assert not crosswalk_folder(workspace).exists()
    with pytest.raises(InputError, match="BraTS2023"):
        read(faults["columns Age, Site"])
