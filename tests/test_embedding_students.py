"""Students of sentence models: from raw text alone, pooling in the graph, judged by what is near to what."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import sentence_folders
import torch
from conftest import invoke, loose_target, texts, write_csv
from helpers import fast
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgekd.core.errors import UsageError
from edgekd.core.protocols import InputSpec
from edgekd.core.ranking import NEAREST, by_text, ranking
from edgekd.core.registry import make, plugin
from edgekd.core.tensors import NO_LABEL, Outputs, Targets
from edgekd.plan.planning import Options, make_plan
from edgekd.teachers import _sentence_graph
from edgekd.teachers._embedder import Embedder, of_student
from edgekd.training import models

TASK = "feature-extraction"
ALL = ("--task", TASK, "--min-speedup", "1.05", "--min-retained", "0.3", "--threads", "1")


class Encoder(torch.nn.Module):
    """One whose tokens' outputs are given."""

    class config:  # noqa: N801 (as transformers has it)
        hidden_size = 8

    device = torch.device("cpu")

    def forward(self, outputs, attention_mask):
        return type("Said", (), {"last_hidden_state": outputs})


def graph_of(sentence, weights) -> bytes:
    """The same pooling and layers as a graph of the tokens' outputs alone."""
    ports = [
        helper.make_tensor_value_info("tokens", TensorProto.FLOAT, ["batch", "tokens", 8]),
        helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "tokens"]),
    ]
    out = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "tokens", 8])
    nodes = [helper.make_node("Identity", ["tokens"], ["last_hidden_state"])]
    made = helper.make_model(
        helper.make_graph(nodes, "tokens", ports, [out]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    _sentence_graph.append(made, sentence, weights)
    onnx.checker.check_model(made)
    return made.SerializeToString()


def layer(kind, **more):
    return {"kind": kind, **more}


def dense(inputs, outputs, operator="", *, residual=False, bias=True):
    return layer(
        "dense",
        folder="2_Dense",
        inputs=inputs,
        outputs=outputs,
        bias=bias,
        activation="Identity",
        operator=operator,
        residual=residual,
    )


DRAW = np.random.default_rng(0)


def drawn(*shape):
    return DRAW.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("pooling", "layers", "weights"),
    [
        (["mean"], [], []),
        (["cls"], [layer("normalize")], [{}]),
        (["max", "lasttoken"], [], []),
        (["mean_sqrt_len_tokens"], [], []),
        (["weightedmean"], [dense(8, 5, "Tanh")], [{"linear.weight": drawn(5, 8), "linear.bias": drawn(5)}]),
        (["mean"], [dense(8, 8, "Gelu", residual=True, bias=False)], [{"linear.weight": drawn(8, 8)}]),
        (
            ["mean"],
            [dense(8, 4, "Relu", residual=True), layer("normalize")],
            [{"linear.weight": drawn(4, 8), "linear.bias": drawn(4), "residual.weight": drawn(4, 8)}, {}],
        ),
        (
            ["mean"],
            [layer("layer_norm", folder="2_LayerNorm", outputs=8), dense(8, 3, "Sigmoid")],
            [
                {"norm.weight": drawn(8), "norm.bias": drawn(8)},
                {"linear.weight": drawn(3, 8), "linear.bias": drawn(3)},
            ],
        ),
    ],
)
def test_torch_and_the_graph_pool_alike(pooling, layers, weights):
    sentence = {"pooling": pooling, "layers": layers, "width": 8}
    outputs = drawn(3, 6, 8)
    mask = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 0]], dtype=np.int64)
    session = onnxruntime.InferenceSession(graph_of(sentence, weights))
    wanted = session.run(["sentence_embedding"], {"tokens": outputs, "attention_mask": mask})[0]
    said = Embedder(Encoder(), sentence, weights)(
        outputs=torch.from_numpy(outputs), attention_mask=torch.from_numpy(mask)
    )
    np.testing.assert_allclose(said.logits.detach().numpy(), wanted, atol=2e-6)


def test_a_student_begins_with_its_teachers_pooling_and_width():
    sentence = {"pooling": ["mean"], "layers": [layer("normalize")], "width": 8}
    teacher = Embedder(Encoder(), sentence, [{}])
    student = of_student(Encoder(), teacher, 32)
    batch = {"outputs": torch.from_numpy(drawn(2, 4, 8)), "attention_mask": torch.ones(2, 4, dtype=torch.int64)}
    torch.testing.assert_close(student(**batch).logits, teacher(**batch).logits)
    weights = [{"linear.weight": drawn(5, 8), "linear.bias": drawn(5)}]
    wide = Embedder(Encoder(), sentence | {"layers": [dense(8, 5)]}, weights)
    assert of_student(Encoder(), wide, 32)(**batch).logits.shape == (2, 5)


@fast
@given(st.integers(NEAREST + 2, 30), st.integers(2, 6), st.integers(0, 99))
def test_the_same_embeddings_rank_alike_whatever_their_length_or_rotation(count, width, seed):
    random = np.random.default_rng(seed)
    values = random.standard_normal((count, width))
    turned = 3 * values @ np.linalg.qr(random.standard_normal((width, width)))[0]
    for one in ranking(turned.astype(np.float32), values.astype(np.float32)):
        assert one.value == pytest.approx(1.0, abs=2e-2)
    assert ranking(values[: NEAREST + 1], values[: NEAREST + 1]) == ()


def test_ranking_figures_are_what_they_say():
    """Texts on a line: the reference has the nearest in order, the other the farthest first."""
    angles = np.linspace(0, np.pi / 2, 40)
    reference = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    shuffled = reference[np.random.default_rng(1).permutation(40)]
    figures = by_text(shuffled, reference)
    own, theirs = shuffled @ shuffled.T, reference @ reference.T
    first = [set(np.argsort(-np.delete(row, at))[:NEAREST]) for at, row in enumerate(own)]
    best = [set(np.argsort(-np.delete(row, at))[:NEAREST]) for at, row in enumerate(theirs)]
    found = [len(one & other) / NEAREST for one, other in zip(first, best, strict=True)]
    np.testing.assert_allclose(figures["recall_at_10"], found)
    assert abs(figures["spearman"].mean()) < 0.3
    assert (figures["ndcg_at_10"] <= 1).all()


def rows_of(values):
    return Outputs(logits=torch.empty(0), embedding=torch.as_tensor(values, dtype=torch.float32))


def test_the_loss_of_neighbours_is_the_divergence_of_softmaxes_of_cosines():
    own, said = drawn(5, 4), drawn(5, 7)
    loss = make("losses", "neighbours", temperature=0.1)(
        rows_of(own), Targets(rows_of(said), torch.full((5,), NO_LABEL))
    )
    total = 0.0
    units = [values / np.linalg.norm(values, axis=1, keepdims=True) for values in (own, said)]
    for at in range(5):
        p, q = (np.exp(np.delete(one[at] @ one.T, at) / 0.1) for one in units)
        p, q = p / p.sum(), q / q.sum()
        total += 0.1 * float((q * np.log(q / p)).sum()) / 5
    assert float(loss) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("loss", ["response=1", "hard_labels=1", "self_distillation=1"])
def test_losses_of_classes_are_refused(tiny_teacher: Path, store: Path, tmp_path: Path, loss: str) -> None:
    data = write_csv(tmp_path / "raw.csv", [(text,) for text, _ in texts(120, seed=6)], ("text",))
    options = Options("cpu-vnni", TASK, str(tiny_teacher), str(data), losses=(loss,))
    with pytest.raises(UsageError, match="is of classes; embeddings have none"):
        make_plan(options)


def test_what_is_about_labels_is_refused(tiny_teacher: Path, store: Path, tmp_path: Path) -> None:
    data = write_csv(tmp_path / "raw.csv", [(text,) for text, _ in texts(120, seed=6)], ("text",))
    for more in ({"labels": 10}, {"evidence": 1}):
        with pytest.raises(UsageError, match="means nothing to feature-extraction: it has no labels"):
            make_plan(Options("cpu-vnni", TASK, str(tiny_teacher), str(data), **more))


def test_the_vocabulary_is_whole_unless_a_user_trims_it(tiny_teacher: Path, store: Path, tmp_path: Path) -> None:
    data = write_csv(tmp_path / "raw.csv", [(text,) for text, _ in texts(120, seed=6)], ("text",))

    def kept(**more):
        return make_plan(Options("cpu-vnni", TASK, str(tiny_teacher), str(data), **more))[0].student.survey.vocabulary

    whole = json.loads((tiny_teacher / "config.json").read_text())["vocab_size"]
    assert kept() == whole
    texts_need = make_plan(Options("cpu-vnni", "text-classification", str(tiny_teacher), str(_labelled(tmp_path))))
    few = texts_need[0].student.survey.vocabulary
    assert few < whole
    assert kept(vocabulary=few + 5) == few + 5, "of the tokens that no text needs as many as are allowed"


def test_a_cut_is_as_wide_as_its_teacher():
    """Half the channels keep a cosine of two thirds where fewer layers keep four fifths."""
    known = {"model_type": "bert", "layers": 6, "hidden": 384, "heads": 12, "feed_forward": 1536}
    survey = InputSpec(64, (12,), vocabulary=1000)
    ladder = plugin("students", "transformer").ladder
    assert {shape.hidden for shape in ladder({**known, "head": "AutoModel"}, survey, classes=0)} == {384}
    assert {shape.hidden for shape in ladder(known, survey, classes=3)} == {384, 192}
    assert {
        shape.hidden for shape in ladder({**known, "head": "AutoModel", "student": "distilbert"}, survey, classes=0)
    } == {
        384,
        192,
    }


def _labelled(folder: Path) -> Path:
    return write_csv(folder / "labelled.csv", texts(120, seed=6), ("text", "label"))


@pytest.fixture(scope="module")
def built(tiny_teacher: Path, store: Path, tmp_path_factory: pytest.TempPathFactory):
    """A student of a sentence-transformers folder with a Dense layer, from 400 texts."""
    import shutil

    place = tmp_path_factory.mktemp("sentences")
    teacher = place / "teacher"
    shutil.copytree(tiny_teacher, teacher)
    hidden = json.loads((teacher / "config.json").read_text())["hidden_size"]
    sentence_folders.write(teacher, "Dense", "Normalize", max_seq_length=32)
    sentence_folders.dense(teacher, inputs=hidden, outputs=12)
    data = write_csv(place / "raw.csv", [(text,) for text, _ in texts(400, seed=3)], ("text",))
    target = loose_target(place, arch="aarch64", isa=["asimd"], microarch="cortex-a72", recipes=["float32"])
    words = ("--target", target, "--teacher", teacher, "--data", data, "--emulate-minutes", "0", "--epochs", "8")
    done = invoke("build", *ALL, *words, "--out", place / "bundle", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return teacher, place / "bundle", done


@pytest.mark.slow
def test_a_student_learns_its_teachers_vectors_from_raw_text(built):
    _, bundle, _ = built
    report = json.loads((bundle / "report.json").read_text(encoding="utf-8"))
    summary = report["summary"]
    assert (summary["metric"], summary["distilled"]) == ("cosine", True)
    assert summary["shipped"]["metric_value"] > 0.9
    figures = {one["name"]: one["value"] for one in summary["ranking"]}
    assert figures["spearman"] > 0.3
    assert set(figures) == {"spearman", "recall_at_10", "ndcg_at_10"}
    assert report["ranking"]["teacher"][0]["value"] == pytest.approx(1.0)
    assert "recall_at_10" in (bundle / "report.html").read_text(encoding="utf-8")
    assert "recall_at_10" in (bundle / "report.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_bundle_is_a_folder_of_sentence_transformers_with_the_teachers_width(built):
    teacher, bundle, _ = built
    modules = [one["type"].rpartition(".")[2] for one in json.loads((bundle / "modules.json").read_text())]
    assert modules == ["Transformer", "Pooling", "Dense", "Normalize"]
    graph = onnx.load(next((bundle / "onnx").glob("*.onnx")))
    outputs = {one.name: one.type.tensor_type.shape.dim[-1].dim_value for one in graph.graph.output}
    assert outputs["sentence_embedding"] == 12
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    task = make("tasks", TASK)
    sample = task.encode(bundle, ["red and blue"], 32)[0]
    fed = {one.name: sample[one.name] for one in session.get_inputs()}
    own = session.run(["sentence_embedding"], fed)[0]
    assert np.linalg.norm(own) == pytest.approx(1.0, abs=1e-4)
    known = models.load(teacher, TASK)
    theirs = task.encode(teacher, ["red and blue"], 32)[0]
    with torch.no_grad():
        wanted = known(**{name: torch.from_numpy(values) for name, values in theirs.items()}).logits.numpy()
    assert float((own * wanted).sum()) > 0.8, "it lies in the teacher's own space"


@pytest.mark.slow
def test_a_student_is_a_teacher_in_its_turn(built, store: Path):
    """What the store keeps of it opens as any sentence-transformers folder."""
    found = [place for place in store.rglob("2_Dense") if (place.parent / "training.json").exists()]
    assert found
    model = models.load(found[0].parent, TASK)
    assert [one["kind"] for one in model.sentence["layers"]] == ["dense", "normalize"]
    assert model.max_tokens
