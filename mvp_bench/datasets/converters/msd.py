r"""Medical Segmentation Decathlon: ``dataset.json`` with ``modality``, ``labels`` and a ``training`` list of images and
labels, the modalities of a case along the fourth axis of one file. MONAI's lists of this form are read too.

Also lists with one file per modality (``"image": ["a_t1.nii.gz", "a_t2.nii.gz"]``, in the order of ``modality``).
``validation`` and ``test`` are read too; without masks their cases count in pre-training datasets only. A card::

    {"id": 612, "name": "BrainTumour", "title": "MSD Task01", "kind": "segmentation",
     "modalities": ["t1", "t1c", "t2", "flair"],
     "labels": {"background": 0, "necrosis": 1, "edema": 2, "enhancing": 3},
     "regions": {"WT": [1, 2, 3], "TC": [1, 3], "ET": [3]},
     "patient_rule": "each case is a patient", "split": {"stratify": "lesion_volume"},
     "licence": "CC BY-SA 4.0", "access": "none", "url": "http://medicaldecathlon.com", "folder": "Task01_BrainTumour",
     "citation": "Antonelli M et al. The Medical Segmentation Decathlon. Nature Communications 13:4128 (2022).",
     "metrics": ["dice"],
     "converter": "msd",
     "converter_options": {"patient": "(?P<patient>BRATS_\\d+)", "label_map": {"1": 2, "2": 1}}}

The labels of ``dataset.json`` are compared with the card's. Without ``patient`` every case is a patient.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mvp_bench.datasets.integrity.cases import LABEL
from mvp_bench.datasets.reading.assembly import assemble
from mvp_bench.datasets.reading.conversion import Conversion, Found, Ignored, parse_options
from mvp_bench.datasets.reading.sources import (
    NamedCaseOptions,
    channel_roles,
    found_file,
    image_file,
    index_file,
    label_names_fit,
    without_ending,
)
from mvp_bench.datasets.schema import Card
from mvp_bench.errors import InputError
from mvp_bench.io import read_json
from mvp_bench.registry import CONVERTERS

LISTS = ("training", "validation", "test")


class MsdOptions(NamedCaseOptions):
    """Options of the converter ``msd``."""


@CONVERTERS.register("msd", summary="Medical Segmentation Decathlon's dataset.json")
def convert(source: Path, card: Card, output: Path) -> Conversion:
    """Read a dataset of the decathlon's form.

    Raises:
        InputError: if there is no such dataset.json, it names a file that is not there or an unknown modality, the
            labels are not the card's, or a case does not fit the patient rule.
    """
    options = parse_options(MsdOptions, card)
    path = index_file(source, "dataset.json", card)
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("modality"), dict):
        raise InputError(path, found="no modality", expected="a dataset.json of the Medical Segmentation Decathlon")
    roles = channel_roles(content["modality"], options, path, "modality")
    names = {name: int(value) for value, name in content.get("labels", {}).items() if str(value).isdigit()}
    label_names_fit(names, options, card, path)
    ignored = Ignored(options.ignore)
    found: list[Found] = []
    for images, label in _entries(path, content):
        groups = options.groups_of(without_ending(images[0].name), card)
        files: list[tuple[str, Path, tuple[int, ...]]] = [(LABEL, label, ())] if label else []
        for index, channel in enumerate(content["modality"]):
            role = roles[channel]
            if role is None or role not in card.modalities:
                reason = f"{content['modality'][channel]} is not in the card"
                ignored.add(image_file(images[0], path.parent), reason)
            elif len(images) > 1 or len(content["modality"]) == 1:
                files.append((role, images[min(index, len(images) - 1)], ()))
            else:
                files.append((role, images[0], (index,)))
        for name, file_path, volumes in files:
            file = image_file(file_path, path.parent)
            if not ignored.takes(file):
                done = f"volume {volumes[0]} of a four-dimensional file" if volumes else ""
                found.append(found_file(file, name, groups, volumes=volumes, done=done))
    options.warn_if_unnamed(card)
    return assemble(found, ignored.exclusions(), options, card, path.parent, output, options.class_of)


def _entries(path: Path, content: dict[str, Any]) -> Iterator[tuple[list[Path], Path | None]]:
    """Images (one, or one per modality) and mask of each case."""
    for part in LISTS:
        entries = content.get(part) or []
        for index, entry in enumerate(entries):
            item = entry if isinstance(entry, dict) else {"image": entry}
            where = f"{path}: {part}[{index}]"
            names = item.get("image")
            names = [names] if isinstance(names, str) else names
            count = len(content["modality"])
            if not isinstance(names, list) or len(names) not in (1, count):
                raise InputError(where, found=entry, expected=f"image: one path, or {count} paths")
            label = item.get("label")
            for name in [*names, *([label] if label else [])]:
                if not (path.parent / str(name)).is_file():
                    raise InputError(where, found=f"no file {path.parent / str(name)}", expected="an image")
            yield [path.parent / name for name in names], path.parent / label if label else None
