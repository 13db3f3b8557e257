"""The way from tissue fractions to images as a scanner would deliver them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from mvp_bench.datasets.phantom.artefacts import distort_echo_planar, slice_gaps
from mvp_bench.datasets.phantom.scanners import Relaxation, Scanner, Sequence, tissue_signals
from mvp_bench.datasets.phantom.scene import Scene
from mvp_bench.datasets.phantom.spline import Array
from mvp_bench.datasets.phantom.tissue import INDEX

_BOX = 0.29
"""Standard deviation of a box profile of width 1: 1 / sqrt(12)."""
_FWHM = 1 / 2.355
_ADC_MAX = 4.0
_RELATIVE_GAIN = {"t1": 1.0, "t1c": 1.0, "t2": 0.7, "pd": 1.0, "flair": 0.6, "dwi": 0.5, "mra": 0.4, "t1ir": 1.2}
"""White matter's grey value relative to that on t1."""


@dataclass(frozen=True)
class AcquisitionConfig:
    """How much subjects differ beyond their scanner.

    Attributes:
        relaxation_spread: log standard deviation of T1, T2 and ADC between subjects.
        timing_spread: log standard deviation of TR, TE and TI.
        noise: factor on every scanner's noise.
        bias: factor on the shading (below 1: corrected, as some releases are).
        texture: standard deviation of tissue signal within a subject, over ``texture_mm``.
        slice_gap: standard deviation of the gain from slice to slice in thick-sliced diffusion images.
    """

    relaxation_spread: float = 0.05
    timing_spread: float = 0.04
    noise: float = 1.0
    bias: float = 1.0
    texture: float = 0.03
    texture_mm: float = 4.0
    slice_gap: float = 0.04
    thickness: float = 1.0
    """Factor on every sequence's slice thickness."""


def acquire(
    scene: Scene,
    modalities: list[str],
    scanner: Scanner,
    config: AcquisitionConfig,
    rng: np.random.Generator,
    noise_rng: np.random.Generator,
) -> dict[str, Array]:
    """Images (crop shape, float32, grey values; 0 outside the mask) of every modality asked for.

    ADC comes in 1e-6 mm2/s, computed from the noisy images with and without diffusion weighting.
    """
    relaxation = Relaxation.draw(rng, config.relaxation_spread, scanner.contrast * float(np.exp(rng.normal(0, 0.15))))
    shading = scene.noise(rng, scanner.bias_knots_mm)
    texture = 1 + config.texture * scene.noise(rng, config.texture_mm)
    inside = scene.inside
    images: dict[str, Array] = {}
    for modality in sorted(set(modalities) - {"adc"} | ({"dwi"} if "adc" in modalities else set())):
        sequence = _vary(scanner.sequences[modality], config, rng)
        strength = scanner.bias * config.bias * float(rng.uniform(0.6, 1.4)) * float(rng.choice((-1, 1)))
        gain = scanner.gain * _RELATIVE_GAIN[modality] * float(np.exp(rng.normal(0, 0.2)))
        blur = (scanner.blur_mm * float(rng.uniform(0.8, 1.25)), config.thickness)
        current = relaxation.enhanced() if modality == "t1c" else relaxation
        signals = tissue_signals(sequence, current)
        white = float(signals[INDEX["wm"]])
        sigma = scanner.noise * config.noise * float(rng.uniform(0.7, 1.3))
        field = np.exp(strength * shading) * texture
        clean = _blurred(scene, scene.fractions @ (signals / white), sequence, blur) * field
        if modality != "dwi":
            images[modality] = gain * _rician(clean, sigma, noise_rng) * inside
            continue
        weighted_signals = signals * np.exp(-sequence.b * relaxation.adc * 1e-3)
        weighted = _blurred(scene, scene.fractions @ (weighted_signals / white), sequence, blur) * field
        artefact = distort_echo_planar(scene, scanner.distortion, rng)
        artefact *= slice_gaps(scene, config.slice_gap, rng)
        b0 = _rician(clean * artefact, sigma, noise_rng)
        dwi = _rician(weighted * artefact, sigma, noise_rng)
        if "dwi" in modalities:
            images["dwi"] = 2 * gain * dwi * inside
        if "adc" in modalities:
            ratio = np.maximum(b0, 1e-3) / np.maximum(dwi, 1e-3)
            images["adc"] = 1e3 * np.clip(np.log(ratio) * 1e3 / sequence.b, 0, _ADC_MAX) * inside
    return {modality: scene.dense(images[modality].astype(np.float32)) for modality in modalities}


def _vary(sequence: Sequence, config: AcquisitionConfig, rng: np.random.Generator) -> Sequence:
    tr, te, ti = np.exp(rng.normal(0, config.timing_spread, 3).clip(-0.1, 0.1))
    values = {**sequence.__dict__, "tr": sequence.tr * tr, "te": sequence.te * te, "ti": sequence.ti * ti}
    return Sequence(**values)


def _blurred(scene: Scene, values: Array, sequence: Sequence, blur: tuple[float, float]) -> Array:
    """Point spread and slice profile; the voxel's own width counts where it is the larger one."""
    sigma = []
    for axis, edge in enumerate(scene.grid.edges):
        spread = blur[0] * _FWHM
        if axis == sequence.slice_axis:
            spread = max(spread, _BOX * max(sequence.thickness_mm * blur[1], edge))
        sigma.append(max(spread, 0.2 * edge) / edge)
    dense = scene.dense(values.astype(np.float32))
    return ndimage.gaussian_filter(dense, sigma, truncate=2.5, mode="nearest").reshape(-1)[scene.rows]


def _rician(clean: Array, sigma: float, rng: np.random.Generator) -> Array:
    """Magnitude of a complex signal with Gaussian noise in both channels."""
    noise = rng.standard_normal((2, len(clean)), dtype=np.float32) * np.float32(sigma)
    return np.sqrt((clean + noise[0]) ** 2 + noise[1] ** 2)
