"""Hold the pinned packages against the advisories that are known: `python tools/check_advisories.py`."""

from __future__ import annotations

import sys
from pathlib import Path

from packaging.specifiers import SpecifierSet

_LOCKS = Path(__file__).parents[1] / "locks"


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


def main() -> int:
    """Print what is unmet; 1 where something is."""
    pins = "\n".join(file.read_text(encoding="utf-8") for file in _LOCKS.glob("requirements.txt"))
    found = unmet(pins, (_LOCKS / "advisories.txt").read_text(encoding="utf-8"))
    sys.stdout.write("".join(f"{line}\n" for line in found))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
