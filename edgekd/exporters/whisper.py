"""Whisper as the two graphs of optimum's layout, which optimum, transformers.js and onnx-asr open by their names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgekd.core.errors import RuntimeCannotLoad
from edgekd.core.model import Model
from edgekd.exporters import _whisper_graph as graphs
from edgekd.exporters._onnx import finished
from edgekd.exporters._whisper_settings import settings
from edgekd.onboard.seq2seq import DECODER, ENCODER, SETTINGS

if TYPE_CHECKING:
    import numpy as np

    from edgekd.hardware.profile import Profile

_ACTIVATION = "gelu"


@dataclass(frozen=True)
class Whisper:
    """Writes the graphs itself: each weight once, the projection tied to the embeddings, convolutions as matrices."""

    least_opset: ClassVar[int] = graphs.OPSET

    def export(self, model: Any, out: Path, *, task: str, target: Profile) -> Model:
        """Write the encoder and the merged decoder into `out`, with what the program must know in its metadata.

        Raises RuntimeCannotLoad above the target's opset, and for a Whisper with another activation than GELU.
        """
        config = model.config
        if config.activation_function != _ACTIVATION:
            raise RuntimeCannotLoad(
                f"the exporter whisper writes GELU; this model's activation is {config.activation_function!r:.60}",
                fix="give a Whisper with activation_function gelu, as all that OpenAI published have it",
            )
        weights = {name: value.detach().float().cpu().numpy() for name, value in model.state_dict().items()}
        shape = shape_of(config.to_dict())
        made = {ENCODER: graphs.encoder(weights, shape), DECODER: graphs.decoder(weights, shape)}
        told = made[DECODER].metadata_props.add()
        told.key, told.value = SETTINGS, json.dumps(_settings(model))
        out.mkdir(parents=True, exist_ok=True)
        return finished(made, out, task, target)

    def sessions(self, model: Any) -> Mapping[str, Any]:
        """Return torch's encoder and decoder behind the interface of ONNX Runtime's sessions: what the program runs."""
        model.eval()
        told = {SETTINGS: json.dumps(_settings(model))}
        return {ENCODER: _Encoder(model), DECODER: _Decoder(model, shape_of(model.config.to_dict()), told)}


def _settings(model: Any) -> dict[str, Any]:
    """Return what the program must know: what a model without files says itself, else what the files beside it say."""
    own: dict[str, Any] | None = getattr(model, "program_settings", None)
    return own or settings(Path(model.processor_folder), model.config.to_dict())


def shape_of(config: Mapping[str, Any]) -> graphs.Shape:
    """Return the sizes that a Whisper's config names."""
    return graphs.Shape(
        width=config["d_model"],
        heads=config["encoder_attention_heads"],
        encoder_layers=config["encoder_layers"],
        decoder_layers=config["decoder_layers"],
        decoder_heads=config["decoder_attention_heads"],
        mels=config["num_mel_bins"],
        positions=config["max_source_positions"],
        vocabulary=config["vocab_size"],
    )


@dataclass(frozen=True)
class _Input:
    name: str
    shape: list[Any]


class _Encoder:
    """Torch's encoder as a session."""

    def __init__(self, model: Any) -> None:
        self._encoder = model.get_encoder()

    def run(self, names: Sequence[str], feed: Mapping[str, np.ndarray[Any, Any]]) -> list[Any]:
        """Return `last_hidden_state`."""
        import torch

        with torch.no_grad():
            states = self._encoder(torch.from_numpy(feed["input_features"])).last_hidden_state
        return [states.numpy()]


class _Decoder:
    """Torch's decoder as a session. What it hands out as the cache are the tokens; torch's own cache stays with it."""

    def __init__(self, model: Any, shape: graphs.Shape, told: Mapping[str, str]) -> None:
        self._model, self._shape, self._told = model, shape, told
        self._cache: Any = None
        self._seen: Any = None  # the tokens in that cache

    def get_modelmeta(self) -> Any:
        """The metadata of the graph that will be written."""
        return _Meta(dict(self._told))

    def get_inputs(self) -> list[_Input]:
        """One tensor of the cache: the tokens so far, as numbers."""
        return [_Input("past_key_values.0.decoder.key", ["batch_size", 1, "past", 1])]

    def run(self, names: Sequence[str], feed: Mapping[str, np.ndarray[Any, Any]]) -> list[Any]:
        """Return `logits` of the new tokens, and the tokens so far as the cache."""
        import numpy as np
        import torch
        from transformers.modeling_outputs import BaseModelOutput

        new, past = feed["input_ids"], feed["past_key_values.0.decoder.key"]
        before = past[:, 0, :, 0].astype(np.int64) if past.shape[2] else new[:, :0]
        tokens = np.concatenate([before, new], axis=1)
        goes_on = before.shape[1] > 0 and self._seen is not None and np.array_equal(before, self._seen)
        states = torch.from_numpy(feed["encoder_hidden_states"]).expand(len(tokens), -1, -1)
        with torch.no_grad():
            output = self._model(
                encoder_outputs=BaseModelOutput(last_hidden_state=states),
                decoder_input_ids=torch.from_numpy(new if goes_on else tokens),
                past_key_values=self._cache if goes_on else None,
                use_cache=True,
            )
        self._cache, self._seen = output.past_key_values, tokens
        logits = output.logits[:, -new.shape[1] :].numpy()
        return [logits, tokens[:, None, :, None].astype(np.float32)]


@dataclass(frozen=True)
class _Meta:
    custom_metadata_map: dict[str, str]
