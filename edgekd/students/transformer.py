"""Encoder transformers, as narrow and shallow copies of their teacher."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgekd.core.layers import exit_layers, layer_map
from edgekd.core.protocols import InputSpec, Work
from edgekd.data import clean
from edgekd.students._watch import watched

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from edgekd.core.protocols import Sample

_CLASSIFIER, _TAGGER = "AutoModelForSequenceClassification", "AutoModelForTokenClassification"
_ENCODER = "AutoModel"  # of embeddings
_WIDTHS = (1.0, 0.75, 0.5, 0.25)  # of the teacher's feed-forward
_NEW_LAYERS, _NEW_HIDDEN, _NEW_HEAD = 6, 384, 32  # MiniLM-L6's depth, width, and width of a head
_MULTIPLE = 64  # widths stay multiples of it: int8 kernels work in blocks
_SHARED_HEADS = ("mpnet",)  # all layers share one bias a head: heads cannot be chosen layer by layer
_INTO_HEADS = re.compile(r"\b(query|key|value|q_lin|k_lin|v_lin|attn\.[qkv])\.(weight|bias)$")
_OUT_OF_HEADS = re.compile(r"(attention\.output\.dense|out_lin|attn\.o)\.weight$")


@dataclass(frozen=True)
class Transformer:
    """One shape, with heads of the teacher's own size: the teacher's hidden width, or half of it and half the heads."""

    layers: int
    hidden: int
    heads: int
    feed_forward: int
    vocabulary: int
    max_tokens: int
    classes: int
    head: str = _CLASSIFIER  # transformers' class of the network
    body: str = ""  # its model type, where it is new; empty: the teacher's, whose weights it may copy

    modalities: ClassVar[tuple[str, ...]] = ("text",)
    recipes: ClassVar[tuple[str, ...]] = ("dynamic_int8",)
    exporter: ClassVar[str] = "optimum"
    gives: ClassVar[tuple[str, ...]] = ("features", "embedding", "attention", "exits")

    @classmethod
    def ladder(cls, architecture: Mapping[str, Any], survey: InputSpec, *, classes: int) -> list[Transformer]:
        """Every shape that a student of this teacher may have, the most capable first (see `capability`).

        Of a teacher that none can be cut from: new ones, at most as deep and wide as it is, and as MiniLM is.
        """
        body = architecture.get("student", "")
        if body:
            architecture = {**architecture, **_new_sizes(architecture)}
        hidden, heads, wide = (architecture[name] for name in ("hidden", "heads", "feed_forward"))
        whole = heads % 2 or architecture.get("model_type") in _SHARED_HEADS
        # half of an embedding's channels is lost before any training
        whole = whole or (architecture.get("head") == _ENCODER and not body)
        parts = [1] if whole else [1, 2]
        shapes = {
            cls(
                layers,
                hidden // part,
                heads // part,
                max(_MULTIPLE, int(wide / part * width) // _MULTIPLE * _MULTIPLE),
                survey.vocabulary,
                survey.max_size,
                classes,
                architecture.get("head", _CLASSIFIER),
                body,
            )
            for layers in range(1, architecture["layers"] + 1)
            for part in parts
            for width in _WIDTHS
        }
        return sorted(shapes, key=lambda shape: (shape.capability, shape.hidden), reverse=True)

    @property
    def capability(self) -> tuple[int, int]:
        """A proxy, no promise: weights in the layers, then depth. Which shape learns best only training can tell."""
        return (self.layers * self.layer_weights, self.layers)

    @property
    def max_size(self) -> int:
        """The longest text, in tokens."""
        return self.max_tokens

    @property
    def exits(self) -> tuple[int, ...]:
        """The encoder layers that may carry an early exit."""
        return exit_layers(self.layers)

    @property
    def head_size(self) -> int:
        """Channels of one head."""
        return self.hidden // self.heads

    @property
    def layer_weights(self) -> int:
        """Weights of one layer: attention's four matrices and the feed-forward's two."""
        return 4 * self.hidden**2 + 2 * self.hidden * self.feed_forward

    @classmethod
    def of_teacher(cls, architecture: Mapping[str, Any], survey: InputSpec, *, classes: int) -> Transformer | None:
        """The teacher's own shape: what it costs is predicted as any shape's is.

        None for one that reads no text, or whose layers are not those that students have.
        """
        if "vocabulary" not in architecture or "student" in architecture:
            return None
        sizes = {name: architecture[name] for name in ("layers", "hidden", "heads", "feed_forward", "vocabulary")}
        head = architecture.get("head", _CLASSIFIER)
        return cls(**sizes, max_tokens=architecture["max_tokens"], classes=classes, head=head)

    @classmethod
    def training(cls, rows: int) -> dict[str, Any]:
        """About 31,000 rows seen, in 3 to 20 epochs."""
        return {"epochs": max(3, min(20, round(31_000 / rows))), "batch_size": 16, "learning_rate": 3e-4}

    def work(self, size: int) -> Work:
        """One text of `size` tokens: the layers' matrices, attention, and the head."""
        each = self.head == _TAGGER  # its head is of every token, and has no pooler
        head = self.hidden * self.classes + (0 if each else self.hidden**2)
        wide = max(3 * self.hidden, self.hidden + self.feed_forward, self.hidden + self.heads * size)
        return Work(
            lookup_weights=(self.vocabulary + self.max_tokens) * self.hidden,
            matrix_weights=self.layers * self.layer_weights + head,
            other_weights=self.layers * (9 * self.hidden + self.feed_forward),
            macs=self.layers * size * self.layer_weights + head * (size if each else 1),
            other_macs=self.layers * 2 * size * size * self.hidden,
            activations=size * wide,
            moved=self.layers * size * (12 * self.hidden + 4 * self.feed_forward + 2 * self.heads * size),
            operators=8 + 20 * self.layers,
            largest=self.hidden * self.feed_forward,
        )

    def sample(self, size: int, random: np.random.Generator) -> Sample:
        """Token ids at random: which tokens does not matter to cost."""
        import numpy as np

        ids = random.integers(0, self.vocabulary, (1, size))
        return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}

    def how_to_shrink(self) -> str:
        """What a user may do where even the smallest shape is too large."""
        return f"trim the vocabulary (--vocabulary {max(256, self.vocabulary // 4)})"

    def __str__(self) -> str:
        return f"{self.layers} layer{'s' * (self.layers > 1)} x {self.hidden}, ff {self.feed_forward}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values; `Transformer(**values)` is the shape again. A copied classifier goes without saying."""
        plain = {"head": _CLASSIFIER, "body": ""}
        return {key: one for key, one in asdict(self).items() if plain.get(key) != one}

    def random(self, teacher_folder: Path | None = None, kept: Sequence[int] | None = None) -> PreTrainedModel:
        """A student of this shape with random weights: what measuring needs, before anything is trained.

        `kept` are the teacher's token ids that survive, ascending: special ids are renumbered by them. Without a
        teacher's folder it is a BERT.
        """
        import transformers

        config = self._config(teacher_folder, kept or range(self.vocabulary))
        model: PreTrainedModel = getattr(transformers, self.head).from_config(config)
        return model.eval()

    def init_from_teacher(
        self,
        teacher: PreTrainedModel,
        teacher_folder: Path,
        *,
        kept: Sequence[int],
        samples: Iterable[Sample],
        copy: bool = True,
    ) -> PreTrainedModel:
        """A student that starts as a cut of its teacher; without `copy` at random.

        Layers: evenly spaced, first and last among them. Feed-forward: the neurons that matter most on `samples`
        (mean activation times outgoing weight, after Minitron, Muralidharan et al. 2024). So are heads and, over all
        layers, hidden channels, where the student is narrower. Embeddings: the `kept` vocabulary rows, the first
        positions. All else is copied.
        """
        import torch

        student = self.random(teacher_folder, kept)
        student.config.id2label, student.config.label2id = teacher.config.id2label, teacher.config.label2id
        if not copy:
            return student
        prefix, count = _layer_list(teacher)
        chosen = layer_map(count, self.layers)
        ranks = _importance(teacher, prefix, samples)
        source, target = teacher.state_dict(), student.state_dict()
        channels = _best(ranks.channels, self.hidden)
        for name, value in target.items():
            layer, old_name = _renamed(name, prefix, chosen)
            old = source[old_name]
            for dim in range(value.dim()):
                if old.shape[dim] == value.shape[dim]:
                    continue
                if layer is not None and (_INTO_HEADS if dim == 0 else _OUT_OF_HEADS).search(name):
                    best = _best(ranks.heads[layer], self.heads)
                    keep = (best[:, None] * self.head_size + torch.arange(self.head_size)).flatten()
                elif layer is not None and old.shape[dim] == len(ranks.neurons[layer]):
                    keep = _best(ranks.neurons[layer], value.shape[dim])
                elif old.shape[dim] == len(ranks.channels) and value.shape[dim] == self.hidden:
                    keep = channels
                elif old.shape[dim] == teacher.config.vocab_size:
                    keep = torch.tensor(kept)
                else:
                    keep = torch.arange(value.shape[dim])  # positions: the first ones
                old = old.index_select(dim, keep)
            target[name] = old.clone()
        student.load_state_dict(target)
        return student

    def exit_shape(self, layer: int) -> Transformer:
        """The shape that ends with that layer."""
        return replace(self, layers=layer + 1)

    def exit_head(self, model: PreTrainedModel, layer: int) -> Any:
        """A copy of the model's own head: from a layer's hidden states (batch, tokens, hidden) to logits."""
        from edgekd.students import _exits

        return _exits.text_head(model)

    def truncate_at(self, model: PreTrainedModel, layer: int, head: Any) -> PreTrainedModel:
        """A model of the same type with the layers up to that one, and the exit's head."""
        from edgekd.students import _exits

        return _exits.cut_text(model, layer + 1, head)

    def _pad(self, teacher_folder: Path | None) -> int:
        """The padding's id of the teacher, before the vocabulary is trimmed; 0 where it says none."""
        if teacher_folder is None:
            return 0
        from transformers import AutoConfig

        with clean.config_folder(teacher_folder) as place:
            told = AutoConfig.from_pretrained(place, trust_remote_code=False)
        return getattr(told, "pad_token_id", None) or 0

    def _config(self, teacher_folder: Path | None, kept: Sequence[int]) -> PretrainedConfig:
        from transformers import CONFIG_MAPPING, AutoConfig, BertConfig

        if self.body:
            config = CONFIG_MAPPING[self.body](num_labels=self.classes, pad_token_id=self._pad(teacher_folder))
        elif teacher_folder is None:
            config = BertConfig(
                hidden_size=self.hidden, num_attention_heads=self.heads, num_labels=self.classes, pad_token_id=0
            )
        else:
            with clean.config_folder(teacher_folder) as place:
                config = AutoConfig.from_pretrained(place, num_labels=self.classes, trust_remote_code=False)
        if getattr(config, "embedding_size", None) == config.hidden_size:
            config.embedding_size = self.hidden  # electra's, where they are one
        config.num_hidden_layers, config.hidden_size, config.num_attention_heads = self.layers, self.hidden, self.heads
        setattr(config, "hidden_dim" if hasattr(config, "hidden_dim") else "intermediate_size", self.feed_forward)
        config.vocab_size = self.vocabulary
        renumbered = {old: new for new, old in enumerate(kept)}
        for special in ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"):
            if getattr(config, special, None) is not None:
                setattr(config, special, renumbered.get(getattr(config, special), 0))
        padded = config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet")
        config.max_position_embeddings = self.max_tokens + (config.pad_token_id + 1 if padded else 0)
        for name in (name for name in vars(config) if "dropout" in name and isinstance(getattr(config, name), float)):
            setattr(config, name, 0.0)  # a student that imitates has no labels to overfit (Beyer et al. 2022)
        config.torch_dtype = "float32"
        return config


def _new_sizes(architecture: Mapping[str, Any]) -> dict[str, int]:
    """Return depth and widths of the largest new student: the teacher's, and no more than MiniLM's."""
    hidden = max(_MULTIPLE, min(_NEW_HIDDEN, architecture.get("hidden", _NEW_HIDDEN)) // _MULTIPLE * _MULTIPLE)
    layers = max(1, min(_NEW_LAYERS, architecture.get("layers", _NEW_LAYERS)))
    return {"layers": layers, "hidden": hidden, "heads": hidden // _NEW_HEAD, "feed_forward": 4 * hidden}


def _layer_list(model: PreTrainedModel) -> tuple[str, int]:
    """The dotted name of the list of encoder layers, and its length."""
    import torch

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == model.config.num_hidden_layers:
            return name, len(module)
    raise AssertionError(f"{model.config.model_type} has no list of layers")


def _renamed(name: str, prefix: str, chosen: list[int]) -> tuple[int | None, str]:
    match = re.match(rf"{re.escape(prefix)}\.(\d+)\.", name)
    if not match:
        return None, name
    layer = chosen[int(match[1])]
    return layer, f"{prefix}.{layer}.{name[match.end() :]}"


@dataclass(frozen=True)
class _Ranks:
    """How much each part of a teacher matters on some samples."""

    neurons: list[torch.Tensor]  # a layer: (feed_forward,)
    heads: list[torch.Tensor]  # a layer: (heads,)
    channels: torch.Tensor  # over all layers: (hidden,)


def _best(importance: torch.Tensor, count: int) -> torch.Tensor:
    """Which `count` matter most, ascending: (count,)."""
    return importance.topk(count).indices.sort().values


def _importance(model: PreTrainedModel, prefix: str, samples: Iterable[Sample]) -> _Ranks:
    """Mean activation times outgoing weight of neurons and heads, by layer; mean output of the layers' channels."""
    import torch

    layers = list(model.get_submodule(prefix).children())
    wide = getattr(model.config, "hidden_dim", None) or model.config.intermediate_size
    hidden, heads = model.config.hidden_size, model.config.num_attention_heads
    inward = [next(m for m in _linears(layer) if m.in_features == wide) for layer in layers]
    outward = [
        next(m for name, m in layer.named_modules() if _OUT_OF_HEADS.search(f"{name}.weight")) for layer in layers
    ]
    sums = {module: torch.zeros(module.in_features) for module in (*inward, *outward)}
    channels = torch.zeros(hidden)

    def read(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        sums[module] += _mean(inputs[0])

    def wrote(_module: Any, _inputs: Any, output: Any) -> None:
        channels.add_(_mean(output[0] if isinstance(output, tuple) else output))

    hooks = [linear.register_forward_pre_hook(read) for linear in sums]
    hooks += [layer.register_forward_hook(wrote) for layer in layers]
    watched(model, hooks, samples)
    own = {linear: total * linear.weight.detach().norm(dim=0) for linear, total in sums.items()}
    by_head = [own[linear].reshape(heads, hidden // heads).sum(dim=1) for linear in outward]
    return _Ranks([own[linear] for linear in inward], by_head, channels)


def _mean(values: torch.Tensor) -> torch.Tensor:
    """Mean size of each channel: (..., channels) to (channels,)."""
    return values.detach().abs().mean(dim=tuple(range(values.dim() - 1)))


def _linears(module: torch.nn.Module) -> Iterator[Any]:
    import torch

    return (child for child in module.modules() if isinstance(child, torch.nn.Linear))
