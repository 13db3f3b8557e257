r"""nnU-Net v2 raw folders: ``dataset.json`` with ``imagesTr/<case>_0000<ending>`` and ``labelsTr/<case><ending>``.

Also those whose ``dataset.json`` points at files elsewhere (its key ``dataset``), as this package writes them itself.
Names of channels are brought to modalities (T1, T1Gd, T2-FLAIR ... are known). ``imagesTs`` is read too: without masks
its cases count in pre-training datasets only. A card::

    {"id": 611, "name": "Gliomas", "title": "Our gliomas, in nnU-Net's format", "kind": "segmentation",
     "modalities": ["t1", "t1c", "t2", "flair"],
     "labels": {"background": 0, "necrosis": 1, "edema": 2, "enhancing": 3},
     "regions": {"WT": [1, 2, 3], "TC": [1, 3], "ET": [3]},
     "patient_rule": "the case without its last number", "split": {"stratify": "lesion_volume"},
     "licence": "internal", "access": "none", "url": "none", "citation": "none", "metrics": ["dice"],
     "converter": "nnunet",
     "converter_options": {
       "patient": "(?P<patient>.+)_(?P<session>\\d+)", "modality_names": {"contrast": "t1c"},
       "label_map": {"1": 2, "2": 1}}}

The labels of ``dataset.json`` are compared with the card's: nnU-Net's own BraTS converters number them differently from
the releases, which ``label_map`` undoes. nnU-Net knows no patients; without ``patient`` every case is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mvp_bench.datasets.integrity.cases import LABEL
from mvp_bench.datasets.reading.assembly import assemble
from mvp_bench.datasets.reading.conversion import Conversion, Found, Ignored, files_below, parse_options
from mvp_bench.datasets.reading.itk_files import ITK_ENDINGS
from mvp_bench.datasets.reading.sources import (
    NamedCaseOptions,
    channel_roles,
    found_file,
    image_file,
    index_file,
    label_names_fit,
)
from mvp_bench.datasets.schema import Card
from mvp_bench.errors import InputError
from mvp_bench.io import read_json
from mvp_bench.progress import log
from mvp_bench.registry import CONVERTERS

ENDINGS = (".nii.gz", ".nii", *ITK_ENDINGS)

OLDER = "For a dataset.json with 'modality' and lists of files take the converter msd."


class NnunetOptions(NamedCaseOptions):
    """Options of the converter ``nnunet``."""


@CONVERTERS.register("nnunet", summary="nnU-Net v2 raw folder")
def convert(source: Path, card: Card, output: Path) -> Conversion:
    """Read an nnU-Net v2 raw folder.

    Raises:
        InputError: if there is no dataset.json, a channel's name is unknown, the labels are not the card's, or a case
            does not fit the patient rule.
    """
    options = parse_options(NnunetOptions, card)
    path = index_file(source, "dataset.json", card)
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("channel_names"), dict):
        raise InputError(path, found="no channel_names", expected="a dataset.json of nnU-Net v2", fix=OLDER)
    roles = channel_roles(content["channel_names"], options, path, "channel_names")
    label_names_fit(content.get("labels", {}), options, card, path)
    ignored = Ignored(options.ignore)
    found: list[Found] = []
    files = _named(path.parent, content["dataset"]) if "dataset" in content else _listed(path, content, ignored)
    for case, channel, file_path in files:
        file = image_file(file_path, path.parent)
        role = LABEL if channel == LABEL else roles.get(channel)
        if role not in (LABEL, *card.modalities):
            ignored.add(file, f"channel {channel} ({content['channel_names'].get(channel)}) is not in the card")
        elif not ignored.takes(file):
            found.append(found_file(file, role, options.groups_of(case, card)))
    _warn_if_incomplete(content, found, card)
    options.warn_if_unnamed(card)
    return assemble(found, ignored.exclusions(), options, card, path.parent, output, options.class_of)


def _listed(path: Path, content: Mapping[str, Any], ignored: Ignored) -> Iterator[tuple[str, str, Path]]:
    """Case, channel (or ``label``) and file, from the folders."""
    ending = str(content.get("file_ending", ".nii.gz"))
    if ending not in ENDINGS:
        raise InputError(f"{path}: file_ending", found=repr(ending), expected=f"one of {', '.join(ENDINGS)}")
    image = re.compile(rf"(?P<case>.+)_(?P<channel>\d{{4}}){re.escape(ending)}")
    for folder in ("imagesTr", "imagesTs", "labelsTr"):
        for file in files_below(path.parent / folder):
            match = image.fullmatch(file.name)
            if folder == "labelsTr" and file.name.endswith(ending):
                yield file.name.removesuffix(ending), LABEL, file
            elif folder != "labelsTr" and match:
                yield match["case"], str(int(match["channel"])), file
            else:
                reason = f"not called as nnU-Net calls files with the ending {ending}"
                ignored.add(image_file(file, path.parent), reason)


def _named(folder: Path, dataset: object) -> Iterator[tuple[str, str, Path]]:
    """Case, channel (or ``label``) and file, from the key ``dataset``; a missing modality is an empty string."""
    if not isinstance(dataset, dict):
        raise InputError(f"{folder / 'dataset.json'}: dataset", found=type(dataset).__name__, expected="cases by name")
    for case, entry in dataset.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("images"), list):
            raise InputError(f"{folder / 'dataset.json'}: dataset.{case}", found=entry, expected="images and label")
        for channel, name in [*enumerate(entry["images"]), (LABEL, entry.get("label"))]:
            if name and not (folder / name).is_file():
                where = f"{folder / 'dataset.json'}: dataset.{case}"
                raise InputError(where, found=f"no file {folder / name}", expected="an image")
            if name:
                yield case, str(channel), folder / name


def _warn_if_incomplete(content: Mapping[str, Any], found: list[Found], card: Card) -> None:
    declared, there = content.get("numTraining"), len({item.groups["case"] for item in found if item.role == LABEL})
    if card.kind == "segmentation" and declared not in (None, there):
        log.warning(
            "%s: dataset.json declares %s training cases, %d masks are there", card.dataset_name, declared, there
        )
