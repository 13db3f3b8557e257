"""One frozen dataclass per verb. Field docstrings are the command line's help texts, types hold the ranges.

Fields of a single method live in the method's own file (``pretraining/methods``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mvp_bench.config.fields import Broken
from mvp_bench.config.groups import (
    ClassificationConfig,
    LoopConfig,
    OverlapConfig,
    PhantomConfig,
    PlanningConfig,
    PreparationConfig,
    PretrainConfig,
    RuntimeConfig,
    SegmentationConfig,
    StatisticsConfig,
    StemRule,
)
from mvp_bench.config.marks import DECIDED, FOR_PEOPLE, PLACES, PROCESSES, SELECTION, SHOWN, Off
from mvp_bench.config.options import (
    AS_OVERLAP,
    AS_PHANTOM,
    FLAT,
    Budgets,
    Datasets,
    Folds,
    Names,
    Profile,
    Seeds,
    SomeNames,
)
from mvp_bench.config.ranges import Encoder, FolderName, Seed, Text, Workers


@dataclass(frozen=True)
class CommonConfig:
    """Options that mean the same in every verb."""

    root: Annotated[Path, PLACES] = Path()
    """Workspace folder, in which datasets/, plans/ and results/ are made."""
    verbose: Annotated[bool, SHOWN] = False
    """Debug messages on the terminal (the log file has them always)."""

    @property
    def writes(self) -> bool:
        """Whether the command writes anything; if not, no workspace is made."""
        return True


@dataclass(frozen=True)
class WorkConfig(CommonConfig):
    """Options of the verbs that work on datasets."""

    profile: Annotated[Profile, DECIDED] = "auto"
    """Bundle of defaults: full (the paper's scale, GPU), mini (minutes on two CPU cores), smoke (tests). auto: full
    where a GPU is found, else mini."""
    workers: Annotated[Workers, PROCESSES] = 2
    """Processes that work at the same time: on files, on cases, on cells of the benchmark."""


@dataclass(frozen=True)
class SeededConfig(WorkConfig):
    """Options of the verbs that draw random numbers."""

    seed: Seed = 0
    """Seed of everything random: splits, initial weights, case order, augmentation and the phantom."""


@dataclass(frozen=True)
class PrepareConfig(SeededConfig):
    """Turn a public release as downloaded, or a phantom, into checked cases and splits."""

    datasets: Annotated[Datasets, SELECTION] = ()
    """Datasets by id or name; 520 stands for 521 to 525."""
    all: Annotated[bool, SELECTION] = False
    """Everything that the command can work on. Every dataset (with --phantom), or every one whose release is in the
    workspace."""
    list: Annotated[bool, SELECTION] = False
    """List of what there is, and nothing else. Of each dataset: kind, modalities, licence, where to get it, prepared or
    not."""
    source: Annotated[Path | None, PLACES] = None
    """Folder of the unpacked release; for tables and index files also the file itself."""
    phantom: bool = False
    """Phantom data only, made where they are missing."""
    force: Annotated[bool, SELECTION] = False
    """Preparation from the start, whatever was prepared before."""
    check: Annotated[bool, SELECTION] = False
    """Check of prepared datasets, once more: every file is read to its end. A table is printed, integrity.json
    written."""
    overlap: Annotated[bool, SELECTION] = False
    """Table of how many patients each two prepared datasets share (by ids, crosswalks and images)."""
    crosswalks: Annotated[tuple[Path, ...], DECIDED] = ()
    """Tables that say which ids are one patient (BraTS mapping sheets, UCSF-PDGM metadata, BraTS2020 name_mapping);
    kept in <root>/datasets/crosswalks."""
    export_nnssl: Annotated[Path | None, SELECTION] = None
    """Folder to write the prepared datasets into as one nnssl collection (pretrain_data.json)."""
    preparation: Annotated[PreparationConfig, FLAT] = field(default_factory=PreparationConfig)
    overlap_config: Annotated[OverlapConfig, AS_OVERLAP] = field(default_factory=OverlapConfig)
    phantom_config: Annotated[PhantomConfig, AS_PHANTOM] = field(default_factory=PhantomConfig)

    @property
    def writes(self) -> bool:
        """Whether anything is written: a list leaves no workspace behind."""
        return not self.list

    def broken(self) -> Iterator[Broken]:
        """Rules between the fields that do not hold."""
        if self.all and self.datasets:
            yield Broken("all", "--all, or datasets named with -d", found="both")


@dataclass(frozen=True)
class PlanConfig(WorkConfig):
    """Fingerprint, plan and preprocess prepared datasets."""

    datasets: Annotated[Datasets, SELECTION] = ()
    """Datasets by id or name; 520 stands for 521 to 525."""
    all: Annotated[bool, SELECTION] = False
    """Everything that the command can work on. Every prepared dataset."""
    encoder: Encoder = "resenc-l"
    """Encoder preset. It fixes the topology for pre-training and every task."""
    planning: Annotated[PlanningConfig, FLAT] = field(default_factory=PlanningConfig)

    def broken(self) -> Iterator[Broken]:
        """Rules between the fields that do not hold."""
        if self.all and self.datasets:
            yield Broken("all", "--all, or datasets named with -d", found="both")


@dataclass(frozen=True)
class PretrainVerbConfig(SeededConfig):
    """Pre-train an encoder on every prepared pre-training dataset, or those named with -d."""

    datasets: Annotated[Datasets, SELECTION] = ("520",)
    """Datasets by id or name; 520 stands for 521 to 525. Of these, those that are prepared."""
    phantom: bool = False
    """Phantom data only, made where they are missing."""
    exclude_overlap: Annotated[bool, DECIDED] = False
    """Exclusion of every patient of a task from pre-training. Of every prepared task."""
    list: Annotated[bool, SELECTION] = False
    """List of what there is, and nothing else. Of each method: what it is, encoders it fits, budget as published and
    here."""
    dry_run: Annotated[bool, SELECTION] = False
    """Printout of the whole configuration as it would be used (JSON), and nothing else."""
    estimate: Annotated[bool, SELECTION] = False
    """Estimate of hours, memory and disk of the whole run from a few timed steps, and nothing else. Data are planned
    first if need be."""
    encoder: Encoder = "resenc-l"
    """Encoder preset. It fixes the topology for pre-training and every task."""
    pretrain: Annotated[PretrainConfig, FLAT] = field(default_factory=PretrainConfig)
    phantom_config: Annotated[PhantomConfig, AS_PHANTOM] = field(default_factory=PhantomConfig)
    planning: PlanningConfig = field(default_factory=PlanningConfig)
    runtime: Annotated[RuntimeConfig, FLAT] = field(default_factory=RuntimeConfig)
    overlap_config: Annotated[OverlapConfig, AS_OVERLAP] = field(default_factory=OverlapConfig)

    @property
    def writes(self) -> bool:
        """Whether anything is written."""
        return not (self.dry_run or self.list)


@dataclass(frozen=True)
class BenchmarkConfig(SeededConfig):
    """Methods x tasks x seeds -> leaderboards. What is missing on the way is made first."""

    all: Annotated[bool, SELECTION] = False
    """Everything that the command can work on. Every segmentation and classification task of the catalogue (those
    prepared; with --phantom all ten)."""
    methods: Annotated[SomeNames, SELECTION] = ("scratch", "mae", "brainmvp")
    """Pre-training methods to compare. scratch is none, all every one, imported:NAME the finished run
    results/pretraining/NAME (see mvp_weights import)."""
    tasks: Annotated[Names, SELECTION] = ()
    """Tasks by id or name. Default with --all: every one."""
    seeds: Annotated[Seeds, SELECTION] = ()
    """Fine-tuning seeds. Default: --seed alone (mini, smoke) or three from it on (full)."""
    folds: Annotated[Folds, SELECTION] = (0,)
    """Folds of the tasks' splits (official and ratio splits have fold 0 only)."""
    label_budgets: Annotated[Budgets, SELECTION] = (1.0,)
    """Shares of the training patients to fine-tune with; smaller ones lie in larger ones."""
    pretrain_datasets: Annotated[Names, SELECTION] = ("520",)
    """Datasets to pre-train on, by id or name. Test patients of the task at hand are always left out."""
    phantom: bool = False
    """Phantom data only, made where they are missing."""
    exclude_overlap: Annotated[bool, DECIDED] = False
    """Exclusion of every patient of a task from pre-training. Of the tasks at hand. Default: the paper's protocol; the
    share of test patients seen in pre-training stands in the leaderboard."""
    encoder: Encoder = "resenc-l"
    """Encoder preset. It fixes the topology for pre-training and every task."""
    stem: StemRule = "reinit"
    """Rule by which pre-trained weights reach a first convolution with another number of modalities."""
    keep_models: Annotated[bool, SHOWN, Off("No cell's trained network is kept, and none can be tested again.")] = True
    """Trained network of every cell, kept beside its results."""
    phantom_config: Annotated[PhantomConfig, AS_PHANTOM] = field(default_factory=PhantomConfig)
    planning: PlanningConfig = field(default_factory=PlanningConfig)
    pretrain: LoopConfig = field(default_factory=LoopConfig)
    segmentation: SegmentationConfig = field(default_factory=SegmentationConfig)
    classification: ClassificationConfig = field(default_factory=ClassificationConfig)
    runtime: Annotated[RuntimeConfig, FLAT] = field(default_factory=RuntimeConfig)
    statistics: StatisticsConfig = field(default_factory=StatisticsConfig)
    overlap_config: Annotated[OverlapConfig, AS_OVERLAP] = field(default_factory=OverlapConfig)

    def broken(self) -> Iterator[Broken]:
        """Rules between the fields that do not hold."""
        if not self.seeds:
            yield Broken("seeds", "at least one seed")
        if self.all and self.tasks:
            yield Broken("all", "--all, or tasks named with --tasks", found="both")


@dataclass(frozen=True)
class WeightsConfig(CommonConfig):
    """Look at a checkpoint, import it as a pre-training run, or export a run for other tools.

    Formats: nnssl (with adaptation plan), nnU-Net, released BrainMVP, Swin UNETR (MONAI, VoCo). Nothing is unpickled.
    """

    action: Annotated[tyro.conf.Positional[Literal["inspect", "import", "export"]], SELECTION] = "inspect"
    """Action. inspect: what the file holds and what of it would load. import: make results/pretraining/NAME of it.
    export: make a checkpoint of a run."""
    file: Annotated[tyro.conf.Positional[Path | None], PLACES] = None
    """Checkpoint to inspect or import; folder of the run to export."""
    name: Annotated[FolderName, SHOWN] = ""
    """Name of the imported run. Default: the file's name."""
    encoder: Encoder | None = None
    """Encoder preset. The one that the file belongs to; default: found by its tensors."""
    modalities: Names = ()
    """Modalities of the channels, in order. import: of the stem's input channels (or of the training data, if there is
    one channel). export: of the task's channels; default: one channel."""
    seed: Seed = 0
    """Seed of everything random: splits, initial weights, case order, augmentation and the phantom. In the export, of
    what is new in a stem."""
    licence: Annotated[Text, FOR_PEOPLE] = ""
    """Licence of the imported weights, where you know it."""
    format: Literal["nnssl", "nnunet"] = "nnssl"
    """Format of the export: nnssl with adaptation plan, or nnunet for -pretrained_weights."""
    stem: StemRule = "repeat"
    """Rule by which pre-trained weights reach a first convolution with another number of modalities. In the export."""
    out: Annotated[Path | None, PLACES] = None
    """File to export to. Default: RUN_FORMAT.pth here."""

    @property
    def writes(self) -> bool:
        """Whether anything is written: a look leaves no workspace behind."""
        return self.action != "inspect"
