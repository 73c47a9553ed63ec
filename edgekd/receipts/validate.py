"""Doubts: what speaks against a receipt, each in a sentence. A receipt without any holds for its bundle.

They tell mistakes, mixed-up files and careless forgeries. Who knows the rules can still make a receipt up: proof of
origin is what signatures are for.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

from edgekd.core.errors import UsageError, no_bundle
from edgekd.core.pointers import check_none_within
from edgekd.core.protocols import InputSpec
from edgekd.core.receipt import OWN_METRIC, Receipt
from edgekd.onboard import verify
from edgekd.onboard.bench import (
    PROTOCOLS,
    SLOWDOWN,
    encoded,
    fidelity_of,
    judged_by,
    likeness_of,
    likeness_says,
    made_by,
    slowdown,
)

if TYPE_CHECKING:
    import numpy as np

    Rows = list[dict[str, np.ndarray[Any, Any]]]  # outputs of each input, by name

OUTSIDE = "outputs outside the bundle's tolerance"  # the one doubt that tells of the device, not of the receipt
_UNREADABLE = (  # all that a damaged or forged file of a bundle can cause while it is read
    OSError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    EOFError,
    RecursionError,
    MemoryError,
    NotImplementedError,
    AttributeError,
    BadZipFile,
    OverflowError,
)
_CLOCKS_APART = timedelta(minutes=5)
_NEVER = {  # what the other architecture has
    "x86_64": {"asimd", "asimddp", "fphp", "asimdhp", "i8mm"},
    "aarch64": {"sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni"},
}
_ARM_CORES = ("cortex-", "neoverse-")
_EMULATED = {"local": "", "ssh": "", "by hand": "", "qemu": "user", "guest": "system"}  # by the device's kind


@dataclass(frozen=True)
class Made:
    """What a bundle says of itself, as far as receipts are held against it."""

    manifest: dict[str, Any]
    manifest_sha256: str
    created: datetime
    plan: dict[str, Any]  # every choice that it was built by
    checks: dict[str, Any]  # what was tried on the finished folder
    tolerance: dict[str, Any]  # by ISA, and for the fp32 model's answers: of each output, or of the one there is
    expected: dict[str, dict[int, dict[str, np.ndarray[Any, Any]]]]  # the same: by golden input, by output
    inputs: int  # how many golden inputs there are

    @property
    def target(self) -> dict[str, Any]:
        """The profile that it was built for."""
        return dict(self.plan["target"])

    @property
    def survey(self) -> InputSpec:
        """What its inputs are."""
        return InputSpec.read(self.plan["student"]["survey"])

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names in the order of its outputs; none of embeddings."""
        return tuple(self.plan["data"]["classes"])

    @property
    def labelled(self) -> bool:
        """Whether rows of its task may have labels."""
        return bool(self.classes or self.plan["data"].get("label_column"))

    def held_to(self, isa: str) -> tuple[dict[int, Any], dict[str, float]]:
        """The answers recorded on an ISA, and how far each output may be from them."""
        limits = self.tolerance[isa]
        return self.expected[isa], limits if isinstance(limits, dict) else {"": limits}

    @property
    def main(self) -> str:
        """The output that agreement is told of; "" where the bundle does not name its one output."""
        names = next(iter(self.expected["float32"].values()))
        rule = verify.model_of(self.manifest)["outputs"]
        return next(iter(names if "" in names or isinstance(rule, str) else rule))

    @property
    def fidelity(self) -> str:
        """What its answers are held against the reference's by: `agreement`, `cosine`, `decision_f1` or `same`."""
        values = [row[self.main] for row in self.expected["float32"].values()]
        return judged_by(fidelity_of(self.manifest, self.plan), values)


def made(bundle: Path) -> Made:
    """Read a bundle. Raises UsageError where the folder is none, or one of before receipts, or of a newer edgekd."""
    try:
        manifest = verify.read_manifest(bundle)
        raw = verify.read_small(bundle / "manifest.json")
        report = json.loads(verify.read_small(bundle / "report.json", verify.LARGEST_PAPER))
        provenance = made_by(bundle)
        golden = json.loads(verify.read_small(bundle / "golden" / "golden.json"))
        expected = verify.read_expected(verify.read_arrays(bundle / "golden" / "expected.npz"))
        _ = expected["float32"]
        rows = max(max(answers, default=-1) for answers in expected.values()) + 1
        created = datetime.strptime(report["created"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        found = Made(
            manifest,
            sha256(raw).hexdigest(),
            created,
            provenance["plan"],
            provenance["checks"],
            golden["tolerance"],
            expected,
            golden.get("count", rows),
        )
        _check_plan(found)
        _check_golden(found)
        return found
    except verify.Newer as error:
        raise UsageError(f"{bundle} cannot be used: {error}", fix=verify.NEWER) from error
    except _UNREADABLE as error:
        check_none_within(bundle, UsageError)
        why = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        why = f"it has no {Path(error.filename).name}" if isinstance(error, FileNotFoundError) else why
        raise no_bundle(bundle, why) from error


def _check_plan(of: Made) -> None:
    """Raises KeyError or TypeError where the plan lacks what is read of it later, or has it in another form."""
    _ = [of.target[key] for key in ("name", "arch", "threads", "execution_provider", "emulator_cpu", "known_bad_ort")]
    if not all(isinstance(name, str) for name in (of.plan["student"]["family"], *of.classes)):
        raise TypeError("its plan has names that are no text")
    sizes = (of.survey.max_size, of.survey.channels, of.survey.vocabulary, *of.survey.sizes)
    if not all(isinstance(size, int) and size >= 0 for size in sizes):
        raise TypeError("its plan has sizes that are no numbers")


def _check_golden(of: Made) -> None:
    """Raises ValueError where a record of answers is none to its inputs, or has no tolerance of each output."""
    for isa in of.expected:
        verify.check_reference(*of.held_to(isa), of.inputs)
    if of.main not in next(iter(of.expected["float32"].values())):
        raise ValueError(f"its golden vectors have no {of.main}")


def doubts(receipt: Receipt, of: Made, now: datetime | None = None) -> list[str]:
    """Every reason not to believe a receipt for that bundle; none where it holds."""
    now = now or datetime.now(UTC)
    return [
        *_of_bundle(receipt, of),
        *_of_machine(receipt),
        *release_doubts(receipt.ort_version, of),
        *_of_session(receipt, of),
        *_of_outputs(receipt, of),
        *_of_kinds(receipt),
        *_of_latency(receipt),
        *_of_sustained(receipt),
        *_of_time(receipt, of, now),
    ]


def _of_bundle(receipt: Receipt, of: Made) -> Iterator[str]:
    named = (of.manifest["name"], of.manifest["version"], of.manifest["compatible"][0])
    if (receipt.bundle.name, receipt.bundle.version, receipt.bundle.target) != named:
        yield f"of another bundle: {receipt.bundle.name} {receipt.bundle.version} for {receipt.bundle.target}"
    elif receipt.bundle.manifest_sha256 != of.manifest_sha256:
        yield "of another build of this bundle: the manifest's SHA-256 differs"
    listed = verify.model_sha256(of.manifest)
    if receipt.model != verify.model_name(of.manifest) or receipt.model_sha256 != listed:
        yield f"of another model: {receipt.model}, SHA-256 {receipt.model_sha256[:12]}, not {listed[:12]}"


def _of_machine(receipt: Receipt) -> Iterator[str]:
    kind, _, core = receipt.device.partition(":")
    if _EMULATED.get(kind) != receipt.emulated:
        told = receipt.emulated or "no"
        yield f"device {receipt.device!r} contradicts emulated {told!r}"
    if receipt.arch not in _NEVER:
        yield f"the architecture {receipt.arch!r} is unknown"
    elif strange := sorted(set(receipt.isa) & _NEVER[receipt.arch]):
        yield f"isa {strange[0]} does not exist on {receipt.arch}"
    if receipt.arch == "x86_64" and receipt.microarch.startswith(_ARM_CORES):
        yield f"microarch {receipt.microarch} is no x86_64 core"
    if receipt.emulated and (receipt.arch != "aarch64" or (core and receipt.microarch != core)):
        yield f"device {receipt.device!r} cannot be a {receipt.microarch} ({receipt.arch})"
    if receipt.threads > receipt.cores:
        yield f"{receipt.threads} threads on {receipt.cores} cores"
    if receipt.peak_rss_mib and max(receipt.peak_rss_mib) > receipt.memory_mib:
        yield f"peak RSS {max(receipt.peak_rss_mib):.0f} MiB in {receipt.memory_mib} MiB of memory"


def release_doubts(ort_version: str, of: Made) -> Iterator[str]:
    """What speaks against measuring the bundle with that onnxruntime."""
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion, Version

    wanted = of.manifest["min"]["ort_version"]
    try:
        release = Version(ort_version)
    except InvalidVersion:
        yield f"onnxruntime {ort_version!r} is no release"
        return
    if not SpecifierSet(wanted).contains(release, prereleases=True):
        yield f"onnxruntime {release} is outside {wanted}, what the bundle needs"
    if release in map(Version, of.target["known_bad_ort"]):
        yield f"onnxruntime {release} is known to be bad on {of.target['name']}"


def _of_session(receipt: Receipt, of: Made) -> Iterator[str]:
    own, asked = f"{receipt.threads}, {receipt.provider}", f"{of.target['threads']}, {of.target['execution_provider']}"
    if own != asked:
        yield f"threads and provider were {own}; the profile says {asked}"


def _of_outputs(receipt: Receipt, of: Made) -> Iterator[str]:
    try:
        outputs = receipt.predictions
    except ValueError as error:
        yield f"its outputs are not the values of their shapes: {error}"
        return
    if encoded(outputs)["output_sha256"] != receipt.output_sha256:
        yield "output_sha256 is not that of its outputs"
    if problem := _not_comparable(outputs, of):
        yield problem
        return
    well, words = within_tolerance(receipt, of)
    if not well:
        yield f"{OUTSIDE}: {words}"
    float32, _ = of.held_to("float32")
    if receipt.accuracy_of == likeness_says(of.fidelity):
        own = main_values(aligned(outputs, of), of)
        given = likeness_of(of.fidelity, [own[row] for row in float32], [one[of.main] for one in float32.values()])
        if abs(receipt.accuracy - given) > 1e-6:
            yield f"accuracy {receipt.accuracy:.4f}, but its outputs give {given:.4f}"
        if receipt.accuracy_n != len(float32):
            yield f"accuracy of {receipt.accuracy_n} golden inputs, there are {len(float32)}"
    elif not of.labelled or not re.fullmatch(rf"labels of \S.*|{OWN_METRIC.pattern}", receipt.accuracy_of):
        yield f"accuracy of {receipt.accuracy_of!r}, neither of the golden inputs nor of labels"


def _not_comparable(outputs: Rows, of: Made) -> str:
    """Why outputs cannot be held against the bundle's at all, in words; empty where they can."""
    float32, limits = of.held_to("float32")
    if len(outputs) != of.inputs:
        return f"outputs of {len(outputs)} inputs; there are {of.inputs} golden ones"
    found = verify.held_to(float32, limits, aligned(outputs, of))
    return f"its outputs are not the golden ones: {found}" if isinstance(found, str) else ""


def aligned(outputs: Rows, of: Made) -> Rows:
    """A receipt's outputs under the names that the bundle has.

    Receipts of schema 1 and bundles of schema 1 or 2 do not name their one output, which is the same.
    """
    names = [*next(iter(of.expected["float32"].values()))]
    if len(names) == 1 and all(len(row) == 1 for row in outputs) and "" in (names[0], *outputs[0]):
        return [{names[0]: next(iter(row.values()))} for row in outputs]
    return outputs


def main_values(outputs: Rows, of: Made) -> list[np.ndarray[Any, Any]]:
    """The main output of each golden input, of `aligned` outputs."""
    return [row[of.main] for row in outputs]


def within_tolerance(receipt: Receipt, of: Made) -> tuple[bool, str]:
    """Whether the outputs are what the bundle recorded for that ISA (else what fp32 answers), and in words how far."""
    isa = receipt.arch if receipt.arch in of.expected else "float32"
    reference, limits = of.held_to(isa)
    found = verify.held_to(reference, limits, aligned(receipt.predictions, of))
    if isinstance(found, str):
        return False, found
    name, worst, limit = found
    which = f" of {name}" if len(limits) > 1 else ""
    against = f"the outputs recorded on {isa}" if isa != "float32" else f"fp32 ({receipt.arch} was not recorded)"
    return worst <= limit, f"largest difference{which} {worst:.4g} to {against}, tolerance {limit:.4g}"


def _of_kinds(receipt: Receipt) -> Iterator[str]:
    if receipt.emulated and (receipt.latency_ms or receipt.aa_latency_ms or receipt.sustained or receipt.cold_start_ms):
        yield "times of an emulated machine: they are the emulator's"
    if receipt.emulated == "user" and receipt.peak_rss_mib:
        yield "peak RSS under user-mode emulation: it is the emulator's"
    values = {"latency": receipt.latency_ms, "peak_rss": receipt.peak_rss_mib, "cold_start": receipt.cold_start_ms}
    for figure, value in {"accuracy": receipt.accuracy, **values}.items():
        if (getattr(receipt.kind, figure) == "measured") != (value is not None):
            yield f"kind says {figure} is {getattr(receipt.kind, figure)}, which it is not"
    if not receipt.emulated and None in values.values():
        yield "a device that is not emulated gives latency, peak RSS and cold start; one is missing"


def _of_latency(receipt: Receipt) -> Iterator[str]:
    told = receipt.protocol
    if (told.processes, told.rounds) != PROTOCOLS[told.name]:
        yield f"{told.processes} processes of {told.rounds} rounds are not the {told.name} protocol"
    if receipt.latency_ms is None or receipt.aa_latency_ms is None:
        return
    shape = [told.samples] * (told.processes * told.rounds)
    if [len(turn) for turn in receipt.latency_ms] != shape:
        yield f"latency_ms has not the {len(shape)} x {told.samples} samples of its protocol"
    if [len(turn) for turn in receipt.aa_latency_ms] != shape:
        yield f"aa_latency_ms has not the {len(shape)} x {told.samples} samples of its protocol"
    flat = [ms for turn in receipt.latency_ms for ms in turn]
    control = [ms for turn in receipt.aa_latency_ms for ms in turn]
    if len(flat) > 1 and len(set(flat)) == 1:
        yield "all latencies are equal: no clock shows that"
    if flat == control:
        yield "the A/A control is a copy of the latencies"
    if flat and control and not 0.5 <= (ratio := statistics.median(control) / statistics.median(flat)) <= 2:
        yield f"its control was not the same model: its median is {ratio:.2f} times the model's"
    if sum(flat) + sum(control) > 1000 * receipt.seconds:
        yield f"its samples alone take {(sum(flat) + sum(control)) / 1000:.1f} s, all of it {receipt.seconds:.1f} s"
    if receipt.cold_start_ms and flat and min(receipt.cold_start_ms) < min(flat):
        yield "a cold start that is shorter than a warm run"


def _of_sustained(receipt: Receipt) -> Iterator[str]:
    if (told := receipt.sustained) is None:
        return
    times = [point.at_s for point in told.points]
    if sorted(set(times)) != times or abs(times[-1] / 60 - told.minutes) > 0.02 or times[-1] > receipt.seconds + 1:
        yield f"sustained: {len(times)} points do not make {told.minutes:g} minutes"
    slower = slowdown([point.p50_ms for point in told.points])
    if abs(told.slowdown - slower) > 0.001:
        yield f"sustained: slowdown {told.slowdown:g}, but its points give {slower:g}"
    elif slower > SLOWDOWN and not told.throttled:
        yield f"sustained: {slower:.2f}x slower at its end, yet not throttled"


def _of_time(receipt: Receipt, of: Made, now: datetime) -> Iterator[str]:
    try:
        started = datetime.strptime(receipt.started, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        yield f"started at {receipt.started}, no time"
        return
    if started > now + _CLOCKS_APART:
        yield f"started in the future, {receipt.started}: set the device's clock"
    if started < of.created - _CLOCKS_APART:
        yield f"started {receipt.started}, before the bundle was made: set the device's clock"
