"""Encoder weights in and out: strict safetensors files, stem rules, and a report on every tensor.

Nothing here unpickles. A network may hold one tensor under several names (nnU-Net's blocks do); files hold it once,
under its first name, and any of the names is accepted on the way in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from mvp_bench.config.groups import StemRule
from mvp_bench.errors import InputError
from mvp_bench.identity import hash_file
from mvp_bench.io import atomic_path
from mvp_bench.models.record import WEIGHTS_FILE, EncoderRecord, read_record

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class LoadReport:
    """What became of every tensor of an encoder."""

    loaded: tuple[str, ...]
    """Copied unchanged."""
    adapted: tuple[str, ...]
    """Copied after the stem rule changed the shape or scale."""
    new: tuple[str, ...]
    """Left at their fresh values (the stem, under ``reinit``)."""
    elements_loaded: int
    elements_total: int

    def table(self) -> str:
        """One line per fate, with counts."""
        rows = [("loaded", self.loaded), ("adapted", self.adapted), ("new", self.new)]
        lines = [f"{fate:8}{len(names):5} tensors  {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
                 for fate, names in rows]  # fmt: skip
        return "\n".join([*lines, f"elements {self.elements_loaded} of {self.elements_total}"])


def aliases(module: nn.Module) -> dict[str, list[str]]:
    """First name of every tensor in the state -> all its names."""
    names: dict[int, list[str]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    return {group[0]: group for group in names.values()}


def encoder_state(encoder: nn.Module) -> State:
    """Every tensor of an encoder once, on the CPU, contiguous."""
    state = encoder.state_dict()
    return {name: state[name].detach().cpu().contiguous().clone() for name in aliases(encoder)}


def stem_name(encoder: nn.Module) -> str:
    """Dotted name of the stem: the first convolution in the order of registration."""
    for name, module in encoder.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            return name
    raise ValueError("an encoder without convolution has no stem")


def save_encoder(encoder: nn.Module, path: Path, preset: str) -> str:
    """Write an encoder's tensors atomically, the preset's name in the file's header; returns the file's SHA-256."""
    with atomic_path(path) as temporary:
        # Through bytes: safetensors' own writer makes a file that only its owner may read, whatever the umask.
        # One entry of metadata only: the order of several differs from run to run.
        temporary.write_bytes(save(encoder_state(encoder), {"encoder": preset}))
    return hash_file(path)


def load_state(path: Path) -> tuple[State, str]:
    """Tensors of a safetensors file and the encoder preset named in its header ("" if none is).

    Raises:
        InputError: if the file is missing, truncated or not safetensors.
    """
    if not path.is_file():
        raise InputError(path, found="no such file", expected="encoder weights (.safetensors)")
    try:
        with safe_open(path, framework="pt", device="cpu") as handle:
            preset = (handle.metadata() or {}).get("encoder", "")
            return {name: handle.get_tensor(name) for name in handle.keys()}, preset  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise InputError(
            path,
            found=f"not a whole safetensors file ({error})",
            expected="encoder weights as written by mvp_pretrain",
            fix="Delete the folder and pre-train again, or copy the file again. Pickled files are never opened.",
        ) from error


def load_pretrained(run_dir: Path) -> tuple[State, EncoderRecord]:
    """Weights and record of a finished pre-training run.

    Raises:
        InputError: if the run has not finished, or the weights are not the ones the record was written for.
    """
    record = read_record(run_dir)
    path = run_dir / WEIGHTS_FILE
    state, preset = load_state(path)
    if preset != record.encoder:
        raise _other_encoder(path, preset, record.encoder)
    found = hash_file(path)
    if found != record.weights_sha256:
        raise InputError(
            path,
            found=f"SHA-256 {found[:12]}...",
            expected=f"{record.weights_sha256[:12]}..., as encoder.json says",
            fix="The file was changed after the run: delete the folder and pre-train again.",
        )
    return state, record


def check_encoder(record: EncoderRecord, expected: str, where: object) -> None:
    """Refuse weights of another encoder.

    Raises:
        InputError: naming both encoders.
    """
    if record.encoder != expected:
        raise _other_encoder(where, record.encoder, expected)


def _other_encoder(where: object, found: str, expected: str) -> InputError:
    return InputError(
        where,
        found=f"weights of encoder {found or '(not named)'}",
        expected=f"weights of encoder {expected}",
        fix="Pre-train that encoder, or choose the other with --encoder.",
    )


def initialise_encoder(
    encoder: nn.Module,
    state: Mapping[str, torch.Tensor],
    stem_rule: StemRule,
    in_channels: int,
    *,
    modalities: Sequence[str] = (),
    stem_modalities: Sequence[str] = (),
    where: object = "encoder weights",
) -> LoadReport:
    """Copy pre-trained tensors into an encoder in place; all of them, or none and an error.

    Args:
        encoder: the module to fill, with ``in_channels`` input channels.
        state: raw tensors, as read from the file.
        stem_rule: ``reinit`` leaves the stem's fresh values; ``repeat`` and ``by_modality`` see :func:`adapt_stem`.
        in_channels: input channels of ``encoder``.
        modalities: modality of each input channel (for ``by_modality``).
        stem_modalities: modality of each channel of the checkpoint's stem; empty: one channel for all.
        where: the file, for messages.

    Raises:
        InputError: if a tensor of the encoder (stem aside) is missing or has another shape, or the checkpoint has
            tensors that the encoder has not.
    """
    names = aliases(encoder)
    targets = encoder.state_dict()
    raw_names = {alias: name for name, group in names.items() for alias in group}
    sources = _by_first_name(state, raw_names, where, encoder)
    stem = stem_name(encoder)
    stem_names = {raw_names[f"{stem}.weight"]} | {raw_names[n] for n in (f"{stem}.bias",) if n in raw_names}

    adapt = partial(
        adapt_stem,
        rule=stem_rule,
        in_channels=in_channels,
        modalities=modalities,
        stem_modalities=stem_modalities,
    )
    left_fresh = stem_names if stem_rule == "reinit" else set()
    values, problems = _matched(sources, targets, [n for n in names if n not in left_fresh], f"{stem}.weight", adapt)
    if problems:
        share = (len(names) - len(problems)) / len(names)
        raise _mismatch(where, f"{share:.1%} of the encoder's tensors; {problems[0]}", encoder)
    with torch.no_grad():
        for name, value in values.items():
            targets[name].copy_(value)
    return _load_report(sources, values, targets, [name for name in names if name in left_fresh])


def _by_first_name(
    state: Mapping[str, torch.Tensor], raw_names: Mapping[str, str], where: object, encoder: nn.Module
) -> State:
    """The file's tensors under the first of their names; one that the encoder has not is an error."""
    if unexpected := sorted(set(state) - set(raw_names)):
        raise _mismatch(where, f"{len(unexpected)} tensors that the encoder has not, e.g. {unexpected[0]}", encoder)
    sources: State = {}
    for raw, tensor in state.items():
        sources.setdefault(raw_names[raw], tensor)
    return sources


def _matched(
    sources: State,
    targets: Mapping[str, torch.Tensor],
    wanted: Sequence[str],
    stem_weight: str,
    adapt: Callable[[torch.Tensor], torch.Tensor],
) -> tuple[State, list[str]]:
    """The tensors to copy, the stem's adapted; and what is missing or of another shape, in words."""
    values: State = {}
    problems: list[str] = []
    for name in wanted:
        source, target = sources.get(name), targets[name]
        if source is not None and name == stem_weight:
            source = adapt(source)
        if source is None:
            problems.append(f"{name} is missing")
        elif source.shape != target.shape:
            problems.append(f"{name} has shape {tuple(source.shape)}, not {tuple(target.shape)}")
        else:
            values[name] = source
    return values, problems


def _load_report(sources: State, values: State, targets: Mapping[str, torch.Tensor], new: Sequence[str]) -> LoadReport:
    """The fate of every tensor; one that was copied as it came is the very tensor of the file."""
    return LoadReport(
        tuple(name for name, value in values.items() if value is sources[name]),
        tuple(name for name, value in values.items() if value is not sources[name]),
        tuple(new),
        sum(value.numel() for value in values.values()),
        sum(targets[name].numel() for name in [*values, *new]),
    )


def adapt_stem(
    kernel: torch.Tensor,
    rule: StemRule,
    in_channels: int,
    modalities: Sequence[str] = (),
    stem_modalities: Sequence[str] = (),
) -> torch.Tensor:
    """A stem kernel (F, M, ...) for ``in_channels`` channels, scaled so that identical channels give the old output.

    ``repeat``: the mean over the M channels, copied C times, times M / C (for M = 1: copies / C).
    ``by_modality``: channel c gets the kernel of its own modality, times M / C; a modality that the checkpoint does not
    know gets the mean kernel. A checkpoint whose single channel serves every modality (M = 1) has one kernel for all,
    so that the rule equals ``repeat``.

    Raises:
        InputError: under ``by_modality``, if the modalities of the channels are not given.
    """
    before = kernel.shape[1]
    mean = kernel.mean(dim=1, keepdim=True)
    scale = before / in_channels
    if rule == "repeat" or before == 1:
        if scale == 1 and before == 1:
            return kernel
        return mean.repeat_interleave(in_channels, dim=1) * scale
    if len(modalities) != in_channels or len(stem_modalities) != before:
        raise InputError(
            "stem rule by_modality",
            found=f"{len(modalities)} modalities for {in_channels} channels, {len(stem_modalities)} for {before}",
            expected="one modality per channel on both sides",
        )
    known = {modality: kernel[:, i : i + 1] for i, modality in enumerate(stem_modalities)}
    if tuple(modalities) == tuple(stem_modalities):
        return kernel
    return torch.cat([known.get(m, mean) for m in modalities], dim=1) * scale


def _mismatch(where: object, found: str, encoder: nn.Module) -> InputError:
    return InputError(
        where,
        found=found,
        expected=f"all {len(aliases(encoder))} tensors of the encoder",
        fix="The file belongs to another encoder or is incomplete.",
    )
