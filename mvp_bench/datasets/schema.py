"""The two contracts of this room, checked by pydantic: a dataset's *card* and the ``mvp_bench`` block of dataset.json.

A card holds what is fixed about a dataset (ships with the package, or lies in a workspace's ``datasets/``). The block
holds what was found in one copy of it: which cases, whose, which file is which modality, what was left out and why.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mvp_bench.config.marks import DECIDED, FOR_PEOPLE, LATER, SELECTION, SHOWN

Kind = Literal["pretraining", "segmentation", "classification"]
Modality = Literal["t1", "t1c", "t2", "flair", "dwi", "adc", "pd", "mra", "t1ir"]
MODALITIES: tuple[str, ...] = ("t1", "t1c", "t2", "flair", "dwi", "adc", "pd", "mra", "t1ir")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class SplitRule(_Strict):
    """How cases are divided. Patients are never divided."""

    scheme: Literal["ratio", "official", "file", "leave_one_out", "k_fold"] = "ratio"
    ratio: tuple[float, float, float] = (6, 1, 3)
    """train : validation : test, for ``ratio``."""
    stratify: Literal["class", "lesion_volume", "none"] = "none"
    k: int = Field(default=5, ge=2)
    """Number of folds, for ``k_fold``."""
    official: dict[Literal["train", "val", "test"], list[str]] | None = None
    """Patient ids per part, for ``official``. A phantom cohort is divided by ``ratio`` instead."""
    file: str | None = None
    """Name of a split file (for ``file``) of BrainMVP's form (lists ``training``, ``validation``, ``test`` of image
    paths); relative to the workspace's ``datasets/splits/``, or absolute."""


class Paper(_Strict):
    """What BrainMVP's authors used of the dataset."""

    cases: int | None = None
    note: str = ""


class Card(_Strict):
    """Fixed facts of one dataset. ``regions`` are listed from outermost to innermost, as nnU-Net wants them.

    Fields that bear a mark are not in the dataset's key (see ``prepared.dataset_key``).
    """

    id: int = Field(ge=1, le=999)
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$")
    title: Annotated[str, FOR_PEOPLE]
    kind: Kind
    modalities: list[Modality] = Field(min_length=1)
    labels: dict[str, int] = {}
    """Label name -> voxel value after conversion; ``background`` is 0. Empty where there are no masks."""
    regions: dict[str, list[int]] = {}
    """Evaluated region -> label values that form it (segmentation)."""
    classes: list[str] = []
    """Class names; their order gives the class index (classification)."""
    patient_rule: Annotated[str, FOR_PEOPLE]
    """Rule in words: how the patient is read from the file names."""
    patient_space: str = ""
    """Name of the list that patient ids are taken from; datasets that name the same one have the same people under
    the same ids. Default: a list of the dataset's own. Ids of the known releases are recognised anyway."""
    split: Annotated[SplitRule, DECIDED] = SplitRule()
    licence: Annotated[str, FOR_PEOPLE]
    access: Annotated[str, FOR_PEOPLE]
    """Login, registration or agreement that is needed."""
    url: Annotated[str, FOR_PEOPLE]
    """Where to get it."""
    folder: Annotated[str, FOR_PEOPLE] = ""
    """The folder to point ``--source`` at."""
    citation: Annotated[str, FOR_PEOPLE]
    converter: Annotated[str, DECIDED]
    converter_options: Annotated[dict[str, Any], DECIDED] = {}
    metrics: Annotated[list[str], LATER] = []
    """The first one ranks."""
    expected_cases: Annotated[int | None, SHOWN] = None
    traps: Annotated[list[str], FOR_PEOPLE] = []
    paper: Annotated[Paper, FOR_PEOPLE] = Paper()
    members: Annotated[list[int], SELECTION] = []
    """Ids of the datasets a collection stands for."""

    @property
    def dataset_name(self) -> str:
        """nnU-Net's name: DatasetNNN_Name."""
        return f"Dataset{self.id:03d}_{self.name}"

    @model_validator(mode="after")
    def _consistent(self) -> Card:
        values = set(self.labels.values())
        if self.labels and self.labels.get("background") != 0:
            raise ValueError("labels: 'background' must be 0")
        for region, members in self.regions.items():
            if missing := set(members) - values:
                raise ValueError(f"regions.{region}: values {sorted(missing)} are not in labels")
        if self.kind == "segmentation" and not self.regions:
            raise ValueError("regions: a segmentation dataset needs at least one")
        if self.kind == "classification" and len(self.classes) < 2:
            raise ValueError("classes: a classification dataset needs at least two")
        if self.split.scheme == "official" and not self.split.official:
            raise ValueError("split.official: the official scheme needs its lists")
        if self.split.scheme == "file" and not self.split.file:
            raise ValueError("split.file: the scheme 'file' needs the file's name")
        return self


class Case(_Strict):
    """One visit of one patient, on one grid. Paths are relative to the dataset's folder, or absolute."""

    patient: str = Field(min_length=1)
    session: str | None = None
    site: str | None = None
    images: dict[Modality, str | None]
    """Modality -> file; null where the case lacks it."""
    label: str | None = None
    """Mask file."""
    class_name: str | None = Field(default=None, alias="class")

    @field_validator("images")
    @classmethod
    def _some_image(cls, images: dict[str, str | None]) -> dict[str, str | None]:
        if not any(images.values()):
            raise ValueError("a case needs at least one image")
        return images

    @property
    def modalities(self) -> list[str]:
        """The modalities that are present, in the dataset's order."""
        return [m for m, path in self.images.items() if path]


class Exclusion(_Strict):
    """A case, patient or file that was left out."""

    what: str
    reason: str


class Repair(_Strict):
    """A documented mend that the converter applied."""

    what: str
    repair: str


class DatasetBlock(_Strict):
    """The ``mvp_bench`` block of a prepared dataset's dataset.json."""

    card_id: int
    card_name: str
    kind: Kind
    source: Literal["real", "phantom"]
    release: str
    """Folder the cases were read from."""
    modalities: list[Modality]
    labels: dict[str, int] = {}
    regions: dict[str, list[int]] = {}
    classes: list[str] = []
    card: dict[str, Any] = {}
    """The card's fields that the preparation looked at, as they were."""
    cases: dict[str, Case]
    excluded: list[Exclusion] = []
    repairs: list[Repair] = []
    data_hash: str
    """Over the voxels and voxel sizes of all images and masks: changes if any of them does."""
    phantom: str | None = None
    """Key of the phantom release; None for real data."""
    key: str = ""
    """Key of all that the dataset was made from (see ``prepared.dataset_key``)."""
    code_version: str
    provenance: dict[str, Any] = {}
    """Configuration of the phantom, or of the converter."""


class Fold(_Strict):
    """Case ids of one division; disjoint, by patient."""

    train: list[str]
    val: list[str]
    test: list[str]
    order: list[str] = []
    """The training patients in the order in which growing label fractions take them (5 % lies in 10 % in 20 % ...)."""


class Splits(_Strict):
    """splits.json."""

    scheme: str
    seed: int
    stratify: str
    patients: dict[str, str]
    """Case -> patient, so that the file can be checked by itself."""
    folds: list[Fold]
    hash: str = ""
    """SHA-256 (hex) of everything above; every result carries it."""
    key: str = ""
    """Key of everything above and of the dataset (see ``prepared.splits_key``)."""

    @model_validator(mode="after")
    def _patients_are_whole(self) -> Splits:
        for index, fold in enumerate(self.folds):
            part_of: dict[str, str] = {}
            for part in ("train", "val", "test"):
                for case in getattr(fold, part):
                    if case not in self.patients:
                        raise ValueError(f"fold {index}: case {case} has no patient")
                    patient = self.patients[case]
                    if part_of.setdefault(patient, part) != part:
                        raise ValueError(f"fold {index}: patient {patient} is in {part_of[patient]} and in {part}")
            training = {patient for patient, part in part_of.items() if part == "train"}
            if fold.order and (set(fold.order) != training or len(fold.order) != len(training)):
                raise ValueError(f"fold {index}: order does not hold each training patient once")
        return self


DATASET_NAME = re.compile(r"^Dataset(\d{3})_(.+)$")


def resolve_path(folder: Path, path: str) -> Path:
    """A path of a :class:`Case` as an absolute one."""
    return Path(path) if Path(path).is_absolute() else folder / path
