"""What a device may answer that no runner answers: builders of the last line that a `time` run prints, by name."""

import json

HASH = "0" * 64
JOB = {"models": {"model": {}}, "rounds": 1}
STATE = {"load": 0.1, "governor": None, "temperature_c": None, "clock_mhz": None, "throttled": None}
GOOD = {
    "latency_ms": {"model": [[1.0]], "aa": [[1.0]]},
    "row_sha256": {"model": [HASH], "aa": [HASH]},
    "rows": [0],
    "state": STATE,
}


def _with(**values):
    return json.dumps(GOOD | values).encode()


def _latency(text):
    return _with().replace(b"[[1.0]]", f"[[{text}]]".encode(), 1)


ANSWERS = [
    ("nothing", lambda: b""),
    ("no JSON", lambda: b"\xff\xfe"),
    ("a list", lambda: b"[1]"),
    ("no keys", lambda: b"{}"),
    ("nested without end", lambda: b'{"a":' * 200_000 + b"1" + b"}" * 200_000),
    ("an int of 10^6 digits", lambda: _latency("9" * 1_000_000)),
    ("NaN", lambda: _latency("NaN")),
    ("infinity", lambda: _latency("1e999")),
    ("a latency below zero", lambda: _latency("-1.0")),
    ("a latency of zero", lambda: _latency("0")),
    ("a latency of text", lambda: _latency('"1.0"')),
    ("a latency that is true", lambda: _latency("true")),
    ("very many values", lambda: b'{"latency_ms":[' + b"1," * 5_000_000 + b"1]}"),
    ("very many lists", lambda: b'{"latency_ms":[' + b"[]," * 1_000_000 + b"1]}"),
    ("another model's", lambda: _with(row_sha256={"other": [HASH], "aa": [HASH]})),
    ("too many rows", lambda: _latency("1.0, 2.0")),
    ("no rows", lambda: _with(rows=[])),
    ("more rows than were timed", lambda: _with(rows=[0, 1])),
    ("a row below zero", lambda: _with(rows=[-1])),
    ("a hash that is none", lambda: _with(row_sha256={"model": ["x"], "aa": [HASH]})),
    ("a missing key", lambda: json.dumps({"latency_ms": GOOD["latency_ms"]}).encode()),
    ("an unknown key", lambda: _with(more=1)),
    ("a key twice", lambda: b'{"a":1,"a":2}'),
    ("a state of escapes", lambda: _with(state=STATE | {"governor": "\x1b[2J"})),
]
