"""Types of models that no student is copied from: what optimum exports of them is compressed as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
from conftest import loose_target, run, texts, write_csv
from foreign_weights import LABELS, WORDS, tokenizer
from transformers import AutoConfig

from edgekd.cli import show
from edgekd.core.errors import TeacherError, UsageError
from edgekd.core.registry import make, plugin
from edgekd.exporters.optimum import Optimum
from edgekd.hardware.profile import load_profile
from edgekd.plan.inputs import read_teacher, settle
from edgekd.plan.planning import Options, make_plan
from edgekd.training import batches, models

# what transformers and torch say of their own ways: DeBERTa scripts functions, the old exporter calls itself old
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
TEXT, EMBED, IMAGE = "text-classification", "feature-extraction", "image-classification"
ENCODER = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
TEXTS = {
    "albert": {"embedding_size": 8},
    "convbert": {"embedding_size": 16, "head_ratio": 1, "conv_kernel_size": 3},
    "deberta-v2": {"type_vocab_size": 0, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "megatron-bert": {},
    "mobilebert": {"embedding_size": 16, "true_hidden_size": 16, "intra_bottleneck_size": 16},
    "modernbert": {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3},
    "rembert": {"input_embedding_size": 8, "output_embedding_size": 8, "bos_token_id": 2, "eos_token_id": 3},
    "roformer": {},
    "squeezebert": {"embedding_size": 16},
}
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
IMAGES = {
    "data2vec-vision": VISION,
    "dinov2": VISION | {"image_size": 64, "mlp_ratio": 2},  # larger than what its processor makes
    "levit": {
        "image_size": 32,
        "hidden_sizes": [16, 24, 32],
        "num_attention_heads": [2, 2, 2],
        "depths": [1, 1, 1],
        "key_dim": [4, 4, 4],
        "patch_size": 16,
    },
    "mobilevit": {
        "image_size": 64,
        "hidden_sizes": [16, 16, 16],
        "neck_hidden_sizes": [8, 8, 8, 16, 16, 16, 32],
    },
    "swinv2": {
        "embed_dim": 8,
        "depths": [1, 2],
        "num_heads": [2, 2],
        "window_size": 4,
        "patch_size": 2,
        "image_size": 32,
    },
    "vit_msn": VISION,
}


@pytest.fixture(autouse=True)
def of_the_session(store):
    """Answers about teachers are kept in the session's store."""


def teacher_of(model_type: str, folder: Path, task: str = TEXT):
    """A small random model of this type, saved as a user's folder would be."""
    torch.manual_seed(0)
    sizes = ENCODER | TEXTS[model_type] if model_type in TEXTS else IMAGES[model_type]
    names = dict(enumerate(LABELS))
    config = AutoConfig.for_model(
        model_type, num_labels=3, id2label=names, label2id={name: n for n, name in names.items()}, **sizes
    )
    kinds = getattr(transformers, make("tasks", task).hub.auto_model)._model_mapping[type(config)]
    model = (kinds[-1] if isinstance(kinds, tuple) else kinds)(config).eval()  # the last LeViT's has a second head
    model.save_pretrained(folder)
    if task == IMAGE:
        transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    else:
        tokenizer(folder)
    return model


def settled(folder: Path, task: str, *, compressed: bool = True):
    kind, found = read_teacher(str(folder), task, compressed=compressed)
    return settle(kind, found, task, compressed=compressed)


@pytest.mark.parametrize(
    ("model_type", "task"),
    [
        ("roformer", TEXT),
        ("vit_msn", IMAGE),
        *(
            pytest.param(name, task, marks=pytest.mark.slow)
            for name, task in [
                *((name, TEXT) for name in TEXTS if name != "roformer"),
                *((name, EMBED) for name in ("albert", "deberta-v2", "modernbert")),
                *((name, IMAGE) for name in IMAGES if name != "vit_msn"),
            ]
        ),
    ],
)
def test_what_optimum_exports_is_taken(model_type: str, task: str, tmp_path: Path) -> None:
    original = teacher_of(model_type, tmp_path, task)
    found = settled(tmp_path, task)
    assert found["architecture"]["model_type"] == model_type
    given = ["a red cat", "what is bread"]
    if task == IMAGE:
        given = list(np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), dtype=np.uint8))
    samples = make("tasks", task).encode(tmp_path, given, 32)
    made = Optimum().export(models.load(tmp_path, task), tmp_path / "onnx", task=task, target=load_profile("rpi4"))
    session = onnxruntime.InferenceSession(made.file)
    needed = {one.name for one in session.get_inputs()}
    for sample in samples:
        with torch.no_grad():
            expected = original(**{name: torch.from_numpy(value) for name, value in sample.items()})[0]
        segments = {"token_type_ids": np.zeros_like(sample["input_ids"])} if "token_type_ids" in needed else {}
        says = session.run(None, {name: value for name, value in (segments | sample).items() if name in needed})[0]
        np.testing.assert_allclose(says, expected.numpy(), atol=1e-4)


def test_the_sample_of_an_export_has_the_processors_size(tmp_path: Path, monkeypatch) -> None:
    teacher_of("dinov2", tmp_path, IMAGE)
    model, seen = models.load(tmp_path, IMAGE), []
    forward = type(model).forward

    def noted(self, pixel_values=None, **others):
        seen.append(tuple(map(int, pixel_values.shape[-2:])))
        return forward(self, pixel_values, **others)

    monkeypatch.setattr(type(model), "forward", noted)
    Optimum().export(model, tmp_path / "onnx", task=IMAGE, target=load_profile("rpi4"))
    assert {*seen} == {(32, 32)}
    assert model.config.image_size == 64  # it says how large the table of positions is


@pytest.mark.parametrize("model_type", ["albert", "deberta-v2", "modernbert"])
def test_of_a_teacher_that_none_is_cut_from_the_student_is_new(
    model_type: str, tmp_path: Path, tiny_data: Path
) -> None:
    """It starts at random, on the teacher's tokenizer, and the plan says so."""
    folder = tmp_path / "teacher"
    teacher_of(model_type, folder)
    architecture = settled(folder, TEXT, compressed=False)["architecture"]
    assert architecture["layers"] == 2
    assert make("teachers", "huggingface").gives(architecture) == ("logits", "embedding", "text")
    rows = [(text, label) for text, label in texts(200, seed=4)]
    data = write_csv(tmp_path / "rows.csv", rows)
    plan, splits = make_plan(Options(str(loose_target(tmp_path)), teacher=str(folder), data=str(data)))
    assert plan.student.start == "scratch"
    assert not plan.is_cut
    told = dict.fromkeys(line for _, line in show._student(plan, ""))
    assert any(f"no student is cut from a {model_type}: a new distilbert starts" in line for line in told)
    with pytest.raises(UsageError, match=r"hidden_states needs features .* which the teacher"):
        make_plan(Options("rpi4", teacher=str(folder), data=str(data), losses=("response=1", "hidden_states=1")))
    survey = plan.student.survey
    family = plugin("students", "transformer")
    assert family.of_teacher(architecture, survey, classes=3) is None, "what it costs is measured, not predicted"
    shapes = family.ladder(architecture, survey, classes=3)
    assert {shape.layers for shape in shapes} == {1, 2}
    task, out = make("tasks", TEXT), tmp_path / "student"
    kept = task.student_files(folder, [row.input for row in splits.train], survey, shapes[0], out)
    teacher = models.load(folder, TEXT)
    student = shapes[0].init_from_teacher(teacher, folder, kept=kept, samples=(), copy=False)
    assert student.config.model_type == "distilbert"
    assert student.config.id2label == teacher.config.id2label
    [sample] = task.encode(out, [splits.train[0].input], survey.max_size)
    batch = batches.padded([sample], [0], 0, torch.device("cpu"))
    assert student(**batch).logits.shape == (1, 3), "its tokenizer gives what it takes"
    assert type(shapes[0])(**shapes[0].as_dict()) == shapes[0]


def test_students_learn_from_the_logits_of_any_image_model(tmp_path: Path) -> None:
    teacher_of("dinov2", tmp_path, IMAGE)
    found = settled(tmp_path, IMAGE, compressed=False)
    assert make("teachers", "huggingface").gives(found["architecture"]) == ("logits",)


@pytest.mark.parametrize(
    ("model_type", "kind"), [("fnet", "FNetConfig"), ("gpt2", "GPT2Config"), ("nystromformer", "NystromformerConfig")]
)
def test_what_is_not_exported_here_is_given_as_onnx(model_type, kind, tmp_path, tiny_data) -> None:
    """Optimum has no FNet, GPT-2 is no encoder, Nystromformer takes few lengths. The fix is obeyed for the first."""
    torch.manual_seed(0)
    folder = tmp_path / "teacher"
    names = dict(enumerate(LABELS))
    sizes = (
        ENCODER
        if model_type != "gpt2"
        else {"vocab_size": len(WORDS), "n_embd": 16, "n_layer": 2, "n_head": 2, "pad_token_id": 0}
    )
    config = getattr(transformers, kind)(**sizes, id2label=names, label2id={name: n for n, name in names.items()})
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    model.save_pretrained(folder)
    tokenizer(folder)
    for compressed in (True, False):
        with pytest.raises(
            TeacherError, match=f"is a '{model_type}' model; optimum cannot export that for text"
        ) as why:
            settled(folder, TEXT, compressed=compressed)
        assert why.value.fix.endswith("or export it to ONNX and give the .onnx file with --student none")
    if model_type != "fnet":
        return
    file = tmp_path / "graph" / "model.onnx"
    file.parent.mkdir()
    tokenizer(file.parent)
    model.config.save_pretrained(file.parent)
    _write_graph(model, file)
    assert onnx.load(file).graph.node
    assert settled(file, TEXT)["architecture"]["classes"] == 3
    rows = tmp_path / "rows.csv"
    rows.write_text("text\n" + "".join(f"a red {word} of {number}\n" for number in range(40) for word in WORDS[5:9]))
    plan, _ = make_plan(Options("rpi4", TEXT, str(file), str(rows), student="none"))
    assert plan.data.classes == LABELS


def _write_graph(model, file: Path) -> None:
    """Stands for the user's own export: a linear layer over the mean of embeddings, with FNet's inputs and output."""

    class Mean(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embeddings, self.head = model.fnet.embeddings.word_embeddings, model.classifier

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.embeddings(input_ids).mean(dim=1))

    torch.onnx.export(
        Mean().eval(),
        (torch.tensor([[2, 5, 6, 3]]),),
        file,
        input_names=["input_ids"],
        output_names=["logits"],
        dynamic_axes={"input_ids": {0: "batch", 1: "tokens"}, "logits": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["deberta-v2"])
def test_it_is_compressed_to_a_bundle(model_type: str, store: Path, tmp_path: Path) -> None:
    teacher_of(model_type, tmp_path / "teacher")
    data = write_csv(tmp_path / "rows.csv", [(text,) for text, _ in texts(200, seed=1)], ("text",))
    done = run(
        "build",
        "--student",
        "none",
        "--target",
        loose_target(tmp_path, latency_ms=1000.0),
        "--teacher",
        tmp_path / "teacher",
        "--data",
        data,
        "--threads",
        "1",
        "--out",
        tmp_path / "bundle",
    )
    assert done.returncode == 0, done.stderr
    assert run("verify", tmp_path / "bundle").returncode == 0
