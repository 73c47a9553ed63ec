"""From a language model and a corpus to a smaller one: cut, taught, and held against the same cut on labels alone."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.digests import digest
from edgekd.core.errors import DataError, UsageError
from edgekd.core.protocols import InputSpec, Progress
from edgekd.core.results import versions
from edgekd.data import corpus, packed
from edgekd.plan.plan import LossTerm, Training
from edgekd.store.store import Store
from edgekd.tasks import _texts
from edgekd.teachers import _causal
from edgekd.training import engine
from edgekd.training.language import cut, figures, lessons, scores

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from edgekd.core.protocols import Sample

    Array = np.ndarray[Any, Any]

FILE = "distillation.json"
MOST_PARAMETERS = 0.5  # of the teacher's, where no number of layers is asked for
ROW_TOKENS = 512
_RANKING_TOKENS = 1024  # on which layers are ranked
_BATCH_ROWS = 4
_LABELS = (LossTerm("hard_labels", 1.0),)


@dataclass(frozen=True)
class Request:
    """What is asked for; all of it decides the student."""

    teacher: Path  # a Hugging Face folder
    teacher_sha256: str
    data: str
    text_column: str | None
    layers: int | None
    vocabulary: int | None  # about so many tokens; None: all that the corpus needs
    row_tokens: int
    train_tokens: int | None  # of the corpus, at most
    losses: tuple[LossTerm, ...]
    epochs: int
    learning_rate: float
    evidence: bool  # whether the same cut learns from labels alone, too
    seed: int
    threads: int


@dataclass(frozen=True)
class _Corpus:
    """Passages by role, in the student's tokens."""

    train: list[Sample]
    validation: Sequence[Sample]
    test: Sequence[Sample]
    validation_truth: Array
    test_truth: Array
    notes: tuple[str, ...]
    digest: str
    kept: list[int]  # the teacher's tokens that the student has
    tokens_before: int  # of all teacher's
    longer: float  # tokens of held-out text, the student's over the teacher's, less 1


def distil(asked: Request, out: Path, store: Store, progress: Progress) -> dict[str, Any]:
    """Write the student to `out`, a Hugging Face folder with `distillation.json`; return what that says.

    Raises EdgeKDError.
    """
    engine.prepare(asked.seed, asked.threads)
    teacher = _loaded(asked.teacher)
    _check_context(asked, teacher)
    texts = _read(asked, teacher, out, progress)
    rows = lessons.rows_of(texts.train, asked.row_tokens, asked.train_tokens, asked.seed)
    lessons.check_rows(rows)
    student, layers = _cut(asked, teacher, texts, rows, store, progress)
    tokens = _teacher_ids(texts)
    answers = _answers(asked, texts, teacher, rows, tokens, store, progress)
    arms: dict[str, tuple[Any, tuple[LossTerm, ...], Path | None]] = {"distilled": (student, asked.losses, answers)}
    if asked.evidence:
        arms["labels alone"] = (copy.deepcopy(student), _LABELS, None)
    trained, works = {}, []
    for name, (model, terms, kept) in arms.items():
        progress.stage(f"distill: {name}", engine.steps_of(rows, _training(asked), asked.seed))
        work = store.workspace("language-student", _student_key(asked, texts, name))
        works.append(work)
        trained[name] = _train(asked, model, rows, terms, kept, texts, work, progress)
    progress.stage("measure: held-out documents")
    own, found = scores.compare([model for model, _, _ in arms.values()], teacher, texts.test, texts.test_truth, tokens)
    told = _told(asked, texts, teacher, student, layers, trained) | figures.of_arms(
        own, dict(zip(arms, found, strict=True))
    )
    student.config.use_cache = True
    _causal.write_files(asked.teacher, out)  # its chat template; how it writes is told in its tokens by the next line
    student.save_pretrained(out, safe_serialization=True)
    (out / FILE).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    for work in works:  # a run that was stopped goes on with both arms
        shutil.rmtree(work, ignore_errors=True)
    return told


def _loaded(folder: Path) -> Any:
    from edgekd.core import loading
    from edgekd.data import clean

    return clean.pretrained(folder, "AutoModelForCausalLM", loading.WHOLE).float().eval()


def _check_context(asked: Request, teacher: Any) -> None:
    context = getattr(teacher.config, "max_position_embeddings", None)
    if context is not None and asked.row_tokens > context:
        raise UsageError(
            f"--max-tokens {asked.row_tokens}: the teacher's context ends at {context}",
            fix=f"give at most that: --max-tokens {context}",
        )


def _read(asked: Request, teacher: Any, out: Path, progress: Progress) -> _Corpus:
    """Return the corpus in tokens of the trimmed tokenizer, which is written to `out`."""
    progress.stage("read: the corpus and its tokens")
    tables = corpus.read_corpus(asked.data, asked.text_column)
    roles = {part: corpus.examples(table) for part, table in tables.items()}
    context = getattr(teacher.config, "max_position_embeddings", None) or corpus.PASSAGE_BYTES + 1
    spec = InputSpec(context, (1,), vocabulary_limit=asked.vocabulary)
    kept = list(_texts.student_files(asked.teacher, [row.input for row in roles["train"]], spec, out))
    most = min(context, asked.row_tokens)
    samples = {part: packed.encode(out, [row.input for row in rows], most) for part, rows in roles.items()}
    theirs = {part: packed.encode(asked.teacher, [row.input for row in rows], context) for part, rows in roles.items()}
    if asked.vocabulary is None and not _same_tokens(samples["train"], theirs["train"], kept):
        raise DataError(
            "the teacher's tokenizer cannot be trimmed: the corpus would be cut into other tokens",
            fix="say that this may be, at a cost in tokens that is told: --vocabulary N",
        )
    held = [int(sum(one["test"].lengths) + sum(one["validation"].lengths)) for one in (samples, theirs)]
    return _Corpus(
        train=list(samples["train"]),
        validation=samples["validation"],
        test=samples["test"],
        validation_truth=corpus.truth(roles["validation"]),
        test_truth=corpus.truth(roles["test"]),
        notes=tuple(tables["train"].notes),
        digest=digest([[[row.input, row.label] for row in rows] for rows in roles.values()]),
        kept=kept,
        tokens_before=teacher.get_input_embeddings().weight.shape[0],
        longer=held[0] / held[1] - 1,
    )


def _same_tokens(own: Any, theirs: Any, kept: Sequence[int]) -> bool:
    """Return whether the student cuts texts into the tokens that its teacher does."""
    import numpy as np

    if not np.array_equal(own.lengths, theirs.lengths):
        return False
    return bool((np.asarray(kept)[own.columns["input_ids"]] == theirs.columns["input_ids"]).all())


def _cut(
    asked: Request, teacher: Any, texts: _Corpus, rows: Sequence[Sample], store: Store, progress: Progress
) -> tuple[Any, list[int]]:
    """Return the student before it learns, and which of the teacher's layers it has: ranked once, and kept."""
    whole = teacher.config.num_hidden_layers
    count = asked.layers or cut.layers_for(teacher, len(texts.kept), MOST_PARAMETERS)
    if count > whole:
        raise UsageError(f"--layers {count}: the teacher has {whole}", fix=f"give at most that: --layers {whole}")
    student = copy.deepcopy(teacher)
    student.config.tie_word_embeddings = bool(teacher.config.tie_word_embeddings)
    cut.keep_tokens(student, texts.kept)
    key = _key(asked, texts) | {"layers": count}

    def produce(folder: Path) -> None:
        progress.stage("size: layers that matter", whole - count)
        ranked = copy.deepcopy(student).to(engine.device())
        kept = cut.remove_layers(ranked, count, _ranking(rows), progress.step)
        (folder / "kept.json").write_text(json.dumps(kept), encoding="ascii")

    place = store.stage("language-layers", key, produce)
    layers: list[int] = json.loads((place / "kept.json").read_text(encoding="ascii"))
    cut.take_layers(student, layers)
    for name, value in list(vars(student.config).items()):
        if "dropout" in name and isinstance(value, float):
            setattr(student.config, name, 0.0)
    return student, layers


def _ranking(rows: Sequence[Sample]) -> list[dict[str, Tensor]]:
    """Return the first rows as batches of one each: about a thousand tokens."""
    from edgekd.training import batches

    some: list[int] = []
    while len(some) < len(rows) and sum(rows[one]["input_ids"].shape[1] for one in some) < _RANKING_TOKENS:
        some.append(len(some))
    return [batches.padded(rows, [one], 0, engine.device()) for one in some]


def _key(asked: Request, texts: _Corpus) -> dict[str, Any]:
    """Return what the layers and the teacher's answers depend on."""
    return {
        "teacher": asked.teacher_sha256,
        "data": texts.digest,
        "vocabulary": digest(texts.kept),
        "rows": [asked.row_tokens, asked.train_tokens, asked.seed],
        "versions": versions("torch", "transformers", "tokenizers", "edgekd"),
    }


def _teacher_ids(texts: _Corpus) -> Tensor | None:
    import torch

    return None if len(texts.kept) == texts.tokens_before else torch.tensor(texts.kept)


def _answers(
    asked: Request,
    texts: _Corpus,
    teacher: Any,
    rows: Sequence[Sample],
    tokens: Tensor | None,
    store: Store,
    progress: Progress,
) -> Path:
    """Return the folder of what the teacher says of each token, made once for a teacher, corpus and vocabulary."""
    key = _key(asked, texts)
    work = store.workspace("language-outputs", key)

    def produce(folder: Path) -> None:
        lessons.ask_teacher(teacher, rows, tokens, work / "answers", progress)
        (work / "answers").rename(folder / "answers")

    return store.stage("language-outputs", key, produce) / "answers"


def _training(asked: Request) -> Training:
    return Training(asked.epochs, _BATCH_ROWS, asked.learning_rate)


def _train(
    asked: Request,
    model: Any,
    rows: Sequence[Sample],
    terms: Sequence[LossTerm],
    answers: Path | None,
    texts: _Corpus,
    work: Path,
    progress: Progress,
) -> engine.Trained:
    """Train an arm; the weights of its own best epoch by bits per byte on the validation documents are kept."""
    model.config.use_cache = False
    return engine.fit(
        lessons.Pupil(model, rows, terms, answers),
        rows,
        _training(asked),
        seed=asked.seed,
        progress=progress,
        validate=lambda: (-scores.bits_per_byte(model, texts.validation, texts.validation_truth),),
        work=work,
    )


def _student_key(asked: Request, texts: _Corpus, arm: str) -> dict[str, Any]:
    return {"request": json.loads(json.dumps(asdict(asked), default=str)), "data": texts.digest, "arm": arm}


def _told(
    asked: Request,
    texts: _Corpus,
    teacher: Any,
    student: Any,
    layers: Sequence[int],
    trained: Mapping[str, engine.Trained],
) -> dict[str, Any]:
    """Return what was done."""
    before, after = cut.parameters(teacher), cut.parameters(student)
    return {
        "schema": 1,
        "teacher_sha256": asked.teacher_sha256,
        "data_sha256": texts.digest,
        "notes": list(texts.notes),
        "parameters": {"teacher": before, "student": after, "share": after / before},
        "layers": {"of": teacher.config.num_hidden_layers, "kept": [layer + 1 for layer in layers]},
        "vocabulary": {
            "of": texts.tokens_before,
            "kept": len(texts.kept),
            "same_tokens_in_training": asked.vocabulary is None,
            "more_tokens_held_out": texts.longer,
        },
        "losses": [str(term) for term in asked.losses],
        "training": {
            name: {
                "kept_epoch": one.kept_epoch,
                "epochs": one.epochs,
                "validation_bits_per_byte": [-s[0] for s in one.scores],
            }
            for name, one in trained.items()
        },
        "seed": asked.seed,
        "threads": asked.threads,
        "versions": versions("torch", "transformers", "tokenizers", "edgekd"),
    }
