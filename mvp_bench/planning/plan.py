"""Fingerprint, plan and preprocess a prepared dataset; a step whose inputs are as before is skipped."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from mvp_bench.config.groups import PlanningConfig
from mvp_bench.datasets.prepared import load_block
from mvp_bench.datasets.schema import Card, DatasetBlock, resolve_path
from mvp_bench.identity import code_version, hash_of
from mvp_bench.io import lock, read_json, write_json
from mvp_bench.planning.fingerprint import CaseFiles, fingerprint
from mvp_bench.planning.picture import draw_regions
from mvp_bench.planning.planner import CONFIGURATION, FixedEncoderPlanner, Topology
from mvp_bench.planning.preprocess import preprocess_dataset, same_spacing
from mvp_bench.planning.store import INDEX, CaseStore
from mvp_bench.progress import console, log
from mvp_bench.workspace import Workspace

NNUNET_VERSION = version("nnunetv2")
REGIONS_PICTURE = "regions.png"
PRETRAINING = "pretraining"  # configuration of a plan that holds the collection's common spacing


@dataclass(frozen=True)
class Planned:
    """A planned and preprocessed dataset."""

    card: Card
    block: DatasetBlock
    plan: dict[str, Any]
    fingerprint: dict[str, Any]
    folder: Path
    """plans/DatasetNNN_Name."""
    cases: Path
    """Folder of the preprocessed cases."""

    @property
    def configuration(self) -> dict[str, Any]:
        return self.plan["configurations"][CONFIGURATION]

    @cached_property
    def store(self) -> CaseStore:
        return CaseStore(self.cases)

    @property
    def hash(self) -> str:
        """Of all that the plan was made from."""
        return self.plan["mvp_bench"]["hash"]


def plan_dataset(
    workspace: Workspace, card: Card, topology: Topology, config: PlanningConfig, pool: Executor
) -> Planned:
    """Fingerprint, plan and preprocess a prepared dataset.

    Raises:
        InputError: if it is not prepared, or no patch fits the memory budget.
    """
    folder = workspace.plan(card.dataset_name)
    with lock(folder / "plan"):
        block = load_block(workspace, card)
        files = case_files(workspace, card, block)
        found = _fingerprint(workspace, card, block, files, config, pool)
        plan = _plan(workspace, card, block, topology, config, found)
        cases = preprocess_dataset(
            block,
            files,
            folder,
            CONFIGURATION,
            _label_spec(folder),
            _arrays_hash(block, plan, CONFIGURATION),
            pool,
        )
        planned = Planned(card, block, plan, found, folder, cases)
        _picture(planned)
    return planned


def _picture(planned: Planned) -> None:
    """``regions.png`` beside the plan, drawn anew whenever the arrays have changed."""
    path = planned.folder / REGIONS_PICTURE
    if planned.card.kind != "segmentation":
        return
    if not path.is_file() or path.stat().st_mtime < (planned.cases / INDEX).stat().st_mtime:
        draw_regions(path, planned.store, planned.block.regions, planned.card.labels)


def preprocess_for_pretraining(
    workspace: Workspace, planned: Planned, spacing: tuple[float, float, float], pool: Executor
) -> CaseStore:
    """The dataset's cases at the spacing (z, y, x in mm) that all pre-training data share."""
    if same_spacing(spacing, planned.configuration["spacing"]):
        return planned.store
    with lock(planned.folder / "plan"):
        plan = read_json(planned.folder / "plan.json")
        plan["configurations"][PRETRAINING] = {
            **planned.configuration,
            "data_identifier": f"plan_{PRETRAINING}",
            "spacing": list(spacing),
        }
        write_json(planned.folder / "plan.json", plan)
        files = case_files(workspace, planned.card, planned.block)
        folder = preprocess_dataset(
            planned.block,
            files,
            planned.folder,
            PRETRAINING,
            _label_spec(planned.folder),
            _arrays_hash(planned.block, plan, PRETRAINING),
            pool,
        )
    return CaseStore(folder)


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
    workspace: Workspace,
    card: Card,
    block: DatasetBlock,
    files: dict[str, CaseFiles],
    config: PlanningConfig,
    pool: Executor,
) -> dict[str, Any]:
    folder = workspace.plan(card.dataset_name)
    key = hash_of([block.data_hash, sorted(files), config.foreground_samples])
    target = folder / "fingerprint.json"
    if target.is_file() and (found := read_json(target))["mvp_bench"].get("hash") == key:
        return found
    found = fingerprint(block, files, config.foreground_samples, pool)
    found["mvp_bench"]["hash"] = key
    write_json(folder / "dataset_fingerprint.json", found)  # the name stock nnU-Net looks for
    write_json(target, found)
    return found


def _plan(
    workspace: Workspace,
    card: Card,
    block: DatasetBlock,
    topology: Topology,
    config: PlanningConfig,
    found: dict[str, Any],
) -> dict[str, Any]:
    folder = workspace.plan(card.dataset_name)
    settings = {k: v for k, v in asdict(config).items() if k not in ("workers", "foreground_samples")}
    key = hash_of([found["mvp_bench"]["hash"], settings, topology.architecture(), NNUNET_VERSION])
    target = folder / "plan.json"
    if target.is_file() and (plan := read_json(target)).get("mvp_bench", {}).get("hash") == key:
        return plan
    write_json(folder / "dataset.json", read_json(workspace.dataset(card.dataset_name) / "dataset.json"))
    planner = FixedEncoderPlanner(
        card.dataset_name,
        topology,
        config.memory_gb,
        config.max_patch_edge,
        spacing=tuple(float(i) for i in config.spacing) if config.spacing else None,  # type: ignore[arg-type]
        whole_case=card.kind == "classification",
    )
    plan = planner.plan_experiment()
    plan["mvp_bench"] = {
        "hash": key,
        "fingerprint": found["mvp_bench"]["hash"],
        "data": block.data_hash,
        "encoder": topology.name,
        "orientation": "RAS",
        "axis_order": "zyx",
        "modalities": block.modalities,
        "memory_estimate_gb": planner.memory_estimate_gb(plan["configurations"][CONFIGURATION]),
        "settings": settings,
        "code_version": code_version(),
    }
    write_json(target, plan)
    log.debug("%s planned", card.dataset_name)
    return plan


def _label_spec(folder: Path) -> dict[str, Any]:
    content = read_json(folder / "dataset.json")
    return {key: content[key] for key in ("labels", "regions_class_order") if key in content}


def _arrays_hash(block: DatasetBlock, plan: dict[str, Any], configuration: str) -> str:
    settings = plan["configurations"][configuration]
    relevant = {k: v for k, v in settings.items() if k not in ("batch_size", "architecture", "patch_size")}
    return hash_of([block.data_hash, relevant, NNUNET_VERSION])


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
            p.plan["mvp_bench"]["encoder"],
            f"{p.plan['mvp_bench']['memory_estimate_gb']:.2f}",
        )
    return table


def print_plans(planned: list[Planned]) -> None:
    """Show the plans in the terminal."""
    console.print(planned_table(planned))


def _triple(values: Any, digits: int) -> str:
    return " x ".join(f"{v:.{digits}f}" for v in values)
