"""The command line: words in, one call, text out. The only package that prints."""

from __future__ import annotations

import signal
import sys
from dataclasses import asdict
from pathlib import Path

import click

from edgekd import __version__
from edgekd.cli import stopping
from edgekd.cli.bench import bench, compare
from edgekd.cli.build import build, plan
from edgekd.cli.diagnose import diagnose
from edgekd.cli.keygen import keygen
from edgekd.cli.printing import OutputLostError, echo, one_line, print_json, written
from edgekd.cli.report import report
from edgekd.cli.stopping import EndedError, signals_end_the_command
from edgekd.cli.store import store as store_commands
from edgekd.cli.targets import targets
from edgekd.cli.verify import verify
from edgekd.core.cpus import set_thread_defaults
from edgekd.core.errors import EdgeKDError, StoreError, UsageError

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=_CONTEXT)
@click.version_option(__version__, prog_name="edgekd")
def cli() -> None:
    """Distill, compress and prove a model that fits an edge device."""


cli.add_command(build)
cli.add_command(plan)
cli.add_command(diagnose)
cli.add_command(bench)
cli.add_command(compare)
cli.add_command(targets)


@cli.command()
@click.option("--fix", metavar="NAME", help="Mend one check: guest, emulator or predictor.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def doctor(fix: str | None, as_json: bool) -> None:
    """What works on this machine, what is missing, the command that mends it."""
    from edgekd import doctor as checks
    from edgekd.cli import show
    from edgekd.cli.progress import shown_on_stderr

    if fix is not None:
        with shown_on_stderr() as progress:
            checks.fix(fix, progress)
    found = checks.checks()
    if as_json:
        print_json({"checks": [asdict(check) for check in found]})
    else:
        echo(show.doctor(found))


cli.add_command(verify)
cli.add_command(keygen)
cli.add_command(report)
cli.add_command(store_commands)


def main() -> None:
    """Run the command; every mistake of the user's ends as two lines and an exit code."""
    set_thread_defaults()  # before anything loads torch, NumPy or tokenizers
    as_json = "--json" in sys.argv[1:]
    try:
        with signals_end_the_command():
            code = _run(as_json)
    except EndedError as error:  # between two commands' lines
        code = error.exit_code
    except OutputLostError as error:
        code = _lost(error)
    sys.exit(code if written() else code or 1)


def _run(as_json: bool) -> int:
    try:
        return cli.main(prog_name="edgekd", standalone_mode=False) or 0
    except EdgeKDError as error:
        return _refuse(error, as_json)
    except click.exceptions.NoArgsIsHelpError as error:
        echo(error.ctx.get_help() if error.ctx else "")
        return 2
    except click.ClickException as error:
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "edgekd"
        return _refuse(UsageError(error.format_message(), fix=f"see `{where} --help`"), as_json)
    except (KeyboardInterrupt, click.Abort, EndedError) as error:
        return _stopped(error, as_json)
    except OSError as error:
        from edgekd.core.files import storage_error

        return _refuse(storage_error(error, Path(error.filename or ".")), as_json)
    except MemoryError:
        return _refuse(StoreError("out of memory", fix="close other programs, or give shorter texts"), as_json)


def _stopped(error: BaseException, as_json: bool) -> int:
    code, words, fix = stopping.told(error)
    if as_json:
        print_json({"error": words.partition(";")[0], "fix": fix, "exit": code})
    else:
        echo(words, err=True)
    return code


def _lost(error: OutputLostError) -> int:
    """141, as of a command that SIGPIPE ends, where nobody reads any more; 1 where the answer cannot be written."""
    if error.closed:
        return 128 + signal.SIGPIPE
    echo(f"error: cannot write the answer to stdout: {error}", err=True)
    echo("  fix: free some space where it is written to, then run the same command again", err=True)
    return 1


def _refuse(error: EdgeKDError, as_json: bool) -> int:
    if as_json:
        print_json(error.as_dict())
    else:
        echo(f"error: {one_line(error.message)}", err=True)
        echo(f"  fix: {one_line(error.fix)}", err=True)
    return error.exit_code
