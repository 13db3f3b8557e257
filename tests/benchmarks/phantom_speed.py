"""Seconds per phantom subject on one core: ``python tests/benchmarks/phantom_speed.py [spacing_mm] [subjects]``.

The bar is 0.7 s per four-modality subject at 2 mm, writing included. The atlas, built once per process, is not counted.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from mvp_bench.datasets.phantom.anatomy import load_atlas
from mvp_bench.datasets.phantom.cohorts import COHORTS
from mvp_bench.datasets.phantom.release import write_patient
from mvp_bench.datasets.phantom.subject import resolutions


def main(spacing_mm: float, subjects: int) -> None:
    """Print the seconds of every dataset."""
    start = time.perf_counter()
    for resolution in resolutions(spacing_mm):
        load_atlas(resolution)
    print(f"atlas {time.perf_counter() - start:.1f} s")
    for dataset, cohort in COHORTS.items():
        with tempfile.TemporaryDirectory() as folder:
            write_patient(cohort, Path(folder), spacing_mm, 0, subjects, subjects + 1)  # caches of lesion places
            start = time.process_time()
            for index in range(subjects):
                write_patient(cohort, Path(folder), spacing_mm, 0, index, subjects + 1)
            seconds = (time.process_time() - start) / subjects
        print(f"{dataset}: {seconds:.2f} s per subject at {spacing_mm:g} mm ({len(cohort.modalities)} modalities)")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 2.0, int(sys.argv[2]) if len(sys.argv) > 2 else 4)
