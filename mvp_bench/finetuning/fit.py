"""Training of either kind, by the job at hand; a network that is there already is kept."""

from __future__ import annotations

from mvp_bench.errors import InputError
from mvp_bench.finetuning.job import FineTuneJob
from mvp_bench.finetuning.model import MODEL_FILE, WEIGHTS_FILE, ModelRecord, read_model_record
from mvp_bench.identity import checksum_file
from mvp_bench.progress import log


def fit(job: FineTuneJob) -> ModelRecord:
    """Train the job's network, or find it trained already; a damaged one is trained anew.

    Raises:
        InputError: see ``fit_segmentation`` and ``fit_classification``.
    """
    if (known := _trained(job)) is not None:
        return known
    if job.kind == "segmentation":
        from mvp_bench.finetuning.segmentation import fit_segmentation

        return fit_segmentation(job)
    from mvp_bench.finetuning.classification import fit_classification

    return fit_classification(job)


def _trained(job: FineTuneJob) -> ModelRecord | None:
    if not (job.folder / MODEL_FILE).is_file():
        return None
    try:
        record = read_model_record(job.folder)
        weights = job.folder / WEIGHTS_FILE
        whole = weights.is_file() and checksum_file(weights) == record.weights_checksum
    except InputError as error:
        log.warning("%s; it is trained anew", error)
        return None
    return record if whole and record.key == job.key else None
