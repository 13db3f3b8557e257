"""``mvp_prepare --check``: every file of prepared datasets is read again and compared with what was prepared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from mvp_bench.config.groups import CheckConfig
from mvp_bench.datasets.integrity.cases import check_cases, empty_regions, integrity_report
from mvp_bench.datasets.integrity.duplicates import find_duplicates, with_duplicates
from mvp_bench.datasets.integrity.report import INTEGRITY, CaseFacts, FileFacts, Integrity, load_integrity
from mvp_bench.datasets.journal import Journal
from mvp_bench.datasets.prepared import load_block
from mvp_bench.datasets.schema import Card, Case, resolve_path
from mvp_bench.errors import InputError
from mvp_bench.parallel import worker_pool
from mvp_bench.progress import console
from mvp_bench.sealed import write_sealed
from mvp_bench.workspace import Workspace

SHOWN = 20
"""Faults and warnings that are printed per dataset; integrity.json has all of them."""


def check_prepared(workspace: Workspace, cards: Sequence[Card], workers: int, config: CheckConfig) -> bool:
    """Check prepared datasets again, write their integrity.json, and print a table with the findings below it.

    A file that changed since the preparation is a fault; integrity.json keeps what is known of the original.

    Args:
        workers: processes that read files.

    Returns:
        Whether there are no faults.

    Raises:
        InputError: if a dataset is not prepared.
    """
    reports: list[Integrity] = []
    whole: dict[str, list[str]] = {}
    with worker_pool(workers) as pool:
        for card in cards:
            block = load_block(workspace, card)
            folder = workspace.dataset(card.dataset_name)
            before = load_integrity(workspace, card) if (folder / INTEGRITY).is_file() else None
            cases = {name: _with_absolute_paths(case, folder) for name, case in block.cases.items()}
            checked = check_cases(cases, card, pool, config, Journal())
            facts = {name: one.facts for name, one in checked.items()}
            if before:
                facts = {name: _compared(facts[name], before.cases.get(name)) for name in facts}
            duplicates = find_duplicates(workspace, card, facts)
            facts = with_duplicates(facts, duplicates)
            whole[card.dataset_name] = empty_regions(facts, card) if card.kind == "segmentation" else []
            settings = {**(before.config if before else {}), "check": asdict(config)}
            report = integrity_report(card, block, facts, duplicates.listed, settings)
            write_sealed(folder / INTEGRITY, report.model_dump(mode="json"))
            reports.append(report)
    _print(reports, whole)
    return not any(whole.values()) and not any(case.faults for r in reports for case in r.cases.values())


def _with_absolute_paths(case: Case, folder: Path) -> Case:
    images = {m: str(resolve_path(folder, path)) if path else None for m, path in case.images.items()}
    label = str(resolve_path(folder, case.label)) if case.label else None
    return case.model_copy(update={"images": images, "label": label})


def _compared(now: CaseFacts, before: CaseFacts | None) -> CaseFacts:
    """The facts, with a fault for each file that is not what was prepared; its old facts are kept."""
    if before is None:
        return now
    files: dict[str, FileFacts] = dict(before.files) | now.files
    faults = list(now.faults)
    for role, old in before.files.items():
        new = now.files.get(role)
        if new and new.hash != old.hash:
            error = InputError(
                new.name,
                found=f"content changed since the preparation (hash {new.hash[:12]}, {new.bytes} bytes)",
                expected=f"{old.hash[:12]}, {old.bytes} bytes (or prepare the dataset again)",
            )
            faults.append(error.fault)
            files[role] = old
    return now.model_copy(update={"files": files, "faults": tuple(faults)})


def _print(reports: Sequence[Integrity], whole: dict[str, list[str]]) -> None:
    table = Table()
    headings = ["cases", "patients", "files", "faults", "warnings", "excluded", "repaired", "skull", "duplicates"]
    table.add_column("dataset", overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "skull" else "right")
    for report in reports:
        table.add_row(*map(escape, _row(report, len(whole[report.dataset]))))
    console.print(table, soft_wrap=False)
    for report in reports:
        faults = whole[report.dataset] + [f"{n}: {text}" for n, case in report.cases.items() for text in case.faults]
        warnings = [f"{n}: {text}" for n, case in report.cases.items() for text in case.warnings]
        _print_list(f"{report.dataset}: faults", faults, "red")
        _print_list(f"{report.dataset}: warnings", report.warnings + warnings, "yellow")


def _row(report: Integrity, whole: int) -> list[str]:
    cases = report.cases.values()
    skulls = Counter(file.skull for case in cases for file in case.files.values() if file.skull)
    return [
        report.dataset,
        str(len(cases)),
        str(len({case.patient for case in cases})),
        str(sum(len(case.files) for case in cases)),
        str(whole + sum(len(case.faults) for case in cases)),
        str(len(report.warnings) + sum(len(case.warnings) for case in cases)),
        str(len(report.excluded)),
        str(len(report.repairs)),
        ", ".join(f"{count} {state}" for state, count in skulls.most_common()),
        str(len(report.duplicates)),
    ]


def _print_list(title: str, texts: Sequence[str], colour: str) -> None:
    if not texts:
        return
    console.print(f"{title} ({len(texts)})", style=colour, highlight=False, markup=False)
    for text in texts[:SHOWN]:
        console.print(f"  {text}", highlight=False, markup=False)
    if len(texts) > SHOWN:
        console.print(f"  and {len(texts) - SHOWN} more, see {INTEGRITY}", highlight=False, markup=False)
