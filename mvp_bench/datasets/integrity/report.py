"""integrity.json: what is known of every file of a prepared dataset, and what was found wrong or odd."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from mvp_bench.datasets.prepared import again, not_prepared
from mvp_bench.datasets.schema import Card, Exclusion, Repair
from mvp_bench.errors import InputError
from mvp_bench.sealed import CHECKSUM, read_sealed
from mvp_bench.workspace import Workspace

INTEGRITY = "integrity.json"
Skull = Literal["stripped", "with skull", "unclear"]


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileFacts(_Facts):
    """One file, read to its end."""

    name: str
    bytes: int
    hash: str
    """XXH3 (128 bits, hex) of the file."""
    voxels: str
    """The same of shape and voxels brought to RAS, whatever the file's orientation, type and compression."""
    shape: tuple[int, int, int]
    """Voxels, in the file's own axis order."""
    spacing: tuple[float, float, float]
    """mm, in the file's own axis order."""
    orientation: str
    """Axis codes, such as LPS."""
    minimum: float
    maximum: float
    nonzero: float
    """Share of voxels that are not 0."""
    skull: Skull | None = None
    """Images only."""
    perceptual: str = ""
    """Perceptual hash (hex) of an image; empty where none was taken."""

    @property
    def ras_spacing(self) -> list[float]:
        """mm, along right, anterior, superior."""
        of_axis = dict(zip(self.orientation, self.spacing, strict=True))
        return [of_axis.get(a, of_axis.get(b, 0.0)) for a, b in ("RL", "AP", "SI")]


class CaseFacts(_Facts):
    """One case."""

    patient: str
    files: dict[str, FileFacts]
    """Role (a modality or ``label``) -> facts."""
    label_voxels: dict[int, int] = {}
    """Label value -> voxels, background left out."""
    voxel_ml: float
    faults: tuple[str, ...] = ()
    """What makes the case unusable."""
    warnings: tuple[str, ...] = ()
    """What a human should look at."""

    @property
    def lesion_ml(self) -> float:
        """Volume of everything that is labelled, in millilitres."""
        return sum(self.label_voxels.values()) * self.voxel_ml


class Integrity(_Facts):
    """The whole file."""

    dataset: str
    source: Literal["real", "phantom"]
    data_hash: str
    code_version: str
    config: dict[str, Any]
    cases: dict[str, CaseFacts]
    duplicates: list[str] = []
    """Equal voxels in two places, within the dataset or across datasets."""
    warnings: list[str] = []
    """About the dataset as a whole."""
    excluded: list[Exclusion] = []
    repairs: list[Repair] = []


def load_integrity(workspace: Workspace, card: Card) -> Integrity:
    """integrity.json of a prepared dataset.

    Raises:
        InputError: if the dataset is not prepared, or the file is damaged or was edited.
    """
    path = workspace.dataset(card.dataset_name) / INTEGRITY
    if not path.is_file():
        raise not_prepared(workspace, card)
    content = read_sealed(path, again(card))
    del content[CHECKSUM]
    try:
        return Integrity.model_validate(content)
    except ValueError as error:
        raise InputError(path, found=str(error), expected="a file written by mvp_prepare") from error
