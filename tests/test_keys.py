"""Whatever can change a number changes the key of every node below it: each field of card, cases, splits, plan and
configuration is changed in turn, or bears the mark that says why it does not count."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from mvp_bench.benchmark.grid import Task, Weights, cell_of
from mvp_bench.config.groups import ClassificationConfig, PlanningConfig, PretrainConfig, RuntimeConfig
from mvp_bench.config.marks import DECIDED, LATER, REASONS
from mvp_bench.config.profiles import SMOKE
from mvp_bench.config.verbs import BenchmarkConfig
from mvp_bench.datasets.prepared import card_facts, dataset_key, splits_key
from mvp_bench.datasets.schema import Card, Case, DatasetBlock, Fold, Splits
from mvp_bench.identity import outside
from mvp_bench.planning.plan import Planned, arrays_key, plan_key
from mvp_bench.pretraining.job import PretrainJob
from mvp_bench.pretraining.source import PretrainSource
from mvp_bench.registry import ENCODERS, METHODS
from mvp_bench.workspace import Workspace
from tests.toy import toy_card

Nodes = dict[str, str]
BELOW = {
    "dataset": {"dataset", "splits", "plan", "arrays", "encoder", "cell"},
    "splits": {"splits", "cell"},
    "plan": {"plan", "cell"},
    "arrays": {"arrays", "encoder", "cell"},
    "encoder": {"encoder", "cell"},
    "cell": {"cell"},
}
"""Node -> the nodes that are made from it, and itself."""


@dataclass(frozen=True)
class Inputs:
    """All that a cell comes from."""

    card: Card
    block: DatasetBlock
    splits: Splits
    planning: PlanningConfig
    configuration: dict[str, Any]
    encoder: str
    pretrain: PretrainConfig
    options: Any
    runtime: RuntimeConfig
    config: BenchmarkConfig
    excluded: frozenset[str] = frozenset()
    seed: int = 0
    profile: str = "smoke"


def inputs(kind: str = "segmentation", method: str = "mae") -> Inputs:
    card = toy_card(kind)
    names = [f"case{i}" for i in range(4)]
    case = {"session": "1", "site": "a", "images": {"t1": "t1.nii.gz", "flair": "fl.nii.gz"}, "label": "seg.nii.gz"}
    cases = {n: Case.model_validate({**case, "patient": n, "class": (card.classes or [None])[0]}) for n in names}
    block = DatasetBlock(
        card_id=card.id, card_name=card.name, kind=card.kind, source="phantom", release="r", modalities=card.modalities,
        labels=card.labels, regions=card.regions, classes=card.classes, card=card_facts(card), cases=cases,
        data_hash="voxels", phantom="phantom", code_version="test",
    )  # fmt: skip
    fold = Fold(train=names[:2], val=names[2:3], test=names[3:], order=names[:2])
    splits = Splits(scheme="ratio", seed=0, stratify="none", patients={n: n for n in names}, folds=[fold])
    configuration = {
        "spacing": [1.0, 1.0, 1.0], "normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [True],
        "resampling_fn_data": "f", "patch_size": [16, 16, 16], "batch_size": 2,
    }  # fmt: skip
    config = BenchmarkConfig(
        segmentation=SMOKE.segmentation, classification=SMOKE.classification, encoder="resenc-smoke"
    )
    options = METHODS[method].Options()
    pretrain = replace(SMOKE.pretrain, method=method)
    return Inputs(
        card, block, splits, SMOKE.planning, configuration, "resenc-smoke", pretrain, options, SMOKE.runtime, config
    )


def nodes(x: Inputs) -> Nodes:
    """The key of every node."""
    facts = {"regions": x.card.regions, "classes": x.card.classes, "labels": x.card.labels, "kind": x.card.kind}
    block = x.block.model_copy(update={"modalities": x.card.modalities, "card": card_facts(x.card), **facts})
    block = block.model_copy(update={"key": dataset_key(block)})
    splits = x.splits.model_copy(update={"key": splits_key(x.splits, block.key)})
    topology = ENCODERS[x.encoder]
    arrays = arrays_key(block, x.configuration)
    plan = {"configurations": {"3d_fullres": x.configuration}}
    plan["mvp_bench"] = {"key": plan_key(block, topology, x.planning), "arrays": arrays}
    planned = Planned(x.card, block, plan, {}, Path("plan"), Path("arrays"))
    source = PretrainSource("D", None, block.source, x.excluded, data_hash=arrays)  # type: ignore[arg-type]
    job = PretrainJob(Path(), (source,), x.pretrain, x.options, x.encoder, x.runtime, x.seed, x.profile)
    task = Task(planned, 0, splits.folds[0], splits.key)
    config = replace(x.config, encoder=x.encoder, runtime=x.runtime, profile=x.profile)  # type: ignore[arg-type]
    cell = cell_of(Workspace(Path()), task, "mae", Weights(job=job, folder=Path()), config, x.seed)
    return {
        "dataset": block.key, "splits": splits.key, "plan": planned.key, "arrays": arrays, "encoder": job.key,
        "cell": cell.key,
    }  # fmt: skip


def changed_nodes(before: Inputs, after: Inputs) -> set[str]:
    first, second = nodes(before), nodes(after)
    return {name for name in first if first[name] != second[name]}


def other(value: Any) -> Any:
    """A value unlike this one, of the same kind where there is one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, (tuple, list)):
        return type(value)([*value, other(value[-1])]) if value else type(value)(["x"])
    if isinstance(value, (set, frozenset)):
        return type(value)([*value, "x"])
    if isinstance(value, dict):
        return {**value, "x": next(iter(value.values()), 1)}
    return 1 if value is None else None


Field = tuple[str, Any, Callable[[], Any]]
"""Name, mark (None: it counts), and the thing with the field changed."""


def fields_of(thing: Any) -> Iterator[Field]:
    """Every field of a dataclass or model, nested ones inside."""
    hints = typing.get_type_hints(type(thing), include_extras=True)
    names = (
        list(type(thing).model_fields) if isinstance(thing, BaseModel) else [f.name for f in dataclasses.fields(thing)]
    )
    for name in names:
        value, mark = getattr(thing, name), outside(hints[name])
        if mark is None and (dataclasses.is_dataclass(value) or isinstance(value, BaseModel)):
            for inner, inner_mark, make in fields_of(value):
                yield f"{name}.{inner}", inner_mark, lambda name=name, make=make: with_field(thing, name, make())
        else:
            yield name, mark, lambda name=name, value=value: with_field(thing, name, other(value))


def with_field(thing: Any, name: str, value: Any) -> Any:
    """A copy of a dataclass or model with one field changed, unchecked."""
    if isinstance(thing, BaseModel):
        return thing.model_copy(update={name: value})
    return replace(thing, **{name: value})


COUNTED: dict[str, int] = {}
MARKED: dict[str, str] = {}


def check(base: Inputs, part: str, node: str, apart: dict[str, set[str]] | None = None) -> None:
    """Change each field of a part; a marked one must change nothing, any other all below ``node``.

    Args:
        apart: fields that enter further down -> the nodes that change.
    """
    for name, mark, make in fields_of(getattr(base, part)):
        found = changed_nodes(base, replace(base, **{part: make()}))
        expected = set() if mark is not None else (apart or {}).get(name, BELOW[node])
        if mark is not None:
            MARKED[f"{part}.{name}"] = mark.reason
        assert found == expected, f"{part}.{name}: {sorted(found)} changed, not {sorted(expected)}"
        COUNTED[f"{part}.{name}"] = COUNTED.get(f"{part}.{name}", 0) + 1


def test_cards(capsys: pytest.CaptureFixture) -> None:
    base = inputs()
    decided = {"split", "converter", "converter_options"}
    for name, mark, make in fields_of(base.card):
        card = (
            base.card.model_copy(update={"kind": "classification", "classes": ["a", "b"]}) if name == "kind" else make()
        )
        found = changed_nodes(base, replace(base, card=card))
        if name == "metrics":
            assert mark == LATER and found == {"cell"}, "what ranks is part of a result, not of the data"
        else:
            assert found == (set() if mark is not None else BELOW["dataset"]), name
        if name in decided:
            assert mark == DECIDED, "its outcome is in the cases and the splits; a change is noticed by preparation"
        COUNTED[f"card.{name}"] = 1
        if mark is not None:
            MARKED[f"card.{name}"] = mark.reason


def test_cases_and_voxels() -> None:
    base = inputs()
    for name, value in (("data_hash", "other"), ("phantom", "other"), ("source", "real")):
        found = changed_nodes(base, replace(base, block=base.block.model_copy(update={name: value})))
        assert found == BELOW["dataset"], name
    case = base.block.cases["case0"]
    for name, value in (("patient", "p"), ("session", "2"), ("site", "b"), ("class_name", "large")):
        cases = {**base.block.cases, "case0": case.model_copy(update={name: value})}
        changed = base.block.model_copy(update={"cases": cases})
        assert changed_nodes(base, replace(base, block=changed)) == BELOW["dataset"], name
        COUNTED[f"case.{name}"] = 1
    lacking = case.model_copy(update={"images": {**case.images, "flair": None}})
    moved = case.model_copy(update={"images": {**case.images, "flair": "elsewhere.nii.gz"}})
    for one, expected in ((lacking, BELOW["dataset"]), (moved, set())):
        block = base.block.model_copy(update={"cases": {**base.block.cases, "case0": one}})
        assert changed_nodes(base, replace(base, block=block)) == expected
    fewer = base.block.model_copy(update={"cases": {k: v for k, v in base.block.cases.items() if k != "case1"}})
    assert changed_nodes(base, replace(base, block=fewer)) == BELOW["dataset"]


def test_splits() -> None:
    base = inputs()
    for name in ("scheme", "seed", "stratify", "patients"):
        changed = base.splits.model_copy(update={name: other(getattr(base.splits, name))})
        assert changed_nodes(base, replace(base, splits=changed)) == BELOW["splits"], name
        COUNTED[f"splits.{name}"] = 1
    for part in ("train", "val", "order"):
        fold = base.splits.folds[0].model_copy(update={part: ["case0"]})
        changed = base.splits.model_copy(update={"folds": [fold]})
        assert changed_nodes(base, replace(base, splits=changed)) == BELOW["splits"], part
        COUNTED[f"splits.folds.{part}"] = 1


def test_plans() -> None:
    base = inputs()
    check(base, "planning", "plan")
    for name, value in base.configuration.items():
        found = changed_nodes(base, replace(base, configuration={**base.configuration, name: other(value)}))
        read_by_preprocessing = name not in ("patch_size", "batch_size")  # those are covered by the plan's own key
        assert found == (BELOW["arrays"] if read_by_preprocessing else set()), name
        COUNTED[f"plan.{name}"] = 1


def test_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    base = inputs()
    spec = ENCODERS["resenc-smoke"]
    for field in dataclasses.fields(spec):
        value = getattr(spec, field.name)
        changed = tuple(v + 1 for v in value) if isinstance(value, tuple) else other(value)
        with monkeypatch.context() as patched:
            patched.setitem(ENCODERS._entries, "resenc-smoke", replace(spec, **{field.name: changed}))
            after = nodes(base)
        before = nodes(base)
        assert before["encoder"] != after["encoder"] and before["cell"] != after["cell"], field.name
        COUNTED[f"encoder.{field.name}"] = 1
    assert changed_nodes(base, replace(base, encoder="plain-smoke")) == {"plan", "encoder", "cell"}


@pytest.mark.parametrize("method", sorted(METHODS))
def test_pretraining(method: str) -> None:
    base = inputs(method=method)
    check(base, "pretrain", "encoder")
    check(base, "options", "encoder")
    assert changed_nodes(base, replace(base, excluded=frozenset({"case3"}))) == BELOW["encoder"]
    assert changed_nodes(base, replace(base, profile="mini")) == BELOW["encoder"]
    assert changed_nodes(base, replace(base, seed=1)) == BELOW["encoder"]


def test_arithmetic() -> None:
    base = inputs()
    assert changed_nodes(base, replace(base, runtime=replace(base.runtime, threads=2))) == BELOW["encoder"]
    exact = replace(base, runtime=replace(base.runtime, precision="fp32"))
    low = replace(base, runtime=replace(base.runtime, precision="bf16"))
    assert changed_nodes(exact, low) == BELOW["encoder"]
    auto = replace(base, runtime=replace(base.runtime, precision="auto", device="auto"))
    same = [not changed_nodes(auto, one) for one in (exact, low)]
    assert sorted(same) == [False, True], "auto is what it stands for here"


@pytest.mark.parametrize("kind", ["segmentation", "classification"])
def test_fine_tuning(kind: str) -> None:
    base = inputs(kind)
    tuning = base.config.segmentation if kind == "segmentation" else base.config.classification
    for name, mark, make in fields_of(tuning):
        found = changed_nodes(base, replace(base, config=replace(base.config, **{kind: make()})))
        assert found == (set() if mark is not None else {"cell"}), name
        COUNTED[f"{kind}.{name}"] = 1
        if mark is not None:
            MARKED[f"{kind}.{name}"] = mark.reason
    others: dict[str, Any] = {"stem": "repeat"}
    for name, value in others.items():
        assert changed_nodes(base, replace(base, config=replace(base.config, **{name: value}))) == {"cell"}, name
    assert not isinstance(tuning, ClassificationConfig) or kind == "classification"


def test_reasons_are_few(capsys: pytest.CaptureFixture) -> None:
    """Printed for people; the tests above fill the lists where they run in the same process."""
    with capsys.disabled():
        print(
            f"\n{len(COUNTED)} fields changed, {len(MARKED)} of them outside, for {len(set(MARKED.values()))} reasons:"
        )
        for reason in sorted(set(MARKED.values())):
            print(f"  {reason}: {', '.join(name for name, why in MARKED.items() if why == reason)}")
    assert len(REASONS) < 10 and set(MARKED.values()) <= {mark.reason for mark in REASONS}
