"""A model that also gives what losses want of it: its layers' outputs, queries, keys and values, early exits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from edgekd.core.tensors import Outputs, RequestedOutputs, embeds

_PROJECTIONS = (("query", "q_lin", "q"), ("key", "k_lin", "k"), ("value", "v_lin", "v"))  # as model types name them


class FeatureExtractor:
    """`FeatureExtractor(model, wanted)(batch)` runs a Hugging Face model or one of our networks; its `Outputs`.

    `exits` maps a layer to the module that takes the layer's own output to logits. Gradients flow through all that is
    given. Nothing wanted, nothing done: the model runs as it is. `close`, or the end of a `with`, takes the hooks off.
    """

    def __init__(
        self, model: Any, wanted: RequestedOutputs, exits: Mapping[int, torch.nn.Module] | None = None
    ) -> None:
        self.model, self.wanted, self.exits = model, wanted, dict(sorted((exits or {}).items()))
        self._embeds = embeds(model)  # its main output is the embedding
        deep = bool(wanted.layers or (wanted.embedding and not self._embeds) or self.exits)
        own: Sequence[torch.nn.Module] | None = getattr(model, "layers", None)
        self._layers = list(own) if own is not None and deep else []
        self._projections = [] if wanted.attention is None else _projections(model, wanted.attention)
        self._options = {"output_hidden_states": True} if own is None and deep else {}
        self._kept: dict[torch.nn.Module, Tensor] | None = None  # outputs by module, while a batch runs
        self._hooks = [module.register_forward_hook(self._keep) for module in (*self._layers, *self._projections)]

    def __call__(self, batch: Mapping[str, Tensor]) -> Outputs:
        """What the model gives for the batch, features of each layer wanted in the order that they were named in."""
        kept: dict[torch.nn.Module, Tensor] = {}
        self._kept = kept
        try:
            said = self.model(**batch, **self._options)
        finally:
            self._kept = None
        # hidden_states open with what the first layer reads
        layers = said.hidden_states[1:] if self._options else [kept[module] for module in self._layers]
        wanted, mask = self.wanted, batch["attention_mask"].bool() if "attention_mask" in batch else None
        return Outputs(
            logits=said.logits,
            features=tuple(by_position(layers[layer], batch, wanted.positions) for layer in wanted.layers),
            attention=tuple(kept[module] for module in self._projections),
            embedding=self._embedding(said, layers, batch, mask) if wanted.embedding else None,
            mask=mask if wanted.layers or self._projections or said.logits.dim() == 3 else None,
            exits=tuple(head(layers[layer]) for layer, head in self.exits.items()),
        )

    def _embedding(
        self, said: Any, layers: Sequence[Tensor], batch: Mapping[str, Tensor], mask: Tensor | None
    ) -> Tensor:
        """The model's own embedding; of one that has none the mean of its last layer."""
        if self._embeds:
            own: Tensor = said.logits
            return own
        return _mean(by_position(layers[-1], batch, None), mask)

    def __enter__(self) -> FeatureExtractor:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the model as it was."""
        for hook in self._hooks:
            hook.remove()

    def _keep(self, module: torch.nn.Module, _inputs: object, output: Tensor) -> None:
        if self._kept is not None:  # nothing is held of batches that others run
            self._kept[module] = output


def by_position(values: Tensor, batch: Mapping[str, Tensor], positions: int | None) -> Tensor:
    """A layer's output as (batch, positions, width), whatever its kind.

    A text's (batch, tokens, width) stays as it is. Averaged to `positions`, where that is given: an image's maps
    (batch, width, height, width) to a square grid, a series (batch, width, steps) to as many spans, the patches of a
    vision transformer (batch, class tokens and patches, width) as the map they are of, without the class tokens. A
    layer without positions (batch, width) has one.
    """
    if "input_ids" in batch:
        return values
    if values.dim() == 2:
        return values[:, None]
    if values.dim() == 3 and "pixel_values" in batch:
        side = isqrt(values.shape[1])  # images are square, and class tokens, which come first, one or two
        values = values[:, -(side**2) :].transpose(1, 2)
        values = values.reshape(*values.shape[:2], side, side)
    if positions is not None and values.dim() == 4:
        assert isqrt(positions) ** 2 == positions, "positions of an image form a square"
        values = torch.nn.functional.adaptive_avg_pool2d(values, isqrt(positions))
    elif positions is not None:
        values = torch.nn.functional.adaptive_avg_pool1d(values, positions)
    return values.flatten(2).transpose(1, 2)


def _mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Over the positions that hold data: (batch, positions, width) to (batch, width)."""
    if mask is None:
        return values.mean(dim=1)
    weights = mask[:, :, None].to(values.dtype)
    return (values * weights).sum(dim=1) / weights.sum(dim=1)


def _projections(model: Any, layer: int) -> list[torch.nn.Module]:
    """The linear modules that make the layer's queries, keys and values."""
    modules = [(name.rpartition(".")[2], module) for name, module in model.named_modules()]
    return [[module for name, module in modules if name in names][layer] for names in _PROJECTIONS]
