"""ISLES 2022, MRBrainS13, Vestibular-Schwannoma-SEG and IXI."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from mvp_bench.datasets.phantom.releases.base import LABEL, Record, ReleaseLayout, Stored, table
from mvp_bench.datasets.phantom.subject import Person

_ADC_UNITS = ((1.0, True), (1.0, True), (1e-3, False), (1e-6, False), (1.0, True))
"""Per site: factor from 1e-6 mm2/s to what is stored (the release mixes 1e-6, 1e-3 and 1 mm2/s), and whether whole."""


@dataclass(frozen=True)
class Isles:
    """``ISLES-2022``, the Zenodo tree: images in a BIDS session, masks under ``derivatives``."""

    top: str = "ISLES-2022"

    def patient(self, index: int, count: int, person: Person) -> str:
        """``sub-strokecaseNNNN``."""
        return f"sub-strokecase{index + 1:04d}"

    def files(self, index: int, count: int, person: Person) -> dict[str, Stored]:
        """DWI and ADC in ``dwi/``, FLAIR in ``anat/``."""
        subject = self.patient(index, count, person)
        stem, session = f"{subject}_ses-0001", f"{subject}/ses-0001"
        scale, whole = _ADC_UNITS[person.site]
        return {
            "dwi": Stored(f"{session}/dwi/{stem}_dwi.nii.gz"),
            "adc": Stored(f"{session}/dwi/{stem}_adc.nii.gz", scale, whole),
            "flair": Stored(f"{session}/anat/{stem}_FLAIR.nii.gz"),
            LABEL: Stored(f"derivatives/{session}/{stem}_msk.nii.gz"),
        }

    def tables(self, records: Sequence[Record]) -> dict[str, str]:
        """BIDS' own files."""
        rows = [(r["patient"], r["age"], r["sex"]) for r in records]
        description = {"Name": "ISLES 2022 (phantom)", "BIDSVersion": "1.6.0"}
        return {
            "participants.tsv": table(["participant_id", "age", "sex"], rows, delimiter="\t"),
            "dataset_description.json": json.dumps(description, indent=1) + "\n",
        }


@dataclass(frozen=True)
class MrBrains:
    """``TrainingData/<n>/`` and ``TestData/<n>/``, both counted from 1; a quarter is training data, as in the release.

    The real test folders hold no labels; a phantom's do, so that all its cases can be used.
    """

    top: str = "MRBrainS13DataNii"

    def patient(self, index: int, count: int, person: Person) -> str:
        """Set and number, for instance ``training_01``."""
        part, number = self._place(index, count)
        return f"{part.removesuffix('Data').lower()}_{number:02d}"

    def files(self, index: int, count: int, person: Person) -> dict[str, Stored]:
        """Uncompressed, without the case in the file's name."""
        part, number = self._place(index, count)
        names = {"t1": "T1", "t1ir": "T1_IR", "flair": "T2_FLAIR", LABEL: "LabelsForTesting"}
        return {modality: Stored(f"{part}/{number}/{name}.nii") for modality, name in names.items()}

    def tables(self, records: Sequence[Record]) -> dict[str, str]:
        """None."""
        return {}

    def _place(self, index: int, count: int) -> tuple[str, int]:
        training = max(1, round(count / 4))
        return ("TrainingData", index + 1) if index < training else ("TestData", index - training + 1)


@dataclass(frozen=True)
class VsSeg:
    """As the release's official conversion writes it: ``vs_gk_<n>/vs_gk_t1_refT1.nii.gz``; T1 is after contrast."""

    top: str = "Vestibular-Schwannoma-SEG"

    def patient(self, index: int, count: int, person: Person) -> str:
        """``vs_gk_<n>``."""
        return f"vs_gk_{index + 1}"

    def files(self, index: int, count: int, person: Person) -> dict[str, Stored]:
        """T2 on the grid of T1."""
        names = {"t1c": "t1_refT1", "t2": "t2_refT1", LABEL: "seg_refT1"}
        folder = self.patient(index, count, person)
        return {modality: Stored(f"{folder}/vs_gk_{name}.nii.gz") for modality, name in names.items()}

    def tables(self, records: Sequence[Record]) -> dict[str, str]:
        """None."""
        return {}


_IXI_SITES = ("Guys", "Guys", "HH", "HH", "IOP")


@dataclass(frozen=True)
class Ixi:
    """Four folders, one per archive: ``IXI-T1/IXI002-Guys-0828-T1.nii.gz``."""

    top: str = "IXI"

    def patient(self, index: int, count: int, person: Person) -> str:
        """``IXInnn``."""
        return f"IXI{index + 2:03d}"

    def files(self, index: int, count: int, person: Person) -> dict[str, Stored]:
        """Flat in each folder."""
        stem = f"{self.patient(index, count, person)}-{_IXI_SITES[person.site]}-{700 + index:04d}"
        names = {"t1": "T1", "t2": "T2", "pd": "PD", "mra": "MRA"}
        return {modality: Stored(f"IXI-{name}/{stem}-{name}.nii.gz") for modality, name in names.items()}

    def tables(self, records: Sequence[Record]) -> dict[str, str]:
        """None (the real one is an Excel file that no converter needs)."""
        return {}


OTHER_LAYOUTS: dict[int, ReleaseLayout] = {503: Isles(), 504: MrBrains(), 506: VsSeg(), 525: Ixi()}
