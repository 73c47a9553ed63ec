"""Speech recognition as a task: recordings in, and a bundle that hears without edgekd."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_whisper import babble, save_whisper, write_recordings

from edgekd.core.errors import DataError, TeacherError
from edgekd.core.registry import make, plugin
from edgekd.onboard import voice
from edgekd.plan.inputs import read_teacher

TASK = "automatic-speech-recognition"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whisper(tmp_path_factory.mktemp("whisper") / "teacher")


@pytest.fixture
def teacher(folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(folder, tmp_path / "teacher")


def _said(*texts: str) -> list[dict[str, Any]]:
    return [{"text": np.frombuffer(text.encode(), np.uint8)} for text in texts]


# ---- the task


def test_errors_are_counted_in_words_and_silence_says_nothing():
    task = make("tasks", TASK)
    rows = task.statistics(_said("And Mr. Smith", "", "naïve"), ["and mister smith", "hello there", "naïve"])
    assert rows[:, :2].tolist() == [[0, 3], [2, 2], [0, 1]]
    assert task.metric.value(rows) == pytest.approx(2 / 6)
    assert not task.metric.higher_is_better
    assert task.agrees(_said("a b c d", ""), _said("a b x d", "")).tolist() == [0.75, 1.0]


def test_golden_inputs_are_nobodys_voice_but_pass_the_gate():
    task = make("tasks", TASK)
    made = task.synthetic([{"audio": babble(1)}], 16, 0)
    assert all(voice.has_voice(one["audio"]) for one in made)
    assert len({one["audio"].tobytes() for one in made}) == 16
    again = task.synthetic([{"audio": babble(1)}], 16, 0)
    assert all((one["audio"] == other["audio"]).all() for one, other in zip(made, again, strict=True))


def test_a_recording_of_a_size_is_a_real_one_repeated():
    task = make("tasks", TASK)
    samples = [{"audio": np.zeros(100, np.float32)}, {"audio": babble(0.5)}]
    made = task.sized(samples, 3)["audio"]
    assert len(made) == 3 * 16_000
    assert (made[:8000] == babble(0.5)).all()


def test_rows_without_texts_are_refused_where_they_are_needed(tmp_path: Path):
    task = make("tasks", TASK)
    source = str(write_recordings(tmp_path / "rows", 3, texts=False))
    [table] = task.read(source).values()
    assert task.columns(table, source, labelled=False) == ("audio", "")
    with pytest.raises(DataError, match="without transcripts"):
        task.columns(table, source)


def test_lengths_are_told_in_seconds(tmp_path: Path):
    task = make("tasks", TASK)
    [table] = task.read(str(write_recordings(tmp_path / "rows", 8))).values()
    rows = task.examples(table, ("audio", "transcript"), "rows")
    spec = task.survey({}, [row.input for row in rows], {}, None)
    assert (spec.max_size, spec.sizes[0]) == (2, 1)
    assert task.encode(Path(), [rows[0].input], 2)[0]["audio"].shape == (int(0.8 * 16_000),)


# ---- the teacher


def test_a_whisper_folder_is_ready_and_told_by_its_sizes(teacher: Path):
    kind, info = read_teacher(str(teacher), TASK, compressed=True)
    assert (kind, info["ready"], info["labels"]) == ("whisper", True, ())
    shape = info["architecture"]["shape"]
    assert shape | {"encoder_layers": 2, "mels": 8, "vocabulary": 266} == shape


def test_other_tasks_keep_their_teachers(teacher: Path):
    assert not plugin("teachers", "whisper").serves(str(teacher), "text-classification")


def _config(**changed: Any) -> Any:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changed))

    return change


def _generation(**changed: Any) -> Any:
    def change(folder: Path) -> None:
        file = folder / "generation_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changed))

    return change


def _without(*names: str) -> Any:
    return lambda folder: [(folder / name).unlink() for name in names]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_config(model_type="bert"), "type 'bert'"),
        (_config(d_model=0), "d_model is 0"),
        (_config(d_model="16"), "d_model is '16'"),
        (_config(encoder_layers=3), "encoder.layers.2.fc1.weight"),
        (_config(decoder_layers=1), "the weights have more"),
        (_config(max_source_positions=1500), "embed_positions"),
        (_config(vocab_size=300), "embed_tokens"),
        (_config(decoder_attention_heads=3), "decoder_attention_heads is 3"),
        (_config(eos_token_id=9999), "eos_token_id is 9999"),
        (_config(scale_embedding=True), "scaled embeddings"),
        (_generation(suppress_tokens=["a"]), "suppress_tokens"),
        (_generation(suppress_tokens=[10**9]), "suppress_tokens"),
        (_generation(lang_to_id={"<|en|>": -5}), "lang_to_id"),
        (_generation(max_length=0), "max_length is 0"),
        (_generation(no_timestamps_token_id=True), "no_timestamps_token_id is True"),
        (_without("vocab.json", "tokenizer.json"), "no tokenizer"),
        (_without("config.json"), "no config.json"),
        (_without("model.safetensors"), "no weights"),
    ],
)
def test_what_is_no_whisper_is_refused_in_words(damage: Any, words: str, teacher: Path):
    damage(teacher)
    with pytest.raises(TeacherError) as refused:
        read_teacher(str(teacher), TASK, compressed=True)
    assert words in refused.value.message
    assert refused.value.fix


def test_the_files_beside_are_those_that_loaders_ask_for(teacher: Path, tmp_path: Path):
    _generation(suppress_tokens=[-1, 5], forced_decoder_ids=[[1, 2]], language="en")(teacher)
    made = tmp_path / "made"
    made.mkdir()
    make("teachers", "whisper").files(teacher, {}, TASK, made)
    assert {"config.json", "generation_config.json", "preprocessor_config.json", "vocab.json", "merges.txt"} <= {
        one.name for one in made.iterdir()
    }
    told = json.loads((made / "generation_config.json").read_text())
    assert told["suppress_tokens"] == [5]
    assert told["language"] == "en"
    assert "forced_decoder_ids" not in told
    from transformers import WhisperFeatureExtractor, WhisperTokenizer

    assert WhisperFeatureExtractor.from_pretrained(made).nb_max_frames == 200
    assert WhisperTokenizer.from_pretrained(made).vocab_size == 256
