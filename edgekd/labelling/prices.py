"""What tokens cost: a dated table, or what the user says. Money is whole pico-dollars: sums of it are exact."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import NamedTuple

from edgekd.core.errors import UsageError, listed

PICO = 10**12
_OF_A_MILLION = 10**6  # pico-dollars a token in a dollar for a million tokens
_MOST_USD = 10**9
DATED = "2025-08-07"
_HOST = "api.openai.com"
# dollars for a million tokens, of the prompt and of the answer, as the provider's page had them on DATED; discounts for
# cached prompts are left out: the ceiling holds without them
_TABLE = {
    "gpt-4.1": ("2.00", "8.00"),
    "gpt-4.1-mini": ("0.40", "1.60"),
    "gpt-4.1-nano": ("0.10", "0.40"),
    "gpt-4o": ("2.50", "10.00"),
    "gpt-4o-mini": ("0.15", "0.60"),
    "gpt-5": ("1.25", "10.00"),
    "gpt-5-mini": ("0.25", "2.00"),
    "gpt-5-nano": ("0.05", "0.40"),
    "o3": ("2.00", "8.00"),
    "o4-mini": ("1.10", "4.40"),
}
_DATE = re.compile(r"-\d{4}-\d{2}-\d{2}")  # of a snapshot, which costs what the model costs


class Tokens(NamedTuple):
    """Tokens of a prompt and of its answer, those of its reasoning among them."""

    prompt: int
    completion: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.prompt + self.completion


@dataclass(frozen=True)
class Prices:
    """Pico-dollars a token, of the prompt and of the answer; `source` says whose figures they are."""

    prompt: int
    completion: int
    source: str

    def of(self, tokens: Tokens) -> int:
        """What so many tokens cost, in pico-dollars."""
        return tokens.prompt * self.prompt + tokens.completion * self.completion


def dollars(text: str, flag: str) -> int:
    """An amount in dollars, as pico-dollars. Raises UsageError, naming the flag, for what is none."""
    return int(_amount(text, flag) * PICO)


def prices(given: str | None, model: str, *, host: str, loopback: bool) -> Prices | None:
    """What the user says, `IN,OUT` in dollars for a million tokens; else the table's; None where nobody knows.

    The table is one provider's: another one has prices of its own for a model of the same name; a server on loopback is
    taken for a gateway to it. Raises UsageError for `given` that is no pair of prices.
    """
    if given is not None:
        parts = given.split(",")
        if len(parts) != 2:
            raise UsageError(
                f"--price-per-million {given} is not two prices",
                fix="give dollars for a million tokens of the prompt and of the answer: --price-per-million 0.15,0.60",
            )
        into, out = (_a_token(_amount(part, "price-per-million")) for part in parts)
        return Prices(into, out, "given")
    known = _TABLE.get(_DATE.sub("", model))
    if known is None or not (loopback or host == _HOST):
        return None
    into, out = (_a_token(Decimal(part)) for part in known)
    return Prices(into, out, f"edgekd's table of {DATED}")


def no_price(model: str) -> UsageError:
    """A ceiling in dollars without a price to hold it by."""
    return UsageError(
        f"--max-cost needs a price, and edgekd knows none of {model!r} at this provider "
        f"(its table of {DATED}: {listed(sorted(_TABLE))})",
        fix="give dollars for a million tokens of the prompt and of the answer: --price-per-million IN,OUT "
        "(0,0 where nobody is paid); or give --max-tokens instead",
    )


def _amount(text: str, flag: str) -> Decimal:
    try:
        value = Decimal(text.strip())
    except InvalidOperation:
        value = Decimal("NaN")
    if not (value.is_finite() and 0 <= value <= _MOST_USD):
        raise UsageError(f"--{flag}: {text.strip()!r} is no amount in dollars", fix=f"give a number: --{flag} 1.50")
    return value


def _a_token(of_a_million: Decimal) -> int:
    """Rounded up: a price is never taken for less than it is."""
    return int((of_a_million * _OF_A_MILLION).to_integral_value(ROUND_CEILING))
