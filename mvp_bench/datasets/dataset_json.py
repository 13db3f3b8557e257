"""dataset.json: what nnU-Net reads, and our block beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mvp_bench.datasets.prepared import BLOCK
from mvp_bench.datasets.schema import Card, DatasetBlock
from mvp_bench.errors import InputError

BRAIN_LABELS = {"background": 0, "brain": 1}
"""Labels of datasets without masks (classification, pre-training): nnU-Net asks for two; no file holds them."""


def dataset_json(card: Card, block: DatasetBlock) -> dict[str, Any]:
    """The content of dataset.json. The order of ``labels`` matters: it must not be sorted.

    Missing modalities are empty strings in ``images``; cases without a mask have an empty ``label``. Files are pointed
    at, not copied, so ``file_ending`` (that of most of them) is a formality.

    Raises:
        InputError: if the card's labels or regions cannot be expressed.
    """
    labels, order = nnunet_labels(card)
    images = [path for case in block.cases.values() for path in case.images.values() if path]
    compressed = sum(path.endswith(".gz") for path in images) * 2 >= len(images)
    content: dict[str, Any] = {
        "name": card.dataset_name,
        "description": card.title,
        "licence": card.licence,
        "reference": card.citation,
        "channel_names": {str(index): modality for index, modality in enumerate(card.modalities)},
        "labels": labels,
    }
    if order is not None:
        content["regions_class_order"] = order
    content |= {
        "numTraining": len(block.cases),
        "file_ending": ".nii.gz" if compressed else ".nii",
        "overwrite_image_reader_writer": "NibabelIOWithReorient",
        "dataset": {
            case_id: {"images": [case.images.get(m) or "" for m in card.modalities], "label": case.label or ""}
            for case_id, case in block.cases.items()
        },
        BLOCK: block.model_dump(mode="json", by_alias=True),
    }
    return content


def nnunet_labels(card: Card) -> tuple[dict[str, Any], list[int] | None]:
    """nnU-Net's ``labels`` and ``regions_class_order`` of a card; no order where the labels are plain.

    Regions of one value each are trained as plain labels (softmax), others as regions (sigmoid).

    Raises:
        InputError: if label values are not 0, 1, 2, ..., or a region has no value of its own.
    """
    if card.kind != "segmentation":
        return dict(BRAIN_LABELS), None
    if sorted(card.labels.values()) != list(range(len(card.labels))):
        raise InputError(
            f"card {card.dataset_name}, labels",
            found=f"values {sorted(card.labels.values())}",
            expected="0, 1, 2, ... without gaps, as nnU-Net needs",
            fix="Bring them there with converter_options.label_map.",
        )
    if all(len(values) == 1 for values in card.regions.values()):
        names = {values[0]: region for region, values in card.regions.items()}
        return {
            names.get(value, label): value for label, value in sorted(card.labels.items(), key=lambda x: x[1])
        }, None
    labels = {"background": 0, **{region: list(values) for region, values in card.regions.items()}}
    return labels, regions_class_order(card)


def regions_class_order(card: Card) -> list[int]:
    """The value each region is painted with when masks are rebuilt from region predictions, outermost region first.

    Later regions overwrite earlier ones, so a region is painted with a value that no later region holds; the smallest,
    where there are several (they cannot be told apart by these regions).

    Raises:
        InputError: if a region has no such value: the regions are not listed from outermost to innermost.
    """
    order = []
    regions: Sequence[tuple[str, list[int]]] = list(card.regions.items())
    for index, (region, values) in enumerate(regions):
        inner = {value for _, later in regions[index + 1 :] for value in later}
        own = sorted(set(values) - inner - {0})
        if not own:
            raise InputError(
                f"card {card.dataset_name}, regions.{region}",
                found=f"{values}, all of it within later regions",
                expected="regions from outermost to innermost, each with a value of its own",
            )
        order.append(own[0])
    return order
