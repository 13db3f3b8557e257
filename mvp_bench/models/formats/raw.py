"""Checkpoint files opened without running anything that is in them.

A ``.pth`` is a pickle, and unpickling may call any function. torch's ``weights_only`` reader builds tensors and plain
containers only; numpy's scalar numbers are allowed besides, since nnU-Net and others keep scores as such.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from mvp_bench.errors import InputError
from mvp_bench.identity import hash_file

State = dict[str, torch.Tensor]
WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that DistributedDataParallel and torch.compile put before every name."""
ATTRIBUTES = ("model.", "network.", "net.")
"""Attributes of Lightning modules: prefixes that are taken off where every name has them."""
CONTAINERS = ("network_weights", "state_dict", "model_state_dict", "model_state", "model", "net", "weights")
"""Names under which training scripts keep the tensors in their checkpoints."""
DESCRIPTIONS = ("nnssl_adaptation_plan", "citations", "mvp_bench")
"""Entries besides the tensors that formats look at, plain values all."""
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_NUMBERS = (np.float64, np.float32, np.float16, np.int64, np.int32, np.bool_)


@dataclass(frozen=True)
class RawFile:
    """What a file holds, as it holds it."""

    path: Path
    sha256: str
    content: Mapping[str, Any]
    """The top level: containers, numbers, strings, tensors."""

    def tensors(self) -> State:
        """The network's tensors by name, wrappers' prefixes taken off.

        Raises:
            InputError: if there are none, or a name stands for anything but a tensor.
        """
        state: Any = next((self.content[key] for key in CONTAINERS if _is_state(self.content.get(key))), self.content)
        found = {_unwrapped(str(name)): value for name, value in state.items() if isinstance(value, torch.Tensor)}
        if not found:
            raise InputError(
                self.path,
                found=f"no tensors (top level: {', '.join(map(str, list(self.content)[:6])) or 'empty'})",
                expected=f"a checkpoint with the weights at the top or under {', '.join(CONTAINERS)}",
            )
        for prefix in ATTRIBUTES:
            if all(name.startswith(prefix) for name in found):
                found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
        return found


def read_raw(path: Path) -> RawFile:
    """Open a ``.safetensors`` file or anything that ``torch.save`` has written.

    Raises:
        InputError: if the file is missing, truncated, of another kind, or cannot be read without running code.
    """
    if not path.is_file():
        raise InputError(path, found="no such file", expected="a checkpoint (.pt, .pth, .ckpt, .safetensors)")
    content = _safetensors(path) if path.suffix == ".safetensors" else _torch(path)
    if not isinstance(content, Mapping):
        raise InputError(
            path,
            found=f"a {type(content).__name__} at the top level",
            expected="a dictionary of tensors, or of a network's state",
        )
    return RawFile(path, hash_file(path), content)


def _safetensors(path: Path) -> Mapping[str, Any]:
    try:
        with safe_open(path, framework="pt", device="cpu") as handle:
            return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise _broken(path, str(error)) from error


def _torch(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(list(_harmless())):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if name := _GLOBAL.search(str(error)):
            raise _needs_code(path, name.group(1)) from error
        raise _broken(path, _first_line(error)) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, UnicodeDecodeError) as error:
        raise _broken(path, _first_line(error)) from error


def _harmless() -> Iterator[tuple[Callable[..., Any], str] | Callable[..., Any]]:
    """numpy's scalars, under the names that numpy 1 and 2 pickle them by."""
    scalar = np.float64(0).__reduce__()[0]
    assert callable(scalar)
    yield from ((scalar, f"{package}.multiarray.scalar") for package in ("numpy.core", "numpy._core"))
    yield np.dtype
    yield from (type(np.dtype(kind)) for kind in _NUMBERS)


def _needs_code(path: Path, name: str) -> InputError:
    keys = (*CONTAINERS, *DESCRIPTIONS)
    save = f"torch.save({{k: c[k] for k in {keys} if k in c}} or c, 'weights.pt')"
    return InputError(
        path,
        found=f"an object of {name}; opening it would run code from the file",
        expected="tensors and plain values only",
        fix="If you trust its source, keep the weights alone, on a machine that has the project it comes from: "
        f"python -c \"import torch; c = torch.load('{path.name}', weights_only=False); {save}\"",
    )


def _broken(path: Path, why: str) -> InputError:
    return InputError(
        path,
        found=f"not a whole checkpoint ({why})",
        expected="a file written by torch.save or safetensors",
        fix="Download or copy it again.",
    )


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:120]}" if lines else type(error).__name__


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(v, torch.Tensor) for v in value.values())


def _unwrapped(name: str) -> str:
    while name.startswith(WRAPPERS):
        name = name.removeprefix(next(w for w in WRAPPERS if name.startswith(w)))
    return name


def plain(value: Any) -> Any:
    """A value from a checkpoint as JSON can hold it; tensors and objects become their description."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return f"({type(value).__name__})"


def json_block(content: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A dictionary kept as JSON text under ``key``; empty where there is none or it is none."""
    text = content.get(key)
    try:
        block = json.loads(text) if isinstance(text, str) else {}
    except json.JSONDecodeError:
        return {}
    return block if isinstance(block, dict) else {}
