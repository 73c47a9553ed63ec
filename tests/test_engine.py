"""The training loop: batches, the best epoch, an early stop, a run that is killed and goes on to the same bits."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from helpers import fast
from hypothesis import given
from hypothesis import strategies as st

from edgekd.core.errors import EdgeKDError
from edgekd.core.protocols import NullProgress
from edgekd.core.tensors import NO_LABEL, Outputs, Targets, TopLogits
from edgekd.plan.plan import LossTerm, Training
from edgekd.students.conv1d import Conv1d
from edgekd.students.convnet import Convnet
from edgekd.training import batches, engine
from edgekd.training.learner import Learner, aligned, scored

LABELS = (LossTerm("hard_labels", 1.0),)
SHAPE = Conv1d(8, 2, 3, 1, separable=False, dilated=False, steps=16, channels=1, classes=2)


@fast
@given(lengths=st.lists(st.integers(1, 64), min_size=1, max_size=200), size=st.integers(1, 9), seed=st.integers(0, 9))
def test_batches_hold_every_row_once_and_no_more_tokens_than_the_median_row_times_the_size(
    lengths: list[int], size: int, seed: int
) -> None:
    made = batches.ordered(np.array(lengths), size, seed)
    assert sorted(row for batch in made for row in batch) == list(range(len(lengths)))
    most = size * int(np.median(lengths))
    for batch in made:
        assert len(batch) <= 3 or (len(batch) - 1) * max(lengths[row] for row in batch[:-1]) <= most
    assert made == batches.ordered(np.array(lengths), size, seed)


@pytest.mark.parametrize("size", [2, 64])
@pytest.mark.parametrize("rows", [1, 2, 3, 64, 65, 66, 128, 129, 1024, 1025, 1026, 2049])
def test_no_row_is_left_alone_where_all_have_one_size(rows: int, size: int) -> None:
    made = batches.ordered(np.ones(rows, dtype=int), size, 0)
    assert min(map(len, made)) >= min(2, rows)
    assert max(map(len, made)) <= size + 1


def test_short_texts_fill_larger_batches() -> None:
    lengths = np.array([4] * 80 + [16] * 80)
    for batch in batches.ordered(lengths, 8, 0):
        assert len({int(lengths[row]) for row in batch}) <= 2
    short = [batch for batch in batches.ordered(lengths, 8, 0) if lengths[batch].max() == 4]
    assert max(map(len, short)) == 8 * int(np.median(lengths)) // 4


def test_a_network_that_ends_at_one_pixel_trains_on_65_rows() -> None:
    shape = Convnet(8, 1, 2, width=0.25, depth=0.25, stages=5)
    assert shape.top.out_side == 1
    draw = np.random.default_rng(0)
    samples = [shape.sample(8, draw) for _ in range(65)]
    watched = Watched()
    training = Training(epochs=2, batch_size=64, learning_rate=1e-3)
    engine.fit(
        Learner(shape.random(), LABELS, lambda rows: Targets(None, torch.tensor(rows) % 2)),
        samples,
        training,
        seed=0,
        progress=watched,
    )
    assert watched.seen == [1, 2]
    assert engine.steps_of(samples, training, 0) == 2


class Watched(NullProgress):
    """Remembers steps, and stops the run after some of them, as a kill does."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.seen: list[int] = []
        self.stop_after = stop_after

    def step(self, done: int, note: str = "") -> None:
        self.seen.append(done)
        if done == self.stop_after:
            raise KeyboardInterrupt


def series(rows: int) -> list[dict[str, Any]]:
    draw = np.random.default_rng(1)
    return [{"past_values": (draw.standard_normal((1, 16, 1)) + row % 2).astype(np.float32)} for row in range(rows)]


def run(
    work: Path | None = None,
    *,
    epochs: int = 3,
    rows: int = 40,
    stop_after: int | None = None,
    scores: Any = None,
    patience: int | None = None,
) -> tuple[dict[str, torch.Tensor], engine.Trained | None, Watched]:
    """A small run: the student's weights, how it ended, the steps it took."""
    engine.prepare(0, 1)
    samples = series(rows)
    model = SHAPE.random()
    model.body.append(torch.nn.Dropout(0.2))  # as a teacher of texts has it: random states matter
    learner = Learner(model, LABELS, lambda picked: Targets(None, torch.tensor(picked) % 2))
    watched = Watched(stop_after)
    training = Training(epochs=epochs, batch_size=8, learning_rate=1e-2, patience=patience)
    trained = None
    with contextlib.suppress(KeyboardInterrupt):
        trained = engine.fit(
            learner,
            samples,
            training,
            seed=3,
            progress=watched,
            work=work,
            validate=(lambda: next(scores)) if scores else None,
        )
    return learner.state_dict(), trained, watched


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "CHECKPOINT_S", 0.0)
    whole, _, steps = run()
    for stop in (1, 4, 9):
        work = tmp_path / str(stop)
        run(work, stop_after=stop)
        again, _, rest = run(work)
        assert rest.seen == steps.seen[stop - 1 :], "the step under way at the kill is taken again, no more"
        assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_random_states_are_part_of_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them dropout would differ, and the test above would not have said so."""
    monkeypatch.setattr(engine, "CHECKPOINT_S", 0.0)
    whole, _, _ = run()
    run(tmp_path, stop_after=4)
    monkeypatch.setattr(torch, "set_rng_state", lambda state: None)
    monkeypatch.setattr("accelerate.Accelerator.load_state", _without_random_states)
    again, _, _ = run(tmp_path)
    assert any(not torch.equal(whole[name], again[name]) for name in whole)


def _without_random_states(self: Any, folder: str, _load: Any = Accelerator.load_state) -> None:
    before = torch.get_rng_state()
    _load(self, folder)
    torch.random.default_generator.set_state(before)


def test_a_run_that_diverges_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "CHECKPOINT_S", 0.0)
    run(tmp_path / "work", stop_after=6)
    monkeypatch.setattr(Learner, "forward", lambda self, batch, rows: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(EdgeKDError, match="diverged"):
        run(tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_the_best_epoch_survives_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "CHECKPOINT_S", 0.0)
    scores = [(0.5,), (0.9,), (0.1,)]
    whole, trained, _ = run(scores=iter(scores))
    assert trained == engine.Trained(tuple(scores), kept_epoch=2, epochs=3)
    run(tmp_path, stop_after=12, scores=iter(scores))
    again, resumed, _ = run(tmp_path, scores=iter(scores[2:]))
    assert resumed == trained
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_damaged_checkpoint_is_passed_over_for_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "CHECKPOINT_S", 0.0)
    run(tmp_path, stop_after=6)
    (place,) = tmp_path.glob("checkpoint-*")
    (place / "state" / "model.safetensors").write_bytes(b"damaged")
    again, _, steps = run(tmp_path)
    assert steps.seen[0] == 1
    whole, _, _ = run()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_checkpoints_are_a_minute_apart_at_most() -> None:
    assert engine.CHECKPOINT_S < 60


def test_the_weights_of_the_best_epoch_are_kept() -> None:
    best, _, _ = run(epochs=3, scores=iter([(0.1,), (0.9,), (0.2,)]))
    last, _, _ = run(epochs=3)
    assert any(not torch.equal(best[name], last[name]) for name in best)


def test_a_run_that_no_longer_improves_stops() -> None:
    scores = iter([(0.5, -1.0), (0.5, -0.9), (0.5, -0.9), (0.4, 0.0), (0.9, 0.0)])
    _, trained, _ = run(epochs=5, patience=2, scores=scores)
    assert trained is not None
    assert (trained.kept_epoch, trained.epochs) == (2, 4)


def test_a_loss_that_is_not_finite_stops_the_run_with_its_step() -> None:
    class Bad(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = SHAPE.random()

        def forward(self, batch: Any, rows: list[int]) -> torch.Tensor:
            return self.model(**batch).logits.sum() * float("nan")

    training = Training(epochs=1, batch_size=8, learning_rate=1e-2)
    with pytest.raises(EdgeKDError, match="diverged: the loss is nan at step 1 of 5") as raised:
        engine.fit(Bad(), series(40), training, seed=0, progress=NullProgress())
    assert "--learning-rate" in raised.value.fix


def test_texts_cut_into_other_tokens_are_masked_out() -> None:
    teacher = Outputs(
        torch.zeros(2, 3), features=(torch.ones(2, 4, 5),), mask=torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]).bool()
    )
    own = torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
    found = aligned(teacher, own)
    assert found.features[0].shape == (2, 3, 5)
    assert found.mask is not None
    assert found.mask.tolist() == [[True] * 3, [False] * 3]
    wider = aligned(teacher, torch.ones(2, 6).bool())
    assert wider.features[0].shape == (2, 6, 5)
    assert wider.mask is not None
    assert not wider.mask.any()


def test_logits_of_positions_are_scored_where_neither_of_two_models_has_padding() -> None:
    own = torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
    logits = torch.arange(2 * 3 * 4.0).reshape(2, 3, 4)
    labels = torch.tensor([[0, NO_LABEL, 2], [3, 1, NO_LABEL]])
    student = Outputs(logits, mask=own, exits=(logits + 1,))
    alone, targets = scored(student, Targets(None, labels))
    assert alone.logits.tolist() == logits[own].tolist()
    assert alone.exits[0].tolist() == (logits + 1)[own].tolist()
    assert targets.labels.tolist() == [0, NO_LABEL, 2, 3, 1]
    theirs = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]).bool()  # the second text is cut into other tokens
    wide = torch.arange(2 * 4 * 4.0).reshape(2, 4, 4)
    dense = aligned(Outputs(wide, mask=theirs), own)
    taught, targets = scored(student, Targets(dense, labels))
    assert targets.teacher is not None
    assert targets.teacher.logits.tolist() == wide[0, :3].tolist()
    assert taught.logits.tolist() == logits[0].tolist()
    top = TopLogits(*wide[..., :2].topk(2), wide[..., 2], 4)
    _, targets = scored(student, Targets(aligned(Outputs(torch.empty(0), mask=theirs, top=top), own), labels))
    assert targets.teacher is not None
    assert targets.teacher.top is not None
    assert targets.teacher.top.values.tolist() == top.values[0, :3].tolist()
    assert targets.teacher.top.rest.tolist() == top.rest[0, :3].tolist()


def test_a_losss_own_weights_are_trained() -> None:
    shape = Conv1d(8, 1, 3, 1, separable=False, dilated=False, steps=16, channels=1, classes=2)
    from edgekd.core.tensors import RequestedOutputs

    engine.prepare(0, 1)
    theirs = torch.randn(40, 4, 6)
    learner = Learner(
        shape.random(),
        (LossTerm("hidden_states", 1.0),),
        lambda rows: Targets(Outputs(torch.zeros(len(rows), 2), features=(theirs[rows],)), torch.tensor(rows) % 2),
        RequestedOutputs((0,), None, False, 4),
    )
    samples = series(40)
    learner.begin(batches.padded(samples, [0, 1], 0, torch.device("cpu")), [0, 1])
    before = {name: value.clone() for name, value in learner.named_parameters() if name.startswith("learned.")}
    assert before
    engine.fit(learner, samples, Training(epochs=1, batch_size=8, learning_rate=1e-2), seed=0, progress=NullProgress())
    after = dict(learner.named_parameters())
    assert all(not torch.equal(value, after[name]) for name, value in before.items())


def test_of_no_rows_nothing_is_asked() -> None:
    assert list(engine.evaluate(lambda batch: 1 / 0, [], device=torch.device("cpu"))) == []


def test_a_convnets_best_weights_are_part_of_its_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights lie channels last, which safetensors does not take as they are."""
    monkeypatch.setattr(engine, "CHECKPOINT_S", 0.0)
    shape = Convnet(8, 3, 2, width=0.25, depth=0.25, stages=2)
    draw = np.random.default_rng(0)
    samples = [shape.sample(8, draw) for _ in range(32)]

    def fit(work: Path | None, stop_after: int | None, scores: list[tuple[float]]) -> dict[str, torch.Tensor]:
        engine.prepare(0, 1)
        learner = Learner(shape.random(), LABELS, lambda rows: Targets(None, torch.tensor(rows) % 2))
        left = iter(scores)
        with contextlib.suppress(KeyboardInterrupt):
            engine.fit(
                learner,
                samples,
                Training(epochs=3, batch_size=8, learning_rate=1e-2),
                seed=0,
                progress=Watched(stop_after),
                validate=lambda: next(left),
                work=work,
            )
        return learner.state_dict()

    scores = [(0.9,), (0.1,), (0.2,)]
    whole = fit(None, None, scores)
    fit(tmp_path, 7, scores)
    again = fit(tmp_path, None, scores[1:])
    assert all(torch.equal(whole[name], again[name]) for name in whole)
