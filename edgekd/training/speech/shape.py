"""What is kept of a Whisper: so many layers of each side, and a window of so many seconds; what that takes on paper.

Layers are evenly spaced, the first and the last among them, as Distil-Whisper has it (Gandhi et al. 2023, arXiv
2311.00430). Decoder layers go first: each token of a text runs all of them.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekd.core.errors import UsageError
from edgekd.core.layers import layer_map

POSITIONS_A_SECOND = 50  # of the encoder; each is of two frames of its log-mel spectrogram
LEAST_WINDOW_S = 10  # below, Whisper repeats itself: 335% errors were measured at 5 s
TOKENS = 20  # of a command or a short sentence, which figures on paper are of
_LAYER = re.compile(r"model\.(encoder|decoder)\.layers\.(\d+)\.")


@dataclass(frozen=True)
class Shape:
    """The sizes of a Whisper."""

    encoder_layers: int
    decoder_layers: int
    hidden: int
    encoder_feed_forward: int
    decoder_feed_forward: int
    vocabulary: int
    mels: int
    window_s: int
    max_tokens: int

    @classmethod
    def of(cls, config: Any) -> Shape:
        """The shape of a model with that config."""
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
        )

    @property
    def positions(self) -> int:
        """States that the encoder gives."""
        return self.window_s * POSITIONS_A_SECOND

    def parameters(self) -> dict[str, int]:
        """Weights by part; the table of tokens is the projection's, and counted once."""
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
        """Multiply-adds of one window and so many tokens, by part: what does not depend on how it is quantized."""
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
        """MiB of the decoder's keys and values, fp32: those of the encoder's states and of the tokens."""
        return self.decoder_layers * 2 * (self.positions + tokens) * self.hidden * 4 / 2**20


def check(whole: Shape, *, encoder_layers: int, decoder_layers: int, window_s: int) -> None:
    """Raise UsageError for layers that the teacher has not, and for a window too short or longer than its own."""
    for side, count, most in (
        ("encoder-layers", encoder_layers, whole.encoder_layers),
        ("layers", decoder_layers, whole.decoder_layers),
    ):
        if count > most:
            raise UsageError(f"--{side} {count}: the teacher has {most}", fix=f"give at most that: --{side} {most}")
    if not LEAST_WINDOW_S <= window_s <= whole.window_s:
        least = min(LEAST_WINDOW_S, whole.window_s)
        raise UsageError(
            f"--window {window_s}: the teacher hears {whole.window_s} s at once, and a Whisper that hears less than "
            f"{LEAST_WINDOW_S} s repeats itself",
            fix=f"give seconds from {least} to {whole.window_s}: --window {least}",
        )


def cut(teacher: Any, *, encoder_layers: int, decoder_layers: int, window_s: int) -> Any:
    """Return a copy of a model with so many of its layers and the first positions of a window; all else is the same."""
    config = copy.deepcopy(teacher.config)
    config.encoder_layers = config.num_hidden_layers = encoder_layers
    config.decoder_layers = decoder_layers
    config.max_source_positions = window_s * POSITIONS_A_SECOND
    for name in ("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop", "decoder_layerdrop"):
        setattr(config, name, 0.0)  # a student that imitates has no labels to overfit (Beyer et al. 2022)
    student = type(teacher)(config)
    chosen = {
        "encoder": layer_map(teacher.config.encoder_layers, encoder_layers),
        "decoder": layer_map(teacher.config.decoder_layers, decoder_layers),
    }
    source, target = teacher.state_dict(), student.state_dict()
    for name, value in target.items():
        target[name] = source[_name_before(name, chosen)][: value.shape[0]].clone()  # positions: the first ones
    student.load_state_dict(target)
    student.tie_weights()
    return student.float().eval()


def _name_before(name: str, chosen: Mapping[str, list[int]]) -> str:
    """Return what the teacher calls a student's weight."""
    found = _LAYER.match(name)
    if found is None:
        return name
    return f"model.{found[1]}.layers.{chosen[found[1]][int(found[2])]}.{name[found.end() :]}"
