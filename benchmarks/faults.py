"""What becomes of builds that are killed or whose disk is full, and of hostile files? `python -m benchmarks.faults`

    python -m benchmarks.faults                     everything: about an hour
    python -m benchmarks.faults kills full-disk     these parts alone; the others' figures stay as they are kept
    python -m benchmarks.faults --quick             a few of each, in minutes; keeps nothing

Small disks are mounted: as root, or under `unshare --map-root-user --mount`. The teacher, the hostile files and the
mutations are those of the tests.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import build_faults

from benchmarks import _foreign, _strange, _tampered, results

PARTS: dict[str, tuple[Callable[[int, int], dict[str, Any]], int, int]] = {  # how many, and how many of a quick run
    "kills": (build_faults.kills, 100, 5),
    "full-disk": (build_faults.full_disk, 99, 2),
    "pickles": (_foreign.pickles, 99, 3),
    "onnx": (_foreign.onnx, 99, 5),
    "mutated-onnx": (_foreign.mutated_onnx, 2000, 80),
    "bit-flips": (_tampered.bit_flips, 400, 20),
    "tampering": (_tampered.tampering, 99, 4),
    "verify-time": (_tampered.verify_time, 5, 3),
} | {kind: (_strange.part(kind), 999, 5) for kind in _strange.KINDS}


def shown(part: str, found: dict[str, Any]) -> str:
    """A part's counts as lines of a table."""
    lines = [f"{part}", *(f"  {name.replace('_', ' '):<34} {_value(value)}" for name, value in found.items())]
    return "\n".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def main() -> None:
    """Print the counts, and keep them in results/faults.json and results/attacks.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="a few of each; keeps nothing")
    parser.add_argument("--seed", type=int, default=0)
    said = parser.parse_args()
    for part in said.parts or PARTS:
        measure, whole, few = PARTS[part]
        began = time.monotonic()
        found = measure(few if said.quick else whole, said.seed)
        found["took_s"] = time.monotonic() - began
        print(shown(part, found), flush=True)
        if not said.quick:
            name = "attacks" if part in _strange.KINDS else "faults"  # each file is of one commit and day
            kept = results.read(name)["figures"] if (results.FOLDER / f"{name}.json").exists() else {}
            results.write(name, kept | {part: found})


if __name__ == "__main__":
    main()
