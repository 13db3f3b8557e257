"""BIDS: what a file's name says, where its sidecars are, and the tables beside the images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from mvp_bench.datasets.reading.conversion import no_release
from mvp_bench.datasets.reading.sources import listed, read_rows
from mvp_bench.datasets.schema import Card
from mvp_bench.errors import InputError
from mvp_bench.io import read_json

DERIVATIVES = "derivatives"
NOT_RAW = (DERIVATIVES, "sourcedata", "code", "stimuli")
"""Folders of a dataset that hold no raw images."""
LEVELS = 3
"""How deep below the source the dataset is looked for: an archive's own folder, ``rawdata`` in it."""
CONTRAST_AGENT = "ContrastBolusIngredient"


@dataclass(frozen=True)
class BidsName:
    """``sub-01_ses-1_acq-a_T1w``: entities in lower case with their values, and the suffix."""

    entities: Mapping[str, str]
    suffix: str

    def fits(self, key: str) -> tuple[int, int] | None:
        """How closely ``key`` (``acq-ir_T1w``) describes the name: entities, and those with a value; None: not at all.

        Contrast agent changes what an image shows, so a name with ``ce`` needs a key with ``ce``.
        """
        *wanted, suffix = key.lower().split("_")
        pairs = [text.partition("-")[::2] for text in wanted]
        if suffix != self.suffix.lower() or ("ce" in self.entities) != any(name == "ce" for name, _ in pairs):
            return None
        for name, value in pairs:
            if name not in self.entities or value not in ("", self.entities[name].lower()):
                return None
        return len(pairs), sum(1 for _, value in pairs if value)


def parse_name(stem: str) -> BidsName | None:
    """The parts of a file name without its ending; None if it is not made of ``key-value`` pairs and a suffix."""
    *pairs, suffix = stem.split("_")
    entities = {}
    for pair in pairs:
        name, _, value = pair.partition("-")
        if not name or not value:
            return None
        entities[name.lower()] = value
    return BidsName(entities, suffix) if suffix and "-" not in suffix else None


def find_root(source: Path, card: Card) -> Path:
    """The folder with ``sub-<label>`` folders: the source, or the only one just below it.

    Raises:
        InputError: if there is none, or more than one.
    """
    level = [source]
    for _ in range(LEVELS):
        children = {folder: [f for f in sorted(folder.iterdir()) if f.is_dir()] for folder in level}
        roots = [folder for folder, below in children.items() if any(f.name.startswith("sub-") for f in below)]
        if len(roots) > 1:
            raise InputError(
                f"--source {source}",
                found=f"{len(roots)} BIDS datasets: {listed((root.name for root in roots), 5)}",
                expected="one",
                fix="Point --source at one of them, and give each a card.",
            )
        if roots:
            return roots[0]
        level = [f for below in children.values() for f in below if f.name not in NOT_RAW and f.name[0] != "."]
    raise no_release(source, card, "no folder sub-<label>", card.patient_rule)


class IgnoreFile:
    """``.bidsignore``: a pattern per line, as in .gitignore (without negation)."""

    def __init__(self, root: Path) -> None:
        path = root / ".bidsignore"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        self._patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]

    def takes(self, relative: str) -> bool:
        """Whether the path (below the root, with forward slashes) or a folder of it is named."""
        parts = relative.split("/")
        heads = ["/".join(parts[: n + 1]) for n in range(len(parts))]
        for pattern in self._patterns:
            anywhere = "/" not in pattern.rstrip("/") or pattern.startswith("**/")
            plain = pattern.removeprefix("**/").strip("/")
            if any(fnmatchcase(name, plain) for name in (parts if anywhere else heads)):
                return True
        return False


class Sidecars:
    """Files that belong to an image by the inheritance principle: in its folder, or in one above."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._listed: dict[tuple[Path, str], list[tuple[BidsName, Path]]] = {}

    def find(self, image: Path, name: BidsName, ending: str) -> list[Path]:
        """Files of this ending with the same suffix and no entity that the image has not; the nearest first."""
        found: list[Path] = []
        folder = image.parent
        while folder.is_relative_to(self._root):
            fitting = [
                (len(other.entities), path)
                for other, path in self._files(folder, ending)
                if other.suffix == name.suffix and other.entities.items() <= name.entities.items()
            ]
            found += [path for _, path in sorted(fitting, reverse=True)]
            folder = folder.parent
        return found

    def has_contrast_agent(self, image: Path, name: BidsName) -> bool:
        """Whether the nearest sidecar that speaks of a contrast agent names one."""
        for path in self.find(image, name, ".json"):
            content = read_json(path)
            if isinstance(content, dict) and CONTRAST_AGENT in content:
                return str(content[CONTRAST_AGENT]).strip().lower() not in ("", "none", "n/a")
        return False

    def b_values(self, image: Path, name: BidsName) -> list[float] | None:
        """Diffusion weighting of each volume in s/mm2; None if there is no ``.bval``.

        Raises:
            InputError: if the file holds something else.
        """
        paths = self.find(image, name, ".bval")
        if not paths:
            return None
        text = paths[0].read_text(encoding="utf-8", errors="replace")
        try:
            return [float(word) for word in text.split()]
        except ValueError as error:
            raise InputError(paths[0], found=str(error), expected="b-values in s/mm2, divided by blanks") from error

    def _files(self, folder: Path, ending: str) -> list[tuple[BidsName, Path]]:
        if (folder, ending) not in self._listed:
            names = [(parse_name(path.name.removesuffix(ending)), path) for path in folder.glob(f"*{ending}")]
            self._listed[folder, ending] = [(name, path) for name, path in names if name]
        return self._listed[folder, ending]


class ParticipantValues:
    """One column of ``participants.tsv``, or of ``sub-<label>_sessions.tsv`` where that has it."""

    def __init__(self, root: Path, column: str, encoding: str) -> None:
        """Read ``participants.tsv``.

        Raises:
            InputError: if no table has the column, or one cannot be read.
        """
        self._column, self._encoding = column.lower(), encoding
        self._root = root
        path = root / "participants.tsv"
        self._people = self._read(path, "participant_id", "sub-") if path.is_file() else None
        self._sessions: dict[str, dict[str, set[str]] | None] = {}
        if self._people is None and not any(self._of_sessions(f.name) is not None for f in root.glob("sub-*")):
            raise InputError(
                path,
                found="no such file" if not path.is_file() else f"no column {column}",
                expected=f"a column {column} there, or in the subjects' sessions.tsv",
                fix="Name a column of the table in converter_options.class_column.",
            )

    def __call__(self, patient: str, session: str) -> tuple[str, str]:
        """The value for ``sub-<label>`` and its session, or an empty text and the reason."""
        sessions = self._of_sessions(patient)
        if sessions is not None:
            table, values = f"{patient}_sessions.tsv", sessions.get(session)
        else:
            table, values = "participants.tsv", (self._people or {}).get(patient.removeprefix("sub-"))
        if not values:
            return "", f"no row for it in {table}"
        if len(values) > 1:
            return "", f"{self._column} is {' and '.join(sorted(values))} in {table}"
        value = next(iter(values))
        return value, "" if value else f"{self._column} is n/a in {table}"

    def _of_sessions(self, patient: str) -> dict[str, set[str]] | None:
        if patient not in self._sessions:
            path = self._root / patient / f"{patient}_sessions.tsv"
            self._sessions[patient] = self._read(path, "session_id", "ses-") if path.is_file() else None
        return self._sessions[patient]

    def _read(self, path: Path, key: str, prefix: str) -> dict[str, set[str]] | None:
        """Label -> values; None if the table has not the column."""
        rows = read_rows(path, encoding=self._encoding)
        if not rows or key not in rows[0][1] or self._column not in rows[0][1]:
            return None
        values: dict[str, set[str]] = defaultdict(set)
        for _, row in rows:
            values[row[key].removeprefix(prefix)].add(row[self._column])
        return values
