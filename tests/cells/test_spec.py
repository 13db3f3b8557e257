"""What a cell is: every field moves its key, and nothing impossible is taken."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mvp_bench.cells.spec import CellSpec
from mvp_bench.errors import InputError
from mvp_bench.identity import counted, key_of
from mvp_bench.workspace import Workspace

PED, ADNI = "Dataset501_BraTS2023-PED", "Dataset512_ADNI"

CHANGES: dict[str, Any] = {
    "task": "Dataset502_BraTS2023-MET",
    "kind": "classification",
    "source": "real",
    "method": "voco",
    "encoder": "resenc-l",
    "label_budget": 0.5,
    "stem": "repeat",
    "fold": 1,
    "seed": 1,
    "pretrain_seed": 3,
    "recipe": "another",
    "profile": "full",
    "regions": {"WT": [1], "TC": [2]},
    "classes": ["a", "b"],
    "metrics": ["dice"],
    "filled": "template",
    "tested": {"a": "p"},
    "n_train": 13,
    "n_val": 3,
    "n_test": 1,
    "settings": {"epochs": 4},
}
UNCHANGED = {"mode": "finetune", "schedule": "default"}
"""Fields with a single value so far."""


@pytest.mark.parametrize("field", sorted(CHANGES))
def test_every_field_moves_the_key(cells, field: str) -> None:
    spec = cells.spec(PED, "mae")
    changes = {field: CHANGES[field]}
    if field in ("tested", "n_test"):
        changes = {"tested": CHANGES["tested"], "n_test": 1}
    if field == "kind":
        changes["classes"] = ["a", "b"]
    coordinates = {"task": PED, "method": "mae"} | changes
    assert cells.spec(**coordinates).key != spec.key


@pytest.mark.parametrize("need", ["dataset", "splits", "plan", "arrays", "encoder"])
def test_every_need_moves_the_key_and_not_the_comparison(cells, need: str) -> None:
    spec, other = cells.spec(PED, "mae"), cells.spec(PED, "mae", needs={need: "other"})
    assert other.key != spec.key and other.comparison == spec.comparison


def test_every_field_is_looked_at() -> None:
    assert set(CellSpec.model_fields) == {*CHANGES, *UNCHANGED, "needs"}


def test_the_key_is_that_of_all_that_counts(cells) -> None:
    spec = cells.spec(PED, "mae", settings={"rates": [0.1, 2], "nested": {"on": True, "none": None}})
    content = counted(spec)
    assert spec.key == key_of("finetune", content, content.pop("needs"))


def test_order_of_regions_and_classes_counts(cells) -> None:
    """The order of classes is that of the network's outputs."""
    assert cells.spec(ADNI, "mae").key != cells.spec(ADNI, "mae", classes=["CN", "MCI", "AD"]).key


def test_the_comparison_is_of_the_settings_alone(cells) -> None:
    spec = cells.spec(PED, "mae")
    assert spec.comparison == cells.spec(PED, "scratch", seed=3, fold=1).comparison
    assert spec.comparison != cells.spec(PED, "mae", settings=spec.settings | {"precision": "bf16"}).comparison


def test_the_place_names_the_coordinates(cells) -> None:
    spec = cells.spec(PED, "imported:open.mind", seed=2, fold=1, label_budget=0.25)
    folder = spec.folder(Workspace(cells.workspace.root))
    expected = f"resenc-mini-reinit-labels0.25-fold1-seed2-{spec.key[:10]}"
    assert folder == cells.workspace.cells / PED / "imported-open.mind" / expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_test": 3}, "n_test"),
        ({"regions": {}}, "regions or classes"),
        ({"regions": {"mean": [1]}}, "mean over regions"),
        ({"label_budget": 0}, "label_budget"),
        ({"label_budget": 1.5}, "label_budget"),
        ({"unknown": 1}, "unknown"),
        ({"stem": "../x"}, "stem"),
        ({"encoder": "a/b"}, "encoder"),
        ({"encoder": ""}, "encoder"),
        ({"fold": -1}, "fold"),
    ],
)
def test_what_cannot_be_is_refused(cells, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        cells.spec(PED, "mae", **changes)


def test_two_classes_of_one_name_are_refused(cells) -> None:
    with pytest.raises(ValidationError, match="same name"):
        cells.spec(ADNI, "mae", classes=["AD", "AD"])


def test_the_first_metric_ranks(cells) -> None:
    assert cells.spec(PED, "mae").ranking_metric == "dice"
    assert cells.spec(ADNI, "mae").ranking_metric == "accuracy"
    assert cells.spec(ADNI, "mae", metrics=["auroc", "accuracy"]).ranking_metric == "auroc"
    with pytest.raises(InputError, match="hd96"):
        _ = cells.spec(PED, "mae", metrics=["hd96"]).ranking_metric


def test_seeds_of_any_size_are_seeds(cells) -> None:
    """They are refused when they are typed; a table must not crash where one got through."""
    for seed in (-1, 2**70):
        spec = cells.spec(PED, "mae", seed=seed)
        assert CellSpec.model_validate_json(spec.model_dump_json()) == spec
        assert f"seed{seed}" in spec.cell_id
