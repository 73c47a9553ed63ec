"""The command line: words in, one call, text out. The only package that prints."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import click

from edgekd._version import __version__
from edgekd.cli import stopping
from edgekd.cli.lazy import LazyGroup
from edgekd.cli.printing import OutputLostError, echo, one_line, print_json, written
from edgekd.cli.stopping import EndedError, signals_end_the_command
from edgekd.core.cpus import set_thread_defaults
from edgekd.core.errors import EdgeKDError, StoreError, UsageError

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
COMMANDS = {  # by name: where the command is, and its line in the help
    "build": ("edgekd.cli.build:build", "Make a bundle for the target: teacher in, proven artifact out."),
    "plan": ("edgekd.cli.build:plan", "Show what `build` would do and what fits; train nothing."),
    "distill": ("edgekd.cli.distill:distill", "Cut a language model or a Whisper; it learns from the whole one."),
    "label": ("edgekd.cli.label:label", "Label rows by a teacher behind an API: paid once, bounded."),
    "targets": ("edgekd.cli.targets:targets", "Profiles of the devices that edgekd knows."),
    "report": ("edgekd.cli.report:report", "Show a bundle's report, and the receipts beside it."),
    "verify": ("edgekd.cli.verify:verify", "Check a bundle: files, signature, version, target, answers."),
    "bench": ("edgekd.cli.bench:bench", "Measure a bundle on a device; the receipt lies beside the bundle."),
    "compare": ("edgekd.cli.bench:compare", "Time bundles against each other: is B faster than A?"),
    "diagnose": ("edgekd.cli.diagnose:diagnose", "Which layers a quantized model loses most in."),
    "import": ("edgekd.cli.importing:import_", "Write a model of another format as a Hugging Face folder."),
    "keygen": ("edgekd.cli.keygen:keygen", "Make a pair of keys: PATH signs bundles, PATH.pub is for devices."),
    "store": ("edgekd.cli.store:store", "The stages' results that builds share: list, verify, prune."),
    "doctor": ("edgekd.cli.doctor:doctor", "What works on this machine, and how to mend what does not."),
}


@click.group(cls=LazyGroup, lines=COMMANDS, context_settings=_CONTEXT)
@click.version_option(__version__, prog_name="edgekd")
def cli() -> None:
    """Distill, compress and prove a model that fits an edge device."""


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
