"""The bytes of a file, packed by gzip or not, without more memory than its size allows for."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Protocol

_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class SizeRules:
    """How many bytes a file's header may speak of.

    Attributes:
        gzip_most: bytes for each byte of a gzip file, more than which the format cannot give.
        plain_ratio: bytes for each byte of a gzip file, from ``always`` on: what images compress to, and masks with
            room to spare.
        always: bytes below which ``gzip_most`` alone counts: an empty mask compresses as far as gzip can.
    """

    gzip_most: int = 1040
    plain_ratio: int = 100
    always: int = 512 << 20

    def believed(self, size: int, packed: bool) -> int:
        """Most bytes that a file of ``size`` bytes is believed to hold."""
        return min(size * self.gzip_most, max(self.always, size * self.plain_ratio)) if packed else size


RULES = SizeRules()


class Stream(Protocol):
    """Bytes that are read in pieces."""

    def read(self, most: int) -> bytes:
        """Read at most so many of the next bytes; none at the end."""


def is_packed(raw: bytes) -> bool:
    """Whether bytes begin as gzip data do."""
    return raw[:2] == _GZIP


def opened(raw: bytes) -> Stream:
    """The content of a file's bytes, unpacked where they are packed."""
    return _Unpacked(raw) if is_packed(raw) else _Plain(raw)


class _Plain:
    """Bytes, piece by piece."""

    def __init__(self, raw: bytes) -> None:
        self._raw, self._at = raw, 0

    def read(self, most: int) -> bytes:
        """The next bytes, so many at most; empty at the end."""
        piece = self._raw[self._at : self._at + max(most, 0)]
        self._at += len(piece)
        return piece


class _Unpacked:
    """The content of gzip data, piece by piece, without unpacking more than is asked for."""

    def __init__(self, raw: bytes) -> None:
        self._rest, self._stream = raw, _stream()

    def read(self, most: int) -> bytes:
        """The next bytes, so many at most; empty at the end.

        Raises:
            EOFError: if the data break off.
            zlib.error: if they are damaged.
        """
        pieces: list[bytes] = []
        while most > 0:
            if self._stream.eof:  # gzip files may be joined, and padded with zeros
                rest = self._stream.unused_data.lstrip(b"\0")
                if not rest:
                    break
                self._rest, self._stream = rest, _stream()
            piece = self._stream.decompress(self._rest, most)
            self._rest = self._stream.unconsumed_tail
            if not piece and not self._rest and not self._stream.eof:
                raise EOFError("the compressed data break off")
            pieces.append(piece)
            most -= len(piece)
        return b"".join(pieces)


def _stream() -> zlib._Decompress:
    return zlib.decompressobj(wbits=31)
