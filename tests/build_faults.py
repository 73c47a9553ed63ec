"""Builds that are killed, and builds whose disk fills up: what is left of the store and of bundles, counted."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from signal import SIGKILL
from typing import Any

from broken_builds import (
    Build,
    Life,
    Moment,
    corrupt,
    differences,
    disk,
    elsewhere,
    entries,
    half_bundle,
    identities,
    inputs,
    litter,
    may_mount,
    moments,
    remount,
    until,
    used_kib,
)

from edgekd.core.errors import EdgeKDError

CHAIN = 10  # kills of one store, in the order of the stages that they fall into
_ROOMY = "size=1g"


@contextmanager
def finished() -> Iterator[tuple[Build, Life, Path]]:
    """A build that nobody disturbed, its life, and a folder for more."""
    with tempfile.TemporaryDirectory(prefix="edgekd-faults-") as name:
        folder = Path(name)
        (folder / "inputs").mkdir()
        build = Build(inputs(folder / "inputs"), folder / "whole" / "store", folder / "whole" / "bundle")
        life = build.run()
        if life.code:
            raise EdgeKDError(f"the undisturbed build ended with {life.code}", fix=life.stderr[-2000:])
        yield build, life, folder


def kills(count: int, seed: int) -> dict[str, Any]:
    """So many kills, in chains on one store each, and what was found after every one of them."""
    random, chains, equal, left = Random(seed), list[Killed](), 0, 0
    with finished() as (whole, life, folder):
        while (missing := count - sum(len(one.costs) for one in chains)) > 0:
            place = folder / f"chain-{len(chains)}"
            build = replace(whole, store=place / "store", out=place / "bundles" / "bundle")
            chains.append(killed(build, moments(life, min(CHAIN, missing), random)))
            other = differences(build.out, whole.out)
            equal += not other
            chains[-1].damage += [f"chain {len(chains)} ends with other bytes: {other}"] if other else []
            left += len(litter(build.store, build.out.parent))
            shutil.rmtree(place)
    costs = [cost for one in chains for cost in one.costs]
    damage = [words for one in chains for words in one.damage]
    return {
        "kills": len(costs),
        "corrupt": len(damage),
        "most_stages_redone_for_a_kill": max(costs),
        "finished_stages_lost": sum(one.lost for one in chains),
        "chains": len(chains),
        "same_bytes": equal,
        "litter_left": left,
        "by_stage": dict(sum((one.stages for one in chains), Counter[str]())),
        "damage": damage,
        "undisturbed_s": life.seconds,
        "seed": seed,
    }


@dataclass
class Killed:
    """What kills of one chain cost: by kill how many stages are to be made again; finished ones of these; damage."""

    costs: list[int]
    stages: Counter[str]
    damage: list[str]
    lost: int = 0


def killed(build: Build, drawn: list[Moment]) -> Killed:
    """Kill the build at each moment, each time going on with what is left, and let it end at last."""
    found, before, seen = Killed([], Counter(), []), identities(build.store), set[str]()
    for moment in drawn:
        life = build.run(moment)
        if life.code == 0:
            return found  # it was over first
        if life.code != -SIGKILL:
            found.damage.append(f"after a kill the build ended with {life.code}: {life.stderr[-500:]}")
            break
        found.stages[life.last] += 1
        after, left = identities(build.store), set(litter(build.store, build.out.parent))
        lost = sum(after.get(name) != was for name, was in before.items())
        found.lost += lost
        found.costs.append(lost + len(left - seen))
        found.damage += corrupt(build.store) + half_bundle(build.out)
        before, seen = after, seen | left
    last = build.run()
    if last.code:
        found.damage.append(f"after the kills the build ended with {last.code}: {last.stderr[-500:]}")
    found.damage += corrupt(build.store) + half_bundle(build.out)
    return found


def full_disk(most: int, seed: int) -> dict[str, Any]:
    """In every stage in turn, or in so many of them: no space left, then space again."""
    if why := may_mount():
        return {"not_run": why}
    found: dict[str, Any] = {"stages": 0, "hit": 0, "named": 0, "earlier_intact": 0, "went_on_to_the_same_bytes": 0}
    wrong: list[str] = []
    with finished() as (whole, _, folder):
        names = [*entries(whole.store), "ship"]
        for name in sorted(Random(seed).sample(names, min(most, len(names))), key=names.index):
            found["stages"] += 1
            with disk(folder / "disk") as place:
                judged, said = filled(whole, name, place)
                for key, well in judged.items():
                    found[key] += well
                    wrong += [] if well else [f"{name}: not {key}: {said[-600:]}"]
    return found | {"wrong": wrong, "seed": seed}


def filled(whole: Build, name: str, place: Path) -> tuple[dict[str, bool], str]:
    """The build on a disk that has room for half of what the stage writes: how it went, and what it said."""
    build = elsewhere(whole, place, unwarned=True)
    until(whole.store, name, build.store)
    earlier = shutil.copytree(whole.out, place / "earlier")
    before = identities(build.store)
    needed = used_kib(whole.out if name == "ship" else entries(whole.store)[name])
    held = True
    for free_kib in (needed // 8 * 4, 0):
        remount(place, f"size={used_kib(place) + free_kib}k")
        life = build.run()
        held = not (half_bundle(earlier) or corrupt(build.store) or half_bundle(build.out)) and held
        if life.code:
            break
    held = held and all(identities(build.store).get(entry) == was for entry, was in before.items())
    remount(place, _ROOMY)
    again = build.run()
    other = differences(build.out, whole.out)
    return {
        "hit": life.code != 0,
        "named": life.code == 1
        and "no space left" in life.stderr
        and "fix:" in life.stderr
        and "Traceback" not in life.stderr,
        "earlier_intact": held,
        "went_on_to_the_same_bytes": again.code == 0 and not other,
    }, f"{life.stderr}{again.stderr}{other}"
