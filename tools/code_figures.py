"""Print what the code is held to: `python tools/code_figures.py`, a part of `make check`.

Each figure stands beside its limit; one beyond it fails. Tests are in none of them.
"""

from __future__ import annotations

import ast
import io
import statistics
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "edgekd"
LONG = 50  # lines of a function
TASKS = "tasks"


@dataclass(frozen=True)
class Module:
    """One file of the package, parsed."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def name(self) -> str:
        """Its dotted name."""
        parts = self.path.relative_to(PACKAGE.parent).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        """Return every function and method."""
        return (node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def modules() -> list[Module]:
    """Return all files of the package."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        found.append(Module(path, text, ast.parse(text)))
    return found


def untyped_share(files: list[Module]) -> float:
    """Return the share of signatures that take or give a `dict[str, Any]`."""
    signatures = [
        ast.unparse(part) for file in files for function in file.functions() for part in [_signature(function)]
    ]
    return sum("dict[str, Any]" in text for text in signatures) / len(signatures)


def _signature(function: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.FunctionDef:
    """Return the function without its body."""
    return ast.FunctionDef("f", function.args, [ast.Pass()], [], function.returns, None, lineno=1)


def skipped_formats(files: list[Module]) -> int:
    """Return how often the formatter is told to leave code alone."""
    comments = (
        token.string
        for file in files
        for token in tokenize.generate_tokens(io.StringIO(file.text).readline)
        if token.type == tokenize.COMMENT
    )
    return sum("fmt: skip" in comment or "fmt: off" in comment for comment in comments)


def long_share(files: list[Module]) -> float:
    """Return the share of functions over LONG lines."""
    sizes = [(function.end_lineno or 0) - function.lineno + 1 for file in files for function in file.functions()]
    return sum(size > LONG for size in sizes) / len(sizes)


def median_lines(files: list[Module]) -> float:
    """Return the median length of a file that holds code."""
    return statistics.median(len(file.text.splitlines()) for file in files if file.path.name != "__init__.py")


def naming_a_task(files: list[Module]) -> list[str]:
    """Return the modules outside `tasks/` in which a task's name is a value."""
    tasks = {path.stem.replace("_", "-") for path in (PACKAGE / TASKS).glob("[a-z]*.py")}
    return [
        file.name
        for file in files
        if not file.name.startswith(f"edgekd.{TASKS}")
        and any(isinstance(node, ast.Constant) and node.value in tasks for node in ast.walk(file.tree))
    ]


def imports(files: list[Module]) -> dict[str, set[str]]:
    """Return the modules of the package that each imports, lazily or not; those for types alone left out."""
    known = {file.name for file in files}
    found: dict[str, set[str]] = {}
    for file in files:
        typing_only = {
            inner
            for node in ast.walk(file.tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for inner in ast.walk(node)
        }
        found[file.name] = set()
        for node in (node for node in ast.walk(file.tree) if node not in typing_only):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("edgekd"):
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    found[file.name].add(inner if inner in known else node.module)
    return {name: {other for other in others if other in known and other != name} for name, others in found.items()}


def longest_chain(graph: dict[str, set[str]]) -> list[str]:
    """Return the longest chain of imports; a circle counts once."""
    best: dict[str, list[str]] = {}

    def chain(name: str, above: frozenset[str]) -> list[str]:
        if name not in best:
            below = [chain(other, above | {name}) for other in sorted(graph[name]) if other not in above]
            best[name] = [name, *max(below, key=len, default=[])]
        return best[name]

    return max((chain(name, frozenset()) for name in sorted(graph)), key=len)


def main() -> int:
    """Print the figures; 1 where one is beyond its limit."""
    files = modules()
    chain, named = longest_chain(imports(files)), naming_a_task(files)
    figures: list[tuple[str, float, float, str]] = [
        ("signatures with dict[str, Any], %", 100 * untyped_share(files), LIMITS["untyped"], ""),
        ("formatter told to skip", skipped_formats(files), LIMITS["skipped"], ""),
        (f"functions over {LONG} lines, %", 100 * long_share(files), LIMITS["long"], ""),
        ("median lines of a file", median_lines(files), LIMITS["median"], ""),
        ("modules outside tasks/ that name a task", len(named), LIMITS["named"], ", ".join(named)),
        ("longest chain of imports", len(chain), LIMITS["chain"], " > ".join(part[7:] for part in chain)),
    ]
    for name, value, limit, note in figures:
        print(f"{name:<42} {value:>7.4g}  limit {limit:g}{'  BEYOND' if value > limit else ''}  {note}".rstrip())
    return int(any(value > limit for _, value, limit, _ in figures))


# the aim: 4, 20, 0.5, 160, 0, 9; these come down as the code gets there
LIMITS = {"untyped": 12.7, "skipped": 20, "long": 0.5, "median": 160, "named": 0, "chain": 16}

if __name__ == "__main__":
    sys.exit(main())
