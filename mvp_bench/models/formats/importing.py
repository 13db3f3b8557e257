"""A foreign checkpoint as one of our pre-training runs, or straight into an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel as nib
import torch
from torch import nn

from mvp_bench.config.groups import StemRule
from mvp_bench.datasets.schema import MODALITIES
from mvp_bench.errors import InputError
from mvp_bench.identity import code_version, hash_of
from mvp_bench.io import atomic_directory, write_json, write_text
from mvp_bench.models.encoders.base import EncoderSpec
from mvp_bench.models.formats.base import Foreign, LearnedTemplates
from mvp_bench.models.formats.known import read_foreign
from mvp_bench.models.formats.match import FileReport, blank, compare, find_preset, stem_channels
from mvp_bench.models.formats.raw import RawFile
from mvp_bench.models.record import RECORD_FILE, WEIGHTS_FILE, EncoderRecord, Origin, PretrainingCost, read_record
from mvp_bench.models.weights import initialise_encoder, save_encoder
from mvp_bench.registry import unknown_name

METHOD = "imported"
REPORT_FILE = "load_report.txt"
UNKNOWN = "unknown"
DEFAULT_PATCH = 96
"""Stands for an unknown patch edge in the record; see :class:`~mvp_bench.models.record.Origin`."""


@dataclass(frozen=True)
class ImportChoices:
    """What the user says of a file."""

    encoder: str | None = None
    """Our preset; default: found by the tensors."""
    modalities: tuple[str, ...] = ()
    """Modalities of the stem's input channels, or of the training data where the stem has one channel."""
    licence: str = ""
    """Overrides what the format knows."""


def encoder_from_checkpoint(
    path: Path,
    in_channels: int = 1,
    stem_rule: StemRule = "repeat",
    modalities: Sequence[str] = (),
    choices: ImportChoices | None = None,
) -> tuple[nn.Module, FileReport]:
    """An encoder with a foreign file's weights, and what became of every tensor of the file.

    Args:
        path: the file, in any known format.
        in_channels: of the encoder.
        stem_rule: how the stem gets to so many; see :func:`mvp_bench.models.weights.adapt_stem`.
        modalities: of each input channel (for ``by_modality``).
        choices: see :class:`ImportChoices`.

    Raises:
        InputError: if the file cannot be read or does not fill the encoder.
    """
    raw, foreign = read_foreign(path)
    choices = choices or ImportChoices()
    spec = find_preset(raw, foreign, choices.encoder)
    encoder = spec.build(in_channels)
    report = compare(foreign, encoder, spec.name, stem_rule, in_channels)
    report.require_whole(path)
    named = _stem_modalities(path, foreign, choices, stem_channels(foreign, spec))
    initialise_encoder(
        encoder,
        foreign.tensors,
        stem_rule,
        in_channels,
        modalities=modalities,
        stem_modalities=named,
        where=path,
    )
    return encoder, report


def import_checkpoint(path: Path, folder: Path, choices: ImportChoices | None = None) -> EncoderRecord:
    """Make a pre-training run of a foreign checkpoint: weights, templates, report, card, and a record that claims
    nothing about its training patients. The folder appears whole or not at all.

    Args:
        path: the file, in any known format.
        folder: of the run; if it holds the same file's weights already, nothing is done.
        choices: see :class:`ImportChoices`.

    Raises:
        InputError: if the file cannot be read or does not fill the encoder, the stem's channels have no names, or
            the folder holds something else.
    """
    choices = choices or ImportChoices()
    raw, foreign = read_foreign(path)
    if (done := _already(folder, raw, choices)) is not None:
        return done
    spec = find_preset(raw, foreign, choices.encoder)
    channels = stem_channels(foreign, spec)
    named = _stem_modalities(path, foreign, choices, channels)
    report = compare(foreign, blank(spec, channels), spec.name)
    report.require_whole(path)
    with torch.random.fork_rng(devices=[]):
        encoder = spec.build(channels)
    initialise_encoder(encoder, foreign.tensors, "by_modality", channels, modalities=named, stem_modalities=named)
    try:
        with atomic_directory(folder) as temporary:
            checksum = save_encoder(encoder, temporary / WEIGHTS_FILE, spec.name)
            templates = _save_templates(foreign.templates, temporary)
            record = _record(raw, foreign, spec, choices, named, checksum, templates, encoder)
            write_text(temporary / REPORT_FILE, report.text())
            write_text(temporary / "model_card.md", card(record))
            write_json(temporary / RECORD_FILE, record)
    except OSError as error:
        raise InputError(
            folder, found=f"it cannot be written ({error})", expected="room and permission for the weights"
        ) from error
    return record


def _already(folder: Path, raw: RawFile, choices: ImportChoices) -> EncoderRecord | None:
    if not folder.exists():
        return None
    record = read_record(folder) if (folder / RECORD_FILE).is_file() else None
    if record is None or record.origin is None or record.origin.sha256 != raw.sha256:
        raise InputError(
            folder,
            found="a folder with " + (f"a run of {record.method}" if record else "something else"),
            expected="a new folder, or the same file's import",
            fix="Give another --name, or delete the folder.",
        )
    if record.config["choices"] != _choices(choices):
        raise InputError(
            folder,
            found=f"the same file's import with {record.config['choices']}",
            expected=f"{_choices(choices)}",
            fix="Give another --name, or delete the folder.",
        )
    return record


def _choices(choices: ImportChoices) -> dict[str, Any]:
    return {"encoder": choices.encoder, "modalities": list(choices.modalities), "licence": choices.licence}


def _stem_modalities(path: Path, foreign: Foreign, choices: ImportChoices, channels: int) -> tuple[str, ...]:
    """The modality of each of the stem's channels; nothing for a single one, which serves every modality.

    Raises:
        InputError: if several channels have no names, or other names than there are modalities.
    """
    for name in choices.modalities:
        if name not in MODALITIES:
            raise unknown_name("--modalities", name, MODALITIES)
    if channels == 1:
        return ()
    named = choices.modalities or foreign.stem_modalities
    if len(named) != channels:
        raise InputError(
            f"{path}: stem",
            found=f"{channels} input channels and {len(named) or 'no'} names for them",
            expected="the modality of each channel",
            fix="Name them in order, e.g. --modalities t1 t1c t2 flair.",
        )
    return tuple(named)


def _save_templates(templates: LearnedTemplates | None, folder: Path) -> dict[str, str]:
    """One NIfTI file per modality, axes (x, y, z), in the units that fill images."""
    files = {}
    if templates is not None:
        (folder / "templates").mkdir()
        for modality, volume in zip(templates.modalities, templates.volumes, strict=True):
            files[modality] = f"templates/{modality}.nii.gz"
            nib.save(nib.Nifti1Image(volume.transpose(2, 1, 0), templates.affine), folder / files[modality])
    return files


def _record(
    raw: RawFile,
    foreign: Foreign,
    spec: EncoderSpec,
    choices: ImportChoices,
    named: tuple[str, ...],
    checksum: str,
    templates: dict[str, str],
    encoder: nn.Module,
) -> EncoderRecord:
    modalities = choices.modalities or named or foreign.modalities
    licence = choices.licence or foreign.licence
    config = {"format": foreign.format, "file_sha256": raw.sha256, "choices": _choices(choices)}
    edge = max(spec.stride, DEFAULT_PATCH // spec.stride * spec.stride)
    return EncoderRecord(
        encoder=spec.name,
        modalities=list(modalities),
        stem_modalities=list(named),
        method=METHOD,
        config=config,
        config_hash=hash_of(config),
        spacing=foreign.spacing or (1.0, 1.0, 1.0),
        patch_size=foreign.patch_size or (edge, edge, edge),
        intensity=foreign.intensity or "zscore",
        data=[],
        source="unknown",
        licences=[licence],
        templates=templates,
        template_frame="world" if templates else None,
        profile=METHOD,
        seed=0,
        versions={"mvp_bench": code_version(), "torch": version("torch")},
        weights_sha256=checksum,
        cost=PretrainingCost(
            wall_time_s=0,
            peak_memory_mb=0,
            parameters=sum(p.numel() for p in encoder.parameters()),
            voxels_seen=0,
            device=UNKNOWN,
            precision=UNKNOWN,
        ),
        origin=_origin(raw, foreign, licence, not modalities),
    )


def _origin(raw: RawFile, foreign: Foreign, licence: str, without_modalities: bool) -> Origin:
    missing = {
        "modalities": without_modalities,
        "spacing": foreign.spacing is None,
        "patch_size": foreign.patch_size is None,
        "intensity": foreign.intensity is None,
        "data": True,
        "cost": True,
    }
    return Origin(
        format=foreign.format,
        file=raw.path.name,
        sha256=raw.sha256,
        licence=licence,
        citation=foreign.citation,
        unknown=[name for name, is_missing in missing.items() if is_missing],
        notes=list(foreign.notes),
        details=foreign.details,
    )


def card(record: EncoderRecord) -> str:
    """model_card.md of an imported encoder."""
    origin = record.origin
    assert origin is not None  # imported records have one
    lines = [
        f"# {record.encoder}, imported from {origin.file}",
        f"Format {origin.format}, SHA-256 of the file {origin.sha256}. Every tensor of the encoder comes from it; "
        f"{REPORT_FILE} lists them.",
        "## Data",
        "The training patients are unknown here, so that no share of test patients seen in pre-training can be given: "
        "scores of this encoder may profit from leaks. Modalities: "
        f"{', '.join(record.modalities) or 'unknown'}; channels of the stem: "
        f"{', '.join(record.stem_modalities) or 'one for every modality'}.",
        f"Not stated by the file (encoder.json holds placeholders): {', '.join(origin.unknown)}.",
        "## Licence",
        f"{origin.licence}.",
    ]
    if origin.citation:
        lines += ["## Citation", origin.citation]
    if origin.notes:
        lines += ["## Notes", "\n".join(f"- {note}" for note in origin.notes)]
    return "\n\n".join(lines) + "\n"
