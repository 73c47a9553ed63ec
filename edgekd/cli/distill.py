"""`edgekd distill`: a language model to a smaller one, a folder that `edgekd build` compresses for targets."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from edgekd.cli.printing import echo, print_json
from edgekd.core.errors import UsageError

if TYPE_CHECKING:
    from edgekd.store.store import Store
    from edgekd.training.language.distil import Request

_LOSSES = ("forward_kl=0.9", "hard_labels=0.1")


@click.command()
@click.option(
    "--teacher", help="A language model: a Hugging Face folder or hub id, or a .gguf file.  [default: the demo's]"
)
@click.option(
    "--data", help="A corpus: text files, a folder of them, or rows with a text column.  [default: the demo's]"
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The student's folder, new or empty.")
@click.option("--text-column", help="The column that holds the text.")
@click.option(
    "--layers", type=click.IntRange(1, 1000), help="Layers to keep.  [default: with them half of the parameters]"
)
@click.option(
    "--vocabulary", type=click.IntRange(256, 10**7), metavar="N", help="Keep about N tokens.  [default: all in use]"
)
@click.option(
    "--max-tokens", type=click.IntRange(16, 10**6), default=512, help="Tokens of a packed row.  [default: 512]"
)
@click.option("--train-tokens", type=click.IntRange(1000), metavar="N", help="Learn from N tokens.  [default: all]")
@click.option("--loss", "losses", multiple=True, metavar="NAME=WEIGHT", help="A loss and its weight; more than once.")
@click.option("--epochs", type=click.IntRange(1, 10_000), default=3, help="Most epochs.  [default: 3]")
@click.option(
    "--learning-rate", type=click.FloatRange(1e-8, 1), default=5e-4, help="Peak learning rate.  [default: 0.0005]"
)
@click.option("--evidence", is_flag=True, help="Train the same cut on labels alone, too, and compare.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, help="Seed of order and training.  [default: 0]")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads for training.  [default: all cores]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def distill(out: Path, as_json: bool, **values: Any) -> None:
    """Cut a language model to fewer layers and tokens, and let it learn what the whole one says of a corpus.

    The student is a Hugging Face folder: `edgekd build --student none` makes bundles of it.
    """
    from edgekd.cli.progress import shown_on_stderr
    from edgekd.core.files import user_path, writing
    from edgekd.store.store import open_store
    from edgekd.training.language.distil import distil

    out = user_path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out} is not a new or an empty folder", fix="give another --out, or remove this one")
    store = open_store(say=partial(echo, err=True))
    asked = _request(store, **values)
    with shown_on_stderr() as progress, writing(out) as fresh:
        told = distil(asked, fresh, store, progress)
    if as_json:
        print_json({"folder": str(out), **told})
        return
    echo(_summary(told))
    place = quote(str(out))
    echo(f"written to {place}; for a device: edgekd build --task text-generation --student none --teacher {place}")


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
    for term in terms:
        loss = plugin("losses", term.name)
        if loss.kind not in ("response", "labels") or set(loss.needs) - {"logits"}:
            raise UsageError(
                f"--loss {term.name} looks at more than the teacher's answers, which is not kept of a language model",
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
        row_tokens=values.pop("max_tokens"),
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
