"""A stand-in for an OpenAI-compatible server on loopback: it counts what it bills, and fails as real ones do.

`python tests/api_server.py PORT` serves in a process of its own; `GET /state` tells what it counted.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import socket
import struct
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CLASSES = ("animal", "colour", "food")
# each happens to a request, once; all but the first seven are billed
FREE = (
    "rate_limit",
    "rate_limit_after",
    "error_503",
    "key",
    "model",
    "credit",
    "context",
    "redirect",
    "moderated",
    "rejected",
)
BROKEN = ("error_500", "timeout", "reset_before", "reset_after", "half_closed", "endless", "truncated", "invalid")
SPOILED = ("no_choices", "refusal", "content_filter", "length", "off_list", "language")
GOOD = ("plain", "streamed", "no_usage", "negative_usage", "odd_usage", "fenced")  # a label can still be read
FAULTS = (*FREE[:3], *BROKEN, *SPOILED, *GOOD)
WORDS = {"off_list": '{"label": "vehicle"}', "language": "animali", "length": '{"label": "ani'}


def tokens_of(text: str) -> int:
    """At least one for a word; never more than the text has bytes."""
    return max(1, (len(text.encode()) + 3) // 4)


def label_of(text: str) -> str:
    """What the stand-in's model thinks of a text: the same each time."""
    return CLASSES[hashlib.sha256(text.encode()).digest()[0] % len(CLASSES)]


class StandIn(ThreadingHTTPServer):
    """`plan` names the fault of each request, by its number, or None; `answers` maps texts to labels."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, plan: Any = None, *, port: int = 0, delay_s: float = 0.0, key: str = "", model: str = "mini"):
        super().__init__(("127.0.0.1", port), Handler)
        self.plan, self.delay_s, self.key, self.model = plan or (lambda number, text: None), delay_s, key, model
        self.answer = label_of
        self.lock = threading.Lock()
        self.requests, self.prompt_tokens, self.completion_tokens = 0, 0, 0
        self.faults: Counter[str] = Counter()
        self.billed: Counter[str] = Counter()  # how often each text was paid for
        self.whole: Counter[str] = Counter()  # how often each text got a whole answer
        self.most_at_once = self.at_once = 0
        self.bodies: list[dict[str, Any]] = []
        self.refuses: tuple[str, ...] = ()  # options that it answers 400 to
        self.ignores_limit = False
        self.fingerprint, self.elsewhere = "fp_1", ""
        self.headers: dict[str, str] = {}
        self.raw: tuple[int, bytes, dict[str, str]] = (200, b"", {})  # status, body and headers of the fault "raw"
        self.models: bytes | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def __enter__(self) -> StandIn:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """Clients go away: that is what is tested."""

    def state(self) -> dict[str, Any]:
        with self.lock:
            return {
                "requests": self.requests,
                "prompt_tokens": self.prompt_tokens,
                "completion_tokens": self.completion_tokens,
                "faults": dict(self.faults),
                "billed": dict(self.billed),
                "whole": dict(self.whole),
                "most_at_once": self.most_at_once,
            }


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: StandIn
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.server.models is not None:
            self._send_bytes(200, self.server.models)
            return
        said = self.server.state() if self.path == "/state" else {"data": [{"id": self.server.model}]}
        self._send(200, said)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        row = body["messages"][-1]["content"]
        text = json.loads(row[row.index('"') :]) if '"' in row else row
        with server.lock:
            number, server.requests = server.requests, server.requests + 1
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
            if len(server.bodies) < 2000:
                server.bodies.append(body)
            fault = self._refused(body) or server.plan(number, text)
            if fault:
                server.faults[fault] += 1
        try:
            time.sleep(server.delay_s)
            self._answer(body, text, fault)
        finally:
            with server.lock:
                server.at_once -= 1

    def _refused(self, body: dict[str, Any]) -> str | None:
        server = self.server
        if server.key and self.headers.get("Authorization") != f"Bearer {server.key}":
            return "key"
        if body["model"] != server.model:
            return "model"
        return next((f"refuses {name}" for name in server.refuses if name in body), None)

    def _answer(self, body: dict[str, Any], text: str, fault: str | None) -> None:
        errors = {
            "rate_limit": (429, "Rate limit reached", "rate_limit_exceeded", {}),
            "rate_limit_after": (429, "Rate limit reached", "rate_limit_exceeded", {"Retry-After": "0.05"}),
            "error_503": (503, "overloaded", "overloaded", {}),
            "error_500": (500, "The server had an error", "server_error", {}),
            "key": (401, f"Incorrect API key provided: {self.headers.get('Authorization')}", "invalid_api_key", {}),
            "model": (404, f"The model {body['model']} does not exist", "model_not_found", {}),
            "credit": (429, "You exceeded your current quota", "insufficient_quota", {}),
            "moderated": (403, "Your input was flagged by moderation", "forbidden", {}),
            "rejected": (400, "Invalid value: messages[1].content", "invalid_request_error", {}),
            "context": (400, "This model's maximum context length is 128 tokens", "context_length_exceeded", {}),
        }
        if fault and fault.startswith("refuses "):
            self._send(400, {"error": {"message": f"Unsupported parameter: '{fault[8:]}'", "code": "unsupported"}})
            return
        answer = self.server.answer(text)
        said = {"labels": list(answer)} if isinstance(answer, list | tuple) else {"label": answer}
        content = WORDS.get(fault or "", json.dumps(said))
        used = self._bill(body, text, content, fault)
        if fault == "redirect":
            self._send(307, {}, {"Location": f"{self.server.elsewhere}/chat/completions"})
        elif fault == "raw":
            self._send_bytes(*self.server.raw)
        elif fault == "huge":
            self._send_bytes(200, b" " * (6 << 20))
        elif fault == "bomb":
            self._send_bytes(200, gzip.compress(b" " * (1 << 20)) * 80, {"Content-Encoding": "gzip"})
        elif fault in errors:
            status, message, code, headers = errors[fault]
            self._send(status, {"error": {"message": message, "code": code}}, headers)
        elif fault in BROKEN:
            self._break(fault, self._completion(body, content, used))
        elif fault == "streamed":
            with self.server.lock:
                self.server.whole[text] += 1
            self._stream(content)
        else:
            with self.server.lock:
                self.server.whole[text] += 1
            said = self._completion(body, content, used)
            self._spoil(said, text, fault)
            self._send(200, said, self.server.headers)

    def _bill(self, body: dict[str, Any], text: str, content: str, fault: str | None) -> tuple[int, int]:
        prompt = sum(tokens_of(message["content"]) + 4 for message in body["messages"])
        most = body.get("max_tokens") or body.get("max_completion_tokens") or 10**6
        completion = tokens_of(content) if not self.server.ignores_limit else 500
        completion = completion if self.server.ignores_limit else min(completion, most)
        if fault not in FREE:
            with self.server.lock:
                self.server.prompt_tokens += prompt
                self.server.completion_tokens += completion
                self.server.billed[text] += 1
        return prompt, completion

    def _completion(self, body: dict[str, Any], content: str, used: tuple[int, int]) -> dict[str, Any]:
        choice: dict[str, Any] = {"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        if body.get("logprobs"):
            choice["logprobs"] = {"content": _logprobs(content)}
        return {
            "object": "chat.completion",
            "choices": [choice],
            "usage": {"prompt_tokens": used[0], "completion_tokens": used[1]},
            "system_fingerprint": self.server.fingerprint,
        }

    def _spoil(self, said: dict[str, Any], text: str, fault: str | None) -> None:
        choice, label = said["choices"][0], self.server.answer(text)
        if fault == "no_choices":
            said["choices"] = []
        elif fault == "refusal":
            choice["message"] = {"content": None, "refusal": "I cannot help with that."}
        elif fault in ("content_filter", "length"):
            choice["finish_reason"] = fault
        elif fault == "plain":
            choice["message"]["content"] = f" {label.title()}.\n"
            choice.pop("logprobs", None)
        elif fault == "fenced":
            choice["message"]["content"] = f'Sure!\n```json\n{{"label": "{label}"}}\n```'
        elif fault == "echo":
            choice["message"]["content"] = f"Your {self.headers['Authorization']} says {label}"
        elif fault == "no_usage":
            del said["usage"]
        elif fault == "negative_usage":
            said["usage"] = {"prompt_tokens": -5, "completion_tokens": 0}
        elif fault == "odd_usage":
            said["usage"] = {"prompt_tokens": "many", "completion_tokens": 1.5}

    def _break(self, fault: str, said: dict[str, Any]) -> None:
        body = json.dumps(said).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        self.close_connection = True
        if fault == "timeout":
            time.sleep(3)
        elif fault == "reset_after":
            self.wfile.write(head + body[:10])
        elif fault == "half_closed":
            self.wfile.write(head + body[: len(body) // 2])
            self.connection.shutdown(socket.SHUT_WR)
            return
        elif fault == "endless":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(200):
                self.wfile.write(b"1\r\n \r\n")
                time.sleep(0.02)
        elif fault in ("truncated", "invalid"):
            self.close_connection = False
            self._send_bytes(200, body[: len(body) // 2] if fault == "truncated" else b"<html>oops</html>")
            return
        if fault in ("reset_before", "reset_after"):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _stream(self, content: str) -> None:
        chunks = [{"choices": [{"delta": {"content": part}}]} for part in (content[:5], content[5:])]
        chunks.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
        self._send_bytes(200, ("".join(lines) + "data: [DONE]\n\n").encode(), {"Content-Type": "text/event-stream"})

    def _send(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        self._send_bytes(status, json.dumps(body).encode(), headers)

    def _send_bytes(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _logprobs(content: str) -> list[dict[str, Any]]:
    """Tokens of `{"label": "food"}`, and at the label what else might have begun there."""
    start, label, end = content.partition(json.loads(content)["label"]) if content.endswith("}") else (content, "", "")
    tops = [{"token": label[:2], "logprob": -0.357}, {"token": label[:2].upper(), "logprob": -2.3}]
    tops += [{"token": name, "logprob": -2.3} for name in CLASSES if name != label][:1]
    parts = [(start, []), (label[:2], tops), (label[2:] + end, [])]
    return [{"token": token, "logprob": -0.357, "top_logprobs": tops} for token, tops in parts if token]


def some_faults(share: float, seed: int = 0, kinds: tuple[str, ...] = FAULTS) -> Any:
    """A plan by which so many of the requests meet a fault, the same for the same seed."""
    draw = random.Random(seed)
    return lambda number, text: draw.choice(kinds) if draw.random() < share else None


if __name__ == "__main__":
    with StandIn(some_faults(float(sys.argv[2])), port=int(sys.argv[1])) as server:
        sys.stdout.write(server.url + "\n")
        sys.stdout.flush()
        sys.stdin.read()
