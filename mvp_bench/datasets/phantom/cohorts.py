"""The recipe of every dataset's phantom: who is in it, what they have, on which grid. All knobs meet here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from mvp_bench.datasets.phantom import grids
from mvp_bench.datasets.phantom.acquisition import AcquisitionConfig
from mvp_bench.datasets.phantom.deformation import ShapeConfig
from mvp_bench.datasets.phantom.grids import GridRule
from mvp_bench.datasets.phantom.pathology.atrophy import (
    ATTENTION_REGIONS,
    AUTISM_REGIONS,
    MedialTemporalAtrophy,
    RegionalDifference,
)
from mvp_bench.datasets.phantom.pathology.common import BRATS_2021, BRATS_2023, Healthy, Pathology
from mvp_bench.datasets.phantom.pathology.glioma import DIFFUSE_MIDLINE, HIGH_GRADE, LOW_GRADE, Glioma
from mvp_bench.datasets.phantom.pathology.infarct import Infarct
from mvp_bench.datasets.phantom.pathology.meningioma import Meningioma
from mvp_bench.datasets.phantom.pathology.metastasis import Metastases
from mvp_bench.datasets.phantom.pathology.schwannoma import Schwannoma
from mvp_bench.datasets.phantom.scanners import SCANNERS
from mvp_bench.datasets.phantom.variants import VariantConfig

GRADIENT_ECHO = (0, 1, 3, 4)
"""The scanners whose t1 is MPRAGE or spoiled gradient echo, as in all volumetric studies."""
YOUNG = ShapeConfig(ventricle_mm=(0.2, 0.5), sulci=(0.05, 0.05))
"""Normal spread of ventricles and sulci before ageing; the studies' own latents come on top."""
STRUCTURAL = ("t1", "t1c", "t2", "flair")
_RARELY = ((("t1",), 0.02), (("t2",), 0.03), (("flair",), 0.03))


@dataclass(frozen=True)
class Cohort:
    """One dataset.

    Attributes:
        dataset: id.
        modalities: those of the release, in its own order.
        pathology: what the subjects have.
        grids: one of these rules per subject, drawn.
        mask: "strip" for skull-stripped releases, "head" for others.
        mask_edge: range of how tightly the mask is cut, 0 (wide) to 1 (tight).
        age: range in years.
        classes: names, dealt out in turn; ``class_weights`` how many of each in a round.
        class_weights: see above.
        label_values: mask values that occur.
        tissue_labels: the mask holds tissue classes instead of lesions.
        missing: (modalities, probability) that a subject lacks them together.
        slabs: modality -> lowest and highest height in mm that it covers.
        scanners: which of scanners.SCANNERS took part.
        ageing: how much age widens ventricles and sulci (0: not at all).
        acquisition, shape, variants: how much subjects and scans differ.
    """

    dataset: int
    modalities: tuple[str, ...]
    pathology: Pathology
    grids: tuple[GridRule, ...] = (grids.BRATS,)
    mask: str = "strip"
    mask_edge: tuple[float, float] = (0.45, 0.85)
    age: tuple[float, float] = (30.0, 80.0)
    classes: tuple[str, ...] = ()
    class_weights: tuple[int, ...] = ()
    label_values: tuple[int, ...] = ()
    tissue_labels: bool = False
    missing: tuple[tuple[tuple[str, ...], float], ...] = ()
    slabs: dict[str, tuple[float, float]] = field(default_factory=dict)
    scanners: tuple[int, ...] = tuple(range(len(SCANNERS)))
    ageing: float = 1.0
    acquisition: AcquisitionConfig = field(default_factory=AcquisitionConfig)
    shape: ShapeConfig = field(default_factory=ShapeConfig)
    variants: VariantConfig = field(default_factory=VariantConfig)

    @property
    def has_labels(self) -> bool:
        """Whether there is a mask."""
        return bool(self.label_values)

    def class_of(self, index: int) -> str | None:
        """Class of a subject: dealt out in turn by the weights, so that every prefix of the cohort is near balance."""
        if not self.classes:
            return None
        weights = self.class_weights or (1,) * len(self.classes)
        dealt = [
            name for turn in range(max(weights)) for name, w in zip(self.classes, weights, strict=True) if turn < w
        ]
        return dealt[index % len(dealt)]


COHORTS: dict[int, Cohort] = {
    cohort.dataset: cohort
    for cohort in (
        Cohort(
            501,
            STRUCTURAL,
            Glioma((("", DIFFUSE_MIDLINE),), labels=BRATS_2023),
            age=(3.0, 16.0),
            label_values=(1, 2, 3),
            ageing=0.0,
        ),
        Cohort(502, STRUCTURAL, Metastases(labels=BRATS_2023), age=(40.0, 80.0), label_values=(1, 2, 3)),
        Cohort(
            503,
            ("dwi", "adc", "flair"),
            Infarct(),
            grids=(grids.ISLES_THIN, grids.ISLES_THIN, grids.ISLES_THIN, grids.ISLES_THICK),
            age=(45.0, 90.0),
            label_values=(1,),
        ),
        Cohort(
            504,
            ("t1", "t1ir", "flair"),
            Healthy(),
            grids=(grids.MRBRAINS,),
            mask="head",
            age=(55.0, 85.0),
            label_values=(1, 2, 3),
            tissue_labels=True,
            acquisition=AcquisitionConfig(noise=1.4),
        ),
        Cohort(
            505, STRUCTURAL, Glioma((("", HIGH_GRADE),), labels=BRATS_2021), age=(40.0, 80.0), label_values=(1, 2, 4)
        ),
        Cohort(
            506,
            ("t1c", "t2"),
            Schwannoma(),
            grids=(grids.VS,),
            mask="head",
            age=(25.0, 80.0),
            label_values=(1,),
            acquisition=AcquisitionConfig(thickness=0.6),
        ),
        Cohort(
            511,
            STRUCTURAL,
            Glioma((("HGG", HIGH_GRADE), ("LGG", LOW_GRADE)), atypical=0.05, labels=BRATS_2021),
            age=(25.0, 75.0),
            classes=("HGG", "LGG"),
            class_weights=(2, 1),
            label_values=(1, 2, 4),
        ),
        Cohort(
            512,
            ("t1",),
            MedialTemporalAtrophy(),
            grids=(grids.SAGITTAL_T1,),
            mask="head",
            age=(60.0, 88.0),
            classes=("CN", "MCI"),
            scanners=GRADIENT_ECHO,
            ageing=0.5,
            acquisition=AcquisitionConfig(noise=0.8, bias=0.4),
        ),
        Cohort(
            513,
            ("t1",),
            RegionalDifference("ADHD", ATTENTION_REGIONS),
            grids=(grids.SAGITTAL_T1,),
            mask="head",
            age=(7.0, 20.0),
            classes=("NC", "ADHD"),
            scanners=GRADIENT_ECHO,
            ageing=0.0,
            acquisition=AcquisitionConfig(noise=0.7, bias=0.5),
            shape=YOUNG,
        ),
        Cohort(
            514,
            ("t1",),
            RegionalDifference("ASD", AUTISM_REGIONS),
            grids=(grids.SAGITTAL_T1,),
            mask="head",
            age=(7.0, 40.0),
            classes=("NC", "ASD"),
            scanners=GRADIENT_ECHO,
            ageing=0.0,
            acquisition=AcquisitionConfig(noise=0.7, bias=0.5),
            shape=YOUNG,
        ),
        Cohort(
            521,
            STRUCTURAL,
            Glioma((("", HIGH_GRADE), ("", LOW_GRADE)), labels=BRATS_2021),
            label_values=(1, 2, 4),
            missing=_RARELY,
        ),
        Cohort(
            522,
            STRUCTURAL,
            Glioma((("", HIGH_GRADE), ("", LOW_GRADE)), labels=BRATS_2023),
            age=(20.0, 70.0),
            label_values=(1, 2, 3),
            missing=_RARELY,
            acquisition=AcquisitionConfig(noise=1.3, thickness=1.5),
        ),
        Cohort(523, STRUCTURAL, Meningioma(labels=BRATS_2023), label_values=(1, 2, 3), missing=_RARELY),
        Cohort(
            524,
            (*STRUCTURAL, "dwi", "adc"),
            Glioma((("", HIGH_GRADE), ("", LOW_GRADE)), labels=BRATS_2021),
            label_values=(1, 2, 4),
            missing=((("dwi", "adc"), 0.15), (("adc",), 0.08), (("t2",), 0.05)),
            acquisition=AcquisitionConfig(noise=0.9),
        ),
        Cohort(
            525,
            ("t1", "t2", "pd", "mra"),
            Healthy(),
            grids=(grids.IXI,),
            mask="head",
            age=(20.0, 86.0),
            missing=((("mra",), 0.25), (("pd",), 0.06), (("t2",), 0.04)),
            slabs={"mra": (-55.0, 40.0)},
        ),
    )
}
"""Dataset id -> recipe."""


def cohort_of(dataset: int, modalities: tuple[str, ...] | None = None) -> Cohort:
    """Recipe of a dataset.

    Args:
        dataset: id, 501-506, 511-514 or 521-525.
        modalities: the card's, in its order; default the recipe's own.

    Raises:
        KeyError: if there is no phantom of it.
    """
    cohort = COHORTS[dataset]
    return cohort if modalities is None else replace(cohort, modalities=modalities)
