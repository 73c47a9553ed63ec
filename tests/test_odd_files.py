"""Odd files: bundles that ask for too much, code planted beside a script, pipes and links where files belong."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from made_bundle import Board, make_bundle
from tampering import TOO_MUCH, make_lab, relist, repeat_arrays, sign

from edgekd.bundle import write as shipping
from edgekd.core.errors import EdgeKDError, StoreError, UsageError
from edgekd.core.seals import SEAL
from edgekd.onboard import RUNNER_FILES, bench, verify
from edgekd.onboard.bench import golden_inputs
from edgekd.receipts import files, trust
from edgekd.receipts.shipped import open_bundle
from edgekd.security import keys
from edgekd.store.store import LOCK, Store


@pytest.mark.parametrize("name", TOO_MUCH)
def test_a_bundle_that_asks_for_too_much_is_refused_unread(tmp_path, name):
    build, words = TOO_MUCH[name]
    folder = make_bundle(tmp_path / "bundle")
    build(folder)
    with pytest.raises(EdgeKDError, match=words):
        trust.check(folder)


def test_arrays_that_are_small_each_and_many_together_are_refused_on_the_device_too(tmp_path):
    folder = make_bundle(tmp_path / "bundle")
    repeat_arrays(folder, 50)
    assert (folder / "golden/inputs.npz").stat().st_size < 2 << 20
    with pytest.raises(ValueError, match="bytes in all"):
        verify.read_inputs(folder)
    with pytest.raises(ValueError, match="bytes in all"):
        golden_inputs(folder)
    done = subprocess.run([sys.executable, "verify.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "bytes in all" in done.stdout


def test_the_signature_is_held_against_the_bytes_before_they_are_parsed(tmp_path, monkeypatch):
    lab = make_lab(tmp_path)
    relist(lab.bundle, version="9.9.9")
    monkeypatch.setattr(
        verify, "read_json", lambda raw: json.loads(raw) if b"payload" in raw else pytest.fail("parsed")
    )
    monkeypatch.setattr(verify, "sha256_of", lambda path: pytest.fail("hashed"))
    with pytest.raises(EdgeKDError, match="is the signature of another bundle"):
        trust.check(lab.bundle, trust.Asked(trust.Trust.of([lab.pub])))


@pytest.mark.parametrize("script", ["bench", "bench/__main__.py", "verify.py"])
@pytest.mark.parametrize("cwd", ["", "bench"])
def test_nothing_that_lies_beside_a_bundles_script_is_imported(tmp_path, script, cwd):
    folder = make_bundle(tmp_path / "bundle", onboard=True)
    for place in (folder, folder / "bench"):
        for name in ("json", "numpy", "hashlib", "argparse", "machine_", "sitecustomize", "statistics", "datetime"):
            (place / f"{name}.py").write_text("import os; os.write(2, b'PLANTED')\n")
        (place / "onnxruntime").mkdir()
        (place / "onnxruntime" / "__init__.py").write_text("import os; os.write(2, b'PLANTED')\n")
    command = [sys.executable, "-B", str(folder / script)]
    done = subprocess.run(command, cwd=folder / cwd, capture_output=True, text=True, check=False)
    assert "PLANTED" not in done.stderr
    assert done.returncode == 1
    assert "not the bundle that was shipped" in done.stdout + done.stderr


def test_the_runner_imports_nothing_that_lies_beside_it(tmp_path):
    for name in RUNNER_FILES:
        shutil.copy(os.path.join(os.path.dirname(bench.__file__), name), tmp_path)
    for name in ("json", "numpy", "contextlib", "random"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('PLANTED')\n")
    (tmp_path / "job.json").write_text(json.dumps({"mode": "facts", "provider": "CPUExecutionProvider"}))
    done = subprocess.run(
        [sys.executable, "-B", "runner.py", "job.json"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["numpy_version"] == np.__version__


def test_reports_that_were_edited_after_the_build_are_not_signed(tmp_path):
    lab = make_lab(tmp_path)
    path = lab.bundle / "provenance.json"
    values = json.loads(path.read_text())
    hashes = {one["name"]: one["digest"] for one in values["subject"]}
    (lab.bundle / "report.md").write_text("accuracy 80%")
    hashes["report.md"] = {"sha256": verify.sha256_of(lab.bundle / "report.md")}
    beside = [{"name": name, "digest": hashes.pop(name)} for name in ("report.md", "report.json")]
    subject = [{"name": name, "digest": digest} for name, digest in hashes.items()]
    path.write_text(json.dumps({"subject": subject, "predicate": {"runDetails": {"byproducts": beside}}}))
    relist(lab.bundle)
    lab.sig.unlink()
    signer = keys.open_signers([lab.release], lambda path: "")
    shipping.sign(lab.bundle, signer)
    lab.sig.unlink()
    (lab.bundle / "report.md").write_text("accuracy 99%")
    relist(lab.bundle)
    with pytest.raises(EdgeKDError, match=r"report\.md is not the file that was built"):
        shipping.sign(lab.bundle, signer)
    assert not lab.sig.exists()


def test_nothing_is_written_through_a_link(tmp_path, monkeypatch):
    folder, secret = make_bundle(tmp_path / "tiny-here"), tmp_path / "secret"
    secret.write_text("kept")
    signed = tmp_path / "tiny-here.sig"
    sign_key = tmp_path / "key"
    keys.make_key(sign_key)
    sign(folder, sign_key)
    elsewhere = signed.rename(tmp_path / "elsewhere.sig")
    before = elsewhere.read_bytes()
    signed.symlink_to(elsewhere)
    other = tmp_path / "other"
    keys.make_key(other)
    shipping.sign(folder, keys.open_signers([other], lambda path: ""))
    assert elsewhere.read_bytes() == before
    (tmp_path / "tiny-here.receipts").symlink_to(tmp_path)
    with pytest.raises(StoreError, match="is a link: nothing is written through it") as refused:
        files.check_writable(folder)
    assert "mkdir" in refused.value.fix
    (tmp_path / "linked").symlink_to(secret)
    for place in ("linked", "fresh"):
        if place == "fresh":
            (tmp_path / "fresh.pub").symlink_to(secret)
        with pytest.raises(UsageError, match="never overwritten"):
            keys.make_key(tmp_path / place)
    with pytest.raises(UsageError, match="is not a folder"):
        shipping.check_free(tmp_path / "linked")
    assert secret.read_text() == "kept"


def test_a_page_replaces_a_link_and_leaves_what_it_leads_to(tmp_path, monkeypatch):
    from edgekd.report import page

    folder, secret = make_bundle(tmp_path / "tiny-here"), tmp_path / "secret"
    secret.write_text("kept")
    place = files.folder(folder)
    place.mkdir()
    (place / "report.html").symlink_to(secret)
    (place / "x.json").write_text("{}")
    monkeypatch.setattr(page, "_filled", lambda *_: "<html>")
    assert page.write_page(folder).read_text() == "<html>"
    assert not (place / "report.html").is_symlink()
    assert secret.read_text() == "kept"


def test_a_pipe_in_a_store_is_damage_and_nothing_waits_for_it(tmp_path):
    store = Store(tmp_path / "store")
    made = []

    def produce(folder):
        made.append(folder)
        (folder / "file").write_text("x")

    place = store.stage("one", {}, produce)
    for name in ("file", SEAL, "extra"):
        (place / name).unlink(missing_ok=True)
        os.mkfifo(place / name)
        assert Store(tmp_path / "store").stage("one", {}, produce) == place
        assert (place / "file").read_text() == "x"
    assert len(made) == 4


def test_a_stores_lock_that_is_a_link_is_not_written_through(tmp_path):
    store, secret = Store(tmp_path / "store"), tmp_path / "secret"
    secret.write_text("kept")
    place = store.path("one", {})
    place.parent.mkdir(parents=True)
    os.symlink(secret, f"{place}{LOCK}")
    with pytest.raises(StoreError):
        store.stage("one", {}, lambda folder: (folder / "file").write_text("x"))
    assert secret.read_text() == "kept"


RANGES = {
    "accuracy": 1.5,
    "accuracy_n": 10**12,
    "cores": 10**9,
    "threads": 0,
    "clock_mhz": 10**9,
    "memory_mib": 2**40,
    "seconds": 1e12,
    "peak_rss_mib": [1e12],
    "cold_start_ms": [1e12],
    "started": "9999-01-01T00:00:00Z",
    "load": {"before": 1e9, "after": None},
    "temperature_c": {"before": 1e5, "after": None},
    "latency_ms": [[-1.0]],
    "aa_latency_ms": [[1e12]],
    "numpy_version": 2,
    "throttled": "yes",
}


@pytest.fixture(scope="module")
def receipt(tmp_path_factory):
    folder = make_bundle(tmp_path_factory.mktemp("receipt") / "tiny-here")
    return folder, bench.receipt(folder, Board().run, device="local")


@pytest.mark.parametrize("key", RANGES)
def test_a_receipts_values_have_types_and_ranges(receipt, key):
    folder, said = receipt
    forged = said | {key: RANGES[key]}
    with pytest.raises(files.ReceiptRefused) as refused:
        files.check(forged | {"digest": bench.digest(forged)}, folder)
    assert key in refused.value.reasons[0]


@pytest.mark.parametrize("name", ["report.json", "provenance.json", "golden/golden.json", "golden/expected.npz"])
def test_a_pipe_in_a_bundle_is_not_waited_for(tmp_path, name):
    folder = make_bundle(tmp_path / "tiny-here")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(UsageError, match="a link, folder or device, not a file"):
        open_bundle(folder)
