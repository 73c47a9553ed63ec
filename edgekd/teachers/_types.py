"""Which types of models are taken: those that students are copied from, and whatever else optimum exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgekd.core.digests import file_sha256
from edgekd.core.errors import TeacherError
from edgekd.core.registry import make, plugin
from edgekd.core.results import versions
from edgekd.data import clean
from edgekd.security import child
from edgekd.store.store import open_store

# The encoders whose layers, feed-forward width and vocabulary we know how to copy from. Of others students are new.
MODEL_TYPES = ("bert", "camembert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta")
# Those whose layers we know how to count and to tap. Of others that optimum exports students learn from logits alone.
IMAGE_TYPES = (
    "beit",
    "convnext",
    "convnextv2",
    "deit",
    "efficientnet",
    "mobilenet_v1",
    "mobilenet_v2",
    "poolformer",
    "regnet",
    "resnet",
    "swin",
    "vit",
)
_SECONDS = 180  # importing torch, transformers and optimum takes most of it, on a busy machine
_MEMORY_MIB = 6144
_ANSWER = "exportable.json"
_ELSEWHERE = "export it to ONNX and give the .onnx file with --student none"


def known_types(task: str) -> tuple[str, ...]:
    """The types that are known by name for the task."""
    return IMAGE_TYPES if plugin("tasks", task).modality == "image" else MODEL_TYPES


def check(config: dict[str, Any], folder: Path, task: str) -> None:
    """Raises TeacherError for a type that cannot serve the task, as far as that shows without importing optimum."""
    model_type, kind = config.get("model_type"), plugin("tasks", task)
    if not kind.hub.auto_model:
        raise TeacherError(
            f"the teacher {folder} is a {model_type!r} model; transformers has none for {task}",
            fix="give --teacher labels, or a folder that edgekd wrote",
        )
    sees = kind.modality == "image"
    if isinstance(model_type, str) and model_type not in (MODEL_TYPES if sees else IMAGE_TYPES):
        return
    why = "it does not classify images" if sees else "no student can be copied from that"
    raise _refused(folder, model_type, why, f"{_of_types(task)}; or {_ELSEWHERE}")


def settle(info: dict[str, Any], task: str) -> None:
    """Raises TeacherError where optimum cannot export the teacher.

    A limited child asks optimum about types that are not known by name; the store keeps the answer.
    """
    folder, architecture = Path(info["folder"]), info["architecture"]
    model_type = architecture.get("model_type")
    if "family" in architecture or model_type in known_types(task):
        return
    if not _exportable(folder, task):
        raise _refused(
            folder, model_type, f"optimum cannot export that for {task}", f"{_of_types(task)}; or {_ELSEWHERE}"
        )


def look(folder: str, task: str) -> dict[str, bool]:
    """In a child: whether optimum exports the model of the folder's config.json with the inputs that edgekd feeds."""
    import transformers

    with clean.config_folder(Path(folder)) as private:
        try:
            config = transformers.AutoConfig.from_pretrained(private, trust_remote_code=False)
        except (KeyError, ValueError):  # a type that transformers does not have
            return {"exportable": False}
    return {"exportable": make("exporters", "optimum").takes(config, task)}


def _exportable(folder: Path, task: str) -> bool:
    config = folder / "config.json"
    key: dict[str, Any] = {"config": file_sha256(config), "task": task}
    key["versions"] = versions("edgekd", "torch", "transformers", "optimum-onnx")

    def ask(out: Path) -> None:
        try:
            answer = child.call(
                "edgekd.teachers._types:look",
                {"folder": str(folder), "task": task},
                timeout_s=_SECONDS,
                limits=child.Limits(memory_mib=_MEMORY_MIB, cpu_s=_SECONDS),
            )
        except child.ChildError as error:
            raise TeacherError(
                f"optimum cannot be asked whether it exports the model of {config}: {error.why}",
                fix=f"restore the model's config; or {_ELSEWHERE}",
            ) from error
        (out / _ANSWER).write_text(json.dumps(answer), encoding="utf-8")

    place = open_store().stage("exportable", key, ask, of=folder.name)
    return bool(json.loads((place / _ANSWER).read_text(encoding="utf-8"))["exportable"])


def _of_types(task: str) -> str:
    return f"give a teacher of one of these types: {', '.join(known_types(task))}"


def _refused(folder: Path, model_type: Any, why: str, fix: str) -> TeacherError:
    return TeacherError(f"the teacher {folder} is a {model_type!r} model; {why}", fix=fix)
