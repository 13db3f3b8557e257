"""Tissues and their MR parameters at 3 T.

Relaxation times vary between reports by 10-20 %; the values are rounded means of the sources named, and every subject
gets its own within a few per cent. Sources (T1, T2 at 3 T unless noted):

[S05]  Stanisz et al., Magn Reson Med 54 (2005) 507: WM T1 1084, T2 69; GM T1 1820, T2 99; muscle T1 1412, T2 50;
       blood T1 1932, T2 275; optic nerve, marrow among others.
[W99]  Wansapura et al., J Magn Reson Imaging 9 (1999) 531: WM T1 832, T2 80; GM T1 1331, T2 110 (lower: the means of
       both are used for white and grey matter).
[B17]  Bojorquez et al., Magn Reson Imaging 35 (2017) 69, review of 3 T values: CSF T1 4163-4500, fat T1 371-382,
       T2 68-133, deep grey nuclei T1 1100-1500, T2 60-85.
[G03]  Gelman et al. (1.5/3 T, iron and transverse relaxation of deep nuclei): pallidum T2 about 50-55.
[L04]  Lu et al., Magn Reson Med 52 (2004) 679: blood T1 1664 (haematocrit 0.42); [Z13] Zhang et al. arterial T1 1779.
[H96]  Helenius et al., AJNR 23 (2002) 194 and Sener, AJNR 22 (2001): ADC of WM 0.70, cortex 0.83, deep grey 0.75, CSF
       3.0 (1e-3 mm2/s) in adults.
[G05]  de Graaf / Gold et al., AJR 183 (2004) 343: marrow T1 365, T2 133; fat T1 371; muscle T1 1420, T2 32.
[D14]  Du et al., bone: T1 about 140-240, T2* below 1 ms, so cortical bone is dark with every sequence used here.
[K02]  Steen, Kono et al., AJNR 22 (2001) 1081; Provenzale et al., Radiology 239 (2006) 632: glioma ADC solid part
       1.1-1.4, necrosis 2.0-2.4, peritumoral oedema 1.4-1.8; meningioma 0.8-0.95; schwannoma 1.3-1.5.
[O08]  Oh et al., J Magn Reson Imaging 21 (2005) 701; Hattingen et al. (quantitative maps): glioma T1 1500-1900,
       T2 120-180; vasogenic oedema T1 1300-1600, T2 120-160.
[W95]  Warach et al., Ann Neurol 37 (1995) 231; Schlaug et al., Neurology 49 (1997) 113: acute infarct ADC 0.35-0.55.
[G10]  proton densities relative to CSF = 1: Gelman et al., Mellin et al., WM 0.69, GM 0.81, blood 0.85, fat 0.9.
Relaxivity of gadolinium chelates in blood at 3 T, r1 3.3-3.9 and r2 5.2 per mM and s: Rohrer et al., Invest Radiol 40
(2005) 715.
"""

from __future__ import annotations

from dataclasses import dataclass

RELAXIVITY_R1 = 3.6
"""per mM and s, at 3 T [Rohrer 2005, mean of the linear and macrocyclic agents]."""
RELAXIVITY_R2 = 5.2
"""per mM and s."""


@dataclass(frozen=True)
class Tissue:
    """One compartment.

    Attributes:
        t1, t2: relaxation times in ms.
        pd: proton density relative to CSF.
        adc: apparent diffusion coefficient in 1e-3 mm2/s.
        contrast_mm: concentration of contrast agent in mmol/l some minutes after a single dose (0.1 mmol/kg); scaled
            per subject. The plasma holds about 1 mM then; tissue values follow from the leaky or blood volume.
        inflow: part of fully relaxed magnetisation that flows into a slab between pulses, 0 (static) to 1.
        flow_void: part of the signal lost in spin echoes because the blood leaves the slice, 0 to 1.
    """

    t1: float
    t2: float
    pd: float
    adc: float
    contrast_mm: float = 0.0
    inflow: float = 0.0
    flow_void: float = 0.0


TISSUES: dict[str, Tissue] = {
    # --- normal, stored in the atlas in this order
    "csf": Tissue(4300, 1600, 1.00, 3.00, 0.0),  # [B17, H96]; T2 1500-2000
    "gm": Tissue(1500, 98, 0.82, 0.83, 0.04),  # [S05, W99, H96]; 5 % blood
    "wm": Tissue(900, 71, 0.70, 0.72, 0.02),  # [S05, W99, H96]; 2 % blood
    "deep": Tissue(1250, 80, 0.78, 0.75, 0.03),  # caudate, putamen, thalamus [B17]
    "iron": Tissue(1050, 56, 0.74, 0.75, 0.03),  # pallidum, nigra, dentate [B17, G03]
    "artery": Tissue(1700, 200, 0.85, 1.50, 1.0, inflow=0.9, flow_void=0.85),  # [L04, S05]
    "vein": Tissue(1650, 90, 0.85, 1.50, 1.0, inflow=0.3, flow_void=0.6),  # [L04], deoxygenated T2 is shorter
    "choroid": Tissue(1600, 140, 0.85, 1.40, 0.65),  # fenestrated capillaries
    "pituitary": Tissue(1150, 85, 0.80, 0.90, 0.70),  # no blood-brain barrier
    "dura": Tissue(1000, 40, 0.60, 0.80, 0.35),
    "bone": Tissue(220, 1.0, 0.15, 0.20, 0.0),  # [D14]
    "marrow": Tissue(370, 110, 0.60, 0.30, 0.05),  # [G05, B17]
    "fat": Tissue(375, 90, 0.90, 0.05, 0.0),  # [B17, G05]
    "muscle": Tissue(1410, 42, 0.75, 1.50, 0.12),  # [S05, G05]
    # --- pathological
    "wmh": Tissue(1350, 115, 0.80, 1.05, 0.02),  # small-vessel lesion: gliosis and water
    "lacune": Tissue(3400, 900, 0.97, 2.60, 0.0),  # old infarct, fluid
    "oedema": Tissue(1500, 140, 0.86, 1.55, 0.03),  # [O08, K02]
    "tumour": Tissue(1650, 145, 0.88, 1.30, 0.05),  # solid, non-enhancing glioma [O08, K02]
    "enhancing": Tissue(1550, 118, 0.86, 1.10, 0.62),  # leaky glioma or metastasis [O08, K02]
    "necrosis": Tissue(2700, 330, 0.95, 2.10, 0.03),  # [K02], proteinaceous fluid
    "haemorrhage": Tissue(800, 45, 0.80, 0.70, 0.05),  # subacute: short T1, short T2
    "infarct": Tissue(1280, 90, 0.78, 0.42, 0.04),  # first hours: water as before, ADC halved [W95]
    "infarct_late": Tissue(1850, 165, 0.90, 0.52, 0.06),  # a day: vasogenic oedema adds water
    "meningioma": Tissue(1400, 82, 0.82, 0.90, 0.80),  # [K02]
    "schwannoma": Tissue(1550, 112, 0.86, 1.40, 0.75),  # [K02]
}
NAMES: tuple[str, ...] = tuple(TISSUES)
NORMAL: tuple[str, ...] = NAMES[: NAMES.index("wmh")]
INDEX: dict[str, int] = {name: i for i, name in enumerate(NAMES)}
