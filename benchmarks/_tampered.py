"""Bundles that were damaged or tampered with, and what checking a large one takes, counted through the command."""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from benchmarks._foreign import command, room, some
from edgekd.core.errors import EdgeKDError
from edgekd.security import child

_WEIGHTS_MB = 25
_FLIPPED_BY_COMMAND = 5
_POISON = "open({marker!r}, 'w').close()\nraise ImportError('this runtime must not be reached')\n"


@contextmanager
def _signed_bundle(**told: Any) -> Iterator[tuple[Path, Path]]:
    """A bundle made by hand, signed, and the public key's file."""
    from made_bundle import make_bundle
    from tampering import sign

    from edgekd.security import keys

    with room() as folder:
        made = make_bundle(folder / "tiny-here", onboard=True, **told)
        keys.make_key(folder / "key")
        sign(made, folder / "key")
        yield made, folder / "key.pub"


def bit_flips(count: int, seed: int) -> dict[str, Any]:
    """So many single bits flipped in every file of a signed bundle: what is refused before ONNX Runtime is imported."""
    with _signed_bundle() as (bundle, key):
        if (said := command("verify", bundle, "--key", key)).code:
            raise EdgeKDError("the bundle as it was made is refused", fix=said.text)
        job = {"bundle": str(bundle), "key": str(key), "count": count, "seed": seed}
        found = child.call("benchmarks._tampered:flip", job, timeout_s=3600)
        return found | {"seed": seed, "by_the_command": _flipped_by_command(bundle, key, seed)}


def flip(bundle: str, key: str, count: int, seed: int) -> dict[str, Any]:
    """In a child that has no ONNX Runtime: flips and refusals by file."""
    sys.modules["onnxruntime"] = None  # type: ignore[assignment]  # importing it is an error from here on
    from edgekd.receipts import trust

    asked = trust.Asked(trust.Trust.of([Path(key)]))
    trust.check(Path(bundle), asked)  # as it is, it is well
    files: dict[str, Any] = {}
    through = []
    for path in _files(Path(bundle)):
        raw, random, refused = path.read_bytes(), Random(f"{seed} {path.name}"), 0
        places = random.sample(range(len(raw) * 8), min(count, len(raw) * 8))
        for place in places:
            changed = bytearray(raw)
            changed[place // 8] ^= 1 << place % 8
            path.write_bytes(changed)
            try:
                trust.check(Path(bundle), asked)
                through.append(f"{path.name}, bit {place}")
            except EdgeKDError:
                refused += 1
        path.write_bytes(raw)
        files[path.relative_to(Path(bundle).parent).as_posix()] = {"flips": len(places), "refused": refused}
    return {
        "files": len(files),
        "flips": sum(one["flips"] for one in files.values()),
        "refused": sum(one["refused"] for one in files.values()),
        "by_file": files,
        "through": through,
    }


def _files(bundle: Path) -> list[Path]:
    signature = bundle.with_name(f"{bundle.name}.sig")
    return [*(path for path in sorted(bundle.rglob("*")) if path.is_file()), signature]


def _flipped_by_command(bundle: Path, key: Path, seed: int) -> dict[str, Any]:
    """A few flips through the real command, with an ONNX Runtime that tells when it is imported."""
    poison, marker = _poisoned(bundle.parent / "poison")
    run = partial(command, "verify", bundle, "--key", key, PYTHONPATH=poison)
    whole = run()
    reached = marker.exists()  # by the bundle as it was made: the poison works
    marker.unlink(missing_ok=True)
    random, refused = Random(seed), 0
    chosen = random.sample(_files(bundle), _FLIPPED_BY_COMMAND)
    for path in chosen:
        raw = path.read_bytes()
        at = random.randrange(len(raw))
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1 << random.randrange(8)]) + raw[at + 1 :])
        said = run()
        refused += said.code == 1 and not said.traceback and not marker.exists()
        path.write_bytes(raw)
    reached &= whole.code == 7
    return {"flips": len(chosen), "refused_before_the_runtime": refused, "undamaged_reaches_it": reached}


def _poisoned(place: Path) -> tuple[str, Path]:
    """A PYTHONPATH with an onnxruntime that leaves a mark where anything imports it; the mark."""
    place.mkdir()
    (place / "onnxruntime.py").write_text(_POISON.format(marker=str(place / "imported")), encoding="utf-8")
    return os.pathsep.join([str(place), str(Path(__file__).parents[1])]), place / "imported"


def tampering(count: int, seed: int) -> dict[str, Any]:
    """Every kind of tests/tampering.py through the real command with a key, and an ONNX Runtime that tells."""
    from tampering import TAMPERING, copy, make_lab

    well = {}
    with room() as folder:
        original = make_lab(folder / "original")
        for number, (name, kind) in enumerate(some(TAMPERING, count, seed).items()):
            lab = copy(original, folder / str(number))
            poison, marker = _poisoned(folder / f"poison-{number}")
            kind.change(lab)
            said = command("verify", *kind.command(lab), cwd=lab.root, PYTHONPATH=poison)
            well[name] = said.code in (1, 2) and kind.words in said.text and not said.traceback and not marker.exists()
    return {
        "kinds": len(well),
        "refused_for_its_reason_before_the_runtime": sum(well.values()),
        "through": sorted(name for name, one in well.items() if not one),
    }


def verify_time(count: int, seed: int) -> dict[str, Any]:
    """Seconds of `edgekd verify --key` for a bundle of 25 MB, the whole process: the median of so many runs."""
    del seed  # nothing is drawn
    with _signed_bundle(model=_large) as (bundle, key):
        runs = [command("verify", bundle, "--key", key) for _ in range(count)]
        size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    if any(one.code for one in runs):
        raise EdgeKDError("the large bundle does not verify", fix=runs[0].text)
    seconds = [one.seconds for one in runs]
    return {"bundle_mb": size / 1e6, "median_s": statistics.median(seconds), "seconds": seconds}


def _large(path: Path) -> Path:
    """As `helpers.matmul_model`, 25 MB of it."""
    from helpers import WIDTH, random_weights, save_graph
    from onnx import helper

    hidden = (_WEIGHTS_MB * 1_000_000) // (4 * (WIDTH + 4))
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["pooled"], "pool", axes=[1], keepdims=0),
        helper.make_node("MatMul", ["pooled", "w"], ["hidden"], "layer"),
        helper.make_node("MatMul", ["hidden", "v"], ["y"], "head"),
    ]
    weights: dict[str, np.ndarray[Any, Any]] = {"w": random_weights(WIDTH, hidden), "v": random_weights(hidden, 4)}
    return Path(save_graph(path, nodes, [1, 4], **weights))
