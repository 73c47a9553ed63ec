"""Two texts that are one input: a premise and a hypothesis, a question and a passage, two sentences to compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BETWEEN = " + "  # the names of the two columns, in the name of the one that they become
_MARK = " ¦ "


class Pair(str):
    """Two texts. As one text it is both with a bar between: what it is known by, and what a linear baseline reads."""

    first: str
    second: str

    @classmethod
    def of(cls, first: str, second: str) -> Pair:
        """Return the two as one input."""
        made = cls(f"{first}{_MARK}{second}")
        made.first, made.second = first, second
        return made

    def changed(self, first: str) -> Pair:
        """Return another first text beside the same second one."""
        return Pair.of(first, self.second)


def given_to_tokenizer(text: str) -> Any:
    """Return a text as a tokenizer's batch takes it: of a pair both, as a list.

    >>> given_to_tokenizer("a"), given_to_tokenizer(Pair.of("a", "b"))
    ('a', ['a', 'b'])
    """
    return [text.first, text.second] if isinstance(text, Pair) else text


def sides(texts: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """Return the first texts and the second ones; None where the texts are no pairs."""
    if not any(isinstance(text, Pair) for text in texts):
        return list(texts), None
    return [text.first if isinstance(text, Pair) else text for text in texts], [
        text.second if isinstance(text, Pair) else "" for text in texts
    ]
