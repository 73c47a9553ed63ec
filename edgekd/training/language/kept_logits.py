"""What a teacher says of each token, in 256 bytes: its 64 largest probabilities and which tokens they are of.

Each is one number of 32 bits: as many as the vocabulary needs for the token, the others for the logarithm of its
probability. The mass of all other tokens is what these leave.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from edgekd.core.tensors import TopLogits

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Array = np.ndarray[Any, Any]

TOP = 64
_BITS = 32
_DEEPEST = 32.0  # nats: less likely tokens are among the others
_LEAST_REST = 1e-6  # of the mass that is left to the others: rounding must not make it negative


def width(vocabulary: int) -> int:
    """Return how many tokens are kept: 64, or all but one of a smaller vocabulary."""
    return max(1, min(TOP, vocabulary - 1))


def keep(log_probabilities: Tensor) -> Array:
    """Return the largest of log probabilities (tokens, vocabulary) as int32 (tokens, 64), most likely first.

    They may be of a part of the teacher's vocabulary: what lacks to a sum of one is the others'.
    """
    import numpy as np

    vocabulary = log_probabilities.shape[-1]
    values, tokens = log_probabilities.float().topk(width(vocabulary), dim=-1)
    steps = _steps(vocabulary)
    codes = (-values.double() * (steps / _DEEPEST)).round().clamp(0, steps).long()
    both = (tokens.long() << _value_bits(vocabulary)) | codes
    return both.cpu().numpy().astype(np.uint32).view(np.int32)


def read(kept: Array, vocabulary: int) -> TopLogits:
    """Return what `keep` wrote of a vocabulary as logits: (..., 64) log probabilities, tokens and the others' share."""
    import numpy as np
    import torch

    both = torch.from_numpy(np.ascontiguousarray(kept).view(np.uint32).astype(np.int64))
    codes = both & _steps(vocabulary)
    values = -codes.double() * (_DEEPEST / _steps(vocabulary))
    left = (1 - values.exp().sum(dim=-1)).clamp(min=_LEAST_REST)
    others = max(1, vocabulary - kept.shape[-1])
    rest = left.log() - math.log(others)
    return TopLogits(values.float(), both >> _value_bits(vocabulary), rest.float(), vocabulary)


def _value_bits(vocabulary: int) -> int:
    return _BITS - max(1, (vocabulary - 1).bit_length())


def _steps(vocabulary: int) -> int:
    return int((1 << _value_bits(vocabulary)) - 1)
