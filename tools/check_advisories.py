"""Hold the pinned packages against the advisories that are known: `python tools/check_advisories.py`."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

_LOCKS = Path(__file__).parents[1] / "locks"
PINS = ("requirements.txt", "torch.txt")


def unmet(pins: str, advisories: str) -> list[str]:
    """Return a line for each advisory that affects a pin and says nothing of what is done about it."""
    pinned = (line.split()[0].partition("==") for line in pins.splitlines() if "==" in line and line[0] not in " #")
    versions = {name.lower(): version for name, _, version in pinned}
    found = []
    for line in advisories.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        package, affected, identifier, done = (part.strip() for part in line.split("|"))
        version = versions.get(package.lower())
        if version and version in SpecifierSet(affected, prereleases=True) and not done:
            found.append(f"{package} {version} is affected by {identifier}: raise it, or say what is done")
    return found


def least(project: Mapping[str, Any]) -> str:
    """Return the least versions that a pyproject.toml allows of what edgekd runs on, as lines of pins."""
    extras = project.get("optional-dependencies", {})
    wanted = map(Requirement, [*project["dependencies"], *extras.get("build", ())])
    floors = ((one.name, part.version) for one in wanted for part in one.specifier if part.operator in (">=", "=="))
    return "\n".join(f"{name.replace('_', '-')}=={version}" for name, version in floors)


def main() -> int:
    """Print what is unmet; 1 where something is."""
    advisories = (_LOCKS / "advisories.txt").read_text(encoding="utf-8")
    pins = "\n".join((_LOCKS / name).read_text(encoding="utf-8") for name in PINS)
    project = tomllib.loads((_LOCKS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = [*unmet(pins, advisories), *unmet(least(project), advisories)]
    sys.stdout.write("".join(f"{line}\n" for line in found))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
