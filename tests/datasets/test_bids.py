"""Any BIDS dataset: names, sidecars, diffusion series, masks of derivatives, classes of participants.tsv."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mvp_bench.datasets.converters import bids
from mvp_bench.datasets.converters.bids import BidsOptions
from mvp_bench.datasets.reading.bids_layout import BidsName, parse_name
from mvp_bench.datasets.reading.conversion import parse_options
from mvp_bench.datasets.schema import Card, Case
from mvp_bench.errors import InputError

from .releases import SHAPE, convert, documented_card, image, make, mask, own_card, reasons, save, table, voxels

ALL = "t1 t1c t2 flair dwi adc pd mra t1ir"
LARGE = np.diag([2.0, 2, 2, 1])


def anat(root: Path, *names: str, subject: str = "01", session: str = "") -> Path:
    """Images ``sub-01[_ses-x]_<name>`` in their folders; names ending in dwi go to dwi/."""
    ses = f"ses-{session}/" if session else ""
    for name in names:
        folder = "dwi" if name.endswith(("dwi", "trace", "ADC")) else "anat"
        image(root / f"sub-{subject}/{ses}{folder}/sub-{subject}_{ses.replace('/', '_')}{name}.nii.gz")
    return root


def names(case: Case) -> dict[str, str]:
    """Modality -> what the file is called after the subject."""
    return {m: Path(str(p)).name.split("_", 1)[1].removesuffix(".nii.gz") for m, p in case.images.items() if p}


def pretraining(modalities: str = ALL, **options: object) -> Card:
    return own_card("bids", "pretraining", modalities, **options)


def test_every_known_name(tmp_path: Path) -> None:
    known = {
        "t1": "T1w", "t1c": "ce-gadolinium_T1w", "t2": "T2w", "flair": "FLAIR", "dwi": "trace", "adc": "ADC",
        "pd": "PDw", "mra": "angio", "t1ir": "inv-1_IRT1",
    }  # fmt: skip
    root = anat(tmp_path / "set", *known.values(), "ce-gd_T2w", "UNIT1", "part-phase_T1w", "strange-_T1w")
    anat(root, "acq-IR_T1w", "PD", "adc", subject="02")
    image(root / "sub-01/func/sub-01_task-rest_bold.nii.gz", shape=(4, 4, 4, 3))
    image(root / "group_T1w.nii.gz")
    conversion = convert(pretraining(), root)
    assert list(conversion.cases) == ["sub-01", "sub-02"] and not conversion.derived
    assert names(conversion.cases["sub-01"]) == known
    assert names(conversion.cases["sub-02"]) == {"t1ir": "acq-IR_T1w", "pd": "PD", "adc": "adc"}
    assert conversion.cases["sub-01"].patient == "sub-01" and conversion.cases["sub-01"].session is None
    assert reasons(conversion) == {
        "set/sub-01/anat/sub-01_ce-gd_T2w": "ce_T2w is no modality of the card",
        "set/sub-01/anat/sub-01_UNIT1": "UNIT1 is no modality of the card",
        "set/sub-01/anat/sub-01_part-phase_T1w": "part-phase: not a magnitude image",
        "2 files such as set/group_T1w": "not a BIDS name",
        "set/sub-01/func/sub-01_task-rest_bold": "bold is no modality of the card",
    }


def test_sessions(tmp_path: Path) -> None:
    root = anat(tmp_path / "set", "T1w", session="1")
    anat(root, "T1w", session="m12")
    anat(root, "T1w", subject="02")
    cases = convert(pretraining("t1"), root).cases
    assert {name: (case.patient, case.session) for name, case in cases.items()} == {
        "sub-01_ses-1": ("sub-01", "1"),
        "sub-01_ses-m12": ("sub-01", "m12"),
        "sub-02": ("sub-02", None),
    }


def test_first_of_several_and_keys_of_ones_own(tmp_path: Path) -> None:
    root = anat(tmp_path / "set", "run-10_T1w", "run-2_T1w", "acq-a_T2w", "acq-b_T2w", "FLAIR", "UNIT1")
    conversion = convert(pretraining("t1 t2 flair"), root)
    assert names(conversion.cases["sub-01"]) == {"t1": "run-2_T1w", "t2": "acq-a_T2w", "flair": "FLAIR"}
    first = "sub-01 has another file for t1: set/sub-01/anat/sub-01_run-2_T1w"
    assert reasons(conversion)["set/sub-01/anat/sub-01_run-10_T1w"] == first
    mine = pretraining("t1 t2 flair", suffixes={"unit1": "t1", "acq-B_T2w": "t2", "FLAIR": None})
    assert names(convert(mine, root).cases["sub-01"]) == {"t1": "UNIT1", "t2": "acq-b_T2w"}
    mine = pretraining("t1 t2", prefer=[".*_run-10_T1w"], ignore={".*_acq-a_T2w": "moved"})
    assert names(convert(mine, root).cases["sub-01"]) == {"t1": "run-10_T1w", "t2": "acq-b_T2w"}


@pytest.mark.parametrize(
    ("key", "name", "closeness"),
    [
        ("T1w", "sub-1_t1w", (0, 0)),
        ("T1w", "sub-1_acq-x_T1w", (0, 0)),
        ("acq-X_T1w", "sub-1_acq-x_T1w", (1, 1)),
        ("acq_T1w", "sub-1_acq-x_T1w", (1, 0)),
        ("acq-y_T1w", "sub-1_acq-x_T1w", None),
        ("T1w", "sub-1_ce-x_T1w", None),
        ("ce_T1w", "sub-1_ce-x_T1w", (1, 0)),
        ("ce_T1w", "sub-1_T1w", None),
        ("T1w", "sub-1_T2w", None),
    ],
)
def test_closeness_of_keys(key: str, name: str, closeness: tuple[int, int] | None) -> None:
    parsed = parse_name(name)
    assert parsed and parsed.fits(key) == closeness


def test_names() -> None:
    assert parse_name("sub-1_ACQ-a+b_T1w") == BidsName({"sub": "1", "acq": "a+b"}, "T1w")
    assert parse_name("dwi") == BidsName({}, "dwi")
    assert [parse_name(text) for text in ("sub-1_x_T1w", "sub-1_acq-_T1w", "sub-1_", "sub-1")] == [None] * 4


def test_contrast_agent_in_sidecars(tmp_path: Path) -> None:
    """The file's own sidecar, one for all subjects, and one that says there was none."""
    root = anat(tmp_path / "set", "acq-pre_T1w", "acq-post_T1w")
    anat(root, "acq-pre_T1w", "acq-post_T1w", subject="02")
    agent = {"ContrastBolusIngredient": "GADOLINIUM"}
    (root / "sub-01/anat/sub-01_acq-post_T1w.json").write_text(json.dumps(agent))
    (root / "sub-01/anat/sub-01_acq-pre_T1w.json").write_text(json.dumps({"EchoTime": 1}))
    (root / "acq-post_T1w.json").write_text(json.dumps(agent))
    (root / "sub-02/anat/sub-02_acq-pre_T1w.json").write_text(json.dumps({"ContrastBolusIngredient": "none"}))
    cases = convert(pretraining("t1 t1c"), root).cases.values()
    assert [names(case) for case in cases] == [{"t1": "acq-pre_T1w", "t1c": "acq-post_T1w"}] * 2


def series(root: Path, b_values: str | None, subject: str = "01", name: str = "dwi", count: int = 4) -> Path:
    """Volume n is 10 n everywhere."""
    stem = root / f"sub-{subject}/dwi/sub-{subject}_{name}"
    data = np.stack([np.full(SHAPE, 10 * n, np.int16) for n in range(count)], axis=-1)
    save(stem.with_name(f"{stem.name}.nii.gz"), data if count > 1 else data[..., 0])
    if b_values is not None:
        stem.with_name(f"{stem.name}.bval").write_text(b_values)
    return root


def test_diffusion_series(tmp_path: Path) -> None:
    root = series(tmp_path / "set", "0 1000 995 2000\n")
    series(root, None, "02")
    series(root, "0 700", "03")
    series(root, "0 0 700.5 10", "04")
    series(root, None, "05", count=1)
    series(root, "0", "06", count=1)
    conversion = convert(pretraining("dwi"), root, tmp_path / "out")
    assert list(conversion.cases) == ["sub-01", "sub-05"]
    assert {k.split("/")[1]: v for k, v in reasons(conversion).items()} == {
        "sub-02": "a diffusion series without .bval",
        "sub-03": "2 b-values for 4 volumes",
        "sub-04": "no volume of the diffusion weighting wanted (b is 0 to 700.5)",
        "sub-06": "no volume of the diffusion weighting wanted (b is 0 to 0)",
    }
    (item,) = conversion.derived
    assert item.done == "mean of 3 volumes with b >= 800"
    make(conversion.derived)
    written = voxels(conversion.cases["sub-01"].images["dwi"])
    assert written.shape == SHAPE and np.all(written == 20)
    one_shell = convert(pretraining("dwi", dwi_b_max=1500), root, tmp_path / "out")
    assert one_shell.derived[0].done == "mean of 2 volumes with b >= 800 and b <= 1500"
    make(one_shell.derived)
    assert np.all(voxels(one_shell.cases["sub-01"].images["dwi"]) == 15)


def test_b_values_for_all_subjects(tmp_path: Path) -> None:
    root = series(series(tmp_path / "set", None), None, "02")
    (root / "dwi.bval").write_text("0 1000 1000 1000")
    (root / "sub-02/dwi/sub-02_dwi.bval").write_text("0 0 0 1000")
    done = [item.done for item in convert(pretraining("dwi"), root).derived]
    assert done == ["mean of 3 volumes with b >= 800", "mean of 1 volumes with b >= 800"]
    (root / "dwi.bval").write_text("0 many")
    with pytest.raises(InputError, match=r"dwi\.bval: found could not convert"):
        convert(pretraining("dwi"), root)


def test_headers_that_cannot_be_read(tmp_path: Path) -> None:
    """The files stay in their cases: the check reports them, with all other faults."""
    root = series(anat(tmp_path / "set", "PDT2", "T1w"), "0 1000 1000 1000")
    for path in root.rglob("*.nii.gz"):
        path.write_bytes(b"\x1f\x8b damaged")
    conversion = convert(pretraining("t1 dwi pd t2"), root)
    assert names(conversion.cases["sub-01"]).keys() == {"t1", "dwi", "pd", "t2"} and not conversion.excluded
    for item in conversion.derived:
        with pytest.raises(InputError, match="truncated or corrupt"):
            make([item])


def test_dual_echo(tmp_path: Path) -> None:
    root = tmp_path / "set"
    data = np.stack([np.full(SHAPE, 1, np.float32), np.full(SHAPE, 2, np.float32)], axis=-1)
    save(root / "sub-01/anat/sub-01_PDT2.nii.gz", data)
    anat(root, "T2w", subject="02")
    save(root / "sub-02/anat/sub-02_PDT2.nii.gz", data)
    image(root / "sub-03/anat/sub-03_PDT2.nii.gz")
    conversion = convert(pretraining("pd t2"), root, tmp_path / "out")
    assert list(conversion.cases) == ["sub-01", "sub-02"]
    make(conversion.derived)
    one, two = conversion.cases.values()
    assert np.all(voxels(one.images["pd"]) == 1) and np.all(voxels(one.images["t2"]) == 2)
    assert names(two)["t2"] == "T2w" and np.all(voxels(two.images["pd"]) == 1)
    assert reasons(conversion)["set/sub-03/anat/sub-03_PDT2"] == "PDT2 with 1 volumes instead of 2"
    why = "the echoes of PDT2 are no modalities of the card"
    anat(root, "T1w")
    assert set(reasons(convert(pretraining("t1"), root)).values()) >= {why}
    assert not convert(pretraining("pd t2", suffixes={"PDT2": None}), root).derived


def test_echoes_are_registered_together(tmp_path: Path) -> None:
    """One registration moves both: the companion is unpacked first."""
    root = anat(tmp_path / "set", "T1w")
    data = np.random.default_rng(0).uniform(size=(5, 6, 7, 2))
    save(root / "sub-01/anat/sub-01_PDT2.nii.gz", data, LARGE)
    card = pretraining("t1 pd t2", align_together=[["t2", "pd"]])
    conversion = convert(card, root, tmp_path / "out")
    first, then = sorted(conversion.derived, key=lambda item: item.step)
    assert (first.step, first.target.parent.name, first.grid, first.done) == (
        0,
        "work",
        None,
        "first echo of a dual echo file",
    )
    assert (then.step, then.align, then.done) == (1, "rigid", "second echo of a dual echo file")
    assert then.companions == ((first.target, tmp_path / "out/images/sub-01_pd.nii.gz"),)
    make([first])
    assert np.allclose(voxels(first.target), data[..., 0])


def test_a_made_image_can_be_the_reference(tmp_path: Path) -> None:
    """The mean diffusion image is written first, then the others are brought onto it."""
    root = series(tmp_path / "set", "0 1000 1000 1000")
    image(root / "sub-01/anat/sub-01_FLAIR.nii.gz", LARGE, (5, 6, 7))
    conversion = convert(pretraining("dwi flair", align="header"), root, tmp_path / "out")
    dwi, flair = sorted(conversion.derived, key=lambda item: item.step)
    assert (dwi.step, flair.step, flair.grid) == (0, 1, dwi.target)
    make(conversion.derived)
    assert voxels(conversion.cases["sub-01"].images["flair"]).shape == SHAPE


def test_other_grids(tmp_path: Path) -> None:
    root = anat(tmp_path / "set", "T1w")
    image(root / "sub-01/anat/sub-01_T2w.nii.gz", LARGE, (5, 6, 7))
    (item,) = convert(pretraining("t1 t2"), root).derived
    assert item.align == "rigid" and str(item.grid).endswith("sub-01_T1w.nii.gz")
    (item,) = convert(pretraining("t1 t2", reference_grid="t2"), root).derived
    assert str(item.grid).endswith("sub-01_T2w.nii.gz")
    assert not convert(pretraining("t1 t2", reference_grid=None), root).derived


def test_what_is_not_looked_at(tmp_path: Path) -> None:
    root = anat(tmp_path / "set", "T1w", "acq-bad_T1w", "FLAIR")
    for folder in ("sourcedata", "derivatives/fmriprep", "code", "stimuli", ".git"):
        anat(root / folder, "T2w")
    anat(root, "T2w", subject="09")
    image(root / "extra/sub-01_T2w.nii.gz")
    lines = ["# bad ones", "", "*_acq-bad_*", "/sub-09/", "extra/", "**/*_FLAIR.nii.gz"]
    table(root / ".bidsignore", *lines)
    conversion = convert(pretraining("t1 t2 flair"), root)
    assert list(conversion.cases) == ["sub-01"] and names(conversion.cases["sub-01"]) == {"t1": "T1w"}
    assert sorted(reasons(conversion).values()) == [
        "in code/", "in derivatives/", "in sourcedata/", "in stimuli/", "named by .bidsignore",
    ]  # fmt: skip


@pytest.mark.parametrize("above", ["", "archive/", "archive/rawdata/"])
def test_where_the_dataset_is(tmp_path: Path, above: str) -> None:
    anat(tmp_path / "in" / above, "T1w")
    anat(tmp_path / "in" / "derivatives", "T1w")
    assert list(convert(pretraining("t1"), tmp_path / "in").cases) == ["sub-01"]


def test_no_dataset_or_several(tmp_path: Path) -> None:
    image(tmp_path / "in" / "T1w.nii.gz")
    with pytest.raises(InputError, match="no folder sub-<label>"):
        convert(pretraining(), tmp_path / "in")
    anat(tmp_path / "in" / "NYU", "T1w")
    anat(tmp_path / "in" / "KKI", "T1w")
    with pytest.raises(InputError, match="2 BIDS datasets: KKI, NYU"):
        convert(pretraining(), tmp_path / "in")
    with pytest.raises(InputError, match="no such folder"):
        convert(pretraining(), tmp_path / "none")


# ---------------------------------------------------------------------------------------------------------- masks


def lesions(root: Path, *masks: str) -> Path:
    for subject in ("01", "02"):
        anat(root, "T1w", "FLAIR", subject=subject, session="a")
    for name in masks:
        mask(root / name, (1,))
    return root


def segmentation(**options: object) -> Card:
    return own_card("bids", **options)


def labels(root: Path, **options: object) -> dict[str, str]:
    cases = convert(segmentation(**options), root).cases
    return {name: Path(str(case.label)).relative_to(root).as_posix() for name, case in cases.items()}


def test_masks_of_derivatives(tmp_path: Path) -> None:
    """With and without session; the brain's mask is no label."""
    one = "derivatives/lesions/sub-01/ses-a/anat/sub-01_ses-a_space-T1w_desc-lesion_mask.nii.gz"
    two = "derivatives/lesions/sub-02_dseg.nii.gz"
    root = lesions(tmp_path / "set", one, two, "derivatives/fmriprep/sub-01/sub-01_ses-a_desc-brain_mask.nii.gz")
    assert labels(root) == {"sub-01_ses-a": one, "sub-02_ses-a": two}
    assert "in derivatives/" in reasons(convert(segmentation(), root)).values()
    assert labels(root, label_desc="lesion") == {"sub-01_ses-a": one}
    assert set(labels(root, label_desc="brain")) == {"sub-01_ses-a"}


def test_several_masks(tmp_path: Path) -> None:
    one, two = (f"derivatives/r{n}/sub-01/sub-01_ses-a_desc-r{n}_mask.nii.gz" for n in (1, 2))
    root = lesions(tmp_path / "set", one, two)
    with pytest.raises(InputError, match=r"masks of sub-01_ses-a: found .*desc-r1_mask, .*desc-r2_mask.*label_desc"):
        convert(segmentation(), root)
    assert labels(root, label_desc="r2") == {"sub-01_ses-a": two}
    assert labels(root, label="r1/.*_mask") == {"sub-01_ses-a": one}


def test_masks_by_pattern(tmp_path: Path) -> None:
    """Beside the images, or with the subject in the folders only."""
    one, two = "sub-01/ses-a/anat/sub-01_ses-a_roi.nii.gz", "derivatives/manual/sub-02/ses-a/roi.nii.gz"
    root = lesions(tmp_path / "set", one, two, "derivatives/manual/roi.nii.gz")
    assert labels(root, label="(.*_)?roi") == {"sub-01_ses-a": one, "sub-02_ses-a": two}


def test_mask_without_session_of_a_subject_with_several(tmp_path: Path) -> None:
    root = lesions(tmp_path / "set", "derivatives/l/sub-01_mask.nii.gz", "derivatives/l/sub-02_mask.nii.gz")
    anat(root, "T1w", "FLAIR", subject="01", session="b")
    conversion = convert(segmentation(), root)
    assert list(conversion.cases) == ["sub-02_ses-a"]
    why = reasons(conversion)["set/derivatives/l/sub-01_mask"]
    assert why == "a mask without session, of a subject with several"


def test_wrong_label_pattern() -> None:
    with pytest.raises(InputError, match=r"label: found '\('"):
        parse_options(BidsOptions, segmentation(label="("))


# -------------------------------------------------------------------------------------------------------- classes


def people(root: Path, *rows: str, column: str = "group") -> Path:
    for number in range(1, 6):
        anat(root, "T1w", subject=f"{number:02d}")
    table(root / "participants.tsv", f"participant_id\tage\t{column}", *rows)
    return root


def test_classes_of_participants(tmp_path: Path) -> None:
    root = people(tmp_path / "set", "sub-01\t3\tSZ", "02\t3\tHC", "sub-03\t3\tn/a", "sub-04\t3\tHC", "sub-04\t3\tSZ")
    mine = own_card("bids", "classification", "t1", class_column="Group", class_map={"SZ": "ill", "HC": "well"})
    conversion = convert(mine, root)
    assert {name: case.class_name for name, case in conversion.cases.items()} == {"sub-01": "ill", "sub-02": "well"}
    assert reasons(conversion) == {
        "sub-03": "group is n/a in participants.tsv",
        "sub-04": "group is HC and SZ in participants.tsv",
        "sub-05": "no row for it in participants.tsv",
    }


def test_classes_of_sessions(tmp_path: Path) -> None:
    """A subject's own table goes first; others are in participants.tsv."""
    root = people(tmp_path / "set", "sub-01\t3\twell", "sub-02\t3\twell")
    for session in ("1", "2"):
        anat(root, "T1w", subject="06", session=session)
    table(root / "sub-06/sub-06_sessions.tsv", "session_id\tgroup", "ses-1\twell", "ses-2\till")
    mine = own_card("bids", "classification", "t1", class_column="group")
    cases = convert(mine, root).cases
    assert {name: case.class_name for name, case in cases.items()} == {
        "sub-01": "well", "sub-02": "well", "sub-06_ses-1": "well", "sub-06_ses-2": "ill",
    }  # fmt: skip
    (root / "participants.tsv").unlink()
    assert list(convert(mine, root).cases) == ["sub-06_ses-1", "sub-06_ses-2"]


def test_no_class_column(tmp_path: Path) -> None:
    root = people(tmp_path / "set", "sub-01\t3\tSZ")
    with pytest.raises(InputError, match=r"options\.class_column: found nothing"):
        convert(own_card("bids", "classification", "t1"), root)
    mine = own_card("bids", "classification", "t1", class_column="dx")
    with pytest.raises(InputError, match=r"participants\.tsv: found no column dx"):
        convert(mine, root)
    (root / "participants.tsv").unlink()
    with pytest.raises(InputError, match=r"participants\.tsv: found no such file"):
        convert(mine, root)


def test_the_documented_cards(tmp_path: Path) -> None:
    card = documented_card(bids)
    root = lesions(tmp_path / "set", "derivatives/x/sub-01_desc-lesion_mask.nii.gz")
    anat(root, "ce-gd_T1w", session="a")
    case = convert(card, root).cases["sub-01_ses-a"]
    assert case.modalities == ["flair", "t1", "t1c"] and case.label
    text = str(bids.__doc__)
    second = json.loads("{" + text[text.rindex('"converter_options"') : text.index("null}}") + 6] + "}")
    options = BidsOptions.model_validate(second["converter_options"])
    assert options.class_map == {"HC": "control", "SZ": "patient"} and options.suffixes["FLAIR"] is None
