"""The program `seq2seq`: audio to text with an encoder and a merged decoder, as Whisper's.

A sample is `audio`, float32 (samples,) at 16 kHz in [-1, 1]. Longer audio than the encoder's window is cut where it is
quiet, and each window heard by itself. What keeps silence, hum and noise from becoming words is here, so that whoever
runs the model judges the same thing: voice activity, the probability of no speech, and a guard against loops.

Its settings travel in the decoder's metadata: a JSON object under SETTINGS.
"""

from __future__ import annotations

import importlib
import json
import runpy
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

SETTINGS = "edgekd.seq2seq"  # the key of the decoder's metadata
ENCODER, DECODER = "encoder_model", "decoder_model_merged"
ENDED, SILENT, NO_SPEECH, LOOP, CUT = range(5)  # how a window ended: at its end token, or by which rule
NO_SPEECH_PROBABILITY, LOG_PROBABILITY = 0.3, -1.0  # above the one and below the other there is no text


class Program:
    """Whisper, opened: see `programs.py` for the interface."""

    outputs = ("tokens", "text", "ended", "scores")

    def __init__(self, sessions: Mapping[str, Any]) -> None:
        self._encoder = sessions[ENCODER]
        decoding, told = _beside("decoding"), sessions[DECODER].get_modelmeta().custom_metadata_map
        if SETTINGS not in told:
            raise ValueError(f"the graph {DECODER} says nothing of prompts and suppressed tokens ({SETTINGS})")
        self.settings: dict[str, Any] = json.loads(told[SETTINGS])
        self._decoding = decoding
        self._decoder = decoding["Decoder"](sessions[DECODER])
        own = self.settings
        self._rules = decoding["Rules"](own["tokens"], own["suppress"], own["begin_suppress"])
        self._mel, self._voice = _beside("logmel")["log_mel"], _beside("voice")
        self._words = [_bytes(word) for word in own["vocabulary"].split(" ")]
        self.window = own["frames"] * 160  # samples
        self.stages: dict[str, float] = {}  # seconds of the last window that was decoded, by what they went to

    def feed(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Return the audio. Raises ValueError where it is none."""
        if "audio" not in sample:
            raise ValueError(f"the program takes audio; the inputs are {', '.join(sample)}")
        audio = np.asarray(sample["audio"], dtype=np.float32)
        if audio.ndim != 1:
            raise ValueError(f"audio is one row of samples; this has the shape {audio.shape}")
        return {"audio": audio}

    def run(self, _: None, feed: Mapping[str, Any]) -> list[np.ndarray]:
        """Transcribe one sample: the outputs in their order."""
        audio = feed["audio"]
        heard = [self.hear(audio[begin:end]) for begin, end in self._voice["windows"](audio, self.window)]
        tokens = [token for own, _, _ in heard for token in own]
        text = np.frombuffer(self.text(tokens).encode(), dtype=np.uint8)
        return [
            np.array(tokens, dtype=np.int64),
            text,
            np.array([ended for _, ended, _ in heard], dtype=np.int64),
            np.array([scores for _, _, scores in heard], dtype=np.float32),
        ]

    def named(self, result: Any) -> dict[str, Any]:
        """Return the outputs by name."""
        return dict(zip(self.outputs, result))  # noqa: B905  (`strict` is not for a board's Python 3.9)

    def counted(self, feed: Mapping[str, Any]) -> Callable[[], object]:
        """Return one inference as a call."""
        return partial(self.run, None, feed)

    def stream(self, blocks: Iterable[np.ndarray]) -> Iterable[tuple[float, float, str]]:
        """Yield begin and end in seconds and the text of each window of audio that comes in blocks (n,), however long.

        No more than a window and a block of it are held.
        """
        held, begun = np.zeros(0, np.float32), 0
        for block in blocks:
            held = np.concatenate([held, block])
            while len(held) > self.window:
                size = self._voice["cut"](held[: self.window])
                yield self._said(held[:size], begun)
                held, begun = held[size:], begun + size
        if len(held) or not begun:
            yield self._said(held, begun)

    def _said(self, audio: np.ndarray, begun: int) -> tuple[float, float, str]:
        tokens, _, _ = self.hear(audio)
        return begun / 16_000, (begun + len(audio)) / 16_000, self.text(tokens)

    def hear(self, audio: np.ndarray) -> tuple[list[int], int, tuple[float, float]]:
        """Return one window's tokens, how it ended, and its scores: probability of no speech, mean log-probability."""
        own, begun = self.settings, time.perf_counter()
        if not self._voice["has_voice"](audio):
            return [], SILENT, (1.0, 0.0)
        features = self._mel(audio, own["mels"], own["frames"])[None]
        states = self._encoder.run(["last_hidden_state"], {"input_features": features})[0]
        encoded = time.perf_counter()
        logits, silence, prompt = self._prompted(states)
        most = own["max_tokens"] - prompt
        keep = {"end": own["end"], "most": most}
        began = time.perf_counter()
        if own["beams"] > 1:
            search = self._decoding["beam_search"]
            tokens, score, looped = search(self._decoder, logits, self._rules, beams=own["beams"], **keep)
        else:
            doubtful = silence > NO_SPEECH_PROBABILITY
            tokens, score, looped = self._decoding["greedy"](self._decoder, logits, self._rules, score=doubtful, **keep)
        ended_at = time.perf_counter()
        self.stages = {
            "encoder": encoded - begun,  # voice activity and spectrogram included
            "first_token": began - begun,
            "token": (ended_at - began) / max(1, len(tokens)),  # each further one
        }
        scores = (silence, score)
        if silence > NO_SPEECH_PROBABILITY and score < LOG_PROBABILITY:
            return [], NO_SPEECH, scores
        ended = LOOP if looped else CUT if len(tokens) >= most else ENDED
        return tokens, ended, scores

    def _prompted(self, states: np.ndarray) -> tuple[np.ndarray, float, int]:
        """The scores behind the prompt, the probability of no speech at its beginning, and its length in tokens.

        Where the language is not given it is the likeliest behind the first token.
        """
        own, prompt = self.settings, self.settings["prompt"]
        self._decoder.start(states)
        if own["languages"] and own["language"] is None:
            first = self._decoder.step(np.array([prompt[:1]], dtype=np.int64))[0, 0]
            language = self._decoding["likeliest"](first, own["languages"])
            logits = self._decoder.step(np.array([[language, *prompt[1:]]], dtype=np.int64))[0]
            length = len(prompt) + 1
        else:
            logits = self._decoder.step(np.array([prompt], dtype=np.int64))[0]
            first, length = logits[0], len(prompt)
        silence = 0.0 if own["no_speech"] is None else self._decoding["probability"](first, own["no_speech"])
        return logits[-1], silence, length

    def text(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens; ids of no word, as timestamps are, say nothing."""
        words = self._words
        return b"".join(words[one] for one in tokens if one < len(words)).decode("utf-8", "replace").strip()


def _bytes(word: str) -> bytes:
    """The bytes of a word as the byte-level vocabulary of GPT-2 spells it."""
    return bytes(_letters()[letter] for letter in word)


@cache
def _letters() -> dict[str, int]:
    """Which byte each letter of that vocabulary stands for: itself where it can be printed, else one from 256 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + at): byte for at, byte in enumerate(others)}


@cache
def _beside(name: str) -> dict[str, Any]:
    """What the module of that name defines: of this package; elsewhere of the file itself, past every cache."""
    if __package__:
        return vars(importlib.import_module(f"{__package__}.{name}"))
    return runpy.run_path(str(Path(__file__).with_name(f"{name}.py")))
