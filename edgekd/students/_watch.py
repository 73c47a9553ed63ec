"""How the families look at a teacher while it runs, to rank what matters in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from edgekd.core.predictions import WORDS

if TYPE_CHECKING:
    from edgekd.core.protocols import Sample


def watched(model: Any, hooks: Iterable[Any], samples: Iterable[Sample]) -> None:
    """Run every sample through the model, in evaluation mode and without gradients; then take its hooks off."""
    import torch

    model.eval()
    with torch.no_grad():
        for sample in samples:
            model(**{name: torch.from_numpy(value) for name, value in sample.items() if name != WORDS})
    for hook in hooks:
        hook.remove()
