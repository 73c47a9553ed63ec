"""`edgekd import ct2`: a Whisper model of CTranslate2 as a Hugging Face folder, weight by weight, or a refusal."""

import contextlib
import json
import struct

import numpy as np
import pytest
from conftest import invoke
from safetensors.numpy import load_file

from edgekd.core.errors import EdgeKDError, TeacherError
from edgekd.importing import _whisper_tokenizer, ct2, whisper

WIDTH, MELS, TOKENS, SOURCE, TARGET, WIDE, HEADS = 8, 4, 60, 20, 12, 16, 2
TYPES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}
SPECIAL = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|en|>",
    "<|de|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|startofprev|>",
    "<|notimestamps|>",
)


def hugging_face():
    """Random weights under Hugging Face's names, by the shapes that a tiny config asks for."""
    encoder, decoder = (whisper.Side(layers, HEADS, WIDE, places) for layers, places in ((2, SOURCE), (1, TARGET)))
    draw = np.random.default_rng(0)
    shapes = whisper.expected_shapes(whisper.Sizes(WIDTH, MELS, 3, TOKENS, encoder, decoder))
    return {name: draw.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}


def as_ct2(weights):
    """The same weights as CTranslate2 stacks and names them."""
    made = {}
    for side, layers in (("encoder", 2), ("decoder", 1)):
        made |= {f"{side}/num_heads": np.int16(HEADS), f"{side}/pre_norm": np.int8(1), f"{side}/activation": np.int8(3)}
        made[f"{side}/position_encodings/encodings"] = weights[f"model.{side}.embed_positions.weight"]
        made |= norm(f"{side}/layer_norm", f"model.{side}.layer_norm", weights)
        for number in range(layers):
            theirs, ours = f"{side}/layer_{number}", f"model.{side}.layers.{number}"
            made |= norm(f"{theirs}/self_attention/layer_norm", f"{ours}.self_attn_layer_norm", weights)
            made |= norm(f"{theirs}/ffn/layer_norm", f"{ours}.final_layer_norm", weights)
            made |= linear(f"{theirs}/self_attention/linear_0", f"{ours}.self_attn", "qkv", weights)
            made |= linear(f"{theirs}/self_attention/linear_1", f"{ours}.self_attn.out_proj", "", weights)
            made |= linear(f"{theirs}/ffn/linear_0", f"{ours}.fc1", "", weights)
            made |= linear(f"{theirs}/ffn/linear_1", f"{ours}.fc2", "", weights)
            if side == "decoder":
                made |= norm(f"{theirs}/attention/layer_norm", f"{ours}.encoder_attn_layer_norm", weights)
                made |= linear(f"{theirs}/attention/linear_0", f"{ours}.encoder_attn", "q", weights)
                made |= linear(f"{theirs}/attention/linear_1", f"{ours}.encoder_attn", "kv", weights)
                made |= linear(f"{theirs}/attention/linear_2", f"{ours}.encoder_attn.out_proj", "", weights)
    for name in ("conv1", "conv2"):
        made |= linear(f"encoder/{name}", f"model.encoder.{name}", "", weights)
    made["decoder/embeddings/weight"] = weights["model.decoder.embed_tokens.weight"]
    return made


def norm(theirs, ours, weights):
    return {f"{theirs}/gamma": weights[f"{ours}.weight"], f"{theirs}/beta": weights[f"{ours}.bias"]}


def linear(theirs, ours, parts, weights):
    names = [f"{ours}.{part}_proj" for part in parts] or [ours]
    bias = [weights.get(f"{name}.bias", np.zeros(len(weights[f"{name}.weight"]), np.float32)) for name in names]
    stacked = np.concatenate([weights[f"{name}.weight"] for name in names])
    return {f"{theirs}/weight": stacked, f"{theirs}/bias": np.concatenate(bias)}


def text(name):
    return struct.pack("<H", len(name) + 1) + name.encode() + b"\0"


def binary(
    variables, *, version=6, spec="WhisperSpec", aliases=(("decoder/projection/weight", "decoder/embeddings/weight"),)
):
    """The bytes of a model.bin."""
    raw = struct.pack("<I", version) + text(spec) + struct.pack("<II", 3, len(variables))
    for name, values in variables.items():
        array = np.asarray(values)
        raw += text(name) + struct.pack("<B", array.ndim) + struct.pack(f"<{array.ndim}I", *array.shape)
        raw += struct.pack("<BI", TYPES[str(array.dtype)], array.nbytes) + array.tobytes()
    raw += struct.pack("<I", len(aliases))
    return raw + b"".join(text(part) for pair in aliases for part in pair)


def tokenizer():
    vocab = {chr(97 + number): number for number in range(19)} | {"ab": 19}
    added = [
        {
            "id": 20 + number,
            "content": name,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for number, name in enumerate(SPECIAL)
    ]
    model = {"type": "BPE", "vocab": vocab, "merges": [["a", "b"]]}
    return {"version": "1.0", "added_tokens": added, "model": model}


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "ct2"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
    told = {
        "suppress_ids": [1, 2, 10**9, -1, "x"],
        "suppress_ids_begin": [3],
        "lang_ids": [59],
        "alignment_heads": [[0, 1]],
    }
    (folder / "config.json").write_text(json.dumps(told))
    return folder


def write(folder, variables, **options):
    (folder / "model.bin").write_bytes(binary(variables, **options))
    return folder / "model.bin"


def imported(folder, out):
    out.mkdir()
    return whisper.write(ct2.read(folder / "model.bin"), folder, out)


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_every_weight_comes_out_as_it_was(place, tmp_path, kind):
    weights = {name: values.astype(kind) for name, values in hugging_face().items()}
    write(place, {n: v if v.dtype.kind == "i" else v.astype(kind) for n, v in as_ct2(weights).items()})
    made = imported(place, tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == weights.keys()
    for name, values in weights.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["torch_dtype"], config["encoder_layers"], config["decoder_layers"]) == (kind, 2, 1)
    assert made == whisper.Imported("whisper", sum(values.size for values in weights.values()), 2, 1, 1)


def test_int8_weights_are_unpacked_by_their_scales(place, tmp_path):
    weights, variables = hugging_face(), {}
    for name, values in as_ct2(weights).items():
        if values.ndim == 2 and "position" not in name:
            scale = (127 / np.abs(values).max(axis=1)).astype(np.float32)
            variables |= {name: np.rint(values * scale[:, None]).astype(np.int8), f"{name}_scale": scale}
        else:
            variables[name] = values
    write(place, variables)
    imported(place, tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    for name, values in weights.items():
        np.testing.assert_allclose(found[name], values, atol=np.abs(values).max() / 200, err_msg=name)
    del variables["decoder/embeddings/weight_scale"]
    write(place, variables)
    with pytest.raises(TeacherError, match="has no scale for each row"):
        imported(place, tmp_path / "other")


def test_int16_weights_are_unpacked_by_their_one_scale(place, tmp_path):
    weights, variables = hugging_face(), {}
    for name, values in as_ct2(weights).items():
        if values.ndim == 2 and "position" not in name:
            scale = np.float32(2**10 / np.abs(values).max())
            variables |= {name: np.rint(values * scale).astype(np.int16), f"{name}_scale": scale}
        else:
            variables[name] = values
    write(place, variables)
    imported(place, tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    for name, values in weights.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], values, atol=6e-4, err_msg=name)
    del variables["decoder/embeddings/weight_scale"]
    write(place, variables)
    with pytest.raises(TeacherError, match="is int16 and has no scale"):
        imported(place, tmp_path / "other")


def test_switches_that_releases_of_ctranslate2_add_may_be_off(place, tmp_path):
    off = ("decoder/alibi", "decoder/alibi_use_positive_positions", "decoder/scale_alibi")
    more = dict.fromkeys(off, np.int8(0)) | {"decoder/layer_0/ffn/linear_0/keep_in_float32": np.int8(1)}
    write(place, as_ct2(hugging_face()) | more)
    imported(place, tmp_path / "out")
    write(place, as_ct2(hugging_face()) | more | {"decoder/scale_alibi": np.int8(1)})
    with pytest.raises(TeacherError, match="scale_alibi"):
        imported(place, tmp_path / "on")


def test_equal_weights_may_be_stored_once(place, tmp_path):
    first, second = "decoder/layer_0/ffn/layer_norm/gamma", "encoder/layer_norm/gamma"
    variables = as_ct2(hugging_face())
    del variables[second]
    write(place, variables, aliases=[("decoder/projection/weight", "decoder/embeddings/weight"), (second, first)])
    imported(place, tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    np.testing.assert_array_equal(found["model.encoder.layer_norm.weight"], variables[first])


def test_transformers_opens_it(place, tmp_path):
    from transformers import WhisperForConditionalGeneration, WhisperTokenizerFast

    write(place, as_ct2(hugging_face()))
    imported(place, tmp_path / "out")
    model, told = WhisperForConditionalGeneration.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.proj_out.weight is model.model.decoder.embed_tokens.weight
    assert model.generation_config.suppress_tokens == [1, 2]
    assert model.generation_config.no_timestamps_token_id == 27
    words = WhisperTokenizerFast.from_pretrained(tmp_path / "out")
    assert words.convert_tokens_to_ids(["<|startoftranscript|>", "<|0.00|>", "<|0.62|>"]) == [21, 28, 59]
    assert words("<|startoftranscript|>ab", add_special_tokens=False)["input_ids"][0] == 21


BAD = {
    "another spec": (lambda v: binary(v, spec="TransformerSpec"), "holds a 'TransformerSpec'"),
    "an older version": (lambda v: binary(v, version=3), "binary version 3"),
    "no such file": (lambda v: b"PK\3\4" + bytes(100), "is no CTranslate2 model"),
    "empty": (lambda v: b"", "it ends in the middle"),
    "cut": (lambda v: binary(v)[:-50], "it ends in the middle|longer than the file"),
    "longer": (lambda v: binary(v) + b"x", "bytes follow after its end"),
    "an unknown weight": (lambda v: binary(v | {"decoder/extra": np.float32([1])}), "decoder/extra"),
    "a missing weight": (lambda v: binary({k: w for k, w in v.items() if k != "encoder/conv1/bias"}), "conv1/bias"),
    "a missing layer": (
        lambda v: binary({k: w for k, w in v.items() if "encoder/layer_0" not in k}),
        "layer_1|layer_0",
    ),
    "NaN": (lambda v: binary(v | {"encoder/conv1/bias": np.full(WIDTH, np.nan, np.float32)}), "NaN or infinity"),
    "a bias of the keys": (
        lambda v: binary(v | {"encoder/layer_0/self_attention/linear_0/bias": np.ones(3 * WIDTH, np.float32)}),
        "a bias of the keys",
    ),
    "another shape": (lambda v: binary(v | {"encoder/conv1/bias": np.zeros(5, np.float32)}), "ask for"),
    "rows that are no three parts": (
        lambda v: binary(v | {"encoder/layer_0/self_attention/linear_0/bias": np.zeros(25, np.float32)}),
        "equal parts",
    ),
    "heads that do not divide": (lambda v: binary(v | {"encoder/num_heads": np.int16(3)}), "3 heads for a width of 8"),
    "no heads": (lambda v: binary(v | {"encoder/num_heads": np.int16(0)}), "0 heads"),
    "another activation": (lambda v: binary(v | {"decoder/activation": np.int8(0)}), "not GELU"),
    "post norm": (lambda v: binary(v | {"decoder/pre_norm": np.int8(0)}), "pre_norm"),
    "a number that is none": (lambda v: binary(v | {"encoder/num_heads": np.float32("nan")}), "no whole number"),
    "a weight of whole numbers": (
        lambda v: binary(v | {"encoder/conv1/bias": np.zeros(WIDTH, np.int32)}),
        "int32, which no weight is",
    ),
    "a wide convolution": (
        lambda v: binary(v | {"encoder/conv1/weight": np.zeros((WIDTH, MELS, 5), np.float32)}),
        "spans 5 steps",
    ),
    "another alias": (lambda v: binary(v, aliases=(("x", "encoder/conv1/bias"),)), "aliases"),
    "an alias of nothing": (lambda v: binary(v, aliases=(("x", "nothing"),)), "stands for nothing"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_whisper_is_refused(place, tmp_path, name):
    make, why = BAD[name]
    (place / "model.bin").write_bytes(make(as_ct2(hugging_face())))
    with pytest.raises(TeacherError, match=why) as refusal:
        imported(place, tmp_path / "out")
    assert refusal.value.fix


def test_lengths_that_lie_are_refused_before_anything_is_read(place):
    raw = binary(as_ct2(hugging_face()))
    start = 4 + len(text("WhisperSpec")) + 4
    first = start + 4 + len(text("encoder/num_heads")) + 1
    for at, lie in ((start, 2**32 - 1), (start, 0), (first + 1, 2**32 - 1), (first + 1, 0)):
        (place / "model.bin").write_bytes(raw[:at] + struct.pack("<I", lie) + raw[at + 4 :])
        with pytest.raises(TeacherError, match="no CTranslate2 model that can be read"):
            ct2.read(place / "model.bin")
    huge = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, 1) + text("w") + struct.pack("<B", 4)
    huge += struct.pack("<4I", *[2**32 - 1] * 4) + struct.pack("<BI", 0, 2**32 - 1)
    (place / "model.bin").write_bytes(huge)
    with pytest.raises(TeacherError, match="which are not"):
        ct2.read(place / "model.bin")


def test_damage_at_any_byte_of_the_table_never_escapes(place, tmp_path):
    raw = bytearray(binary(as_ct2(hugging_face())))
    draw = np.random.default_rng(0)
    for number in range(150):
        one = bytearray(raw)
        for at in draw.integers(0, 600 if number % 2 else len(raw), size=3):
            one[at] = int(draw.integers(256))
        (place / "model.bin").write_bytes(one)
        with contextlib.suppress(EdgeKDError):  # anything else fails the test
            imported(place, tmp_path / str(number))


TOKENIZERS = {
    "missing": (None, "there is no"),
    "no JSON": ("nonsense", "cannot be used"),
    "a list": ("[]", "no JSON object"),
    "no merges": (json.dumps({"model": {"vocab": {}}}), "no BPE tokenizer"),
    "another model's": (json.dumps(tokenizer() | {"model": {"vocab": {"a": 99}, "merges": []}}), "another model's"),
    "merges that are none": (
        json.dumps(tokenizer() | {"model": {"vocab": {"a": 1}, "merges": [5]}}),
        "no pair of words",
    ),
    "half a surrogate pair": (json.dumps(tokenizer() | {"version": "\ud800"}), "cannot be used"),
    "no Whisper": (json.dumps(tokenizer() | {"added_tokens": []}), "no token <|endoftext|>"),
    "odd tokens": (json.dumps(tokenizer() | {"added_tokens": [{"id": "1", "content": 5}]}), "no content or no id"),
}


def test_a_merge_that_was_taken_for_a_header_is_put_back(place, tmp_path):
    """Packages of multilingual Whispers lack the first one: " the" became two tokens."""
    from tokenizers import Tokenizer

    content = tokenizer()
    del content["model"]["vocab"]["s"]
    content["model"]["vocab"]["cd"] = 18
    (place / "tokenizer.json").write_text(json.dumps(content))
    size = 20 + len(SPECIAL) + 1501
    _whisper_tokenizer.write(_whisper_tokenizer.read(place / "tokenizer.json", size), size, tmp_path)
    assert (tmp_path / "merges.txt").read_text().splitlines() == ["#version: 0.2", "c d", "a b"]
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("abcd").tokens == ["ab", "cd"]


def test_a_tokenizer_of_fewer_languages_is_another_models(tmp_path):
    ids = {name: 50_257 + number for number, name in enumerate(SPECIAL)} | {"<|notimestamps|>": 50_363}
    added = [{"id": number, "content": name} for name, number in ids.items()]
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps({"added_tokens": added, "model": {"vocab": {"a": 0}, "merges": ["a b"]}}))
    assert _whisper_tokenizer.read(file, 51_865).ids == ids  # up to large-v2
    with pytest.raises(TeacherError, match="it names 51865 of the model's 51866 tokens"):
        _whisper_tokenizer.read(file, 51_866)  # large-v3


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_that_does_not_fit_is_refused(place, tmp_path, name):
    content, why = TOKENIZERS[name]
    write(place, as_ct2(hugging_face()))
    (place / "tokenizer.json").unlink()
    if content is not None:
        (place / "tokenizer.json").write_text(content)
    with pytest.raises(TeacherError, match=why) as refusal:
        imported(place, tmp_path / "out")
    (place / "tokenizer.json").write_text(json.dumps(tokenizer()))
    assert refusal.value.fix.startswith("put the ")
    imported(place, tmp_path / "again")  # the fix, obeyed


def test_the_command(place, tmp_path):
    write(place, as_ct2(hugging_face()))
    done = invoke("import", "ct2", place, tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) | {"folder": ""} == {
        "folder": "",
        "format": "ct2",
        "model_type": "whisper",
        "encoder_layers": 2,
        "decoder_layers": 1,
        "languages": 1,
        "parameters": sum(values.size for values in hugging_face().values()),
    }
    again = invoke("import", "ct2", place / "model.bin", tmp_path / "out")
    assert again.returncode == 2
    assert "not a new or an empty folder" in again.stderr
    gone = invoke("import", "ct2", tmp_path / "nothing.bin", tmp_path / "new")
    assert gone.returncode != 0
    assert not (tmp_path / "new").exists()
    (place / "tokenizer.json").unlink()
    assert invoke("import", "ct2", place, tmp_path / "new").returncode != 0
    assert not (tmp_path / "new").exists()  # nothing half-written stays
