"""A sentence-transformers folder says how its embeddings are made: the bundle makes them so, or it is refused."""

import json
import shutil
import subprocess

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from foreign_weights import classifier
from onnx import helper
from onnx_files import FLOAT, INT, model_of, node, save, text_model, value, weights
from safetensors.torch import save_file
from sentence_folders import HIDDEN, LINEAR, MEAN, dense, write

from edgekd.cli.show import _embedding
from edgekd.core.errors import TeacherError
from edgekd.teachers import _sentence_graph, _sentences
from edgekd.teachers.huggingface import Huggingface
from edgekd.teachers.onnx_model import OnnxModel

EMBED = "feature-extraction"


@pytest.fixture
def folder(tmp_path):
    return classifier(tmp_path / "sentences")


def inspect(folder):
    return Huggingface().inspect(str(folder), EMBED)


def sentence_of(folder):
    return inspect(folder)["architecture"]["sentence"]


def test_the_longest_text_is_taken_over_and_every_file_counts(folder):
    plain = inspect(folder)
    assert plain["architecture"]["max_tokens"] == 32
    assert plain["architecture"]["sentence"] == {"pooling": ["mean"], "layers": [], "width": HIDDEN}
    write(folder, "Normalize", max_seq_length=16, do_lower_case=False)
    found = inspect(folder)
    assert found["architecture"]["max_tokens"] == 16
    assert found["architecture"]["sentence"]["layers"] == [{"kind": "normalize"}]
    digests = {plain["sha256"], found["sha256"]}
    for change in (
        lambda: write(folder, "Normalize", max_seq_length=12),
        lambda: write(folder, "Normalize", pooling={"pooling_mode": "cls"}),
        lambda: dense(folder),
        lambda: dense(folder, outputs=5),
    ):
        change()
        digests.add(inspect(folder)["sha256"])
    assert len(digests) == 6


POOLINGS = {
    "cls": ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ["cls"]),
    "max": ({"pooling_mode_max_tokens": True}, ["max"]),
    "joined": (MEAN | {"pooling_mode_max_tokens": True}, ["max", "mean"]),
    "last": ({"pooling_mode_lasttoken": True}, ["lasttoken"]),
    "weighted": ({"pooling_mode_weightedmean_tokens": True}, ["weightedmean"]),
    "by root": ({"pooling_mode_mean_sqrt_len_tokens": True}, ["mean_sqrt_len_tokens"]),
    "named": ({"pooling_mode": "cls", "embedding_dimension": HIDDEN}, ["cls"]),
    "a list": ({"pooling_mode": ["mean", "cls"]}, ["mean", "cls"]),
    "none named": ({"word_embedding_dimension": HIDDEN}, ["mean"]),
}


@pytest.mark.parametrize("name", POOLINGS)
def test_every_pooling_is_read_and_written(folder, tmp_path, name):
    config, modes = POOLINGS[name]
    write(folder, "Dense", "Normalize", pooling=config)
    dense(folder, inputs=HIDDEN * len(modes), bias=False, activation_function=LINEAR)
    found = inspect(folder)["architecture"]
    assert found["sentence"]["pooling"] == modes
    out = tmp_path / "out"
    out.mkdir()
    _sentences.write_files(folder, found, out)
    again = _sentences.read(out, HIDDEN)
    assert again.as_dict() == {key: found["sentence"][key] for key in ("pooling", "layers")}
    assert again.max_tokens == 32


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"pooling_mode": "mean_of_last_two"}, "pooling_mode 'mean_of_last_two'"),
        ({"pooling_mode": []}, "pooling_mode"),
        ({"pooling_mode": [["mean"]]}, "pooling_mode"),
        ({"pooling_mode": 5}, "pooling_mode"),
        ({"pooling_mode_attention": True}, "pooling_mode_attention"),
    ],
)
def test_unknown_poolings_are_refused(folder, config, why):
    write(folder, pooling=config)
    with pytest.raises(TeacherError, match=why) as refusal:
        inspect(folder)
    assert "a folder without modules.json gives the mean" in refusal.value.fix
    (folder / "modules.json").unlink()
    inspect(folder)  # the fix, obeyed


@pytest.mark.parametrize("layer", ["LSTM", "CNN", "WeightedLayerPooling", "Pooling"])
def test_unknown_layers_are_refused(folder, layer):
    write(folder, layer)
    with pytest.raises(TeacherError, match=rf"modules.json (has a|lists) .*{layer}"):
        inspect(folder)


def test_modules_in_another_order_are_refused(folder):
    write(folder, "Dense")
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([modules[0], modules[2], modules[1]]))
    with pytest.raises(TeacherError, match="first come Transformer and Pooling"):
        inspect(folder)
    (folder / "modules.json").write_text(json.dumps(modules[:1]))
    with pytest.raises(TeacherError, match="first come Transformer and Pooling"):
        inspect(folder)


def listed(folder, *modules):
    (folder / "modules.json").write_text(json.dumps([{"path": path, "type": kind} for path, kind in modules]))


OURS = "sentence_transformers.models."


@pytest.mark.parametrize("kind", ["base.modules.transformer", "sentence_transformer.modules", "models"])
def test_modules_are_known_by_any_release_and_not_of_other_packages(folder, kind):
    write(folder)
    listed(
        folder,
        ("", f"sentence_transformers.{kind}.Transformer"),
        ("1_Pooling", f"sentence_transformers.{kind}.Pooling"),
    )
    assert sentence_of(folder)["pooling"] == ["mean"]
    for first, second in (("custom_st.Transformer", OURS + "Pooling"), (OURS + "Transformer", "my_package.Pooling")):
        listed(folder, ("", first), ("1_Pooling", second))
        with pytest.raises(TeacherError, match=r"a module of another package, '(custom_st|my_package)"):
            inspect(folder)


def test_a_pooling_without_a_folder_is_refused(folder):
    write(folder)
    listed(folder, ("", OURS + "Transformer"), ("", OURS + "Pooling"))
    with pytest.raises(TeacherError, match="it names the folder ''"):
        inspect(folder)
    listed(folder, ("", OURS + "Transformer"), ("9_Pooling", OURS + "Pooling"))
    with pytest.raises(TeacherError, match=r"9_Pooling.config.json: it is missing"):
        inspect(folder)


def test_an_encoder_one_folder_below_is_refused_with_the_fix_that_works(folder, tmp_path):
    write(folder, "Normalize", pooling={"pooling_mode": "cls"}, max_seq_length=9)
    listed(
        folder, ("0_Transformer", OURS + "Transformer"), ("1_Pooling", OURS + "Pooling"), ("2_N", OURS + "Normalize")
    )
    (folder / "0_Transformer").mkdir()
    for file in [file for file in folder.iterdir() if file.is_file() and file.name != "modules.json"]:
        file.rename(folder / "0_Transformer" / file.name)
    with pytest.raises(TeacherError, match="lies in 0_Transformer") as refusal:
        inspect(folder)
    alone = inspect(folder / "0_Transformer")
    assert alone["architecture"]["sentence"]["notes"] == [alone["checks"][-1]]
    assert alone["checks"][-1].endswith(f"give that folder, {folder.name}, to have what it says")
    subprocess.run(refusal.value.fix.partition(": ")[2], shell=True, check=True)
    found = inspect(folder)["architecture"]
    assert (found["sentence"]["pooling"], found["max_tokens"]) == (["cls"], 9)
    assert found["sentence"]["layers"] == [{"kind": "normalize"}]


@pytest.mark.parametrize("kind", ["StaticEmbedding", "Router", "CLIPModel", "WordEmbeddings"])
def test_folders_of_no_encoder_are_named_as_such(tmp_path, kind):
    listed(tmp_path, ("0_" + kind, OURS + kind))
    with pytest.raises(TeacherError, match="does not begin with a Transformer"):
        inspect(tmp_path)


@pytest.mark.parametrize("kind", ["roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"])
def test_older_names_of_the_settings_are_read(folder, kind):
    write(folder, max_seq_length=9)
    before = inspect(folder)
    (folder / "sentence_bert_config.json").rename(folder / f"sentence_{kind}_config.json")
    found = inspect(folder)
    assert found["architecture"]["max_tokens"] == 9
    assert found["sha256"] != before["sha256"]


def test_an_onnx_file_with_an_embedding_of_its_own(tmp_path):
    model = text_model(EMBED)
    tokens = model.graph.output[0]
    width = tokens.type.tensor_type.shape.dim[-1].dim_value
    model.graph.node.append(node("ReduceMax", [tokens.name], ["sentence_embedding"], axes=[1], keepdims=0))
    model.graph.output.append(value("sentence_embedding", FLOAT, ["batch", width]))
    file = save(tmp_path, model)
    with pytest.raises(TeacherError, match="gives a sentence_embedding of its own") as refusal:
        OnnxModel().inspect(str(file), EMBED)
    assert "put modules.json" in refusal.value.fix
    write(tmp_path, pooling={"pooling_mode": "max"})
    assert OnnxModel().inspect(str(file), EMBED)["architecture"]["sentence"]["pooling"] == ["max"]
    del model.graph.output[0]
    with pytest.raises(TeacherError, match="none of these") as refusal:
        OnnxModel().inspect(str(save(tmp_path, model)), EMBED)
    assert refusal.value.fix.startswith("export the model with an output last_hidden_state, float (batch, tokens")


BAD_DENSE = {
    "another width": ({"inputs": 8}, "it takes 8 values, and 16 come to it"),
    "weights of another shape": ({"in_features": HIDDEN, "inputs": 8}, "config.json beside them asks for"),
    "no number": ({"out_features": "4"}, "a width is '4'"),
    "huge": ({"out_features": 10**9}, "a width is"),
    "negative": ({"out_features": -4}, "a width is -4"),
    "code": ({"activation_function": "os.system"}, "the activation 'os.system'"),
    "another activation": ({"activation_function": "torch.nn.modules.activation.Hardshrink"}, "Hardshrink"),
    "of tokens": ({"module_input_name": "token_embeddings"}, "module_input_name"),
    "bias in words": ({"bias": True, "use_residual": "yes"}, "true or false"),
}


@pytest.mark.parametrize("name", BAD_DENSE)
def test_a_dense_layer_that_cannot_be_used_is_refused(folder, name):
    settings, why = BAD_DENSE[name]
    write(folder, "Dense")
    dense(folder, **settings)
    with pytest.raises(TeacherError, match=why):
        inspect(folder)
    dense(folder)
    inspect(folder)


def test_a_dense_layer_without_weights_or_with_damaged_ones(folder):
    write(folder, "Dense")
    dense(folder)
    (folder / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(TeacherError, match="has no weights"):
        inspect(folder)
    save_file(
        {"linear.weight": torch.full((4, HIDDEN), torch.nan), "linear.bias": torch.zeros(4)},
        folder / "2_Dense" / "model.safetensors",
    )
    shutil.rmtree(folder / "2_Dense")
    (folder / "2_Dense").symlink_to("/etc")
    with pytest.raises(TeacherError, match="leads out of the teacher's folder"):
        inspect(folder)


def test_lower_case_and_damaged_files(folder):
    write(folder, do_lower_case=True)
    with pytest.raises(TeacherError, match="the tokenizer keeps capitals"):
        inspect(folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Lowercase"}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    inspect(folder)  # the fix, obeyed
    for most in (0, -1, "16", 1.5):
        write(folder, max_seq_length=most)
        with pytest.raises(TeacherError, match="max_seq_length is"):
            inspect(folder)
    for path in ("..", "../elsewhere", "/etc", 5):
        write(folder, path=path)
        with pytest.raises(TeacherError, match="it names the folder"):
            inspect(folder)
    for text in ("{}", "[1]", "nonsense", '[{"type": 5}]'):
        (folder / "modules.json").write_text(text)
        with pytest.raises(TeacherError, match=r"cannot read|how the embeddings"):
            inspect(folder)


def test_prompts_are_told(folder):
    write(folder)
    said = {"prompts": {"query": "query: ", "plain": ""}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(said))
    assert "names prompts ('query')" in inspect(folder)["checks"][-1]
    assert "puts 'query' first by default" in inspect(folder)["checks"][-1]
    write(folder, "Dense", "Normalize", pooling={"pooling_mode": "cls"})
    dense(folder)
    first, second = _embedding(sentence_of(folder))  # of the plan
    assert first == ("embedding", "cls of the tokens' outputs, Dense 16 to 4 (Tanh), scaled to length 1")
    assert second[1].startswith("config_sentence_transformers.json names prompts")


# ---- the graph


def encoder(opset=17, mask=True):
    """Rows of a table as outputs of the tokens: those of padding are not zero, as in a real encoder."""
    names = ("input_ids", "attention_mask") if mask else ("input_ids",)
    inputs = [value(name, INT, ["batch_size", "tokens"]) for name in names]
    nodes = [node("Gather", ["table", "input_ids"], ["last_hidden_state"])]
    if mask:  # a real graph uses its mask
        nodes[0].output[0] = "rows"
        nodes += [
            node("Cast", ["attention_mask"], ["float"], to=FLOAT),
            node("ReduceSum", ["float"], ["total"], keepdims=0),
            node("Mul", ["total", "zero"], ["nothing"]),
            node("Add", ["rows", "nothing"], ["last_hidden_state"]),
        ]
    outputs = [value("last_hidden_state", FLOAT, ["batch_size", "tokens", HIDDEN])]
    constants = {"table": weights(12, HIDDEN)} | ({"zero": np.float32(0)} if mask else {})
    return model_of(nodes, inputs, outputs, constants, opset=opset)


IDS = np.array([[3, 4, 5, 6], [7, 8, 0, 0], [0, 0, 9, 10]])
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1]])  # whole, padded right, padded left


def run(model, **feed):
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip((one.name for one in session.get_outputs()), session.run(None, feed), strict=True))


def pooled(tokens, mask, mode):
    """As sentence-transformers defines each, row by row."""
    rows = []
    for values, one in zip(tokens, mask.astype(bool), strict=True):
        own = values[one]
        places = np.arange(1, len(own) + 1, dtype=np.float32)[:, None]
        rows.append(
            {
                "cls": own[0],
                "max": own.max(axis=0),
                "mean": own.mean(axis=0),
                "mean_sqrt_len_tokens": own.sum(axis=0) / np.sqrt(len(own)),
                "weightedmean": (own * places).sum(axis=0) / places.sum(),
                "lasttoken": own[-1],
            }[mode]
        )
    return np.stack(rows)


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
@pytest.mark.parametrize("mode", ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
def test_each_pooling_in_the_graph(mode, opset):
    model = encoder(opset)
    _sentence_graph.append(model, {"pooling": [mode], "layers": []}, [])
    found = run(model, input_ids=IDS, attention_mask=MASK)
    np.testing.assert_allclose(
        found["sentence_embedding"], pooled(found["last_hidden_state"], MASK, mode), rtol=1e-5, atol=1e-6
    )
    output = model.graph.output[1].type.tensor_type.shape.dim
    assert (output[0].dim_param, output[1].dim_value) == ("batch_size", HIDDEN)


def test_a_graph_without_a_mask_counts_every_position():
    model = encoder(mask=False)
    _sentence_graph.append(model, {"pooling": ["mean", "max"], "layers": []}, [])
    found = run(model, input_ids=IDS)
    tokens = found["last_hidden_state"]
    both = np.concatenate([tokens.mean(axis=1), tokens.max(axis=1)], axis=1)
    np.testing.assert_allclose(found["sentence_embedding"], both, rtol=1e-5, atol=1e-6)


TORCH = {
    "Tanh": torch.tanh,
    "ReLU": torch.relu,
    "Sigmoid": torch.sigmoid,
    "GELU": torch.nn.functional.gelu,
    "Identity": lambda values: values,
}


@pytest.mark.parametrize("activation", TORCH)
@pytest.mark.parametrize(("outputs", "residual"), [(4, False), (4, True), (HIDDEN, True)])
def test_layers_behind_the_pooling(folder, activation, outputs, residual):
    module = "linear" if activation == "Identity" else "activation"
    write(folder, "Dense", "LayerNorm", "Dropout", "Normalize")
    held = dense(
        folder, outputs=outputs, use_residual=residual, activation_function=f"torch.nn.modules.{module}.{activation}"
    )
    (folder / "3_LayerNorm").mkdir()
    (folder / "3_LayerNorm" / "config.json").write_text(json.dumps({"dimension": outputs}))
    norm = {"norm.weight": torch.linspace(0.5, 2, outputs), "norm.bias": torch.linspace(-1, 1, outputs)}
    save_file(norm, folder / "3_LayerNorm" / "model.safetensors")
    sentence, model = sentence_of(folder), encoder()
    assert [layer["kind"] for layer in sentence["layers"]] == ["dense", "layer_norm", "normalize"]
    _sentences.append(folder, {"sentence": sentence}, model)
    found = run(model, input_ids=IDS, attention_mask=MASK)
    start = torch.tensor(pooled(found["last_hidden_state"], MASK, "mean"))
    made = TORCH[activation](start @ held["linear.weight"].T + held["linear.bias"])
    if residual:
        made = made + (start @ held["residual.weight"].T if "residual.weight" in held else start)
    made = torch.nn.functional.layer_norm(made, [outputs], norm["norm.weight"], norm["norm.bias"])
    made = torch.nn.functional.normalize(made, dim=-1)
    np.testing.assert_allclose(found["sentence_embedding"], made.numpy(), rtol=1e-4, atol=1e-5)


def test_an_embedding_of_no_length_stays_finite():
    model = encoder()
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.zeros((12, HIDDEN), np.float32), "table"))
    _sentence_graph.append(model, {"pooling": ["mean"], "layers": [{"kind": "normalize"}]}, [{}])
    assert np.isfinite(run(model, input_ids=IDS, attention_mask=MASK)["sentence_embedding"]).all()


def test_a_pickled_dense_layer_is_read_safely(folder):
    write(folder, "Dense")
    held = dense(folder, pickled=True, activation_function=LINEAR)
    (layer,) = sentence_of(folder)["layers"]
    np.testing.assert_array_equal(_sentences.weights_of(folder, layer)["linear.weight"], held["linear.weight"].numpy())


def test_an_onnx_file_beside_modules_is_pooled_as_they_say(tmp_path):
    file = save(tmp_path, text_model(EMBED))
    hidden = text_model(EMBED).graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    write(tmp_path, "Dense", pooling={"pooling_mode": "cls"}, max_seq_length=8)
    dense(tmp_path, inputs=hidden, outputs=3)
    source = OnnxModel()
    info = source.inspect(str(file), EMBED)
    assert info["architecture"]["max_tokens"] == 8
    out = tmp_path / "out.onnx"
    source.export(tmp_path, info["architecture"], EMBED, out, lambda graph, path: onnx.save(graph, path))
    ids = np.array([[3, 4, 5]])
    found = run(onnx.load(out), input_ids=ids, attention_mask=np.ones_like(ids))
    assert found["sentence_embedding"].shape == (1, 3)
    held = _sentences.weights_of(tmp_path, info["architecture"]["sentence"]["layers"][0])
    first = found["last_hidden_state"][:, 0]
    expected = np.tanh(first @ held["linear.weight"].T + held["linear.bias"])
    np.testing.assert_allclose(found["sentence_embedding"], expected, rtol=1e-5, atol=1e-6)


def test_names_of_the_graph_are_left_alone():
    model = encoder()
    model.graph.node.append(helper.make_node("Identity", ["input_ids"], ["sentence/constant_0"], "sentence/x"))
    _sentence_graph.append(model, {"pooling": ["mean"], "layers": []}, [])
    run(model, input_ids=IDS, attention_mask=MASK)
