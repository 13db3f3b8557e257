"""What a cell of the benchmark is: every coordinate, and the keys of everything that it is made from."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mvp_bench.identity import SHORT, key_of
from mvp_bench.metrics.estimators import MEAN
from mvp_bench.metrics.registry import TaskKind, ranking_metric
from mvp_bench.workspace import Workspace

Name = Annotated[str, Field(pattern=r"^[^./\\][^/\\]*$")]
"""Part of a folder's name."""
Filling = Literal["zero", "template", "left_out"]


class Strict(BaseModel):
    """A part of a cell's files: fields that it does not know are an error, and nothing changes once it is made."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CellNeeds(Strict):
    """The keys of what a cell is made from."""

    dataset: str
    """The prepared dataset."""
    splits: str
    plan: str
    arrays: str
    """The preprocessed cases."""
    encoder: str | None = None
    """The pre-training run, or the hash of imported weights; None trains from scratch."""
    pretraining: dict[str, str] = {}
    """Dataset that the encoder was trained on -> its key; empty from scratch, and where it is unknown."""


class CellSpec(Strict):
    """One training and its test: whatever its result depends on, and nothing else."""

    task: Name
    """DatasetNNN_Name."""
    kind: TaskKind
    source: Literal["real", "phantom"]
    method: Name
    encoder: Name
    """Preset."""
    mode: Literal["finetune"] = "finetune"
    """What is trained: all weights."""
    schedule: Literal["default"] = "default"
    """How it is trained."""
    label_budget: float = Field(default=1.0, gt=0, le=1)
    """Share of the training patients that are used."""
    stem: Name
    """How pre-trained weights reach a first convolution with another number of modalities."""
    fold: int = Field(ge=0)
    seed: int
    """Seed of the fine-tuning."""
    pretrain_seed: int | None = None
    """Seed of the pre-training; None where there is none, or where it is unknown."""
    recipe: str | None = None
    """Key of how the encoder was pre-trained, but for the seed and for whom this task's own split leaves out: cells of
    other recipes are never averaged. None where there is no pre-training, or where it is unknown."""
    profile: str
    regions: dict[str, list[int]] = {}
    """Region -> label values that form it (segmentation)."""
    classes: list[str] = []
    """Class names in the order of the network's outputs (classification)."""
    metrics: list[str] = []
    """Metrics of the task's card; the first one ranks. Empty: the kind's default."""
    filled: Filling = "zero"
    """What stands in for modalities that a case lacks."""
    tested: dict[str, str]
    """Test case -> patient."""
    n_train: int = Field(ge=0)
    """Training cases, after the label budget."""
    n_val: int = Field(ge=0)
    n_test: int = Field(ge=0)
    needs: CellNeeds
    settings: dict[str, Any]
    """Settings of the fine-tuning, resolved: the device's kind, precision and threads among them, never "auto"."""

    @model_validator(mode="after")
    def _consistent(self) -> CellSpec:
        if self.n_test != len(self.tested):
            raise ValueError(f"n_test is {self.n_test}, but {len(self.tested)} cases are listed")
        if not self.targets:
            raise ValueError("a task needs regions or classes")
        if len(set(self.targets)) < len(self.targets):
            raise ValueError("classes: two bear the same name")
        if MEAN in self.regions:
            raise ValueError(f"regions: {MEAN!r} stands for the mean over regions; name the region otherwise")
        return self

    @cached_property
    def key(self) -> str:
        """Key of all of it: two cells of one key are the same result."""
        # As counted() has it, since no field here is outside; many times faster.
        return key_of("finetune", self.model_dump(exclude={"needs"}), self.needs.model_dump())

    @cached_property
    def comparison(self) -> str:
        """Key of the fine-tuning settings alone, which all methods, seeds and folds of one comparison share."""
        return key_of("finetune", {"settings": self.settings})

    @property
    def targets(self) -> tuple[str, ...]:
        """Regions or classes, in order."""
        return tuple(self.regions if self.kind == "segmentation" else self.classes)

    @property
    def ranking_metric(self) -> str:
        """The metric that ranks the methods on this task.

        Raises:
            InputError: if the card names one that is not filed.
        """
        return ranking_metric(self.kind, self.metrics)

    @property
    def cell_id(self) -> str:
        """Name of the cell's folder, unique within its task and method."""
        return self.place_of(self.key).name

    def place_of(self, key: str) -> Path:
        """<task>/<method>/<cell id>, below ``results/cells``, under a key."""
        coordinates = f"labels{self.label_budget:g}-fold{self.fold}-seed{self.seed}"
        name = f"{self.encoder}-{self.stem}-{coordinates}-{key[:SHORT]}"
        return Path(self.task) / method_folder(self.method) / name

    def folder(self, workspace: Workspace) -> Path:
        """Where the cell's files lie: results/cells/<task>/<method>/<cell id>."""
        return workspace.cells / self.place_of(self.key)


def method_folder(method: str) -> str:
    """The method's name where it names a folder: not every file system takes a colon."""
    return method.replace(":", "-")
