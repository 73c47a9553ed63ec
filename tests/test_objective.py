"""Losses and augmentations from a user's words; what teacher and student cannot give is refused while planning."""

from __future__ import annotations

from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest

from edgekd.core.digests import digest
from edgekd.core.errors import UsageError
from edgekd.core.registry import names, plugin
from edgekd.plan.plan import LossTerm
from edgekd.training import objective

TEXT = {
    "model_type": "bert",
    "layers": 6,
    "hidden": 384,
    "heads": 12,
    "feed_forward": 1536,
    "vocabulary": 99,
    "max_tokens": 64,
}
RESNET = {"model_type": "resnet", "layers": 2, "hidden": 16, "max_size": 32, "channels": 3, "taps": 2}


def teacher(architecture: dict[str, Any]) -> Any:
    return SimpleNamespace(kind="huggingface", architecture=architecture, source="my-teacher")


def test_words_become_terms() -> None:
    assert objective.losses(["decoupled=0.9,beta=4,temperature=3", "hard_labels"], None) == (
        LossTerm("decoupled", 0.9, {"temperature": 3, "alpha": 1.0, "beta": 4}),
        LossTerm("hard_labels", 1.0, {"label_smoothing": 0.0}),
    )


def test_the_same_objective_has_the_same_digest_however_it_is_said() -> None:
    said = ("response=1", "response=1,temperature=2", "response,temperature=2.0")
    digests = {digest([asdict(term) for term in objective.losses([one], None)]) for one in said}
    assert len(digests) == 1


def test_the_temperature_is_of_all_that_have_one() -> None:
    terms = objective.losses(["response=1", "self_distillation=1", "hidden_states=1"], 5.0)
    assert [term.options.get("temperature") for term in terms] == [5.0, 5.0, None]


@pytest.mark.parametrize("name", names("losses"))
def test_every_loss_can_be_named_with_its_own_options(name: str) -> None:
    (term,) = objective.losses([f"{name}=0.5"], None)
    said = ",".join([f"{name}=0.5", *(f"{key}={value}" for key, value in term.options.items())])
    assert objective.losses([said], None) == (term,)
    plugin("losses", name)(**term.options)


@pytest.mark.parametrize(
    ("said", "error", "fix"),
    [
        ("response=often", "--loss response=often: the weight 'often' is no number", "write --loss response=0.9"),
        ("response=0", "--loss response=0: '0' is no positive weight", "write --loss response=0.9"),
        ("response=inf", "the weight 'inf' is no number", "write --loss response=0.9"),
        ("response=1,temprature=3", "the loss response has no option 'temprature'", "did you mean 'temperature'?"),
        ("response=1,temperature=0", "temperature 0 makes no sense", "give a number from 0.05 to 100"),
        ("decoupled=1,beta=-1", "beta -1 makes no sense", "give a number from 0 to inf"),
        ("hard_labels=1,label_smoothing=2", "label_smoothing 2 makes no sense", "give a number from 0 to 1"),
        ("attention_relations=1,heads=2.5", "heads 2.5 makes no sense", "give a whole number from 1 to 1024"),
        ("attention_relations=1,heads=0", "heads 0 makes no sense", "give a whole number from 1 to 1024"),
        ("respnse=1", "there is no loss called 'respnse'", "did you mean 'response'?"),
    ],
)
def test_words_that_make_no_sense(said: str, error: str, fix: str) -> None:
    with pytest.raises(UsageError) as raised:
        objective.losses([said], None)
    assert error in raised.value.message
    assert fix in raised.value.fix


def test_a_loss_given_twice() -> None:
    with pytest.raises(UsageError, match="--loss response is given twice"):
        objective.losses(["response=1", "response=0.5"], None)


@pytest.mark.parametrize(
    ("said", "task", "error", "fix"),
    [
        ("jitter=2", "text-classification", "jitter cannot change the inputs of text-classification", "word_dropout"),
        ("jitter=0", "time-series-classification", "0 copies make no sense", "1 to 64"),
        ("jitter=1.5", "time-series-classification", "1.5 copies make no sense", "1 to 64"),
        ("jiter=1", "time-series-classification", "there is no augmentation called 'jiter'", "did you mean 'jitter'?"),
    ],
)
def test_augmentations_that_make_no_sense(said: str, task: str, error: str, fix: str) -> None:
    with pytest.raises(UsageError) as raised:
        objective.augmentations([said], task)
    assert error in raised.value.message
    assert fix in raised.value.fix


def test_none_is_no_augmentation() -> None:
    assert objective.augmentations(["none"], "text-classification") == ()
    (one,) = objective.augmentations(["word_swap=2"], "text-classification")
    assert (one.name, one.copies) == ("word_swap", 2)


@pytest.mark.parametrize("name", names("losses"))
def test_a_text_teacher_and_its_cut_give_all_that_losses_need(name: str) -> None:
    objective.check(
        objective.losses([name, "hard_labels"] if name != "hard_labels" else [name], None), teacher(TEXT), "transformer"
    )


def test_attention_of_a_cnn_is_refused() -> None:
    terms = objective.losses(["attention_relations=1"], None)
    with pytest.raises(UsageError) as raised:
        objective.check(terms, teacher(RESNET), "convnet")
    assert raised.value.message.startswith("the loss attention_relations needs attention (queries, keys and values), ")
    assert raised.value.message.endswith("which the teacher my-teacher does not give")
    assert "leave it out" in raised.value.fix


def test_attention_for_a_student_that_has_none_is_refused() -> None:
    with pytest.raises(UsageError, match="which a student of the conv1d family does not give"):
        objective.check(objective.losses(["attention_relations=1"], None), teacher(TEXT), "conv1d")


def test_features_of_a_teacher_that_shows_none_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher behind an interface that answers in text gives just that."""
    from edgekd.teachers.huggingface import Huggingface

    monkeypatch.setattr(Huggingface, "gives", lambda self, architecture: ("text",))
    with pytest.raises(UsageError, match=r"hidden_states needs features .* which the teacher my-teacher does not give"):
        objective.check(objective.losses(["hidden_states=1"], None), teacher(TEXT), "transformer")


def test_exits_alone_teach_no_last_layer() -> None:
    with pytest.raises(UsageError, match="the student's last layer would learn nothing"):
        objective.check(objective.losses(["self_distillation=1"], None), teacher(TEXT), "transformer")
