"""The page: a report's values as report.html, report.md and the model card, and a bundle's report with its receipts.

The page is one file without scripts, fonts or pictures from elsewhere; its templates lie in `templates/`.
"""

from __future__ import annotations

import json
import shlex
from math import floor, log10
from pathlib import Path
from statistics import median
from typing import Any

from edgekd.core import licences
from edgekd.core.errors import EdgeKDError, UsageError, no_bundle
from edgekd.core.files import write_file
from edgekd.core.metrics import of_report, spell
from edgekd.core.pointers import check_none_within
from edgekd.core.registry import plugin
from edgekd.core.results import IMPORT_BASELINE_MIB
from edgekd.onboard import verify
from edgekd.receipts import files, validate
from edgekd.report.drawing import Axis, Mark, placed, round_step
from edgekd.report.markdown import escaped_values

_LATER: dict[str, Any] = {
    "on_target": None,
    "on_target_says": "",
    "receipts": None,
    "thresholds": None,
    "api": None,
    "base": None,
    "roles": {"yardstick": "teacher", "speed": "the teacher", "quality": "the teacher"},
    "generation": {},
    "hearing": None,
    "outputs": {},
    "ranking": {},
}  # what a report has not, or an older one
_BULKY = ("outputs", "latency_ms", "aa_latency_ms")  # of a receipt: its file has them


class _Compiled:
    """Templates as they are compiled, for the rest of the process: compiling takes most of a page's time."""

    def __init__(self) -> None:
        self.code: dict[str, bytes] = {}

    def get(self, key: str) -> bytes:
        """The code of a template; empty where it is not compiled yet."""
        return self.code.get(key, b"")

    def set(self, key: str, value: bytes, timeout: int | None = None) -> None:
        """Keep it."""
        self.code[key] = value


_COMPILED = _Compiled()


def read(folder: Path) -> dict[str, Any]:
    """The report of a finished bundle. Raises UsageError where the folder has none that can be read."""
    path, fix = folder / "report.json", "give the folder that build wrote"
    check_has_report(folder)
    try:
        said = json.loads(verify.read_small(path, verify.LARGEST_PAPER))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no whole JSON: {error}", fix=fix) from error
    if not isinstance(said, dict) or "summary" not in said:
        raise UsageError(f"{path} is no report of edgekd", fix=fix)
    try:
        verify.read_manifest(folder)
    except verify.Newer as error:
        raise UsageError(f"cannot read {folder}: {error}", fix="install a newer edgekd") from error
    except (OSError, ValueError):  # a report can be read whatever became of the rest; `edgekd verify` tells
        pass
    return said


def check_has_report(folder: Path) -> None:
    """Raise UsageError for what is no folder of a bundle."""
    if not (folder / "report.json").is_file():
        raise no_bundle(folder, "it has no report.json")


def altered(folder: Path) -> list[str]:
    """What of a bundle is not what was shipped, in words: its report may be read all the same, but not believed.

    Raises UsageError for what is no folder of a bundle.
    """
    check_none_within(folder, UsageError)
    check_has_report(folder)
    try:
        return list(verify.changed_files(folder, verify.read_manifest(folder)))
    except (OSError, ValueError) as error:
        return [f"manifest.json cannot be used: {error}"]


def with_receipts(bundle: Path) -> dict[str, Any]:
    """A bundle's report, and under `receipts` what devices showed of it: `held`, oldest first, and `refused`.

    A receipt has its file's values but for answers and samples, and what is derived from these: `latency` (null of an
    emulated device), 101 percentiles of its single runs in ms, `latency_quantiles_ms`, and `of_target`: whether the
    device has the target's architecture, so that the budgets hold for it; `remark`: what is to be kept in mind of its
    times (of a virtual machine, whose times no budget judges), or empty.
    """
    import numpy as np

    said = read(bundle)
    beside = any(files.folder(bundle).glob("*.json"))  # an older bundle has none, and is read all the same
    good, refused = files.read_all(bundle) if beside else ([], [])
    arch = validate.made(bundle).target["arch"] if good else None
    held = []
    for path, receipt in good:
        timed = files.latency(receipt)
        values = {key: value for key, value in receipt.as_dict().items() if key not in _BULKY}
        values |= {"file": path.name, "of_target": receipt.arch == arch, "remark": receipt.remark}
        values |= {"latency": timed.as_dict() if timed else None, "latency_quantiles_ms": None}
        if receipt.latency_ms:
            values["latency_quantiles_ms"] = np.percentile(np.array(receipt.latency_ms), range(101)).tolist()
        held.append(values)
    turned_down = [{"file": path.name, "reasons": list(reasons)} for path, reasons in refused]
    return said | {"receipts": {"held": held, "refused": turned_down}}


def text(bundle: Path) -> str:
    """The bundle's report.md as it was written, and after it the receipts, if there are any.

    Without control characters: it goes to a terminal, and a bundle may be a stranger's.
    """
    said, path, fix = with_receipts(bundle), bundle / "report.md", "give the folder that build wrote"
    if not path.is_file():
        raise UsageError(f"{bundle} is no whole bundle: it has no report.md", fix=fix)
    try:
        own = verify.read_small(path, verify.LARGEST_PAPER).decode(errors="replace")
    except (OSError, ValueError) as error:
        raise UsageError(f"{bundle} has no report.md that can be read: {error}", fix=fix) from error
    own = "".join(one if one.isprintable() or one in "\n\t" else "\N{REPLACEMENT CHARACTER}" for one in own)
    return own if not _any(said) else f"{own.rstrip()}\n\n{_filled('_receipts.md', said, bundle).rstrip()}\n"


def write_page(bundle: Path) -> Path:
    """Write the report with its receipts into the receipts' folder; the path. The bundle's own page where it has none.

    Nothing is written into the bundle. Raises EdgeKDError where an older report lacks what the page shows.
    """
    said = with_receipts(bundle)
    if not _any(said):
        return bundle / "report.html"
    whole = _filled("report.html", said, bundle)
    path = files.writable_folder(bundle) / "report.html"
    write_file(path, whole)  # by a rename: where a link lies there it is replaced, never followed
    return path


def _filled(name: str, said: dict[str, Any], bundle: Path) -> str:
    import jinja2

    fix = "open its own report.html, or build it again"
    try:
        return render(name, said)
    except jinja2.UndefinedError as error:
        raise EdgeKDError(f"{bundle} was made by an older edgekd: {error.message}", fix=fix) from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise EdgeKDError(f"the report.json of {bundle} is not as an edgekd writes it: {error}", fix=fix) from error


def _any(said: dict[str, Any]) -> bool:
    return bool(said["receipts"]["held"] or said["receipts"]["refused"])


def write(said: dict[str, Any], folder: Path) -> None:
    """Write report.json, report.md and the self-contained report.html."""
    plain = json.dumps(said, indent=1, ensure_ascii=False)
    (folder / "report.json").write_text(plain + "\n", encoding="utf-8")
    for name in ("report.md", "report.html"):
        (folder / name).write_text(render(name, said), encoding="utf-8")


def render(name: str, said: dict[str, Any]) -> str:
    """A template of `templates/` filled with the report's values.

    Foreign text in them is shown and means nothing: escaped as HTML or as Markdown. What a template writes as it is
    (`raw`) stands in front matter or in code, quoted as these quote.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=name.endswith(".html"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        # escaping is compiled in: HTML and Markdown are kept apart
        bytecode_cache=jinja2.MemcachedBytecodeCache(_COMPILED, prefix=Path(name).suffix),
    )
    quality = of_report(said) if "summary" in said else {}  # the page of several targets has each one's figures spelt
    values = _LATER | said | {"quality": quality}
    fidelity = quality.get("fidelity", {"name": "", "of_teacher": ""})
    values["agreeing"] = "agrees with" if fidelity["name"] == "agreement" else fidelity["of_teacher"]
    if name == "card.md":
        values["kind"] = plugin("tasks", said["summary"]["task"])
    units = {"ece": "fraction"} | {one["name"]: one["unit"] for one in values["quality"].values()}
    environment.filters |= {"sig": significant, "log10": log10, "median": median}
    environment.filters["spell"] = lambda value, name: spell(value, units.get(name, "fraction"))
    environment.filters |= {"terms": licences.terms, "baseline": baseline_mib}
    environment.filters |= {"quoted": json.dumps, "shell": _shell_word}
    environment.globals |= {"axis": Axis, "axis_of": Axis.of, "round_step": round_step, "mark": Mark, "placed": placed}
    if name.endswith(".md"):
        values = escaped_values(values) | {"raw": values}
    filled: str = environment.get_template(f"{name}.j2").render(values)
    return filled


def baseline_mib(value: object) -> str:
    """The import baseline in MiB as words; of a report that doesn't say, what it is about."""
    known = isinstance(value, (int, float))
    return f"{value:.0f}" if known else f"about {IMPORT_BASELINE_MIB}"


def _shell_word(text: str) -> str:
    """A word of a shell's command, on one line whatever is in it."""
    return shlex.quote(text) if text.isprintable() else "BUNDLE"


def significant(value: float | None, digits: int = 3) -> str:
    """A number for reading: three significant digits, never in exponents; a dash where there is none."""
    if value is None:
        return "–"
    short = f"{value:.{digits}g}"
    if "e-" in short:
        return f"{value:.{digits - 1 - floor(log10(abs(value)))}f}".rstrip("0")
    return f"{value:,.0f}" if "e" in short or abs(value) >= 10**digits else short
