"""Swin UNETR's weights under the names that MONAI's and VoCo's files use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from monai.networks.nets.swin_unetr import SwinUNETR

from mvp_bench.errors import InputError
from mvp_bench.models.formats.importing import encoder_from_checkpoint, import_checkpoint
from mvp_bench.models.formats.swin import relative_positions
from mvp_bench.models.weights import load_pretrained
from mvp_bench.registry import ENCODERS
from tests.models.foreign import perturbed

SMOKE = ENCODERS["swinunetr-smoke"]


@pytest.fixture(scope="module")
def monai() -> SwinUNETR:
    torch.manual_seed(0)
    return perturbed(SwinUNETR(in_channels=1, out_channels=2, feature_size=12, depths=(1, 1, 1, 1))).eval()  # type: ignore[return-value]


def ssl(name: str) -> str:
    """MONAI's self-supervised file: DDP's prefix, fc1 and fc2."""
    return "module." + name.replace("linear1", "fc1").replace("linear2", "fc2")


def nested(name: str) -> str:
    """Stages as lists in lists (weights of disruptive auto-encoders)."""
    return "encoder." + name.replace(".0.blocks", ".0.0.blocks").replace(".0.downsample", ".0.0.downsample")


NAMES: dict[str, Callable[[str], str]] = {
    "monai_ssl": ssl,
    "voco": lambda name: "swinViT." + name,
    "voco_ssl": lambda name: "module.backbone.swinViT." + name,
    "old": lambda name: "swin_vit." + name,
    "nested": nested,
}


@pytest.mark.parametrize("kind", NAMES)
def test_every_dialect_is_read(tmp_path: Path, monai: SwinUNETR, kind: str) -> None:
    state = {NAMES[kind](n): t for n, t in monai.swinViT.state_dict().items() if "relative_position_index" not in n}
    state |= {"module.rotation_head.weight": torch.zeros(4, 4), "out.conv.conv.weight": torch.zeros(2, 12, 1, 1, 1)}
    torch.save({"epoch": 1, "state_dict": state}, tmp_path / "weights.pt")
    record = import_checkpoint(tmp_path / "weights.pt", tmp_path / "run")
    assert record.encoder == "swinunetr-smoke"
    found, _ = load_pretrained(tmp_path / "run")
    for name, tensor in monai.swinViT.state_dict().items():
        assert torch.equal(found[name], tensor), name
    assert record.origin is not None and {"spacing", "modalities"} <= set(record.origin.unknown)


def test_a_whole_segmentation_network(tmp_path: Path, monai: SwinUNETR) -> None:
    torch.save(monai.state_dict(), tmp_path / "model.pt")
    encoder, report = encoder_from_checkpoint(tmp_path / "model.pt")
    image = torch.randn(1, 1, 32, 32, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        theirs = monai.swinViT(image.permute(0, 1, 4, 3, 2))[-1].permute(0, 1, 4, 3, 2)
        assert torch.allclose(encoder.eval()(image)[-1], theirs, atol=1e-5)
    assert report.count("unused") == len(monai.state_dict()) - report.needed


def test_version_two_is_another_encoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = replace(SMOKE, convolutions=True)
    torch.save(spec.build(1).state_dict(), tmp_path / "v2.pt")
    with pytest.raises(InputError, match="the nearest, swinunetr-smoke"):
        import_checkpoint(tmp_path / "v2.pt", tmp_path / "run")
    with pytest.raises(InputError, match=r"unexpected \(e\.g\. layers1c"):
        encoder_from_checkpoint(tmp_path / "v2.pt", choices=_named("swinunetr-smoke"))


def _named(encoder: str):
    from mvp_bench.models.formats.importing import ImportChoices

    return ImportChoices(encoder=encoder)


def test_teacher_and_student(tmp_path: Path, monai: SwinUNETR) -> None:
    inner = monai.swinViT.state_dict()
    state = {f"backbone_teacher.swinViT.{n}": torch.zeros_like(t) for n, t in inner.items()}
    state |= {f"backbone.swinViT.{n}": t for n, t in inner.items()}
    torch.save({"state_dict": state}, tmp_path / "voco.pt")
    record = import_checkpoint(tmp_path / "voco.pt", tmp_path / "run")
    assert record.origin is not None and "of 2 networks" in record.origin.notes[0]
    assert torch.equal(
        load_pretrained(tmp_path / "run")[0]["patch_embed.proj.weight"], inner["patch_embed.proj.weight"]
    )


def test_computed_positions_are_monais(monai: SwinUNETR) -> None:
    buffer = monai.swinViT.state_dict()["layers1.0.blocks.0.attn.relative_position_index"]
    assert torch.equal(relative_positions(7), buffer)
