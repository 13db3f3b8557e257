"""A pre-training run as a job of the benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mvp_bench.benchmark.jobs import Job
from mvp_bench.errors import InputError
from mvp_bench.models.record import RECORD_FILE, EncoderRecord, read_record
from mvp_bench.models.weights import check_encoder, load_pretrained
from mvp_bench.pretraining.job import PretrainJob, run_job
from mvp_bench.progress import log
from mvp_bench.workspace import Workspace


@dataclass(frozen=True)
class PretrainingRun(Job):
    """One encoder."""

    plan: PretrainJob

    @property
    def key(self) -> str:
        return self.plan.key

    @property
    def folder(self) -> Path:
        return self.plan.folder

    def is_done(self) -> bool:
        if not (self.folder / RECORD_FILE).is_file():
            return False
        try:
            return read_record(self.folder).config_hash == self.key
        except InputError as error:
            log.warning("%s; the encoder is trained again", error)
            return False

    def run(self) -> None:
        Workspace(self.plan.root).open()
        # A record that is there was found damaged: what it speaks of cannot be trusted either.
        (self.folder / RECORD_FILE).unlink(missing_ok=True)
        run_job(self.plan)

    def fail(self, error: BaseException | str) -> None:
        log.error("pre-training %s failed: %s", self.folder, error)


def checked_run(folder: Path, encoder: str) -> EncoderRecord:
    """The record of a finished run; damaged or foreign weights are refused.

    Raises:
        InputError: if the weights cannot be read whole, or are of another encoder.
    """
    _, record = load_pretrained(folder)
    check_encoder(record, encoder, folder)
    return record
