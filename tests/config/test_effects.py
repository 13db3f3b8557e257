"""No option without effect: each one, changed within its range, changes a key, or bears the mark that says why none.

What bears the mark, too, is read somewhere by the code: an option that nothing reads does nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import TypeAdapter

import mvp_bench
from mvp_bench.config.defaults import defaults, resolved
from mvp_bench.config.fields import mark, options_of, plain_type
from mvp_bench.config.marks import Registered
from mvp_bench.config.verbs import BenchmarkConfig, PlanConfig, PrepareConfig, PretrainVerbConfig, WeightsConfig
from mvp_bench.datasets.preparation.request import make_request
from mvp_bench.errors import InputError
from mvp_bench.identity import counted, hash_of
from mvp_bench.models.formats import verb as weights_verb
from mvp_bench.registry import ENCODERS, METHODS
from mvp_bench.workspace import Workspace
from tests.config.test_check import with_value
from tests.test_keys import inputs, nodes

Keys = dict[str, str]
PACKAGE = Path(mvp_bench.__file__).parent
EXCEPTIONS = {
    "--device": "stands for the same where there is no GPU",
    "--profile": "what it stands for enters; its name is a coordinate of encoders and cells besides",
}
"""Options whose change cannot be seen here, or is more than their mark says -> why."""
VALUES = {"--precision": "bf16"}
"""Values to be tried instead of fp32, because "auto" may be the same, and fp16 is not there."""
COVERED: dict[str, dict[str, str]] = {}
"""Verb or method -> option -> the nodes whose keys changed, or the reason why none has to."""


def another(hint: Any, value: Any) -> Any:
    """Another value of a type, within its range."""
    for candidate in candidates(hint, value):
        if candidate != value and valid(hint, candidate):
            return candidate
    raise AssertionError(f"no other value than {value} of {hint}")


def candidates(hint: Any, value: Any) -> list[Any]:
    bare = plain_type(hint)
    if (known := mark(hint, Registered)) is not None:
        return list({"method": METHODS, "encoder": ENCODERS}[known.kind])
    if get_origin(bare) is Literal:
        return list(get_args(bare))
    if bare is bool:
        return [not value]
    if get_origin(bare) is tuple:
        parts = get_args(bare)
        if not value:
            return [(c,) for c in candidates(parts[0], None)]
        return [*[(c, *value[1:]) for c in candidates(parts[0], value[0])], value[:-1], value * 2]
    if bare is int:
        return [value + 1, value - 1] if value is not None else [1, 2]
    if bare is float:
        return [value / 2, value * 1.5, 0.25] if value is not None else [1.0]
    if bare is str:
        return ["mae", "t1", "cpu", "other"]
    if bare is Path:
        return [Path("elsewhere")]
    options = [part for part in get_args(bare) if part is not type(None)]
    whole = [part for part in options if get_origin(part) is tuple]
    wholes = [tuple(candidates(inner, None)[0] for inner in get_args(part)) for part in whole]
    return [*wholes, *(c for part in options if part not in whole for c in candidates(part, value))]


def valid(hint: Any, value: Any) -> bool:
    try:
        TypeAdapter(hint).validate_python(value)
    except ValueError:
        return False
    return True


def request_key(config: Any, workspace: Workspace) -> str:
    """Key of a preparation."""
    card = inputs().card
    request = make_request(
        workspace,
        card,
        None,
        source=getattr(config, "source", None),
        phantom=config.phantom_config if config.phantom else None,
        seed=config.seed,
        preparation=getattr(config, "preparation", None),
    )
    return hash_of(counted(request))


def keys_of_prepare(config: PrepareConfig, workspace: Workspace) -> Keys:
    return {"preparation": request_key(config, workspace)}


def keys_of_plan(config: PlanConfig, workspace: Workspace) -> Keys:
    found = nodes(replace(inputs(), planning=config.planning, encoder=config.encoder))
    return {"plan": found["plan"]}


def keys_of_pretraining(config: PretrainVerbConfig, workspace: Workspace) -> Keys:
    base = replace(inputs(), planning=config.planning, encoder=config.encoder, pretrain=config.pretrain)
    found = nodes(replace(base, runtime=config.runtime, seed=config.seed, profile=config.profile))
    return {
        "preparation": request_key(config, workspace), **{name: found[name] for name in ("plan", "encoder")}
    }  # fmt: skip


def keys_of_benchmark(config: BenchmarkConfig, workspace: Workspace) -> Keys:
    keys = {"preparation": request_key(config, workspace)}
    for kind in ("segmentation", "classification"):
        base = replace(inputs(kind), planning=config.planning, encoder=config.encoder, config=config)
        base = replace(base, pretrain=config.pretrain.of("mae"), runtime=config.runtime, profile=config.profile)
        keys |= {f"{kind} {name}": key for name, key in nodes(replace(base, seed=config.seed)).items()}
    return keys


KEYS: dict[type, Callable[[Any, Workspace], Keys]] = {
    PrepareConfig: keys_of_prepare,
    PlanConfig: keys_of_plan,
    PretrainVerbConfig: keys_of_pretraining,
    BenchmarkConfig: keys_of_benchmark,
}
"""Verb -> the keys of all that it makes."""


@pytest.mark.parametrize("kind", list(KEYS), ids=lambda kind: kind.__name__)
def test_each_option_of_a_verb_counts_or_says_why_not(kind: Any, workspace: Workspace) -> None:
    base = resolved(defaults(kind, "smoke"))
    if "runtime" in {field.name for field in fields(kind)}:
        base = replace(base, runtime=replace(base.runtime, precision="fp32"))
    if hasattr(base, "phantom"):
        base = replace(base, phantom=True)
    before = KEYS[kind](base, workspace)
    for option in options_of(kind):
        if option.name in EXCEPTIONS:
            COVERED.setdefault(kind.__name__, {})[option.name] = EXCEPTIONS[option.name]
            continue
        value = VALUES.get(option.name) or another(option.hint, option.of(base))
        changed = with_value(base, option.path, value)
        after = KEYS[kind](changed, workspace)
        different = [name for name in before if before[name] != after[name]]
        if option.outside is None:
            assert different, f"{option.name} changes no key and bears no mark"
        else:
            assert not different, f"{option.name} bears a mark, but changes {different}"
        said = option.outside.reason if option.outside else f"changes the keys of {', '.join(different)}"
        COVERED.setdefault(kind.__name__, {})[option.name] = said


@pytest.mark.parametrize("method", list(METHODS))
def test_each_option_of_a_method_counts(method: str) -> None:
    base = inputs(method=method)
    before = nodes(base)["encoder"]
    for option in options_of(type(base.options)):
        changed = with_value(base.options, option.path, another(option.hint, option.of(base.options)))
        assert option.outside is None and nodes(replace(base, options=changed))["encoder"] != before, option.name
        COVERED.setdefault(method, {})[option.name] = "changes the key of encoder"


def test_each_option_of_mvp_weights_changes_what_is_done(monkeypatch: pytest.MonkeyPatch, workspace: Workspace) -> None:
    """What the parts are called with is compared."""
    called: list[Any] = []

    def noted(*arguments: Any, **options: Any) -> Any:
        called.append((arguments, options))
        raise InputError("x", found="x", expected="x")

    for name in ("import_checkpoint", "export_checkpoint", "inspect"):
        monkeypatch.setattr(weights_verb, name, noted)

    def calls(config: WeightsConfig) -> list[Any]:
        called.clear()
        for action in ("inspect", "import", "export"):
            if config.action in ("inspect", action):
                with pytest.raises(InputError):
                    weights_verb.run_weights(workspace, replace(config, action=action))
        return [*called]

    base = WeightsConfig(file=Path("run"), modalities=("t2",))
    before = calls(base)
    for option in options_of(WeightsConfig):
        if option.name == "--root":  # the workspace is made of it before
            COVERED.setdefault("WeightsConfig", {})[option.name] = option.outside.reason if option.outside else ""
            continue
        changed = with_value(base, option.path, another(option.hint, option.of(base)))
        assert calls(changed) != before, option.name
        COVERED.setdefault("WeightsConfig", {})[option.name] = "changes what is called"


@cache
def names_read() -> frozenset[str]:
    """Every attribute that the code outside the configuration reads, also by name."""
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name == "config":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                found.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return frozenset(found)


SETTLED_HERE = {"profile", "seeds"}
"""Read in the configuration: they stand for others."""


def test_each_option_is_read_by_the_code() -> None:
    unread = []
    for kind in (*KEYS, WeightsConfig, *(METHODS[name].Options for name in METHODS)):
        unread += [
            f"{kind.__name__} {option.name}"
            for option in options_of(kind)
            if option.path[-1] not in names_read() | SETTLED_HERE
        ]
    assert not unread


def test_values_are_changed_within_their_ranges() -> None:
    base = resolved(defaults(BenchmarkConfig, "smoke"))
    for option in options_of(BenchmarkConfig):
        value = another(option.hint, option.of(base))
        assert valid(option.hint, value) and value != option.of(base), option.name


def test_what_was_covered(capsys: pytest.CaptureFixture[str]) -> None:
    """Printed for people; the tests above fill the list where they run in the same process."""
    with capsys.disabled():
        for owner, options in COVERED.items():
            marked = [name for name, said in options.items() if not said.startswith("changes")]
            print(f"\n{owner}: {len(options)} options, {len(marked)} that change no key: {', '.join(marked) or '-'}")
