"""Ceilings that are kept under any concurrency: what a request may cost at most is set aside before it is sent."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from edgekd.labelling.prices import Prices, Tokens


@dataclass(frozen=True)
class Ceilings:
    """The most requests, tokens (of prompts and answers together) and pico-dollars of one ledger; None: no ceiling."""

    requests: int | None = None
    tokens: int | None = None
    picos: int | None = None


@dataclass
class Spent:
    """Requests that were sent, tokens that were or may have been billed, and what they cost in pico-dollars."""

    requests: int = 0
    prompt: int = 0
    completion: int = 0
    picos: int = 0

    def add(self, tokens: Tokens, picos: int, requests: int = 1) -> None:
        """So many tokens of one request more."""
        self.requests += requests
        self.prompt += tokens.prompt
        self.completion += tokens.completion
        self.picos += picos


class Budget:
    """What was spent and what is set aside, of the ceilings. For the tasks of one event loop: no lock is needed."""

    def __init__(self, ceilings: Ceilings, prices: Prices | None, spent: Spent) -> None:
        self.ceilings, self.prices, self.spent = ceilings, prices, spent
        self._aside = Spent()
        self._changed = asyncio.Event()

    def cost(self, tokens: Tokens) -> int:
        """Pico-dollars of so many tokens; 0 where no price is known."""
        return self.prices.of(tokens) if self.prices else 0

    def fits(self, worst: Tokens, *, beside: Spent | None = None) -> bool:
        """Whether a request that takes `worst` passes no ceiling, whatever becomes of those in flight.

        `beside` is kept free, too.
        """
        more = beside or Spent()
        sums = (
            (self.ceilings.requests, 1, "requests"),
            (self.ceilings.tokens, worst.total, "tokens"),
            (self.ceilings.picos, self.cost(worst), "picos"),
        )
        return all(
            most is None or one + sum(_part(of, what) for of in (self.spent, self._aside, more)) <= most
            for most, one, what in sums
        )

    async def reserve(self, worst: Tokens) -> bool:
        """Set `worst` aside, once those in flight leave room for it. False where nothing is in flight and none is."""
        while not self.fits(worst):
            if not self._aside.requests:
                return False
            await self._changed.wait()
        self._aside.add(worst, self.cost(worst))
        return True

    def settle(self, worst: Tokens, used: Tokens, *, sent: bool = True) -> None:
        """The request that `worst` was set aside for took `used`; one that was never `sent` is no request."""
        self._aside.add(Tokens(-worst.prompt, -worst.completion), -self.cost(worst), -1)
        self.spent.add(used, self.cost(used), int(sent))
        self._changed.set()
        self._changed = asyncio.Event()


def _part(spent: Spent, what: str) -> int:
    return spent.prompt + spent.completion if what == "tokens" else int(getattr(spent, what))
