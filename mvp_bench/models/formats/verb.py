"""mvp_weights: look at a checkpoint, make a run of it, or make a checkpoint of a run."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from mvp_bench.config.verbs import WeightsConfig
from mvp_bench.datasets.schema import MODALITIES
from mvp_bench.errors import InputError
from mvp_bench.models.formats.base import Foreign
from mvp_bench.models.formats.exporting import export_checkpoint
from mvp_bench.models.formats.importing import REPORT_FILE, ImportChoices, import_checkpoint
from mvp_bench.models.formats.known import read_foreign
from mvp_bench.models.formats.match import FileReport, blank, compare, find_preset, stem_channels
from mvp_bench.models.formats.raw import RawFile
from mvp_bench.models.record import RECORD_FILE, WEIGHTS_FILE, EncoderRecord
from mvp_bench.models.weights import initialise_encoder, load_pretrained, load_state
from mvp_bench.progress import console
from mvp_bench.registry import ENCODERS, IMPORTED, unknown_name
from mvp_bench.workspace import Workspace

RUN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
"""What an imported run may be called."""


def run_weights(workspace: Workspace, config: WeightsConfig) -> None:
    """Do what ``mvp_weights`` was asked for and print the result.

    Raises:
        InputError: if no file is named, or it cannot be used.
    """
    if config.file is None:
        raise InputError("mvp_weights", found="no file", expected=f"mvp_weights {config.action} FILE")
    if config.action == "inspect":
        _print(inspect(config.file, _choices(config), every_tensor=config.verbose))
    elif config.action == "import":
        folder = workspace.pretraining / _run_name(config)
        record = import_checkpoint(config.file, folder, _choices(config))
        _print(
            [
                ("encoder", record.encoder),
                ("licence", "; ".join(record.licences)),
                ("run", str(folder)),
                ("use", f"mvp_benchmark --all --encoder {record.encoder} --methods scratch,{IMPORTED}{folder.name}"),
            ]
        )
        _print((folder / REPORT_FILE).read_text(encoding="utf-8").partition("\n\n")[0])
    else:
        run_dir = config.file.parent if config.file.name in (RECORD_FILE, WEIGHTS_FILE) else config.file
        target = config.out or Path(f"{run_dir.resolve().name}_{config.format}.pth")
        record = export_checkpoint(run_dir, target, config.format, _modalities(config), config.stem, config.seed)
        _print([("encoder", record.encoder), ("file", str(target)), ("use", _use(target, config))])


def _run_name(config: WeightsConfig) -> str:
    """The name of an imported run, which is a folder's and part of a method's (``imported:NAME``): the one asked for,
    or the file's, each foreign character in it an underscore.

    Raises:
        InputError: if the name asked for will not do.
    """
    assert config.file is not None  # checked by the caller
    name = config.name or re.sub(r"[^A-Za-z0-9._-]", "_", config.file.stem).lstrip(".")
    if not RUN_NAME.fullmatch(name):
        raise InputError(
            "--name", found=repr(name), expected="letters, digits, dots, dashes and underscores, no dot in front"
        )
    return name


def inspect(path: Path, choices: ImportChoices, every_tensor: bool = False) -> str:
    """A table on a checkpoint, or on a run of our own: format, encoder, tensors, parameters, modalities, templates,
    and what of it would be loaded. A file that fits no encoder is described all the same.

    Raises:
        InputError: if it cannot be opened or is of no known format.
    """
    if path.is_dir() or path.name in (RECORD_FILE, WEIGHTS_FILE):
        return _of_run(path if path.is_dir() else path.parent)
    if (own := _own_encoder(path)) is not None:
        return own
    raw, foreign = read_foreign(path)
    rows = _facts(raw, foreign)
    try:
        spec = find_preset(raw, foreign, choices.encoder)
    except InputError as error:
        return _table([*rows, ("encoder", f"none here: {error.found}")])
    channels = stem_channels(foreign, spec)
    report = compare(foreign, blank(spec, channels), spec.name)
    verdict = "yes" if not report.faults else f"no: {len(report.faults)} tensors do not fit"
    rows += [("encoder", spec.name), ("channels of the stem", str(channels)), ("can be imported", verdict)]
    return _table(rows) + "\n\n" + (report.text().rstrip() if every_tensor else _summary(report))


def _facts(raw: RawFile, foreign: Foreign) -> list[tuple[str, str]]:
    tensors = raw.tensors()
    templates = foreign.templates
    grid = f", {'x'.join(map(str, templates.volumes.shape[:0:-1]))} voxels" if templates else ""
    spacing = " x ".join(f"{s:g}" for s in foreign.spacing) + " mm" if foreign.spacing else "not stated"
    return [
        ("file", raw.path.name),
        ("sha256", raw.sha256),
        ("format", foreign.format),
        ("tensors", f"{len(tensors)} in the file, {len(foreign.tensors)} in the encoder"),
        ("elements", f"{_elements(tensors):,} in the file, {_elements(foreign.tensors):,} in the encoder"),
        ("modalities", ", ".join(foreign.stem_modalities or foreign.modalities) or "not stated"),
        ("templates", ", ".join(templates.modalities) + grid if templates else "none"),
        ("spacing (z, y, x)", spacing),
        ("intensities", foreign.intensity or "not stated"),
        ("licence", foreign.licence),
        *(("note", note) for note in foreign.notes),
    ]


def _of_run(folder: Path) -> str:
    """The table of a finished run of ours; its hash is checked on the way."""
    state, record = load_pretrained(folder)
    return _table([("folder", str(folder)), ("format", "mvp_bench run"), *_own_rows(record.encoder, state, record)])


def _own_encoder(path: Path) -> str | None:
    """The table of one of our weights files that has lost its folder; nothing for other files."""
    if path.suffix != ".safetensors":
        return None
    state, preset = load_state(path)
    if not preset:
        return None
    return _table([("file", path.name), ("format", "mvp_bench encoder"), *_own_rows(preset, state, None)])


def _own_rows(preset: str, state: dict[str, torch.Tensor], record: EncoderRecord | None) -> list[tuple[str, str]]:
    channels = max(1, len(record.stem_modalities)) if record else 1
    with torch.random.fork_rng(devices=[]):
        encoder = ENCODERS[preset].build(channels)
    names = record.stem_modalities if record else []
    report = initialise_encoder(encoder, state, "by_modality", channels, modalities=names, stem_modalities=names)
    rows = [
        ("encoder", preset),
        ("tensors", f"{len(state)}"),
        ("elements", f"{_elements(state):,}"),
        ("would be loaded", f"{len(report.loaded)} of {len(state)} tensors"),
    ]
    if record:
        rows[1:1] = [
            ("method", record.method),
            ("modalities", ", ".join(record.modalities) or "unknown"),
            ("channels of the stem", ", ".join(record.stem_modalities) or "one for every modality"),
            ("templates", ", ".join(record.templates) or "none"),
            ("source", record.source),
            ("licence", "; ".join(record.licences) or "not stated"),
        ]
    return rows


def _summary(report: FileReport) -> str:
    faults = "\n".join(map(str, report.faults[:8]))
    more = f"\n... {len(report.faults) - 8} more (--verbose lists every tensor)" if len(report.faults) > 8 else ""
    return report.table() + (f"\n\n{faults}{more}" if faults else "")


def _elements(state: dict[str, torch.Tensor]) -> int:
    return sum(tensor.numel() for tensor in state.values())


def _use(target: Path, config: WeightsConfig) -> str:
    if config.format == "nnunet":
        return f"nnUNetv2_train ID 3d_fullres FOLD -p plan -pretrained_weights {target}"
    return f"nnUNetv2_preprocess_like_nnssl -d ID -n NAME -pc {target} -am like_pretrained"


def _choices(config: WeightsConfig) -> ImportChoices:
    return ImportChoices(config.encoder, _modalities(config), config.licence)


def _modalities(config: WeightsConfig) -> tuple[str, ...]:
    """Those of the options, with blanks or commas between them.

    Raises:
        InputError: for an unknown one, naming the near ones.
    """
    names = tuple(name for text in config.modalities for name in text.split(",") if name)
    for name in names:
        if name not in MODALITIES:
            raise unknown_name("--modalities", name, MODALITIES)
    return names


def _table(rows: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows)


def _print(content: str | list[tuple[str, str]]) -> None:
    text = content if isinstance(content, str) else _table(content)
    console.print(text, highlight=False, markup=False, soft_wrap=True)
