"""Numbers and sizes of the boxes of in-painting and out-painting."""

import torch

from mvp_bench.pretraining.views import painting
from mvp_bench.pretraining.views.boxes import covered

PATCH = (21, 28, 14)


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_out_painting_keeps_a_window_at_least_and_never_everything() -> None:
    kept = covered(painting.draw_windows(200, (7, 7, 7), _seeded()), (7, 7, 7)).float().mean((1, 2, 3, 4))
    assert kept.min() >= (3 / 7) ** 3 - 1e-6 and kept.max() < 1


def test_boxes_have_the_sizes_and_numbers_of_models_genesis() -> None:
    inner, windows = painting.draw_inner(400, PATCH, _seeded()), painting.draw_windows(400, PATCH, _seeded())
    edges = inner.stop - inner.start
    assert edges.amin((0, 1)).tolist() == [4, 5, 3] and edges.amax((0, 1)).tolist() == [7, 9, 4]
    edges = windows.stop - windows.start
    assert edges.amin((0, 1)).tolist() == [9, 12, 6] and edges.amax((0, 1)).tolist() == [12, 16, 8]
    numbers = windows.valid.sum(dim=1)
    assert numbers.min() == 1 and numbers.max() == 5
    assert inner.valid.sum(dim=1).max() == 5


def test_counts_stop_at_the_first_failure() -> None:
    counts = painting.draw_counts(20000, 5, 0.5, _seeded())
    for number in range(5):
        assert abs((counts == number).float().mean() - 0.5 ** (number + 1)) < 0.01
    assert abs((counts == 5).float().mean() - 0.5**5) < 0.01
