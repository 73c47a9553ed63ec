"""Token classification: a text in, a tag for each of its words out: names, personal data, parts of speech.

Predictions and truth are by words, whatever a tokenizer makes of them: a word's tag is that of its first piece. What is
counted are spans; a tag of no scheme, as parts of speech have, is a span of one word, and F1 is the accuracy then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgekd.core.demo import Demo
from edgekd.core.metrics import Metric, micro_f1
from edgekd.core.predictions import WORDS
from edgekd.core.protocols import PER_WORD, Hub, InputSpec
from edgekd.core.tensors import NO_LABEL
from edgekd.data import tagged_rows
from edgekd.data.read import Table
from edgekd.data.splits import Example
from edgekd.data.tagged_files import read_tagged
from edgekd.data.tags import OUTSIDE, Span, Tags, Words, continued, in_scheme, kinds_of, spans_of
from edgekd.data.tokens import Tokens, tokenize
from edgekd.store.store import Store
from edgekd.tasks import _texts

if TYPE_CHECKING:
    import numpy as np

    from edgekd.core.predictions import Predictions
    from edgekd.core.protocols import Sample

    Array = np.ndarray[Any, Any]

SPAN_F1 = Metric("span_f1", reduce=micro_f1)
SAME_SPANS = Metric("span_agreement", of_teacher="span F1 to the spans of", reduce=micro_f1)


@dataclass(frozen=True)
class TokenClassification:
    """Columns are inferred from their names where they are not given. `classes` are the model's, once it is known."""

    text_column: str | None = None
    label_column: str | None = None
    classes: tuple[str, ...] = ()

    metric: ClassVar[Metric] = SPAN_F1
    fidelity: ClassVar[Metric] = SAME_SPANS
    ragged: ClassVar[bool] = True
    one_of_classes: ClassVar[bool] = False
    problem_type: ClassVar[str] = PER_WORD
    families: ClassVar[tuple[str, ...]] = ("transformer",)
    modality: ClassVar[str] = "text"
    hub: ClassVar[Hub] = Hub(
        task="token-classification",
        auto_model="AutoModelForTokenClassification",
        onnx_loader="ORTModelForTokenClassification",
        processor="AutoTokenizer",
        processor_options={"truncation": True},
        in_javascript=True,
    )
    unit: ClassVar[str] = "tokens"
    sizes: ClassVar[tuple[str, ...]] = ("tokens", "vocabulary")
    headline_size: ClassVar[int] = 32  # tokens at which peak RSS is quoted
    baseline_recipe: ClassVar[str] = "the most frequent tag of each word in the labelled rows"
    losses: ClassVar[tuple[str, ...]] = ("response=0.9", "hard_labels=0.1")
    losses_if_labelled: ClassVar[tuple[str, ...]] = ("response=0.5", "hard_labels=0.5")
    augmentations: ClassVar[tuple[str, ...]] = ()
    labelled: ClassVar[bool] = True
    purpose: ClassVar[str] = "the words of texts into {classes} tags"
    demo: ClassVar[Demo | None] = None
    keep: ClassVar[Mapping[str, str]] = {"logits": "words"}
    network: ClassVar[Mapping[str, str]] = {"logits": "as_is"}
    graphs: ClassVar[tuple[str, ...]] = ("model",)
    program: ClassVar[str] = "forward"

    def read(self, source: str) -> dict[str, Table]:
        """Tables by split: CoNLL files, or tables with tokens and tags, or a text and its spans. Raises DataError."""
        return read_tagged(source)

    def columns(self, table: Table, source: str, *, labelled: bool = True) -> tuple[str, str]:
        """The words' or text's and the tags' or spans' column; that may lack (empty). Raises DataError."""
        words = self.input_column(table, source)
        others = [column for column in table[0] if column != words]
        return words, tagged_rows.find_tags(self.label_column, others, source, needed=labelled)

    def input_column(self, table: Table, source: str) -> str:
        """The column of the words, or of the text. Raises DataError, naming the columns there are."""
        return tagged_rows.find_input(self.text_column, list(table[0]), source)

    def examples(self, table: Table, columns: tuple[str, str], source: str, *, labelled: bool = True) -> list[Example]:
        """Rows as examples: a text that knows its words, and `Tags`. Rows without words are refused."""
        words, tags = columns
        return [
            tagged_rows.example(row.get(words), row.get(tags) if labelled else None, f"{source}, row {number}")
            for number, row in enumerate(table, start=1)
        ]

    def survey(
        self, teacher: dict[str, Any], texts: Sequence[str], sizes: dict[str, int], store: Store, *, whole: bool = False
    ) -> InputSpec:
        """Tokens of the texts and of the vocabulary that they need. `sizes` may say `tokens` and `vocabulary`."""
        return _texts.survey(teacher, texts, sizes, store, whole=whole)

    def check_inputs(self, inputs: Sequence[Any], survey: InputSpec, source: str, what: str) -> None:
        """Nothing: longer texts are cut."""

    def student_files(
        self, teacher_folder: Path, texts: Iterable[str], survey: InputSpec, shape: Any, out: Path
    ) -> Any:
        """Write the trimmed tokenizer to `out`; the teacher's token ids that it keeps, ascending."""
        return _texts.student_files(teacher_folder, texts, survey, out, shape)

    def encode(self, model_folder: Path, texts: Iterable[str], max_size: int) -> Tokens:
        """Model inputs of each text, unpadded, and `words`, the word of each token: int64 arrays (1, tokens)."""
        return tokenize(model_folder, [Words.of_text(text) for text in texts], max_size, words=True)

    def ordinary(self, model_folder: Path, inputs: Iterable[str]) -> list[str]:
        """The texts as the ecosystem's loaders take them."""
        return [str(text) for text in inputs]

    def named(self, classes: Sequence[str]) -> TokenClassification:
        """Return the task for a model with these classes."""
        return replace(self, classes=tuple(classes))

    def label_names(self) -> tuple[str, ...]:
        """Return the kinds of spans that the model's tags spell."""
        return kinds_of(self.classes)

    def truth(self, rows: Sequence[Example], classes: Sequence[str]) -> list[Array]:
        """Return each row's class numbers by words, NO_LABEL where unknown: in the scheme of the model's classes."""
        import numpy as np

        numbers = {name: number for number, name in enumerate(classes)}
        found = []
        for row in rows:
            text = Words.of_text(row.input)
            tags: Sequence[str | None] = [None] * len(text.places)
            if row.label is not None:
                tags = in_scheme(Tags(row.label), classes)
            found.append(np.array([NO_LABEL if tag is None else numbers[tag] for tag in tags], dtype=np.int64))
        return found

    def targets(self, truth: Sequence[Array], samples: Sequence[Sample]) -> list[Array]:
        """Return each position's class: a word's at its first piece, what continues it at later ones; else NO_LABEL."""
        import numpy as np

        numbers = {name: number for number, name in enumerate(self.classes)}
        later = np.array([numbers[continued(name, numbers)] for name in self.classes], dtype=np.int64)
        found = []
        for wanted, sample in zip(truth, samples, strict=True):
            words = sample[WORDS][0]
            own = np.where(words >= 0, wanted[words.clip(0)], NO_LABEL)
            repeated = np.append(False, words[1:] == words[:-1]) & (own != NO_LABEL)
            own[repeated] = later[own[repeated]]
            found.append(own)
        return found

    def statistics(self, outputs: Predictions, truth: Sequence[Array]) -> Array:
        """Return per row the spans rightly found, wrongly found, and missed: (rows, 3)."""
        return _counts(self._spans(outputs), [self._spans_of(wanted) for wanted in truth])

    def agrees(self, outputs: Predictions, reference: Predictions) -> Array:
        """Return the same counts against another model's spans: (rows, 3).

        Where nobody told the classes, the one that the reference says most often counts as outside of all spans, and
        each other word as a span.
        """
        if self.classes:
            return _counts(self._spans(outputs), self._spans(reference))
        both = [[row["logits"].argmax(axis=-1) for row in rows] for rows in (outputs, reference)]
        often = Counter(number for row in both[1] for number in row.tolist()).most_common(1)
        outside = often[0][0] if often else 0
        own, wanted = (
            [spans_of(OUTSIDE if one == outside else f"#{one}" for one in row.tolist()) for row in rows]
            for rows in both
        )
        return _counts(own, wanted)

    def finds(self, outputs: Predictions) -> int:
        """Return how many spans these outputs have."""
        return sum(map(len, self._spans(outputs)))

    def recalls(self, outputs: Predictions, truth: Sequence[Array]) -> list[float | None]:
        """Return the share of each kind's spans that is found; None of a kind without spans."""
        there, found = Counter[str](), Counter[str]()
        for own, wanted in zip(self._spans(outputs), map(self._spans_of, truth), strict=True):
            there.update(span.kind for span in wanted)
            found.update(span.kind for span in set(own) & set(wanted))
        return [found[kind] / there[kind] if there[kind] else None for kind in self.label_names()]

    def baseline(self, train: Sequence[Example], test: Sequence[Example], seed: int) -> Array:
        """Return the same counts of a dictionary: each word's most frequent tag, of unknown ones the most frequent."""
        seen: dict[str, Counter[str]] = {}
        every = Counter[str]()
        for row in train:
            for word, tag in zip(_words(row), row.label or (), strict=False):
                seen.setdefault(word, Counter())[tag] += 1
                every[tag] += 1
        usual = every.most_common(1)[0][0] if every else OUTSIDE
        best = {word: counts.most_common(1)[0][0] for word, counts in seen.items()}
        own = [spans_of([best.get(word, usual) for word in _words(row)]) for row in test]
        return _counts(own, [spans_of(row.label or ()) for row in test])

    def synthetic(self, samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
        """Golden inputs that are nobody's text: tokens drawn at random, each of them a word."""
        return [_each_a_word(sample) for sample in _texts.synthetic(samples, count, seed)]

    def sized(self, samples: Sequence[Sample], size: int) -> Sample:
        """One sample of exactly `size` tokens, made by repeating the inner tokens of a real one."""
        return _each_a_word(_texts.sized(samples, size))

    def _spans(self, outputs: Predictions) -> list[list[Span]]:
        return [self._spans_of(row["logits"].argmax(axis=-1)) for row in outputs]

    def _spans_of(self, numbers: Array) -> list[Span]:
        return spans_of(self.classes[number] if number >= 0 else OUTSIDE for number in numbers.tolist())


def _words(row: Example) -> list[str]:
    text = Words.of_text(row.input)
    return [text[start:end] for start, end in text.places]


def _counts(own: Sequence[Sequence[Span]], wanted: Sequence[Sequence[Span]]) -> Array:
    """Return per row the spans in both, in the first alone, in the second alone: (rows, 3)."""
    import numpy as np

    both = [len(set(one) & set(other)) for one, other in zip(own, wanted, strict=True)]
    rows = [(right, len(one) - right, len(other) - right) for right, one, other in zip(both, own, wanted, strict=True)]
    return np.array(rows, dtype=float).reshape(-1, 3)


def _each_a_word(sample: Sample) -> Sample:
    """Return the sample, each token a word of its own but the first and the last, which are special ones."""
    import numpy as np

    size = sample["input_ids"].shape[1]
    words = np.arange(-1, size - 1, dtype=np.int64)
    words[-1] = -1 if size > 2 else words[-1]
    return sample | {WORDS: words[None]}
