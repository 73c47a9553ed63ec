"""Models and datasets by their id on the Hugging Face hub; from its cache where it cannot be reached."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

Kind = Literal["model", "dataset"]
_TIMEOUT_S = 8.0
CACHED = "the Hugging Face hub could not be reached: its cached copy was used"


class Unreachable(Exception):
    """The hub does not answer, or not with this; the message says why, in one line."""


class Unknown(Exception):
    """The hub answers that it has no such thing, or that it is not for everybody; the message says why."""


def ask(name: str, kind: Kind) -> None:
    """Ask the hub for it once, for some seconds: its own clients try again and again. Raises Unreachable or Unknown."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        HfApi().repo_info(name, repo_type=kind, timeout=_TIMEOUT_S)
    except HFValidationError as error:
        raise Unknown("that is no id of the hub's") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", 500)
        if status >= 500:
            raise Unreachable(f"it answers with an error of its own ({status})") from error
        raise Unknown(_line(error)) from error
    except Exception as error:  # below are three layers of clients, each with errors of its own
        raise Unreachable(_line(error)) from error


def cached(name: str, kind: Kind, patterns: Sequence[str] | None = None, revision: str | None = None) -> Path | None:
    """The folder in the hub's cache on this machine; None where there is none."""
    from huggingface_hub import snapshot_download

    wanted = None if patterns is None else list(patterns)
    try:
        with _calm():
            return Path(
                snapshot_download(name, repo_type=kind, revision=revision, allow_patterns=wanted, local_files_only=True)
            )
    except Exception:  # noqa: BLE001 (whatever it raises, there is no copy)
        return None


def dataset_card(name: str) -> Path | None:
    """Fetch a dataset's README.md into the hub's cache; None where it has none or it cannot be fetched."""
    from huggingface_hub import hf_hub_download

    try:
        with _calm():
            return Path(hf_hub_download(name, "README.md", repo_type="dataset"))
    except Exception:  # noqa: BLE001 (whoever loads the dataset says why it cannot be reached)
        return None


@contextmanager
def offline() -> Iterator[None]:
    """Keep `datasets` from trying again, for the length of the block."""
    import datasets
    import huggingface_hub.constants

    places: list[Any] = [datasets.config, huggingface_hub.constants]
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = True
        with _calm():
            yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


@contextmanager
def _calm() -> Iterator[None]:
    """Without the warnings of the hub's clients: what matters of them, our own message says."""
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "datasets")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _line(error: Exception) -> str:
    """The innermost reason, in one line: a refused connection comes wrapped five times."""
    innermost: BaseException = error
    for _ in range(20):
        inner = innermost.__cause__ or innermost.__context__
        if inner is None:
            break
        innermost = inner
    if type(error).__name__ == "OfflineModeIsEnabled":
        return "HF_HUB_OFFLINE is set"
    words = str(innermost if isinstance(innermost, OSError) else error).strip().splitlines() or [type(error).__name__]
    return words[0][:200].rstrip(".")
