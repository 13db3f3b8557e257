"""The phantom cohort: synthetic releases with the folder layout and file names of the real ones.

Anatomy from the ICBM152 template, a new person by deformation, contrast by MR signal equations on five synthetic
scanners, pathology with ground truth. Everything follows from (seed, dataset, subject): not from the order of making,
nor from the number of processes.

    anatomy, head, landmarks, shapes   the average head: tissue fractions and regions
    deformation, spline, rng           from it to a person
    pathology/, variants               what a person has, sick or healthy
    tissue, signal, scanners           MR physics
    acquisition, artefacts             images as a scanner delivers them
    cohorts                            one recipe per dataset: all knobs of difficulty
    subject, scene, grids              one subject on its voxel grid
    releases/, release                 files and folders
"""

from __future__ import annotations

from pathlib import Path

from mvp_bench.config.groups import PhantomConfig
from mvp_bench.datasets.schema import Card

VERSION = 2
"""Version of the generator; raised whenever the same seed gives other voxels."""
MANIFEST = "PHANTOM.json"
"""At the top of a release; written last, so it means complete."""


def write_phantom_release(card: Card, destination: Path, config: PhantomConfig, seed: int, workers: int = 1) -> Path:
    """Write a synthetic release below ``destination``.

    A release that is already complete is left alone, an interrupted one continued, one of another seed, size or
    generator replaced.

    Args:
        card: dataset 501-506, 511-514 or 521-525.
        destination: folder in which the release's top folder is made.
        config: voxel size and number of patients.
        seed: fixes everything.
        workers: processes.

    Returns:
        The folder to point ``--source`` at.

    Raises:
        InputError: if files that are no phantom stand in the way.
        KeyError: if there is no phantom of this dataset.
    """
    from mvp_bench.datasets.phantom.release import write_release  # scipy and nibabel: only where they are needed

    return write_release(card, destination, config, seed, workers)


def phantom_patients(card: Card, config: PhantomConfig, seed: int = 0) -> list[str]:
    """Ids of the patients that :func:`write_phantom_release` would make, in order, without making them."""
    from mvp_bench.datasets.phantom.release import patient_names

    return patient_names(card, config, seed)


def patient_count(card: Card, config: PhantomConfig) -> int:
    """Number of patients of a dataset of this kind."""
    return {
        "segmentation": config.segmentation_patients,
        "classification": config.classification_patients,
        "pretraining": config.pretraining_patients,
    }[card.kind]
