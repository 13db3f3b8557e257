"""Fingerprint, plan and preprocess a prepared dataset; a step whose inputs are as before is skipped."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from mvp_bench.config.groups import PlanningConfig
from mvp_bench.datasets.preparation.unchanged import require_unchanged
from mvp_bench.datasets.prepared import BLOCK, dataset_json_path, load_block
from mvp_bench.datasets.schema import Card, DatasetBlock, resolve_path
from mvp_bench.errors import InputError
from mvp_bench.identity import SHORT, code_version, counted, key_of
from mvp_bench.io import lock, read_json, write_json, write_text
from mvp_bench.planning.fingerprint import CaseFiles, fingerprint
from mvp_bench.planning.picture import draw_regions
from mvp_bench.planning.planner import CONFIGURATION, FixedEncoderPlanner, Topology
from mvp_bench.planning.preprocess import preprocess_dataset, same_spacing
from mvp_bench.planning.store import AGAIN, CaseStore
from mvp_bench.progress import console, log
from mvp_bench.sealed import read_sealed, write_sealed
from mvp_bench.workspace import Workspace

NNUNET_VERSION = version("nnunetv2")
NNUNET_FINGERPRINT = "dataset_fingerprint.json"
REGIONS_PICTURE = "regions.png"
ARRAYS = "arrays"
"""Folder of a dataset's preprocessed cases, below plans/DatasetNNN_Name."""
CURRENT = "current"
"""File that names the newest plan folder, for people."""
PRETRAINING = "pretraining"
"""Configuration that holds the collection's common spacing."""
NNUNET_FACTS = ("channel_names", "labels", "regions_class_order", "numTraining", "file_ending")
"""Entries of dataset.json that nnU-Net needs for training and inference; they are kept in the plan."""
NOT_PREPROCESSING = ("batch_size", "architecture", "patch_size", "median_image_size_in_voxels", "batch_dice")
"""Entries of a plan's configuration that preprocessing does not look at."""


@dataclass(frozen=True)
class Planned:
    """A planned and preprocessed dataset."""

    card: Card
    block: DatasetBlock
    plan: dict[str, Any]
    fingerprint: dict[str, Any]
    folder: Path
    """plans/DatasetNNN_Name/<encoder>-<key>."""
    cases: Path
    """plans/DatasetNNN_Name/arrays/<spacing>-<key>."""

    @property
    def configuration(self) -> dict[str, Any]:
        return self.plan["configurations"][CONFIGURATION]

    @cached_property
    def store(self) -> CaseStore:
        return CaseStore(self.cases, self.arrays)

    @property
    def key(self) -> str:
        """Changes with all that the plan was made from."""
        return str(self.plan[BLOCK]["key"])

    @property
    def arrays(self) -> str:
        """Key of the preprocessed cases."""
        return str(self.plan[BLOCK]["arrays"])


def plan_dataset(
    workspace: Workspace, card: Card, topology: Topology, config: PlanningConfig, pool: Executor
) -> Planned:
    """Fingerprint, plan and preprocess a prepared dataset.

    Every plan lies in a folder that bears its key, and so do the arrays; neither changes once it is written.

    Raises:
        InputError: if it is not prepared, its card or sources have changed since, or no patch fits the memory budget.
    """
    base = workspace.plan(card.dataset_name)
    with lock(base / "plan"):
        block = load_block(workspace, card)
        require_unchanged(workspace, card)
        files = case_files(workspace, card, block)
        found = _fingerprint(base, block, files, config, pool)
        folder, plan = _plan(workspace, card, block, topology, config, found)
        cases = _arrays(base, block, files, plan, CONFIGURATION, pool)
        planned = Planned(card, block, plan, found, folder, cases)
        _picture(planned)
        write_text(base / CURRENT, folder.name + "\n")
    return planned


def _picture(planned: Planned) -> None:
    """``regions.png`` beside the plan."""
    path = planned.folder / REGIONS_PICTURE
    if planned.card.kind == "segmentation" and not path.is_file():
        draw_regions(path, planned.store, planned.block.regions, planned.card.labels)


def preprocess_for_pretraining(
    workspace: Workspace, planned: Planned, spacing: tuple[float, float, float], pool: Executor
) -> CaseStore:
    """The dataset's cases at the spacing (z, y, x in mm) that all pre-training data share."""
    if same_spacing(spacing, planned.configuration["spacing"]):
        return planned.store
    base = workspace.plan(planned.card.dataset_name)
    plan = {**planned.plan, "configurations": {PRETRAINING: {**planned.configuration, "spacing": list(spacing)}}}
    with lock(base / "plan"):
        files = case_files(workspace, planned.card, planned.block)
        folder = _arrays(base, planned.block, files, plan, PRETRAINING, pool)
    return CaseStore(folder, arrays_key(planned.block, plan["configurations"][PRETRAINING]))


def _arrays(
    base: Path,
    block: DatasetBlock,
    files: dict[str, CaseFiles],
    plan: dict[str, Any],
    configuration: str,
    pool: Executor,
) -> Path:
    """The folder of a configuration's arrays, filled."""
    settings = plan["configurations"][configuration]
    key = arrays_key(block, settings)
    spacing = "x".join(f"{edge:.2f}" for edge in settings["spacing"])
    folder = base / ARRAYS / f"{spacing}-{key[:SHORT]}"
    return preprocess_dataset(block, files, folder, key, plan, configuration, plan[BLOCK]["dataset_json"], pool)


def arrays_key(block: DatasetBlock, configuration: dict[str, Any]) -> str:
    """Key of preprocessed cases: of the dataset, and of what preprocessing takes from a plan's configuration."""
    settings = {name: value for name, value in configuration.items() if name not in NOT_PREPROCESSING}
    return key_of("plan", {"arrays": settings, "nnunetv2": NNUNET_VERSION}, {"dataset": block.key})


def fingerprint_key(block: DatasetBlock, config: PlanningConfig) -> str:
    """Key of a dataset's fingerprint."""
    return key_of("plan", {"fingerprint": config.foreground_samples}, {"dataset": block.key})


def plan_key(block: DatasetBlock, topology: Topology, config: PlanningConfig) -> str:
    """Key of a dataset's plan for an encoder."""
    settings = {"planning": counted(config), "encoder": topology.architecture(), "nnunetv2": NNUNET_VERSION}
    return key_of("plan", settings, {"dataset": block.key, "fingerprint": fingerprint_key(block, config)})


def case_files(workspace: Workspace, card: Card, block: DatasetBlock) -> dict[str, CaseFiles]:
    """Absolute paths of every case's images (channel order) and mask."""
    base = workspace.dataset(card.dataset_name).resolve()
    return {
        name: CaseFiles(
            tuple(str(resolve_path(base, path)) if (path := case.images.get(m)) else None for m in block.modalities),
            str(resolve_path(base, case.label)) if case.label and card.kind == "segmentation" else None,
        )
        for name, case in sorted(block.cases.items())
    }


def _fingerprint(
    base: Path, block: DatasetBlock, files: dict[str, CaseFiles], config: PlanningConfig, pool: Executor
) -> dict[str, Any]:
    """The fingerprint, taken once for all encoders; a damaged one is taken again."""
    key = fingerprint_key(block, config)
    target = base / f"fingerprint-{key[:SHORT]}.json"
    if (found := _sealed_with(target, key)) is not None:
        return found
    found = fingerprint(block, files, config.foreground_samples, pool)
    found[BLOCK]["key"] = key
    write_sealed(target, found)
    return read_sealed(target, AGAIN)


def _sealed_with(path: Path, key: str) -> dict[str, Any] | None:
    """A record with this key in its block; ``None`` where it is not there, or damaged."""
    if not path.is_file():
        return None
    try:
        content = read_sealed(path, "it is made anew")
    except InputError as error:
        log.warning("%s", error)
        return None
    return content if content[BLOCK].get("key") == key else None


def _plan(
    workspace: Workspace,
    card: Card,
    block: DatasetBlock,
    topology: Topology,
    config: PlanningConfig,
    found: dict[str, Any],
) -> tuple[Path, dict[str, Any]]:
    """The folder of the plan, and the plan."""
    base = workspace.plan(card.dataset_name)
    key = plan_key(block, topology, config)
    folder = base / f"{topology.name}-{key[:SHORT]}"
    target = folder / "plan.json"
    if (plan := _sealed_with(target, key)) is not None:
        return folder, plan
    content = read_json(dataset_json_path(workspace, card))
    write_json(folder / "dataset.json", content)
    for path in (folder / "fingerprint.json", folder / NNUNET_FINGERPRINT, base / NNUNET_FINGERPRINT):
        write_json(path, found)  # the last two are where stock nnU-Net looks
    planner = FixedEncoderPlanner(
        card.dataset_name,
        topology,
        config.memory_gb,
        config.max_patch_edge,
        spacing=tuple(float(i) for i in config.spacing) if config.spacing else None,  # type: ignore[arg-type]
        whole_case=card.kind == "classification",
    )
    plan = planner.plan_experiment()
    plan[BLOCK] = {
        "key": key,
        "needs": {"dataset": block.key, "fingerprint": found[BLOCK]["key"]},
        "arrays": arrays_key(block, plan["configurations"][CONFIGURATION]),
        "encoder": topology.name,
        "orientation": "RAS",
        "axis_order": "zyx",
        "modalities": block.modalities,
        "memory_estimate_gb": planner.memory_estimate_gb(plan["configurations"][CONFIGURATION]),
        "settings": counted(config),
        "dataset_json": {name: content[name] for name in NNUNET_FACTS if name in content},
        "code_version": code_version(),
    }
    write_sealed(target, plan)
    log.debug("%s planned", card.dataset_name)
    return folder, read_sealed(target, AGAIN)


def load_plan(folder: Path, key: str) -> dict[str, Any]:
    """The plan of a folder, verified.

    Raises:
        InputError: if it is damaged, or another one than that with this key.
    """
    path = folder / "plan.json"
    plan = read_sealed(path, AGAIN)
    if plan[BLOCK]["key"] != key:
        raise InputError(path, found=f"a plan with the key {plan[BLOCK]['key'][:SHORT]}", expected=key, fix=AGAIN)
    return plan


def planned_table(planned: list[Planned]) -> Table:
    """The plans, one row a dataset."""
    table = Table(title="Plans (axes z, y, x)")
    for name in ("dataset", "cases", "modalities", "median shape", "median spacing", "spacing", "patch", "batch"):
        table.add_column(name)
    table.add_column("encoder")
    table.add_column("memory GB", justify="right")
    for p in planned:
        c = p.configuration
        table.add_row(
            p.card.dataset_name,
            str(len(p.block.cases)),
            " ".join(p.block.modalities),
            _triple(np.median(p.fingerprint["shapes_after_crop"], 0), 0),
            _triple(np.median(p.fingerprint["spacings"], 0), 2),
            _triple(c["spacing"], 2),
            _triple(c["patch_size"], 0),
            str(c["batch_size"]),
            p.plan[BLOCK]["encoder"],
            f"{p.plan['mvp_bench']['memory_estimate_gb']:.2f}",
        )
    return table


def print_plans(planned: list[Planned]) -> None:
    """Show the plans in the terminal."""
    console.print(planned_table(planned))


def _triple(values: Any, digits: int) -> str:
    return " x ".join(f"{v:.{digits}f}" for v in values)
