"""Putting pre-trained weights into the encoder of a task's network."""

from __future__ import annotations

from torch import nn

from mvp_bench.finetuning.job import FineTuneJob
from mvp_bench.models.weights import check_encoder, initialise_encoder, load_pretrained


def load_into(encoder: nn.Module, job: FineTuneJob, modalities: list[str]) -> dict[str, int]:
    """Load the job's pre-trained weights; nothing happens for training from scratch.

    Args:
        encoder: the task's, with one input channel per modality.
        modalities: the task's, in channel order.

    Returns:
        Number of tensors loaded, adapted and new.

    Raises:
        InputError: if the weights are of another encoder, or incomplete.
    """
    if job.pretrained is None:
        return {}
    state, record = load_pretrained(job.pretrained)
    check_encoder(record, job.encoder, job.pretrained)
    report = initialise_encoder(
        encoder,
        state,
        job.stem,
        len(modalities),
        modalities=modalities,
        stem_modalities=record.stem_modalities,
        where=job.pretrained,
    )
    (job.folder / "load_report.txt").write_text(report.table() + "\n")
    return {"loaded": len(report.loaded), "adapted": len(report.adapted), "new": len(report.new)}
