"""Cards and small releases shared by the phantom's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvp_bench.config.groups import PhantomConfig
from mvp_bench.datasets.catalog import load_cards
from mvp_bench.datasets.phantom.release import write_phantom_release
from mvp_bench.datasets.schema import Card

IDS = (501, 502, 503, 504, 505, 506, 511, 512, 513, 514, 521, 522, 523, 524, 525)
SMALL = PhantomConfig(
    spacing_mm=6.0, segmentation_patients=3, classification_patients=4, pretraining_patients=3
)  # patients are made in about 0.1 s


@pytest.fixture(scope="session")
def cards() -> dict[int, Card]:
    return load_cards(None)


@pytest.fixture(scope="session")
def releases(cards: dict[int, Card], tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The small release of every dataset: id -> folder to point --source at."""
    root = tmp_path_factory.mktemp("releases")
    return {i: write_phantom_release(cards[i], root / str(i), SMALL, seed=0) for i in IDS}
