"""A checkpoint compared with an encoder, tensor by tensor. The report is made from the file as it is, before anything
is left out, so that nothing can get lost unseen."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch

from mvp_bench.config.groups import StemRule
from mvp_bench.errors import InputError
from mvp_bench.models.encoders.base import EncoderSpec
from mvp_bench.models.formats.base import Foreign
from mvp_bench.models.formats.raw import RawFile
from mvp_bench.models.weights import aliases, stem_name
from mvp_bench.registry import ENCODERS

Fate = Literal["loaded", "adapted", "new", "alias", "missing", "mismatch", "not finite", "unexpected", "unused"]
BAD: tuple[Fate, ...] = ("missing", "mismatch", "not finite", "unexpected")
MEANING: dict[Fate, str] = {
    "loaded": "copied unchanged",
    "adapted": "the stem, fitted to the input channels",
    "new": "the stem, freshly initialised",
    "alias": "a second name of a tensor above",
    "missing": "in the encoder, not in the file",
    "mismatch": "another shape than the encoder's",
    "not finite": "holds NaN or infinity",
    "unexpected": "in the file's encoder, not in ours",
    "unused": "not part of the encoder",
}


@dataclass(frozen=True)
class Line:
    """One tensor of the file or of the encoder."""

    fate: Fate
    file_name: str
    """Empty if the file has none."""
    encoder_name: str
    """Empty if the encoder has none."""
    file_shape: tuple[int, ...]
    encoder_shape: tuple[int, ...]
    why: str = ""

    def __str__(self) -> str:
        shapes = f"{_shape(self.file_shape)} -> {_shape(self.encoder_shape)}" if self.encoder_name else self.why
        return f"{self.fate:10}  {self.file_name or '-'}  ->  {self.encoder_name or '-'}  {shapes}"


@dataclass(frozen=True)
class FileReport:
    """What becomes of every tensor of a file, and where every tensor of the encoder comes from."""

    encoder: str
    lines: tuple[Line, ...]

    def count(self, fate: Fate) -> int:
        """Tensors with a fate."""
        return Counter(line.fate for line in self.lines)[fate]

    @property
    def faults(self) -> tuple[Line, ...]:
        """Lines that make the file unfit."""
        return tuple(line for line in self.lines if line.fate in BAD)

    @property
    def needed(self) -> int:
        """Tensors of the encoder."""
        return len({line.encoder_name for line in self.lines if line.encoder_name and line.fate != "alias"})

    def table(self) -> str:
        """One line per fate: count, meaning, first names."""
        rows = []
        for fate, meaning in MEANING.items():
            lines = [line for line in self.lines if line.fate == fate]
            if lines:
                names = [line.file_name or line.encoder_name for line in lines]
                more = ", ..." if len(names) > 2 else ""
                rows.append(f"{fate:10} {len(lines):5}  {meaning} ({', '.join(names[:2])}{more})")
        filled = self.count("loaded") + self.count("adapted")
        return "\n".join([*rows, f"{filled} of {self.needed} tensors of {self.encoder} come from it"])

    def text(self) -> str:
        """The table, then every line."""
        return "\n".join([self.table(), "", *map(str, self.lines)]) + "\n"

    def require_whole(self, where: object) -> None:
        """Refuse a file that does not fill the encoder, or holds more of one than it has.

        Raises:
            InputError: naming the first fault of each kind.
        """
        if not self.faults:
            return
        firsts = {line.fate: line for line in reversed(self.faults)}
        found = "; ".join(
            f"{self.count(fate)} {fate} (e.g. {line.file_name or line.encoder_name}"
            f"{f', {_shape(line.file_shape)} for {_shape(line.encoder_shape)}' if fate == 'mismatch' else ''})"
            for fate, line in firsts.items()
        )
        raise InputError(
            where,
            found=f"tensors that do not fit: {found}",
            expected=f"all {self.needed} tensors of the encoder {self.encoder} and no others in its place",
            fix="The file is incomplete or belongs to another encoder; mvp_weights inspect lists every tensor.",
        )


def compare(
    foreign: Foreign, encoder: torch.nn.Module, preset: str, stem_rule: StemRule | None = None, in_channels: int = 0
) -> FileReport:
    """What would be loaded.

    Args:
        foreign: the file.
        encoder: a module of the preset (may be on the meta device), with as many input channels as will be used.
        preset: its name.
        stem_rule: how the stem gets to ``in_channels``; ``None``: the stem is taken as it is in the file.
        in_channels: of ``encoder``.
    """
    targets = encoder.state_dict()
    groups = aliases(encoder)
    owner = {alias: first for first, group in groups.items() for alias in group}
    stem = stem_name(encoder)
    stem_tensors = {owner[n] for n in (f"{stem}.weight", f"{stem}.bias") if n in owner}
    kernel = owner[f"{stem}.weight"]

    lines: list[Line] = []
    taken: dict[str, torch.Tensor] = {}
    for name, tensor in foreign.tensors.items():
        first = owner.get(name)
        raw, shape = foreign.raw_names[name], tuple(tensor.shape)
        if first is None:
            lines.append(Line("unexpected", raw, "", shape, (), "no such tensor in the encoder"))
            continue
        wanted = tuple(targets[first].shape)
        if first in taken:
            same = tensor.data_ptr() == taken[first].data_ptr() or torch.equal(tensor, taken[first])
            fate: Fate = "alias" if same else "mismatch"
            lines.append(Line(fate, raw, first, shape, wanted))
            continue
        taken[first] = tensor
        lines.append(Line(_fate(tensor, wanted, first, kernel, stem_tensors, stem_rule), raw, first, shape, wanted))
    lines += [Line("missing", "", n, (), tuple(targets[n].shape)) for n in groups if n not in taken]
    if stem_rule == "reinit":  # a fresh stem needs none from the file
        lines = [
            _fresh(line) if line.fate == "missing" and line.encoder_name in stem_tensors else line for line in lines
        ]
    for why, names in foreign.unused.items():
        lines += [Line("unused", name, "", (), (), why) for name in names]
    return FileReport(preset, tuple(lines))


def _fate(
    tensor: torch.Tensor,
    wanted: tuple[int, ...],
    name: str,
    kernel: str,
    stem_tensors: set[str],
    stem_rule: StemRule | None,
) -> Fate:
    shape = tuple(tensor.shape)
    if name in stem_tensors and stem_rule == "reinit":
        return "new"
    if name == kernel and (shape[0], *shape[2:]) == (wanted[0], *wanted[2:]) and shape != wanted:
        return "adapted" if stem_rule else "mismatch"
    if shape != wanted:
        return "mismatch"
    # Infinities and NaN survive a sum, and finite float32 numbers cannot overflow float64: one pass, no copy.
    if tensor.is_floating_point() and not math.isfinite(float(tensor.sum(dtype=torch.float64))):
        return "not finite"
    return "loaded"


def _fresh(line: Line) -> Line:
    return Line("new", line.file_name, line.encoder_name, line.file_shape, line.encoder_shape)


def find_preset(raw: RawFile, foreign: Foreign, wanted: str | None = None) -> EncoderSpec:
    """The encoder that a file belongs to: the one named, the one the format knows, or the one all of whose tensors
    (the number of input channels aside) are there.

    Raises:
        InputError: if there is none, naming the nearest; or if ``wanted`` is unknown.
    """
    if name := wanted or foreign.encoder:
        spec: EncoderSpec = ENCODERS[name]
        _check_strides(raw, foreign, spec)
        return spec
    found = {name: tuple(tensor.shape) for name, tensor in foreign.tensors.items()}
    scores: dict[str, float] = {}
    for candidate in ENCODERS:
        scores[candidate] = _signature(candidate).agreement(found)
        if scores[candidate] == 1:
            _check_strides(raw, foreign, ENCODERS[candidate])
            return ENCODERS[candidate]
    best = max(scores, key=lambda n: scores[n], default="")
    nearest = f"the nearest, {best}, shares {scores[best]:.0%} of its tensors" if best else "there is none"
    raise InputError(
        raw.path,
        found=f"{foreign.format} weights of a network that is no encoder here ({nearest}){_topology(foreign)}",
        expected=f"one of {', '.join(ENCODERS)}",
        fix="Register an encoder of that topology (a module of models/encoders or a plugin), or use other weights.",
    )


def _check_strides(raw: RawFile, foreign: Foreign, spec: EncoderSpec) -> None:
    """Tensors do not show a network's strides; where the file states them, they must be the encoder's.

    Raises:
        InputError: if they are not.
    """
    stated = foreign.topology.get("strides")
    ours = [[stride] * 3 for stride in spec.strides]
    if stated and [([s] * 3 if isinstance(s, int) else list(s)) for s in stated] != ours:
        raise InputError(
            raw.path,
            found=f"a network with strides {stated}",
            expected=f"{ours}, those of {spec.name}",
            fix="Weights of a network planned for anisotropic images fit no encoder here.",
        )


def blank(spec: EncoderSpec, in_channels: int = 1) -> torch.nn.Module:
    """An encoder without values, on the meta device: names and shapes only. Leaves torch's random state alone."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return spec.build(in_channels)


def stem_channels(foreign: Foreign, spec: EncoderSpec) -> int:
    """Input channels of the file's stem; 1 where it has none (a fault that the report names)."""
    signature = _signature(spec.name)
    kernels = [t for n, t in foreign.tensors.items() if signature.owner.get(n) == signature.kernel]
    return int(kernels[0].shape[1]) if kernels and kernels[0].dim() == 5 else 1


@dataclass(frozen=True)
class _Signature:
    """An encoder's names and shapes."""

    shapes: dict[str, tuple[int, ...]]
    """Shape of every name, aliases included."""
    owner: dict[str, str]
    """Name -> first name of the same tensor."""
    kernel: str
    """First name of the stem's kernel, whose input channels do not count."""

    def agreement(self, found: Mapping[str, tuple[int, ...]]) -> float:
        """Tensors in common / tensors in either."""
        fits = [n for n, shape in found.items() if n in self.shapes and self._key(n, shape) == self._key(n)]
        strange = [n for n in found if n not in self.owner]
        return len({self.owner[n] for n in fits}) / (len(set(self.owner.values())) + len(strange))

    def _key(self, name: str, shape: tuple[int, ...] | None = None) -> tuple[int, ...]:
        shape = self.shapes[name] if shape is None else shape
        return (shape[0], *shape[2:]) if self.owner[name] == self.kernel and len(shape) == 5 else shape


@lru_cache
def _signature(preset: str) -> _Signature:
    encoder = blank(ENCODERS[preset])
    owner = {alias: first for first, group in aliases(encoder).items() for alias in group}
    shapes = {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    return _Signature(shapes, owner, owner[f"{stem_name(encoder)}.weight"])


def _topology(foreign: Foreign) -> str:
    keys = ("features_per_stage", "n_blocks_per_stage", "n_conv_per_stage", "strides")
    known = {k: foreign.topology[k] for k in keys if k in foreign.topology}
    return f": {known}" if known else ""


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
