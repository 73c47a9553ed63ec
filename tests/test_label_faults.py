"""What goes wrong while labels are paid for: no answer is lost, none is paid twice, and no ceiling is passed."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from api_server import BROKEN, CLASSES, FAULTS, SPOILED, StandIn, label_of, some_faults
from conftest import invoke, loose_target, write_csv
from test_label import SECRET, as_json, label, lines, plain_rows

from edgekd.core.errors import StoreError, TeacherError
from edgekd.labelling import ledger as ledgers
from edgekd.labelling import pace as paces
from edgekd.labelling.budget import Budget, Ceilings, Spent
from edgekd.labelling.ledger import NAME, Ledger
from edgekd.labelling.pace import Pace
from edgekd.labelling.prices import Prices, Tokens

API_TINY = ("--min-retained", "0.5", "--epochs", "8", "--threads", "1")
PRICES = Prices(2, 3, "given")
SLOW = ("timeout", "endless")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paces, "FIRST_S", 0.01)


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn() as made:
        yield made


def answers(folder: Path) -> list[dict[str, Any]]:
    return [line for line in lines(folder / NAME) if line["kind"] == "answer"]


@pytest.mark.parametrize("seed", range(3))
def test_whatever_fails_answers_are_kept_once_and_ceilings_hold(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    most = draw.randint(3_000, 7_000)
    quick = tuple(name for name in FAULTS if name not in SLOW)  # a short limit of time would make a busy machine one
    with StandIn(some_faults(0.3, seed, quick)) as server:
        rows = plain_rows(tmp_path, 80)
        for ceiling in (most, 3 * most, 10**6):  # each run goes on from the one before
            words = ("--max-tokens", str(ceiling), "--concurrency", "16", "--json")
            done = label(server, rows, *words)
            said = as_json(done)
            assert done.returncode in {most: [8], 3 * most: [0, 8], 10**6: [0]}[ceiling]
            assert server.prompt_tokens <= said["prompt_tokens"]
            assert server.completion_tokens <= said["completion_tokens"]
            assert said["prompt_tokens"] + said["completion_tokens"] <= ceiling
        assert said["requests"] == server.requests
        assert max(server.whole.values()) == 1, "no answer that came whole was paid again"
    prompts = Counter(line["prompt"] for line in lines(tmp_path / "labels" / NAME) if line["kind"] == "intent")
    assert len(prompts) == 80
    assert len(answers(tmp_path / "labels")) == 80
    spoiled = sum(server.faults[name] for name in SPOILED)
    train = [row for row in lines(tmp_path / "labels" / "train.jsonl") if row["label"]]
    assert len(train) == said["labelled"] == 80 - spoiled
    assert all(row["label"] == label_of(row["text"]) for row in train)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_alone(tmp_path: Path, fault: str) -> None:
    limit = ("--timeout", "1.5") if fault in SLOW else ()
    with StandIn(lambda number, text: fault if number == 1 else None) as server:
        done = label(server, plain_rows(tmp_path, 4), "--json", "--concurrency", "1", *limit)
        said = as_json(done)
    assert done.returncode == 0
    assert server.faults == {fault: 1}
    assert said["requests"] == server.requests
    unknown = fault in (*BROKEN, "error_503")
    assert said["unknown"] == unknown
    assert server.requests == 4 + (unknown or fault.startswith("rate_limit"))
    assert said["labelled"] == 4 - (fault in SPOILED)


def test_64_workers_race_for_a_ceiling(server: StandIn, tmp_path: Path) -> None:
    rows = plain_rows(tmp_path, 110)
    server.delay_s = 0.005
    done = label(server, rows, "--json", "--max-requests", "70", "--concurrency", "64")
    assert done.returncode == 8
    assert as_json(done)["requests"] == as_json(done)["labelled"] == server.requests == 70
    ceiling = 10_000
    done = label(server, rows, "--json", "--max-tokens", str(ceiling), "--concurrency", "64")
    spent = server.prompt_tokens + server.completion_tokens
    assert as_json(done)["prompt_tokens"] + as_json(done)["completion_tokens"] == spent <= ceiling
    most = max(sum(line["most"]) for line in lines(tmp_path / "labels" / NAME) if line["kind"] == "intent")
    assert spent > ceiling - most, "room for one more request was left"


def test_a_budget_under_tasks_that_take_all_they_can() -> None:
    async def race(budget: Budget) -> int:
        draw, sent = random.Random(1), 0

        async def worker() -> None:
            nonlocal sent
            while await budget.reserve(worst := Tokens(draw.randint(1, 50), 20)):
                await asyncio.sleep(0)
                sent += 1
                budget.settle(worst, Tokens(draw.randint(1, worst.prompt), draw.randint(0, 20)))
                spent = budget.spent
                assert spent.prompt + spent.completion <= 5000
                assert spent.picos == 2 * spent.prompt + 3 * spent.completion <= 12_000
                assert spent.requests <= 400

        await asyncio.gather(*(worker() for _ in range(64)))
        return sent

    budget = Budget(Ceilings(400, 5000, 12_000), PRICES, Spent())
    assert asyncio.run(race(budget)) == budget.spent.requests
    assert not budget.fits(Tokens(50, 20))


def test_what_was_never_sent_is_no_request() -> None:
    async def some() -> Spent:
        budget = Budget(Ceilings(requests=1), None, Spent())
        assert await budget.reserve(Tokens(5, 5))
        assert not budget.fits(Tokens(1, 1))
        budget.settle(Tokens(5, 5), Tokens(0, 0), sent=False)
        assert budget.fits(Tokens(1, 1))
        return budget.spent

    assert asyncio.run(some()) == Spent()


def test_a_last_line_that_a_kill_cut_off_is_mended(server: StandIn, tmp_path: Path) -> None:
    rows = plain_rows(tmp_path, 10)
    first = as_json(label(server, rows, "--json"))
    path = tmp_path / "labels" / NAME
    whole = path.read_bytes()
    for torn in (b'{"kind":"int', b"\0" * 40, b'{"kind":"answer","id":0}\n'):
        path.write_bytes(whole + torn)
        done = label(server, rows, "--json")
        assert as_json(done) == first
        assert f"{len(torn)} bytes of it removed" in done.stderr
        whole = path.read_bytes()
    answer = whole.index(b'"kind":"answer"')
    end = whole.index(b"\n", answer)
    path.write_bytes(whole[: end - 5])  # its answer was cut: the request counts as unknown, and is asked again
    said = as_json(label(server, rows, "--json"))
    assert said["labelled"] == 10
    assert said["unknown"] >= 1
    assert server.requests > 10


def test_a_kill_while_the_first_line_is_written(server: StandIn, tmp_path: Path) -> None:
    rows = plain_rows(tmp_path, 5)
    (tmp_path / "labels").mkdir()
    path = tmp_path / "labels" / NAME
    for torn in (b"", b"{", b'{"kind":"run","schema":1,"pri'):
        path.write_bytes(torn)
        assert label(server, rows).returncode == 0
    path.write_bytes(b"something of somebody else")
    assert "line 1: it is damaged" in label(server, rows).stderr
    assert path.read_bytes() == b"something of somebody else"


def test_damage_elsewhere_is_refused(server: StandIn, tmp_path: Path) -> None:
    rows = plain_rows(tmp_path, 10)
    label(server, rows)
    path = tmp_path / "labels" / NAME
    whole = path.read_bytes()
    draw = random.Random(0)
    last = whole[:-1].rindex(b"\n")
    for _ in range(25):
        at, bit = draw.randrange(last), 1 << draw.randrange(8)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
        done = label(server, rows)
        assert done.returncode == 1, at
        assert "it is damaged, and not by a kill" in done.stderr
    some = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(some[:3] + some[4:]))  # a line is gone
    assert "it is damaged" in label(server, rows).stderr
    path.write_bytes(b"".join(some[1:]))  # the first, which says whose answers these are
    assert "line 1: it is damaged" in label(server, rows).stderr
    assert server.requests == 10


def test_two_runs_on_one_ledger(server: StandIn, tmp_path: Path) -> None:
    rows = plain_rows(tmp_path, 5)
    held = Ledger(tmp_path / "labels", None)
    try:
        done = label(server, rows)
        assert done.returncode == 1
        assert "another edgekd label is at work on" in done.stderr
    finally:
        held.close()
    assert label(server, rows).returncode == 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_ends_the_run_and_keeps_what_is_paid(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    rows = plain_rows(tmp_path, 40)
    left = 9_000

    def write(handle: int, content: bytes) -> int:
        nonlocal left
        taken = min(left, len(content), 700)
        if not taken:
            raise OSError(number, os.strerror(number))
        left -= taken
        return os.write(handle, content[:taken])

    with monkeypatch.context() as patch:
        patch.setattr(ledgers, "os", SimpleNamespace(**{**vars(os), "write": write}))
        done = label(server, rows, "--json", "--concurrency", "4")
    assert done.returncode == 1
    assert as_json(done)["error"].startswith("no space left" if number == errno.ENOSPC else "cannot use")
    paid = server.requests
    kept = answers(tmp_path / "labels")  # each line is whole
    assert 0 < len(kept) < 40
    assert paid - len(kept) <= 4, "no more than what was in flight is lost"
    said = as_json(label(server, rows, "--json"))
    assert said["labelled"] == 40
    assert server.requests == paid + 40 - len(kept)
    assert said["unknown"] == paid - len(kept)


def test_a_ledger_that_failed_takes_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def some() -> None:
        ledger = Ledger(tmp_path, PRICES)
        ledger.begin({"date": "", "model": "m", "provider": "p", "prompt": "", "shots": [], "terms": None})
        request = await ledger.intend(b"1" * 17, Tokens(10, 10))
        with monkeypatch.context() as patch:
            patch.setattr(ledgers.os, "fsync", _full)
            with pytest.raises(StoreError):
                await ledger.answered(request, Tokens(1, 1), {"outcome": "label", "label": "a"})
        with pytest.raises(StoreError):
            await ledger.intend(b"2" * 17, Tokens(10, 10))
        await ledger.drain()
        ledger.close()

    asyncio.run(some())
    again = Ledger(tmp_path, PRICES)
    assert (again.unknown, again.spent.prompt, again.spent.picos) == (1, 10, 50)
    assert not len(again.entries)
    again.close()


def test_an_index_that_cannot_grow_ends_the_run_and_loses_nothing(tmp_path: Path) -> None:
    async def some() -> None:
        ledger = Ledger(tmp_path, PRICES)
        ledger.begin({"date": "", "model": "m", "provider": "p", "prompt": "", "shots": [], "terms": None})
        request = await ledger.intend(b"1" * 17, Tokens(10, 10))
        ledger.entries.close()
        with pytest.raises(StoreError, match="cannot hold an index") as refusal:
            await asyncio.wait_for(ledger.answered(request, Tokens(1, 1), {"outcome": "label", "label": "a"}), 5)
        assert "TMPDIR" in refusal.value.fix
        ledger.close()

    asyncio.run(some())
    again = Ledger(tmp_path, PRICES)
    assert (again.unknown, len(again.entries), again.spent.prompt) == (0, 1, 1), "it was paid for, and is there"
    again.close()


def test_an_answer_is_kept_once_though_its_worker_is_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = os.fsync
    monkeypatch.setattr(ledgers.os, "fsync", lambda handle: (time.sleep(0.05), synced(handle)))

    async def some() -> None:
        ledger = Ledger(tmp_path, None)
        ledger.begin({"date": "", "model": "m", "provider": "p", "prompt": "", "shots": [], "terms": None})
        request = await ledger.intend(b"1" * 17, Tokens(10, 10))
        answer = {"outcome": "label", "label": "a"}
        worker = asyncio.create_task(ledger.answered(request, Tokens(3, 4), answer))
        await asyncio.sleep(0.01)
        worker.cancel()
        await ledger.drain()
        assert (len(ledger.entries), b"1" * 17 in ledger.entries) == (1, True)
        ledger.close()

    asyncio.run(some())
    again = Ledger(tmp_path, None)
    assert (again.unknown, again.entries.get(b"1" * 17).used) == (0, Tokens(3, 4))
    again.close()


def _full(handle: int) -> None:
    raise OSError(errno.ENOSPC, "no space left on device")


def test_a_price_that_changes_does_not_change_what_was_paid(server: StandIn, tmp_path: Path) -> None:
    rows = plain_rows(tmp_path, 10)
    label(server, rows, "--price-per-million", "1,1")
    first = as_json(label(server, rows, "--json", "--price-per-million", "50,50"))["cost_usd"]
    assert first == pytest.approx((server.prompt_tokens + server.completion_tokens) / 1e6)


def test_a_storm_of_429s_slows_down_and_loses_nothing(tmp_path: Path) -> None:
    draw = random.Random(3)
    kinds = ("rate_limit", "rate_limit_after")
    with StandIn(lambda number, text: draw.choice(kinds) if number < 60 and draw.random() < 0.8 else None) as server:
        said = as_json(label(server, plain_rows(tmp_path, 40), "--json", "--concurrency", "16"))
    assert (said["labelled"], said["unknown"]) == (40, 0)
    assert said["requests"] == server.requests == 40 + sum(server.faults.values())
    assert said["prompt_tokens"] == server.prompt_tokens, "a 429 costs nothing"


@pytest.mark.parametrize("fault", ["error_500", "invalid", "reset_before"])
def test_a_server_that_only_breaks_is_not_paid_for_long(tmp_path: Path, fault: str) -> None:
    with StandIn(lambda number, text: fault) as server:
        done = label(server, plain_rows(tmp_path, 100), "--concurrency", "4")
    assert done.returncode == 1
    assert "20 requests in a row got no whole answer" in done.stderr
    assert server.requests <= 20 + 4


def test_the_pace_follows_the_servers_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)  # a clock that jumped to 1970
    pace = Pace(16)
    assert pace.failed("", {"retry-after": "7"}, 0, limited=True) >= 7
    assert pace.allowed == 8
    assert pace.failed("", {"retry-after-ms": "1500"}, 0, limited=True) >= 1.5
    assert pace.allowed == 8, "one burst counts once"
    dates = {"date": "Mon, 30 Nov 2026 10:00:00 GMT", "retry-after": "Mon, 30 Nov 2026 10:00:09 GMT"}
    assert 9 <= pace.failed("", dates, 0, limited=True) < 10
    assert pace.failed("", {"retry-after": "soon"}, 3, limited=True) <= 0.08
    used_up = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1m2s"}
    assert 62 <= pace.failed("", used_up, 0, limited=True) < 63
    with pytest.raises(TeacherError, match="asks to wait 86400 s"):
        pace.failed("", {"retry-after": "86400"}, 0, limited=True)
    for _ in range(200):
        pace.answered({})
    assert pace.allowed == 16


def test_a_limit_that_is_used_up_holds_everyone_until_its_reset() -> None:
    async def some() -> float:
        pace, began = Pace(4), time.monotonic()
        pace.answered({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "120ms"})
        pace.answered({"x-ratelimit-remaining-tokens": "10", "x-ratelimit-reset-tokens": "6m0s"})
        async with pace.turn():
            return time.monotonic() - began

    assert 0.1 < asyncio.run(some()) < 10, "not six minutes"


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    pace, now = Pace(4, patience_s=900), 100.0
    monkeypatch.setattr(paces, "time", SimpleNamespace(monotonic=lambda: now))
    pace.failed("x", {}, 0, limited=False)
    now += 899
    pace.failed("x", {}, 9, limited=False)
    now += 2
    with pytest.raises(TeacherError, match="no answer for 900 s"):
        pace.failed("x", {}, 9, limited=False)
    pace.answered({})
    pace.failed("x", {}, 0, limited=False)


def command(url: str, rows: Path, *more: str) -> list[str]:
    words = ["--teacher", f"api:{url}", "--model", "mini", "--classes", ",".join(CLASSES), "--data", str(rows)]
    return [sys.executable, "-m", "edgekd", "label", *words, "--out", str(rows.parent / "labels"), *more]


def until(condition: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_keeps_every_answer(server: StandIn, tmp_path: Path, number: signal.Signals) -> None:
    rows = plain_rows(tmp_path, 120)
    server.delay_s = 0.05
    run = subprocess.Popen(command(server.url, rows, "--concurrency", "4"), stderr=subprocess.PIPE, text=True)
    until(lambda: len(server.whole) > 20)
    run.send_signal(number)
    _, told = run.communicate(timeout=20)
    assert run.returncode == 128 + number
    assert "stopped; answers are kept" in told
    paid = server.requests
    assert len(answers(tmp_path / "labels")) == paid < 120, "what was on its way came, and was kept"
    assert sum(row["label"] is not None for row in lines(tmp_path / "labels" / "train.jsonl")) == paid
    server.delay_s = 0
    said = as_json(label(server, rows, "--json", "--concurrency", "16"))
    assert (said["labelled"], said["unknown"]) == (120, 0)
    assert max(server.whole.values()) <= 2, "repeats, on purpose, are the only texts asked twice"
    assert server.requests == 121


@pytest.mark.slow
def test_a_second_signal_does_not_wait(server: StandIn, tmp_path: Path) -> None:
    rows = plain_rows(tmp_path, 20)
    server.delay_s = 10
    run = subprocess.Popen(command(server.url, rows, "--concurrency", "3"), stderr=subprocess.PIPE, text=True)
    until(lambda: server.requests == 3)
    run.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert run.poll() is None, "it waits for what is on its way"
    run.send_signal(signal.SIGINT)
    _, told = run.communicate(timeout=5)
    assert run.returncode == 130
    assert "answers are kept" in told
    kinds = Counter(line["kind"] for line in lines(tmp_path / "labels" / NAME))
    assert (kinds["intent"], kinds["unknown"], kinds["answer"]) == (3, 3, 0)


@pytest.mark.slow
def test_a_kill_costs_at_most_what_was_in_flight(server: StandIn, tmp_path: Path) -> None:
    rows = plain_rows(tmp_path, 90)
    server.delay_s = 0.05
    run = subprocess.Popen(command(server.url, rows, "--concurrency", "4"), stderr=subprocess.DEVNULL)
    until(lambda: len(server.whole) > 20)
    run.kill()
    run.wait()
    server.delay_s = 0
    said = as_json(label(server, rows, "--json"))
    assert (said["labelled"], said["rows"]) == (90, 90)
    assert said["unknown"] <= 4
    assert sum(server.whole.values()) - 90 <= 4
    assert said["prompt_tokens"] >= server.prompt_tokens


def test_a_killed_runs_folder_holds_a_ceiling_too(server: StandIn, tmp_path: Path) -> None:
    rows = plain_rows(tmp_path, 60)
    ledger = Ledger(tmp_path / "labels", None)
    ledger.begin(
        {"date": "", "model": "mini", "provider": "a server on this machine", "prompt": "", "shots": [], "terms": None}
    )

    async def some() -> None:
        for number in range(10):
            await ledger.intend(bytes([number]) * 17, Tokens(700, 30))

    asyncio.run(some())
    ledger._file.close()  # as a kill leaves it: ten requests in flight
    done = label(server, rows, "--json", "--max-tokens", "8000")
    said = as_json(done)
    assert said["unknown"] == 10
    assert 7300 <= said["prompt_tokens"] + said["completion_tokens"] <= 8000
    assert server.requests <= 5


@pytest.mark.slow
def test_ten_thousand_calls_with_faults_and_kills(tmp_path: Path) -> None:
    """10% of the requests meet one of 23 faults; five runs are killed at concurrency 16."""
    count, kills, concurrency = 10_000, 5, 16
    rows = plain_rows(tmp_path, count)
    served = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "api_server.py"), "0", "0.1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert served.stdout is not None
    url = served.stdout.readline().strip()
    ceiling = 4_000_000
    words = ("--concurrency", str(concurrency), "--timeout", "1", "--max-tokens", str(ceiling), "--json")

    def state() -> dict[str, Any]:
        with urllib.request.urlopen(url.removesuffix("/v1") + "/state") as answer:
            said: dict[str, Any] = json.loads(answer.read())
            return said

    draw = random.Random(0)
    try:
        for _ in range(kills):
            run = subprocess.Popen(command(url, rows, *words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            most = state()["requests"] + draw.randint(300, 1500)
            while state()["requests"] < most and run.poll() is None:
                time.sleep(0.01)
            run.kill()
            run.wait()
        began = time.monotonic()
        done = subprocess.run(command(url, rows, *words), capture_output=True, text=True, check=False)
        said = as_json(done)
        while done.returncode == 0 and said["labelled"] + said["refused"] + said["malformed"] < count:
            done = subprocess.run(command(url, rows, *words), capture_output=True, text=True, check=False)
            said = as_json(done)
        seconds, told = time.monotonic() - began, state()
    finally:
        served.communicate("")
    folder = tmp_path / "labels"
    kinds = Counter(line["kind"] for line in lines(folder / NAME))
    prompts = {line["id"]: line["prompt"] for line in lines(folder / NAME) if line["kind"] == "intent"}
    stored = Counter(prompts[line["id"]] for line in answers(folder))
    repeats = sum(prompt.endswith("01") for prompt in stored)
    lost = sum(told["whole"].values()) - len(answers(folder))
    print(  # noqa: T201
        f"{told['requests']} requests, {sum(told['faults'].values())} faults of {len(told['faults'])} kinds, "
        f"{said['unknown']} unknown, {lost} whole answers lost to kills; the last run took {seconds:.0f} s; {kinds}"
    )
    assert done.returncode == 0
    assert len(told["faults"]) >= 20
    assert max(stored.values()) == 1, "every answer is stored once"
    assert len(stored) - repeats == count
    assert lost <= kills * concurrency
    assert told["prompt_tokens"] <= said["prompt_tokens"]
    assert told["prompt_tokens"] + told["completion_tokens"] <= ceiling
    assert said["prompt_tokens"] + said["completion_tokens"] <= ceiling


@pytest.mark.slow
def test_at_least_fifty_requests_a_second_in_flat_memory(tmp_path: Path) -> None:
    served = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "api_server.py"), "0", "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert served.stdout is not None
    url = served.stdout.readline().strip()
    rows = plain_rows(tmp_path, 5_000)
    try:
        run = subprocess.Popen(command(url, rows, "--concurrency", "16"), stderr=subprocess.DEVNULL)
        began, sizes = time.monotonic(), []
        while run.poll() is None:
            time.sleep(0.5)
            status = Path(f"/proc/{run.pid}/status").read_text().split()
            if "VmRSS:" in status:
                sizes.append(int(status[status.index("VmRSS:") + 1]) / 1024)
        seconds = time.monotonic() - began
    finally:
        served.communicate("")
    late = sizes[len(sizes) // 3 :]
    print(f"{5050 / seconds:.0f} requests/s, RSS {late[0]:.0f} to {late[-1]:.0f} MiB")  # noqa: T201
    assert run.returncode == 0
    assert 5050 / seconds >= 50
    assert max(late) - min(late) < 20


@pytest.mark.slow
def test_the_answers_of_an_api_become_a_bundle(
    server: StandIn, tmp_path: Path, tiny_teacher: Path, tiny_data: Path, store: Path
) -> None:
    """No human label trains; the test rows keep theirs."""
    data = tmp_path / "data"
    data.mkdir()
    given = [tuple(line.rsplit(",", 1)) for line in tiny_data.read_text("utf-8").splitlines()[1:]]
    write_csv(data / "train.csv", [(text,) for text, _ in given[:480]], ("text",))
    write_csv(data / "test.csv", given[480:])
    known = dict(given)
    server.answer = lambda text: known[text] if len(text) % 9 else "food"  # right about nine times in ten
    words = ["--target", loose_target(tmp_path), "--teacher", f"api:{server.url}", "--model", "mini", "--data", data]
    words += ["--base", tiny_teacher, "--out", tmp_path / "out", "--answers", tmp_path / "answers"]
    words += ["--concurrency", "16", "--price-per-million", "1.5,6", "--compare", "60", *API_TINY]
    done = invoke("build", *words, "--json", env={"EDGEKD_API_KEY": SECRET})
    assert done.returncode == 0, done.stdout
    said = json.loads(done.stdout)["summary"]
    assert said["shipped"]["metric_value"] > 0.6
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["summary"] == said
    assert (report["roles"]["yardstick"], report["roles"]["quality"]) == ("float32", "the teacher")
    compared = report["api"]["compared"]
    assert (compared["n"], compared["own_labels"]) == (60, True)
    assert said["retained"] == pytest.approx(compared["student"]["metric_value"] / compared["metric_value"])
    assert said["teacher"]["cost_per_million_usd"] == pytest.approx(report["api"]["million_usd"])
    for file in (path for folder in ("out", "answers") for path in (tmp_path / folder).rglob("*") if path.is_file()):
        assert SECRET.encode() not in file.read_bytes(), file
    asked = server.requests
    again = invoke("build", *words, "--json", env={"EDGEKD_API_KEY": SECRET})
    assert (json.loads(again.stdout)["summary"], server.requests) == (said, asked)
