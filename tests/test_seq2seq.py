"""The program that turns audio into text, and the graphs that it runs: held against transformers and torch."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import profile
from tiny_whisper import IDS, babble, save_whisper

from edgekd.core import external
from edgekd.core.model import Model
from edgekd.core.registry import make, plugin
from edgekd.exporters._whisper_settings import settings
from edgekd.exporters.whisper import shape_of
from edgekd.onboard import decoding, seq2seq, voice
from edgekd.onboard.logmel import log_mel
from edgekd.onboard.programs import open_program
from edgekd.onboard.runner import open_session
from edgekd.quantizers.dynamic_int8 import DynamicInt8
from edgekd.quantizers.weight_int8 import WeightInt8

RATE = 16_000


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whisper(tmp_path_factory.mktemp("whisper") / "teacher")


@pytest.fixture(scope="session")
def network(teacher: Path) -> Any:
    return _load(teacher)


@pytest.fixture(scope="session")
def exported(network: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return _export(network, tmp_path_factory.mktemp("exported"))


def _load(folder: Path) -> Any:
    from transformers import WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    model.processor_folder = folder
    return model


def _export(network: Any, out: Path) -> dict[str, Path]:
    from edgekd.exporters import _whisper_graph as graphs
    from edgekd.exporters._onnx import finish

    weights = {name: value.detach().numpy() for name, value in network.state_dict().items()}
    shape = shape_of(network.config.to_dict())
    made = {seq2seq.ENCODER: graphs.encoder(weights, shape), seq2seq.DECODER: graphs.decoder(weights, shape)}
    told = made[seq2seq.DECODER].metadata_props.add()
    told.key = seq2seq.SETTINGS
    told.value = json.dumps(settings(network.processor_folder, network.config.to_dict()))
    return {name: finish(graph, out / f"{name}.onnx", profile()) for name, graph in made.items()}


def _open(files: dict[str, Path]) -> Any:
    return open_program("seq2seq", {name: open_session(str(file), 1) for name, file in files.items()})


def _hear(program: Any, audio: np.ndarray) -> dict[str, Any]:
    return program.named(program.run(None, program.feed({"audio": audio})))


# ---- the spectrogram


@pytest.mark.parametrize("samples", [0, 1, 150, 400, 16_000, 31_600, 32_000, 40_000])
@pytest.mark.parametrize("mels", [80, 128])
def test_the_spectrogram_is_that_of_transformers(samples: int, mels: int):
    from transformers import WhisperFeatureExtractor

    audio = np.random.default_rng(samples).normal(0, 0.1, samples).astype(np.float32)
    extractor = WhisperFeatureExtractor(feature_size=mels, chunk_length=2)
    given = audio if samples else np.zeros(1, np.float32)  # transformers takes no empty audio
    wanted = extractor(given, sampling_rate=RATE, return_tensors="np").input_features[0]
    assert np.abs(log_mel(audio, mels, 200) - wanted).max() < 1e-4


# ---- voice activity


def _noises() -> dict[str, np.ndarray]:
    random, time = np.random.default_rng(3), np.arange(2 * RATE) / RATE
    white = random.standard_normal(len(time))
    spectrum = np.fft.rfft(white) / np.sqrt(np.maximum(1, np.arange(len(time) // 2 + 1)))
    pink = np.fft.irfft(spectrum, len(time))
    return {
        "silence": np.zeros(len(time)),
        "one bit": random.integers(-1, 2, len(time)) / 32768,
        "white": 0.05 * white,
        "loud white": (0.5 * white).clip(-1, 1),
        "pink": 0.1 * pink / pink.std(),
        "hum": sum(0.1 * np.sin(2 * np.pi * 50 * one * time) / one for one in range(1, 8)),
        "tone": 0.3 * np.sin(2 * np.pi * 1000 * time),
        "nothing": np.zeros(0),
        "an instant": 0.1 * white[:100],
    }


@pytest.mark.parametrize("name", _noises())
def test_silence_hum_and_noise_are_no_voice(name: str):
    assert not voice.has_voice(_noises()[name].astype(np.float32))


@pytest.mark.parametrize("loudness", [1.0, 0.1, 0.01])
def test_what_changes_as_syllables_do_may_be_a_voice_however_quiet(loudness: float):
    audio = babble(2)
    assert voice.has_voice(audio * np.float32(loudness))
    noise = np.random.default_rng(0).normal(0, audio.std() * 0.3, len(audio)).astype(np.float32)
    assert voice.has_voice((audio + noise) * np.float32(loudness))


def test_a_long_audio_is_cut_where_it_is_quiet_and_nothing_of_it_is_lost():
    audio = np.random.default_rng(0).normal(0, 0.1, 100_000).astype(np.float32)
    audio[25_600:28_800] = 0
    found = list(voice.windows(audio, 32_000))
    assert found[0] == (0, 27_200)
    assert [begin for begin, _ in found[1:]] == [end for _, end in found[:-1]]
    assert found[-1][1] == len(audio)
    assert all(0 < end - begin <= 32_000 for begin, end in found)


# ---- the graphs


def test_the_graphs_say_what_torch_says(network: Any, exported: dict[str, Path]):
    by_torch = open_program("seq2seq", make("exporters", "whisper").sessions(network))
    program = _open(exported)
    for seed in range(4):
        own, other = (_hear(one, babble(1.5, seed)) for one in (program, by_torch))
        assert own["tokens"].tolist() == other["tokens"].tolist()
        assert np.abs(own["scores"] - other["scores"]).max() < 1e-3
        assert own["text"].tobytes() == other["text"].tobytes()


@pytest.mark.parametrize("multilingual", [True, False])
def test_the_tokens_are_those_that_transformers_generates(multilingual: bool, tmp_path: Path):
    import torch
    from transformers import WhisperFeatureExtractor

    network = _load(save_whisper(tmp_path / "teacher", multilingual=multilingual, seed=5))
    program = _open(_export(network, tmp_path))
    program._voice = {**program._voice, "has_voice": lambda _: True}
    extractor = WhisperFeatureExtractor(feature_size=8, chunk_length=2)
    same = 0
    for seed in range(8):
        audio = babble(1.5, seed)
        features = extractor(audio, sampling_rate=RATE, return_tensors="pt").input_features
        with torch.no_grad():
            wanted = network.generate(features, **({"task": "transcribe"} if multilingual else {}))[0].tolist()
        wanted = [one for one in wanted if one not in (program.settings["end"], *program.settings["prompt"])]
        wanted = [one for one in wanted if one not in program.settings["languages"].values()]
        heard = _hear(program, audio)
        if heard["ended"][0] == seq2seq.LOOP:  # transformers goes on in circles
            assert wanted[: len(heard["tokens"])] == heard["tokens"].tolist()
        elif heard["ended"][0] != seq2seq.NO_SPEECH:
            same += 1
            assert heard["tokens"].tolist() == wanted
    assert same


def test_a_weight_stands_in_the_files_once(network: Any, exported: dict[str, Path]):
    parameters = sum(value.numel() for value in network.parameters())
    written = sum(
        np.prod(one.dims) for file in exported.values() for one in onnx.load(file).graph.initializer if one.dims
    )
    assert written < parameters + 200


def test_the_cache_needs_no_encoder_states_again(exported: dict[str, Path]):
    session = open_session(str(exported[seq2seq.DECODER]), 1)
    decoder = decoding.Decoder(session)
    states = np.random.default_rng(0).normal(size=(1, 100, 16)).astype(np.float32)
    decoder.start(states)
    first = decoder.step(np.array([[5, 6, 7, 8]]))
    decoder.start(states)
    decoder.step(np.array([[5, 6]]))
    decoder._feed["encoder_hidden_states"] = np.zeros_like(states)
    again = decoder.step(np.array([[7, 8]]))
    assert np.abs(again - first[:, 2:]).max() < 1e-4


def test_a_decoder_without_settings_is_refused_in_words(exported: dict[str, Path], tmp_path: Path):
    bare = onnx.load(exported[seq2seq.DECODER])
    del bare.metadata_props[:]
    onnx.save(bare, tmp_path / "bare.onnx")
    with pytest.raises(ValueError, match="says nothing of prompts"):
        _open({seq2seq.ENCODER: exported[seq2seq.ENCODER], seq2seq.DECODER: tmp_path / "bare.onnx"})


# ---- recipes reach every matrix, those inside the If too, and tied weights stay one


@pytest.mark.parametrize("recipe", [DynamicInt8(), WeightInt8(block_size=16)], ids=lambda one: type(one).__name__)
def test_a_recipe_reaches_all_matrices_and_keeps_one_table(recipe: Any, exported: dict[str, Path], tmp_path: Path):
    model = Model(dict(exported), "seq2seq")
    made, stays = model.changed(tmp_path, lambda _, file, out: recipe.quantize(file, out, []), suffix="_quantized")
    assert not stays
    decoder = onnx.load(made.graphs[seq2seq.DECODER])
    kinds = Counter(node.op_type for node in external.nodes(decoder))
    left = [node for node in external.nodes(decoder) if node.op_type in ("MatMul", "Gemm")]
    constants = {one.name for one in decoder.graph.initializer}
    assert not [node.name for node in left if set(node.input) & constants], "of a constant matrix none is in float"
    assert kinds["MatMulInteger"] + kinds["MatMulNBits"] == 2 * 10 + 1
    table = 266 * 16
    large = [one for one in decoder.graph.initializer if np.prod(one.dims) >= table]
    assert [one.data_type for one in large] in ([onnx.TensorProto.INT8], [onnx.TensorProto.UINT8])
    assert not [node.name for node in decoder.graph.node if "encoder_hidden_states" in node.input], "once a recording"
    own, plain = _open(dict(made.graphs)), _open(exported)
    closeness = [_closeness(own, plain, babble(1.5, seed)) for seed in range(3)]
    assert min(closeness) > 0.97


def _closeness(own: Any, plain: Any, audio: np.ndarray) -> float:
    """The cosine of the scores behind the prompt."""
    scores = []
    for program in (own, plain):
        features = log_mel(audio, 8, 200)[None]
        [states] = program._encoder.run(None, {"input_features": features})
        scores.append(program._prompted(states)[0])
    one, other = scores
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_a_projection_that_stays_in_float_shares_its_table_again(exported: dict[str, Path], tmp_path: Path):
    out = tmp_path / "decoder.onnx"
    DynamicInt8().quantize(exported[seq2seq.DECODER], out, [], keep=("proj_out",))
    made = onnx.load(out)
    large = [one for one in made.graph.initializer if np.prod(one.dims) >= 266 * 16]
    assert [one.data_type for one in large] == [onnx.TensorProto.FLOAT]
    assert _closeness(_open({**exported, seq2seq.DECODER: out}), _open(exported), babble(1.5)) > 0.97


def test_static_int8_leaves_a_decoder_with_branches_as_it_is_and_reaches_the_encoder(
    exported: dict[str, Path], tmp_path: Path
):
    from edgekd.core.graph_inputs import GraphInputs
    from edgekd.quantizers.static_int8 import StaticInt8

    model = Model(dict(exported), "seq2seq")
    rows = GraphInputs(model, [{"audio": babble(1.5, seed)} for seed in range(2)])
    made, stays = model.changed(
        tmp_path, lambda graph, file, out: StaticInt8().quantize(file, out, rows.of(graph)), suffix="_quantized"
    )
    assert list(stays) == [seq2seq.DECODER]
    assert "branches" in stays[seq2seq.DECODER]
    assert _closeness(_open(dict(made.graphs)), _open(exported), babble(1.5)) > 0.9


# ---- decoding


class _Script:
    """A decoder that gives the scores of a table by the last token, whatever came before."""

    def __init__(self, table: np.ndarray) -> None:
        self.table = table

    def step(self, tokens: np.ndarray) -> np.ndarray:
        return self.table[tokens]

    def choose(self, beams: np.ndarray) -> None:
        pass


def test_beams_find_what_greedy_steps_miss():
    table = np.full((4, 4), -9.0, np.float32)  # 0 ends; 1 looks best at first, 2 is best in the end
    first = np.array([-9.0, 1.0, 0.8, -9.0], np.float32)
    table[1] = [0.0, -9.0, -9.0, 0.0]
    table[2] = [6.0, -9.0, -9.0, -9.0]
    table[3] = [6.0, -9.0, -9.0, -9.0]
    rules = decoding.Rules(4, [], [])
    greedy = decoding.greedy(_Script(table), first, rules, end=0, most=8, score=True)
    beams = decoding.beam_search(_Script(table), first, rules, end=0, most=8, beams=2)
    assert greedy[0] == [1]
    assert beams[0] == [2]
    assert beams[1] > greedy[1]


@pytest.mark.parametrize("phrase", [[7], [1, 2, 3], list(range(20))])
def test_a_loop_ends_at_once_and_stands_there_once(phrase: list[int]):
    table = np.full((32, 32), -9.0, np.float32)
    for here, there in zip(phrase, [*phrase[1:], phrase[0]], strict=True):
        table[here, there] = 5.0
    first = np.full(32, -9.0, np.float32)
    first[phrase[0]] = 1.0
    rules = decoding.Rules(32, [], [])
    tokens, _, looped = decoding.greedy(_Script(table), first, rules, end=31, most=400)
    assert looped
    assert tokens == phrase
    tokens, _, looped = decoding.beam_search(_Script(table), first, rules, end=31, most=400, beams=2)
    assert looped
    assert tokens == phrase


def test_what_people_say_again_is_no_loop():
    assert not decoding.loop([4, 4, 4])
    assert not decoding.loop([1, 2, 1, 2, 1, 2])
    assert not decoding.loop([])


def test_suppressed_tokens_never_come_and_others_not_at_first():
    rules = decoding.Rules(4, [1], [2, -1])
    assert np.isinf(rules(np.zeros(4), first=True)).tolist() == [False, True, True, False]
    assert np.isinf(rules(np.zeros(4), first=False)).tolist() == [False, True, False, False]


# ---- the program's answers


def test_silence_and_noise_give_no_text_and_say_why(exported: dict[str, Path]):
    program = _open(exported)
    for audio in _noises().values():
        heard = _hear(program, audio.astype(np.float32))
        assert not len(heard["tokens"])
        assert not len(heard["text"])
        assert heard["ended"].tolist() == [seq2seq.SILENT]


def test_what_is_likely_no_speech_and_unlikely_text_is_left_out(exported: dict[str, Path]):
    program = _open(exported)
    program._prompted = lambda _: (np.zeros(266, np.float32), 0.9, 4)
    program._decoder.start(np.zeros((1, 100, 16), np.float32))
    heard = _hear(program, babble(1.5))
    assert not len(heard["tokens"])
    assert heard["ended"].tolist() == [seq2seq.NO_SPEECH]


def test_a_long_recording_is_heard_window_by_window(exported: dict[str, Path]):
    program = _open(exported)
    long = np.concatenate([babble(1.4, 1), np.zeros(RATE // 2, np.float32), babble(1.4, 2)])
    heard = _hear(program, long)
    assert len(heard["ended"]) == len(heard["scores"]) == 2
    streamed = list(program.stream(long[at : at + 1000] for at in range(0, len(long), 1000)))
    assert [end for _, end, _ in streamed][-1] == pytest.approx(len(long) / RATE)
    assert len(streamed) == 2


@pytest.mark.parametrize("sample", [{}, {"audio": np.zeros((2, 5))}, {"input_ids": np.zeros(5)}])
def test_what_is_no_audio_is_refused_in_words(sample: dict[str, Any], exported: dict[str, Path]):
    with pytest.raises(ValueError, match="audio"):
        _open(exported).feed(sample)


def test_the_settings_are_those_of_the_folder(teacher: Path):
    told = settings(teacher, json.loads((teacher / "config.json").read_text()))
    assert told["prompt"] == [IDS["<|startoftranscript|>"], IDS["<|transcribe|>"], IDS["<|notimestamps|>"]]
    assert told["no_speech"] == IDS["<|nospeech|>"]
    assert set(told["languages"]) == {"<|en|>", "<|de|>"}
    assert (told["frames"], told["mels"], told["end"]) == (200, 8, IDS["<|endoftext|>"])


def test_a_language_that_is_given_is_not_guessed(teacher: Path, tmp_path: Path):
    import shutil

    own = shutil.copytree(teacher, tmp_path / "own")
    file = own / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"language": "de", "task": "translate"}))
    told = settings(own, json.loads((own / "config.json").read_text()))
    _start, *rest = told["prompt"]
    assert rest == [IDS["<|de|>"], IDS["<|translate|>"], IDS["<|notimestamps|>"]]


def test_graph_inputs_keep_what_the_program_feeds_each_graph(exported: dict[str, Path]):
    from edgekd.core.graph_inputs import GraphInputs

    inputs = GraphInputs(Model(dict(exported), "seq2seq"), [{"audio": babble(1.5, seed)} for seed in range(2)])
    assert [set(one) for one in inputs.of(seq2seq.ENCODER)] == [{"input_features"}] * 2
    assert inputs.of(seq2seq.DECODER)[0]["use_cache_branch"].tolist() == [False]
    assert plugin("exporters", "whisper").least_opset == 17
