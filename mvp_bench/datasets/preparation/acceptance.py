"""Which cases of a conversion become part of the dataset: those whose files could be made and passed every check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from mvp_bench.config.groups import PreparationConfig
from mvp_bench.datasets.geometry.derive import Derived
from mvp_bench.datasets.geometry.intensities import Mend
from mvp_bench.datasets.integrity.case_check import case_roles
from mvp_bench.datasets.integrity.cases import LABEL, check_cases, empty_regions
from mvp_bench.datasets.integrity.duplicates import find_duplicates, with_duplicates
from mvp_bench.datasets.integrity.report import CaseFacts
from mvp_bench.datasets.journal import Journal
from mvp_bench.datasets.preparation.making import MadeCases, make_cases
from mvp_bench.datasets.reading.conversion import Conversion
from mvp_bench.datasets.schema import Card, Case, Exclusion, Modality
from mvp_bench.errors import InputError
from mvp_bench.progress import log
from mvp_bench.workspace import Workspace

SHOWN_FAULTS = 10
"""Faults in one message; the log file has all of them."""


@dataclass(frozen=True)
class Workbench:
    """What the preparation of one dataset works with.

    Attributes:
        source: the release.
        staging: folder for files made anew.
        pool: worker processes.
    """

    workspace: Workspace
    card: Card
    config: PreparationConfig
    source: Path
    staging: Path
    pool: Executor
    journal: Journal


@dataclass(frozen=True)
class Accepted:
    """What passed every check.

    Attributes:
        made: cases with absolute paths, exclusions and repairs.
        facts: of those cases.
        duplicates: in words.
    """

    made: MadeCases
    facts: dict[str, CaseFacts]
    duplicates: list[str]


def accept(bench: Workbench, conversion: Conversion) -> Accepted:
    """Make the planned files, check all cases, and leave out what is faulty if that was asked for.

    Raises:
        InputError: with all faults, or if no case is left.
    """
    card = bench.card
    made = make_cases(conversion, bench.card, bench.source, bench.config, bench.pool, bench.journal)
    if not made.cases:
        raise _none_usable(card, made.excluded)
    made, facts = _checked(bench, made)
    duplicates = find_duplicates(bench.workspace, card, facts)
    facts = with_duplicates(facts, duplicates)
    if bench.config.exclude_faulty:
        made, facts = _without_faulty(made, facts)
        if not facts:
            raise _none_usable(card, made.excluded)
    faults = [fault for one in facts.values() for fault in one.faults]
    whole = empty_regions(facts, card) if card.kind == "segmentation" else []
    if faults or whole:
        raise _faulty(card, faults, whole, facts)
    return Accepted(made, facts, duplicates.listed)


def _checked(bench: Workbench, made: MadeCases) -> tuple[MadeCases, dict[str, CaseFacts]]:
    """The facts of all cases; files that nnU-Net could not read are written anew and checked again."""
    check, nan = bench.config.check, bench.config.nan_background
    checked = check_cases(made.cases, bench.card, bench.pool, check, bench.journal, made.failed, nan)
    facts = {name: one.facts for name, one in checked.items()}
    rewrite = {name: one.rewrite for name, one in checked.items() if one.rewrite and not one.facts.faults}
    if rewrite:
        flawed = _flawed(made, rewrite, bench.staging)
        again = make_cases(flawed, bench.card, bench.source, bench.config, bench.pool, bench.journal)
        made = replace(made, cases=made.cases | again.cases, repairs=made.repairs + again.repairs)
        checked = check_cases(again.cases, bench.card, bench.pool, check, bench.journal, again.failed)
        facts |= {name: one.facts for name, one in checked.items()}
    for name, mends in rewrite.items():
        told = [f"{Path(case_roles(made.cases[name])[role]).name}: {m.done}" for role, m in mends.items() if m.done]
        facts[name] = facts[name].model_copy(update={"warnings": (*facts[name].warnings, *told)})
    for name, warnings in made.warnings.items():
        facts[name] = facts[name].model_copy(update={"warnings": (*facts[name].warnings, *warnings)})
    return made, facts


def _flawed(made: MadeCases, rewrite: Mapping[str, Mapping[str, Mend]], staging: Path) -> Conversion:
    """Cases with files that the check could read and nnU-Net could not (see case_check.Checked), to be written anew."""
    cases: dict[str, Case] = {}
    derived: list[Derived] = []
    for name, mends in rewrite.items():
        case = made.cases[name]
        images = dict(case.images)
        label = case.label
        for role, mend in mends.items():
            if role == LABEL:
                item = Derived(Path(str(label)), staging / "labels" / f"{name}.nii.gz", "label")
                label = str(item.target)
            else:
                modality = cast(Modality, role)
                source, target = Path(str(images[modality])), staging / "images" / f"{name}_{role}.nii.gz"
                if source == target:  # made anew once; a file that both steps write would hide the second's work
                    target = target.with_name(f"{name}_{role}_values.nii.gz")
                item = Derived(source, target, "image", mend=mend)
                images[modality] = str(item.target)
            derived.append(item)
        cases[name] = case.model_copy(update={"images": images, "label": label})
    return Conversion(cases, derived=derived)


def _without_faulty(made: MadeCases, facts: dict[str, CaseFacts]) -> tuple[MadeCases, dict[str, CaseFacts]]:
    excluded = [Exclusion(what=n, reason=f"faulty: {'; '.join(f.faults)}") for n, f in facts.items() if f.faults]
    if excluded:
        log.warning("%s left out, see 'excluded' in integrity.json", _count(excluded, "faulty case"))
    kept = {name: one for name, one in facts.items() if not one.faults}
    cases = {name: made.cases[name] for name in kept}
    return replace(made, cases=cases, excluded=made.excluded + excluded), kept


def _faulty(card: Card, faults: list[str], whole: list[str], facts: Mapping[str, CaseFacts]) -> InputError:
    """One error for all faults."""
    everything = whole + faults
    for fault in everything:
        log.debug("fault: %s", fault)
    shown = [f"\n  {fault}" for fault in everything[:SHOWN_FAULTS]]
    if len(everything) > SHOWN_FAULTS:
        shown.append(f"\n  and {len(everything) - SHOWN_FAULTS} more (all of them are in the log file)")
    cases = sum(bool(one.faults) for one in facts.values())
    counts = [f"{_count(faults, 'fault')} in {cases} of {len(facts)} cases"] if faults else []
    counts += [f"{_count(whole, 'region')} that none of {len(facts)} cases has"] if whole else []
    ways = "Mend the files"
    if faults:
        ways += ", or go on without these cases: with --exclude-faulty, or by naming them in converter_options.exclude"
        ways += " of a card of your own"
    return InputError(
        f"dataset {card.dataset_name}",
        found=" and ".join(counts),
        expected="none",
        fix=f"{ways}:{''.join(shown)}",
    )


def _count(items: Sequence[object], name: str) -> str:
    return f"{len(items)} {name}{'s' if len(items) > 1 else ''}"


def _none_usable(card: Card, excluded: Sequence[Exclusion]) -> InputError:
    return InputError(
        f"dataset {card.dataset_name}",
        found=f"no usable case ({excluded[-1].what}: {excluded[-1].reason})",
        expected="at least one",
        fix="Check the release; every case that was left out failed.",
    )
