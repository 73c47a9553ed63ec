"""What the recipes share: calibration in ONNX Runtime's form, and the proof that a recipe did something."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import EdgeKDError

if TYPE_CHECKING:
    from edgekd.core.protocols import Sample


class Reader:
    """Calibration samples, one at a time, with the inputs that the model takes."""

    def __init__(self, model: Path, samples: Sequence[Sample]) -> None:
        import onnx

        graph = onnx.load(model, load_external_data=False).graph
        self.names = [node.name for node in graph.input]
        self.samples = samples
        self.rewind()

    def get_next(self) -> dict[str, Any] | None:
        """The next sample, or None at the end."""
        sample = next(self._left, None)
        return None if sample is None else {name: sample[name] for name in self.names}

    def rewind(self) -> None:
        """Start again."""
        self._left = iter(self.samples)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Read only this part: ONNX Runtime calibrates in strides."""
        self._left = iter(self.samples[start_index:end_index])

    def __len__(self) -> int:
        return len(self.samples)


def products_of_activations(model: Path) -> list[str]:
    """Names of the matrix products without a constant side: attention's, which int8 ruins."""
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    return [node.name for node in graph.node if node.op_type == "MatMul" and not constants & set(node.input)]


def has_operator(model: Path, operator: str) -> bool:
    """Whether the model holds an operator of that type."""
    import onnx

    return any(node.op_type == operator for node in onnx.load(model, load_external_data=False).graph.node)


def must_have(model: Path, operators: tuple[str, ...], *, recipe: str) -> None:
    """Raises EdgeKDError where the written model holds none of these operators: a silent no-op is an error."""
    if not any(has_operator(model, operator) for operator in operators):
        raise EdgeKDError(
            f"{recipe} quantized nothing: the model has no operator that it applies to",
            fix="take the recipe out of the profile's recipes",
        )
