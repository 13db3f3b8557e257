"""What a dataset was prepared from is watched: files, tables and folders that change are seen by the same command."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mvp_bench.config.groups import PhantomConfig
from mvp_bench.datasets.preparation import sources as module
from mvp_bench.datasets.preparation.reads import noted_reads
from mvp_bench.datasets.preparation.request import card_changed
from mvp_bench.datasets.preparation.sources import SOURCES, changes_in_content, read_sources, sources_changed
from mvp_bench.datasets.prepare import prepare_dataset
from mvp_bench.datasets.prepared import load_block
from mvp_bench.datasets.schema import Card
from mvp_bench.errors import InputError
from mvp_bench.identity import checksum_file
from mvp_bench.workspace import Workspace
from tests.datasets.releases import brats_case, brats_release, image, mask, own_card, shipped, table, with_options
from tests.test_cli import Verb, one_message, run  # noqa: F401 - fixture
from tests.toy import write_cards

FOLDERS = {"images": {"t1": r"(?P<patient>p\d+)/t1"}, "label": r"(?P<patient>p\d+)/seg"}


def patient(source: Path, number: int) -> Path:
    folder = source / f"p{number:02d}"
    image(folder / "t1.nii.gz")
    mask(folder / "seg.nii.gz", (1,))
    return folder


@pytest.fixture
def card() -> Card:
    return own_card("generic", modalities="t1", **FOLDERS)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for number in range(1, 7):
        patient(tmp_path / "source", number)
    return tmp_path / "source"


def brighter(path: Path) -> None:
    """The file with other voxels, and with its size as it was if it is not packed."""
    volume = nib.load(path)
    nib.save(nib.Nifti1Image(np.asanyarray(volume.dataobj) + np.float32(1), volume.affine), path)


# -------------------------------------------------------------------------------------------------- through the command


def said(root: Path) -> list[str]:
    """What the last commands told; the log is emptied."""
    path = root / "results" / "logs" / "mvp_prepare.log"
    lines = path.read_text().splitlines()
    path.write_text("")
    return [line.split(" ", 3)[3] for line in lines if " WARNING " in line]


def test_files_of_a_release_used_in_place(run: Verb, source: Path, card: Card, tmp_path: Path) -> None:  # noqa: F811
    root = tmp_path / "root"
    workspace = Workspace(root)
    write_cards(root, card)
    command = ("prepare", "-d", 700, "--source", source, "--profile", "smoke")

    def block():  # type: ignore[no-untyped-def]
        assert run(*command)[0] == 0
        return load_block(workspace, card)

    first = block()
    record = read_sources(workspace, card)
    assert record and set(record.files) == {f"p{n:02d}/{f}.nii.gz" for n in range(1, 7) for f in ("t1", "seg")}
    assert record.files["p01/t1.nii.gz"].hash == checksum_file(source / "p01/t1.nii.gz")
    said(root)
    assert block() == first and said(root) == [], "nothing changed"

    for number in (1, 5):
        brighter(source / f"p{number:02d}" / "t1.nii.gz")
    second = block()
    (line,) = said(root)
    assert line.startswith("Dataset700_Mine: 2 files changed since: p01/t1.nii.gz, p05/t1.nii.gz; preparing it again")
    assert second.data_hash != first.data_hash and second.key != first.key

    patient(source, 9)
    shutil.rmtree(source / "p02")
    third = block()
    (line,) = said(root)
    assert "2 files added since: p09/seg.nii.gz, p09/t1.nii.gz" in line
    assert "2 files removed since: p02/seg.nii.gz, p02/t1.nii.gz" in line
    assert "p09" in third.cases and "p02" not in third.cases and third.key != second.key

    (source / "p01" / "t1.nii.gz").touch()
    assert block() == third and said(root) == [], "the same content at another time"
    assert run(*command, "--force")[0] == 0
    assert "--force" in said(root)[0] and load_block(workspace, card).key == third.key


def test_a_corrected_table(run: Verb, tmp_path: Path) -> None:  # noqa: F811
    """The patient and class columns of a table are corrected, and the same command is run again."""
    root, workspace = tmp_path / "root", Workspace(tmp_path / "root")
    card = own_card("table", kind="classification", modalities="t1")
    write_cards(root, card)
    for number in range(1, 9):
        image(tmp_path / "scans" / f"{number}.nii.gz")
    rows = [[f"p{n}", f"scans/{n}.nii.gz", "ill" if n % 2 else "well"] for n in range(1, 9)]

    def prepared():  # type: ignore[no-untyped-def]
        table(tmp_path / "ours.csv", "patient,t1,class", *(",".join(row) for row in rows))
        assert run("prepare", "-d", 700, "--source", tmp_path / "ours.csv", "--profile", "smoke")[0] == 0
        return load_block(workspace, card)

    keys = [prepared().key]
    said(root)
    rows[3][2] = "ill"
    block = prepared()
    assert "1 file changed since: ours.csv" in said(root)[0]
    assert block.cases["p4"].class_name == "ill"
    keys.append(block.key)
    rows[3][0] = "p40"
    block = prepared()
    assert "p40" in block.cases and "p4" not in block.cases
    assert len({*keys, block.key}) == 3
    (tmp_path / "scans" / "notes.txt").touch()
    said(root)
    assert prepared().key == block.key and said(root) == [], "a folder that nobody listed"


def test_a_failed_preparation_leaves_what_was(run: Verb, source: Path, card: Card, tmp_path: Path) -> None:  # noqa: F811
    write_cards(tmp_path / "root", card)
    command = ("prepare", "-d", 700, "--source", source, "--profile", "smoke")
    run(*command)
    before = load_block(Workspace(tmp_path / "root"), card)
    path = source / "p03" / "t1.nii.gz"
    path.write_bytes(path.read_bytes()[:-20])
    one_message(run(*command), "p03/t1.nii.gz")
    assert load_block(Workspace(tmp_path / "root"), card) == before
    assert sources_changed(Workspace(tmp_path / "root"), card) == ["p03/t1.nii.gz (changed)"]
    shutil.rmtree(source)
    one_message(run("prepare", "-d", 700), str(source))
    assert load_block(Workspace(tmp_path / "root"), card) == before


# --------------------------------------------------------------------------------------------------------- what is seen


def test_size_and_time_alone_are_looked_at(
    workspace: Workspace, source: Path, card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_dataset(workspace, card, source=source)
    with monkeypatch.context() as patch:
        patch.setattr(module, "checksum_file", None)  # would fail if called
        assert sources_changed(workspace, card) == []
        (source / "p01" / "t1.nii.gz").touch()
        assert sources_changed(workspace, card) == ["p01/t1.nii.gz (changed)"]
    assert not changes_in_content(workspace, card)
    assert sources_changed(workspace, card) == [], "noted: it need not be read once more"


def test_a_file_of_the_same_size_and_time_is_seen(workspace: Workspace, tmp_path: Path, card: Card) -> None:
    source = tmp_path / "source"
    for number in range(1, 7):
        patient(source, number)
    plain = source / "p01" / "t1.nii"
    plain.write_bytes(nib.load(source / "p01" / "t1.nii.gz").to_bytes())
    (source / "p01" / "t1.nii.gz").unlink()
    prepare_dataset(workspace, card, source=source)
    before = plain.stat()
    brighter(plain)
    os.utime(plain, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (plain.stat().st_size, plain.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert changes_in_content(workspace, card).changed == ("p01/t1.nii",)


def test_files_made_anew_are_watched_by_what_they_are_made_from(workspace: Workspace, source: Path, card: Card) -> None:
    card = with_options(card, label_map={4: 1})
    for folder in source.iterdir():
        mask(folder / "seg.nii.gz", (4,))
    block = prepare_dataset(workspace, card, source=source)
    assert all(str(case.label).startswith("labels/") for case in block.cases.values())
    mask(source / "p02" / "seg.nii.gz", (4, 4))
    assert sources_changed(workspace, card) == ["p02/seg.nii.gz (changed)"]
    assert prepare_dataset(workspace, card, source=source).key != block.key


def test_files_added_and_removed_inside_a_patients_folder(workspace: Workspace, tmp_path: Path) -> None:
    source = brats_release(tmp_path, "PED", cases=6)
    prepare_dataset(workspace, shipped(501), source=source)
    (source / ".DS_Store").touch()
    assert sources_changed(workspace, shipped(501)) == []
    brats_case(source, "BraTS-PED-00099-000")
    (source / "BraTS-PED-00000-000" / "another.nii.gz").touch()
    shutil.rmtree(source / "BraTS-PED-00004-000")
    found = sources_changed(workspace, shipped(501))
    assert "BraTS-PED-00000-000/another.nii.gz (added)" in found
    assert sum("BraTS-PED-00099-000/" in text and text.endswith("(added)") for text in found) == 5
    assert sum("BraTS-PED-00004-000/" in text and text.endswith("(removed)") for text in found) == 5
    assert len(found) == 11


def test_side_files_that_the_converter_read_are_watched(workspace: Workspace, tmp_path: Path) -> None:
    top = tmp_path / "bids"
    for number in range(1, 9):
        image(top / f"sub-{number:02d}" / "anat" / f"sub-{number:02d}_T1w.nii.gz")
    rows = [f"sub-{n:02d}\t{'ill' if n % 2 else 'well'}" for n in range(1, 9)]
    table(top / "participants.tsv", "participant_id\tgroup", *rows)
    (top / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
    card = own_card("bids", kind="classification", modalities="t1", class_column="group")
    prepare_dataset(workspace, card, source=top)
    table(top / "participants.tsv", "participant_id\tgroup", *rows[:-1], "sub-08\till")
    assert sources_changed(workspace, card) == ["participants.tsv (changed)"]


def test_a_phantom_that_was_touched_is_made_again(workspace: Workspace) -> None:
    size = PhantomConfig(spacing_mm=6, segmentation_patients=5)
    block = prepare_dataset(workspace, shipped(503), phantom=size)
    case = next(iter(block.cases.values()))
    brighter(workspace.dataset("Dataset503_ISLES22") / str(case.images["dwi"]))
    assert len(sources_changed(workspace, shipped(503))) == 1
    assert prepare_dataset(workspace, shipped(503), phantom=size) == block


def test_sources_json_that_is_gone_or_edited(workspace: Workspace, source: Path, card: Card) -> None:
    block = prepare_dataset(workspace, card, source=source)
    path = workspace.dataset(card.dataset_name) / SOURCES
    path.write_text(path.read_text().replace("p01", "p07", 1))
    with pytest.raises(InputError, match=r"sources\.json: found content that is not what was written"):
        sources_changed(workspace, card)
    assert prepare_dataset(workspace, card, source=source) == block and sources_changed(workspace, card) == []
    path.unlink()
    assert sources_changed(workspace, card) == ["sources.json (removed)"]
    assert prepare_dataset(workspace, card) == block and sources_changed(workspace, card) == []


# ----------------------------------------------------------------------------------------------------------------- card


def test_a_card_edited_without_a_new_preparation_is_said(workspace: Workspace, source: Path, card: Card) -> None:
    block = prepare_dataset(workspace, card, source=source)
    card_changed(workspace, card, block)
    card_changed(workspace, card.model_copy(update={"title": "another", "metrics": ["iou"]}), block)
    edited = Card.model_validate({**card.model_dump(), "regions": {"spot": [1]}, "split": {"scheme": "leave_one_out"}})
    with pytest.raises(InputError, match=r"Dataset700_Mine: found another regions, split than.*mvp_prepare -d 700"):
        card_changed(workspace, edited, block)
    again = prepare_dataset(workspace, edited)
    assert again.regions == {"spot": [1]} and again.key != block.key
    card_changed(workspace, edited, again)


def test_the_order_of_regions_is_part_of_a_card(workspace: Workspace, tmp_path: Path) -> None:
    card, source = shipped(501), brats_release(tmp_path)
    block = prepare_dataset(workspace, card, source=source)
    turned = card.model_copy(update={"regions": dict(reversed(card.regions.items()))})
    with pytest.raises(InputError, match="another regions"):
        card_changed(workspace, turned, block)


# ---------------------------------------------------------------------------------------------------------------- reads


def test_reads_are_noted_wherever_they_happen(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("a.txt", "b.txt", "c.txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / "a.txt").read_text()
    with noted_reads() as reads:
        (tmp_path / "b.txt").read_bytes()
        os.close(os.open(tmp_path / "c.txt", os.O_RDONLY))
        (tmp_path / "d.txt").write_text("written, not read")
        list((tmp_path / "folder").iterdir())
        list(tmp_path.glob("*.txt"))
    (tmp_path / "a.txt").read_text()
    assert {path.name for path in reads.files} == {"b.txt", "c.txt"}
    assert reads.folders == {tmp_path, tmp_path / "folder"}
