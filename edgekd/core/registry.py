"""The folder is the registry: `losses/response.py` holds `Response`.

Listing a folder names the choices without importing them (nor torch), so that a wrong name is refused
while planning. Packages outside edgekd add theirs through entry points of the group `edgekd.KIND`; they take the name
of none of ours.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from edgekd.core.errors import UsageError, suggestion

UNKNOWN = "an unknown package"
_SINGULAR = {"losses": "loss", "searches": "search"}


def folder_name(name: str) -> str:
    """A field's name as its file spells it: `text-classification` lives in `text_classification.py`."""
    return name.replace("-", "_")


@cache
def _outside(kind: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"edgekd.{kind}")}


@cache
def _inside(kind: str) -> frozenset[str]:
    folder = Path(__file__).parents[1] / kind
    return frozenset(info.name for info in pkgutil.iter_modules([str(folder)]) if not info.name.startswith("_"))


@cache
def names(kind: str) -> tuple[str, ...]:
    """The names of all plug-ins of a kind, sorted; imports none of them."""
    return tuple(sorted(_inside(kind) | set(_outside(kind))))


def made_elsewhere(kind: str, name: str) -> str:
    """The package and release that adds the plug-in of that name: `their-losses 1.2`; empty for one of ours."""
    spelled = folder_name(name)
    if spelled in _inside(kind) or spelled not in _outside(kind):
        return ""
    dist = _outside(kind)[spelled].dist
    return f"{dist.name} {dist.version}" if dist else UNKNOWN


def plugin(kind: str, name: str) -> type[Any]:
    """The plug-in's class. Raises UsageError with a suggestion where there is none of that name."""
    spelled = folder_name(name)
    if spelled not in names(kind):
        shown = [choice.replace("_", "-") if "-" in name or kind == "tasks" else choice for choice in names(kind)]
        raise UsageError(f"there is no {_SINGULAR.get(kind, kind[:-1])} called {name!r}", fix=suggestion(name, shown))
    if spelled not in _inside(kind):
        loaded: type[Any] = _outside(kind)[spelled].load()
        return loaded
    module = importlib.import_module(f"edgekd.{kind}.{spelled}")
    found: type[Any] = getattr(module, "".join(part.capitalize() for part in spelled.split("_")))
    return found


def make(kind: str, name: str, **options: Any) -> Any:
    """A plug-in, ready for work: `make("losses", "response", temperature=2.0)`."""
    return plugin(kind, name)(**options)
