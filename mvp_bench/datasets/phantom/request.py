"""What a phantom release is made from, and the key that follows from it."""

from __future__ import annotations

from typing import Any

from mvp_bench.config.groups import PhantomConfig
from mvp_bench.datasets.schema import Card
from mvp_bench.identity import key_of

MANIFEST = "PHANTOM.json"
"""File at the top of a release; written last, so it means complete."""


def phantom_request(card: Card, config: PhantomConfig, seed: int) -> dict[str, Any]:
    """What decides the voxels of a release, with its key; as it stands in the release's manifest."""
    settings = {
        "dataset": card.dataset_name,
        "seed": seed,
        "spacing_mm": config.spacing_mm,
        "patients": patient_count(card, config),
        "modalities": list(card.modalities),
    }
    return {**settings, "key": key_of("phantom", settings)}


def phantom_key(card: Card, config: PhantomConfig, seed: int) -> str:
    """Key of the release that would be made: of its settings and the version of the generator."""
    return str(phantom_request(card, config, seed)["key"])


def patient_count(card: Card, config: PhantomConfig) -> int:
    """Number of patients of a dataset of this kind."""
    return {
        "segmentation": config.segmentation_patients,
        "classification": config.classification_patients,
        "pretraining": config.pretraining_patients,
    }[card.kind]
