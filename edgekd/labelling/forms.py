"""What each request asks for beside its messages; what a server refuses is left out from then on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from edgekd.labelling.client import Failure
from edgekd.labelling.soft import TOP

Refusal = Literal["key", "model", "credit", "redirect", "context", "content", "form", "limit", "other"]
_LIMITS = ("max_tokens", "max_completion_tokens")
_CONTEXT = re.compile(
    r"context[ _-]?(length|size|window)|maximum context|too many tokens|(prompt|input|message|text)s? \w+ too long",
    re.IGNORECASE,
)
_CONTENT = re.compile(r"content[ _]?(filter|management|policy)|responsible ?ai|safety|moderation|flagged", re.I)
_CREDIT = re.compile(r"insufficient[ _]?(quota|funds|credit|balance)|billing|exceeded your current quota", re.I)
_NAMES = {  # of options, as servers' errors name them
    "response_format": re.compile(r"response_?format|json_?schema|structured output|grammar|\bschema\b", re.I),
    "logprobs": re.compile(r"log_?prob", re.I),
    "temperature": re.compile(r"temperature", re.I),
}


class Form:
    """Options of the chat and completions API. `version` counts what was left out or renamed."""

    def __init__(self, schema: Mapping[str, object], answer_tokens: int, *, newest: bool, soft: bool) -> None:
        """`newest`: the server takes `max_completion_tokens`; others may ignore it, and with it the ceiling."""
        self.answer_tokens = answer_tokens
        self._limit = _LIMITS[newest]
        self._renamed = False
        self._wishes: dict[str, dict[str, object]] = {
            "temperature": {"temperature": 0},
            "response_format": {"response_format": schema},
        }
        if soft:
            self._wishes["logprobs"] = {"logprobs": True, "top_logprobs": TOP}
        self.refused: list[str] = []

    @property
    def version(self) -> int:
        """Requests of an older version may fail for what is left out by now."""
        return len(self.refused) + self._renamed

    @property
    def options(self) -> dict[str, object]:
        """As a request takes them."""
        made: dict[str, object] = {self._limit: self.answer_tokens}
        for wish in self._wishes.values():
            made |= wish
        return made

    def without(self, failure: Failure) -> bool:
        """Leave out, or rename, what the server's error names; False where it names nothing that can be."""
        if failure.status not in (400, 404, 415, 422, 501):
            return False
        if self._limit in failure.why and not self._renamed and not _CONTEXT.search(failure.why):
            self._limit, self._renamed = _LIMITS[self._limit == _LIMITS[0]], True
            return True
        for name, spelled in _NAMES.items():
            if name in self._wishes and spelled.search(failure.why):
                del self._wishes[name]
                self.refused.append(name)
                return True
        return False


def refusal(failure: Failure) -> Refusal:
    """Why a server refused a request that it did not bill."""
    said = f"{failure.code} {failure.why}"
    status = failure.status
    if status == 402 or (_CREDIT.search(said) and status in (403, 429)):
        return "credit"
    if status == 401 or (status == 403 and not _CONTENT.search(said)):
        return "key"
    if status == 404 or "model_not_found" in failure.code:
        return "model"
    if status in (408, 409, 425, 429):
        return "limit"
    if 300 <= status < 400:
        return "redirect"
    if _CONTEXT.search(said):
        return "context"
    return "content" if _CONTENT.search(said) else "form"
