"""Every test that docs/threats.md names exists, and CI runs it; so does it what proves reproducibility."""

import ast
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = re.compile(r"`(test_\w+\.py)::(test_\w+)`")
LEFT_OUT = {"slow", "node", "emulator", "browser"}  # by default: pyproject.toml, addopts


def marks(tree, function):
    """Names of the markers on a test and on its file."""
    assigned = [line for line in tree.body if isinstance(line, ast.Assign)]
    whole = [line.value for line in assigned if getattr(line.targets[0], "id", "") == "pytestmark"]
    nodes = [node for top in [*whole, *function.decorator_list] for node in ast.walk(top)]
    return {node.attr for node in nodes if isinstance(node, ast.Attribute)} & LEFT_OUT


def marked_tests(name):
    """Each test function of a file, with its markers."""
    file = ROOT / "tests" / name
    if not file.is_file():
        return {}
    tree = ast.parse(file.read_text("utf-8"))
    functions = [line for line in tree.body if isinstance(line, ast.FunctionDef) and line.name.startswith("test_")]
    return {function.name: marks(tree, function) for function in functions}


def parts_of(script):
    """What CI makes: (target, files or none for all, words of -k or none for all)."""
    for line in re.findall(r"^part \w+ .*?\bmake (.*)$", script, re.MULTILINE):
        target, *settings = shlex.split(line)
        extra = next((shlex.split(one.partition("=")[2]) for one in settings if one.startswith("EXTRA=")), [])
        words = extra.pop(extra.index("-k") + 1).split(" or ") if "-k" in extra else []
        yield target, [Path(one).name for one in extra if one.endswith(".py")], words


def runs(parts, file, name, marked):
    """Whether some part selects the test. A part with other words than `or` in -k selects nothing here."""
    wanted = marked or {"test"}
    return any(
        target in wanted and (not files or file in files) and (not words or any(word in name for word in words))
        for target, files, words in parts
    )


@pytest.fixture(scope="module")
def parts():
    return list(parts_of((ROOT / ".ci" / "run").read_text("utf-8")))


def test_every_threats_test_exists_and_is_run_by_ci(parts):
    named = NAMED.findall((ROOT / "docs" / "threats.md").read_text("utf-8"))
    assert len(named) > 60
    known = {file: marked_tests(file) for file, _ in named}
    assert [f"{file}::{name}" for file, name in named if name not in known[file]] == []
    assert [f"{file}::{name}" for file, name in named if not runs(parts, file, name, known[file][name])] == []


def test_reproducibility_is_run_by_ci(parts):
    for file in ("test_reproducible.py", "test_store_builds.py", "test_foreign.py", "test_faults.py"):
        tests = marked_tests(file)
        assert tests
        assert [name for name, marked in tests.items() if not runs(parts, file, name, marked)] == []


def test_what_is_left_out_is_noticed():
    script = "part a timeout 9m make slow EXTRA=\"tests/test_x.py -k 'kills or disk'\"\npart b make test\n"
    parts = list(parts_of(script))
    assert parts == [("slow", ["test_x.py"], ["kills", "disk"]), ("test", [], [])]
    assert runs(parts, "test_x.py", "test_ten_kills", {"slow"})
    assert not runs(parts, "test_x.py", "test_clock", {"slow"})
    assert not runs(parts, "test_y.py", "test_ten_kills", {"slow"})
    assert runs(parts, "test_y.py", "test_anything", set())


def test_every_ci_part_has_a_limit():
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    lines = re.findall(r"^part (?!tools)\w+ (.*)$", script, re.MULTILINE)
    minutes = [re.match(r"timeout --kill-after=\d+ (\d+)m ", line) for line in lines]
    assert all(minutes), "a part without a limit"
