"""What each release of ONNX Runtime loads: the highest opset and IR version, and which releases a specifier allows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version


@dataclass(frozen=True)
class Release:
    """A release from which on ONNX Runtime loads models up to this opset and this IR version."""

    version: str
    opset: int
    ir_version: int


# Measured: the x86-64 wheel of each release was given one-operator models of every opset and IR version, and refuses
# all above these. Releases between two rows load at least what the lower one does; newer ones than the last, too.
# (The page "ONNX Runtime compatibility" of its documentation lists the ONNX release that each was built with.)
RELEASES = (
    Release("1.15.0", 19, 9),
    Release("1.17.0", 20, 9),
    Release("1.18.0", 21, 10),
    Release("1.21.0", 22, 10),
    Release("1.23.0", 23, 11),
    Release("1.24.1", 25, 13),
    Release("1.25.0", 26, 13),
    Release("1.32.0", 28, 14),
)
_MINORS, _PATCHES = 100, 10  # of 1.x that a specifier is asked about: more than were ever released


def loads(version: Version) -> Release | None:
    """The row that holds for a release; None for one that is older than the table."""
    from packaging.version import Version

    return next((row for row in reversed(RELEASES) if Version(row.version) <= version), None)


def oldest(allowed: SpecifierSet, bad: tuple[Version, ...], installed: Version) -> Version | None:
    """The oldest release that a specifier allows and that is not `bad`; None where it allows none at all."""
    return next((one for one in _candidates(installed) if one in allowed and one not in bad), None)


def _candidates(installed: Version) -> Iterator[Version]:
    from packaging.version import Version

    for minor in range(_MINORS):
        for patch in range(_PATCHES):
            yield Version(f"1.{minor}.{patch}")
    yield installed  # whatever its number looks like
