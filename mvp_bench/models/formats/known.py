"""The formats, and which of them a file has."""

from __future__ import annotations

from pathlib import Path

from mvp_bench.errors import InputError
from mvp_bench.models.formats.base import Foreign, Format
from mvp_bench.models.formats.brainmvp import BrainMvpFormat
from mvp_bench.models.formats.nnssl import Nnssl
from mvp_bench.models.formats.nnunet import NnUnet
from mvp_bench.models.formats.raw import RawFile, read_raw
from mvp_bench.models.formats.swin import Swin

FORMATS: tuple[Format, ...] = (Nnssl(), NnUnet(), BrainMvpFormat(), Swin())
"""Formats in the order in which they are tried: the more particular first."""


def read_foreign(path: Path) -> tuple[RawFile, Foreign]:
    """A file, as it is and in our words.

    Raises:
        InputError: if it cannot be opened, or is of no known format.
    """
    raw = read_raw(path)
    for kind in FORMATS:
        if kind.recognises(raw):
            return raw, kind.read(raw)
    names = list(raw.tensors())
    raise InputError(
        path,
        found=f"{len(names)} tensors under names that no format here has (first: {', '.join(names[:3])})",
        expected="one of: " + "; ".join(kind.summary for kind in FORMATS),
    )
