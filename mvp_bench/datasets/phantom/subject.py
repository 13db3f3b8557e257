"""One synthetic subject: person, head, disease, scan."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from mvp_bench.datasets.phantom.acquisition import acquire
from mvp_bench.datasets.phantom.anatomy import load_atlas, resolution_for
from mvp_bench.datasets.phantom.cohorts import Cohort
from mvp_bench.datasets.phantom.deformation import random_head
from mvp_bench.datasets.phantom.grids import VoxelGrid
from mvp_bench.datasets.phantom.rng import stream
from mvp_bench.datasets.phantom.scanners import SCANNERS
from mvp_bench.datasets.phantom.scene import Scene, build_scene
from mvp_bench.datasets.phantom.spline import Array
from mvp_bench.datasets.phantom.variants import add_variants


@dataclass(frozen=True)
class Person:
    """What is known before the scan."""

    index: int
    age: float
    sex: str
    site: int
    class_name: str | None
    modalities: tuple[str, ...]

    @property
    def scanner(self) -> str:
        """Name of the site."""
        return SCANNERS[self.site].name


@dataclass
class Subject:
    """A finished subject; arrays are RAS on the whole grid."""

    person: Person
    grid: VoxelGrid
    images: dict[str, Array]
    labels: npt.NDArray[np.uint8] | None
    facts: dict[str, Any] = field(default_factory=dict)
    """Facts for PHANTOM.json: volumes and what else is true of the subject."""


def draw_person(cohort: Cohort, seed: int, index: int) -> Person:
    """Age, sex, site, class and which modalities were acquired. Classes alternate, so that they are balanced."""
    rng = stream(seed, cohort.dataset, index, "person")
    age = float(np.round(rng.uniform(*cohort.age), 1))
    sex = str(rng.choice(["F", "M"]))
    site = int(rng.choice(cohort.scanners))
    class_name = cohort.class_of(index)
    missing: set[str] = set()
    for group, probability in cohort.missing:
        if rng.uniform() < probability:
            missing |= set(group)
    modalities = tuple(m for m in cohort.modalities if m not in missing)
    return Person(index, age, sex, site, class_name, modalities)


def resolutions(spacing_mm: float) -> set[float]:
    """Edges in mm of the atlases that are needed (places of lesions are looked up at 2 mm)."""
    return {2.0, resolution_for(spacing_mm)}


def make_subject(cohort: Cohort, spacing_mm: float, seed: int, index: int) -> Subject:
    """Generate one subject.

    Args:
        cohort: the dataset's recipe.
        spacing_mm: configured voxel edge.
        seed: the user's seed.
        index: number of the subject in the dataset, from 0.
    """
    with threadpool_limits(limits=1):  # the bits of a matrix product may depend on the number of threads
        return _make_subject(cohort, spacing_mm, seed, index)


def _make_subject(cohort: Cohort, spacing_mm: float, seed: int, index: int) -> Subject:
    person = draw_person(cohort, seed, index)

    def rng(purpose: str) -> np.random.Generator:
        return stream(seed, cohort.dataset, index, purpose)

    plan = cohort.pathology.plan(rng("plan"), person.class_name)
    shape_rng, shape = rng("shape"), cohort.shape
    ageing = max(0.0, person.age - 30) / 40
    ventricle = shape_rng.normal(*shape.ventricle_mm) + cohort.ageing * 1.4 * ageing + plan.ventricle_mm
    sulci = shape_rng.normal(*shape.sulci) + cohort.ageing * 0.3 * ageing + plan.sulci
    stature = 1.0 - 0.08 * max(0.0, 1 - person.age / 8)
    head = random_head(shape_rng, shape, float(np.clip(ventricle, -2.5, 6.0)), plan.bumps, stature)
    head.mass = plan.mass_effect(head)

    rule = cohort.grids[int(rng("grid").integers(len(cohort.grids)))]
    grid = rule.grid(spacing_mm)
    atlas = load_atlas(resolution_for(spacing_mm))
    edge = float(rng("mask").uniform(*cohort.mask_edge))
    scene = build_scene(grid, head, atlas, cohort.mask, edge, person.age)
    add_variants(scene, cohort.variants, float(sulci), rng("variants"))
    cohort.pathology.paint(scene, head, plan, rng("lesion"))
    if cohort.tissue_labels:
        label_tissues(scene)

    scanner = SCANNERS[person.site]
    images = acquire(scene, list(person.modalities), scanner, cohort.acquisition, rng("scan"), rng("noise"))
    labels = scene.dense(np.where(scene.inside, scene.labels, 0).astype(np.uint8)) if cohort.has_labels else None
    facts: dict[str, Any] = {"age": person.age, "sex": person.sex, "scanner": scanner.name, "class": person.class_name}
    facts["modalities"] = list(person.modalities)
    facts["volumes_ml"] = {str(v): round(scene.volume_ml(v), 3) for v in cohort.label_values}
    facts["ventricles_ml"] = round(scene.amount_ml(scene.regions["ventricle"] * scene.of("csf")), 2)
    grey = scene.of("gm") + scene.of("deep")
    facts["medial_temporal_ml"] = round(scene.amount_ml(scene.regions["medial_temporal"] * grey), 3)
    facts["intracranial_ml"] = round(scene.amount_ml(scene.regions["strip"]), 1)
    facts.update(scene.notes)
    full = {modality: _whole(grid, scene.crop, image) for modality, image in images.items()}
    for modality in full:
        if modality in cohort.slabs:
            full[modality] = _cut_slab(grid, full[modality], cohort.slabs[modality])
    whole_labels = None if labels is None else _whole(grid, scene.crop, labels)
    return Subject(person, grid, full, whole_labels, facts)


def label_tissues(scene: Scene) -> None:
    """1 CSF, 2 grey and 3 white matter of the cerebrum; cerebellum, brainstem and what lies outside stay 0."""
    csf = scene.of("csf") + scene.of("choroid") + scene.of("vein") + scene.of("artery") + scene.of("dura")
    grey = scene.of("gm") + scene.of("deep") + scene.of("iron")
    white = scene.of("wm") + scene.of("wmh")
    stack = np.stack([csf, grey, white], axis=1)
    labels = 1 + np.argmax(stack, axis=1)
    inside = (stack.sum(axis=1) > 0.5) & (scene.regions["strip"] > 0.5) & (scene.regions["infratentorial"] < 0.5)
    scene.labels[:] = np.where(inside, labels, 0)


def _whole(grid: VoxelGrid, crop: tuple[slice, slice, slice], values: npt.NDArray) -> npt.NDArray:
    out = np.zeros(grid.shape, values.dtype)
    out[crop] = values
    return out


def _cut_slab(grid: VoxelGrid, image: Array, limits: tuple[float, float]) -> Array:
    """Zero outside an axial slab between two heights in mm."""
    z = grid.axes[2]
    keep = (z >= limits[0]) & (z <= limits[1])
    return image * keep[None, None, :]
