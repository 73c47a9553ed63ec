"""The one file that talks to a teacher's server: the official `openai` client, its own retries off.

What comes back is read by hand: servers that call themselves compatible leave out fields, send others' types, or stream
although nobody asked. The key is replaced in whatever a server says before anything else sees it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import TeacherError
from edgekd.labelling.prices import Tokens

if TYPE_CHECKING:
    import httpx2

_MOST_BYTES = 4 << 20  # of one answer's body
_MOST_PACKED = 64 << 10  # of one that is compressed, though nobody asked: it may unpack to a thousand times that
_CONNECT_S = 20.0
_WORDS = 300  # letters of a server's words in a message
Json = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """An answer as the server gave it; what it left out, or gave in another form, is empty or None."""

    content: str
    finish: str
    refusal: str
    used: Tokens | None
    fingerprint: str
    logprobs: tuple[Json, ...]
    headers: Mapping[str, str]


class Failure(Exception):
    """A request without an answer. `billed` says whether it may cost something, `sent` whether the server had it."""

    def __init__(
        self,
        why: str,
        *,
        billed: bool,
        sent: bool = True,
        status: int = 0,
        code: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(why)
        self.why, self.billed, self.sent, self.status, self.code = why, billed, sent, status, code
        self.headers: Mapping[str, str] = headers or {}


class Client:
    """A server's chat and completions API. To be made and closed within one event loop."""

    def __init__(self, url: str, key: str | None, *, timeout_s: float, connections: int, proxies: bool) -> None:
        """Without `proxies` those that the environment names are not used.

        Raises TeacherError where the package `openai` is not installed.
        """
        if importlib.util.find_spec("openai") is None:
            raise TeacherError(
                "a teacher behind an API needs the package openai", fix="pip install 'edgekd[label]', or openai itself"
            )
        import httpx2
        import openai

        self._key, self._timeout_s = key, timeout_s
        limits = httpx2.Limits(max_connections=connections + 2, max_keepalive_connections=connections + 2)
        transport = httpx2.AsyncClient(
            timeout=httpx2.Timeout(timeout_s, connect=min(_CONNECT_S, 0.9 * timeout_s)),
            limits=limits,
            headers={"accept-encoding": "identity"},
            trust_env=proxies,
            follow_redirects=False,  # prompts and key go where the user said, nowhere else
            event_hooks={"response": [_bounded]},
        )
        self._openai = openai.AsyncOpenAI(
            api_key=key or "none", base_url=url, max_retries=0, timeout=timeout_s, http_client=transport
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._openai.close()

    async def ask(self, model: str, messages: list[Json], options: Mapping[str, Any]) -> Reply:
        """Send one request, once. Raises Failure."""
        try:
            async with asyncio.timeout(self._timeout_s):  # httpx2's own limits hold for each read, not for all
                raw = await self._openai.chat.completions.with_raw_response.create(
                    model=model, messages=messages, **options
                )
        except TimeoutError as error:
            raise Failure(f"no whole answer within {self._timeout_s:g} s", billed=True) from error
        except Exception as error:
            raise self._failure(error) from error
        response = raw.http_response
        headers = self._headers(response.headers)
        try:
            body = self._clean_values(_body(response.text, headers.get("content-type", "")))
            return _reply(body, headers)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            words = self._clean(f"{type(error).__name__}: {error}")[:_WORDS]
            raise Failure(f"the answer cannot be read ({words})", billed=True, headers=headers) from error

    async def models(self) -> list[str]:
        """Names of the models that the server has; empty where it does not say."""
        import httpx2
        import openai

        try:
            async with asyncio.timeout(_CONNECT_S):
                raw = await self._openai.models.with_raw_response.list()
            return [self._clean(str(one["id"])) for one in json.loads(raw.http_response.text)["data"]]
        except (
            openai.OpenAIError,
            httpx2.HTTPError,
            _TooLong,
            OSError,
            ValueError,
            KeyError,
            TypeError,
            RecursionError,
        ):
            return []

    def _failure(self, error: Exception) -> Failure:
        """What the client's error means for the bill. Others than its own are raised as they are."""
        import httpx2
        import openai

        if isinstance(error, openai.APIStatusError):
            status, response = error.status_code, error.response
            body: Json = error.body if isinstance(error.body, dict) else {}
            inner: Json = body["error"] if isinstance(body.get("error"), dict) else body
            words = str(inner.get("message") or inner.get("detail") or response.reason_phrase)
            code = str(inner.get("code") or inner.get("type") or "")
            why = self._clean(f"HTTP {status}: {' '.join(words.split())}")[:_WORDS]
            # nobody knows whether a server that broke, or a gateway before it, had begun to answer
            return Failure(
                why,
                billed=status >= 500,
                status=status,
                code=self._clean(code),
                headers=self._headers(response.headers),
            )
        if isinstance(error, openai.APIConnectionError | httpx2.HTTPError | _TooLong):
            cause = error.__cause__ or error
            sent = not isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.UnsupportedProtocol)
            why = self._clean(f"{type(cause).__name__}: {cause}")[:_WORDS]
            return Failure(why, billed=sent, sent=sent)
        if isinstance(error, openai.OpenAIError | ValueError):
            return Failure(self._clean(f"{type(error).__name__}: {error}")[:_WORDS], billed=True)
        raise error

    def _clean(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text

    def _clean_values(self, value: Any) -> Any:
        """A JSON value without the key. Of the decoded value, for JSON can spell the key in many ways."""
        if isinstance(value, str):
            return self._clean(value)
        if isinstance(value, dict):
            return {self._clean(name): self._clean_values(one) for name, one in value.items()}
        return [self._clean_values(one) for one in value] if isinstance(value, list) else value

    def _headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        return {name.lower(): self._clean(value) for name, value in headers.items()}


class _TooLong(Exception):
    """An answer of more bytes than are read."""


async def _bounded(response: httpx2.Response) -> None:
    response.encoding = "utf-8-sig"  # JSON is UTF-8 whatever a server calls it; some codecs of Python's decode no text
    packed = response.headers.get("content-encoding", "identity") != "identity"
    response.stream = _bounded_stream()(response.stream, _MOST_PACKED if packed else _MOST_BYTES)


@cache
def _bounded_stream() -> Any:
    """The class of a body's bytes, up to so many: made when it is used, as httpx2 is imported then."""
    import httpx2

    class Bounded(httpx2.AsyncByteStream):  # type: ignore[misc]  # its type is not followed
        def __init__(self, stream: Any, most: int) -> None:
            self._stream, self._most = stream, most

        async def __aiter__(self) -> AsyncIterator[bytes]:
            left = self._most
            async for part in self._stream:
                left -= len(part)
                if left < 0:
                    raise _TooLong(f"the answer has more than {self._most:,} bytes")
                yield part

        async def aclose(self) -> None:
            await self._stream.aclose()

    return Bounded


def _body(text: str, kind: str) -> Json:
    """The JSON of an answer; of one that was streamed its parts, joined. Raises ValueError."""
    if not (kind.startswith("text/event-stream") or text.startswith("data:")):
        body = json.loads(text)
        if not isinstance(body, dict):
            raise ValueError("it is no JSON object")
        return body
    parts = [line[5:].strip() for line in text.splitlines() if line.startswith("data:")]
    chunks = [json.loads(part) for part in parts if part != "[DONE]"]
    joined: Json = {"choices": []}
    message: Json = {"content": "", "refusal": ""}
    tokens: list[Json] = []
    for chunk in chunks:
        joined |= {name: chunk[name] for name in ("usage", "system_fingerprint", "error") if chunk.get(name)}
        for choice in (chunk.get("choices") or [])[:1]:
            delta = choice.get("delta") or choice.get("message") or {}
            message["content"] += delta.get("content") or ""
            message["refusal"] += delta.get("refusal") or ""
            tokens += (choice.get("logprobs") or {}).get("content") or []
            before: Json = next(iter(joined["choices"]), {})
            finish = choice.get("finish_reason") or before.get("finish_reason")
            joined["choices"] = [{"message": message, "finish_reason": finish, "logprobs": {"content": tokens}}]
    if parts[-1:] != ["[DONE]"] and not (joined["choices"] and joined["choices"][0]["finish_reason"]):
        raise ValueError("the stream ended before its end")
    return joined


def _reply(body: Json, headers: Mapping[str, str]) -> Reply:
    """The answer in a body. Raises ValueError and the like where there is none; no choices are an empty answer."""
    if body.get("error"):
        raise ValueError(f"an error instead of an answer: {str(body['error'])[:_WORDS]}")
    choices = body["choices"]
    if not isinstance(choices, list):
        raise ValueError("its choices are no list")
    choice: Json = choices[0] if choices else {}
    message = choice.get("message") or {}
    content = message.get("content")
    if isinstance(content, list):  # some send it in parts
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    logprobs = choice.get("logprobs")
    told = logprobs.get("content") if isinstance(logprobs, dict) else None
    return Reply(
        content=content if isinstance(content, str) else "",
        finish=str(choice.get("finish_reason") or ("none" if choices else "no choices")),
        refusal=str(message.get("refusal") or ""),
        used=_used(body.get("usage")),
        fingerprint=str(body.get("system_fingerprint") or "")[:80],
        logprobs=tuple(one for one in told if isinstance(one, dict)) if isinstance(told, list) else (),
        headers=headers,
    )


def _used(usage: Any) -> Tokens | None:
    """What the server says that it bills; None where it says nothing, or nothing that can be."""
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if type(prompt) is not int or type(completion) is not int:  # True is an int, too
        return None
    return Tokens(prompt, completion) if prompt > 0 and completion >= 0 else None  # no prompt has no tokens
