"""Receipts: a genuine one holds for its bundle; forged, mixed-up and damaged ones are refused, each for its reason."""

import base64
import copy
import hashlib
import json
import zipfile
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from made_bundle import Board, make_bundle

from edgekd.core.errors import StoreError, UsageError
from edgekd.core.receipt import ReceiptRefused, parse
from edgekd.devices.local import Local
from edgekd.onboard import bench, machine, verify
from edgekd.receipts import files
from edgekd.receipts.validate import made, within_tolerance


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny-here")


@pytest.fixture(scope="module")
def genuine(bundle):
    said = []
    made = bench.receipt(bundle, Local().run, device="local", say=said.append)
    assert len(said) == bench.steps("quick", "")
    return made


def sealed(said):
    """With the digest that its content has: what a forger would not forget."""
    return said | {"digest": bench.digest(said)}


def test_a_genuine_receipt_holds(bundle, genuine):
    receipt = files.check(genuine, bundle)
    assert (receipt.device, receipt.emulated, receipt.accuracy, receipt.accuracy_n) == ("local", "", 1.0, 16)
    assert [len(turn) for turn in receipt.latency_ms] == [16] * 8
    assert len(receipt.peak_rss_mib) == len(receipt.cold_start_ms) == 3
    assert files.check(json.dumps(genuine).encode(), bundle) == receipt
    assert receipt.as_dict() == genuine


def test_figures_are_derived_from_the_samples(bundle, genuine):
    receipt = files.check(genuine, bundle)
    found = files.latency(receipt)
    every = np.array(genuine["latency_ms"])
    assert found.p50_ms == pytest.approx(np.median(np.median(every, axis=0)))
    assert found.interval[0] <= found.p50_ms <= found.interval[1]
    assert found.n == 128
    assert found.p99.value is None
    assert found.p99.says == "not resolvable on this host: p99 takes 459 samples, these are 128"
    assert found.stable == (abs(found.aa - 1) <= 0.01)


def emulated(said, kind="user"):
    """The same, as an emulated core gives it."""
    core = {"user": "qemu:cortex-a72", "system": "guest:cortex-a72"}[kind]
    timed = {"latency": "unknown", "cold_start": "unknown", "peak_rss": "unknown" if kind == "user" else "measured"}
    return said | {
        "device": core,
        "emulated": kind,
        "arch": "aarch64",
        "microarch": "cortex-a72",
        "isa": ["asimd"],
        "latency_ms": None,
        "aa_latency_ms": None,
        "cold_start_ms": None,
        "sustained": None,
        "peak_rss_mib": None if kind == "user" else said["peak_rss_mib"],
        "kind": said["kind"] | timed,
    }


@pytest.mark.parametrize("kind", ["user", "system"])
def test_an_emulated_core_holds_without_times(bundle, genuine, kind):
    receipt = files.check(sealed(emulated(genuine, kind)), bundle)
    assert files.latency(receipt) is None


def values_of(said):
    """The answers of a receipt of one output, (inputs, classes)."""
    told = said["outputs"]["y"]
    return np.frombuffer(base64.b64decode(told["float32"]), "<f4").reshape(-1, *told["shapes"][0]).copy()


def outputs(said, change, name="y", **more):
    """Other outputs, their hash with them."""
    return said | bench.encoded([{name: row} for row in change(values_of(said))]) | more


def within(said, key, **changes):
    return said | {key: said[key] | changes}


def timed(said, change):
    return said | {"latency_ms": change([list(turn) for turn in said["latency_ms"]])}


def sustained(said, p50_ms, **changes):
    points = [
        {"at_s": 10.0 * (i + 1), "p50_ms": ms, "temperature_c": 50.0, "clock_mhz": 1500} for i, ms in enumerate(p50_ms)
    ]
    told = {
        "minutes": round(len(points) / 6, 2),
        "points": points,
        "throttled": True,
        "slowdown": bench.slowdown(p50_ms),
    }
    return said | {"sustained": told | changes, "seconds": 600.0}


def when(**shift):
    return (datetime.now(UTC) + timedelta(**shift)).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_a_board_is_named_by_its_device_tree_where_cpuinfo_names_none(tmp_path):
    cpuinfo, tree = tmp_path / "proc" / "cpuinfo", tmp_path / "proc" / "device-tree" / "model"
    tree.parent.mkdir(parents=True)
    cpuinfo.write_text("Features : asimd\nCPU implementer : 0x41\nCPU part : 0xd08\n")
    assert machine.identity(tmp_path)["cpu"] == "cortex-a72"
    tree.write_bytes(b"linux,dummy-virt\0")
    assert machine.identity(tmp_path)["cpu"] == "linux,dummy-virt"
    cpuinfo.write_text(cpuinfo.read_text() + "Model : Raspberry Pi 4 Model B Rev 1.4\n")
    told = machine.identity(tmp_path)
    assert (told["cpu"], told["microarch"], told["isa"]) == ("Raspberry Pi 4 Model B Rev 1.4", "cortex-a72", ["asimd"])


def two_outputs(said):
    return bench.encoded([{"y": row, "z": row} for row in values_of(said)])


NEVER = {"x86_64": "asimd", "aarch64": "avx2"}
FORGED = {
    "another schema": (lambda r: r | {"schema": 3}, "its schema is 3, this edgekd reads 1 and 2"),
    "the schema of before": (lambda r: r | {"schema": 1}, "missing key 'outputs.shape'"),
    "no schema": (lambda r: {k: v for k, v in r.items() if k != "schema"}, "its schema is None, this edgekd reads"),
    "a schema that is true": (lambda r: r | {"schema": True}, "its schema is True, this edgekd reads 1 and 2"),
    "an unknown key": (lambda r: r | {"latency_p99_ms": 1.0}, "unknown key 'latency_p99_ms'"),
    "a missing key": (lambda r: {k: v for k, v in r.items() if k != "governor"}, "missing key 'governor'"),
    "a number as text": (lambda r: r | {"accuracy": "1.0"}, "accuracy is '1.0': input should be a valid number"),
    "an accuracy above one": (lambda r: r | {"accuracy": 1.2}, "accuracy is 1.2: input should be less than or equal"),
    "words for a terminal": (lambda r: r | {"cpu": "a\x1b[2Jboard"}, r"cpu is 'a\x1b[2Jboard': string should match"),
    "another model": (lambda r: r | {"model_sha256": "0" * 64}, "of another model: onnx/model.onnx, SHA-256 000000000"),
    "another bundle": (lambda r: within(r, "bundle", name="other"), "of another bundle: other 1.0.0 for here"),
    "another target": (lambda r: within(r, "bundle", target="rpi5"), "of another bundle: tiny 1.0.0 for rpi5"),
    "another build": (lambda r: within(r, "bundle", manifest_sha256="0" * 64), "of another build of this bundle"),
    "the other isa": (lambda r: r | {"isa": [NEVER[r["arch"]]]}, "does not exist on"),
    "an unknown architecture": (lambda r: r | {"arch": "armv7l"}, "the architecture 'armv7l' is unknown"),
    "an arm core on x86": (
        lambda r: r | {"arch": "x86_64", "isa": [], "microarch": "cortex-a72"},
        "microarch cortex-a72 is no x86_64 core",
    ),
    "a real device, emulated": (lambda r: r | {"emulated": "user"}, "device 'local' contradicts emulated 'user'"),
    "an emulator, real": (lambda r: r | {"device": "qemu:cortex-a72"}, "device 'qemu:cortex-a72' contradicts emulated"),
    "a device of no kind": (lambda r: r | {"device": "toaster"}, "device 'toaster' contradicts emulated 'no'"),
    "emulated latency": (
        lambda r: emulated(r) | {"latency_ms": r["latency_ms"]},
        "times of an emulated machine: they are the emulator's",
    ),
    "an emulated cold start": (
        lambda r: emulated(r, "system") | {"cold_start_ms": [300.0]},
        "times of an emulated machine",
    ),
    "memory under user mode": (
        lambda r: emulated(r) | {"peak_rss_mib": [10.0]},
        "peak RSS under user-mode emulation: it is the emulator's",
    ),
    "another core emulated": (
        lambda r: emulated(r) | {"microarch": "cortex-a53"},
        "device 'qemu:cortex-a72' cannot be a cortex-a53",
    ),
    "a kind that is not": (
        lambda r: within(r, "kind", latency="unknown"),
        "kind says latency is unknown, which it is not",
    ),
    "no memory of a real device": (
        lambda r: within(r, "kind", peak_rss="unknown") | {"peak_rss_mib": None},
        "one is missing",
    ),
    "a zero latency": (lambda r: timed(r, lambda t: [[0.0, *t[0][1:]], *t[1:]]), "latency_ms.0.0 is 0"),
    "a negative latency": (lambda r: timed(r, lambda t: [[-1.0, *t[0][1:]], *t[1:]]), "latency_ms.0.0 is -1"),
    "too few rounds": (lambda r: timed(r, lambda t: t[1:]), "latency_ms has not the 8 x 16 samples of its protocol"),
    "too few samples": (lambda r: timed(r, lambda t: [t[0][1:], *t[1:]]), "latency_ms has not the 8 x 16 samples"),
    "a control of another shape": (
        lambda r: r | {"aa_latency_ms": r["aa_latency_ms"][1:]},
        "aa_latency_ms has not the 8 x 16 samples",
    ),
    "a control that is a copy": (
        lambda r: r | {"aa_latency_ms": r["latency_ms"]},
        "the A/A control is a copy of the latencies",
    ),
    "equal latencies": (lambda r: timed(r, lambda t: [[0.5] * 16] * 8), "all latencies are equal: no clock shows that"),
    "a protocol of its own": (
        lambda r: within(r, "protocol", processes=1, rounds=8),
        "1 processes of 8 rounds are not the quick protocol",
    ),
    "less time than its samples": (lambda r: r | {"seconds": 0.0001}, "its samples alone take"),
    "a cold start like a warm run": (lambda r: r | {"cold_start_ms": [1e-9] * 3}, "a cold start that is shorter"),
    "a hash of other outputs": (lambda r: r | {"output_sha256": "0" * 64}, "output_sha256 is not that of its outputs"),
    "outputs that are cut": (
        lambda r: r | {"outputs": {"y": r["outputs"]["y"] | {"float32": "AAAAAA=="}}},
        "its outputs are not the values of their shapes: they are 1 values for shapes of 64",
    ),
    "outputs that are no base64": (
        lambda r: r | {"outputs": {"y": r["outputs"]["y"] | {"float32": "?"}}},
        "not the values of their shapes",
    ),
    "outputs of other shapes than values": (
        lambda r: r | {"outputs": {"y": r["outputs"]["y"] | {"shapes": [[5]] * 16}}},
        "64 values for shapes of 80",
    ),
    "negative shapes": (
        lambda r: r | {"outputs": {"y": r["outputs"]["y"] | {"shapes": [[-4]] * 16}}},
        "outputs.y.shapes.0.0 is -4",
    ),
    "a shape of a thousand axes": (
        lambda r: r | {"outputs": {"y": r["outputs"]["y"] | {"shapes": [[1] * 1000]}}},
        "outputs.y.shapes.0 is",
    ),
    "an output more": (lambda r: r | two_outputs(r), "its outputs are not the golden ones: no outputs y of input 0"),
    "outputs of other numbers of inputs": (
        lambda r: r | {"outputs": two_outputs(r)["outputs"] | {"y": {"shapes": [[4]], "float32": "AAAA" * 6}}},
        "its outputs are not the values of their shapes",
    ),
    "another output": (lambda r: outputs(r, lambda v: v, name="z"), "no outputs y of input 0"),
    "an output named for a terminal": (
        lambda r: r | {"outputs": {"a\x1b[2J": r["outputs"]["y"]}},
        "string should match pattern",
    ),
    "no outputs": (lambda r: r | {"outputs": {}}, "outputs is {}"),
    "fewer outputs": (lambda r: outputs(r, lambda v: v[:8]), "outputs of 8 inputs; there are 16 golden ones"),
    "more outputs": (lambda r: outputs(r, lambda v: v.repeat(2, 0)), "outputs of 32 inputs; there are 16 golden ones"),
    "fewer classes": (lambda r: outputs(r, lambda v: v[:, :2]), "input 0: y of shape (2,) or not finite"),
    "outputs of another model": (lambda r: outputs(r, lambda v: v + 1), "outputs outside the bundle's tolerance: larg"),
    "an output that is not a number": (lambda r: outputs(r, lambda v: v * np.nan), "or not finite"),
    "an accuracy of its own": (lambda r: r | {"accuracy": 0.5}, "accuracy 0.5000, but its outputs give 1.0000"),
    "another number of rows": (lambda r: r | {"accuracy_n": 1000}, "accuracy of 1000 golden inputs, there are 16"),
    "an accuracy of nothing": (lambda r: r | {"accuracy_of": "trust me"}, "neither of the golden inputs nor of labels"),
    "from the future": (lambda r: r | {"started": when(days=1)}, "started in the future"),
    "from before the bundle": (lambda r: r | {"started": when(days=-400)}, "before the bundle was made"),
    "no time": (lambda r: r | {"started": "2026-13-01T00:00:00Z"}, "started at 2026-13-01T00:00:00Z, no time"),
    "more threads": (lambda r: r | {"threads": 2, "cores": 4}, "threads and provider were 2, CPUExecutionProvider"),
    "more threads than cores": (lambda r: r | {"threads": 9, "cores": 4}, "9 threads on 4 cores"),
    "another provider": (lambda r: r | {"provider": "CUDAExecutionProvider"}, "threads and provider were 1, CUDA"),
    "a runtime that is too old": (lambda r: r | {"ort_version": "1.9.0"}, "onnxruntime 1.9.0 is outside >=1.17,<2"),
    "a runtime known to be bad": (lambda r: r | {"ort_version": "1.21.0"}, "1.21.0 is known to be bad on here"),
    "a runtime that is none": (lambda r: r | {"ort_version": "latest"}, "onnxruntime 'latest' is no release"),
    "more than its memory": (lambda r: r | {"peak_rss_mib": [1e8]}, "peak RSS 100000000 MiB in"),
    "throttling left out": (
        lambda r: sustained(r, [1.0] * 10 + [2.0] * 10, throttled=False),
        "2.00x slower at its end, yet not throttled",
    ),
    "a slowdown of its own": (lambda r: sustained(r, [1.0, 2.0], slowdown=1.0), "slowdown 1, but its points give 2"),
    "minutes without points": (lambda r: sustained(r, [1.0, 1.0], minutes=30.0), "2 points do not make 30 minutes"),
    "a new line for a terminal": (lambda r: r | {"os": "Linux\nok"}, r"os is 'Linux\nok': string should match"),
    "a new line at the end": (lambda r: r | {"os": "Linux\n"}, r"os is 'Linux\n': string should match"),
    "a bell": (lambda r: r | {"governor": "a\x07"}, r"governor is 'a\x07': string should match"),
    "an escape of eight bits": (lambda r: within(r, "bundle", name="a\x9b2J"), r"bundle.name is 'a\x9b2J': string"),
    "a control that is another model": (
        lambda r: r | {"aa_latency_ms": [[3 * ms for ms in turn] for turn in r["aa_latency_ms"]], "seconds": 600.0},
        "its control was not the same model: its median is ",
    ),
    "a control that is much faster": (
        lambda r: r | {"aa_latency_ms": [[ms / 3 for ms in turn] for turn in r["aa_latency_ms"]]},
        "its control was not the same model: its median is ",
    ),
    "an endless name": (lambda r: r | {"device": "x" * 501}, "device is 'xxx"),
}


@pytest.mark.parametrize(("forge", "reason"), FORGED.values(), ids=FORGED)
def test_a_forged_receipt_is_refused_for_its_reason(bundle, genuine, forge, reason):
    with pytest.raises(ReceiptRefused) as refusal:
        files.check(sealed(forge(copy.deepcopy(genuine))), bundle)
    assert any(reason in why for why in refusal.value.reasons), refusal.value.reasons


def test_there_are_twenty_forgeries_and_more():
    assert len(FORGED) > 20


DAMAGED = {
    "cut short": (lambda raw: raw[:-20], "it is no whole JSON"),
    "empty": (lambda raw: b"", "it is no whole JSON"),
    "not text": (lambda raw: b"\xff\xfe\x00", "it is no whole JSON"),
    "not an object": (lambda raw: b"[" + raw + b"]", "it is a list, not an object"),
    "not a number": (lambda raw: raw.replace(b'"seconds": ', b'"seconds": NaN, "x": '), "NaN is no number"),
    "infinite": (lambda raw: raw.replace(b'"accuracy": 1.0', b'"accuracy": Infinity'), "Infinity is no number"),
    "nested": (lambda raw: b'{"schema":' * 100_000, "it is nested too deeply"),
    "oversize": (lambda raw: raw + b" " * (5 << 20), "more than the 4 that a receipt may have"),
    "twice the key": (lambda raw: b'{"schema": 2, ' + raw[1:], "a key stands there twice"),
    "one digit changed": (
        lambda raw: raw.replace(b'"cores": ', b'"cores": 1'),
        "its digest is not that of its content",
    ),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_receipt_is_refused(genuine, damage, reason):
    raw = json.dumps(genuine).encode()
    assert damage(raw) != raw
    with pytest.raises(ReceiptRefused) as refusal:
        parse(damage(raw))
    assert reason in refusal.value.reasons[0]
    assert refusal.value.fix.startswith("make it again: ")
    assert refusal.value.exit_code == 1


def test_receipts_lie_beside_the_bundle_and_are_read_with_the_refused_ones(tmp_path, genuine):
    bundle = make_bundle(tmp_path / "tiny-here")
    assert files.read_all(bundle) == ([], [])
    before = sorted(bundle.rglob("*"))
    own = bench.receipt(bundle, Local().run, device="local")
    path = files.write(own, bundle)
    assert path.parent == tmp_path / "tiny-here.receipts"
    assert path.name == f"local-{own['started'].replace('-', '').replace(':', '')}.json"
    late = sealed(own | {"started": when(minutes=1), "device": "ssh://pi@board:22"})
    assert files.write(late, bundle).name.startswith("ssh-pi-board-22-")
    files.write(genuine | {"device": "forged"}, bundle)
    (path.parent / "notes.json").symlink_to("/nowhere")
    good, refused = files.read_all(bundle)
    assert [receipt.device for _, receipt in good] == ["local", "ssh://pi@board:22"]
    assert {file.name.split("-")[0]: reasons[0] for file, reasons in refused} == {
        "forged": "its digest is not that of its content: it was changed, or damaged on the way",
        "notes.json": "it is no file",
    }
    assert sorted(bundle.rglob("*")) == before
    assert sorted(p.suffix for p in path.parent.iterdir()) == [".json"] * 4, "nothing half-written is left"


def test_two_receipts_of_one_second_lie_side_by_side_and_a_copy_counts_once(tmp_path, genuine):
    bundle = make_bundle(tmp_path / "tiny-here")
    genuine = bench.receipt(bundle, Local().run, device="local")
    paths = [files.write(said, bundle) for said in (genuine, genuine, sealed(genuine | {"seconds": 600.0}))]
    stem = paths[0].stem
    assert [path.name for path in paths] == [f"{stem}.json", f"{stem}-2.json", f"{stem}-3.json"]
    good, refused = files.read_all(bundle)
    assert len(good) == 2
    assert [reasons for _, reasons in refused] == [(f"a copy of {min(p.name for p in paths[:2])}, which counts once",)]


def test_a_folder_that_takes_no_receipts_is_told_before_and_when_writing(tmp_path, genuine):
    bundle = make_bundle(tmp_path / "tiny-here")
    files.check_writable(bundle)
    assert not files.folder(bundle).exists(), "asking makes nothing"
    files.folder(bundle).write_text("no folder")
    with pytest.raises(StoreError, match=r"no receipt can be written to .*tiny-here\.receipts: Not a directory"):
        files.check_writable(bundle)
    with pytest.raises(StoreError, match=r"cannot use .*tiny-here\.receipts"):
        files.write(genuine, bundle)


@pytest.mark.parametrize(
    ("manifest", "why"),
    [
        ("{}", r"its schema is none of \(1, 2, 3\)"),
        ('{"schema": 1, "artifact": {"files": {}}, "model": "m"}', "its name is missing"),
        ("[]", "it is no JSON object"),
        ("{", "Expecting"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_told(tmp_path, manifest, why):
    bundle = make_bundle(tmp_path / "tiny")
    (bundle / "manifest.json").write_text(manifest)
    with pytest.raises(UsageError, match=f"is no bundle: {why}"):
        files.read_all(bundle)


def first_schema(said):
    """The same as an edgekd of before wrote it."""
    values = values_of(said)
    raw = values.tobytes()
    return sealed(
        said
        | {
            "schema": 1,
            "outputs": {"shape": list(values.shape), "float32": base64.b64encode(raw).decode()},
            "output_sha256": hashlib.sha256(raw).hexdigest(),
        }
    )


@pytest.mark.parametrize("schema", [1, 2, 3])
def test_receipts_and_bundles_of_any_schema_are_held_against_each_other(tmp_path, schema):
    bundle = make_bundle(tmp_path / "tiny-here", schema=schema)
    own = bench.receipt(bundle, Board(peak_rss_mib=1.0).run, device="local")
    before = first_schema(own)
    for said in (own, before):
        receipt = files.check(said, bundle)
        assert (receipt.accuracy, receipt.as_dict()) == (1.0, said)
        assert within_tolerance(receipt, made(bundle))[0]
    assert own["output_sha256"] == before["output_sha256"], "one output's values are the same bytes"
    (theirs,), (ours,) = (files.check(said, bundle).predictions[3].values() for said in (before, own))
    np.testing.assert_array_equal(theirs, ours)
    for said in (first_schema(outputs(own, lambda v: v + 1)), sealed(outputs(own, lambda v: v + 1))):
        with pytest.raises(ReceiptRefused, match="outputs outside the bundle's tolerance"):
            files.check(said, bundle)


def test_a_receipt_of_one_nameless_output_says_nothing_of_a_bundle_of_two(tmp_path, genuine):
    bundle = make_bundle(tmp_path / "tiny-here")
    path = bundle / "golden" / "expected.npz"
    with np.load(path) as file:
        expected = {name: file[name] for name in file.files}
    np.savez(path, **expected, **{name.replace(".y", ".z"): values for name, values in expected.items()})
    limits = {isa: {"y": 1.0, "z": 1.0} for isa in (machine.identity()["arch"], "float32")}
    (bundle / "golden" / "golden.json").write_text(json.dumps({"tolerance": limits}))
    with pytest.raises(ReceiptRefused) as refusal:
        files.check(first_schema(genuine), bundle)
    assert "its outputs are not the golden ones: no outputs y, z of input 0" in refusal.value.reasons


def test_a_receipt_of_a_newer_edgekd_says_what_to_install(genuine):
    with pytest.raises(ReceiptRefused) as refusal:
        parse(json.dumps(genuine | {"schema": 3}).encode())
    assert refusal.value.fix == "install a newer edgekd, which made it"


def test_ragged_outputs_are_told_with_a_shape_each_and_compared_row_by_row():
    said = [{"scores": np.full((n, 2), n, np.float32), "tokens": np.arange(n)} for n in (3, 0, 2)]
    told = bench.encoded(said)
    assert told["outputs"]["scores"]["shapes"] == [[3, 2], [0, 2], [2, 2]]
    assert told["outputs"]["tokens"]["shapes"] == [[3], [0], [2]]
    assert bench.likeness_of("agreement", [row["scores"] for row in said], [row["scores"] for row in said]) == 2 / 3
    other = [said[0]["scores"], said[1]["scores"], np.zeros((1, 2), np.float32)]
    assert bench.likeness_of("cosine", other, [row["scores"] for row in said]) == pytest.approx(1 / 3)


@pytest.mark.parametrize("kept", [0, 200], ids=["empty", "cut short"])
def test_damaged_golden_vectors_are_told(tmp_path, kept):
    bundle = make_bundle(tmp_path / "tiny")
    path = bundle / "golden" / "expected.npz"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UsageError, match="is no bundle: "):
        files.read_all(bundle)


def test_an_output_s_name_cannot_speak_to_a_terminal(genuine):
    with pytest.raises(ReceiptRefused) as refusal:
        parse(json.dumps(sealed(genuine | {"outputs": {"y\x1b[2J": genuine["outputs"]["y"]}})).encode())
    assert refusal.value.message.isprintable()


def _npz(path, raw, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("float32.0.y.npy", raw)
        archive.writestr(zipfile.ZipInfo("float32.1.y.npy"), bytes(20_000))  # its arrays may have so many bytes


def _bent(path, at, change):
    """Bytes from `at` of the first member's headers on, changed."""
    raw = bytearray(path.read_bytes())
    for mark, offset in at:
        start = raw.index(mark) + offset
        raw[start : start + len(change)] = bytes(one ^ other for one, other in zip(raw[start:], change, strict=False))
    path.write_bytes(raw)


def _header(text):
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


FORM = "{{'descr': {}, 'fortran_order': False, 'shape': {}}}"
ARRAY = _header(FORM.format("'<f4'", "(4,)")) + bytes(range(16))
BENT = {
    "a damaged stream": lambda path: (
        _npz(path, ARRAY * 50, zipfile.ZIP_DEFLATED),
        _bent(path, [(b"PK\x03\x04", 46)], b"\x5a" * 60),
    ),
    "an encrypted member": lambda path: (
        _npz(path, ARRAY),
        _bent(path, [(b"PK\x03\x04", 6), (b"PK\x01\x02", 8)], b"\x01"),
    ),
    "a compression that nobody knows": lambda path: (
        _npz(path, ARRAY),
        _bent(path, [(b"PK\x03\x04", 8), (b"PK\x01\x02", 10)], b"\x61"),
    ),
    "a header without end": lambda path: _npz(path, _header(FORM.format("'<f4'", "(4L,"))),
    "a header of a thousand parentheses": lambda path: _npz(path, _header("(" * 9000)),
    "a header of a thousand signs": lambda path: _npz(path, _header(FORM.format("'<f4'", f"({'-' * 9000}4,)"))),
    "a type that is no type": lambda path: _npz(path, _header(FORM.format("','", "(4,)"))),
    "no header": lambda path: _npz(path, b""),
}


@pytest.mark.parametrize("kind", BENT)
def test_whatever_a_stranger_gives_as_golden_answers_is_told(tmp_path, kind):
    bundle = make_bundle(tmp_path / "tiny")
    path = bundle / "golden" / "expected.npz"
    BENT[kind](path)
    with pytest.raises(ValueError, match=r"expected.npz is no|is no plain array|bytes|magic|EOF|header"):
        verify.read_arrays(path)
    with pytest.raises(UsageError, match=r"is no bundle: ."):
        files.read_all(bundle)
    with pytest.raises(ValueError, match=r"the golden vectors cannot be used: ."):
        verify.read_golden(bundle)


def test_a_model_may_hold_no_more_than_the_imports_did(bundle, genuine):
    receipt = files.check(sealed(genuine | {"peak_rss_mib": [0.0, 0.0, 0.1]}), bundle)
    assert max(receipt.peak_rss_mib) == 0.1


@pytest.mark.parametrize("lacks", ["manifest.json", "report.json", "provenance.json", "golden/expected.npz"])
def test_what_is_no_bundle_is_told(tmp_path, lacks):
    bundle = make_bundle(tmp_path / "tiny")
    (bundle / lacks).unlink()
    with pytest.raises(UsageError, match=f"is no bundle: it has no {lacks.split('/')[-1]}"):
        files.read_all(bundle)


def test_a_disk_that_cannot_be_written_leaves_nothing_half_written(tmp_path, genuine, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    bundle = make_bundle(tmp_path / "tiny")
    monkeypatch.setattr("edgekd.store.store.os.replace", full)
    with pytest.raises(StoreError, match="no space left while writing under "):
        files.write(genuine, bundle)
    assert list(files.folder(bundle).iterdir()) == []
