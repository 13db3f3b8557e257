"""Learned templates afterwards: read from a run, laid over a case, put where a modality is missing.

A template is one volume per modality in the units that filled images in pre-training. It is addressed by position in
millimetres, so that a case may have any grid; how positions of two people correspond is the run's affair
(:func:`frame_of`): by world position, or by the offset from the middle of the case's volume, stored or uncropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from scipy.ndimage import affine_transform

from mvp_bench.errors import InputError
from mvp_bench.models.record import EncoderRecord
from mvp_bench.registry import unknown_name

Frame = Literal["world", "centre", "volume"]
TOLERANCE = 1e-3
"""Voxels by which a position may miss the outermost template voxel's centre: rounding of affines."""


@dataclass(frozen=True)
class Template:
    """One modality's volume."""

    volume: np.ndarray
    """float32 (z, y, x)."""
    affine: np.ndarray
    """4 x 4: voxel (x, y, z) -> position in mm (x, y, z) in the template's frame."""


def frame_of(record: EncoderRecord) -> Frame:
    """What the positions of a run's templates are relative to."""
    if record.template_frame is not None:
        return record.template_frame
    stated = record.config.get("options", {}).get("align", "world")
    return stated if stated in ("centre", "volume") else "world"


def load_templates(run_dir: Path, record: EncoderRecord) -> dict[str, Template]:
    """All templates of a run, by modality; none where the method has none.

    Raises:
        InputError: if a file that the record names is missing or not a volume.
    """
    templates = {}
    for modality, name in record.templates.items():
        try:
            image = cast(nib.Nifti1Image, nib.load(run_dir / name))
            volume = np.asarray(image.dataobj, dtype=np.float32)
        except (OSError, EOFError, ImageFileError) as error:
            raise InputError(
                run_dir / name,
                found=f"no readable volume ({error})",
                expected=f"the template of {modality} that encoder.json names",
                fix="Make the run again, or copy its folder again.",
            ) from error
        if volume.ndim != 3 or image.affine is None:
            raise InputError(run_dir / name, found=f"{volume.ndim} axes", expected="3 axes (x, y, z) and an affine")
        templates[modality] = Template(np.ascontiguousarray(volume.transpose(2, 1, 0)), np.asarray(image.affine))
    return templates


def on_grid(
    template: Template,
    affine: np.ndarray,
    shape: Sequence[int],
    frame: Frame = "world",
    middle: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """A template at the voxels of a case, interpolated linearly.

    Args:
        template: of a modality.
        affine: of the case, 4 x 4: voxel (x, y, z) -> RAS position in mm.
        shape: of the case (z, y, x).
        frame: of the template's positions; ``centre``: relative to the middle of the case's volume; ``volume``: to
            ``middle``.
        middle: RAS position (x, y, z) in mm of the middle of the image before it was cropped (``CaseInfo.middle``).

    Returns:
        float32 (z, y, x), 0 outside the template's grid; and where it is inside, bool (z, y, x).

    Raises:
        InputError: if ``middle`` is needed and not known.
    """
    case = np.array(affine, dtype=np.float64)
    if frame == "centre":
        case[:3, 3] = -case[:3, :3] @ ((np.asarray(shape[::-1], dtype=np.float64) - 1) / 2)
    elif frame == "volume":
        if middle is None:
            raise InputError(
                "case",
                found="no note of where the uncropped image's middle was",
                expected="that note: the templates are laid by it",
                fix="Preprocess the case again (delete its folder below plans/ and run mvp_plan).",
            )
        case[:3, 3] -= middle
    voxels = np.linalg.inv(template.affine) @ case
    matrix, offset = voxels[:3, :3][::-1, ::-1], voxels[:3, 3][::-1]  # (x, y, z) -> (z, y, x)
    size = tuple(shape)
    volume = affine_transform(template.volume, matrix, offset, output_shape=size, order=1, mode="grid-constant", cval=0)
    places = np.stack(np.meshgrid(*[np.arange(n, dtype=np.float64) for n in size], indexing="ij"))
    reached = np.tensordot(matrix, places, 1) + offset[:, None, None, None]
    last = np.asarray(template.volume.shape, dtype=np.float64)[:, None, None, None] - 1
    inside = np.all((reached >= -TOLERANCE) & (reached <= last + TOLERANCE), axis=0)
    return np.where(inside, volume, 0).astype(np.float32), inside


def fill_missing(
    images: np.ndarray,
    modalities: Sequence[str],
    present: Sequence[str],
    affine: np.ndarray,
    templates: Mapping[str, Template],
    record: EncoderRecord,
    wanted: Sequence[str] | None = None,
    middle: np.ndarray | None = None,
) -> np.ndarray:
    """A case with its missing modalities filled from their templates; a copy, images that are there unchanged.

    The filled image is confined to the case's brain (where any present image is not 0), as preprocessed images are.
    Templates in units of 0 to 1 are z-scored inside the brain, as preprocessing z-scores images.

    Args:
        images: float32 (C, z, y, x), preprocessed: z-scored inside the brain, 0 outside.
        modalities: of each channel.
        present: those that the case has.
        affine: of the case, 4 x 4: voxel (x, y, z) -> RAS position in mm.
        templates: from :func:`load_templates`.
        record: of their run.
        wanted: modalities to fill; default: every missing one that has a template.
        middle: see :func:`on_grid`.

    Raises:
        InputError: if nothing is present, a wanted modality is no channel or has no template, or :func:`on_grid` does.
    """
    if not present:
        raise InputError("case", found="no modality", expected="at least one, to know where the brain is")
    missing = [m for m in modalities if m not in present]
    chosen = [m for m in missing if m in templates] if wanted is None else [m for m in wanted if m in missing]
    for modality in wanted or ():
        if modality not in modalities:
            raise unknown_name("modality of the case", modality, modalities)
        if modality in chosen and modality not in templates:
            raise unknown_name(f"template of {record.method}", modality, templates)
    filled = np.array(images, dtype=np.float32)
    there = [i for i, modality in enumerate(modalities) if modality in present]
    brain = (filled[there] != 0).any(axis=0)
    laid = laid_over(brain, affine, {m: templates[m] for m in chosen}, record, middle)
    for modality, volume in laid.items():
        filled[list(modalities).index(modality)] = volume
    return filled


def laid_over(
    brain: np.ndarray,
    affine: np.ndarray,
    templates: Mapping[str, Template],
    record: EncoderRecord,
    middle: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Every template as an image of a case: on its grid, inside its brain, in units of preprocessed images.

    Args:
        brain: of the case, bool (z, y, x).
        affine: of the case, 4 x 4: voxel (x, y, z) -> RAS position in mm.
        templates: from :func:`load_templates`.
        record: of their run.
        middle: see :func:`on_grid`.

    Returns:
        modality -> float32 (z, y, x); 0 outside the brain and where the template does not reach.
    """
    images = {}
    for modality, template in templates.items():
        volume, inside = on_grid(template, affine, brain.shape, frame_of(record), middle)
        covered = brain & inside
        if record.intensity == "unit" and covered.any():
            values = volume[covered]
            volume = (volume - values.mean()) / max(float(values.std()), float(np.finfo(np.float32).eps))
        images[modality] = np.where(covered, volume, 0).astype(np.float32)
    return images
