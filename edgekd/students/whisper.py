"""Whisper: so many layers of each side, and a window of so many seconds; what that takes on paper.

Layers are evenly spaced, the first and the last among them, as Distil-Whisper has it (Gandhi et al. 2023, arXiv
2311.00430). Decoder layers go first: each token of a text runs all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgekd.core.protocols import InputSpec, Work

if TYPE_CHECKING:
    import numpy as np

    from edgekd.core.protocols import Sample

POSITIONS_A_SECOND = 50  # of the encoder; each is of two frames of its log-mel spectrogram
LEAST_WINDOW_S = 10  # below, Whisper repeats itself: 335% errors were measured at 5 s
TOKENS = 20  # of a command or a short sentence, which figures on paper are of, and random students write
_PROMPT = 3  # tokens before a random student's own
_LESSONS = 20_000  # recordings that a training sees


@dataclass(frozen=True)
class Whisper:
    """The sizes of a Whisper, whole or cut."""

    encoder_layers: int
    decoder_layers: int
    hidden: int
    encoder_feed_forward: int
    decoder_feed_forward: int
    vocabulary: int
    mels: int
    window_s: int
    max_tokens: int
    heads: int

    modalities: ClassVar[tuple[str, ...]] = ("audio",)
    recipes: ClassVar[tuple[str, ...]] = ("dynamic_int8",)
    exporter: ClassVar[str] = "whisper"
    gives: ClassVar[tuple[str, ...]] = ()
    trainer: ClassVar[str] = "speech"
    timed_samples: ClassVar[int] = 1

    @classmethod
    def of(cls, config: Any) -> Whisper:
        """Return the shape of a model with that config of transformers."""
        return cls(
            encoder_layers=config.encoder_layers,
            decoder_layers=config.decoder_layers,
            hidden=config.d_model,
            encoder_feed_forward=config.encoder_ffn_dim,
            decoder_feed_forward=config.decoder_ffn_dim,
            vocabulary=config.vocab_size,
            mels=config.num_mel_bins,
            window_s=config.max_source_positions // POSITIONS_A_SECOND,
            max_tokens=config.max_target_positions,
            heads=config.decoder_attention_heads,
        )

    @classmethod
    def of_teacher(cls, architecture: Mapping[str, Any], survey: InputSpec, *, classes: int) -> Whisper | None:
        """Return the teacher's own shape; None for a teacher that is no Whisper."""
        return cls(**architecture["shape"]) if architecture.get("family") == "whisper" else None

    @classmethod
    def ladder(cls, architecture: Mapping[str, Any], survey: InputSpec, *, classes: int) -> list[Whisper]:
        """Return every cut of the teacher, the most capable first: layers of each side, at the window of the clips.

        The window is as long as the longest clip, in steps of five seconds, and no shorter than Whisper can do with.
        """
        whole = cls.of_teacher(architecture, survey, classes=classes)
        if whole is None:
            return []
        window = min(whole.window_s, max(LEAST_WINDOW_S, 5 * -(-survey.max_size // 5)))
        windows = {window, min(window, LEAST_WINDOW_S)}
        shapes = {
            replace(whole, encoder_layers=encoder, decoder_layers=decoder, window_s=seconds)
            for encoder in range(max(1, whole.encoder_layers // 2), whole.encoder_layers + 1)
            for decoder in range(1, whole.decoder_layers + 1)
            for seconds in windows
        }
        return sorted(shapes, key=lambda shape: shape.capability, reverse=True)

    @property
    def cut(self) -> dict[str, int]:
        """Return what is kept of the teacher."""
        return {name: getattr(self, name) for name in ("encoder_layers", "decoder_layers", "window_s")}

    @property
    def positions(self) -> int:
        """States that the encoder gives."""
        return self.window_s * POSITIONS_A_SECOND

    @property
    def max_size(self) -> int:
        """Seconds that it hears at once."""
        return self.window_s

    @property
    def capability(self) -> tuple[float, ...]:
        """A proxy, no promise: layers that hear before layers that write (Gandhi et al. 2023), then the window.

        Taught by 260 clips, tiny.en with half of its decoder agreed with its teacher on 67% of the words, with half of
        its encoder and a quarter of its decoder on 6%: an encoder that is cut must learn to hear anew.
        """
        return (self.encoder_layers, self.decoder_layers, self.window_s)

    @property
    def layers(self) -> int:
        """None whose features losses may ask for."""
        return 0

    @property
    def exits(self) -> tuple[int, ...]:
        """None."""
        return ()

    @classmethod
    def training(cls, rows: int) -> dict[str, Any]:
        """About 20,000 recordings are heard, in 2 to 12 epochs.

        >>> [Whisper.training(rows)["epochs"] for rows in (100, 5000, 50_000)]
        [12, 4, 2]
        """
        epochs = max(2, min(12, round(_LESSONS / max(1, rows))))
        return {"epochs": epochs, "batch_size": 16, "learning_rate": 3e-4}

    def parameters(self) -> dict[str, int]:
        """Return the weights by part; the table of tokens is the projection's, and counted once."""
        wide = self.hidden
        attention = 4 * wide * wide + 3 * wide  # keys have no bias
        norm = 2 * wide

        def dense(width: int) -> int:
            return 2 * wide * width + wide + width

        convolutions = 3 * self.mels * wide + 3 * wide * wide + 2 * wide
        encoder = self.encoder_layers * (attention + dense(self.encoder_feed_forward) + 2 * norm)
        decoder = self.decoder_layers * (2 * attention + dense(self.decoder_feed_forward) + 3 * norm)
        return {
            "encoder": convolutions + encoder + norm + self.positions * wide,
            "decoder": decoder + norm + self.max_tokens * wide,
            "projection": self.vocabulary * wide,
        }

    def multiply_adds(self, tokens: int = TOKENS) -> dict[str, int]:
        """Return those of one window and so many tokens, by part: what does not depend on how it is quantized."""
        wide, states = self.hidden, self.positions
        attention = 4 * wide * wide
        convolutions = 2 * states * 3 * self.mels * wide + states * 3 * wide * wide
        layer = states * (attention + 2 * wide * self.encoder_feed_forward) + 2 * states * states * wide
        step = 6 * wide * wide + 2 * wide * self.decoder_feed_forward + 2 * wide * (states + tokens // 2)
        return {
            "encoder": convolutions + self.encoder_layers * layer,
            "decoder": self.decoder_layers * (states * 2 * wide * wide + tokens * step),
            "projection": tokens * self.vocabulary * wide,
        }

    def cache_mib(self, tokens: int = TOKENS) -> float:
        """Return MiB of the decoder's keys and values, fp32: those of the encoder's states and of the tokens."""
        return self.decoder_layers * 2 * (self.positions + tokens) * self.hidden * 4 / 2**20

    def work(self, size: int) -> Work:
        """One full window, whatever the recording's size, and 20 tokens."""
        wide, states = self.hidden, self.positions
        encoder_layer = 4 * wide * wide + 2 * wide * self.encoder_feed_forward
        decoder_layer = 8 * wide * wide + 2 * wide * self.decoder_feed_forward
        convolutions = 3 * self.mels * wide + 3 * wide * wide
        matrices = self.encoder_layers * encoder_layer + self.decoder_layers * decoder_layer + convolutions
        matrices += self.vocabulary * wide
        scores = 2 * states * wide * (self.encoder_layers * states + self.decoder_layers * TOKENS)
        cache = self.decoder_layers * 2 * (states + TOKENS) * wide
        return Work(
            lookup_weights=self.max_tokens * wide,
            matrix_weights=matrices,
            other_weights=sum(self.parameters().values()) - matrices - self.max_tokens * wide,
            macs=sum(self.multiply_adds().values()) - scores,
            other_macs=scores,
            activations=cache + max(2 * states * (3 * self.mels + wide), states * (wide + self.encoder_feed_forward)),
            moved=states * self.encoder_layers * (12 * wide + 4 * self.encoder_feed_forward)
            + TOKENS * self.decoder_layers * (16 * wide + 4 * self.decoder_feed_forward)
            + TOKENS * self.vocabulary,
            operators=20 + 20 * self.encoder_layers + TOKENS * (10 + 32 * self.decoder_layers),
            largest=self.vocabulary * wide,
        )

    def sample(self, size: int, random: np.random.Generator) -> Sample:
        """A voice without words that lasts so many seconds: `audio` float32 (samples,)."""
        from edgekd.data.babble import babble

        return {"audio": babble(size, random)}

    def how_to_shrink(self) -> str:
        """What a user may do where even the smallest shape is too large."""
        return "give a smaller --teacher"

    def __str__(self) -> str:
        return f"Whisper, {self.encoder_layers} + {self.decoder_layers} layers x {self.hidden}, {self.window_s} s"

    def as_dict(self) -> dict[str, Any]:
        """Plain values; `Whisper(**values)` is the shape again."""
        return asdict(self)

    def random(self, teacher_folder: Path | None = None) -> Any:
        """A model of this shape with random weights, in evaluation mode, that writes 20 tokens whatever it hears.

        Its positions differ so much that no token comes twice in a row: what repeats itself is stopped earlier.
        """
        import torch
        from transformers import WhisperConfig, WhisperForConditionalGeneration

        config = WhisperConfig(
            vocab_size=self.vocabulary,
            num_mel_bins=self.mels,
            encoder_layers=self.encoder_layers,
            encoder_attention_heads=self.heads,
            decoder_layers=self.decoder_layers,
            decoder_attention_heads=self.heads,
            encoder_ffn_dim=self.encoder_feed_forward,
            decoder_ffn_dim=self.decoder_feed_forward,
            d_model=self.hidden,
            max_source_positions=self.positions,
            max_target_positions=self.max_tokens,
            pad_token_id=0,
            bos_token_id=0,
            eos_token_id=0,
            decoder_start_token_id=1,
        )
        model = WhisperForConditionalGeneration(config).eval()
        with torch.no_grad():
            torch.nn.init.normal_(model.model.decoder.embed_positions.weight)
        model.program_settings, model.exporter = self._settings(), self.exporter
        return model

    def _settings(self) -> dict[str, Any]:
        """What the program is told of a random model: 20 tokens, of which none is the end."""
        return {
            "schema": 1,
            "mels": self.mels,
            "frames": 2 * self.positions,
            "tokens": self.vocabulary,
            "prompt": [1] * _PROMPT,
            "language": None,
            "languages": {},
            "end": 0,
            "no_speech": None,
            "suppress": [0],
            "begin_suppress": [],
            "max_tokens": min(self.max_tokens, _PROMPT + TOKENS),
            "beams": 1,
            "vocabulary": " ".join(f"{token:06x}" for token in range(self.vocabulary)),  # they take memory, too
        }
