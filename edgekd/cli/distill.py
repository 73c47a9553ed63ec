"""`edgekd distill`: a model that writes to a smaller one, a folder that `edgekd build` compresses for targets."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from edgekd.cli.printing import echo, print_json
from edgekd.core.errors import UsageError

if TYPE_CHECKING:
    from edgekd.core.protocols import Progress
    from edgekd.store.store import Store
    from edgekd.training.language.distil import Request

_LOSSES = ("forward_kl=0.9", "hard_labels=0.1")


# options that one program's models alone have
_OF = {
    "causal": ("text_column", "vocabulary", "max_tokens", "train_tokens", "evidence"),
    "seq2seq": ("encoder_layers", "window", "language", "label_column", "unlabelled", "cache_mib"),
}


@click.command()
@click.option("--task", help="A task whose models write texts.  [default: that of language models]")
@click.option(
    "--teacher", help="A Hugging Face folder or hub id; of a language model also a .gguf file.  [default: the demo's]"
)
@click.option(
    "--data", help="A corpus (text files, a folder, rows with a text column), or recordings.  [default: the demo's]"
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The student's folder, new or empty.")
@click.option("--text-column", help="The column that holds the text.")
@click.option("--label-column", help="The column of the transcripts.")
@click.option("--unlabelled", help="More recordings to learn from; they need no transcripts.")
@click.option(
    "--layers",
    type=click.IntRange(1, 1000),
    help="Layers to keep; of speech the decoder's.  [default: with them half of the parameters; of speech 2]",
)
@click.option("--encoder-layers", type=click.IntRange(1, 1000), help="Layers of a speech encoder.  [default: all]")
@click.option("--window", type=click.IntRange(1, 30), metavar="S", help="Seconds heard at once.  [default: 10]")
@click.option(
    "--language", metavar="CODE", help="Language that is spoken, as `en`.  [default: as the teacher hears it]"
)
@click.option(
    "--vocabulary", type=click.IntRange(256, 10**7), metavar="N", help="Keep about N tokens.  [default: all in use]"
)
@click.option("--max-tokens", type=click.IntRange(16, 10**6), help="Tokens of a packed row.  [default: 512]")
@click.option("--train-tokens", type=click.IntRange(1000), metavar="N", help="Learn from N tokens.  [default: all]")
@click.option("--loss", "losses", multiple=True, metavar="NAME=WEIGHT", help="A loss and its weight; more than once.")
@click.option(
    "--epochs", type=click.IntRange(1, 10_000), help="Most epochs.  [default: 3; of speech by the recordings]"
)
@click.option(
    "--learning-rate", type=click.FloatRange(1e-8, 1), help="Peak learning rate.  [default: 0.0005; of speech 0.0003]"
)
@click.option("--cache-mib", type=click.IntRange(1), help="MiB on disk for what the teacher hears.  [default: 8192]")
@click.option("--evidence", is_flag=True, help="Train the same cut on labels alone, too, and compare.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, help="Seed of order and training.  [default: 0]")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads for training.  [default: all cores]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def distill(task: str | None, out: Path, as_json: bool, **values: Any) -> None:
    """Cut a language model or a Whisper to fewer layers; the student learns to say what the whole model says.

    It learns from a corpus, or from recordings, which need no transcripts. The student is a Hugging Face folder:
    `edgekd build --student none` makes bundles of it.
    """
    from edgekd.cli.progress import shown_on_stderr
    from edgekd.core.files import user_path, writing
    from edgekd.store.store import open_store

    task, program = _task(task, values)
    out = user_path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out} is not a new or an empty folder", fix="give another --out, or remove this one")
    store = open_store(say=partial(echo, err=True))
    with shown_on_stderr() as progress, writing(out) as fresh:
        told, summary = _distilled(program, task, values, fresh, store, progress)
    if as_json:
        print_json({"folder": str(out), **told})
        return
    echo(summary)
    place = quote(str(out))
    echo(f"written to {place}; for a device: edgekd build --task {task} --student none --teacher {place}")


def _task(asked: str | None, values: Mapping[str, Any]) -> tuple[str, str]:
    """Return the task and its program. Raises UsageError for one that has none such, and for another's options."""
    from edgekd.core.registry import names, plugin

    programs = {name.replace("_", "-"): plugin("tasks", name).program for name in names("tasks")}
    able = {name: program for name, program in programs.items() if program in _OF}
    task = asked or next(name for name, program in able.items() if program == "causal")
    if task.replace("_", "-") not in able:
        raise UsageError(
            f"edgekd distill makes no student for the task {task!r:.60}",
            fix=f"give one of: {', '.join(able)}; students of other tasks are made by edgekd build",
        )
    task = task.replace("_", "-")
    for program, own in _OF.items():
        for name in own:
            if program != able[task] and values[name]:
                raise UsageError(f"--{name.replace('_', '-')} means nothing to {task}", fix="leave it out")
    return task, able[task]


def _distilled(
    program: str, task: str, values: dict[str, Any], out: Path, store: Store, progress: Progress
) -> tuple[dict[str, Any], str]:
    """Write the student; return what is told of it, and the same in lines."""
    known = {name: value for name, value in values.items() if not any(name in own for own in _OF.values())}
    known |= {name: values[name] for name in _OF[program]}
    if program == "causal":
        from edgekd.training.language.distil import distil

        told = distil(_request(store, **known), out, store, progress)
        return told, _summary(told)
    from edgekd.cli import distill_speech

    told = distill_speech.distilled(task, known, out, store, progress)
    return told, distill_speech.summary(told)


def _request(
    store: Store, teacher: str | None, data: str | None, losses: tuple[str, ...], threads: int | None, **values: Any
) -> Request:
    """Return what is asked for, the teacher read as files. Raises EdgeKDError."""
    from edgekd.core.cpus import usable_cpus
    from edgekd.core.registry import names, plugin
    from edgekd.data import demos
    from edgekd.plan.inputs import read_teacher, settle
    from edgekd.training import objective
    from edgekd.training.language.distil import Request

    task = next(name.replace("_", "-") for name in names("tasks") if plugin("tasks", name).program == "causal")
    terms = objective.losses(losses or _LOSSES, None)
    if more := objective.beyond_writing(terms):
        raise UsageError(
            f"--loss {more} looks at more than the teacher's answers, which is not kept of a language model",
            fix="use: --loss forward_kl=0.9 --loss hard_labels=0.1",
        )
    kind, info = read_teacher(teacher or demos.demo_teacher(task), task, compressed=True)
    info = settle(kind, info, task, compressed=True)
    return Request(
        teacher=Path(info["folder"]),
        teacher_sha256=info["sha256"],
        data=data or demos.demo_data(task, store),
        losses=terms,
        threads=threads or usable_cpus(),
        row_tokens=values.pop("max_tokens") or 512,
        epochs=values.pop("epochs") or 3,
        learning_rate=values.pop("learning_rate") or 5e-4,
        **values,
    )


def _summary(told: dict[str, Any]) -> str:
    """Return the figures in lines."""
    sizes, layers, tokens = told["parameters"], told["layers"], told["vocabulary"]
    same = "the same tokens on the corpus" if tokens["same_tokens_in_training"] else "other tokens"
    lines = [
        *told["notes"],
        f"{sizes['student']:,} of {sizes['teacher']:,} parameters ({sizes['share']:.0%}): {len(layers['kept'])} of "
        f"{layers['of']} layers ({', '.join(map(str, layers['kept']))}), {tokens['kept']:,} of {tokens['of']:,} tokens "
        f"({same}, {tokens['more_tokens_held_out']:+.1%} tokens held out)",
        f"teacher        {_figure(told['teacher']['bits_per_byte'])} bits per byte",
    ]
    for name, arm in told["arms"].items():
        lines.append(
            f"{name:<14} {_figure(arm['bits_per_byte'])} bits per byte, next-token agreement "
            f"{_figure(arm['next_token_agreement'], 100)}%, KL to the teacher {_figure(arm['kl_to_teacher'])} nats"
        )
    for name, gain in told.get("gained_over_labels_alone", {}).items():
        low, high = gain["interval"]
        words = "better" if low > 0 else "worse" if high < 0 else "no difference shown"
        lines.append(
            f"  {name} against labels alone: {gain['value']:+.3g} [{low:.3g}, {high:.3g}] {gain['unit']}, {words}"
        )
    lines.append(
        f"of {told['passages']} passages of {told['documents']} documents that neither model learned from here"
    )
    return "\n".join(lines)


def _figure(told: dict[str, Any], factor: float = 1) -> str:
    low, high = told["interval"]
    return f"{factor * told['value']:.3g} [{factor * low:.3g}, {factor * high:.3g}]"
