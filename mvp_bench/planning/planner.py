"""nnU-Net's experiment planner with a fixed encoder topology.

Kept of nnU-Net: target spacing (median, 10th percentile along a badly resolved axis); patch shape from the spacing's
aspect ratio, clipped to the median shape and shrunk along the axis that is largest relative to that shape until the
network's feature maps fit the memory budget; batch size from what is left (at least 2, at most 5 % of the dataset's
voxels); resampling; the residual encoder's reference value of the memory estimate.

What differs, and why: the encoder's strides and widths are given, so that pre-trained weights fit every task; each
patch axis is a multiple of the encoder's total stride; images are read in RAS and never transposed, so that patches of
all datasets have the same axes; intensities are z-scored inside the non-zero mask always, so that pre-training and
fine-tuning see the same values; only ``3d_fullres`` is planned. For classification the spacing is coarsened (nnU-Net's
rule for ``3d_lowres``, 3 % at a time) until one patch holds the whole case.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (
    ResEncUNetPlanner,
)
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from mvp_bench.errors import InputError

CONFIGURATION = "3d_fullres"
PLANS_NAME = "plan"
SPACING_STEP = 1.03  # nnU-Net's step of the low-resolution search


class Topology(Protocol):
    """What planning must know of an encoder preset (``mvp_bench.models`` provides it)."""

    @property
    def name(self) -> str:
        """Registered name."""

    @property
    def stride(self) -> int:
        """Total stride in voxels, the same along the three axes."""

    def architecture(self) -> dict[str, Any]:
        """nnU-Net's ``architecture`` entry of a plan: class name, arguments, arguments to import."""


class FixedEncoderPlanner(ResEncUNetPlanner):
    """Plans one dataset for one encoder.

    Args:
        dataset_name: DatasetNNN_Name; its dataset.json and dataset_fingerprint.json must exist.
        topology: the encoder.
        memory_gb: memory to plan patch and batch for.
        max_patch_edge: voxels that no patch axis exceeds.
        spacing: overrides the target spacing (z, y, x in mm).
        whole_case: coarsen the spacing until one patch holds the median case.
    """

    def __init__(
        self,
        dataset_name: str,
        topology: Topology,
        memory_gb: float,
        max_patch_edge: int,
        spacing: tuple[float, float, float] | None = None,
        whole_case: bool = False,
    ) -> None:
        super().__init__(
            dataset_name, memory_gb, plans_name=PLANS_NAME, overwrite_target_spacing=spacing, suppress_transpose=True
        )
        self.topology = topology
        self.max_patch_edge = max_patch_edge
        self.whole_case = whole_case
        self._network: Any = None

    def determine_normalization_scheme_and_whether_mask_is_used_for_norm(self) -> tuple[list[str], list[bool]]:
        channels = len(self.dataset_json["channel_names"])
        return ["ZScoreNormalization"] * channels, [True] * channels

    def generate_data_identifier(self, configuration_name: str) -> str:
        return f"{self.plans_identifier}_{configuration_name}"

    def plan_experiment(self) -> dict[str, Any]:
        """The plan, as nnU-Net's PlansManager reads it. Nothing is written."""
        spacing = self.determine_fullres_target_spacing().astype(float)
        configuration = self._configuration(spacing)
        while self.whole_case and not self._holds_case(configuration):
            coarse = spacing * np.where(spacing.max() / spacing > 2, SPACING_STEP, 1.0)
            spacing = coarse if not np.array_equal(coarse, spacing) else spacing * SPACING_STEP
            configuration = self._configuration(spacing)
        self.plans = {
            "dataset_name": self.dataset_name,
            "plans_name": self.plans_identifier,
            "original_median_spacing_after_transp": np.median(self.dataset_fingerprint["spacings"], 0).tolist(),
            "original_median_shape_after_transp": [
                round(i) for i in np.median(self.dataset_fingerprint["shapes_after_crop"], 0)
            ],
            "image_reader_writer": "NibabelIOWithReorient",
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "configurations": {CONFIGURATION: configuration},
            "experiment_planner_used": type(self).__name__,
            "label_manager": "LabelManager",
            "foreground_intensity_properties_per_channel": self.dataset_fingerprint[
                "foreground_intensity_properties_per_channel"
            ],
        }
        return self.plans

    def get_plans_for_configuration(
        self,
        spacing: np.ndarray,
        median_shape: np.ndarray,
        data_identifier: str,
        approximate_n_voxels_dataset: float,
        _cache: dict,
    ) -> dict[str, Any]:
        patch = self._initial_patch(spacing, median_shape)
        budget = self.UNet_reference_val_3d * self.UNet_vram_target_GB / self.UNet_reference_val_corresp_GB
        reference_batch = self.UNet_reference_val_corresp_bs_3d
        while (estimate := self._feature_map_size(patch)) / reference_batch * self.UNet_min_batch_size > budget:
            patch = self._shrink(patch, median_shape)
        batch_size = round(budget / estimate * reference_batch)
        five_percent = round(approximate_n_voxels_dataset * self.max_dataset_covered / np.prod(patch, dtype=float))
        batch_size = max(min(batch_size, five_percent), self.UNet_min_batch_size)
        fn_data, kwargs_data, fn_seg, kwargs_seg = self.determine_resampling()
        fn_probabilities, kwargs_probabilities = self.determine_segmentation_softmax_export_fn()
        schemes, use_mask = self.determine_normalization_scheme_and_whether_mask_is_used_for_norm()
        return {
            "data_identifier": data_identifier,
            "preprocessor_name": self.preprocessor_name,
            "batch_size": int(batch_size),
            "patch_size": [int(i) for i in patch],
            "median_image_size_in_voxels": [float(i) for i in median_shape],
            "spacing": [float(i) for i in spacing],
            "normalization_schemes": schemes,
            "use_mask_for_norm": use_mask,
            "resampling_fn_data": fn_data.__name__,
            "resampling_fn_seg": fn_seg.__name__,
            "resampling_fn_data_kwargs": kwargs_data,
            "resampling_fn_seg_kwargs": kwargs_seg,
            "resampling_fn_probabilities": fn_probabilities.__name__,
            "resampling_fn_probabilities_kwargs": kwargs_probabilities,
            "architecture": self.topology.architecture(),
            "batch_dice": False,
        }

    def memory_estimate_gb(self, configuration: dict[str, Any]) -> float:
        """Memory of a training step in GB, by nnU-Net's proportionality to the size of the feature maps."""
        size = self._feature_map_size(configuration["patch_size"]) * configuration["batch_size"]
        reference = self.UNet_reference_val_3d * self.UNet_reference_val_corresp_bs_3d
        return float(size / reference * self.UNet_reference_val_corresp_GB)

    def _configuration(self, spacing: np.ndarray) -> dict[str, Any]:
        shapes = [
            compute_new_shape(shape, old, spacing)
            for old, shape in zip(
                self.dataset_fingerprint["spacings"], self.dataset_fingerprint["shapes_after_crop"], strict=True
            )
        ]
        median_shape = np.median(shapes, 0)
        voxels = float(np.prod(median_shape, dtype=np.float64) * self.dataset_json["numTraining"])
        identifier = self.generate_data_identifier(CONFIGURATION)
        return self.get_plans_for_configuration(spacing, median_shape, identifier, voxels, {})

    def _holds_case(self, configuration: dict[str, Any]) -> bool:
        return bool(np.all(np.array(configuration["patch_size"]) >= configuration["median_image_size_in_voxels"]))

    def _initial_patch(self, spacing: np.ndarray, median_shape: np.ndarray) -> np.ndarray:
        aspect = 1 / np.asarray(spacing)
        patch = np.round(aspect * (256**3 / np.prod(aspect)) ** (1 / 3))  # volume of 256^3 voxels
        patch = np.minimum(patch, median_shape)
        stride = self.topology.stride
        largest = max(self.max_patch_edge // stride, 1) * stride
        clipped = np.clip(np.ceil(patch / stride) * stride, stride, largest).astype(int)
        if np.all(clipped == stride):  # norms over space need two voxels in the deepest map
            if largest == stride:
                raise InputError(
                    "--max-patch-edge",
                    found=f"{self.max_patch_edge} voxels, one total stride of {self.topology.name}",
                    expected=f"at least {2 * stride}",
                    fix="Allow longer edges, or choose an --encoder with a smaller stride.",
                )
            clipped[int(np.argmax(median_shape))] = 2 * stride
        return clipped

    def _shrink(self, patch: np.ndarray, median_shape: np.ndarray) -> np.ndarray:
        stride = self.topology.stride
        deepest = patch // stride
        shrinkable = (patch > stride) & (np.prod(deepest) // deepest * (deepest - 1) > 1)
        if not shrinkable.any():
            raise InputError(
                "--memory-gb",
                found=f"{self.UNet_vram_target_GB} GB, too little for a patch of {_times(patch)} voxels "
                f"with {self.topology.name}",
                expected="a budget in which two patches fit",
                fix="Give more memory or a smaller --encoder.",
            )
        axis = int(np.argmax(np.where(shrinkable, patch / np.asarray(median_shape), -np.inf)))
        smaller = patch.copy()
        smaller[axis] -= stride
        return smaller

    def _feature_map_size(self, patch: Any) -> int:
        if self._network is None:
            architecture = self.topology.architecture()
            self._network = get_network_from_plans(
                architecture["network_class_name"],
                architecture["arch_kwargs"],
                architecture["_kw_requires_import"],
                len(self.dataset_json["channel_names"]),
                len(self.dataset_json["labels"]),
                allow_init=False,
            )
        return int(self._network.compute_conv_feature_map_size([int(i) for i in patch]))


def _times(values: np.ndarray) -> str:
    return " x ".join(str(int(v)) for v in values)
