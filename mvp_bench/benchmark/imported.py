"""Methods that are weights: ``imported:NAME`` stands for the finished run ``results/pretraining/NAME`` as it is.

NAME may be what ``mvp_weights import`` made, or any run of ``mvp_pretrain``. Nothing is trained for such a method, and
nobody can be left out of what its encoder has seen: where that is known, the leak is counted, else it is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mvp_bench.datasets.overlap.audit import Audit
from mvp_bench.datasets.prepared import is_prepared, load_block
from mvp_bench.datasets.schema import Card
from mvp_bench.errors import InputError
from mvp_bench.models.record import RECORD_FILE, EncoderRecord
from mvp_bench.registry import IMPORTED
from mvp_bench.workspace import Workspace


def is_imported(method: str) -> bool:
    """Whether a method's name stands for the weights of a finished run."""
    return method.startswith(IMPORTED)


def run_folder(workspace: Workspace, method: str) -> Path:
    """results/pretraining/NAME of ``imported:NAME``."""
    return workspace.pretraining / method.removeprefix(IMPORTED)


def finished_runs(workspace: Workspace) -> list[str]:
    """Names of the folders in results/pretraining whose weights can be used."""
    return sorted(path.parent.name for path in workspace.pretraining.glob(f"[!.]*/{RECORD_FILE}"))


def unknown_run(method: str, runs: Iterable[str]) -> InputError:
    """The error for a run that is not there, listing those that are."""
    return InputError(
        f"method {method}",
        found=f"no finished run {method.removeprefix(IMPORTED) or '(no name)'} in results/pretraining",
        expected=f"one of {', '.join(runs) or '(there is none)'}",
        fix="Make one with mvp_weights import FILE --name NAME, or with mvp_pretrain.",
    )


def refuse_other_source(method: str, record: EncoderRecord, source: str) -> None:
    """Weights from phantom data are not compared on real tasks, nor the other way round.

    Args:
        source: of the tasks.

    Raises:
        InputError: naming both sources.
    """
    if record.source not in (source, "unknown"):
        raise InputError(
            f"method {method}",
            found=f"weights trained on {record.source} data",
            expected=f"{source} data, as the tasks are",
            fix="Use another --root for the phantom cohort.",
        )


def cards_seen(workspace: Workspace, cards: Mapping[int, Card], records: Iterable[EncoderRecord]) -> list[Card]:
    """The prepared datasets that the runs were trained on; those that are not here any more are left out."""
    sources = {data.dataset: data.source for record in records for data in record.data}
    return [
        card
        for card in cards.values()
        if card.dataset_name in sources
        and is_prepared(workspace, card)
        and load_block(workspace, card).source == sources[card.dataset_name]
    ]


def patients_seen(record: EncoderRecord, shared: Audit) -> dict[str, Sequence[str]] | None:
    """Dataset -> patients that the run has seen; None where the record does not say, or speaks of patients whom the
    audit does not know."""
    if record.origin is not None and "data" in record.origin.unknown:
        return None
    known = all((data.dataset, patient) in shared.person for data in record.data for patient in data.patients)
    return {data.dataset: data.patients for data in record.data} if known else None
