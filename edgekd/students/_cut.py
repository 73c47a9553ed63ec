"""What our own families share of early exits: methods that each takes into its class, given its `exit_shape`."""

from __future__ import annotations

from typing import Any


def exit_head(self: Any, model: Any, layer: int) -> Any:
    """What stands behind the layers of the shape that ends there: from the layer's own output to logits."""
    from edgekd.students import _exits

    return _exits.head(model, self.exit_shape(layer))


def truncate_at(self: Any, model: Any, layer: int, head: Any) -> Any:
    """A network of the layers up to that one, with the exit's head."""
    from edgekd.students import _exits

    return _exits.cut(model, self.exit_shape(layer), head)
