"""What torch says of a language model, held against the exported graph: likelihoods, and what it writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from edgekd.core.model import Model
    from edgekd.core.protocols import Sample

    Array = np.ndarray[Any, Any]

_UNDECIDED = 1e-3  # of two logits: a rounding decides which is the larger


def difference(network: Any, exported: Model, samples: Sequence[Sample]) -> float:
    """Return the largest difference of a token's negative log-likelihood, in nats; infinite where writing differs."""
    import numpy as np

    from edgekd.onboard.runner import Predictor

    predict = Predictor(**exported.job, threads=1, provider="CPUExecutionProvider")
    worst = 0.0
    for sample in samples:
        own, _ = predict(sample)
        nll, written = said(network, sample, own["tokens"])
        if not written:
            return float("inf")
        worst = max(worst, float(np.abs(own["nll"] - nll).max()))
    return worst


def said(network: Any, sample: Sample, tokens: Array) -> tuple[Array, bool]:
    """Return each token's negative log-likelihood (tokens - 1,), and whether torch writes `tokens` behind the text.

    All are scored at once, teacher-forced on `tokens`: each must be the most likely one, or as likely within rounding.
    """
    import torch

    ids = torch.from_numpy(sample["input_ids"]).to(network.device)
    whole = torch.cat([ids, torch.from_numpy(tokens)[None].to(ids)], dim=1)
    with torch.no_grad():
        logits = network(input_ids=whole, attention_mask=torch.ones_like(whole)).logits[0].float()
    count = ids.shape[1]
    shares = logits[: count - 1].log_softmax(dim=-1)
    nll = -shares.gather(1, ids[0, 1:, None])[:, 0]
    at = logits[count - 1 : count - 1 + len(tokens)]
    chosen = at.gather(1, whole[0, count:, None])[:, 0]
    return nll.cpu().numpy(), bool((at.max(dim=-1).values - chosen < _UNDECIDED).all())
