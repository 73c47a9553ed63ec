"""Which layers of networks of unlike depths belong together. Layers are counted from 0, the one next to the input."""

from __future__ import annotations

_MOST_EXITS = 3  # as many as self-distillation's source has: BYOT, Zhang et al. 2019, arXiv 1905.08094


def layer_map(teacher_layers: int, student_layers: int) -> list[int]:
    """Which teacher layer each student layer starts as: evenly spaced, the first and the last among them.

    >>> layer_map(6, 2), layer_map(12, 4), layer_map(6, 1)
    ([0, 5], [0, 4, 7, 11], [0])
    """
    if student_layers == 1:
        return [0]  # a copy must read what the embeddings give
    return [round(i * (teacher_layers - 1) / (student_layers - 1)) for i in range(student_layers)]


def matched_layers(teacher_layers: int, student_layers: int) -> list[int]:
    """Which teacher layer each student layer's features are compared to: the last always to the last.

    >>> matched_layers(6, 3), matched_layers(6, 1), matched_layers(2, 4)
    ([0, 2, 5], [5], [0, 0, 1, 1])
    """
    return layer_map(teacher_layers, student_layers) if student_layers > 1 else [teacher_layers - 1]


def exit_layers(layers: int) -> tuple[int, ...]:
    """The layers that carry an early exit: all but the last, or those that end a quarter, a half, three quarters.

    >>> exit_layers(1), exit_layers(3), exit_layers(6), exit_layers(12)
    ((), (0, 1), (1, 2, 4), (2, 5, 8))
    """
    if layers - 1 <= _MOST_EXITS:
        return tuple(range(layers - 1))
    return tuple(int(layers * part / (_MOST_EXITS + 1) + 0.5) - 1 for part in range(1, _MOST_EXITS + 1))
