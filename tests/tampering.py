"""A signed bundle, and every way to tamper with it that the verifier is held to."""

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from helpers import matmul_model
from made_bundle import listed, make_bundle, write_manifest

from edgekd.security import keys, signing


@dataclass(frozen=True)
class Lab:
    """`bundle` and `other` are signed by `release`; `older` is `bundle` as version 1.0.0; beside them lie the keys."""

    root: Path

    def __getattr__(self, name: str) -> Path:
        return self.root / {"release": "keys/release", "stranger": "keys/stranger", "old": "keys/old"}.get(name, name)

    @property
    def sig(self) -> Path:
        return signing.beside(self.bundle)

    @property
    def pub(self) -> Path:
        return self.root / "keys" / "release.pub"


def make_lab(root: Path) -> Lab:
    lab = Lab(root)
    (root / "keys").mkdir(parents=True)
    for name in ("release", "stranger", "old"):
        keys.make_key(root / "keys" / name)
    for name, seed, version in (("bundle", 0, "1.1.0"), ("other", 1, "1.1.0"), ("older", 0, "1.0.0")):
        folder = make_bundle(root / name, model=lambda path, seed=seed: matmul_model(path, seed), schema=2)
        relist(folder, version=version)
        sign(folder, lab.release)
    return lab


def copy(lab: Lab, root: Path) -> Lab:
    return Lab(Path(shutil.copytree(lab.root, root)))


def relist(folder: Path, **values: object) -> None:
    """What somebody does who knows the format and has no key: every hash is right, the manifest's own, too."""
    manifest = json.loads((folder / "manifest.json").read_text())
    files = listed(folder)
    evidence = {name: files.pop(name) for name in ("report.json", "provenance.json") if name in files}
    write_manifest(folder, manifest | {"artifact": {"files": files}, "evidence": {"files": evidence}} | values)


def sign(folder: Path, *private: Path) -> None:
    signers = keys.open_signers(private, lambda path: "")
    envelope = signing.Envelope((folder / "manifest.json").read_bytes(), ()).signed(signers)
    signing.beside(folder).write_text(envelope.text())


def flip(path: Path, bit: int = 0) -> None:
    raw = bytearray(path.read_bytes())
    raw[(bit // 8) % len(raw)] ^= 1 << bit % 8
    path.write_bytes(raw)


def _replaced(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def _swapped(one: Path, other: Path) -> None:
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def _moved_in(lab: Lab, name: str) -> None:
    shutil.rmtree(lab.bundle)
    (lab.root / name).rename(lab.bundle)
    signing.beside(lab.root / name).rename(lab.sig)


@dataclass(frozen=True)
class Tampering:
    change: Callable[[Lab], object]
    words: str  # of the refusal
    arguments: tuple[str, ...] = ()  # beside --key; paths from the lab's root
    shows: bool = False  # without a key as well, though the signature is what refuses it where there is one

    def command(self, lab: Lab) -> list[str]:
        """The arguments of `edgekd verify`; the lab's root must be the working folder."""
        trusted = [] if "--key" in self.arguments else ["--key", str(lab.pub)]
        return ["bundle", *trusted, *self.arguments]


PLACE = "a link, folder or device in place of what was shipped"
MADE_UP = {"size": 1, "sha256": "0" * 64}
OTHER = "bundle.sig is the signature of another bundle"
TAMPERING = {
    "a byte of the model": Tampering(lambda lab: flip(lab.bundle / "onnx/model.onnx"), "its content was changed"),
    "the evidence": Tampering(lambda lab: flip(lab.bundle / "report.json", 99), "report.json: its content was changed"),
    "a file added": Tampering(lambda lab: (lab.bundle / "x.py").touch(), "x.py: not part of the bundle"),
    "a hidden file added": Tampering(lambda lab: (lab.bundle / ".x").touch(), ".x: not part of the bundle"),
    "a hidden folder": Tampering(lambda lab: (lab.bundle / ".git/hooks").mkdir(parents=True), ".git/: not part"),
    "an empty folder": Tampering(lambda lab: (lab.bundle / "golden/x").mkdir(), "golden/x/: not part of the bundle"),
    "a file removed": Tampering(lambda lab: (lab.bundle / "verify.py").unlink(), "verify.py: missing"),
    "a manifest without end": Tampering(
        lambda lab: os.truncate(lab.bundle / "manifest.json", 8 << 40), "manifest.json has 8796093022208 bytes"
    ),
    "a manifest nested without end, not signed": Tampering(
        lambda lab: (lab.bundle / "manifest.json").write_bytes(b"[" * 4_000_000), OTHER, shows=True
    ),
    "a million files, not signed": Tampering(
        lambda lab: relist(lab.bundle, artifact={"files": {f"f{i}": MADE_UP for i in range(5000)}}), OTHER, shows=True
    ),
    "a pipe as manifest": Tampering(
        lambda lab: _replaced(lab.bundle / "manifest.json", os.mkfifo), "is a link, folder or device, not a file"
    ),
    "the manifest removed": Tampering(lambda lab: (lab.bundle / "manifest.json").unlink(), "it has no manifest.json"),
    "a link to the same": Tampering(
        lambda lab: _replaced(
            lab.bundle / "onnx/model.onnx", lambda path: path.symlink_to(lab.older / "onnx/model.onnx")
        ),
        f"onnx/model.onnx: {PLACE}",
    ),
    "a hard link to another": Tampering(
        lambda lab: _replaced(
            lab.bundle / "onnx/model.onnx", lambda path: path.hardlink_to(lab.other / "onnx/model.onnx")
        ),
        "onnx/model.onnx: its content was changed",
    ),
    "a linked folder": Tampering(
        lambda lab: (shutil.rmtree(lab.bundle / "onnx"), (lab.bundle / "onnx").symlink_to(lab.older / "onnx")),
        "onnx/model.onnx: missing",
    ),
    "a pipe": Tampering(lambda lab: _replaced(lab.bundle / "report.json", os.mkfifo), f"report.json: {PLACE}"),
    "a file that all may write": Tampering(
        lambda lab: (lab.bundle / "onnx/model.onnx").chmod(0o666), "onnx/model.onnx: mode 0666, more than 0644"
    ),
    "a folder that all may write": Tampering(
        lambda lab: (lab.bundle / "onnx").chmod(0o777), "onnx: mode 0777, more than 0755"
    ),
    "a file set to run as its owner": Tampering(
        lambda lab: (lab.bundle / "verify.py").chmod(0o4755), "verify.py: mode 4755, more than 0644"
    ),
    "a model with every hash made right": Tampering(
        lambda lab: (flip(lab.bundle / "onnx/model.onnx"), relist(lab.bundle)), OTHER
    ),
    "a manifest with its own hash made right": Tampering(lambda lab: relist(lab.bundle, version="9.0.0"), OTHER),
    "a manifest of the older schema": Tampering(lambda lab: relist(lab.bundle, schema=1), OTHER),
    "a manifest of a newer schema": Tampering(lambda lab: relist(lab.bundle, schema=4), OTHER, shows=True),
    "a byte of the manifest": Tampering(lambda lab: flip(lab.bundle / "manifest.json", 8 * 90), OTHER, shows=True),
    "no signature": Tampering(lambda lab: lab.sig.unlink(), "bundle is not signed: there is no bundle.sig beside it"),
    "the signature of another bundle": Tampering(lambda lab: shutil.copy(lab.root / "other.sig", lab.sig), OTHER),
    "a byte of the signature": Tampering(lambda lab: flip(lab.sig, 8 * 300 + 1), "bundle.sig"),
    "a stranger's signature": Tampering(lambda lab: sign(lab.bundle, lab.stranger), "is signed by the key "),
    "a stranger's signature in the builder's name": Tampering(
        lambda lab: (sign(lab.bundle, lab.stranger), _in_the_name(lab)), "is not its own, or damaged"
    ),
    "a revoked signature": Tampering(
        lambda lab: sign(lab.bundle, lab.old),
        "signed by old.pub (",
        ("--key", "keys/old.pub", "--key", "keys/release.pub", "--revoked", "keys/old.pub"),
    ),
    "another signed bundle in its place": Tampering(
        lambda lab: _moved_in(lab, "older"), "version 1.0.0 is not newer than 1.0.5", ("--after", "1.0.5")
    ),
    "for another device": Tampering(lambda lab: None, "was built for here, not for rpi4", ("--target", "rpi4")),
    "two files swapped": Tampering(
        lambda lab: _swapped(lab.bundle / "report.json", lab.bundle / "provenance.json"), "provenance.json: "
    ),
    "a file in other case": Tampering(
        lambda lab: (lab.bundle / "report.json").rename(lab.bundle / "Report.json"), "report.json: missing"
    ),
    "the model of another signed bundle": Tampering(
        lambda lab: shutil.copy(lab.other / "onnx/model.onnx", lab.bundle / "onnx/model.onnx"),
        "its content was changed",
    ),
}


def _sparse(bundle: Path, size: int) -> None:
    with (bundle / "big.bin").open("wb") as file:
        file.truncate(size)
    _list(bundle, {"big.bin": {"size": size, "sha256": "0" * 64}})


def _list(bundle: Path, files: dict[str, object]) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["artifact"]["files"] |= files
    write_manifest(bundle, manifest)


def repeat_arrays(bundle: Path, times: int) -> None:
    """An archive of few bytes whose members, each no larger than the file, make many together."""
    place = bundle / "golden" / "inputs.npz"
    header = io.BytesIO()
    np.save(header, np.zeros((1, 250_000), np.float32))
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
        noise = io.BytesIO()
        np.save(noise, np.frombuffer(os.urandom(1_100_000), np.uint8))
        archive.writestr("0.pad.npy", noise.getvalue(), zipfile.ZIP_STORED)
        for row in range(times):
            archive.writestr(f"{row}.x.npy", header.getvalue())
    relist(bundle)


# what a manifest with right hashes may ask for: builders that take a bundle, and words of the refusal
TOO_MUCH = {
    "a file of 8 TiB": (lambda bundle: _sparse(bundle, 8 << 40), "more than 17179869184 in all"),
    "paths without end": (
        lambda bundle: _list(bundle, {"/".join("d" * 100) + f"/{i}": MADE_UP for i in range(300)}),
        "folders deep",
    ),
    "very many files": (lambda bundle: _list(bundle, {f"f{i}": MADE_UP for i in range(5000)}), "more than 4096 files"),
    "very many files that are not listed": (
        lambda bundle: [(bundle / f"f{i}").touch() for i in range(4200)],
        "files and folders: ",
    ),
    "a size below zero": (lambda bundle: _list(bundle, {"x": {**MADE_UP, "size": -1}}), "no size and SHA-256"),
}


def _in_the_name(lab: Lab) -> None:
    values = json.loads(lab.sig.read_text())
    values["signatures"][0]["keyid"] = keys.read_public(lab.pub).key_id
    lab.sig.write_text(json.dumps(values))
