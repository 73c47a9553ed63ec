"""Feature extraction: one text in, its embedding out.

The graph is the encoder as Hugging Face exports it, and behind it what makes one embedding of the tokens' outputs:
their mean over the attention mask, or what a sentence-transformers folder says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgekd.core.demo import Demo
from edgekd.core.metrics import COSINE, Metric
from edgekd.core.protocols import Hub, InputSpec
from edgekd.core.ranking import Ranking, ranking
from edgekd.core.statistics import cosines
from edgekd.data.read import Table, read_tables
from edgekd.data.splits import Example
from edgekd.data.tokens import Tokens, tokenize
from edgekd.store.store import Store
from edgekd.tasks import _texts
from edgekd.tasks._texts import TREC

if TYPE_CHECKING:
    import numpy as np

    from edgekd.core.protocols import Sample


@dataclass(frozen=True)
class FeatureExtraction:
    """The text's column is inferred from its name where it is not given. There are no labels, so no linear baseline."""

    text_column: str | None = None

    metric: ClassVar[Metric] = COSINE
    fidelity: ClassVar[Metric] = COSINE
    one_of_classes: ClassVar[bool] = False
    problem_type: ClassVar[str] = ""
    families: ClassVar[tuple[str, ...]] = ("transformer",)
    modality: ClassVar[str] = "text"
    hub: ClassVar[Hub] = Hub(
        task="feature-extraction",
        auto_model="AutoModel",
        onnx_loader="ORTModelForFeatureExtraction",
        processor="AutoTokenizer",
        processor_options={"truncation": True},
        in_javascript=True,
    )
    unit: ClassVar[str] = "tokens"
    sizes: ClassVar[tuple[str, ...]] = ("tokens", "vocabulary")
    headline_size: ClassVar[int] = 32  # tokens at which peak RSS is quoted
    baseline_recipe: ClassVar[str] = ""
    losses: ClassVar[tuple[str, ...]] = ("cosine=1", "neighbours=1")
    losses_if_labelled: ClassVar[tuple[str, ...]] = ("cosine=1", "neighbours=1")
    augmentations: ClassVar[tuple[str, ...]] = ()
    labelled: ClassVar[bool] = False
    purpose: ClassVar[str] = "texts into embeddings"
    demo: ClassVar[Demo | None] = replace(TREC, name="embeddings", data_name="TREC questions, without their classes")
    keep: ClassVar[Mapping[str, str]] = {"sentence_embedding": "as_is"}
    network: ClassVar[Mapping[str, str]] = {"last_hidden_state": "mean"}
    graphs: ClassVar[tuple[str, ...]] = ("model",)
    program: ClassVar[str] = "forward"

    def read(self, source: str) -> dict[str, Table]:
        """Tables by split. Raises DataError."""
        return read_tables(source)

    def columns(self, table: Table, source: str, *, labelled: bool = False) -> tuple[str, str]:
        """The text column, and none for labels. Raises DataError, naming the columns there are."""
        return self.input_column(table, source), ""

    def input_column(self, table: Table, source: str) -> str:
        """The text column. Raises DataError."""
        return _texts.input_column(self.text_column, table, source)

    def examples(self, table: Table, columns: tuple[str, str], source: str, *, labelled: bool = False) -> list[Example]:
        """Rows as examples, without labels. Rows without text are refused."""
        return _texts.examples(table, columns, source, labelled=False)

    def survey(
        self, teacher: dict[str, Any], texts: Sequence[str], sizes: dict[str, int], store: Store, *, whole: bool = False
    ) -> InputSpec:
        """Tokens of the texts, and the vocabulary: all of it, unless `sizes` says `vocabulary`; or `tokens`.

        What is searched for are words that no training text has.
        """
        return _texts.survey(teacher, texts, sizes, store, whole=whole, fill=True)

    def check_inputs(self, inputs: Sequence[Any], survey: InputSpec, source: str, what: str) -> None:
        """Nothing: longer texts are cut."""

    def student_files(
        self, teacher_folder: Path, texts: Iterable[str], survey: InputSpec, shape: Any, out: Path
    ) -> Any:
        """Write the tokenizer to `out`; the teacher's token ids that it keeps, ascending."""
        return _texts.student_files(teacher_folder, texts, survey, out, shape, fill=True)

    def encode(self, model_folder: Path, texts: Iterable[str], max_size: int) -> Tokens:
        """Model inputs of each text, unpadded: int64 arrays (1, tokens), cut at `max_size` tokens."""
        return tokenize(model_folder, list(texts), max_size)

    def ordinary(self, model_folder: Path, inputs: Iterable[str]) -> list[str]:
        """The texts as the ecosystem's loaders take them: as they are."""
        return list(inputs)

    def agrees(self, outputs: np.ndarray[Any, Any], reference: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Per row the cosine of two embeddings, 0 where it is less: (rows, width) twice to (rows,)."""
        return cosines(outputs, reference)

    def ranking(self, outputs: np.ndarray[Any, Any], reference: np.ndarray[Any, Any]) -> tuple[Ranking, ...]:
        """Return how far texts have the same others near as by the reference: Spearman, recall@10, nDCG@10."""
        return ranking(outputs, reference)

    def synthetic(self, samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
        """Golden inputs that are nobody's text: tokens drawn at random, lengths and special tokens as in `samples`."""
        return _texts.synthetic(samples, count, seed)

    def sized(self, samples: Sequence[Sample], size: int) -> Sample:
        """One sample of exactly `size` tokens, made by repeating the inner tokens of a real one."""
        return _texts.sized(samples, size)
