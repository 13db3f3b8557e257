"""Prepared datasets as one collection for nnssl: a ``pretrain_data.json`` that points at the images, without copies.

nnssl treats each image alone. One session per case, with the modality named at each image, keeps what belongs together;
the converter ``nnssl`` reads it back to the same cases.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mvp_bench.datasets.prepared import load_block
from mvp_bench.datasets.reading.conversion import IMAGE_ENDINGS
from mvp_bench.datasets.schema import DATASET_NAME, Card, Case, DatasetBlock
from mvp_bench.errors import InputError
from mvp_bench.io import write_json
from mvp_bench.progress import log
from mvp_bench.workspace import Workspace

FILE = "pretrain_data.json"
CASE = "case"
"""Key of ``session_info`` with the case's id; beside it ``session`` and ``site``."""


def export_nnssl(workspace: Workspace, cards: Sequence[Card], folder: Path) -> Path:
    """Write ``folder/pretrain_data.json`` with all cases of prepared datasets; masks and classes stay behind.

    Args:
        cards: the datasets, each under the index of its card.
        folder: nnssl finds it if it is called DatasetNNN_Name and lies in its folder of raw datasets.

    Returns:
        The file written.

    Raises:
        InputError: if a dataset is not prepared, there is none, or files end in .nii and in .nii.gz (nnssl reads a
            collection by one ending).
    """
    if not cards:
        raise InputError("--export-nnssl", found="no dataset", expected="prepared datasets (-d ID ...)")
    blocks = {card.id: load_block(workspace, card) for card in cards}
    named = DATASET_NAME.match(folder.resolve().name)
    content: dict[str, Any] = {
        "collection_index": int(named[1]) if named else cards[0].id,
        "collection_name": folder.resolve().name,
        "datasets": {
            str(card.id): _dataset(card, blocks[card.id], workspace.dataset(card.dataset_name).resolve())
            for card in cards
        },
    }
    _one_ending(list(_paths(content)))
    write_json(folder / FILE, content)
    if not named:
        log.warning("nnssl looks for folders called DatasetNNN_Name; %s is not", folder.resolve().name)
    return folder / FILE


def _dataset(card: Card, block: DatasetBlock, folder: Path) -> dict[str, Any]:
    subjects: dict[str, Any] = {}
    for case_id, case in block.cases.items():
        subject = subjects.setdefault(case.patient, {"subject_id": case.patient, "subject_info": None, "sessions": {}})
        subject["sessions"][case_id] = _session(case_id, case, folder)
    info = {"source": block.source, "licence": card.licence, "citation": card.citation, "data_hash": block.data_hash}
    return {"dataset_index": card.id, "name": card.dataset_name, "dataset_info": info, "subjects": subjects}


def _session(case_id: str, case: Case, folder: Path) -> dict[str, Any]:
    images = []
    for modality in case.modalities:
        stored = Path(str(case.images[modality]))  # type: ignore[index]
        path = stored if stored.is_absolute() else (folder / stored).resolve()
        name = f"{case_id}_{modality}{_ending(path)}"
        images.append(
            {"name": name, "modality": modality, "image_info": None, "image_path": str(path), "associated_masks": None}
        )
    info = {CASE: case_id, "session": case.session, "site": case.site}
    return {"session_id": case_id, "session_info": info, "images": images}


def _paths(content: dict[str, Any]) -> Iterator[Path]:
    for dataset in content["datasets"].values():
        for subject in dataset["subjects"].values():
            for session in subject["sessions"].values():
                yield from (Path(image["image_path"]) for image in session["images"])


def _ending(path: Path) -> str:
    return next((ending for ending in IMAGE_ENDINGS if path.name.lower().endswith(ending)), path.suffix)


def _one_ending(paths: list[Path]) -> None:
    first: dict[str, Path] = {}
    for path in paths:
        first.setdefault(_ending(path), path)
    if len(first) > 1:
        raise InputError(
            "--export-nnssl",
            found=f"files of several kinds: {' and '.join(str(path) for path in first.values())}",
            expected="one ending in the whole collection, since nnssl reads it by the first file's",
            fix="Export the datasets into several collections, or compress the .nii files (gzip) and prepare again.",
        )
