"""The folder is the registry: `losses/response.py` holds `Response`.

Listing a folder names the choices without importing them (nor torch), so that a wrong name is refused
while planning. Packages outside edgekd add theirs through entry points of the group `edgekd.KIND`; they take the name
of none of ours.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from edgekd.core.errors import UsageError, suggestion

if TYPE_CHECKING:
    from edgekd.core import protocols

UNKNOWN = "an unknown package"
_SINGULAR = {"losses": "loss", "searches": "search"}
PROTOCOLS = {  # what a plug-in of each folder keeps to: a class of edgekd.core.protocols
    "augmentations": "Augmentation",
    "devices": "Device",
    "exporters": "Exporter",
    "losses": "Loss",
    "quantizers": "Quantizer",
    "searches": "Search",
    "students": "Student",
    "tasks": "Task",
    "teachers": "Teacher",
}

ROLES = {  # what a plug-in may keep to beside: whole, or nothing of it
    "students": ("TaughtStudent", "WritingStudent"),
    "teachers": ("StartingNetwork", "Yardstick"),
}

# what a plug-in with no role of its kind is held to
ALWAYS: dict[str, tuple[str, ...]] = {"students": ("TaughtStudent",)}


def folder_name(name: str) -> str:
    """A field's name as its file spells it: `text-classification` lives in `text_classification.py`."""
    return name.replace("-", "_")


@cache
def _all_outside() -> tuple[EntryPoint, ...]:
    groups = [f"edgekd.{kind}" for kind in PROTOCOLS]
    found = entry_points()  # reads every installed package's metadata: once for all kinds
    return tuple(point for group in groups for point in found.select(group=group))


@cache
def _outside(kind: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in _all_outside() if point.group == f"edgekd.{kind}"}


@cache
def _inside(kind: str) -> frozenset[str]:
    folder = Path(__file__).parents[1] / kind
    return frozenset(info.name for info in pkgutil.iter_modules([str(folder)]) if not info.name.startswith("_"))


@cache
def names(kind: str) -> tuple[str, ...]:
    """The names of all plug-ins of a kind, sorted; imports none of them."""
    return tuple(sorted(_inside(kind) | set(_outside(kind))))


def default(kind: str) -> str:
    """Return the name of the plug-in of that kind that is meant where a user names none."""
    name: str = importlib.import_module(f"edgekd.{kind}").DEFAULT
    return name


def made_elsewhere(kind: str, name: str) -> str:
    """The package and release that adds the plug-in of that name: `their-losses 1.2`; empty for one of ours."""
    spelled = folder_name(name)
    if spelled in _inside(kind) or spelled not in _outside(kind):
        return ""
    dist = _outside(kind)[spelled].dist
    return f"{dist.name} {dist.version}" if dist else UNKNOWN


@overload
def plugin(kind: Literal["losses"], name: str) -> type[protocols.Loss]: ...
@overload
def plugin(kind: Literal["augmentations"], name: str) -> type[protocols.Augmentation]: ...
@overload
def plugin(kind: Literal["teachers"], name: str) -> type[protocols.Teacher]: ...
@overload
def plugin(kind: Literal["students"], name: str) -> type[protocols.Student]: ...
@overload
def plugin(kind: Literal["tasks"], name: str) -> type[protocols.Task]: ...
@overload
def plugin(kind: Literal["exporters"], name: str) -> type[protocols.Exporter]: ...
@overload
def plugin(kind: Literal["quantizers"], name: str) -> type[protocols.Quantizer]: ...
@overload
def plugin(kind: Literal["searches"], name: str) -> type[protocols.Search]: ...
@overload
def plugin(kind: Literal["devices"], name: Literal["qemu"]) -> type[protocols.CoreEmulator]: ...
@overload
def plugin(kind: Literal["devices"], name: Literal["guest"]) -> type[protocols.Emulator]: ...
@overload
def plugin(kind: Literal["devices"], name: str) -> type[protocols.Device]: ...
@overload
def plugin(kind: str, name: str) -> type[Any]: ...
def plugin(kind: str, name: str) -> type[Any]:
    """The plug-in's class. Raises UsageError with a suggestion where there is none of that name."""
    spelled = folder_name(name)
    if spelled not in names(kind):
        shown = [choice.replace("_", "-") if "-" in name or kind == "tasks" else choice for choice in names(kind)]
        raise UsageError(f"there is no {_SINGULAR.get(kind, kind[:-1])} called {name!r}", fix=suggestion(name, shown))
    if spelled not in _inside(kind):
        loaded: type[Any] = _outside(kind)[spelled].load()
        _check_protocol(kind, name, loaded)
        return loaded
    module = importlib.import_module(f"edgekd.{kind}.{spelled}")
    found: type[Any] = getattr(module, class_name(spelled))
    return found


def sibling_task(modality: str, problem_type: str) -> str:
    """Return the name of the task on such inputs whose outputs are of that kind; empty where there is none."""
    kinds = ((name, plugin("tasks", name)) for name in names("tasks"))
    found = (name for name, kind in kinds if (kind.modality, kind.problem_type) == (modality, problem_type))
    return next(found, "").replace("_", "-")


def class_name(name: str) -> str:
    """Return the class that the file of that name holds: `Response` of `response`, in CamelCase."""
    return "".join(part.capitalize() for part in folder_name(name).split("_"))


def _check_protocol(kind: str, name: str, outside: type[Any]) -> None:
    """Raise UsageError for a class of another package that lacks what this edgekd asks of its kind."""
    from edgekd.core import protocols

    for asked in protocols_of(kind, outside):
        lacking = protocols.lacking(outside, getattr(protocols, asked))
        if lacking:
            raise UsageError(
                f"{name!r} of {made_elsewhere(kind, name)} was written for another edgekd: "
                f"a {asked} also has {', '.join(lacking)}",
                fix=f"install a release of that package for this edgekd ({asked} in edgekd/core/protocols.py "
                "says what each member does), or remove it",
            )


def protocols_of(kind: str, made: type[Any]) -> tuple[str, ...]:
    """Return what a plug-in's class must keep to: its kind's protocol, and each role of which it has any member."""
    from edgekd.core import protocols

    roles = ROLES.get(kind, ())
    members = {role: protocols.asked_by(getattr(protocols, role)) for role in roles}
    counts = Counter(name for several in members.values() for name in several)  # what roles share tells none of them
    found = [role for role in roles if any(hasattr(made, name) for name in members[role] if counts[name] == 1)]
    return (PROTOCOLS[kind], *(found or ALWAYS.get(kind, ())))


@overload
def make(kind: Literal["losses"], name: str, **options: Any) -> protocols.Loss: ...
@overload
def make(kind: Literal["augmentations"], name: str, **options: Any) -> protocols.Augmentation: ...
@overload
def make(kind: Literal["teachers"], name: str, **options: Any) -> protocols.Teacher: ...
@overload
def make(kind: Literal["students"], name: str, **options: Any) -> protocols.Student: ...
@overload
def make(kind: Literal["tasks"], name: str, **options: Any) -> protocols.Task: ...
@overload
def make(kind: Literal["exporters"], name: Literal["optimum"], **options: Any) -> protocols.EcosystemLoader: ...
@overload
def make(kind: Literal["exporters"], name: str, **options: Any) -> protocols.Exporter: ...
@overload
def make(kind: Literal["quantizers"], name: str, **options: Any) -> protocols.Quantizer: ...
@overload
def make(kind: Literal["searches"], name: str, **options: Any) -> protocols.Search: ...
@overload
def make(kind: Literal["devices"], name: Literal["local"], **options: Any) -> protocols.ThisMachine: ...
@overload
def make(kind: Literal["devices"], name: str, **options: Any) -> protocols.Device: ...
@overload
def make(kind: str, name: str, **options: Any) -> Any: ...
def make(kind: str, name: str, **options: Any) -> Any:
    """A plug-in, ready for work: `make("losses", "response", temperature=2.0)`."""
    return plugin(kind, name)(**options)
