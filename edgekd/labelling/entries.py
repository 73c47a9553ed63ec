"""What became of each prompt, out of memory: an index over the ledger, in a temporary file that ends with the process.

There may be 10^5 answers and more; what a run takes of memory must not grow with them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

from edgekd.core.errors import StoreError
from edgekd.data.splits import Label
from edgekd.labelling.prices import Tokens

_CACHE_KIB = 4096
_COLUMNS = "outcome, label, prompt, completion, most, place, file"


class Entry(NamedTuple):
    """What became of a prompt, without the answer's words: those are at `place` in the ledger's file.

    `file` is 0 for the run's own ledger, else the number of one that was joined to it.
    """

    outcome: str
    label: Label | None
    prompt: int  # tokens
    completion: int
    most: int  # tokens that the answer might have had
    place: int
    file: int = 0

    @property
    def used(self) -> Tokens:
        """What it was billed, as far as is known."""
        return Tokens(self.prompt, self.completion)


class Entries:
    """Entries by the prompt's key, as a dictionary has them; the latest of a key counts. To be closed."""

    def __init__(self) -> None:
        self._rows = sqlite3.connect("", isolation_level=None)  # private, on disk once it outgrows its cache
        self._rows.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._rows.execute("PRAGMA journal_mode = OFF")  # nothing of it outlives the process
        self._rows.execute(f"CREATE TABLE entries (key BLOB PRIMARY KEY, {_COLUMNS}) WITHOUT ROWID")

    def __setitem__(self, key: bytes, entry: Entry) -> None:
        values = (key, entry.outcome, json.dumps(entry.label), *entry[2:])
        try:
            self._rows.execute("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
        except sqlite3.Error as error:  # of the disk: the statement is one that was tried
            raise StoreError(
                f"the folder for temporary files cannot hold an index of the ledger: {error}",
                fix="make room there, or name another folder: export TMPDIR=...; what is paid is in the ledger",
            ) from error

    def get(self, key: bytes) -> Entry | None:
        """Return the key's entry; None where there is none."""
        found = self._rows.execute(f"SELECT {_COLUMNS} FROM entries WHERE key = ?", (key,)).fetchone()  # noqa: S608
        return None if found is None else _entry(*found)

    def items(self) -> Iterator[tuple[bytes, Entry]]:
        """Yield all keys with their entries, in the keys' order."""
        for key, *values in self._rows.execute(f"SELECT key, {_COLUMNS} FROM entries ORDER BY key"):  # noqa: S608
            yield key, _entry(*values)

    def __contains__(self, key: bytes) -> bool:
        return self.get(key) is not None

    def __len__(self) -> int:
        count: int = self._rows.execute("SELECT count(*) FROM entries").fetchone()[0]
        return count

    def billed(self) -> tuple[int, Tokens]:
        """Return how many were billed anything, and the tokens of all of them together."""
        asked = "SELECT count(*), total(prompt), total(completion) FROM entries WHERE prompt + completion > 0"
        count, prompt, completion = self._rows.execute(asked).fetchone()
        return count, Tokens(int(prompt), int(completion))

    def close(self) -> None:
        """Remove it; nothing can be asked of it any more."""
        self._rows.close()


def _entry(outcome: str, label: str, *rest: int) -> Entry:
    named = json.loads(label)
    return Entry(outcome, tuple(named) if isinstance(named, list) else named, *rest)
