"""What fits where? `python -m benchmarks.fit_tables` writes docs/fit-tables.md: three profiles, three modalities."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.demo import run
from benchmarks.sizing import TASKS

TARGETS = ("rpi4", "rpi-zero2w", "cpu-avx2")
PAGE = Path(__file__).parents[1] / "docs" / "fit-tables.md"
INTRO = """# Fit tables

What `edgekd plan` says of each demo on three targets; written by `python -m benchmarks.fit_tables`.
How to read them: [sizing.md](sizing.md).
"""


def main() -> None:
    """Plan every task for every target."""
    said = [INTRO]
    with tempfile.TemporaryDirectory(prefix="edgekd-benchmark-") as name:
        store = Path(name)
        for task in TASKS:
            said.append(f"## {task}\n")
            for target in TARGETS:
                shown = run("plan", "--target", target, "--task", task, store=store)[2]
                said.append(f"`{target}`\n```\n{shown.partition(chr(10) * 2)[2].strip(chr(10))}\n```\n")
    PAGE.write_text("\n".join(said), encoding="utf-8")


if __name__ == "__main__":
    main()
