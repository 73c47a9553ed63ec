"""The family `whisper`: its cuts, what they take on paper, and a build that sizes and teaches one."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from audio_files import save
from conftest import call_here, invoke, loose_target
from test_distill_speech import ends
from tiny_whisper import babble, save_whisper

from edgekd.core.protocols import InputSpec
from edgekd.core.registry import make, plugin, protocols_of
from edgekd.hardware.profile import load_profile
from edgekd.inference import predict
from edgekd.security import child
from edgekd.students.whisper import TOKENS, Whisper
from edgekd.training import models
from edgekd.training.speech import pseudo_labels

TASK = "automatic-speech-recognition"
BASE = Whisper(6, 6, 512, 2048, 2048, 51865, 80, 30, 448, 8)
TINY = Whisper(1, 2, 64, 128, 128, 300, 80, 10, 448, 2)


def ladder(longest: int) -> list[Whisper]:
    teacher = {"family": "whisper", "shape": BASE.as_dict()}
    return Whisper.ladder(teacher, InputSpec(longest, (longest,)), classes=0)


def test_the_ladder_begins_with_the_teacher_and_what_hears_goes_last():
    shapes = ladder(28)
    assert shapes[0] == BASE
    assert shapes == sorted(shapes, key=lambda shape: shape.capability, reverse=True)
    assert shapes.index(replace(BASE, decoder_layers=1)) < shapes.index(replace(BASE, encoder_layers=5))
    assert min(shape.decoder_layers for shape in shapes) == 1


@pytest.mark.parametrize(("longest", "windows"), [(3, {10}), (11, {10, 15}), (30, {10, 30})])
def test_the_window_is_as_long_as_the_clips_and_never_below_ten_seconds(longest, windows):
    assert {shape.window_s for shape in ladder(longest)} == windows


def test_a_teacher_of_another_kind_has_no_ladder():
    assert Whisper.ladder({"model_type": "bert"}, InputSpec(3, (3,)), classes=2) == []


def test_weights_on_paper_are_those_of_the_network():
    counted = {name: value.numel() for name, value in TINY.random().named_parameters()}
    assert TINY.work(10).weights == sum(counted.values())


def test_a_random_student_writes_so_many_tokens_whatever_it_hears(tmp_path: Path):
    target = load_profile("rpi5")
    model = make("exporters", "whisper").export(TINY.random(), tmp_path / "model", task=TASK, target=target)
    samples = [TINY.sample(4, np.random.default_rng(seed)) for seed in (0, 1)]
    for outputs in predict.outputs(model, samples, threads=1, keep=plugin("tasks", TASK).keep):
        assert len(outputs["tokens"]) == TOKENS
        assert len(set(outputs["tokens"].tolist())) > TOKENS // 2


@pytest.mark.parametrize("names", [("", ""), ("", "_quantized"), ("_quantized", "_quantized")])
def test_optimum_finds_both_graphs_whatever_was_quantized(given, tmp_path, names):
    """Told the decoder's name it looks for a third file, which no bundle has."""
    source, folder = make("teachers", "whisper"), tmp_path / "bundle"
    info = source.inspect(str(given / "teacher"), TASK)
    folder.mkdir()
    source.files(Path(info["folder"]), info["architecture"], TASK, folder)
    network = models.load(given / "teacher", TASK)
    model = make("exporters", "whisper").export(network, folder / "onnx", task=TASK, target=load_profile("rpi5"))
    for file, more in zip(model.graphs.values(), names, strict=True):
        file.rename(file.with_stem(file.stem + more))
    loader, tokens = make("exporters", "optimum").generate(folder, [babble(1.0, 1)], task=TASK)
    assert loader == "ORTModelForSpeechSeq2Seq"
    assert len(tokens) == 1


def test_a_family_keeps_to_one_of_two_roles():
    assert protocols_of("students", Whisper) == ("Student", "WritingStudent")
    assert protocols_of("students", plugin("students", "transformer")) == ("Student", "TaughtStudent")
    assert protocols_of("students", object) == ("Student", "TaughtStudent")


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    place = tmp_path_factory.mktemp("student")
    ends(save_whisper(place / "teacher", seconds=12, encoder_attention_heads=4))  # optimum knows one number of heads
    for row in range(64):
        part = "train" if row < 40 else "validation" if row < 52 else "test"
        file = save(place / "clips" / part / f"{row:03d}.wav", babble(0.8 + 0.1 * (row % 5), row))
        if part == "test":  # nobody could trust what random weights write about recordings with a text
            file.with_suffix(".txt").write_text(f"word {row}")
    return place


def asked(given, folder, *more):
    usual = ("--task", TASK, "--teacher", given / "teacher", "--data", given / "clips", "--threads", "1")
    target = ("--target", loose_target(folder, recipes=["float32", "dynamic_int8"], latency_ms=5000.0))
    return (*usual, *target, *more)


@pytest.mark.parametrize(
    "more",
    [
        ("--evidence", "2"),
        ("--exit", "1"),
        ("--try", "3"),
        ("--labels", "20"),
        ("--loss", "hidden_states=1"),
        ("--loss", "relational=1"),
    ],
)
def test_what_such_a_student_cannot_have_is_refused_by_plan(given, tmp_path, more):
    done = invoke("plan", *asked(given, tmp_path, *more), env={"EDGEKD_STORE": str(tmp_path / "store")})
    assert done.returncode == 2, done.stdout + done.stderr
    assert "fix: leave it out" in done.stderr


@pytest.mark.slow
def test_a_build_sizes_the_student_and_compares_it_with_the_whole_teacher(given, tmp_path, monkeypatch):
    monkeypatch.setattr(child, "call", call_here)
    monkeypatch.setattr(pseudo_labels, "LEAST_LOG_PROBABILITY", -99.0)
    monkeypatch.setattr(pseudo_labels, "has_loop", lambda text: False)
    more = ("--min-speedup", "0.5", "--min-retained", "0.01", "--epochs", "1", "--out", tmp_path / "bundle", "--json")
    done = invoke("build", *asked(given, tmp_path, *more), env={"EDGEKD_STORE": str(tmp_path / "store")})
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    report = json.loads((tmp_path / "bundle" / "report.json").read_text(encoding="utf-8"))
    assert said["summary"]["metric"] == "word_error_rate"
    assert report["fit"]["chosen"]["kind"] == "measured"
    assert report["fit"]["chosen"]["shape"]["window_s"] == 10
    assert report["training"]["says"].startswith("Cut from its teacher and taught by 0.5 response")
    assert report["roles"]["speed"] == "the teacher"
    assert json.loads((tmp_path / "bundle" / "preprocessor_config.json").read_text())["chunk_length"] == 10
