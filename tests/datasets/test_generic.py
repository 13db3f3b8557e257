"""The generic converter: patterns, tables, masks, grids; and the shipped cards that rely on it."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mvp_bench.datasets.derive import write_derived
from mvp_bench.datasets.schema import Card
from mvp_bench.errors import InputError

from .releases import SHAPE, SRI24, convert, image, mask, reasons, save, shipped, table, with_options

SMALL = np.diag([2.0, 2, 2, 1])


def card(kind: str = "segmentation", **options: object) -> Card:
    return Card.model_validate(
        {
            "id": 700,
            "name": "Mine",
            "title": "mine",
            "kind": kind,
            "modalities": ["t1", "flair"],
            "labels": {"background": 0, "lesion": 1} if kind == "segmentation" else {},
            "regions": {"lesion": [1]} if kind == "segmentation" else {},
            "classes": ["a", "b"] if kind == "classification" else [],
            **{name: "none" for name in ("patient_rule", "licence", "access", "url", "citation")},
            "converter": "generic",
            "converter_options": {
                "images": {"t1": "(?P<patient>p\\d+)/t1", "flair": "(?P<patient>p\\d+)/flair"},
                **({"label": "(?P<patient>p\\d+)/seg"} if kind == "segmentation" else {}),
                **options,
            },
        }
    )


def patients(root: Path, count: int = 2) -> Path:
    for number in range(count):
        folder = root / "in" / f"p{number}"
        image(folder / "t1.nii.gz")
        image(folder / "flair.nii.gz")
        mask(folder / "seg.nii.gz", (1,))
    return root / "in"


def test_patterns_match_whole_names_from_a_folder_border(tmp_path: Path) -> None:
    source = patients(tmp_path)
    image(source / "p0" / "t1_1mm.nii.gz")
    image(source / "xp0" / "t1.nii.gz")
    conversion = convert(card(), source)
    assert list(conversion.cases) == ["p0", "p1"]
    assert set(reasons(conversion)) == {"in/p0/t1_1mm", "in/xp0/t1"}


def test_pointing_one_folder_lower_still_works(tmp_path: Path) -> None:
    source = patients(tmp_path, 1)
    assert list(convert(card(), source / "p0").cases) == ["p0"]


def test_natural_order_and_alternatives(tmp_path: Path) -> None:
    for run in (10, 2):
        image(tmp_path / "in" / f"p0_run-{run}_t1.nii.gz")
    image(tmp_path / "in" / "p0_other_t1.nii.gz")
    image(tmp_path / "in" / "p1_other_t1.nii.gz")
    mine = card("pretraining", images={"t1": ["(?P<patient>p\\d)_run-\\d+_t1", "(?P<patient>p\\d)_other_t1"]})
    conversion = convert(mine, tmp_path / "in")
    assert str(conversion.cases["p0"].images["t1"]).endswith("run-2_t1.nii.gz")
    assert str(conversion.cases["p1"].images["t1"]).endswith("other_t1.nii.gz")
    assert set(reasons(conversion)) == {"in/p0_run-10_t1", "in/p0_other_t1"}


def test_one_name_for_two_modalities_is_an_error(tmp_path: Path) -> None:
    mine = card(images={"t1": "(?P<patient>p\\d+)/t1", "flair": "(?P<patient>p\\d+)/t."})
    with pytest.raises(InputError, match="t1 and flair"):
        convert(mine, patients(tmp_path))


def test_modality_that_the_card_does_not_list(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"images\.dwi"):
        convert(card(images={"dwi": "(?P<patient>p)"}), patients(tmp_path))


@pytest.mark.parametrize(("option", "value"), [("case_id", "{nothing}"), ("case_id", "a b"), ("patient_id", "{x}")])
def test_wrong_id_formats(tmp_path: Path, option: str, value: str) -> None:
    with pytest.raises(InputError, match=option):
        convert(card(**{option: value}), patients(tmp_path))


def test_brain_mask_makes_the_background_zero(tmp_path: Path) -> None:
    source = patients(tmp_path)
    for number in range(2):
        data = np.zeros(SHAPE)
        data[2:6, 2:6, 2:6] = 0.99999997
        save(source / f"p{number}" / "mask.nii.gz", data)
    image(source / "p0" / "t1.nii.gz", fill=-3.0)
    conversion = convert(card(mask="(?P<patient>p\\d+)/mask"), source, tmp_path / "output")
    assert len(conversion.derived) == 4 and "outside the brain mask" in conversion.repairs[0].repair
    for item in conversion.derived:
        write_derived(item)
    written = np.asanyarray(nib.load(str(conversion.cases["p0"].images["t1"])).dataobj)
    assert (written[2:6, 2:6, 2:6] == -3).all() and np.count_nonzero(written) == 64


def test_brain_mask_on_another_grid(tmp_path: Path) -> None:
    source = patients(tmp_path, 1)
    save(source / "p0" / "mask.nii.gz", np.ones(SHAPE, np.uint8), SMALL)
    conversion = convert(card(mask="(?P<patient>p\\d+)/mask"), source)
    with pytest.raises(InputError, match=r"mask\.nii\.gz.*voxels of \(2, 2, 2\)"):
        write_derived(conversion.derived[0])


def test_reference_grid(tmp_path: Path) -> None:
    """A ramp in world coordinates is the same ramp after resampling; outside the field of view it is 0."""
    source = patients(tmp_path, 1)
    affine = np.array([[0, 0, 2.0, -3], [2, 0, 0, -3], [0, -2, 0, 9], [0, 0, 0, 1]])
    index = np.stack(np.meshgrid(*map(np.arange, (8, 8, 8)), indexing="ij"), -1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    save(source / "p0" / "flair.nii.gz", (50 + world.sum(-1)).astype(np.float32), affine)
    image(source / "p0" / "t1.nii.gz", np.eye(4))
    conversion = convert(card(reference_grid="t1"), source, tmp_path / "output")
    assert [Path(item.source).name for item in conversion.derived] == ["flair.nii.gz"]
    assert "not registered" in conversion.repairs[0].repair
    write_derived(conversion.derived[0])
    written = nib.load(str(conversion.cases["p0"].images["flair"]))
    data = np.asanyarray(written.dataobj)
    assert written.shape == SHAPE and np.array_equal(written.affine, np.eye(4))
    assert data[1, 2, 3] == pytest.approx(56, abs=1e-4) and data[4, 5, 6] == pytest.approx(65, abs=1e-4)
    assert data[7, 8, 9] == pytest.approx(74, abs=1e-4)
    wrong = card(reference_grid="adc")
    with pytest.raises(InputError, match="reference_grid"):
        convert(wrong, source)


def test_class_from_the_path(tmp_path: Path) -> None:
    for number, group in enumerate(("Ill", "Well", "Unknown")):
        image(tmp_path / "in" / group / f"p{number}.nii.gz")
    image(tmp_path / "in" / "p9.nii.gz")
    pattern = "(?:(?P<class>Ill|Well|Unknown)/)?(?P<patient>p\\d)"
    mine = card("classification", images={"t1": pattern}, class_map={"Ill": "a", "Well": "b"}, allow_missing=True)
    conversion = convert(mine, tmp_path / "in")
    assert {name: case.class_name for name, case in conversion.cases.items()} == {"p0": "a", "p1": "b"}
    assert "class_map" in reasons(conversion)["p2"] and "names no class" in reasons(conversion)["p9"]


# ------------------------------------------------------------------------------------------------ shipped cards


def test_isles_trees_a_b_and_d(tmp_path: Path) -> None:
    a, b, d = tmp_path / "a/ISLES-2022", tmp_path / "b/dataset", tmp_path / "d"
    for name, folder in (("dwi", "dwi/"), ("adc", "dwi/"), ("FLAIR", "anat/")):
        image(a / f"sub-strokecase0001/ses-0001/{folder}sub-strokecase0001_ses-0001_{name}.nii.gz")
        image(b / f"rawdata/sub-strokecase0001/ses-0001/sub-strokecase0001_ses-0001_{name.lower()}.nii.gz")
        image(d / f"sub-strokecase0001_ses-0001/sub-strokecase0001_ses-0001_{name}.nii.gz")
    mask(a / "derivatives/sub-strokecase0001/ses-0001/sub-strokecase0001_ses-0001_msk.nii.gz", (1,))
    mask(b / "derivatives/sub-strokecase0001/ses-0001/sub-strokecase0001_ses-0001_msk.nii.gz", (1,))
    mask(d / "sub-strokecase0001_ses-0001/sub-strokecase0001_ses-0001_msk.nii.gz", (1,))
    for source in (a, b, d):
        conversion = convert(shipped(503), source)
        case = conversion.cases["sub-strokecase0001_ses-0001"]
        assert case.patient == "sub-strokecase0001" and case.modalities == ["flair", "dwi", "adc"] and case.label
        assert not conversion.excluded and not conversion.derived


def test_isles_flair_goes_onto_the_dwi_grid(tmp_path: Path) -> None:
    top = tmp_path / "in" / "sub-strokecase0001_ses-0001"
    image(top / "sub-strokecase0001_ses-0001_dwi.nii.gz", SMALL)
    image(top / "sub-strokecase0001_ses-0001_adc.nii.gz", SMALL)
    image(top / "sub-strokecase0001_ses-0001_FLAIR.nii.gz", np.eye(4), (16, 18, 20))
    mask(top / "sub-strokecase0001_ses-0001_msk.nii.gz", (1,), SMALL)
    conversion = convert(shipped(503), tmp_path / "in")
    assert [item.source.name for item in conversion.derived] == ["sub-strokecase0001_ses-0001_FLAIR.nii.gz"]


def test_vsseg_official_nifti(tmp_path: Path) -> None:
    top = tmp_path / "in"
    for number, t2 in ((1, "refT1"), (2, "refT2")):
        image(top / f"vs_gk_{number}" / "vs_gk_t1_refT1.nii.gz")
        image(top / f"vs_gk_{number}" / f"vs_gk_t2_{t2}.nii.gz", SRI24 if t2 == "refT1" else SMALL)
        mask(top / f"vs_gk_{number}" / "vs_gk_seg_refT1.nii.gz", (1,))
        mask(top / f"vs_gk_{number}" / "vs_gk_seg_refT2.nii.gz", (1,), SMALL)
    conversion = convert(shipped(506), top)
    assert list(conversion.cases) == ["vs_gk_1", "vs_gk_2"]
    assert [item.target.name for item in conversion.derived] == ["vs_gk_2_t2.nii.gz"]
    assert str(conversion.cases["vs_gk_1"].label).endswith("refT1.nii.gz")


ADNI_HEADER = '"Image Data ID","Subject","Group","Sex","Age","Visit","Modality","Description","Type","Acq Date"'


def adni(root: Path) -> Path:
    def scan(subject: str, description: str, date: str, number: int) -> None:
        name = f"ADNI_{subject}_MR_{description}_Br_20081001114556321_S13408_I{number}.nii"
        image(root / "in" / "ADNI" / subject / description / f"{date}_08_20_30.0" / f"I{number}" / name)

    scan("999_S_0001", "MPR__GradWarp__N3__Scaled_2", "2006-04-18", 10)
    scan("999_S_0001", "MPR__GradWarp__N3__Scaled", "2006-04-18", 11)
    scan("999_S_0001", "MPR__GradWarp__N3__Scaled", "2007-04-18", 12)
    scan("999_S_0002", "MPR__GradWarp__N3__Scaled", "2006-04-18", 13)
    scan("999_S_0003", "MPR__GradWarp__N3__Scaled", "2006-04-18", 14)
    scan("999_S_0004", "MPR__GradWarp__N3__Scaled", "2006-04-18", 15)
    rows = [
        f'"{image_id}","{subject}","{group}","M","70","sc","MRI","MPR","Processed","4/18/2006"'
        for image_id, subject, group in (
            ("I10", "999_S_0001", "CN"),
            ("I11", "999_S_0001", "CN"),
            ("I12", "999_S_0001", "CN"),
            ("13", "999_S_0002", "LMCI"),
            ("I14", "999_S_0003", "SMC"),
        )
    ]
    table(root / "in" / "ADNI1_Complete_1Yr_1.5T_1_01_2020.csv", ADNI_HEADER, *rows)
    return root / "in"


def test_adni(tmp_path: Path) -> None:
    conversion = convert(shipped(512), adni(tmp_path))
    assert {name: case.class_name for name, case in conversion.cases.items()} == {
        "999_S_0001_I11": "CN",
        "999_S_0002_I13": "MCI",
    }
    case = conversion.cases["999_S_0001_I11"]
    assert case.patient == "999_S_0001" and case.session == "2006-04-18" and case.site == "999"
    found = reasons(conversion)
    assert "999_S_0001_I11 is kept" in found["999_S_0001_I10"] and "is kept" in found["999_S_0001_I12"]
    assert found["999_S_0003_I14"] == "Group is 'SMC'" and "no row for 15" in found["999_S_0004_I15"]


def test_adni_without_its_table(tmp_path: Path) -> None:
    source = adni(tmp_path)
    next(source.glob("*.csv")).unlink()
    with pytest.raises(InputError, match="Image Data ID"):
        convert(shipped(512), source)


@pytest.mark.parametrize("content", ["", '"a,b\n1,2\n'])
def test_a_table_that_cannot_be_read(tmp_path: Path, content: str) -> None:
    source = adni(tmp_path)
    path = next(source.glob("*.csv"))
    path.write_text(content)
    with pytest.raises(InputError, match=path.name.replace(".", r"\.")):
        convert(shipped(512), source)


def test_adhd200_bids(tmp_path: Path) -> None:
    top = tmp_path / "RawDataBIDS"
    image(top / "NYU/sub-0010001/ses-1/anat/sub-0010001_ses-1_run-1_T1w.nii.gz")
    image(top / "NYU/sub-0010001/ses-1/func/sub-0010001_ses-1_task-rest_run-1_bold.nii.gz")
    image(top / "Peking_3/sub-1050345/ses-1/anat/sub-1050345_ses-1_acq-1_run-1_T1w.nii.gz")
    image(top / "Peking_3/sub-1050345/ses-1/anat/sub-1050345_ses-1_acq-2_run-1_T1w.nii.gz")
    image(top / "NYU/sub-0010003/ses-1/anat/sub-0010003_ses-1_run-1_T1w.nii.gz")
    image(top / "NYU/sub-0010004/ses-1/anat/sub-0010004_ses-1_run-1_T1w.nii.gz")
    rows = ["participant_id\tdx\tnote", "10001\tADHD-Combined\tNaïve", "1050345\tTypically Developing Children\t"]
    table(top / "NYU" / "participants.tsv", *rows, "10003\tpending\t", encoding="latin-1")
    table(top / "allSubs_testSet_phenotypic_dx.csv", "ID,Site,DX", "10003,5,0", "10004,5,-999")
    conversion = convert(shipped(513), top)
    assert {name: (case.patient, case.class_name, case.site) for name, case in conversion.cases.items()} == {
        "sub-0010001": ("0010001", "ADHD", "NYU"),
        "sub-0010003": ("0010003", "NC", "NYU"),
        "sub-1050345": ("1050345", "NC", "Peking_3"),
    }
    assert "acq-1" in str(conversion.cases["sub-1050345"].images["t1"])
    assert reasons(conversion)["sub-0010004"] == "DX is '-999'"


def test_adhd200_site_archives(tmp_path: Path) -> None:
    image(tmp_path / "in/KKI/1018959/session_1/anat_1/mprage.nii.gz")
    image(tmp_path / "in/KKI/1018959/session_1/rest_1/rest.nii.gz")
    image(tmp_path / "in/WashU/0015001/session_2/anat_1/mprage.nii.gz")
    table(tmp_path / "in/KKI/KKI_phenotypic.csv", "ScanDir ID,Site,DX,Secondary Dx ,ADHD Measure", "1018959,3,3,,1")
    table(tmp_path / "in/WashU/WashU_phenotypic.csv", "ScanDirID,Study #,DX", "15001,1,0")
    conversion = convert(shipped(513), tmp_path / "in")
    assert {name: case.class_name for name, case in conversion.cases.items()} == {
        "sub-0015001": "NC",
        "sub-1018959": "ADHD",
    }


@pytest.mark.parametrize("tree", ["sub-{0}/anat/sub-{0}_T1w", "{0}/session_1/anat_1/mprage"])
def test_abide(tmp_path: Path, tree: str) -> None:
    for subject in ("0050952", "0050003", "0050004"):
        image(tmp_path / "in" / "NYU" / f"{tree.format(subject)}.nii.gz")
    rows = ["SITE_ID,SUB_ID,DX_GROUP,DSM_IV_TR,AGE", "NYU,50952,1,0,9", "NYU,50003,2,-9999,8", "NYU,51232,1,1,7"]
    table(tmp_path / "in" / "Phenotypic_V1_0b.csv", *rows)
    conversion = convert(shipped(514), tmp_path / "in")
    assert {name: case.class_name for name, case in conversion.cases.items()} == {
        "sub-0050003": "NC",
        "sub-0050952": "ASD",
    }
    assert "no row for 0050004" in reasons(conversion)["sub-0050004"]


def test_contradicting_tables(tmp_path: Path) -> None:
    for subject in ("0050952", "0050003"):
        image(tmp_path / "in" / "NYU" / f"sub-{subject}/anat/sub-{subject}_T1w.nii.gz")
    table(tmp_path / "in" / "Phenotypic_V1_0b.csv", "SUB_ID,DX_GROUP", "50952,1", "50003,2")
    table(tmp_path / "in" / "Phenotypic_V1_0b_preprocessed1.csv", "X,SUB_ID,DX_GROUP", "1,50952,2")
    conversion = convert(shipped(514), tmp_path / "in")
    assert list(conversion.cases) == ["sub-0050003"] and "contradict" in reasons(conversion)["sub-0050952"]


@pytest.mark.parametrize("layout", ["flat", "archives", "subjects"])
def test_ixi(tmp_path: Path, layout: str) -> None:
    folders = {"flat": "", "archives": "IXI-{1}/", "subjects": "{0}/"}
    grids = {"T1": np.eye(4), "T2": SMALL, "PD": SMALL, "MRA": SRI24}
    for subject, names in (("IXI002-Guys-0828", ("T1", "T2", "PD")), ("IXI012-HH-1211", tuple(grids))):
        for name in (*names, "DTI-00"):
            folder = folders[layout].format(subject, name)
            image(tmp_path / "in" / f"{folder}{subject}-{name}.nii.gz", grids.get(name, SMALL))
    conversion = convert(shipped(525), tmp_path / "in")
    case = conversion.cases["IXI002-Guys-0828"]
    assert case.patient == "IXI002" and case.site == "Guys" and case.images["mra"] is None
    assert len(conversion.derived) == 5 and {item.grid.name[-9:] for item in conversion.derived} == {"T1.nii.gz"}
    assert reasons(conversion) == {item.what: "diffusion direction" for item in conversion.excluded}


def test_allowed_missing_in_own_card(tmp_path: Path) -> None:
    source = patients(tmp_path)
    (source / "p0" / "flair.nii.gz").unlink()
    assert reasons(convert(card(), source)) == {"p0": "lacks flair"}
    assert len(convert(with_options(card(), allow_missing=True), source).cases) == 2
