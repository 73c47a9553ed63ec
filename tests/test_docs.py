"""The documents keep to what the code does: flags, links, tables of keys and codes, and the worked example."""

import importlib.util
import re
import sys
import tomllib
from pathlib import Path

import click
import pytest

from edgekd.cli import cli
from edgekd.core import errors
from edgekd.hardware.profile import Profile

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
FENCED = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")

per_page = pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])


def commands_in(page: str) -> list[str]:
    """Each `edgekd ...` that a page shows: a line of a shell block, or inline code; comments cut off."""
    blocks = [code for language, code in FENCED.findall(page) if language in ("", "sh", "bash", "console", "shell")]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    code = [re.sub(r"(^|\s)#.*", "", line) for line in lines] + re.findall(r"`([^`]+)`", FENCED.sub("", page))
    return [found for text in code for found in re.findall(r"(?<![\w./-])edgekd( +(?:-|[a-z])[^|;&>)]*)", text)]


def problems(words: list[str]) -> list[str]:
    """What of a command's words the command line does not know."""
    command: click.Command = cli
    while isinstance(command, click.Group) and words and re.fullmatch(r"[a-z]+", words[0]):
        if words[0] not in command.commands:
            return [f"no command {words[0]!r}"]
        command, words = command.commands[words[0]], words[1:]
    known = flags_of(command)
    named = [word.partition("=")[0] for word in words if word.startswith("-") and len(word) > 1]
    return [f"{command.name} has no {flag}" for flag in named if flag not in known]


def flags_of(command: click.Command) -> set[str]:
    flags = {"-h", "--help"}
    for option in command.params:
        flags |= {*option.opts, *option.secondary_opts}
    return flags


def every_flag(command: click.Command = cli) -> set[str]:
    below = command.commands.values() if isinstance(command, click.Group) else ()
    return flags_of(command).union(*(every_flag(each) for each in below))


def test_the_search_finds_what_is_wrong():
    page = "Run `edgekd paln --x`, not `myedgekd x`.\n```sh\nA=b edgekd build --target rpi4 \\\n  --fast=1 # --c\n```\n"
    found = [problem for command in commands_in(page) for problem in problems(command.split())]
    assert found == ["build has no --fast", "no command 'paln'"]
    assert problems(["targets", "show", "rpi4", "--yaml"]) == []


@per_page
def test_commands_and_flags_exist(page):
    text = page.read_text("utf-8")
    found = [problem for command in commands_in(text) for problem in problems(command.split())]
    alone = set(re.findall(r"`(--[a-z][a-z-]*)", FENCED.sub("", text)))
    assert found + sorted(alone - every_flag()) == []


@per_page
def test_relative_links_lead_somewhere(page):
    for link in LINK.findall(FENCED.sub("", page.read_text("utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", FENCED.sub("", target.read_text("utf-8")), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings}, link


def test_every_page_is_in_the_index():
    linked = set(LINK.findall((ROOT / "docs" / "index.md").read_text("utf-8")))
    assert {page.name for page in ROOT.glob("docs/*.md")} - {"index.md"} <= linked


def test_every_profile_key_is_explained():
    table = (ROOT / "docs" / "targets.md").read_text("utf-8")
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    explained = {key for cell in cells for key in re.findall(r"`(\w+)`", cell)}
    assert {field.alias or name for name, field in Profile.model_fields.items()} <= explained


def test_every_exit_code_is_explained():
    page = (ROOT / "docs" / "exit-codes.md").read_text("utf-8")
    listed = set(re.findall(r"^\| (\d+) \| `(\w+)`", page, re.MULTILINE))
    kinds = [errors.EdgeKDError, *errors.EdgeKDError.__subclasses__()]
    assert listed == {(str(kind.exit_code), kind.__name__) for kind in kinds if kind.__module__ == errors.__name__}


def test_the_drawing_of_the_house_is_the_import_contract():
    drawing = FENCED.findall((ROOT / "CONTRIBUTING.md").read_text("utf-8"))[0][1]
    drawn = [re.split(r" {2,}", line)[0] for line in drawing.splitlines()]
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    assert drawn == [layer.replace("edgekd.", "") for layer in layers]


def test_the_worked_example_runs(tmp_path, monkeypatch):
    import torch

    from edgekd.core.tensors import NO_LABEL, Outputs, Targets

    page = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    (code,) = [code for language, code in FENCED.findall(page) if language == "python"]
    name = re.search(r"`edgekd/losses/(\w+)\.py`", page)[1]
    (tmp_path / f"{name}.py").write_text(code, "utf-8")
    spec = importlib.util.spec_from_file_location(name, tmp_path / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # where dataclasses look for the class's module
    spec.loader.exec_module(module)
    loss = getattr(module, "".join(part.capitalize() for part in name.split("_")))()
    draw = torch.Generator().manual_seed(0)
    student = torch.randn(8, 5, generator=draw, requires_grad=True)
    teacher = torch.randn(8, 5, generator=draw)
    labels = torch.full((8,), NO_LABEL)
    value = loss(Outputs(student), Targets(Outputs(teacher), labels))
    value.backward()
    assert value.shape == ()
    assert torch.isfinite(value)
    assert 0 < value < 2
    assert student.grad.abs().sum() > 0
    assert loss(Outputs(teacher), Targets(Outputs(teacher), labels)).item() == pytest.approx(0, abs=1e-6)


def test_every_threat_has_its_control_and_a_test_that_exists():
    page = (ROOT / "docs" / "threats.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| threat ")]
    assert len(rows) > 30
    for row in rows:
        threat, control, tests = row.strip("| ").split(" | ")
        assert threat, row
        assert control, row
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", tests)
        assert named, f"{threat}: no test"
        for file, test in named:
            source = (ROOT / "tests" / file).read_text("utf-8")
            assert re.search(rf"^def {test}\(", source, re.MULTILINE), f"{file} has no {test}"
