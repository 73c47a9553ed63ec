"""Labels that are there or not each by itself: losses, metrics, the order of outputs, what is told of a teacher."""

import math

import numpy as np
import pytest
import torch

from edgekd.core.confidence import label_recalls
from edgekd.core.errors import TeacherError, UsageError
from edgekd.core.metrics import AGREEMENT, DECISIONS, MICRO_F1
from edgekd.core.protocols import MULTI_LABEL
from edgekd.core.registry import names, plugin
from edgekd.core.statistics import decision_counts
from edgekd.core.tensors import NO_LABEL, Outputs, Targets
from edgekd.data import orders
from edgekd.data.splits import Example
from edgekd.losses.hard_labels import HardLabels
from edgekd.losses.response import Response
from edgekd.losses.self_distillation import SelfDistillation
from edgekd.onboard import bench
from edgekd.plan.plan import LossTerm, TeacherPlan
from edgekd.tasks import _label_sets
from edgekd.training import objective

LABELS = torch.tensor([[1, 0, 1], [0, 0, 0], [NO_LABEL] * 3])


def outputs(*rows):
    return Outputs(torch.tensor(rows, dtype=torch.float32, requires_grad=True))


def binary(p, q):
    """KL of two coins."""
    return sum(a * math.log(a / b) for a, b in ((p, q), (1 - p, 1 - q)))


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def test_hard_labels_are_each_a_coin_of_its_own():
    student = outputs([2.0, -1.0, 0.5], [0.1, -3.0, 0.0], [9.0, 9.0, 9.0])
    rows = [[2.0, 1.0, 0.5], [-0.1, 3.0, 0.0]]  # towards what is right
    wanted = sum(-math.log(sigmoid(value)) for row in rows for value in row) / 2
    value = HardLabels()(student, Targets(None, LABELS))
    assert value.item() == pytest.approx(wanted, rel=1e-5)
    value.backward()
    assert student.logits.grad[2].abs().sum() == 0, "an unknown row teaches nothing"
    assert HardLabels()(student, Targets(None, torch.full((3, 3), NO_LABEL))).item() == 0
    smooth = HardLabels(label_smoothing=0.2)(student, Targets(None, LABELS)).item()
    assert smooth != pytest.approx(wanted)


def test_no_label_of_a_row_is_a_label_and_all_of_them_too():
    for right in ([0, 0, 0], [1, 1, 1]):
        sure = [[9.0 if one else -9.0 for one in right]]
        targets = Targets(None, torch.tensor([right]))
        assert HardLabels()(outputs(*sure), targets).item() < 0.01
        assert HardLabels()(outputs([-value for value in sure[0]]), targets).item() > 20


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_the_response_is_a_divergence_for_each_label(temperature):
    own, said = [[1.0, -2.0], [0.0, 4.0]], [[3.0, -1.0], [-2.0, 0.5]]
    targets = Targets(Outputs(torch.tensor(said)), torch.tensor([[1, 0], [NO_LABEL, NO_LABEL]]))
    each = [
        binary(sigmoid(theirs / temperature), sigmoid(mine / temperature))
        for row, told in zip(own, said, strict=True)
        for mine, theirs in zip(row, told, strict=True)
    ]
    value = Response(temperature)(outputs(*own), targets)
    assert value.item() == pytest.approx(sum(each) / 2 * temperature**2, rel=1e-4)
    assert Response(temperature)(outputs(*said), targets).item() == pytest.approx(0, abs=1e-6)
    sure = Targets(Outputs(torch.tensor([[80.0, -90.0]])), torch.tensor([[1, 0]]))
    far = outputs([-80.0, 90.0])
    far_value = Response(1.0)(far, sure)
    far_value.backward()
    assert torch.isfinite(far_value)
    assert torch.isfinite(far.logits.grad).all()


def test_early_exits_learn_the_same_way():
    student = Outputs(torch.tensor([[2.0, -1.0, 0.5]]), exits=(torch.tensor([[0.0, 0.0, 0.0]]),))
    value = SelfDistillation()(student, Targets(None, torch.tensor([[1, 0, 1]])))
    soft = Response(2.0)(Outputs(student.exits[0]), Targets(Outputs(student.logits), torch.tensor([[1, 0, 1]])))
    assert value.item() == pytest.approx(0.9 * soft.item() + 0.1 * 3 * math.log(2), rel=1e-5)


def test_a_loss_of_one_right_class_is_refused_and_the_fix_obeyed():
    teacher = TeacherPlan("t", "t", "huggingface", "f", True, {"vocabulary": 9, "layers": 2}, (), "", "", None)
    terms = (LossTerm("decoupled", 1.0), LossTerm("hard_labels", 0.1))
    with pytest.raises(UsageError, match="the loss decoupled weighs the right class against all others") as refusal:
        objective.check(terms, teacher, "transformer", MULTI_LABEL)
    objective.check(terms, teacher, "transformer")
    fixed = objective.losses(["response=0.9", "hard_labels=0.1"], None)
    assert "--loss response=0.9 --loss hard_labels=0.1" in refusal.value.fix
    objective.check(fixed, teacher, "transformer", MULTI_LABEL)


OF_ONE_CLASS = {"decoupled", "forward_kl", "reverse_kl", "skewed_kl"}


@pytest.mark.parametrize("name", sorted(set(names("losses")) - OF_ONE_CLASS))
def test_every_other_loss_takes_several_labels(name):
    kind = plugin("losses", name)
    assert not getattr(kind, "one_of_classes", False)
    draw = torch.Generator().manual_seed(0)

    def drawn(width):
        features = tuple(torch.randn(4, 5, width, generator=draw) for _ in range(2))
        return Outputs(
            torch.randn(4, 3, generator=draw),
            features=features,
            embedding=torch.randn(4, width, generator=draw),
            attention=tuple(torch.randn(4, 5, 8, generator=draw) for _ in range(3)),
            exits=(torch.randn(4, 3, generator=draw),),
        )

    value = kind()(drawn(8), Targets(drawn(8), torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [NO_LABEL] * 3])))
    assert torch.isfinite(value)
    assert value.shape == ()


def test_micro_f1_is_of_counts_and_agreement_of_decisions_alone():
    truth = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1]])
    logits = np.array([[2.0, 1.0, -1.0], [-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
    counts = decision_counts(logits, truth)
    np.testing.assert_array_equal(counts, [[1, 1, 1], [0, 0, 0], [3, 0, 0]])
    assert MICRO_F1.value(counts) == pytest.approx(2 * 4 / (2 * 4 + 1 + 1))
    np.testing.assert_array_equal(MICRO_F1.by_row(counts), [0.5, 1.0, 1.0])
    np.testing.assert_array_equal(AGREEMENT.by_row(np.array([1.0, 0.0])), [1.0, 0.0])
    assert label_recalls(logits, truth) == [1.0, 1.0, 0.5]
    assert label_recalls(logits, np.zeros((3, 3))) == [None] * 3


def test_a_model_that_decides_nothing_agrees_with_nobody():
    """Of labels that are mostly absent most decisions are equal whatever a model says: those are no merit."""
    reference = np.where(np.random.default_rng(0).random((500, 20)) < 0.03, 1.0, -1.0)
    ruined = np.full_like(reference, -1.0)
    assert ((ruined > 0) == (reference > 0)).mean() > 0.95
    for answers in (ruined, -ruined):
        assert DECISIONS.value(_label_sets.agrees(answers, reference)) < 0.1
        assert bench.likeness("decision_f1", answers, reference) < 0.1
    assert DECISIONS.value(_label_sets.agrees(reference, reference)) == 1.0
    half = np.where(np.arange(20) < 10, reference, -1.0)
    value = DECISIONS.value(_label_sets.agrees(half, reference))
    assert bench.likeness("decision_f1", half, reference) == pytest.approx(value)
    assert bench.likeness_says("decision_f1") == "golden inputs, micro F1 to the labels that the float32 model gives"


def test_a_receipt_of_labelled_rows_is_by_micro_f1():
    labels = np.array([[1, 0], [0, 0]])
    assert bench._accuracy(np.array([[1.0, 1.0], [-1.0, -1.0]]), labels) == pytest.approx(2 / 3)
    assert bench._accuracy(np.array([[1.0, 0.0], [1.0, 2.0]]), np.array([0, 0])) == 0.5


def test_truth_keeps_none_of_them_apart_from_unknown():
    rows = [Example("x", ("a", "c")), Example("y", ()), Example("z")]
    np.testing.assert_array_equal(_label_sets.truth(rows, ("a", "b", "c")), [[1, 0, 1], [0, 0, 0], [NO_LABEL] * 3])
    with pytest.raises(KeyError):
        _label_sets.truth([Example("x", ("d",))], ("a", "b", "c"))


def told_rows(count=200, labels=6, seed=0):
    random = np.random.default_rng(seed)
    truth = (random.random((count, labels)) < 0.25).astype(np.int64)
    noise = random.random(truth.shape) < 0.03
    return np.where(truth ^ noise, 2.0, -2.0), truth


def test_outputs_in_another_order_are_told():
    logits, truth = told_rows()
    classes = tuple("abcdef")
    assert orders.order_doubt(logits, truth, classes) is None
    moved = logits[:, [1, 0, 2, 5, 3, 4]]
    doubt = orders.order_doubt(moved, truth, classes)
    assert doubt["order"] == ["b", "a", "c", "f", "d", "e"]
    assert doubt["reordered"] > 0.85
    error = orders.class_order_error("mine", doubt)
    assert "its micro F1 is" in error.message
    assert "'b', 'a', 'c', 'f', 'd', 'e'" in error.fix
    unknown = np.vstack([truth, np.full((50, 6), NO_LABEL)])
    assert orders.order_doubt(np.vstack([moved, np.zeros((50, 6))]), unknown, classes)["rows"] == 200
    assert orders.order_doubt(moved[:20], truth[:20], classes) is None


def test_a_bad_teacher_is_no_reordered_one():
    logits, truth = told_rows()
    random = np.random.default_rng(1)
    for answers in (random.normal(size=logits.shape), np.full(logits.shape, -1.0), np.full(logits.shape, 1.0)):
        assert orders.order_doubt(answers, truth, tuple("abcdef")) is None


def test_a_teacher_that_decides_nothing_is_refused():
    with pytest.raises(TeacherError, match="decides no label, at a probability of one half, in any of 5 selection"):
        orders.check_decides("mine", np.full((5, 3), -1.0))
    orders.check_decides("mine", np.array([[-1.0, 0.1]]))


def features(train, test):
    return (np.array([[*map(float, text.split())] for text in texts]) for texts in (train, test))


def test_the_baseline_decides_each_label_by_itself():
    random = np.random.default_rng(0)

    def rows(count):
        made = []
        for _ in range(count):
            values = random.normal(size=3)
            held = tuple(name for name, value in zip("ab", values, strict=False) if value > 0.8)
            made.append(Example(" ".join(map(str, values)), (*held, "always")))
        return made

    train, test = rows(300), [*rows(100), Example("0 0 0", ("unseen",))]
    counts = _label_sets.baseline(train, test, features)
    assert counts.shape == (101, 3)
    assert MICRO_F1.value(counts[:100]) > 0.9
    np.testing.assert_array_equal(counts[100], [0, 1, 1])
