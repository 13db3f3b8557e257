"""Marks: few reasons, and each field that bears one bears one of them."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator

import pytest

from mvp_bench.config import groups, verbs
from mvp_bench.config.groups import OverlapConfig, PretrainConfig, SegmentationConfig, StatisticsConfig
from mvp_bench.config.marks import REASONS
from mvp_bench.identity import counted, key_of, outside

CLASSES = [
    kind
    for module in (groups, verbs)
    for kind in vars(module).values()
    if dataclasses.is_dataclass(kind) and kind.__module__ == module.__name__
]


def marks(kind: type) -> Iterator[tuple[str, object]]:
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        if mark := outside(hint):
            yield name, mark


def test_there_are_few_reasons() -> None:
    assert len(REASONS) <= 9 and len({reason.reason for reason in REASONS}) == len(REASONS)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_mark_gives_one_of_them(kind: type) -> None:
    assert all(mark in REASONS for _, mark in marks(kind))


def test_what_bears_a_mark_is_in_no_key() -> None:
    assert "images" not in counted(OverlapConfig())
    same = PretrainConfig(checkpoint_every=7, log_every=3, loaders=9, pictures_every=1, tensorboard=True, preset="mini")
    assert key_of("pretrain", same) == key_of("pretrain", PretrainConfig())
    kept = SegmentationConfig(keep_predictions=True, checkpoint_every=3, validation_iterations=1)
    assert key_of("finetune", kept) == key_of("finetune", SegmentationConfig())
    assert key_of("finetune", SegmentationConfig(loaders=3)) != key_of("finetune", SegmentationConfig())
    assert counted(StatisticsConfig()) == {}
