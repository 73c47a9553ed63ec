"""The emulated core: what it needs and refuses, how it ends, and (marked `emulator`) that it runs aarch64 kernels."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import WIDTH, matmul_model, packed, programs, samples
from test_verifier import seal

from edgekd.core.errors import EdgeKDError, RuntimeCannotLoad, UsageError
from edgekd.core.registry import make
from edgekd.core.results import versions
from edgekd.devices import _arm64, _counter, _guest_image, _sysroot
from edgekd.devices.guest import Guest
from edgekd.devices.local import Local
from edgekd.devices.qemu import Qemu
from edgekd.onboard import RUNNER_FILES, machine, runner, verify

ORT = versions("onnxruntime")["onnxruntime"]
CLASSES = (
    "float multiply-add",
    "integer multiply-add",
    "dot product",
    "other SIMD",
    "load and store",
    "integer",
    "branch",
    "other",
)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder for the emulator's files."""
    monkeypatch.setenv("EDGEKD_GUEST", str(tmp_path / "guest"))
    return tmp_path / "guest"


@pytest.fixture
def root(place):
    """A whole root folder of nothing."""

    def produce(folder):
        (folder / "usr" / "bin").mkdir(parents=True)
        (folder / _sysroot.PYTHON).write_text("python")

    return _arm64.store().stage("sysroot", _sysroot._key(), produce)


ALL_TOOLS = {name.replace("-", "_"): "exit 9" for name in _sysroot.TOOLS if name not in ("setpriv", "prlimit")}
VERSION = '[ "$1" = --version ] && echo "qemu-aarch64 version 7.2.1 (Debian)" && exit\n'


@pytest.fixture
def qemu(root, monkeypatch, tmp_path):
    """A function that puts a qemu-aarch64 of this shell text in place."""
    return lambda text: programs(tmp_path, monkeypatch, **ALL_TOOLS | {"qemu_aarch64": VERSION + text})


@pytest.fixture
def counter(root):
    """A counter of nothing."""
    return _arm64.store().stage("instructions", _counter._key(), lambda f: (f / _counter._NAME).write_text("")) / (
        _counter._NAME
    )


# its files


def test_missing_tools_are_named_with_the_command_that_installs_them(place, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not Qemu.available()
    for call in (Qemu.build, lambda: Qemu().run("facts")):
        with pytest.raises(EdgeKDError) as refusal:
            call()
        assert refusal.value.message == ("an aarch64 emulator needs qemu-aarch64, apt-get, dpkg-deb, setpriv, prlimit")
        assert refusal.value.fix == "run `apt-get install --no-install-recommends apt dpkg qemu-user util-linux`"


def test_without_files_the_command_that_builds_them_is_named(place, monkeypatch, tmp_path):
    programs(tmp_path, monkeypatch, **ALL_TOOLS)
    assert not Qemu.available()
    with pytest.raises(EdgeKDError) as refusal:
        Qemu().run("facts")
    assert refusal.value.message == "no aarch64 emulator yet; accuracy on ARM stays predicted"
    assert refusal.value.fix == "run `edgekd doctor --fix emulator`: it fetches about 100 MB of packages, once"


def test_a_damaged_file_is_refused_and_another_runtime_is_stale(root, qemu, monkeypatch):
    qemu("exit 0")
    assert Qemu.available()
    (root / _sysroot.PYTHON).write_text("changed")
    with pytest.raises(EdgeKDError, match="the emulator's files are damaged: they are not those that were written"):
        Qemu().run("facts")
    monkeypatch.setattr(_arm64, "runtime", lambda: "9.9.9")
    assert not Qemu.available()
    assert Qemu.checks()[1].what == "the emulator's files are not made for onnxruntime 9.9.9 by this edgekd"


def test_what_was_finished_is_kept_and_what_was_killed_is_done_again(place, monkeypatch, tmp_path):
    done = []

    def step(name, *, fails):
        def produce(folder):
            done.append(name)
            if fails.pop():
                raise EdgeKDError("the network went away", fix="try again")
            (folder / "usr" / "bin").mkdir(parents=True)
            (folder / _sysroot.PYTHON).write_text(name)

        return produce

    programs(tmp_path, monkeypatch, **ALL_TOOLS)
    unpack = step("root", fails=[False])
    monkeypatch.setattr(_arm64, "_fetch_debs", step("debs", fails=[False]))
    monkeypatch.setattr(_arm64, "_fetch_wheels", step("wheels", fails=[False, True]))
    monkeypatch.setattr(_sysroot, "_unpack", lambda folder, *parts: unpack(folder))
    with pytest.raises(EdgeKDError, match="the network went away"):
        Qemu.build()
    Qemu.build()
    Qemu.build()
    assert done == ["debs", "wheels", "wheels", "root"]
    assert not list(place.glob("*/*.new-*")), "nothing half-made stays"


def test_whoever_has_the_guest_fetches_nothing_more(place, monkeypatch, tmp_path):
    fetched = []
    monkeypatch.setattr(_arm64, "_fetch_debs", lambda folder: fetched.append("packages"))
    monkeypatch.setattr(_arm64, "_fetch_wheels", lambda folder: fetched.append("wheels"))
    monkeypatch.setattr(_guest_image, "_assemble", lambda folder, debs, wheels: None)
    monkeypatch.setattr(_sysroot, "_unpack", lambda folder, debs, wheels: None)
    programs(tmp_path, monkeypatch, **ALL_TOOLS | {"qemu_system_aarch64": "", "ssh": "", "ssh_keygen": ""})
    Guest.build()
    Qemu.build()
    assert fetched == ["packages", "wheels"]
    assert set(_sysroot._PACKAGES) < set(_arm64.PACKAGES)


def test_only_what_python_needs_is_unpacked(monkeypatch, tmp_path):
    depends = {
        "python3-minimal": "Depends: dpkg (>= 1.13.20), python3.11-minimal (>= 3.11.2-1~) | python\nPre-Depends: aa\n",
        "python3.11-minimal": "Depends: libc6 (>= 2.33), nowhere\n",
        "libc6": "Depends: libc6\n",
        "aa": "",
        "dpkg": "",
        "openssh-server": "Depends: aa\n",
        "libgomp1": "Depends: libc6:any\n",
        "libstdc++6": "",
        "libpython3-stdlib": "",
    }
    for name in depends:
        (tmp_path / f"{name}_1.0_arm64.deb").touch()
    monkeypatch.setattr(_arm64, "run", lambda command, *words: depends[Path(command[2]).name.partition("_")[0]])
    assert [deb.name.partition("_")[0] for deb in _sysroot._needed(tmp_path)] == [
        "aa",
        "libc6",
        "libgomp1",
        "libpython3-stdlib",
        "libstdc++6",
        "python3-minimal",
        "python3.11-minimal",
    ]


def test_no_link_of_the_root_folder_leads_out_of_it(monkeypatch, tmp_path):
    root = tmp_path / "root"
    (root / "usr/share/doc").mkdir(parents=True)
    (root / "usr/share/doc/text").touch()
    (root / "lib").mkdir()
    (root / "lib/real").touch()
    for name, to in {"same": "real", "up": "../usr/share/doc", "host": "/etc/passwd", "gone": "absent"}.items():
        (root / "lib" / name).symlink_to(to)
    monkeypatch.setattr(_sysroot, "_needed", lambda debs: [])
    _sysroot._unpack(root, tmp_path, tmp_path)
    assert sorted(path.name for path in (root / "lib").iterdir()) == ["real", "same", "up"]
    assert not list((root / "usr/share/doc").iterdir())


def test_where_python_is_of_another_release_the_emulated_one_makes_its_byte_code(qemu, monkeypatch, tmp_path):
    qemu(f'echo "$@" > {tmp_path}/words')
    monkeypatch.setattr(_sysroot, "_needed", lambda debs: [])
    monkeypatch.setattr(_arm64.sys, "version_info", type("Version", (), {"major": 3, "minor": 99}))
    (tmp_path / "new").mkdir()
    _sysroot._unpack(tmp_path / "new", tmp_path, tmp_path)
    words = (tmp_path / "words").read_text()
    assert re.match(r"-L (\S+) -cpu cortex-a72 \1/usr/bin/python3.11 -I -S -c import sys; ", words)
    assert words.endswith(", onnxruntime\n")


@pytest.mark.parametrize("cpu", _sysroot.CORES)
def test_a_core_says_what_it_is_as_arms_kernels_do(tmp_path, cpu):
    (tmp_path / "root" / "usr").mkdir(parents=True)
    (tmp_path / "face").mkdir()
    _sysroot.face(tmp_path / "face", tmp_path / "root", cpu)
    told = machine.identity(tmp_path / "face")
    assert told["microarch"] == cpu
    has_dot_products = cpu in ("cortex-a76", "cortex-a78ae", "neoverse-n1")
    assert told["isa"] == (["asimd", "asimddp", "fphp", "asimdhp"] if has_dot_products else ["asimd"])
    assert machine.state(tmp_path / "face") == {
        "load": None,
        "governor": None,
        "temperature_c": None,
        "clock_mhz": None,
        "throttled": None,
    }


# the counter


def test_without_gcc_everything_else_works_and_the_way_out_is_said(root, qemu, monkeypatch, tmp_path):
    qemu("exit 0")
    which = _counter.shutil.which
    monkeypatch.setattr(_counter.shutil, "which", lambda name: None if name == "gcc" else which(name))
    said = []
    monkeypatch.setattr(_arm64, "packages", lambda: tmp_path)
    monkeypatch.setattr(_arm64, "wheels", lambda: tmp_path)
    monkeypatch.setattr("edgekd.core.protocols.NullProgress.say", lambda self, line: said.append(line))
    Qemu.build()
    fix = "run `apt-get install --no-install-recommends gcc libc6-dev`, then `edgekd doctor --fix emulator`"
    assert said == [f"counting instructions needs gcc; {fix} again"]
    assert Qemu.available()
    assert Qemu.counts() == f"there is no gcc; {fix}"
    check = Qemu.checks()[1]
    assert (check.state, check.fix) == ("ok", "")
    assert check.what.endswith(f"; no instruction counts: there is no gcc; {fix}")
    with pytest.raises(EdgeKDError) as refusal:
        Qemu().run("count", models={}, threads=1)
    assert refusal.value.message == "instructions cannot be counted: there is no gcc"
    assert refusal.value.fix == fix


def test_a_qemu_that_does_not_take_the_counter_is_found_out_when_it_is_built(root, qemu, monkeypatch, tmp_path):
    qemu("echo Could not load plugin x: minimum version of 2 >&2; exit 1")
    programs(tmp_path, monkeypatch, gcc='while [ $# -gt 2 ]; do shift; done; touch "$1"')
    with pytest.raises(EdgeKDError) as refusal:
        _counter.build_counter(root)
    assert refusal.value.message == (
        "QEMU does not take the instruction counter: Could not load plugin x: minimum version of 2"
    )
    assert Qemu.counts() == "the counter is not compiled; run `edgekd doctor --fix emulator`"


def test_counts_are_per_inference_and_each_models_own(qemu, counter):
    qemu("""
for word in "$@"; do case $word in *out=*) file=${word##*out=};; esac; done
echo '{"integer": 40, "branch": 2}' > $file
echo '{"integer": 9, "branch": 0}' >> $file
echo '{"n": {"one": 2, "two": 3}}'
""")
    assert Qemu().run("count", models={"one": {}, "two": {}}, threads=1) == {
        "one": {"instructions": 21, "classes": {"integer": 20, "branch": 1}},
        "two": {"instructions": 3, "classes": {"integer": 3, "branch": 0}},
    }


def test_instructions_are_counted_on_one_thread(qemu, counter):
    qemu("exit 1")
    with pytest.raises(UsageError) as refusal:
        Qemu().run("count", models={}, threads=4)
    assert refusal.value.message == "instructions are counted on one thread, not on 4"


def test_a_comma_in_a_path_ends_no_option_of_qemus():
    assert _counter.options(Path("/a,b/c.so"), Path("/d,e")) == ["-plugin", "/a,,b/c.so,out=/d,,e"]


# the device


@pytest.mark.parametrize("cpu", ["max", "cortex-a99"])
def test_a_core_that_no_board_has_is_refused(cpu):
    with pytest.raises(UsageError) as refusal:
        make("devices", "qemu", cpu=cpu)
    assert refusal.value.message == f"the emulator's cpu must be a core that boards have, not {cpu!r}"
    assert "cortex-a72, cortex-a76" in refusal.value.fix


@pytest.mark.parametrize(
    ("mode", "why", "fix"),
    [
        ("time", "its time is the emulator's", "measure latency on the device itself"),
        (
            "footprint",
            "its memory is the emulator's",
            "measure memory in the arm64 guest (`edgekd doctor --fix guest`), or on the device itself",
        ),
    ],
)
def test_what_means_nothing_under_emulation_is_refused(qemu, mode, why, fix):
    qemu("exit 1")
    with Qemu().up() as device, pytest.raises(UsageError) as refusal:
        device.run(mode, models={}, threads=1)
    assert refusal.value.message == f"an emulated core cannot do a {mode} run: {why}"
    assert refusal.value.fix == fix


def test_a_job_runs_on_the_core_asked_for_without_anything_of_the_hosts(qemu, tmp_path, monkeypatch):
    monkeypatch.setenv("LD_PRELOAD", "")
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    answer, outputs = {"n": 1, "row_sha256": ["0" * 64]}, str(tmp_path / "outputs.npz")
    runner.pack([{"y": np.zeros(2, np.float32)}], Path(outputs))  # as the runner would
    qemu(
        f'echo "$@" > {tmp_path}/words; env > {tmp_path}/env; cat "$9" > {tmp_path}/job; echo \'{json.dumps(answer)}\''
    )
    with Qemu(cpu="cortex-a76").up() as device:
        assert device.host == f"cortex-a76 under QEMU 7.2.1 in user mode, onnxruntime {ORT}"
        assert device.run("predict", model="m", inputs="i", threads=2, outputs=outputs) == answer
        options, *rest = re.fullmatch(
            r"-L (\S+) -cpu (\S+) (\S+) -S -s (\S+) (\S+)\n", (tmp_path / "words").read_text()
        ).groups()
        assert rest[:3] == ["cortex-a76", f"{device.root}/{_sysroot.PYTHON}", runner.__file__]
        assert options == str(device.root)
    assert not device.root.exists()
    assert not Path(rest[3]).parent.exists()
    assert json.loads((tmp_path / "job").read_text()) == {
        "mode": "predict",
        "model": "m",
        "inputs": "i",
        "threads": 2,
        "outputs": outputs,
        "provider": "CPUExecutionProvider",
    }
    assert "PYTHONHOME" not in (tmp_path / "env").read_text()


@pytest.mark.parametrize(
    ("text", "kind", "message", "fix"),
    [
        (
            "kill -ILL $$",
            RuntimeCannotLoad,
            f"onnxruntime {ORT} does not run on cortex-a72: illegal instruction",
            "install another version of onnxruntime; the profile's known_bad_ort is the place to note this one",
        ),
        (
            "kill -SEGV $$",
            RuntimeCannotLoad,
            f"onnxruntime {ORT} does not run on cortex-a72: segmentation fault",
            "install another version of onnxruntime; the profile's known_bad_ort is the place to note this one",
        ),
        (
            "echo no such library >&2; exit 1",
            EdgeKDError,
            "a facts run on the emulated cortex-a72 ended with code 1: no such library",
            "run the same command again; if it repeats, run `edgekd doctor --fix emulator`",
        ),
        (
            "echo qemu-aarch64: unable to find CPU model >&2; exit 1",
            EdgeKDError,
            "QEMU 7.2.1 knows no cortex-a72",
            "install a newer QEMU",
        ),
        (
            "echo Could not load plugin >&2; exit 1",
            EdgeKDError,
            "QEMU 7.2.1 does not take the instruction counter",
            "run `edgekd doctor --fix emulator`, which says why",
        ),
        (
            """echo '{"refused": "InvalidGraph: opset 99"}'""",
            RuntimeCannotLoad,
            "ONNX Runtime on cortex-a72 refuses the model: InvalidGraph: opset 99",
            "export it again with an opset and IR version that this runtime knows",
        ),
        (
            "exit 0",
            EdgeKDError,
            "a facts run on the emulated cortex-a72 ended without an answer: it said nothing",
            "run the same command again; if it repeats, look for a package or a sitecustomize on that device "
            "that prints or exits, and whether it is the device that you mean",
        ),
        (
            """echo '{"n": 1}'; echo Goodbye""",
            EdgeKDError,
            "a facts run on the emulated cortex-a72 ended without an answer: Goodbye",
            "run the same command again; if it repeats, look for a package or a sitecustomize on that device "
            "that prints or exits, and whether it is the device that you mean",
        ),
    ],
)
def test_a_run_that_ends_badly_says_why(qemu, text, kind, message, fix):
    qemu(text)
    with pytest.raises(kind) as refusal:
        Qemu().run("facts")
    assert (type(refusal.value), refusal.value.message, refusal.value.fix) == (kind, message, fix)


def test_a_run_that_takes_too_long_is_ended(qemu, tmp_path):
    qemu(f"echo $$ > {tmp_path}/pid; exec sleep 60")
    with pytest.raises(EdgeKDError) as refusal:
        Qemu(timeout_s=1).run("facts")
    assert refusal.value.message == "a run on the emulated cortex-a72 took longer than 1 s"
    assert refusal.value.fix == "give fewer inputs, look for a loop in the model, or run it on the device itself"
    assert not alive(tmp_path / "pid")


def test_the_emulator_ends_when_its_parent_is_killed(qemu, tmp_path):
    qemu(f"echo $$ > {tmp_path}/pid; exec sleep 60")
    code = "from edgekd.devices.qemu import Qemu; Qemu().run('facts')"
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        assert alive(tmp_path / "pid")
        parent.send_signal(signal.SIGKILL)
    wait_for(lambda: not alive(tmp_path / "pid"))


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def alive(file):
    status = Path("/proc", file.read_text().strip(), "status")
    return status.exists() and not re.search(r"^State:\s+Z", status.read_text(), re.MULTILINE)


# a real one


TOKENS = 16
ROWS = 3


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A tiny model in float32 and as dynamic int8, and inputs."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    folder = tmp_path_factory.mktemp("lab")
    plain = matmul_model(folder / "float32.onnx")
    quantize_dynamic(plain, folder / "int8.onnx", weight_type=QuantType.QInt8)
    runner.pack(samples(*[TOKENS] * ROWS), folder / "inputs.npz")
    return folder


@pytest.fixture(scope="module")
def models(lab):
    return {name: {"model": f"{lab}/{name}.onnx", "inputs": f"{lab}/inputs.npz"} for name in ("float32", "int8")}


@pytest.fixture(scope="module")
def a72():
    """An emulated Cortex-A72; its files are made first where they are not there."""
    Qemu.build()
    with Qemu(cpu="cortex-a72").up() as device:
        yield device


@pytest.fixture(scope="module")
def a76(a72):
    with Qemu(cpu="cortex-a76").up() as device:
        yield device


def answered(device, lab, models):
    said = lab / "said.npz"
    told = device.run("answers", models=models, threads=1, outputs=str(said), limit_s=300.0)
    assert told["n"] == ROWS
    return {name: packed(said, f"{name}/y") for name in models}, told["row_sha256"]


@pytest.mark.emulator
def test_it_is_an_aarch64_cortex_a72(a72):
    facts = a72.run("facts")
    assert (facts["arch"], facts["microarch"], facts["isa"]) == ("aarch64", "cortex-a72", ["asimd"])
    assert (facts["ort_version"], facts["clock_mhz"]) == (ORT, None)
    assert facts["state"] | {"load": None} == dict.fromkeys(
        ("load", "governor", "temperature_c", "clock_mhz", "throttled")
    ), "what the host's kernel says of its own clock is not the core's"


@pytest.mark.emulator
def test_float32_is_the_hosts_and_int8_is_bit_identical_on_both_cores(a72, a76, lab, models, record_property):
    here, _ = answered(Local(), lab, models)
    (there, hashes), (newer, newer_hashes) = answered(a72, lab, models), answered(a76, lab, models)
    np.testing.assert_allclose(there["float32"], here["float32"], atol=1e-5, rtol=0)
    assert hashes == newer_hashes
    assert hashes["float32"] != hashes["int8"]
    np.testing.assert_array_equal(there["int8"], newer["int8"])
    for name, outputs in {"x86": here, "aarch64": there}.items():
        record_property(f"int8 on {name}", outputs["int8"].tolist())
    step = np.abs(there["float32"]).max() / 127
    assert np.abs(there["int8"] - there["float32"]).max() < 5 * step
    assert np.abs(there["int8"] - here["int8"]).max() < 5 * step


@pytest.mark.emulator
def test_instructions_are_those_of_the_arithmetic_and_repeat_within_1_percent(a72, a76, models):
    if reason := Qemu.counts():
        pytest.skip(reason)
    first, again = (a72.run("count", models=models, threads=1) for _ in range(2))
    newer = a76.run("count", models=models, threads=1)
    for name in models:
        assert tuple(first[name]["classes"]) == CLASSES
        assert first[name]["instructions"] == sum(first[name]["classes"].values())
        assert again[name]["instructions"] == pytest.approx(first[name]["instructions"], rel=0.01)
    macs = TOKENS * WIDTH * WIDTH + WIDTH * 4  # the layer on each token, and the head on their mean
    vectors = {
        cpu: {name: count["classes"] for name, count in counts.items()}
        for cpu, counts in {"a72": first, "a76": newer}.items()
    }
    for cpu in vectors:
        assert vectors[cpu]["float32"]["float multiply-add"] == pytest.approx(macs / 4, rel=0.02)  # 4 in a vector
        assert vectors[cpu]["int8"]["float multiply-add"] < macs / 400
    assert vectors["a72"]["int8"]["integer multiply-add"] == pytest.approx(macs / 8, rel=0.02)
    assert vectors["a72"]["int8"]["dot product"] == 0
    assert vectors["a76"]["int8"]["dot product"] == pytest.approx(macs / 16, rel=0.02)
    assert vectors["a76"]["int8"]["integer multiply-add"] == 0
    assert newer["int8"]["instructions"] < first["int8"]["instructions"]


@pytest.mark.emulator
def test_jobs_of_several_threads_do_not_meet(a72, lab, tmp_path):
    (job,) = [{"model": f"{lab}/float32.onnx", "inputs": f"{lab}/inputs.npz", "threads": 1}]
    workers = [
        threading.Thread(target=a72.run, args=["predict"], kwargs=job | {"outputs": f"{tmp_path}/{n}.npz"})
        for n in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    np.testing.assert_array_equal(packed(tmp_path / "0.npz"), packed(tmp_path / "1.npz"))


@pytest.mark.emulator
def test_a_bundles_verifier_runs_there(a72, lab, tmp_path):
    bundle = tmp_path / "bundle"
    for name in ("onnx", "golden"):
        (bundle / name).mkdir(parents=True)
    (bundle / "onnx/model.onnx").write_bytes((lab / "float32.onnx").read_bytes())
    (bundle / "verify.py").write_bytes(Path(verify.__file__).read_bytes())
    (bundle / "bench").mkdir()
    for name in RUNNER_FILES:
        (bundle / "bench" / name).write_bytes(Path(verify.__file__).with_name(name).read_bytes())
    (bundle / "report.md").touch()
    inputs = [sample["x"] for sample in samples(*[TOKENS] * ROWS)]
    np.savez(bundle / "golden/inputs.npz", **{f"{row}.x": x for row, x in enumerate(inputs)})
    said = np.stack([row["y"] for row in verify.run_golden(bundle, {"model": "onnx/model.onnx", "recipe": "float32"})])
    np.savez(bundle / "golden/expected.npz", aarch64=said, float32=said + 1)
    (bundle / "golden/golden.json").write_text(json.dumps({"tolerance": {"aarch64": 1e-5, "float32": 1e-5}}))
    seal(bundle)
    done = a72.python([str(bundle / "verify.py")])
    assert (done.returncode, done.stderr) == (0, "")
    assert "to the outputs recorded on aarch64, tolerance 1e-05" in done.stdout.decode()


@pytest.mark.emulator
def test_a_damaged_model_is_refused(a72, lab, tmp_path):
    (tmp_path / "damaged.onnx").write_bytes((lab / "float32.onnx").read_bytes()[:100])
    with pytest.raises(RuntimeCannotLoad, match="ONNX Runtime on cortex-a72 refuses the model: InvalidProtobuf: "):
        a72.run("predict", model=f"{tmp_path}/damaged.onnx", inputs="", threads=1, outputs="")


@pytest.mark.emulator
def test_an_illegal_instruction_is_told_and_leaves_no_core_file(a72, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "import os, signal; os.kill(os.getpid(), signal.SIGILL)"
    with pytest.raises(RuntimeCannotLoad, match=f"onnxruntime {ORT} does not run on cortex-a72: illegal instruction"):
        a72.python(["-c", code])
    assert not list(tmp_path.iterdir())


@pytest.mark.emulator
def test_files_that_are_there_are_not_made_again(a72):
    before = (_sysroot.open_sysroot() / _sysroot.PYTHON).stat().st_mtime_ns
    Qemu.build()
    assert (_sysroot.open_sysroot() / _sysroot.PYTHON).stat().st_mtime_ns == before
