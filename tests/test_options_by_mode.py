"""Every option in every mode: taken, or refused with a fix that works. A new option must find its place here."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import elsewhere, profile

from edgekd.core.errors import DataError, TeacherError, UsageError
from edgekd.emulation import evaluate
from edgekd.plan.options import API_WORDS, Options, declarations
from edgekd.plan.planning import make_plan

VALUES: dict[str, Any] = {
    "task": "text-classification",
    "teacher": "none-such",
    "data": "none-such.csv",
    "unlabelled": "none-such.csv",
    "student": None,
    "text_column": "body",
    "text_pair_column": "answer",
    "state": ("stateN=state",),
    "class_output": ("scores",),
    "metric_file": "none-such.py:figure",
    "image_column": "photo",
    "label_column": "kind",
    "labels": 10,
    "calibration": "none-such.csv",
    "min_speedup": 2.0,
    "losses": ("response=0.5",),
    "temperature": 3.0,
    "augmentations": ("none",),
    "epochs": 2,
    "patience": 2,
    "learning_rate": 1e-3,
    "max_tokens": 64,
    "vocabulary": 500,
    "image_size": 64,
    "tries": 2,
    "exit": 1,
    "cache_mib": 100.0,
    "allow_loops": True,
    "seed": 3,
    "threads": 1,
    "time_limit_s": 10.0,
    "force": "dynamic_int8",
    "memory_mib": 5.0,
    "artifact_mib": 5.0,
    "latency_ms": 5.0,
    "min_retained": 0.5,
    "min_agreement": 0.5,
    "max_drop": 5.0,
    "full": True,
    "evidence": 2,
    "emulate_minutes": 1.0,
    "price_per_hour": 1.0,
    "name": "mine",
    "version": "2.0.0",
    "golden": "test",
    "model": "mini",
    "answers": "none-such",
    "base": "none-such",
    "classes": "a,b",
    "prompt": "none-such.txt",
    "shots": 2,
    "soft": False,
    "compare": 5,
    "max_cost": "1",
    "max_api_tokens": 1000,
    "max_requests": 10,
    "price_per_million": "1,2",
    "concurrency": 2,
    "answer_tokens": 20,
    "context": 100,
    "timeout_s": 5.0,
    "min_accuracy": 0.5,
    "accept_terms": True,
}
WITHOUT_STUDENT = {
    "labels",
    "min_speedup",
    "losses",
    "temperature",
    "augmentations",
    "epochs",
    "patience",
    "learning_rate",
    "vocabulary",
    "image_size",
    "tries",
    "exit",
    "cache_mib",
    "evidence",
}
OF_TEXT, OF_IMAGES = {"text_column", "text_pair_column", "max_tokens", "vocabulary"}, {"image_column", "image_size"}
LOOPS = {"allow_loops"}  # of an .onnx teacher alone
OF_API = set(API_WORDS)  # of a teacher behind an API alone: a plan is made once it has answered
OF_GRAPHS = {"state", "class_output", "metric_file"}  # of the task tensors alone
MODES: dict[str, tuple[Options, set[str]]] = {
    "text": (Options("cpu-avx2"), OF_IMAGES | LOOPS),
    "images": (Options("cpu-avx2", task="image-classification"), OF_TEXT | LOOPS),
    "series": (Options("cpu-avx2", task="time-series-classification"), OF_TEXT | OF_IMAGES | LOOPS),
    "series, labels": (
        Options("cpu-avx2", task="time-series-classification", teacher="labels"),
        OF_TEXT | OF_IMAGES | LOOPS,
    ),
    "text, none": (Options("cpu-avx2", student="none"), WITHOUT_STUDENT | OF_IMAGES | LOOPS),
    "images, none": (
        Options("cpu-avx2", task="image-classification", student="none"),
        WITHOUT_STUDENT | OF_TEXT | LOOPS,
    ),
    "series, none": (
        Options("cpu-avx2", task="time-series-classification", student="none"),
        WITHOUT_STUDENT | OF_TEXT | OF_IMAGES | LOOPS,
    ),
    "embeddings, none": (
        Options("cpu-avx2", task="feature-extraction", student="none"),
        WITHOUT_STUDENT | OF_IMAGES | LOOPS | {"label_column", "text_pair_column"},
    ),
    "text, answers": (
        Options("cpu-avx2", teacher="answers"),
        OF_IMAGES | LOOPS | {"min_speedup", "evidence", "labels", "unlabelled"},
    ),
    "onnx, none": (Options("cpu-avx2", student="none", teacher="none-such.onnx"), WITHOUT_STUDENT | OF_IMAGES),
}


def taken(asked: Options) -> bool:
    """Whether the words are taken: what is refused then is the teacher or the data, neither of which is there."""
    with pytest.raises((TeacherError, DataError, UsageError)) as refusal:
        make_plan(asked)
    refused = isinstance(refusal.value, UsageError)
    assert not refused or "leave it out" in refusal.value.fix, refusal.value
    return not refused


def test_every_option_has_a_value_here():
    assert set(VALUES) == {name for name, _, _ in declarations()}
    defaults = {one.name: one.default for _, _, one in declarations()}
    same = {"task", "student"}  # which make the mode
    assert {name for name, value in VALUES.items() if value == defaults[name]} == same


@pytest.mark.parametrize("mode", MODES)
def test_what_a_mode_does_not_honour_it_refuses(mode, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    usual, refused = MODES[mode]
    usual = replace(usual, teacher=usual.teacher or "none-such", data="none-such.csv")
    assert taken(usual), "what a refusal's fix leads to: the option left out"
    found = {
        name
        for name, value in VALUES.items()
        if name not in ("task", "teacher", "data", "student") and not taken(replace(usual, **{name: value}))
    }
    assert found == refused | OF_API | OF_GRAPHS | (set() if mode == "text, answers" else {"base"})


def test_a_temperature_that_no_loss_has_is_refused():
    asked = Options("cpu-avx2", losses=("hard_labels=1",), temperature=3.0, teacher="none-such")
    with pytest.raises(UsageError, match="--temperature means nothing to the losses hard_labels") as refusal:
        make_plan(asked)
    assert "--loss response=0.5" in refusal.value.fix
    assert taken(replace(asked, losses=("hard_labels=1", "response=0.5")))
    assert taken(replace(asked, temperature=None))


@pytest.mark.parametrize(
    ("target", "minutes", "told"),
    [(profile(), 1.0, True), (profile(), 0.5, False), (profile(), 0.0, False), (elsewhere(), 1.0, False)],
)
def test_time_for_an_emulator_that_nothing_needs_is_told(target, minutes, told):
    plan: Any = SimpleNamespace(target=target, emulate_minutes=minutes)
    assert bool(evaluate.unused(plan)) is told
