"""Texts with tags as a task: teachers, what is trained towards what, the student, the guard; builds are elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from conftest import loose_target
from foreign_weights import WORDS as PIECES
from foreign_weights import tokenizer
from helpers import profile
from onnx_files import CLASSES, FLOAT, HIDDEN, INT, ROWS, beside, exported, model_of, node, refused, value, weights
from tagged_texts import sentences, write_tokens

from edgekd.compression.choose import Trial, violations
from edgekd.core.errors import DataError, TeacherError, UsageError
from edgekd.core.protocols import InputSpec
from edgekd.core.registry import make
from edgekd.core.tensors import NO_LABEL, Outputs, Targets
from edgekd.data import orders
from edgekd.data.augment import augment
from edgekd.data.given import read_given
from edgekd.data.splits import Example
from edgekd.data.tags import Tags, Words
from edgekd.losses.response import Response
from edgekd.plan.plan import LossTerm
from edgekd.plan.planning import Options, make_plan
from edgekd.teachers._onnx_graph import feed_of
from edgekd.teachers.huggingface import Huggingface
from edgekd.training import batches, engine, models, scored
from edgekd.training.learner import Learner

TASK, TEXT = "token-classification", "text-classification"
TAGS = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")


def tagger(folder: Path, *, head: bool = True, **settings: object) -> Path:
    """A tiny BERT that tags, with random weights; or its body alone."""
    from transformers import BertConfig, BertForTokenClassification, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(PIECES),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        **{"id2label": dict(enumerate(TAGS)), "label2id": {name: at for at, name in enumerate(TAGS)}} | settings,
    )
    (BertForTokenClassification if head else BertModel)(config).save_pretrained(folder)
    tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tagger(tmp_path_factory.mktemp("tagger") / "teacher")


def task():
    return make("tasks", TASK).named(TAGS)


ROW = Example(Words.joined(["red", "zebra", "of", "blue"]), Tags(("B-LOC", "I-LOC", "O", "B-PER")))


# teachers


def test_a_folder_with_a_tagging_head_is_ready_and_any_other_is_a_base(folder, tmp_path):
    found = Huggingface().inspect(str(folder), TASK)
    assert (found["ready"], found["labels"]) == (True, TAGS)
    assert found["architecture"]["head"] == "AutoModelForTokenClassification"
    assert not Huggingface().inspect(str(tagger(tmp_path / "body", head=False)), TASK)["ready"]
    assert not Huggingface().inspect(str(folder), TEXT)["ready"], "its head names no class of a text"


def test_a_base_model_gets_a_head_that_transformers_takes(tmp_path):
    body = tagger(tmp_path / "body", head=False)
    model = Huggingface().base(body, {"model_type": "bert"}, TASK, TAGS)
    assert model.config.id2label == dict(enumerate(TAGS))
    assert model(input_ids=torch.tensor([[2, 5, 3]])).logits.shape == (1, 3, 5)


def test_tags_that_the_teacher_does_not_know_are_refused_while_planning(folder, tmp_path):
    rows = [([*words, "Mars"], [*tags, "B-STAR"]) for words, tags in sentences(60, seed=1)]
    data = write_tokens(tmp_path / "rows.jsonl", rows)
    said = {"task": TASK, "teacher": str(folder), "data": str(data), "student": "none"}
    with pytest.raises(DataError, match="labels that the teacher does not know: 'STAR'"):
        make_plan(Options(str(loose_target(tmp_path)), **said))
    kept = [([*words], [*tags]) for words, tags in sentences(60, seed=1)]
    plan, splits = make_plan(
        Options(str(loose_target(tmp_path)), **said | {"data": str(write_tokens(tmp_path / "kept.jsonl", kept))})
    )
    assert splits.classes == TAGS
    assert plan.data.test_labelled
    assert plan.metric.name == "span_f1"


def test_an_onnx_file_gives_logits_of_each_token(tmp_path):
    nodes = [
        node("Gather", ["table", "input_ids"], ["rows"]),
        node("MatMul", ["rows", "head"], ["scores"]),
    ]
    constants = {"table": weights(ROWS, HIDDEN), "head": weights(HIDDEN, CLASSES)}
    inputs = [value("input_ids", INT, ["batch", "tokens"])]
    model = model_of(nodes, inputs, [value("scores", FLOAT, ["batch", "tokens", CLASSES])], constants)
    beside(tmp_path)
    onnx.save(model, tmp_path / "model.onnx")
    assert feed_of(TASK).gives == ("batch", "tokens", "classes")
    made = exported(tmp_path / "model.onnx", TASK, tmp_path / "out.onnx")
    assert [one.name for one in made.graph.output] == ["logits"]
    session = ort.InferenceSession(tmp_path / "out.onnx", providers=["CPUExecutionProvider"])
    assert session.run(None, {"input_ids": np.array([[1, 2, 3]])})[0].shape == (1, 3, CLASSES)
    assert "wanted is one float output (batch, classes)" in refused(tmp_path / "model.onnx", TEXT)


# what is trained towards what


def test_pieces_of_a_word_get_its_tag_and_what_continues_it(folder):
    [sample] = task().encode(folder, [ROW.input], 32)
    assert sample["words"].tolist() == [[-1, 0, 1, 2, 3, -1]]
    truth = task().truth([ROW], TAGS)
    assert truth[0].tolist() == [1, 2, 0, 3]
    assert task().targets(truth, [sample])[0].tolist() == [NO_LABEL, 1, 2, 0, 3, NO_LABEL]
    several = {"words": np.array([[-1, 0, 0, 1, 2, 2, 2, 3, -1]])}
    wanted = [NO_LABEL, 1, 2, 2, 0, 0, 0, 3, NO_LABEL]
    assert task().targets(truth, [several])[0].tolist() == wanted
    unknown = task().truth([Example(ROW.input)], TAGS)
    assert set(task().targets(unknown, [sample])[0].tolist()) == {NO_LABEL}


def test_a_batch_is_labelled_by_position_and_padded(folder):
    rows = [ROW, Example(Words.joined(["blue"]), Tags(("O",)))]
    samples = task().encode(folder, [row.input for row in rows], 32)
    labels = scored.label_rows(task(), rows, TAGS, samples)([1, 0])
    assert labels.shape == (2, 6)
    assert labels[0].tolist() == [NO_LABEL, 0, *[NO_LABEL] * 4]
    batch = batches.padded(samples, [1, 0], 0, torch.device("cpu"))
    assert "words" not in batch, "no network takes it"


def test_the_divergence_is_of_each_token_that_holds_text(folder):
    rows = [ROW, Example(Words.joined(["blue", "of"]), None)]
    samples = task().encode(folder, [row.input for row in rows], 32)
    model = models.load(folder, TASK)
    labels = scored.label_rows(task(), rows, TAGS, samples)
    lengths = [6, 4]
    random = torch.Generator().manual_seed(1)
    said = torch.randn(2, 6, 5, generator=random)
    mask = torch.arange(6)[None] < torch.tensor(lengths)[:, None]
    learner = Learner(
        model, (LossTerm("response", 1.0),), lambda numbers: Targets(Outputs(said, mask=mask), labels(numbers))
    )
    batch = batches.padded(samples, [0, 1], 0, torch.device("cpu"))
    with torch.no_grad():
        own = model(**batch).logits
        wanted = Response()(Outputs(own[mask]), Targets(Outputs(said[mask]), torch.zeros(10, dtype=torch.long)))
        assert torch.allclose(learner(batch, [0, 1]), wanted)
        other = said.masked_fill(~mask[:, :, None], 7.0)
        assert torch.equal(
            learner(batch, [0, 1]),
            Learner(
                model, (LossTerm("response", 1.0),), lambda numbers: Targets(Outputs(other, mask=mask), labels(numbers))
            )(batch, [0, 1]),
        ), "padding says nothing"


def test_models_are_held_against_each_other_by_words(folder):
    model = models.load(folder, TASK)
    samples = task().encode(folder, [ROW.input, Words.joined(["blue"])], 32)
    own = scored.said(model, samples, task())
    assert [row["logits"].shape for row in own.rows] == [(4, 5), (1, 5)]
    first = engine.by_position(model, samples)[0]
    assert np.array_equal(own.rows[0]["logits"], first[1:5])
    shorter = scored.Scored(task(), [{"logits": row["logits"][:3]} for row in own.rows])
    logits, theirs = own.beside(shorter)
    assert torch.equal(logits, theirs)
    assert len(logits) == 4
    logits, wanted = own.logits(task().truth([ROW, Example(Words.joined(["blue"]))], TAGS))
    assert wanted.tolist() == [1, 2, 0, 3], "what is unknown is not judged"
    assert len(logits) == 4


# the student


def test_a_student_is_a_cut_of_the_tagger(folder):
    architecture = Huggingface().inspect(str(folder), TASK)["architecture"]
    survey = InputSpec(32, (8,), vocabulary=len(PIECES))
    shapes = make("students", "transformer", **_shape(architecture, survey)).ladder(architecture, survey, classes=5)
    shape = next(one for one in shapes if one.layers == 1 and one.hidden == 16)
    teacher = models.load(folder, TASK)
    samples = task().encode(folder, [ROW.input], 32)
    student = shape.init_from_teacher(teacher, folder, kept=list(range(len(PIECES))), samples=samples)
    assert type(student).__name__ == "BertForTokenClassification"
    assert torch.equal(student.classifier.weight, teacher.classifier.weight)
    assert make("students", "transformer", **shape.as_dict()) == shape
    assert shape.work(16).macs > shape.work(8).macs + 8 * shape.layer_weights, "its head is of every token"
    deep = next(one for one in shapes if one.layers == 2 and one.hidden == 16)
    model = deep.init_from_teacher(teacher, folder, kept=list(range(len(PIECES))), samples=samples)
    head = deep.exit_head(model, 0)
    early = deep.truncate_at(model, 0, head)
    assert early(input_ids=torch.tensor([[2, 5, 3]])).logits.shape == (1, 3, 5)


def _shape(architecture, survey):
    sizes = {name: architecture[name] for name in ("layers", "hidden", "heads", "feed_forward")}
    return sizes | {"vocabulary": survey.vocabulary, "max_tokens": 32, "classes": 5}


def test_a_classifiers_shape_is_told_as_before(folder):
    architecture = Huggingface().inspect(str(folder), TEXT)["architecture"]
    shape = make("students", "transformer", **_shape(architecture, InputSpec(32, (8,), vocabulary=24)))
    assert "head" not in architecture
    assert "head" not in shape.as_dict()


def test_changed_copies_carry_no_tags():
    copies = augment([Example(ROW.input, ROW.label)], [(make("augmentations", "word_dropout"), 4)], seed=0)
    assert copies
    assert all(copy.label is None for copy in copies)


# the guard


def test_a_tagger_that_returns_nothing_is_not_let_through():
    random = np.random.default_rng(0)
    reference = [{"logits": np.eye(5)[random.choice(5, 8, p=[0.9, 0.05, 0.01, 0.03, 0.01])]} for _ in range(80)]
    nothing = [{"logits": np.eye(5)[np.zeros(8, int)]} for _ in range(80)]
    equal = np.mean([(a["logits"] == b["logits"]).all(axis=1) for a, b in zip(nothing, reference, strict=True)])
    assert equal > 0.85, "most tags are the same"
    agreed = task().agrees(nothing, reference)
    agreement = task().fidelity.value(agreed)
    assert agreement == 0.0
    lost = task().metric.lost(agreed, task().agrees(reference, reference))
    trial = Trial("static_int8", agreement, lost.points, 3.0, 1.0, 1.0, 1.0, task().fidelity.interval(agreed))
    told = [violation.kind and violation.text for violation in violations(trial, profile())]
    assert any("loses 100.0 points" in text for text in told)
    assert any("agreement with the teacher 0.0%" in text for text in told)


def test_a_teacher_that_finds_nothing_is_refused():
    nothing = [{"logits": np.eye(5)[np.zeros(8, int)]}]
    with pytest.raises(TeacherError, match="finds no span in any of 1 selection rows"):
        orders.check_finds("mine", task(), nothing)
    orders.check_finds("mine", make("tasks", TASK), nothing)  # of one that names no classes nothing is known


def test_a_teacher_whose_tags_stand_in_another_order_is_found_out():
    rows = [Example(Words.joined(words), Tags(tags)) for words, tags in sentences(60, seed=2)]
    truth = task().truth(rows, TAGS)
    order = [0, 3, 4, 1, 2]  # people for places
    said = [{"logits": np.eye(5)[np.array([order[tag] for tag in row])]} for row in truth]
    own = scored.Scored(task(), said)
    logits, wanted = own.logits(truth)
    doubt = orders.class_order_doubt(logits.argmax(dim=1).numpy(), wanted.numpy(), TAGS)
    assert doubt is None or doubt["order"] == [TAGS[number] for number in order]


def test_rows_of_a_column_that_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"utterance_words": ["a", "b"], "my_tags": ["O", "B-X"], "tags": ["O", "O"]}\n')
    named = make("tasks", TASK, text_column="utterance_words", label_column="my_tags")
    given, columns, _ = read_given(named, str(path), None, classes=None, labelled=True)
    assert given["all"][0].label == ("O", "B-X")
    assert columns.read.left_out == ("tags",)
    with pytest.raises(DataError, match="no text column by a usual name"):
        read_given(make("tasks", TASK), str(path), None, classes=None, labelled=True)


def test_options_of_other_tasks_mean_nothing(folder, tmp_path):
    options = Options(str(loose_target(tmp_path)), task=TASK, teacher=str(folder), data="x.jsonl", image_column="x")
    with pytest.raises(UsageError, match="--image-column"):
        make_plan(options)
