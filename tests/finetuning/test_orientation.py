"""All 48 orientations: what lies at a place in the scanner is found, labelled and exported at that place."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from mvp_bench.config.groups import CheckConfig, PreparationConfig
from mvp_bench.config.profiles import SMOKE
from mvp_bench.datasets.prepare import prepare_dataset
from mvp_bench.datasets.prepared import load_splits
from mvp_bench.datasets.schema import Card, Fold
from mvp_bench.parallel import Inline
from mvp_bench.planning.plan import case_files, plan_dataset
from mvp_bench.registry import ENCODERS
from mvp_bench.workspace import Workspace
from tests.tuning import fine_tune_job, scored

CODES = ["".join(code) for axes in permutations(("RL", "AP", "SI")) for code in product(*axes)]
SPACINGS = ((1.0, 1.25, 2.0), (1.0, 1.25, 2.0), (1.3, 1.0, 1.6))
"""mm along R, A, S; the third kind of case is resampled by the plan, to the spacing of the others."""
MARKERS = {1: (6, 17, 4), 2: (13, 8, 9)}
"""Label -> voxel (x, y, z) of the RAS grid at its middle: no symmetry maps one onto the other."""
SHAPE = (22, 26, 15)


def card() -> Card:
    texts = dict.fromkeys(("patient_rule", "licence", "access", "url", "citation"), "none")
    options = {
        "images": {"t1": r"(?P<patient>case\d\d)/t1"},
        "label": r"(?P<patient>case\d\d)/label",
        "label_map": {5: 2},
    }
    return Card.model_validate(
        {
            **texts, "id": 950, "name": "Orientations", "title": "marked voxels", "kind": "segmentation",
            "modalities": ["t1"], "labels": {"background": 0, "one": 1, "two": 2}, "regions": {"one": [1], "two": [2]},
            "split": {"scheme": "ratio", "ratio": (1, 0, 1)}, "converter": "generic", "converter_options": options,
        }
    )  # fmt: skip


def write_case(folder: Path, index: int) -> dict[int, np.ndarray]:
    """A case stored in its own orientation; returns label -> world position of the marker (RAS mm)."""
    spacing = SPACINGS[index % 3]
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-30 + index, 12.5, -40)
    image = np.full(SHAPE, 1.0, np.float32) + np.random.default_rng(index).uniform(0, 0.2, SHAPE).astype(np.float32)
    labels = np.zeros(SHAPE, np.uint8)
    for label, (x, y, z) in MARKERS.items():
        box = (slice(x - 1, x + 2), slice(y - 1, y + 2), slice(z - 1, z + 2))
        image[box], labels[box] = (20.0 if label == 1 else -18.0), label
    ornt = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(CODES[index]))
    for name, data in (("t1", image), ("label", np.where(labels == 2, 5, labels).astype(np.uint8))):
        stored = nib.Nifti1Image(nib.apply_orientation(data, ornt), affine @ inv_ornt_aff(ornt, SHAPE))
        stored.header.set_xyzt_units("mm", "sec")
        stored.set_qform(stored.affine, 1)
        folder.mkdir(parents=True, exist_ok=True)
        nib.save(stored, folder / f"{name}.nii.gz")
    return {label: affine[:3, :3] @ place + affine[:3, 3] for label, place in MARKERS.items()}


def by_intensity(predictor: nnUNetPredictor, data: torch.Tensor) -> torch.Tensor:
    """A perfect network: the first marker is bright, the second dark, half-way to the background is the border."""
    image = data[0].float()
    return torch.stack([torch.zeros_like(image), image - image.max() / 2, image.min() / 2 - image])


def test_a_marked_place_stays_where_it_is(workspace: Workspace, tmp_path: Path, monkeypatch) -> None:
    assert len(set(CODES)) == 48
    release = tmp_path / "release"
    places = {f"case{i:02d}": write_case(release / f"case{i:02d}", i) for i in range(48)}
    few_bright_voxels = PreparationConfig(
        check=CheckConfig(min_spread=0.01, max_outliers=0.05)
    )  # the markers, as no real image has them
    prepare_dataset(workspace, card(), source=release, preparation=few_bright_voxels)
    planned = plan_dataset(workspace, card(), ENCODERS["resenc-smoke"], SMOKE.planning, Inline())
    for case, expected in places.items():
        info = planned.store.info(case)
        seg = planned.store.read_seg(case, (0, 0, 0), info.shape)
        for label, world in expected.items():
            found = info.affine[:3, :3] @ centre(seg == label)[::-1] + info.affine[:3, 3]
            assert np.all(np.abs(found - world) <= 0.5 * np.diag(info.affine)[:3]), f"{case} {label}: preprocessed"

    monkeypatch.setattr(nnUNetPredictor, "predict_sliding_window_return_logits", by_intensity)
    folder = workspace.results / "cell"
    assert not load_splits(workspace, card()).folds[0].val
    files = case_files(workspace, card(), planned.block)
    config = replace(SMOKE.segmentation, epochs=1, iterations_per_epoch=1, validation_iterations=0)
    fold = Fold(train=sorted(places)[:2], val=[], test=sorted(places))
    job = fine_tune_job(planned, fold, config, folder, seed=0)
    table = scored(job, {case: str(files[case].images[0]) for case in places})
    assert table["dice"].min() > 0.7, "markers are found where their reference is"
    for index, (case, expected) in enumerate(places.items()):
        source = nib.load(release / case / "t1.nii.gz")
        predicted = nib.load(folder / "predictions" / f"{case}.nii.gz")
        assert "".join(nib.aff2axcodes(predicted.affine)) == CODES[index]
        np.testing.assert_array_equal(predicted.affine, source.affine)
        assert predicted.shape == source.shape
        for field in ("qform_code", "sform_code", "xyzt_units", "quatern_b", "qoffset_x", "srow_x", "pixdim"):
            np.testing.assert_array_equal(predicted.header[field], source.header[field])
        labels = np.asarray(predicted.dataobj)
        for label, world in expected.items():
            found = predicted.affine[:3, :3] @ centre(labels == label) + predicted.affine[:3, 3]
            distance = np.abs(np.linalg.inv(predicted.affine[:3, :3]) @ (found - world))
            assert np.all(distance <= 0.5), f"{case} {CODES[index]} {label}: exported {distance} voxels off"


def centre(mask: np.ndarray) -> np.ndarray:
    return np.argwhere(mask).mean(axis=0)
