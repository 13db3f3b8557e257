"""Resumable training state: one file, written whole or not at all, read without unpickling code."""

from __future__ import annotations

import contextlib
import json
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from mvp_bench.errors import InputError, MachineError
from mvp_bench.identity import hash_of
from mvp_bench.io import atomic_path

CHECKPOINT_FILE = "checkpoint_last.pt"
Identity = Mapping[str, Any]
"""What makes a run this run: nested, JSON-able."""
MESSAGE = 300
"""Characters of torch's own message that are passed on."""


def save_checkpoint(path: Path, identity: Identity, content: Mapping[str, Any]) -> None:
    """Write ``content`` (tensors, numbers, strings, lists, dicts) with the run's identity.

    Raises:
        MachineError: if the disk is full or the folder cannot be written to; the previous checkpoint stays.
    """
    try:
        with atomic_path(path) as temporary:
            torch.save({"identity": json.dumps(identity, sort_keys=True), **content}, temporary)
    except (OSError, RuntimeError) as error:  # torch's zip writer turns a full disk into a RuntimeError
        raise MachineError(
            path,
            found=f"it cannot be written ({error})",
            expected="room and permission for the checkpoint",
            fix="Free some space and start the same command again: it goes on from the last checkpoint.",
        ) from error


def load_checkpoint(path: Path, identity: Identity) -> dict[str, Any] | None:
    """The content of a checkpoint of this very run; ``None`` where there is none.

    Raises:
        InputError: if the file is corrupt, or belongs to a run of another configuration (the difference is named).
    """
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        found = json.loads(content["identity"])
    except (RuntimeError, EOFError, OSError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
        pickled = isinstance(error, pickle.UnpicklingError)
        reason = "reading it would run pickled code" if pickled else type(error).__name__
        raise InputError(
            path,
            found=f"not a whole checkpoint ({reason})",
            expected="a checkpoint written by an earlier run of this command",
            fix="Delete it and start the same command again.",
        ) from error
    require_same(path, found, identity)
    return content


@contextlib.contextmanager
def restore(path: Path) -> Iterator[None]:
    """Around the loading of a checkpoint's parts.

    Raises:
        InputError: naming the tensors, if parts or tensors are missing, unexpected or of another shape.
    """
    try:
        yield
    except (RuntimeError, ValueError, KeyError, TypeError) as error:  # what torch's load_state_dicts raise
        text = " ".join(str(error).split())
        raise InputError(
            path,
            found=f"contents that do not fit the run ({text[:MESSAGE]}{'...' if len(text) > MESSAGE else ''})",
            expected="every tensor of the method and its optimiser, and no other",
            fix="Delete it and start the same command again.",
        ) from error


def require_same(path: Path, found: Identity, identity: Identity) -> None:
    """Refuse to go on under another configuration.

    Raises:
        InputError: naming every field that differs.
    """
    if hash_of(found) == hash_of(identity):
        return
    old, new = flatten(found), flatten(json.loads(json.dumps(identity)))
    differences = [
        f"{key} {old.get(key, '(absent)')!r}, now {new.get(key, '(absent)')!r}"
        for key in sorted(set(old) | set(new))
        if old.get(key, "(absent)") != new.get(key, "(absent)")
    ]
    raise InputError(
        path,
        found=f"a run with {'; '.join(differences[:8])}{'; ...' if len(differences) > 8 else ''}",
        expected="the same configuration",
        fix=f"Restore the old values, or delete {path.parent} to start anew.",
    )


def flatten(nested: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict with dotted keys."""
    if not isinstance(nested, Mapping):
        return {prefix: nested}
    return {
        k: v for key, value in nested.items() for k, v in flatten(value, f"{prefix}.{key}" if prefix else key).items()
    }
