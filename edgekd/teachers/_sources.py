"""Where a teacher's folder lies: on this machine, or on the Hugging Face hub, from which it is fetched first."""

from __future__ import annotations

from pathlib import Path

from edgekd.core import licences
from edgekd.core.errors import TeacherError
from edgekd.core.files import user_path
from edgekd.data import hub

_HUB_FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "*.bin", *licences.NAMES, "README.md")


def folder(source: str, revision: str | None) -> Path:
    """Return the local folder of a source; a hub id is fetched. Raises TeacherError where there is none."""
    path = user_path(source)
    if path.is_dir():
        return path.absolute()
    if path.exists() or source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise TeacherError(
            f"the teacher {source!r} is not a folder", fix="give a folder saved by save_pretrained, or a hub id"
        )
    return _fetched(source, revision)


def _fetched(source: str, revision: str | None) -> Path:
    """The hub's files in its cache on this machine, brought up to date where the hub can be reached."""
    from huggingface_hub import snapshot_download

    try:
        hub.ask(source, "model")
        return Path(snapshot_download(source, revision=revision, allow_patterns=list(_HUB_FILES)))
    except hub.Unknown as error:
        reason = f"there is no such folder, and on the Hugging Face hub: {error}"
    except hub.Unreachable as error:
        reason = f"there is no such folder, the Hugging Face hub could not be reached ({error})"
    except Exception as error:  # noqa: BLE001 (the hub's client raises dozens of kinds, most of them network errors)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    kept = hub.cached(source, "model", _HUB_FILES, revision)
    if kept is not None:
        return kept
    raise TeacherError(
        f"cannot fetch the teacher {source!r}: {reason}, and the hub's cache on this machine has no copy",
        fix="check the id; fetch the model once where there is a network (a cached copy is used from then on), or "
        "give a local folder saved by save_pretrained",
    )
