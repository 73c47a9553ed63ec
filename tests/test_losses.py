"""What every loss of the folder must do, whatever it needs; values by hand are in test_loss_values.py."""

from dataclasses import replace

import pytest
import torch
from helpers import python
from torch.nn.functional import pad

from edgekd.core.registry import make, names, plugin
from edgekd.core.tensors import NO_LABEL, Outputs, Targets

CLASSES = 4
POSITIONS = 5
EVERY = pytest.mark.parametrize("name", names("losses"))


def outputs(rows, draw, *, widths, exits=0):
    """All that a model can give; of each second row the last two positions are padding."""

    def random(*shape):
        return torch.randn(rows, *shape, generator=draw, dtype=torch.float64)

    mask = torch.ones(rows, POSITIONS, dtype=torch.bool)
    mask[1::2, -2:] = False
    return Outputs(
        logits=random(CLASSES),
        features=tuple(random(POSITIONS, width) for width in widths),
        attention=tuple(random(POSITIONS, widths[0]) for _ in range(3)),
        embedding=random(widths[-1]),
        mask=mask,
        exits=tuple(random(CLASSES) for _ in range(exits)),
    )


def batch(rows=6, *, seed=0, labels=None):
    draw = torch.Generator().manual_seed(seed)
    student, teacher = outputs(rows, draw, widths=(6, 8), exits=2), outputs(rows, draw, widths=(12, 3))
    labels = torch.arange(rows) % CLASSES if labels is None else torch.tensor(labels)
    return changed(student, lambda value: value.requires_grad_()), Targets(teacher, labels)


def changed(given, change):
    """The same outputs with `change` applied to all but the mask."""
    return Outputs(
        change(given.logits),
        tuple(map(change, given.features)),
        tuple(map(change, given.attention)),
        change(given.embedding),
        given.mask,
        tuple(map(change, given.exits)),
    )


def tensors(given):
    return [given.logits, *given.features, *given.attention, given.embedding, *given.exits]


def gradients(given):
    return [value.grad for value in tensors(given) if value.grad is not None]


def term(name, student, targets):
    """The loss or, of one that has weights of its own, its module, always the same."""
    loss = make("losses", name)
    torch.manual_seed(0)
    return loss.learned(student, targets) if hasattr(loss, "learned") else loss


@EVERY
def test_a_loss_says_of_which_kind_it_is(name):
    assert plugin("losses", name).kind in {"response", "feature", "relation", "self", "labels"}


@EVERY
def test_a_loss_is_a_finite_scalar_whose_gradient_reaches_the_student(name):
    student, targets = batch()
    value = term(name, student, targets)(student, targets)
    assert value.shape == ()
    assert value.item() > 0
    value.backward()
    assert all(gradient.isfinite().all() for gradient in gradients(student))
    assert any(gradient.abs().sum() > 0 for gradient in gradients(student))


@EVERY
def test_a_weight_of_one_means_about_as_much_for_every_loss(name):
    student, targets = batch(rows=24)
    assert 0.1 < term(name, student, targets)(student, targets).item() < 10


@EVERY
def test_a_step_against_the_gradient_lowers_the_loss(name):
    student, targets = batch()
    loss = term(name, student, targets)
    before = loss(student, targets)
    before.backward()
    size = torch.cat([gradient.flatten() for gradient in gradients(student)]).norm()
    stepped = changed(student, lambda v: v.detach() if v.grad is None else v.detach() - 0.01 * v.grad / size)
    assert loss(stepped, targets) < before


@EVERY
def test_the_order_of_rows_does_not_matter(name):
    student, targets = batch()
    loss, order = term(name, student, targets), torch.tensor([3, 0, 5, 1, 4, 2])
    other, teacher = (changed(given, lambda value: value[order]) for given in (student, targets.teacher))
    other, teacher = (replace(given, mask=given.mask[order]) for given in (other, teacher))
    mixed = loss(other, Targets(teacher, targets.labels[order]))
    assert mixed.item() == pytest.approx(loss(student, targets).item())


@EVERY
@pytest.mark.parametrize("masked", ["student", "teacher", "both"])
def test_what_stands_at_padding_does_not_matter(name, masked):
    student, targets = batch()
    loss = term(name, student, targets)
    padding = ~student.mask[..., None]
    without = {"student": ("teacher",), "teacher": ("student",), "both": ()}[masked]

    def scribbled(given, who):
        given = changed(given, lambda v: v.masked_fill(padding, 1e3) if v.dim() == 3 else v)
        return replace(given, mask=None) if who in without else given

    targets_there = Targets(scribbled(targets.teacher, "teacher"), targets.labels)
    value = loss(scribbled(student, "student"), targets_there)
    value.backward()
    assert value.item() == pytest.approx(loss(student, targets).item())
    assert all(gradient.isfinite().all() for gradient in gradients(student))


@EVERY
def test_longer_padding_does_not_matter(name):
    student, targets = batch()

    def longer(given):
        given = changed(given, lambda v: pad(v, (0, 0, 0, 3), value=7.0) if v.dim() == 3 else v)
        return replace(given, mask=pad(given.mask, (0, 3)))

    loss = term(name, student, targets)
    value = loss(longer(student), Targets(longer(targets.teacher), targets.labels))
    assert value.item() == pytest.approx(loss(student, targets).item())


@pytest.mark.parametrize(
    "name", [n for n in names("losses") if {"features", "attention"} & set(plugin("losses", n).needs)]
)
def test_rows_that_are_masked_out_do_not_count(name):
    student, targets = batch()
    loss, first = term(name, student, targets), slice(0, 4)
    mask = student.mask.clone()
    mask[4:] = False
    few, said = (
        changed(replace(each, mask=each.mask[first]), lambda value: value[first]) for each in (student, targets.teacher)
    )
    masked = loss(student, replace(targets, teacher=replace(targets.teacher, mask=mask)))
    assert masked.item() == pytest.approx(loss(few, Targets(said, targets.labels[first])).item())
    nothing = loss(student, replace(targets, teacher=replace(targets.teacher, mask=mask & False)))
    nothing.backward()
    assert nothing.item() == 0
    assert all(not gradient.any() for gradient in gradients(student))


@EVERY
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows_give_a_finite_value_and_gradient(name, rows):
    student, targets = batch(rows)
    value = term(name, student, targets)(student, targets)
    value.backward()
    assert 0 <= value < 100
    assert gradients(student)
    assert all(gradient.isfinite().all() for gradient in gradients(student))


TWICE = [0, 0, 2, 3, 4, 5]
DEGENERATE = {
    "the same rows": lambda value: value[:1].expand_as(value),
    "the same row twice": lambda value: value[TWICE],
    "almost the same row twice": lambda value: value[TWICE] + 1e-6 * value,
    "zeros": lambda value: value * 0,
    "a row of zeros": lambda value: torch.cat([value[:1] * 0, value[1:]]),
    "large": lambda value: value * 1e3,
}


@EVERY
@pytest.mark.parametrize("who", ["student", "teacher", "both"])
@pytest.mark.parametrize("case", DEGENERATE)
def test_gradients_stay_finite_and_moderate(name, case, who):
    student, targets = batch(labels=[0, NO_LABEL, 2, 3, NO_LABEL, 1])
    change = DEGENERATE[case]
    own = changed(student, change) if who != "teacher" else student
    own = changed(own, lambda value: value.detach().float().requires_grad_())
    said = changed(targets.teacher, change) if who != "student" else targets.teacher
    towards = Targets(said, targets.labels)
    value = term(name, own, towards)(own, towards)
    value.backward()
    assert value.isfinite()
    assert gradients(own)
    for gradient in gradients(own):
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 1e4


@EVERY
def test_the_caches_float16_becomes_the_students_type(name):
    student, targets = batch()
    large = changed(targets.teacher, lambda value: 150 * value)  # float16 has no squares of such numbers
    exact, kept = (Targets(given, targets.labels) for given in (large, changed(large, lambda value: value.half())))
    value = term(name, student, kept)(student, kept)
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(term(name, student, exact)(student, exact).item(), rel=0.01)


@pytest.mark.parametrize("name", [name for name in names("losses") if set(plugin("losses", name).needs) <= {"exits"}])
def test_a_loss_that_needs_no_teacher_works_without_one(name):
    student, targets = batch()
    loss = make("losses", name)
    assert loss(student, Targets(None, targets.labels)) == loss(student, targets)


@EVERY
def test_a_loss_that_needs_a_teacher_says_so(name):
    student, targets = batch()
    if set(plugin("losses", name).needs) - {"exits"}:
        with pytest.raises(AssertionError, match="the plan refuses a loss that needs what the teacher cannot give"):
            make("losses", name)(student, Targets(None, targets.labels))


def test_planning_may_import_every_loss_without_torch():
    code = "import sys; from edgekd.core.registry import make, names; [make('losses', n) for n in names('losses')]"
    assert python(f"{code}; sys.exit('torch' in sys.modules)").returncode == 0
