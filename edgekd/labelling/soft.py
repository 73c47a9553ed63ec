"""Soft labels: probabilities of the label's first token, where the server tells them and they tell classes apart.

A class's probability is the sum over the tokens that begin its name, whatever their capitals and leading space. A token
that begins two names says nothing of either: then there is no soft label.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import exp, isfinite
from typing import Any

TOP = 20  # the most that servers give
_LEAST_MASS = 0.25  # of all tokens, that must begin some class's name
_VALUE = re.compile(r'"(?:label|class|category)"\s*:\s*"?')


def soft_label(logprobs: Sequence[dict[str, Any]], label: str, classes: Sequence[str]) -> dict[str, float] | None:
    """Probabilities by class, which sum to 1; those not among the top tokens are 0. None where they cannot be had.

    `logprobs` has for each token of the answer `token` and `top_logprobs`, as the API gives them.
    """
    tops = _top_of_label(logprobs)
    folded = {name: name.casefold() for name in classes}
    sums = dict.fromkeys(classes, 0.0)
    for top in tops:
        token, logprob = top.get("token"), top.get("logprob")
        if not isinstance(token, str) or not isinstance(logprob, int | float) or not isfinite(logprob):
            return None
        start = token.strip(" \t\r\n\"'").casefold()
        begun = [name for name in classes if start and (folded[name].startswith(start) or start == folded[name])]
        if len(begun) > 1:
            return None
        for name in begun:
            sums[name] += min(1.0, exp(min(0.0, logprob)))
    mass = sum(sums.values())
    if mass < _LEAST_MASS or sums.get(label, 0.0) < max(sums.values(), default=0.0):
        return None
    return {name: round(value / mass, 6) for name, value in sums.items()}


def _top_of_label(logprobs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The top tokens where the label begins: behind `"label": "` in JSON, else at the answer's start."""
    text, starts = "", []
    for one in logprobs:
        starts.append(len(text))
        text += one["token"] if isinstance(one.get("token"), str) else ""
    found = _VALUE.search(text)
    if text.lstrip().startswith("{") and found is None:
        return []
    at = found.end() if found else 0
    for start, one in zip(starts, logprobs, strict=True):
        token = one.get("token")
        if not isinstance(token, str) or start + len(token) <= at:
            continue
        if start < at and token[: at - start].strip(' "'):  # the token spans the label's start and what is before it
            return []
        tops = one.get("top_logprobs")
        return [top for top in tops if isinstance(top, dict)] if isinstance(tops, list) else []
    return []
