"""A tiny language: sentences of few words, a byte-level BPE tokenizer trained on them, and a random Llama."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

_NAMES = ("Anna", "the fox", "a sailor", "Mr. Grey", "the old town", "nobody", "every child", "Zoë")
_VERBS = ("saw", "followed", "forgot", "painted", "crossed", "loved", "counted", "feared")
_OBJECTS = ("the river", "a red boat", "seven lamps", "the winter", "an empty house", "the music", "wet streets")
_ENDS = (".", " again.", " at night.", ", and wept.", " in 1851.", ";\nthen came rain.", "!")


def text_of(seed: int, sentences: int) -> str:
    """A text of so many sentences; the same for the same seed."""
    draw = random.Random(seed)
    parts = [
        f"{draw.choice(_NAMES)} {draw.choice(_VERBS)} {draw.choice(_OBJECTS)}{draw.choice(_ENDS)}"
        for _ in range(sentences)
    ]
    return " ".join(parts)


SENTENCES = tuple(text_of(seed, 2) for seed in range(40))


@cache
def tokenizer_text(vocabulary: int = 400) -> str:
    """The `tokenizer.json` of a byte-level BPE tokenizer with the special tokens 0 (end of text) and 1 (padding)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([text_of(seed, 50) for seed in range(1000, 1020)], trainer)
    text: str = made.to_str()
    return text


def save_tokenizer(folder: Path, vocabulary: int = 400) -> Path:
    """Write the tokenizer as transformers saves it."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer_text(vocabulary)),
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|pad|>",
    )
    fast.save_pretrained(folder)
    return folder


def save_llama(folder: Path, vocabulary: int = 400, layers: int = 4, *, tied: bool = True, seed: int = 0) -> Path:
    """Write a random Llama of hidden width 16 with the tokenizer beside it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )
    LlamaForCausalLM(config).eval().save_pretrained(save_tokenizer(folder, vocabulary))
    return folder
