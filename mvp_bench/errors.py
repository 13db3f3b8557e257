"""The one exception that means *the user can mend this*: shown as a single message, exit code 2."""

from __future__ import annotations


class InputError(Exception):
    """Bad input, described by four facts so that the reader can act without reading code.

    Args:
        where: the file or field at fault.
        found: what stands there.
        expected: what should stand there.
        fix: what to do about it.
    """

    def __init__(self, where: object, *, found: object, expected: object, fix: str = "") -> None:
        self.where, self.found, self.expected, self.fix = str(where), str(found), str(expected), fix
        super().__init__(f"{where}: found {found}; expected {expected}.{' ' + fix if fix else ''}")

    @property
    def fault(self) -> str:
        """The first three facts in one line, for lists of faults."""
        return f"{self.where}: found {self.found}; expected {self.expected}"

    def __reduce__(self) -> tuple:  # exceptions with keyword arguments do not cross process borders otherwise
        return _rebuild, (type(self), self.where, self.found, self.expected, self.fix)


class MachineError(InputError):
    """Trouble of the machine (disk, memory, locks), not of the data: never a reason to leave out a case."""


def _rebuild(kind: type[InputError], where: str, found: str, expected: str, fix: str) -> InputError:
    return kind(where, found=found, expected=expected, fix=fix)
