"""Losses: their values by hand, what they ignore, and that gradients flow to the student alone."""

import math

import pytest
import torch
from helpers import fast
from hypothesis import given
from hypothesis import strategies as st

from edgekd.core.registry import make, names, plugin
from edgekd.core.tensors import NO_LABEL, Outputs, Targets

CLASSES = 4


def batch(rows=6, *, seed=0, labels=None):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, rows, CLASSES, generator=generator, dtype=torch.float64)
    labels = torch.arange(rows) % CLASSES if labels is None else torch.tensor(labels)
    return Outputs(student.requires_grad_()), Targets(Outputs(teacher), labels)


@pytest.mark.parametrize("name", names("losses"))
def test_a_loss_is_a_finite_scalar_whose_gradient_reaches_the_student(name):
    student, targets = batch()
    value = make("losses", name)(student, targets)
    assert value.shape == ()
    assert value.item() > 0
    value.backward()
    assert torch.isfinite(student.logits.grad).all()
    assert student.logits.grad.abs().sum() > 0


@pytest.mark.parametrize("name", names("losses"))
def test_a_step_against_the_gradient_lowers_the_loss(name):
    loss, (student, targets) = make("losses", name), batch()
    before = loss(student, targets)
    before.backward()
    assert loss(Outputs(student.logits - 0.1 * student.logits.grad), targets) < before


@pytest.mark.parametrize("name", [name for name in names("losses") if not plugin("losses", name).needs])
def test_a_loss_that_needs_no_teacher_works_without_one(name):
    student, targets = batch()
    loss = make("losses", name)
    assert loss(student, Targets(None, targets.labels)) == loss(student, targets)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 8.0])
def test_response_by_hand(temperature):
    student, targets = batch(rows=2)

    def softened(logits):
        exponentials = [math.exp(value / temperature) for value in logits]
        return [value / sum(exponentials) for value in exponentials]

    rows = zip(targets.teacher.logits.tolist(), student.logits.tolist(), strict=True)
    divergence = [
        sum(p * math.log(p / q) for p, q in zip(softened(teacher), softened(own), strict=True)) for teacher, own in rows
    ]
    expected = temperature**2 * sum(divergence) / 2
    assert make("losses", "response", temperature=temperature)(student, targets).item() == pytest.approx(expected)


@fast
@given(seed=st.integers(0, 999), temperature=st.floats(0.5, 20), shift=st.floats(-50, 50))
def test_response_is_nothing_for_the_teachers_own_distribution(seed, temperature, shift):
    _, targets = batch(seed=seed)
    same = Outputs(targets.teacher.logits + shift)
    assert make("losses", "response", temperature=temperature)(same, targets).item() == pytest.approx(0, abs=1e-9)


def test_responses_gradient_keeps_its_size_as_temperature_grows():
    sizes = []
    for temperature in (8.0, 32.0, 128.0):
        student, targets = batch()
        make("losses", "response", temperature=temperature)(student, targets).backward()
        sizes.append(student.logits.grad.norm().item())
    assert max(sizes) / min(sizes) < 1.2


def test_hard_labels_by_hand():
    student, targets = batch(rows=3, labels=[1, NO_LABEL, 3])
    logits = student.logits.tolist()
    expected = [math.log(sum(map(math.exp, logits[row]))) - logits[row][label] for row, label in ((0, 1), (2, 3))]
    assert make("losses", "hard_labels")(student, targets).item() == pytest.approx(sum(expected) / 2)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_rows_without_a_label_do_not_count(label_smoothing):
    loss = make("losses", "hard_labels", label_smoothing=label_smoothing)
    student, targets = batch(labels=[0, NO_LABEL, 1, NO_LABEL, 2, NO_LABEL])
    value = loss(student, targets)
    value.backward()
    assert (student.logits.grad.abs().sum(dim=1) > 0).tolist() == [True, False] * 3
    few = Outputs(student.logits[::2])
    assert loss(few, Targets(None, targets.labels[::2])).item() == pytest.approx(value.item())


def test_a_batch_without_labels_gives_zero_and_a_gradient_of_zero():
    student, targets = batch(labels=[NO_LABEL] * 6)
    value = make("losses", "hard_labels")(student, targets)
    value.backward()
    assert value.item() == 0
    assert student.logits.grad.abs().sum() == 0


def test_smoothing_keeps_the_student_from_certainty():
    _, targets = batch(rows=2, labels=[0, 1])
    sure = Outputs(20.0 * torch.eye(2, CLASSES, dtype=torch.float64))
    plain, smooth = (make("losses", "hard_labels", label_smoothing=value)(sure, targets) for value in (0.0, 0.1))
    assert plain < 1e-6 < 1 < smooth
