"""Teachers' folders whose settings ask for more than the folder's own model: (name, builder), for tests and counts.

A builder changes the tiny folder of `bert_files.teacher`; `image` ones write an image processor's file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekd.data import clean

Builder = Callable[[Path], None]
SECRET = "secret.txt"  # beside the folder: what must never be read


def change(folder: Path, name: str, **values: Any) -> None:
    file = folder / name
    said = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(said | values))


def _setting(name: str, **values: Any) -> Builder:
    return lambda folder: change(folder, name, **values)


def _file_of(name: str, key: str, value: Callable[[Path], Any]) -> Builder:
    """A setting that names the secret, in a spelling of its own."""

    def build(folder: Path) -> None:
        (folder.parent / SECRET).write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na private line\n")
        change(folder, name, **{key: value(folder)})

    return build


def _link(name: str, target: Callable[[Path], Any]) -> Builder:
    def build(folder: Path) -> None:
        (folder.parent / SECRET).write_text("a private line")
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target(folder))

    return build


_FILE_KEYS = ("vocab_file", "merges_file", "tokenizer_file", "added_tokens_file", "chat_template_file")
_SPELLINGS: dict[str, Callable[[Path], Any]] = {
    "absolute": lambda folder: str(folder.parent / SECRET),
    "..": lambda folder: f"../{SECRET}",
    "./..": lambda folder: f"./x/../../{SECRET}",
}
FILES: list[tuple[str, Builder]] = [
    (f"{key} in {name}, {spelling}", _file_of(name, key, value))
    for name in ("tokenizer_config.json", "special_tokens_map.json")
    for key in _FILE_KEYS
    for spelling, value in _SPELLINGS.items()
] + [
    (
        f"fast_tokenizer_files, {spelling}",
        _file_of("tokenizer_config.json", "fast_tokenizer_files", lambda folder, value=value: [value(folder)]),
    )
    for spelling, value in _SPELLINGS.items()
]
CODE: list[tuple[str, Builder]] = [
    (f"{key} in config.json", _setting("config.json", **{key: value}))
    for key, value in (
        ("_attn_implementation_internal", "someone/kernel"),
        ("_attn_implementation", "someone/kernel"),
        ("attn_implementation", "eager"),
        ("attn_implementation", {"": "someone/kernel"}),
        ("_name_or_path", ["someone/kernel"]),
        ("_num_labels", "someone/kernel"),
        ("__class__", "x"),
        ("_experts", 1),
        ("use_kernels", True),
        ("kernel", "someone/kernel"),
        ("kernel_config", {"a": "b/c"}),
        ("attribute_map", {"a": "_attn_implementation_internal"}),
        ("sub_configs", {"a": "b"}),
        ("text_config", {"_attn_implementation_internal": "someone/kernel"}),
        ("text_config", [{"deep": [{"attn_implementation": "someone/kernel"}]}]),
        ("text_config", {"auto_map": {"AutoModel": "code.Model"}}),
    )
]
VALUES: list[tuple[str, Builder]] = [
    (f"{key} {value!r:.40} in {name}", _setting(name, **{key: value}))
    for name, key, value in (
        ("tokenizer_config.json", "tokenizer_class", "os.system"),
        ("tokenizer_config.json", "tokenizer_class", ["BertTokenizer"]),
        ("tokenizer_config.json", "do_lower_case", "yes"),
        ("tokenizer_config.json", "model_max_length", -1),
        ("tokenizer_config.json", "model_max_length", float("nan")),
        ("tokenizer_config.json", "padding_side", "up"),
        ("tokenizer_config.json", "pad_token", 7),
        ("tokenizer_config.json", "added_tokens_decoder", {"a": {"content": "x"}}),
        ("tokenizer_config.json", "sp_model_kwargs", {"model_file": "secret.txt"}),
        ("special_tokens_map.json", "pad_token", {"content": "[PAD]", "file": "x"}),
        ("added_tokens.json", "x", "y"),
        ("added_tokens.json", "x", -1),
    )
]
SIZES: list[tuple[str, Builder]] = [
    (f"{key} of {value}", _setting("config.json", **{key: value}))
    for key, value in (
        ("max_position_embeddings", 8_000_000),
        ("type_vocab_size", 10**8),
        ("embedding_size", 10**7),
        ("num_attention_heads", 10**6),
        ("pooler_size", float("inf")),
        ("hidden_dim", 10**9),
        ("head_dim", float("nan")),
    )
]
LINKS: list[tuple[str, Builder]] = [
    ("a link to itself", _link("vocab.txt", lambda folder: "vocab.txt")),
    (
        "two links to each other",
        lambda folder: (
            [_link(a, lambda _, b=b: b)(folder) for a, b in (("a.txt", "b.txt"), ("b.txt", "a.txt"))] and None
        ),
    ),
    ("a link out", _link("vocab.txt", lambda folder: folder.parent / SECRET)),
    ("a link out, relative", _link("added_tokens.json", lambda folder: f"../{SECRET}")),
    ("a link to a folder", _link("merges.txt", lambda folder: folder.parent)),
]
PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 32, "width": 32},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}
IMAGE: list[tuple[str, Builder]] = [
    (f"{key} {value!r:.50}", lambda folder, key=key, value=value: change(folder, clean.PROCESSOR, **{key: value}))
    for key, value in (
        ("size", [32, 32]),
        ("size", "32"),
        ("size", {"height": -1, "width": -1}),
        ("size", 10**9),
        ("size", True),
        ("size", {"height": 32}),
        ("size", {"shortest_edge": 32.5}),
        ("size", {"height": "32", "width": "32"}),
        ("crop_size", [1, 2, 3]),
        ("crop_size", {"height": 0, "width": 0}),
        ("resample", 99),
        ("resample", "bicubic"),
        ("resample", -1),
        ("do_resize", "no"),
        ("do_normalize", 1),
        ("rescale_factor", float("nan")),
        ("rescale_factor", "1/255"),
        ("rescale_factor", -1),
        ("image_mean", "0.5"),
        ("image_mean", [0.5] * 2),
        ("image_mean", [None] * 3),
        ("image_mean", [float("nan")] * 3),
        ("image_std", [0.0] * 3),
        ("image_std", [0.5, 1]),
        ("image_std", [float("inf")] * 3),
        ("image_processor_type", "os"),
        ("image_processor_type", 7),
        ("crop_pct", 0),
        ("crop_pct", 10**9),
        ("auto_map", {"AutoImageProcessor": "code.Processor"}),
    )
]
TEXT = FILES + CODE + VALUES + SIZES + LINKS
