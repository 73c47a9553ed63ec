"""The command line: words in, one call, text out. The only package that prints."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekd import __version__
from edgekd.cli import stopping
from edgekd.cli.bench import bench, compare
from edgekd.cli.diagnose import diagnose
from edgekd.cli.keygen import ask_passphrase, keygen
from edgekd.cli.printing import OutputLostError, echo, one_line, print_json, written
from edgekd.cli.report import report
from edgekd.cli.stopping import EndedError, signals_end_the_command
from edgekd.cli.store import store as store_commands
from edgekd.cli.targets import targets
from edgekd.cli.verify import verify
from edgekd.core.cpus import set_thread_defaults
from edgekd.core.errors import EdgeKDError, StoreError, UsageError

if TYPE_CHECKING:
    from edgekd.planning import Options

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=_CONTEXT)
@click.version_option(__version__, prog_name="edgekd")
def cli() -> None:
    """Distill, compress and prove a model that fits an edge device."""


def plan_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that decide a plan: the same for `build` and `plan`."""
    for option in reversed(_PLAN_OPTIONS):
        command = option(command)
    return command


_PLAN_OPTIONS = [
    click.option("--target", required=True, help="A profile's name (edgekd targets list) or a YAML file."),
    click.option("--task", default="text-classification", show_default=True, help="Hugging Face's task name."),
    click.option("--teacher", help="A Hugging Face folder or hub id, fine-tuned or a base model; a .pth of "
                 "EfficientNet-Lite; an .onnx file (with --student none); or `labels`: trained from the labels."),
    click.option("--data", help="A file (CSV, TSV, JSONL, Parquet, NumPy), a folder by split or by class, or a "
                 "dataset's id."),
    click.option("--text-column", help="The column that holds the text."),
    click.option("--image-column", help="The column that holds the image, or its path."),
    click.option("--label-column", help="The column that holds the label."),
    click.option("--unlabelled", metavar="PATH", help="More inputs, without labels."),
    click.option("--calibration", metavar="PATH", help="Inputs to calibrate on.  [default: rows held back]"),
    click.option("--labels", type=int, metavar="N", help="Use N labels only; the other rows become unlabelled."),
    click.option("--student", metavar="FAMILY", help="The student's family; or none: the teacher itself is "
                 "compressed.  [default: the task's]"),
    click.option("--allow-loops", is_flag=True, help="Take an .onnx teacher with loops; what a run costs is then known "
                 "only by running it."),
    click.option("--name", help="The bundle's name.  [default: the data's]"),
    click.option("--bundle-version", "version", default="1.0.0", show_default=True, metavar="X.Y.Z",
                 help="Of the bundle; devices take only a greater one (verify --after)."),
    click.option("--loss", "losses", multiple=True, metavar="NAME=WEIGHT", help="With options NAME=WEIGHT,OPTION="
                 "VALUE; more than once.  [default: the task's]"),
    click.option("--temperature", type=float, help="Of all losses that have one.  [default: 2]"),
    click.option("--augment", "augmentations", multiple=True, metavar="NAME=COPIES", help="Changed copies of each "
                 "training input; more than once, or none.  [default: the task's]"),
    click.option("--cache-mib", type=float, default=2048.0, show_default=True,
                 help="Disk that what the teacher says may take."),
    click.option("--epochs", type=int, help="Of the student, at most.  [default: by the number of rows]"),
    click.option("--patience", type=int, metavar="EPOCHS", help="Stop after so many without a better one.  "
                 "[default: half of them]"),
    click.option("--learning-rate", type=float, help="Of the student.  [default: by the family]"),
    click.option("--max-tokens", type=int, help="Longest text, in tokens.  [default: by the data]"),
    click.option("--vocabulary", type=int, metavar="N", help="Keep about N tokens.  [default: all that the data use]"),
    click.option("--image-size", type=int, metavar="PIXELS", help="Of the student's side.  [default: by the data]"),
    click.option("--try", "tries", type=int, default=1, show_default=True, metavar="N",
                 help="Train the N most capable shapes that fit briefly; keep the best."),
    click.option("--exit", type=int, metavar="LAYER", help="Ship the early exit after this layer."),
    click.option("--evidence", type=int, default=0, metavar="SEEDS",
                 help="Train the student with and without its teacher, with so many seeds each."),
    click.option("--price-per-hour", type=float, default=0.05, show_default=True, metavar="USD",
                 help="Of the device, for the cost of a million queries."),
    click.option("--min-speedup", type=float, help="Of the student over its teacher.  [default: 5]"),
    click.option("--min-retained", type=float, default=0.9, show_default=True, help="Student's metric over teacher's."),
    click.option("--min-agreement", type=float, metavar="SHARE", help="With the teacher (of embeddings the cosine), "
                 "instead of the profile's."),
    click.option("--max-drop", type=float, metavar="POINTS", help="By quantization, instead of the profile's."),
    click.option("--force", metavar="RECIPE", help="Ship this recipe, whatever the floors say; the report shows it."),
    click.option("--memory-mib", type=float, help="Instead of the profile's."),
    click.option("--artifact-mib", type=float, help="Instead of the profile's."),
    click.option("--latency-ms", type=float, help="Instead of the profile's."),
    click.option("--time-limit", "time_limit_s", type=float, default=600.0, show_default=True,
                 help="Seconds for the search over recipes."),
    click.option("--emulate-minutes", type=float, default=0.5, show_default=True, metavar="MINUTES",
                 help="For asking the variants on an ARM target's own kernels (edgekd doctor: emulator)."),
    click.option("--golden", default="synthetic", show_default=True, help="synthetic, test or a data file."),
    click.option("--full/--quick", default=False, help="Measure in 10 fresh processes instead of 4."),
    click.option("--seed", type=int, default=0, show_default=True),
    click.option("--threads", type=int, help="For training.  [default: all cores]"),
]  # fmt: skip


def _options(values: dict[str, Any]) -> Options:
    from edgekd.planning import Options

    keys = ("memory_mib", "artifact_mib", "latency_ms")
    budgets = {key: value for key in keys if (value := values.pop(key)) is not None}
    return Options(**values, budgets=budgets)


@cli.command()
@plan_options
@click.option("--out", type=click.Path(path_type=Path), help="The bundle's own folder.  [default: build/NAME-TARGET]")
@click.option(
    "--sign",
    "keys",
    multiple=True,
    metavar="KEY",
    type=click.Path(path_type=Path),
    help="Sign the bundle with this private key (edgekd keygen); more than once.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def build(out: Path | None, keys: tuple[Path, ...], as_json: bool, **values: Any) -> None:
    """Make a bundle for the target: teacher in, proven artifact out."""
    from edgekd.cli.progress import shown_on_stderr
    from edgekd.core.keys import open_signers
    from edgekd.core.store import open_store
    from edgekd.planning import make_plan

    signers = open_signers(keys, ask_passphrase)  # first: nobody waits an hour for a key that does not open
    store = open_store(say=partial(echo, err=True))
    made, splits = make_plan(_options(values), store)
    from edgekd.pipeline import build as run  # after the plan: what is refused is refused quickly

    with shown_on_stderr() as progress:
        built = run(made, splits, store, out or Path("build") / f"{made.name}-{made.target.name}", progress, signers)
    signed = [signer.key_id for signer in signers]
    if as_json:
        print_json({"bundle": str(built.folder), "signed_by": signed, "summary": built.summary})
        return
    from edgekd.cli import show

    echo(show.summary(built.summary, built.folder, fresh=built.fresh, on_target=built.on_target_says))
    if signed:
        echo(f"signed  {built.folder}.sig, by {', '.join(one[:16] for one in signed)}")


@cli.command()
@plan_options
@click.option("--measure", is_flag=True, help="Measure the finalists, as build does, rather than predict.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def plan(measure: bool, as_json: bool, **values: Any) -> None:
    """Show what `build` would do and what fits; train nothing."""
    from edgekd.cli import show
    from edgekd.cli.progress import shown_on_stderr
    from edgekd.core.store import open_store
    from edgekd.planning import make_plan
    from edgekd.sizing.fitting import fit

    store = open_store(say=partial(echo, err=True))
    made, _ = make_plan(_options(values), store)
    if not as_json:
        echo(show.plan(made))
    shape = None
    if not made.compresses_only:  # the teacher has the size that it has
        with shown_on_stderr() as progress:
            shape = fit(made, store, progress, measured=measure)
        made.check_exits(shape.chosen.shape)
    if as_json:
        print_json({"plan": made.as_dict(), "plan_sha256": made.digest, "fit": asdict(shape) if shape else None})
    elif shape is not None:
        echo(show.fit_table(shape, made))


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
