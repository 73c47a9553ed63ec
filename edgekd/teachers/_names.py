"""Whether a folder's weights are those of the model that its config.json describes: by name and shape, before loading.

transformers fills what it does not find with random values, and goes on. A limited child makes the model without
memory for its weights (torch's meta device) and has transformers match the names; what it says is kept in the store.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgekd.core import loading
from edgekd.core.digests import digest, file_sha256
from edgekd.core.errors import TeacherError
from edgekd.core.registry import make, plugin
from edgekd.core.results import versions
from edgekd.data import clean
from edgekd.security import child
from edgekd.store.store import open_store
from edgekd.teachers import _files, _safetensors

_SECONDS = 180  # importing torch and transformers takes most of it, on a busy machine
_MEMORY_MIB = 6144  # of a model without its weights little is needed; the libraries take most
_ANSWER = "names.json"


def check(found: dict[str, Any], task: str) -> dict[str, Any]:
    """What inspecting a folder found, with the folder of a copy where names had to be unwrapped, and a note of it.

    Raises TeacherError where weights are missing, belong to another model, or have another shape.
    """
    folder, kind = Path(found["folder"]), plugin("tasks", task)
    purpose = loading.BODY if not found["ready"] else loading.WHOLE if kind.labelled else loading.ENCODER
    shapes = _shapes(folder)
    job = {"folder": str(folder), "shapes": shapes, "auto_model": kind.hub.auto_model, "purpose": purpose}
    told = _asked(folder, job)
    wrong = loading.faults_from(told["faults"])
    if wrong and told["names"] is None:
        raise loading.refusal(folder, told["model"], wrong, told["base_model"])
    if told["names"] is None:
        return found
    old, new = next(pair for pair in sorted(told["names"].items()) if pair[0] != pair[1])
    note = f"weights of a wrapped model, under the model's own names: {old} is {new}"
    place = _renamed(folder, told["names"])
    return found | {"folder": str(place), "checks": (*found["checks"], note)}


def _asked(folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    """The child's answer, or the one it gave to the same question before."""
    key = {name: value for name, value in job.items() if name != "folder"}
    key |= {"config": file_sha256(folder / "config.json"), "shapes": digest(job["shapes"])}
    key |= {"versions": versions("edgekd", "torch", "transformers")}

    def ask(out: Path) -> None:
        try:
            said = child.call(
                "edgekd.teachers._names:look",
                job,
                timeout_s=_SECONDS,
                limits=child.Limits(memory_mib=_MEMORY_MIB, cpu_s=_SECONDS),
            )
        except child.ChildError as error:
            raise TeacherError(
                f"the model that {folder}/config.json describes cannot be made: {error.why}",
                fix="take config.json and the weights from one and the same model: model.save_pretrained(folder)",
            ) from error
        (out / _ANSWER).write_text(json.dumps(said), encoding="utf-8")

    place = open_store().stage("names", key, ask, of=folder.name)
    answer: dict[str, Any] = json.loads((place / _ANSWER).read_text(encoding="utf-8"))
    return answer


def look(folder: str, shapes: dict[str, list[int]], auto_model: str, purpose: str) -> dict[str, Any]:
    """In a child: the faults of the names as they are, and how the weights are to be named where that mends all."""
    place = Path(folder)
    matched = _Matched(place, auto_model, purpose)
    try:
        wrong = matched(shapes)
    except TeacherError:  # transformers calls names corrupt that are a body's in part and a head's in part
        wrong = matched.plainly(shapes)
        if not wrong:
            raise
    names = None
    if wrong:
        ways = loading.unwrapped(shapes.keys())
        names = next((way for way in ways if matched.fits({way[old]: size for old, size in shapes.items()})), None)
    return {"faults": asdict(wrong), "names": names, "model": matched.model, "base_model": matched.base_model}


class _Matched:
    """A model on the meta device, to hold names and shapes against."""

    def __init__(self, folder: Path, auto_model: str, purpose: str) -> None:
        self.folder, self.purpose, self.base_model = folder, purpose, ""
        config = _files.read_json(folder / "config.json")
        self.expected: Mapping[str, Any] | None = None
        if own := config.get("edgekd"):
            network = make("students", own["family"], **own["shape"]).random()
            self.model = type(network).__name__
            self.expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
            return
        import transformers

        with clean.config_folder(folder) as private, loading.by_transformers(folder):
            self.config = transformers.AutoConfig.from_pretrained(private, trust_remote_code=False)
            known = getattr(transformers, auto_model)._model_mapping
            if type(self.config) not in known:
                raise TeacherError(
                    f"transformers has no {auto_model.removeprefix('AutoModel')} model of the type "
                    f"{self.config.model_type!r} of {folder}",
                    fix="export it to ONNX where its code is, and give the .onnx file with --student none",
                )
            kinds = known[type(self.config)]
        named = {*(self.config.architectures or ())}
        several = kinds if isinstance(kinds, tuple) else (kinds,)
        self.kind = next((one for one in several if one.__name__ in named), several[0])
        self.model = self.kind.__name__
        bases = transformers.AutoModel._model_mapping
        if type(self.config) in bases and not isinstance(bases[type(self.config)], tuple):
            self.base_model = bases[type(self.config)].__name__

    def __call__(self, shapes: Mapping[str, list[int]]) -> loading.Faults:
        """Raises TeacherError where transformers cannot match these names."""
        if self.expected is not None:
            return loading.compared(self.expected, shapes)
        import torch

        state = {name: torch.empty(size, device="meta") for name, size in shapes.items()}
        with loading.by_transformers(self.folder):
            model, told = self.kind.from_pretrained(
                None,
                config=self.config,
                state_dict=state,
                device_map="meta",
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                attn_implementation="eager",
            )
        return loading.faults(told, shapes.keys(), model.base_model_prefix, self.purpose)

    def plainly(self, shapes: Mapping[str, list[int]]) -> loading.Faults:
        """The same by the model's own names alone."""
        import torch

        with loading.by_transformers(self.folder), torch.device("meta"):
            state = self.kind(self.config).state_dict()
        return loading.compared({name: tuple(value.shape) for name, value in state.items()}, shapes)

    def fits(self, shapes: Mapping[str, list[int]]) -> bool:
        """Whether these names have no faults; transformers raises at some that are no model's."""
        try:
            return not self(shapes)
        except TeacherError:
            return False


def _shapes(folder: Path) -> dict[str, list[int]]:
    """Names and shapes in the safetensors files that inspecting has checked already."""
    found: dict[str, list[int]] = {}
    for file in _files.weight_files(folder):
        found |= {name: told["shape"] for name, told in _safetensors.header(file).items()}
    return found


def _renamed(folder: Path, names: Mapping[str, str]) -> Path:
    """A folder in the store like this one, whose weights have these names; in one file."""
    files = _files.weight_files(folder)
    beside = _files.beside(folder)
    key = {
        "weights": [file_sha256(file) for file in files],
        "names": digest(dict(names)),
        "beside": _files.told(folder, beside),
    }

    def produce(out: Path) -> None:
        _files.copy_files(beside, folder, out)
        index: dict[str, str] = {}
        for file in files:
            index |= dict.fromkeys(_safetensors.renamed(file, out / file.name, names), file.name)
        if len(files) > 1:
            said = {"metadata": {}, "weight_map": index}
            (out / "model.safetensors.index.json").write_text(json.dumps(said), encoding="utf-8")

    return open_store().stage("unwrapped", key, produce, of=folder.name)
