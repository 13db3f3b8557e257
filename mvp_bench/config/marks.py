"""Marks on the types of settings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Outside:
    """A mark on a field's type (``Annotated[int, Outside(...)]``): no result depends on the field, and no key.

    Args:
        reason: why not.
    """

    reason: str


PROCESSES = Outside("the number of processes changes how long work takes, not what comes of it")
KEEPING = Outside("how often work is saved, logged or drawn changes nothing of it")
PLACES = Outside("where files lie changes nothing of what is in them")
SHOWN = Outside("what is shown or kept besides changes no number")
SELECTION = Outside("which work is asked for decides what is made, not how: each piece has a key of its own")
DECIDED = Outside("what it stands for, or decides, enters in its place")
FOR_PEOPLE = Outside("text for people to read")
LATER = Outside("it enters what is computed from finished results, which is computed anew each time")
REASONS = (PROCESSES, KEEPING, PLACES, SHOWN, SELECTION, DECIDED, FOR_PEOPLE, LATER)
"""Every reason there is."""
