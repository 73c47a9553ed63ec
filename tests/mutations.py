"""One mutator for every foreign document: a valid one changed at a drawn place, which finds more than random bytes."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable
from random import Random
from typing import Any

_DEEP = "@deep@"  # written out in the text: json cannot dump it
_LONG = "@digits@"
_SPELT = {_DEEP: "[" * 100_000 + "]" * 100_000, _LONG: "9" * 5_000}
STRANGE: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    10**400,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    float("-inf"),
    "",
    "x",
    "0",
    "\0",
    "\ud800",
    "\u202e",
    "../../outside",
    "/etc/passwd",
    "a" * 70_000,
    "2026-11-31T25:61:61Z",
    [],
    {},
    [None],
    [[]],
    [0] * 3,
    {"": None},
    {"x": {"y": []}},
    _DEEP,
    _LONG,
)


def mutated(document: Any, random: Random, *, changes: int = 2) -> str:
    """The document as JSON text after up to so many changes of values, keys and depth; it may be no JSON any more."""
    whole = json.loads(json.dumps(document))
    for _ in range(random.randint(1, changes)):
        whole = _changed(whole, random)
    text = json.dumps(whole)
    for name, spelt in _SPELT.items():
        text = text.replace(f'"{name}"', spelt)
    return text


def _changed(document: Any, random: Random) -> Any:
    """One change: at a place where there is one, of the whole document else."""
    places = list(_places(document))
    if not places or random.random() < 0.03:
        return _strange(random)
    holder, key = random.choice(places)
    kind = random.randrange(8)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[f"{key}_"] = holder.pop(key)
    elif kind == 2:
        holder[key] = [holder[key]]
    elif kind == 3:
        other, its = random.choice(places)  # another value of the same document, a copy of it
        holder[key] = json.loads(json.dumps(other[its]))
    elif kind == 4 and isinstance(holder[key], int | float):
        holder[key] = random.choice((-holder[key], holder[key] * 1000, holder[key] + 1, str(holder[key])))
    elif kind == 5 and isinstance(holder, list):
        holder.insert(key, _strange(random))
    else:
        holder[key] = _strange(random)
    return document


def _strange(random: Random) -> Any:
    return copy.deepcopy(random.choice(STRANGE))


def _places(document: Any) -> Any:
    """Every (container, key) of a tree of lists and dicts."""
    items = list(document.items() if isinstance(document, dict) else enumerate(document)) if _holds(document) else []
    for key, value in items:
        yield document, key
        yield from _places(value)


def _holds(value: Any) -> bool:
    return isinstance(value, dict | list)


def _flip(raw: bytearray, random: Random) -> None:
    for _ in range(random.randint(1, 4)):
        raw[random.randrange(len(raw))] ^= 1 << random.randrange(8)


def _cut(raw: bytearray, random: Random) -> None:
    del raw[random.randrange(len(raw)) :]


def _splice(raw: bytearray, random: Random) -> None:
    """A piece of the file at another place of it."""
    first, last = sorted(random.randrange(len(raw) + 1) for _ in range(2))
    at = random.randrange(len(raw) + 1)
    raw[at : at + random.choice((0, last - first))] = raw[first:last]


def _drop(raw: bytearray, random: Random) -> None:
    first = random.randrange(len(raw))
    del raw[first : first + random.randint(1, 16)]


def _varint(raw: bytearray, random: Random) -> None:
    """A length or number of Protocol Buffers that says far too much, or never ends."""
    garbage = random.choice((b"\xff" * 9 + b"\x01", b"\xff" * 12, b"\x80" * 10, b"\xff\xff\xff\xff\x0f", b"\x00"))
    at = random.randrange(len(raw) + 1)
    raw[at : at + random.choice((0, 1, len(garbage)))] = garbage


def _noise(raw: bytearray, random: Random) -> None:
    at = random.randrange(len(raw) + 1)
    raw[at : at + random.randint(0, 8)] = random.randbytes(random.randint(1, 8))


def _extreme(raw: bytearray, random: Random) -> None:
    """Sizes and counts at their ends."""
    at, width = random.randrange(len(raw)), random.choice((1, 2, 4, 8))
    raw[at : at + width] = random.choice((b"\x00", b"\xff", b"\x7f")) * width


_WAYS: tuple[Callable[[bytearray, Random], None], ...] = (_flip, _cut, _splice, _drop, _varint, _noise, _extreme)


def damaged(whole: bytes, random: Random, *, changes: int = 2) -> bytes:
    """The file after up to so many changes of its bytes."""
    raw = bytearray(whole)
    for _ in range(random.randint(1, changes)):
        if raw:
            random.choice(_WAYS)(raw, random)
    return bytes(raw)


def mutated_message(message: Any, random: Random, *, changes: int = 2) -> bytes:
    """A protobuf message's bytes after up to so many changes of its fields: it parses, and says something else."""
    whole = type(message)()
    whole.CopyFrom(message)
    for _ in range(random.randint(1, changes)):
        holder, field = random.choice(list(_fields(whole)))
        _change_field(holder, field, random)
    serialized: bytes = whole.SerializeToString()
    return serialized


def _fields(message: Any) -> Any:
    """Every (message, field) that is set, of a tree of messages."""
    for field, value in message.ListFields():
        yield message, field
        if field.message_type is not None:
            for inner in value if field.is_repeated else (value,):
                yield from _fields(inner)


def _change_field(holder: Any, field: Any, random: Random) -> None:
    """Clear it, say it twice, or put another value there."""
    value, kind = getattr(holder, field.name), random.randrange(3)
    if kind == 0:
        holder.ClearField(field.name)
    elif field.is_repeated:
        at = random.randrange(len(value))
        if kind == 1 and field.message_type is not None:
            value.add().CopyFrom(value[at])
        elif kind == 1:
            value.append(value[at])
        elif field.message_type is not None:
            del value[at]
        else:
            with contextlib.suppress(ValueError):  # out of the field's range
                value[at] = _other(value[at], random)
    elif field.message_type is None:
        with contextlib.suppress(ValueError):
            setattr(holder, field.name, _other(value, random))


def _other(value: Any, random: Random) -> Any:
    if isinstance(value, bytes):
        return damaged(value, random)
    if isinstance(value, str):
        return random.choice(
            ("", "x", "If", "Loop", "Identity", "input_ids", "../../outside", "/etc/passwd", "a" * 9999)
        )
    if isinstance(value, float):
        return random.choice((float("nan"), float("inf"), 0.0, -1e30))
    return random.choice((0, 1, -1, 2, 7, 16, 2**31 - 1, value + 1))
