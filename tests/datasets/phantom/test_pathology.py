"""Lesions look like what they are, classes differ as intended, and intensity alone does not solve a task."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy.stats import norm
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import cross_val_score

from mvp_bench.datasets.phantom.cohorts import COHORTS
from mvp_bench.datasets.phantom.pathology.atrophy import MedialTemporalAtrophy, RegionalDifference
from mvp_bench.datasets.phantom.rng import stream
from mvp_bench.datasets.phantom.subject import Subject, make_subject

SPACING = 4.0


def _subjects(dataset: int, count: int, spacing: float = SPACING) -> list[Subject]:
    return [make_subject(COHORTS[dataset], spacing, 0, i) for i in range(count)]


def _z(image: np.ndarray) -> np.ndarray:
    values = image[image > 0]
    return np.where(image > 0, (image - values.mean()) / values.std(), -9)


def _best_threshold_dice(subjects: list[Subject], modality: str, values: tuple[int, ...]) -> float:
    """Dice of the one threshold that is best for all subjects together."""
    rows = []
    for subject in subjects:
        assert subject.labels is not None
        truth, image = np.isin(subject.labels, values), _z(subject.images[modality])
        found = [image > t for t in np.arange(0, 6, 0.25)]
        rows.append([2 * (f & truth).sum() / max(1, f.sum() + truth.sum()) for f in found])
    return float(np.mean(rows, axis=0).max())


@pytest.mark.parametrize(
    ("dataset", "modality", "values", "limit"),
    [
        (505, "t1c", (4,), 0.65),
        (502, "t1c", (3,), 0.55),
        (501, "flair", (1, 2, 3), 0.65),
        (503, "dwi", (1,), 0.65),
        (506, "t1c", (1,), 0.3),
    ],
)
def test_no_threshold_solves_it(dataset: int, modality: str, values: tuple[int, ...], limit: float) -> None:
    assert _best_threshold_dice(_subjects(dataset, 6), modality, values) < limit


def test_glioblastoma_has_a_rim_around_necrosis_inside_oedema() -> None:
    inside, brighter = [], []
    for subject in _subjects(505, 6):
        labels = subject.labels
        assert labels is not None
        t1c, flair = _z(subject.images["t1c"]), _z(subject.images["flair"])
        tissue = (labels == 0) & (t1c > -5)
        if (labels == 4).sum() > 10:
            assert t1c[labels == 4].mean() > t1c[tissue].mean() + 0.5
        brighter.append(flair[labels == 2].mean() - flair[tissue].mean())
        if (labels == 1).sum() > 10:
            shell = ndimage.binary_dilation(labels == 1) & (labels != 1)
            inside.append(np.mean(labels[shell] == 4))
    assert np.mean(inside) > 0.5 and np.mean(brighter) > 0.5 and min(brighter) > 0.2


def test_infarcts_are_bright_on_dwi_and_dark_on_adc_and_flair_comes_later() -> None:
    early, late = [], []
    for subject in _subjects(503, 14):
        where = subject.labels == 1
        if where.sum() < 15:
            continue
        brain = (subject.labels == 0) & (subject.images["dwi"] > 0)
        adc = subject.images["adc"]
        assert np.median(adc[where]) < np.median(adc[brain])
        assert _z(subject.images["dwi"])[where].mean() > 0.5
        change = _z(subject.images["flair"])[where].mean()
        (early if subject.facts["hours_since_onset"] < 6 else late).append(change)
    assert np.mean(late) > np.mean(early) + 0.3


def test_schwannomas_sit_at_one_cerebellopontine_angle() -> None:
    for subject in _subjects(506, 4):
        points = np.argwhere(subject.labels == 1)
        centre = np.array([a[i] for a, i in zip(subject.grid.axes, np.rint(points.mean(0)).astype(int), strict=True)])
        assert 8 < abs(centre[0]) < 38 and -55 < centre[1] < -12 and -60 < centre[2] < -22


def test_midline_gliomas_are_central_and_hardly_enhance() -> None:
    enhancing = total = 0
    for subject in _subjects(501, 8):
        labels = subject.labels
        assert labels is not None
        points = np.argwhere(labels > 0)
        x = subject.grid.axes[0][np.rint(points[:, 0].mean()).astype(int)]
        assert abs(x) < 30
        enhancing += (labels == 3).sum()
        total += np.isin(labels, (1, 3)).sum()
    assert 0 < enhancing < 0.5 * total


def test_metastases_are_one_to_eight() -> None:
    pathology = COHORTS[502].pathology
    counts = [len(pathology.plan(stream(0, 502, i, "plan"), None).lesions) for i in range(60)]  # type: ignore[attr-defined]
    assert min(counts) == 1 and max(counts) == 8


def test_tissue_labels_leave_cerebellum_and_brainstem_out() -> None:
    for subject in _subjects(504, 2):
        labels, axes = subject.labels, subject.grid.axes
        assert labels is not None and set(np.unique(labels)) == {0, 1, 2, 3}

        def at(x: float, y: float, z: float, labels=labels, axes=axes) -> int:  # type: ignore[no-untyped-def]
            return int(labels[tuple(int(np.argmin(abs(a - v))) for a, v in zip(axes, (x, y, z), strict=True))])

        assert at(20, -65, -42) == 0 and at(0, -27, -36) == 0
        volumes = subject.facts["volumes_ml"]
        assert volumes["2"] > volumes["1"] > 80 and volumes["3"] > 250


def test_high_grade_enhances_more_than_low_grade_but_does_not_decide() -> None:
    share: dict[str, list[float]] = {"HGG": [], "LGG": []}
    for subject in _subjects(511, 18):
        labels = subject.labels
        assert labels is not None and subject.person.class_name is not None
        core = np.isin(labels, (1, 4)).sum()
        share[subject.person.class_name].append(float((labels == 4).sum() / max(core, 1)))
    assert np.mean(share["HGG"]) > np.mean(share["LGG"]) + 0.15
    assert max(share["LGG"]) > min(share["HGG"])


def test_atrophy_widens_ventricles_and_shrinks_the_medial_temporal_lobe() -> None:
    rows = [
        (s.facts["ventricles_ml"], s.facts["medial_temporal_ml"], s.person.class_name) for s in _subjects(512, 40, 6.0)
    ]
    features = np.array([r[:2] for r in rows])
    sick = np.array([r[2] == "MCI" for r in rows])
    assert features[sick, 0].mean() > features[~sick, 0].mean() * 1.15
    assert features[sick, 1].mean() < features[~sick, 1].mean() * 0.93


def test_effect_sizes_are_as_designed() -> None:
    dementia = COHORTS[512].pathology
    assert isinstance(dementia, MedialTemporalAtrophy)
    assert 0.95 < norm.cdf(np.linalg.norm(dementia.shift) / 2) < 0.99
    for dataset in (513, 514):
        pathology = COHORTS[dataset].pathology
        assert isinstance(pathology, RegionalDifference)
        assert 0.95 <= norm.cdf(pathology.separation / 2) <= 0.99
        plans = [pathology.plan(stream(0, dataset, i, "plan"), COHORTS[dataset].class_of(i)) for i in range(400)]
        latents = np.array([p.latents for p in plans])
        classes = [p.class_name for p in plans]
        assert 0.92 < cross_val_score(LinearDiscriminantAnalysis(), latents, classes, cv=5).mean() < 1
