"""Plug-ins as a package outside would bring them for short tunes: a task, a teacher and two quantizers.

A tune is heard as frames of `PITCHES` values; what was played is a sequence of notes, each of them heard for three
frames. The teacher is of two graphs: an encoder of frames, and a decoder that names a note for each frame that is
none of silence. It repeats each note, so that more than half of what it says is wrong: its error rate is above 1.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekd.core.errors import DataError, EdgeKDError
from edgekd.core.metrics import Metric, ratio_of_sums
from edgekd.core.protocols import Hub, InputSpec
from edgekd.data.splits import Example

PITCHES, WIDTH, SILENCE = 8, 32, 0
IDLE = 4096  # of the decoder's work that changes nothing
NAMES = ("encoder_model", "decoder_model")
NOTE_ERRORS = Metric("note_error_rate", higher_is_better=False, reduce=ratio_of_sums)
SAME_NOTES = Metric("same_notes", of_teacher="mean share of notes shared with")


def tune(notes: Sequence[int], random: np.random.Generator) -> np.ndarray[Any, Any]:
    """What is heard of these notes: float32 (frames, PITCHES); of each a silent frame, a loud one and two soft ones."""
    kinds = [kind for note in notes for kind in (SILENCE, note, note, note)]
    loudness = np.array([(1.0, 2.0, 1.0, 1.0) for _ in notes]).reshape(-1, 1)
    heard = loudness * np.eye(PITCHES)[kinds] + 0.15 * random.standard_normal((len(kinds), PITCHES))
    return heard.astype(np.float32)


def write_tunes(path: Path, count: int, *, labelled: bool = True) -> Path:
    """Lines of JSON, each a tune of one to six notes and what was played."""
    random = np.random.default_rng(7)
    with path.open("w", encoding="utf-8") as stream:
        for _ in range(count):
            notes = random.integers(1, PITCHES, random.integers(1, 7)).tolist()
            row = {"heard": tune(notes, random).round(4).tolist()}
            row |= {"notes": " ".join(map(str, notes))} if labelled else {}
            stream.write(json.dumps(row) + "\n")
    return path


def save_teacher(folder: Path) -> Path:
    """An encoder and a decoder, as ONNX files of these names; most of the decoder's work is for nothing."""
    folder.mkdir()
    random = np.random.default_rng(3)
    mixed, _ = np.linalg.qr(random.standard_normal((WIDTH, WIDTH)))
    both = np.concatenate([mixed[:PITCHES], -mixed[:PITCHES]], axis=1).astype(np.float32)  # Relu keeps one or the other
    encoder = [
        helper.make_node("MatMul", ["heard", "w"], ["mixed"], "mix"),
        helper.make_node("Relu", ["mixed"], ["states"], "relu"),
    ]
    _save(
        folder,
        "encoder_model",
        encoder,
        ("heard", PITCHES),
        ("states", TensorProto.FLOAT, [1, "frames", 2 * WIDTH]),
        w=both,
    )
    decoder = [
        helper.make_node("MatMul", ["states", "head_weight"], ["plain"], "head"),
        helper.make_node("Add", ["plain", "bias"], ["scores"], "bias_of_notes"),
        helper.make_node("MatMul", ["states", "wide"], ["wider"], "wider"),
        helper.make_node("MatMul", ["wider", "nothing"], ["zeros"], "narrower"),
        helper.make_node("Add", ["scores", "zeros"], ["sums"], "sums"),
        helper.make_node("ArgMax", ["sums"], ["of_frames"], "name", axis=-1, keepdims=0),
        helper.make_node("Reshape", ["of_frames", "flat"], ["each"], "flatten"),
        helper.make_node("Cast", ["each"], ["sounds"], "sounds", to=TensorProto.BOOL),
        helper.make_node("Compress", ["each", "sounds"], ["notes"], "spoken", axis=0),
    ]
    _save(
        folder,
        "decoder_model",
        decoder,
        ("states", 2 * WIDTH),
        ("notes", TensorProto.INT64, ["notes"]),
        head_weight=np.ascontiguousarray(both.T),
        bias=np.zeros(PITCHES, np.float32),
        wide=random.standard_normal((2 * WIDTH, IDLE)).astype(np.float32),
        nothing=np.zeros((IDLE, PITCHES), np.float32),
        flat=np.array([-1], np.int64),
    )
    return folder


def _save(
    folder: Path,
    name: str,
    nodes: list[Any],
    takes: tuple[str, int],
    gives: tuple[str, int, list[int | str]],
    **weights: np.ndarray[Any, Any],
) -> None:
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(takes[0], TensorProto.FLOAT, [1, "frames", takes[1]])],
        [helper.make_tensor_value_info(*gives)],
        [numpy_helper.from_array(value, key) for key, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, folder / f"{name}.onnx")


def edits(said: Sequence[int], wanted: Sequence[int]) -> int:
    """The fewest notes that are to be put in, taken out or changed (Levenshtein)."""
    row = list(range(len(wanted) + 1))
    for at, own in enumerate(said, 1):
        before, row[0] = row[0], at
        for place, other in enumerate(wanted, 1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (own != other))
    return row[-1]


@dataclass(frozen=True)
class Notes:
    """The notes of a tune."""

    metric: ClassVar[Metric] = NOTE_ERRORS
    fidelity: ClassVar[Metric] = SAME_NOTES
    ragged: ClassVar[bool] = True
    one_of_classes: ClassVar[bool] = False
    problem_type: ClassVar[str] = ""
    families: ClassVar[tuple[str, ...]] = ()
    modality: ClassVar[str] = "audio"
    hub: ClassVar[Hub] = Hub()
    unit: ClassVar[str] = "frames"
    sizes: ClassVar[tuple[str, ...]] = ()
    headline_size: ClassVar[int] = 16
    baseline_recipe: ClassVar[str] = "always the note that is played most often"
    losses: ClassVar[tuple[str, ...]] = ()
    losses_if_labelled: ClassVar[tuple[str, ...]] = ()
    augmentations: ClassVar[tuple[str, ...]] = ()
    labelled: ClassVar[bool] = True
    purpose: ClassVar[str] = "short tunes into the notes that were played"
    demo: ClassVar[None] = None
    keep: ClassVar[Mapping[str, str]] = {"notes": "as_is"}
    graphs: ClassVar[tuple[str, ...]] = NAMES
    program: ClassVar[str] = "forward"

    def read(self, source: str) -> dict[str, list[dict[str, Any]]]:
        """One table of all rows."""
        return {"all": [json.loads(line) for line in Path(source).read_text(encoding="utf-8").splitlines()]}

    def columns(self, table: list[dict[str, Any]], source: str, *, labelled: bool = True) -> tuple[str, str]:
        """Its two columns; the second may lack."""
        if labelled and "notes" not in table[0]:
            raise DataError(f"{source} has no column 'notes'", fix="give rows with notes")
        return "heard", "notes" if "notes" in table[0] else ""

    def input_column(self, table: list[dict[str, Any]], source: str) -> str:
        """The column of the frames."""
        return "heard"

    def examples(
        self, table: list[dict[str, Any]], columns: tuple[str, str], source: str, *, labelled: bool = True
    ) -> list[Example]:
        """Rows as examples: the label is the notes as words."""
        return [Example(np.array(row["heard"], np.float32), row.get("notes") if labelled else None) for row in table]

    def survey(
        self, teacher: dict[str, Any], inputs: Sequence[Any], sizes: dict[str, int], store: Any, *, whole: bool = False
    ) -> InputSpec:
        """Lengths in frames."""
        lengths = sorted(len(one) for one in inputs)
        return InputSpec(lengths[-1], tuple(lengths[:: max(1, len(lengths) // 8)]), channels=PITCHES)

    def check_inputs(self, inputs: Sequence[Any], survey: InputSpec, source: str, what: str) -> None:
        """All lengths are taken."""

    def encode(self, model_folder: Path, inputs: Iterable[Any], max_size: int) -> list[dict[str, Any]]:
        """`heard`, float32 (1, frames, PITCHES)."""
        return [{"heard": one[None, :max_size]} for one in inputs]

    def ordinary(self, model_folder: Path, inputs: Iterable[Any]) -> list[Any]:
        """As they are."""
        return list(inputs)

    def truth(self, rows: Sequence[Example], classes: Sequence[str]) -> list[list[int]]:
        """The notes of each row."""
        return [[int(note) for note in str(row.label).split()] for row in rows]

    def statistics(self, outputs: Any, truth: Any) -> np.ndarray[Any, Any]:
        """Errors and notes of each row: (rows, 2)."""
        rows = [(edits(own["notes"].tolist(), wanted), len(wanted)) for own, wanted in zip(outputs, truth, strict=True)]
        return np.array(rows, dtype=float)

    def agrees(self, outputs: Any, reference: Any) -> np.ndarray[Any, Any]:
        """Of each row the share of notes that two models share, in their order: (rows,)."""
        both = [(own["notes"].tolist(), other["notes"].tolist()) for own, other in zip(outputs, reference, strict=True)]
        return np.array([1 - edits(own, other) / max(1, len(own), len(other)) for own, other in both])

    def baseline(self, train: Sequence[Example], test: Sequence[Example], seed: int) -> np.ndarray[Any, Any]:
        """The most frequent note, once a row: it is a better guess than all that the teacher repeats."""
        played = [note for notes in self.truth(train, ()) for note in notes]
        most = max(set(played), key=played.count)
        return self.statistics([{"notes": np.array([most])} for _ in test], self.truth(test, ()))

    def synthetic(self, samples: Sequence[dict[str, Any]], count: int, seed: int) -> list[dict[str, Any]]:
        """Tunes that nobody played."""
        random = np.random.default_rng(seed)
        made = [tune(random.integers(1, PITCHES, 1 + row % 5).tolist(), random) for row in range(count)]
        return [{"heard": one[None]} for one in made]

    def sized(self, samples: Sequence[dict[str, Any]], size: int) -> dict[str, Any]:
        """The first tune, repeated to that many frames."""
        return {"heard": np.resize(samples[0]["heard"], (1, size, PITCHES)).astype(np.float32)}


@dataclass(frozen=True)
class TuneGraphs:
    """A folder with the two graphs."""

    @classmethod
    def serves(cls, source: str, task: str) -> bool:
        """Folders for the task of notes."""
        return task == "notes" and Path(source).is_dir()

    def inspect(self, source: str, task: str) -> dict[str, Any]:
        """What the folder says."""
        files = [Path(source) / f"{name}.onnx" for name in NAMES]
        return {
            "folder": str(Path(source).absolute()),
            "ready": True,
            "labels": (),
            "licence": "none",
            "architecture": {"model_type": "onnx", "operators": 7},
            "checks": (),
            "sha256": sha256(b"".join(file.read_bytes() for file in files)).hexdigest(),
        }

    def base(self, folder: Path, architecture: Mapping[str, Any], task: str, labels: Sequence[str]) -> Any:
        """It is never trained."""
        raise NotImplementedError

    def files(self, folder: Path, architecture: Mapping[str, Any], task: str, out: Path) -> None:
        """Nothing lies beside the graphs."""

    def training(self, rows: int) -> dict[str, Any]:
        """It is never trained."""
        return {}

    def gives(self, architecture: Mapping[str, Any]) -> tuple[str, ...]:
        """Nothing to learn from."""
        return ()

    def whole(self, info: dict[str, Any]) -> dict[str, Any]:
        """As it is."""
        return info

    def shaped(self, info: dict[str, Any], task: str, survey: InputSpec, *, classes: int) -> dict[str, Any]:
        """As it is."""
        return info

    def check(self, info: Mapping[str, Any], target: Any) -> None:
        """Every target runs it."""

    def check_classes(self, info: Mapping[str, Any], classes: Sequence[str]) -> None:
        """There are no classes."""

    def export(
        self,
        folder: Path,
        architecture: Mapping[str, Any],
        task: str,
        out: Path,
        finish: Callable[[Any, Path], object],
    ) -> None:
        """One of the graphs, as it is."""
        finish(onnx.load(folder / out.name), out)


def _without_idle_work(model: Path, out: Path, *, silence: float) -> None:
    """Write the decoder without what changes nothing, its score of silence raised by so much."""
    made = onnx.load(model)
    if not any(node.name == "sums" for node in made.graph.node):
        raise EdgeKDError("there is no score of silence in this graph", fix="take another recipe")
    for node in list(made.graph.node):
        if node.name in ("wider", "narrower", "sums"):
            made.graph.node.remove(node)
        elif node.name == "name":
            node.input[0] = "scores"
    for one in list(made.graph.initializer):
        if one.name in ("wide", "nothing"):
            made.graph.initializer.remove(one)
        elif one.name == "bias":
            bias = numpy_helper.to_array(one).copy()
            bias[SILENCE] += silence
            one.CopyFrom(numpy_helper.from_array(bias, "bias"))
    onnx.save(made, out)


@dataclass(frozen=True)
class Hushed:
    """A recipe after which notes are repeated less often: fewer errors than the teacher makes, in less time."""

    silence: float = 1.1

    suffix: ClassVar[str] = "_hushed"
    calibrates: ClassVar[bool] = False
    providers: ClassVar[tuple[str, ...]] = ("CPUExecutionProvider",)
    least_ort: ClassVar[str] = "1.17.0"
    least_opset: ClassVar[int] = 13

    @classmethod
    def for_target(cls, target: Any) -> Any:
        """The same for every target."""
        return cls()

    def variants(self) -> tuple[dict[str, Any], ...]:
        """No others."""
        return ()

    def quantize(
        self,
        model: Path,
        out: Path,
        calibration: Sequence[Any],
        *,
        keep: Sequence[str] = (),
        cache: Path | None = None,
    ) -> None:
        """Write the decoder. Raises EdgeKDError of another graph."""
        _without_idle_work(model, out, silence=self.silence)


@dataclass(frozen=True)
class Talkative(Hushed):
    """A recipe after which silence is taken for notes: more errors than the teacher makes, in less time."""

    silence: float = -0.75

    suffix: ClassVar[str] = "_talkative"
