r"""Any BIDS dataset: contrasts by the names' suffixes, masks from ``derivatives/``, classes from ``participants.tsv``.

A case is a session (or the subject, where there are no sessions). A card for lesion masks in ``derivatives/``::

    {"id": 614, "name": "Lesions", "title": "A BIDS dataset with lesion masks", "kind": "segmentation",
     "modalities": ["flair", "t1", "t1c"],
     "labels": {"background": 0, "lesion": 1}, "regions": {"lesion": [1]},
     "patient_rule": "sub-<label>", "split": {"stratify": "lesion_volume"},
     "licence": "CC0", "access": "none", "url": "none", "citation": "none", "metrics": ["dice"],
     "converter": "bids",
     "converter_options": {"label_desc": "lesion"}}

and for a diagnosis in ``participants.tsv``::

     "converter_options": {
       "class_column": "diagnosis", "class_map": {"HC": "control", "SZ": "patient"},
       "suffixes": {"UNIT1": "t1", "acq-highres_T2w": "t2", "FLAIR": null}}

* Contrasts: see :data:`SUFFIXES`; ``suffixes`` adds to it. A key is a suffix, with entities before it that the name
  must have (``ce``: with any value; ``acq-IR``: with that one); the key with most of them wins. Images after contrast
  agent (``ce-...``, or ``ContrastBolusIngredient`` in the sidecar) fit keys with ``ce`` only.
* Of several acquisitions or runs the first is taken and the others are listed; ``prefer`` and ``ignore`` change that.
* Diffusion series: the mean of the volumes with b >= ``dwi_b_min``. ``PDT2``: the two echoes are ``pd`` and ``t2``
  (``"align_together": [["pd", "t2"]]`` registers them as one).
* Masks: files ``_mask`` or ``_dseg`` of ``derivatives/`` with the same subject and session, or those that fit
  ``label``. ``desc-brain`` is no label unless ``label_desc`` says so. Several for one case are an error.
* Raw BIDS does not promise one grid, so the other images are registered to the card's first modality where they lie on
  another; ``"reference_grid": null`` makes other grids faults, another modality there is right for masks drawn on it.
* ``sourcedata/``, ``code/``, ``stimuli/``, hidden files and what ``.bidsignore`` names are not looked at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from mvp_bench.datasets.geometry.volumes import read_shape
from mvp_bench.datasets.integrity.cases import LABEL
from mvp_bench.datasets.reading.assembly import ClassOf, assemble
from mvp_bench.datasets.reading.bids_layout import (
    DERIVATIVES,
    NOT_RAW,
    BidsName,
    IgnoreFile,
    ParticipantValues,
    Sidecars,
    find_root,
    parse_name,
)
from mvp_bench.datasets.reading.conversion import (
    Conversion,
    Found,
    Ignored,
    ImageFile,
    compiled,
    image_files,
    parse_options,
)
from mvp_bench.datasets.reading.sources import SourceOptions, case_name, found_file, listed, onto_first_modality
from mvp_bench.datasets.schema import Card, Modality
from mvp_bench.errors import InputError
from mvp_bench.registry import CONVERTERS

SUFFIXES: dict[str, Modality] = {
    "T1w": "t1",
    "ce_T1w": "t1c",
    "T2w": "t2",
    "FLAIR": "flair",
    "PDw": "pd",
    "PD": "pd",
    "angio": "mra",
    "IRT1": "t1ir",
    "acq-IR_T1w": "t1ir",
    "dwi": "dwi",
    "trace": "dwi",
    "ADC": "adc",
}
"""Suffix, with entities before it that the name must have -> modality. Upper and lower case do not matter."""
DUAL_ECHO = "pdt2"
ECHOES: tuple[tuple[str, str], ...] = (("pd", "first echo"), ("t2", "second echo"))
"""What the two volumes of a :data:`DUAL_ECHO` file show."""
LABEL_SUFFIXES = ("mask", "dseg")
BRAIN = "brain"
"""``desc`` of brain masks."""


class BidsOptions(SourceOptions):
    """Options of the converter ``bids``."""

    align: Literal["header", "rigid"] = "rigid"
    suffixes: dict[str, Modality | None] = Field(default={})
    """Further keys, as in :data:`SUFFIXES`; they win over those. null: an image that is not wanted."""
    dwi_b_min: float = 800
    """Volumes of a diffusion series with at least this weighting (s/mm2) are averaged."""
    dwi_b_max: float | None = None
    """And at most this one, to keep to one shell."""
    label: str | None = None
    """Pattern of the masks, wherever they are; default: any _mask or _dseg of derivatives/."""
    label_desc: str | None = None
    """Value of the masks' entity desc."""
    class_column: str | None = None
    """Column with the class, in participants.tsv or in the subjects' sessions.tsv."""
    encoding: str = "utf-8-sig"
    """Encoding of the tables."""

    @field_validator("label")
    @classmethod
    def _pattern(cls, value: str | None) -> str | None:
        if value is not None:
            compiled(value)
        return value


@CONVERTERS.register("bids", summary="any BIDS dataset")
def convert(source: Path, card: Card, output: Path) -> Conversion:
    """Read a BIDS dataset.

    Raises:
        InputError: if there is none, or several; if a case has several masks; if the class column is not there.
    """
    options = onto_first_modality(parse_options(BidsOptions, card), card)
    files = list(image_files(source))
    root = find_root(source.resolve(), card)
    reader = _Reader(root, options, card)
    for file in files:
        reader.add(file)
    found = reader.images + reader.chosen_labels()
    return assemble(found, reader.ignored.exclusions(), options, card, source, output, _class_of(root, options, card))


class _Reader:
    """Sorts the files of a dataset into images, masks and what is left out."""

    def __init__(self, root: Path, options: BidsOptions, card: Card) -> None:
        self._root, self._options, self._card = root, options, card
        self._sidecars, self._ignore_file = Sidecars(root), IgnoreFile(root)
        own: dict[str, tuple[Modality | None, int]] = {key.lower(): (m, 0) for key, m in options.suffixes.items()}
        self._keys = {**{key.lower(): (role, 1) for key, role in SUFFIXES.items()}, **own}
        self._label = compiled(options.label) if options.label else None
        self._labels: list[Found] = []
        self.images: list[Found] = []
        self.ignored = Ignored(options.ignore)

    def add(self, file: ImageFile) -> None:
        """Take one file."""
        inside = file.path.is_relative_to(self._root)
        relative = file.path.relative_to(self._root).as_posix() if inside else file.key.partition("/")[2]
        folders = relative.split("/")[:-1]
        name = parse_name(file.stem)
        if self.ignored.takes(file):
            return
        if inside and self._ignore_file.takes(relative):
            self.ignored.add(file, "named by .bidsignore")
        elif self._is_label(file, name, folders):
            self._labels.append(found_file(file, LABEL, _groups(name, folders)))
        elif skipped := next((folder for folder in folders if folder in NOT_RAW), None):
            self.ignored.add(file, f"in {skipped}/")
        elif name is None or "sub" not in name.entities:
            self.ignored.add(file, "not a BIDS name")
        elif name.entities.get("part", "mag") != "mag":
            self.ignored.add(file, f"part-{name.entities['part']}: not a magnitude image")
        else:
            images, reason = self._images(file, name)
            self.images += images
            if reason:
                self.ignored.add(file, reason)

    def chosen_labels(self) -> list[Found]:
        """The masks, one for each case; one that names no session belongs to the subject's only one.

        Raises:
            InputError: naming the masks of a case that has several.
        """
        sessions: dict[str, set[str]] = defaultdict(set)
        for item in self.images:
            sessions[item.groups["patient"]].add(item.groups["session"])
        by_case: dict[str, list[Found]] = defaultdict(list)
        for item in self._labels:
            patient, own = item.groups["patient"], item.groups["session"]
            known = sessions[patient]
            if not own and len(known) > 1:
                self.ignored.add(item.file, "a mask without session, of a subject with several")
                continue
            session = next(iter(known)) if known and not own else own
            groups = {"patient": patient, "session": session, "case": _case(patient, session)}
            by_case[groups["case"]].append(replace(item, groups=groups))
        for case, items in by_case.items():
            if len(items) > 1:
                raise InputError(
                    f"masks of {case}",
                    found=listed(item.file.key for item in items),
                    expected="one",
                    fix="Choose with converter_options.label_desc (desc-<value>) or label (a pattern).",
                )
        return [item for items in by_case.values() for item in items]

    def _is_label(self, file: ImageFile, name: BidsName | None, folders: list[str]) -> bool:
        if self._card.kind != "segmentation" or not _groups(name, folders)["patient"]:
            return False
        desc = name.entities.get("desc") if name else None
        if self._options.label_desc is not None and desc != self._options.label_desc:
            return False
        if self._label:
            return self._label.fullmatch(file.key) is not None
        is_mask = name is not None and name.suffix.lower() in LABEL_SUFFIXES
        return is_mask and DERIVATIVES in folders and (desc != BRAIN or self._options.label_desc == BRAIN)

    def _images(self, file: ImageFile, name: BidsName) -> tuple[list[Found], str]:
        """The images in one file, or none and the reason."""
        if name.suffix.lower() == DUAL_ECHO and DUAL_ECHO not in self._keys:
            return self._echoes(file, name)
        known = any(key.endswith(name.suffix.lower()) for key in self._keys)
        if known and "ce" not in name.entities and self._sidecars.has_contrast_agent(file.path, name):
            name = BidsName({**name.entities, "ce": "sidecar"}, name.suffix)
        fits = {key: closeness for key in self._keys if (closeness := name.fits(key))}
        role, rank = self._keys[max(fits, key=lambda key: fits[key])] if fits else (None, 0)
        if role is None or role not in self._card.modalities:
            return [], f"{'ce_' if 'ce' in name.entities else ''}{name.suffix} is no modality of the card"
        if role != "dwi":
            return [found_file(file, role, _groups(name, []), rank)], ""
        volumes, reason = self._weighted(file.path, name)
        limit = f" and b <= {self._options.dwi_b_max:g}" if self._options.dwi_b_max is not None else ""
        done = f"mean of {len(volumes)} volumes with b >= {self._options.dwi_b_min:g}{limit}"
        return ([], reason) if reason else ([found_file(file, role, _groups(name, []), rank, volumes, done)], "")

    def _echoes(self, file: ImageFile, name: BidsName) -> tuple[list[Found], str]:
        shape = _shape(file.path)
        wanted = [(index, *echo) for index, echo in enumerate(ECHOES) if echo[0] in self._card.modalities]
        if not wanted:
            return [], f"the echoes of {name.suffix} are no modalities of the card"
        if shape and shape[3:] != (len(ECHOES),):
            return [], f"{name.suffix} with {(*shape, 1)[3]} volumes instead of {len(ECHOES)}"
        return [
            found_file(file, role, _groups(name, []), rank=2, volumes=(index,), done=f"{which} of a dual echo file")
            for index, role, which in wanted
        ], ""

    def _weighted(self, path: Path, name: BidsName) -> tuple[tuple[int, ...], str]:
        """The volumes of a diffusion file to be averaged (none where it is one image), or why it is not used."""
        shape, values = _shape(path), self._sidecars.b_values(path, name)
        if shape is None:
            return (), ""
        count = (*shape, 1)[3]
        if values is None:
            return (), "" if count == 1 else "a diffusion series without .bval"
        if len(values) != count:
            return (), f"{len(values)} b-values for {count} volumes"
        low, high = self._options.dwi_b_min, self._options.dwi_b_max
        chosen = tuple(i for i, b in enumerate(values) if b >= low and (high is None or b <= high))
        if not chosen:
            return (), f"no volume of the diffusion weighting wanted (b is {min(values):g} to {max(values):g})"
        return chosen if count > 1 else (), ""


def _shape(path: Path) -> tuple[int, ...] | None:
    """Lengths of the axes; None if the header cannot be read: the check of the cases says so, with all other faults."""
    try:
        return read_shape(path)
    except InputError:
        return None


def _subject(folders: list[str]) -> str:
    return next((folder for folder in folders if folder.startswith("sub-")), "")


def _groups(name: BidsName | None, folders: list[str]) -> dict[str, str]:
    entities: Mapping[str, str] = name.entities if name else {}
    session = next((folder.removeprefix("ses-") for folder in folders if folder.startswith("ses-")), "")
    patient = f"sub-{entities['sub']}" if "sub" in entities else _subject(folders)
    session = entities.get("ses", session)
    return {"patient": patient, "session": session, "case": _case(patient, session)}


def _case(patient: str, session: str) -> str:
    return case_name(patient, session and f"ses-{session}")


def _class_of(root: Path, options: BidsOptions, card: Card) -> ClassOf | None:
    if card.kind != "classification":
        return None
    if options.class_column is None:
        raise InputError(
            f"card {card.dataset_name}, converter_options.class_column",
            found="nothing",
            expected="the column of participants.tsv (or of the subjects' sessions.tsv) with the class",
        )
    values = ParticipantValues(root, options.class_column, options.encoding)

    def class_of(groups: Mapping[str, str]) -> tuple[str | None, str]:
        value, reason = values(groups["patient"], groups.get("session", ""))
        return options.class_of({"class": value}) if value else (None, reason)

    return class_of
