"""`doctor`: what is there is ok, what is not is named with the command that mends it, and the answer comes at once."""

import shutil
from dataclasses import astuple
from importlib.metadata import PackageNotFoundError

import pytest
from helpers import python

from edgekd import doctor
from edgekd.core.errors import UsageError
from edgekd.data import demos
from edgekd.data.demos import all_demos, demo_of
from edgekd.devices.guest import Guest
from edgekd.devices.qemu import Qemu
from edgekd.doctor import Check, checks


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("EDGEKD_GUEST", str(tmp_path / "guest"))


def found(name):
    (check,) = [check for check in checks() if check.name == name]
    return check


def test_every_check_has_a_name_of_its_own_and_a_command_where_something_is_amiss():
    all_of_them = checks()
    assert [check.name for check in all_of_them] == [
        "packages",
        "build-packages",
        "store",
        *(f"demo-{task}" for task in all_demos()),
        "predictor",
        "emulator-tools",
        "emulator",
        "guest-tools",
        "guest",
    ]
    for check in all_of_them:
        assert all(isinstance(value, str) for value in astuple(check))
        assert check.what
        assert (check.state == "ok") == (check.fix == ""), check


def test_the_environment_of_these_tests_is_ok():
    assert found("packages").state == found("build-packages").state == "ok"
    assert "torch 2." in found("build-packages").what


def test_a_package_that_is_absent_or_too_old_is_named(monkeypatch):
    there = {"click": "absent", "onnxruntime": "1.2.0"}
    monkeypatch.setattr(doctor, "requires", lambda name: ["click>=8.1,<9", "onnxruntime>=1.20"])
    monkeypatch.setattr(doctor, "versions", lambda *names: {name: there[name] for name in names})
    assert found("packages") == Check(
        "packages",
        "missing",
        "no click, onnxruntime 1.2.0; verify, bench, report need them",
        'pip install "click<9,>=8.1" "onnxruntime>=1.20"',
    )
    there["click"] = "8.2"
    assert found("packages") == Check(
        "packages", "stale", "onnxruntime 1.2.0; verify, bench, report need them", 'pip install "onnxruntime>=1.20"'
    )


def test_what_only_a_build_needs_is_a_check_of_its_own(monkeypatch):
    monkeypatch.setattr(doctor, "requires", lambda name: ['torch>=2.13; extra == "build"', 'ruff; extra == "dev"'])
    monkeypatch.setattr(doctor, "versions", lambda *names: dict.fromkeys(names, "absent"))
    assert found("packages").state == "ok"
    assert found("build-packages") == Check(
        "build-packages", "missing", "no torch; plan, build need them", 'pip install "torch>=2.13"'
    )


def test_running_from_files_alone_is_said(monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "requires", absent)
    assert found("packages") == Check("packages", "missing", "edgekd itself is not installed here", "pip install -e .")


def test_a_store_without_space_or_rights_is_told(monkeypatch, tmp_path):
    assert found("store").what.startswith(f"{tmp_path / 'store'}, ")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(2**40, 2**40, 2**29))
    assert found("store") == Check(
        "store",
        "missing",
        f"0.5 GiB free for {tmp_path / 'store'}; a build may need 2",
        "export EDGEKD_STORE=a-folder-on-a-larger-disk",
    )
    monkeypatch.setattr(doctor.os, "access", lambda place, mode: False)
    assert found("store") == Check(
        "store", "missing", f"{tmp_path} cannot be written", "export EDGEKD_STORE=a-folder-of-your-own"
    )


def test_a_demo_that_is_not_installed_names_its_packages(monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(demos, "distribution", absent)
    check, demo = found("demo-text-classification"), demo_of("text-classification")
    assert check.state == "missing"
    assert check.what == (f"not installed: {demo.teacher[0]}, {demo.data[0]}; without them give --teacher and --data")
    assert check.fix == demo.command


def test_the_guests_tools_and_image_are_two_steps(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    tools = found("guest-tools")
    assert tools.state == "missing"
    assert tools.what.startswith("no qemu-system-aarch64, ssh, ")
    assert tools.fix.startswith("apt-get install --no-install-recommends ")
    assert found("guest") == Check(
        "guest", "missing", "no arm64 image yet; memory on ARM stays predicted", "edgekd doctor --fix guest"
    )


def test_the_emulators_tools_and_files_are_two_steps(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert found("emulator-tools") == Check(
        "emulator-tools",
        "missing",
        "no qemu-aarch64, apt-get, dpkg-deb, setpriv, prlimit; accuracy on ARM stays predicted",
        "apt-get install --no-install-recommends apt dpkg qemu-user util-linux",
    )
    assert found("emulator") == Check(
        "emulator",
        "missing",
        "no aarch64 emulator yet; accuracy on ARM stays predicted",
        "edgekd doctor --fix emulator",
    )


def test_guest_and_emulator_are_mended_here_and_nothing_else(monkeypatch):
    asked = []
    monkeypatch.setattr(Guest, "build", asked.append)
    monkeypatch.setattr(Qemu, "build", asked.append)
    doctor.fix("guest", "for the guest")
    doctor.fix("emulator", "for the emulator")
    assert asked == ["for the guest", "for the emulator"]
    with pytest.raises(UsageError) as refusal:
        doctor.fix("gest")
    assert refusal.value.message == "edgekd cannot mend 'gest' itself"
    assert refusal.value.fix == "did you mean 'guest'? choose one of: emulator, guest, predictor"


def test_nothing_heavy_is_imported():
    heavy = ("numpy", "onnxruntime", "torch", "transformers")
    done = python(f"import sys, edgekd.doctor as d; d.checks(); print([m for m in {heavy} if m in sys.modules])")
    assert done.stdout == "[]\n", done.stderr
