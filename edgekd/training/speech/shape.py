"""A Whisper cut to fewer layers and a shorter window: `edgekd.students.whisper` knows what that takes."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

from edgekd.core.errors import UsageError
from edgekd.core.layers import layer_map
from edgekd.students.whisper import LEAST_WINDOW_S, POSITIONS_A_SECOND, Whisper

_LAYER = re.compile(r"model\.(encoder|decoder)\.layers\.(\d+)\.")


def check(whole: Whisper, *, encoder_layers: int, decoder_layers: int, window_s: int) -> None:
    """Raise UsageError for layers that the teacher has not, and for a window too short or longer than its own."""
    for side, count, most in (
        ("encoder-layers", encoder_layers, whole.encoder_layers),
        ("layers", decoder_layers, whole.decoder_layers),
    ):
        if count > most:
            raise UsageError(f"--{side} {count}: the teacher has {most}", fix=f"give at most that: --{side} {most}")
    if not LEAST_WINDOW_S <= window_s <= whole.window_s:
        least = min(LEAST_WINDOW_S, whole.window_s)
        raise UsageError(
            f"--window {window_s}: the teacher hears {whole.window_s} s at once, and a Whisper that hears less than "
            f"{LEAST_WINDOW_S} s repeats itself",
            fix=f"give seconds from {least} to {whole.window_s}: --window {least}",
        )


def cut(teacher: Any, *, encoder_layers: int, decoder_layers: int, window_s: int) -> Any:
    """Return a copy of a model with so many of its layers and the first positions of a window; all else is the same."""
    config = copy.deepcopy(teacher.config)
    config.encoder_layers = config.num_hidden_layers = encoder_layers
    config.decoder_layers = decoder_layers
    config.max_source_positions = window_s * POSITIONS_A_SECOND
    for name in ("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop", "decoder_layerdrop"):
        setattr(config, name, 0.0)  # a student that imitates has no labels to overfit (Beyer et al. 2022)
    student = type(teacher)(config)
    chosen = {
        "encoder": layer_map(teacher.config.encoder_layers, encoder_layers),
        "decoder": layer_map(teacher.config.decoder_layers, decoder_layers),
    }
    source, target = teacher.state_dict(), student.state_dict()
    for name, value in target.items():
        target[name] = source[_name_before(name, chosen)][: value.shape[0]].clone()  # positions: the first ones
    student.load_state_dict(target)
    student.tie_weights()
    return student.float().eval()


def _name_before(name: str, chosen: Mapping[str, list[int]]) -> str:
    """Return what the teacher calls a student's weight."""
    found = _LAYER.match(name)
    if found is None:
        return name
    return f"model.{found[1]}.layers.{chosen[found[1]][int(found[2])]}.{name[found.end() :]}"
