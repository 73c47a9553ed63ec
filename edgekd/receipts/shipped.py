"""A finished bundle, opened and checked; rows of a data file as its model takes them; the device it is to run on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekd.core.errors import DataError, EdgeKDError, UsageError, suggestion
from edgekd.core.metrics import Metric
from edgekd.core.model import Model
from edgekd.core.pointers import check_none_within
from edgekd.core.predictions import is_ragged, statistics
from edgekd.core.protocols import Device, InputSpec, Sample, named, names_no_classes
from edgekd.core.registry import make
from edgekd.data.given import read_given, read_inputs
from edgekd.data.splits import Example, check_test_names, label_names, truth_of
from edgekd.onboard import verify
from edgekd.onboard.bench import Rows, golden_inputs
from edgekd.receipts.validate import Made, made

MOST_ROWS = 1000
_REAL = ("local", "ssh://USER@HOST:PORT")
_EMULATED = ("qemu", "qemu:CORE", "guest", "guest:CORE")


@dataclass(frozen=True)
class Shipped:
    """A bundle whose files are those that its manifest lists."""

    folder: Path
    of: Made
    report: dict[str, Any]

    @property
    def plan(self) -> dict[str, Any]:
        """Every choice that it was built by."""
        return self.of.plan

    @property
    def name(self) -> str:
        """The folder's own name: NAME-TARGET, unless it was moved."""
        return self.folder.resolve().name

    @property
    def model(self) -> Model:
        """The graphs that ship."""
        model = verify.model_of(self.of.manifest)
        return Model({name: self.folder / told["file"] for name, told in model["graphs"].items()}, model["program"])

    @property
    def task(self) -> str:
        """Hugging Face's name of what it does."""
        return str(self.of.manifest["task"])

    @property
    def survey(self) -> InputSpec:
        """What its inputs are."""
        return self.of.survey

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names in the order of its outputs; none of embeddings."""
        return self.of.classes

    def golden(self) -> list[Sample]:
        """Its golden inputs."""
        return golden_inputs(self.folder)

    def encoded(self, rows: Sequence[Example]) -> Sequence[Sample]:
        """Rows as its model takes them, prepared by its own files; of a task on texts this loads its tokenizer."""
        inputs = [row.input for row in rows]
        with _extras():
            samples: Sequence[Sample] = self.made_task().encode(self.folder, inputs, self.survey.max_size)
        return samples

    def made_task(self, **columns: str) -> Any:
        """The task, ready for work; of one that a graph decides that graph's."""
        return make("tasks", self.task, **self.plan.get("task_settings", {}), **columns)


def open_bundle(folder: Path) -> Shipped:
    """A finished bundle. Raises UsageError where it is none, EdgeKDError where a file is not what was shipped."""
    of = made(folder)
    if problems := verify.changed_files(folder, of.manifest):
        check_none_within(folder, EdgeKDError)
        raise EdgeKDError(
            f"{folder} is not the bundle that was shipped: {problems[0]}",
            fix="take the bundle anew from where it was built; nothing may be written into its folder",
        )
    try:
        golden_inputs(folder)
    except ValueError as error:
        raise EdgeKDError(f"{folder}: {error}", fix="take the bundle anew from where it was built") from error
    return Shipped(folder, of, json.loads(verify.read_small(folder / "report.json", verify.LARGEST_PAPER)))


@dataclass(frozen=True)
class DataFile:
    """A user's rows: where they are, and their columns where these cannot be told from names."""

    source: str
    columns: dict[str, str] = field(default_factory=dict)  # text_column, image_column, label_column

    def rows(self, bundle: Shipped, *, labelled: bool, most: int = MOST_ROWS) -> list[Example]:
        """At most so many rows, evenly spaced; of `labelled` ones those of the test split, else validation, else all.

        Labels are the bundle's class names. Raises DataError.
        """
        with _extras():
            return _spread(self._read(bundle, labelled=labelled), most)

    def _read(self, bundle: Shipped, *, labelled: bool) -> list[Example]:
        task = self._task(bundle)
        if not labelled or not task.labelled:
            inputs, _ = read_inputs(task, self.source)
            return inputs
        given, _, notes = read_given(task, self.source, None, classes=bundle.classes or None, labelled=True)
        told = {part: [row for row in rows if row.label is not None] for part, rows in given.items()}
        parts = ("test", "validation", "all", "train", "unlabelled")
        found: list[Example] = next((told[part] for part in parts if told.get(part)), [])
        if not found:
            why = f": {notes[-1]}" if notes else ""
            raise DataError(
                f"{self.source} has no labelled rows{why}", fix="give rows with labels, or leave --data out"
            )
        check_test_names(found)
        if names_no_classes(task):
            return found
        known = label_names(found, bundle.classes)
        strange = sorted({name for row in found for name in row.names} - known)
        if strange:
            raise DataError(
                f"{self.source} has the label {strange[0]!r}, which {bundle.name} does not know",
                fix=suggestion(strange[0], sorted(known)),
            )
        return found

    def measured(self, bundle: Shipped) -> Rows:
        """The rows as a receipt is made of them; of embeddings they have no labels."""
        task = named(bundle.made_task(), bundle.classes)
        rows = self.rows(bundle, labelled=task.labelled)
        truth = truth_of(task, rows, bundle.classes, labelled=task.labelled)
        encoded, name = bundle.encoded(rows), Path(self.source).name
        if truth is None or not (names_no_classes(task) or is_ragged(task)):
            return Rows(encoded, truth, name)
        return Rows(encoded, None, name, lambda said: _score(task, said, truth), task.metric.name)

    def _task(self, bundle: Shipped) -> Any:
        known = bundle.made_task()
        foreign = sorted(name for name in self.columns if not hasattr(known, name))
        if foreign:
            raise UsageError(
                f"rows of {bundle.task} have no {foreign[0].replace('_', ' ')}", fix="leave that option out"
            )
        return bundle.made_task(**self.columns)


def device_at(
    words: str,
    target: dict[str, Any],
    *,
    install: bool = False,
    timed: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[str, Device]:
    """The device that a user names, and its name in receipts; `target` is the bundle's profile.

    `qemu` and `guest` alone take the profile's core. `say` is told where a connection is made anew. Raises UsageError
    for words that name no device, and for an emulated one where all that is wanted is `timed`.
    """
    kind, _, core = words.partition(":")
    if timed and kind in ("qemu", "guest"):
        raise UsageError(f"{words} is emulated: its time is the emulator's", fix="take --device local or ssh://")
    if install and kind != "ssh":
        raise UsageError("--install is for a board behind ssh://", fix="leave it out: nothing is installed elsewhere")
    provider = target["execution_provider"]
    if words == "local":
        return words, make("devices", "local", provider=provider)
    if words.startswith("ssh://"):
        from edgekd.devices.ssh import Ssh

        return words, Ssh.at(words, install=install, provider=provider, say=say)
    if kind in ("qemu", "guest"):
        core = core or target["emulator_cpu"] or ""
        if not core:
            raise UsageError(
                f"{target['name']} has no emulator_cpu: there is no core to emulate",
                fix=f"name one, such as {kind}:cortex-a72, or take --device local",
            )
        return f"{kind}:{core}", make("devices", kind, cpu=core)
    raise UsageError(
        f"there is no device {words!r}", fix=f"give one of: {', '.join(_REAL if timed else _REAL + _EMULATED)}"
    )


@contextlib.contextmanager
def _extras() -> Iterator[None]:
    """Raises UsageError where rows cannot be read or encoded for want of a package that only building needs."""
    try:
        yield
    except ImportError as error:
        raise UsageError(
            f"--data takes a package that is not installed: {error.name}",
            fix="install what building needs, `pip install 'edgekd[build]'`; or leave --data out",
        ) from error


def _score(task: Any, said: Any, truth: Any) -> float:
    metric: Metric = task.metric
    return metric.value(statistics(task, said, truth))


def _spread(rows: list[Example], most: int) -> list[Example]:
    return rows if len(rows) <= most else [rows[i * len(rows) // most] for i in range(most)]
