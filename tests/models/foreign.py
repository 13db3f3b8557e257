"""Checkpoints as other projects write them, and runs of our own, for the tests of models/formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from mvp_bench.io import write_json
from mvp_bench.models.record import RECORD_FILE, WEIGHTS_FILE, EncoderRecord, PretrainingCost, TrainingData
from mvp_bench.models.weights import save_encoder
from mvp_bench.registry import ENCODERS


def perturbed(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with every tensor, norms and buffers included, away from its initial values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator))
    return module


def make_run(folder: Path, encoder: str = "resenc-smoke", stem_modalities: tuple[str, ...] = ()) -> nn.Module:
    """A finished pre-training run; returns its encoder."""
    torch.manual_seed(4)
    module = perturbed(ENCODERS[encoder].build(max(1, len(stem_modalities))))
    checksum = save_encoder(module, folder / WEIGHTS_FILE, encoder)
    record = EncoderRecord(
        encoder=encoder,
        modalities=["t1", "flair"],
        stem_modalities=list(stem_modalities),
        method="mae",
        config={"options": {}},
        config_hash="0" * 64,
        spacing=(1.0, 1.0, 1.0),
        patch_size=(16, 16, 16),
        intensity="zscore",
        data=[
            TrainingData(
                dataset="Dataset901_Toy901",
                source="phantom",
                licence="none",
                data_hash="",
                patients=["p0"],
                cases=["c0"],
                excluded_patients=[],
            )
        ],
        source="phantom",
        licences=["none"],
        profile="smoke",
        seed=0,
        versions={},
        weights_sha256=checksum,
        cost=PretrainingCost(
            wall_time_s=1, peak_memory_mb=1, parameters=1, voxels_seen=1, device="cpu", precision="fp32"
        ),
    )
    write_json(folder / RECORD_FILE, record)
    return module


def nnunet_network(encoder: str, channels: int = 1, classes: int = 3) -> nn.Module:
    """The network that stock nnU-Net builds from a plan with this encoder."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    architecture = ENCODERS[encoder].architecture()
    torch.manual_seed(7)
    network = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        channels,
        classes,
        allow_init=True,
        deep_supervision=True,
    )
    return perturbed(network)


def nnssl_plan(**changes: Any) -> dict[str, Any]:
    """An adaptation plan as nnssl serialises it for its ResEnc-L."""
    configuration = {
        "spacing": [1, 1, 1],
        "patch_size": [16, 16, 16],
        "spacing_style": "onemmiso",
        "normalization_schemes": ["ZScoreNormalization"],
    }
    plan = {
        "architecture_plans": {"arch_class_name": "ResEncL", "arch_kwargs": None, "arch_kwargs_requiring_import": None},
        "pretrain_plan": {"transpose_forward": [0, 1, 2], "configurations": {"onemmiso": configuration}},
        "pretrain_num_input_channels": 1,
        "recommended_downstream_patchsize": [16, 16, 16],
        "key_to_encoder": "encoder.stages",
        "key_to_stem": "encoder.stem",
        "keys_to_in_proj": ["encoder.stem.convs.0.conv", "encoder.stem.convs.0.all_modules.0"],
        "key_to_lpe": None,
    }
    return plan | changes


def nnssl_checkpoint(path: Path, network: nn.Module, **changes: Any) -> Path:
    """``checkpoint_final.pth`` of nnssl."""
    content = {
        "network_weights": network.state_dict(),
        "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01, "params": [0]}]},
        "trainer_name": "BaseMAETrainer",
        "citations": [{"type": "Method", "name": "MAE", "apa_citations": ["He et al. 2022."]}],
        "nnssl_adaptation_plan": nnssl_plan(**changes),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def nnunet_checkpoint(path: Path, network: nn.Module, encoder: str, channels: tuple[str, ...]) -> Path:
    """``checkpoint_final.pth`` of nnU-Net 2.8, numpy scalars and all."""
    import numpy as np

    plans = {
        "dataset_name": "Dataset001_Toy",
        "transpose_forward": [0, 1, 2],
        "configurations": {
            "3d_fullres": {
                "spacing": [1.5, 1.0, 1.0],
                "patch_size": [16, 16, 16],
                "normalization_schemes": ["ZScoreNormalization"] * len(channels),
                "architecture": ENCODERS[encoder].architecture(),
            }
        },
    }
    content = {
        "network_weights": network.state_dict(),
        "_best_ema": np.float64(0.5),
        "logging": {"val_losses": [np.float32(0.25)]},
        "init_args": {
            "plans": plans,
            "configuration": "3d_fullres",
            "fold": 0,
            "dataset_json": {"channel_names": {str(i): name for i, name in enumerate(channels)}},
            "device": torch.device("cpu"),
        },
        "trainer_name": "nnUNetTrainer",
    }
    torch.save(content, path)
    return path
