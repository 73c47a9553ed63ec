"""The bundle in a client that we did not write: transformers.js under Node.js opens the folder as it is.

Held against Python's tokenizer and ONNX Runtime on the same file; the two ONNX Runtimes differ in version.
"""

import json
import os
import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edgekd.onboard import verify

pytestmark = pytest.mark.node

CLASSIFY = Path(__file__).parent / "node" / "classify.mjs"
DEMO = Path(__file__).parents[1] / "build" / "questions-rpi4"
DTYPES = {"model.onnx": "fp32", "model_fp16.onnx": "fp16", "model_quantized.onnx": "q8"}
FLOAT32_TOLERANCE = 1e-3
TEXTS = [
    "What is the capital of France ?",
    "who wrote hamlet",
    "Don't e-mail me@x.org, 3.14%!",
    "Où est né Molière — et quand?",
    "東京 😀 straße \t\n ok",
    "[MASK] [CLS] x",
    "",
]
LONG_TEXT = "word " * 600


@pytest.fixture(scope="session")
def node():
    """The node command. Absent, the tests are skipped; in CI, which installs it, they fail."""
    command = shutil.which("node")
    if command is None:
        problem = "node is not installed"
    elif not (CLASSIFY.parent / "node_modules").is_dir():
        problem = "tests/node/node_modules is missing: `make node` installs it"
    else:
        return command
    return pytest.fail(problem) if os.environ.get("CI") else pytest.skip(problem)


@pytest.fixture(scope="session", params=["tiny", "demo"])
def bundle(request, node):  # node first: where it is missing, no bundle needs to be built
    if request.param == "tiny":
        return request.getfixturevalue("tiny_bundle")
    if not (DEMO / "manifest.json").is_file():
        pytest.skip("build/questions-rpi4 is not there: `make demo` builds it")
    return DEMO


@pytest.fixture(scope="session")
def in_node(node, bundle, tmp_path_factory):
    """What transformers.js answers to each text: token_ids, logits, label."""
    texts = tmp_path_factory.mktemp("node") / "texts.json"
    texts.write_text(json.dumps([*TEXTS, LONG_TEXT]), encoding="utf-8")
    dtype = DTYPES[next((bundle / "onnx").iterdir()).name]
    command = [node, str(CLASSIFY), str(bundle.parent), bundle.name, dtype, str(texts)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="session")
def in_python(bundle):
    """Token ids and logits of each text, run alone."""
    import onnxruntime as ort
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bundle)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    model = next((bundle / "onnx").iterdir())
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    answers = []
    for text in [*TEXTS, LONG_TEXT]:
        encoded = tokenizer(text, truncation=True, return_tensors="np")
        inputs = {node.name: encoded[node.name].astype(np.int64) for node in session.get_inputs()}
        answers.append((encoded["input_ids"][0].tolist(), session.run(["logits"], inputs)[0][0]))
    return answers


def tolerance(bundle):
    """The largest logit difference allowed: float32 rounds alike everywhere, int8 as the bundle itself says."""
    if json.loads((bundle / "manifest.json").read_text("utf-8"))["recipe"] == "float32":
        return FLOAT32_TOLERANCE
    allowed = json.loads((bundle / "golden" / "golden.json").read_text("utf-8"))["tolerance"]
    return allowed.get(platform.machine(), allowed["float32"])["logits"]


def test_opening_leaves_the_bundle_unchanged(bundle, in_node):
    assert len(in_node) == len(TEXTS) + 1
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    assert verify.changed_files(bundle, manifest) == []


def test_token_ids_are_the_same(in_node, in_python):
    assert [answer["token_ids"] for answer in in_node[:-1]] == [ids for ids, _ in in_python[:-1]]


def test_a_long_text_is_cut_at_the_same_length(in_node, in_python):
    """transformers.js cuts after adding the special tokens: its last token is a word where Python's is [SEP]."""
    ours, theirs = in_python[-1][0], in_node[-1]["token_ids"]
    assert len(theirs) == len(ours) <= 512
    assert theirs[:-1] == ours[:-1]


def test_logits_agree(bundle, in_node, in_python):
    theirs = np.array([answer["logits"] for answer in in_node[:-1]])
    ours = np.array([logits for _, logits in in_python[:-1]])
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=tolerance(bundle))


def test_top_labels_are_the_same(bundle, in_node, in_python):
    labels = json.loads((bundle / "config.json").read_text("utf-8"))["id2label"]
    expected = [labels[str(logits.argmax())] for _, logits in in_python[:-1]]
    assert [answer["label"] for answer in in_node[:-1]] == expected
