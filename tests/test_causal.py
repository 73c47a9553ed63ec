"""Language models on a device: the program over its cache, and the graph that it and other clients run."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgekd.core.errors import TeacherError
from edgekd.core.graph_inputs import GraphInputs
from edgekd.core.model import Model
from edgekd.core.quiet import quiet
from edgekd.exporters import _causal_graph
from edgekd.onboard import causal, programs, runner
from edgekd.quantizers import _block_tables, _gptq
from edgekd.quantizers.block_int4 import BlockInt4
from edgekd.quantizers.block_int8 import BlockInt8

VOCABULARY, LAYERS = 90, 2


@pytest.fixture(scope="module")
def model():
    """A random Llama of grouped queries with tied embeddings."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """Its graph as optimum exports it."""
    from optimum.exporters.onnx import onnx_export_from_model

    folder = tmp_path_factory.mktemp("exported")
    with quiet():
        onnx_export_from_model(
            model,
            folder,
            task="text-generation-with-past",
            opset=18,
            do_validation=False,
            device="cpu",
            no_post_process=True,
        )
    return folder / "model.onnx"


@pytest.fixture(scope="module")
def graphs(exported, tmp_path_factory):
    """Files by form: as exported, prepared, and with grouped attention."""
    folder = tmp_path_factory.mktemp("graphs")
    plain, grouped = onnx.load(exported), onnx.load(exported)
    _causal_graph.check(plain, "a test")
    _causal_graph.prepared(plain)
    _causal_graph.prepared(grouped)
    assert _causal_graph.group_queries(grouped) == LAYERS
    for name, graph in (("plain", plain), ("grouped", grouped)):
        onnx.checker.check_model(graph)
        onnx.save(graph, folder / f"{name}.onnx")
    return {"exported": exported, "plain": folder / "plain.onnx", "grouped": folder / "grouped.onnx"}


def opened(file: Path) -> causal.Program:
    program: causal.Program = runner.open_model(str(file), 1, program="causal")
    return program


def ids_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCABULARY, (1, count)).astype(np.int64)


def by_torch(model, ids, written=0):
    """Likelihoods, most likely tokens, and what transformers writes greedily."""
    import torch

    with torch.no_grad():
        logits = model(torch.from_numpy(ids)).logits[0]
        shares = logits.log_softmax(dim=-1)[:-1]
        nll = -shares.gather(1, torch.from_numpy(ids[0, 1:, None]))[:, 0]
        tokens = ids[:, :0]
        if written:
            given = torch.from_numpy(ids)
            more = {"attention_mask": torch.ones_like(given), "pad_token_id": 0, "eos_token_id": None}
            whole = model.generate(given, max_new_tokens=written, do_sample=False, **more)
            tokens = whole[:, ids.shape[1] :].numpy()
    return nll.numpy(), shares.argmax(dim=-1).numpy(), tokens[0]


@pytest.mark.parametrize("form", ["exported", "plain", "grouped"])
@pytest.mark.parametrize("count", [2, 63, 64, 65, 150])
def test_a_text_is_scored_and_gone_on_from_as_transformers_does(graphs, model, form, count):
    program, ids = opened(graphs[form]), ids_of(count, count)
    said = program.named(program.run(None, program.feed({"input_ids": ids, "new_tokens": np.array([12])})))
    nll, top, tokens = by_torch(model, ids, 12)
    np.testing.assert_allclose(said["nll"], nll, atol=1e-4)
    assert said["top"].tolist() == top.tolist()
    assert said["next"].tolist() == ids[0, 1:].tolist()
    assert said["tokens"].tolist() == tokens.tolist()
    assert list(islice(program.generate(ids[0].tolist()), 12)) == tokens.tolist(), "read in chunks"


def test_the_last_logits_can_be_had_alone_and_need_not(graphs):
    program, ids = opened(graphs["grouped"]), ids_of(40)
    whole = causal.State(program).extend(ids)
    assert whole.shape == (40, VOCABULARY)
    asked = []
    session = program.session
    run = session.run_with_ort_values
    spy = SimpleNamespace(run_with_ort_values=lambda names, feed: asked.append(sorted(feed)) or run(names, feed))
    program.session = spy
    last = causal.State(program).extend(ids, last=True)
    assert last.shape == (1, VOCABULARY)
    np.testing.assert_allclose(last[0], whole[-1], atol=1e-5)
    assert "num_logits_to_keep" in asked[0]
    plain = opened(graphs["plain"]).session
    assert "num_logits_to_keep" not in {one.name for one in plain.get_inputs()}, "other clients see no such input"


def test_an_exported_file_holds_tied_weights_once(graphs):
    before, after = (graphs[name].stat().st_size for name in ("exported", "plain"))
    assert before - after > 0.9 * 4 * VOCABULARY * 64 - 4000
    assert [node.op_type for node in onnx.load(graphs["plain"]).graph.node].count("Transpose") > 0


def test_grouped_attention_keeps_the_names_of_inputs_and_outputs(graphs):
    plain, grouped = (onnx.load(graphs[name]).graph for name in ("plain", "grouped"))
    assert [one.name for one in plain.input] == [one.name for one in grouped.input]
    assert [one.name for one in plain.output] == [one.name for one in grouped.output]
    kinds = [node.op_type for node in grouped.node]
    assert kinds.count("GroupQueryAttention") == LAYERS
    assert "Softmax" not in kinds


def test_attention_that_is_not_plain_is_left_alone(exported):
    graph = onnx.load(exported)
    softmax = next(node for node in graph.graph.node if node.op_type == "Softmax")
    for node in graph.graph.node:
        for place, name in enumerate(node.input):
            if name == softmax.output[0]:
                node.input[place] = "capped"
    graph.graph.node.append(helper.make_node("Tanh", [softmax.output[0]], ["capped"]))
    before = len(graph.graph.node)
    assert _causal_graph.group_queries(graph) == 0, "all layers, or none"
    assert len(graph.graph.node) == before


@pytest.mark.parametrize(
    ("config", "slides"),
    [
        ({}, False),
        ({"sliding_window": None}, False),
        ({"sliding_window": 4096}, True),
        ({"sliding_window": 4096, "use_sliding_window": False}, False),
        ({"layer_types": ["full_attention"] * 2, "sliding_window": 4096}, False),
        ({"layer_types": ["full_attention", "sliding_attention"]}, True),
        ({"attention_chunk_size": 8192}, True),
    ],
)
def test_windows_are_told_by_the_config(config, slides):
    assert _causal_graph.slides(SimpleNamespace(**config)) is slides


def test_a_graph_without_a_cache_of_keys_and_values_is_refused():
    def graph(inputs, outputs):
        made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in (*inputs, *outputs)]
        return helper.make_model(helper.make_graph([], "g", made[: len(inputs)], made[len(inputs) :]))

    with pytest.raises(TeacherError, match="it keeps no keys and values") as told:
        _causal_graph.check(graph(["input_ids"], ["logits"]), "rwkv")
    assert "decoder-only" in told.value.fix
    with pytest.raises(TeacherError, match="it takes cache_params"):
        _causal_graph.check(graph(["input_ids", "cache_params"], ["logits", "present.0.key"]), "mamba")


def test_the_program_refuses_what_it_cannot_run(graphs, tmp_path):
    made = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["logits"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2])],
    )
    file = tmp_path / "model.onnx"
    onnx.save(helper.make_model(made, ir_version=9, opset_imports=[helper.make_opsetid("", 17)]), file)
    with pytest.raises(ValueError, match="no language model with a cache"):
        opened(file)
    program = opened(graphs["grouped"])
    with pytest.raises(ValueError, match="two tokens"):
        program.feed({"input_ids": ids_of(1)})
    with pytest.raises(ValueError, match="takes input_ids"):
        program.feed({"pixel_values": ids_of(4)})
    with pytest.raises(ValueError, match="one token at least"):
        next(program.generate([]))


def test_drawing_is_repeatable_and_keeps_to_the_likely():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    draw = causal.sampler(temperature=1.0, seed=7)
    again = causal.sampler(temperature=1.0, seed=7)
    drawn = [draw(logits) for _ in range(4000)]
    assert drawn[:50] == [again(logits) for _ in range(50)]
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 4000, [0.5, 0.3, 0.15, 0.05], atol=0.03)
    few = causal.sampler(top_k=2, seed=1)
    assert {few(logits) for _ in range(500)} == {0, 1}
    nucleus = causal.sampler(top_p=0.7, seed=1)
    assert {nucleus(logits) for _ in range(500)} == {0, 1}
    cold = causal.sampler(temperature=0.01, seed=1)
    assert {cold(logits) for _ in range(200)} == {0}
    for wrong in ({"temperature": 0}, {"top_p": 0}, {"top_p": 1.5}, {"top_k": -1}):
        with pytest.raises(ValueError, match="temperature is above 0"):
            causal.sampler(**wrong)


def test_likelihoods_of_large_logits_are_finite():
    nll, top = causal.scored(np.array([[1e4, -1e4, 0.0]], np.float32), np.array([1]))
    assert nll[0] == pytest.approx(2e4)
    assert top[0] == 0


def test_the_program_is_found_by_its_name(graphs, tmp_path):
    assert programs.load("causal").__name__ == "Program"
    inputs = tmp_path / "in.npz"
    runner.pack([{"input_ids": ids_of(20), "new_tokens": np.array([3])}], inputs)
    told = runner.generation(
        str(graphs["grouped"]), str(inputs), 1, "CPUExecutionProvider", "causal", contexts=[16, 64], written=4
    )
    assert [one["context"] for one in told["contexts"]] == [16, 64]
    assert all(one["read_tokens_per_cpu_s"] > 0 < one["written_tokens_per_cpu_s"] for one in told["contexts"])


@pytest.mark.parametrize(("recipe", "least"), [(BlockInt8(), 0.85), (BlockInt4(compensate=False), 0.3)])
def test_a_recipe_makes_every_matrix_and_the_embeddings_small(graphs, tmp_path, recipe, least):
    out = tmp_path / "small.onnx"
    recipe.quantize(graphs["grouped"], out, [])
    kinds = [node.op_type for node in onnx.load(out).graph.node]
    assert kinds.count("MatMulNBits") == 7 * LAYERS + 1, "the tied projection as well"
    assert kinds.count("GatherBlockQuantized") == 1
    assert kinds.count("MatMul") == 1, "that of positions and frequencies, both computed"
    ids = ids_of(120, 5)
    own, plain = (
        program.named(program.run(None, program.feed({"input_ids": ids})))
        for program in (opened(out), opened(graphs["grouped"]))
    )
    assert (own["top"] == plain["top"]).mean() >= least
    assert own["nll"].mean() == pytest.approx(plain["nll"].mean(), rel=0.02 if least > 0.5 else 0.5)


@pytest.mark.parametrize("recipe", [BlockInt8(accuracy_level=0), BlockInt4(compensate=False)])
def test_embeddings_and_the_projection_tied_to_them_share_their_codes(graphs, tmp_path, recipe):
    out = tmp_path / "small.onnx"
    recipe.quantize(graphs["grouped"], out, [])
    graph = onnx.load(out).graph
    readers = {node.op_type: node.input for node in graph.node if any("embed" in name for name in node.input)}
    codes = {
        kind: next(name for name in names if name.endswith("_Q8")) for kind, names in readers.items() if "Q" in kind
    }
    codes |= {"MatMulNBits": next(n.input[1] for n in graph.node if n.output[0] == "logits")}
    assert len(set(codes.values())) == 1, "both read one tensor"
    held = [one for one in graph.initializer if VOCABULARY in one.dims]
    assert sorted(list(one.dims) for one in held) == [[VOCABULARY, 2, 1], [VOCABULARY, 2, 32]], (
        "codes once, scales once"
    )
    ids = ids_of(40)
    own, plain = (
        program.run(None, program.feed({"input_ids": ids}))[0] for program in (opened(out), opened(graphs["grouped"]))
    )
    assert np.abs(own - plain).mean() < (0.2 if isinstance(recipe, BlockInt8) else 2.0)


def test_codes_are_made_once_for_settings_that_share_them(graphs, tmp_path, monkeypatch):
    rows = [{"input_ids": ids_of(30, seed), "new_tokens": np.array([0])} for seed in range(3)]
    fed = GraphInputs(Model({"model": graphs["grouped"]}, "causal"), rows).of("model")
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    BlockInt4(compensate=True).quantize(graphs["grouped"], first, fed, cache=tmp_path / "kept")
    monkeypatch.setattr(_gptq, "moments", lambda *_: pytest.fail("asked the model again"))
    BlockInt4(accuracy_level=0, compensate=True).quantize(graphs["grouped"], second, fed, cache=tmp_path / "kept")
    one, other = ({t.name: t.raw_data for t in onnx.load(file).graph.initializer} for file in (first, second))
    assert one == other


def test_a_text_is_given_whole_to_what_looks_inside(graphs):
    rows = [{"input_ids": ids_of(count), "new_tokens": np.array([0])} for count in (150, 5)]
    fed = GraphInputs(Model({"model": graphs["grouped"]}, "causal"), rows).of("model")
    assert [one["input_ids"].shape for one in fed] == [(1, 150), (1, 5)]
    assert {one["past_key_values.0.key"].shape[2] for one in fed} == {0}
    session = opened(graphs["grouped"]).session
    logits = session.run(["logits"], fed[1])[0]
    program = opened(graphs["grouped"])
    np.testing.assert_allclose(logits[0], causal.State(program).extend(rows[1]["input_ids"]), atol=1e-4)


def test_what_is_to_stay_in_float_stays(graphs, tmp_path):
    out = tmp_path / "some.onnx"
    BlockInt4(compensate=False).quantize(
        graphs["grouped"], out, [], keep=["/lm_head/MatMul", "/model/embed_tokens/Gather"]
    )
    kinds = [node.op_type for node in onnx.load(out).graph.node]
    assert (kinds.count("MatMulNBits"), kinds.count("MatMul"), kinds.count("GatherBlockQuantized")) == (14, 2, 0)


@pytest.mark.parametrize("bits", [4, 8])
def test_tables_in_blocks_are_as_near_as_their_bits_allow(bits):
    table = np.random.default_rng(0).standard_normal((50, 64)).astype(np.float32)
    table[3] = 0
    codes, scales = _block_tables.in_blocks(table, bits, 32)
    back = (codes.astype(np.float32) - (1 << (bits - 1))).reshape(50, 2, 32) * scales[..., None]
    step = np.abs(scales)[..., None]
    assert (np.abs(back - table.reshape(50, 2, 32)) <= step * (1.0 + 1e-5)).all()
    assert np.abs(back - table.reshape(50, 2, 32)).mean() < 0.3 * step.mean()
    assert (back[3] == 0).all()
    packed = _block_tables.packed(codes, bits)
    assert packed.shape == (50, 64 * bits // 8)
    if bits == 4:
        assert (packed & 15 == codes[:, 0::2]).all()
        assert (packed >> 4 == codes[:, 1::2]).all()


def test_codes_make_up_for_each_others_errors_on_the_inputs_they_saw():
    random = np.random.default_rng(0)
    mixed = random.standard_normal((64, 64))
    inputs = random.standard_normal((500, 64)) @ mixed  # correlated, as activations are
    weights = random.standard_normal((40, 64)).astype(np.float32)
    error = {}
    for name, (codes, scales) in {
        "rounded": _block_tables.in_blocks(weights, 4, 32),
        "gptq": _gptq.rounded(weights, inputs.T @ inputs, bits=4, block_size=32),
    }.items():
        assert codes.max() <= 15
        back = ((codes.astype(np.float64) - 8).reshape(40, 2, 32) * scales[..., None]).reshape(40, 64)
        error[name] = float(((inputs @ (back - weights).T) ** 2).mean())
    assert error["gptq"] < 0.5 * error["rounded"]


def test_inputs_that_never_occur_do_no_harm():
    codes, scales = _gptq.rounded(np.ones((4, 32), np.float32), np.zeros((32, 32)), bits=4, block_size=32)
    back = (codes.astype(np.float32) - 8) * scales
    np.testing.assert_allclose(back, 1.0, atol=0.13)


def test_four_bits_that_saw_inputs_are_nearer_to_the_model(graphs, tmp_path):
    rows = [{"input_ids": ids_of(60, seed), "new_tokens": np.array([0])} for seed in range(30)]
    fed = GraphInputs(Model({"model": graphs["grouped"]}, "causal"), rows).of("model")
    assert {"input_ids", "attention_mask", "past_key_values.0.key"} <= set(fed[0])
    lost = {}
    plain = opened(graphs["grouped"])
    for name, calibration in (("rounded", ()), ("gptq", fed)):
        out = tmp_path / f"{name}.onnx"
        BlockInt4(accuracy_level=0, compensate=bool(calibration)).quantize(graphs["grouped"], out, calibration)
        kinds = [node.op_type for node in onnx.load(out).graph.node]
        assert kinds.count("MatMulNBits") == 7 * LAYERS + 1
        program = opened(out)
        apart = []
        for seed in range(100, 110):
            feed = program.feed({"input_ids": ids_of(60, seed)})
            apart.append(np.abs(program.run(None, feed)[0] - plain.run(None, feed)[0]).mean())
        lost[name] = float(np.mean(apart))
    assert lost["gptq"] < lost["rounded"]
