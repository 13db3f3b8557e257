"""Types of options with their ranges: what stands outside is refused before anything runs (:mod:`.check`).

Every range has two ends, so that neither an infinity nor a number that no array can hold gets through.
"""

from __future__ import annotations

import itertools
from typing import Annotated

from annotated_types import Ge, Gt, Le, Len, Lt
from pydantic import AfterValidator, StringConstraints

from mvp_bench.config.marks import InWords, Registered

MANY = 2**31 - 1
"""Largest number of anything that is counted."""
FACTOR = 1e6
"""Largest factor of anything."""

Count = Annotated[int, Ge(1), Le(MANY)]
"""One or more."""
CountOrNone = Annotated[int, Ge(0), Le(MANY)]
"""Any number, none included."""
Seed = Annotated[int, Ge(0), Le(2**32 - 1)]
"""What every random generator takes (NumPy's takes 32 bits)."""
Index = Annotated[int, Ge(0), Le(9999)]
"""Position in a list that begins with 0."""
Workers = Annotated[int, Ge(1), Le(1024)]
"""Processes that do the work."""
Helpers = Annotated[int, Ge(0), Le(1024)]
"""Processes that help; 0: the work is done without any."""
Edge = Annotated[int, Ge(1), Le(4096)]
"""Length in voxels."""
Voxels = tuple[Edge, Edge, Edge]
"""Lengths in voxels along z, y and x."""
Few = Annotated[int, Ge(1), Le(4096)]
"""One or more, but no more than memory holds: boxes, crops, layers."""
FewOrNone = Annotated[int, Ge(0), Le(4096)]
"""None, or as :data:`Few`."""
Grid = Annotated[int, Ge(1), Le(16)]
"""Boxes per axis of a feature map."""
Width = Annotated[int, Ge(1), Le(1_000_000)]
"""Channels of a layer."""

Share = Annotated[float, Ge(0), Le(1)]
"""Part of a whole, none and all of it included. Also a probability."""
SomeShare = Annotated[float, Gt(0), Le(1)]
"""Part of a whole, more than nothing."""
PartialShare = Annotated[float, Ge(0), Lt(1)]
"""Part of a whole, less than all."""
InnerShare = Annotated[float, Gt(0), Lt(1)]
"""Part of a whole, neither nothing nor all."""


def _rising(values: tuple[float, ...]) -> tuple[float, ...]:
    if any(first > second for first, second in itertools.pairwise(values)):
        raise ValueError("must rise")
    return values


RISING = AfterValidator(_rising)
"""Mark on a tuple whose values must rise (equal neighbours are allowed)."""
Shares = Annotated[tuple[SomeShare, SomeShare], RISING]
"""Least and largest part of a whole."""
Millimetres = Annotated[float, Gt(0), Le(1000)]
"""Length in mm."""
Spacing = Annotated[float, Ge(0.01), Le(100)]
"""Voxel edge in mm."""
Rate = Annotated[float, Gt(0), Le(100)]
"""Learning rate."""
Decay = Annotated[float, Ge(0), Le(100)]
"""Weight decay."""
Factor = Annotated[float, Ge(0), Le(FACTOR)]
"""Factor or size that may be 0."""
Positive = Annotated[float, Gt(0), Le(FACTOR)]
"""Factor or size above 0."""
Gamma = Annotated[float, Ge(1), Le(100)]
"""Largest exponent of a change whose least is one over it."""
Angle = Annotated[float, Ge(0), Le(180)]
"""Angle in degrees, at most half a turn."""
Degrees = Annotated[float, Ge(-180), Le(180)]
"""Angle in degrees, to either side."""

Device = Annotated[
    str, StringConstraints(pattern=r"^(auto|cpu|cuda|cuda:\d{1,3})$"), InWords("auto, cpu, cuda or cuda:N")
]
"""Name of a device."""
FolderName = Annotated[
    str,
    StringConstraints(pattern=r"^([A-Za-z0-9_-][A-Za-z0-9._-]{0,99})?$"),
    InWords("at most 100 letters, digits, dots, dashes and underscores, no dot in front"),
]
"""Name of a folder, or nothing."""
Text = Annotated[str, Len(0, 1000)]
"""Any words."""
Encoder = Annotated[str, Registered("encoder")]
"""Registered encoder."""
MethodName = Annotated[str, Registered("method")]
"""Registered pre-training method."""
