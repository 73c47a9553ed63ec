"""The task text-generation: what a plan refuses, and a tiny Llama the whole way to a bundle."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from itertools import islice
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from conftest import call_here, invoke, loose_target
from made_bundle import Board
from tokenizers import Tokenizer

from edgekd.core.errors import UsageError
from edgekd.core.registry import make
from edgekd.devices.local import Local
from edgekd.hardware.profile import load_profile
from edgekd.onboard import causal
from edgekd.plan.planning import _for_task
from edgekd.security import child
from edgekd.store.store import Store
from edgekd.tasks import _genai
from tests.tiny_language import save_llama, text_of

GENERATE = Path(__file__).parent / "node" / "generate.mjs"
TASK = ("--task", "text-generation", "--student", "none")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A random Llama with its tokenizer."""
    return save_llama(tmp_path_factory.mktemp("teacher") / "llama", layers=2)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Forty short documents."""
    folder = tmp_path_factory.mktemp("corpus") / "stories"
    folder.mkdir()
    for number in range(40):
        (folder / f"d{number:02}.txt").write_text(text_of(number, 6), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    """A store of the module's own."""
    return {"EDGEKD_STORE": str(tmp_path_factory.mktemp("store"))}


def plan(env, teacher, corpus, *words):
    return invoke("plan", "--target", "cpu-avx2", *TASK, "--teacher", teacher, "--data", corpus, *words, env=env)


def changed(teacher, tmp_path, **config):
    """A copy of the teacher with other settings in config.json."""
    folder = Path(shutil.copytree(teacher, tmp_path / "changed"))
    said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(said | config), encoding="utf-8")
    return folder


def test_a_plan_says_what_it_is_judged_by(env, teacher, corpus):
    done = plan(env, teacher, corpus)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "reported: bits_per_byte" in done.stdout
    assert "float32, block_int8, block_int4; picked by bits_per_byte" in done.stdout
    assert "3 points may be lost" in done.stdout
    other = plan(env, teacher, corpus, "--max-drop", "5")
    assert "5 points may be lost" in other.stdout


def refused(done, *says):
    text = " ".join((done.stdout + done.stderr).split())
    assert done.returncode in (1, 2), text
    assert all(word in text for word in says), text
    assert "fix:" in text
    assert "Traceback" not in text


def test_a_context_beyond_the_models_is_refused(env, teacher, corpus):
    refused(plan(env, teacher, corpus, "--max-tokens", "4096"), "--max-tokens 4096 is outside 64 to 512")
    assert plan(env, teacher, corpus, "--max-tokens", "512").returncode == 0, "what the fix says"


def test_an_empty_corpus_is_refused(env, teacher, tmp_path):
    (tmp_path / "nothing.txt").write_text(" \n", encoding="utf-8")
    refused(plan(env, teacher, tmp_path / "nothing.txt"), "holds 0 documents")


def test_a_model_of_two_halves_is_refused(env, teacher, corpus, tmp_path):
    folder = changed(teacher, tmp_path, is_encoder_decoder=True)
    refused(plan(env, folder, corpus), "an encoder and a decoder", "decoder-only")


def test_an_architecture_that_nobody_knows_is_refused(env, teacher, corpus, tmp_path):
    folder = changed(teacher, tmp_path, model_type="hyperlm", architectures=["HyperLMForCausalLM"])
    refused(plan(env, folder, corpus), "'hyperlm' model", "optimum cannot export that")


def test_a_tokenizer_of_another_model_is_refused(env, teacher, corpus, tmp_path):
    folder = Path(shutil.copytree(teacher, tmp_path / "strange"))
    spec = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    spec["model"]["vocab"]["another"] = 5000
    (folder / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    refused(plan(env, folder, corpus), "do not belong together")


def test_quantized_weights_are_refused(env, teacher, corpus, tmp_path):
    folder = changed(teacher, tmp_path, quantization_config={"quant_method": "fp8"})
    refused(plan(env, folder, corpus), "quantized weights")


def test_weights_in_fp8_are_refused(env, teacher, corpus, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(teacher, tmp_path / "fp8"))
    state = {name: value.to(torch.float8_e4m3fn) for name, value in load_file(folder / "model.safetensors").items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    refused(plan(env, folder, corpus), "F8_E4M3")


def test_a_chat_template_with_code_is_refused_and_one_without_is_taken(env, teacher, corpus, tmp_path):
    folder = Path(shutil.copytree(teacher, tmp_path / "chat"))
    file = folder / "chat_template.jinja"
    file.write_text("{{ messages.__class__ }}", encoding="utf-8")
    refused(plan(env, folder, corpus), "chat_template.jinja is not taken", "__class__")
    file.write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}", encoding="utf-8")
    assert plan(env, folder, corpus).returncode == 0


def test_another_modalitys_task_says_so(env, teacher, corpus):
    words = ("--task", "text-classification", "--student", "none", "--teacher", teacher, "--data", corpus)
    done = invoke("plan", "--target", "cpu-avx2", *words, env=env)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr


def test_profiles_are_narrowed_to_what_the_recipes_need():
    profile = load_profile("rpi5")
    own = _for_task(profile, "text-generation")
    assert own.recipes == ["float32", "block_int8", "block_int4"]
    assert own.ort_version == f"{profile.ort_version},>=1.23.0"
    said = profile.model_copy(update={"recipes": ["float32", "dynamic_int8", "block_int4"]})
    assert _for_task(said, "text-generation").recipes == ["float32", "block_int4"], (
        "a profile that names some is obeyed"
    )
    assert _for_task(profile, "text-classification") is profile


def test_a_general_compressor_is_the_baseline():
    from edgekd.data.splits import Example

    task = make("tasks", "text-generation")
    known = [Example(text_of(seed, 40), "a") for seed in range(5)]
    plain, noise = Example(text_of(99, 10), "b"), Example("".join(map(chr, range(33, 127))) * 3, "c")
    rows = task.baseline(known, [plain, noise], 0)
    bits = task.metric.by_row(rows)
    assert bits[0] < bits[1] < 8
    assert bits[0] < 2


def test_samples_have_the_sizes_that_are_asked_for():
    task = make("tasks", "text-generation")
    samples = [{"input_ids": np.array([[0, 5, 6, 7, 8, 9]]), "new_tokens": np.array([16])}] * 3
    assert task.sized(samples, 40)["input_ids"].shape == (1, 40)
    made = task.synthetic(samples, 5, 0)
    assert len(made) == 5
    assert all(one["input_ids"][0, 0] == 0 for one in made)
    assert {*np.concatenate([one["input_ids"][0, 1:] for one in made]).tolist()} <= {5, 6, 7, 8, 9}


def test_contexts_are_held_to_the_models(teacher, tmp_path):
    task = make("tasks", "text-generation")
    info = {"folder": str(teacher), "architecture": {"max_tokens": 512}}
    store = Store(tmp_path / "store")
    assert task.survey(info, ["the river"], {}, store).max_size == 512
    assert task.survey(info, ["the river"], {"tokens": 100}, store).max_size == 100
    with pytest.raises(UsageError, match="outside 64 to 512"):
        task.survey(info, ["the river"], {"tokens": 513}, store)


@pytest.fixture(scope="module")
def bundle(env, teacher, corpus, tmp_path_factory):
    """A bundle of it, whatever 4 bits lose; the runner's jobs are done in this process."""
    board, place = Board(), tmp_path_factory.mktemp("bundle")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Local, "run", lambda self, mode, **job: board.run(mode, **job))
        patch.setattr(child, "call", call_here)
        target = loose_target(place, latency_ms=60_000.0, recipes=["float32", "block_int8"])
        words = ("--teacher", teacher, "--data", corpus, "--max-drop", "90", "--force", "block_int8", "--threads", "1")
        done = invoke("build", "--target", target, *TASK, *words, "--out", place / "out", "--json", env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return place / "out"


@pytest.mark.slow
def test_the_whole_way(bundle):
    report = json.loads((bundle / "report.json").read_text(encoding="utf-8"))
    assert report["summary"]["metric"] == "bits_per_byte"
    assert report["summary"]["higher_is_better"] is False
    trials = {one["name"]: one for one in report["trials"]}
    assert not trials["block_int8"]["failed"]
    contexts = [one["context"] for one in report["generation"]["block_int8"]]
    assert contexts == [128], "512 and what is written do not fit"
    assert report["baseline"]["metric_value"] < 8
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["model"]["program"] == "causal"
    assert manifest["model"]["outputs"] == dict.fromkeys(("nll", "top", "next", "tokens"), "as_is")
    assert manifest["min"]["ort_version"].endswith(">=1.23.0")
    provenance = (bundle / "provenance.json").read_text(encoding="utf-8")
    assert "ORTModelForCausalLM opens it; " in provenance
    assert "outputs are the same" in provenance
    assert "Reading and writing" in (bundle / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_cards_words_run(bundle, monkeypatch, capsys):
    code = (bundle / "README.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(bundle.parent)
    monkeypatch.setattr("sys.path", ["", *__import__("sys").path])
    code = re.sub(r"'[^']*-loose|\"[^\"]*-loose", lambda found: f"{found[0][0]}out", code)
    exec(compile(code, "card", "exec"), {})
    assert len(capsys.readouterr().out.strip()) > 10


@pytest.mark.slow
def test_it_verifies_and_tells_an_altered_answer(bundle, tmp_path):
    assert invoke("verify", bundle).returncode == 0
    from edgekd.onboard import verify

    _, reference, _ = verify.read_golden(bundle)
    outputs = [{name: values.copy() for name, values in row.items()} for row in reference.values()]
    assert verify.check_golden(bundle, outputs)[0]
    for row in outputs:
        row["nll"] += 5
    assert not verify.check_golden(bundle, outputs)[0]


@pytest.mark.slow
def test_onnxruntime_genai_is_told_what_it_needs(bundle):
    said = json.loads((bundle / _genai.FILE).read_text(encoding="utf-8"))
    decoder = said["model"]["decoder"]
    assert said["model"]["type"] == "llama"
    assert (bundle / decoder["filename"]).is_file()
    assert (decoder["num_attention_heads"], decoder["num_key_value_heads"], decoder["head_size"]) == (4, 2, 4)
    assert decoder["inputs"]["past_key_names"] == "past_key_values.%d.key"
    assert said["search"]["past_present_share_buffer"] is False
    assert said["model"]["context_length"] == 512


@pytest.mark.slow
@pytest.mark.node
def test_transformers_js_writes_the_same_tokens(bundle, tmp_path):
    command = shutil.which("node")
    if command is None or not (GENERATE.parent / "node_modules").is_dir():
        pytest.fail("node lacks") if os.environ.get("CI") else pytest.skip("node, or `make node`, lacks")
    texts = [text_of(seed, 2) for seed in (7, 8)]
    (tmp_path / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    words = [command, str(GENERATE), str(bundle.parent), bundle.name, "q8", str(tmp_path / "texts.json"), "12"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    model = causal.Program({"model": onnxruntime.InferenceSession(str(next((bundle / "onnx").iterdir())))})
    for text, told in zip(texts, json.loads(done.stdout), strict=True):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert told["ids"] == ids
        assert told["written"] == list(islice(model.generate(ids), 12))
