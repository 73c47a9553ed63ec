"""From a Whisper and recordings to a smaller one: cut, taught what the whole one writes, held against it untaught."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.digests import digest
from edgekd.core.errors import UsageError
from edgekd.core.metrics import CER, SAME_WORDS, WER, Change
from edgekd.core.protocols import Progress
from edgekd.core.registry import make, plugin
from edgekd.core.results import versions
from edgekd.data import limits, transcripts
from edgekd.data.merges import completed
from edgekd.data.splits import Example, Splits
from edgekd.onboard import programs
from edgekd.onboard.logmel import log_mel
from edgekd.plan.inputs import read_splits
from edgekd.plan.plan import LossTerm, Plan, Training
from edgekd.store.store import Store
from edgekd.students.whisper import LEAST_WINDOW_S, Whisper
from edgekd.training import batches, engine
from edgekd.training.learner import Learner
from edgekd.training.speech import lessons, shape
from edgekd.training.speech.lessons import Heard, Lessons
from edgekd.training.speech.listener import Listener
from edgekd.training.speech.pseudo_labels import Rules

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

FILE, TRAINING = "distillation.json", "training.json"
DECODER_LAYERS = 2  # where no number is asked for
DISTILLED, UNTAUGHT = "distilled", "not distilled"
_ROLES = ("train", "selection")  # of lessons: what is learned from, and what picks an epoch


@dataclass(frozen=True)
class Request:
    """What is asked for; all of it decides the student."""

    task: str
    kind: str  # the plug-in that knows the teacher
    info: dict[str, Any]  # what inspecting the teacher said
    data: str
    label_column: str | None
    unlabelled: str | None
    encoder_layers: int | None  # None: all
    layers: int | None  # of the decoder
    window: int | None  # seconds
    losses: tuple[LossTerm, ...]
    epochs: int | None
    learning_rate: float
    cache_mib: int
    seed: int
    threads: int
    language: str | None = None  # that is spoken; None: the likeliest of each recording

    @property
    def folder(self) -> Path:
        """The teacher's."""
        return Path(self.info["folder"])


@dataclass(frozen=True)
class _Cut:
    """What the student keeps of its teacher."""

    encoder_layers: int
    decoder_layers: int
    window_s: int


def distil(asked: Request, out: Path, store: Store, progress: Progress) -> dict[str, Any]:
    """Write the student to `out`, a Hugging Face folder with `distillation.json`; return what that says.

    Raises EdgeKDError.
    """
    progress.stage("read: the recordings")
    splits = _read(asked)
    untaught: list[Heard] = []

    def keep(before: Heard) -> None:
        own = before.encoder is before.model.model.encoder
        untaught.append(replace(before, model=copy.deepcopy(before.model), encoder=None if own else before.encoder))

    heard, student, told = _taught(asked, splits, store, progress, before=keep)
    shared = heard.encoder if untaught[0].encoder is heard.encoder else None
    progress.stage("measure: held-out recordings", None)
    models = {"teacher": heard, DISTILLED: replace(heard, model=student, encoder=shared), UNTAUGHT: untaught[0]}
    texts = _texts(models, splits.test)
    told |= figures(texts, [row.label for row in splits.test] if splits.test_labelled else None)
    _write(asked, student, out)
    (out / FILE).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return told


def teach(plan: Plan, splits: Splits, cut: Mapping[str, int], store: Store, out: Path, progress: Progress) -> None:
    """Write the student that keeps so much of the plan's teacher into `out`, and how it went into `training.json`.

    Raises EdgeKDError.
    """
    schedule = plan.student.schedule
    asked = Request(
        task=plan.task,
        kind=plan.teacher.kind,
        info={name: getattr(plan.teacher, name) for name in ("folder", "sha256", "architecture")},
        data=plan.data.digest,
        label_column=None,
        unlabelled=None,
        encoder_layers=cut["encoder_layers"],
        layers=cut["decoder_layers"],
        window=cut["window_s"],
        losses=plan.student.losses,
        epochs=schedule.epochs,
        learning_rate=schedule.learning_rate,
        cache_mib=round(plan.cache_mib),
        seed=plan.seed,
        threads=plan.threads,
    )
    _, student, told = _taught(asked, splits, store, progress)
    _write(asked, student, out)
    trained = told["training"]
    kept = {"rows": trained["lessons"], "lessons": told["lessons"], "parameters": told["parameters"]}
    (out / TRAINING).write_text(json.dumps(trained | kept, indent=1) + "\n", encoding="utf-8")


def _taught(
    asked: Request,
    splits: Splits,
    store: Store,
    progress: Progress,
    before: Callable[[Heard], None] = lambda heard: None,
) -> tuple[Heard, Any, dict[str, Any]]:
    """Return how the teacher listens, the student that learned from it, and what is told of that.

    `before` is called with the student before it learns.
    """
    engine.prepare(asked.seed, asked.threads)
    teacher = _loaded(asked)
    kept = _cut(asked, Whisper.of(teacher.config))
    listening = shape.cut(teacher, **asdict(kept) | _layers_of(teacher))
    heard = _heard(asked, listening)
    learns = kept.encoder_layers < teacher.config.encoder_layers
    folder = _lessons(asked, splits, heard, store, progress, states=not learns)
    student = shape.cut(teacher, **asdict(kept))
    before(replace(heard, model=student, encoder=None if learns else heard.encoder))
    trained, rows = _train(asked, student, splits, heard, folder, store, progress, encoder_learns=learns)
    told = _told(asked, splits, kept, teacher, student, trained, rows)
    told["lessons"] = {role: json.loads((folder / role / lessons.SAID).read_text(encoding="utf-8")) for role in _ROLES}
    return heard, student, told


def _read(asked: Request) -> Splits:
    kind: Any = plugin("tasks", asked.task)
    task = kind(label_column=asked.label_column)
    splits, _ = read_splits(
        task,
        asked.data,
        unlabelled=asked.unlabelled,
        calibration=None,
        labels=None,
        seed=asked.seed,
        known=None,
        outputs=0,
        compressed=False,
        demo=False,
    )
    return splits


def _loaded(asked: Request) -> Any:
    from edgekd.core import loading
    from edgekd.data import clean

    auto_model = plugin("tasks", asked.task).hub.auto_model
    return clean.pretrained(asked.folder, auto_model, loading.WHOLE).float().eval()


def _cut(asked: Request, whole: Whisper) -> _Cut:
    """Return what is kept. Raises UsageError for what the teacher has not."""
    kept = _Cut(
        encoder_layers=asked.encoder_layers or whole.encoder_layers,
        decoder_layers=asked.layers or min(DECODER_LAYERS, whole.decoder_layers),
        window_s=asked.window or min(LEAST_WINDOW_S, whole.window_s),
    )
    shape.check(whole, **asdict(kept))
    return kept


def _layers_of(model: Any) -> dict[str, int]:
    return {name: getattr(model.config, name) for name in ("encoder_layers", "decoder_layers")}


def _heard(asked: Request, model: Any) -> Heard:
    """Return how a model listens: as the program does that will run it on a device."""
    kind: Any = plugin("tasks", asked.task)
    model.processor_folder = asked.folder
    exporter: Any = make("exporters", kind.hub.exporter)
    program = programs.open_program(kind.program, exporter.sessions(model))
    own = Whisper.of(model.config)
    frames = 2 * own.positions
    return Heard(
        model,
        Rules.read(_in_language(program.settings, asked.language)),
        lambda samples: log_mel(samples, own.mels, frames),
        program.text,
        own.window_s,
        _tokens(asked.folder, program.settings["end"]),
    )


def _in_language(settings: dict[str, Any], language: str | None) -> dict[str, Any]:
    """Return the program's settings with the language that is spoken. Raises UsageError for one that it has not."""
    if language is None:
        return settings
    known = settings["languages"]
    if not known:
        raise UsageError(f"--language {language}: the teacher knows one language alone", fix="leave --language out")
    code = f"<|{language}|>"
    if code not in known:
        codes = ", ".join(sorted(one.strip("<|>") for one in known))
        raise UsageError(f"--language {language!r:.20} is none of the teacher's", fix=f"give one of: {codes}")
    start, *rest = (one for one in settings["prompt"] if one not in known.values())
    return settings | {"language": code, "prompt": [start, known[code], *rest]}


def _tokens(folder: Path, end: int) -> Callable[[str], list[int]]:
    """Return how a text becomes tokens; one that spells a special token becomes none."""
    from tokenizers import Tokenizer

    content = limits.read_object(folder / "tokenizer.json")
    model = content["model"]
    merges = [" ".join(pair) for pair in completed(model["vocab"], model["merges"])]
    tokenizer = Tokenizer.from_str(json.dumps({**content, "model": {**model, "merges": merges}}))

    def tokens(text: str) -> list[int]:
        ids = tokenizer.encode(f" {text.strip()}", add_special_tokens=False).ids
        return list(ids) if all(one < end for one in ids) else []

    return tokens


def _lessons(asked: Request, splits: Splits, heard: Heard, store: Store, progress: Progress, *, states: bool) -> Path:
    """Return the folder of what the teacher wrote, made once for a teacher, recordings and a window."""
    rows = {role: _rows(splits, role, heard.window_s) for role in _ROLES}
    key = {
        "teacher": asked.info["sha256"],
        "rows": digest([[[row.identity, row.label] for row in own] for own in rows.values()]),
        "window_s": heard.window_s,
        "states": states,
        "rules": asdict(heard.rules),
        "trusted": lessons.SCHEMA,
        "versions": versions("torch", "transformers", "edgekd"),
    }
    work = store.workspace("speech-lessons", key)

    def produce(folder: Path) -> None:
        progress.stage("teach: the teacher transcribes", sum(map(len, rows.values())))
        before = 0
        for role, own in rows.items():
            lessons.write_lessons(
                heard,
                own,
                work / role,
                states=states,
                limit_mib=asked.cache_mib,
                progress=progress,
                before=before,
            )
            before += len(own)
        for role in rows:
            (work / role).rename(folder / role)

    return store.stage("speech-lessons", key, produce)


def _rows(splits: Splits, role: str, window_s: int) -> list[Example]:
    return lessons.pieces(splits.known if role == "train" else splits.selection, window_s)


def _train(
    asked: Request,
    student: Any,
    splits: Splits,
    heard: Heard,
    folder: Path,
    store: Store,
    progress: Progress,
    *,
    encoder_learns: bool,
) -> tuple[engine.Trained, int]:
    """Train the student in place; return how it went, and how many lessons it learned from."""
    size = student.config.vocab_size
    taught = {
        role: Lessons(folder / role, _rows(splits, role, heard.window_s), heard.features, size) for role in _ROLES
    }
    network = Listener(student, encoder_learns=encoder_learns)
    learner = Learner(network, asked.losses, taught["train"].targets)
    judge = Learner(network, asked.losses, taught["selection"].targets)
    usual = Whisper.training(len(taught["train"]))
    training = Training(asked.epochs or usual["epochs"], usual["batch_size"], asked.learning_rate)
    key = {"request": json.loads(json.dumps(asdict(asked), default=str)), "data": splits.digest}
    work = store.workspace("speech-student", key)
    progress.stage("distill: the student learns", engine.steps_of(taught["train"], training, asked.seed))
    trained = engine.fit(
        learner,
        taught["train"],
        training,
        seed=asked.seed,
        progress=progress,
        validate=lambda: (-_mean_loss(judge, taught["selection"]),),
        work=work,
    )
    shutil.rmtree(work, ignore_errors=True)
    return trained, len(taught["train"])


def _mean_loss(learner: Learner, taught: Lessons) -> float:
    """Return the mean loss of all lessons, each token counting once."""
    import torch

    total, tokens = 0.0, 0
    network = learner.model
    for rows in batches.by_length(range(len(taught)), taught.lengths, batches.tokens_of(taught.lengths, 32)):
        with torch.no_grad():
            loss = float(learner(batches.padded(taught, rows, engine.pad_of(network), network.device), rows))
        count = int(taught.lengths[rows].sum())
        total, tokens = total + loss * count, tokens + count
    return total / max(1, tokens)


def _texts(models: Mapping[str, Heard], rows: Sequence[Example]) -> dict[str, list[str]]:
    """Return what each model writes about each recording; those longer than the window are cut at silences."""
    window_s = next(iter(models.values())).window_s
    parts = [lessons.pieces([Example(row.input)], window_s) for row in rows]
    ends = [sum(map(len, parts[: row + 1])) for row in range(len(parts))]
    return {
        name: [" ".join(written[end - len(own) : end]).strip() for own, end in zip(parts, ends, strict=True)]
        for name, written in lessons.transcribed(models, [piece for own in parts for piece in own]).items()
    }


def figures(texts: Mapping[str, Sequence[str]], said: Sequence[Any] | None) -> dict[str, Any]:
    """Return the figures of each model's texts: errors against what was `said`, or agreement with the teacher.

    Intervals are by recording, differences from the teacher paired by it, in points: above 0 is worse. `texts` has
    those of `teacher` and of the students. Loops and empty texts are counted.
    """
    told: dict[str, Any] = {"recordings": len(texts["teacher"]), "labelled": said is not None, "arms": {}}
    told["smoke_test"] = told["recordings"] < transcripts.FEW
    if said is not None:
        rows = {name: transcripts.errors(own, [str(one) for one in said]) for name, own in texts.items()}
    for name, own in texts.items():
        arm: dict[str, Any] = {
            "loops": sum(map(transcripts.has_loop, own)),
            "empty": sum(not text.strip() for text in own),
        }
        if said is not None:
            arm["word_error_rate"] = _figure(WER, rows[name])
            arm["character_error_rate"] = _figure(CER, rows[name])
            if name != "teacher":
                arm["points_lost"] = _change(WER.lost(rows[name], rows["teacher"]))
        if name != "teacher":
            arm["word_agreement"] = _figure(SAME_WORDS, transcripts.agreement(own, texts["teacher"]))
        told["arms"][name] = arm
    return told


def _figure(metric: Any, rows: Array) -> dict[str, Any]:
    return {"value": metric.value(rows), "interval": list(metric.interval(rows))}


def _change(change: Change) -> dict[str, Any]:
    return {"value": change.points, "interval": [change.low, change.high]}


def _told(
    asked: Request,
    splits: Splits,
    kept: _Cut,
    teacher: Any,
    student: Any,
    trained: engine.Trained,
    rows: int,
) -> dict[str, Any]:
    """Return what was done."""
    sizes = {"teacher": Whisper.of(teacher.config), "student": Whisper.of(student.config)}
    return {
        "schema": 1,
        "task": asked.task,
        "teacher_sha256": asked.info["sha256"],
        "data_sha256": splits.digest,
        "notes": list(splits.notes),
        "rows": splits.counts,
        "kept": asdict(kept) | {"of": asdict(sizes["teacher"])},
        "parameters": {name: own.parameters() for name, own in sizes.items()},
        "multiply_adds": {name: own.multiply_adds() for name, own in sizes.items()},
        "cache_mib": {name: own.cache_mib() for name, own in sizes.items()},
        "losses": [str(term) for term in asked.losses],
        "training": {
            "lessons": rows,
            "kept_epoch": trained.kept_epoch,
            "epochs": trained.epochs,
            "validation_loss": [-score[0] for score in trained.scores],
        },
        "seed": asked.seed,
        "threads": asked.threads,
        "versions": versions("torch", "transformers", "edgekd"),
    }


def _write(asked: Request, student: Any, out: Path) -> None:
    """Write weights and config, and beside them what the teacher has: tokenizer, how to generate, log-mel."""
    student.save_pretrained(out, safe_serialization=True)
    source: Any = make("teachers", asked.kind)
    source.files(asked.folder, asked.info["architecture"], asked.task, out)
    student.config.save_pretrained(out)
    source.files(out, asked.info["architecture"], asked.task, out)  # the log-mel of its own window
    if asked.language is not None:
        file = out / "generation_config.json"
        told = json.loads(file.read_text(encoding="utf-8")) | {"language": f"<|{asked.language}|>"}
        file.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
