"""Marks on the types of settings: what does not count, what experts alone look at, what a switch turns off."""

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


@dataclass(frozen=True)
class Expert:
    """A mark on the type of a field, or of a group of fields: shown by ``--help-all`` only."""


@dataclass(frozen=True)
class Off:
    """A mark on a switch that is on by default, whose option (``--no-NAME``) turns it off.

    Args:
        effect: what happens then, for the help; a whole sentence.
    """

    effect: str


@dataclass(frozen=True)
class Registered:
    """A mark on a name's type: one that a registry knows.

    Args:
        kind: "method" or "encoder".
    """

    kind: str


@dataclass(frozen=True)
class InWords:
    """A mark that says what a type allows, where its constraint is no text for people.

    Args:
        text: for messages.
    """

    text: str


EXPERT = Expert()
