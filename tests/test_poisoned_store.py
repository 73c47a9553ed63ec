"""What a store keeps of a teacher whose files were swapped is never served to the honest teacher, nor the reverse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx_files import save, text_model

from edgekd.core.predictions import stacked
from edgekd.core.protocols import NullProgress
from edgekd.plan.planning import Options, make_plan
from edgekd.stages import Stages
from edgekd.store.store import Store

pytestmark = pytest.mark.slow  # each loads torch and the tokenizer twice


def swapped_words(folder: Path) -> None:
    """Another tokenizer: two words have each other's ids."""
    file = folder / "tokenizer.json"
    said = json.loads(file.read_text())
    vocabulary = said["model"]["vocab"]
    vocabulary["a"], vocabulary["h"] = vocabulary["h"], vocabulary["a"]
    file.write_text(json.dumps(said))


def other_setting(folder: Path) -> None:
    """The same vocabulary, another setting."""
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": 6}))


SWAPS = {"tokenizer.json": swapped_words, "tokenizer_config.json": other_setting}


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A teacher, its data, and what a build that begins now would keep: the files beside the graph, and its answers."""
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path / "store"))
    folder = tmp_path / "teacher"
    folder.mkdir()
    teacher = save(folder, text_model())
    data = tmp_path / "rows.csv"
    data.write_text("text,label\n" + "".join(f"a a b c d e f g {'a' * (n % 9)} {n},{n % 3}\n" for n in range(60)))
    store = Store(tmp_path / "store")
    options = Options("cpu-avx2", student="none", teacher=str(teacher), data=str(data), threads=1)

    def built() -> tuple[str, dict[str, bytes], np.ndarray]:
        plan, splits = make_plan(options, store)
        stages = Stages(plan, splits, store, NullProgress(), {})
        place = stages.teacher()
        files, graph = stages.files(place), stages.exported("teacher", place)
        kept = {name: (files / name).read_bytes() for name in SWAPS}
        return plan.digest, kept, stacked(stages.said_of_selection(files, graph), "logits")

    return folder, built


@pytest.mark.parametrize("swap", SWAPS)
def test_each_teacher_gets_its_own_result(swap, lab):
    folder, built = lab
    honest = {name: (folder / name).read_bytes() for name in SWAPS}
    SWAPS[swap](folder)
    poisoned_digest, poisoned, poisoned_said = built()  # first, so that the store is poisoned for the honest one
    for name, content in honest.items():
        (folder / name).write_bytes(content)
    digest, kept, said = built()
    assert digest != poisoned_digest
    assert kept[swap] != poisoned[swap]
    assert json.loads(kept["tokenizer.json"]) == json.loads(honest["tokenizer.json"])
    assert json.loads(kept["tokenizer_config.json"])["model_max_length"] == 32
    assert not np.array_equal(said, poisoned_said)


def test_the_same_files_are_one_result(lab):
    _, built = lab
    first, second = built(), built()
    assert first[:2] == second[:2]
    np.testing.assert_array_equal(first[2], second[2])
