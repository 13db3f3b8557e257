"""Signal equations against closed forms and limits; tissue contrast as radiologists know it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvp_bench.datasets.phantom import signal
from mvp_bench.datasets.phantom.scanners import SCANNERS, Relaxation, tissue_signals
from mvp_bench.datasets.phantom.tissue import INDEX, NAMES, TISSUES

TIMES = st.floats(50, 4500)


@given(TIMES, st.floats(20, 2000))
def test_spin_echo_limits(t1: float, t2: float) -> None:
    assert signal.spin_echo(0.8, t1, t2, tr=1e7, te=0.0) == pytest.approx(0.8)
    assert signal.spin_echo(1.0, t1, t2, tr=t1 * np.log(2), te=t2 * np.log(4)) == pytest.approx(0.125)


@given(TIMES)
def test_inversion_recovery_nulls_at_the_known_time(t1: float) -> None:
    tr = 9000.0
    null = -t1 * np.log((1 + np.exp(-tr / t1)) / 2)
    assert signal.inversion_recovery(1.0, t1, 100.0, tr, 10.0, null) == pytest.approx(0, abs=1e-9)
    assert signal.inversion_recovery(1.0, t1, 100.0, 1e7, 0.0, 0.0) == pytest.approx(-1)


@given(TIMES, st.floats(3, 50))
def test_ernst_angle_gives_the_largest_signal(t1: float, tr: float) -> None:
    best = np.degrees(np.arccos(np.exp(-tr / t1)))
    at = [signal.spoiled_gradient_echo(1.0, t1, 1e9, tr, 0.0, angle) for angle in (best - 1, best, best + 1)]
    assert at[1] >= max(at[0], at[2])
    assert at[1] == pytest.approx(np.sqrt((1 - np.exp(-tr / t1)) / (1 + np.exp(-tr / t1))))


@given(st.floats(300, 4300), st.floats(1, 15))
def test_mprage_equals_the_simulated_cycle(t1: float, flip: float) -> None:
    tr, ti, echoes, spacing = 2300.0, 900.0, 160, 7.0
    m, middle = 1.0, 0.0
    for _ in range(60):
        m = 1 - (1 + m) * np.exp(-(ti - echoes * spacing / 2) / t1)
        for pulse in range(echoes):
            middle = m if pulse == echoes // 2 else middle
            m = 1 - (1 - m * np.cos(np.deg2rad(flip))) * np.exp(-spacing / t1)
        m = 1 - (1 - m) * np.exp(-(tr - ti - echoes * spacing / 2) / t1)
    value = signal.magnetisation_prepared(1.0, t1, 1e12, tr, 0.0, ti, flip, echoes, spacing)
    assert value == pytest.approx(np.sin(np.deg2rad(flip)) * middle, abs=1e-6)


def test_diffusion_flow_and_contrast() -> None:
    assert signal.diffusion(1.0, 1000, 0.7) == pytest.approx(np.exp(-0.7))
    static = signal.spoiled_gradient_echo(0.8, 900.0, 70.0, 25, 4, 20)
    assert signal.time_of_flight(0.8, 900.0, 70.0, 0.0, 25, 4, 20) == pytest.approx(static)
    fresh = 0.8 * np.sin(np.deg2rad(20)) * np.exp(-4 / 70)
    assert signal.time_of_flight(0.8, 900.0, 70.0, 1.0, 25, 4, 20) == pytest.approx(fresh)
    t1, t2 = signal.with_contrast(1000.0, 100.0, 1.0, 4.0, 5.0)
    assert t1 == pytest.approx(1000 / 5) and t2 == pytest.approx(100 / 1.5)


@pytest.mark.parametrize("scanner", SCANNERS, ids=lambda s: s.name)
def test_contrast_is_what_a_radiologist_expects(scanner) -> None:  # type: ignore[no-untyped-def]
    tissue = Relaxation.draw(np.random.default_rng(0), 0.0, scanner.contrast)

    def seen(modality: str) -> dict[str, float]:
        values = tissue_signals(scanner.sequences[modality], tissue.enhanced() if modality == "t1c" else tissue)
        if modality == "dwi":
            values = values * np.exp(-scanner.sequences["dwi"].b * tissue.adc * 1e-3)
        return {name: float(values[INDEX[name]]) for name in NAMES}

    t1, t1c, t2, flair, dwi, mra = (seen(m) for m in ("t1", "t1c", "t2", "flair", "dwi", "mra"))
    assert t1["wm"] > t1["gm"] > t1["csf"] and t1["fat"] > t1["wm"]
    assert t2["csf"] > t2["gm"] > t2["wm"] > t2["iron"]
    assert flair["csf"] < 0.5 * flair["wm"] and flair["wmh"] > flair["gm"] > flair["wm"]
    for name in ("enhancing", "choroid", "pituitary", "meningioma", "schwannoma"):
        assert t1c[name] > 1.5 * t1c["wm"], name
    assert t1c["vein"] > 2 * t1["vein"], "vessels enhance"
    before, after = (tissue_signals(scanner.sequences["t1c"], t)[INDEX["wm"]] for t in (tissue, tissue.enhanced()))
    assert 1 <= after / before < 1.1, "the blood-brain barrier holds"
    assert dwi["infarct"] > 1.2 * dwi["gm"] and dwi["csf"] < dwi["wm"]
    assert mra["artery"] > 2 * mra["wm"]


def test_five_scanners_differ_and_the_tissue_table_is_sound() -> None:
    assert len({s.name for s in SCANNERS}) == len(SCANNERS) >= 4
    ratios = [
        tissue_signals(s.sequences["t1"], Relaxation.draw(np.random.default_rng(0), 0.0, 1.0))[
            [INDEX["gm"], INDEX["wm"]]
        ]
        for s in SCANNERS
    ]
    grey_to_white = [float(gm / wm) for gm, wm in ratios]
    assert max(grey_to_white) - min(grey_to_white) > 0.1
    for name, entry in TISSUES.items():
        assert entry.t1 > entry.t2 > 0 and 0 < entry.pd <= 1 and entry.adc > 0, name
