"""GGUF files: headers that lie, tokenizers by what the file says, chat templates that are more than templates."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path

import pytest
from conftest import invoke
from hypothesis import given
from hypothesis import strategies as st

from edgekd.core.errors import TeacherError
from edgekd.teachers import _chat_template, _gguf_header, _gguf_tokenizer
from edgekd.teachers.gguf import Gguf
from tests.helpers import fast

U32, F32, BOOL, STRING, ARRAY, U64 = 4, 6, 7, 8, 9, 10
ALIGNMENT = 32


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def valued(value: object) -> bytes:
    """A value with its type before it."""
    if isinstance(value, bool):
        return struct.pack("<IB", BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", U32, value)
    if isinstance(value, str):
        return struct.pack("<I", STRING) + text(value)
    assert isinstance(value, list)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", ARRAY, STRING, len(value)) + b"".join(map(text, value))
    return struct.pack("<IIQ", ARRAY, U32, len(value)) + struct.pack(f"<{len(value)}I", *value)


def described(name: str, shape: tuple[int, ...], offset: int, kind: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape) + struct.pack("<IQ", kind, offset)


def gguf(
    metadata: dict[str, object],
    tensors: list[tuple[str, tuple[int, ...], int]],
    data: int,
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> bytes:
    """A file with these keys and float32 tensors (name, shape, offset), and so many bytes of data."""
    head = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(tensors), len(metadata))))
    head += b"".join(text(key) + valued(value) for key, value in metadata.items())
    head += b"".join(described(*one) for one in tensors)
    return head + bytes(-len(head) % ALIGNMENT) + bytes(data)


WORDS = ["<|end|>", "<|user|>", "a", "b", "c", "\u0120", "ab", "\u0120a", "1", "2", "12", "."]
KEYS: dict[str, object] = {
    "general.architecture": "llama",
    "llama.context_length": 64,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": WORDS,
    "tokenizer.ggml.token_type": [3, 3, *[1] * (len(WORDS) - 2)],
    "tokenizer.ggml.merges": ["a b", "\u0120 a", "1 2"],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 0,
    "tokenizer.ggml.add_bos_token": False,
}
TENSORS = [("token_embd.weight", (8, len(WORDS)), 0), ("blk.0.attn_q.weight", (8, 8), 384)]
DATA = 384 + 256


@pytest.fixture
def write(tmp_path):
    def written(raw: bytes, name: str = "model.gguf") -> Path:
        (tmp_path / name).write_bytes(raw)
        return tmp_path / name

    return written


def keyed(*rest: bytes, keys: int = 1) -> bytes:
    """The beginning of a file of so many keys, and what follows."""
    return b"GGUF" + struct.pack("<IQQ", 3, 0, keys) + b"".join(rest) + bytes(64)


def test_a_sound_header_is_read(write):
    header = _gguf_header.read(write(gguf(KEYS, TENSORS, DATA)))
    assert header.metadata == KEYS
    assert header.tensors["token_embd.weight"].shape == (8, len(WORDS))
    assert header.values == 8 * len(WORDS) + 64


HUGE = 1 << 62


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "ends inside its magic"),
        (b"GGML" + bytes(64), "does not begin as a GGUF"),
        (gguf({}, [], 0, version=1), "its version is 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 1, 1) + bytes(64), "its version is"),
        (gguf({}, [], 0, counts=(HUGE, 0)), "claims .* arrays of weights"),
        (gguf({}, [], 0, counts=(0, HUGE)), "claims .* keys"),
        (gguf(KEYS, TENSORS, DATA)[:200], "ends inside|claims"),
        (gguf(KEYS, TENSORS, DATA - 200), "ends at byte"),
        (gguf(KEYS, [("token_embd.weight", (HUGE, 2), 0)], DATA), "has the shape"),
        (gguf(KEYS, [("token_embd.weight", (0, 2), 0)], DATA), "has the shape"),
        (gguf(KEYS, [("a", (8, 8), 0), ("a", (8, 8), 256)], 512), "twice"),
        (gguf(KEYS, [("a", (8, 8), 0), ("b", (8, 8), 128)], 512), "inside another"),
        (gguf(KEYS, [("a", (8, 8), 13)], 512), "off its alignment"),
        (gguf({"general.alignment": 3}, [("a", (8, 8), 0)], 512), "its alignment is 3"),
        (gguf(KEYS, [], 64), "has no tensors"),
        (keyed(struct.pack("<Q", HUGE)), "a text of"),
        (keyed(text("k"), struct.pack("<IIQ", ARRAY, U32, HUGE)), "claims"),
        (keyed(text("k"), struct.pack("<IIQ", ARRAY, ARRAY, 1)), "type 9"),
        (keyed(text("k"), struct.pack("<I", 77)), "type 77"),
        (keyed(2 * (text("k") + valued(1)), keys=2), "key 'k' twice"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + described("a", (8, 8), 0, 99) + bytes(300), "type 99"),
    ],
)
def test_a_length_that_lies_is_refused_before_it_is_read(write, raw, says):
    with pytest.raises(TeacherError, match=says) as told:
        _gguf_header.read(write(raw))
    assert told.value.fix


@fast
@given(at=st.integers(0, 400), value=st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(tmp_path_factory, at, value):
    raw = bytearray(gguf(KEYS, TENSORS, DATA))
    raw[at] = value
    file = tmp_path_factory.mktemp("changed") / "model.gguf"
    file.write_bytes(raw)
    with contextlib.suppress(TeacherError):
        _gguf_header.read(file)


def spec_of(folder: Path, **changes: object) -> dict:
    metadata = KEYS | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    _gguf_tokenizer.check(metadata, folder / "model.gguf")
    _gguf_tokenizer.write(metadata, folder)
    return json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))


def test_the_tokenizer_does_what_the_file_says_and_no_more(tmp_path):
    from tokenizers import Tokenizer

    spec = spec_of(tmp_path)
    assert spec["normalizer"] is None
    assert spec["model"]["byte_fallback"] is False
    assert (spec["decoder"]["type"], spec["post_processor"]["type"]) == ("ByteLevel", "ByteLevel")
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    said = tokenizer.encode("ab a12<|user|>.")
    assert said.tokens == ["ab", "\u0120a", "1", "2", "<|user|>", "."], "no BOS, digits apart"
    assert tokenizer.decode(said.ids, skip_special_tokens=False) == "ab a12<|user|>."
    spec_of(tmp_path, pre="gpt-2", add_bos_token=True)
    other = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert other.encode("a12").tokens == ["<|user|>", "a", "12"]
    assert other.encode("a12", add_special_tokens=False).tokens == ["a", "12"]


def test_a_tokenizer_loads_with_its_roles(tmp_path):
    from transformers import AutoTokenizer

    spec_of(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 0)
    assert tokenizer("ab").input_ids == [6]
    assert not (tmp_path / "tokenizer.model").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pre": "deepseek-coder"}, "how it cuts texts"),
        ({"tokens": []}, "holds no tokens"),
        ({"token_type": [1]}, "of another number"),
        ({"bos_token_id": 99}, "its bos token is 99"),
        ({"merges": ["ab"]}, "no pairs"),
        ({"merges": ["a z"]}, "to no token of its own"),
    ],
)
def test_a_tokenizer_that_would_be_a_guess_is_refused(tmp_path, changes, says):
    with pytest.raises(TeacherError, match=says) as told:
        spec_of(tmp_path, **changes)
    assert "Hugging Face folder" in told.value.fix


@pytest.mark.parametrize(
    ("metadata", "tensors", "says"),
    [
        (KEYS | {"general.architecture": "a b"}, TENSORS, "no architecture"),
        (KEYS | {"split.count": 3}, TENSORS, "one of 3 files"),
        (KEYS, [("a.weight", (8, 8), 0)], "no layers and embeddings"),
        (KEYS, [("token_embd.weight", (8, 4), 0), TENSORS[1]], "12 tokens, the model embeddings of 4"),
        (KEYS | {"tokenizer.chat_template": "{% include '/etc/passwd' %}"}, TENSORS, "chat template"),
    ],
)
def test_a_file_that_is_no_whole_model_is_refused_before_torch(write, metadata, tensors, says):
    file = write(gguf(metadata, tensors, DATA))
    with pytest.raises(TeacherError, match=says) as told:
        Gguf().inspect(str(file), "text-generation")
    assert told.value.fix


def test_another_task_names_that_of_language_models(write):
    file = write(gguf(KEYS, TENSORS, DATA))
    with pytest.raises(TeacherError, match="a language model, which cannot serve text-classification") as told:
        Gguf().inspect(str(file), "text-classification")
    assert "--task text-generation" in told.value.fix


def test_the_command_tells_of_a_file_that_was_cut(write, tmp_path):
    file = write(gguf(KEYS, TENSORS, DATA)[:-100])
    (tmp_path / "corpus.txt").write_text("a b c\n", encoding="utf-8")
    words = ("--task", "text-generation", "--student", "none", "--teacher", file, "--data", tmp_path / "corpus.txt")
    done = invoke("plan", "--target", "cpu-avx2", *words)
    assert done.returncode == 1
    assert "it was cut on the way" in done.stderr
    assert "Traceback" not in done.stderr


PLAIN = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message.content }}{% endfor %}"


@pytest.mark.parametrize(
    "template",
    [
        PLAIN,
        "{%- set ns = namespace(a=1) -%}{%- generation -%}{{ messages[0]['content'] | trim }}{%- endgeneration -%}",
        "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ raise_exception('no') }}{% endfor %}",
        "{% macro one(x) %}{{ x | tojson(indent=4) }}{% endmacro %}{{ one(tools) }}",
    ],
)
def test_templates_in_use_are_taken(template):
    assert _chat_template.checked(template, Path("x")) == template


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''['__class__'] }}",
        "{{ '' | attr('x') }}",
        "{{ messages | map(attribute='__class__') }}",
        "{{ lipsum }}",
        "{% import 'a' as b %}",
        "{% from 'a' import b %}",
        "{% include 'a' %}",
        "{% extends 'a' %}",
        "{{ cycler }}",
        "{{ x._private }}",
        "{{",
        "{{ 1 }}" * 60_000,
    ],
)
def test_templates_with_code_are_refused(template):
    with pytest.raises(TeacherError, match="chat template") as told:
        _chat_template.checked(template, Path("x"))
    assert "remove it" in told.value.fix


def test_a_folders_template_is_found_in_either_place(tmp_path):
    assert _chat_template.of_folder(tmp_path) is None
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": PLAIN}), encoding="utf-8")
    assert _chat_template.of_folder(tmp_path) == PLAIN
    named = [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}), encoding="utf-8")
    assert _chat_template.of_folder(tmp_path) == "b"
    (tmp_path / "chat_template.jinja").write_text("c", encoding="utf-8")
    assert _chat_template.of_folder(tmp_path) == "c"
    out = tmp_path / "out"
    out.mkdir()
    (out / "tokenizer_config.json").write_text('{"bos_token": "x"}', encoding="utf-8")
    _chat_template.write("c", out)
    assert json.loads((out / "tokenizer_config.json").read_text(encoding="utf-8")) == {
        "bos_token": "x",
        "chat_template": "c",
    }
