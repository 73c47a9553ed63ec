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
    """Recipes become a tuning space; each is tried once, in the profile's order."""

    def run(self, recipes: Sequence[str], trial: Callable[[str], float], *, time_limit_s: float) -> Mapping[str, float]:
        """Scores by recipe, higher is better. At least one recipe is tried; then the time limit may end the search."""
        with quiet():
            from neural_compressor.common.base_config import DEFAULT_WHITE_LIST, BaseConfig
            from neural_compressor.common.base_tuning import TuningConfig, init_tuning

        logging.getLogger("neural_compressor").setLevel(logging.ERROR)  # its import set the level for itself

        class RecipeConfig(BaseConfig):  # type: ignore[misc]
            name = "edgekd_recipe"
            params_list = ["recipe"]

            def __init__(self, recipe: str = "float32", white_list: Any = DEFAULT_WHITE_LIST) -> None:
                super().__init__(white_list=white_list)
                self.recipe = recipe
                self._post_init()

            @classmethod
            def register_supported_configs(cls) -> None:
                """No operator of a framework is configured here."""

            @staticmethod
            def get_config_set_for_tuning() -> None:
                """The space is given below."""

        space = TuningConfig(config_set=[RecipeConfig(recipe=list(recipes))], max_trials=len(recipes))  # type: ignore[arg-type]
        candidates, _, monitor = init_tuning(space)
        end = time.monotonic() + time_limit_s
        for number, candidate in enumerate(candidates):
            monitor.add_trial_result(number, trial(candidate.recipe), candidate)
            if monitor.need_stop() or time.monotonic() > end:
                break
        return {record.quant_config.recipe: record.trial_result for record in monitor.tuning_history}
