"""Views of contrastive methods: identity, background, independence of the two, noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from mvp_bench.pretraining.sampling import Shard
from mvp_bench.pretraining.views.looks import draw_looks, rolled, show

PATCH = (8, 10, 6)


@dataclass(frozen=True)
class Ranges:
    crop_volume: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.0
    blur: float = 0.0
    gamma: float = 1.0
    gain: float = 0.0
    offset: float = 0.0
    noise: float = 0.0


ALL = Ranges((0.2, 0.9), 0.5, 1.0, 1.5, 0.2, 0.2, 0.2)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 3) -> torch.Tensor:
    drawn = torch.randn(n, 1, *PATCH, generator=generator(9))
    drawn[..., :2] = 0
    return drawn


def noise() -> torch.Tensor:
    return torch.randn(1, 1, *PATCH, generator=generator(4))


def test_without_any_range_a_view_is_the_image() -> None:
    torch.testing.assert_close(show(images(), draw_looks(3, PATCH, Ranges(), generator()), noise()), images())


def test_each_range_changes_something() -> None:
    changes: dict[str, Any] = {
        "crop_volume": (0.3, 0.5),
        "flip": 1.0,
        "blur": 1.0,
        "gamma": 2.0,
        "gain": 0.3,
        "offset": 0.3,
        "noise": 0.3,
    }
    for name, value in changes.items():
        looks = draw_looks(3, PATCH, Ranges(**{name: value}), generator())
        changed = (show(images(), looks, noise()) - images()).abs().flatten(1).amax(dim=1)
        assert (changed > 1e-3).all(), name


def test_background_stays_zero() -> None:
    looks = draw_looks(3, PATCH, Ranges(blur=1.0, gamma=2.0, gain=0.3, offset=0.3, noise=0.3), generator())
    view = show(images(), looks, noise())
    assert ((view == 0) == (images() == 0)).all()
    assert not show(torch.zeros(3, 1, *PATCH), draw_looks(3, PATCH, ALL, generator()), noise()).any()


def test_brightness_and_contrast_are_what_was_drawn() -> None:
    looks = draw_looks(3, PATCH, Ranges(gain=0.3, offset=0.3), generator())
    assert ((looks.gains[:, 0] - 1).abs() <= 0.3).all() and (looks.gains[:, 1].abs() <= 0.3).all()
    expected = images() * looks.gains[:, 0].reshape(3, 1, 1, 1, 1) + looks.gains[:, 1].reshape(3, 1, 1, 1, 1)
    torch.testing.assert_close(show(images(), looks, noise()), torch.where(images() != 0, expected, 0.0))


def test_noise_is_the_field_rolled_by_each_view_s_own_offset() -> None:
    shift = torch.tensor([[0, 0, 0], [3, 9, 1], [7, 2, 5]])
    found = rolled(noise(), shift)
    for row, offset in zip(found, shift.tolist(), strict=True):
        assert torch.equal(row, noise()[0].roll(offset, dims=(1, 2, 3)))
    looks = draw_looks(3, PATCH, Ranges(noise=0.5), generator())
    added = (show(images(), looks, noise()) - images())[..., 2:]
    expected = (rolled(noise(), looks.shift) * looks.noise.reshape(3, 1, 1, 1, 1))[..., 2:]
    torch.testing.assert_close(added, expected, atol=1e-6, rtol=1e-5)
    assert (looks.shift >= 0).all() and (looks.shift < torch.tensor(PATCH)).all()


def test_views_follow_from_the_generator_and_can_be_shared_out() -> None:
    whole = draw_looks(8, PATCH, ALL, generator())
    again = draw_looks(8, PATCH, ALL, generator())
    assert torch.equal(whole.size, again.size) and torch.equal(whole.shift, again.shift)
    view = show(images(8), whole, noise())
    for rank in range(2):
        part = show(images(8)[4 * rank : 4 * rank + 4], whole.own(Shard(rank, 2)), noise())
        torch.testing.assert_close(part, view[4 * rank : 4 * rank + 4])
