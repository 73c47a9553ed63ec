"""A guest that answers what no guest answers is refused in a sentence, in little memory, and its session ends."""

from __future__ import annotations

import io
import json
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import packed, programs
from strange_answers import ANSWERS, GOOD, JOB

from edgekd.core.errors import EdgeKDError
from edgekd.devices import _bounded, _guest_tar, _openssh, guest
from edgekd.devices import _guest_image as images
from edgekd.devices.guest import Guest, Running
from edgekd.onboard import board

PREDICT = {"model": "model.onnx", "inputs": "inputs.npz", "outputs": "outputs.npz", "threads": 1}
ROWS = json.dumps({"n": 2, "row_sha256": ["0" * 64] * 2}).encode()


def entry(name, content=b"", *, kind=tarfile.REGTYPE, size=None, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(content) if size is None else size, link
    return info.tobuf(tarfile.USTAR_FORMAT) + content + b"\0" * (-len(content) % 512)


def archive(answer=ROWS, code=b"0\n", more=b"", outputs=None, more_arrays=None):
    buffer = io.BytesIO()
    rows = np.zeros((2, 3), np.float32) if outputs is None else outputs
    shapes = np.array([row.shape for row in rows])
    np.savez(buffer, **({"y.values": rows.ravel(), "y.shapes": shapes} | (more_arrays or {})))
    parts = [entry("out/", kind=tarfile.DIRTYPE), entry("out/code", code), entry("out/answer.json", answer)]
    return b"".join([*parts, entry("out/errors.txt"), entry("out/outputs.npz", buffer.getvalue()), more, bytes(1024)])


@pytest.fixture
def answers(tmp_path, monkeypatch):
    """A function: the refusal of a guest that sends these bytes to a `predict` job; `None` where it takes them."""

    def of(sent: bytes) -> EdgeKDError | None:
        (tmp_path / "sent").write_bytes(sent)
        programs(tmp_path, monkeypatch, ssh=f"cat > /dev/null; exec cat {tmp_path}/sent")
        for name in ("model.onnx", "inputs.npz"):
            (tmp_path / name).write_bytes(b"x")
        job = {key: str(tmp_path / value) if isinstance(value, str) else value for key, value in PREDICT.items()}
        try:
            Running(Guest(), images.Image.at(tmp_path), 5022, "Linux").run("predict", **job)
        except EdgeKDError as error:
            return error
        return None

    return of


def test_a_good_answer_is_taken(answers, tmp_path):
    assert answers(archive()) is None
    assert packed(tmp_path / "outputs.npz").shape == (2, 3)


SPARSE = tarfile.TarInfo("out/answer.json")
SPARSE.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 43)}
STRANGE = {
    "nothing": b"",
    "no archive": b"Goodbye\n" * 100,
    "half a file": archive()[:2000],
    "a link out": archive(more=entry("out/more", kind=tarfile.SYMTYPE, link="/etc/passwd")),
    "a hard link": archive(more=entry("out/errors.txt", kind=tarfile.LNKTYPE, link="/etc/passwd")),
    "a device": archive(more=entry("out/errors.txt", kind=tarfile.CHRTYPE)),
    "a name above": archive(more=entry("../evil")),
    "an absolute name": archive(more=entry("/tmp/evil")),
    "another name": archive(more=entry("out/evil")),
    "a file twice": archive(more=entry("out/code", b"0")),
    "a sparse file of 8 TiB": SPARSE.tobuf(tarfile.PAX_FORMAT),
    "an old sparse file": entry("out/code", kind=tarfile.GNUTYPE_SPARSE, size=1 << 20),
    "a size of 60 GiB": entry("out/code", size=(8 << 30) - 1),
    "a long name": entry("././@LongLink", b"x" * 10_000, kind=tarfile.GNUTYPE_LONGNAME),
    "a code that is none": archive(code=b"zero"),
    "a code in other digits": archive(code="²".encode()),
    "a code of a thousand digits": archive(code=b"9" * 1000),
    "no answer": entry("out/code", b"0") + bytes(1024),
    "outputs that are none": archive(outputs=np.array(["text"])),
    "outputs of fewer rows": archive(outputs=np.zeros((1, 3), np.float32)),
    "outputs without shapes": archive(more_arrays={"z.values": np.zeros(2)}),
    "outputs of other shapes than values": archive(more_arrays={"y.shapes": np.array([[3], [4]])}),
    "outputs of negative shapes": archive(more_arrays={"y.shapes": np.array([[-3], [9]])}),
    "outputs of vast shapes without a value": archive(
        more_arrays={"z.values": np.zeros(0), "z.shapes": np.array([[1 << 62, 0], [1 << 62, 0]])}
    ),
    "shapes of fractions": archive(more_arrays={"y.shapes": np.array([[3.0], [3.0]])}),
    "more arrays of another form": archive(more_arrays={"y": np.zeros(2)}),
    "an answer of a list": archive(b"[1]"),
    "an answer of escapes": archive(b"\x1b[2J"),
    "an answer with more": archive(ROWS.replace(b"{", b'{"more": 1, ')),
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_archive_is_refused(name, answers, tmp_path):
    refusal = answers(STRANGE[name])
    assert refusal is not None
    assert "a predict run in the arm64 guest" in refusal.message
    assert len(refusal.message) < 700
    assert refusal.message.isprintable()
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path / "outputs.npz").exists()


@pytest.mark.parametrize(("name", "build"), ANSWERS, ids=[name for name, _ in ANSWERS])
def test_an_answer_that_no_runner_gives_is_refused(name, build, tmp_path):
    (tmp_path / "code").write_text("0")
    (tmp_path / "answer.json").write_bytes(build())
    with pytest.raises(EdgeKDError) as refusal:
        guest._answer("time", JOB, tmp_path, Guest())
    assert "run in the arm64 guest" in refusal.value.message
    assert refusal.value.message.isprintable()


def test_a_good_answer_of_that_form_is_taken(tmp_path):
    (tmp_path / "code").write_text("0")
    (tmp_path / "answer.json").write_text(json.dumps(GOOD))
    assert guest._answer("time", JOB, tmp_path, Guest()) == GOOD


@pytest.mark.parametrize(("stream", "most"), [("stdout", "MOST_BACK"), ("stderr", "MOST_ERRORS")])
def test_a_guest_without_end_is_cut_off(stream, most, tmp_path, monkeypatch):
    monkeypatch.setattr(_guest_tar if most == "MOST_BACK" else _bounded, most, 1 << 20)
    end = ">&2" if stream == "stderr" else ""
    programs(tmp_path, monkeypatch, ssh=f"cat > /dev/null; exec yes {'x' * 1000} {end}")
    for name in ("model.onnx", "inputs.npz"):
        (tmp_path / name).write_bytes(b"x")
    job = {key: str(tmp_path / value) if isinstance(value, str) else value for key, value in PREDICT.items()}
    with pytest.raises(EdgeKDError, match=f"was ended: it said more than .* MiB on {stream}"):
        Running(Guest(), images.Image.at(tmp_path), 5022, "Linux").run("predict", **job)


def test_a_console_without_end_is_read_at_its_end_alone(tmp_path):
    console = tmp_path / "console.txt"
    console.write_bytes(b"x" * (40 << 20) + b"\nlast\xff\n")
    started = time.perf_counter()
    assert _bounded.last(_bounded.end_of(console)) == "last\N{REPLACEMENT CHARACTER}"
    assert len(_bounded.end_of(console)) <= 1 << 16
    assert time.perf_counter() - started < 1
    assert _bounded.end_of(tmp_path / "none") == ""


def test_a_console_that_fills_the_disk_ends_the_guest(tmp_path, monkeypatch):
    monkeypatch.setattr(guest, "_MOST_CONSOLE", 1 << 16)
    monkeypatch.setattr(images, "open_image", lambda: images.Image.at(tmp_path))
    script = 'for word in "$@"; do case $word in file:*) console=${word#file:};; esac; done; exec yes > $console'
    programs(tmp_path, monkeypatch, qemu_system_aarch64=script)
    with pytest.raises(EdgeKDError, match="QEMU ended while the guest booted"), Guest(boot_s=60).up():
        pass


def test_what_a_runner_on_a_board_says_is_read_at_its_end_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Path("said").open("wb") as file:
        file.truncate(8 << 30)  # sparse: more than a board's memory
        file.seek(0, 2)
        file.write(b"\nthe answer\n")
    assert board._end_of("said", 1 << 20).strip("\0").splitlines()[-1] == "the answer"
    assert len(board._end_of("said", 1 << 20)) == 1 << 20


def test_a_far_end_that_stays_is_ended(monkeypatch):
    """It closes what it says and does not go: the connection is not waited for until the watch ends it."""
    monkeypatch.setattr(_openssh, "_END_S", 0.2)
    code = "import os, time; os.close(1); os.close(2); time.sleep(600)"
    monkeypatch.setattr(_openssh.Address, "command", lambda self: [sys.executable, "-c", code])
    started = time.perf_counter()
    with pytest.raises(EdgeKDError, match="ssh://board"):
        _openssh.Session(_openssh.Address("board"))
    assert time.perf_counter() - started < 20
