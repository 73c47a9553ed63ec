"""Multi-label text classification: one text in, those of several labels out that it has: none, one or many.

Hugging Face calls it text classification of the problem type multi_label_classification. Each label is decided by
itself, where its logit is above 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgekd.core.demo import Demo
from edgekd.core.errors import DataError, listed
from edgekd.core.metrics import DECISIONS, MICRO_F1, Metric
from edgekd.core.protocols import MULTI_LABEL, Hub, InputSpec
from edgekd.core.statistics import decision_counts
from edgekd.data import label_sets
from edgekd.data.columns import find_column
from edgekd.data.pair_tables import pair_column
from edgekd.data.read import Table
from edgekd.data.splits import Example
from edgekd.data.tokens import Tokens, tokenize
from edgekd.store.store import Store
from edgekd.tasks import _label_sets, _texts

if TYPE_CHECKING:
    import numpy as np

    from edgekd.core.protocols import Sample

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class MultiLabelTextClassification:
    """Columns are inferred from their names where they are not given; `label_column` may name several of 0 and 1."""

    text_column: str | None = None
    label_column: str | None = None
    text_pair_column: str | None = None

    metric: ClassVar[Metric] = MICRO_F1
    fidelity: ClassVar[Metric] = DECISIONS
    one_of_classes: ClassVar[bool] = False
    problem_type: ClassVar[str] = MULTI_LABEL
    families: ClassVar[tuple[str, ...]] = ("transformer",)
    modality: ClassVar[str] = "text"
    hub: ClassVar[Hub] = Hub(
        task="text-classification",
        auto_model="AutoModelForSequenceClassification",
        onnx_loader="ORTModelForSequenceClassification",
        processor="AutoTokenizer",
        processor_options={"truncation": True},
        in_javascript=True,
    )
    unit: ClassVar[str] = "tokens"
    sizes: ClassVar[tuple[str, ...]] = ("tokens", "vocabulary")
    headline_size: ClassVar[int] = 32  # tokens at which peak RSS is quoted
    baseline_recipe: ClassVar[str] = "TF-IDF (words, characters) with a logistic regression for each label"
    losses: ClassVar[tuple[str, ...]] = ("response=0.9", "hard_labels=0.1")
    losses_if_labelled: ClassVar[tuple[str, ...]] = ("response=0.5", "hard_labels=0.5")
    augmentations: ClassVar[tuple[str, ...]] = ()
    labelled: ClassVar[bool] = True
    purpose: ClassVar[str] = "texts into those of {classes} labels that they have"
    demo: ClassVar[Demo | None] = None
    keep: ClassVar[Mapping[str, str]] = {"logits": "as_is"}
    graphs: ClassVar[tuple[str, ...]] = ("model",)
    program: ClassVar[str] = "forward"

    def read(self, source: str) -> dict[str, Table]:
        """Tables by split, each with one column of label sets, in any form. Raises DataError."""
        tables = _texts.read(source, self.text_column, self.text_pair_column, self.label_column)
        return label_sets.with_label_sets(tables, self.label_column)

    def columns(self, table: Table, source: str, *, labelled: bool = True) -> tuple[str, str]:
        """The text and the label column; that may lack (empty) where rows need not be `labelled`. Raises DataError."""
        text = self.input_column(table, source)
        others = [column for column in table[0] if column != text]
        if marked := label_sets.folded_column(table):
            return text, marked
        usual = {column.lower() for column in others} & set(label_sets.NAMES)
        if not labelled and self.label_column is None and not usual:
            return text, ""
        if self.label_column is None and not usual:
            raise DataError(
                f"{source} has no label column by a usual name, nor two columns that hold 0 and 1 alone; "
                f"beside the text it has {listed([*map(repr, others)]) if others else 'none'}",
                fix="name it: --label-column NAME, or --label-column a,b of a column of 0 and 1 for each label; one "
                "such column alone is one class a row: --task text-classification",
            )
        return text, find_column(self.label_column, label_sets.NAMES, others, source, "label")

    def input_column(self, table: Table, source: str) -> str:
        """The text column alone, for a file without labels. Raises DataError, naming the columns there are."""
        return pair_column(table) or _texts.input_column(self.text_column, table, source)

    def examples(self, table: Table, columns: tuple[str, str], source: str, *, labelled: bool = True) -> list[Example]:
        """Rows as examples, each label a sorted tuple. Rows without text are refused; an empty cell is no label."""
        form = getattr(table, "form", None)
        return _texts.examples(
            table,
            columns,
            source,
            labelled=labelled,
            read_label=lambda cell, where: label_sets.read(cell, form, where),
        )

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
        """Model inputs of each text, unpadded: int64 arrays (1, tokens), cut at `max_size` tokens."""
        return tokenize(model_folder, list(texts), max_size)

    def ordinary(self, model_folder: Path, inputs: Iterable[str]) -> list[Any]:
        """The texts as the ecosystem's loaders take them: as they are, pairs as two."""
        return _texts.ordinary(inputs)

    def truth(self, rows: Sequence[Example], classes: Sequence[str]) -> Array:
        """Return 0 or 1 for each label of each row: (rows, labels), NO_LABEL where unknown."""
        return _label_sets.truth(rows, classes)

    def statistics(self, outputs: Array, truth: Array) -> Array:
        """Return per row the labels rightly decided, wrongly decided, and missed: (rows, labels) to (rows, 3)."""
        return decision_counts(outputs, truth)

    def agrees(self, outputs: Array, reference: Array) -> Array:
        """Return the same counts against another model's decisions: (rows, labels) twice to (rows, 3)."""
        return _label_sets.agrees(outputs, reference)

    def baseline(self, train: Sequence[Example], test: Sequence[Example], seed: int) -> Array:
        """Return the same counts of linear models, one for each label: (rows, 3)."""
        return _label_sets.baseline(train, test, _features)

    def synthetic(self, samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
        """Golden inputs that are nobody's text: tokens drawn at random, lengths and special tokens as in `samples`."""
        return _texts.synthetic(samples, count, seed)

    def sized(self, samples: Sequence[Sample], size: int) -> Sample:
        """One sample of exactly `size` tokens, made by repeating the inner tokens of a real one."""
        return _texts.sized(samples, size)


def _features(train: Sequence[str], test: Sequence[str]) -> tuple[Any, Any]:
    """Return TF-IDF of words and characters of both."""
    vectorizer = _texts.vectorizer(train)
    return vectorizer.fit_transform(train), vectorizer.transform(test)
