"""Language models planned from a config alone: exact parameters, memory, speed, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgekd.core.errors import TeacherError
from edgekd.hardware.profile import load_profile
from edgekd.sizing import on_paper
from edgekd.sizing.language import GIB, Language, of_config, read_config
from tests.conftest import invoke

LLAMA = {"model_type": "llama", "vocab_size": 128_256, "max_position_embeddings": 131_072, "num_key_value_heads": 8}


def llama(hidden: int, layers: int, heads: int, wide: int, *, tied: bool = False) -> dict[str, Any]:
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    return LLAMA | sizes | {"intermediate_size": wide, "tie_word_embeddings": tied}


ONE_B = llama(2048, 16, 32, 8192, tied=True) | {"head_dim": 64}
THREE_B = llama(3072, 28, 24, 8192, tied=True) | {"head_dim": 128}
EIGHT_B, SEVENTY_B = llama(4096, 32, 32, 14_336), llama(8192, 80, 64, 28_672)
FAMILY = {
    "1B": (ONE_B, 1_235_814_400, (2.30, 1.22, 0.67), 0.25),
    "3B": (THREE_B, 3_212_749_824, (5.98, 3.18, 1.73), 0.88),
    "8B": (EIGHT_B, 8_030_261_248, (14.96, 7.95, 4.32), 1.0),
    "70B": (SEVENTY_B, 70_553_706_496, (131.4, 69.8, 38.0), 2.5),
}


@pytest.mark.parametrize("size", FAMILY)
def test_parameters_weights_and_cache_of_the_llama_3_family(size: str) -> None:
    config, parameters, weights, cache = FAMILY[size]
    model = of_config(config, size)
    assert model.parameters == parameters
    assert [model.weights_bytes(bits) / GIB for bits in (16, 8, 4)] == pytest.approx(weights, rel=0.01)
    assert model.cache_bytes(8192) / GIB == pytest.approx(cache, rel=0.01)


SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40}
SMALL |= {"vocab_size": 90, "max_position_embeddings": 64}
SHAPES = [
    {"model_type": "llama"},
    {"model_type": "llama", "num_key_value_heads": 1, "tie_word_embeddings": True, "head_dim": 6},
    {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    {"model_type": "mistral", "num_key_value_heads": 2, "sliding_window": None},
    {"model_type": "qwen2", "num_key_value_heads": 2, "use_sliding_window": False, "sliding_window": 32},
    {"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 8, "attention_bias": True},
    {"model_type": "granite", "num_key_value_heads": 4, "attention_bias": True},
    {"model_type": "gemma", "num_key_value_heads": 1, "head_dim": 8},
]


@pytest.mark.parametrize("values", SHAPES, ids=lambda values: "-".join(map(str, values.values())))
def test_parameters_are_those_of_transformers(values: dict[str, Any]) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**SMALL | values)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    real = sum(one.numel() for one in model.parameters())
    assert of_config(json.loads(config.to_json_string(use_diff=False)), "here").parameters == real
    assert of_config(SMALL | values, "here").parameters == real, "what a config leaves out is the type's default"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": "mistral", "sliding_window": 4096}, "sliding window of 4096"),
        ({"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": True}, "sliding window"),
        ({"model_type": "gemma3_text", "layer_types": ["sliding_attention", "full_attention"]}, "sliding_attention"),
        ({"model_type": "deepseek_v3", "kv_lora_rank": 512}, "MLA"),
        ({"model_type": "mamba", "state_size": 16}, "state space"),
        ({"model_type": "llama4_text", "attention_chunk_size": 8192}, "chunks"),
        ({"model_type": "mixtral", "num_local_experts": 8}, "experts"),
        ({"model_type": "rwkv"}, "not known on paper"),
        ({"model_type": None}, "not known on paper"),
        ({"model_type": ["llama"]}, "not known on paper"),
        ({"model_type": "llama", "hidden_size": -1}, "hidden_size is -1"),
        ({"model_type": "llama", "vocab_size": 1e4}, "vocab_size is 10000.0"),
        ({"model_type": "llama", "num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"model_type": "llama", "num_attention_heads": 3, "head_dim": None}, "contradicts itself"),
        ({"model_type": "llama", "num_key_value_heads": 3}, "contradicts itself"),
        ({"model_type": "llama", "intermediate_size": None}, "intermediate_size is None"),
        ({"model_type": "llama", "tie_word_embeddings": "false"}, "tie_word_embeddings is 'false', neither true nor"),
        ({"model_type": "llama", "mlp_bias": 1}, "mlp_bias is 1, neither true nor false"),
        ({"model_type": "llama", "quantization_config": {"quant_method": "fp8"}}, "is of quantized weights"),
    ],
)
def test_what_is_not_modelled_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(TeacherError, match=words) as caught:
        of_config(SMALL | values, "config.json")
    assert caught.value.fix


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000])
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, content: str) -> None:
    place = tmp_path / "config.json"
    place.write_text(content)
    with pytest.raises(TeacherError, match="cannot read"):
        read_config(place)
    with pytest.raises(TeacherError, match="no such file"):
        read_config(tmp_path / "other.json")


@pytest.mark.parametrize("layers", [1, 7, 2_000_000_000])
def test_the_most_layers_are_found_at_once(layers: int) -> None:
    model = of_config(SMALL | {"model_type": "llama", "num_hidden_layers": layers}, "deep")
    for count in {1, (layers + 1) // 2, layers}:
        room = on_paper.peak(model.cut(count), 4, 64, 1).total
        assert on_paper._most_layers(model, 4, 64, 1, room) == count
        assert on_paper._most_layers(model, 4, 64, 1, room - 1) == count - 1


def test_the_longest_context_is_the_longest() -> None:
    model = of_config(EIGHT_B, "8B")
    for copies in (1, 2):
        for gb in (6, 8, 16):
            room = gb * 1e9
            found = on_paper.longest_context(model, 4, room, copies)
            assert 0 < found < model.context
            assert on_paper.peak(model, 4, found, copies).total <= room
            assert on_paper.peak(model, 4, found + 256, copies).total > room
    assert on_paper.longest_context(model, 16, 8e9, 1) == 0
    assert on_paper.longest_context(model, 4, 1e12, 1) == model.context
    short = of_config(EIGHT_B | {"max_position_embeddings": 100}, "short")
    assert on_paper.longest_context(short, 4, 1e12, 1) == 100


def test_what_fits_falls_with_bits_and_grows_with_memory() -> None:
    made = on_paper.plan_on_paper(of_config(THREE_B, "3B"), load_profile("rpi5"), 2048)
    for by_bits in made.fits.values():
        assert by_bits[16] <= by_bits[8] <= by_bits[4]
    for bits in (16, 8, 4):
        column = [made.fits[gb][bits] for gb in on_paper.MEMORIES_GB]
        assert column == sorted(column)
    assert made.fits[2][4] == 0 < made.fits[4][4], "1.73 GiB of weights and 0.11 MiB a token and copy"


def test_speed_is_bound_by_memory_or_by_arithmetic() -> None:
    model, rpi5, jetson = of_config(EIGHT_B, "8B"), load_profile("rpi5"), load_profile("jetson-orin-nano")
    on_gpu = on_paper.speed(model, jetson, 4, 2048)
    bytes_a_token = model.multiplied * 4.625 / 8 + model.cache_bytes(2048)
    assert on_gpu.high == pytest.approx(0.8 * 68e9 / bytes_a_token)
    on_cpu = on_paper.speed(model, rpi5, 4, 2048)
    assert on_cpu.high is not None
    assert on_gpu.high is not None
    assert 0.1 < on_cpu.low < on_cpu.high < on_gpu.high
    assert on_paper.speed(model, rpi5, 4, 32_768).high < on_cpu.high
    unknown = rpi5.model_copy(update={"memory_bandwidth_gb_s": None})
    assert on_paper.speed(model, unknown, 4, 2048).low is None


def test_distilling_70b_takes_several_gpus_and_less_with_adapters() -> None:
    made = on_paper.plan_on_paper(of_config(SEVENTY_B, "70B"), load_profile("jetson-orin-nano"), 2048)
    by_gpu = {(one.gpu, one.tokens): one for one in made.distilling}
    one = by_gpu["H100 80GB", 1_000_000_000]
    assert one.teacher_gpus == 3, "141 GB of weights, 68 GB of each card"
    assert one.lora_gpus < one.student_gpus
    assert one.cache_gb == 256
    forward = 2 * made.teacher.multiplied * 1e9
    training = 6 * made.student.multiplied * 1e9
    assert one.hours[0] == pytest.approx((forward / 0.6 + training / 0.5) / 989e12 / 3600)
    assert by_gpu["L4 24GB", 1_000_000_000].hours[0] > 8 * one.hours[0] * 0.99
    assert made.student.parameters < 0.55 * made.teacher.parameters


def test_more_memory_lets_more_layers_in() -> None:
    model = of_config(EIGHT_B, "8B")
    small = on_paper.plan_on_paper(model, load_profile("rpi5", budgets={"memory_mib": 3000.0}), 2048)
    assert 0 < small.within_budget[4] < 32
    assert small.within_budget[16] < small.within_budget[8] < small.within_budget[4]
    assert small.student.layers == min(16, small.within_budget[4])
    assert on_paper.plan_on_paper(model, load_profile("rpi5"), 2048).within_budget == {16: 0, 8: 0, 4: 0}


def config_file(folder: Path, values: dict[str, Any]) -> str:
    place = folder / "llama.json"
    place.write_text(json.dumps(values))
    return str(place)


def test_the_command_answers_and_its_fix_for_memory_works(tmp_path: Path) -> None:
    where = config_file(tmp_path, EIGHT_B)
    words = ["plan", "--task", "text-generation", "--teacher", where, "--target", "rpi5"]
    result = invoke(*words)
    assert result.returncode == 0, result.stderr
    for piece in (
        "8,030,261,248 parameters",
        "4     4.32",
        "none is measured",
        "not even one layer",
        "16 of 32 layers",
    ):
        assert piece in result.stdout
    asked = result.stdout.partition("--memory-mib ")[2].split()[0]
    again = invoke(*words, "--memory-mib", asked)
    assert "4 bits: the whole model" in again.stdout
    told = json.loads(invoke(*words, "--json").stdout)["targets"]["rpi5"]
    assert told["parameters"] == 8_030_261_248
    assert told["kind"] == "predicted"
    several = invoke(*words[:-2], "--targets", "rpi5,jetson-orin-nano")
    assert several.stdout.count("parameters, of which") == 2


def test_what_a_config_cannot_answer_is_refused(tmp_path: Path) -> None:
    where = config_file(tmp_path, EIGHT_B)
    words = ["plan", "--task", "text-generation", "--teacher", where, "--target", "rpi5"]
    for more, says in (
        (["--data", "corpus"], "--data"),
        (["--measure"], "--measure"),
        (["--epochs", "3"], "--epochs"),
        (["--max-tokens", "131073"], "context ends at 131072"),
    ):
        result = invoke(*words, *more)
        assert result.returncode == 2
        assert says in result.stderr
    other = invoke("plan", "--task", "image-classification", "--teacher", where, "--target", "rpi5")
    assert other.returncode == 2
    assert "leave --task out" in other.stderr
    assert invoke("plan", "--teacher", where, "--target", "rpi5").returncode == 0, "its fix"


def test_no_torch_is_imported_and_little_time_is_taken(tmp_path: Path) -> None:
    where = config_file(tmp_path, SEVENTY_B)
    code = (
        "import sys, time\n"
        "from edgekd.hardware.profile import load_profile\n"
        "from edgekd.cli import show_paper\n"
        "from edgekd.sizing import on_paper\n"
        "from edgekd.sizing.language import read_config\n"
        "from pathlib import Path\n"
        f"made = on_paper.plan_on_paper(read_config(Path({where!r})), load_profile('rpi5'), 2048)\n"
        "assert '70,553,706,496' in show_paper.paper_plan(made, 'x')\n"
        "assert not {'torch', 'transformers', 'onnx'} & set(sys.modules)\n"
        "assert time.process_time() < 1.5, time.process_time()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_cut_loses_whole_layers() -> None:
    model = of_config(EIGHT_B, "8B")
    assert isinstance(model.cut(20), Language)
    assert model.parameters - model.cut(20).parameters == 12 * model.layer_parameters
