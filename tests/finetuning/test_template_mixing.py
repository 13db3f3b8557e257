"""Channels replaced by templates: how often, which, and that the rest stays as and where it is."""

from __future__ import annotations

import numpy as np
import pytest

from mvp_bench.finetuning.template_mixing import draw_replaced, mixed, mixed_pair

FOUR = ("t1", "t1c", "t2", "flair")
DRAWS = 8000


def frequencies(modalities: tuple[str, ...], with_template: tuple[str, ...]) -> dict[str, float]:
    rng = np.random.default_rng(0)
    drawn = [draw_replaced(modalities, with_template, rng) for _ in range(DRAWS)]
    assert all(len(set(d)) == len(d) < len(modalities) for d in drawn), "distinct, never all"
    return {m: sum(m in d for d in drawn) / DRAWS for m in modalities}


def test_each_of_four_channels_is_replaced_with_probability_three_eighths() -> None:
    assert list(frequencies(FOUR, FOUR).values()) == pytest.approx([0.375] * 4, abs=0.02)
    rng = np.random.default_rng(1)
    sizes = np.bincount([len(draw_replaced(FOUR, FOUR, rng)) for _ in range(DRAWS)]) / DRAWS
    assert sizes.tolist() == pytest.approx([0.25] * 4, abs=0.02)


def test_fewer_channels_and_missing_templates() -> None:
    assert list(frequencies(FOUR[:3], FOUR).values()) == pytest.approx([1 / 3] * 3, abs=0.02)
    assert frequencies(("t1",), ("t1",)) == {"t1": 0.0}
    some = frequencies(FOUR, ("t2", "pd"))
    assert some.pop("t2") == pytest.approx(0.5, abs=0.02) and set(some.values()) == {0.0}


def test_copies_keep_the_channels_in_order() -> None:
    """Channel c holds c + 1, its template -(c + 1): every channel is one or the other, in both copies."""
    images = np.arange(1, 5, dtype=np.float32)[:, None, None, None] * np.ones((1, 3, 4, 5), np.float32)
    fillers = {m: -image for m, image in zip(FOUR, images, strict=True)}
    rng = np.random.default_rng(0)
    differ = 0
    for _ in range(50):
        pair = mixed_pair(images, FOUR, fillers, rng)
        assert pair.shape == (2, 4, 3, 4, 5)
        assert np.array_equal(np.abs(pair), np.stack([images, images]))
        assert (pair.min(axis=(2, 3, 4)) == pair.max(axis=(2, 3, 4))).all(), "channels are replaced whole"
        differ += not np.array_equal(pair[0], pair[1])
    assert differ > 25, "the copies' draws are independent"
    assert (images > 0).all(), "the case itself is left alone"


def test_the_draw_follows_from_the_generator() -> None:
    images = np.ones((4, 2, 2, 2), np.float32)
    fillers = {m: np.zeros((2, 2, 2), np.float32) for m in FOUR}
    one, other = (mixed(images, FOUR, fillers, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(one, other)
