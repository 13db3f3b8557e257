"""model_card.md: what a pre-trained encoder is, for a reader."""

from __future__ import annotations

import json
from collections.abc import Sequence

from mvp_bench.datasets.overlap.audit import Leak
from mvp_bench.models.record import EncoderRecord
from mvp_bench.pretraining.method import Declaration

MODALITY_USE = {
    "independent": "each image is a sample of its own",
    "uses": "used together where a case has several",
    "needs": "required",
}
CURVE_LINES = 12
"""Lines of the loss table at most."""


def model_card(
    record: EncoderRecord,
    declaration: Declaration,
    rows: Sequence[dict[str, float]],
    leaks: Sequence[Leak] = (),
) -> str:
    """The card as Markdown.

    Args:
        record: the run.
        declaration: its method's.
        rows: lines of log.csv.
        leaks: how many of each task's test patients were seen, by task and fold.
    """
    sections = [
        f"# {record.encoder}, pre-trained with {declaration.title}",
        _summary(record),
        *_data(record),
        *_leaks(leaks),
        *_method(declaration),
        "## Losses",
        "Each loss stands beside what its trivial solution (a constant prediction, equal features) gets.",
        _curves(rows),
        "## PretrainingCost",
        f"{record.cost.wall_time_s:.0f} s on {record.cost.device} in {record.cost.precision}, "
        f"{record.cost.peak_memory_mb:.0f} MB at peak, {record.cost.parameters:,} trained parameters, "
        f"{record.cost.voxels_seen:,} voxels seen.",
        *_configuration(record),
    ]
    return "\n\n".join(sections) + "\n"


def _summary(record: EncoderRecord) -> str:
    patients = sum(len(d.patients) for d in record.data)
    cases = sum(len(d.cases) for d in record.data)
    spacing = " x ".join(f"{s:g}" for s in record.spacing)
    patch = " x ".join(map(str, record.patch_size))
    return (
        f"An encoder for brain MRI with one input channel, trained on {cases} cases of {patients} patients "
        f"({record.source} data; modalities {', '.join(record.modalities)}). Arrays are ({record.axis_order[0]}, "
        f"{record.axis_order[1]}, {record.axis_order[2]}) of {record.orientation}+ images at {spacing} mm, "
        f"patch {patch} voxels, intensities {record.intensity}."
    )


def _data(record: EncoderRecord) -> list[str]:
    header = ["dataset", "source", "patients", "cases", "patients left out", "near-duplicate cases left out", "licence"]
    rows = [
        [
            d.dataset,
            d.source,
            len(d.patients),
            len(d.cases),
            len(d.excluded_patients),
            len(d.duplicates),
            d.licence or "not stated",
        ]
        for d in record.data
    ]
    return [
        "## Data",
        _table(header, rows),
        "Patients left out are test patients of the tasks, or were excluded by the user; encoder.json lists them, "
        "the near-duplicates with the cases they resemble, and every patient seen.",
    ]


def _method(declaration: Declaration) -> list[str]:
    return [
        "## Method",
        f"{declaration.citation} ({declaration.licence_note})",
        f"Views: {declaration.views}. Heads: {declaration.heads}. Transferred: {declaration.transferred}. "
        f"Several modalities of a case: {MODALITY_USE[declaration.modalities]}.",
        "Deviations from the original:\n\n" + "\n".join(f"- {d}" for d in declaration.deviations),
    ]


def _configuration(record: EncoderRecord) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    return [
        "## Configuration",
        f"Profile {record.profile}, seed {record.seed}, hash {record.config_hash[:12]}; {versions}.",
        "```json\n" + json.dumps(record.config, indent=1) + "\n```",
    ]


def _leaks(leaks: Sequence[Leak]) -> list[str]:
    if not leaks:
        return ["## Leaks", "Not looked for: no task was prepared in this workspace when the run was made."]
    rows = [[k.task, k.fold, k.test_patients, len(k.shared), f"{k.percent:.1f}"] for k in leaks]
    return [
        "## Leaks",
        "Test patients of the tasks in this workspace who are, by ids, crosswalks or images, among the patients seen "
        "here; as known when the run was made (the leaderboards are up to date).",
        _table(["task", "fold", "test patients", "seen in pre-training", "leak %"], rows),
    ]


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "/") for cell in line) + " |" for line in lines)


def _curves(rows: Sequence[dict[str, float]]) -> str:
    if not rows:
        return "(no line was logged)"
    step = max(1, -(-len(rows) // CURVE_LINES))
    chosen = list(rows[::-1][::step])[::-1]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return _table(columns, [[f"{row[c]:.4g}" if c in row else "" for c in columns] for row in chosen])
