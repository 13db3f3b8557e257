"""nnssl's pretrain_data.json, in both directions."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from mvp_bench.datasets.converters import nnssl
from mvp_bench.datasets.nnssl_export import export_nnssl
from mvp_bench.datasets.prepare import prepare_dataset
from mvp_bench.datasets.prepared import load_block
from mvp_bench.datasets.reading.conversion import parse_options
from mvp_bench.datasets.schema import Card, resolve_path
from mvp_bench.errors import InputError
from mvp_bench.workspace import Workspace

from .releases import convert, documented_card, image, own_card, reasons, table


def entry(path: Path | str, modality: str, name: str = "") -> dict[str, Any]:
    return {
        "name": name or Path(path).name,
        "modality": modality,
        "image_info": {},
        "image_path": str(path),
        "associated_masks": {"anonymization_mask": None, "anatomy_mask": None},
    }


def collection(root: Path, sessions: dict[str, dict[str, list]], **more: dict[str, dict[str, list]]) -> Path:
    """``root/raw/Dataset745_Ours/pretrain_data.json``; subjects -> sessions -> images, of dataset 1 and others."""
    path = root / "raw" / "Dataset745_Ours" / "pretrain_data.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets = {
        index: {
            "dataset_index": index,
            "name": f"Set{index}",
            "dataset_info": None,
            "subjects": {
                subject: {
                    "subject_id": subject,
                    "subject_info": {"age": 3},
                    "sessions": {
                        session: {"session_id": session, "session_info": None, "images": images}
                        for session, images in content.items()
                    },
                }
                for subject, content in subjects.items()
            },
        }
        for index, subjects in {"1": sessions, **{k.removeprefix("set"): v for k, v in more.items()}}.items()
    }
    path.write_text(json.dumps({"collection_index": 745, "collection_name": "Ours", "datasets": datasets}))
    return path


@pytest.mark.parametrize("point_at", ["pretrain_data.json", ".", ".."])
def test_collection(tmp_path: Path, point_at: str) -> None:
    scans = tmp_path / "raw" / "Dataset745_Ours" / "scans"
    a, b, c, d = (image(scans / f"{name}.nii.gz") for name in "abcd")
    relative = "$nnssl_raw/Dataset745_Ours/scans/a.nii.gz"
    path = collection(
        tmp_path,
        {
            "s1": {"ses-1": [entry(relative, "T1w"), entry(b, "t2f"), entry(c, "bold"), entry(d, "T1")]},
            "s2": {"ses-DEFAULT": [entry("Dataset745_Ours/scans/b.nii.gz", "FLAIR")]},
        },
    )
    conversion = convert(own_card("nnssl", "pretraining"), path.parent / point_at, tmp_path / "out")
    one, two = conversion.cases["s1_ses-1"], conversion.cases["s2"]
    assert (one.patient, one.session, one.images) == ("s1", "ses-1", {"t1": str(a), "flair": str(b)})
    assert (two.patient, two.session, two.images) == ("s2", None, {"t1": None, "flair": str(b)})
    assert set(reasons(conversion).values()) == {
        "modality 'bold' is not in the card",
        "s1_ses-1 has another file for t1: raw/Dataset745_Ours/scans/a",
    }


def test_datasets_of_a_collection(tmp_path: Path) -> None:
    """Two datasets may both have a subject s1: these are two people."""
    a, b = image(tmp_path / "a.nii.gz"), image(tmp_path / "b.nii.gz")
    path = collection(tmp_path, {"s1": {"x": [entry(a, "t1")]}}, set2={"s1": {"x": [entry(b, "t1")]}})
    cases = convert(own_card("nnssl", "pretraining"), path).cases
    assert {name: case.patient for name, case in cases.items()} == {"1_s1_x": "1_s1", "2_s1_x": "2_s1"}
    for name in ("2", "Set2"):
        cases = convert(own_card("nnssl", "pretraining", datasets=[name]), path).cases
        assert {n: (c.patient, c.images["t1"]) for n, c in cases.items()} == {"s1_x": ("s1", str(b))}
    with pytest.raises(InputError, match=r"options\.datasets: found 3; expected one of Set1, 1, Set2, 2"):
        convert(own_card("nnssl", "pretraining", datasets=["3"]), path)


def test_nnssl_raw_elsewhere(tmp_path: Path) -> None:
    scan = image(tmp_path / "elsewhere" / "D" / "a.nii.gz")
    path = collection(tmp_path, {"s1": {"x": [entry("$nnssl_raw/D/a.nii.gz", "t1")]}})
    with pytest.raises(InputError, match=r"\$nnssl_raw/D/a.nii.gz, which is not at .*converter_options\.nnssl_raw"):
        convert(own_card("nnssl", "pretraining"), path)
    mine = own_card("nnssl", "pretraining", nnssl_raw=str(tmp_path / "elsewhere"))
    assert convert(mine, path).cases["s1_x"].images["t1"] == str(scan)
    path = collection(tmp_path, {"s1": {"x": [entry("$nnssl_preprocessed/D/a.nii.gz", "t1")]}})
    with pytest.raises(InputError, match=r"\$nnssl_preprocessed.*expected absolute paths"):
        convert(own_card("nnssl", "pretraining"), path)


def test_sessions_are_not_promised_to_be_on_one_grid(tmp_path: Path) -> None:
    a, b = image(tmp_path / "a.nii.gz"), image(tmp_path / "b.nii.gz", shape=(5, 6, 7))
    path = collection(tmp_path, {"s1": {"x": [entry(a, "t1"), entry(b, "flair")]}})
    (item,) = convert(own_card("nnssl", "pretraining"), path).derived
    assert (item.source, item.grid, item.align) == (b, a, "rigid")
    assert not convert(own_card("nnssl", "pretraining", reference_grid=None), path).derived


@pytest.mark.parametrize(
    "content", ["[]", '{"datasets": {"1": {"subjects": {"a": {"sessions": {"b": {"images": [1]}}}}}}}']
)
def test_another_form(tmp_path: Path, content: str) -> None:
    path = collection(tmp_path, {})
    path.write_text(content)
    with pytest.raises(InputError, match=r"pretrain_data\.json"):
        convert(own_card("nnssl", "pretraining"), path)


def test_the_documented_card(tmp_path: Path) -> None:
    card = documented_card(nnssl)
    parse_options(nnssl.NnsslOptions, card)
    a, b = image(tmp_path / "a.nii.gz"), image(tmp_path / "b.nii.gz")
    more = {"set7": {"s2": {"x": [entry(a, "t1"), entry(b, "T2star")]}}, "set8": {"s3": {"x": [entry(a, "t1")]}}}
    path = collection(tmp_path, {"s1": {"x": [entry(b, "t1")]}}, **more)
    path.write_text(path.read_text().replace("Set1", "OASIS"))
    assert list(convert(card, path).cases) == ["1_s1_x", "7_s2_x"]


# --------------------------------------------------------------------------------------------------------- export


def prepared(workspace: Workspace, root: Path, number: int = 700, ending: str = ".nii.gz") -> Card:
    """Two cases of one patient and one of another, one without FLAIR."""
    rows = []
    for case in ("p1,a", "p1,b", "p2,"):
        name = f"{number}_{case.replace(',', '')}"
        for modality in ("t1", "flair")[: 1 if case == "p1,b" else 2]:
            path = image(root / str(number) / f"{name}_{modality}{ending}")
            rows.append(f"{case},{modality},{path},north")
    path = table(root / f"{number}.csv", "patient,session,modality,path,site", *rows)
    content = {**own_card("table", "pretraining").model_dump(), "id": number, "name": f"Mine{number}"}
    card = Card.model_validate({**content, "split": {"ratio": (1, 0, 0)}})
    prepare_dataset(workspace, card, source=path)
    return card


def read_as_nnssl(path: Path) -> list[tuple[str, str, str, str, str]]:
    """What nnssl's own reader does: nested dicts, and per image exactly five fields."""
    content = json.loads(path.read_text())
    assert set(content) == {"collection_index", "collection_name", "datasets"}
    images = []
    for key, dataset in content["datasets"].items():
        assert key == str(dataset["dataset_index"]) and dataset["name"]
        for subject_id, subject in dataset["subjects"].items():
            assert subject["subject_id"] == subject_id
            for session_id, session in subject["sessions"].items():
                assert session["session_id"] == session_id
                names = [item["name"] for item in session["images"]]
                assert len(set(names)) == len(names)
                for item in session["images"]:
                    assert set(item) == {"name", "image_path", "modality", "image_info", "associated_masks"}
                    assert Path(item["image_path"]).is_absolute() and Path(item["image_path"]).is_file()
                    images.append((key, subject_id, session_id, item["modality"], item["image_path"]))
    assert len({Path(image[-1]).name.partition(".")[2] for image in images}) == 1  # nnssl refuses mixed endings
    return images


def test_round_trip(workspace: Workspace, tmp_path: Path) -> None:
    card = prepared(workspace, tmp_path)
    before = load_block(workspace, card).cases
    path = export_nnssl(workspace, [card], tmp_path / "raw" / "Dataset745_Ours")
    assert path == tmp_path / "raw" / "Dataset745_Ours" / "pretrain_data.json"
    assert [image[1:4] for image in read_as_nnssl(path)] == [
        ("p1", "p1_a", "t1"), ("p1", "p1_a", "flair"), ("p1", "p1_b", "t1"), ("p2", "p2", "t1"), ("p2", "p2", "flair"),
    ]  # fmt: skip
    after = convert(own_card("nnssl", "pretraining"), path.parent).cases
    folder = workspace.dataset(card.dataset_name)
    assert list(after) == list(before)
    for name, case in before.items():
        again = after[name]
        assert (again.patient, again.session, again.site) == (case.patient, case.session, case.site)
        assert again.modalities == case.modalities
        for modality in case.modalities:
            assert Path(again.images[modality]) == resolve_path(folder, case.images[modality]).resolve()


def test_several_datasets_in_one_collection(
    workspace: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cards = [prepared(workspace, tmp_path, number) for number in (701, 702)]
    with caplog.at_level(logging.WARNING):
        path = export_nnssl(workspace, cards, tmp_path / "ours")
    assert "DatasetNNN_Name" in caplog.text
    content = json.loads(path.read_text())
    assert (content["collection_index"], content["collection_name"]) == (701, "ours")
    assert content["datasets"]["702"]["dataset_info"]["source"] == "real"
    assert len(read_as_nnssl(path)) == 10
    one = convert(own_card("nnssl", "pretraining", datasets=["Dataset702_Mine702"]), path).cases
    assert list(one) == ["p1_a", "p1_b", "p2"] and "702_p1a_t1" in str(one["p1_a"].images["t1"])
    assert len(convert(own_card("nnssl", "pretraining"), path).cases) == 6


def test_what_cannot_be_exported(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no dataset"):
        export_nnssl(workspace, [], tmp_path)
    with pytest.raises(InputError, match="not prepared"):
        export_nnssl(workspace, [own_card("table")], tmp_path)
    cards = [prepared(workspace, tmp_path, 701), prepared(workspace, tmp_path, 702, ".nii")]
    with pytest.raises(InputError, match=r"701_p1a_t1\.nii\.gz and .*702_p1a_t1\.nii;"):
        export_nnssl(workspace, cards, tmp_path / "Dataset745_Ours")
    assert not (tmp_path / "Dataset745_Ours").exists()
