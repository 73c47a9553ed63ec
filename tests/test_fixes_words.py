"""Each fix in the code names only what there is: commands, their options, make's targets."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import edgekd
from edgekd.cli import cli

PACKAGE = Path(edgekd.__file__).parent
OF_OTHERS = {
    "merge",
    "inputs-as-nchw",
    "no-install-recommends",
    "now",
    "version",
    "help",
}  # other tools'
RAISED_BY_DIAGNOSE = ("compression/examine.py", "compression/side_by_side.py", "data/columns.py", "tasks/_texts.py")


def commands(group: click.Group = cli, path: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, one in group.commands.items():
        yield f"{path}{name}", one
        if isinstance(one, click.Group):
            yield from commands(one, f"{path}{name} ")


def options(command: click.Command) -> set[str]:
    return {flag.removeprefix("--") for one in command.params for flag in (*one.opts, *one.secondary_opts)}


COMMANDS = dict(commands())
FLAGS = {flag for one in COMMANDS.values() for flag in options(one)}


def strings(node: ast.AST) -> str:
    """The literal text within an expression, a gap for whatever is filled in."""
    parts = []
    for one in ast.walk(node):
        if isinstance(one, ast.Constant) and isinstance(one.value, str):
            parts.append(one.value)
    return " ".join(parts)


def fixes() -> Iterator[tuple[str, int, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        constants = {
            target.id: strings(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            for keyword in node.keywords if isinstance(node, ast.Call) else ():
                if keyword.arg == "fix":
                    named = [constants.get(one.id, "") for one in ast.walk(keyword.value) if isinstance(one, ast.Name)]
                    yield path.relative_to(PACKAGE).as_posix(), node.lineno, " ".join((strings(keyword.value), *named))


FIXES = list(fixes())


def test_there_are_fixes_to_look_at():
    assert len(FIXES) > 350


def test_every_option_that_a_fix_names_exists():
    unknown = {
        (file, flag)
        for file, _, text in FIXES
        for flag in re.findall(r"(?<![\w-])--([a-z][a-z-]*[a-z])", text)
        if flag not in FLAGS | OF_OTHERS
    }
    assert not unknown


def test_every_command_that_a_fix_names_exists_and_has_the_options_beside_it():
    found = 0
    for file, line, text in FIXES:
        for words in re.findall(r"`edgekd ([a-z -]+)", text):
            parts = words.split()
            name = parts[0] if parts[0] not in ("targets", "store") else " ".join(parts[:2])
            assert name in COMMANDS, (file, line, words)
            flags = {part.removeprefix("--") for part in parts if part.startswith("--")}
            assert flags <= options(COMMANDS[name]), (file, line, words)
            found += 1
    assert found >= 5


def test_every_target_of_make_that_a_fix_or_a_demo_names_exists():
    targets = set(re.findall(r"^([a-z-]+):", (PACKAGE.parent / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = {word for _, _, text in FIXES for word in re.findall(r"`make ([a-z-]+)`", text)}
    from edgekd.data.demos import all_demos

    named |= {demo.command.removeprefix("make ") for demo in all_demos().values() if demo.command.startswith("make ")}
    assert named <= targets, named - targets


def test_every_loader_that_a_fix_names_exists():
    import onnx
    import torch
    import transformers

    homes = (transformers, transformers.PreTrainedModel, torch, torch.onnx, onnx)
    text = " ".join(text for _, _, text in FIXES)
    assert "AutoTokenizer" in text
    for name in set(re.findall(r"\b(Auto\w+)\b", text)):
        assert hasattr(transformers, name)
    for name in set(re.findall(r"(?<!\w)(?:torch\.onnx|onnx|model|tokenizer)\.(\w+)\(", text)) - {
        "eval",
        "merge_and_unload",
    }:  # torch.nn, peft
        assert any(hasattr(home, name) for home in homes) or hasattr(transformers.PreTrainedTokenizerBase, name), name


@pytest.mark.parametrize("file", RAISED_BY_DIAGNOSE)
def test_what_diagnose_refuses_is_mended_by_its_own_options(file: str):
    of_build = {"label-column"}  # it reads no labels
    for _, line, text in (one for one in FIXES if one[0] == file):
        named = set(re.findall(r"(?<![\w-])--([a-z][a-z-]*[a-z])", text)) - of_build
        if named - {"max-tokens"}:
            assert named <= options(COMMANDS["diagnose"]) | {"column"}, (file, line, text)
