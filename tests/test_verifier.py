"""verify.py: what a device team runs. Every change is named, and the exit code says which kind of wrong it is."""

import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import matmul_model, relu_model, samples
from made_bundle import listed, write_manifest

from edgekd.onboard import RUNNER_FILES, verify
from edgekd.onboard.runner import open_session


def seal(folder):
    """List every file as the bundle's manifest does."""
    files = listed(folder)
    evidence = {"report.md": files.pop("report.md")}
    manifest = {
        "schema": 2,
        "self_sha256": "",
        "name": "tiny",
        "version": "1.0.0",
        "task": "any",
        "recipe": "float32",
        "model": "onnx/model.onnx",
        "compatible": ["here"],
        "min": {"ort_version": ">=1.17"},
        "plan_sha256": "1" * 64,
        "artifact": {"files": files},
        "evidence": {"files": evidence},
    }
    write_manifest(folder, manifest)
    return manifest


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    (folder / "onnx").mkdir(parents=True)
    (folder / "golden").mkdir()
    model = matmul_model(folder / "onnx" / "model.onnx")
    session, inputs = open_session(str(model), threads=1), [sample["x"] for sample in samples(3, 5, 1)]
    said = np.concatenate([session.run(None, {"x": x})[0] for x in inputs])
    np.savez(folder / "golden" / "inputs.npz", **{f"{row}.x": x for row, x in enumerate(inputs)})
    np.savez(folder / "golden" / "expected.npz", **{platform.machine(): said, "float32": said + 0.05})
    tolerance = {platform.machine(): 0.001, "float32": 0.1}
    (folder / "golden" / "golden.json").write_text(json.dumps({"tolerance": tolerance}))
    (folder / "report.md").write_text("# Report\n")
    shutil.copyfile(verify.__file__, folder / "verify.py")
    (folder / "bench").mkdir()
    for name in RUNNER_FILES:
        shutil.copyfile(Path(verify.__file__).with_name(name), folder / "bench" / name)
    seal(folder)
    return folder


@pytest.fixture
def bundle(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "bundle"))


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def answered(folder):
    """What the model says of the golden inputs, (inputs, classes)."""
    return np.stack([row["y"] for row in verify.run_golden(folder, manifest_of(folder))])


def expect(folder, **arrays):
    np.savez(folder / "golden" / "expected.npz", **arrays)
    seal(folder)


def test_a_whole_bundle_verifies_from_any_folder_without_edgekd(bundle, tmp_path):
    moved = bundle.rename(tmp_path / "elsewhere on the device")
    done = subprocess.run(
        [sys.executable, "-I", moved / "verify.py"], capture_output=True, text=True, cwd="/", env={}, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, second, third, note = done.stdout.splitlines()
    assert first == "ok      17 files are those that the manifest lists"
    assert second == "ok      onnx/model.onnx loads and runs"
    assert third.startswith("ok      golden vectors: largest difference 0 to the outputs recorded on ")
    assert note == "note    hashes show damage, not malice: `edgekd verify --key PUB` tells who signed this bundle"
    assert verify.changed_files(moved, manifest_of(moved)) == []


def _flip(path):
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


def _link(path):
    path.rename(path.parent.parent.parent / "away")
    path.symlink_to(path.parent.parent.parent / "away")


def _folder(path):
    path.unlink()
    path.mkdir()


def _other_case(path):
    path.rename(path.with_name(path.name.upper()))


LINK = "a link, folder or device in place of what was shipped"
CHANGES = {
    "a flipped byte": (lambda b: _flip(b / "onnx/model.onnx"), "onnx/model.onnx: its content was changed"),
    "a longer file": (lambda b: (b / "report.md").write_text("# Report!\n"), "report.md: 10 bytes, not 9"),
    "a missing file": (lambda b: (b / "report.md").unlink(), "report.md: missing"),
    "a file too many": (lambda b: (b / "onnx/x.onnx").write_text(""), "onnx/x.onnx: not part of the bundle"),
    "a hidden file": (lambda b: (b / ".profile").write_text(""), ".profile: not part of the bundle"),
    "a repository": (lambda b: (b / ".git/refs").mkdir(parents=True), ".git/: not part of the bundle"),
    "an empty folder": (lambda b: (b / "onnx/more").mkdir(), "onnx/more/: not part of the bundle"),
    "a link": (lambda b: _link(b / "golden/golden.json"), f"golden/golden.json: {LINK}"),
    "a linked folder": (lambda b: (b / "more").symlink_to("/"), "more: not part of the bundle"),
    "a link to itself": (lambda b: (b / "again").symlink_to(b), "again: not part of the bundle"),
    "a dangling link": (lambda b: (b / "none").symlink_to("nowhere"), "none: not part of the bundle"),
    "a pipe too many": (lambda b: os.mkfifo(b / "pipe"), "pipe: not part of the bundle"),
    "a name with control characters": (
        lambda b: (b / "a\n\x1b[2J").write_text(""),
        "'a\\n\\x1b[2J': not part of the bundle",
    ),
}
ALONE = {  # they would be in each other's way
    "a pipe in place of a file": (
        lambda b: ((b / "report.md").unlink(), os.mkfifo(b / "report.md")),
        [f"report.md: {LINK}"],
    ),
    "a folder in place of a file": (lambda b: _folder(b / "report.md"), [f"report.md: {LINK}"]),
    "a file in place of a folder": (
        lambda b: (shutil.rmtree(b / "onnx"), (b / "onnx").write_text("")),
        ["onnx/model.onnx: missing", f"onnx: {LINK}"],
    ),
    "a linked folder in place of one": (
        lambda b: ((b / "onnx").rename(b.parent / "moved"), (b / "onnx").symlink_to(b.parent / "moved")),
        ["onnx/model.onnx: missing", f"onnx: {LINK}"],
    ),
    "another case": (
        lambda b: _other_case(b / "report.md"),
        ["report.md: missing", "REPORT.MD: not part of the bundle"],
    ),
}


@pytest.mark.parametrize(("change", "problem"), CHANGES.values(), ids=CHANGES)
def test_a_change_is_named(bundle, capsys, change, problem):
    change(bundle)
    assert verify.changed_files(bundle, manifest_of(bundle)) == [problem]
    assert verify.main(bundle) == 1
    assert capsys.readouterr().out == f"FAILED  this is not the bundle that was shipped:\n  {problem}\n"


@pytest.mark.parametrize(("change", "problems"), ALONE.values(), ids=ALONE)
def test_what_took_a_files_place_is_named(bundle, change, problems):
    change(bundle)
    assert verify.changed_files(bundle, manifest_of(bundle)) == problems
    assert verify.main(bundle) == 1


def test_every_change_is_named_at_once(bundle):
    for change, _ in CHANGES.values():
        if change is not CHANGES["a missing file"][0]:
            change(bundle)
    assert sorted(verify.changed_files(bundle, manifest_of(bundle))) == sorted(
        problem for name, (_, problem) in CHANGES.items() if name != "a missing file"
    )


def test_no_more_is_said_than_a_screen_holds(bundle, capsys):
    for number in range(500):
        (bundle / f"{number:03}").touch()
    assert verify.main(bundle) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + verify.MOST_SHOWN + 1
    assert lines[-1] == f"  and {500 - verify.MOST_SHOWN} more"


def test_a_folder_deeper_than_any_recursion_is_named_without_walking_it(bundle):
    place = os.getcwd()
    os.chdir(bundle)
    try:
        for _ in range(1500):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir(place)
    try:
        assert verify.changed_files(bundle, manifest_of(bundle)) == ["d/: not part of the bundle"]
    finally:
        subprocess.run(["rm", "-rf", bundle / "d"], check=True)


def test_a_hard_link_is_a_file_whose_content_counts(bundle, tmp_path):
    (tmp_path / "elsewhere").hardlink_to(bundle / "onnx/model.onnx")
    assert verify.main(bundle) == 0
    _flip(tmp_path / "elsewhere")
    assert verify.main(bundle) == 1


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("onnx/model.onnx", 0o755),
        ("report.md", 0o666),
        ("verify.py", 0o4644),
        ("golden", 0o777),
        ("onnx", 0o1755),
        (".", 0o775),
    ],
)
def test_odd_modes_are_named_and_ignored_where_a_card_keeps_none(bundle, capsys, name, mode):
    (bundle / name).chmod(mode)
    assert verify.changed_files(bundle, manifest_of(bundle)) == []
    assert verify.main(bundle) == 1
    said = capsys.readouterr().out
    assert said.startswith("FAILED  permissions that nothing in a bundle needs (`chmod -R a-xst,u=rwX,go=rX`")
    assert f"\n  {name}: mode {mode:04o}, more than 0" in said
    assert verify.main(bundle, ignore_modes=True) == 0
    subprocess.run(["chmod", "-R", "a-xst,u=rwX,go=rX", bundle], check=True)  # the way out that it names
    assert verify.main(bundle) == 0


def test_a_card_formatted_as_fat_takes_a_flag(bundle):
    (bundle / "report.md").chmod(0o755)
    command = [sys.executable, "-I", bundle / "verify.py"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1
    assert subprocess.run([*command, "--ignore-modes"], capture_output=True, check=False).returncode == 0
    _flip(bundle / "onnx/model.onnx")
    assert subprocess.run([*command, "--ignore-modes"], capture_output=True, check=False).returncode == 1
    wrong = subprocess.run([*command, "--key", "x"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "usage: python verify.py [--ignore-modes] [CLIP.wav]\n"
    asked = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False)
    assert (asked.returncode, asked.stdout, asked.stderr) == (0, wrong.stderr, "")


@pytest.mark.parametrize("name", ["json.py", "hashlib.py", "numpy.py", "onnxruntime.py", "platform.py"])
def test_a_stray_module_is_found_before_it_is_run(bundle, tmp_path, name):
    (bundle / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    done = subprocess.run([sys.executable, "verify.py"], cwd=bundle, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"{name}: not part of the bundle" in done.stdout
    assert not (tmp_path / "ran").exists()


def changed(**values):
    """A manifest with other values, its own hash right."""

    def change(bundle):
        write_manifest(bundle, manifest_of(bundle) | values)

    return change


def listing(name, **entry):
    """A manifest that lists one file more."""

    def change(bundle):
        values = manifest_of(bundle)
        values["artifact"]["files"][name] = {"size": 0, "sha256": "0" * 64} | entry
        write_manifest(bundle, values)

    return change


def text(content):
    def change(bundle):
        path = bundle / "manifest.json"
        path.write_bytes(content if isinstance(content, bytes) else content(path.read_text()).encode())

    return change


def replaced(kind):
    def change(bundle):
        path = bundle / "manifest.json"
        path.unlink()
        kind(path)

    return change


HOSTILE = {
    "none": (replaced(lambda path: None), "No such file"),
    "cut": (text(b"{"), "Expecting"),
    "empty": (text(b""), "Expecting"),
    "a list": (text(b"[]"), "no JSON object"),
    "a word": (text(b'"text"'), "no JSON object"),
    "no text": (text(b"\xff\xfe{}"), "decode"),
    "nothing in it": (text(b"{}"), "its schema is none of (1, 2, 3)"),
    "deep": (text(b"[" * 100_000 + b"]" * 100_000), "nested too deeply"),
    "deep objects": (text(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "nested too deeply"),
    "a giant number": (text(lambda was: was.replace('"schema": 2', '"schema": ' + "9" * 3_000_000)), "digits"),
    "an endless float": (text(lambda was: was.replace('"schema": 2', '"schema": 2, "x": 1e999')), "no number"),
    "NaN": (text(lambda was: was.replace('"schema": 2', '"schema": NaN')), "NaN is no number"),
    "a giant file": (text(b" " * (5 << 20)), "manifest.json has 5242880 bytes"),
    "a key twice": (text(lambda was: was.replace("{", '{"schema": 2, ', 1)), "a key stands in it twice"),
    "a file twice": (
        text(lambda was: was.replace('"report.md": {', '"report.md": {}, "report.md": {')),
        "a key stands in it twice",
    ),
    "a link": (replaced(lambda path: path.symlink_to("report.md")), "a link, folder or device"),
    "a folder": (replaced(lambda path: path.mkdir()), "a link, folder or device"),
    "a pipe": (replaced(os.mkfifo), "a link, folder or device"),
    "a newer one": (changed(schema=4), "made by a newer edgekd: its schema is 4"),
    "no schema": (changed(schema="2"), "its schema is none"),
    "true": (changed(schema=True), "its schema is none"),
    "its own hash": (text(lambda was: was.replace('"float32"', '"float64"')), "self_sha256 is another"),
    "no own hash": (text(lambda was: was.replace("self_sha256", "self_sha255")), "self_sha256 is missing"),
    "its own hash twice": (
        text(lambda was: was.replace('"1.0.0"', '"' + json.loads(was)["self_sha256"] + '"')),
        "self_sha256 is missing",
    ),
    "files a list": (changed(artifact={"files": []}), "its artifact has no files"),
    "no files": (changed(evidence={}), "its evidence has no files"),
    "evidence a number": (changed(evidence=3), "its evidence is missing"),
    "a name of another kind": (changed(name=["tiny"]), "its name is missing, or no plain str"),
    "a name with a terminal's commands": (changed(name="\x1b[2J"), "its name is missing, or no plain str"),
    "a model elsewhere": (changed(model="../model.onnx"), "names no model"),
    "a model of the evidence": (changed(model="report.md"), "names no model"),
    "no targets": (changed(compatible=[]), "no list of targets"),
    "targets of another kind": (changed(compatible=[1]), "no list of targets"),
    "no runtime": (changed(min={}), "no ort_version"),
    "a level up": (listing("../x"), "lists ../x, which is no plain path"),
    "a level up inside": (listing("onnx/../../x"), "no plain path"),
    "absolute": (listing("/etc/passwd"), "lists /etc/passwd, which is no plain path"),
    "a backslash": (listing("onnx\\..\\x"), "no plain path"),
    "a NUL": (listing("x\0y"), "lists 'x\\x00y', which is no plain path"),
    "a lone surrogate": (listing("\ud800"), "lists '\\ud800', which is no plain path"),
    "a line break": (listing("x\ny"), "no plain path"),
    "an endless name": (listing("x" * 5000), "no plain path"),
    "an empty name": (listing(""), "no plain path"),
    "a dot": (listing("./x"), "no plain path"),
    "a slash at the end": (listing("x/"), "no plain path"),
    "itself": (listing("manifest.json"), None),
    "in both parts": (listing("report.md"), "in both parts"),
    "a file as a folder, too": (listing("onnx/model.onnx/x"), "lists onnx/model.onnx as a file and as a folder"),
    "another case": (listing("Report.md"), "in two spellings"),
    "another case of a folder": (listing("Golden/x"), "in two spellings"),
    "another composition": (lambda bundle: (listing("\u00e9")(bundle), listing("e\u0301")(bundle)), "in two spellings"),
    "a size of text": (listing("x", size="1"), "no size and SHA-256"),
    "a size of true": (listing("x", size=True), "no size and SHA-256"),
    "a hash of another kind": (listing("x", sha256=5), "no size and SHA-256"),
    "a hash in capitals": (listing("x", sha256="A" * 64), "no size and SHA-256"),
}


@pytest.mark.parametrize(("change", "words"), HOSTILE.values(), ids=HOSTILE)
def test_a_manifest_that_cannot_be_used_is_one_line_and_1(bundle, capsys, monkeypatch, change, words):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    change(bundle)
    assert verify.main(bundle) == 1
    said = capsys.readouterr().out
    assert said.startswith("FAILED  ")
    if words is not None:
        assert said.startswith("FAILED  manifest.json cannot be used: ")
        assert said.count("\n") == 1
        assert len(said) < 500
        assert words in said


def test_a_manifest_of_before_has_no_hash_of_its_own(bundle):
    values = manifest_of(bundle) | {"schema": 1}
    del values["self_sha256"]
    (bundle / "manifest.json").write_text(json.dumps(values))
    assert verify.main(bundle) == 0
    _flip(bundle / "report.md")
    assert verify.main(bundle) == 1


def golden(**limits):
    def change(bundle):
        (bundle / "golden/golden.json").write_text(json.dumps({"tolerance": limits} if limits else {}))

    return change


def arrays(file, **values):
    return lambda bundle: np.savez(bundle / "golden" / file, **values)


def member(file, raw, *, compressed=False, name="float32"):
    """One member of an .npz, of any bytes."""

    def change(bundle):
        kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
        with zipfile.ZipFile(bundle / "golden" / file, "w", kind) as archive:
            archive.writestr(f"{name}.npy", raw)

    return change


def npy(shape, kind="<f4", data=b""):
    header = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    header += " " * (63 - (len(header) + 10) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


ISA = platform.machine()
ANSWERS = np.zeros((3, 4), np.float32)
GOLDEN = {
    "no JSON": lambda b: (b / "golden/golden.json").write_text("{"),
    "a list": lambda b: (b / "golden/golden.json").write_text("[]"),
    "no tolerance": golden(),
    "a tolerance of text": golden(**{ISA: "1"}),
    "a tolerance of true": golden(**{ISA: True}),
    "a negative tolerance": golden(**{ISA: -1.0}),
    "NaN": golden(**{ISA: float("nan")}),
    "infinity": golden(**{ISA: float("inf")}),
    "an endless number": lambda b: (b / "golden/golden.json").write_text(f'{{"tolerance": {{"{ISA}": 1e999}}}}'),
    "ten to the 400": golden(**{ISA: 10**400}),
    "another architecture's alone": golden(riscv64=1.0),
    "deep": lambda b: (b / "golden/golden.json").write_text("[" * 99_999),
    "answers of objects": arrays("expected.npz", **{ISA: np.array([[{}]], dtype=object)}),
    "answers of text": arrays("expected.npz", **{ISA: np.array([["x"]])}),
    "answers of whole numbers": arrays("expected.npz", **{ISA: np.zeros((3, 4), np.uint8)}),
    "answers that are none": arrays("expected.npz", **{ISA: ANSWERS * np.nan}),
    "no answers": arrays("expected.npz", **{ISA: ANSWERS[:0]}),
    "more answers than inputs": arrays("expected.npz", **{ISA: np.zeros((4, 4), np.float32)}),
    "answers of one axis": arrays("expected.npz", **{ISA: np.zeros(3, np.float32)}),
    "nobody's answers": arrays("expected.npz", riscv64=ANSWERS),
    "no archive": lambda b: (b / "golden/expected.npz").write_bytes(b"PK"),
    "an empty archive": lambda b: (b / "golden/expected.npz").write_bytes(b""),
    "a cut archive": lambda b: (b / "golden/expected.npz").write_bytes((b / "golden/expected.npz").read_bytes()[:200]),
    "a giant shape": member("expected.npz", npy((10**9, 10**9)), name=ISA),
    "a shape of more than it holds": member("expected.npz", npy((3, 4), data=b"1234"), name=ISA),
    "a shape of negative numbers": member("expected.npz", npy((-1, -4), data=b"0" * 16), name=ISA),
    "a bomb": member("expected.npz", npy((3000, 4000), data=bytes(48_000_000)), compressed=True, name=ISA),
    "a header that is code": member("expected.npz", b"\x93NUMPY\x01\x00\x10\x00__import__('os')", name=ISA),
    "a pickle": member("expected.npz", b"cos\nsystem\n(S'true'\ntR.", name=ISA),
    "inputs without numbers": arrays("inputs.npz", x=ANSWERS),
    "inputs of a far row": arrays("inputs.npz", **{"999999999999.x": ANSWERS}),
    "inputs of a negative row": arrays("inputs.npz", **{"-1.x": ANSWERS, "0.x": ANSWERS}),
    "no inputs": arrays("inputs.npz"),
    "inputs of objects": arrays("inputs.npz", **{"0.x": np.array([{}], dtype=object)}),
    "an input missing": lambda b: (b / "golden/inputs.npz").unlink(),
}


@pytest.mark.parametrize("change", GOLDEN.values(), ids=GOLDEN)
def test_golden_vectors_that_cannot_be_used_are_1_before_the_model_is_opened(bundle, capsys, monkeypatch, change):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    change(bundle)
    seal(bundle)
    assert verify.main(bundle) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("FAILED  the golden vectors cannot be used: ")
    assert len(last) < 400


def test_inputs_that_the_model_does_not_take_are_7(bundle, capsys):
    arrays("inputs.npz", **{f"{row}.y": ANSWERS for row in range(3)})(bundle)
    seal(bundle)
    assert verify.main(bundle) == 7
    assert (
        "FAILED  ONNX Runtime cannot run onnx/model.onnx: the graph model takes x; the inputs are y"
        in capsys.readouterr().out
    )


def test_a_model_that_does_not_load_is_7(bundle, capsys):
    (bundle / "onnx" / "model.onnx").write_bytes(b"not a model")
    seal(bundle)
    assert verify.main(bundle) == 7
    assert "FAILED  ONNX Runtime cannot run onnx/model.onnx: " in capsys.readouterr().out


def test_a_device_without_onnxruntime_is_7_with_the_way_out(bundle, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert verify.main(bundle) == 7
    assert "install numpy and onnxruntime >=1.17" in capsys.readouterr().out


@pytest.mark.parametrize(("difference", "code"), [(0.0005, 0), (0.002, 5)])
def test_outputs_are_held_to_this_architectures_tolerance(bundle, capsys, difference, code):
    said = answered(bundle)
    expect(bundle, **{platform.machine(): said + np.float32(difference), "float32": said})
    assert verify.main(bundle) == code
    last = next(line for line in capsys.readouterr().out.splitlines() if "golden" in line)
    assert last.startswith("FAILED  golden vectors: " if code else "ok      golden vectors: ")
    assert last.endswith(f" to the outputs recorded on {platform.machine()}, tolerance 0.001")


@pytest.mark.parametrize(("difference", "code"), [(0.05, 0), (0.2, 5)])
def test_on_an_unknown_architecture_fp32_is_the_yardstick(bundle, capsys, difference, code):
    said = answered(bundle)
    expect(bundle, float32=said + np.float32(difference), riscv64=said)
    assert verify.main(bundle) == code
    assert f"the fp32 model's outputs ({platform.machine()} was not recorded), tolerance 0.1" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", ["shape", "not finite"])
def test_outputs_of_another_shape_or_not_finite_are_5(bundle, wrong):
    said = answered(bundle)
    assert said.shape == (3, 4)
    outputs = said[:, :2] if wrong == "shape" else said * np.array([[1], [np.nan], [1]], np.float32)
    well, words = verify.check_golden(bundle, [{"y": row} for row in outputs])
    assert not well
    row, shape = (0, (2,)) if wrong == "shape" else (1, (4,))
    assert words == f"input {row}: outputs of shape {shape} or not finite; expected (4,)"


@pytest.fixture
def embeds(bundle):
    """The same with a model that answers once a token: inputs of three lengths."""
    session = open_session(str(relu_model(bundle / "onnx" / "model.onnx")), threads=1)
    with np.load(bundle / "golden" / "inputs.npz") as inputs:
        outputs = [session.run(None, {"x": inputs[f"{row}.x"]})[0] for row in range(3)]
    assert [output.shape for output in outputs] == [(1, 3, 32), (1, 5, 32), (1, 1, 32)]
    said = np.concatenate([output.mean(axis=1) for output in outputs])
    expect(bundle, **{platform.machine(): said, "float32": said})
    return bundle


def test_outputs_of_each_token_are_held_as_their_mean(embeds, capsys):
    assert answered(embeds).shape == (3, 32)
    assert verify.main(embeds) == 0
    assert "golden vectors: largest difference 0 to the outputs recorded on" in capsys.readouterr().out
    said = answered(embeds)
    said[1, 7] += 0.002
    expect(embeds, **{platform.machine(): said, "float32": said})
    assert verify.main(embeds) == 5
