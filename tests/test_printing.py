"""What leaves for the terminal: foreign text is shown, never obeyed; JSON stays JSON; a full disk is told."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from edgekd.cli import printing, progress, show
from edgekd.cli.printing import one_line, print_json, visible

# name, foreign text, as it is shown
FOREIGN: list[tuple[str, str, str]] = [
    ("a colour", "\x1b[31mred", "\\x1b[31mred"),
    ("the title", "\x1b]0;x\x07", "\\x1b]0;x\\x07"),
    ("a bell", "\a", "\\x07"),
    ("backspaces", "good\b\b\b\bbad", "good\\x08\\x08\\x08\\x08bad"),
    ("a return", "good\rbad", "good\\rbad"),
    ("delete", "\x7f", "\\x7f"),
    ("C1's introducer", "\x9b31m", "\\x9b31m"),
    ("C1's next line", "a\x85b", "a\\x85b"),
    ("turned round", "a\u202eb", "a\\u202eb"),
    ("isolated", "\u2066a\u2069", "\\u2066a\\u2069"),
    ("a mark", "a\u200fb", "a\\u200fb"),
    ("a space of no width", "a\u200bb", "a\\u200bb"),
    ("a hidden tag", "a\U000e0041", "a\\U000e0041"),
    ("a line separator", "a\u2028b", "a\\u2028b"),
    ("half a character", "a\udc80", "a\\udc80"),
    ("NUL", "\0", "\\x00"),
]
FP32 = ["café", "naïve [red] text", "日本語", "👩‍👧", "می‌خواهم", "a\tb", "क्षि", "a\\x1b", ""]


@pytest.mark.parametrize(("text", "shown"), [row[1:] for row in FOREIGN], ids=[row[0] for row in FOREIGN])
def test_foreign_text_is_shown_and_not_obeyed(text: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert visible(text) == one_line(text) == shown
    printing.echo(text)
    printing.echo(text, err=True)
    assert capsys.readouterr() == (f"{shown}\n", f"{shown}\n")
    print_json({text: [text]})
    out = capsys.readouterr().out
    assert json.loads(out) == {text: [text]}
    assert visible(out) == out
    assert show.table([text], [[text]]).split("\n") == [shown, shown]
    for shown_by in (progress._Lines(),):
        shown_by.stage(text)
        shown_by.say(text)
    assert visible(err := capsys.readouterr().err) == err
    assert err.count(shown) == 2


@pytest.mark.parametrize("text", FP32)
def test_plain_text_stays(text: str) -> None:
    assert visible(text) == text


def test_a_name_forges_no_line_of_a_table_or_an_error() -> None:
    assert show.table(["a"], [["x\nok      signed"]]).count("\n") == 1
    assert one_line("a\nb\tc") == "a\\nb\\tc"


def test_bars_take_no_markup_from_names(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    written = Terminal()
    monkeypatch.setattr(sys, "stderr", written)
    monkeypatch.setenv("TERM", "xterm")
    with progress.shown_on_stderr() as shown:
        shown.stage("[red]name[/red] :smile: \x1b[2J", 3)
        shown.step(1, "[link=http://x]note[/link]\x1b[2J")
        shown.say("[bold]said[/bold] :smile:\x1b[2J")
    text = written.getvalue()
    for words in ("[red]name[/red]", "[link=http://x]", "[bold]said[/bold]", ":smile:"):
        assert words in text.replace("\n", "")
    assert "\x1b[2J" not in text


def test_json_has_no_number_that_json_has_not(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": float("nan"), "b": [float("inf"), (-float("inf"), 1.5)]})
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {"a": None, "b": [None, [None, 1.5]]}


def test_what_a_stream_cannot_encode_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    printing.echo("日")
    assert raw.getvalue() == b"\\u65e5\n"


def test_only_one_module_prints() -> None:
    for path in Path(printing.__file__).parent.glob("*.py"):
        if path.name != "printing.py":
            text = path.read_text(encoding="utf-8")
            assert not [word for word in ("click.echo", "click.secho", "sys.stdout.write") if word in text], path
    assert click


COMMANDS = [["targets", "show", "rpi4", "--json"], ["targets", "show", "nothing", "--json"], ["--help"]]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_answer_that_nobody_reads_or_no_disk_takes(command: list[str]) -> None:
    def run(stdout: int) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "edgekd", *command],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stderr

    full = os.open("/dev/full", os.O_WRONLY)
    code, said = run(full)
    os.close(full)
    assert code in (1, 2)
    assert "No space left" in said or "no space left" in said
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    read, write = os.pipe()
    os.close(read)
    code, said = run(write)
    os.close(write)
    assert code in ((1,) if command == ["--help"] else (141,))  # click's own ends with 1
    assert said == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("kept", [True, False])
def test_a_signal_ends_the_command_as_ctrl_c_does(number: signal.Signals, kept: bool, tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    program = (
        "import contextlib, os, signal, sys, tempfile\n"
        "from edgekd import cli\n"
        "from edgekd.cli.stopping import nothing_is_kept\n"
        "@cli.cli.command()\n"
        "@cli.click.option('--json', is_flag=True)\n"
        "def wait(json):\n"
        f"    with tempfile.TemporaryDirectory(), {'contextlib.nullcontext' if kept else 'nothing_is_kept'}():\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "        signal.pause()\n"
        "sys.argv = ['edgekd', 'wait', *sys.argv[1:]]\n"
        "cli.main()\n"
    )
    for arguments in ((), ("--json",)):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=os.environ | {"TMPDIR": str(tmp_path / "temporary")},
        )
        assert done.returncode == 128 + number
        assert "Traceback" not in done.stderr
        if arguments:
            assert json.loads(done.stdout)["exit"] == 128 + number
        else:
            assert ("finished stages are kept" in done.stderr) == kept
            assert ("nothing was kept" in done.stderr) != kept
    assert list((tmp_path / "temporary").iterdir()) == []


def test_nohup_is_obeyed() -> None:
    program = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from edgekd import cli\n"
        "@cli.cli.command()\n"
        "def on():\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "    print('went on')\n"
        "sys.argv = ['edgekd', 'on']\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "went on\n")
