"""MRBrainS13: ``TrainingData/<n>/`` with T1, T1_IR, T2_FLAIR and labels, ``TestData/<n>/`` without labels.

Both sets count from 1, so the set is part of the case and of the patient. ``LabelsForTesting`` holds the evaluated
classes (1 CSF, 2 grey matter, 3 white matter); where only ``LabelsForTraining`` is there, its eight are merged. Images
are ``.nii``, ``.nii.gz`` or, in another flavour of the release, MetaImage (``.mhd`` with ``.raw``), which is written
as NIfTI; NIfTI files win where a case has both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import SimpleITK as sitk
import xxhash

from mvp_bench.datasets.geometry.derive import Derived
from mvp_bench.datasets.geometry.resampling import LPS, from_itk
from mvp_bench.datasets.geometry.volumes import Grid, Volume
from mvp_bench.datasets.integrity.cases import LABEL
from mvp_bench.datasets.reading.assembly import assemble
from mvp_bench.datasets.reading.conversion import (
    Conversion,
    ConverterOptions,
    Found,
    Ignored,
    ImageFile,
    files_below,
    image_files,
    parse_options,
)
from mvp_bench.datasets.schema import Card
from mvp_bench.errors import InputError
from mvp_bench.registry import CONVERTERS

PATH = re.compile(r"(?:.*/)?(?P<set>Train|Test)(?:ing)?Data/(?P<number>\d+)/(?P<name>[^/]+)", re.IGNORECASE)
SETS = {"train": "training", "test": "test"}
ROLES = {
    "t1": "t1",
    "t1_ir": "t1ir",
    "t2_flair": "flair",
    "labelsfortesting": LABEL,
    "labelsfortraining": LABEL,
}
"""File name in lower case -> role."""
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
    derived: dict[str, Derived] = {}
    for file in image_files(source):
        if item := _understood(file, ignored):
            found.append(item)
    for file in _metaimages(source):
        if item := _understood(file, ignored):
            plan = _as_nifti(item, output)
            derived[str(plan.target)] = plan
            found.append(replace(item, file=ImageFile(plan.target, file.key), rank=item.rank + 2, label_map={}))
    conversion = assemble(found, ignored.exclusions(), options, card, source, output)
    used = {path for case in conversion.cases.values() for path in (*case.images.values(), case.label)}
    read = [item for target, item in derived.items() if target in used]
    return replace(conversion, derived=[*conversion.derived, *read])


def read_metaimage(path: Path) -> Volume:
    """Read a MetaImage header and its data; a reader for :class:`~mvp_bench.datasets.geometry.derive.Derived`.

    Raises:
        InputError: if the header or its data cannot be read, or the image is not three-dimensional.
    """
    try:
        image = sitk.ReadImage(str(path), imageIO="MetaImageIO")
    except RuntimeError as error:
        raise InputError(
            path,
            found=f"no readable MetaImage ({str(error).strip().splitlines()[-1]})",
            expected="a .mhd header with its .raw file beside it",
        ) from error
    if image.GetDimension() != 3:
        raise InputError(path, found=f"{image.GetDimension()} dimensions", expected="a 3-D volume")
    data = from_itk(image)
    affine = np.eye(4)
    affine[:3, :3] = LPS @ np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = LPS @ image.GetOrigin()
    return Volume(data, Grid(data.shape, affine), xxhash.xxh3_128_hexdigest(data.tobytes()), data.nbytes)


def _metaimages(source: Path) -> Iterator[ImageFile]:
    for path in files_below(source.resolve()):
        if path.suffix.lower() == ".mhd":
            relative = PurePosixPath(source.resolve().name, path.relative_to(source.resolve()).as_posix())
            yield ImageFile(path, str(relative.with_suffix("")))


def _understood(file: ImageFile, ignored: Ignored) -> Found | None:
    """The file with its role, or None if it is left out."""
    if ignored.takes(file):
        return None
    match = PATH.fullmatch(file.key)
    if not match:
        ignored.add(file, "not in TrainingData/<number>/ or TestData/<number>/")
        return None
    name = match["name"].lower()
    if name not in ROLES:
        ignored.add(file, "not one of the release's file names")
        return None
    groups = {"set": SETS[match["set"].lower()], "number": match["number"]}
    merged = name == "labelsfortraining"
    return Found(file, ROLES[name], groups, rank=int(merged), label_map=MERGED if merged else {})


def _as_nifti(item: Found, output: Path) -> Derived:
    case = f"{item.groups['set']}_{item.groups['number']:0>2}"
    label = item.role == LABEL
    return Derived(
        item.file.path,
        output / ("labels" if label else "images") / f"{case}_{item.file.stem}.nii.gz",
        "label" if label else "image",
        reader=read_metaimage,
        done="MetaImage written as NIfTI",
        label_map=item.label_map,
    )
