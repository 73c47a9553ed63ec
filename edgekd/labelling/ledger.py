"""The ledger: what was asked, and what came of it. Append-only, each line synced to disk before its request is sent.

A line is a JSON object that ends in the CRC-32 of what stands before it. An `intent` has a request's number, its
prompt's hash and the most that it may be billed; `answer`, `unknown` or `free` (surely not billed) ends it. An intent
without an end may have been billed: it counts as `unknown`, at the most.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import zlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from edgekd.core.errors import StoreError
from edgekd.core.files import flush, make_folder, storage_error, try_lock
from edgekd.data.splits import Label
from edgekd.labelling.budget import Spent
from edgekd.labelling.entries import Entries, Entry
from edgekd.labelling.prices import Prices, Tokens

NAME, SHARDS = "ledger.jsonl", "shards"
SCHEMA = 1
_CRC = b',"crc":"%08x"}\n'
_CRC_BYTES = len(_CRC % 0)
_FIRST = b'{"kind":"run",'
_LONGEST = 1 << 20  # bytes of a line
Record = dict[str, Any]


class _Line(NamedTuple):
    content: bytes
    then: Callable[[int], None] | None
    done: asyncio.Future[None]


class Ledger:
    """One folder's, held by one process. `entries` are answers by prompt and turn, `spent` what all requests took."""

    def __init__(self, folder: Path, prices: Prices | None, *, look: bool = False) -> None:
        """Open or begin it, and mend a last line that a kill cut off; to `look` alone, nothing is held or written.

        Raises StoreError where another process holds it, where it is damaged elsewhere, and for a disk's errors.
        """
        self.path, self.prices = folder / NAME, prices
        self.entries = Entries()
        self.spent, self.unknown, self.runs, self.mended = Spent(), 0, list[Record](), 0
        self.fingerprints: dict[str, int] = {}  # answers by the server's `system_fingerprint`, in order of the first
        self.latency_ms = array("f")  # of each answer, in order; an older ledger's have none
        self._open: dict[int, tuple[bytes, Tokens]] = {}
        self.in_flight: list[Tokens] = []  # of a ledger that is only looked at: the most of each request without an end
        self.joined: list[Path] = []
        self.joined_runs: list[Record] = []
        self._next, self._then = 0, prices
        self._waiting: list[_Line] = []
        self._writer: asyncio.Task[None] | None = None
        self._broken: StoreError | None = None
        try:
            if not look:
                make_folder(folder)
            self._file: BinaryIO = open(self.path, "rb" if look else "a+b", buffering=0)  # noqa: SIM115 (till `close`)
            if not look:
                flush(folder)
        except OSError as error:
            raise storage_error(error, self.path) from error
        try:
            if not look:
                self._lock()
            left = self._read()
            if look:
                self.in_flight = [most for _, most in self._open.values()]
                self._open.clear()  # what has no end yet may be another run's
            else:
                self._recover_accuracy(left)
        except OSError as error:
            self._file.close()
            self.entries.close()
            raise storage_error(error, self.path) from error
        except BaseException:
            self._file.close()
            self.entries.close()
            raise

    def _lock(self) -> None:
        free = try_lock(self._file.fileno())
        if free is None:
            raise StoreError(
                f"the disk of {self.path} knows no locks: two runs could pay for the same answers",
                fix="give --out a folder on a local disk",
            )
        if not free:
            raise StoreError(
                f"another edgekd label is at work on {self.path}",
                fix="wait until it ends, or give --out another folder: two runs on one ledger would pay twice",
            )

    def _read(self) -> int:
        """Take every whole line; the bytes of a last one that is none."""
        self._size = 0
        broken = False
        self._file.seek(0)
        for number, line in enumerate(iter(lambda: self._file.readline(_LONGEST), b""), start=1):
            record = _opened(line)
            if broken or (record is not None and not self._take(record, self._size)):
                raise self._damaged(number - broken)
            broken = record is None
            self._size += 0 if broken else len(line)
        left = os.fstat(self._file.fileno()).st_size - self._size
        if left:  # a kill, or a full disk, cut the last line off
            self._file.seek(0)
            if not self._size and not _FIRST.startswith(self._file.read(len(_FIRST))):  # a file of somebody else
                raise self._damaged(1)
        return left

    def _recover_accuracy(self, left: int) -> None:
        if left:
            os.ftruncate(self._file.fileno(), self._size)
            os.fsync(self._file.fileno())
            self.mended = left
        for request in list(self._open):
            self._write(_closed({"kind": "unknown", "id": request, "why": "the run ended before the answer"}))
            self._end_unknown(request)

    def _damaged(self, line: int) -> StoreError:
        return StoreError(
            f"{self.path}, line {line}: it is damaged, and not by a kill: what was paid for cannot be told",
            fix="restore the file from a copy, or give --out a new folder",
        )

    def _take(self, record: Record, place: int) -> bool:
        """One record's part in the sums; False where it cannot follow those before it."""
        try:
            kind = record["kind"]
            if kind != "run" and not self.runs:
                return False  # nobody knows whose answers these are
            if kind == "run":
                if record["schema"] != SCHEMA:
                    return False
                self.runs.append(record)
                self._then = Prices(*record["prices"]) if record.get("prices") else self.prices
            elif kind == "intent":
                most = Tokens(*map(int, record["most"]))
                self._open[int(record["id"])] = (bytes.fromhex(record["prompt"]), most)
                self._next = max(self._next, int(record["id"]) + 1)
            elif kind == "answer":
                self._end_answer(record, place)
            elif kind == "unknown":
                self._end_unknown(int(record["id"]))
            elif kind == "free":
                self._open.pop(int(record["id"]))
                self.spent.requests += int(record["sent"])
            else:
                return False
        except (KeyError, TypeError, ValueError):
            return False
        return True

    def _end_answer(self, record: Record, place: int) -> None:
        key, most = self._open.pop(int(record["id"]))
        used = Tokens(*map(int, record["used"]))
        self._spend(used)
        if told := record.get("fingerprint"):
            self.fingerprints[told] = self.fingerprints.get(told, 0) + 1
        if record.get("latency_ms"):
            self.latency_ms.append(float(record["latency_ms"]))
        label = record["label"]
        self.entries[key] = Entry(
            str(record["outcome"]),
            _names(label),
            used.prompt,
            used.completion,
            most.completion,
            place,
        )

    def _end_unknown(self, request: int) -> None:
        _, most = self._open.pop(request)
        self._spend(most)
        self.unknown += 1

    def _spend(self, tokens: Tokens) -> None:
        self.spent.add(tokens, self._then.of(tokens) if self._then else 0)

    def begin(self, run: Record) -> None:
        """Note that a run begins, with its prices and what else it says of itself. Raises StoreError."""
        prices, self._then = self.prices, self.prices
        priced = [prices.prompt, prices.completion, prices.source] if prices else None
        record = {"kind": "run", "schema": SCHEMA, "prices": priced, **run}
        self._write(_closed(record))
        self.runs.append(record)

    async def intend(self, key: bytes, most: Tokens) -> int:
        """Note what is about to be asked; its number, once that is on disk. Raises StoreError."""
        request, self._next = self._next, self._next + 1
        self._open[request] = (key, most)
        await self._append({"kind": "intent", "id": request, "prompt": key.hex(), "most": list(most)})
        return request

    async def answered(self, request: int, used: Tokens, answer: Record) -> None:
        """Keep an answer: `outcome`, `label` and its words. Raises StoreError."""
        record = {"kind": "answer", "id": request, "used": list(used), **answer}
        await self._append(record, then=partial(self._end_answer, record))

    async def lost(self, request: int, why: str) -> None:
        """Note that nobody knows what became of a request: it counts at the most. Raises StoreError."""
        self._end_unknown(request)
        await self._append({"kind": "unknown", "id": request, "why": why})

    async def free(self, request: int, why: str, *, sent: bool) -> None:
        """Note that a request was surely not billed: refused as it came, or never `sent`. Raises StoreError."""
        self._open.pop(request)
        self.spent.requests += int(sent)
        await self._append({"kind": "free", "id": request, "why": why, "sent": sent})

    async def drain(self) -> None:
        """Wait until all that was noted is on disk, or cannot be."""
        if self._writer is not None:
            await asyncio.gather(self._writer, return_exceptions=True)

    def join(self, folder: Path, *, paid: bool) -> Spent:
        """Take the answers of another folder's ledger as if they were this one's, and return what it spent.

        Where they are `paid` from the same ceilings, that counts here, too, requests without an end at the most.
        Raises StoreError.
        """
        other = Ledger(folder, self.prices, look=True)
        try:
            self.joined.append(other.path)
            self.joined_runs += other.runs
            for key, entry in other.entries.items():
                if key not in self.entries:
                    self.entries[key] = entry._replace(file=len(self.joined))
            for most in other.in_flight:
                other._spend(most)
            if paid:
                self.spent = Spent(*map(sum, zip(astuple(self.spent), astuple(other.spent), strict=True)))
                self.unknown += other.unknown + len(other.in_flight)
                self.latency_ms.extend(other.latency_ms)
                for one, count in other.fingerprints.items():
                    self.fingerprints[one] = self.fingerprints.get(one, 0) + count
        finally:
            other.close()
        return other.spent

    def words(self, entry: Entry) -> Record:
        """Return the record of an entry, with the answer's words."""
        if entry.file:
            with self.joined[entry.file - 1].open("rb") as file:
                file.seek(entry.place)
                record = _opened(file.readline(_LONGEST))
        else:
            self._file.seek(entry.place)
            record = _opened(self._file.readline(_LONGEST))
        assert record is not None, "it was whole when it was read or written"
        return record

    def records(self) -> Iterator[Record]:
        """Yield all records, in order."""
        place = 0
        while place < self._size:
            self._file.seek(place)
            line = self._file.readline(_LONGEST)
            place += len(line)
            record = _opened(line)
            assert record is not None, "it was whole when it was read or written"
            yield record

    def close(self) -> None:
        """What is in flight counts as unknown from now on; the lock is given back."""
        try:
            for request in list(self._open):
                self._end_unknown(request)
                if self._broken is None:
                    self._write(_closed({"kind": "unknown", "id": request, "why": "stopped before the answer"}))
        except StoreError as error:
            self._broken = error  # the next run finds the intents without an end
        finally:
            self._file.close()
            self.entries.close()

    async def _append(self, record: Record, then: Callable[[int], None] | None = None) -> None:
        """Write and sync a record, then call `then` with its place. Those that wait meanwhile are synced together.

        Who waits may be cancelled: the record is written all the same. Raises StoreError.
        """
        if self._broken is not None:
            raise self._broken
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Line(_closed(record), then, done))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_waiting())
        await asyncio.shield(done)

    async def _write_waiting(self) -> None:
        while self._waiting:
            now, self._waiting = self._waiting, []
            place = self._size
            try:
                await asyncio.to_thread(self._write, b"".join(one.content for one in now))
            except StoreError as error:
                self._broken = error
            for one in now:
                if self._broken is None and one.then is not None:
                    try:
                        one.then(place)
                    except StoreError as error:  # it is on disk: the next run reads it
                        self._broken = error
                if self._broken is not None:
                    one.done.set_exception(self._broken)
                    one.done.exception()  # who waited may have been cancelled meanwhile
                    continue
                one.done.set_result(None)
                place += len(one.content)

    def _write(self, lines: bytes) -> None:
        handle, left = self._file.fileno(), lines
        try:
            while left:
                left = left[os.write(handle, left) :]
            os.fsync(handle)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(handle, self._size)  # no half line: the next run would have to mend it
            raise storage_error(error, self.path) from error
        self._size += len(lines)


def _names(label: Any) -> Label | None:
    """A record's label: a name, or names; None where the answer has none."""
    if isinstance(label, list | tuple):
        return tuple(map(str, label))
    return None if label is None else str(label)


def _closed(record: Record) -> bytes:
    """A record as its line."""
    body = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")[:-1]
    return body + _CRC % zlib.crc32(body)


def _opened(line: bytes) -> Record | None:
    """The record of a line; None where it is not as it was written."""
    body, end = line[:-_CRC_BYTES], line[-_CRC_BYTES:]
    if end != _CRC % zlib.crc32(body):
        return None
    try:
        record: Record = json.loads(body + b"}")
    except ValueError:
        return None
    return record
