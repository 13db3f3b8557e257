"""From files to the audit: one scan in two datasets, under two ids, in two orientations and intensity scales."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from mvp_bench.config.groups import OverlapConfig
from mvp_bench.datasets.overlap.audit import audit
from mvp_bench.datasets.prepare import prepare_dataset
from mvp_bench.io import read_json
from mvp_bench.workspace import Workspace
from tests.datasets.releases import own_card
from tests.datasets.test_perceptual import oriented, scan, with_data


def test_a_twin_is_found_in_another_dataset(workspace: Workspace, tmp_path: Path) -> None:
    cards = []
    for number, first, twin_at in ((711, 0, None), (712, 4, 2)):
        rows = ["patient,modality,path"]
        for index in range(3):
            item = scan(512, first + index, "t1", 5.0)
            if index == twin_at:
                item = oriented(scan(512, 1, "t1", 5.0), "SRA")
                item = with_data(item, (item.data.astype(np.float32) * 0.02).astype(np.float32))
            path = tmp_path / str(number) / f"{index}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(item.data, item.grid.affine), path)
            rows.append(f"{index + 1:02d},t1,{path.name}")
        (path.parent / "scans.csv").write_text("\n".join(rows))
        cards.append(own_card("table", "pretraining", "t1").model_copy(update={"id": number, "name": f"Own{number}"}))
        prepare_dataset(workspace, cards[-1], source=path.parent)
    found = audit(workspace, cards, OverlapConfig())
    one, two = (card.dataset_name for card in cards)
    assert found.patients_in(two, of=one) == {"02"} and found.patients_in(one, of=two) == {"03"}
    (shared,) = found.shared(one, two)
    assert shared.evidence == "image" and set(shared.patients) == {(one, "02"), (two, "03")}
    assert found.table() == {one: {one: 3, two: 1}, two: {one: 1, two: 3}}
    assert read_json(workspace.datasets / ".overlap_cache.json")
