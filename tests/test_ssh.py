"""The ssh device: it leaves nothing on a board, says what goes wrong, and (`slow`) drives a real sshd and a guest."""

import contextlib
import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import invoke, run
from helpers import matmul_model, packed, samples

from edgekd.core import external
from edgekd.core.errors import EdgeKDError, RuntimeCannotLoad, UsageError
from edgekd.core.registry import make
from edgekd.core.results import this_host, versions
from edgekd.devices import _board_packages, _openssh
from edgekd.devices import ssh as module
from edgekd.devices.guest import Guest
from edgekd.devices.local import Local
from edgekd.devices.ssh import NoRuntime, Ssh
from edgekd.hardware.profile import load_profile, probed
from edgekd.onboard import RUNNER_FILES, runner

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
RUNS = """
case " $* " in *" -G "*) echo "stricthostkeychecking ask"; exit 0;; esac
for last; do :; done
exec /bin/sh -c "$last"
"""
# what the runner asks of onnxruntime, less the models
STUB = """
import os, signal
__version__ = "1.2.3"
get_available_providers = list
class SessionOptions:
    add_session_config_entry = print
class InferenceSession:
    def __init__(self, model, *_, **__):
        %s
"""
ABSENT = "raise ModuleNotFoundError(\"No module named 'onnxruntime'\")"


def program(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A folder with an `ssh` that runs commands here, a `python3` as this one, and a board's /tmp and home."""
    program(tmp_path / "bin" / "ssh", RUNS)
    program(tmp_path / "bin" / "python3", f'exec {sys.executable} "$@"')
    for name in ("tmp", "home", "stub"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(module, "_PAUSES_S", (0.01, 0.01))
    matmul_model(tmp_path / "model.onnx")
    runner.pack(samples(3, 5, 1, 7), tmp_path / "inputs.npz")
    return tmp_path


def stub(bench, monkeypatch, text):
    """The board's own onnxruntime is this text."""
    (bench / "stub" / "onnxruntime.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(bench / "stub"))


def left(bench):
    return [path.name for name in ("tmp", "home") for path in (bench / name).rglob("*")]


def footprint(device, folder):
    return device.run("footprint", model=f"{folder}/model.onnx", inputs=[f"{folder}/inputs.npz"], threads=1)


def every_mode(device, folder):
    """A job of each mode; the outputs are those of this host."""
    one = {"model": f"{folder}/model.onnx", "inputs": f"{folder}/inputs.npz"}
    told = footprint(device, folder)
    assert 0 < told["peak_rss_mib"][0] < told["baseline_mib"]
    assert 0 < told["load_ms"] < told["cold_start_ms"] < 60_000, "by the board's clock"
    hashes = device.run("predict", **one, threads=1, outputs=f"{folder}/one.npz")["row_sha256"]
    said = device.run("answers", models={"m": one}, threads=1, limit_s=60, outputs=f"{folder}/there.npz")
    assert said == {"n": 4, "row_sha256": {"m": hashes}}
    timed = device.run("time", models={"m": one}, threads=1, rounds=2, seed=0)
    assert timed["row_sha256"] == {"m": hashes, "aa": hashes}
    assert np.shape(timed["latency_ms"]["aa"]) == (2, 4)
    Local().run("predict", **one, threads=1, outputs=f"{folder}/here.npz")
    for found in (packed(Path(folder, "one.npz")), packed(Path(folder, "there.npz"), "m/y")):
        np.testing.assert_allclose(found, packed(Path(folder, "here.npz")), atol=1e-5)
    return device.run("facts")


def test_local_is_a_device_like_the_others():
    with make("devices", "local").up() as device:
        assert (device.host, device.emulated, Ssh.emulated) == (this_host().name, "", "")
        assert device.run("facts")["arch"] == this_host().arch


@pytest.mark.parametrize(
    ("prints", "shown"),
    [("pass", "it said nothing"), ("print('{')", "{"), ("sys.stdout.buffer.write(b'\\xff')", "\ufffd")],
)
def test_a_run_here_without_an_answer_is_named(bench, monkeypatch, prints, shown):
    stub(bench, monkeypatch, f"import os, sys; {prints}; sys.stdout.flush(); os._exit(0)")
    monkeypatch.setenv("PYTHONUTF8", "1")
    with pytest.raises(EdgeKDError) as refusal:
        footprint(Local(), bench)
    assert type(refusal.value) is EdgeKDError
    assert refusal.value.message == f"a footprint run ended without an answer: {shown}"
    assert refusal.value.fix.startswith("run the same command again; if it repeats, look for a package")


def test_a_model_that_is_refused_here_is_named(bench):
    (bench / "model.onnx").write_text("no model")
    with pytest.raises(RuntimeCannotLoad, match=r"^ONNX Runtime refuses the model: "):
        footprint(Local(), bench)


# addresses


@pytest.mark.parametrize(
    ("url", "device"),
    [
        ("ssh://rpi4", Ssh("rpi4")),
        ("ssh://pi@192.0.2.7:2222", Ssh("192.0.2.7", user="pi", port=2222)),
        ("ssh://pi@[::1]:22", Ssh("::1", user="pi", port=22)),
        ("ssh://pi-4.lan", Ssh("pi-4.lan")),
    ],
)
def test_an_address_is_read_and_written_alike(url, device):
    assert Ssh.at(url) == device == make("devices", "ssh", host=device.host, user=device.user, port=device.port)
    assert device.address.url == url
    assert Ssh.at(url, install=True).install


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("rpi4", "'rpi4' is no address of a board"),
        ("http://rpi4", "'http://rpi4' is no address of a board"),
        ("ssh://", "'ssh://' is no address of a board"),
        ("ssh://pi@rpi4/tmp", "'ssh://pi@rpi4/tmp' is no address of a board"),
        ("ssh://rpi4:0", "'ssh://rpi4:0' is no address of a board"),
        ("ssh://rpi4:70000", "'ssh://rpi4:70000' is no address of a board: Port out of range 0-65535"),
        ("ssh://[::1", "'ssh://[::1' is no address of a board: Invalid IPv6 URL"),
        ("ssh://-oProxyCommand=x@h", "'-oProxyCommand=x' is no name of a board or of a user there"),
        ("ssh://-h", "'-h' is no name of a board or of a user there"),
        ("ssh://a b", "'a b' is no name of a board or of a user there"),
        ("ssh://pi:secret@rpi4", "an address of a board holds no password: it would show in receipts and logs"),
    ],
)
def test_a_bad_address_is_refused(url, problem):
    with pytest.raises(UsageError) as refusal:
        Ssh.at(url)
    assert refusal.value.message == problem
    assert refusal.value.fix.endswith("write ssh://host, ssh://user@host or ssh://user@host:port")
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    "names",
    [
        {"host": "-oProxyCommand=x"},
        {"host": "-G"},
        {"host": ""},
        {"host": "rpi4", "user": "-oProxyCommand=x"},
        {"host": "rpi4", "user": "a b"},
    ],
)
def test_a_name_that_ssh_would_read_as_an_option_is_refused_without_a_url_too(names):
    with pytest.raises(UsageError) as refusal:
        make("devices", "ssh", **names)
    assert refusal.value.message == f"{list(names.values())[-1]!r} is no name of a board or of a user there"
    assert refusal.value.fix == "write ssh://host, ssh://user@host or ssh://user@host:port"


def test_ssh_never_asks_and_never_takes_a_changed_key(bench):
    command = Ssh("rpi4", user="pi", port=2222, config=Path("mine")).address.command()
    assert command[:2] == ["ssh", "-T"]
    assert {"BatchMode=yes", "ConnectTimeout=10", "ForwardAgent=no"} <= set(command)
    assert command[-6:-1] == ["-F", "mine", "-p", "2222", "pi@rpi4"]
    assert not any("StrictHostKeyChecking" in word for word in command), "as the user has it"
    program(bench / "bin" / "ssh", "echo stricthostkeychecking false")
    assert "StrictHostKeyChecking=accept-new" in Ssh("rpi4").address.command()


# a board


def test_every_mode_runs_and_nothing_is_left(bench):
    with Ssh("board").up() as device:
        told = every_mode(device, bench)
        assert told["providers"]
        assert device.host.endswith(f"onnxruntime {told['ort_version']}, ssh://board")
        assert [re.sub("-[^-]+$", "", name.name) for name in (bench / "tmp").iterdir()] == ["edgekd-board"]
        assert (bench / "tmp" / Path(device.told["folder"]).name).stat().st_mode & 0o077 == 0
    assert left(bench) == []


def test_what_several_jobs_use_is_sent_once(bench, monkeypatch):
    sent = []
    ask = _openssh.Session.ask

    def spy(self, request, files=None, **options):
        sent.append({path.name for path in (files or {}).values()})
        return ask(self, request, files, **options)

    monkeypatch.setattr(_openssh.Session, "ask", spy)
    with Ssh("board").up() as device:
        footprint(device, bench)
        matmul_model(bench / "other.onnx", seed=3)
        models = {
            "a": {"model": f"{bench}/model.onnx", "inputs": f"{bench}/inputs.npz"},
            "b": {"model": f"{bench}/other.onnx", "inputs": f"{bench}/inputs.npz"},
        }
        device.run("time", models=models, threads=1, rounds=1, seed=0)
    assert sent == [set(), set(RUNNER_FILES), set(), {"model.onnx", "inputs.npz"}, {"other.onnx"}]


def test_weights_beside_a_graph_travel_with_it(bench, monkeypatch):
    """Two models whose data have one name: each finds its own."""
    monkeypatch.setattr(external, "LARGEST_FILE", 2048)
    models = {}
    for name, seed in (("a", 0), ("b", 3)):
        (bench / name).mkdir()
        whole = matmul_model(bench / f"{name}.onnx", seed=seed)
        models[name] = external.save(onnx.load(whole), bench / name / "model.onnx")
    assert all(map(external.has_data, models.values()))
    whole = {name: {"model": f"{bench}/{name}.onnx", "inputs": f"{bench}/inputs.npz"} for name in models}
    apart = {name: told | {"model": str(models[name])} for name, told in whole.items()}
    here = Local().run("time", models=whole, threads=1, rounds=1, seed=0)["row_sha256"]
    with Ssh("board").up() as device:
        there = device.run("time", models=apart, threads=1, rounds=1, seed=0)["row_sha256"]
    assert there == here
    assert there["a"] != there["b"]
    assert left(bench) == []


def test_a_login_shell_may_talk(bench):
    program(bench / "bin" / "ssh", RUNS.replace("exec", "echo Welcome; printf 'no end of line '; exec"))
    with Ssh("board").up() as device:
        assert footprint(device, bench)["baseline_mib"] > 0


def test_two_benches_on_a_board_do_not_meet(bench):
    with Ssh("board").up() as one, Ssh("board").up() as other:
        assert one.told["folder"] != other.told["folder"]
        footprint(one, bench)
    assert left(bench) == []


def test_a_refused_model_is_named_and_the_board_stays(bench):
    (bench / "damaged.onnx").write_bytes((bench / "model.onnx").read_bytes()[:100])
    with Ssh("board").up() as device:
        with pytest.raises(RuntimeCannotLoad, match=r"^ONNX Runtime \S+ on ssh://board refuses the model: Invalid"):
            device.run("footprint", model=f"{bench}/damaged.onnx", inputs=[f"{bench}/inputs.npz"], threads=1)
        assert footprint(device, bench)["baseline_mib"] > 0


def test_a_run_without_end_is_ended(bench, monkeypatch):
    stub(bench, monkeypatch, STUB % "import time; time.sleep(60)")
    with Ssh("board", timeout_s=1).up() as device, pytest.raises(EdgeKDError) as refusal:
        footprint(device, bench)
    assert refusal.value.message == "a footprint run on ssh://board took longer than 1 s"
    assert left(bench) == []


@pytest.mark.parametrize(
    ("prints", "shown"),
    [("pass", "it said nothing"), ("print('Goodbye')", "Goodbye"), ("print('[1, 2]')", "[1, 2]")],
)
def test_a_run_without_an_answer_is_named(bench, monkeypatch, prints, shown):
    stub(bench, monkeypatch, STUB % "pass")
    with Ssh("board").up() as device:
        stub(bench, monkeypatch, f"import os, sys; {prints}; sys.stdout.flush(); os._exit(0)")
        with pytest.raises(EdgeKDError) as refusal:
            footprint(device, bench)
    assert type(refusal.value) is EdgeKDError
    assert refusal.value.message == f"a footprint run on ssh://board ended without an answer: {shown}"
    assert refusal.value.fix.startswith("run the same command again; if it repeats, look for a package")


# what is left behind goes


def test_leftovers_of_killed_runs_are_swept_after_a_day(bench):
    for name in ("old", "busy", "fresh"):
        (bench / "tmp" / f"edgekd-board-{name}").mkdir()
    two_days_ago = time.time() - 2 * 24 * 3600
    for name in ("old", "busy"):
        os.utime(bench / "tmp" / f"edgekd-board-{name}", (two_days_ago, two_days_ago))
    with subprocess.Popen(["sleep", "60"], cwd=bench / "tmp" / "edgekd-board-busy") as busy:
        with Ssh("board").up():
            pass
        busy.kill()
    assert sorted(left(bench)) == ["edgekd-board-busy", "edgekd-board-fresh"]


def test_ctrl_c_in_a_job_leaves_nothing(bench, monkeypatch):
    stub(
        bench, monkeypatch, STUB % f"open('{bench}/at-work', 'w').write(str(os.getpid())); import time; time.sleep(60)"
    )
    code = f"""if True:
        from edgekd.devices.ssh import Ssh
        with Ssh("board").up() as device:
            device.run("footprint", model="{bench}/model.onnx", inputs=["{bench}/inputs.npz"], threads=1)
    """
    for ending in (signal.SIGINT, signal.SIGKILL):
        with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as host:
            worker = waited(lambda: (bench / "at-work").exists() and (bench / "at-work").read_text())
            host.send_signal(ending)
        waited(lambda: not left(bench))
        waited(lambda worker=worker: ended(worker))
        (bench / "at-work").unlink()


def ended(process):
    status = Path("/proc", process, "status")
    return not status.exists() or bool(re.search(r"^State:\s+Z", status.read_text(), re.MULTILINE))


def waited(check, limit_s=20.0):
    end = time.monotonic() + limit_s
    while not (found := check()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


# the connection is lost


def test_a_job_whose_connection_is_lost_is_done_again(bench, monkeypatch):
    lost = bench / "lost"
    steps = [
        f"first = not os.path.exists('{lost}')",
        f"with open('{lost}', 'a') as file: file.write(f'{{os.getpid()}} ')",
        # its parent is board.py, which is all of the connection here: killed, it cannot clean up after itself
        "if first: os.kill(os.getppid(), signal.SIGKILL); import time; time.sleep(60)",
        "raise OSError('second time')",
    ]
    stub(bench, monkeypatch, STUB % "\n        ".join(steps))
    said = []
    with Ssh("board", say=said.append).up() as device:
        before = device.told["folder"]
        with pytest.raises(RuntimeCannotLoad, match="second time"):
            footprint(device, bench)
        (line,) = said
        assert line.startswith("the connection to ssh://board was lost: ")
        assert line.endswith("; trying again in 0 s")
        assert device.told["folder"] != before
        assert not Path(before).exists(), "what the lost connection left is removed at the next contact"
        assert ended(lost.read_text().split()[0]), "and what it had at work is killed"
    assert left(bench) == []


def test_a_connection_that_does_not_come_back_is_an_error(bench, monkeypatch):
    with Ssh("board").up() as device:
        said = "ssh: connect to host board port 22: No route to host"
        program(bench / "bin" / "ssh", f'case " $* " in *" -G "*) exit 0;; esac\necho {said} >&2; exit 255')
        os.kill(device._session._ssh.pid, signal.SIGKILL)
        with pytest.raises(EdgeKDError) as refusal:
            footprint(device, bench)
    assert refusal.value.message == (
        "ssh://board cannot be reached: connect to host board port 22: No route to host; "
        "it did not come back for a footprint run within 0 s of trying"
    )
    assert (
        refusal.value.fix == "see that the board runs and that this machine reaches it (`ping`), "
        "then run the same command again"
    )


# what OpenSSH says; its own words, of 9.2

CHANGED = """\
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!
Add correct host key in /home/me/.ssh/known_hosts to get rid of this message.
Offending ED25519 key in /home/me/.ssh/known_hosts:7
  remove with:
  ssh-keygen -f "/home/me/.ssh/known_hosts" -R "[board]:22"
Host key for [board]:22 has changed and you have requested strict checking.
Host key verification failed.
"""
REFUSED = "ssh: connect to host board port 22: Connection refused"
UNKNOWN = "ssh: Could not resolve hostname board: Name or service not known"
SILENT = "ssh: connect to host board port 22: Connection timed out"


@pytest.mark.parametrize(
    ("said", "problem", "fix"),
    [
        (REFUSED, "ssh://board refuses connections: nothing listens there", "start its ssh server"),
        (
            UNKNOWN,
            "no machine is called 'board': Could not resolve hostname board: Name or service not known",
            "check its spelling",
        ),
        (
            SILENT,
            "ssh://board cannot be reached: connect to host board port 22: Connection timed out",
            "see that the board runs",
        ),
        (
            "pi@board: Permission denied (publickey).",
            "ssh://board lets nobody in with the keys that ssh has here: pi@board: Permission denied (publickey).",
            "add your public key there with `ssh-copy-id`",
        ),
        (
            "Host key verification failed.",
            "ssh does not know the host key of ssh://board",
            "make sure which board it is, then connect once by hand with `ssh board` and accept its key",
        ),
        (
            CHANGED,
            "the host key of ssh://board is not the one in line 7 of /home/me/.ssh/known_hosts: another machine "
            "answers, or this is an attack",
            "only if you know that the board was set up anew: run "
            '`ssh-keygen -f "/home/me/.ssh/known_hosts" -R "[board]:22"`, then connect once by hand with `ssh board`',
        ),
        (
            "kex_exchange_identification: read: Connection reset by peer",
            "ssh could not connect to ssh://board: kex_exchange_identification: read: Connection reset by peer",
            "see what is wrong, then connect once by hand",
        ),
    ],
)
def test_what_keeps_ssh_out_is_named_with_a_way_out(bench, said, problem, fix):
    (bench / "said").write_text(said)
    program(bench / "bin" / "ssh", f'case " $* " in *" -G "*) exit 0;; esac\ncat {bench}/said >&2; exit 255')
    with pytest.raises(EdgeKDError) as refusal, Ssh("board").up():
        pass
    assert refusal.value.message == problem
    assert refusal.value.fix.startswith(fix)


def test_without_ssh_or_with_a_bad_configuration_it_says_so(bench, monkeypatch):
    program(bench / "bin" / "ssh", 'echo "Can\'t open user config file mine: No such file or directory" >&2; exit 255')
    with pytest.raises(UsageError) as refusal, Ssh("board").up():
        pass
    assert refusal.value.message == (
        "ssh refuses its configuration: Can't open user config file mine: No such file or directory"
    )
    monkeypatch.setenv("PATH", str(bench / "home"))
    with pytest.raises(EdgeKDError) as refusal, Ssh("board").up():
        pass
    assert (refusal.value.message, refusal.value.fix) == (
        "there is no ssh program here",
        "run `apt-get install openssh-client`",
    )


# what a board lacks


def test_a_board_without_python_is_refused(bench):
    program(bench / "bin" / "ssh", RUNS.replace("exec", "export PATH=/nowhere; exec"))
    with pytest.raises(EdgeKDError) as refusal, Ssh("board").up():
        pass
    assert re.match(r"there is no python3 on ssh://board: .*python3: not found$", refusal.value.message)
    assert refusal.value.fix == "install Python 3.9 or newer there (`apt-get install python3`)"


def test_a_board_with_an_old_python_is_refused(bench):
    pretends = "import sys; sys.version_info = (3, 7, 3); sys.version = '3.7.3 (default)'; exec(sys.argv[2])"
    program(bench / "bin" / "python3", f'exec {sys.executable} -c "{pretends}" "$@"')
    with pytest.raises(EdgeKDError) as refusal, Ssh("board").up():
        pass
    assert refusal.value.message == "the python3 of ssh://board is 3.7.3; edgekd's runner needs 3.9 or newer"


def test_what_travels_is_for_the_oldest_python_that_is_let_in():
    import ast

    folder = Path(module.__file__).parents[1] / "onboard"
    for name in (*RUNNER_FILES, "board.py"):
        text = (folder / name).read_text(encoding="utf-8")
        ast.parse(text, feature_version=_openssh.LEAST_PYTHON)
        assert not re.search(r"zip\(.*strict=|\bUTC\b|isinstance\(.* \| ", text), name
    for name in ("verify.py", "bench.py"):
        ast.parse((folder / name).read_text(encoding="utf-8"), feature_version=_openssh.LEAST_PYTHON)


@pytest.mark.parametrize(
    ("text", "problem", "fix"),
    [
        (ABSENT, "the python3 of ssh://board has no onnxruntime", "let edgekd put them there with `--install`"),
        (
            'raise ImportError("/lib/libm.so.6: version `GLIBC_2.38\' not found (required by x.so)")',
            "onnxruntime on ssh://board wants GLIBC_2.38, which the C library there does not have",
            "install a release that was built for an older system",
        ),
        (
            "raise ImportError('Error relocating x.so: __fprintf_chk: symbol not found')",
            "onnxruntime on ssh://board was built for glibc, and the system there has another C library (musl)",
            "install a system with glibc there",
        ),
        (
            "import os; os.kill(os.getpid(), 4)",
            "onnxruntime on ssh://board has instructions that its core does not know, and dies of them on import",
            "install another release there",
        ),
        (
            "raise ImportError('something else')",
            "the python3 of ssh://board cannot load onnxruntime (code 1): ImportError: something else",
            "let edgekd put",
        ),
    ],
)
def test_a_runtime_that_does_not_load_is_named(bench, monkeypatch, text, problem, fix):
    stub(bench, monkeypatch, text)
    with pytest.raises(NoRuntime) as refusal, Ssh("board").up():
        pass
    assert refusal.value.message.startswith(problem)
    assert refusal.value.fix.startswith(fix)
    assert left(bench) == []


@pytest.mark.parametrize("ends", ["os.kill(os.getpid(), signal.SIGKILL)", "raise MemoryError('std::bad_alloc')"])
def test_a_board_without_memory_is_named(bench, monkeypatch, ends):
    stub(bench, monkeypatch, STUB % ends)
    with Ssh("board").up() as device, pytest.raises(EdgeKDError) as refusal:
        footprint(device, bench)
    assert re.fullmatch(
        r"a footprint run needs more memory than ssh://board has left; it has \d+ MiB in all", refusal.value.message
    )


def test_a_file_that_cannot_be_written_there_is_named_with_the_space_left(bench):
    program(bench / "bin" / "ssh", f"ulimit -f 100\n{RUNS}")  # blocks of 512 or 1024 bytes: no file of 1 MiB
    with Ssh("board").up() as device:
        runner.pack(samples(10_000), bench / "large.npz")
        with pytest.raises(EdgeKDError) as refusal:
            device.run("predict", model=f"{bench}/model.onnx", inputs=f"{bench}/large.npz", threads=1, outputs="x.npz")
        assert re.fullmatch(
            rf"cannot write 1 MiB to {bench}/tmp of ssh://board: File too large, \d+ MiB free", refusal.value.message
        )
        assert footprint(device, bench)["baseline_mib"] > 0, "the board goes on"
    assert left(bench) == []


# --install


def wheel(folder, version):
    path = folder / f"onnxruntime-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("onnxruntime.py", STUB.replace("1.2.3", version) % "raise OSError('a stub')")
        archive.writestr(f"onnxruntime-{version}.dist-info/METADATA", "")
    return [path]


def test_install_puts_wheels_beside_the_boards_own_packages(bench, monkeypatch):
    stub(bench, monkeypatch, ABSENT)
    fetched = []

    def fetch(told, ort_version, folder):
        fetched.append(ort_version)
        return wheel(folder, ort_version or "9.9.9")

    monkeypatch.setattr(_board_packages, "fetch", fetch)
    with Ssh("board", install=True).up() as device:
        assert device.facts["ort_version"] == "9.9.9"
    packages = f"onboard-cp{sys.version_info.major}{sys.version_info.minor}"
    assert [path.name for path in (bench / "home" / ".cache" / "edgekd").iterdir()] == [packages]
    assert not list((bench / "tmp").iterdir())
    with Ssh("board").up() as device:  # installed once, used from then on
        assert device.facts["ort_version"] == "9.9.9"
    with Ssh("board", install=True, ort_version="9.9.8").up() as device:
        assert device.facts["ort_version"] == "9.9.8"
    assert fetched == [None, "9.9.8"]


def test_wheels_are_chosen_for_the_boards_python_and_c_library(tmp_path, monkeypatch):
    asked = []

    def pip(command, **_):
        asked.extend(command)
        return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution found")

    monkeypatch.setattr(subprocess, "run", pip)
    told = {"identity": {"python": "3.11.2", "arch": "aarch64"}, "libc": ["glibc", "2.31"]}
    with pytest.raises(EdgeKDError) as refusal:
        _board_packages.fetch(told, "1.18.1", tmp_path)
    assert refusal.value.message == (
        "pip finds no wheel of onnxruntime==1.18.1 for the board (Python 3.11, aarch64, glibc 2.31): "
        "ERROR: No matching distribution found"
    )
    platforms = [word for word in asked if word.startswith("manylinux")]
    assert platforms[0] == "manylinux_2_31_aarch64"
    assert platforms[-1] == "manylinux2014_aarch64"
    assert asked[-2:] == ["onnxruntime==1.18.1", "numpy<2"]
    with pytest.raises(EdgeKDError):
        _board_packages.fetch(told, None, tmp_path)
    assert asked[-2:] == [f"{name}<={versions(name)[name]}" for name in ("onnxruntime", "numpy")]
    with pytest.raises(EdgeKDError, match="it is musl"):
        _board_packages.fetch(told | {"libc": ["", ""]}, None, tmp_path)


# edgekd targets probe

A72 = {
    "arch": "aarch64",
    "cpu": "Raspberry Pi 4 Model B Rev 1.4",
    "microarch": "cortex-a72",
    "isa": ["asimd"],
    "cores": 4,
    "clock_mhz": 1500,
    "memory_mib": 906,
    "os": "Linux 6.6",
    "python": "3.11.2",
    "ort_version": "1.17.1",
}


def test_a_probed_profile_is_sober():
    found = probed(A72, name="mine", title="a board")
    assert (found["emulator_cpu"], found["memory_mib"], found["artifact_mib"]) == ("cortex-a72", 28.0, 14.0)
    assert (found["max_opset"], found["max_ir_version"], found["known_bad_ort"]) == (18, 9, ["1.21.0"])
    assert found["reduce_range"]
    large = probed(
        A72 | {"memory_mib": 8000, "microarch": "cortex-a78ae", "isa": ["asimd", "asimddp"]}, name="x", title="x"
    )
    assert (large["emulator_cpu"], large["memory_mib"], large["known_bad_ort"]) == ("cortex-a76", 64.0, [])


def test_probe_prints_a_profile_that_check_takes(bench, monkeypatch):
    for device, name in (("local", "local"), ("ssh://My_Board.lan", "my-board-lan")):
        done = run("targets", "probe", "--device", device)
        assert done.returncode == 0, done.stderr
        (bench / "probed.yaml").write_text(done.stdout)
        found = load_profile(str(bench / "probed.yaml"))
        assert found.name == name
        assert re.match(r"Probed (here|over ssh) by edgekd .* what its Python loads", found.source)
        assert invoke("targets", "check", bench / "probed.yaml").returncode == 0
    stub(bench, monkeypatch, ABSENT)
    bare = run("targets", "probe", "--device", "ssh://board", "--name", "bare")
    assert bare.returncode == 0, bare.stderr
    assert "  # it loads none: this is the version of the host that probed" in bare.stdout


def test_probe_refuses_what_it_cannot_probe():
    done = invoke("targets", "probe", "--device", "qemu")
    assert (done.returncode, done.stderr) == (
        2,
        "error: there is no device 'qemu' to probe\n  fix: give local, or ssh://user@host:port\n",
    )
    assert invoke("targets", "probe", "--name", "A b").returncode == 2


# a real sshd


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """An sshd on the loopback interface, of this user's own; Host `board` of `ssh_config` leads there."""
    if SSHD is None:
        pytest.skip("no sshd here")
    folder = tmp_path_factory.mktemp("sshd")
    with contextlib.suppress(OSError):
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd of root wants it
    for name in ("host_key", "other_host_key", "key", "other_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    for name in ("home", "tmp"):
        (folder / name).mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile {folder}/pid\nUsePAM no\n"
        f"AuthorizedKeysFile {folder}/key.pub\nStrictModes no\nPasswordAuthentication no\n"
        f"KbdInteractiveAuthentication no\nSetEnv PATH={Path(sys.executable).parent}:{os.environ['PATH']} "
        f"HOME={folder}/home TMPDIR={folder}/tmp\n"
    )
    for name, key in (("known_hosts", "host_key"), ("changed", "other_host_key")):
        (folder / name).write_text(f"[127.0.0.1]:{port} {(folder / key).with_suffix('.pub').read_text()}")
    (folder / "empty").touch()
    write_config(folder, port)
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=log) as sshd,
    ):
        waited(lambda: (folder / "pid").exists())
        yield folder, sshd
        sshd.kill()


def write_config(folder, port, key="key", known="known_hosts", user=None):
    (folder / "ssh_config").write_text(
        f"Host board\n HostName 127.0.0.1\n Port {port}\n User {user or getpass.getuser()}\n"
        f" IdentityFile {folder}/{key}\n IdentitiesOnly yes\n UserKnownHostsFile {folder}/{known}\n"
        " GlobalKnownHostsFile none\n"
    )


@pytest.fixture
def board(server):
    """The device, with a folder of models; `sshd`'s folder holds its home and /tmp."""
    folder, _ = server
    matmul_model(folder / "model.onnx")
    runner.pack(samples(3, 5, 1, 7), folder / "inputs.npz")
    before = (folder / "ssh_config").read_text()
    yield Ssh("board", config=folder / "ssh_config")
    (folder / "ssh_config").write_text(before)
    assert left(folder) == []


def children(process):
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True, check=False)
    return [int(word) for word in listed.stdout.split()]


@pytest.mark.slow
def test_every_mode_runs_through_a_real_sshd(board):
    with board.up() as device:
        every_mode(device, board.config.parent)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"key": "other_key"}, r"ssh://board lets nobody in with the keys .*Permission denied \(publickey\)\.$"),
        ({"known": "empty"}, r"ssh does not know the host key of ssh://board$"),
        ({"known": "changed"}, r"the host key of ssh://board is not the one in line 1 of \S+changed: another machine"),
        ({"port": 1}, r"ssh://board refuses connections: nothing listens there$"),
    ],
)
def test_a_real_refusal_is_named(board, change, problem):
    folder = board.config.parent
    port = int(re.search(r"Port (\d+)", board.config.read_text())[1])
    write_config(folder, **{"port": port} | change)
    for more in ("", " StrictHostKeyChecking no\n")[: 1 if "changed" not in change.values() else 2]:
        board.config.write_text(board.config.read_text() + more)
        with pytest.raises(EdgeKDError) as refusal, board.up():
            pass
        assert re.search(problem, refusal.value.message)


@pytest.mark.slow
def test_a_connection_that_is_cut_in_a_job_is_made_again(board, server):
    folder, sshd = server
    large = {"m": {"model": f"{folder}/model.onnx", "inputs": f"{folder}/large.npz"}}
    runner.pack(samples(*[2000] * 20), folder / "large.npz")
    with board.up() as device:
        before = device.told["folder"]

        def cut():
            waited(lambda: (Path(before) / "said").exists() and "time" in (Path(before) / "job.json").read_text())
            for child in children(sshd.pid):
                for process in (*children(child), child):
                    with contextlib.suppress(ProcessLookupError):
                        if b"sshd" in Path("/proc", str(process), "cmdline").read_bytes():
                            os.kill(process, signal.SIGKILL)

        cutter = threading.Thread(target=cut)
        cutter.start()
        answer = device.run("time", models=large, threads=1, rounds=5, seed=0)
        cutter.join()
        assert np.shape(answer["latency_ms"]["m"]) == (5, 20)
        assert device.told["folder"] != before
        assert not Path(before).exists()


@pytest.mark.slow
def test_a_full_disk_there_is_named(board, server):
    folder, _ = server
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "small", folder / "tmp"], check=False).returncode
        != 0
    ):
        pytest.skip("a small disk takes root to mount")
    try:
        runner.pack(samples(40_000), folder / "large.npz")
        with board.up() as device:
            with pytest.raises(EdgeKDError) as refusal:
                device.run(
                    "predict", model=f"{folder}/model.onnx", inputs=f"{folder}/large.npz", threads=1, outputs="x.npz"
                )
            assert re.fullmatch(
                rf"cannot write 5 MiB to {folder}/tmp of ssh://board: No space left on device, \d MiB free",
                refusal.value.message,
            )
            assert footprint(device, folder)["baseline_mib"] > 0, "the board goes on"
        (folder / "tmp" / "full").write_bytes(bytes(1 << 20))
        with contextlib.suppress(OSError):
            (folder / "tmp" / "fuller").write_bytes(bytes(4 << 20))
        with pytest.raises(EdgeKDError, match="No space left on device, 0 MiB free"), board.up():
            pass
    finally:
        subprocess.run(["umount", folder / "tmp"], check=True)


@pytest.mark.slow
@pytest.mark.skipif(not Guest.available(), reason="no arm64 guest here")
def test_a_true_arm64_linux_is_driven_over_ssh(tmp_path, monkeypatch):
    matmul_model(tmp_path / "model.onnx")
    runner.pack(samples(3, 5, 1, 7), tmp_path / "inputs.npz")
    with Guest().up() as guest:
        config = tmp_path / "ssh_config"
        config.write_text(
            f"Host guest\n HostName 127.0.0.1\n Port {guest.port}\n User root\n IdentityFile {guest.image.key}\n"
            f" IdentitiesOnly yes\n UserKnownHostsFile {guest.image.known_hosts}\n HostKeyAlias edgekd-guest\n"
        )
        with Ssh("guest", config=config).up() as device:
            facts = every_mode(device, tmp_path)
            assert (facts["arch"], facts["microarch"], facts["cores"]) == ("aarch64", "cortex-a72", 1)
            assert re.fullmatch(
                r"linux,dummy-virt, cortex-a72 \(aarch64, 1 cores\), onnxruntime \S+, ssh://guest", device.host
            )
        program(tmp_path / "bin" / "ssh", f'exec {shutil.which("ssh")} -F {config} "$@"')
        monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
        done = run("targets", "probe", "--device", "ssh://guest")
        assert done.returncode == 0, done.stderr
        (tmp_path / "guest.yaml").write_text(done.stdout)
        found = load_profile(str(tmp_path / "guest.yaml"))
        assert (found.arch, found.microarch, found.emulator_cpu) == ("aarch64", "cortex-a72", "cortex-a72")
        assert found.memory_mib == facts["memory_mib"] // 32
        left_there = subprocess.run(["ssh", "guest", "busybox ls /tmp"], capture_output=True, text=True, check=True)
        assert left_there.stdout == ""
