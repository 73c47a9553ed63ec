"""Ports: the inputs and outputs of a graph by name, type and shape, as plain values that a plan can carry."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

VALUES, CLASSES, WHOLE = "values", "classes", "whole"  # kinds of outputs: floats, scores of classes, whole numbers
NUMBERS = (
    *("float32", "float64", "float16", "bool"),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
)


@dataclass(frozen=True)
class Port:
    """One input or output. A size of its shape is a number, a name where it is free, or empty where nothing names it.

    `kind` is an output's: `values`, `classes` (scores along `axis`, counted from the end) or `whole` numbers.
    """

    name: str
    type: str  # numpy's name
    shape: tuple[int | str, ...]
    kind: str = VALUES
    axis: int = -1

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Port:
        """From plain values, as `as_dict` gives them."""
        return cls(told["name"], told["type"], tuple(told["shape"]), told.get("kind", VALUES), told.get("axis", -1))

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"shape": list(self.shape)}

    @property
    def words(self) -> str:
        """For a reader: `x: float32 (1, 3, height, ?)`."""
        sizes = ", ".join(str(size) if size not in ("", "?") else "?" for size in self.shape)
        return f"{self.name}: {self.type} ({sizes})"

    @property
    def batched(self) -> bool:
        """Return whether its first axis may be the batch, which rows may leave out."""
        return bool(self.shape) and (isinstance(self.shape[0], str) or self.shape[0] == 1)

    def takes(self, shape: Sequence[int]) -> bool:
        """Return whether an array of that shape fits: as many axes, and the sizes that are fixed."""
        return len(shape) == len(self.shape) and all(
            isinstance(wanted, str) or wanted == size for wanted, size in zip(self.shape, shape, strict=True)
        )


def listed(ports: Sequence[Port]) -> str:
    """Return all of them for a reader."""
    return "; ".join(port.words for port in ports) or "none"


def converted(values: np.ndarray[Any, Any], kind: str) -> np.ndarray[Any, Any] | None:
    """Return an array as that type, where no value changes but by float's rounding; None where one would.

    >>> import numpy as np
    >>> converted(np.array([1, 2]), "float32").dtype.name, converted(np.array([0.5]), "int64") is None
    ('float32', True)
    """
    import numpy as np

    wanted = np.dtype(kind)
    if values.dtype == wanted:
        return values
    if values.dtype.kind not in "biuf" or (values.dtype.kind == "f" and wanted.kind != "f"):
        return None
    if wanted.kind == "b" and values.dtype.kind in "iu" and not np.isin(values, (0, 1)).all():
        return None
    with np.errstate(over="ignore"):  # told below
        made = values.astype(wanted)
    if wanted.kind in "iu" and values.dtype.kind in "iu" and not np.array_equal(made.astype(object), values):
        return None
    if wanted.kind == "f" and values.dtype.kind == "f" and (np.isinf(made) & ~np.isinf(values)).any():
        return None
    return made


def pairs_of(inputs: Sequence[Port], outputs: Sequence[Port]) -> tuple[tuple[str, str], ...]:
    """Return outputs that feed back as inputs, found by name and shape: (output, input) of each state.

    `stateN` belongs to `state`, `hn` to `h`, `new_cache` to `cache`, `present.0.key` to `past.0.key`: of one type, with
    as many axes, and no fixed size unlike the other's. An output that fits several inputs, or an input several
    outputs, is left alone.
    """
    found: dict[str, list[str]] = {}
    for output in outputs:
        fitting = [one.name for one in inputs if _feeds(output, one)]
        if len(fitting) == 1:
            found.setdefault(fitting[0], []).append(output.name)
    return tuple((names[0], name) for name, names in found.items() if len(names) == 1)


_MARKS = ("new", "next", "updated", "out", "output", "present", "last", "final", "curr", "n", "o")


def _feeds(output: Port, given: Port) -> bool:
    alike = output.type == given.type and len(output.shape) == len(given.shape) and len(given.shape) > 1
    sizes = zip(output.shape, given.shape, strict=True) if alike else ()
    fits = alike and all(isinstance(a, str) or isinstance(b, str) or a == b for a, b in sizes)
    return fits and output.name != given.name and _bare(output.name) == _bare(given.name)


def _bare(name: str) -> str:
    """A state's name without what tells its next value from its last: `stateN`, `new_state`, `state_out`: `state`."""
    words = [word.lower() for word in re.split(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])", name) if word]
    kept = [word for word in words if word not in (*_MARKS, "past", "prev", "previous", "in", "input", "old")]
    bare = ".".join(kept or words)
    return bare[:-1] if len(words) == 1 and len(bare) in (2, 3) and bare.endswith("n") else bare
