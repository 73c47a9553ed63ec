"""One worker's part of the rows: which rows it has, what it may spend, and whether all parts have ended.

A row's part follows from its content, an answer's key from its prompt: any machine can do any part, in any order, and
doing one again asks for nothing that it holds. No worker talks to another: each has a ledger and an equal share of the
ceilings, so that all of them together never pass one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from edgekd.core.errors import UsageError, listed
from edgekd.core.files import write_file
from edgekd.data.splits import Example
from edgekd.labelling.asked import Asked
from edgekd.labelling.budget import Ceilings, Spent
from edgekd.labelling.ledger import NAME, SHARDS
from edgekd.labelling.rows import Rows

MARK = "shard.json"
_MOST = 1000
_NAME = re.compile(r"([1-9]\d{0,3})-of-([1-9]\d{0,3})")


@dataclass(frozen=True)
class Shard:
    """Part `number`, counted from 1, of `count`."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.number}-of-{self.count}"

    def folder(self, home: Path) -> Path:
        """Return where its ledger lies, below the folder of all."""
        return home / SHARDS / self.name

    def check_same_count(self, begun: Iterable[str], where: str) -> None:
        """Raise UsageError where rows were parted into another number of shards, by the names of their folders."""
        counts = {int(named[2]) for name in begun if (named := _NAME.fullmatch(name))} - {self.count}
        if counts:
            raise UsageError(
                f"the rows of {where} were parted in {min(counts)}, not in {self.count}: some would be paid twice",
                fix=f"give --shard K/{min(counts)}, or --out a new folder",
            )

    def of(self, rows: Rows) -> Rows:
        """Return the rows to label that are in this part; validation and test rows are in none."""
        own = tuple(row for row in rows.train if self._holds(row))
        return replace(rows, train=own, validation=(), test=())

    def _holds(self, row: Example) -> bool:
        digest = sha256(f"shard {row.content}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.number - 1

    def share(self, ceilings: Ceilings, spent: Spent) -> Ceilings:
        """Return this part's share of what the pilot `spent` leaves of the ceilings. Raises UsageError for none."""
        shares = Ceilings(
            self._part(ceilings.requests, spent.requests),
            self._part(ceilings.tokens, spent.prompt + spent.completion),
            self._part(ceilings.picos, spent.picos),
        )
        if 0 in (shares.requests, shares.tokens, shares.picos):
            raise UsageError(
                f"a ceiling leaves nothing for one of {self.count} shards: each has an equal share",
                fix="raise the ceiling, or take fewer shards",
            )
        return shares

    def _part(self, ceiling: int | None, spent: int) -> int | None:
        return None if ceiling is None else max(0, ceiling - spent) // self.count

    def begin(self, home: Path) -> None:
        """Take away the mark of an end, if there is one: this part is at work."""
        (self.folder(home) / MARK).unlink(missing_ok=True)

    def end(self, home: Path, *, left: int) -> None:
        """Mark that this part has ended, with so many rows `left` without an answer. Raises StoreError."""
        write_file(self.folder(home) / MARK, json.dumps({"shard": str(self), "rows_left": left}) + "\n")


def shard(text: str) -> Shard:
    """Return the part that `K/N` names. Raises UsageError.

    >>> shard("3/16").folder(Path("labels")).as_posix()
    'labels/shards/3-of-16'
    """
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count) <= _MOST):
        raise UsageError(
            f"--shard {text} is no part", fix=f"give K/N, with K from 1 to N and N at most {_MOST}: --shard 3/16"
        )
    return Shard(int(number), int(count))


def part_of(asked: Asked) -> Shard | None:
    """Return the part that `--shard` names; None for all rows. Raises UsageError for words that are of all rows."""
    if asked.shard is None:
        return None
    part = shard(asked.shard)
    for flag, value in (
        ("pilot-only", asked.pilot_only),
        ("min-accuracy", asked.min_accuracy is not None),
        ("compare", asked.compare),
    ):
        if value:
            raise UsageError(
                f"--{flag} is of all rows, and --shard {part} labels a part of them",
                fix="give it to the same command without --shard: a pilot before the shards (--pilot-only), "
                "--compare once they have ended",
            )
    part.check_same_count([one.name for one in parts(asked.out)], str(asked.out))
    return part


def beside_of(home: Path, part: Shard | None) -> list[Path]:
    """Return the folders whose ledgers count, too: the pilot's for a part, and every part's for all rows.

    Raises UsageError where some of the parts have not ended.
    """
    if part is not None:
        return [home] if (home / NAME).exists() else []
    begun = parts(home)
    _check_ended(home, begun)
    return [one.folder(home) for one in begun]


def parts(home: Path) -> list[Shard]:
    """Return the parts that have begun in the folder. Raises UsageError where it was cut in two ways."""
    found = [
        Shard(int(named[1]), int(named[2]))
        for path in (home / SHARDS).glob(f"*/{NAME}")
        if (named := _NAME.fullmatch(path.parent.name)) and path.stat().st_size
    ]
    counts = sorted({one.count for one in found})
    if len(counts) > 1:
        raise UsageError(
            f"{home / SHARDS} holds parts of {listed([str(count) for count in counts])}: a row is in one of each",
            fix="remove those that are not to be used, and what they paid for with them; or give --out a new folder",
        )
    return sorted(found, key=lambda one: one.number)


def _check_ended(home: Path, begun: Sequence[Shard]) -> None:
    """Raise UsageError where some of the parts have not ended: their rows would be asked for twice."""
    if not begun:
        return
    count = begun[0].count
    ended = {one.number for one in begun if (one.folder(home) / MARK).is_file()}
    open_parts = [f"{number}/{count}" for number in range(1, count + 1) if number not in ended]
    if open_parts:
        raise UsageError(
            f"{len(open_parts)} of {count} shards in {home} have not ended: {listed(open_parts, most=8)}",
            fix=f"wait for them, or do them here: the same command with --shard {open_parts[0]}; what they paid for "
            "is not asked again",
        )
