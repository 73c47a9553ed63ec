"""A first run of an ONNX teacher, in a process of its own: it answers, with numbers, as the file that it came from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import DataError, TeacherError

if TYPE_CHECKING:
    import numpy as np

_LIMIT = 1e-3  # largest difference of an output, relative to the largest: another order of sums, nothing more
MIB_PER_S = 4  # of file for each second more: EfficientNet-B7 (66 MB, 600 pixels) takes ten on one thread
_SHORT = 8  # tokens; or steps, where a graph takes any
FIX = (
    "give an undamaged model that onnxruntime runs by itself; this one may be made to harm. One that you trust, and "
    "that is slow on long texts, is run on shorter ones by a smaller model_max_length in tokenizer_config.json"
)


def shapes(architecture: Mapping[str, Any]) -> list[list[int]]:
    """A short and the longest text; an image; a series."""
    if "max_tokens" in architecture:
        return [[1, min(_SHORT, architecture["max_tokens"])], [1, architecture["max_tokens"]]]
    if "max_size" in architecture:
        side = architecture["max_size"]
        return [[1, architecture["channels"], side, side]]
    shape = architecture["shape"]
    return [[1, shape.get("steps", _SHORT), shape.get("channels", 1)]]


def compare(
    original: str,
    written: str,
    names: dict[str, str],
    output: str,
    given: str,
    left_out: str,
    shapes: list[list[int]],
    gives: list[int | None],
    tokens: int,
    *,
    one_value: bool = False,
) -> float:
    """Run both files on random inputs of these shapes (in a child process); the largest difference of outputs.

    Raises TeacherError where one of them does not run, gives NaN or infinity, something else at each run, another
    shape than it `gives` on paper, or where they disagree; unless `one_value` is enough, where it gives but one.
    """
    import numpy as np

    random = np.random.default_rng(0)
    worst = 0.0
    theirs, ours = _session(original), _session(written)
    for number, shape in enumerate(shapes):
        samples = {new: _random(new, shape, tokens, random) for new in names.values()}
        try:
            said = theirs.run([given], _as_taken(theirs, {old: samples[new] for old, new in names.items()}))[0]
            feeds = {node.name: samples[node.name] for node in ours.get_inputs()}
            own = ours.run([output], feeds)[0]
            # once is enough: the longest text of a large model takes seconds
            again = own if number else ours.run([output], feeds)[0]
        except Exception as error:  # ONNX Runtime raises a dozen unrelated kinds
            raise TeacherError(
                f"{original} fails on an input of {shape}: {str(error).splitlines()[0]}",
                fix="check the sizes that config.json, tokenizer_config.json (model_max_length) or "
                "preprocessor_config.json name, and that onnxruntime runs the file by itself",
            ) from error
        if not (np.isfinite(said).all() and np.isfinite(own).all()):
            raise TeacherError(
                f"{original} gives NaN or infinity on a random input of {shape}", fix="give an undamaged model"
            )
        if own.ndim != len(gives) or any(
            known not in (None, real) for known, real in zip(gives, own.shape, strict=True)
        ):
            raise TeacherError(
                f"{original} declares an output of {tuple(gives)} and gives {own.shape}",
                fix="mend the output's shape in the file, or export it again",
            )
        if own.ndim == 2 and own.shape[1] == 1 and not one_value:  # its number of outputs was free on paper
            raise TeacherError(
                f"{original} gives one value, not a value for each class: agreement would say nothing of it",
                fix="give a model that tells at least two classes, or two labels, apart",
            )
        if not np.array_equal(own, again):
            raise TeacherError(
                f"{original} answers the same input in two ways: it holds random operators",
                fix="export it for inference: model.eval() before torch.onnx.export",
            )
        if left_out == "Softmax":
            powers = np.exp(own - own.max(axis=-1, keepdims=True))
            own = powers / powers.sum(axis=-1, keepdims=True)
        elif left_out == "Sigmoid":
            own = 1 / (1 + np.exp(-own.clip(-80, 80)))
        worst = max(worst, float(np.abs(said - own).max()) / max(1.0, float(np.abs(said).max())))
    if not worst < _LIMIT:
        raise TeacherError(
            f"{original} says something else after its preparation: outputs differ by {worst:.2g}",
            fix="this is a fault of edgekd: please report it with the command that you ran",
        )
    return worst


def _as_taken(session: Any, feed: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """The inputs, token ids as int32 where the file itself takes them so."""
    narrow = {node.name for node in session.get_inputs() if node.type == "tensor(int32)"}
    return {name: values.astype("int32") if name in narrow else values for name, values in feed.items()}


def run(source: str, inputs: str, program: str = "forward") -> None:
    """Run a file on packed samples (in a child process). Raises TeacherError, DataError where it cannot."""
    from edgekd.onboard.programs import open_program
    from edgekd.onboard.runner import unpack

    session = _session(source)
    opened = open_program(program, {"model": session})
    for sample in unpack(Path(inputs)):
        try:
            feed = opened.feed(sample)
        except ValueError as error:
            names = [node.name for node in session.get_inputs() if node.name not in sample]
            raise DataError(
                f"the inputs lack {', '.join(names)}, which {source} takes; they hold {', '.join(sample)}",
                fix="give inputs that were made for this model",
            ) from error
        try:
            opened.run(None, feed)
        except Exception as error:  # as above
            raise TeacherError(
                f"{source} does not run on these inputs: {str(error).splitlines()[0]}",
                fix="give inputs of the model's types and shapes",
            ) from error


def _session(path: str) -> Any:
    from edgekd.onboard.runner import open_session

    try:
        return open_session(path, threads=1)
    except Exception as error:  # as above
        raise TeacherError(
            f"ONNX Runtime refuses {path}: {str(error).splitlines()[0]}", fix="export it again, or fetch it again"
        ) from error


def _random(name: str, shape: list[int], tokens: int, random: np.random.Generator) -> np.ndarray[Any, Any]:
    """A mask of ones, types of zero, any tokens, or normal values."""
    import numpy as np

    if name in ("attention_mask", "token_type_ids"):
        return np.full(shape, name == "attention_mask", dtype=np.int64)
    if name == "input_ids":
        return random.integers(0, tokens, shape)
    return random.standard_normal(shape).astype(np.float32)
