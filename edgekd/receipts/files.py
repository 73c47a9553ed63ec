"""Receipts: what devices showed of a bundle, read from beside it, and held against it before anything is believed.

A receipt lies in `NAME-TARGET.receipts/DEVICE-UTC.json`; `edgekd.onboard.bench` composes it, `edgekd.receipts.validate`
says what speaks against it. Percentiles are never in a receipt: they are derived from its samples here.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from shlex import quote
from typing import Any

from edgekd.core import statistics as intervals
from edgekd.core.errors import StoreError
from edgekd.core.files import storage_error, write_file
from edgekd.core.latency import Percentile, aa_ratio, is_stable, percentile
from edgekd.core.receipt import LIMIT_MIB, Receipt, ReceiptRefused, parse, refused
from edgekd.receipts.validate import doubts, made
from edgekd.security.signing import read_limited


@dataclass(frozen=True)
class Latency:
    """A receipt's latency for showing, derived from its samples; `aa` is the A/A control's ratio of medians."""

    p50_ms: float
    interval: tuple[float, float]  # 95%, bootstrap over rows
    p90: Percentile
    p99: Percentile
    aa: float
    n: int

    @property
    def stable(self) -> bool:
        """Whether the A/A control's median is within AA_LIMIT of the model's own."""
        return is_stable(self.aa)

    def as_dict(self) -> dict[str, Any]:
        """Plain values; the keys that `core.latency.held_to` takes."""
        return {
            "latency_p50_ms": self.p50_ms,
            "latency_interval": list(self.interval),
            "latency_p90_ms": self.p90.value,
            "latency_p99_ms": self.p99.value,
            "latency_notes": {str(one.percent): one.says for one in (self.p90, self.p99)},
            "latency_n": self.n,
            "aa": self.aa,
            "stable": self.stable,
        }


def latency(receipt: Receipt) -> Latency | None:
    """Median with its interval, percentiles and the A/A ratio; None of an emulated device."""
    import numpy as np

    if receipt.latency_ms is None or receipt.aa_latency_ms is None:
        return None
    every, control = np.array(receipt.latency_ms), np.array(receipt.aa_latency_ms)
    own = np.median(every, axis=0)
    return Latency(
        p50_ms=float(np.median(own)),
        interval=intervals.interval(own, np.median),
        p90=percentile(90, every, every, control),
        p99=percentile(99, every, every, control),
        aa=aa_ratio(every, control),
        n=int(every.size),
    )


def folder(bundle: Path) -> Path:
    """Where a bundle's receipts lie: beside it, `NAME-TARGET.receipts`."""
    whole = bundle.resolve()
    return whole.with_name(f"{whole.name}.receipts")


def writable_folder(bundle: Path) -> Path:
    """The same, to write into. Raises StoreError where it is a link: what is written would land somewhere else."""
    place = folder(bundle)
    if place.is_symlink():
        raise StoreError(
            f"{place} is a link: nothing is written through it",
            fix=f"put the folder itself there: `rm {quote(str(place))} && mkdir {quote(str(place))}`",
        )
    return place


def read_all(bundle: Path) -> tuple[list[tuple[Path, Receipt]], list[tuple[Path, tuple[str, ...]]]]:
    """The receipts beside a bundle that hold, oldest first, and those that do not, each with its reasons.

    Copies of one receipt count once.
    Raises UsageError where the folder is no bundle.
    """
    of, good, bad = made(bundle), [], []
    first: dict[str, str] = {}  # file by digest
    for path in sorted(folder(bundle).glob("*.json")):
        try:
            receipt = _read(path)
        except ReceiptRefused as error:
            bad.append((path, error.reasons))
            continue
        if found := doubts(receipt, of):
            bad.append((path, tuple(found)))
        elif (same := first.setdefault(receipt.digest, path.name)) != path.name:
            bad.append((path, (f"a copy of {same}, which counts once",)))
        else:
            good.append((path, receipt))
    return sorted(good, key=lambda one: one[1].started), bad


def check(said: bytes | dict[str, Any], bundle: Path, now: datetime | None = None) -> Receipt:
    """A receipt that holds for the bundle. Raises ReceiptRefused with every reason why one does not."""
    receipt = parse(said if isinstance(said, bytes) else json.dumps(said).encode())
    if found := doubts(receipt, made(bundle), now):
        raise refused(found, receipt)
    return receipt


def check_writable(bundle: Path) -> None:
    """Raises StoreError where no receipt can be written beside the bundle: told before anything is measured."""
    place = writable_folder(bundle)
    try:
        tempfile.TemporaryFile(dir=place if place.exists() else place.parent).close()
    except OSError as error:
        raise StoreError(
            f"no receipt can be written to {place}: {error.strerror}",
            fix="make that folder writable, or copy the bundle to where you may write",
        ) from error


def write(said: dict[str, Any], bundle: Path) -> Path:
    """Write a receipt beside its bundle, over no other one; its path. Raises StoreError where that cannot be."""
    name = re.sub(r"[^a-z0-9.]+", "-", str(said["device"]).lower()).strip("-")
    path = _taken(writable_folder(bundle), f"{name}-{said['started'].replace(':', '').replace('-', '')}")
    try:
        write_file(path, json.dumps(said, ensure_ascii=False) + "\n")
    except StoreError:
        path.unlink(missing_ok=True)
        raise
    return path


def _taken(place: Path, name: str) -> Path:
    """A new empty file of that name, or with -2, -3 ... where another run has it."""
    number = 1
    try:
        place.mkdir(parents=True, exist_ok=True)
        while True:
            path = place / (f"{name}.json" if number == 1 else f"{name}-{number}.json")
            with contextlib.suppress(FileExistsError):
                path.touch(exist_ok=False)
                return path
            number += 1
    except OSError as error:
        raise storage_error(error, place) from error


def _read(path: Path) -> Receipt:
    if not path.is_file():
        raise refused(["it is no file"])
    try:
        return parse(read_limited(path, LIMIT_MIB << 20))
    except OSError as error:
        raise refused([f"it cannot be read: {error.strerror}"]) from error
    except ValueError as error:
        raise refused([f"it has more than the {LIMIT_MIB} MiB that a receipt may have"]) from error
