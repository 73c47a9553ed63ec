"""A teacher from a GGUF file: a language model of llama.cpp, made a Hugging Face folder in the store.

transformers takes the weights out of their blocks; the tokenizer is written by what the file says of it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.digests import file_sha256
from edgekd.core.errors import TeacherError
from edgekd.core.files import is_plain, user_path
from edgekd.core.pointers import check_no_pointer
from edgekd.core.protocols import InputSpec
from edgekd.core.registry import plugin
from edgekd.core.results import versions
from edgekd.security import child
from edgekd.store.store import open_store
from edgekd.teachers import _chat_template, _gguf_header, _gguf_tokenizer
from edgekd.teachers.huggingface import Huggingface

if TYPE_CHECKING:
    from edgekd.hardware.profile import Profile

_BASE_MIB, _COPIES = 4096, 4  # torch and transformers; the weights as float32, while they are checked and written
_BASE_S, _VALUES_PER_S = 240, 1_000_000  # a busy machine: 135 million weights take 20 s on a quiet one
_TEMPLATE = "tokenizer.chat_template"
_COUNT = "split.count"


@dataclass(frozen=True)
class Gguf:
    """One file; of a model in several files none is taken."""

    def inspect(self, source: str, task: str) -> dict[str, Any]:
        """Return what the folder says that the file was made into, as `Huggingface.inspect` does.

        Raises TeacherError for another task than of language models, a header that lies, an architecture that
        transformers does not read, and a tokenizer or a chat template that is not taken.
        """
        file = user_path(source).absolute()
        if plugin("tasks", task).hub.auto_model != "AutoModelForCausalLM":
            raise TeacherError(
                f"the teacher {source} is a language model, which cannot serve {task}",
                fix="name its task: --task text-generation; or give another --teacher",
            )
        if not is_plain(file):
            raise TeacherError(f"the teacher {source} is no plain file", fix="give an existing .gguf file")
        check_no_pointer(file, TeacherError)
        header = _gguf_header.read(file)
        _check(header, file)
        key = {"file": file_sha256(file), "versions": versions("torch", "transformers", "gguf", "edgekd")}
        place = open_store().stage("gguf", key, lambda out: _converted_apart(file, header, out), of=file.name)
        found = Huggingface().inspect(str(place), task)
        types = sorted({tensor.type for tensor in header.tensors.values()})
        note = f"GGUF: {len(header.tensors)} tensors of {', '.join(types)}, made float32; every length held to the file"
        licence = header.metadata.get("general.license")
        named = {"licence": licence} if isinstance(licence, str) and len(licence) < 80 and licence.isprintable() else {}
        return found | named | {"checks": (note, *found["checks"])}

    def base(self, folder: Path, architecture: Mapping[str, Any], task: str, labels: Sequence[str]) -> Any:
        """Return the model of the folder."""
        return Huggingface().base(folder, architecture, task, labels)

    def settled(self, info: dict[str, Any], task: str, *, compressed: bool) -> dict[str, Any]:
        """Return `info`, its weights held against its config."""
        return Huggingface().settled(info, task, compressed=compressed)

    def files(self, folder: Path, architecture: Mapping[str, Any], task: str, out: Path) -> None:
        """Write what stands beside the model."""
        Huggingface().files(folder, architecture, task, out)

    def training(self, rows: int) -> dict[str, Any]:
        """Return defaults of a training run."""
        return Huggingface().training(rows)

    def gives(self, architecture: Mapping[str, Any]) -> tuple[str, ...]:
        """Return what losses can have of it."""
        return Huggingface().gives(architecture)

    def whole(self, info: dict[str, Any]) -> dict[str, Any]:
        """Return `info`: it has its head."""
        return info

    def shaped(self, info: dict[str, Any], task: str, survey: InputSpec, *, classes: int) -> dict[str, Any]:
        """Return `info`: its shape is its own."""
        return info

    def check(self, info: Mapping[str, Any], target: Profile) -> None:
        """Check nothing: it is exported within the target's limits."""

    def check_classes(self, info: Mapping[str, Any], classes: Sequence[str]) -> None:
        """Check nothing: there are no classes."""


def _check(header: _gguf_header.Header, file: Path) -> None:
    """Raise TeacherError where the file is no whole language model with a tokenizer that is known."""
    said = header.metadata
    architecture = said.get("general.architecture")
    if not isinstance(architecture, str) or not architecture.isascii() or not architecture.isidentifier():
        raise TeacherError(
            f"{file} names no architecture it could be (general.architecture is {architecture!r:.60})",
            fix="give a GGUF of a language model",
        )
    if said.get(_COUNT, 1) not in (0, 1):
        raise TeacherError(
            f"{file} is one of {said[_COUNT]} files",
            fix="join them first: llama-gguf-split --merge FIRST.gguf WHOLE.gguf",
        )
    if not any(name.startswith("blk.0.") for name in header.tensors) or "token_embd.weight" not in header.tensors:
        raise TeacherError(
            f"{file} has no layers and embeddings of a language model",
            fix="give the model's own file, not an adapter or a projector",
        )
    _gguf_tokenizer.check(said, file)
    rows, tokens = header.tensors["token_embd.weight"].shape[-1], len(said["tokenizer.ggml.tokens"])
    if tokens > rows:
        raise TeacherError(
            f"the tokenizer in {file} has {tokens} tokens, the model embeddings of {rows}",
            fix="fetch the file again: its tokenizer is another model's",
        )
    if isinstance(said.get(_TEMPLATE), str):
        _chat_template.checked(said[_TEMPLATE], file)


def _converted_apart(file: Path, header: _gguf_header.Header, out: Path) -> None:
    megabytes = header.values * 4 >> 20
    seconds = _BASE_S + header.values // _VALUES_PER_S
    limits = child.Limits(memory_mib=_BASE_MIB + _COPIES * megabytes, cpu_s=seconds)
    try:
        child.call(
            "edgekd.teachers.gguf:convert",
            {"file": str(file), "out": str(out)},
            timeout_s=4.0 * seconds,
            limits=limits,
        )
    except child.ChildError as error:
        raise TeacherError(
            f"{file} cannot be made a Hugging Face folder: {error.why}",
            fix="give the model as a Hugging Face folder",
        ) from error


def convert(file: str, out: str) -> None:
    """Write a GGUF file as a folder that transformers loads (in a child process with limits). Raises TeacherError."""
    import torch
    from transformers import AutoModelForCausalLM

    from edgekd.core.loading import by_transformers
    from edgekd.core.quiet import quiet

    path, place = Path(file), Path(out)
    header = _gguf_header.read(path)
    with tempfile.TemporaryDirectory(prefix="edgekd-gguf-") as name, quiet(), by_transformers(path):
        link = Path(name, "model.gguf")
        link.symlink_to(path)
        model = AutoModelForCausalLM.from_pretrained(
            name, gguf_file=link.name, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
        )
        bad = next((key for key, value in model.state_dict().items() if not torch.isfinite(value).all()), None)
        if bad:
            raise TeacherError(f"the weight {bad} in {path} holds NaN or infinity", fix="give an undamaged file")
        model.hf_quantizer = None  # transformers takes it for quantized, and would not write it
        model.config.__dict__.pop("quantization_config", None)
        model.config.__dict__.pop("_model_name_or_path", None)
        model.save_pretrained(place)
        _write_tokenizer(header, Path(name), link.name, place)
    template = header.metadata.get(_TEMPLATE)
    _chat_template.write(template if isinstance(template, str) else None, place)


def _write_tokenizer(header: _gguf_header.Header, folder: Path, name: str, place: Path) -> None:
    if _gguf_tokenizer.is_byte_level(header.metadata):
        _gguf_tokenizer.write(header.metadata, place)
        return
    from transformers import AutoTokenizer

    said = header.metadata
    with tempfile.TemporaryDirectory(prefix="edgekd-tokenizer-") as own:
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name, trust_remote_code=False)
        tokenizer.save_pretrained(own)
        for made in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):  # no copy of the weights
            if Path(own, made).exists():
                shutil.copyfile(Path(own, made), place / made)
    if said.get("tokenizer.ggml.add_bos_token", True):
        return
    for made, key, value in (
        ("tokenizer.json", "post_processor", None),
        ("tokenizer_config.json", "add_bos_token", False),
    ):
        values = json.loads((place / made).read_text(encoding="utf-8"))
        (place / made).write_text(json.dumps(values | {key: value}, ensure_ascii=False), encoding="utf-8")
