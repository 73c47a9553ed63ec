"""`edgekd diagnose`: the layers that a quantized model loses most in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgekd.cli.printing import echo, print_json
from edgekd.core.errors import UsageError, counted
from edgekd.core.registry import default

_WORST = 5
# of a what-if's figures: title, factor, format
_CHANGES = {
    "agreement": ("agreement, points", 100.0, "+.1f"),
    "decision_f1": ("F1 of decisions, points", 100.0, "+.1f"),
    "fidelity": ("fidelity of the worst output", 1.0, "+.4f"),
    "cosine": ("cosine", 1.0, "+.4f"),
    "output_sqnr_db": ("output SQNR, dB", 1.0, "+.1f"),
    "artifact_mib": ("file, MiB", 1.0, "+.1f"),
    "speed": ("speed over fp32", 1.0, "+.2f"),
}


@click.command()
@click.argument("source", metavar="BUNDLE|MODEL", type=click.Path(path_type=Path))
@click.option(
    "--recipe", metavar="NAME", help="How to quantize MODEL, with options NAME,OPTION=VALUE.  [default: static_int8]"
)
@click.option("--quantized", metavar="FILE", type=click.Path(path_type=Path), help="The quantized form of MODEL.")
@click.option("--data", help="The inputs: rows as --task reads them, or an .npz of packed samples.")
@click.option("--task", default=default("tasks"), show_default=True, help="Hugging Face's task name.")
@click.option("--text-column", help="The column that holds the text.")
@click.option("--text-pair-column", help="The column that holds the second text of a pair.")
@click.option("--image-column", help="The column that holds the image, or its path.")
@click.option("--state", multiple=True, metavar="OUTPUT=INPUT", help="Of any graph: what feeds back; or none.")
@click.option("--samples", type=click.IntRange(1, 100_000), default=16, show_default=True, help="Rows to look at.")
@click.option("--max-tokens", type=click.IntRange(2, 1_000_000), default=128, show_default=True, help="Longest text.")
@click.option("--threads", type=click.IntRange(1, 1024), default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def diagnose(
    source: Path,
    recipe: str | None,
    quantized: Path | None,
    data: str | None,
    task: str,
    samples: int,
    max_tokens: int,
    threads: int,
    as_json: bool,
    **columns: str | tuple[str, ...] | None,
) -> None:
    """Which layers a quantized model loses most in, and what each in float would buy and cost.

    A bundle's diagnosis was made when it was built; a float32 .onnx MODEL is quantized and run on --data.
    """
    from edgekd.cli.progress import shown_on_stderr
    from edgekd.compression import examine

    if source.is_dir():
        if recipe or quantized or data:
            raise UsageError(
                f"{source} is a folder, whose diagnosis stands in its report",
                fix="leave out --recipe, --quantized and --data, or give a float32 .onnx file",
            )
        found = examine.stored(source)
    else:
        if data is None:
            raise UsageError("the diagnosis of a model needs real inputs", fix="give them: --data FILE")
        given = examine.Given(
            source,
            data,
            task,
            recipe,
            quantized,
            samples,
            max_tokens,
            threads,
            {name: one for name, one in columns.items() if one not in (None, ())},
        )
        with shown_on_stderr() as progress:
            found = examine.examine(given, progress)
    if as_json:
        print_json({"diagnosis": found})
    else:
        echo(
            _told(found, source)
            if found is not None
            else f"{source} ships float32, and no quantized variant was made: nothing is lost"
        )


def _told(found: dict[str, Any], source: Path) -> str:
    """The text of a diagnosis. Raises UsageError for one that edgekd did not write, as a stranger's report may hold."""
    try:
        return _text(found)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"the diagnosis of {source} is not as edgekd writes it ({type(error).__name__}: {error})",
            fix="give the folder that build wrote, or a float32 .onnx file",
        ) from error


def _text(found: dict[str, Any]) -> str:
    """The worst layers, and what was tried."""
    from edgekd.cli.show import table

    total = found["total_weight_mib"] or 1.0
    worst = sorted(found["layers"], key=lambda layer: layer["sqnr_db"])[:_WORST]
    rows = [
        [
            layer["name"],
            f"{layer['sqnr_db']:.1f}",
            f"{layer['accumulated_sqnr_db']:.1f}",
            f"{layer['weight_mib'] / total:.1%}",
        ]
        for layer in worst
    ]
    lines = [
        f"{found.get('of', 'the model')}: {counted(len(found['layers']), 'quantized layer')}, "
        f"{counted(found['samples'], 'sample')}; "
        f"SQNR of the output {found['output_sqnr_db']:.1f} dB",
        "",
        table(["the worst layers", "own SQNR, dB", "accumulated", "share of weights"], rows),
    ]
    if tried := found["what_if"]:
        known = [name for name in _CHANGES if name in tried[0]["change"]]
        shown = [*(name for name in tried[0]["change"] if name not in _CHANGES), *known]
        titles = [_column(name)[0] for name in shown]
        rows = [
            [one["label"], str(len(one["nodes"])), *(_change(name, one["change"][name]) for name in shown)]
            for one in tried
        ]
        if candidate := found.get("candidate"):
            rows.insert(0, ["(as it is)", "0", *(_change(name, candidate[name]).lstrip("+") for name in shown)])
        lines += ["", table(["left in float", "nodes", *titles], rows)]
    return "\n".join(lines)


def _column(name: str) -> tuple[str, float, str]:
    """Return a figure's title, factor and format; one that is not known is a task's own fidelity, a share."""
    return _CHANGES.get(name, (f"{name.replace('_', ' ')}, points", 100.0, "+.1f"))


def _change(name: str, value: float) -> str:
    _, factor, spec = _column(name)
    return format(factor * value, spec)
