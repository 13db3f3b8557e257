"""The folders under one root.

This is the only module that touches environment variables: nnU-Net finds its folders through three of them, so they
are set inside the process from ``--root`` (and reach worker processes by inheritance). Users never set any.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mvp_bench.errors import InputError


@dataclass(frozen=True)
class Workspace:
    """The folders under one root. Nothing is created until something is written."""

    root: Path

    @property
    def datasets(self) -> Path:
        return self.root / "datasets"

    @property
    def plans(self) -> Path:
        return self.root / "plans"

    @property
    def results(self) -> Path:
        return self.root / "results"

    @property
    def cells(self) -> Path:
        return self.results / "cells"

    @property
    def pretraining(self) -> Path:
        return self.results / "pretraining"

    @property
    def logs(self) -> Path:
        return self.results / "logs"

    def dataset(self, name: str) -> Path:
        """Folder of a dataset's ``dataset.json`` and ``splits.json``; ``name`` is ``DatasetNNN_Name``."""
        return self.datasets / name

    def plan(self, name: str) -> Path:
        """Folder of a dataset's ``fingerprint.json``, ``plan.json`` and preprocessed cases."""
        return self.plans / name

    def open(self) -> Workspace:
        """Make the folders, point nnU-Net at them, and return self.

        Raises:
            InputError: if the root cannot be written to.
        """
        for folder in (self.datasets, self.plans, self.results, self.logs):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                probe = folder / f".write-test-{os.getpid()}"
                probe.touch()
                probe.unlink()
            except OSError as error:
                raise InputError(
                    f"--root {self.root}",
                    found=f"{folder} cannot be written to ({error.strerror or error})",
                    expected="a folder with write permission",
                    fix="Name another folder with --root, or change its permissions.",
                ) from error
        os.environ["nnUNet_raw"] = str(self.datasets.resolve())
        os.environ["nnUNet_preprocessed"] = str(self.plans.resolve())
        os.environ["nnUNet_results"] = str((self.results / "nnunet").resolve())
        os.environ["nnUNet_compile"] = "f"  # torch.compile is our own option, never switched on behind the user's back
        return self


def point_nnunet_results(folder: Path) -> None:
    """Make nnU-Net write what this process trains into ``folder``."""
    os.environ["nnUNet_results"] = str(folder.resolve())
