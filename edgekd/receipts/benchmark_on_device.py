"""Prove: a bundle on a device. Its receipt is made, held against the bundle, and put beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgekd.core.errors import BelowAccuracy, EdgeKDError, OverLatency, OverMemory, RuntimeCannotLoad, UsageError
from edgekd.core.latency import held_to
from edgekd.core.protocols import Progress, Sample
from edgekd.core.receipt import Receipt, ReceiptRefused
from edgekd.hardware import latency_correction
from edgekd.hardware.profile import Profile, parse_profile
from edgekd.hardware.roofline import predict_latency, work_of
from edgekd.onboard import bench
from edgekd.receipts import files, trust
from edgekd.receipts.shipped import DataFile, Shipped, device_at, open_bundle
from edgekd.receipts.validate import OUTSIDE, aligned, main_values, release_doubts, within_tolerance
from edgekd.store.store import Store

_DECIDED: dict[str, Callable[[Any], Any]] = {  # what an input's outputs say, by what they are compared by
    "agreement": lambda values: int(values.argmax()),
    "decision_f1": lambda values: (values > 0).tolist(),
    "same": lambda values: values.tolist(),
}


@dataclass(frozen=True)
class Budget:
    """One of the profile's budgets against this receipt; `held` is None where it cannot be judged, `says` why."""

    name: str
    value: float | None
    limit: float
    unit: str
    held: bool | None
    says: str


@dataclass(frozen=True)
class Proof:
    """What one device showed, and where its receipt lies."""

    bundle: Shipped
    receipt: Receipt
    path: Path
    well: bool  # whether the golden outputs are within the bundle's tolerance
    golden_says: str
    flips: int | None  # golden inputs that are answered otherwise than by fp32; None of embeddings
    latency: files.Latency | None
    budgets: tuple[Budget, ...]
    broken: tuple[EdgeKDError, ...]  # what the exit code says, the gravest first
    calibrates: str  # the words where predictions are scaled by this from now on, else empty

    def as_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "receipt": str(self.path),
            "device": self.receipt.device,
            "emulated": self.receipt.emulated,
            "golden": {"within_tolerance": self.well, "says": self.golden_says, "flips": self.flips},
            "accuracy": self.receipt.accuracy,
            "accuracy_n": self.receipt.accuracy_n,
            "accuracy_of": self.receipt.accuracy_of,
            "latency": None if self.latency is None else self.latency.as_dict(),
            "latency_note": self.receipt.latency_note,
            "sustained": _plain(self.receipt),
            "budgets": [vars(one) for one in self.budgets],
            "calibrates": self.calibrates,
        }


def prove(
    folder: Path,
    progress: Progress,
    store: Store,
    *,
    device: str = "local",
    full: bool = False,
    minutes: float = 0.0,
    data: DataFile | None = None,
    install: bool = False,
) -> Proof:
    """Measure a bundle on a device, and write the receipt beside it.

    Raises UsageError for what is no bundle or no device and for minutes of an emulated one, StoreError where no receipt
    can be written, RuntimeCannotLoad where the device's runtime is none for it, EdgeKDError where a file is not what
    was shipped or the device answers unlike twice.
    """
    bundle = open_bundle(folder)
    target = parse_profile(bundle.of.target, where=f"the profile in {folder}")
    name, opened = device_at(device, bundle.of.target, install=install, say=progress.say)
    if opened.emulated and minutes:
        raise UsageError(f"--minutes means nothing on {name}: its time is the emulator's", fix="leave --minutes out")
    files.check_writable(folder)
    if name == "local":
        trust.check_ends(folder, bundle.of.manifest)
    rows = data.measured(bundle) if data else None
    protocol = "full" if full else "quick"
    total = bench.steps(protocol, opened.emulated, rows)
    if opened.emulated and full:
        progress.say(f"--full changes nothing on {name}: nothing is timed there")
    progress.stage(f"bench: {bundle.name} on {name}", total)
    with opened.up() as running:
        try:
            said = bench.receipt(
                folder,
                running.run,
                device=name,
                emulated=opened.emulated,
                protocol=protocol,
                minutes=minutes,
                rows=rows,
                say=_counted(progress, total, minutes),
                accept=partial(_check_release, bundle, name),
            )
        except bench.Refused as error:
            kind = RuntimeCannotLoad if error.code == RuntimeCannotLoad.exit_code else EdgeKDError
            raise kind(str(error), fix="report the model's operators and this CPU, or take another device") from error
    return _judged(bundle, target, said, store, timed=rows.samples if rows else bundle.golden())


def _judged(bundle: Shipped, target: Profile, said: dict[str, Any], store: Store, timed: Sequence[Sample]) -> Proof:
    try:
        receipt, believed = files.check(said, bundle.folder), True
    except ReceiptRefused as error:
        if error.receipt is None or len(error.reasons) > 1 or not error.reasons[0].startswith(OUTSIDE):
            raise
        receipt, believed = error.receipt, False  # kept: what a device answers wrongly is worth knowing
    path = files.write(said, bundle.folder)
    well, words = within_tolerance(receipt, bundle.of)
    latency = files.latency(receipt)
    budgets = tuple(_budgets(receipt, latency, target))
    reading = _reading(bundle, target, receipt, latency, timed) if believed else None
    calibrates = ""
    if reading is not None:
        kept = latency_correction.keep(store.root, reading)
        made = latency_correction.calibration(kept, reading.recipe)
        assert made is not None, "a reading was kept just now"
        calibrates = f"predictions for {target.microarch} are now {made.says}: {made.factor:.2f} times the roofline's"
    return Proof(
        bundle=bundle,
        receipt=receipt,
        path=path,
        well=well,
        golden_says=words,
        flips=_flips(bundle, receipt),
        latency=latency,
        budgets=budgets,
        broken=tuple(_broken(well, words, budgets)),
        calibrates=calibrates,
    )


def _check_release(bundle: Shipped, device: str, facts: dict[str, Any]) -> None:
    """Refuse what no receipt could stand for, before anything is measured."""
    if wrong := next(release_doubts(facts["ort_version"], bundle.of), None):
        raise RuntimeCannotLoad(
            f"{device}: {wrong}",
            fix=f"install onnxruntime {bundle.of.manifest['min']['ort_version']} there, none of known_bad_ort",
        )


def _counted(progress: Progress, total: int, minutes: float) -> Any:
    """Count what bench says; the sustained part is a stage of its own."""
    done = 0

    def say(line: str) -> None:
        nonlocal done
        done += 1
        if done == total + 1 and minutes:
            progress.stage(f"bench: sustained, {minutes:g} minutes (Ctrl-C ends it early)")
        progress.step(done if done <= total else done - total, line)

    return say


def _flips(bundle: Shipped, receipt: Receipt) -> int | None:
    decided = _DECIDED.get(bundle.of.fidelity)
    if decided is None:
        return None
    float32, _ = bundle.of.held_to("float32")
    own = main_values(aligned(receipt.predictions, bundle.of), bundle.of)
    other = {row: outputs[bundle.of.main] for row, outputs in float32.items()}
    return sum(
        bool(own[row].shape != values.shape or decided(own[row]) != decided(values)) for row, values in other.items()
    )


def _budgets(receipt: Receipt, latency: files.Latency | None, target: Profile) -> list[Budget]:
    """The profile's budgets; they are the target's, and judge nothing on another architecture."""
    foreign = "" if receipt.arch == target.arch else f"of {target.arch}, this is {receipt.arch}"
    emulated = "the machine is emulated" if receipt.emulated else ""
    virtual = receipt.remark
    ms, what = (None, "latency") if latency is None else held_to(latency.as_dict(), target.latency_percentile)
    peak = max(receipt.peak_rss_mib) if receipt.peak_rss_mib else None
    cold = sorted(receipt.cold_start_ms)[len(receipt.cold_start_ms) // 2] if receipt.cold_start_ms else None
    found = []
    for name, value, limit, unit in (
        ("memory", peak, target.memory_mib, "MiB"),
        (what, ms, target.latency_ms, "ms"),
        ("cold start", cold, target.cold_start_ms, "ms"),
    ):
        why_not = foreign or (emulated if value is None else virtual if unit == "ms" else "")
        held = None if why_not or value is None else value <= limit
        says = f"not judged: {why_not}" if held is None else "held" if held else "BROKEN"
        found.append(Budget(name, value, limit, unit, held, says))
    return found


def _broken(well: bool, words: str, budgets: Sequence[Budget]) -> list[EdgeKDError]:
    found: list[EdgeKDError] = []
    if not well:
        found.append(
            BelowAccuracy(
                f"the device's outputs are outside the bundle's tolerance: {words}",
                fix="look for another onnxruntime there, or build with another recipe",
            )
        )
    for budget in budgets:
        if budget.held is False:
            kind = OverMemory if budget.unit == "MiB" else OverLatency
            key = {"memory": "memory_mib", "cold start": "cold_start_ms"}.get(budget.name, "latency_ms")
            found.append(
                kind(
                    f"{budget.name} on the device is {budget.value:.2f} {budget.unit} > {budget.limit:g}",
                    fix=f"build a smaller or faster one, or raise {key} in the profile",
                )
            )
    return found


def _reading(
    bundle: Shipped, target: Profile, receipt: Receipt, latency: files.Latency | None, timed: Sequence[Sample]
) -> latency_correction.Reading | None:
    """What a real board of the profile's own core tells of the roofline; None of any other machine.

    The prediction is for inputs of the size that was timed: a user's rows may be longer than those of the build.
    """
    fit, student = bundle.report["fit"], bundle.plan["student"]
    if latency is None or not latency.stable or fit is None:
        return None
    if receipt.microarch != target.microarch or receipt.remark:
        return None
    recipe = str(bundle.of.manifest["recipe"])
    tokens = sorted(sample["input_ids"].shape[1] for sample in timed if "input_ids" in sample)
    size = tokens[len(tokens) // 2] if tokens else bundle.survey.typical
    work = work_of(student["family"], fit["chosen"]["shape"], student["exit"], size)
    predicted = predict_latency(work, target, recipe).value
    if predicted is None:
        return None
    return latency_correction.Reading(
        target.microarch, target.clock_mhz, recipe, predicted, latency.p50_ms, receipt.digest, receipt.cpu
    )


def _plain(receipt: Receipt) -> dict[str, Any] | None:
    return None if receipt.sustained is None else receipt.sustained.model_dump(mode="json")
