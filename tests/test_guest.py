"""The arm64 guest: what it needs and refuses, how it ends, and (marked `emulator`) that it is a real arm64 Linux."""

import contextlib
import io
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import matmul_model, packed, programs, samples
from strange_answers import STATE

from edgekd.core.errors import EdgeKDError, RuntimeCannotLoad, UsageError
from edgekd.core.registry import make, names
from edgekd.core.results import versions
from edgekd.devices import _arm64
from edgekd.devices import _guest_image as images
from edgekd.devices import guest as guests
from edgekd.devices.guest import Guest, Running
from edgekd.devices.local import Local
from edgekd.onboard import machine, runner

FILES = ("vmlinuz", "root.cpio", "key", "known_hosts")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder for the guest."""
    monkeypatch.setenv("EDGEKD_GUEST", str(tmp_path / "guest"))
    return tmp_path / "guest"


@pytest.fixture
def image(place):
    """A whole image of nothing."""

    def produce(folder):
        for name in FILES:
            (folder / name).write_text(name)

    return images.Image.at(_arm64.store().stage("image", images._image_key(), produce))


ALL_TOOLS = {name.replace("-", "_"): "exit 9" for name in images.TOOLS if name != "setpriv"}
BOOTS = """
for word in "$@"; do case $word in file:*) console=${word#file:};; esac; done
echo "edgekd guest: ready: Linux 6.1, 4 KiB pages" > $console
exec sleep 60
"""


# the image


def test_missing_tools_are_named_with_the_command_that_installs_them(place, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for call in (images.open_image, images.build_image):
        with pytest.raises(EdgeKDError) as refusal:
            call()
        assert refusal.value.message == (
            "an arm64 guest needs qemu-system-aarch64, ssh, ssh-keygen, apt-get, dpkg-deb, setpriv"
        )
        assert refusal.value.fix == (
            "run `apt-get install --no-install-recommends apt dpkg openssh-client qemu-system-arm util-linux`"
        )


def test_without_an_image_the_command_that_builds_it_is_named(place, monkeypatch, tmp_path):
    programs(tmp_path, monkeypatch, **ALL_TOOLS)
    assert images.state() == ("missing", "no arm64 image yet; memory on ARM stays predicted")
    with pytest.raises(EdgeKDError) as refusal:
        images.open_image()
    assert refusal.value.fix == "run `edgekd doctor --fix guest`: it fetches about 100 MB of packages, once"


def test_a_whole_image_is_ok_and_names_its_runtime(image, monkeypatch, tmp_path):
    programs(tmp_path, monkeypatch, **ALL_TOOLS)
    assert images.state() == (
        "ok",
        f"arm64 image with onnxruntime {versions('onnxruntime')['onnxruntime']} in {image.root.parent}",
    )
    assert images.open_image() == image


def test_an_image_of_another_runtime_is_stale(image, monkeypatch):
    monkeypatch.setattr(_arm64, "runtime", lambda: "9.9.9")
    assert images.state() == ("stale", "the arm64 image is damaged, or not made for onnxruntime 9.9.9 by this edgekd")


def test_a_lost_file_is_stale_and_a_changed_one_is_refused(image, monkeypatch, tmp_path):
    programs(tmp_path, monkeypatch, **ALL_TOOLS)
    image.root.write_text("changed")
    assert images.state()[0] == "ok"
    with pytest.raises(EdgeKDError, match="the arm64 image is damaged: its files are not those that were written"):
        images.open_image()
    image.kernel.unlink()
    assert images.state()[0] == "stale"


def test_the_mirror_is_the_one_that_apt_knows():
    lines = (
        "http://b/debian bookworm-updates\nhttp://a/ubuntu jammy\nhttp://c/debian trixie\nhttp://d/debian bookworm\n"
    )
    assert _arm64.debian_mirror(lines) == "http://d/debian"
    assert _arm64.debian_mirror(lines.rpartition("http://d")[0]) == "http://c/debian"


def test_without_a_debian_mirror_the_image_is_refused():
    with pytest.raises(EdgeKDError) as refusal:
        _arm64.debian_mirror("http://a/ubuntu jammy\n")
    assert refusal.value.message == (
        "apt on this machine has no Debian mirror, and guest and emulator are made of Debian packages"
    )
    assert refusal.value.fix == ("add a mirror of Debian bookworm to apt's sources, or run it on a Debian machine")


def test_a_failing_fetch_says_what_the_tool_said_last(place, monkeypatch, tmp_path):
    programs(tmp_path, monkeypatch, **ALL_TOOLS | {"apt_get": "echo first; echo E: no such source >&2; exit 100"})
    with pytest.raises(EdgeKDError) as refusal:
        images.build_image()
    assert refusal.value.message == "apt cannot list its sources: E: no such source"
    assert refusal.value.fix == "check the network and apt's sources; what was finished is kept"
    assert not list(place.glob("packages/*.new-*")), "nothing half-made stays"


def test_drivers_come_after_those_that_they_depend_on(tmp_path):
    depends = {"virtio_pci": "virtio,virtio_ring", "virtio": "virtio_ring", "virtio-ring": "", "virtio_net": "virtio"}
    for name, needed in depends.items():
        (tmp_path / f"{name}.ko").write_bytes(f"elf\0license=GPL\0depends={needed}\0name={name}\0".encode())
    order = [path.stem for path in images._drivers(tmp_path)]
    assert order == ["virtio-ring", "virtio", "virtio_pci", "virtio_net"]


def test_the_archive_is_one_that_the_kernel_unpacks(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tool").write_bytes(b"12345")
    (tmp_path / "bin" / "tool").chmod(0o755)
    (tmp_path / "bin" / "sh").symlink_to("tool")
    (tmp_path / "usr" / "share" / "doc").mkdir(parents=True)
    (tmp_path / "usr" / "share" / "doc" / "unused").write_text("unused")
    archive = io.BytesIO()
    images._write_cpio(tmp_path, archive)
    assert list(unpacked(archive.getvalue())) == [
        ("bin", "0o40755", b"", (0, 0)),
        ("bin/sh", "0o120777", b"tool", (0, 0)),
        ("bin/tool", "0o100755", b"12345", (0, 0)),
        ("usr", "0o40755", b"", (0, 0)),
        ("usr/share", "0o40755", b"", (0, 0)),
        ("TRAILER!!!", "0o0", b"", (0, 0)),
    ]


def unpacked(archive):
    """Entries of a cpio archive in the format `newc`: name, mode, content, owner and group."""
    at = 0
    while at < len(archive):
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        _, mode, owner, group, _, _, size, *_, length, _ = fields
        name, start = archive[at + 110 : at + 110 + length - 1], at + 110 + length
        start += -start % 4
        yield name.decode(), oct(mode), archive[start : start + size], (owner, group)
        at = start + size + -(start + size) % 4


# the guest


def test_it_is_a_device_of_that_name():
    assert "guest" in names("devices")
    assert not [name for name in names("devices") if name.startswith("_")]
    assert make("devices", "guest", cpu="cortex-a76") == Guest(cpu="cortex-a76")


def test_an_invented_core_is_refused():
    with pytest.raises(UsageError) as refusal:
        Guest(cpu="max")
    assert refusal.value.message == "the guest's cpu must be a real core, not 'max'"
    assert refusal.value.fix == "name one: cortex-a72, cortex-a76"


def test_a_guest_too_small_for_itself_is_refused():
    with pytest.raises(UsageError) as refusal:
        Guest(memory_mib=512)
    assert refusal.value.message == "an arm64 guest of 512 MiB cannot unpack its own files"
    assert refusal.value.fix == "give it 1024 MiB or more; what a model needs is measured, not limited"


def test_nobody_else_can_reach_the_guest(image):
    device = Running(Guest(cpu="cortex-a76", memory_mib=2048), image, 5022, "Linux")
    command = device.guest.command(image, Path("console"), 5022)
    assert command[:4] == ["setpriv", "--pdeathsig", "KILL", "qemu-system-aarch64"]
    options = dict(zip(command[7::2], command[8::2], strict=True))
    assert (options["-cpu"], options["-m"], options["-serial"]) == ("cortex-a76", "2048", "file:console")
    assert options["-netdev"] == "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:5022-:22"
    ssh = " ".join(device.ssh("true"))
    assert f"-i {image.key} " in ssh
    for option in ("IdentitiesOnly=yes", "StrictHostKeyChecking=yes", f"UserKnownHostsFile={image.known_hosts}"):
        assert f"-o {option}" in ssh
    assert "PasswordAuthentication no" in images._FILES["etc/ssh/sshd_config"]


def test_a_machine_that_is_emulated_measures_no_time(image):
    with pytest.raises(UsageError) as refusal:
        Running(Guest(), image, 22, "Linux").run("time", models={}, threads=1, rounds=1, seed=0)
    assert refusal.value.message == "an emulated machine cannot do a time run: its time is the emulator's"
    assert refusal.value.fix == "measure latency on the device itself"


@pytest.mark.parametrize(
    ("code", "kind", "text", "fix"),
    [
        (
            137,
            EdgeKDError,
            "the model needs more memory than the arm64 guest has: 1024 MiB, its system among it",
            "give the guest more memory, or measure on the device itself",
        ),
        (
            143,
            EdgeKDError,
            "a run in the arm64 guest took longer than 600 s",
            "look for a loop in the model, give fewer inputs, or measure on the device itself",
        ),
        (
            139,
            RuntimeCannotLoad,
            "ONNX Runtime's process for a predict run in the arm64 guest ended with code 139: last",
            "run the same command again; if it repeats, the model is damaged",
        ),
    ],
)
def test_a_run_that_ends_badly_says_why(tmp_path, code, kind, text, fix):
    (tmp_path / "code").write_text(f"{code}\n")
    (tmp_path / "errors.txt").write_text("first\nlast\n")
    with pytest.raises(kind) as refusal:
        guests._answer("predict", {}, tmp_path, Guest())
    assert (refusal.value.message, refusal.value.fix) == (text, fix)


# a guest's shell is this machine's, its /job a folder of the test
IN_GUEST = """
for last; do :; done
exec /bin/sh -c "$(printf %s "$last" | sed "s#/job/#{folder}/job/#g")"
"""
BUSYBOX = """
case "$1 $2" in
    "tar c") {packs} exec tar -cf - "$3";;
    "tar x") {unpacks} exec tar -xf -;;
esac
exec "$@"
"""


@pytest.fixture
def shell(image, monkeypatch, tmp_path):
    """A function: a guest that is up, whose python3 is this shell text and whose tar may fail."""

    def up(python3, *, packs="", unpacks=""):
        programs(
            tmp_path,
            monkeypatch,
            ssh=IN_GUEST.format(folder=tmp_path),
            python3=python3,
            busybox=BUSYBOX.format(packs=packs, unpacks=unpacks),
        )
        return Running(Guest(), image, 5022, "Linux")

    return up


def test_an_answer_comes_back_and_nothing_of_the_job_stays(shell, tmp_path):
    facts = machine.identity() | {"state": STATE, "ort_version": "1.2", "numpy_version": "1.2", "provider": "CPU"}
    facts |= {"providers": ["CPU"]}
    assert shell(f"echo '{json.dumps(facts)}'").run("facts") == facts
    assert not list((tmp_path / "job").iterdir())


@pytest.mark.parametrize("fails", ["packs", "unpacks"])
def test_files_that_cannot_be_packed_or_unpacked_there_are_an_error(shell, tmp_path, fails):
    device = shell("echo '{\"n\": 1}'", **{fails: "echo tar: no space left >&2; exit 1;"})
    with pytest.raises(EdgeKDError) as refusal:
        device.run("facts")
    assert refusal.value.message == "the arm64 guest gave no answer: tar: no space left"
    assert refusal.value.fix == "run it again; with a large model, give the guest more memory than 1024 MiB"
    assert not list((tmp_path / "job").iterdir())


@pytest.mark.parametrize(
    ("python3", "kind", "message"),
    [
        ("exit 0", EdgeKDError, "a facts run in the arm64 guest ended without an answer: it said nothing"),
        ("echo Goodbye", EdgeKDError, "a facts run in the arm64 guest ended without an answer: Goodbye"),
        ("""echo '{"refused": "Invalid"}'""", RuntimeCannotLoad, "ONNX Runtime on arm64 refuses the model: Invalid"),
    ],
)
def test_what_is_no_answer_is_named(shell, python3, kind, message):
    with pytest.raises(kind) as refusal:
        shell(python3).run("facts")
    assert (type(refusal.value), refusal.value.message) == (kind, message)


def test_a_boot_that_fails_says_what_qemu_said(image, monkeypatch, tmp_path):
    programs(tmp_path, monkeypatch, **ALL_TOOLS | {"qemu_system_aarch64": "echo no such machine >&2; exit 1"})
    with pytest.raises(EdgeKDError) as refusal, Guest().up():
        pass
    assert refusal.value.message == "QEMU ended while the guest booted: no such machine"
    assert refusal.value.fix == (
        "run it again; if the core is unknown, take one of `qemu-system-aarch64 -M virt -cpu help`"
    )


def test_a_boot_that_takes_too_long_is_ended(image, monkeypatch, tmp_path):
    programs(tmp_path, monkeypatch, **ALL_TOOLS | {"qemu_system_aarch64": f"echo $$ > {tmp_path}/pid; exec sleep 60"})
    with pytest.raises(EdgeKDError) as refusal, Guest(boot_s=1).up():
        pass
    assert refusal.value.message == "the arm64 guest did not boot within 1 s: it said nothing"
    assert refusal.value.fix == "run it again when this machine has a core to spare"
    assert not alive(tmp_path / "pid")


def test_the_guest_ends_with_the_block_whatever_happens_in_it(image, monkeypatch, tmp_path):
    programs(tmp_path, monkeypatch, **ALL_TOOLS | {"qemu_system_aarch64": f"echo $$ > {tmp_path}/pid; {BOOTS}"})
    with contextlib.suppress(KeyboardInterrupt), Guest().up() as device:
        assert device.host.startswith("Linux 6.1, 4 KiB pages, cortex-a72 under QEMU, onnxruntime ")
        assert alive(tmp_path / "pid")
        raise KeyboardInterrupt
    assert not alive(tmp_path / "pid")


def test_the_guest_ends_when_its_parent_is_killed(image, monkeypatch, tmp_path):
    programs(tmp_path, monkeypatch, **ALL_TOOLS | {"qemu_system_aarch64": f"echo $$ > {tmp_path}/pid; {BOOTS}"})
    code = """if True:
        import time
        from edgekd.devices.guest import Guest
        with Guest().up():
            print("up", flush=True)
            time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout.readline() == b"up\n"
        assert alive(tmp_path / "pid")
        parent.send_signal(signal.SIGKILL)
    end = time.monotonic() + 5
    while alive(tmp_path / "pid") and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(tmp_path / "pid")


def alive(file):
    status = Path("/proc", file.read_text().strip(), "status")
    return status.exists() and not re.search(r"^State:\s+Z", status.read_text(), re.MULTILINE)


# a real one


@pytest.fixture(scope="module")
def device():
    """A guest that is up; the image is made first where it is not there."""
    images.build_image()
    with Guest().up() as running:
        yield running


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    matmul_model(folder / "model.onnx")
    runner.pack(samples(3, 5, 1, 7), folder / "inputs.npz")
    runner.pack(samples(100_000), folder / "long.npz")
    return folder


@pytest.mark.emulator
def test_a_footprint_is_an_arm64_kernels_answer(device, lab):
    inputs = [f"{lab}/inputs.npz", f"{lab}/long.npz"]
    answer = device.run("footprint", model=f"{lab}/model.onnx", inputs=inputs, threads=1)
    short, long = answer["peak_rss_mib"]
    assert 0 < short < answer["baseline_mib"] < 200
    assert long - short > 0.9 * 100_000 * 32 * 4 / 2**20, "at least the long sample's hidden activation"
    assert answer["load_ms"] is None
    assert answer["cold_start_ms"] is None
    here = Local().run("footprint", model=f"{lab}/model.onnx", inputs=inputs, threads=1)["peak_rss_mib"]
    assert long == pytest.approx(here[1], rel=0.3)
    assert re.match(r"Linux 6\.\d+\.\S*-cloud-arm64, 4 KiB pages, cortex-a72 under QEMU", device.host)


@pytest.mark.emulator
def test_outputs_are_those_of_the_host_up_to_the_kernels_rounding(device, lab):
    there = device.run(
        "predict", model=f"{lab}/model.onnx", inputs=f"{lab}/inputs.npz", threads=1, outputs=f"{lab}/there.npz"
    )
    Local().run("predict", model=f"{lab}/model.onnx", inputs=f"{lab}/inputs.npz", threads=1, outputs=f"{lab}/here.npz")
    np.testing.assert_allclose(packed(lab / "there.npz"), packed(lab / "here.npz"), atol=1e-5)
    assert there["n"] == len(there["row_sha256"]) == 4


@pytest.mark.emulator
def test_a_damaged_model_is_refused_in_the_guest(device, lab, tmp_path):
    model = tmp_path / "damaged.onnx"
    model.write_bytes((lab / "model.onnx").read_bytes()[:100])
    with pytest.raises(RuntimeCannotLoad, match="ONNX Runtime on arm64 refuses the model: InvalidProtobuf: "):
        device.run("footprint", model=str(model), inputs=[f"{lab}/inputs.npz"], threads=1)


@pytest.mark.emulator
def test_a_run_without_end_is_ended_and_the_guest_stays(device, lab):
    hasty = Running(Guest(timeout_s=1), device.image, device.port, device.system)
    with pytest.raises(EdgeKDError, match="a run in the arm64 guest took longer than 1 s"):
        hasty.run("footprint", model=f"{lab}/model.onnx", inputs=[f"{lab}/inputs.npz"], threads=1)
    left = subprocess.run(device.ssh("busybox ls /job; busybox ps"), capture_output=True, text=True, check=True).stdout
    assert "sshd" in left
    assert "runner.py" not in left, "no process stays"
    assert left.lstrip().startswith("PID"), "no file stays"


@pytest.mark.emulator
def test_an_image_that_is_there_is_not_made_again(device):
    before = device.image.root.stat().st_mtime_ns
    assert images.build_image().root.stat().st_mtime_ns == before
    assert json.loads((device.image.root.parent / ".seal.json").read_text())["files"].keys() == set(FILES)
