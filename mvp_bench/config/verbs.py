"""One frozen dataclass per verb. Field docstrings are the command line's help texts.

Fields of a single method live in the method's own file (``pretraining/methods``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mvp_bench.config.groups import (
    ClassificationConfig,
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
from mvp_bench.config.marks import DECIDED, FOR_PEOPLE, PLACES, PROCESSES, SELECTION, SHOWN
from mvp_bench.config.options import Datasets, Integers, Names, Numbers, Profile


@dataclass(frozen=True)
class CommonConfig:
    """Options that mean the same in every verb."""

    root: Annotated[Path, PLACES] = Path()
    """Workspace folder: datasets/, plans/ and results/ are made in it."""
    profile: Annotated[Profile, DECIDED] = "auto"
    """Bundle of defaults: full (paper's scale, GPU), mini (minutes on two CPU cores), smoke (tests). auto: full where
    a GPU is found, else mini."""
    seed: int = 0
    """Fixes splits, initial weights, case order, augmentation and the phantom."""
    verbose: Annotated[bool, SHOWN] = False
    """Show debug messages (the log file has them always)."""


@dataclass(frozen=True)
class PrepareConfig(CommonConfig):
    """Turn a public release as downloaded, or a phantom, into checked cases and splits."""

    datasets: Annotated[Datasets, SELECTION] = ()
    """Datasets by id or name."""
    all: Annotated[bool, SELECTION] = False
    """Every dataset (with --phantom), or every one whose release is in the workspace."""
    list: Annotated[bool, SELECTION] = False
    """List the datasets: kind, modalities, licence, where to get them, prepared or not."""
    source: Annotated[Path | None, PLACES] = None
    """Folder of the unpacked release; for tables and index files also the file itself."""
    phantom: bool = False
    """Make a synthetic release and prepare it."""
    force: Annotated[bool, SELECTION] = False
    """Prepare again, whatever was prepared before."""
    check: Annotated[bool, SELECTION] = False
    """Check prepared datasets again: every file is read to its end; prints a table and writes integrity.json."""
    overlap: Annotated[bool, SELECTION] = False
    """Print how many patients each two prepared datasets share (by ids, crosswalks and images)."""
    crosswalks: Annotated[tuple[Path, ...], DECIDED] = ()
    """Tables that say which ids are one patient (BraTS mapping sheets, UCSF-PDGM metadata, BraTS2020 name_mapping);
    kept in <root>/datasets/crosswalks."""
    export_nnssl: Annotated[Path | None, SELECTION] = None
    """Write the prepared datasets as one nnssl collection (pretrain_data.json) into this folder."""
    workers: Annotated[int, PROCESSES] = 2
    """Processes that make and read files."""
    preparation: Annotated[PreparationConfig, tyro.conf.arg(name="")] = field(default_factory=PreparationConfig)
    overlap_config: OverlapConfig = field(default_factory=OverlapConfig)
    phantom_config: PhantomConfig = field(default_factory=PhantomConfig)


@dataclass(frozen=True)
class PlanConfig(CommonConfig):
    """Fingerprint, plan and preprocess prepared datasets."""

    datasets: Annotated[Datasets, SELECTION] = ()
    """Datasets by id or name."""
    all: Annotated[bool, SELECTION] = False
    """Every prepared dataset."""
    encoder: str = "resenc-l"
    """Encoder preset; fixes the topology for pre-training and every task."""
    planning: Annotated[PlanningConfig, tyro.conf.arg(name="")] = field(default_factory=PlanningConfig)


@dataclass(frozen=True)
class PretrainVerbConfig(CommonConfig):
    """Pre-train an encoder on every prepared pre-training dataset, or those named with -d."""

    datasets: Annotated[Datasets, SELECTION] = ("520",)
    """Datasets by id or name; 520 stands for whatever of 521-525 is prepared."""
    phantom: bool = False
    """Use (and make, where missing) phantom data only."""
    exclude_overlap: Annotated[bool, DECIDED] = False
    """Leave out every patient who is in a prepared task too."""
    list: Annotated[bool, SELECTION] = False
    """List the methods: what, encoders they fit, budget as published and here."""
    dry_run: Annotated[bool, SELECTION] = False
    """Print the whole configuration as it would be used (JSON), and stop."""
    estimate: Annotated[bool, SELECTION] = False
    """Time a few steps, print hours, memory and disk of the whole run, and stop. Data are planned first if need be."""
    encoder: str = "resenc-l"
    """Encoder preset; fixes the topology for pre-training and every task."""
    pretrain: Annotated[PretrainConfig, tyro.conf.arg(name="")] = field(default_factory=PretrainConfig)
    planning: PlanningConfig = field(default_factory=PlanningConfig)
    runtime: Annotated[RuntimeConfig, tyro.conf.arg(name="")] = field(default_factory=RuntimeConfig)
    overlap: OverlapConfig = field(default_factory=OverlapConfig)

    @property
    def writes(self) -> bool:
        """Whether anything is written."""
        return not (self.dry_run or self.list)


@dataclass(frozen=True)
class BenchmarkConfig(CommonConfig):
    """Methods x tasks x seeds -> leaderboards. What is missing on the way is made first."""

    all: Annotated[bool, SELECTION] = False
    """Every segmentation and classification task of the catalogue (those prepared; with --phantom all ten)."""
    methods: Annotated[Names, SELECTION] = ("scratch", "mae", "brainmvp")
    """Pre-training methods to compare; scratch is none, imported:NAME the finished run results/pretraining/NAME (see
    mvp_weights import). Commas or blanks between them."""
    tasks: Annotated[Names, SELECTION] = ()
    """Tasks by id or name; default with --all: every one."""
    seeds: Annotated[Integers, SELECTION] = ()
    """Fine-tuning seeds; default: --seed alone (mini, smoke) or three from it on (full)."""
    folds: Annotated[Integers, SELECTION] = (0,)
    """Folds of the tasks' splits (official and ratio splits have fold 0 only)."""
    label_fractions: Annotated[Numbers, SELECTION] = (1.0,)
    """Shares of the training patients to fine-tune with; smaller ones lie in larger ones."""
    pretrain_datasets: Annotated[Names, SELECTION] = ("520",)
    """Datasets to pre-train on; test patients of the task at hand are always left out."""
    phantom: bool = False
    """Use phantom data only, made where missing."""
    exclude_overlap: Annotated[bool, DECIDED] = False
    """Leave every patient of the tasks out of pre-training (default: the paper's protocol; the share of test patients
    seen in pre-training stands in the leaderboard)."""
    encoder: str = "resenc-l"
    """Encoder preset; fixes the topology for pre-training and every task."""
    jobs: Annotated[int, PROCESSES] = 2
    """Cells trained at the same time."""
    stem: StemRule = "reinit"
    """How pre-trained weights reach a first convolution with another number of modalities."""
    keep_models: bool = True
    """Keep every cell's trained network beside its results."""
    phantom_config: PhantomConfig = field(default_factory=PhantomConfig)
    planning: PlanningConfig = field(default_factory=PlanningConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    segmentation: SegmentationConfig = field(default_factory=SegmentationConfig)
    classification: ClassificationConfig = field(default_factory=ClassificationConfig)
    runtime: Annotated[RuntimeConfig, tyro.conf.arg(name="")] = field(default_factory=RuntimeConfig)
    statistics: StatisticsConfig = field(default_factory=StatisticsConfig)
    overlap: OverlapConfig = field(default_factory=OverlapConfig)


@dataclass(frozen=True)
class WeightsConfig(CommonConfig):
    """Look at a checkpoint, import it as a pre-training run, or export a run for other tools.

    Formats: nnssl (with adaptation plan), nnU-Net, released BrainMVP, Swin UNETR (MONAI, VoCo). Nothing is unpickled.
    """

    action: Annotated[tyro.conf.Positional[Literal["inspect", "import", "export"]], SELECTION] = "inspect"
    """inspect: what the file holds and what of it would load. import: make results/pretraining/NAME of it. export: make
    a checkpoint of a run."""
    file: Annotated[tyro.conf.Positional[Path | None], PLACES] = None
    """Checkpoint to inspect or import; folder of the run to export."""
    name: Annotated[str, SHOWN] = ""
    """Of the imported run; default: the file's name."""
    encoder: str | None = None
    """Our preset that the file belongs to; default: found by its tensors."""
    modalities: Names = ()
    """import: of the stem's input channels in order (or of the training data, if there is one channel). export: of the
    task's channels in order; default: one channel."""
    licence: Annotated[str, FOR_PEOPLE] = ""
    """Of the imported weights, where you know it."""
    format: Literal["nnssl", "nnunet"] = "nnssl"
    """Of the export: nnssl with adaptation plan, or nnunet for -pretrained_weights."""
    stem: StemRule = "repeat"
    """How the export's stem gets to the task's channels."""
    out: Annotated[Path | None, PLACES] = None
    """File to export to; default: RUN_FORMAT.pth here."""

    @property
    def writes(self) -> bool:
        """Whether anything is written: a look leaves no workspace behind."""
        return self.action != "inspect"
