"""`edgekd bench` and `edgekd compare`: what bundles do on a device."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekd.cli.printing import echo, print_json
from edgekd.cli.stopping import nothing_is_kept
from edgekd.core.errors import EdgeKDError, UsageError
from edgekd.onboard.bench import MOST_MINUTES

if TYPE_CHECKING:
    from edgekd.receipts.benchmark_on_device import Proof
    from edgekd.receipts.compare import Comparison
    from edgekd.receipts.shipped import DataFile

_COLUMNS = [
    click.option("--data", help="Rows to run instead of the golden inputs, as `build` reads them."),
    click.option("--text-column", help="The column that holds the text."),
    click.option("--text-pair-column", help="The column that holds the second text of a pair."),
    click.option("--image-column", help="The column that holds the image, or its path."),
    click.option("--label-column", help="The column that holds the label."),
]


def _data_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_COLUMNS):
        command = option(command)
    return command


def _data(source: str | None, columns: dict[str, str | None]) -> DataFile | None:
    from edgekd.receipts.shipped import DataFile

    given = {name: column for name, column in columns.items() if column is not None}
    if source is None and given:
        raise UsageError(f"--{next(iter(given)).replace('_', '-')} without --data", fix="give the rows: --data FILE")
    return None if source is None else DataFile(source, given)


def _minutes(_context: click.Context, _option: click.Parameter, given: float) -> float:
    if not 0 <= given <= MOST_MINUTES:  # nan, too
        raise click.BadParameter(f"{given:g} is not from 0 to {MOST_MINUTES:g}")
    return given


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--device", default="local", show_default=True,
              help="local, qemu[:CORE], guest[:CORE] or ssh://USER@HOST:PORT.")  # fmt: skip
@click.option("--full/--quick", default=False, help="Measure in 10 fresh processes instead of 4.")
@click.option("--minutes", type=float, callback=_minutes, default=0.0, metavar="N",
              help="After that a sustained run of N minutes: latency, temperature, throttling.")  # fmt: skip
@_data_options
@click.option("--install", is_flag=True, help="Allow onnxruntime to be installed on the board, for this user.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def bench(
    bundle: Path, device: str, full: bool, minutes: float, data: str | None, install: bool, as_json: bool,
    **columns: str | None,
) -> None:  # fmt: skip
    """Measure a bundle on a device; the receipt lies beside the bundle.

    Exit code 5: outputs outside the bundle's tolerance; 3 and 4: over the profile's memory or latency there.
    """
    from edgekd.cli.progress import shown_on_stderr
    from edgekd.receipts.benchmark_on_device import prove
    from edgekd.store.store import open_store

    with nothing_is_kept(), shown_on_stderr() as progress:
        proof = prove(bundle, progress, open_store(), device=device, full=full, minutes=minutes,
                      data=_data(data, columns), install=install)  # fmt: skip
    broken, report = proof.broken[0] if proof.broken else None, _report(bundle)
    if as_json:
        print_json(proof.as_dict() | {"report": report} | (broken.as_dict() if broken else {}))
        sys.exit(broken.exit_code if broken else 0)
    echo(_shown(proof, report, minutes))
    if broken:
        raise broken


def _report(bundle: Path) -> str:
    """The page with all receipts, written again; or why it was not."""
    from edgekd.report import page

    try:
        return str(page.write_page(bundle))
    except EdgeKDError as error:
        return f"not updated: {error.message}"


def _shown(proof: Proof, report: str, minutes: float) -> str:
    from edgekd.cli.show import table
    from edgekd.core.results import IMPORT_BASELINE_MIB

    told, of, golden = proof.receipt, proof.latency, proof.bundle.of.inputs
    rows = [
        ["outputs", "within tolerance" if proof.well else "OUTSIDE TOLERANCE", proof.golden_says],
        ["accuracy", f"{told.accuracy:.1%}", f"{told.accuracy_n} {told.accuracy_of}"
         + ("" if proof.flips is None else f"; {proof.flips} of {golden} golden classes flip against fp32")],
    ]  # fmt: skip
    if of is None:
        rows.append(["latency", "unknown", told.latency_note])
    else:
        low, high = of.interval
        unstable = "" if of.stable else "  unstable: read these latencies as rough"
        rows.append(["latency p50", f"{of.p50_ms:.3f} ms", f"95% {low:.3f} to {high:.3f}, {of.n} single runs"])
        for one in (of.p90, of.p99):
            value = "-" if one.value is None else f"{one.value:.3f} ms"
            rows.append([f"latency p{one.percent}", value, one.says])
        rows.append(["A/A", f"{of.aa:.3f}", f"the same model against itself, 1% allowed{unstable}"])
    if told.peak_rss_mib:
        how = f"highest of fresh processes, golden inputs, above the import baseline (about {IMPORT_BASELINE_MIB} MiB)"
        rows.append(["peak memory", f"{max(told.peak_rss_mib):.1f} MiB", how])
    if told.cold_start_ms:
        rows.append(["cold start", f"{sorted(told.cold_start_ms)[len(told.cold_start_ms) // 2]:.0f} ms", "median"])
    if told.sustained is not None:
        short = len(told.sustained.points) == 1
        what = "THROTTLED" if told.sustained.throttled else "too short to tell" if short else "steady"
        change = "one point" if short else f"end over start {told.sustained.slowdown:.2f}x"
        rows.append(["sustained", what, f"{told.sustained.minutes:g} minutes, {change}"])
    elif minutes:
        rows.append(["sustained", "nothing", "ended before its first point"])
    limits = [
        [one.name, "unknown" if one.value is None else f"{one.value:.2f}", f"of {one.limit:g} {one.unit}", one.says]
        for one in proof.budgets
    ]
    host = f"{told.cpu} ({told.arch}, {told.cores} cores), onnxruntime {told.ort_version}, {told.os}"
    return "\n".join([
        f"{proof.bundle.name} on {told.device}: {host}", "", table(["", "", ""], rows).split("\n", 1)[1], "",
        table([f"budgets of {proof.bundle.of.target['name']}", "", "", ""], limits), "",
        *([proof.calibrates] if proof.calibrates else []), f"receipt  {proof.path}", f"report   {report}",
    ])  # fmt: skip


@click.command()
@click.argument("bundles", nargs=-1, required=True, metavar="A B [C ...]", type=click.Path(path_type=Path))
@click.option("--device", default="local", show_default=True, help="local or ssh://USER@HOST:PORT.")
@click.option("--full/--quick", default=False, help="Measure in 10 fresh processes instead of 4.")
@_data_options
@click.option("--install", is_flag=True, help="Allow onnxruntime to be installed on the board, for this user.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def compare(
    bundles: tuple[Path, ...], device: str, full: bool, data: str | None, install: bool, as_json: bool,
    **columns: str | None,
) -> None:  # fmt: skip
    """Time bundles of one task against each other, interleaved in one run: is B faster than A?"""
    from edgekd.cli.progress import shown_on_stderr
    from edgekd.receipts.compare import compare as run

    with nothing_is_kept(), shown_on_stderr() as progress:
        found = run(bundles, progress, device=device, full=full, data=_data(data, columns), install=install)
    if as_json:
        print_json(found.as_dict())
    else:
        echo(_compared(found))


def _compared(found: Comparison) -> str:
    from edgekd.cli.show import table
    from edgekd.core.metrics import spell

    rows = [
        [one.label, one.name, one.recipe, spell(one.metric_value, one.metric_unit), f"{one.p50_ms:.3f}",
         f"{one.peak_rss_mib:.1f}", f"{one.artifact_mib:.2f}"]
        for one in found.sides
    ]  # fmt: skip
    header = ["", "bundle", "recipe", found.sides[0].metric, "p50 ms", "peak MiB", "file MiB"]
    unstable = "" if found.stable else "; unstable: read these as rough"
    remark = f"; {found.remark}" if found.remark else ""
    return "\n".join([
        *(verdict.says for verdict in found.verdicts), "", table(header, rows), "",
        f"{found.rows} {found.rows_of}, {found.runs} runs of each; A/A {found.aa:.3f}{unstable}",
        f"timed on {found.host}{remark}; {found.sides[0].metric} as each bundle's own report has it",
    ])  # fmt: skip
