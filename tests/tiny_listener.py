"""A Whisper of a few thousand random weights, and how a teacher made of it listens."""

from __future__ import annotations

import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

from edgekd.onboard.logmel import log_mel
from edgekd.training.speech.lessons import Heard
from edgekd.training.speech.pseudo_labels import Rules

END, START, PLAIN = 37, 38, 39
SIZES = {
    "vocab_size": 40,
    "num_mel_bins": 80,
    "d_model": 16,
    "encoder_layers": 4,
    "decoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_target_positions": 24,
    "pad_token_id": END,
    "bos_token_id": END,
    "eos_token_id": END,
    "decoder_start_token_id": START,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}
RULES = Rules(
    prompt=(START, PLAIN), languages=(), end=END, suppress=(1, 2, START, PLAIN), begin_suppress=(END,), most=24, size=40
)


def whisper(window_s: int = 30, *, seed: int = 0, **sizes: object) -> WhisperForConditionalGeneration:
    """Random weights, in evaluation mode; its loudest logits are far apart."""
    torch.manual_seed(seed)
    config = WhisperConfig(**{**SIZES, "max_source_positions": 50 * window_s, **sizes})
    model = WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.model.decoder.parameters():
            parameter.mul_(8.0)
    return model


def heard(model: WhisperForConditionalGeneration, rules: Rules = RULES) -> Heard:
    """Who listens with that model; a token is a word."""
    window_s = model.config.max_source_positions // 50
    return Heard(
        model,
        rules,
        lambda samples: log_mel(samples, 80, 100 * window_s),
        lambda tokens: " ".join(f"w{token}" for token in tokens),
        window_s,
    )
