"""A folder that passed our checks may still be one that transformers cannot load: told as an error of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekd.core.errors import EdgeKDError, TeacherError


@contextmanager
def by_transformers(folder: Path) -> Iterator[None]:
    """Raises TeacherError for whatever transformers raises in the block; errors of the machine pass."""
    try:
        yield
    except (EdgeKDError, MemoryError):
        raise
    except Exception as error:  # of wrong settings it raises every kind that Python knows
        if isinstance(error, OSError) and error.errno is not None:  # a full disk is not the folder's fault
            raise
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise TeacherError(
            f"transformers cannot load {folder}: {type(error).__name__}: {reason[:300]}",
            fix="mend its config.json or tokenizer_config.json, or save it again: model.save_pretrained(folder), "
            "tokenizer.save_pretrained(folder)",
        ) from error
