"""Segmentation: the trained network under nnU-Net's sliding window, exported to the source's grid."""

from __future__ import annotations

import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from mvp_bench.datasets.prepared import BLOCK
from mvp_bench.finetuning.model import ModelRecord, TrainedModel
from mvp_bench.planning.planner import CONFIGURATION
from mvp_bench.planning.store import CaseStore
from mvp_bench.training.runtime import Runtime


class SegmentationModel(TrainedModel):
    """nnU-Net's network."""

    kind = "segmentation"

    def __init__(self, record: ModelRecord, network: nn.Module, runtime: Runtime) -> None:
        super().__init__(record, network, runtime)
        self.network.decoder.deep_supervision = False
        self._manager = PlansManager(record.plan)
        self._configuration = self._manager.get_configuration(CONFIGURATION)
        facts = record.plan[BLOCK]["dataset_json"]
        self._labels = self._manager.get_label_manager(facts)
        axes = record.inference["mirror_axes"]
        self._predictor = nnUNetPredictor(
            tile_step_size=record.inference["tile_step"],
            use_mirroring=axes is not None,
            device=runtime.device,
            allow_tqdm=False,
        )
        self._predictor.manual_initialization(
            network,
            self._manager,
            self._configuration,
            None,
            facts,
            type(self).__name__,
            None if axes is None else tuple(axes),
        )

    @classmethod
    def build(cls, record: ModelRecord) -> nn.Module:
        manager = PlansManager(record.plan)
        configuration = manager.get_configuration(CONFIGURATION)
        heads = manager.get_label_manager(record.plan[BLOCK]["dataset_json"]).num_segmentation_heads
        return get_network_from_plans(
            configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import,
            len(record.modalities),
            heads,
            allow_init=False,
            deep_supervision=True,  # as in training, so that every tensor has its place
        )

    def predict(self, store: CaseStore, case: str) -> np.ndarray:
        images = torch.from_numpy(np.asarray(store.array(case)[:]))
        with self.runtime.autocast():
            logits = self._predictor.predict_sliding_window_return_logits(images).cpu()
        return convert_predicted_logits_to_segmentation_with_correct_shape(
            logits.float(),
            self._manager,
            self._configuration,
            self._labels,
            store.properties(case),
            num_threads_torch=torch.get_num_threads(),
        )
