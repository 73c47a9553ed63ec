"""Embeddings: texts without labels, any encoder as teacher, the cosine as metric."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import texts, write_csv
from helpers import fast
from hypothesis import given
from hypothesis import strategies as st

from edgekd.core.errors import DataError, TeacherError, UsageError
from edgekd.core.predictions import network_outputs
from edgekd.core.registry import make
from edgekd.core.statistics import cosines
from edgekd.plan.planning import Options, make_plan
from edgekd.tasks.text_classification import TextClassification
from edgekd.teachers.huggingface import Huggingface
from edgekd.training import models

TASK = "feature-extraction"
EMBEDDINGS = make("tasks", TASK)


@fast
@given(st.integers(1, 20), st.integers(1, 64), st.integers(0, 99))
def test_agreement_is_the_cosine(rows: int, width: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    first, second = random.normal(size=(2, rows, width)).astype(np.float32)
    found = EMBEDDINGS.agrees(first, second)
    expected = [
        max(0.0, float(a @ b / np.sqrt((a @ a) * (b @ b)))) for a, b in zip(first.astype(float), second, strict=True)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(EMBEDDINGS.agrees(first, 3 * first), 1.0)
    assert (EMBEDDINGS.agrees(first, -first) == 0).all()


def test_an_embedding_without_length_agrees_with_none() -> None:
    assert cosines(np.zeros((1, 4)), np.ones((1, 4))).tolist() == [0.0]


def test_classes_agree_by_the_largest_logit() -> None:
    outputs, reference = np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([[-5.0, 5.0], [0.0, 0.1]])
    for name in ("text-classification", "image-classification", "time-series-classification"):
        task = make("tasks", name)
        assert task.agrees(outputs, reference).tolist() == [1.0, 0.0]
        assert (task.labelled, task.keep) == (True, {"logits": "as_is"})
    assert (EMBEDDINGS.labelled, EMBEDDINGS.keep) == (False, {"sentence_embedding": "as_is"})
    assert network_outputs(EMBEDDINGS) == {"last_hidden_state": "mean"}
    assert network_outputs(make("tasks", "text-classification")) == {"logits": "as_is"}


def test_rows_are_read_as_those_of_texts_without_labels() -> None:
    table = [{"text": "one", "label": "a"}, {"text": "two", "label": "b"}]
    columns = EMBEDDINGS.columns(table, "a.csv")
    assert columns == ("text", "")
    assert [(row.input, row.label) for row in EMBEDDINGS.examples(table, columns, "a.csv")] == [
        ("one", None),
        ("two", None),
    ]
    with pytest.raises(DataError, match="row 1: the text column 'text' holds ''"):
        EMBEDDINGS.examples([{"text": ""}], columns, "a.csv")
    with pytest.raises(DataError, match="has no text column by a usual name"):
        EMBEDDINGS.columns([{"body": "one"}], "a.csv")


def test_samples_are_those_of_texts(tiny_teacher: Path) -> None:
    words = [text for text, _ in texts(20, seed=5)]
    samples = EMBEDDINGS.encode(tiny_teacher, words, 16)
    assert all(sample["input_ids"].shape[1] <= 16 for sample in samples)
    for name in ("synthetic", "sized"):
        arguments = (samples, 4, 0) if name == "synthetic" else (samples, 24)
        ours, theirs = getattr(EMBEDDINGS, name)(*arguments), getattr(TextClassification(), name)(*arguments)
        for one, other in zip(*((x,) if name == "sized" else x for x in (ours, theirs)), strict=True):
            assert all(np.array_equal(one[key], other[key]) for key in other)
    assert EMBEDDINGS.sized(samples, 24)["input_ids"].shape == (1, 24)


def test_any_encoder_is_a_ready_teacher(tiny_teacher: Path) -> None:
    found = Huggingface().inspect(str(tiny_teacher), TASK)
    assert (found["ready"], found["labels"]) == (True, ())
    assert Huggingface().inspect(str(tiny_teacher), "text-classification")["labels"] is None
    model = models.load(tiny_teacher, TASK)
    assert type(models.body(model)).__name__ == "BertModel"


def test_an_image_model_is_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(TeacherError, match="is a 'vit' model; no student can be copied from that"):
        Huggingface().inspect(str(tmp_path), TASK)


def test_the_plan(tiny_teacher: Path, tiny_data: Path, store: Path) -> None:
    plan, splits = make_plan(Options("cpu-vnni", TASK, str(tiny_teacher), str(tiny_data), student="none"))
    assert (plan.metric.name, plan.data.classes, plan.data.label_column) == ("cosine", (), "")
    assert not any(row.label for role in (splits.known, splits.selection, splits.test) for row in role)
    assert plan.teacher.ready
    assert (plan.student.survey.vocabulary, plan.student.survey.max_size) == (0, 32)


def test_students_learn_from_raw_texts_and_no_label_is_read(tiny_teacher: Path, tmp_path: Path, store: Path) -> None:
    data = write_csv(tmp_path / "raw.csv", [(text,) for text, _ in texts(60, seed=6)], ("text",))
    for student in (None, "transformer"):
        plan, splits = make_plan(Options("cpu-vnni", TASK, str(tiny_teacher), str(data), student=student))
        assert (plan.student.family, plan.student.start, plan.data.classes) == ("transformer", "teacher", ())
        assert [term.name for term in plan.student.losses] == ["cosine", "neighbours"]
        assert not splits.train
        assert len(splits.unlabelled) > len(splits.test) > 0
    with pytest.raises(UsageError, match="the convnet family cannot serve feature-extraction"):
        make_plan(Options("cpu-vnni", TASK, str(tiny_teacher), str(data), student="convnet"))
    with pytest.raises(UsageError, match="--label-column means nothing to feature-extraction"):
        make_plan(Options("cpu-vnni", TASK, str(tiny_teacher), str(data), student="none", label_column="label"))
