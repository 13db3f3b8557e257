"""MRBrainS13: ``TrainingData/<n>/`` with T1, T1_IR, T2_FLAIR and labels, ``TestData/<n>/`` without labels.

Both sets count from 1, so the set is part of the case and of the patient. ``LabelsForTesting`` holds the evaluated
classes (1 CSF, 2 grey matter, 3 white matter); where only ``LabelsForTraining`` is there, its eight are merged.
"""

from __future__ import annotations

import re
from pathlib import Path

from mvp_bench.datasets.assembly import assemble
from mvp_bench.datasets.conversion import Conversion, ConverterOptions, Found, Ignored, image_files, parse_options
from mvp_bench.datasets.integrity import LABEL
from mvp_bench.datasets.schema import Card, Exclusion
from mvp_bench.registry import CONVERTERS

PATH = re.compile(r"(?:.*/)?(?P<set>Train|Test)(?:ing)?Data/(?P<number>\d+)/(?P<name>[^/]+)", re.IGNORECASE)
SETS = {"train": "training", "test": "test"}
CONTRASTS = {"t1": "t1", "t1_ir": "t1ir", "t2_flair": "flair"}
MERGED = {1: 2, 2: 2, 3: 3, 4: 3, 5: 1, 6: 1, 7: 0, 8: 0}
"""LabelsForTraining (cortical grey matter, basal ganglia, white matter, lesions, extracerebral CSF, ventricles,
cerebellum, brainstem) -> the evaluated classes, as the challenge merges them."""


class MrbrainsOptions(ConverterOptions):
    """Options of the converter ``mrbrains13``."""

    case_id: str = "{set}_{number:0>2}"
    patient_id: str = "{set}_{number:0>2}"


@CONVERTERS.register("mrbrains13", summary="MRBrainS13 training and test folders")
def convert(source: Path, card: Card, output: Path) -> Conversion:
    """Read the release.

    Raises:
        InputError: if nothing of the release is found.
    """
    options = parse_options(MrbrainsOptions, card)
    ignored = Ignored({**options.ignore, r"\d+/T1_1mm": "another grid than the other images"})
    found: list[Found] = []
    unread: list[Exclusion] = []
    for file in image_files(source):
        if ignored.takes(file):
            continue
        match = PATH.fullmatch(file.key)
        if not match:
            unread.append(Exclusion(what=file.key, reason="not in TrainingData/<number>/ or TestData/<number>/"))
            continue
        groups = {"set": SETS[match["set"].lower()], "number": match["number"]}
        name = match["name"].lower()
        if name in CONTRASTS:
            found.append(Found(file, CONTRASTS[name], groups))
        elif name == "labelsfortesting":
            found.append(Found(file, LABEL, groups))
        elif name == "labelsfortraining":
            found.append(Found(file, LABEL, groups, rank=1, label_map=MERGED))
        else:
            unread.append(Exclusion(what=file.key, reason="not one of the release's file names"))
    return assemble(found, unread + ignored.exclusions(), options, card, source, output)
