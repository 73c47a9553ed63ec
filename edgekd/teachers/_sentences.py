"""What a sentence-transformers folder says of how its embeddings are made: pooling, and the layers behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import TeacherError
from edgekd.data import limits
from edgekd.teachers import _files, _pickles, _safetensors, _sentence_files, _sentence_graph
from edgekd.teachers._sentence_files import MODES, MODULES, SENTENCE

if TYPE_CHECKING:
    import numpy as np

PROMPTS = "config_sentence_transformers.json"
_SENTENCES = (  # what older releases call it, by the kind of encoder; the first that is there counts
    SENTENCE,
    *(f"sentence_{kind}_config.json" for kind in ("roberta", "distilbert", "camembert", "albert", "xlm-roberta")),
    "sentence_xlnet_config.json",
)
_LIBRARY = "sentence_transformers."  # modules of other packages make embeddings in ways of their own
_ACTIVATIONS = {  # the last part of torch's class name: the operator of ONNX, empty where it does nothing
    "Tanh": "Tanh",
    "ReLU": "Relu",
    "Sigmoid": "Sigmoid",
    "GELU": "Gelu",
    "Identity": "",
}
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_WIDTHS = ("hidden_size", "d_model", "dim")  # in config.json, the first that is there
_MOST_MODULES = 16
_FEWEST_TOKENS = 4  # that the longest text may have, as for --max-tokens
_MOST_WIDTH = 65_536


@dataclass(frozen=True)
class Sentences:
    """How a folder makes one embedding of the encoder's outputs, in plain values.

    `layers` are dictionaries with a `kind`: `dense` (folder, inputs, outputs, bias, activation, residual), `normalize`,
    `layer_norm` (folder, outputs).
    """

    pooling: tuple[str, ...] = ("mean",)
    layers: tuple[Mapping[str, Any], ...] = ()
    max_tokens: int | None = None
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """What a plan holds of it."""
        return {"pooling": list(self.pooling), "layers": [dict(layer) for layer in self.layers]}


def described(
    architecture: Mapping[str, Any], folder: Path, config: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """An encoder's architecture with `sentence`, how one embedding is made of its outputs; and notes for the report.

    Its longest text is the folder's, where that is shorter. Raises TeacherError as `read` does.
    """
    named = (architecture.get("hidden"), *(config.get(name) for name in _WIDTHS))
    width = next((value for value in named if type(value) is int), None)
    found = read(folder, width)
    limited = [tokens for tokens in (architecture.get("max_tokens"), found.max_tokens) if tokens]
    more: dict[str, Any] = {"max_tokens": min(limited)} if limited else {}
    told = {"notes": list(found.notes)} if found.notes else {}
    return {**architecture, **more, "sentence": found.as_dict() | {"width": width} | told}, found.notes


def check_place(folder: Path) -> None:
    """Raises TeacherError for a sentence-transformers folder whose encoder lies elsewhere, or is none."""
    if (folder / "config.json").exists() or not (folder / MODULES).exists():
        return
    modules = _modules(folder)
    if not modules or _kind(modules[0], folder) != "Transformer":
        raise _unknown(folder, f"{MODULES} does not begin with a Transformer")
    inner = _place(modules[0], folder)
    if (inner / "config.json").exists():
        raise TeacherError(
            f"the encoder of {folder} lies in {inner.name}, as older releases of sentence-transformers wrote it",
            fix=f"copy its files one folder up: cp {quote(str(inner))}/* {quote(str(folder))}",
        )


def append(folder: Path, architecture: Mapping[str, Any], graph: Any) -> None:
    """Add the output `sentence_embedding` to an encoder's ONNX graph, as its `sentence` says."""
    sentence = architecture["sentence"]
    _sentence_graph.append(graph, sentence, [weights_of(folder, layer) for layer in sentence["layers"]])


def read(folder: Path, width: int | None) -> Sentences:
    """How the folder makes embeddings; the mean over tokens where it is no sentence-transformers folder.

    `width` is that of the encoder's outputs, where it is known. Raises TeacherError for a damaged file, for a layer
    that edgekd does not know, and for weights of another shape than their layer has.
    """
    if not (folder / MODULES).exists():
        return Sentences(notes=_above(folder))
    modules = _modules(folder)
    kinds = [_kind(module, folder) for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or "Pooling" in kinds[2:]:
        raise _unknown(folder, f"{MODULES} lists {limits.shown(', '.join(kinds))}; first come Transformer and Pooling")
    pooling = _pooling(_place(modules[1], folder) / "config.json")
    width = width and width * len(pooling)
    layers = []
    for module, kind in zip(modules[2:], kinds[2:], strict=True):
        if kind == "Dropout":  # does nothing once a model is trained
            continue
        layer = _layer(module, kind, folder, width)
        width = layer.get("outputs", width)
        layers.append(layer)
    return Sentences(pooling, tuple(layers), _most_tokens(folder), _prompts(folder))


def read_files(folder: Path) -> tuple[str, ...]:
    """The files that decide how embeddings are made, by their path in the folder: those that are there."""
    named = [MODULES, *_SENTENCES, PROMPTS]
    if (folder / MODULES).exists():
        inner = ("config.json", *_WEIGHTS)
        named += sorted(path.relative_to(folder).as_posix() for name in inner for path in folder.glob(f"*/{name}"))
    return tuple(name for name in named if (folder / name).is_file())


def write_files(folder: Path, architecture: Mapping[str, Any], out: Path) -> None:
    """Write what sentence-transformers needs to open the model in `out` and to make the same embeddings.

    Every file is written anew: nothing else of the folder comes along. Nothing, where no width is known.
    """
    sentence = architecture["sentence"]
    if sentence["width"] is not None:
        arrays = [weights_of(folder, layer) for layer in sentence["layers"]]
        _sentence_files.write(out, sentence, arrays, architecture.get("max_tokens"))


def weights_of(folder: Path, layer: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """The weights of a layer, float32, by their names in its file; none of a layer without weights."""
    import numpy as np
    from safetensors import safe_open

    if "folder" not in layer:
        return {}
    # through torch: numpy knows no bfloat16
    with safe_open(_weights(folder / layer["folder"]), framework="pt") as file:
        return {name: file.get_tensor(name).float().numpy().astype(np.float32) for name in sorted(file.keys())}


def _layer(module: Any, kind: str, folder: Path, width: int | None) -> dict[str, Any]:
    if kind == "Normalize":
        return {"kind": "normalize"}
    if kind == "LayerNorm":
        place = _place(module, folder)
        size = _size(place / "config.json", _object(place / "config.json").get("dimension"))
        _check_shapes(place, {"norm.weight": [size], "norm.bias": [size]}, width, size)
        return {"kind": "layer_norm", "folder": place.name, "outputs": size}
    if kind == "Dense":
        return _dense(_place(module, folder), width)
    raise _unknown(folder, f"{MODULES} has a {limits.shown(kind)} layer")


def _dense(place: Path, width: int | None) -> dict[str, Any]:
    file = place / "config.json"
    config = _object(file)
    inputs, outputs = (_size(file, config.get(key)) for key in ("in_features", "out_features"))
    bias, residual = config.get("bias", True), config.get("use_residual", False)
    if not isinstance(bias, bool) or not isinstance(residual, bool):
        raise _damaged(file, "bias and use_residual are true or false")
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise _unknown(place.parent, f"{place.name}/config.json has {key} {limits.shown(config[key])}")
    named = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    activation = str(named).rpartition(".")[2]
    if not str(named).startswith("torch.nn.") or activation not in _ACTIVATIONS:
        raise _unknown(place.parent, f"{place.name}/config.json has the activation {limits.shown(named)}")
    shapes = {"linear.weight": [outputs, inputs]}
    shapes |= {"linear.bias": [outputs]} if bias else {}
    shapes |= {"residual.weight": [outputs, inputs]} if residual and inputs != outputs else {}
    _check_shapes(place, shapes, width, inputs)
    return {
        "kind": "dense",
        "folder": place.name,
        "inputs": inputs,
        "outputs": outputs,
        "bias": bias,
        "activation": activation,
        "operator": _ACTIVATIONS[activation],
        "residual": residual,
    }


def _check_shapes(place: Path, shapes: Mapping[str, list[int]], width: int | None, inputs: int) -> None:
    """Raises TeacherError where the layer's weights are not these, or it takes another width than comes before it."""
    if width not in (None, inputs):
        raise _damaged(place / "config.json", f"it takes {inputs} values, and {width} come to it")
    file = _weights(place)
    header = _safetensors.check(file)
    held = {name: list(tensor["shape"]) for name, tensor in header.items()}
    if held != shapes:
        raise TeacherError(
            f"the weights {file} are {limits.shown(held)}; config.json beside them asks for "
            f"{limits.shown(dict(shapes))}",
            fix="save the model again: model.save(folder)",
        )


def _weights(place: Path) -> Path:
    """The layer's weights as safetensors; a pickle's copy in the store."""
    found = next((place / name for name in _WEIGHTS if (place / name).is_file()), None)
    if found is None:
        raise TeacherError(
            f"{place} has no weights (none of {', '.join(_WEIGHTS)})", fix="copy the whole folder of the model again"
        )
    return found if found.suffix == ".safetensors" else _pickles.converted(found)[0]


def _pooling(file: Path) -> tuple[str, ...]:
    """The pooling's modes, in the order in which their outputs are joined."""
    config = _object(file)
    said = config.get("pooling_mode")
    if said is None:
        modes = [mode for name, mode in MODES.items() if config.get(name)]
        unknown = [name for name in config if name.startswith("pooling_mode_") and name not in MODES and config[name]]
        if unknown:
            raise _unknown(file.parent.parent, f"{file.parent.name}/config.json has {limits.shown(unknown[0])}")
        return tuple(modes) or ("mean",)  # as sentence-transformers has it
    modes = [said] if isinstance(said, str) else said
    if (
        not isinstance(modes, list)
        or not modes
        or len(modes) > len(MODES)
        or not {*MODES.values()} >= {*map(str, modes)}
    ):
        raise _unknown(file.parent.parent, f"{file.parent.name}/config.json has the pooling_mode {limits.shown(said)}")
    return tuple(modes)


def _most_tokens(folder: Path) -> int | None:
    """The longest text in tokens. Raises TeacherError where letters are made small that the tokenizer leaves as are."""
    file = next((folder / name for name in _SENTENCES if (folder / name).exists()), None)
    if file is None:
        return None
    said = _object(file)
    if said.get("do_lower_case") and not _lower_cases(folder):
        raise TeacherError(
            f"{file} has do_lower_case, and the tokenizer keeps capitals: the bundle's would differ",
            fix="save the model with a tokenizer that makes letters small, or set do_lower_case to false",
        )
    most = said.get("max_seq_length")
    if most is not None and (type(most) is not int or most < _FEWEST_TOKENS):
        raise _damaged(file, f"max_seq_length is {limits.shown(most)}")
    return most


def _lower_cases(folder: Path) -> bool:
    """Whether the tokenizer's own normalizer makes letters small."""
    try:
        normalizer = _files.read_json(folder / "tokenizer.json").get("normalizer")
    except (OSError, ValueError):
        return False
    parts = normalizer.get("normalizers", [normalizer]) if isinstance(normalizer, dict) else []
    return any(
        isinstance(part, dict) and (part.get("type") == "Lowercase" or part.get("lowercase") is True) for part in parts
    )


def _prompts(folder: Path) -> tuple[str, ...]:
    """What to tell of prompts: who embeds a text puts them before it."""
    said = _object(folder / PROMPTS) if (folder / PROMPTS).exists() else {}
    prompts = said.get("prompts")
    used = sorted(str(name) for name, text in prompts.items() if text) if isinstance(prompts, dict) else []
    if not used:
        return ()
    default = said.get("default_prompt_name")
    first = f"sentence-transformers puts {limits.shown(default)} first by default; " if default else ""
    return (
        f"{PROMPTS} names prompts ({limits.shown(', '.join(used))}): {first}the bundle embeds a text as it is given",
    )


def _modules(folder: Path) -> list[Any]:
    modules = _read(folder / MODULES, limits.read_json)
    if not isinstance(modules, list) or len(modules) > _MOST_MODULES:
        raise _damaged(folder / MODULES, "it is no list of modules")
    return modules


def _above(folder: Path) -> tuple[str, ...]:
    """What to tell where a folder above names this one as its encoder: how it makes embeddings is not read then."""
    above = folder.parent / MODULES
    try:
        modules = limits.read_json(above) if above.is_file() else []
    except (OSError, ValueError):
        return ()
    first = modules[0] if isinstance(modules, list) and modules else {}
    if not isinstance(first, dict) or first.get("path") != folder.name:
        return ()
    return (f"{MODULES} one folder above is not read; give that folder, {folder.parent.name}, to have what it says",)


def _kind(module: Any, folder: Path) -> str:
    """`Pooling` of `sentence_transformers.models.Pooling`. Raises TeacherError for a module of another package."""
    if not isinstance(module, dict) or not isinstance(module.get("type"), str):
        raise _damaged(folder / MODULES, "a module has no type")
    if not module["type"].startswith(_LIBRARY):
        raise _unknown(folder, f"{MODULES} has a module of another package, {limits.shown(module['type'])}")
    return str(module["type"].rpartition(".")[2])


def _place(module: dict[str, Any], folder: Path) -> Path:
    """The module's folder, one level below. Raises TeacherError for a path that leads elsewhere."""
    name = module.get("path")
    if not isinstance(name, str) or not name or Path(name).name != name or "\x00" in name or name == "..":
        raise _damaged(folder / MODULES, f"it names the folder {limits.shown(name)}")
    _files.check_folder(folder, name, f"{name}/*")
    return folder / name


def _size(file: Path, value: Any) -> int:
    if type(value) is not int or not 1 <= value <= _MOST_WIDTH:
        raise _damaged(file, f"a width is {limits.shown(value)}")
    return value


def _object(file: Path) -> dict[str, Any]:
    said: dict[str, Any] = _read(file, limits.read_object)
    return said


def _read(file: Path, read: Callable[[Path], Any]) -> Any:
    if not file.exists():
        raise _damaged(file, "it is missing")
    try:
        return read(file)
    except (OSError, ValueError) as error:
        raise _damaged(file, str(error)) from error


def _damaged(file: Path, why: str) -> TeacherError:
    return TeacherError(f"cannot read {file}: {why}", fix="restore it, or save the model again: model.save(folder)")


def _unknown(folder: Path, why: str) -> TeacherError:
    return TeacherError(
        f"edgekd does not know how the embeddings of {folder} are made: {why}",
        fix="give a model of Transformer, Pooling (cls, max, mean, weightedmean, lasttoken) and Dense, LayerNorm or "
        "Normalize layers behind it; or its encoder alone: a folder without modules.json gives the mean over tokens",
    )
