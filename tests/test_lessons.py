"""Pseudo-labels and lessons: the teacher's own tokens and logits, kept where they can be trusted, learned from."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from audio_files import voice
from tiny_listener import END, PLAIN, RULES, START, heard, whisper

from edgekd.core.errors import DataError, UsageError
from edgekd.core.protocols import NullProgress
from edgekd.core.tensors import NO_LABEL
from edgekd.data.splits import Example
from edgekd.plan.plan import LossTerm, Training
from edgekd.training import engine
from edgekd.training.learner import Learner
from edgekd.training.speech import lessons, pseudo_labels
from edgekd.training.speech.lessons import Lessons, write_lessons
from edgekd.training.speech.listener import Listener
from edgekd.training.speech.pseudo_labels import (
    DISAGREES,
    EMPTY,
    GOOD,
    LOOP,
    REASONS,
    UNFINISHED,
    UNLIKELY,
    Written,
    judge,
    write,
)


def states_of(model, sounds):
    features = torch.from_numpy(np.stack([heard(model).features(sound) for sound in sounds]))
    with torch.no_grad():
        return model.model.encoder(features).last_hidden_state


@pytest.fixture(scope="module")
def teacher():
    return whisper(1)


SOUNDS = [voice(0.3 + 0.1 * number, pitch=150 + 40 * number) for number in range(6)]
SECONDS = [len(sound) / 16_000 for sound in SOUNDS]


def test_what_is_written_in_a_batch_is_what_torch_says_of_each_row_alone(teacher):
    states = states_of(teacher, SOUNDS)
    for row, one in enumerate(write(teacher, states, SECONDS, RULES)):
        with torch.no_grad():
            said = teacher(encoder_outputs=(states[row : row + 1],), decoder_input_ids=torch.tensor([one.ids[:-1]]))
        assert torch.allclose(torch.stack(one.logits), said.logits[0], atol=1e-3)
        assert one.ids[:2] == [START, PLAIN]
        allowed = said.logits[0, 1:].clone()
        allowed[:, list(RULES.suppress)] = -torch.inf
        allowed[0, list(RULES.begin_suppress)] = -torch.inf
        assert allowed.argmax(dim=-1).tolist() == one.ids[2:]
        chosen = allowed.log_softmax(dim=-1).gather(1, torch.tensor(one.ids[2:])[:, None])
        assert one.log_probability == pytest.approx(float(chosen.mean()), abs=1e-3)
        assert one.ended == (one.ids[-1] == END)


def test_a_transcript_is_followed_in_one_pass_as_torch_says_it(teacher):
    states, texts = states_of(teacher, SOUNDS), [[5, 6, 7], [8], [9, 10], [3], [4, 4], [11, 12, 13, 14]]
    for row, one in enumerate(pseudo_labels.follow(teacher, states, texts, RULES)):
        assert one.ids == [START, PLAIN, *texts[row], END]
        with torch.no_grad():
            said = teacher(encoder_outputs=(states[row : row + 1],), decoder_input_ids=torch.tensor([one.ids[:-1]]))
        assert torch.allclose(torch.stack(one.logits), said.logits[0], atol=1e-3)
        chosen = said.logits[0, 1:].log_softmax(dim=-1).gather(1, torch.tensor(one.ids[2:])[:, None])
        assert one.log_probability == pytest.approx(float(chosen.mean()), abs=1e-3)


def test_a_transcript_that_the_teacher_can_follow_is_learned_and_no_other(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(lessons, "LEAST_FOLLOWED", -99.0)
    own = [replace(row, label="5 6" if number % 2 else None) for number, row in enumerate(rows(8))]
    learns = replace(heard(teacher), tokens=lambda text: [int(one) for one in text.split()])
    monkeypatch.setattr(pseudo_labels, "judge", lambda written, texts, known: [GOOD] * len(written))
    write_lessons(learns, own, tmp_path / "a", states=True, limit_mib=100, progress=NullProgress())
    told = json.loads((tmp_path / "a" / lessons.SAID).read_text())
    assert told == {REASONS[GOOD]: 4, "followed": 4}
    made = Lessons(tmp_path / "a", own, learns.features, 40)
    assert made[1]["decoder_input_ids"].tolist() == [[START, PLAIN, 5, 6]]
    monkeypatch.setattr(lessons, "LEAST_FOLLOWED", 0.0)
    write_lessons(learns, own, tmp_path / "b", states=True, limit_mib=100, progress=NullProgress())
    assert json.loads((tmp_path / "b" / lessons.SAID).read_text()) == {REASONS[GOOD]: 8}


def test_the_likeliest_language_follows_the_first_token(teacher):
    states = states_of(teacher, SOUNDS)
    with torch.no_grad():
        first = teacher(encoder_outputs=(states,), decoder_input_ids=torch.full((6, 1), START)).logits[:, 0]
    rules = replace(RULES, languages=(7, 8, 9))
    wanted = [(7, 8, 9)[int(row[[7, 8, 9]].argmax())] for row in first]
    assert [one.ids[:3] for one in write(teacher, states, SECONDS, rules)] == [[START, own, PLAIN] for own in wanted]


def test_nobody_speaks_faster_than_the_limit(teacher):
    loud = replace(RULES, suppress=(*RULES.suppress, END), most=999)
    long = whisper(1, max_target_positions=99)
    written = write(long, states_of(long, SOUNDS), [0.5] * 6, loud)
    assert [len(one.ids) for one in written] == [2 + 4 + 12] * 6
    assert not any(one.ended for one in written)


def said(*ids, ended=True, likely=-0.1):
    return Written([START, PLAIN, *ids], 2, ended, likely, [])


@pytest.mark.parametrize(
    ("written", "text", "transcript", "reason"),
    [
        (said(5, END), "a word", None, GOOD),
        (said(END), " ", None, EMPTY),
        (said(5, ended=False), "a word", None, UNFINISHED),
        (said(5, END), "thank you. " * 6, None, LOOP),
        (said(5, END, likely=-1.2), "a word", None, UNLIKELY),
        (said(5, END), "the cat sat on a mat", "The cat sat on the mat!", GOOD),
        (said(5, END), "a hat spat", "the cat sat", DISAGREES),
        (said(5, END), "the cat sat on the mat and slept", "the cat sat", DISAGREES),
    ],
)
def test_a_text_is_kept_where_it_can_be_trusted(written, text, transcript, reason):
    assert judge([written], [text], [transcript]) == [reason]


@pytest.fixture
def trusting(monkeypatch):
    """Random weights are unlikely, never end and loop: all of it is taken."""
    monkeypatch.setattr(pseudo_labels, "judge", lambda written, texts, known: [GOOD] * len(written))


def rows(count=24, seconds=0.4):
    return [Example(voice(seconds, pitch=120 + 9 * number), None) for number in range(count)]


def written_to(folder, model, own, *, states=True, **more):
    write_lessons(heard(model), own, folder, states=states, limit_mib=100, progress=NullProgress(), **more)
    return Lessons(folder, own, heard(model).features, 40)


@pytest.mark.parametrize("states", [True, False])
def test_lessons_give_back_what_the_teacher_said(teacher, tmp_path, trusting, states):
    own = rows(20)
    made = written_to(tmp_path, teacher, own, states=states)
    assert len(made) == 20
    picked = [3, 17, 5]
    targets = made.targets(picked)
    network = Listener(teacher, encoder_learns=False)
    for place, row in enumerate(picked):
        sample = {name: torch.from_numpy(value) for name, value in made[row].items()}
        with torch.no_grad():
            logits = network(**sample).logits[0]
        length = sample["decoder_input_ids"].shape[1]
        assert made.lengths[row] == length
        assert targets.teacher.mask[place].sum() == length
        assert targets.labels[place, :length].tolist()[:-1] == sample["decoder_input_ids"][0, 1:].tolist()
        assert (targets.labels[place, length:] == NO_LABEL).all()
        top = targets.teacher.top
        dense = top.rest[place, :length, None].expand(length, 40).clone()
        dense = dense.scatter(1, top.classes[place, :length], top.values[place, :length])
        assert torch.allclose(dense.softmax(-1), logits.softmax(-1), atol=5e-3)


def test_a_run_that_was_stopped_goes_on_and_ends_in_the_same_lessons(teacher, tmp_path, trusting, monkeypatch):
    monkeypatch.setattr(lessons, "_SHARD_ROWS", 16)
    own = rows(40)
    whole = written_to(tmp_path / "whole", teacher, own)
    calls = []
    real = pseudo_labels.write

    def stops(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(pseudo_labels, "write", stops)
    with pytest.raises(KeyboardInterrupt):
        written_to(tmp_path / "cut", teacher, own)
    again = written_to(tmp_path / "cut", teacher, own)
    assert len(calls) == 2 + 2  # the first shard is not made again
    for row in (0, 15, 16, 39):
        assert all(np.array_equal(one, again[row][name]) for name, one in whole[row].items())


def test_lessons_that_cannot_be_trusted_are_left_out_and_counted(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(
        pseudo_labels, "judge", lambda written, texts, known: [LOOP, GOOD, GOOD, EMPTY] * (len(written) // 4)
    )
    made = written_to(tmp_path, teacher, rows(16))
    assert made.places == [1, 2, 5, 6, 9, 10, 13, 14]
    assert json.loads((tmp_path / lessons.SAID).read_text()) == {REASONS[GOOD]: 8, REASONS[EMPTY]: 4, REASONS[LOOP]: 4}
    assert made[3]["decoder_input_ids"][0, 0] == START


def test_a_teacher_that_knows_too_little_is_refused(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(pseudo_labels, "judge", lambda written, texts, known: [UNLIKELY] * len(written))
    with pytest.raises(DataError, match="of 16 recordings the teacher's text of 0 can be trusted: 16 unlikely"):
        written_to(tmp_path, teacher, rows(16))


def test_the_limit_on_disk_is_held_before_all_is_written(teacher, tmp_path, trusting, monkeypatch):
    monkeypatch.setattr(lessons, "_SHARD_ROWS", 16)
    with pytest.raises(UsageError, match=r"takes .* MiB on disk or more, above 0.01") as error:
        write_lessons(heard(teacher), rows(64), tmp_path, states=True, limit_mib=0.01, progress=NullProgress())
    assert "--cache-mib" in error.value.fix
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1


def test_rows_longer_than_the_window_are_cut_and_lose_their_texts(tmp_path, monkeypatch):
    from conftest import call_here

    from edgekd.data.audio import read_audio
    from edgekd.security import child
    from edgekd.store.store import Store

    monkeypatch.setattr(child, "call", call_here)
    for name, seconds in (("a", 2.5), ("b", 0.5)):
        (tmp_path / "clips").mkdir(exist_ok=True)
        (tmp_path / "clips" / f"{name}.txt").write_text(name)
        from audio_files import save

        save(tmp_path / "clips" / f"{name}.wav", voice(seconds))
    table = read_audio(str(tmp_path / "clips"), store=Store(tmp_path / "store"))["all"]
    found = lessons.pieces([Example(row["audio"], row["transcript"]) for row in table], 1)
    assert [row.label for row in found][-1] == "b"
    assert all(row.label is None for row in found[:-1])
    assert sum(row.input.count for row in found) == 3 * 16_000
    assert all(row.input.seconds <= 1 for row in found)


def test_a_decoder_learns_what_its_teacher_writes_and_its_encoder_stays(teacher, tmp_path, trusting):
    made = written_to(tmp_path, teacher, rows(24))
    student = whisper(1, seed=1)
    student.model.encoder.load_state_dict(teacher.model.encoder.state_dict())
    before = [parameter.clone() for parameter in student.model.encoder.parameters()]
    terms = (LossTerm("response", 0.8, {"temperature": 1.0}), LossTerm("hard_labels", 0.2, {}))
    learner = Learner(Listener(student, encoder_learns=False), terms, made.targets)
    every = list(range(len(made)))

    def loss():
        from edgekd.training import batches

        with torch.no_grad():
            return float(learner(batches.padded(made, every, 0, torch.device("cpu")), every))

    engine.prepare(0, 1)
    first = loss()
    engine.fit(learner, made, Training(epochs=8, batch_size=8, learning_rate=3e-3), seed=0, progress=NullProgress())
    assert loss() < 0.6 * first
    assert all(torch.equal(*both) for both in zip(before, student.model.encoder.parameters(), strict=True))
