"""Stock nnU-Net on a dataset that was planned here."""

from __future__ import annotations

import shutil

from mvp_bench.planning.plan import Planned
from mvp_bench.workspace import Workspace


def preprocess_with_stock_nnunet(workspace: Workspace, planned: Planned) -> None:
    """Put the plan where nnU-Net looks for it, and have nnU-Net preprocess the dataset by it."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    for name in ("plan.json", "dataset.json"):
        shutil.copy(planned.folder / name, workspace.plan(planned.card.dataset_name) / name)
    preprocessor = DefaultPreprocessor(verbose=False)
    preprocessor.show_progress_bar = False
    preprocessor.run(planned.card.dataset_name, "3d_fullres", "plan", num_processes=1)
