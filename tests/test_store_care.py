"""`edgekd store` and the cap: what may go goes, the least recently used first, whatever the clock says."""

import json
import os
import time

import pytest
from click.testing import CliRunner
from helpers import python

from edgekd.cli.store import store as commands
from edgekd.core.errors import UsageError
from edgekd.core.seals import SEAL, damage
from edgekd.store import entries as kept_module
from edgekd.store import upkeep
from edgekd.store.entries import kept
from edgekd.store.store import EDGEKD, Store
from edgekd.store.upkeep import Which, cap_mib, collected_afterwards, prune, sweep, verify

DAY_S = 86_400
MIB = 1 << 20


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path / "store"))
    monkeypatch.delenv("EDGEKD_STORE_MIB", raising=False)
    return tmp_path / "store"


def make(root, stage, *, seed=0, days_ago=0.0, mib=1.0, of="a teacher; some data"):
    """An entry of that size, last used so many days ago, that nobody holds."""
    key = {"seed": seed}
    place = Store(root).stage(stage, key, lambda out: (out / "a.bin").write_bytes(bytes(round(mib * MIB))), of=of)
    used(place, days_ago)
    return place


def used(place, days_ago):
    when = time.time() - days_ago * DAY_S
    os.utime(place / SEAL, (when, when))


def work(root, stage, *, days_ago):
    place = root / stage / f"{stage[0].encode().hex() * 16}.work"
    (place / "checkpoint-000000001").mkdir(parents=True)
    (place / "checkpoint-000000001" / "state").write_bytes(b"state")
    when = time.time() - days_ago * DAY_S
    for path in (place / "checkpoint-000000001" / "state", place / "checkpoint-000000001", place):
        os.utime(path, (when, when))
    return place


def names(entries):
    return [one.path for one in entries]


def edgekd(*words):
    return CliRunner().invoke(commands, words, standalone_mode=True)


def said(*words):
    done = edgekd(*words, "--json")
    return done.exit_code, json.loads(done.stdout)


def test_what_lies_there_the_least_recently_used_first(root):
    old = make(root, "teacher", days_ago=3, mib=2)
    new = make(root, "student", days_ago=1, of="")
    half = work(root, "outputs", days_ago=2)
    first, second, third = kept(root)
    assert [first.path, second.path, third.path] == [old, half, new]
    assert (first.stage, first.edgekd, first.of, first.is_work) == ("teacher", EDGEKD, "a teacher; some data", False)
    assert (second.stage, second.edgekd, second.of, second.is_work) == ("outputs", "", "", True)
    assert 2 < first.size_mib < 2.01
    code, told = said("list")
    assert code == 0
    assert (told["cap_mib"], told["total_mib"]) == (None, pytest.approx(3, abs=0.01))
    assert [(one["stage"], one["kind"]) for one in told["entries"]] == [
        ("teacher", "result"),
        ("outputs", "work"),
        ("student", "result"),
    ]
    lines = edgekd("list").stdout.splitlines()
    assert lines[0].split() == ["stage", "key", "MiB", "last", "used", "edgekd", "of"]
    assert lines[1].endswith("a teacher; some data")
    assert lines[2].endswith("(a stopped build's work)")
    assert lines[-1] == f"3 entries, 3.0 MiB in {root}; no cap ($EDGEKD_STORE_MIB is not set)"


def test_a_store_that_is_not_there_yet_is_empty(root):
    assert edgekd("list").stdout.startswith("0 entries, 0.0 MiB")
    assert edgekd("verify").stdout.startswith("0 of 0 results")
    assert edgekd("prune").exit_code == 0
    assert not root.exists()


def test_reading_is_use(root):
    place = make(root, "teacher", days_ago=3)
    Store(root).stage("teacher", {"seed": 0}, lambda out: 1 / 0)
    assert kept(root)[0].age_s(time.time()) < 60
    assert damage(place) is None


def test_verify_names_what_is_damaged(root):
    whole, changed, cut = make(root, "teacher"), make(root, "student"), make(root, "outputs")
    make(root, "measure", seed=1)
    (changed / "a.bin").write_bytes(b"\1" + bytes(MIB - 1))
    (cut / SEAL).write_text('{"files"')
    wrong, count = verify(root)
    assert {one.path: why for one, why in wrong.items()} == {
        changed: "a.bin is changed",
        cut: "its seal is missing or damaged",
    }
    assert count == 2
    done = edgekd("verify")
    assert done.exit_code == 1
    assert f"student/{changed.name}: a.bin is changed\n" in done.stdout
    assert f"2 of 4 results in {root} are whole" in done.stdout
    assert done.stderr == "  fix: `edgekd store prune --damaged` removes them; each is made anew when it is needed\n"
    code, told = said("verify")
    assert (code, told["whole"]) == (1, 2)
    assert {one["damage"] for one in told["damaged"]} == set(wrong.values())
    assert whole.exists()
    done = edgekd("verify", "--remove-damaged")
    assert (done.exit_code, done.stdout.count("; removed"), done.stderr) == (1, 2, "")
    assert not changed.exists()
    assert edgekd("verify").exit_code == 0
    assert len(kept(root)) == 2


def test_verify_names_an_entry_that_lies_under_anothers_key(root):
    moved = make(root, "teacher").rename(root / "teacher" / ("0" * 32))
    assert {one.path: why for one, why in verify(root)[0].items()} == {moved: "it was made of something else"}


def test_what_another_prune_took_meanwhile_is_no_error_and_costs_nothing_more(root, monkeypatch):
    oldest, old, new = make(root, "teacher", days_ago=3), make(root, "student", days_ago=2), make(root, "measure")
    before = kept(root)
    assert [one.path for one in prune(root, Which(to_mib=2.5)).removed] == [oldest]
    monkeypatch.setattr(upkeep, "kept", lambda root: before)
    done = prune(root, Which(to_mib=2.5))
    assert (done.removed, done.in_use) == ((), ())
    assert [old.exists(), new.exists()] == [True, True]
    assert not list((root / "teacher").iterdir()), "no lock of nothing"


def test_damage_only(root):
    make(root, "teacher", days_ago=9)
    changed = make(root, "student")
    (changed / "a.bin").unlink()
    assert names(prune(root, Which(damaged=True)).removed) == [changed]
    assert len(kept(root)) == 1


def test_by_age_stage_and_size(root):
    oldest, older, other, newest = (
        make(root, "teacher", days_ago=40),
        make(root, "student", days_ago=20),
        make(root, "student", seed=1, days_ago=19),
        make(root, "measure"),
    )
    assert names(prune(root, Which(older_than_days=30), dry_run=True).removed) == [oldest]
    assert names(prune(root, Which(older_than_days=10, stage="student"), dry_run=True).removed) == [older, other]
    assert names(prune(root, Which(to_mib=2.1), dry_run=True).removed) == [oldest, older]
    assert names(prune(root, Which(to_mib=100), dry_run=True).removed) == []
    assert names(prune(root, Which(stage="measure"), dry_run=True).removed) == [newest]
    assert len(kept(root)) == 4, "nothing was removed so far"
    assert names(prune(root, Which(to_mib=2.1, stage="student")).removed) == [older, other]
    assert names(kept(root)) == [oldest, newest]
    code, told = said("prune", "--older-than", "30")
    assert (code, told["mib"], [one["stage"] for one in told["removed"]]) == (
        0,
        pytest.approx(1, abs=0.01),
        ["teacher"],
    )
    assert names(kept(root)) == [newest]


def test_a_dry_run_says_what_would_go(root):
    make(root, "teacher", days_ago=40)
    done = edgekd("prune", "--older-than", "30", "--dry-run")
    assert done.stdout.splitlines()[-1] == "1.0 MiB in 1 entry would be removed"
    assert len(kept(root)) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--older-than", "-1"], "--older-than -1 makes no sense"),
        (["--to-mib", "inf"], "--to-mib inf makes no sense"),
        (["--older-than", "nan"], "--older-than nan makes no sense"),
        (["--stage", "techer"], "the store holds no stage 'techer'"),
    ],
)
def test_options_that_make_no_sense(root, words, message):
    make(root, "teacher")
    refusal = edgekd("prune", *words).exception
    assert isinstance(refusal, UsageError)
    assert refusal.message == message
    assert len(kept(root)) == 1


def test_by_itself_it_sweeps_what_nobody_can_use(root):
    result = make(root, "teacher", days_ago=400)
    recent, forgotten = work(root, "outputs", days_ago=6), work(root, "student", days_ago=8)
    spent = result.with_suffix(".work")
    spent.mkdir()
    litter = [
        root / "teacher" / f".{'0' * 32}.new-99999999-1",
        root / "teacher" / f"{'1' * 32}.lock",
        root / "teacher" / f"{'1' * 32}.using",
        root / "outputs" / f".{'0' * 32}.new-99999999-2.lock",
    ]
    litter[0].mkdir()
    for path in litter[1:]:
        path.touch()
    done = prune(root, Which())
    assert names(done.removed) == [forgotten]
    assert set(done.litter) == {*litter, spent}
    assert names(kept(root)) == [result, recent]
    assert not any(map(os.path.lexists, (*litter, spent, forgotten)))


def test_only_what_has_a_stores_names_is_touched(root):
    """A store in a folder of a user's, and the folders of it that hold no stages."""
    mine = [
        root / "notes.txt",
        root / "thesis" / "a.tex",
        root / "thesis" / "old.lock",
        root / "thesis" / "a.work" / "b",
        root / "thesis" / ".chapter.new-99999999-1",
        root / "calibration" / f"{'0' * 32}" / "a",
        root / "measured" / f"{'0' * 32}.lock",
        root / "guest" / "image" / f"{'0' * 32}" / "kernel",
        root / "guest" / f"{'0' * 32}" / "a",
    ]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    elsewhere = root.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a").write_text("mine")
    (root / "thesis" / ("0" * 32)).symlink_to(elsewhere)
    (root / "linked").symlink_to(root / "thesis")
    make(root, "teacher", days_ago=9)
    assert len(prune(root, Which(older_than_days=0)).removed) == 1
    sweep(root)
    assert all(path.read_text() == "mine" for path in (*mine, elsewhere / "a"))


def test_no_cap_where_none_is_set(root, monkeypatch):
    assert cap_mib() is None
    monkeypatch.setenv("EDGEKD_STORE_MIB", " 2.5 ")
    assert cap_mib() == 2.5
    make(root, "teacher")
    assert edgekd("list").stdout.endswith("; cap 2.5 MiB\n")
    for wrong in ("much", "-1", "inf", "nan"):
        monkeypatch.setenv("EDGEKD_STORE_MIB", wrong)
        with pytest.raises(UsageError, match="which is no size"), collected_afterwards(Store(root), print):
            pytest.fail("before anything is built")


def test_a_build_keeps_the_store_to_its_cap_but_not_at_its_own_cost(root, monkeypatch):
    monkeypatch.setenv("EDGEKD_STORE_MIB", "2.5")
    forgotten, recent = make(root, "teacher", days_ago=9), make(root, "student", days_ago=1)
    mine = make(root, "measure", days_ago=30)
    lines, store = [], Store(root)
    with collected_afterwards(store, lines.append):
        store.stage("measure", {"seed": 0}, lambda out: 1 / 0)
        assert len(kept(root)) == 3
    assert names(kept(root)) == [recent, mine]
    assert lines == ["store: 1 least recently used results removed, 1.0 MiB ($EDGEKD_STORE_MIB is 2.5): teacher"]
    assert not forgotten.exists()
    monkeypatch.setenv("EDGEKD_STORE_MIB", "0.5")
    lines.clear()
    with collected_afterwards(store, lines.append):
        pass
    assert names(kept(root)) == [mine]
    assert lines[1] == "store: 1.0 MiB are in use, more than $EDGEKD_STORE_MIB = 0.5"
    del store
    used(mine, 0)
    with pytest.raises(ZeroDivisionError), collected_afterwards(Store(root), lines.append):
        raise ZeroDivisionError
    assert kept(root) == (), "also after a build that was refused"


def test_a_build_sweeps_litter_before_it_begins(root):
    make(root, "teacher")
    litter = root / "teacher" / f".{'0' * 32}.new-99999999-1"
    litter.mkdir()
    with collected_afterwards(Store(root), print):
        assert not litter.exists()


@pytest.mark.parametrize("days", [-400, -20_000, -1e11])
def test_an_entry_from_the_future_is_neither_lost_nor_immortal(root, days):
    """The clock was ahead, or is behind now: it counts as used now, and ages from here on."""
    place = make(root, "teacher")
    other = make(root, "student", days_ago=5)
    try:
        used(place, days)
    except (OverflowError, OSError):
        pytest.skip("this file system has no such times")
    assert edgekd("list").exit_code == 0
    assert names(prune(root, Which(older_than_days=3)).removed) == [other]
    assert kept(root)[0].age_s(time.time()) < 60, "its time was set right"
    used(place, 4)
    assert names(prune(root, Which(older_than_days=3)).removed) == [place]


def test_work_from_the_future_ages_too(root):
    place = work(root, "outputs", days_ago=-30)
    assert prune(root, Which(older_than_days=1)).removed == ()
    assert kept(root)[0].used_s <= time.time()
    assert kept(root)[0].path == place


@pytest.mark.parametrize("now", [0.0, 4e9, 1e12])
def test_a_wrong_clock_loses_nothing_that_is_used_and_crashes_nothing(root, monkeypatch, now):
    make(root, "teacher", days_ago=2)
    make(root, "student", days_ago=1)
    monkeypatch.setattr(time, "time", lambda: now)
    store, lines = Store(root), []
    monkeypatch.setenv("EDGEKD_STORE_MIB", "1.5")
    with collected_afterwards(store, lines.append):
        place = store.stage("teacher", {"seed": 0}, lambda out: 1 / 0)
    assert place in names(kept(root))
    assert damage(place) is None
    assert len(lines) == 1
    assert all(one.age_s(now) >= 0 for one in kept(root))


def test_times_before_1970_are_the_oldest(root):
    place, other = make(root, "teacher", days_ago=30_000), make(root, "student", days_ago=1)
    assert names(kept(root)) == [place, other]
    assert kept(root)[0].used_s == 0
    assert edgekd("list").exit_code == 0
    assert names(prune(root, Which(to_mib=1.5)).removed) == [place]


def test_what_vanishes_while_it_is_listed_is_no_error(root, monkeypatch):
    place = make(root, "teacher")
    make(root, "student")
    read = kept_module.read_seal

    def vanish(path):
        if path == place and path.exists():
            (place / SEAL).unlink()
            (place / "a.bin").unlink()
            place.rmdir()
        return read(path)

    monkeypatch.setattr(kept_module, "read_seal", vanish)
    assert [one.stage for one in kept(root)] == ["student"]


_LIGHT = """
import sys
from edgekd.cli import main
sys.argv = ["edgekd", "store", *sys.argv[1:]]
try:
    main()
finally:
    print(sorted({"torch", "onnx", "onnxruntime", "transformers", "numpy"} & set(sys.modules)), file=sys.stderr)
"""


def test_the_command_itself_needs_nothing_heavy(root):
    changed = make(root, "teacher")
    (changed / "a.bin").write_bytes(b"?")
    listed, verified, pruned = (
        python(_LIGHT, *words) for words in (["list", "--json"], ["verify"], ["prune", "--damaged"])
    )
    assert (listed.returncode, listed.stderr) == (0, "[]\n")
    assert [one["stage"] for one in json.loads(listed.stdout)["entries"]] == ["teacher"]
    assert verified.returncode == 1
    assert verified.stderr.endswith("\n[]\n")
    assert (pruned.returncode, pruned.stderr) == (0, "[]\n")
    refused = python(_LIGHT, "prune", "--to-mib", "-5", "--json")
    assert (refused.returncode, json.loads(refused.stdout)["exit"]) == (2, 2)
    assert kept(root) == ()
