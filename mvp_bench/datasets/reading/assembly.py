"""The way from files whose names were understood to cases: grouped, one file per modality, complete, and with
everything that was left out listed. Every converter of the package ends here."""

from __future__ import annotations

import gzip
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from mvp_bench.datasets.geometry.derive import Derived
from mvp_bench.datasets.integrity.cases import LABEL
from mvp_bench.datasets.reading.case_plan import plan_case
from mvp_bench.datasets.reading.conversion import (
    Conversion,
    ConverterOptions,
    Found,
    compiled,
    files_below,
    natural,
    no_release,
)
from mvp_bench.datasets.reading.label_values import held_values
from mvp_bench.datasets.schema import Card, Case, Exclusion
from mvp_bench.errors import InputError
from mvp_bench.identity import hash_file
from mvp_bench.progress import log

ClassOf = Callable[[Mapping[str, str]], tuple[str | None, str]]
"""Named groups of a case -> its class, or None and the reason why it has none."""
Keep = Callable[[dict[str, Case]], tuple[dict[str, Case], list[Exclusion]]]
"""A last choice among usable cases -> those kept, and the others with reasons."""
_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+\-]*")


def assemble(
    found: list[Found],
    unread: list[Exclusion],
    options: ConverterOptions,
    card: Card,
    source: Path,
    output: Path,
    class_of: ClassOf | None = None,
    keep: Keep | None = None,
) -> Conversion:
    """Group files into cases and apply the rules of the card.

    Args:
        found: files that were understood.
        unread: images that were not, or that a rule leaves out.
        output: folder for files that must be written anew (``labels/``, ``images/`` in it); only planned here.
        class_of: gives the class, in classification datasets.
        keep: chooses among the usable cases (one visit per patient) once the classes are known.

    Raises:
        InputError: if no case is left, two different files claim one place, or label conventions are mixed.
    """
    grouped: dict[str, list[Found]] = defaultdict(list)
    for item in found:
        grouped[_case_id(item, options, card)].append(item)
    for name in options.exclude.keys() - grouped.keys():
        log.warning("card %s, converter_options.exclude: there is no case %s", card.dataset_name, name)
    excluded = list(unread)
    cases: dict[str, Case] = {}
    chosen: dict[str, dict[str, Found]] = {}
    for case_id in sorted(grouped, key=natural):
        if case_id in options.exclude:
            excluded.append(Exclusion(what=case_id, reason=f"excluded by the card: {options.exclude[case_id]}"))
            continue
        files, dropped = _one_file_each(case_id, grouped[case_id], options)
        excluded += dropped
        case, reason = _case(files, options, card, class_of)
        if case is None:
            excluded.append(Exclusion(what=case_id, reason=reason))
        else:
            cases[case_id], chosen[case_id] = case, files
    if keep:
        cases, dropped = keep(cases)
        excluded += dropped
    if not cases:
        raise _nothing_left(grouped, excluded, card, source)
    label_map = _needed_label_map([chosen[c][LABEL] for c in cases if cases[c].label], options.label_map)
    derived: list[Derived] = []
    for case_id, case in cases.items():
        plan = plan_case(case_id, case, chosen[case_id], label_map, options, card, output)
        derived += plan.derived
        cases[case_id] = plan.case
    return Conversion(cases, excluded, derived=derived)


def _case_id(item: Found, options: ConverterOptions, card: Card) -> str:
    case_id = _formatted("case_id", options.case_id, item, card)
    if not _SAFE_ID.fullmatch(case_id):
        raise InputError(
            item.file.path,
            found=f"the case id {case_id!r}",
            expected="letters, digits, _ . + and - only, since files are named after it",
            fix=f"Change converter_options.case_id of card {card.dataset_name}.",
        )
    return case_id


def _formatted(option: str, template: str, item: Found, card: Card) -> str:
    try:
        return template.format(**item.groups)
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(
            f"card {card.dataset_name}, converter_options.{option}",
            found=f"{template!r} ({error})",
            expected=f"a format string over the groups {', '.join(sorted(item.groups)) or '(none)'} of the patterns",
        ) from error


def _one_file_each(
    case_id: str, items: Iterable[Found], options: ConverterOptions
) -> tuple[dict[str, Found], list[Exclusion]]:
    """The file of each role. Copies of one name must be identical, unless the card prefers one of them."""
    preferred = [compiled(f"{pattern}(?:/.*)?") for pattern in options.prefer]
    by_role: dict[str, list[tuple[tuple, Found]]] = defaultdict(list)
    for item in items:
        wins = any(pattern.fullmatch(item.file.key) for pattern in preferred)
        by_role[item.role].append(((not wins, item.rank, natural(item.file.key)), item))
    files: dict[str, Found] = {}
    dropped: list[Exclusion] = []
    for role, candidates in by_role.items():
        (key, first), *others = sorted(candidates, key=lambda pair: pair[0])
        files[role] = first
        for other_key, other in others:
            if key[:2] != other_key[:2] or first.file.stem != other.file.stem:
                reason = f"{case_id} has another file for {role}: {first.file.key}"
            elif _identical(first.file.path, other.file.path):
                reason = f"identical copy of {first.file.key}"
            else:
                raise InputError(
                    other.file.path,
                    found=f"different content from {first.file.path}, which has the same name",
                    expected=f"one file for {role} of case {case_id}",
                    fix="Remove one of them, or name its folder in converter_options.prefer of a card of your own.",
                )
            dropped.append(Exclusion(what=other.file.key, reason=reason))
    return files, dropped


def _identical(one: Path, other: Path) -> bool:
    """Whether two files hold the same bytes, unpacked or not: some unpackers gunzip, and gzip stores a time."""
    if one.stat().st_size == other.stat().st_size and hash_file(one) == hash_file(other):
        return True
    try:
        return _unpacked(one) == _unpacked(other)
    except (OSError, EOFError, zlib.error):  # damaged: not a copy that could be dropped for the other
        return False


def _unpacked(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.name.lower().endswith(".gz") else path.read_bytes()


def _case(
    files: Mapping[str, Found], options: ConverterOptions, card: Card, class_of: ClassOf | None
) -> tuple[Case | None, str]:
    """A case with the original paths, or None and why it cannot be used."""
    present = [modality for modality in card.modalities if modality in files]
    missing = [modality for modality in card.modalities if modality not in files]
    allow_missing = card.kind == "pretraining" if options.allow_missing is None else options.allow_missing
    if not present:
        return None, f"no image, only {', '.join(files)}"
    if missing and not allow_missing:
        return None, f"lacks {', '.join(missing)}"
    if card.kind == "segmentation" and LABEL not in files:
        return None, "no mask (validation or test set, or not annotated)"
    first = files[present[0]]
    groups = {name: value for item in reversed(list(files.values())) for name, value in item.groups.items() if value}
    class_name: str | None = None
    if card.kind == "classification":
        class_name, reason = class_of(groups) if class_of else (groups.get("class"), "its path names no class")
        if class_name is None:
            return None, reason
        if class_name not in card.classes:
            return None, f"class {class_name!r} is not one of {', '.join(card.classes)}"
    return Case(
        patient=_formatted("patient_id", options.patient_id, first, card),
        session=groups.get("session"),
        site=groups.get("site"),
        images={
            modality: str(files[modality].file.path) if modality in files else None for modality in card.modalities
        },
        label=str(files[LABEL].file.path) if card.kind == "segmentation" else None,
        **{"class": class_name},
    ), ""


def _needed_label_map(labels: Sequence[Found], label_map: dict[int, int]) -> dict[int, int]:
    """The map, or nothing where the whole release is in the new convention already. One mask alone cannot tell."""
    if not label_map:
        return {}
    old_values, new_values = label_map.keys(), set(label_map.values()) - label_map.keys()
    readers = {item.file.path: item.reader for item in labels if item.reader}
    held = held_values([item.file.path for item in labels], readers)
    old = next((path for path, values in held.items() if values & old_values), None)
    new = next((path for path, values in held.items() if values & new_values), None)
    if old and new:
        raise InputError(
            old,
            found=f"label {_listed(label_map)} here and {_listed(label_map.values())} in {new}",
            expected="one label convention in the whole release",
            fix="The folder seems to mix releases; point --source at one of them.",
        )
    return label_map if old else {}


def _nothing_left(
    grouped: Mapping[str, list[Found]], excluded: list[Exclusion], card: Card, source: Path
) -> InputError:
    if not grouped and not excluded:
        pair = next((path for path in files_below(source) if path.suffix.lower() == ".hdr"), None)
        other = f", but pairs of files such as {pair.name}: name them in a table (converter 'table')" if pair else ""
        return no_release(source, card, f"no .nii or .nii.gz file{other}", card.patient_rule)
    reasons = Counter(item.reason for item in excluded)
    most = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
    if not grouped:
        return no_release(
            source, card, f"{len(excluded)} kinds of images, none of this release ({most})", card.patient_rule
        )
    return no_release(source, card, f"{len(grouped)} cases, none of them usable ({most})", card.patient_rule)


def _listed(values: Iterable[int]) -> str:
    return ", ".join(str(value) for value in sorted(values))
