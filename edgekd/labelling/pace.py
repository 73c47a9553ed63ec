"""How fast to ask: as the server's rate-limit headers and 429s say. All waits are by the monotonic clock."""

from __future__ import annotations

import asyncio
import email.utils
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from random import Random

from edgekd.core.errors import TeacherError

FIRST_S, MOST_S = 0.5, 60.0  # of a back-off
_LONGEST_ASKED_S = 600.0  # that a server may ask to wait before the run ends instead
_CUT_EVERY_S = 1.0  # the 429s of one burst count once
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


class Pace:
    """Who may ask now: at most `concurrency` at once, fewer after a 429, and nobody while the server asks to wait."""

    def __init__(self, concurrency: int, *, patience_s: float = 900.0, seed: int = 0) -> None:
        """Give up after `patience_s` in which no request got an answer."""
        self.most, self.allowed, self.patience_s = concurrency, float(concurrency), patience_s
        self.limited = 0  # 429s
        self.in_flight, self._not_before, self._cut = 0, 0.0, -_CUT_EVERY_S
        self._failing_since: float | None = None
        self._random = Random(seed)  # noqa: S311
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for one's turn; the block is a request in flight."""
        while (wait := self._not_before - time.monotonic()) > 0 or self.in_flight >= max(1, int(self.allowed)):
            if wait > 0:
                await asyncio.sleep(wait * (1 + 0.1 * self._random.random()))
            else:
                await self._changed.wait()
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            self._wake()

    def answered(self, headers: Mapping[str, str]) -> None:
        """An answer came: a little faster, and no request before a limit that is used up is reset."""
        self._failing_since = None
        self.allowed = min(self.most, self.allowed + 1 / max(1.0, self.allowed))
        self._hold(min(_reset(headers) or 0.0, MOST_S))
        self._wake()

    def failed(self, why: str, headers: Mapping[str, str], attempt: int, *, limited: bool) -> float:
        """Seconds before this request is asked again: what the server says, else a back-off with full jitter.

        `limited`: it was a 429, or the like. Raises TeacherError where nothing came for too long, or where the server
        asks for a wait that nobody sits through.
        """
        now = time.monotonic()
        if limited:
            self.limited += 1
            if now - self._cut >= _CUT_EVERY_S:
                self.allowed, self._cut = max(1.0, self.allowed / 2), now
        asked = _retry_after(headers)
        if asked is None and limited:
            asked = _reset(headers)
        self._failing_since = self._failing_since or now
        if now - self._failing_since > self.patience_s or (asked or 0) > _LONGEST_ASKED_S:
            what = f"the server asks to wait {asked:.0f} s" if asked else f"no answer for {self.patience_s:.0f} s"
            raise TeacherError(
                f"{what}: {why}", fix="run the same command later: what was answered is kept, and not asked again"
            )
        if asked is not None and limited:
            self._hold(asked)
        most = min(MOST_S, FIRST_S * 2 ** min(attempt, 10))
        return max(asked or 0.0, self._random.uniform(0, most))

    def _hold(self, seconds: float) -> None:
        if seconds:
            self._not_before = max(self._not_before, time.monotonic() + seconds)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait; a date is held against the server's own clock, not this machine's."""
    text = headers.get("retry-after-ms", "").strip()
    if re.fullmatch(r"\d{1,12}(\.\d+)?", text):
        return float(text) / 1000
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,12}(\.\d+)?", text):
        return float(text)
    try:
        until = email.utils.parsedate_to_datetime(text)
        now = email.utils.parsedate_to_datetime(headers.get("date", ""))
        return max(0.0, (until - now).total_seconds())
    except (TypeError, ValueError):
        return None


def _reset(headers: Mapping[str, str]) -> float | None:
    """Seconds until a limit of requests or tokens, of which nothing remains, is there again."""
    waits = [
        _seconds(headers.get(f"x-ratelimit-reset-{what}", ""))
        for what in ("requests", "tokens")
        if headers.get(f"x-ratelimit-remaining-{what}", "").strip() == "0"
    ]
    return max((wait for wait in waits if wait is not None), default=None)


def _seconds(text: str) -> float | None:
    """`6m0s`, `20ms`, `1.5`: seconds."""
    text = text.strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", text):
        return float(text)
    parts = _DURATION.findall(text[:40])
    return sum(float(number) * _UNITS[unit] for number, unit in parts) if parts else None
