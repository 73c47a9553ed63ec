"""Every error a user can meet. Each names what is wrong, where, and what to do.

EdgeKDError              exit 1
├── DataError            exit 1   a file, column or label that cannot be used
├── TeacherError         exit 1   a teacher that cannot be loaded or trusted
├── StoreError           exit 1   a full disk, a store that cannot be written
├── UsageError           exit 2   an option or a profile that makes no sense
├── OverMemory           exit 3   no student fits `memory_mib`
├── OverLatency          exit 4   measured latency over `latency_ms`
├── BelowAccuracy        exit 5   the student keeps too little of its teacher
├── ArtifactTooLarge     exit 6   no student fits `artifact_mib`
├── RuntimeCannotLoad    exit 7   ONNX Runtime refuses the artifact
└── CeilingReached       exit 8   what may be paid is used up before all rows are labelled
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

_MOST_NAMES = 1000  # that are searched for one like a wrong name
_LONGEST_NAME = 80  # letters of one in a message


class EdgeKDError(Exception):
    """A mistake with a way out: `message` says what and where, `fix` says what to do."""

    exit_code = 1

    def __init__(self, message: str, *, fix: str) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}\n  fix: {self.fix}"

    def __reduce__(self) -> tuple[object, ...]:
        return partial(type(self), fix=self.fix), (self.message,)  # to cross into another process whole

    def as_dict(self) -> dict[str, object]:
        """What `--json` prints: `{"error": ..., "fix": ..., "exit": ...}`."""
        return {"error": self.message, "fix": self.fix, "exit": self.exit_code}


class DataError(EdgeKDError):
    """A file, column, row or label that cannot be used."""


class TeacherError(EdgeKDError):
    """A teacher that cannot be loaded, or must not be."""


class StoreError(EdgeKDError):
    """The store or the output folder cannot be read or written."""


class UsageError(EdgeKDError):
    """An option, a name or a profile value that makes no sense."""

    exit_code = 2


class OverMemory(EdgeKDError):
    """Not even the smallest student stays within `memory_mib`."""

    exit_code = 3


class OverLatency(EdgeKDError):
    """The measured latency is over `latency_ms`."""

    exit_code = 4


class BelowAccuracy(EdgeKDError):
    """The student keeps less of its teacher than `min_retained` asks for."""

    exit_code = 5


class ArtifactTooLarge(EdgeKDError):
    """Not even the smallest student's file stays within `artifact_mib`."""

    exit_code = 6


class RuntimeCannotLoad(EdgeKDError):
    """ONNX Runtime refuses the artifact."""

    exit_code = 7


class CeilingReached(EdgeKDError):
    """What may be paid is used up before all rows are labelled; what is labelled is kept."""

    exit_code = 8


def no_bundle(place: Path, why: str) -> UsageError:
    """The refusal of what is no bundle, and why: of a file that it is none of a folder."""
    why = "it is a file, not a folder" if place.is_file() else why
    return UsageError(f"{place} is no bundle: {why}", fix="give the folder that build wrote")


def suggestion(name: str, choices: Iterable[str]) -> str:
    """`did you mean 'rpi4'? ` where a choice is near, then the list of choices."""
    known = sorted(choices)
    near = difflib.get_close_matches(name.lower()[:_LONGEST_NAME], known[:_MOST_NAMES], n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}choose one of: {listed(known)}"


def counted(count: int, noun: str) -> str:
    """Return a number and what it counts, in the singular for one.

    >>> counted(1, "row"), counted(2_000, "row"), counted(0, "class"), counted(3, "entry")
    ('1 row', '2,000 rows', '0 classes', '3 entries')
    """
    if count != 1:
        ending = "es" if noun.endswith(("s", "x", "sh", "ch")) else "s"
        noun = f"{noun[:-1]}ies" if noun[-1] == "y" and noun[-2] not in "aeiou" else noun + ending
    return f"{count:,} {noun}"


def listed(names: Sequence[str], *, most: int = 40) -> str:
    """Names with commas between them; of very many, or very long ones, the beginning."""
    shown = [name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..." for name in names[:most]]
    return ", ".join(shown) + (f" ... and {len(names) - most} more" if len(names) > most else "")
