"""nnU-Net's own checkpoints, trained or written for ``-pretrained_weights``: ``network_weights`` and ``init_args``.

A network trained on several modalities has a stem kernel per channel; ``dataset.json``, kept in the checkpoint, names
them, so that the stem rule ``by_modality`` works across datasets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mvp_bench.errors import InputError
from mvp_bench.models.formats.base import Foreign, Triple, by_prefix, modality_of, permute_kernels
from mvp_bench.models.formats.raw import RawFile, json_block, plain

EXPORT_KEY = "mvp_bench"
"""Where our own exports keep their record, as JSON text."""
ENCODER = "encoder."


class NnUnet:
    """See the module."""

    name = "nnunet"
    summary = "nnU-Net checkpoint, or the state of its network"

    def recognises(self, raw: RawFile) -> bool:
        return "network_weights" in raw.content or any(n.startswith(f"{ENCODER}stages.") for n in raw.tensors())

    def read(self, raw: RawFile) -> Foreign:
        state = raw.tensors()
        tensors, others = by_prefix(state, ENCODER)
        if not tensors:
            raise InputError(
                raw.path,
                found=f"no tensor below {ENCODER} (first: {next(iter(state))})",
                expected="a network of nnU-Net with an encoder of its own",
            )
        raw_names = {name: ENCODER + name for name in tensors}
        export = json_block(raw.content, EXPORT_KEY)
        facts = _facts(raw.content)
        configuration = facts.get("configuration", {})
        architecture = configuration.get("architecture", {})
        channels = facts.get("channel_names") or export.get("stem_modalities") or []
        tensors = permute_kernels(tensors, backward(facts.get("transpose_forward")))
        return Foreign(
            format=self.name,
            tensors=tensors,
            raw_names=raw_names,
            unused={"decoder": others},
            encoder=export.get("encoder"),
            topology=architecture.get("arch_kwargs") or {},
            modalities=tuple(export.get("modalities") or _named(channels)),
            stem_modalities=_named(channels),
            spacing=triple(configuration.get("spacing") or export.get("spacing")),
            patch_size=whole_triple(configuration.get("patch_size") or export.get("patch_size")),
            intensity="zscore" if _zscored(configuration.get("normalization_schemes", ["ZScore"])) else None,
            citation="Isensee et al. nnU-Net. Nature Methods 18 (2021).",
            details={"trainer": plain(raw.content.get("trainer_name")), "dataset": facts.get("dataset"), **_of(export)},
        )


def _facts(content: Mapping[str, Any]) -> dict[str, Any]:
    """What ``init_args`` says of plan and dataset; empty where there is none."""
    arguments = plain(content.get("init_args")) or {}
    plans = arguments.get("plans") if isinstance(arguments, dict) else None
    if not isinstance(plans, dict):
        return {}
    dataset = arguments.get("dataset_json") or {}
    names = dataset.get("channel_names") or dataset.get("modality") or {}
    return {
        "dataset": plans.get("dataset_name"),
        "configuration": (plans.get("configurations") or {}).get(arguments.get("configuration")) or {},
        "transpose_forward": plans.get("transpose_forward"),
        "channel_names": [str(names[key]) for key in sorted(names, key=int)] if isinstance(names, dict) else names,
    }


def backward(forward: Sequence[int] | None) -> list[int]:
    """Axes of the network that lie along the reader's axes (z, y, x), given nnU-Net's ``transpose_forward``."""
    order = list(forward or [0, 1, 2])
    return [order.index(axis) for axis in range(3)]


def triple(values: Any) -> Triple | None:
    """Three numbers, or nothing."""
    if (
        not isinstance(values, (list, tuple))
        or len(values) != 3
        or not all(isinstance(v, (int, float)) for v in values)
    ):
        return None
    return float(values[0]), float(values[1]), float(values[2])


def whole_triple(values: Any) -> tuple[int, int, int] | None:
    """Three whole numbers, or nothing."""
    numbers = triple(values)
    return (int(numbers[0]), int(numbers[1]), int(numbers[2])) if numbers else None


def _named(channels: Sequence[str]) -> tuple[str, ...]:
    """The channels' modalities in our words; nothing where one of them is unknown."""
    names = [modality_of(str(name)) for name in channels]
    return tuple(name for name in names if name) if all(names) else ()


def _zscored(schemes: Sequence[str]) -> bool:
    return all(str(scheme).startswith("ZScore") for scheme in schemes)


def _of(export: Mapping[str, Any]) -> dict[str, Any]:
    return {"exported_from": dict(export)} if export else {}
