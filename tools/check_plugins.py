"""Hold every plug-in against its protocol: `python tools/check_plugins.py`, a part of `make check`.

mypy reads a file that returns each plug-in as its protocol, so that a missing or misspelled method, another argument or
another type fails, also where edgekd's own calls do not meet it. The file is made anew: there is no list to keep.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from mypy import api

from edgekd.core.registry import PROTOCOLS, class_name, folder_name, names, plugin, protocols_of


def ours() -> list[tuple[str, str, str]]:
    """Return the protocol, the module and the class of every plug-in in edgekd's folders; of each role that it has."""
    return [
        (protocol, f"edgekd.{kind}.{folder_name(name)}", class_name(name))
        for kind in PROTOCOLS
        for name in names(kind)
        for protocol in protocols_of(kind, plugin(kind, name))
    ]


def check(plugins: Iterable[tuple[str, str, str]]) -> tuple[str, int]:
    """Return what mypy says of these plug-ins, and its exit code: 0 where each keeps to its protocol."""
    lines = ["from edgekd.core import protocols"]
    for number, (protocol, module, name) in enumerate(plugins):
        lines += [
            f"from {module} import {name} as {name}{number}",
            f"def keeps_{number}(plugin: {name}{number}) -> protocols.{protocol}:",
            "    return plugin",
        ]
    with tempfile.TemporaryDirectory(prefix="edgekd-plugins-") as folder:
        file = Path(folder, "plugins.py")
        file.write_text("\n".join(lines), encoding="utf-8")
        said, errors, code = api.run([str(file)])
    return said + errors, code


def main() -> int:
    """Print what mypy says; its exit code."""
    said, code = check(ours())
    print(said, end="")
    return code


if __name__ == "__main__":
    sys.exit(main())
