"""Text classification: one text in, one of several classes out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgekd.core.errors import DataError, suggestion
from edgekd.data.read import Table
from edgekd.data.splits import Example

if TYPE_CHECKING:
    import numpy as np

    from edgekd.core.protocols import Sample

_TEXT_NAMES = ("text", "sentence", "question", "content", "review", "utterance", "document", "query", "input")
_LABEL_NAMES = ("label", "labels", "class", "category", "target", "intent", "sentiment", "fine_label")


@dataclass(frozen=True)
class TextClassification:
    """Columns are inferred from their names where they are not given."""

    text_column: str | None = None
    label_column: str | None = None

    metric: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True
    family: ClassVar[str] = "transformer"
    headline_size: ClassVar[int] = 32  # tokens at which peak RSS is quoted

    def columns(self, table: Table, source: str) -> tuple[str, str]:
        """The text and the label column. Raises DataError, naming the columns there are."""
        present = list(table[0])
        text = self.input_column(table, source)
        label = self._column(self.label_column, _LABEL_NAMES, [c for c in present if c != text], source, "label")
        return text, label

    def input_column(self, table: Table, source: str) -> str:
        """The text column alone, for a file without labels. Raises DataError."""
        return self._column(self.text_column, _TEXT_NAMES, list(table[0]), source, "text")

    def _column(self, given: str | None, usual: Sequence[str], present: list[str], source: str, what: str) -> str:
        if given is not None:
            if given not in present:
                raise DataError(f"{source} has no column {given!r}", fix=suggestion(given, present))
            return given
        by_name = {name.lower(): name for name in present}
        found = [by_name[name] for name in usual if name in by_name]
        if not found:
            raise DataError(
                f"{source} has no {what} column by a usual name; its columns are {', '.join(map(repr, present))}",
                fix=f"name it: --{what}-column {present[0] if present else 'NAME'}",
            )
        return found[0]

    def examples(self, table: Table, columns: tuple[str, str], source: str, *, labelled: bool = True) -> list[Example]:
        """Rows as examples. Rows without text are refused; a missing label makes a row unlabelled."""
        text_column, label_column = columns
        rows = []
        for number, row in enumerate(table, start=1):
            text, label = row.get(text_column), row.get(label_column) if labelled else None
            if not isinstance(text, str) or not text.strip():
                raise DataError(
                    f"{source}, row {number}: the text column {text_column!r} holds {text!r}",
                    fix="remove rows without text, or name another column with --text-column",
                )
            name = None if label is None or str(label).strip() == "" else str(label).strip()
            rows.append(Example(text, name))
        return rows

    def encode(self, model_folder: Path, texts: Iterable[str], max_tokens: int) -> list[Sample]:
        """Model inputs of each text, unpadded: int64 arrays (1, tokens), cut at `max_tokens`."""
        import numpy as np
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(model_folder)
        encoded = tokenizer(list(texts), truncation=True, max_length=max_tokens)
        names = [name for name in encoded if name in tokenizer.model_input_names]
        count = len(encoded["input_ids"])
        return [{name: np.array([encoded[name][row]], dtype=np.int64) for name in names} for row in range(count)]

    def correct(self, outputs: np.ndarray[Any, Any], labels: Sequence[int]) -> np.ndarray[Any, Any]:
        """Per row 1.0 where the largest logit is the label, else 0.0: (rows, classes) to (rows,)."""
        import numpy as np

        hits: np.ndarray[Any, Any] = (outputs.argmax(axis=1) == np.asarray(labels)).astype(float)
        return hits

    def synthetic(self, samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
        """Golden inputs that are nobody's text: tokens drawn at random, lengths and special tokens as in `samples`."""
        import numpy as np

        random = np.random.default_rng(seed)
        pool = np.unique(np.concatenate([sample["input_ids"][0, 1:-1] for sample in samples]))
        made = []
        for row in np.linspace(0, len(samples) - 1, count).astype(int):
            sample = {name: values.copy() for name, values in samples[row].items()}
            inner = sample["input_ids"][0, 1:-1]
            inner[:] = random.choice(pool, size=len(inner))
            made.append(sample)
        return made

    def sized(self, samples: Sequence[Sample], size: int) -> Sample:
        """One sample of exactly `size` tokens, made by repeating the inner tokens of a real one."""
        import numpy as np

        real = max(samples, key=lambda sample: sample["input_ids"].shape[1])
        made = {}
        for name, values in real.items():
            if values.shape[1] >= size:
                made[name] = values[:, :size].copy()
            else:
                inner = values[:, 1:-1] if values.shape[1] > 2 else values
                filler = np.resize(inner[0], size - values.shape[1])[None]
                made[name] = np.concatenate([values[:, :-1], filler, values[:, -1:]], axis=1)
        return made
