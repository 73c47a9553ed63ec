"""A speech student as a network of one batch: from recordings, or from the encoder's states that were kept of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Listener(torch.nn.Module):
    """`listener(**batch)` gives the logits of each position; the encoder learns only where it is not the teacher's.

    The table of tokens, which is the projection too, stays the teacher's.
    """

    base_model_prefix = "network"

    def __init__(self, network: Any, *, encoder_learns: bool) -> None:
        super().__init__()
        self.network = network
        network.model.encoder.requires_grad_(encoder_learns)
        # few words are heard: the others' rows would only drift
        network.model.decoder.embed_tokens.requires_grad_(requires_grad=False)

    @property
    def config(self) -> Any:
        """The network's."""
        return self.network.config

    @property
    def device(self) -> torch.device:
        """Where it is."""
        device: torch.device = self.network.device
        return device

    def forward(
        self,
        decoder_input_ids: Tensor,
        attention_mask: Tensor,
        states: Tensor | None = None,
        input_features: Tensor | None = None,
    ) -> Any:
        """Logits (batch, positions, vocabulary); `attention_mask` (batch, positions) is of the decoder's tokens."""
        heard = {"input_features": input_features} if states is None else {"encoder_outputs": (states,)}
        return self.network(
            **heard,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=attention_mask,
            use_cache=False,
        )
