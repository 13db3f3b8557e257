"""M3AE's masks, its learnable image, and cases that lack modalities."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from mvp_bench.errors import InputError
from mvp_bench.pretraining import masking
from mvp_bench.pretraining.methods.m3ae import M3ae, M3aeDraws, M3aeOptions, image_norm, kept_tokens
from mvp_bench.pretraining.parts.modalities import distinct, slot_error
from mvp_bench.pretraining.sampling import PatchSampler, Shard
from mvp_bench.registry import ENCODERS
from tests.pretraining.conftest import MODALITIES, build, generator, overfitted
from tests.pretraining.fake_store import FakeStore, brains

RESENC = ENCODERS["resenc-smoke"]


def make(store: FakeStore | None = None, options: M3aeOptions | None = None, **more: int) -> tuple[M3ae, PatchSampler]:
    method, sampler = build("m3ae", store or brains(3, MODALITIES), options, **more)
    assert isinstance(method, M3ae)
    return method, sampler


def one_lacks() -> FakeStore:
    """Two cases; the first has two of three modalities."""
    store = brains(2, MODALITIES)
    store._present = {"case00": ("t1", "flair")}
    return store


def drawn(cases: int, slots: int, blocks: int, seed: int = 0) -> M3aeDraws:
    random = generator(seed)
    sizes = ((cases,), (cases, slots), (cases, slots, blocks))
    return M3aeDraws(*(torch.rand(size, generator=random) for size in sizes))


def test_exactly_1792_of_2048_tokens_are_masked() -> None:
    assert masking.kept_blocks(4 * 512, 0.875) == 256
    kept = kept_tokens(drawn(40, 4, 512), torch.ones(40, 4, dtype=torch.bool), torch.full((40,), 256), 3)
    assert ((~kept).sum(dim=(1, 2)) == 1792).all()


def test_dropped_modalities_are_uniform_in_number_and_kind() -> None:
    cases = 3000
    kept = kept_tokens(drawn(cases, 4, 64), torch.ones(cases, 4, dtype=torch.bool), torch.full((cases,), 32), 3)
    dropped = ~kept.any(dim=2)
    shares = dropped.sum(dim=1).bincount(minlength=5) / cases
    assert shares[4] == 0 and (shares[:4] - 0.25).abs().max() < 0.025
    assert (dropped.float().mean(dim=0) - 1.5 / 4).abs().max() < 0.03
    by_place = kept[dropped.sum(dim=1) == 0].float().mean(dim=0)
    assert (by_place - 32 / 256).abs().max() < 0.06


@pytest.mark.parametrize("present", [[1, 0, 0, 0], [0, 1, 1, 0], [1, 0, 1, 1]])
def test_absent_modalities_have_no_tokens_and_one_is_always_left(present: list[int]) -> None:
    there = torch.tensor(present, dtype=torch.bool).expand(900, 4)
    number = sum(present)
    kept = kept_tokens(drawn(900, 4, 64), there, torch.full((900,), number * 8), 3)
    assert not kept[~there].any() and (kept.sum(dim=(1, 2)) == number * 8).all()
    dropped = (~kept.any(dim=2) & there).sum(dim=1).bincount(minlength=4) / 900
    assert dropped[number:].sum() == 0 and (dropped[:number] - 1 / number).abs().max() < 0.06


def test_number_of_masked_tokens_follows_the_case() -> None:
    method, sampler = make(one_lacks())
    batch = sampler[0]
    assert method.grid == (4, 4, 4)
    number = distinct(batch.modality).sum(dim=1)
    assert sorted(number.tolist()) == [2, 3]
    kept = method.draw(batch, generator())
    assert kept.sum(dim=(1, 2, 3, 4)).tolist() == (number * 64 // 8).tolist()


def test_views_are_the_image_or_the_learnable_image_at_the_same_place() -> None:
    method, sampler = make()
    batch = sampler[0]
    tokens = method.draw(batch, generator())
    views = method.views(batch, tokens).unflatten(0, (2, 3))[:, :, 0]
    kept = masking.to_voxels(tokens.flatten(0, 1), (16, 16, 16), method.block).view(views.shape)
    assert torch.equal(views[kept], batch.images[kept])
    learned = method.images.volumes.detach()
    for i in range(2):
        z, y, x = first_voxel(method, batch.centre_offset[i])
        for k in range(3):
            window = learned[batch.modality[i, k], z : z + 16, y : y + 16, x : x + 16]
            assert torch.equal(views[i, k][~kept[i, k]], window[~kept[i, k]])


def first_voxel(method: M3ae, offset: torch.Tensor) -> list[int]:
    """Of a patch, in the learnable image (spacing 2 mm)."""
    return [round(float(v)) for v in offset / 2.0 + (torch.tensor(method.images.grid.shape) - 1) / 2]


def test_gradient_of_the_learnable_image_is_at_masked_voxels_alone() -> None:
    method, sampler = make(one_lacks())
    batch = sampler[0]
    tokens = method.draw(batch, generator())
    present = distinct(batch.modality)
    kept = masking.to_voxels(tokens.flatten(0, 1), (16, 16, 16), method.block).view(batch.images.shape)
    reached = torch.zeros_like(method.images.volumes, dtype=torch.bool)
    for i, k in present.nonzero().tolist():
        z, y, x = first_voxel(method, batch.centre_offset[i])
        reached[batch.modality[i, k], z : z + 16, y : y + 16, x : x + 16] |= ~kept[i, k]
    terms = method.losses(batch, 0, generator())
    (gradient,) = torch.autograd.grad(terms["reconstruction"].value, method.images.volumes)
    assert torch.equal(gradient != 0, reached)
    (rest,) = torch.autograd.grad(terms["image"].value * terms["image"].weight, method.images.volumes)
    centred = method.images.volumes.detach()
    centred = centred - centred.mean(dim=(1, 2, 3), keepdim=True)
    assert torch.allclose(rest, 0.005 * centred / centred.norm(), atol=1e-8)


def test_regulariser() -> None:
    volumes = torch.randn(3, 6, 7, 8, generator=generator())
    slow = sum((v - v.mean()).__pow__(2).sum() for v in volumes.double().numpy()) ** 0.5
    assert image_norm(volumes).item() == pytest.approx(slow, rel=1e-6)
    channels = torch.tensor([3.7, -1.1, 0.2]).view(3, 1, 1, 1)
    assert image_norm(volumes + channels).item() == pytest.approx(slow, rel=1e-5)
    assert image_norm(volumes + torch.arange(8.0)).item() != pytest.approx(slow, rel=1e-2)
    constant = channels.expand(3, 6, 7, 8).clone().requires_grad_()
    norm = image_norm(constant)
    norm.backward()
    assert norm < 1e-4 and constant.grad is not None and constant.grad.isfinite().all()


def test_logged_as_a_standard_deviation_weighted_as_published() -> None:
    method, sampler = make()
    term = method.losses(sampler[0], 0, generator())["image"]
    assert term.value.item() == pytest.approx(1.0, abs=0.02) and term.trivial == 1.0
    whole = 0.005 * image_norm(method.images.volumes)
    assert term.weight * term.value.item() == pytest.approx(whole.item(), rel=1e-5)


def test_repeated_images_do_not_count() -> None:
    method, sampler = make(one_lacks())
    batch = sampler[0]
    present = distinct(batch.modality)
    before = method.losses(batch, 0, generator())["reconstruction"]
    batch.images[~present] = 50.0
    after = method.losses(batch, 0, generator())["reconstruction"]
    assert torch.equal(before.value, after.value) and torch.equal(
        torch.as_tensor(before.trivial), torch.as_tensor(after.trivial)
    )


def test_order_of_the_batch_does_not_matter() -> None:
    method, sampler = make(brains(4, MODALITIES), batch=4)
    batch, order = sampler[0], [2, 0, 3, 1]
    tokens = method.draw(batch, generator())
    values = [
        slot_error(method.rebuild(b, method.views(b, t)), b.images, distinct(b.modality)).item()
        for b, t in ((batch, tokens), (batch.select(order), tokens[order]))
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_draws_of_a_step_are_shared_out() -> None:
    method, sampler = make(brains(4, MODALITIES), batch=4)
    batch = sampler[0]
    whole = method.draw(batch, generator())
    parts = [replace(batch.select([2 * r, 2 * r + 1]), shard=Shard(r, 2)) for r in range(2)]
    assert torch.equal(torch.cat([method.draw(part, generator()) for part in parts]), whole)


def test_information_crosses_modalities_within_a_case_alone() -> None:
    method, sampler = make()
    batch = sampler[0]
    tokens = torch.zeros(2, 3, *method.grid, dtype=torch.bool)
    tokens[:, 0] = True
    before = method.rebuild(batch, method.views(batch, tokens))
    batch.images[0, 0] += torch.randn(16, 16, 16, generator=generator())
    after = method.rebuild(batch, method.views(batch, tokens))
    assert all((before[0, k] - after[0, k]).abs().max() > 1e-3 for k in range(3))
    assert torch.allclose(before[1], after[1], atol=1e-6)


def test_a_case_with_one_modality_is_a_plain_auto_encoders() -> None:
    store = brains(2, MODALITIES)
    store._present = {"case00": ("t2",)}
    method, sampler = make(store)
    batch = sampler[0]
    lone = batch.cases.index("Dataset521_Fake/case00")
    for seed in range(5):
        kept = method.draw(batch, generator(seed))[lone]
        assert kept[0].sum() == 8 and not kept[1:].any()
    assert method.losses(batch, 0, generator())["reconstruction"].value.isfinite()


@pytest.mark.parametrize("align", ["centre", "world"])
def test_the_learnable_image_reaches_every_voxel_of_every_case(align: str) -> None:
    store = brains(2, MODALITIES)
    store._origins = {"case00": (-20.0, -30.0, 5.0), "case01": (-16.0, -34.0, 9.0)}
    method, sampler = make(store, M3aeOptions(align=align))  # type: ignore[arg-type]
    with torch.no_grad():
        method.images.volumes.fill_(77.0)
    hidden = torch.zeros(2, 3, *method.grid, dtype=torch.bool)
    for step in range(4):
        assert (method.views(sampler[step], hidden) == 77.0).all()


def test_the_learnable_image_has_its_own_rate_and_is_kept(tmp_path: Path) -> None:
    method, _ = make()
    networks, image = method.parameter_groups(3e-4, 0.1)
    assert image["lr"] == pytest.approx(0.005) and image["weight_decay"] == 0.0 and networks["lr"] == 3e-4
    assert image["params"] == [method.images.volumes]
    assert len(networks["params"]) + 1 == len(list(method.parameters()))
    assert method.images.volumes.std().item() == pytest.approx(1.0, abs=0.02)
    files = method.save_templates(tmp_path)
    assert set(files) == set(MODALITIES)
    number = list(method.context.modalities).index("t2")
    saved = np.asarray(nib.load(tmp_path / files["t2"]).dataobj).transpose(2, 1, 0)  # type: ignore[attr-defined]
    assert np.array_equal(saved, method.images.volumes[number].detach().numpy())


def test_two_volumes_are_overfitted() -> None:
    method, sampler = make(brains(2, ["t1", "t2"], variation=1.0))
    fractions = overfitted(method, sampler[0], steps=70)
    assert fractions["reconstruction"] < 0.35 and fractions["image"] < 0.2, fractions


def test_pictures() -> None:
    method, sampler = make()
    shown = method.pictures(sampler[0], 0, generator())
    assert {tuple(v.flatten(0, -4).shape) for v in shown["views"].values()} == {(6, 16, 16, 16)}
    assert set(shown["learned"]) == set(MODALITIES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slots": 1}, "slots: found 1"),
        ({"mask_ratio": 0.5}, "--mask-ratio: found 0.5 with up to 3 modalities dropped; expected at least 0.75"),
        ({"mask_ratio": 1.0}, "--mask-ratio: found 1.0"),
        ({"most_dropped": -1}, "--most-dropped: found -1"),
        ({"block": 0}, "block: found 0"),
        ({"mask_ratio": 0.99}, "none of a case with one modality stays visible"),
        ({"intensity": "raw"}, "--intensity: found 'raw'"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, float], message: str) -> None:
    options = M3aeOptions(**{**asdict(M3aeOptions()), **change})
    with pytest.raises(InputError, match=message):
        M3ae.check_settings(options, RESENC, (16, 16, 16), 2)
    M3ae.check_settings(M3aeOptions(mask_ratio=0.5, most_dropped=1), RESENC, (16, 16, 16), 1)


def test_data_without_two_modalities_in_any_case_are_refused() -> None:
    with pytest.raises(InputError, match="no case with two modalities"):
        make(brains(2, ["t1"]))
    store = brains(2, ["t1", "t2"])
    store._present = {"case00": ("t1",), "case01": ("t2",)}
    with pytest.raises(InputError, match="no case with two modalities"):
        make(store)
