"""VolumeFusion: the mixture, classes, pairs, losses against NumPy and MONAI, over-fitting, bad input."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss

from mvp_bench.errors import InputError
from mvp_bench.pretraining.methods.volume_fusion import (
    VolumeFusion,
    VolumeFusionOptions,
    classes_of,
    constant_dice_ce,
    dice_ce,
    draw_patchwork,
    fuse,
)
from mvp_bench.pretraining.sampling import Batch, Shard
from mvp_bench.registry import ENCODERS
from tests.pretraining.conftest import MODALITIES, build, generator, overfitted
from tests.pretraining.fake_store import FakeStore, brains

SIZE = (3, 4, 5)


def fusion(store: FakeStore | None = None, batch: int = 2, **options: Any) -> tuple[VolumeFusion, Batch]:
    store = store or brains(4, MODALITIES)
    method, sampler = build("volume_fusion", store, VolumeFusionOptions(**options), batch=batch)
    assert isinstance(method, VolumeFusion)
    return method, sampler[0]


def logits_and_classes() -> tuple[torch.Tensor, torch.Tensor]:
    return (
        3 * torch.randn(3, 5, *SIZE, generator=generator()),
        torch.randint(4, (3, 1, *SIZE), generator=generator()),  # class 4 is nowhere
    )


# ------------------------------------------------------------------------------------------------------- the mixture


def test_mixture() -> None:
    method, batch = fusion(batch=3)
    pair, classes, mixed = method.fused(batch, generator(2))
    assert classes.min() == 0 and classes.max() == 4
    assert torch.equal(mixed[classes == 0], pair.image[classes == 0])
    assert torch.equal(mixed[classes == 4], pair.other[classes == 4])
    apart = (pair.other - pair.image).abs() > 0.05
    found = 4 * (mixed - pair.image) / (pair.other - pair.image)
    np.testing.assert_allclose(found[apart], classes[apart], atol=1e-3)


def test_later_boxes_lie_above_earlier_ones() -> None:
    patch, options = (16, 20, 24), VolumeFusionOptions()
    drawn = draw_patchwork(5, patch, options, generator())
    for i, found in enumerate(classes_of(drawn, patch)):
        expected = np.zeros(patch, int)
        for box in range(drawn.valid.shape[1]):
            if drawn.valid[i, box]:
                z, y, x = (slice(a, b) for a, b in zip(drawn.start[i, box], drawn.stop[i, box], strict=True))
                expected[z, y, x] = int(drawn.level[i, box])
        assert np.array_equal(found[0].numpy(), expected)


@pytest.mark.parametrize(("patch", "shortest"), [((64, 128, 96), (8, 8, 8)), ((32, 40, 16), (4, 5, 2))])
def test_numbers_and_edges_of_boxes(patch: tuple[int, int, int], shortest: tuple[int, int, int]) -> None:
    drawn = draw_patchwork(400, patch, VolumeFusionOptions(), generator())
    counts = drawn.valid.sum(1)
    assert counts.min() == 10 and counts.max() == 40 and counts.float().mean() == pytest.approx(25, abs=1.5)
    whole = torch.tensor(patch)
    uncut = ((drawn.start > 0) & (drawn.stop < whole)).all(2) & drawn.valid
    edges = (drawn.stop - drawn.start)[uncut]
    assert tuple(edges.amin(0).tolist()) == shortest
    assert (edges.amax(0) <= (0.625 * whole).long()).all() and (edges.amax(0) > 0.55 * whole).all()
    assert (drawn.start == 0).any() and (drawn.stop == whole).any()  # centres anywhere: some are cut off
    assert torch.bincount(drawn.level[drawn.valid]).tolist()[0] == 0
    assert (drawn.level[drawn.valid].bincount()[1:] / drawn.valid.sum()).tolist() == pytest.approx([0.25] * 4, abs=0.03)


def test_two_classes() -> None:
    classes = classes_of(draw_patchwork(2, (16, 16, 16), VolumeFusionOptions(levels=1), generator()), (16, 16, 16))
    front, back = torch.ones(2, 1, 16, 16, 16), torch.zeros(2, 1, 16, 16, 16)
    assert torch.equal(fuse(front, back, classes, 1), classes.float())


# ----------------------------------------------------------------------------------------------------------- the loss


def test_loss_against_numpy() -> None:
    logits, classes = logits_and_classes()
    for found, scores, truth in zip(dice_ce(logits, classes), logits.numpy(), classes[:, 0].numpy(), strict=True):
        entropy, overlap, predicted, real = 0.0, np.zeros(5), np.zeros(5), np.zeros(5)
        for voxel in np.ndindex(*SIZE):
            chances = np.exp(scores[(slice(None), *voxel)].astype(np.float64))
            chances /= chances.sum()
            label = truth[voxel]
            entropy -= math.log(chances[label]) / math.prod(SIZE)
            overlap[label] += chances[label]
            real[label] += 1
            predicted += chances
        dice = 1 - (2 * overlap + 1e-5) / (predicted + real + 1e-5)
        assert found.item() == pytest.approx(entropy + dice.mean(), rel=1e-5)


def test_loss_is_monais() -> None:
    logits, classes = logits_and_classes()
    expected = DiceCELoss(softmax=True, to_onehot_y=True)(logits, classes)
    assert dice_ce(logits, classes).mean().item() == pytest.approx(expected.item(), rel=1e-5)


def test_cross_entropy_of_equal_logits_is_the_logarithm_of_the_classes() -> None:
    classes = logits_and_classes()[1]
    found = dice_ce(torch.zeros(3, 5, *SIZE), classes)
    counts = np.stack([np.bincount(c.flatten().numpy(), minlength=5) for c in classes])
    voxels = math.prod(SIZE)
    dice = 1 - (2 * counts / 5 + 1e-5) / (voxels / 5 + counts + 1e-5)
    np.testing.assert_allclose(found - dice.mean(1), math.log(5), rtol=1e-5)


def test_trivial_is_the_loss_of_the_classes_shares() -> None:
    classes = logits_and_classes()[1]
    shares = torch.stack([c.flatten().bincount(minlength=5) for c in classes]) / math.prod(SIZE)
    logits = (shares + 1e-30).log()[:, :, None, None, None].expand(-1, -1, *SIZE)
    constant = constant_dice_ce(classes, 5)
    assert constant.tolist() == pytest.approx(dice_ce(logits, classes).tolist(), abs=1e-3)
    assert (constant < dice_ce(torch.zeros(3, 5, *SIZE), classes)).all()


def test_perfect_prediction_costs_nothing() -> None:
    classes = logits_and_classes()[1]
    logits = 100.0 * torch.nn.functional.one_hot(classes[:, 0], 5).movedim(-1, 1)
    assert dice_ce(logits, classes).max() < 1e-5


# ---------------------------------------------------------------------------------------------------------- the pairs


def marked(modality: list[list[int]]) -> Batch:
    """A batch whose images hold 10 * sample + modality."""
    numbers = torch.tensor(modality)
    size = len(numbers)
    value = 10.0 * torch.arange(size)[:, None] + numbers
    return Batch(
        images=value[:, :, None, None, None].expand(-1, -1, 16, 16, 16).clone(),
        modality=numbers,
        centre_offset=torch.zeros(size, 3, dtype=torch.float64),
        world=torch.zeros(size, 3, dtype=torch.float64),
        spacing=torch.ones(size, 3, dtype=torch.float64),
        cases=[f"case{i}" for i in range(size)],
    )


def test_pairs_share_a_modality() -> None:
    method, _ = fusion()
    batch = marked([[0, 1, 2], [2, 0, 1], [1, 1, 1], [2, 0, 0]])  # 1-2 and 2-3 have but one, or none
    seen = [set[int]() for _ in range(4)]
    for seed in range(40):
        pair = method.draw_pair(batch, generator(seed))
        front, back = pair.other[:, 0, 0, 0, 0].long(), pair.image[:, 0, 0, 0, 0].long()
        assert pair.valid.tolist() == [True, True, False, True]
        assert (back // 10).tolist() == [0, 1, 2, 3] and (front // 10).tolist() == [1, 2, 3, 0]
        assert torch.equal(front[pair.valid] % 10, back[pair.valid] % 10)
        for row in range(4):
            seen[row].add(int(back[row]) % 10)
    assert seen[0] == {0, 1, 2} and seen[1] == {1} and seen[3] == {0, 2}


def test_pairs_without_a_common_modality_do_not_count() -> None:
    method, _ = fusion()
    batch = marked([[0, 0], [1, 1], [1, 1]])  # 0-1 and 2-0 have none
    batch.images += torch.randn(batch.images.shape, generator=generator())
    term = method.losses(batch, 0, generator())["fusion"]
    pair, classes, mixed = method.fused(batch, generator())
    assert pair.valid.tolist() == [False, True, False]
    expected = dice_ce(method.decoder(method.encoder(mixed)), classes)[1]
    assert term.value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert float(term.trivial) == pytest.approx(constant_dice_ce(classes, 5)[1].item(), rel=1e-5)


def test_a_step_without_any_pair_is_harmless() -> None:
    method, _ = fusion()
    term = method.losses(marked([[0], [1]]), 0, generator())["fusion"]
    term.value.backward()
    assert term.value == 0
    assert all(p.grad is None or not p.grad.any() for p in method.parameters())


def test_an_image_is_not_mixed_with_itself() -> None:
    method, sampler = build("volume_fusion", brains(1, MODALITIES, shape=(16, 16, 16)))
    assert isinstance(method, VolumeFusion)
    assert not method.draw_pair(sampler[0], generator()).valid.any()  # one case, one place


def test_order_of_the_samples_does_not_matter() -> None:
    logits, classes = logits_and_classes()
    order = torch.tensor([2, 0, 1])
    assert torch.allclose(dice_ce(logits[order], classes[order]), dice_ce(logits, classes)[order])
    method, _ = fusion()  # a step is a ring: beginning elsewhere begins with other pairs, which are the same
    batch, order = marked([[0], [0], [0], [0]]), [1, 2, 3, 0]
    for first, second in zip(
        method.draw_pair(batch, generator()), method.draw_pair(batch.select(order), generator()), strict=True
    ):
        assert torch.equal(first[order], second)


def test_every_process_draws_its_own_rows() -> None:
    patch, options = (16, 16, 16), VolumeFusionOptions()
    drawn = draw_patchwork(4, patch, options, generator())
    parts = [drawn.own(Shard(rank, 2)) for rank in (0, 1)]
    assert torch.equal(torch.cat([classes_of(part, patch) for part in parts]), classes_of(drawn, patch))


# ---------------------------------------------------------------------------------------------------- training, input


def test_two_volumes_are_overfitted() -> None:
    method, sampler = build("volume_fusion", brains(2, ["t1"], variation=1.0))
    assert overfitted(method, sampler[0], steps=90)["fusion"] < 0.35


def test_as_many_images_are_read_as_a_case_has() -> None:
    assert fusion()[0].sampling().slots == 3
    assert fusion(slots=2)[0].sampling().slots == 2


def test_a_sample_alone_is_refused_but_may_be_one_of_several_processes() -> None:
    arguments = (VolumeFusionOptions(), ENCODERS["resenc-smoke"], (16, 16, 16), 1)
    with pytest.raises(InputError, match="--batch-size: found 1; expected at least 2 for VolumeFusion"):
        VolumeFusion.check_settings(*arguments)
    VolumeFusion.check_settings(*arguments, world=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"boxes": (0, 5)}, "boxes: found"),
        ({"boxes": (9, 5)}, "boxes: found"),
        ({"boxes": (10, 60)}, "from 1 to 52"),
        ({"levels": 0}, "levels: found 0"),
        ({"largest_edge": 1.5}, "--largest-edge: found 1.5"),
        ({"smallest_edge": 0}, "--smallest-edge: found 0"),
        ({"slots": -1}, "slots: found -1"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        VolumeFusion.check_settings(VolumeFusionOptions(**options), ENCODERS["resenc-smoke"], (16, 16, 16), 2)


def test_pictures() -> None:
    method, batch = fusion()
    shown = method.pictures(batch, 0, generator())["views"]
    assert {volumes.shape for volumes in shown.values()} == {(2, 1, 16, 16, 16)}
