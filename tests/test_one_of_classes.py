"""No largest output where there is none to take: scores and several labels at once are refused, in every path."""

import json

import numpy as np
import onnx
import pytest
from foreign_weights import classifier, configure
from onnx import helper
from onnx_files import IMAGE, SERIES, TEXT, image_model, save, series_model, text_model

from edgekd.compression.examine import Given, examine
from edgekd.core.errors import TeacherError
from edgekd.core.protocols import NullProgress
from edgekd.teachers._onnx_inspect import look
from edgekd.teachers.huggingface import Huggingface

# what config.json says of a model that does not name one of several classes
CONFIGS = {
    "several labels": {"problem_type": "multi_label_classification"},
    "a score of several": {"problem_type": "regression"},
    "one output": {"id2label": {"0": "score"}, "label2id": {"score": 0}},
    "a cross-encoder of several labels": {"sentence_transformers": {"activation_fn": "torch.nn.Sigmoid"}},
    "a pipeline with a sigmoid": {"function_to_apply": "sigmoid"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return classifier(tmp_path_factory.mktemp("classes") / "teacher")


@pytest.mark.parametrize("name", CONFIGS)
def test_a_folder(folder, name):
    before = (folder / "config.json").read_text()
    try:
        if name == "one output":
            (folder / "config.json").write_text(json.dumps(json.loads(before) | CONFIGS[name]))
            with pytest.raises(TeacherError):  # its weights have three: told as that
                Huggingface().inspect(str(folder), TEXT)
            return
        configure(folder, **CONFIGS[name])
        with pytest.raises(TeacherError, match="does not name one of several classes") as why:
            Huggingface().inspect(str(folder), TEXT)
        assert "--task feature-extraction" in why.value.fix
        assert Huggingface().inspect(str(folder), "feature-extraction")["ready"], "the fix, obeyed"
        configure(
            folder, problem_type="single_label_classification", sentence_transformers=None, function_to_apply=None
        )
        assert Huggingface().inspect(str(folder), TEXT)["ready"]
    finally:
        (folder / "config.json").write_text(before)


def test_a_cross_encoder(tmp_path):
    folder = classifier(tmp_path / "teacher", id2label={0: "LABEL_0"}, label2id={"LABEL_0": 0})
    with pytest.raises(TeacherError, match="it gives one value, not a value for each class"):
        Huggingface().inspect(str(folder), TEXT)


def with_sigmoid(model, *behind):
    """The model with a sigmoid over its output, and perhaps more behind it."""
    last = model.graph.output[0].name
    for number, kind in enumerate(("Sigmoid", *behind)):
        model.graph.node.append(helper.make_node(kind, [last], [f"after_{number}"]))
        last = f"after_{number}"
    model.graph.output[0].name = last
    return model


@pytest.mark.parametrize(("task", "made"), [(TEXT, text_model), (IMAGE, image_model), (SERIES, series_model)])
def test_graphs_of_every_modality(tmp_path, task, made):
    for behind in ((), ("Identity",)):
        with pytest.raises(TeacherError, match="it ends in a sigmoid over each label"):
            look(str(save(tmp_path, with_sigmoid(made(), *behind))), task)
    one = made()
    one.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1
    with pytest.raises(TeacherError, match="it gives one value"):
        look(str(save(tmp_path, one)), task)


def test_diagnose(tmp_path):
    model = with_sigmoid(series_model())
    path = save(tmp_path, model)
    data = tmp_path / "rows.npz"
    np.savez(data, x=np.zeros((4, 3, 2), np.float32))
    with pytest.raises(TeacherError, match="it ends in a sigmoid over each label"):
        examine(Given(path, str(data), SERIES), NullProgress())
    onnx.save(series_model(), path)
    (tmp_path / "config.json").write_text(json.dumps({"problem_type": "regression"}))
    with pytest.raises(TeacherError, match="problem_type regression"):
        examine(Given(path, str(data), SERIES), NullProgress())
