"""Where figures are kept: a JSON file a benchmark, with its commit, its command, the host and the versions.

`problems` holds each file against the history: the commit that it names must be an ancestor and hold the script.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
# Files from before they named commit and command. Remove a name when its benchmark has been run anew.
GRACE = frozenset({"distillation", "faults", "instructions", "sizing", "throughput"})
_COMMAND = re.compile(r"python -m benchmarks\.(\w+)\b.*")
_MADE = (":!benchmarks/results/*.json", ":!README.md", ":!docs/results.md")  # what benchmarks write themselves


def write(name: str, figures: dict[str, Any]) -> None:
    """Keep a benchmark's figures. Exits where the working tree is not that of a commit, or there is no git."""
    from edgekd.core.results import this_host, versions
    from edgekd.plan.planning import PACKAGES

    said = made_by() | {
        "figures": figures,
        "host": asdict(this_host()),
        "versions": versions(*PACKAGES),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    (FOLDER / f"{name}.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def read(name: str) -> dict[str, Any]:
    """The kept figures of a benchmark."""
    said: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return said


def made_by(root: Path = ROOT) -> dict[str, str]:
    """The commit that the running script is of, and the command. Exits where a tracked file was changed since."""
    changed = _git(root, "status", "--porcelain", "--", ":(top)", *_MADE)
    if changed is None:
        sys.exit("figures are kept of a commit, and this is no git checkout")
    if changed:
        sys.exit(f"figures are kept of a commit: commit or stash these first\n{changed}")
    spec = sys.modules["__main__"].__spec__
    module = spec.name if spec else Path(sys.argv[0]).stem
    return {
        "commit": _git(root, "rev-parse", "HEAD") or "",
        "command": " ".join(["python -m", module.removesuffix(".__main__"), *sys.argv[1:]]),
    }


def problems(folder: Path = FOLDER, root: Path = ROOT, grace: frozenset[str] = GRACE) -> list[str]:
    """What is wrong with what each kept file says of its making; empty where all is well.

    Without git nothing can be held against a history; in a shallow clone no commit that the clone lacks.
    """
    has_git = _git(root, "rev-parse", "--git-dir") is not None
    shallow = _git(root, "rev-parse", "--is-shallow-repository") == "true"
    found = []
    for file in sorted(folder.glob("*.json")):
        said = json.loads(file.read_text(encoding="utf-8"))
        if why := _problem(file.stem, said, root if has_git else None, grace, shallow=shallow):
            found.append(f"benchmarks/results/{file.name}: {why}; run its benchmark again")
    return found


def _problem(name: str, said: dict[str, Any], root: Path | None, grace: frozenset[str], *, shallow: bool) -> str | None:
    if "commit" not in said and "command" not in said:
        return None if name in grace else "it names no commit and no command"
    commit, command = str(said.get("commit")), _COMMAND.fullmatch(str(said.get("command")))
    if not re.fullmatch(r"[0-9a-f]{40}", commit) or command is None:
        return "its commit is no full hash, or its command no `python -m benchmarks.NAME`"
    if root is None:
        return None
    if _git(root, "cat-file", "-e", f"{commit}^{{commit}}") is None:
        return None if shallow else f"the history has no commit {commit[:12]}"
    if not shallow and _git(root, "merge-base", "--is-ancestor", commit, "HEAD") is None:
        return f"commit {commit[:12]} is no ancestor of this one"
    script = f"benchmarks/{command[1]}.py"
    return (
        None
        if _git(root, "cat-file", "-e", f"{commit}:{script}") is not None
        else (f"commit {commit[:12]} does not hold {script}")
    )


def _git(root: Path, *arguments: str) -> str | None:
    """What git prints; None where it fails, or is not there."""
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
