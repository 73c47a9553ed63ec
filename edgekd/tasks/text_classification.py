"""Text classification: one text in, one of several classes out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgekd.core.demo import Demo
from edgekd.core.metrics import ACCURACY, AGREEMENT, Metric
from edgekd.core.protocols import SINGLE_LABEL, Hub, InputSpec
from edgekd.core.statistics import hits, same_class
from edgekd.data.columns import find_label
from edgekd.data.pair_tables import pair_column
from edgekd.data.read import Table
from edgekd.data.splits import Example
from edgekd.data.tokens import Tokens, tokenize
from edgekd.store.store import Store
from edgekd.tasks import _classes, _texts
from edgekd.tasks._texts import TREC

if TYPE_CHECKING:
    import numpy as np

    from edgekd.core.protocols import Sample


@dataclass(frozen=True)
class TextClassification:
    """Columns are inferred from their names where they are not given."""

    text_column: str | None = None
    label_column: str | None = None
    text_pair_column: str | None = None

    metric: ClassVar[Metric] = ACCURACY
    fidelity: ClassVar[Metric] = AGREEMENT
    one_of_classes: ClassVar[bool] = True
    problem_type: ClassVar[str] = SINGLE_LABEL
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
    baseline_recipe: ClassVar[str] = "TF-IDF (words, characters) with a linear SVM on the labelled rows"
    losses: ClassVar[tuple[str, ...]] = ("response=0.9", "hard_labels=0.1")
    losses_if_labelled: ClassVar[tuple[str, ...]] = ("response=0.5", "hard_labels=0.5")
    augmentations: ClassVar[tuple[str, ...]] = ()
    labelled: ClassVar[bool] = True
    purpose: ClassVar[str] = "texts into {classes} classes"
    demo: ClassVar[Demo | None] = TREC
    keep: ClassVar[Mapping[str, str]] = {"logits": "as_is"}
    graphs: ClassVar[tuple[str, ...]] = ("model",)
    program: ClassVar[str] = "forward"

    def read(self, source: str) -> dict[str, Table]:
        """Tables by split. Raises DataError."""
        return _texts.read(source, self.text_column, self.text_pair_column, self.label_column)

    def columns(self, table: Table, source: str, *, labelled: bool = True) -> tuple[str, str]:
        """The text and the label column; that may lack (empty) where rows need not be `labelled`. Raises DataError."""
        text = self.input_column(table, source)
        others = [column for column in table[0] if column != text]
        return text, find_label(self.label_column, others, source, needed=labelled)

    def input_column(self, table: Table, source: str) -> str:
        """The text column alone, for a file without labels. Raises DataError, naming the columns there are."""
        return pair_column(table) or _texts.input_column(self.text_column, table, source)

    def examples(self, table: Table, columns: tuple[str, str], source: str, *, labelled: bool = True) -> list[Example]:
        """Rows as examples. Rows without text are refused; a missing label makes a row unlabelled."""
        return _texts.examples(table, columns, source, labelled=labelled)

    def survey(
        self, teacher: dict[str, Any], texts: Sequence[str], sizes: dict[str, int], store: Store, *, whole: bool = False
    ) -> InputSpec:
        """Tokens of the texts and of the vocabulary that they need. `sizes` may say `tokens` and `vocabulary`.

        Of the `whole` teacher no token is trimmed.
        """
        return _texts.survey(teacher, texts, sizes, store, whole=whole)

    def check_inputs(self, inputs: Sequence[Any], survey: InputSpec, source: str, what: str) -> None:
        """Nothing: longer texts are cut."""

    def student_files(
        self, teacher_folder: Path, texts: Iterable[str], survey: InputSpec, shape: Any, out: Path
    ) -> Any:
        """Write the trimmed tokenizer to `out`; the teacher's token ids that it keeps, ascending.

        `texts` are those that the student may see, never the test's.
        """
        return _texts.student_files(teacher_folder, texts, survey, out, shape)

    def encode(self, model_folder: Path, texts: Iterable[str], max_size: int) -> Tokens:
        """Model inputs of each text, unpadded: int64 arrays (1, tokens), cut at `max_size` tokens."""
        return tokenize(model_folder, list(texts), max_size)

    def ordinary(self, model_folder: Path, inputs: Iterable[str]) -> list[Any]:
        """The texts as the ecosystem's loaders take them: as they are, pairs as two."""
        return _texts.ordinary(inputs)

    def truth(self, rows: Sequence[Example], classes: Sequence[str]) -> np.ndarray[Any, Any]:
        """Return the class numbers of rows, (rows,), NO_LABEL where unknown."""
        return _classes.truth(rows, classes)

    def statistics(self, outputs: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return per row 1.0 where the largest logit is the label, else 0.0: (rows, classes) to (rows,)."""
        return hits(outputs, truth)

    def agrees(self, outputs: np.ndarray[Any, Any], reference: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Per row 1.0 where two models name one class, else 0.0: (rows, classes) twice to (rows,)."""
        return same_class(outputs, reference)

    def baseline(self, train: Sequence[Example], test: Sequence[Example], seed: int) -> np.ndarray[Any, Any]:
        """Return per test row 1.0 where the linear model names its label, else 0.0: (rows,)."""
        return _classes.baseline(train, test, lambda: _linear_guesses(train, test, seed))

    def synthetic(self, samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
        """Golden inputs that are nobody's text: tokens drawn at random, lengths and special tokens as in `samples`."""
        return _texts.synthetic(samples, count, seed)

    def sized(self, samples: Sequence[Sample], size: int) -> Sample:
        """One sample of exactly `size` tokens, made by repeating the inner tokens of a real one."""
        return _texts.sized(samples, size)


def _linear_guesses(train: Sequence[Example], test: Sequence[Example], seed: int) -> Any:
    """Return what a linear SVM on words and characters says of each test row: class names (rows,)."""
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    texts = [row.input for row in train]
    model = make_pipeline(_texts.vectorizer(texts), LinearSVC(random_state=seed))
    model.fit(texts, [row.label for row in train])
    return model.predict([row.input for row in test])
