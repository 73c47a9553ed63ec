"""Labelling is a map over shards: any worker does any part, together they pass no ceiling, nothing is paid twice."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from api_server import CLASSES, StandIn
from conftest import invoke
from test_label import as_json, gold_rows, label, lines, plain_rows

from edgekd.labelling import remote as remotes
from edgekd.labelling.ledger import NAME


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn() as made:
        yield made


def shards_of(out: Path) -> list[set[str]]:
    return [{row["text"] for row in lines(path)} for path in sorted(out.glob("shards/*/train.jsonl"))]


def test_shards_part_the_rows_and_are_gathered_for_nothing(server: StandIn, tmp_path: Path) -> None:
    rows, out = plain_rows(tmp_path, 60), tmp_path / "labels"
    for number in (2, 3, 1):
        done = label(server, rows, "--shard", f"{number}/3", "--json")
        assert done.returncode == 0, done.stderr
        assert as_json(done)["labels"] == str(out / "shards" / f"{number}-of-3")
    parts = shards_of(out)
    assert sum(map(len, parts)) == len(set.union(*parts)) == 60
    assert min(map(len, parts)) >= 10, "by content, about even"
    paid = server.requests
    said = as_json(label(server, rows, "--json"))
    assert server.requests == paid == said["requests"] == 60
    assert (said["rows"], said["labelled"], said["prompt_tokens"]) == (60, 60, server.prompt_tokens)
    whole = lines(out / "train.jsonl")
    assert all(row["label"] and row["probabilities"] for row in whole)
    # the same rows by one process: the same bytes
    alone = tmp_path / "alone"
    alone.mkdir()
    label(server, plain_rows(alone, 60))
    assert (alone / "labels" / "train.jsonl").read_bytes() == (out / "train.jsonl").read_bytes()


def test_a_shard_again_asks_nothing_and_knows_its_rows_in_any_order(server: StandIn, tmp_path: Path) -> None:
    rows, out = plain_rows(tmp_path, 40), tmp_path / "labels"
    first = as_json(label(server, rows, "--shard", "2/2", "--json"))
    content = (out / "shards/2-of-2" / NAME).read_bytes().splitlines()
    text = rows.read_text("utf-8").splitlines()
    rows.write_text("\n".join([text[0], *reversed(text[1:])]) + "\n", "utf-8")
    again = as_json(label(server, rows, "--shard", "2/2", "--json"))
    assert again == first
    assert server.requests == first["requests"]
    assert (out / "shards/2-of-2" / NAME).read_bytes().splitlines()[: len(content)] == content


def test_what_has_not_ended_is_named_and_the_fix_works(server: StandIn, tmp_path: Path) -> None:
    rows = plain_rows(tmp_path, 30)
    label(server, rows, "--shard", "1/2")
    done = label(server, rows)
    assert done.returncode == 2
    assert "1 of 2 shards" in done.stderr
    assert "have not ended: 2/2" in done.stderr
    assert "--shard 2/2" in done.stderr
    label(server, rows, "--shard", "2/2")
    assert label(server, rows).returncode == 0
    assert server.requests == 30


def test_shards_share_the_ceilings_whatever_the_pilot_took(server: StandIn, tmp_path: Path) -> None:
    data = gold_rows(tmp_path / "data", labelled=60, loose=60)
    assert label(server, data, "--pilot-only", "--max-requests", "90").returncode == 0
    pilot = server.requests
    assert pilot == 60
    codes = [label(server, data, "--shard", f"{k}/3", "--max-requests", "90").returncode for k in (1, 2, 3)]
    assert codes == [8, 8, 8]
    assert server.requests == pilot + 30
    done = label(server, data, "--json", "--max-requests", "90", "--compare", "5")
    assert done.returncode == 8
    assert as_json(done)["labelled"] == 30
    assert server.requests == 90
    done = label(server, data, "--json", "--max-requests", "130", "--compare", "5")
    assert (done.returncode, as_json(done)["labelled"]) == (0, 60)
    assert max(server.whole[text] for text in server.whole if "loose" in text) == 1
    done = label(server, data, "--shard", "1/200", "--max-requests", "150")
    assert done.returncode == 2
    assert "parted in 3, not in 200" in done.stderr
    (tmp_path / "other").mkdir()
    other = plain_rows(tmp_path / "other", 10)
    assert (
        "leaves nothing for one of 200 shards"
        in label(server, other, "--shard", "1/200", "--max-requests", "150").stderr
    )


def test_a_killed_shard_counts_at_the_most_and_is_done_again(server: StandIn, tmp_path: Path) -> None:
    rows, out = plain_rows(tmp_path, 20), tmp_path / "labels"
    label(server, rows, "--shard", "1/2")
    label(server, rows, "--shard", "2/2")
    ledger = out / "shards/2-of-2" / NAME
    whole = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join(whole[:-1]))  # an intent without its answer, as a kill leaves it
    said = as_json(label(server, rows, "--json"))
    assert (said["labelled"], said["unknown"], server.requests) == (20, 1, 21)
    assert said["requests"] == 21


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--shard", "0/3"), "--shard 0/3 is no part"),
        (("--shard", "4/3"), "--shard 4/3 is no part"),
        (("--shard", "1/2", "--pilot-only"), "--pilot-only is of all rows"),
        (("--shard", "1/2", "--min-accuracy", "0.8"), "--min-accuracy is of all rows"),
        (("--shard", "1/2", "--compare", "9"), "--compare is of all rows"),
    ],
)
def test_what_makes_no_sense_of_a_part(server: StandIn, tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    done = label(server, plain_rows(tmp_path, 10), *words)
    assert (done.returncode, server.requests) == (2, 0)
    assert told in done.stderr
    assert not (tmp_path / "labels").exists()


def test_a_dry_run_of_a_shard_shows_its_part(server: StandIn, tmp_path: Path) -> None:
    rows = plain_rows(tmp_path, 60)
    most = [as_json(label(server, rows, "--shard", f"{k}/3", "--dry-run", "--json"))["requests"] for k in (1, 2, 3)]
    assert sum(most) == 60
    label(server, rows, "--shard", "1/3")
    assert as_json(label(server, rows, "--shard", "1/3", "--dry-run", "--json"))["requests"] == 0
    assert json.loads((tmp_path / "labels/shards/1-of-3/shard.json").read_text()) == {"shard": "1/3", "rows_left": 0}


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A storage of objects, and a machine whose copies lie elsewhere each time `XDG_CACHE_HOME` is another."""
    import fsspec

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "machine"))
    yield "memory://bucket/labels"
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


def machine(tmp_path: Path, name: str) -> dict[str, str]:
    return {"XDG_CACHE_HOME": str(tmp_path / name)}


def remote(server: StandIn, url: str, *more: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    words = ["--teacher", f"api:{server.url}", "--model", "mini", "--classes", ",".join(CLASSES)]
    return invoke("label", *words, "--data", "memory://bucket/rows.csv", "--out", url, *more, env=env)


def test_machines_that_share_only_a_bucket_pay_once(server: StandIn, tmp_path: Path, bucket: str) -> None:
    import fsspec

    files = fsspec.filesystem("memory")
    files.pipe_file("/bucket/rows.csv", plain_rows(tmp_path, 60).read_bytes())
    for number in (1, 2, 3):
        done = remote(server, bucket, "--shard", f"{number}/3", env=machine(tmp_path, f"m{number}"))
        assert done.returncode == 0, done.stderr
        assert bucket in done.stdout
    # one of them is lost and another does its part again; then a fifth gathers
    again = remote(server, bucket, "--shard", "2/3", "--json", env=machine(tmp_path, "m4"))
    assert server.requests == 60, again.stderr
    said = as_json(remote(server, bucket, "--json", env=machine(tmp_path, "m5")))
    assert (said["labelled"], said["requests"], server.requests) == (60, 60, 60)
    here = Path(said["labels"]) / "train.jsonl"
    assert here.is_relative_to(tmp_path / "m5")
    assert files.cat_file("/bucket/labels/train.jsonl") == here.read_bytes()
    assert not list((tmp_path / "m5").rglob("rows.csv")), "rows that were fetched are removed"


def test_what_a_lost_machine_sent_is_not_paid_again(server: StandIn, tmp_path: Path, bucket: str) -> None:
    import fsspec

    files = fsspec.filesystem("memory")
    files.pipe_file("/bucket/rows.csv", plain_rows(tmp_path, 20).read_bytes())
    remote(server, bucket, "--shard", "1/1", "--max-requests", "8", env=machine(tmp_path, "m1"))
    files.rm_file("/bucket/labels/shards/1-of-1/shard.json")  # it did not end
    done = remote(server, bucket, env=machine(tmp_path, "m2"))
    assert (done.returncode, server.requests) == (2, 8)
    assert "have not ended: 1/1" in done.stderr
    assert remote(server, bucket, "--shard", "1/1", env=machine(tmp_path, "m3")).returncode == 0
    assert server.requests == 20
    assert len(files.ls("/bucket/labels/shards/1-of-1/ledger")) == 2, "a piece for what each of them paid"


def test_two_workers_of_one_part_are_told(server: StandIn, tmp_path: Path, bucket: str) -> None:
    import fsspec

    files = fsspec.filesystem("memory")
    files.pipe_file("/bucket/rows.csv", plain_rows(tmp_path, 10).read_bytes())
    remote(server, bucket, "--shard", "1/1", env=machine(tmp_path, "m1"))
    path = files.ls("/bucket/labels/shards/1-of-1/ledger", detail=False)[0]
    files.mv(path, path.replace("-00", "-01"))
    files.pipe_file(path, b"another")
    done = remote(server, bucket, "--shard", "1/1", env=machine(tmp_path, "m2"))
    assert done.returncode == 1
    assert "two workers wrote the ledger" in done.stderr
    assert server.requests == 10


def test_a_worker_that_meets_another_stops_and_keeps_what_is_paid(
    server: StandIn, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    files = fsspec.filesystem("memory")
    files.pipe_file("/bucket/rows.csv", plain_rows(tmp_path, 200).read_bytes())
    monkeypatch.setattr(remotes, "EVERY_S", 0.05)
    server.delay_s = 0.02
    met = False

    def another(number: int, text: str) -> None:
        nonlocal met
        if number == 40 and not met:
            met = True
            files.pipe_file("/bucket/labels/shards/1-of-1/ledger/000000000000000-000000000000007.jsonl", b"another")

    server.plan = another
    done = remote(server, bucket, "--shard", "1/1", "--concurrency", "4", env=machine(tmp_path, "m1"))
    assert done.returncode in (1, 128 + signal.SIGTERM)
    assert 40 < server.requests < 200, "it stopped"
    ledger = next((tmp_path / "m1").rglob(NAME))
    assert sum(line["kind"] == "answer" for line in lines(ledger)) == server.requests


def test_urls_that_cannot_be_opened(server: StandIn, tmp_path: Path, bucket: str) -> None:
    import fsspec

    rows = fsspec.filesystem("memory")
    rows.pipe_file("/bucket/rows.csv", b"text\none\ntwo\n")
    for url, told in (
        ("nowhere://bucket/labels", "cannot open nowhere://bucket/labels"),
        ("ftp://me:secret@host/labels", "the URL holds a password"),
    ):
        done = remote(server, url, env=machine(tmp_path, "m1"))
        assert told in done.stderr
        assert "secret" not in done.stderr
    rows.mv("/bucket/rows.csv", "/bucket/others.csv")
    done = remote(server, bucket, env=machine(tmp_path, "m1"))
    assert (done.returncode, server.requests) == (1, 0)
    assert "there is nothing at memory://bucket/rows.csv" in done.stderr
