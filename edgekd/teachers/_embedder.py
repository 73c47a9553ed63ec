"""An encoder with what makes one embedding of its tokens' outputs, in torch: what `_sentence_graph` adds to a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgekd.teachers import _sentence_files

_LEAST = 1e-9  # no division by a smaller number of tokens, as sentence-transformers has it
_RIDGE = 0.003  # of the pooled outputs' variance: there may be fewer rows than outputs
_FAR = -3.0e38  # below any output: of tokens that are padding


@dataclass(frozen=True)
class Embedded:
    """What an `Embedder` gives: `logits` are the embeddings (batch, width), the rest is the encoder's own."""

    logits: Tensor
    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] | None = None


class Embedder(torch.nn.Module):
    """`Embedder(encoder, sentence, weights)(**batch)`, told as `_sentence_graph.append` is.

    The weights of its layers are trained with the encoder's. `save_pretrained` writes a sentence-transformers folder.
    """

    base_model_prefix = "encoder"

    def __init__(
        self,
        encoder: Any,
        sentence: Mapping[str, Any],
        weights: Sequence[Mapping[str, Any]],
        max_tokens: int | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.sentence, self.max_tokens = encoder, dict(sentence), max_tokens
        self.tail = torch.nn.ModuleList(
            torch.nn.ParameterDict(
                {
                    name.replace(".", "_"): torch.nn.Parameter(torch.as_tensor(value, dtype=torch.float32).clone())
                    for name, value in arrays.items()
                }
            )
            for arrays in weights
        )

    @property
    def config(self) -> Any:
        """The encoder's."""
        return self.encoder.config

    @property
    def device(self) -> torch.device:
        """Where the encoder is."""
        found: torch.device = self.encoder.device
        return found

    def pooled(self, outputs: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Return the tokens' outputs (batch, tokens, width) pooled, as the layers take them."""
        mask = batch["attention_mask"].to(outputs) if "attention_mask" in batch else outputs.new_ones(outputs.shape[:2])
        return torch.cat([_POOLINGS[mode](outputs, mask) for mode in self.sentence["pooling"]], dim=-1)

    def forward(self, **batch: Any) -> Embedded:
        """Embeddings of a batch, and the encoder's outputs."""
        said = self.encoder(**batch)
        outputs = said.last_hidden_state
        value = self.pooled(outputs, batch)
        for layer, weights in zip(self.sentence["layers"], self.tail, strict=True):
            value = _LAYERS[layer["kind"]](value, layer, weights)
        return Embedded(value, outputs, getattr(said, "hidden_states", None))

    def save_pretrained(self, folder: Path, *, safe_serialization: bool = True) -> None:
        """Write the encoder's files, and those that say how its embeddings are made."""
        self.encoder.save_pretrained(folder, safe_serialization=safe_serialization)
        arrays = [
            {name.replace("_", ".", 1): value.detach().cpu().numpy() for name, value in weights.named_parameters()}
            for weights in self.tail
        ]
        _sentence_files.write(Path(folder), self.sentence, arrays, self.max_tokens)


def of_student(encoder: Any, teacher: Embedder, max_tokens: int) -> Embedder:
    """Return a student's encoder with its teacher's pooling and a linear layer to the teacher's width.

    The layer starts as the identity where the teacher has none of its own and widths agree, elsewhere from torch's
    random numbers. Embeddings are scaled to length 1 where the teacher's are.
    """
    pooling, layers = teacher.sentence["pooling"], teacher.sentence["layers"]
    inputs = encoder.config.hidden_size * len(pooling)
    weighted = [layer["outputs"] for layer in layers if "outputs" in layer]
    outputs = weighted[-1] if weighted else teacher.config.hidden_size * len(pooling)
    linear = torch.nn.Linear(inputs, outputs)
    if inputs == outputs and not weighted:
        torch.nn.init.eye_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    own: dict[str, Any] = {
        "kind": "dense",
        "folder": "2_Dense",
        "inputs": inputs,
        "outputs": outputs,
        "bias": True,
        "activation": "Identity",
        "operator": "",
        "residual": False,
    }
    weights: list[Mapping[str, Any]] = [{"linear.weight": linear.weight.data, "linear.bias": linear.bias.data}]
    made = [own]
    if layers and layers[-1]["kind"] == "normalize":
        made, weights = [own, {"kind": "normalize"}], [*weights, {}]
    sentence = {"pooling": list(pooling), "layers": made, "width": encoder.config.hidden_size}
    return Embedder(encoder, sentence, weights, max_tokens).eval()


def fit_linear(student: Embedder, pooled: Tensor, wanted: Tensor) -> None:
    """Set a student's linear layer by ridge regression: from pooled outputs (rows, inputs) to embeddings (rows, width).

    Half of what a cut can learn is in that; gradients go on from there.
    """
    from sklearn.linear_model import Ridge

    strength = _RIDGE * len(pooled) * float(pooled.var(dim=0).mean())
    found = Ridge(alpha=strength).fit(pooled.double().numpy(), wanted.double().numpy())
    weights: Any = student.tail[0]
    with torch.no_grad():
        weights["linear_weight"].copy_(torch.from_numpy(found.coef_))
        weights["linear_bias"].copy_(torch.from_numpy(found.intercept_))


def _first(outputs: Tensor, mask: Tensor) -> Tensor:
    return _at(outputs, mask.argmax(dim=1))


def _last(outputs: Tensor, mask: Tensor) -> Tensor:
    places = torch.arange(mask.shape[1], device=mask.device)
    return _at(outputs, torch.where(mask > 0, places, -1).argmax(dim=1))


def _at(outputs: Tensor, places: Tensor) -> Tensor:
    return outputs[torch.arange(len(outputs), device=outputs.device), places]


def _most(outputs: Tensor, mask: Tensor) -> Tensor:
    found: Tensor = outputs.masked_fill(mask[:, :, None] <= 0, _FAR).max(dim=1).values
    return found


def _weighted(outputs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    return (outputs * weights[:, :, None]).sum(dim=1), weights.sum(dim=1, keepdim=True).clamp(min=_LEAST)


def _mean(outputs: Tensor, mask: Tensor) -> Tensor:
    total, count = _weighted(outputs, mask)
    return total / count


def _mean_by_root(outputs: Tensor, mask: Tensor) -> Tensor:
    total, count = _weighted(outputs, mask)
    return total / count.sqrt()


def _mean_by_position(outputs: Tensor, mask: Tensor) -> Tensor:
    total, count = _weighted(outputs, mask.cumsum(dim=1) * mask)
    return total / count


def _dense(value: Tensor, layer: Mapping[str, Any], weights: Any) -> Tensor:
    made = functional.linear(value, weights["linear_weight"], weights["linear_bias"] if layer["bias"] else None)
    if layer["operator"]:
        made = _ACTIVATIONS[layer["operator"]](made)
    if not layer["residual"]:
        return made
    beside = functional.linear(value, weights["residual_weight"]) if "residual_weight" in weights else value
    return made + beside


def _normalize(value: Tensor, _layer: Mapping[str, Any], _weights: Any) -> Tensor:
    return functional.normalize(value, dim=-1)


def _layer_norm(value: Tensor, layer: Mapping[str, Any], weights: Any) -> Tensor:
    return functional.layer_norm(value, [layer["outputs"]], weights["norm_weight"], weights["norm_bias"])


_POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": _first,
    "max": _most,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_by_root,
    "weightedmean": _mean_by_position,
    "lasttoken": _last,
}
_LAYERS: dict[str, Callable[[Tensor, Mapping[str, Any], Any], Tensor]] = {
    "dense": _dense,
    "normalize": _normalize,
    "layer_norm": _layer_norm,
}
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "Tanh": torch.tanh,
    "Relu": functional.relu,
    "Sigmoid": torch.sigmoid,
    "Gelu": functional.gelu,
}
