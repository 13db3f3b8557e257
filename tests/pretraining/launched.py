"""What the tests start under torchrun: ``python -m tests.pretraining.launched JSON``.

JSON: folder -> arguments of :func:`train`, one run after the other.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mvp_bench.errors import InputError
from mvp_bench.pretraining.distributed import joined
from mvp_bench.pretraining.run import pretrain
from mvp_bench.registry import METHODS
from tests.pretraining.conftest import EXACT, MODALITIES, SMALL, source
from tests.pretraining.fake_store import FakeStore, brains
from tests.pretraining.normed import register


class Slow(FakeStore):
    """Takes its time."""

    seconds = 0.0

    def read(self, *arguments: Any) -> Any:
        time.sleep(self.seconds)
        return super().read(*arguments)


def train(folder: Path, config: dict[str, Any], options: dict[str, Any], encoder: str, slow: float = 0.0) -> None:
    """A run on six cases, one with a single modality.

    Args:
        config: changed fields of SMALL.
        options: of the method.
        slow: seconds per read.
    """
    torch.set_num_threads(1)
    register()
    store = brains(6, MODALITIES)
    store._present = {"case02": ("t2",)}
    store.__class__, store.seconds = Slow, slow  # type: ignore[attr-defined]
    loop = replace(SMALL, **config)
    own = METHODS[loop.method].Options(**options)
    pretrain([source(store)], loop, own, encoder, EXACT, 0, "smoke", folder)


if __name__ == "__main__":
    try:
        with joined(EXACT):
            for name, what in json.loads(sys.argv[1]).items():
                train(Path(name), **what)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
