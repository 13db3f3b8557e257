"""Folder layouts and file names of the public releases, one module per family.

A layout answers three questions: what a patient is called, which file holds which modality or mask, and which tables
lie beside them. It knows nothing of images.
"""

from __future__ import annotations

from mvp_bench.datasets.phantom.releases.base import ReleaseLayout
from mvp_bench.datasets.phantom.releases.brats import BRATS_LAYOUTS
from mvp_bench.datasets.phantom.releases.classification import CLASSIFICATION_LAYOUTS
from mvp_bench.datasets.phantom.releases.others import OTHER_LAYOUTS

LAYOUTS: dict[int, ReleaseLayout] = {**BRATS_LAYOUTS, **CLASSIFICATION_LAYOUTS, **OTHER_LAYOUTS}
"""Dataset id -> layout."""
