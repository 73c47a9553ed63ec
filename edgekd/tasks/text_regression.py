"""Text regression: one text, or a pair of them, in, one or several numbers out: ratings, similarities, relevance.

Hugging Face calls it text classification of the problem type regression. The graph gives numbers in their own unit:
what scaled them in training is folded into its last layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgekd.core.demo import Demo
from edgekd.core.metrics import Metric, ratio_of_sums
from edgekd.core.protocols import REGRESSION, Hub, InputSpec
from edgekd.data import number_tables
from edgekd.data.pair_tables import pair_column
from edgekd.data.read import Table
from edgekd.data.splits import Example
from edgekd.data.tokens import Tokens, tokenize
from edgekd.store.store import Store
from edgekd.tasks import _numbers, _texts

if TYPE_CHECKING:
    import numpy as np

    from edgekd.core.protocols import Sample

    Array = np.ndarray[Any, Any]

RELATIVE_MAE = Metric("relative_mae", higher_is_better=False, reduce=ratio_of_sums)
R2_TO_TEACHER = Metric("r2_to_teacher", of_teacher="R2 to the numbers of", reduce=_numbers.explained)


@dataclass(frozen=True)
class TextRegression:
    """Columns are inferred from their names where they are not given; `label_column` may name several targets."""

    text_column: str | None = None
    label_column: str | None = None
    text_pair_column: str | None = None

    metric: ClassVar[Metric] = RELATIVE_MAE
    fidelity: ClassVar[Metric] = R2_TO_TEACHER
    one_of_classes: ClassVar[bool] = False
    problem_type: ClassVar[str] = REGRESSION
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
    baseline_recipe: ClassVar[str] = "TF-IDF (words, characters) with a ridge regression on the labelled rows"
    losses: ClassVar[tuple[str, ...]] = ("response=0.9", "hard_labels=0.1")
    losses_if_labelled: ClassVar[tuple[str, ...]] = ("response=0.5", "hard_labels=0.5")
    augmentations: ClassVar[tuple[str, ...]] = ()
    labelled: ClassVar[bool] = True
    purpose: ClassVar[str] = "texts into numbers"
    demo: ClassVar[Demo | None] = None
    keep: ClassVar[Mapping[str, str]] = {"logits": "as_is"}
    graphs: ClassVar[tuple[str, ...]] = ("model",)
    program: ClassVar[str] = "forward"

    def read(self, source: str) -> dict[str, Table]:
        """Tables by split. Raises DataError."""
        tables = _texts.read(source, self.text_column, self.text_pair_column, self.label_column, number_tables.NAMES)
        return number_tables.with_targets(tables, self.label_column, source)

    def columns(self, table: Table, source: str, *, labelled: bool = True) -> tuple[str, str]:
        """The text and the target's column, several with commas between; those may lack (empty). Raises DataError."""
        text = self.input_column(table, source)
        others = [column for column in table[0] if column != text]
        return text, number_tables.find_targets(self.label_column, others, source, needed=labelled)

    def input_column(self, table: Table, source: str) -> str:
        """The text column alone, for a file without labels. Raises DataError, naming the columns there are."""
        return pair_column(table) or _texts.input_column(self.text_column, table, source)

    def examples(self, table: Table, columns: tuple[str, str], source: str, *, labelled: bool = True) -> list[Example]:
        """Rows as examples, each label `Numbers`. Rows without text are refused; an empty target is unlabelled."""
        inputs = _texts.examples(table, columns, source, labelled=False)
        if not labelled:
            return inputs
        targets = number_tables.examples_of(table, columns[1], source)
        return [Example(row.input, target) for row, target in zip(inputs, targets, strict=True)]

    def survey(
        self,
        teacher: dict[str, Any],
        texts: Sequence[str],
        sizes: dict[str, int],
        store: Store,
        *,
        whole: bool = False,
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
        """Return the targets of rows, float32 (rows, targets), NaN where unknown."""
        return _numbers.truth(rows, len(classes))

    def statistics(self, outputs: Array, truth: Array) -> Array:
        """Return per row the absolute error, and the mean's, each over the targets' spread: (rows, 2)."""
        return _numbers.errors(outputs, truth)

    def agrees(self, outputs: Array, reference: Array) -> Array:
        """Return per row the squared difference to another model's numbers, and those numbers' spread: (rows, 2)."""
        return _numbers.differences(outputs, reference)

    def figures(self, outputs: Array, truth: Array, names: Sequence[str]) -> list[dict[str, Any]]:
        """Return of each target the mean absolute error in its unit, R2, and Spearman's rank correlation."""
        return _numbers.figures(outputs, truth, names)

    def baseline(self, train: Sequence[Example], test: Sequence[Example], seed: int) -> Array:
        """Return the same statistics of a linear model that learned from the labelled rows: (rows, 2)."""
        return _numbers.baseline(train, test, _texts.vectorizer)

    def synthetic(self, samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
        """Golden inputs that are nobody's text: tokens drawn at random, lengths and special tokens as in `samples`."""
        return _texts.synthetic(samples, count, seed)

    def sized(self, samples: Sequence[Sample], size: int) -> Sample:
        """One sample of exactly `size` tokens, made by repeating the inner tokens of a real one."""
        return _texts.sized(samples, size)
