"""dataset.json as nnU-Net reads it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from mvp_bench.datasets.catalog import load_cards
from mvp_bench.datasets.dataset_json import nnunet_labels, regions_class_order
from mvp_bench.datasets.schema import Card
from mvp_bench.errors import InputError

from .releases import shipped

SEGMENTATION = [card for card in load_cards(None).values() if card.kind == "segmentation"]


def manager(card: Card) -> LabelManager:
    labels, order = nnunet_labels(card)
    return LabelManager(labels, order)


@pytest.mark.parametrize("card", SEGMENTATION, ids=lambda c: c.name)
def test_masks_survive_regions_and_back(card: Card) -> None:
    """Perfect predictions give back the mask that they came from."""
    labels = manager(card)
    mask = np.random.default_rng(card.id).integers(0, len(card.labels), (6, 7, 8))
    heads = labels.foreground_regions if labels.has_regions else labels.all_labels
    logits = torch.stack([torch.from_numpy(np.isin(mask, head) * 20.0 - 10.0) for head in heads])
    assert logits.shape[0] == labels.num_segmentation_heads
    assert np.array_equal(labels.convert_logits_to_segmentation(logits).numpy(), mask)


def test_glioma_labels() -> None:
    assert nnunet_labels(shipped(501)) == ({"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}, [2, 1, 3])


def test_plain_labels_are_called_after_regions() -> None:
    assert nnunet_labels(shipped(504)) == ({"background": 0, "CSF": 1, "GM": 2, "WM": 3}, None)
    assert nnunet_labels(shipped(503)) == ({"background": 0, "lesion": 1}, None)


@pytest.mark.parametrize("number", [511, 521])
def test_datasets_without_masks(number: int) -> None:
    labels, order = nnunet_labels(shipped(number))
    assert labels == {"background": 0, "brain": 1} and order is None
    assert not LabelManager(labels, order).has_regions


def regions_card(labels: int, regions: dict[str, list[int]]) -> Card:
    names = {"background": 0, **{f"l{i}": i for i in range(1, labels + 1)}}
    return shipped(501, labels=names, regions=regions)


def test_regions_that_merge_labels_keep_the_regions() -> None:
    """BraTS 2013: necrosis and non-enhancing tumour are in the same regions, so that the region masks survive."""
    card = regions_card(4, {"WT": [1, 2, 3, 4], "TC": [1, 3, 4], "ET": [4]})
    assert regions_class_order(card) == [2, 1, 4]
    mask = np.random.default_rng(0).integers(0, 5, (6, 7, 8))
    labels = manager(card)
    logits = torch.stack([torch.from_numpy(np.isin(mask, r) * 20.0 - 10.0) for r in labels.foreground_regions])
    rebuilt = labels.convert_logits_to_segmentation(logits).numpy()
    for values in card.regions.values():
        assert np.array_equal(np.isin(rebuilt, values), np.isin(mask, values))


@settings(max_examples=50, deadline=None)
@given(st.permutations([1, 2, 3, 4]), st.integers(0, 2**31))
def test_any_nesting_survives(order: list[int], seed: int) -> None:
    card = regions_card(4, {f"r{i}": sorted(order[i:]) for i in range(4)})
    mask = np.random.default_rng(seed).integers(0, 5, (4, 4, 4))
    labels = manager(card)
    logits = torch.stack(
        [
            torch.from_numpy(np.isin(mask, r if isinstance(r, tuple) else [r]) * 20.0 - 10)
            for r in labels.foreground_regions
        ]
    )
    assert np.array_equal(labels.convert_logits_to_segmentation(logits).numpy(), mask)


def test_regions_in_the_wrong_order() -> None:
    with pytest.raises(InputError, match="outermost to innermost"):
        nnunet_labels(regions_card(3, {"ET": [3], "TC": [1, 3], "WT": [1, 2, 3]}))


def test_labels_with_gaps() -> None:
    card = shipped(501, labels={"background": 0, "a": 1, "b": 2, "c": 4}, regions={"WT": [1, 2, 4]})
    with pytest.raises(InputError, match="without gaps"):
        nnunet_labels(card)
