"""MR signal equations: steady-state magnetisation of a tissue under a pulse sequence. Times in ms, angles in degrees.

Formulas as in Bernstein, King & Zhou, Handbook of MRI Pulse Sequences (2004), chapters 14, 16 and 17, and Haacke et
al., Magnetic Resonance Imaging (1999), chapters 8, 18 and 24. All functions work on numbers and on arrays.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Value = float | npt.NDArray[np.floating]


def spin_echo(pd: Value, t1: Value, t2: Value, tr: float, te: float) -> Value:
    """Spin echo (also turbo spin echo, with its effective echo time): PD (1 - exp(-TR/T1)) exp(-TE/T2)."""
    return pd * (1 - np.exp(-tr / np.asarray(t1))) * np.exp(-te / np.asarray(t2))


def inversion_recovery(pd: Value, t1: Value, t2: Value, tr: float, te: float, ti: float) -> Value:
    """Inversion-recovery spin echo, with sign: PD (1 - 2 exp(-TI/T1) + exp(-TR/T1)) exp(-TE/T2)."""
    t1 = np.asarray(t1)
    return pd * (1 - 2 * np.exp(-ti / t1) + np.exp(-tr / t1)) * np.exp(-te / np.asarray(t2))


def spoiled_gradient_echo(pd: Value, t1: Value, t2: Value, tr: float, te: float, flip: float) -> Value:
    """Ernst's formula: PD sin(a) (1 - E1) / (1 - E1 cos(a)) exp(-TE/T2), E1 = exp(-TR/T1)."""
    e1, angle = np.exp(-tr / np.asarray(t1)), np.deg2rad(flip)
    return pd * np.sin(angle) * (1 - e1) / (1 - e1 * np.cos(angle)) * np.exp(-te / np.asarray(t2))


def magnetisation_prepared(
    pd: Value, t1: Value, t2: Value, tr: float, te: float, ti: float, flip: float, echoes: int, spacing: float
) -> Value:
    """MPRAGE with sign, at the middle of its read-out train of ``echoes`` pulses ``spacing`` ms apart.

    The cycle (inversion, recovery, train, recovery) maps the longitudinal magnetisation m to a m + b; its fixed point
    is the steady state (Marques et al., NeuroImage 49 (2010) 1271, equation 1 for one train).
    """
    t1 = np.asarray(t1)
    before, after = ti - echoes * spacing / 2, tr - ti - echoes * spacing / 2
    angle, e1 = np.deg2rad(flip), np.exp(-spacing / t1)
    shrink = np.cos(angle) * e1

    def recover(slope: Value, offset: Value, time: float) -> tuple[Value, Value]:
        e = np.exp(-time / t1)
        return slope * e, offset * e + 1 - e

    def pulses(slope: Value, offset: Value, count: int) -> tuple[Value, Value]:
        factor = shrink**count
        return slope * factor, offset * factor + (1 - e1) * (1 - factor) / (1 - shrink)

    middle = pulses(*recover(-1.0, 0.0, before), echoes // 2)
    a, b = recover(*pulses(*middle, echoes - echoes // 2), after)
    steady = b / (1 - a)
    return pd * np.sin(angle) * (middle[0] * steady + middle[1]) * np.exp(-te / np.asarray(t2))


def diffusion(unweighted: Value, b: float, adc: Value) -> Value:
    """S0 exp(-b ADC); b in s/mm2, ADC in 1e-3 mm2/s."""
    return unweighted * np.exp(-b * np.asarray(adc) * 1e-3)


def time_of_flight(pd: Value, t1: Value, t2: Value, inflow: Value, tr: float, te: float, flip: float) -> Value:
    """Gradient echo in which a part ``inflow`` of the spins arrives fully relaxed and gives PD sin(a) exp(-TE/T2)."""
    fresh = pd * np.sin(np.deg2rad(flip)) * np.exp(-te / np.asarray(t2))
    inflow = np.asarray(inflow)
    return (1 - inflow) * spoiled_gradient_echo(pd, t1, t2, tr, te, flip) + inflow * fresh


def with_contrast(t1: Value, t2: Value, millimolar: Value, r1: float, r2: float) -> tuple[Value, Value]:
    """Relaxation times in ms after contrast agent: 1/T = 1/T0 + r C / 1000."""
    c = np.asarray(millimolar)
    return 1 / (1 / np.asarray(t1) + r1 * c / 1000), 1 / (1 / np.asarray(t2) + r2 * c / 1000)
