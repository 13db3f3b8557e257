"""Our encoders as checkpoints that stock nnU-Net fine-tunes from.

Both kinds of file hold nnU-Net's whole network: the encoder of the run below ``encoder.``, and a freshly initialised
decoder, which ``nnUNetv2_train -pretrained_weights`` insists on (it skips ``seg_layers`` only, so that any number of
classes fits). The stem has one kernel per modality of the task, made by the stem rule. An nnssl-style file has an
adaptation plan besides, from which nnU-Net's ``nnUNetv2_preprocess_like_nnssl`` or ``nnUNetv2_plan_like_dynamic`` plan
and ``nnUNetv2_train_pretrained`` trains (in nnU-Net's repository; the 2.8.1 package lacks them). Those
repeat a stem of one channel themselves, but for residual encoders only: for plain ones, name the task's modalities.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from mvp_bench.config.groups import StemRule
from mvp_bench.errors import InputError
from mvp_bench.io import atomic_path
from mvp_bench.models.encoders.base import EncoderSpec
from mvp_bench.models.formats.nnssl import PLAN_KEY
from mvp_bench.models.formats.nnunet import ENCODER, EXPORT_KEY
from mvp_bench.models.record import EncoderRecord
from mvp_bench.models.weights import initialise_encoder, load_pretrained
from mvp_bench.registry import ENCODERS

ExportFormat = Literal["nnssl", "nnunet"]
STOCK = "dynamic_network_architectures."
"""Package of the networks that every nnU-Net has."""


def export_checkpoint(
    run_dir: Path,
    path: Path,
    kind: ExportFormat,
    modalities: Sequence[str] = (),
    stem_rule: StemRule = "repeat",
    seed: int = 0,
) -> EncoderRecord:
    """Write a finished run's encoder as another project's checkpoint.

    Args:
        run_dir: the run.
        path: the file to write (``.pth``); replaced if it is there.
        kind: ``nnssl`` with adaptation plan, ``nnunet`` without.
        modalities: of the task, in its channel order; none: the stem stays as it is (one channel for all).
        stem_rule: how the stem gets to so many.
        seed: of the decoder's (and, under ``reinit``, the stem's) fresh values.

    Raises:
        InputError: if the run is not finished or damaged, its encoder is none that stock nnU-Net has, or the file
            cannot be written.
    """
    state, record = load_pretrained(run_dir)
    spec: EncoderSpec = ENCODERS[record.encoder]
    channels = list(modalities) or list(record.stem_modalities)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(spec, max(1, len(channels)))
    encoder = network.get_submodule(ENCODER.rstrip("."))
    initialise_encoder(
        encoder,
        state,
        stem_rule if modalities else "by_modality",
        max(1, len(channels)),
        modalities=channels,
        stem_modalities=record.stem_modalities,
        where=run_dir,
    )
    content: dict[str, Any] = {
        "network_weights": network.state_dict(),
        EXPORT_KEY: json.dumps(_export_block(record, channels, stem_rule if modalities else None)),
    }
    if kind == "nnssl":
        content[PLAN_KEY] = adaptation_plan(spec, record, max(1, len(channels)), network)
        content["citations"] = []
    _write(path, content)
    return record


def _network(spec: EncoderSpec, channels: int) -> nn.Module:
    """nnU-Net's network of an encoder, with all output layers.

    Raises:
        InputError: for an encoder that stock nnU-Net does not have.
    """
    architecture = spec.architecture()
    name = architecture["network_class_name"]
    if not name.startswith(STOCK):
        stock = [n for n in ENCODERS if ENCODERS[n].architecture()["network_class_name"].startswith(STOCK)]
        raise InputError(
            f"encoder {spec.name}",
            found="a network that stock nnU-Net does not have",
            expected=f"one of {', '.join(stock)}",
            fix="Fine-tune it with mvp_benchmark, or hand on encoder.safetensors.",
        )
    arguments = dict(architecture["arch_kwargs"])
    for key in architecture["_kw_requires_import"]:
        arguments[key] = _located(arguments[key]) if arguments[key] is not None else None
    network: nn.Module = _located(name)(input_channels=channels, num_classes=2, deep_supervision=True, **arguments)
    network.apply(network.initialize)
    return network


def _located(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def adaptation_plan(spec: EncoderSpec, record: EncoderRecord, channels: int, network: nn.Module) -> dict[str, Any]:
    """The dictionary described in :mod:`mvp_bench.models.formats.nnssl`, with the two fields beside it that nnU-Net's
    dynamic loader looks for (``architecture_kwargs``, ``pretrain_patch_size``). Plain values only."""
    architecture = spec.architecture()
    patch = list(record.patch_size)
    configuration = {
        "data_identifier": "mvp_bench",
        "preprocessor_name": "DefaultPreprocessor",
        "spacing_style": "onemmiso" if set(record.spacing) == {1.0} else "median",
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [True],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
        "resampling_fn_mask": "resample_data_or_seg_to_shape",
        "resampling_fn_mask_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
        "spacing": list(record.spacing),
        "patch_size": patch,
    }
    return {
        "architecture_plans": {
            "arch_class_name": architecture["network_class_name"],
            "arch_kwargs": architecture["arch_kwargs"],
            "arch_kwargs_requiring_import": architecture["_kw_requires_import"],
        },
        "pretrain_plan": {
            "dataset_name": "+".join(d.dataset for d in record.data) or "unknown",
            "plans_name": "mvp_bench",
            "original_median_spacing_after_transp": list(record.spacing),
            "image_reader_writer": "NibabelIOWithReorient",
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "experiment_planner_used": "FixedEncoderPlanner",
            "configurations": {configuration["spacing_style"]: configuration},
        },
        "pretrain_num_input_channels": channels,
        "recommended_downstream_patchsize": patch,
        "key_to_encoder": str(network.key_to_encoder),
        "key_to_stem": str(network.key_to_stem),
        "keys_to_in_proj": [str(key) for key in network.keys_to_in_proj],
        "key_to_lpe": None,
        "architecture_kwargs": architecture["arch_kwargs"],
        "pretrain_patch_size": patch,
    }


def _export_block(record: EncoderRecord, channels: Sequence[str], stem_rule: StemRule | None) -> dict[str, Any]:
    """What the other project has no field for, kept as JSON text so that reading it needs nothing of ours."""
    return {
        "encoder": record.encoder,
        "modalities": record.modalities,
        "stem_modalities": list(channels) if len(channels) > 1 else [],
        "stem_rule": stem_rule,
        "method": record.method,
        "config_hash": record.config_hash,
        "spacing": list(record.spacing),
        "patch_size": list(record.patch_size),
        "intensity": record.intensity,
        "orientation": record.orientation,
        "axis_order": record.axis_order,
        "source": record.source,
        "licences": record.licences,
        "weights_sha256": record.weights_sha256,
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    try:
        with atomic_path(path) as temporary:
            torch.save(content, temporary)
    except (OSError, RuntimeError) as error:  # torch's zip writer turns a full disk into a RuntimeError
        raise InputError(
            path, found=f"it cannot be written ({error})", expected="room and permission for the checkpoint"
        ) from error
