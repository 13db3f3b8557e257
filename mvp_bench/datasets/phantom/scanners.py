"""Five synthetic scanners. Their sequences differ as those of hospitals do, so that contrast varies between sites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from mvp_bench.datasets.phantom import signal
from mvp_bench.datasets.phantom.spline import Array
from mvp_bench.datasets.phantom.tissue import NAMES, RELAXIVITY_R1, RELAXIVITY_R2, TISSUES

PSIR_OFFSET = 0.6
"""Grey level of nulled tissue in a phase-sensitive inversion recovery, as part of its proton density."""
FAT_SUPPRESSION = 0.9


@dataclass(frozen=True)
class Sequence:
    """Timing of one sequence.

    Attributes:
        kind: "se", "ir" (magnitude), "psir" (inversion recovery with sign), "spgr", "mprage", "dwi", "tof".
        tr, te, ti: repetition, echo and inversion time in ms.
        flip: flip angle in degrees.
        b: diffusion weighting in s/mm2.
        echoes, spacing: pulses in a read-out train and their distance in ms (mprage).
        thickness_mm: slice thickness; blurs along ``slice_axis`` (0 left-right, 1 posterior-anterior, 2 up).
    """

    kind: str
    tr: float
    te: float
    ti: float = 0.0
    flip: float = 90.0
    b: float = 0.0
    echoes: int = 160
    spacing: float = 7.0
    thickness_mm: float = 1.0
    slice_axis: int = 2


@dataclass(frozen=True)
class Scanner:
    """A site.

    Attributes:
        sequences: modality -> sequence (t1c uses t1c's, adc the dwi's).
        noise: standard deviation of each channel's noise as part of the white-matter signal.
        bias: standard deviation of the log of the receive field.
        bias_knots_mm: knot spacing of that field.
        blur_mm: full width at half maximum of the in-plane point spread function.
        contrast: factor on the concentration of contrast agent (dose and delay).
        gain: grey value of white matter on t1; other modalities follow within a factor of two.
        distortion: strength of susceptibility artefacts in echo-planar images.
    """

    name: str
    sequences: Mapping[str, Sequence]
    noise: float
    bias: float
    blur_mm: float
    contrast: float
    gain: float
    distortion: float
    bias_knots_mm: float = 70.0


SCANNERS: tuple[Scanner, ...] = (
    Scanner(
        "siteA",
        {
            "t1": Sequence("mprage", 2300, 3.0, ti=900, flip=9, thickness_mm=1.0),
            "t1c": Sequence("mprage", 2300, 3.0, ti=900, flip=9, thickness_mm=1.0),
            "t2": Sequence("se", 5000, 95, thickness_mm=2.0),
            "pd": Sequence("se", 3500, 14, thickness_mm=2.0),
            "flair": Sequence("ir", 9000, 120, ti=2500, thickness_mm=1.0),
            "dwi": Sequence("dwi", 6000, 75, b=1000, thickness_mm=2.0),
            "mra": Sequence("tof", 22, 3.5, flip=18, thickness_mm=0.8),
            "t1ir": Sequence("psir", 6000, 15, ti=650, thickness_mm=3.0),
        },
        noise=0.025, bias=0.10, blur_mm=1.2, contrast=1.0, gain=420, distortion=0.7,
    ),
    Scanner(
        "siteB",
        {
            "t1": Sequence("spgr", 9.0, 3.4, flip=15, thickness_mm=1.2, slice_axis=0),
            "t1c": Sequence("spgr", 9.0, 3.4, flip=15, thickness_mm=1.2, slice_axis=0),
            "t2": Sequence("se", 4200, 100, thickness_mm=4.0),
            "pd": Sequence("se", 2800, 20, thickness_mm=3.0),
            "flair": Sequence("ir", 10000, 140, ti=2600, thickness_mm=4.0),
            "dwi": Sequence("dwi", 8000, 90, b=1000, thickness_mm=4.0),
            "mra": Sequence("tof", 25, 4.5, flip=20, thickness_mm=1.0),
            "t1ir": Sequence("psir", 6500, 12, ti=720, thickness_mm=3.0),
        },
        noise=0.04, bias=0.16, blur_mm=1.5, contrast=0.85, gain=900, distortion=1.1,
    ),
    Scanner(
        "siteC",
        {
            "t1": Sequence("se", 600, 12, thickness_mm=3.0),
            "t1c": Sequence("se", 650, 12, thickness_mm=3.0),
            "t2": Sequence("se", 3800, 85, thickness_mm=3.0),
            "pd": Sequence("se", 2500, 15, thickness_mm=3.0),
            "flair": Sequence("ir", 8500, 100, ti=2350, thickness_mm=5.0),
            "dwi": Sequence("dwi", 5000, 100, b=1000, thickness_mm=5.0),
            "mra": Sequence("tof", 30, 6.0, flip=22, thickness_mm=1.4),
            "t1ir": Sequence("psir", 5500, 20, ti=620, thickness_mm=3.0),
        },
        noise=0.05, bias=0.13, blur_mm=1.8, contrast=1.25, gain=250, distortion=1.4,
    ),
    Scanner(
        "siteD",
        {
            "t1": Sequence("mprage", 1900, 2.6, ti=1000, flip=10, echoes=176, spacing=6.0, slice_axis=0),
            "t1c": Sequence("spgr", 7.0, 2.8, flip=12, thickness_mm=1.0),
            "t2": Sequence("se", 6000, 110, thickness_mm=1.5),
            "pd": Sequence("se", 4000, 11, thickness_mm=1.5),
            "flair": Sequence("ir", 6000, 150, ti=1950, thickness_mm=1.5),
            "dwi": Sequence("dwi", 4500, 65, b=1200, thickness_mm=2.0),
            "mra": Sequence("tof", 20, 3.0, flip=16, thickness_mm=0.7),
            "t1ir": Sequence("psir", 7000, 14, ti=680, thickness_mm=2.5),
        },
        noise=0.03, bias=0.20, blur_mm=1.0, contrast=1.1, gain=600, distortion=0.9,
    ),
    Scanner(
        "siteE",
        {
            "t1": Sequence("spgr", 12.0, 5.0, flip=20, thickness_mm=1.5),
            "t1c": Sequence("spgr", 12.0, 5.0, flip=20, thickness_mm=1.5),
            "t2": Sequence("se", 4800, 80, thickness_mm=5.0),
            "pd": Sequence("se", 3000, 25, thickness_mm=4.0),
            "flair": Sequence("ir", 11000, 125, ti=2750, thickness_mm=5.0),
            "dwi": Sequence("dwi", 7000, 85, b=900, thickness_mm=4.0),
            "mra": Sequence("tof", 28, 3.8, flip=25, thickness_mm=1.0),
            "t1ir": Sequence("psir", 6200, 18, ti=600, thickness_mm=4.0),
        },
        noise=0.06, bias=0.12, blur_mm=1.6, contrast=0.95, gain=1300, distortion=1.2,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Relaxation:
    """Tissue parameters of one subject, arrays in the order of :data:`tissue.NAMES`."""

    t1: Array
    t2: Array
    pd: Array
    adc: Array
    contrast: Array
    inflow: Array
    void: Array
    fat: Array
    """1 for fat and marrow, which echo-planar imaging suppresses."""

    @classmethod
    def draw(cls, rng: np.random.Generator, spread: float, contrast: float) -> Relaxation:
        """Literature values with a log-normal spread, and contrast agent scaled by ``contrast``."""
        table = [TISSUES[name] for name in NAMES]

        def column(attribute: str, sd: float) -> Array:
            values = np.array([getattr(tissue, attribute) for tissue in table])
            return (values * np.exp(rng.normal(0, sd, len(values)).clip(-2.5 * sd, 2.5 * sd))).astype(np.float32)

        return cls(
            t1=column("t1", spread),
            t2=column("t2", spread),
            pd=column("pd", spread / 3),
            adc=column("adc", spread),
            contrast=column("contrast_mm", 2 * spread) * np.float32(contrast),
            inflow=column("inflow", 0.0),
            void=column("flow_void", 0.0),
            fat=np.array([name in ("fat", "marrow") for name in NAMES], np.float32),
        )

    def enhanced(self) -> Relaxation:
        """After contrast agent."""
        t1, t2 = signal.with_contrast(self.t1, self.t2, self.contrast, RELAXIVITY_R1, RELAXIVITY_R2)
        return replace(self, t1=np.asarray(t1), t2=np.asarray(t2))


def tissue_signals(sequence: Sequence, tissue: Relaxation) -> Array:
    """Signal of every tissue, (tissues,), proton density of CSF = 1; not negative."""
    p, t1, t2, s = tissue.pd, tissue.t1, tissue.t2, sequence
    value: signal.Value
    if s.kind == "se":
        value = signal.spin_echo(p, t1, t2, s.tr, s.te) * (1 - tissue.void)
    elif s.kind == "ir":
        value = np.abs(signal.inversion_recovery(p, t1, t2, s.tr, s.te, s.ti)) * (1 - tissue.void)
    elif s.kind == "psir":
        value = signal.inversion_recovery(p, t1, t2, s.tr, s.te, s.ti) + PSIR_OFFSET * p
    elif s.kind == "spgr":
        value = signal.spoiled_gradient_echo(p, t1, t2, s.tr, s.te, s.flip)
    elif s.kind == "mprage":
        value = np.abs(signal.magnetisation_prepared(p, t1, t2, s.tr, s.te, s.ti, s.flip, s.echoes, s.spacing))
    elif s.kind == "dwi":
        value = signal.spin_echo(p, t1, t2, s.tr, s.te) * (1 - tissue.void) * (1 - FAT_SUPPRESSION * tissue.fat)
    elif s.kind == "tof":
        value = signal.time_of_flight(p, t1, t2, tissue.inflow, s.tr, s.te, s.flip)
    else:
        raise ValueError(f"unknown sequence kind {s.kind!r}")
    return np.maximum(np.asarray(value, np.float32), 0)
