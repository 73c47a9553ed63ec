"""Reports that no test has the time to measure: of every form, and of other kernels, devices and their receipts."""

import json
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import numpy as np
from helpers import PlanStub, profile

from edgekd.compression.choose import Choice, Trial, pareto
from edgekd.core import confidence as sure
from edgekd.core import statistics
from edgekd.core.metrics import ACCURACY, AGREEMENT, COSINE
from edgekd.core.protocols import InputSpec
from edgekd.inference.benchmark import above
from edgekd.report import compose
from edgekd.sizing.costs import Cost, Fit

NAMES = ("plain", "a|b", "<i>c</i>", "rare")
SHAPE = {
    "width": 8,
    "depth": 5,
    "kernel": 7,
    "stride": 4,
    "separable": False,
    "dilated": True,
    "steps": 500,
    "channels": 1,
    "classes": 4,
}
LABELS = [0] * 60 + [1] * 60 + [2] * 60 + [3] * 3
COLUMNS = {"input": "x", "label": "y", "left_out": ["id", "a\nb"], "n_left_out": 2}
EVIDENCE = {
    "arms": [
        {
            "name": "the whole objective",
            "losses": "1 response(temperature 2)",
            "accuracy": [0.80, 0.82],
            "difference": 9.1,
            "low": 7.9,
            "high": 10.3,
            "seeds": 2,
        },
        {
            "name": "weights",
            "losses": "1 hard_labels",
            "accuracy": [0.71, 0.72],
            "difference": -0.5,
            "low": -1.5,
            "high": 0.5,
            "seeds": 2,
        },
    ],
    "control": {"name": "labels alone", "accuracy": [0.70, 0.74], "how": "random weights, the labels alone"},
    "n_test": len(LABELS),
}
SUGGESTION = sure.Suggestion(threshold=0.6, coverage=0.7, accuracy=0.96)
SCALING = {"temperature": 1.6, "fitted_on": "teacher", "n": 200, "ece_before": 0.121, "ece_after": 0.034}


def model(seed, skill, latency_ms, teacher=None, suggestion=None):
    """What `measure` says of a model whose logits lean to the label by `skill`."""
    logits = np.random.default_rng(seed).normal(size=(len(LABELS), 4))
    logits[np.arange(len(LABELS)), LABELS] += skill
    correct, certain = statistics.hits(logits, LABELS), sure.certainty(logits)
    difference, low, high = statistics.paired_difference(correct if teacher is None else teacher, correct)
    kept = statistics.retained(correct, correct if teacher is None else teacher)
    return {
        "metric_value": float(correct.mean()),
        "metric_interval": [0.7, 0.9],
        "n": len(LABELS),
        "artifact_mib": 1.5,
        "ece": sure.expected_calibration_error(certain, correct),
        "ece_interval": [0.01, 0.2],
        "recall": sure.recalls(LABELS, correct, 4),
        "above": above(suggestion, certain, correct) if suggestion else None,
        "retained": kept.value,
        "retained_interval": [kept.low, kept.high],
        "import_baseline_mib": 48.6,
        "agreement": 0.9,
        "agreement_interval": [0.85, 0.95],
        "difference_points": 100 * difference,
        "difference_interval": [100 * low, 100 * high],
        "latency_p50_ms": latency_ms,
        "latency_interval": [0.9 * latency_ms, 1.1 * latency_ms],
        "latency_p90_ms": 2 * latency_ms,
        "latency_p99_ms": None,
        "latency_n": 800,
        "latency_notes": {"90": "of 800 single runs", "99": "not resolvable on this host: the A/A control is 41% off"},
        "latency_quantiles_ms": [latency_ms * (0.8 + (at / 90) ** 8) for at in range(101)],
        "ratio_interval": [0.9, 1.1],
        "speedup": 7.2 / latency_ms,
        "peak_rss_mib": 10.0,
        "peak_rss_interval": [9.0, 11.0],
        "peak_rss_longest_mib": 12.0,
        "longest": 500,
        "cold_start_ms": 200.0,
        "_statistics": correct,
    }


def against_teacher(values, value):
    """The same model where rows have no labels: its metric is how far it agrees with the teacher."""
    values = {key: known for key, known in values.items() if key != "recall"}
    return values | {
        "metric_value": value,
        "metric_interval": [value - 0.001, value],
        "agreement": value,
        "retained": value,
        "retained_interval": [value - 0.001, value],
        "ece": None,
        "ece_interval": None,
    }


TRIALS = (
    Trial("float32", 1.0, 0.0, 1.0, 0.7, 30.0, 90.0, (1.0, 1.0), (0.0, 0.0), (1.0, 1.0)),
    Trial("dynamic_int8", 0.96, 4.2, 1.79, 0.4, 12.0, 23.0, (0.94, 0.98), (2.9, 5.5), (1.75, 1.83)),
    Trial("static_int8", 0.9957, 0.43, 1.71, 0.41, 12.0, 23.5, (0.993, 0.997), (0.3, 0.6), (1.68, 1.74)),
    Trial("static_int8-float2", 0.9981, 0.2, 1.6, 0.45, 13.0, 25.0, kept=("a", "b"), said="in float: first | last"),
    Trial.failure("float16", "no kernel of the <provider> takes it"),
)
BROKEN = {"float16": "failed: no kernel of the <provider> takes it"}
LOSES = "loses 4.2 points > 2 allowed"
CHOICE = Choice(
    "static_int8",
    "1.71x the speed of fp32 at +0.4 points lost",
    BROKEN
    | {
        "float32": "1.71x slower than static_int8",
        "dynamic_int8": LOSES,
        "static_int8-float2": "not surely faster",
    },
)
FP32 = Choice(
    "float32",
    "no quantized variant is both allowed and faster",
    BROKEN | dict.fromkeys(("dynamic_int8", "static_int8", "static_int8-float2"), LOSES),
)
FORCED = Choice(
    "static_int8",
    f"forced, although it {LOSES}; 1.71x the speed of fp32",
    BROKEN | dict.fromkeys(("float32", "dynamic_int8", "static_int8-float2"), "static_int8 was forced"),
    forced=True,
    against=(LOSES,),
)


def composed(
    *,
    labelled=True,
    tested=True,
    suggestion=SUGGESTION,
    distilled=True,
    task="time-series-classification",
    choice=CHOICE,
    stopped=None,
    target=None,
    min_retained=0.5,
    latency_ms=0.72,
    api=None,
    **given,
):
    """A report. Not `tested`: the test rows have no labels; of a text encoder's there are none.

    `api` is what a teacher that only answers took, and whether it was asked about test rows.
    """
    cost = Cost(
        SHAPE,
        "5 blocks",
        "float32",
        "measured",
        10,
        1,
        0.7,
        200,
        10,
        2,
        "predicted",
        None,
        {"weights": 1.0},
        {"memory_mib": 10.1, "latency_ms": 0.8},
    )
    teacher = {"kind": "measured", "latency_ms": 7.2, "memory_mib": 30.0, "artifact_mib": 20.0, "cold_start_ms": 300.0}
    errors = {"float32": {"memory_mib": 0.1, "artifact_mib": 0.1, "latency_ratio": 0.2}}
    fit = Fit(teacher, (cost,), cost, (cost,), 9, 3, errors, "a host", 1.0, (), "this host")
    embeds = task == "feature-extraction"
    plan = PlanStub(
        name="things",
        task=task,
        target=target or profile(),
        digest="0" * 64,
        price_per_hour=0.05,
        metric=COSINE if embeds else ACCURACY if tested else AGREEMENT,
        compresses_only=not distilled,
        search_limit_s=600.0,
        student=SimpleNamespace(
            family="conv1d" if distilled else "none", survey=InputSpec(500, (500,)), min_speedup=5.0, exit=None
        ),
        data=SimpleNamespace(
            name="d",
            columns=COLUMNS,
            counts={"selection": 200, "test": len(LABELS)},
            notes=(),
            classes=() if embeds else NAMES,
            licence="none",
            selection_labelled=labelled,
            test_labelled=tested,
        ),
        teacher=SimpleNamespace(
            name="t",
            ready=True,
            licence="none",
            sha256="0" * 64,
            words="a net",
            checks=("ONNX: <parsed> & checked",),
            answered=None,
        ),
        start=SimpleNamespace(name="t"),
        base=None,
        has_yardstick=True,
        compared_with="the teacher",
        min_retained=min_retained,
        golden="synthetic",
        seed=0,
        versions={"edgekd": "0"},
        plugins={},
    )
    first = model(1, 4.0, 7.2)
    models = {"teacher": first} | {
        name: model(
            seed, 3.0, 0.72 if name == "float32" else latency_ms, first["_statistics"], None if embeds else suggestion
        )
        for seed, name in enumerate(("float32", "static_int8"), start=2)
    }
    baseline = {"recipe": "a ridge classifier", "metric_value": 0.5, "metric_interval": [0.4, 0.6], "n": len(LABELS)}
    if not tested:
        values = {"teacher": 1.0, "float32": 1.0, "static_int8": 0.9957}
        models = {name: against_teacher(models[name], value) for name, value in values.items()}
    answers = None
    if api is not None:
        told, asked = api
        plan.has_yardstick, plan.compared_with = False, "its own fp32"
        plan.base = SimpleNamespace(name="all-MiniLM", words="bert", licence="Apache-2.0", sha256="1" * 64)
        plan.teacher.architecture, plan.teacher.answered = {"answers": WHO}, told
        models = {name: values for name, values in models.items() if name != "teacher"}
        each = {key: models["float32"][key] for key in COMPARED}
        both = {"n": 100, "of": len(LABELS), "own_labels": True, "metric_value": 0.9, "metric_interval": [0.8, 0.95]}
        answers = both | {"models": dict.fromkeys(models, each)} if asked else None
    measured = {
        "yardstick": "teacher" if api is None else "float32",
        "answers": answers,
        "models": models,
        "aa": {"ratio": 1.0, "ratio_interval": [0.99, 1.01]},
        "baseline": baseline if tested else None,
        "n_test": len(LABELS),
        "classes": dict(zip(NAMES, (60, 60, 60, 3), strict=True)) if tested else {},
    }
    found = {
        "trials": json.loads(json.dumps([asdict(trial) for trial in TRIALS])),
        "pareto": pareto(TRIALS),
        "best": choice.name,
        "stopped": stopped,
        "diagnosis": None,
        "graph": None,
        "on_target": None,
        "held_out": None,
        "on_target_says": "Nothing was run on aarch64 kernels.",
    }
    return compose.compose(plan, fit if distilled else None, choice, found, measured, **given)


WHO = {"model": "a <b>model</b>", "provider": "api.example.com|v1", "terms": {"date": "2026-11-30"}}
COMPARED = (
    "metric_value",
    "metric_interval",
    "retained",
    "retained_interval",
    "difference_points",
    "difference_interval",
)
TOOK = {
    "figures": {
        "rows": 2000,
        "labelled": 1990,
        "requests": 2100,
        "unknown": 3,
        "refused": 6,
        "malformed": 4,
        "prompt_tokens": 300_000,
        "completion_tokens": 15_000,
        "cost_usd": 0.1234,
        "agreement": 0.98,
        "repeats": 50,
    },
    "soft_labels": 1800,
    "a_query": {
        "answers": 2100,
        "prompt_tokens": 140,
        "completion_tokens": 7,
        "cost_usd": 6e-5,
        "latency_p50_ms": 400.0,
        "latency_p90_ms": 900.0,
        "concurrency": 8,
    },
    "pilot": {"rows": 50, "accuracy": 0.9, "low": 0.78, "high": 0.96},
    "prices": {"source": "given"},
}
FREE = {"figures": TOOK["figures"] | {"cost_usd": None, "agreement": None, "unknown": 0, "refused": 0, "malformed": 0}}
FREE |= {"soft_labels": 0, "a_query": None, "pilot": None, "prices": None}
CARD = {
    "pair": False,
    "model": "model_quantized.onnx",
    "bundle": "things",
    "survey": {"max_size": 9, "channels": 1},
    "front": "license: other",
    "purpose": "turns things into others",
    "limits": ["It was made up."],
    "files": {"onnx/model_quantized.onnx": "the model"},
}
NONE = {"distilled": False}
UNLABELLED = NONE | {"labelled": False, "tested": False}
FORMS = {
    "distilled": {},
    "none": NONE,
    "none, without labels": UNLABELLED,
    "none, embeddings": UNLABELLED | {"task": "feature-extraction"},
    "forced": {"choice": FORCED},
    "stopped": {"stopped": "interrupted"},
    "fp32 ships": {"choice": FP32},
}


def on_target() -> dict[str, Any]:
    """Three variants on a core's own kernels, of which one answers otherwise there."""
    trial = {"n": 180, "agreement_interval": [0.85, 0.95], "drop_interval": [-0.4, 1.4], "largest_difference": 0.31}
    kinds = (
        "float multiply-add",
        "integer multiply-add",
        "dot product",
        "other SIMD",
        "load and store",
        "integer",
        "branch",
        "other",
    )
    counts = {
        "float32": (29e6, 0, 0, 1e6, 8e6, 2e6, 0.9e6, 0.1e6),
        "dynamic_int8": (1e6, 9e6, 0, 4e6, 8e6, 2e6, 0.9e6, 0.1e6),
        "static_int8": (0, 5e6, 0, 1e6, 9e6, 2e6, 0.9e6, 0.1e6),
    }
    cost = {
        name: {"instructions": sum(own), "relative": sum(own) / 41e6, "classes": dict(zip(kinds, own, strict=True))}
        for name, own in counts.items()
    }
    return {
        "cpu": "cortex-a72",
        "emulated": "user",
        "host": "cortex-a72 under QEMU, onnxruntime 1.32.0",
        "selection": {
            "n": 180,
            "of": 400,
            "seconds": 17.3,
            "trials": {
                "float32": trial | {"agreement": 0.991, "drop_points": 0.0, "flips": 0, "largest_difference": 1e-5},
                "dynamic_int8": trial | {"agreement": 0.981, "drop_points": 0.6, "flips": 2},
                "static_int8": trial
                | {"agreement": 0.91, "drop_points": 7.2, "drop_interval": [3.1, 11.4], "flips": 14},
            },
            "agreement_here": {"float32": 0.9944, "dynamic_int8": 0.9833, "static_int8": 0.9833},
            "agreement_there": {"float32": 0.9944, "dynamic_int8": 0.9778, "static_int8": 0.9111},
        },
        "held_out": {
            "n": 60,
            "of": 124,
            "value": 0.9167,
            "interval": [0.84, 0.98],
            "here": 0.9833,
            "flips": 4,
            "largest_difference": 0.31,
        },
        "cost": cost,
        "cost_note": "",
    }


def receipts() -> dict[str, Any]:
    """As `page.with_receipts` gives them: this machine, a board that is over its budgets, an emulator; one refused."""
    measured = dict.fromkeys(("accuracy", "latency", "peak_rss", "cold_start"), "measured")
    runs = [0.8 + (at / 90) ** 8 for at in range(101)]
    here = {
        "file": "local-1.json",
        "device": "local",
        "of_target": False,
        "remark": "",
        "emulated": "",
        "arch": "x86_64",
        "cpu": "AMD EPYC",
        "cores": 2,
        "memory_mib": 24105,
        "ort_version": "1.32.0",
        "threads": 1,
        "accuracy": 0.9375,
        "accuracy_n": 16,
        "accuracy_of": "golden inputs, the class that the float32 model gives",
        "latency_note": "",
        "latency": {
            "latency_p50_ms": 0.81,
            "latency_interval": [0.8, 0.83],
            "latency_p90_ms": 1.8,
            "latency_p99_ms": None,
            "latency_n": 128,
            "aa": 0.998,
            "stable": True,
            "latency_notes": {"90": "of 128 single runs", "99": "not resolvable on this host: too few"},
        },
        "latency_quantiles_ms": runs,
        "peak_rss_mib": [12.7, 12.8, 12.8],
        "cold_start_ms": [190.0, 193.0, 201.0],
        "load": {"before": 0.2, "after": 0.9},
        "governor": None,
        "temperature_c": {"before": None, "after": None},
        "throttled": None,
        "sustained": None,
        "protocol": {"name": "quick", "processes": 4, "rounds": 2, "samples": 16},
        "started": "2026-11-26T09:20:00Z",
        "kind": measured,
    }
    points = [
        {"at_s": 9.0 * at, "p50_ms": 80 + (at > 18) * 25, "temperature_c": 50.0 + at, "clock_mhz": 1500.0}
        for at in range(1, 34)
    ]
    board = here | {
        "latency_note": "over 16 rows",
        "file": "ssh-2.json",
        "device": "ssh://pi@<i>board</i>:22",
        "of_target": True,
        "cpu": "Cortex-A72",
        "arch": "aarch64",
        "cores": 4,
        "latency": here["latency"]
        | {
            "latency_p50_ms": 812.0,
            "latency_interval": [805, 820],
            "latency_p90_ms": 1790.0,
            "aa": 1.034,
            "stable": False,
        },
        "latency_quantiles_ms": [1000 * ms for ms in runs],
        "peak_rss_mib": [2048.0],
        "governor": "ondemand",
        "temperature_c": {"before": 51.2, "after": 79.8},
        "throttled": True,
        "sustained": {"minutes": 5.0, "points": points, "throttled": True, "slowdown": 1.31},
    }
    emulator = here | {
        "file": "qemu-3.json",
        "device": "qemu:cortex-a72",
        "of_target": True,
        "emulated": "user",
        "cpu": "Cortex-A72",
        "arch": "aarch64",
        "latency": None,
        "latency_quantiles_ms": None,
        "peak_rss_mib": None,
        "cold_start_ms": None,
        "latency_note": "the machine is emulated: its time is the emulator's",
        "kind": measured | dict.fromkeys(("latency", "peak_rss", "cold_start"), "unknown"),
    }
    return {"held": [here, board, emulator], "refused": [{"file": "x.json", "reasons": ["of another model"]}]}
