"""The command line: what scripts rely on, and how little it costs to start."""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import invoke, run

from edgekd.cli import COMMANDS, cli

GOLDEN = Path(__file__).parent / "golden"
HELP = {
    "help": ("--help",),
    "help-build": ("build", "--help"),
    "help-plan": ("plan", "--help"),
    "help-targets": ("targets", "--help"),
    "help-verify": ("verify", "--help"),
    "help-report": ("report", "--help"),
    "help-keygen": ("keygen", "--help"),
    "help-label": ("label", "--help"),
    "help-distill": ("distill", "--help"),
    "targets-show-rpi4": ("targets", "show", "rpi4"),
}


@pytest.mark.parametrize("name", HELP)
def test_what_it_prints_is_what_it_printed(name: str) -> None:
    """`make golden` writes these files again."""
    done = invoke(*HELP[name], env={"COLUMNS": "100"})
    assert done.returncode == 0
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("EDGEKD_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(done.stdout, encoding="utf-8")
    assert done.stdout == path.read_text(encoding="utf-8")


def _cpu_seconds(*command: str, limit: float) -> float:
    """The least of some runs: user and system time of the child. Beside busy neighbours a core does less in a second,
    so there are more runs until one is within the limit."""
    seconds = [math.inf]
    while min(seconds) >= limit and len(seconds) <= 20:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *command], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(seconds)


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    assert _cpu_seconds("-m", "edgekd", "--help", limit=0.15) < 0.15
    _loads_none_of(("torch", "onnxruntime", "numpy", "transformers", "pydantic"), ["--help"])


def test_each_command_is_where_the_help_says_and_begins_with_its_line() -> None:
    for name, (place, line) in COMMANDS.items():
        command = cli.commands[name]
        assert command.name == name, place
        assert len(line) <= 72, "no line of the help is wrapped or cut"
        words = (command.help or "").split("\n\n")[0].replace("\n", " ")
        assert line.rstrip(".?")[:30].partition(":")[0].split()[:2] == words.split()[:2]


def test_help_loads_no_command() -> None:
    _loads_none_of([place.partition(":")[0] for place, _ in COMMANDS.values()], ["--help"])


def test_plan_never_imports_torch(tiny_teacher: Path, tiny_data: Path, store: Path) -> None:
    # with a wish that can be met: where nothing is predicted to do, a child measures
    arguments = [
        "plan",
        "--target",
        "rpi4",
        "--teacher",
        str(tiny_teacher),
        "--data",
        str(tiny_data),
        "--min-speedup",
        "1.1",
    ]
    _loads_none_of(("torch", "transformers", "onnxruntime"), arguments)
    _loads_none_of(("torch", "numpy", "onnxruntime"), ["targets", "list"])


def _loads_none_of(modules: Sequence[str], arguments: list[str]) -> None:
    code = (
        "import sys; from edgekd.cli import main\n"
        f"sys.argv = ['edgekd', *{arguments!r}]\n"
        "try: main()\nexcept SystemExit as end: assert not end.code, end.code\n"
        f"loaded = [name for name in {modules!r} if name in sys.modules]\n"
        "assert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_targets(tmp_path: Path) -> None:
    listed = json.loads(invoke("targets", "list", "--json").stdout)["targets"]
    assert {"cpu-avx2", "cpu-vnni", "rpi4", "rpi5", "rpi-zero2w", "jetson-orin-nano", "gpu-t4", "local"} == {
        target["name"] for target in listed
    }
    copied = tmp_path / "mine.yaml"
    copied.write_text(invoke("targets", "show", "rpi4", "--yaml").stdout, encoding="utf-8")
    done = run("targets", "check", copied)
    assert done.returncode == 0
    assert done.stdout == f"{copied}: a valid profile for Raspberry Pi 4 Model B (rpi4)\n"
    probed = tmp_path / "local.yaml"
    probed.write_text(invoke("targets", "show", "local", "--yaml").stdout, encoding="utf-8")
    assert invoke("targets", "check", probed).returncode == 0


def test_plan_as_json_holds_every_choice(tiny_teacher: Path, tiny_data: Path, store: Path) -> None:
    done = invoke(
        "plan", "--target", "rpi4", "--teacher", tiny_teacher, "--data", tiny_data, "--min-speedup", "1.1", "--json"
    )
    said = json.loads(done.stdout)
    assert said["plan"]["target"]["name"] == "rpi4"
    assert said["plan"]["data"]["classes"] == ["animal", "colour", "food"]
    assert said["fit"]["chosen"] in said["fit"]["finalists"]
    assert len(said["fit"]["finalists"]) <= 4
    assert {cost["target_latency_kind"] for cost in said["fit"]["finalists"]} == {"predicted"}


def test_no_command_shows_help() -> None:
    done = run()
    assert done.returncode == 2
    assert "Usage: edgekd" in done.stdout + done.stderr


def test_sigterm_ends_as_ctrl_c_does_and_leaves_no_temporary_folder(tmp_path):
    (tmp_path / "temporary").mkdir()
    program = (
        "import os, signal, sys, tempfile\n"
        "from edgekd import cli\n"
        "@cli.cli.command()\n"
        "@cli.click.option('--json', is_flag=True)\n"
        "def wait(json):\n"
        "    with tempfile.TemporaryDirectory():\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        signal.pause()\n"
        "sys.argv = ['edgekd', 'wait', *sys.argv[1:]]\n"
        "cli.main()\n"
    )
    for arguments, words in (((), ""), (("--json",), '"exit": 143')):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=os.environ | {"TMPDIR": str(tmp_path / "temporary")},
        )
        assert done.returncode == 143
        assert words in done.stdout
        assert "Traceback" not in done.stderr
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize("command", ["report", "verify", "bench", "compare"])
def test_what_is_no_bundle_is_told_in_two_lines(tmp_path: Path, command: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for name, why in (("file", "it is a file, not a folder"), ("empty", "it has no "), ("none", "it has no ")):
        place = str(tmp_path / name)
        done = invoke(command, *[place] * (2 if command == "compare" else 1))
        assert done.returncode == 2
        first, second = done.stderr.splitlines()
        assert first.startswith(f"error: {place} is no bundle: {why}")
        assert second == "  fix: give the folder that build wrote"
