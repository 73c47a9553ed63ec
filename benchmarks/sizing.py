"""How right are the predictions, how quick is a plan, how full are the budgets? `python -m benchmarks.sizing`.

About 3 minutes with the demos' packages installed. The errors are those of the anchor file that ships for this host:
`edgekd doctor --fix predictor` measures anchors anew.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from benchmarks import results
from benchmarks.demo import run
from edgekd.core.registry import names
from edgekd.sizing import predictor

TASKS = ("text-classification", "image-classification", "time-series-classification")
BUDGETS = {  # at 40 MiB the wish for 5x binds before memory does: once with it, once where memory binds
    "rpi4": (),
    "rpi-zero2w": (),
    "rpi4 at 40 MiB": ("--memory-mib", "40"),
    "rpi4 at 40 MiB, 2x and 40 ms allowed": ("--memory-mib", "40", "--min-speedup", "2", "--latency-ms", "40"),
}


def errors() -> dict[str, dict[str, float]]:
    """By family and recipe: how many anchors, and the p90 of the relative error of each figure (leave one out)."""
    return {
        name: {"n": fit["n"], **{figure: fit[figure]["p90"] for figure in predictor.FIGURES}}
        for family in names("students")
        for name, fit in predictor.load(family).fits.items()
        if name.startswith(f"{family}/")
    }


def _hosts() -> str:
    """The machines whose anchors the predictions come from."""
    return ", ".join(dict.fromkeys(str(predictor.load(family).host["cpu"]) for family in names("students")))


def main() -> None:
    """Write results/sizing.json."""
    with tempfile.TemporaryDirectory(prefix="edgekd-benchmark-") as name:
        store = Path(name)
        plans = {}
        for task in TASKS:
            first, again = (run("plan", "--target", "rpi4", "--task", task, "--json", store=store)[0] for _ in range(2))
            plans[task] = {"first_s": first, "again_s": again}
        budgets = {}
        for name, more in BUDGETS.items():
            said = run("plan", "--target", name.split()[0], *more, "--measure", "--json", store=store)[2]
            made = json.loads(said)
            chosen, limit = made["fit"]["chosen"], made["plan"]["target"]["memory_mib"]
            order = [cost["words"] for cost in made["fit"]["candidates"]]
            above = made["fit"]["candidates"][: order.index(chosen["words"])]
            budgets[name] = {
                "budget_mib": limit,
                "measured_mib": chosen["memory_mib"],
                "choice": chosen["words"],
                "kind": chosen["kind"],
                "next_larger": above[-1]["words"] if above else None,
                "next_breaks": [one["text"] for one in above[-1]["violations"]] if above else [],
            }
    results.write("sizing", {"errors": errors(), "plans": plans, "budgets": budgets, "anchors": _hosts()})


if __name__ == "__main__":
    main()
