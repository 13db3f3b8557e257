"""BrainMVP's released checkpoints: read by name, turned into our axes, templates with their place."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from mvp_bench.errors import InputError
from mvp_bench.models.formats import brainmvp
from mvp_bench.models.formats.importing import ImportChoices, encoder_from_checkpoint, import_checkpoint
from mvp_bench.models.formats.known import read_foreign
from mvp_bench.models.formats.match import FileReport, blank, compare
from mvp_bench.models.record import read_record
from mvp_bench.models.released import TEMPLATE_MODALITIES
from mvp_bench.models.templates import frame_of, load_templates, on_grid
from mvp_bench.models.weights import load_pretrained
from mvp_bench.registry import ENCODERS
from tests.models.test_released import NUMBERS, TOLERANCE, difference, filled, image

TEMPLATE_GRID = (12, 10, 8)
ENCODER_TENSORS = {"uniformer-s": 329, "unet3d": 80}


def checkpoint(path: Path, name: str, templates: bool = True, prefix: str = "module.") -> Path:
    """As released: weights by the rule of the parity numbers, below DDP's prefix."""
    state = {prefix + n: t for n, t in filled(name).state_dict().items()}
    if templates:
        generator = torch.Generator().manual_seed(2)
        state[f"{prefix}rep_template"] = 0.01 * torch.randn(8, *TEMPLATE_GRID, generator=generator)
    torch.save({"current_epoch": 1499, "state_dict": state, "optimizer": {"state": {}}, "val_best": 0.0}, path)
    return path


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both checkpoints."""
    folder = tmp_path_factory.mktemp("released")
    return {name: checkpoint(folder / f"BrainMVP_{name}.pt", name) for name in ENCODER_TENSORS}


def report_of(path: Path) -> FileReport:
    _, foreign = read_foreign(path)
    assert foreign.encoder is not None
    return compare(foreign, blank(ENCODERS[foreign.encoder]), foreign.encoder)


@pytest.mark.parametrize("name", ENCODER_TENSORS)
def test_every_tensor_of_the_encoder_is_read(released: dict[str, Path], name: str) -> None:
    report = report_of(released[name])
    assert (report.count("loaded"), report.needed) == (ENCODER_TENSORS[name],) * 2
    assert not report.faults
    total = NUMBERS[name]["tensors"] + 1  # with the templates
    assert len({line.file_name for line in report.lines}) == total, "the report lists the whole file"
    if name == "uniformer-s":
        assert total == 352
        assert ENCODERS[name].parameters == 22_038_464


@pytest.mark.parametrize("name", ENCODER_TENSORS)
@pytest.mark.parametrize("turned", [True, False])
def test_import_computes_the_released_features(released: dict[str, Path], name: str, turned: bool, monkeypatch) -> None:
    """The released numbers come out on our (z, y, x) arrays; without the turning of the axes they do not."""
    if not turned:
        monkeypatch.setattr(brainmvp, "turned", dict)
    encoder, _ = encoder_from_checkpoint(released[name])
    with torch.inference_mode():
        deepest = encoder.eval()(image().permute(0, 1, 4, 3, 2))[-1]
    # The released maps are (z, x, y) for the UniFormer, (x, y, z) for the U-Net.
    deepest = deepest.permute(*((0, 1, 2, 4, 3) if name == "uniformer-s" else (0, 1, 4, 3, 2)))
    expected = NUMBERS[name]["outputs"]["stage4"]
    sample = deepest.flatten().double()[expected["at"]]
    error = difference(sample, torch.tensor(expected["values"], dtype=torch.float64))
    assert error < TOLERANCE if turned else error > 100 * TOLERANCE


def test_import_makes_a_run_with_templates(released: dict[str, Path], tmp_path: Path) -> None:
    path = released["uniformer-s"]
    record = import_checkpoint(path, tmp_path / "run")
    assert read_record(tmp_path / "run") == record
    state, _ = load_pretrained(tmp_path / "run")
    assert len(state) == 329
    assert record.encoder == "uniformer-s" and record.intensity == "unit" and record.data == []
    assert record.origin is not None and "none stated" in record.origin.licence
    assert list(record.templates) == list(TEMPLATE_MODALITIES) and frame_of(record) == "world"

    raw = torch.load(path, weights_only=True)["state_dict"]["module.rep_template"]
    low, high = raw[2].min(), raw[2].max()
    stored = nib.load(tmp_path / "run" / record.templates["t1c"])
    assert stored.shape == TEMPLATE_GRID
    assert np.allclose(stored.get_fdata(), ((raw[2] - low) / (high - low)).numpy(), atol=1e-6)


def test_templates_lie_where_brats_images_do(released: dict[str, Path], tmp_path: Path) -> None:
    """A BraTS image of the template's size, read as RAS: template index == image index."""
    import_checkpoint(released["unet3d"], tmp_path / "run")
    templates = load_templates(tmp_path / "run", read_record(tmp_path / "run"))
    x, y, z = TEMPLATE_GRID
    header = np.array([[-1, 0, 0, 0], [0, -1, 0, y - 1], [0, 0, 1, 0], [0, 0, 0, 1.0]])  # as BraTS files have it
    ras = nib.as_closest_canonical(nib.Nifti1Image(np.zeros(TEMPLATE_GRID, np.float32), header))
    volume, inside = on_grid(templates["flair"], ras.affine, (z, y, x))
    assert inside.all() and np.allclose(volume, templates["flair"].volume, atol=1e-6)


def test_templates_of_another_shape_are_refused(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "official.pt", "unet3d")
    content = torch.load(path, weights_only=True)
    content["state_dict"]["module.rep_template"] = torch.zeros(4, 3, 3, 3)
    torch.save(content, path)
    with pytest.raises(InputError, match=r"rep_template.*\(4, 3, 3, 3\)"):
        import_checkpoint(path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_templates(tmp_path: Path) -> None:
    record = import_checkpoint(checkpoint(tmp_path / "o.pt", "unet3d", templates=False, prefix=""), tmp_path / "run")
    assert record.templates == {} and record.origin is not None
    assert "the file has no templates" in record.origin.notes


def test_fine_tuned_network(released: dict[str, Path], tmp_path: Path) -> None:
    """After the released fine-tuning names lack ``uniformer.`` and the stem has a kernel per modality."""
    state = torch.load(released["uniformer-s"], weights_only=True)["state_dict"]
    tuned = {n.removeprefix("module.").replace(".uniformer.", "."): t for n, t in state.items() if "rep_" not in n}
    kernel = torch.rand(64, 4, 2, 2, 2, generator=torch.Generator().manual_seed(1))
    torch.save({"state_dict": tuned | {"encoder.patch_embed1.proj.weight": kernel}}, tmp_path / "tuned.pt")
    names = ("t1", "t1c", "t2", "flair")
    encoder, report = encoder_from_checkpoint(
        tmp_path / "tuned.pt", 4, "by_modality", names[::-1], ImportChoices(modalities=names)
    )
    found = encoder.state_dict()["patch_embed1.proj.weight"]
    assert report.count("loaded") == 329
    assert torch.equal(found, kernel.transpose(-1, -2).flip(1))
