"""Target profiles: what is shipped loads, what makes no sense is refused with a way out."""

import pytest
import yaml
from helpers import elsewhere, fast, profile, python
from hypothesis import given
from hypothesis import strategies as st

from edgekd.core.errors import UsageError
from edgekd.core.registry import names
from edgekd.hardware.profile import load_profile, parse_profile, profile_text, target_names, targets_folder

SHIPPED = [name for name in target_names() if name != "local"]
CHECK_KEYS = "correct these keys; `edgekd targets show rpi4 --yaml` prints a profile with every key explained"
START = "`edgekd targets show rpi4 --yaml` prints one to start from"
CANNOT = "cannot read the target profile {path}: "
READABLE = f"give a readable YAML file; {START}"
BUDGETS = {"memory_mib": 1 << 22, "artifact_mib": 1 << 22, "latency_ms": 3_600_000, "cold_start_ms": 3_600_000}


def test_the_promised_profiles_are_shipped():
    promised = {"cpu-avx2", "cpu-vnni", "rpi4", "rpi5", "rpi-zero2w", "jetson-orin-nano", "gpu-t4", "local"}
    assert promised <= set(target_names())


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_profile_is_whole(name):
    found = load_profile(name)
    assert found.name == name
    assert found.as_dict() == yaml.safe_load((targets_folder() / f"{name}.yaml").read_text(encoding="utf-8"))
    assert found.recipes[0] == "float32", "fp32 is what every recipe must beat"
    assert (found.gpu is None) == (found.execution_provider == "CPUExecutionProvider")
    assert found == load_profile(str(targets_folder() / f"{name}.yaml"))


@pytest.mark.parametrize("name", target_names())
def test_the_text_of_a_profile_can_be_edited_and_given_back(name, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(profile_text(name).replace(f"name: {name}", "name: mine"), encoding="utf-8")
    assert load_profile(str(path)).as_dict() == load_profile(name).as_dict() | {"name": "mine"}


def test_a_shipped_text_keeps_its_comments():
    assert profile_text("rpi4").startswith("# A target profile")


def test_a_figure_from_here_counts_only_on_the_targets_architecture():
    assert profile().runs_here
    assert not elsewhere().runs_here
    assert not profile(execution_provider="CUDAExecutionProvider", recipes=["float16"]).runs_here
    assert load_profile("local").runs_here


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"memry_mib": 5.0}, "unknown key 'memry_mib' (did you mean 'memory_mib'?)"),
        ({"shema": 1}, "unknown key 'shema' (did you mean 'schema'?)"),
        ({"qqqq": 1}, "unknown key 'qqqq' (no such key)"),
        ({"memory_mib": 0}, "memory_mib is 0: input should be greater than 0"),
        ({"artifact_mib": -1.5}, "artifact_mib is -1.5: input should be greater than 0"),
        ({"latency_ms": 1e12}, "latency_ms is 1000000000000.0: input should be less than or equal to 3600000"),
        ({"memory_mib": "64"}, "memory_mib is '64': input should be a valid number"),
        ({"memory_mib": True}, "memory_mib is True: input should be a valid number"),
        ({"latency_percentile": 95}, "latency_percentile is 95: input should be 50, 90 or 99"),
        ({"schema": 2}, "schema is 2: input should be 1"),
        ({"cores": 0}, "cores is 0: input should be greater than or equal to 1"),
        ({"threads": 5}, "threads: 5 threads on 4 cores"),
        ({"arch": "armv7l"}, "arch is 'armv7l': input should be 'x86_64' or 'aarch64'"),
        ({"recipes": []}, "recipes is []: list should have at least 1 item after validation, not 0"),
        (
            {"recipes": ["float32", "dynamic_int"]},
            "recipes: no recipe 'dynamic_int'; did you mean 'dynamic_int8'? choose one of: "
            + ", ".join(names("quantizers")),
        ),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(values, problem):
    with pytest.raises(UsageError) as refusal:
        parse_profile(load_profile("rpi4").as_dict() | values, where="target profile mine.yaml")
    assert refusal.value.message == f"target profile mine.yaml: {problem}"
    assert (refusal.value.fix, refusal.value.exit_code) == (CHECK_KEYS, 2)


@pytest.mark.parametrize(
    ("provider", "recipe", "able"),
    [
        (
            "CPUExecutionProvider",
            "float16",
            "block_int4, block_int8, dynamic_int8, embeddings_int8, float32, static_int8, weight_int4, weight_int8",
        ),
        (
            "CUDAExecutionProvider",
            "dynamic_int8",
            "block_int4, block_int8, embeddings_int8, float16, float32, weight_int4, weight_int8",
        ),
        (
            "CUDAExecutionProvider",
            "static_int8",
            "block_int4, block_int8, embeddings_int8, float16, float32, weight_int4, weight_int8",
        ),
        ("TensorrtExecutionProvider", "dynamic_int8", "float16, float32, static_int8"),
        ("TensorrtExecutionProvider", "weight_int4", "float16, float32, static_int8"),
    ],
)
def test_a_recipe_that_the_provider_cannot_run_is_refused(provider, recipe, able):
    values = load_profile("rpi4").as_dict() | {"execution_provider": provider, "recipes": ["float32", recipe]}
    with pytest.raises(UsageError) as refusal:
        parse_profile(values, where="mine")
    assert refusal.value.message == f"mine: recipes: {provider} has no kernels for {recipe}; it can run {able}"
    assert (refusal.value.fix, refusal.value.exit_code) == (CHECK_KEYS, 2)


@pytest.mark.parametrize("activation_type", ["uint8", "int8"])
@pytest.mark.parametrize("recipe", ["dynamic_int8", "static_int8"])
def test_settings_that_saturate_are_refused(recipe, activation_type):
    values = load_profile("cpu-avx2").as_dict() | {
        "reduce_range": False,
        "recipes": ["float32", recipe],
        "activation_type": activation_type,
    }
    with pytest.raises(UsageError) as refusal:
        parse_profile(values, where="mine")
    assert refusal.value.message == (
        "mine: reduce_range: without VNNI the sums of 8-bit products saturate; set it to true (7-bit weights), "
        "or weight_type to uint8 (slower), or name the CPU's VNNI in isa"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"isa": ["avx2", "avx_vnni"]},
        {"isa": ["avx512_vnni"]},
        {"weight_type": "uint8"},
        {"reduce_range": True},
        {"recipes": ["float32", "weight_int8"]},
        {"arch": "aarch64", "isa": ["asimd"]},
    ],
)
def test_settings_that_cannot_saturate_are_not_refused(change):
    values = load_profile("cpu-avx2").as_dict() | {"reduce_range": False} | change
    assert not parse_profile(values, where="mine").saturates


def test_profiles_are_read_without_onnx():
    child = python(
        "import sys; from edgekd.hardware.profile import load_profile; load_profile('gpu-t4'); "
        "print([name for name in ('onnx', 'onnxruntime', 'numpy', 'torch') if name in sys.modules])"
    )
    assert child.stdout.strip() == "[]", child.stderr


def test_every_bad_key_is_named_at_once():
    values = load_profile("rpi4").as_dict() | {"cores": 0, "extra": 1}
    del values["soc"]
    with pytest.raises(UsageError) as refusal:
        parse_profile(values, where="mine")
    assert all(word in refusal.value.message for word in ("missing key 'soc'", "cores is 0", "unknown key 'extra'"))


@pytest.mark.parametrize(
    ("content", "problem", "fix"),
    [
        (
            b"name: \xff\xfe",
            "cannot read the target profile {path}: line 1: byte 0xff is not UTF-8",
            "save the file as UTF-8; " + START,
        ),
        (
            b"name: [",
            "cannot read the target profile {path}: line 1: expected the node content",
            "correct that line; " + START,
        ),
        (
            b"!!python/object/apply:os.getcwd []",
            "cannot read the target profile {path}: line 1: tag:yaml.org",
            "leave it out; quote text that begins with !; " + START,
        ),
        (None, "cannot read the target profile {path}: [Errno 2] No such file or directory", READABLE),
        (b"- rpi4\n", "the target profile {path} is not a list of `key: value` lines", START),
        (b"", "the target profile {path} is not a list of `key: value` lines", START),
    ],
)
def test_a_file_that_is_no_profile_is_refused(content, problem, fix, tmp_path):
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as refusal:
        load_profile(str(path))
    assert refusal.value.message.startswith(problem.format(path=path))
    assert "\n" not in refusal.value.message
    assert (refusal.value.fix, refusal.value.exit_code) == (fix, 2)


@pytest.mark.parametrize(
    ("name", "hint"), [("rpi44", "did you mean 'rpi4'? "), ("RPI5", "did you mean 'rpi5'? "), ("", "")]
)
def test_an_unknown_target_suggests(name, hint):
    with pytest.raises(UsageError) as refusal:
        load_profile(name)
    assert refusal.value.message == f"unknown target {name!r}"
    assert refusal.value.fix == f"{hint}choose one of: {', '.join(target_names())}; or give a YAML file's path"
    assert refusal.value.exit_code == 2


@pytest.mark.parametrize("name", ["rpi4", "local"])
def test_budgets_replace_single_values(name):
    changed = load_profile(name, budgets={"memory_mib": 7.5, "latency_ms": 3})
    assert changed.as_dict() == load_profile(name).as_dict() | {"memory_mib": 7.5, "latency_ms": 3}


@fast
@given(key=st.sampled_from(sorted(BUDGETS)), data=st.data())
def test_any_positive_budget_is_valid_and_no_other(key, data):
    budget = data.draw(st.floats(0, BUDGETS[key], exclude_min=True))
    assert getattr(load_profile("rpi4", budgets={key: budget}), key) == budget
    absurd = st.floats(max_value=0) | st.floats(min_value=BUDGETS[key], exclude_min=True) | st.just(float("nan"))
    with pytest.raises(UsageError, match=f"^target profile .*rpi4.yaml: {key} is "):
        load_profile("rpi4", budgets={key: data.draw(absurd)})


@pytest.mark.parametrize("core", ["max", "cortex-x99"])
def test_a_core_that_nothing_emulates_is_refused(core):
    with pytest.raises(UsageError, match=f"emulator_cpu: '{core}' is none"):
        profile(emulator_cpu=core)
