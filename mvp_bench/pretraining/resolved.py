"""What a command would do: the configuration as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from mvp_bench.config.verbs import PretrainVerbConfig
from mvp_bench.pretraining import distributed
from mvp_bench.pretraining.run import check_settings
from mvp_bench.registry import ENCODERS
from mvp_bench.training.runtime import Runtime


def dry_run(config: PretrainVerbConfig, options: Any) -> str:
    """Every value a run would use, as JSON, after the checks that need no data.

    Args:
        options: the method's own fields.

    Raises:
        InputError: see :func:`~mvp_bench.pretraining.run.check_settings`.
    """
    check_settings(config.pretrain, options, config.encoder, config.runtime)
    place, processes = Runtime.resolve(distributed.own_device(config.runtime)), distributed.current()
    loop = config.pretrain
    content = {
        **asdict(config),
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
