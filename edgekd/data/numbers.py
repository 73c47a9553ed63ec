"""Labels that are numbers: one or several targets a row, and what makes no sense of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import DataError

if TYPE_CHECKING:
    from edgekd.data.splits import Example

_BINS = 10


class Numbers(tuple[Any, ...]):
    """A label of kind numbers: the targets of a row, floats, in the order of `names`."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, values: Iterable[float], names: Sequence[str]) -> Numbers:
        """Return these targets."""
        made = cls(values)
        made.names = tuple(names)
        return made


def check_outputs(rows: Sequence[Example], known: Sequence[str] | None) -> list[Numbers]:
    """Return the labels there are. Raises DataError for rows of other targets than the first, or than the teacher's.

    `known` are the names of a ready teacher's outputs.
    """
    labels = [row.label for row in rows if isinstance(row.label, Numbers)]
    if not labels:
        return labels
    names = labels[0].names
    if strange := next((one for one in labels if len(one) != len(names)), None):
        raise DataError(f"rows have {len(names)} and {len(strange)} targets", fix="give as many numbers in each row")
    if known is not None and len(known) != len(names):
        raise DataError(
            f"the teacher gives {len(known)} numbers; the rows have {len(names)} targets ({', '.join(names)})",
            fix="name as many: --label-column A,B; or give a base model as teacher",
        )
    return labels


def check_numbers(rows: Sequence[Example], known: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the targets' names. Raises DataError as `check_outputs`, and where a target is one value in all rows."""
    labels = check_outputs(rows, known)
    names = labels[0].names
    for name, values in zip(names, zip(*labels, strict=True), strict=True):
        if min(values) == max(values):
            raise DataError(
                f"the target {name!r} is {values[0]:g} in all {len(values)} training rows: there is nothing to learn",
                fix="name another column: --label-column NAME",
            )
    return names


def bins(labels: Sequence[Any]) -> list[str]:
    """Return a stratum for each row by its first target: tenths of the rows, in order of value."""
    order = sorted(range(len(labels)), key=lambda row: (labels[row][0], row))
    found = [""] * len(labels)
    before, own = None, 0
    for place, row in enumerate(order):
        value = labels[row][0]
        if value != before:
            own = place * _BINS // len(labels)
        found[row], before = str(own), value
    return found
