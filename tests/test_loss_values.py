"""Losses: their values by hand, what they do not depend on, and what those with weights of their own learn."""

import math
from dataclasses import replace

import pytest
import torch
from helpers import fast
from hypothesis import given
from hypothesis import strategies as st
from test_losses import CLASSES, batch, changed, outputs, term
from torch.nn.functional import pad

from edgekd.core.errors import UsageError
from edgekd.core.registry import make
from edgekd.core.tensors import NO_LABEL, Outputs, Targets, TopLogits


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


def softmax(values, temperature=1.0):
    exponentials = [math.exp(value / temperature) for value in values]
    return [value / sum(exponentials) for value in exponentials]


def divergence(teacher, student):
    return sum(p * math.log(p / q) for p, q in zip(teacher, student, strict=True))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_decoupled_by_hand(temperature):
    student, targets = batch(rows=3, labels=[1, NO_LABEL, 3])
    logits, said = student.logits.tolist(), targets.teacher.logits.tolist()
    sure = others = 0.0
    for row, target in enumerate((1, said[1].index(max(said[1])), 3)):
        theirs, own = softmax(said[row], temperature), softmax(logits[row], temperature)
        sure += divergence([theirs[target], 1 - theirs[target]], [own[target], 1 - own[target]])
        rest = [number for number in range(CLASSES) if number != target]
        others += divergence(*(softmax([each[row][n] for n in rest], temperature) for each in (said, logits)))
    expected = (0.5 * sure + 2 * others) * temperature**2 / 3
    loss = make("losses", "decoupled", temperature=temperature, alpha=0.5, beta=2.0)
    assert loss(student, targets).item() == pytest.approx(expected)


@fast
@given(seed=st.integers(0, 999), temperature=st.floats(0.5, 20))
def test_decoupled_is_response_where_beta_is_the_probability_of_the_other_classes(seed, temperature):
    student, targets = batch(rows=1, seed=seed)
    beta = 1 - (targets.teacher.logits / temperature).softmax(dim=-1)[0, 0].item()
    whole = make("losses", "response", temperature=temperature)(student, targets)
    parts = make("losses", "decoupled", temperature=temperature, alpha=1.0, beta=beta)(student, targets)
    assert parts.item() == pytest.approx(whole.item(), abs=1e-9)


def test_of_two_classes_decoupled_is_response():
    student, targets = batch()
    few = Outputs(student.logits[:, :2]), Targets(Outputs(targets.teacher.logits[:, :2]), targets.labels % 2)
    assert make("losses", "decoupled")(*few).item() == pytest.approx(make("losses", "response")(*few).item())


def features(*values, mask=None):
    """Outputs of one row with one layer of these features (positions, width)."""
    made = torch.tensor([values], dtype=torch.float64)
    return Outputs(torch.zeros(1, CLASSES), features=(made,), mask=mask)


def toward(teacher):
    return Targets(teacher, torch.tensor([0]))


def test_hidden_states_by_hand():
    mask = torch.tensor([[True, True, False]])
    own, said = features([1.0, 0.0], [2.0, 2.0], [9.0, 9.0]), features([1.0, 2.0], [0.0, 1.0], [0.0, 0.0], mask=mask)
    assert make("losses", "hidden_states")(own, toward(said)).item() == pytest.approx((0 + 4 + 4 + 1) / (1 + 4 + 0 + 1))


@fast
@given(scale=st.floats(0.1, 1e3))
def test_hidden_states_do_not_care_for_the_teachers_scale(scale):
    draw = torch.Generator().manual_seed(1)
    one, two = outputs(4, draw, widths=(6, 8)), outputs(4, draw, widths=(6, 8))
    loss, labels = make("losses", "hidden_states"), torch.zeros(4)
    larger = changed(one, lambda value: value * scale), Targets(changed(two, lambda value: value * scale), labels)
    assert loss(*larger).item() == pytest.approx(loss(one, Targets(two, labels)).item())
    nothing = changed(one, torch.zeros_like)
    assert loss(nothing, larger[1]).item() == pytest.approx(1)


def test_hidden_states_of_unlike_widths_need_a_projection():
    student, targets = batch()
    with pytest.raises(AssertionError, match="features of unlike widths are compared through `learned` alone"):
        make("losses", "hidden_states")(student, targets)


def test_a_projection_of_like_widths_starts_as_the_identity():
    student, targets = batch()
    alike = Targets(replace(targets.teacher, features=tuple(value + 1 for value in student.features)), targets.labels)
    loss = make("losses", "hidden_states")
    assert loss.learned(student, alike)(student, alike).item() == pytest.approx(loss(student, alike).item())


def test_a_projection_starts_alike_from_the_same_seed():
    first, second, third = (
        [value.detach() for value in module.parameters()]
        for module in (
            term("hidden_states", *batch()),
            term("hidden_states", *batch(seed=1)),
            make("losses", "hidden_states").learned(*batch()),
        )
    )
    assert [tuple(value.shape) for value in first] == [(12, 6), (12,), (3, 8), (3,)]
    assert all(map(torch.equal, first, second))
    assert not any(map(torch.equal, first, third))


def test_a_projection_learns_an_exact_linear_map():
    student, targets = batch(rows=16)
    draw = torch.Generator().manual_seed(3)
    maps = [torch.randn(own, said, generator=draw, dtype=torch.float64) for own, said in ((6, 12), (8, 3))]
    linear = tuple(own.detach() @ each + 1 for own, each in zip(student.features, maps, strict=True))
    targets = Targets(replace(targets.teacher, features=linear), targets.labels)
    module = term("hidden_states", student, targets)
    before = module(student, targets).item()
    optimizer = torch.optim.LBFGS(module.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = module(student, targets)
        value.backward()
        return value

    optimizer.step(closure)
    assert module(student, targets).item() < 1e-6 < 0.1 < before


def test_attention_transfer_by_hand():
    mask = torch.tensor([[True, True, False]])
    own, said = features([1.0, 1.0], [0.0, 0.0], [5.0, 5.0], mask=mask), features([2.0], [-2.0], [0.0])
    # maps (1, 0) and (4, 4), of length 1: (1, 0) and (.707, .707)
    expected = (1 - math.sqrt(0.5)) ** 2 + 0.5
    assert make("losses", "attention_transfer")(own, toward(said)).item() == pytest.approx(expected)


@fast
@given(scale=st.floats(1e-3, 1e3))
def test_attention_transfer_is_nothing_for_the_same_map_at_any_scale_and_width(scale):
    _, targets = batch()
    wider = changed(targets.teacher, lambda value: scale * torch.cat([value, value.flip(-1)], dim=-1))
    assert make("losses", "attention_transfer")(wider, targets).item() == pytest.approx(0, abs=1e-9)


def test_attention_relations_by_hand():
    def attention(*values):
        vectors = torch.tensor(values, dtype=torch.float64).reshape(1, len(values), -1)
        return Outputs(torch.zeros(1, CLASSES), attention=(vectors, vectors, torch.zeros_like(vectors)))

    own, said = attention(1.0, 2.0), attention([3.0, 0.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0])
    rows = [([9 / 2, 6 / 2], [1, 2]), ([6 / 2, 4 / 2], [2, 4])]  # a width of 4 is divided by 2, its root
    kl = [divergence(softmax(theirs), softmax(mine)) for theirs, mine in rows]
    expected = 2 / 3 * sum(kl) / 2  # values are alike
    assert make("losses", "attention_relations")(own, toward(said)).item() == pytest.approx(expected)


@fast
@given(seed=st.integers(0, 999), heads=st.sampled_from([None, 1, 2, 3]))
def test_attention_relations_are_nothing_where_tokens_relate_alike(seed, heads):
    _, targets = batch(seed=seed)

    def wider(vectors):  # each head twice as wide by zeros, and longer by the fourth root of 2
        split = vectors.reshape(*vectors.shape[:2], heads or 12, -1)
        return (pad(split, (0, split.shape[-1])) * 2**0.25).flatten(2)

    same = replace(targets.teacher, attention=tuple(map(wider, targets.teacher.attention)))
    loss = make("losses", "attention_relations", heads=heads)
    assert loss(targets.teacher, targets).item() == pytest.approx(0, abs=1e-12)
    assert loss(same, targets).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("own", "said", "heads"), [(384, 384, 12), (128, 384, 8), (96, 312, 12), (10, 12, 2), (7, 12, 1)]
)
def test_relation_heads_divide_both_widths(own, said, heads):
    assert make("losses", "attention_relations")._heads(own, said) == heads


@pytest.mark.parametrize("heads", [4, 0])
def test_relation_heads_that_do_not_divide_both_widths_are_refused(heads):
    student, targets = batch()
    with pytest.raises(UsageError) as refused:
        make("losses", "attention_relations", heads=heads)(student, targets)
    told = f"{heads} relation heads do not divide the widths of student and teacher, 6 and 12"
    assert refused.value.message == told
    assert refused.value.fix == "leave the option heads out: then as many as fit are taken, up to 12"


def embedded(*values):
    rows = torch.tensor(values, dtype=torch.float64)
    return Outputs(torch.zeros(len(rows), CLASSES, dtype=torch.float64), embedding=rows)


@pytest.mark.parametrize(("distance_weight", "angle_weight"), [(1.0, 0.0), (0.0, 1.0), (1.0, 2.0)])
def test_relational_by_hand(distance_weight, angle_weight):
    own = embedded([0.0, 0.0], [3.0, 0.0], [0.0, 4.0])  # sides of 3, 4 and 5, cosines 0, .6 and .8
    said = embedded([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0])  # sides alike, cosines .5
    distance = 0.5 * (0.25**2 + 0 + 0.25**2) / 3
    angle = 0.5 * 2 * (0.5**2 + 0.1**2 + 0.3**2) / 27
    loss = make("losses", "relational", distance_weight=distance_weight, angle_weight=angle_weight)
    expected = 25 * (distance_weight * distance + angle_weight * angle)
    assert loss(own, toward(said)).item() == pytest.approx(expected)


@fast
@given(seed=st.integers(0, 999), scale=st.floats(1e-3, 1e3), name=st.sampled_from(["relational", "similarity"]))
def test_relations_do_not_change_with_scale_and_rotation(seed, scale, name):
    student, targets = batch(seed=seed)
    draw = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=draw, dtype=torch.float64)).Q
    turned = student.embedding @ rotation * scale
    loss = make("losses", name)
    value = loss(replace(student, embedding=turned), targets).item()
    assert value == pytest.approx(loss(student, targets).item(), rel=1e-5)
    itself = replace(targets, teacher=replace(targets.teacher, embedding=student.embedding.detach()))
    assert loss(replace(student, embedding=turned), itself).item() == pytest.approx(0, abs=1e-9)


def test_relational_distances_ignore_where_the_rows_lie():
    student, targets = batch()
    moved = replace(student, embedding=student.embedding + 5)
    loss = make("losses", "relational")
    assert loss(moved, targets).item() == pytest.approx(loss(student, targets).item())


def test_angles_are_of_the_first_rows_alone():
    student, targets = batch(rows=40)
    make("losses", "relational", distance_weight=0.0)(student, targets).backward()
    reached = student.embedding.grad.abs().sum(dim=1) > 0
    assert reached.tolist() == [True] * 32 + [False] * 8


def test_similarity_by_hand():
    own, said = embedded([1.0, 0.0], [0.0, 1.0]), embedded([2.0, 0.0], [2.0, 0.0])
    # products of length 1: rows (1, 0) and (0, 1) against (.707, .707) twice
    expected = (1 - math.sqrt(0.5)) ** 2 + 0.5
    assert make("losses", "similarity")(own, toward(said)).item() == pytest.approx(expected)


def test_self_distillation_is_response_and_labels_at_each_exit():
    student, targets = batch(labels=[0, NO_LABEL, 1, NO_LABEL, 2, 3])
    loss = make("losses", "self_distillation", temperature=3.0, final_weight=0.7, label_weight=0.2)
    final = Targets(Outputs(student.logits), targets.labels)
    soft, hard = make("losses", "response", temperature=3.0), make("losses", "hard_labels")
    expected = [0.7 * soft(early, final) + 0.2 * hard(early, final) for early in map(Outputs, student.exits)]
    value = loss(student, targets)
    assert value.item() == pytest.approx(sum(expected).item() / 2)
    value.backward()
    assert student.logits.grad is None, "the last layer is the one that teaches"
    assert all(each.grad.abs().sum() > 0 for each in student.exits)


def test_self_distillation_without_labels_still_learns():
    student, targets = batch(labels=[NO_LABEL] * 6)
    soft = make("losses", "self_distillation", label_weight=0.0)(student, targets)
    assert make("losses", "self_distillation")(student, targets).item() == pytest.approx(soft.item())
    assert soft > 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hidden_states", "the engine asks models for the features that a loss needs"),
        ("attention_transfer", "the engine asks models for the features that a loss needs"),
        ("attention_relations", "the engine asks models for the queries, keys and values that a loss needs"),
        ("relational", "the engine asks the student for what a loss needs"),
        ("similarity", "the engine asks the student for what a loss needs"),
        ("self_distillation", "the engine gives a student exits where a loss needs them"),
    ],
)
def test_a_loss_that_was_not_given_what_it_needs_says_so(name, message):
    bare = Outputs(torch.zeros(2, CLASSES))
    with pytest.raises(AssertionError, match=message):
        make("losses", name)(bare, Targets(bare, torch.tensor([0, 1])))


def of_many(rows, classes, k, seed):
    """A student, labels of which one is unknown, and a teacher twice: dense, and as its largest logits."""
    draw = torch.Generator().manual_seed(seed)
    student, logits = (2 * torch.randn(rows, classes, generator=draw, dtype=torch.float64) for _ in range(2))
    values, picked = logits.topk(k, dim=-1)
    rest = logits.scatter(-1, picked, -math.inf).logsumexp(dim=-1) - math.log(classes - k)
    dense = rest[:, None].expand(-1, classes).clone().scatter_(1, picked, values)
    labels = torch.randint(classes, (rows,), generator=draw)
    labels[0] = NO_LABEL
    top = TopLogits(values, picked, rest, classes)
    return student, Targets(Outputs(dense), labels), Targets(Outputs(torch.empty(0), top=top), labels)


@fast
@given(
    seed=st.integers(0, 999),
    temperature=st.floats(0.5, 8),
    k=st.integers(2, 9),
    name=st.sampled_from(["response", "decoupled"]),
)
def test_the_largest_logits_give_what_they_give_spread_over_all_classes(seed, temperature, k, name):
    student, dense, sparse = of_many(5, 12, k, seed)
    loss, gradients = make("losses", name, temperature=temperature), []
    for targets in (dense, sparse):
        own = student.clone().requires_grad_()
        value = loss(Outputs(own), targets)
        value.backward()
        gradients.append((value.item(), own.grad))
    assert gradients[0][0] == pytest.approx(gradients[1][0], abs=1e-9)
    assert torch.allclose(gradients[0][1], gradients[1][1], atol=1e-9)
