"""What a command would do: presets as defaults of the whole command, and the configuration as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

from mvp_bench.config.verbs import PretrainVerbConfig
from mvp_bench.pretraining import distributed
from mvp_bench.pretraining.method import resolve_options
from mvp_bench.pretraining.run import check_settings
from mvp_bench.registry import ENCODERS, METHODS
from mvp_bench.training.runtime import Runtime


def with_preset(config: PretrainVerbConfig, method: str, preset: str) -> PretrainVerbConfig:
    """The configuration with what a method's preset sets beside the method's own fields: encoder, training loop.

    Raises:
        InputError: for an unknown method or preset.
    """
    resolve_options(method, preset, config.profile)  # refuses unknown names
    kind = METHODS[method].Options
    values: dict[str, Any] = dict(kind.loops().get(preset, {})) if hasattr(kind, "loops") else {}
    encoder = values.pop("encoder", config.encoder)
    return replace(config, encoder=encoder, pretrain=replace(config.pretrain, **values))


def dry_run(config: PretrainVerbConfig, options: Any, profile: str) -> str:
    """Every value a run would use, as JSON, after the checks that need no data.

    Args:
        options: the method's own fields.
        profile: name of the resolved profile.

    Raises:
        InputError: see :func:`~mvp_bench.pretraining.run.check_settings`.
    """
    check_settings(config.pretrain, options, config.encoder, config.runtime)
    place, processes = Runtime.resolve(distributed.own_device(config.runtime)), distributed.current()
    loop = config.pretrain
    content = {
        **asdict(config),
        "profile": profile,
        "options": asdict(options),
        "encoder": {"name": config.encoder, **asdict(ENCODERS[config.encoder])},
        "resolved": {
            "device": str(place.device),
            "precision": place.precision_name,
            "processes": processes.world,
            "cases_per_step": loop.batch_size * loop.accumulation * processes.world,
        },
    }
    return json.dumps(content, indent=1, default=str)
