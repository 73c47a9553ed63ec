"""`edgekd bench`, and the same receipt by hand on a board: what is measured, written, shown and refused."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import invoke, run
from made_bundle import Board, make_bundle, seal, write_manifest

from edgekd.core.errors import (
    BelowAccuracy,
    EdgeKDError,
    OverLatency,
    OverMemory,
    RuntimeCannotLoad,
    StoreError,
    UsageError,
)
from edgekd.core.protocols import NullProgress
from edgekd.core.results import this_host
from edgekd.hardware import latency_correction
from edgekd.hardware.profile import load_profile
from edgekd.hardware.roofline import predict_latency, work_of
from edgekd.onboard import bench, verify
from edgekd.receipts import benchmark_on_device as proving
from edgekd.receipts import compare, files
from edgekd.receipts.shipped import DataFile, device_at, open_bundle
from edgekd.store.store import Store

PI = {"arch": "aarch64", "cpu": "Raspberry Pi 4 Model B Rev 1.4", "microarch": "cortex-a72", "isa": ["asimd"]}
SHAPE = {
    "width": 8,
    "depth": 1,
    "kernel": 3,
    "stride": 1,
    "separable": False,
    "dilated": False,
    "steps": 5,
    "channels": 32,
    "classes": 4,
}


@pytest.fixture
def prove(tmp_path, monkeypatch):
    """Prove a bundle on a device that a test makes up."""

    def on(board, bundle=None, progress=None, **options):
        monkeypatch.setattr(proving, "device_at", lambda words, target, **options: ("ssh://pi@board", board))
        folder = bundle or make_bundle(tmp_path / "tiny-here")
        return proving.prove(folder, progress or NullProgress(), Store(tmp_path / "store"), **options)

    return on


def test_a_proof_lies_beside_its_bundle_and_holds_its_budgets(prove, tmp_path):
    proof = prove(Board())
    assert proof.path.parent == tmp_path / "tiny-here.receipts"
    assert proof.broken == ()
    assert (proof.well, proof.flips, proof.receipt.accuracy) == (True, 0, 1.0)
    assert {one.name: one.held for one in proof.budgets} == {
        "memory": True,
        "median latency": True,
        "cold start": True,
    }
    assert [receipt.digest for _, receipt in files.read_all(tmp_path / "tiny-here")[0]] == [proof.receipt.digest]
    assert json.dumps(proof.as_dict())
    assert open_bundle(tmp_path / "tiny-here"), "nothing was written into the bundle"


BROKEN = {
    "latency": ({"latency_ms": 0.04}, OverLatency, "median latency on the device is 0.04 ms > 0.03", 4),
    "memory": ({"peak_rss_mib": 99.0}, OverMemory, "memory on the device is 99.00 MiB > 32", 3),
    "outputs": ({"shift": 0.5}, BelowAccuracy, "the device's outputs are outside the bundle's tolerance: largest", 5),
}


@pytest.mark.parametrize(("board", "kind", "says", "code"), BROKEN.values(), ids=BROKEN)
def test_what_a_device_breaks_is_kept_and_told(prove, tmp_path, board, kind, says, code):
    proof = prove(Board(**{"latency_ms": 0.02} | board), make_bundle(tmp_path / "tiny-here", latency_ms=0.03))
    (broken,) = proof.broken
    assert type(broken) is kind
    assert broken.message.startswith(says)
    assert broken.exit_code == code
    assert proof.path.exists()
    good, refused = files.read_all(tmp_path / "tiny-here")
    assert (len(good), len(refused)) == ((0, 1) if kind is BelowAccuracy else (1, 0))


def test_the_gravest_is_first(prove, tmp_path):
    bundle = make_bundle(tmp_path / "tiny-here", latency_ms=0.03)
    proof = prove(Board(latency_ms=0.04, peak_rss_mib=99.0, shift=0.5), bundle)
    assert [one.exit_code for one in proof.broken] == [5, 3, 4]


def test_another_architecture_s_budgets_are_not_judged(prove, tmp_path):
    other = {"aarch64": "x86_64"}.get(this_host().arch, "aarch64")
    proof = prove(Board(latency_ms=0.04), make_bundle(tmp_path / "tiny-other", arch=other, latency_ms=0.03))
    assert proof.broken == ()
    assert {one.says for one in proof.budgets} == {f"not judged: of {other}, this is {this_host().arch}"}


@pytest.mark.parametrize("percent", [90, 99])
def test_a_budget_at_a_percentile_is_held_against_it_where_it_is_resolvable(prove, tmp_path, percent):
    bundle = make_bundle(tmp_path / "tiny-p", latency_percentile=percent)
    proof = prove(Board(latency_ms=0.04), bundle)
    name = proof.budgets[1].name
    assert (
        name
        == {
            90: "p90 latency",
            99: "median latency (p99: not resolvable on this host: p99 takes 459 samples, these are 128)",
        }[percent]
    )
    assert prove(Board(latency_ms=0.04), bundle, full=True).budgets[1].name == f"p{percent} latency"


def test_an_emulated_core_has_no_times(prove):
    board = Board(emulated="user", facts=PI)
    with pytest.raises(EdgeKDError, match="device 'ssh://pi@board' contradicts emulated 'user'"):
        prove(board)
    assert set(board.jobs) == {"facts", "predict"}, "nothing is timed there"


def test_a_receipt_of_a_slow_model_times_fewer_rows_in_all_rounds_of_its_protocol(prove, tmp_path, monkeypatch):
    bundle = make_bundle(tmp_path / "tiny-here")
    rows = prove(Board(), bundle).receipt.protocol.samples
    monkeypatch.setattr(bench, "ROUND_S", 1e-9)
    told = prove(Board(), bundle).receipt
    assert (told.protocol.processes, told.protocol.rounds) == bench.PROTOCOLS["quick"]
    assert told.protocol.samples == bench.LEAST_ROWS < rows
    assert f"over {bench.LEAST_ROWS} " in told.latency_note


def test_timed_outputs_that_are_not_the_accuracy_run_s_are_an_error(prove, tmp_path):
    with pytest.raises(EdgeKDError, match="the timed run's outputs are not the accuracy run's"):
        prove(Board(sways=True))
    assert not (tmp_path / "tiny-here.receipts").exists()


@pytest.mark.parametrize(("release", "says"), [("1.9.0", "outside >=1.17,<2"), ("1.21.0", "known to be bad on here")])
def test_a_runtime_that_no_receipt_could_stand_for_is_refused_first(prove, release, says):
    board = Board(facts={"ort_version": release})
    with pytest.raises(RuntimeCannotLoad, match=says):
        prove(board)
    assert board.jobs == ["facts"]


def test_a_provider_that_is_not_there_is_refused(prove, tmp_path):
    bundle = make_bundle(tmp_path / "gpu", execution_provider="CUDAExecutionProvider", recipes=["float16"])
    with pytest.raises(RuntimeCannotLoad, match="has no CUDAExecutionProvider, which the profile asks for"):
        prove(Board(), bundle)


def test_a_changed_bundle_is_refused(prove, tmp_path):
    bundle = make_bundle(tmp_path / "tiny-here")
    (bundle / "more").write_text("")
    with pytest.raises(EdgeKDError, match="is not the bundle that was shipped: more: not part of the bundle"):
        prove(Board(), bundle)


def test_a_receipt_from_a_board_of_the_profile_s_core_calibrates_predictions(prove, tmp_path):
    fit = {"chosen": {"shape": SHAPE}}
    bundle = make_bundle(tmp_path / "tiny-rpi4", fit=fit, arch="aarch64", microarch="cortex-a72")
    target, work = load_profile("rpi4"), work_of("conv1d", SHAPE, None, 5)
    plain = predict_latency(work, target, "float32")
    proof = prove(Board(facts=PI, latency_ms=3 * plain.value), bundle)
    assert proof.calibrates.startswith(
        "predictions for cortex-a72 are now calibrated by 1 receipt from Raspberry Pi 4 Model B Rev 1.4: 3.00 times"
    )
    (reading,) = latency_correction.load(tmp_path / "store", "cortex-a72")
    assert (reading.ratio, reading.digest) == (pytest.approx(3.0, rel=0.001), proof.receipt.digest)
    found = predict_latency(work, target, "float32", [reading])
    assert found.value == pytest.approx(3 * plain.value, rel=0.001)
    assert "calibrated by 1 receipt from Raspberry Pi 4" in found.how


def test_a_prediction_is_held_against_inputs_of_the_size_that_was_timed(tmp_path):
    bundle = open_bundle(make_bundle(tmp_path / "tiny-rpi4", fit={"chosen": {"shape": SHAPE}}))
    receipt = SimpleNamespace(microarch="none", cpu="a board", remark="", digest="0" * 64)
    latency = SimpleNamespace(stable=True, p50_ms=1.0)
    target = proving.parse_profile(bundle.of.target, where="test")
    found = {
        tokens: proving._reading(bundle, target, receipt, latency, [{"input_ids": np.zeros((1, tokens))}] * 3)
        for tokens in (5, 50)
    }
    assert found[50].predicted_ms > 5 * found[5].predicted_ms


OTHERS = {
    "another core": {"facts": PI | {"microarch": "cortex-a53"}},
    "wrong outputs": {"facts": PI, "shift": 0.5},
    "a virtual machine": {"facts": PI | {"cpu": "linux,dummy-virt"}},
}


@pytest.mark.parametrize("board", OTHERS.values(), ids=OTHERS)
def test_what_calibrates_nothing(prove, tmp_path, board):
    bundle = make_bundle(
        tmp_path / "tiny-rpi4", fit={"chosen": {"shape": SHAPE}}, arch="aarch64", microarch="cortex-a72"
    )
    assert prove(Board(latency_ms=0.04, **board), bundle).calibrates == ""
    assert latency_correction.load(tmp_path / "store", "cortex-a72") == ()


def test_a_sustained_run_tells_latency_over_time(prove):
    said, progress = [], NullProgress()
    progress.step = lambda done, note="": said.append(note)
    told = prove(Board(), progress=progress, minutes=0.02).receipt.sustained
    assert told.points
    assert told.slowdown == bench.slowdown([point.p50_ms for point in told.points])
    assert said[-1].startswith("sustained, ")


def test_ctrl_c_ends_a_sustained_run_and_keeps_what_it_showed(prove, monkeypatch):
    board, run_it = Board(), Board.run

    def interrupted(self, mode, **job):
        if self.jobs.count("time") >= bench.PROTOCOLS["quick"][0] + 2:
            raise KeyboardInterrupt
        return run_it(self, mode, **job)

    monkeypatch.setattr(Board, "run", interrupted)
    monkeypatch.setattr(bench, "_CHUNK_S", 0.2)
    told = prove(board, minutes=60.0).receipt.sustained
    assert len(told.points) == 2
    assert told.minutes < 1


def test_ctrl_c_before_the_first_point_is_told(tmp_path):
    said = []

    def time(mode, **job):
        raise KeyboardInterrupt

    lab = bench._Lab(time, {"model": "model.onnx"}, "mean", 1, tmp_path, said.append)
    lab.timed_rows = 16
    assert lab.sustained(1.0, [[1.0]]) is None
    assert said == ["sustained run ended early; before its first point: it showed nothing"]


def shown_sustained(proof, minutes=60.0):
    from edgekd.cli.bench import _shown

    (line,) = [line for line in _shown(proof, "", minutes).splitlines() if line.startswith("sustained")]
    return line


def test_a_sustained_run_of_one_point_is_too_short_to_tell(prove, tmp_path):
    proof = prove(Board(), minutes=0.001)
    assert len(proof.receipt.sustained.points) == 1
    assert re.fullmatch(r"sustained +too short to tell +0\.\d+ minutes, one point *", shown_sustained(proof))
    stopped = replace(proof, receipt=proof.receipt.model_copy(update={"sustained": None}))
    assert re.fullmatch(r"sustained +nothing +ended before its first point *", shown_sustained(stopped))


def test_an_emulated_device_has_no_minutes_and_nothing_fuller(prove, tmp_path):
    bundle, board = make_bundle(tmp_path / "tiny-here"), Board(emulated="user")
    with pytest.raises(UsageError, match="--minutes means nothing on ssh://pi@board: its time is the emulator's"):
        prove(board, bundle, minutes=1.0)
    assert board.jobs == []
    said, progress = [], NullProgress()
    progress.say = said.append
    with pytest.raises(EdgeKDError, match="contradicts emulated"):
        prove(board, bundle, progress=progress, full=True)
    assert said == ["--full changes nothing on ssh://pi@board: nothing is timed there"]


def test_a_folder_that_takes_no_receipt_is_told_before_anything_is_measured(prove, tmp_path):
    bundle, board = make_bundle(tmp_path / "tiny-here"), Board()
    files.folder(bundle).write_text("no folder")
    with pytest.raises(StoreError, match="no receipt can be written to ") as refusal:
        prove(board, bundle)
    assert refusal.value.fix == "make that folder writable, or copy the bundle to where you may write"
    assert board.jobs == []


@pytest.mark.parametrize(("command", "bundles"), [("bench", 1), ("compare", 2)])
def test_ctrl_c_keeps_nothing_and_says_so(monkeypatch, tmp_path, capsys, command, bundles):
    from edgekd import cli

    def stopped(*_, **__):
        raise KeyboardInterrupt

    for module, name in ((proving, "prove"), (compare, "compare")):
        monkeypatch.setattr(module, name, stopped)
    monkeypatch.setattr(sys, "argv", ["edgekd", command, *[str(tmp_path)] * bundles])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 130
    assert capsys.readouterr().err == "\nstopped; nothing was kept\n"  # click ends the line that has ^C


def test_slowdown_is_of_the_last_tenth_over_the_first():
    assert bench.slowdown([2.0]) == 1.0
    assert bench.slowdown([1.0] * 10 + [5.0] * 9 + [1.5]) == 3.25
    assert bench.slowdown([1.0, 1.0, *[2.0] * 16, 1.2, 1.2]) == 1.2


def test_a_virtual_machine_behind_ssh_is_no_board_whose_time_is_judged(prove, tmp_path):
    bundle = make_bundle(tmp_path / "tiny-rpi4", arch="aarch64", latency_ms=0.001)
    proof = prove(Board(facts=PI | {"cpu": "linux,dummy-virt"}, latency_ms=0.04), bundle)
    assert proof.broken == ()
    assert [one.says for one in proof.budgets] == ["held", *["not judged: a virtual machine's time is no board's"] * 2]
    assert proof.receipt.remark == "a virtual machine's time is no board's"


# the words for devices

TARGET = load_profile("rpi4").as_dict()


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("local", "local"),
        ("qemu", "qemu:cortex-a72"),
        ("qemu:cortex-a53", "qemu:cortex-a53"),
        ("guest", "guest:cortex-a72"),
        ("ssh://pi@board:22", "ssh://pi@board:22"),
    ],
)
def test_a_device_by_its_words(words, name):
    found, device = device_at(words, TARGET)
    assert found == name
    assert device.emulated == {"qemu": "user", "guest": "system"}.get(name.partition(":")[0], "")


@pytest.mark.parametrize(
    ("words", "options", "says"),
    [
        ("toaster", {}, "there is no device 'toaster'"),
        ("ssh:board", {}, "there is no device 'ssh:board'"),
        ("qemu:max", {}, "not 'max'"),
        ("local", {"install": True}, "--install is for a board behind ssh://"),
    ],
)
def test_words_that_name_no_device(words, options, says):
    with pytest.raises(UsageError, match=re.escape(says)):
        device_at(words, TARGET, **options)


def test_a_profile_without_a_core_cannot_be_emulated():
    with pytest.raises(UsageError, match="cpu-avx2 has no emulator_cpu"):
        device_at("qemu", load_profile("cpu-avx2").as_dict())


# by hand, on the board


@pytest.fixture
def carried(tmp_path):
    """A bundle with what it needs to be measured by hand, on a machine without edgekd."""
    return make_bundle(tmp_path / "carried to a board", onboard=True)


def by_hand(bundle, *arguments):
    return subprocess.run(
        [sys.executable, "-I", bundle / "bench", *arguments], capture_output=True, text=True, cwd="/", check=False
    )


def test_a_receipt_by_hand_is_the_same_and_leaves_the_bundle_as_it_was(carried):
    done = by_hand(carried)
    assert done.returncode == 0, done.stderr
    receipt = files.check(done.stdout.encode(), carried)
    assert (receipt.device, receipt.emulated, receipt.protocol.name) == ("by hand", "", "quick")
    assert len(done.stderr.splitlines()) == bench.steps("quick", "")
    assert verify.changed_files(carried, json.loads((carried / "manifest.json").read_text())) == []
    assert not (carried / "bench" / "__pycache__").exists()


def test_by_hand_the_profile_s_provider_runs_the_model(tmp_path):
    bundle = make_bundle(tmp_path / "tiny", onboard=True, execution_provider="AzureExecutionProvider")
    runner, log = bundle / "bench" / "runner.py", tmp_path / "providers.txt"
    start = 'mode = job.pop("mode")'
    told = f"{start}; open({str(log)!r}, 'a').write(job['provider'] + '\\n')"
    runner.write_text(runner.read_text().replace(start, told))
    seal(bundle, {"name": "here", "ort_version": ">=1.17"}, "time-series-classification")
    done = by_hand(bundle)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["provider"] == "AzureExecutionProvider"
    assert set(log.read_text().split()) == {"AzureExecutionProvider"}


def test_a_receipt_by_hand_in_full(carried):
    receipt = files.check(by_hand(carried, "--full").stdout.encode(), carried)
    assert (receipt.protocol.processes, len(receipt.latency_ms)) == (10, 30)
    assert 10 * 3 * 16 >= 459, "enough for p99"


def test_by_hand_a_changed_bundle_is_refused(carried):
    (carried / "golden" / "golden.json").write_text("{}")
    done = by_hand(carried)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("FAILED  this is not the bundle that was shipped: golden/golden.json: ")


@pytest.mark.parametrize("missing", ["numpy", "onnxruntime"])
def test_by_hand_a_board_without_packages_is_told_what_to_install(carried, missing, tmp_path):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / f"{missing}.py").write_text(
        f"raise ModuleNotFoundError(\"No module named '{missing}'\", name='{missing}')"
    )
    done = subprocess.run(
        [sys.executable, "-B", carried / "bench"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "bare")},
    )
    assert (done.returncode, done.stdout) == (7, "")
    assert done.stderr == f"FAILED  No module named '{missing}': install numpy and onnxruntime >=1.17,<2\n"


@pytest.mark.parametrize("minutes", ["nan", "inf", "1441", "-1"])
def test_by_hand_minutes_that_are_none_are_refused(carried, minutes):
    done = by_hand(carried, "--minutes", minutes)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"--minutes takes 0 to 1440, not {minutes}" in done.stderr


def test_by_hand_a_model_that_the_runtime_refuses_is_7(tmp_path):
    bundle = make_bundle(tmp_path / "tiny", onboard=True)
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "onnx" / "model.onnx").write_bytes(b"not a model")
    manifest["artifact"]["files"]["onnx/model.onnx"] = {
        "size": 11,
        "sha256": hashlib.sha256(b"not a model").hexdigest(),
    }
    write_manifest(bundle, manifest)
    done = by_hand(bundle)
    assert done.returncode == 7
    assert "FAILED  ONNX Runtime refuses the model: " in done.stderr


# the command


EXTRAS = (
    "accelerate datasets huggingface_hub onnx optimum pyarrow safetensors scipy sklearn tokenizers torch transformers"
)


def without_extras(*arguments):
    """The command as a base install has it."""
    code = f"import sys; sys.modules |= dict.fromkeys({EXTRAS.split()}); from edgekd.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def test_the_commands_work_in_a_base_install(tiny_bundle, tmp_path):
    bundle = shutil.copytree(tiny_bundle, tmp_path / "things-cpu")
    compared = without_extras("compare", bundle, bundle)
    assert compared.returncode == 0, compared.stderr
    done = without_extras("bench", bundle)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("things-cpu on local: ")
    lines = {line.split("  ")[0]: line for line in done.stdout.splitlines() if line}
    assert "within tolerance" in lines["outputs"]
    assert "16 golden inputs, the class that the float32 model gives; 0 of 16 golden classes flip" in lines["accuracy"]
    assert "95%" in lines["latency p50"]
    assert "not resolvable on this host: p99 takes 459 samples" in lines["latency p99"]
    assert lines["median latency"].endswith("held")
    assert lines["report"].endswith("things-cpu.receipts/report.html")
    assert (tmp_path / "things-cpu.receipts" / "report.html").exists()


def test_the_command_takes_rows_with_labels(tiny_bundle, tiny_data, tmp_path):
    bundle = shutil.copytree(tiny_bundle, tmp_path / "things-cpu")
    done = run("bench", bundle, "--data", tiny_data, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["accuracy_of"] == "labels of things.csv"
    assert (said["accuracy_n"], said["latency"]["latency_n"]) == (600, 800)
    (good,), refused = files.read_all(bundle)
    assert refused == []
    assert good[1].protocol.samples == 100


def test_rows_of_other_classes_are_refused(tiny_bundle, tmp_path):
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\nwhat is red,colour\nwhat is it,smell\n")
    with pytest.raises(EdgeKDError, match=r"rows\.csv has the label 'smell', which things-cpu does not know"):
        DataFile(str(rows)).measured(open_bundle(tiny_bundle))


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["nowhere"], 2, "nowhere is no bundle: it has no manifest.json"),
        (["BUNDLE", "--device", "toaster"], 2, "there is no device 'toaster'"),
        (["BUNDLE", "--text-column", "text"], 2, "--text-column without --data"),
        (["BUNDLE", "--minutes", "-1"], 2, "Invalid value for '--minutes'"),
        (["BUNDLE", "--minutes", "nan"], 2, "nan is not from 0 to 1440"),
        (["BUNDLE", "--minutes", "inf"], 2, "inf is not from 0 to 1440"),
        (["BUNDLE", "--minutes", "1441"], 2, "1441 is not from 0 to 1440"),
        (["BUNDLE", "--minutes", "1", "--device", "qemu:cortex-a72"], 2, "--minutes means nothing on qemu:cortex-a72"),
        (["BUNDLE", "--data", "nothing.csv"], 1, "nothing.csv"),
    ],
)
def test_the_command_refuses_in_two_lines(tmp_path, arguments, code, says):
    bundle = make_bundle(tmp_path / "tiny")
    done = invoke("bench", *(str(bundle) if one == "BUNDLE" else one for one in arguments))
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert done.stderr.splitlines()[-1].startswith("  fix: ")
    assert done.stdout == ""


def test_the_command_s_exit_code_and_json_say_what_is_broken(tmp_path, monkeypatch):
    bundle = make_bundle(tmp_path / "tiny", latency_ms=1e-6)
    monkeypatch.setattr(proving, "device_at", lambda *words, **options: ("local", Board()))
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path / "store"))
    done = invoke("bench", bundle, "--json")
    said = json.loads(done.stdout)
    assert (done.returncode, said["exit"]) == (4, 4)
    assert said["error"].startswith("median latency on the device is ")
    assert invoke("bench", bundle).returncode == 4
