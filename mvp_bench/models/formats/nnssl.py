"""nnssl's checkpoints: ``network_weights`` of the whole pre-training network, and ``nnssl_adaptation_plan``.

The adaptation plan says how to go on: ``architecture_plans`` (class name or preset, arguments), ``pretrain_plan``
(nnssl's plan: one configuration with spacing, patch size and normalisation), ``pretrain_num_input_channels``,
``recommended_downstream_patchsize``, and where in the names the encoder (``key_to_encoder``), the stem
(``key_to_stem``) and its kernel (``keys_to_in_proj``) are. nnU-Net's fine-tuning tools read the same keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mvp_bench.errors import InputError
from mvp_bench.models.formats.base import Foreign, permute_kernels
from mvp_bench.models.formats.nnunet import EXPORT_KEY, backward, triple, whole_triple
from mvp_bench.models.formats.raw import RawFile, json_block, plain

PLAN_KEY = "nnssl_adaptation_plan"


class Nnssl:
    """See the module."""

    name = "nnssl"
    summary = "nnssl checkpoint with adaptation plan"

    def recognises(self, raw: RawFile) -> bool:
        return PLAN_KEY in raw.content

    def read(self, raw: RawFile) -> Foreign:
        plan = plain(raw.content[PLAN_KEY])
        where = f"{raw.path}: {PLAN_KEY}"
        if not isinstance(plan, dict):
            raise InputError(where, found=f"a {type(plan).__name__}", expected="a dictionary")
        encoder_key, stem_key = _text(plan, "key_to_encoder", where), _text(plan, "key_to_stem", where)
        state = raw.tensors()
        # Encoder and stem are siblings ("encoder.stages", "encoder.stem"), or the stem is part of the encoder
        # ("encoder.stages", "encoder.stages.0"): our names begin below the encoder's parent.
        root = encoder_key.rpartition(".")[0]
        inside = [n for n in state if n.startswith((f"{encoder_key}.", f"{stem_key}."))]
        if not inside:
            raise InputError(
                where,
                found=f"key_to_encoder {encoder_key!r}, below which there is no tensor (first: {next(iter(state))})",
                expected="the place of the encoder in network_weights",
            )
        ours = {n.removeprefix(f"{root}." if root else ""): n for n in inside}
        outside = set(state) - set(inside)
        architecture = plan.get("architecture_plans") or {}
        pretrain_plan = plan.get("pretrain_plan") or {}
        configuration: dict[str, Any] = next(iter((pretrain_plan.get("configurations") or {}).values()), {})
        schemes = configuration.get("normalization_schemes") or ["ZScoreNormalization"]
        export = json_block(raw.content, EXPORT_KEY)
        kernels = permute_kernels(
            {name: state[n] for name, n in ours.items()}, backward(pretrain_plan.get("transpose_forward"))
        )
        return Foreign(
            format=self.name,
            tensors=kernels,
            raw_names=ours,
            unused={"decoder, heads and projections of the pre-training": [n for n in state if n in outside]},
            encoder=export.get("encoder"),
            topology={"class": architecture.get("arch_class_name"), **(architecture.get("arch_kwargs") or {})},
            modalities=tuple(export.get("modalities") or ()),
            stem_modalities=tuple(export.get("stem_modalities") or ()),
            spacing=triple(configuration.get("spacing")),
            patch_size=whole_triple(configuration.get("patch_size")),
            intensity="zscore" if all(str(s).startswith("ZScore") for s in schemes) else None,
            citation=_citations(raw.content.get("citations")),
            details={
                "trainer": plain(raw.content.get("trainer_name")),
                "adaptation_plan": plan,
                **({"exported_from": export} if export else {}),
            },
        )


def _text(plan: Mapping[str, Any], key: str, where: str) -> str:
    value = plan.get(key)
    if not isinstance(value, str) or not value:
        raise InputError(f"{where}: {key}", found=value, expected="a name such as encoder.stages")
    return value


def _citations(entries: Any) -> str:
    if not isinstance(entries, (list, tuple)):
        return ""
    found = [e for e in entries if isinstance(e, Mapping)]
    texts = [e.get("apa_citations") or e.get("bibtex_citations") or [] for e in found]
    return " ".join(str(text) for group in texts for text in (group if isinstance(group, (list, tuple)) else [group]))
