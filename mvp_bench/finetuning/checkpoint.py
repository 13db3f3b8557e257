"""Resumable training states: tensors and plain values only, written to a temporary file, fsynced, renamed."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from mvp_bench.errors import InputError
from mvp_bench.workspace import atomic_path


def save_state(path: Path, job_hash: str, **state: Any) -> None:
    """Write a state that :func:`load_state` reads back."""
    with atomic_path(path) as temporary:
        torch.save({"job": job_hash, **state}, temporary)


def load_state(path: Path, job_hash: str, device: torch.device) -> dict[str, Any]:
    """Read a state; nothing in it can run code (``weights_only``).

    Raises:
        InputError: if the file is damaged or belongs to another job.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile, ValueError, KeyError) as error:
        raise InputError(
            path,
            found=f"a damaged checkpoint ({str(error).splitlines()[0]})",
            expected="a state written by an earlier run of this command",
            fix="Delete the file to start this training anew.",
        ) from error
    if not isinstance(state, dict) or state.get("job") != job_hash:
        raise InputError(
            path,
            found="a checkpoint of another configuration",
            expected=f"one of job {job_hash[:12]}",
            fix="Delete the file to start this training anew.",
        )
    return state
