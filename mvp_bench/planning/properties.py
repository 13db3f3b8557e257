"""nnU-Net's properties of a preprocessed case, kept without pickle: MessagePack, arrays as raw bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from mvp_bench.errors import InputError
from mvp_bench.io import atomic_path

_ARRAY, _TUPLE, _PAIRS = 1, 2, 3
"""Codes of the extension types: an array (type, shape, bytes), a tuple, a dict whose keys are no strings."""


def write_properties(path: Path, properties: dict[str, Any]) -> None:
    """Write nested dicts, lists, tuples, numbers, strings and numeric arrays; they are read back as they were."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(_packed(_wrapped(properties)))


def read_properties(path: Path) -> dict[str, Any]:
    """Read what :func:`write_properties` wrote. Nothing is executed.

    Raises:
        InputError: if the file is damaged.
    """
    try:
        content = msgpack.unpackb(path.read_bytes(), ext_hook=_from_extension, strict_map_key=False)
    except (OSError, ValueError, msgpack.exceptions.UnpackException, TypeError) as error:
        raise InputError(
            path,
            found=f"no readable properties ({type(error).__name__})",
            expected="a file written by mvp_plan",
            fix="Delete the folder of preprocessed cases and run mvp_plan again.",
        ) from error
    assert isinstance(content, dict)
    return content


def _packed(value: Any) -> bytes:
    return msgpack.packb(value, default=_to_extension, strict_types=True)


def _to_extension(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        array = np.ascontiguousarray(value)
        return msgpack.ExtType(_ARRAY, _packed([array.dtype.str, list(array.shape), array.tobytes()]))
    if isinstance(value, tuple):
        return msgpack.ExtType(_TUPLE, _packed(list(value)))
    if isinstance(value, _Pairs):
        return msgpack.ExtType(_PAIRS, _packed([[key, item] for key, item in value.content.items()]))
    raise TypeError(f"{type(value).__name__} cannot be kept")


def _from_extension(code: int, data: bytes) -> Any:
    content = msgpack.unpackb(data, ext_hook=_from_extension, strict_map_key=False)
    if code == _ARRAY:
        kind, shape, raw = content
        return np.frombuffer(raw, dtype=np.dtype(kind)).reshape(shape).copy()
    if code == _TUPLE:
        return tuple(content)
    if code == _PAIRS:
        return {key: item for key, item in content}
    raise ValueError(f"unknown extension {code}")


class _Pairs:
    """A dict whose keys are no strings (nnU-Net's class locations: label values, or tuples of them)."""

    def __init__(self, content: dict[Any, Any]) -> None:
        self.content = content


def _wrapped(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    inner = {key: _wrapped(item) for key, item in value.items()}
    return inner if all(isinstance(key, str) for key in inner) else _Pairs(inner)
