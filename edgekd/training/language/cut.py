"""A student cut from its teacher: the layers that matter, the tokens that the corpus needs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import TeacherError
from edgekd.core.tensors import NO_LABEL
from edgekd.data.packed import next_tokens

if TYPE_CHECKING:
    from torch import Tensor

    Batch = Mapping[str, Tensor]

SHORTLIST = 3  # layers of the least influence, each of which is left out once before one goes
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def run(model: Any, batch: Batch) -> Tensor:
    """Return logits (batch, tokens, vocabulary) of packed rows; passages do not see each other."""
    logits: Tensor = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    return logits


def mean_loss(model: Any, batches: Sequence[Batch]) -> float:
    """Return the mean negative log-likelihood of a token of packed rows, in nats."""
    import torch

    total, count = 0.0, 0
    with torch.no_grad():
        for batch in batches:
            wanted = torch.from_numpy(
                next_tokens(batch["input_ids"].cpu().numpy(), batch["position_ids"].cpu().numpy())
            )
            logits = run(model, batch)
            total += float(
                torch.nn.functional.cross_entropy(
                    logits.flatten(0, 1).float(),
                    wanted.flatten().to(logits.device),
                    ignore_index=NO_LABEL,
                    reduction="sum",
                )
            )
            count += int((wanted != NO_LABEL).sum())
    return total / max(1, count)


def layers_of(model: Any) -> tuple[Any, str]:
    """Return the module that holds the list of layers, and the list's name in it. Raises TeacherError."""
    import torch

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == model.config.num_hidden_layers:
            parent, _, last = name.rpartition(".")
            return model.get_submodule(parent), last
    raise TeacherError(
        f"a model of the type {model.config.model_type} has no list of layers: none can be removed",
        fix="give another teacher, or keep all layers",
    )


def remove_layers(
    model: Any, count: int, batches: Sequence[Batch], step: Callable[[int, str], object] = lambda done, note: None
) -> list[int]:
    """Remove layers in place until `count` are left; return which of the teacher's those are, counted from 0.

    One at a time: of the three that change their input least (by the cosine, Men et al. 2024, arXiv 2403.03853) that
    goes without which the model foresees these batches best; then all are measured again.
    """
    import torch

    holder, name = layers_of(model)
    kept = list(range(len(getattr(holder, name))))
    removed = 0
    while len(kept) > count:
        layers = list(getattr(holder, name))
        influence = _influence(model, layers, batches)
        tried = sorted(range(len(layers)), key=influence.__getitem__)[:SHORTLIST]
        losses = {}
        for place in tried:
            with _without(holder, name, place, model.config):
                losses[place] = mean_loss(model, batches)
        worst = min(losses, key=losses.__getitem__)
        del layers[worst]
        setattr(holder, name, torch.nn.ModuleList(layers))
        _settle(model.config, worst)
        removed += 1
        step(removed, f"layer {kept.pop(worst)} removed, loss {losses[worst]:.3f}")
    _number(getattr(holder, name))
    return kept


def take_layers(model: Any, kept: Sequence[int]) -> None:
    """Keep these layers in place, ascending: those that `remove_layers` found."""
    import torch

    holder, name = layers_of(model)
    layers = list(getattr(holder, name))
    for place in range(len(layers) - 1, -1, -1):
        if place not in kept:
            del layers[place]
            _settle(model.config, place)
    setattr(holder, name, torch.nn.ModuleList(layers))
    _number(layers)


def _number(layers: Sequence[Any]) -> None:
    """Give each layer its own place in the cache."""
    for number, layer in enumerate(layers):
        if hasattr(getattr(layer, "self_attn", None), "layer_idx"):
            layer.self_attn.layer_idx = number


def _settle(config: Any, removed: int) -> None:
    """Let a config say that a layer is gone."""
    config.num_hidden_layers -= 1
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        config.layer_types = [kind for place, kind in enumerate(kinds) if place != removed]


@contextmanager
def _without(holder: Any, name: str, place: int, config: Any) -> Iterator[None]:
    import torch

    whole, before = getattr(holder, name), (config.num_hidden_layers, copy.copy(getattr(config, "layer_types", None)))
    setattr(holder, name, torch.nn.ModuleList([layer for number, layer in enumerate(whole) if number != place]))
    _settle(config, place)
    try:
        yield
    finally:
        setattr(holder, name, whole)
        config.num_hidden_layers = before[0]
        if before[1] is not None:
            config.layer_types = before[1]


def _influence(model: Any, layers: Sequence[Any], batches: Sequence[Batch]) -> list[float]:
    """Return by how much each layer turns its input: one less the mean cosine of input and output."""
    import torch

    sums, count = [0.0] * len(layers), 0

    def watch(number: int) -> Any:
        def hook(_module: Any, inputs: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
            before = inputs[0] if inputs else keywords["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            sums[number] += float(torch.nn.functional.cosine_similarity(before.float(), after.float(), dim=-1).sum())

        return hook

    hooks = [layer.register_forward_hook(watch(number), with_kwargs=True) for number, layer in enumerate(layers)]
    try:
        with torch.no_grad():
            for batch in batches:
                run(model, batch)
                count += batch["input_ids"].numel()
    finally:
        for hook in hooks:
            hook.remove()
    return [1 - total / max(1, count) for total in sums]


def keep_tokens(model: Any, kept: Sequence[int]) -> None:
    """Keep these rows of embedding and head, in place; a tied head stays tied. `kept` is ascending."""
    import torch

    if len(kept) == model.get_input_embeddings().weight.shape[0]:
        return
    rows = torch.tensor(kept)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head.weight is embedding.weight
    with torch.no_grad():
        for table in (embedding,) if tied else (embedding, head):
            table.weight = torch.nn.Parameter(table.weight[rows.to(table.weight.device)].clone())
        if tied:
            head.weight = embedding.weight
        if getattr(head, "bias", None) is not None:
            head.bias = torch.nn.Parameter(head.bias[rows.to(head.bias.device)].clone())
    embedding.num_embeddings = head.out_features = len(kept)
    embedding.padding_idx = None
    new = {old: number for number, old in enumerate(kept)}
    model.config.vocab_size = len(kept)
    for config in (model.config, model.generation_config):
        for special in _SPECIAL:
            setattr(config, special, _renumbered(getattr(config, special, None), new))


def _renumbered(value: Any, new: Mapping[int, int]) -> Any:
    if isinstance(value, list):
        return [new[one] for one in value if one in new] or None
    return new.get(value) if isinstance(value, int) else None


def parameters(model: Any) -> int:
    """Return how many numbers a model has, a tied table once."""
    return sum(one.numel() for one in model.parameters())


def layers_for(model: Any, tokens: int, share: float) -> int:
    """Return the most layers with which the model, of so many tokens, has at most that share of its parameters.

    Raises TeacherError where not even one layer does.
    """
    holder, name = layers_of(model)
    layers = list(getattr(holder, name))
    each = parameters(layers[0])
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tables = 1 if head is None or head.weight is embedding.weight else 2
    gone = tables * (embedding.weight.shape[0] - tokens) * embedding.weight.shape[1]
    room = share * parameters(model) - (parameters(model) - len(layers) * each - gone)
    if room < each:
        raise TeacherError(
            f"the tables of {tokens} tokens alone pass {share:.0%} of the teacher's parameters",
            fix=f"keep fewer tokens: --vocabulary {max(256, tokens // 2)}",
        )
    return min(len(layers), int(room // each))
