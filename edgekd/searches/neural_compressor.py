"""Intel Neural Compressor's tuning loop over our candidates; the only file that imports it.

No `from __future__ import annotations` here: the library reads a parameter's type from its annotation.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekd.core.quiet import quiet


@dataclass(frozen=True)
class NeuralCompressor:
    """Candidates become a tuning space; each is tried once, in the order given."""

    def run(
        self, names: Sequence[str], trial: Callable[[str], float], *, time_limit_s: float, goal: float | None = None
    ) -> Mapping[str, float]:
        """Scores by candidate, higher is better, until one passes the `goal`.

        At least one candidate is tried; then the time limit may end the search.
        """
        with quiet():
            from neural_compressor.common.base_config import DEFAULT_WHITE_LIST, BaseConfig
            from neural_compressor.common.base_tuning import TuningConfig, init_tuning

        logging.getLogger("neural_compressor").setLevel(logging.ERROR)  # its import set the level for itself

        class CandidateConfig(BaseConfig):  # type: ignore[misc]
            name = "edgekd_candidate"
            params_list = ["candidate"]

            def __init__(self, candidate: str = "float32", white_list: Any = DEFAULT_WHITE_LIST) -> None:
                super().__init__(white_list=white_list)
                self.candidate = candidate
                self._post_init()

            @classmethod
            def register_supported_configs(cls) -> None:
                """No operator of a framework is configured here."""

            @staticmethod
            def get_config_set_for_tuning() -> None:
                """The space is given below."""

        space = TuningConfig(config_set=[CandidateConfig(candidate=list(names))], max_trials=len(names))  # type: ignore[arg-type]
        candidates, _, monitor = init_tuning(space)
        end = time.monotonic() + time_limit_s
        for number, one in enumerate(candidates):
            score = trial(one.candidate)
            monitor.add_trial_result(number, score, one)
            if monitor.need_stop() or time.monotonic() > end or (goal is not None and score > goal):
                break
        return {record.quant_config.candidate: record.trial_result for record in monitor.tuning_history}
