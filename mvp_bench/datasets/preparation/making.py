"""Files that a converter planned are made, and the cases brought to what came of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from mvp_bench.config.groups import CheckConfig, PreparationConfig, RegistrationConfig
from mvp_bench.datasets.geometry.derive import Derived, TargetOutcome, write_derived
from mvp_bench.datasets.journal import Journal, run_kept, step_key
from mvp_bench.datasets.reading.conversion import Conversion
from mvp_bench.datasets.schema import Card, Case, Exclusion, Repair
from mvp_bench.errors import InputError, MachineError


@dataclass(frozen=True)
class Made:
    """What became of one :class:`Derived`: its outcomes, or the fault that stopped it."""

    outcomes: tuple[TargetOutcome, ...] = ()
    fault: str = ""


@dataclass(frozen=True)
class MadeCases:
    """Cases that point at the files made.

    Attributes:
        failed: target that could not be made -> why; a fault of the cases that need it.
        warnings: case -> what a human should look at.
    """

    cases: dict[str, Case]
    excluded: list[Exclusion] = field(default_factory=list)
    repairs: list[Repair] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)


def make_cases(
    conversion: Conversion, card: Card, source: Path, config: PreparationConfig, pool: Executor, journal: Journal
) -> MadeCases:
    """Write all planned files, step after step, several at a time; those that the journal holds are not written again.

    A file that needs one that failed is not tried: it failed for the same reason.

    Args:
        source: the release; what lies in it is called by its path below it.
    """
    derived = sorted(conversion.derived, key=lambda item: item.step)
    make = partial(_make, check=config.check, registration=config.registration, nan_background=config.nan_background)
    made = _make_all(derived, make, pool, journal, f"mend {card.name}")
    return _apply(conversion, derived, made, card, source)


def _make_all(
    derived: Sequence[Derived], make: Callable[[Derived], Made], pool: Executor, journal: Journal, description: str
) -> list[Made]:
    made: list[Made] = []
    failed: dict[Path, str] = {}
    for step, group in groupby(derived, key=lambda item: item.step):
        items = list(group)
        todo = [item for item in items if not _needs(item) & failed.keys()]
        keys = [step_key(_as_json(item), sorted(_needs(item))) for item in todo]
        what = f"{description}, step {step + 1}" if derived[-1].step else description
        results = dict(zip(map(id, todo), run_kept(pool, make, todo, keys, Made, what, journal), strict=True))
        for item in items:
            result = results.get(id(item))
            if result is None:
                result = Made(fault=next(failed[path] for path in sorted(_needs(item)) if path in failed))
            if result.fault:
                failed |= dict.fromkeys(_targets(item), result.fault)
            made.append(result)
    return made


def _apply(
    conversion: Conversion, derived: Sequence[Derived], made: Sequence[Made], card: Card, source: Path
) -> MadeCases:
    """The conversion's cases with the files that were really made."""
    failed = {
        str(target): m.fault for item, m in zip(derived, made, strict=True) if m.fault for target in _targets(item)
    }
    outcomes = {outcome.target: outcome for item in made for outcome in item.outcomes}
    result = MadeCases({}, list(conversion.excluded), list(conversion.repairs), failed)
    for outcome in outcomes.values():
        if outcome.repair:
            result.repairs.append(Repair(what=_shown(outcome.source, source), repair=outcome.repair))
    for case_id, case in conversion.cases.items():
        changed, why_not = _with_outcomes(case, outcomes, card)
        used = {path: outcomes[path] for path in _paths(case) if path in outcomes}
        for outcome in used.values():
            if outcome.refused and outcome.path is None and not why_not:
                result.excluded.append(Exclusion(what=_shown(outcome.source, source), reason=outcome.refused))
            elif outcome.refused and not why_not:
                text = f"{_shown(outcome.source, source)}: {outcome.refused}"
                result.warnings.setdefault(case_id, []).append(text)
        if why_not:
            result.excluded.append(Exclusion(what=case_id, reason=why_not))
        else:
            result.cases[case_id] = changed
    return result


def _make(item: Derived, check: CheckConfig, registration: RegistrationConfig, nan_background: bool) -> Made:
    try:
        return Made(outcomes=tuple(write_derived(item, check, registration, nan_background)))
    except MachineError:
        raise
    except InputError as error:
        return Made(fault=error.fault)


def _with_outcomes(case: Case, outcomes: Mapping[str, TargetOutcome], card: Card) -> tuple[Case, str]:
    """The case with the paths of the outcomes, and why it cannot be used (empty if it can)."""
    images = {m: outcomes[path].path if path and path in outcomes else path for m, path in case.images.items()}
    label = outcomes[case.label].path if case.label and case.label in outcomes else case.label
    lost = {m: outcomes[str(case.images[m])].refused for m, path in images.items() if case.images[m] and not path}
    if case.label is not None and label is None:
        return case, f"its mask is left out: {outcomes[case.label].refused}"
    if lost and (not any(images.values()) or not _allows_missing(card)):
        return case, "; ".join(f"lacks {modality}: {reason}" for modality, reason in lost.items())
    return case.model_copy(update={"images": images, "label": label}), ""


def _allows_missing(card: Card) -> bool:
    option = card.converter_options.get("allow_missing")  # validated by the converter
    return card.kind == "pretraining" if option is None else bool(option)


def _needs(item: Derived) -> set[Path]:
    named = (item.source, item.grid, item.mask, item.header, item.transform, *(one for one, _ in item.companions))
    return {path for path in named if path is not None}


def _targets(item: Derived) -> list[Path]:
    return [item.target, *(target for _, target in item.companions)]


def _paths(case: Case) -> list[str]:
    return [path for path in (*case.images.values(), case.label) if path]


def _shown(path: str, source: Path) -> str:
    return Path(path).relative_to(source).as_posix() if Path(path).is_relative_to(source) else path


def _as_json(item: Derived) -> dict[str, str]:
    """What tells one file to make from another, the same in every process."""
    values: dict[str, Any] = {entry.name: getattr(item, entry.name) for entry in fields(item)}
    values["reader"] = _named(item.reader)
    return {name: str(value) for name, value in values.items()}


def _named(reader: Any) -> str:
    if isinstance(reader, partial):
        return f"{_named(reader.func)} {reader.args} {sorted(reader.keywords.items())}"
    return f"{reader.__module__}.{reader.__qualname__}" if reader else ""
