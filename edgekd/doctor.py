"""What works on this machine, what is missing, and the command that mends it: `edgekd doctor`.

Versions are read, packages are never imported: the answer comes at once.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires
from typing import TYPE_CHECKING

from edgekd.core.errors import UsageError, suggestion
from edgekd.core.protocols import Check, NullProgress
from edgekd.core.registry import names, plugin
from edgekd.core.results import versions
from edgekd.data import demos
from edgekd.devices.guest import Guest
from edgekd.devices.qemu import Qemu
from edgekd.security import child
from edgekd.sizing import predictor
from edgekd.store.store import open_store

if TYPE_CHECKING:
    from packaging.requirements import Requirement

    from edgekd.core.protocols import Progress

STORE_GIB = 2.0  # what a build with the demo's teacher may write, with room to spare


def checks() -> list[Check]:
    """Every check, in the order in which one would mend them."""
    return [*_packages(), _store(), *_demos(), _predictor(), *Qemu.checks(), *Guest.checks()]


def fix(name: str, progress: Progress | None = None) -> None:
    """Mend one check. Raises UsageError for one that edgekd cannot mend itself, and what the mending raises."""
    mends: dict[str, Callable[[Progress | None], object]] = {
        "emulator": Qemu.build,
        "guest": Guest.build,
        "predictor": _measure_anchors,
    }
    if name not in mends:
        raise UsageError(f"edgekd cannot mend {name!r} itself", fix=suggestion(name, mends))
    mends[name](progress)


def _packages() -> Iterator[Check]:
    from packaging.requirements import Requirement  # onnxruntime brings it

    try:
        wanted = [Requirement(line) for line in requires("edgekd") or ()]
    except PackageNotFoundError:
        yield Check("packages", "missing", "edgekd itself is not installed here", "pip install -e .")
        return
    plain = [each for each in wanted if each.marker is None]
    build = [each for each in wanted if each.marker and each.marker.evaluate({"extra": "build"})]
    yield _installed("packages", "verify, bench, report", plain)
    yield _installed("build-packages", "plan, build", build)


def _installed(name: str, serves: str, wanted: list[Requirement]) -> Check:
    there = versions(*(each.name for each in wanted))
    absent = [each for each in wanted if there[each.name] == "absent"]
    other = [each for each in wanted if each not in absent and not each.specifier.contains(there[each.name], True)]
    if not absent and not other:
        shown = ", ".join(
            f"{package} {there[package]}"
            for package in ("torch", "transformers", "onnxruntime", "numpy")
            if package in there
        )
        return Check(name, "ok", f"{len(wanted)} packages for {serves}, among them {shown}")
    found = [f"no {each.name}" for each in absent] + [f"{each.name} {there[each.name]}" for each in other]
    command = " ".join(f'"{each.name}{each.specifier}"' for each in absent + other)
    return Check(
        name, "missing" if absent else "stale", f"{', '.join(found)}; {serves} need them", f"pip install {command}"
    )


def _store() -> Check:
    root = open_store().root
    there = next(folder for folder in (root, *root.parents) if folder.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        return Check("store", "missing", f"{there} cannot be written", "export EDGEKD_STORE=a-folder-of-your-own")
    free = shutil.disk_usage(there).free / 2**30
    if free < STORE_GIB:
        return Check(
            "store",
            "missing",
            f"{free:.1f} GiB free for {root}; a build may need {STORE_GIB:g}",
            "export EDGEKD_STORE=a-folder-on-a-larger-disk",
        )
    return Check("store", "ok", f"{root}, {free:.0f} GiB free")


def _demos() -> Iterator[Check]:
    for task, demo in demos.all_demos().items():
        places = [place for place in (demo.teacher, demo.data) if not isinstance(place, str)]
        absent = [package for package, inside in places if not _holds(task, package, inside)]
        if absent:
            what = f"not installed: {', '.join(absent)}; without them give --teacher and --data"
            yield Check(f"demo-{task}", "missing", what, demo.command)
        else:
            yield Check(f"demo-{task}", "ok", f"{demo.teacher_name}; {demo.data_name}")


def _holds(task: str, package: str, inside: str) -> bool:
    try:
        demos.inside(task, package, inside)
    except UsageError:
        return False
    return True


def _predictor() -> Check:
    fitted = {name: predictor.load(name) for name in names("students")}
    whose = "; ".join(dict.fromkeys(one.measured_on for one in fitted.values()))
    if all(one.is_own and all(one.knows(name, recipe) for recipe in _recipes(name)) for name, one in fitted.items()):
        return Check("predictor", "ok", f"fitted on this machine: {whose}")
    return Check(
        "predictor",
        "stale",
        f"fitted on {whose}: not every family was measured here",
        "edgekd doctor --fix predictor  # about a quarter of an hour",
    )


def _recipes(family: str) -> tuple[str, ...]:
    recipes: tuple[str, ...] = plugin("students", family).recipes
    return recipes


def _measure_anchors(progress: Progress | None) -> None:
    """Measure every family's anchors on this machine, and fit; what is measured already is kept."""
    from edgekd.sizing import anchors

    shown = progress or NullProgress()
    shown.stage("predictor: measure anchor shapes", anchors.SHAPES * len(names("students")))

    def said(line: str) -> None:
        number, _, note = line.removeprefix("measured ").partition(" of ")
        shown.step(int(number), note.partition(": ")[2])

    out = predictor.folders()[0] / anchors.file_name()
    child.call("edgekd.sizing.anchors:measure", {"out": str(out)}, timeout_s=4 * 3600, said=said)
