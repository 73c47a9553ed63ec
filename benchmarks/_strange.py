"""Hostile settings, weights, YAML, tables, answers and bundles of the tests' builders, each in a process of its own.

A part runs in a fresh process that has loaded what it needs; each case is a fork of it with limits. CPU time and peak
memory are of the fork and all that it starts. What the process had loaded before counts as memory of the case.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

from benchmarks._foreign import HANG_S, command, room
from edgekd.core.errors import EdgeKDError
from edgekd.security import child

MOST_MIB = 1024
_LIMIT_MIB, _CPU_S, _WALL_S = 4096, 120, 400
_TEXT = "text-classification"
_TEACHER = "foreign-teacher"
HARMLESS = "harmless"  # returned by a case that is taken as what it is


@dataclass(frozen=True)
class Case:
    """What is tried: `prepare` writes the files into a folder and returns what edgekd is to do with them."""

    name: str
    prepare: Callable[[Path], Callable[[], object]]
    words: str = ""  # of its refusal


@dataclass(frozen=True)
class End:
    """How a case ended; seconds are of CPU time."""

    how: str
    text: str
    cpu_s: float
    wall_s: float
    peak_mib: float


def part(kind: str) -> Callable[[int, int], dict[str, Any]]:
    """The counts of a kind of `KINDS`, for a number of cases and a seed."""

    def measure(count: int, seed: int) -> dict[str, Any]:
        job = {"kind": kind, "count": count, "seed": seed}
        ends: dict[str, dict[str, Any]] = child.call("benchmarks._strange:try_cases", job, timeout_s=3600)
        return _counts({name: End(**end) for name, end in ends.items()})

    return measure


def _counts(ends: dict[str, End]) -> dict[str, Any]:
    found = Counter(end.how for end in ends.values())
    slow = [name for name, end in ends.items() if end.cpu_s > HANG_S]
    large = [name for name, end in ends.items() if end.peak_mib > MOST_MIB]
    plain = ("refused", HARMLESS)
    return {
        "cases": len(ends),
        "through": found["through"],
        "refused": found["refused"],
        "harmless": found[HARMLESS],
        "other_reason": found["other reason"],
        "tracebacks": found["traceback"],
        "died": found["died"],
        "over_20_s_cpu": len(slow),
        "over_1_gib": len(large),
        "slowest_cpu_s": max(end.cpu_s for end in ends.values()),
        "largest_mib": max(end.peak_mib for end in ends.values()),
        "slow": slow,
        "large": large,
        "wrong": {name: f"{end.how}: {end.text}" for name, end in ends.items() if end.how not in plain},
    }


def try_cases(kind: str, count: int, seed: int) -> dict[str, dict[str, Any]]:
    """In the part's own process: how each case ended."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    with room() as folder, patch.dict(os.environ, EDGEKD_STORE=str(folder / "store")):
        (folder / "made").mkdir()
        cases = list(KINDS[kind](folder / "made"))
        if count < len(cases):
            cases = Random(seed).sample(cases, count)
        ends = {}
        for number, case in enumerate(cases):
            place = folder / str(number)
            place.mkdir()
            ends[case.name] = asdict(_apart(case.prepare(place), case.words))
        return ends


def _apart(act: Callable[[], object], words: str) -> End:
    """The act in a fork with limits."""
    read, write = os.pipe()
    began = time.monotonic()
    process = os.fork()
    if process == 0:
        os.close(read)
        how, text = "died", ""
        try:
            how, text = _ended(act, words)
        finally:
            os.write(write, json.dumps([how, text[-300:]]).encode())
            os._exit(0)
    os.close(write)
    _, _, usage = os.wait4(process, 0)
    with os.fdopen(read, "rb") as pipe:
        how, text = json.loads(pipe.read() or b'["died", ""]')
    return End(how, text, usage.ru_utime + usage.ru_stime, time.monotonic() - began, usage.ru_maxrss / 1024)


def _ended(act: Callable[[], object], words: str) -> tuple[str, str]:
    """In the fork: how the act ended, and what it said."""
    resource.setrlimit(resource.RLIMIT_DATA, (_LIMIT_MIB << 20, _LIMIT_MIB << 20))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    signal.alarm(_WALL_S)
    try:
        result = act()
    except EdgeKDError as error:
        text = f"{error.message} {error.fix}"
        return "refused" if words in text else "other reason", text
    except BaseException as error:  # noqa: BLE001 (what is counted)
        return "traceback", f"{type(error).__name__}: {error}"
    return (HARMLESS, "") if result == HARMLESS else ("through", repr(result))


def _command(*arguments: str | Path) -> None:
    """`edgekd` in a fresh process. Raises EdgeKDError where it refuses, RuntimeError for any other end but success."""
    said = command(*arguments, timeout_s=_WALL_S)
    if said.traceback or said.code not in (0, 1, 2, 3, 4, 5, 6, 7):
        raise RuntimeError(f"exit {said.code}: {said.text[-250:]}")
    if said.code:
        raise EdgeKDError(said.text, fix="-")


def _planned(folder: Path, *beside: str | Path) -> Callable[[], object]:
    return partial(_command, "plan", "--target", "rpi4", "--task", _TEXT, "--teacher", folder, "--data", *beside)


def settings(made: Path) -> Iterator[Case]:
    """Settings that name files, load code, have wrong types or sizes; links. A few through the command as well."""
    import bert_files
    from hostile_settings import CODE, FILES, LINKS, SIZES, TEXT, VALUES

    from edgekd.teachers.huggingface import Huggingface

    def prepare(build: Callable[[Path], None], by_command: bool, place: Path) -> Callable[[], object]:
        folder = bert_files.teacher(place / _TEACHER)
        build(folder)
        return _planned(folder, place) if by_command else partial(Huggingface().inspect, str(folder), _TEXT)

    prepare(lambda folder: None, False, made)()  # imports; as it is, the folder is taken
    for name, build in TEXT:
        yield Case(name, partial(prepare, build, False))
    for name, build in (kind[0] for kind in (FILES, CODE, VALUES, SIZES, LINKS)):
        yield Case(f"{name}, by the command", partial(prepare, build, True), _TEACHER)


def images(made: Path) -> Iterator[Case]:
    """Odd settings of an image processor, and images so narrow that resizing would make them huge."""
    from hostile_settings import IMAGE, PROCESSOR

    from edgekd.data import clean, pixels

    def prepare(build: Callable[[Path], None], place: Path) -> Callable[[], object]:
        (place / clean.PROCESSOR).write_text(json.dumps(PROCESSOR), encoding="utf-8")
        build(place)
        return partial(pixels.read_config, place)

    prepare(lambda folder: None, made)()
    for name, build in IMAGE:
        yield Case(name, partial(prepare, build), name.split()[0])
    by_edge = {"size": {"shortest_edge": 224}, "do_center_crop": True}
    for size in ((1, 10_000), (10_000, 1)):
        act = partial(pixels.check_resized, by_edge, size, "a.png")
        yield Case(f"an image of {size}", lambda place, act=act: act, "too narrow")


def weights(made: Path) -> Iterator[Case]:
    """Folders whose weights are another model's or lack a part, and models that name no one class of several."""
    import foreign_weights
    from onnx_files import IMAGE, SERIES, TEXT, image_model, save, series_model, text_model
    from test_one_of_classes import CONFIGS, with_sigmoid

    from edgekd.teachers import _names
    from edgekd.teachers._onnx_inspect import look
    from edgekd.teachers.huggingface import Huggingface

    original, apart = foreign_weights.classifier(made / "original"), child.call

    def call(function: str, job: dict[str, Any], **limits: Any) -> Any:
        return _names.look(**job) if function.startswith("edgekd.teachers._names") else apart(function, job, **limits)

    def settle(folder: Path) -> object:
        with patch.object(child, "call", call):  # this process has torch, and limits of its own
            return Huggingface().settled(Huggingface().inspect(str(folder), _TEXT), _TEXT, compressed=True)

    settle(original)
    for name in foreign_weights.STRANGE:
        saved = partial(foreign_weights.saved, name, original=original)
        yield Case(name, lambda place, saved=saved: partial(settle, saved(place / _TEACHER)), "are not those of")
    saved = partial(foreign_weights.saved, "no head", original=original)
    yield Case("no head, by the command", lambda place: _planned(saved(place / _TEACHER), place), _TEACHER)
    for name, values in CONFIGS.items():
        words = "" if name == "one output" else "does not name one of several classes"
        copied = partial(foreign_weights.saved, "as saved", original=original)
        yield Case(
            name,
            lambda place, copied=copied, values=values: partial(
                settle, foreign_weights.configure(copied(place / _TEACHER), **values)
            ),
            words,
        )
    for task, make in ((TEXT, text_model), (IMAGE, image_model), (SERIES, series_model)):
        yield Case(
            f"a graph with a sigmoid, {task}",
            lambda place, task=task, make=make: partial(look, str(save(place, with_sigmoid(make()))), task),
            "it ends in a sigmoid",
        )


def yaml(_made: Path) -> Iterator[Case]:
    """YAML that is more than plain values, as a profile; numbers of thousands of digits, which are text."""
    from strange_yaml import REFUSED, TEXTS

    from edgekd.core import plain_yaml
    from edgekd.hardware.profile import load_profile

    def prepare(build: Callable[[], bytes], by_command: bool, place: Path) -> Callable[[], object]:
        path = place / "mine.yaml"
        path.write_bytes(build())
        if by_command:
            return partial(_command, "plan", "--target", path, "--task", _TEXT, "--teacher", place, "--data", place)
        return partial(load_profile, str(path))

    def read(text: str) -> object:
        value = plain_yaml.read(f"a: {text}\n")
        return HARMLESS if value == {"a": text} else value

    for name, build, reason, _ in REFUSED:
        yield Case(name, partial(prepare, build, False), reason if len(build()) < 64 << 10 else "bytes")
    for name, build, _, _ in REFUSED[:2]:
        yield Case(f"{name}, by the command", partial(prepare, build, True), "mine.yaml")
    for name, text in TEXTS:
        yield Case(name, lambda place, text=text: partial(read, text))


def tables(_made: Path) -> Iterator[Case]:
    """Tables of very many names, cells and levels; megabytes of one-letter rows, which are a table. LFS pointers."""
    from test_pointers import KINDS as POINTERS
    from test_pointers import POINTER
    from test_table_sizes import MANY, REFUSED

    from edgekd.data import limits
    from edgekd.data.read import read_file

    def prepare(suffix: str, build: Callable[[], str], read: Callable[[Path], object], place: Path) -> Any:
        path = place / f"rows{suffix}"
        path.write_text(build(), encoding="utf-8")
        return partial(read, path)

    def few_cells(path: Path) -> object:
        with patch.object(limits, "MOST_CELLS", 50_000):
            return read_file(path)

    def taken(path: Path) -> object:
        return read_file(path) and HARMLESS

    def pointer(name: str, read: Callable[[str], object], place: Path) -> Callable[[], object]:
        (place / name).write_bytes(POINTER)
        return partial(read, str(place / name))

    for name, suffix, build, reason in REFUSED:
        yield Case(name, partial(prepare, suffix, build, read_file), reason)
    for name, suffix, build in MANY:
        yield Case(f"{name}, 50,000 cells at most", partial(prepare, suffix, build, few_cells), "50,000 cells")
    yield Case("6 MB of one-letter rows", partial(prepare, ".csv", lambda: "a\n" + "x\n" * 3_000_000, taken))
    for name, read in POINTERS:
        yield Case(f"a pointer of Git LFS for {name}", partial(pointer, name, read), "a pointer of Git LFS")


def answers(_made: Path) -> Iterator[Case]:
    """What a board may answer that no runner answers."""
    from strange_answers import ANSWERS, JOB

    from edgekd.devices._answer import answer_of

    for name, build in ANSWERS:
        read = partial(answer_of, mode="time", job=JOB, run="a time run on ssh://pi", runtime="ort")
        yield Case(name, lambda place, build=build, read=read: partial(read, build()), "a time run on ssh://pi")


def bundles(_made: Path) -> Iterator[Case]:
    """Bundles whose hashes are right and that ask for very much, through `edgekd verify`."""
    from made_bundle import make_bundle
    from tampering import TOO_MUCH, repeat_arrays

    def prepare(build: Callable[[Path], None], place: Path) -> Callable[[], object]:
        folder = make_bundle(place / "tiny-here", onboard=True)
        build(folder)
        return partial(_command, "verify", folder)

    for name, (build, words) in TOO_MUCH.items():
        yield Case(name, partial(prepare, build), words)
    yield Case("arrays that are many together", partial(prepare, partial(repeat_arrays, times=50)), "bytes in all")


KINDS: dict[str, Callable[[Path], Iterator[Case]]] = {
    "settings": settings,
    "image-settings": images,
    "weights": weights,
    "yaml": yaml,
    "tables": tables,
    "answers": answers,
    "bundles": bundles,
}
