"""What a pre-training run has learned: losses beside their trivial values, templates, and a linear probe.

``python tests/benchmarks/learning.py RUN --root DIR [--random 5] [--folds 5]``

RUN is a finished run (results/pretraining/NAME below DIR). Printed are

- each loss over the last tenth of the log, as part of what its trivial solution gets;
- each template's correlation with the mean image of its modality over the training cases, laid over one another as the
  templates are, in voxels that are brain in at least half of the cases;
- for every prepared classification task, at the run's spacing, the accuracy of a logistic regression on features of the
  frozen encoder, beside that of encoders with fresh weights. Every case is predicted once, by a fit on other folds; the
  interval is a paired bootstrap over cases of the difference between the run's hits and the mean hits of the fresh
  encoders. Features are those of fine-tuning (means over boxes, and the maximum, of the deepest map), of each modality
  by itself.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import bootstrap
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mvp_bench.config.groups import ClassificationConfig
from mvp_bench.config.profiles import PROFILES
from mvp_bench.datasets.catalog import load_cards
from mvp_bench.datasets.prepared import is_prepared
from mvp_bench.models.encoders.base import EncoderSpec
from mvp_bench.models.heads import regional_pooling
from mvp_bench.models.record import EncoderRecord
from mvp_bench.models.templates import frame_of, load_templates, on_grid
from mvp_bench.models.weights import initialise_encoder, load_pretrained
from mvp_bench.parallel import worker_pool
from mvp_bench.planning.plan import plan_dataset, preprocess_for_pretraining
from mvp_bench.planning.store import INDEX, CaseStore
from mvp_bench.pretraining.training_log import LOG_FILE
from mvp_bench.registry import ENCODERS
from mvp_bench.workspace import Workspace

SEED = 0
STRENGTH = 0.01
"""Inverse weight of the probe's L2 penalty: there are more features than cases."""


def losses(run: Path) -> Iterator[str]:
    """Each loss, its trivial value, and their ratio."""
    rows = pd.read_csv(run / LOG_FILE)
    last = rows.tail(math.ceil(len(rows) / 10)).mean()
    for name in rows.columns:
        if f"{name}_trivial" in rows:
            value, trivial = last[name], last[f"{name}_trivial"]
            yield f"{name}: {value:.3f} of {trivial:.3f} = {value / trivial:.2f}"


def store_of(workspace: Workspace, dataset: str, spacing: tuple[float, ...]) -> CaseStore | None:
    """The dataset's preprocessed cases at a spacing in mm; ``None`` if there are none."""
    for index in sorted((workspace.plans / dataset).glob(f"*/{INDEX}")):
        store = CaseStore(index.parents[len(INDEX.parts) - 1])
        if np.allclose(store.spacing, spacing, atol=0.01):
            return store
    return None


def templates(workspace: Workspace, run: Path, record: EncoderRecord) -> Iterator[str]:
    """Each template's correlation with the mean image."""
    stores = {data.dataset: store_of(workspace, data.dataset, record.spacing) for data in record.data}
    cases = [(store, case) for data in record.data if (store := stores[data.dataset]) for case in data.cases]
    for modality, template in load_templates(run, record).items():
        size = 1 + 2 * (max(max(store.info(case).shape) for store, case in cases) // 2)
        total, seen, number = np.zeros((size,) * 3), np.zeros((size,) * 3), 0
        for store, case in cases:
            info = store.info(case)
            if modality not in info.present:
                continue
            first = [math.floor((length - size) / 2) for length in info.shape]
            image = store.read(case, [store.modalities.index(modality)], (first[0], first[1], first[2]), (size,) * 3)
            total, seen, number = total + image[0], seen + (image[0] != 0), number + 1
        grid = np.diag([*record.spacing[::-1], 1.0])
        laid, _ = on_grid(template, grid, (size,) * 3, "centre")
        brain = seen >= number / 2
        found = np.corrcoef(laid[brain], (total / number)[brain])[0, 1]
        yield f"template {modality}: correlation {found:.2f} with the mean of {number} cases"


@torch.no_grad()
def features(encoder: torch.nn.Module, spec: EncoderSpec, store: CaseStore, cases: list[str]) -> np.ndarray:
    """(cases, modalities x features) of the frozen encoder; whole images, padded to multiples of its stride."""
    encoder.eval()
    found = []
    for case in cases:
        shape = store.info(case).shape
        size = [spec.stride * max(2, math.ceil(length / spec.stride)) for length in shape]
        start = [-((whole - length) // 2) for whole, length in zip(size, shape, strict=True)]
        images = store.read(case, range(len(store.modalities)), (start[0], start[1], start[2]), (*size,))
        maps = encoder(torch.from_numpy(images)[:, None])
        found.append(regional_pooling(maps, ClassificationConfig.pooling_grid).flatten().numpy())
    return np.stack(found)


def hits(values: np.ndarray, classes: np.ndarray, folds: int) -> np.ndarray:
    """Whether each case was classified rightly by a fit on the other folds."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=1000))
    split = StratifiedKFold(folds, shuffle=True, random_state=SEED)
    return (cross_val_predict(probe, values, classes, cv=split) == classes).astype(float)


def probes(workspace: Workspace, run: Path, fresh: int, folds: int) -> Iterator[str]:
    """Accuracy of the probe on every task."""
    state, record = load_pretrained(run)
    spec = ENCODERS[record.encoder]
    trained = spec.build(1)
    initialise_encoder(trained, state, "repeat", 1)
    others = []
    for seed in range(fresh):
        torch.manual_seed(seed)
        others.append(spec.build(1))
    for card in load_cards(workspace.root).values():
        if card.kind != "classification" or not is_prepared(workspace, card):
            continue
        with worker_pool(1) as pool:
            planned = plan_dataset(workspace, card, spec, PROFILES[record.profile].planning, pool)
            store = preprocess_for_pretraining(workspace, planned, record.spacing, pool)
        cases = [case for case in store.cases if store.info(case).class_name]
        classes = np.array([store.info(case).class_name for case in cases])
        own = hits(features(trained, spec, store, cases), classes, folds)
        fresh_hits = [hits(features(other, spec, store, cases), classes, folds) for other in others]
        gain = own - np.mean(fresh_hits, axis=0)
        low, high = bootstrap((gain,), np.mean, method="percentile", random_state=SEED).confidence_interval
        spread = ", ".join(f"{each.mean():.3f}" for each in fresh_hits)
        yield (
            f"probe {card.dataset_name}: {own.mean():.3f}, fresh encoders {np.mean(fresh_hits):.3f} ({spread}); "
            f"difference {gain.mean():+.3f} [{low:+.3f}, {high:+.3f}] on {len(cases)} cases"
        )


def main() -> None:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished pre-training run")
    parser.add_argument("--root", type=Path, default=Path(), help="workspace")
    parser.add_argument("--random", type=int, default=5, help="encoders with fresh weights to compare with")
    parser.add_argument("--folds", type=int, default=5, help="of the probe")
    given = parser.parse_args()
    workspace = Workspace(given.root).open()
    _, record = load_pretrained(given.run)
    for line in losses(given.run):
        print(line, flush=True)
    if record.templates and frame_of(record) == "centre":
        for line in templates(workspace, given.run, record):
            print(line, flush=True)
    for line in probes(workspace, given.run, given.random, given.folds):
        print(line, flush=True)


if __name__ == "__main__":
    main()
