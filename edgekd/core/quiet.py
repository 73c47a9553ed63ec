"""Keep third-party advice off the user's screen; errors still pass."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator

from edgekd.core.cpus import set_thread_defaults

_TALKATIVE = (
    "",
    "accelerate",
    "neural_compressor",
    "optimum",
    "torch.onnx",
    "torch.utils._pytree",
    "torchao",
    "transformers",
)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Loggers at ERROR, warnings off, stdout swallowed, for the length of the block."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def silence_libraries() -> None:
    """For the rest of this process: what the training libraries say as they are imported."""
    set_thread_defaults()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read on import: else it writes files of its own
    # never imported, where it is installed: it loads code from the hub by names that a model's settings give
    sys.modules.setdefault("kernels", None)  # type: ignore[arg-type]
    for name in _TALKATIVE[1:]:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(torch|transformers|accelerate|optimum|onnxruntime|neural_compressor)\b")
