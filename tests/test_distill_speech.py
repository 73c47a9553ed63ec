"""`edgekd distill` of speech: recordings without transcripts in, a smaller Whisper out that build takes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from audio_files import save
from conftest import call_here, invoke
from tiny_whisper import IDS, babble, save_whisper

from edgekd.plan.inputs import read_teacher
from edgekd.security import child
from edgekd.training.speech import pseudo_labels
from edgekd.training.speech.distil import UNTAUGHT, figures

TASK = "automatic-speech-recognition"


def ends(folder, *, after=9):
    """Let a random teacher end each text after some tokens, as one that was trained does."""
    import torch
    from transformers import WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration.from_pretrained(folder)
    kept = {file.name: file.read_bytes() for file in folder.glob("*.json")}
    end = IDS["<|endoftext|>"]
    with torch.no_grad():
        table = model.model.decoder.embed_tokens.weight
        table.mul_(2.0)
        table[end] = 3 * torch.randn(16, generator=torch.Generator().manual_seed(3))
        model.model.decoder.embed_positions.weight[after:] = 8 * table[end]
    model.save_pretrained(folder)
    for name, content in kept.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    place = tmp_path_factory.mktemp("speech")
    ends(save_whisper(place / "teacher", seconds=12))
    for row in range(52):
        part = "train" if row < 40 else "test"
        file = save(place / "clips" / part / f"{row:03d}.wav", babble(0.8 + 0.1 * (row % 5), row))
        if part == "test":
            file.with_suffix(".txt").write_text(f"word {row}")
    return place


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """What decodes in a process of its own does so in this one."""
    monkeypatch.setattr(child, "call", call_here)


@pytest.fixture
def trusting(monkeypatch):
    """Texts of random weights are unlikely: all are taken."""
    monkeypatch.setattr(pseudo_labels, "LEAST_LOG_PROBABILITY", -99.0)
    monkeypatch.setattr(pseudo_labels, "has_loop", lambda text: False)


def asked(given, out, *more, teacher="teacher"):
    usual = ("distill", "--task", TASK, "--teacher", given / teacher, "--data", given / "clips", "--out", out)
    return invoke(
        *usual, "--layers", "1", "--epochs", "2", "--threads", "1", *more, env={"EDGEKD_STORE": str(given / "store")}
    )


def test_a_student_is_written_that_the_teachers_plug_in_takes(given, trusting):
    done = asked(given, given / "small")
    assert done.returncode == 0, done.stderr
    assert "2 of 2 encoder layers, 1 of 2 decoder layers, 10 of 12 s heard at once" in done.stdout
    assert "12 held-out recordings: too few for a claim, a smoke test" in done.stdout
    assert f"edgekd build --task {TASK} --student none --teacher" in done.stdout
    told = json.loads((given / "small" / "distillation.json").read_text())
    assert set(told["arms"]) == {"teacher", "distilled", UNTAUGHT}
    assert told["training"]["lessons"] == told["lessons"]["train"]["kept"] == told["rows"]["unlabelled"]
    assert told["arms"]["teacher"]["word_error_rate"]["value"] > 0
    assert sum(told["parameters"]["student"].values()) < sum(told["parameters"]["teacher"].values())
    kind, info = read_teacher(str(given / "small"), TASK, compressed=True)
    assert kind == "whisper"
    assert info["architecture"]["shape"]["decoder_layers"] == 1
    assert info["architecture"]["shape"]["window_s"] == 10
    assert json.loads((given / "small" / "preprocessor_config.json").read_text())["chunk_length"] == 10


def test_what_the_teacher_heard_is_kept_for_another_student(given, trusting, monkeypatch):
    done = asked(given, given / "again", "--learning-rate", "1e-5")
    assert done.returncode == 0, done.stderr
    told = [json.loads((given / name / "distillation.json").read_text()) for name in ("small", "again")]
    assert told[0]["lessons"] == told[1]["lessons"]
    assert told[0]["arms"][UNTAUGHT] == told[1]["arms"][UNTAUGHT]
    assert len(list((given / "store").glob("**/lessons*"))) <= 1


def test_an_encoder_of_fewer_layers_learns_too(given, trusting):
    import torch
    from safetensors.torch import load_file

    done = asked(given, given / "shallow", "--encoder-layers", "1", "--epochs", "1")
    assert done.returncode == 0, done.stderr
    own, whole = (load_file(given / name / "model.safetensors") for name in ("shallow", "teacher"))
    name = "model.encoder.layers.0.fc1.weight"
    assert not torch.equal(own[name], whole[name])
    kept = load_file(given / "small" / "model.safetensors")
    assert torch.equal(kept[name], whole[name])


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--layers", "3"), "--layers 3: the teacher has 2"),
        (("--encoder-layers", "3"), "--encoder-layers 3: the teacher has 2"),
        (("--window", "5"), "repeats itself"),
        (("--window", "30"), "hears 12 s at once"),
        (("--loss", "hidden_states=1"), "looks at more than the teacher's tokens"),
        (("--vocabulary", "300"), "--vocabulary means nothing to automatic-speech-recognition"),
        (("--task", "text-classification"), "makes no student for the task 'text-classification'"),
        (("--task", "text-generation", "--window", "10"), "--window means nothing to text-generation"),
    ],
)
def test_what_is_refused_leaves_nothing(given, tmp_path, more, says):
    done = asked(given, tmp_path / "out", *more)
    assert done.returncode == 2, done.stdout + done.stderr
    assert says in done.stderr
    assert "fix:" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_teacher_that_cannot_be_trusted_is_refused(given, tmp_path, monkeypatch):
    monkeypatch.setattr(pseudo_labels, "LEAST_LOG_PROBABILITY", 0.0)
    done = asked(given, tmp_path / "out", "--window", "12")
    assert done.returncode != 0
    assert "can be trusted" in done.stderr
    assert "give a teacher of the recordings' language" in done.stderr


def test_figures_are_paired_by_recording_and_count_loops():
    said = [f"word {number} is said here" for number in range(20)]
    worse = ["" if number % 4 == 0 else "no " * 9 if number % 4 == 1 else text for number, text in enumerate(said)]
    told = figures({"teacher": said, "distilled": worse}, said)
    own = told["arms"]["distilled"]
    assert (own["loops"], own["empty"]) == (5, 5)
    assert told["arms"]["teacher"]["word_error_rate"]["value"] == 0
    low, high = own["points_lost"]["interval"]
    assert 0 < low < own["points_lost"]["value"] < high
    assert told["smoke_test"]
    assert "word_error_rate" not in figures({"teacher": said, "distilled": worse}, None)["arms"]["distilled"]
    assert np.isclose(own["word_agreement"]["value"], 10 / 20, atol=0.02)
