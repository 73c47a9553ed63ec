"""The torch side of early exits: their heads, and the smaller models that they are part of."""

from __future__ import annotations

from collections import OrderedDict
from copy import deepcopy
from typing import Any

from torch import Tensor
from torch.nn import Module, ReLU, Sequential

from edgekd.students._network import Network


def head(model: Network, shape: Any) -> Sequential:
    """What stands behind the layers of a network of this shape: from its last layer's output to logits.

    With the weights of the model's own head where all shapes agree; else fresh. In the model's mode.
    """
    fresh: Network = shape.random()
    names = [name for name, _ in fresh.body.named_children()]
    parts = {name: fresh.body.get_submodule(name) for name in names[names.index(fresh.layered) + 1 :]}
    made = Sequential(OrderedDict({**parts, "head": fresh.head}))
    own, state = model.state_dict(), made.state_dict()
    if all(own[_in_network(name)].shape == value.shape for name, value in state.items()):
        made.load_state_dict({name: own[_in_network(name)] for name in state})
    return made.train(model.training)


def cut(model: Network, shape: Any, exit_head: Module) -> Network:
    """A network of this shape, whose layers are the model's first ones, behind them the exit's head."""
    made: Network = shape.random()
    exits = {_in_network(name): value for name, value in exit_head.state_dict().items()}
    state = model.state_dict() | exits
    made.load_state_dict({name: state[name] for name in made.state_dict()})
    made.config.id2label = dict(model.config.id2label)
    return made


def _in_network(name: str) -> str:
    """An exit head's weight under the name that it has in a network."""
    return name if name.startswith("head.") else f"body.{name}"


def text_head(model: Any) -> Sequential:
    """A copy of a classifier's own head, on hidden states (batch, tokens, hidden) of any of its layers."""
    parts: dict[str, Module] = {"classifier": model.classifier}  # for most types it takes the first token itself
    if type(model).__name__.endswith("ForTokenClassification"):
        return deepcopy(Sequential(OrderedDict(parts)))  # each token's logits
    if model.config.model_type == "bert":
        parts = {"pooler": model.bert.pooler, "dropout": model.dropout, **parts}
    elif model.config.model_type == "distilbert":
        first = {"first": _FirstToken(), "pre_classifier": model.pre_classifier, "activation": ReLU()}
        parts = {**first, "dropout": model.dropout, **parts}
    return deepcopy(Sequential(OrderedDict(parts)))


def cut_text(model: Any, layers: int, exit_head: Sequential) -> Any:
    """A classifier of the same type with the model's first layers, behind them the exit's head."""
    config = deepcopy(model.config)
    config.num_hidden_layers = layers
    made = type(model)(config)
    state = model.state_dict()
    made.load_state_dict({name: state[name] for name in made.state_dict()})
    for name, part in exit_head.named_children():
        if name == "pooler":
            made.bert.pooler.load_state_dict(part.state_dict())
        elif name in ("pre_classifier", "classifier"):
            made.get_submodule(name).load_state_dict(part.state_dict())
    return made.eval()


class _FirstToken(Module):
    """(batch, tokens, hidden) to (batch, hidden)."""

    def forward(self, hidden: Tensor) -> Tensor:
        """The first token's."""
        return hidden[:, 0]
