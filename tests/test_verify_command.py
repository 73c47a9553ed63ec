"""`edgekd verify`: what was tampered with is refused before ONNX Runtime sees it; whom it trusts; what it says."""

import base64
import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import TINY, invoke, loose_target, run
from helpers import looping_model, matmul_model, save_graph
from made_bundle import make_bundle, write_manifest
from onnx import helper
from tampering import TAMPERING, Lab, copy, flip, make_lab, relist, sign

from edgekd.bundle import write as bundles
from edgekd.core.errors import BelowAccuracy, EdgeKDError, RuntimeCannotLoad, UsageError
from edgekd.core.files import turn
from edgekd.core.protocols import NullProgress
from edgekd.hardware.profile import load_profile
from edgekd.receipts import benchmark_on_device as proving
from edgekd.receipts import compare, trust
from edgekd.security import keys, signing
from edgekd.store.store import Store

FLIPS = 400  # of each file


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return make_lab(tmp_path_factory.mktemp("labs") / "lab")


@pytest.fixture
def lab(original, tmp_path):
    return copy(original, tmp_path / "lab")


@pytest.fixture(scope="module")
def poison(tmp_path_factory):
    """An onnxruntime that leaves a mark where anything imports it."""
    folder = tmp_path_factory.mktemp("poison")
    (folder / "onnxruntime.py").write_text(
        "import os\nopen(os.environ['MARK'], 'w').close()\nraise ImportError('the poisoned runtime was imported')\n"
    )
    return folder


def verify(lab, *arguments):
    """The command, called in the bundle's folder."""
    with contextlib.chdir(lab.root):
        return invoke("verify", *arguments)


def verify_apart(lab, *arguments, **environment):
    """The same in a fresh process."""
    return subprocess.run(
        [sys.executable, "-m", "edgekd", "verify", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=lab.root,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])} | environment,
    )


# one fresh process that verifies many bundles: each line of stdin is a folder to stand in and the words of the command
IN_TURN = """
import contextlib, io, json, os, sys
from edgekd.cli import main
for line in sys.stdin:
    place, words = json.loads(line)
    os.chdir(place)
    os.environ["MARK"] = os.path.join(place, "seen")
    sys.argv, err = ["edgekd", "verify", *words], io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            print(json.dumps([end.code, err.getvalue()]), file=sys.__stdout__)
"""


@pytest.fixture(scope="module")
def verdicts(original, poison, tmp_path_factory):
    """Of each kind of tampering, and of `none`: exit code, stderr, and whether the runtime was imported."""
    labs, jobs = {}, []
    for number, name in enumerate([*TAMPERING, "none"]):
        lab = labs[name] = copy(original, tmp_path_factory.mktemp("tampered") / f"lab-{number}")
        words = ["bundle", "--key", lab.pub]
        if name != "none":
            TAMPERING[name].change(lab)
            words = TAMPERING[name].command(lab)
        jobs.append(json.dumps([str(lab.root), [str(word) for word in words]]))
    path = os.pathsep.join([str(poison), str(Path(__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", IN_TURN],
        input="\n".join(jobs),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    answers = zip(labs.items(), done.stdout.splitlines(), strict=True)
    return {name: (*json.loads(line), (lab.root / "seen").exists()) for (name, lab), line in answers}


def asked(lab, *arguments, **more):
    return trust.Asked(trust.Trust.of([lab.pub]), **more)


def refusal(lab, **more):
    with pytest.raises(EdgeKDError) as refused:
        trust.check(lab.bundle, asked(lab, **more))
    return refused.value


# ---- tampering


def test_there_are_enough_kinds():
    assert len(TAMPERING) >= 12


@pytest.mark.parametrize("name", TAMPERING)
def test_tampering_is_refused_before_the_runtime_is_imported(verdicts, name):
    code, said, imported = verdicts[name]
    words = TAMPERING[name].words
    assert words in said
    assert code == (2 if words == "it has no manifest.json" else 1)
    assert said.startswith("error: ")
    assert "\n  fix: " in said
    assert not imported


def test_what_was_not_tampered_with_is_not_refused_and_only_then_is_the_runtime_imported(verdicts, lab, poison):
    code, said, imported = verdicts["none"]
    assert (code, imported) == (7, True)
    assert "the poisoned runtime was imported" in said
    done = verify_apart(lab, "bundle", "--key", lab.pub)
    assert done.returncode == 0, done.stderr


def test_what_was_tampered_with_ends_a_process_of_its_own_with_1(lab, poison):
    flip(lab.bundle / "onnx/model.onnx")
    path = os.pathsep.join([str(poison), str(Path(__file__).parents[1])])
    done = verify_apart(lab, "bundle", "--key", lab.pub, PYTHONPATH=path, MARK=str(lab.root / "seen"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert not (lab.root / "seen").exists()


@pytest.mark.parametrize("kind", TAMPERING.values(), ids=TAMPERING)
def test_without_its_key_the_same_is_damage_or_malice_unseen(lab, monkeypatch, kind):
    """What only a signature tells, and nothing else, passes without a key: it is said so."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    kind.change(lab)
    signed = {"bundle.sig", "signed by", "is not signed", "not its own", "version", "was built for"}
    if not kind.shows and any(words in kind.words for words in signed):
        assert "hashes show damage, not malice" in trust.check(lab.bundle).notes[0]
    else:
        with pytest.raises(EdgeKDError):
            trust.check(lab.bundle)


def test_a_hard_link_to_the_same_is_a_file(lab):
    path = lab.bundle / "onnx/model.onnx"
    path.unlink()
    path.hardlink_to(lab.older / "onnx/model.onnx")
    assert trust.check(lab.bundle, asked(lab)).signed_by


def test_every_flipped_bit_is_refused(lab, monkeypatch):
    """In each file, the manifest and the signature: no two flips of a file alike."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    draw = random.Random(0)
    files = [path for path in sorted(lab.bundle.rglob("*")) if path.is_file()] + [lab.sig]
    wanted = asked(lab)
    trust.check(lab.bundle, wanted)
    for path in files:
        whole = path.read_bytes()
        bits = draw.sample(range(8 * len(whole)), min(FLIPS, 8 * len(whole)))
        unseen = []
        for bit in bits:
            flip(path, bit)
            try:
                trust.check(lab.bundle, wanted)
                unseen.append(bit)
            except EdgeKDError:
                pass
            path.write_bytes(whole)
        assert unseen == [], path
    assert len(files) >= 9


# ---- whom it trusts


def test_one_trusted_signature_is_enough_whatever_the_others_are(lab):
    sign(lab.bundle, lab.stranger, lab.old, lab.release)
    found = trust.check(lab.bundle, asked(lab))
    assert [key.name for key in found.signed_by] == ["release.pub"]
    both = trust.Asked(trust.Trust.of([lab.root / "keys"]))
    assert [key.name for key in trust.check(lab.bundle, both).signed_by] == ["stranger.pub", "old.pub", "release.pub"]


@pytest.mark.parametrize("by", ["file", "id", "ID"])
def test_a_revoked_key_is_named_and_a_good_one_beside_it_is_enough(lab, by):
    """Rotation: both keys sign for a while; then the old one is revoked, by its file or its id."""
    old = keys.read_public(lab.root / "keys/old.pub")
    word = {"file": str(lab.root / "keys/old.pub"), "id": old.key_id, "ID": old.key_id.upper()}[by]
    sign(lab.bundle, lab.old, lab.release)
    found = trust.check(lab.bundle, trust.Asked(trust.Trust.of([lab.pub], [word])))
    assert [key.name for key in found.signed_by] == ["release.pub"]
    named = str(old) if by == "file" else f"the key {old.key_id[:16]}"
    assert found.notes == (f"also signed by {named}, which is revoked",)
    sign(lab.bundle, lab.old)
    with pytest.raises(EdgeKDError) as refused:
        trust.check(lab.bundle, trust.Asked(trust.Trust.of([lab.pub], [word])))
    assert refused.value.message.startswith(f"bundle is signed by {named}, which is revoked; trusted: release.pub (")
    assert refused.value.fix == "do not use it; take one that is signed by a key that is not revoked"
    with pytest.raises(EdgeKDError, match="which is revoked; trusted: nobody: all are revoked"):
        trust.check(lab.bundle, trust.Asked(trust.Trust.of([lab.root / "keys/old.pub"], [word])))


def test_a_known_key_s_signature_must_hold_even_where_another_would_do(lab):
    sign(lab.bundle, lab.old, lab.release)
    values = json.loads(lab.sig.read_text())
    values["signatures"][0]["sig"] = values["signatures"][1]["sig"]
    lab.sig.write_text(json.dumps(values))
    trust.check(lab.bundle, asked(lab))  # the old key is nobody's concern here
    with pytest.raises(EdgeKDError, match=r"the signature of old\.pub .* is not its own, or damaged"):
        trust.check(lab.bundle, trust.Asked(trust.Trust.of([lab.root / "keys"])))


def test_keys_that_cannot_be_used_are_2(lab):
    for arguments, words in (
        (["--key", "none.pub"], "cannot read the public key none.pub"),
        (["--key", "keys/release"], "holds a private key"),
        (["--key", "bundle"], "the folder bundle has no *.pub"),
        (["--revoked", "keys/old.pub"], "--revoked without --key"),
        (["--key", "keys", "--revoked", "0123"], "--revoked 0123 is neither a key's file nor its id"),
        (["--after", "1.0"], "--after '1.0' is no version"),
        (["--target", "none.yaml"], "cannot read the target profile none.yaml"),
    ):
        done = verify(lab, "bundle", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert words in done.stderr


def test_a_signature_is_found_beside_a_bundle_wherever_one_stands(lab, monkeypatch):
    monkeypatch.chdir(lab.bundle)
    assert signing.beside(Path()) == lab.sig
    assert signing.beside(Path("../bundle/")) == lab.sig
    assert trust.check(Path(), asked(lab)).signed_by


def test_a_link_to_a_bundle_is_that_bundle_with_a_signature_of_its_own(lab):
    current = lab.root / "current"
    current.symlink_to(lab.bundle)
    lab.sig.rename(lab.root / "current.sig")
    assert trust.check(current, asked(lab)).signed_by


# ---- version and target


@pytest.mark.parametrize(("after", "well"), [("1.0.99", True), ("0.9.0", True), ("1.1.0", False), ("1.10.0", False)])
def test_versions_only_go_up(lab, after, well):
    if well:
        trust.check(lab.bundle, asked(lab, after=after))
    else:
        assert refusal(lab, after=after).message == f"the bundle's version 1.1.0 is not newer than {after}"


def test_a_version_that_is_none_is_told(lab):
    relist(lab.bundle, version="latest")
    sign(lab.bundle, lab.release)
    assert refusal(lab, after="1.0.0").message == "the bundle's version 'latest' is no version"
    trust.check(lab.bundle, asked(lab))


def profile(lab, **values):
    path = lab.root / "mine.yaml"
    known = load_profile("rpi4").as_dict() | {"name": "here", "arch": "x86_64", "isa": [], "microarch": "none"}
    path.write_text(yaml.safe_dump(known | values))
    return str(path)


@pytest.mark.parametrize(
    ("needs", "has", "words"),
    [
        ({}, {}, None),
        ({}, {"name": "there"}, "the bundle was built for here, not for there"),
        ({"arch": "x86_64"}, {"arch": "aarch64"}, "the bundle needs arch x86_64 where here has aarch64"),
        ({"opset": 18}, {"max_opset": 17}, "the bundle needs opset 18 where here has 17"),
        ({"opset": "x"}, {}, "the bundle needs opset x where here has "),
        ({"ir_version": 10}, {"max_ir_version": 9}, "the bundle needs ir_version 10 where here has 9"),
        ({"ort_version": ">=1.20"}, {"ort_version": "<1.20"}, "needs ort_version >=1.20 where here has <1.20"),
        ({"ort_version": "newest"}, {}, "the bundle needs ort_version newest"),
        ({"isa": ["avx2", "fma"]}, {"isa": ["fma"]}, "the bundle needs the instructions avx2, which here has not"),
        ({"isa": "avx2"}, {"isa": ["fma"]}, "the bundle needs the instructions avx2, which here has not"),
    ],
)
def test_a_target_is_held_to_its_profile(lab, needs, has, words):
    least = {"ort_version": ">=1.17", "arch": "x86_64", "opset": 17, "ir_version": 8, "isa": []} | needs
    relist(lab.bundle, min=least)
    sign(lab.bundle, lab.release)
    if words is None:
        trust.check(lab.bundle, asked(lab, target=profile(lab, **has)))
    else:
        assert words in refusal(lab, target=profile(lab, **has)).message


def test_a_target_that_only_the_builder_knows_is_held_to_its_name(lab):
    trust.check(lab.bundle, asked(lab, target="here"))
    assert refusal(lab, target="elsewhere").message == "the bundle was built for here, not for elsewhere"


def test_the_way_out_fits_what_is_wrong(lab):
    (lab.bundle / "verify.py").chmod(0o664)
    assert refusal(lab).fix == f"chmod -R a-xst,u=rwX,go=rX {lab.bundle}"
    wrong = refusal(lab, target="cpu-vnn", ignore_modes=True)
    assert wrong.message == "the bundle was built for here, not for cpu-vnn"
    assert "if 'cpu-vnn' is mistyped: did you mean 'cpu-vnni'? choose one of: " in wrong.fix
    assert refusal(lab, target="rpi4", ignore_modes=True).fix == "take the one for this target"


# ---- what it says


def test_all_is_well(lab):
    done = verify(lab, "bundle", "--key", lab.pub, "--after", "1.0.0", "--target", "here")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line[8:28] for line in lines] == [
        "7 files are those th",
        "signed by release.pu",
        "version 1.1.0 is new",
        "built for here",
        "onnx/model.onnx load",
        "golden vectors: larg",
    ]
    assert {line[:8] for line in lines} == {"ok      "}


def test_without_a_key_it_says_what_that_is_worth(lab):
    done = verify(lab, "bundle", "--after", "1.0.0")
    assert done.returncode == 0
    assert "note    hashes show damage, not malice; bundle.sig is not checked without --key PUB\n" in done.stdout
    assert "note    the version is what the manifest says; only a signature (--key) vouches for it\n" in done.stdout
    lab.sig.unlink()
    assert "note    hashes show damage, not malice; there is no signature either\n" in verify(lab, "bundle").stdout


def test_as_json(lab):
    told = json.loads(verify(lab, "bundle", "--key", lab.pub, "--json").stdout)
    assert told["signed_by"] == [{"name": "release.pub", "key_id": keys.read_public(lab.pub).key_id}]
    assert (told["bundle"], told["name"], told["version"], told["files"]) == ("bundle", "tiny", "1.1.0", 7)
    assert told["golden"].startswith("largest difference 0 to the outputs recorded on ")
    flip(lab.bundle / "onnx/model.onnx")
    done = verify(lab, "bundle", "--key", lab.pub, "--json")
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert set(told) == {"error", "fix", "exit"}
    assert told["exit"] == 1


def test_a_model_without_end_meets_a_limit(lab, monkeypatch):
    monkeypatch.setattr(trust, "_ANSWERS_S", 3.0)
    looping_model(lab.bundle / "onnx/model.onnx", 2 * 10**12)
    relist(lab.bundle)
    checked = trust.check(lab.bundle)
    with pytest.raises(RuntimeCannotLoad, match=r"onnx/model\.onnx does not run here: its child process") as refusal:
        trust.answers(checked)
    assert refusal.value.fix.startswith("look for a loop in the model; take the bundle anew")
    with pytest.raises(RuntimeCannotLoad, match="does not run here"):
        proving.prove(lab.bundle, NullProgress(), Store(lab.root / "store"))
    with pytest.raises(RuntimeCannotLoad, match="does not run here"):
        compare.compare([lab.other, lab.bundle], NullProgress())


def test_wrong_answers_are_no_model_without_end(lab):
    looping_model(lab.bundle / "onnx/model.onnx", 3)
    relist(lab.bundle)
    checked = trust.check(lab.bundle)
    with pytest.raises(BelowAccuracy):
        trust.answers(checked)
    trust.check_ends(checked.folder, checked.manifest)


def test_answers_outside_the_tolerance_are_5(lab):
    with np.load(lab.bundle / "golden/expected.npz") as arrays:
        values = {name: arrays[name] + 1 for name in arrays.files}
    np.savez(lab.bundle / "golden/expected.npz", **values)
    relist(lab.bundle)
    done = verify(lab, "bundle")
    assert done.returncode == 5
    assert "error: golden vectors: largest difference 1 to the outputs" in done.stderr


def test_a_model_that_does_not_load_is_7(lab):
    (lab.bundle / "onnx/model.onnx").write_bytes(b"not a model")
    relist(lab.bundle)
    done = verify(lab, "bundle")
    assert done.returncode == 7
    assert "error: ONNX Runtime cannot run onnx/model.onnx: " in done.stderr


def test_golden_vectors_that_cannot_be_used_are_1(lab):
    (lab.bundle / "golden/golden.json").write_text('{"tolerance": {"x86_64": NaN, "aarch64": NaN, "float32": NaN}}')
    relist(lab.bundle)
    done = verify(lab, "bundle")
    assert done.returncode == 1
    assert "error: the golden vectors cannot be used: nan is no number" in done.stderr.lower()


def test_a_model_that_asks_for_all_memory_meets_a_limit(tmp_path):
    """A graph of one node that makes 64 GiB of zeros."""

    def greedy(path):
        matmul_model(path)

    folder = make_bundle(tmp_path / "bundle", model=greedy)
    shape = helper.make_tensor("shape", 7, [2], [1 << 18, 1 << 16])
    nodes = [
        helper.make_node("Constant", [], ["size"], value=shape),
        helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=1),
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("Add", ["sum", "mean"], ["y"]),
    ]
    save_graph(folder / "onnx/model.onnx", nodes, [1, 1])
    relist(folder)
    done = verify(Lab(tmp_path), "bundle")
    assert done.returncode == 7
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_a_card_formatted_as_fat(lab):
    (lab.bundle / "verify.py").chmod(0o755)
    assert verify(lab, "bundle", "--key", lab.pub).returncode == 1
    assert verify(lab, "bundle", "--key", lab.pub, "--ignore-modes").returncode == 0


def test_a_bundle_of_before_verifies_and_a_later_one_is_named(lab):
    manifest = json.loads((lab.bundle / "manifest.json").read_text())
    del manifest["self_sha256"]
    write_manifest(lab.bundle, manifest | {"schema": 1})
    assert verify(lab, "bundle").returncode == 0
    write_manifest(lab.bundle, manifest | {"schema": 7})
    for command in ("verify", "report", "bench"):
        done = invoke(command, lab.bundle)
        assert done.returncode in (1, 2)
        assert "made by a newer edgekd: its schema is 7" in done.stderr
        assert "fix: install a newer edgekd" in done.stderr or command == "report"
    done = invoke("compare", lab.other, lab.bundle)
    assert "made by a newer edgekd: its schema is 7" in done.stderr
    assert "fix: install a newer edgekd" in done.stderr


# ---- signing a build


def test_signing_again_keeps_what_others_signed(lab):
    before = lab.sig.read_text()
    (stranger,) = keys.open_signers([lab.stranger], str)
    (release,) = keys.open_signers([lab.release], str)
    bundles.sign(lab.bundle, [release])
    assert lab.sig.read_text() == before
    bundles.sign(lab.bundle, [stranger])
    assert [one.key_id for one in signing.read_envelope(lab.sig).signatures] == [release.key_id, stranger.key_id]
    bundles.sign(lab.bundle, [])
    assert trust.check(lab.bundle, asked(lab)).signed_by


@pytest.mark.parametrize("umask", [0, 0o077])
def test_a_signature_has_the_mode_of_a_bundle_s_files(lab, umask):
    lab.sig.unlink()
    before = os.umask(umask)
    try:
        bundles.sign(lab.bundle, keys.open_signers([lab.release], str))
    finally:
        os.umask(before)
    assert lab.sig.stat().st_mode & 0o7777 == 0o644


def test_what_was_altered_since_the_build_is_not_signed(lab):
    """Every hash of the manifest is right, its own too: provenance.json still tells what was built."""
    signers = keys.open_signers([lab.stranger], str)
    (lab.bundle / "config.json").write_text("evil")
    relist(lab.bundle)
    trust.check(lab.bundle)
    lab.sig.unlink()
    with pytest.raises(EdgeKDError, match=r"is not signed: config\.json is not the file that was built") as refused:
        bundles.sign(lab.bundle, signers)
    assert refused.value.fix.startswith("look who changed it, remove the folder, and run the same command again")
    (lab.bundle / "config.json").unlink()
    flip(lab.bundle / "onnx/model.onnx")
    relist(lab.bundle)
    with pytest.raises(EdgeKDError, match=r"onnx/model\.onnx is not the file that was built"):
        bundles.sign(lab.bundle, signers)
    for said in ("{", "{}", '{"subject": [{"name": []}]}', "[]"):
        (lab.bundle / "provenance.json").write_text(said)
        relist(lab.bundle)
        with pytest.raises(EdgeKDError, match=r"its provenance\.json cannot be used"):
            bundles.sign(lab.bundle, signers)
    assert not lab.sig.exists()


@pytest.mark.parametrize("there", ["another", "rubbish", "a folder"])
def test_what_is_not_this_bundle_s_signature_is_never_replaced(lab, there):
    if there == "a folder":
        lab.sig.unlink()
        lab.sig.mkdir()
    else:
        lab.sig.write_text((lab.root / "other.sig").read_text() if there == "another" else "precious")
    before = None if there == "a folder" else lab.sig.read_text()
    signers = keys.open_signers([lab.release], str)
    with pytest.raises(UsageError, match=r"the signature of another bundle|is no signature of a bundle") as refused:
        bundles.sign(lab.bundle, signers)
    assert refused.value.fix == "move it away, or give another --out"
    assert before is None or lab.sig.read_text() == before
    shutil.rmtree(lab.bundle)
    with pytest.raises(UsageError, match=r"bundle\.sig is the signature of another bundle than is to be made"):
        bundles.check_free(lab.bundle)


SIGNING = """
import sys
from pathlib import Path
from edgekd.bundle import write
from edgekd.security import keys
signers = keys.open_signers([Path(sys.argv[2])], str)
sys.stdin.readline()
write.sign(Path(sys.argv[1]), signers)
"""


def test_of_several_who_sign_at_once_each_signature_is_kept(lab):
    lab.sig.unlink()
    ids = {keys.make_key(lab.root / f"signer-{number}").key_id for number in range(4)}
    command = [sys.executable, "-c", SIGNING, str(lab.bundle)]
    signers = [
        subprocess.Popen([*command, str(lab.root / f"signer-{number}")], stdin=subprocess.PIPE, text=True)
        for number in range(4)
    ]
    with turn(lab.bundle):  # until all of them wait for theirs
        for signer in signers:
            signer.stdin.write("\n")
            signer.stdin.close()
        time.sleep(2)
        assert [signer.poll() for signer in signers] == [None] * 4
    assert [signer.wait() for signer in signers] == [0] * 4
    assert {one.key_id for one in signing.read_envelope(lab.sig).signatures} == ids


def test_a_folder_that_no_rename_can_replace_is_refused_before_anything_is_built(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for out in (Path(), tmp_path):
        with pytest.raises(UsageError, match="is the folder that you are in, or where a disk is mounted") as refused:
            bundles.check_free(out)
        assert refused.value.fix == f"give --out a new folder inside it: {out / 'bundle'}"
    disk = tmp_path / "disk"
    disk.mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: path == disk)
    with pytest.raises(UsageError, match="where a disk is mounted"):
        bundles.check_free(disk)
    bundles.check_free(disk / "bundle")


def test_a_folder_of_the_same_disk_that_is_mounted_is_seen(tmp_path, monkeypatch):
    disk = tmp_path / "a disk"
    disk.mkdir()
    listed = f"36 35 98:0 /x {str(disk).replace(' ', chr(92) + '040')} rw - ext4 /dev/sda rw\n".encode()
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: listed if path.name == "mountinfo" else real(path))
    with pytest.raises(UsageError, match="where a disk is mounted"):
        bundles.check_free(disk)
    bundles.check_free(disk / "bundle")


def test_nothing_is_built_into_a_finished_bundle_or_the_store(lab, tmp_path):
    (tmp_path / "link").symlink_to(lab.bundle / "onnx")
    for out in (lab.bundle / "new", lab.bundle / "onnx/new", tmp_path / "link/a/b"):
        with pytest.raises(UsageError, match=f"lies inside the bundle {lab.bundle}, into which") as refused:
            bundles.check_free(out)
        assert refused.value.fix == f"give --out a folder beside it: {lab.bundle}-2"
    (lab.bundle / "onnx/model.onnx").unlink()  # damaged, it is one all the same
    with pytest.raises(UsageError, match="lies inside the bundle"):
        bundles.check_free(lab.bundle / "new")
    (tmp_path / "manifest.json").write_text('{"name": "a web page"}')
    bundles.check_free(tmp_path / "new")
    for out in (tmp_path / "store", tmp_path / "store/teach/new"):
        with pytest.raises(UsageError, match=f"lies inside the store {tmp_path}/store"):
            bundles.check_free(out, store=tmp_path / "store")
    bundles.check_free(tmp_path / "store-2", store=tmp_path / "store")


def test_an_output_that_cannot_be_made_is_told_before_anything_is_built(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "gone").symlink_to("/nonexistent/disk")
    for name, what in (("file", "no folder"), ("gone", "a link that leads nowhere")):
        for out in (tmp_path / name / "sub", tmp_path / name / "a/b"):
            with pytest.raises(UsageError) as refused:
                bundles.check_free(out)
            assert refused.value.message == f"the output {out} cannot be made: {tmp_path / name} is {what}"
            assert refused.value.fix == "give --out a new folder inside another one"


def test_this_plan_s_own_damaged_bundle_is_told_by_its_first_changed_file(lab):
    own = json.loads((lab.bundle / "manifest.json").read_text())["plan_sha256"]
    (lab.bundle / "report.json").write_text("{}")
    (lab.bundle / "verify.py").unlink()
    with pytest.raises(UsageError, match=r"this plan's bundle, .* changed: verify\.py: missing, and 1 more") as told:
        bundles.check_free(lab.bundle, plan_sha256=own)
    assert told.value.fix == "look who changed it, then remove this folder; or give --out a new one"
    for other in ("", "2" * 64):
        with pytest.raises(UsageError, match="is not empty"):
            bundles.check_free(lab.bundle, plan_sha256=other)


@pytest.fixture(scope="module")
def command(tiny_teacher, tiny_data, store, tmp_path_factory):
    """A build of which every stage is kept already."""
    target = loose_target(tmp_path_factory.mktemp("targets"))
    return ["build", "--target", target, "--teacher", tiny_teacher, "--data", tiny_data, *TINY]


def secrets(*paths):
    """What of private keys must be nowhere: their lines in PEM, their bytes, and their bytes as hexadecimal."""
    found = []
    for path in paths:
        body = "".join(path.read_text().splitlines()[1:-1])
        raw = base64.b64decode(body)
        found += [body.encode(), raw[-32:], raw[-32:].hex().encode(), raw]
    return found


def test_a_signed_build_and_no_trace_of_its_keys(tiny_bundle, command, store, tmp_path):
    release, locked = tmp_path / "release.key", tmp_path / "locked.key"
    keys.make_key(release)
    keys.make_key(locked, "correct horse battery")
    out = tmp_path / "out" / "things"
    before = os.umask(0)  # modes are plain whatever it is: the verifier looks at them
    try:
        done = run(
            *command,
            "--out",
            out,
            "--bundle-version",
            "2.0.1",
            "--sign",
            release,
            "--sign",
            locked,
            "--json",
            env={"EDGEKD_PASSPHRASE": "correct horse battery"},
        )
    finally:
        os.umask(before)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    both = [keys.read_public(Path(f"{path}.pub")).key_id for path in (release, locked)]
    assert said["signed_by"] == both
    assert sorted(path.name for path in out.parent.iterdir()) == ["things", "things.sig"]
    assert json.loads((out / "manifest.json").read_text())["version"] == "2.0.1"
    for path in (release, locked):
        arguments = ["--key", f"{path}.pub", "--after", "2.0.0", "--target", "loose"]
        checked = invoke("verify", out, *arguments)
        assert checked.returncode == 0, checked.stderr
    hidden = [b"correct horse battery", *secrets(release, locked)]
    places = [out.parent, store]
    for path in (path for place in places for path in place.rglob("*") if path.is_file()):
        assert not [one for one in hidden if one in path.read_bytes()], path
    shown = (done.stdout + done.stderr).encode()
    assert not [one for one in hidden if one in shown]
    names = "\0".join(str(path) for path in store.rglob("*")).encode()
    assert not [one for one in hidden if one in names]
    # once more: nothing to do, nothing changed
    before = (out.parent / "things.sig").read_bytes()
    again = invoke(*command, "--out", out, "--bundle-version", "2.0.1", "--sign", release)
    assert again.returncode == 0, again.stderr
    assert "already built" in again.stdout
    assert f"signed  {out}.sig, by {both[0][:16]}" in again.stdout
    assert (out.parent / "things.sig").read_bytes() == before


def test_a_build_that_was_killed_before_it_signed_is_signed_by_the_same_command(tiny_bundle, command, tmp_path):
    """What a kill between leaves: the whole bundle, no signature."""
    key, sig = tmp_path / "k", signing.beside(tiny_bundle)
    keys.make_key(key)
    before = {path: path.stat().st_mtime_ns for path in tiny_bundle.rglob("*")}
    done = invoke(*command, "--out", tiny_bundle, "--sign", key)
    try:
        assert done.returncode == 0, done.stderr
        assert "already built" in done.stdout
        assert {path: path.stat().st_mtime_ns for path in tiny_bundle.rglob("*")} == before
        assert trust.check(tiny_bundle, trust.Asked(trust.Trust.of([Path(f"{key}.pub")]))).signed_by
    finally:
        sig.unlink()


def test_what_cannot_be_signed_is_refused_before_anything_is_done(command, tmp_path):
    (tmp_path / "k").write_text("x")
    empty = {"EDGEKD_STORE": str(tmp_path / "store")}
    for key, words in (("k", "is no Ed25519 private key in PEM"), ("none", "cannot read the key")):
        done = invoke(*command, "--out", tmp_path / "out", "--sign", tmp_path / key, env=empty)
        assert done.returncode == 2
        assert words in done.stderr
        assert not (tmp_path / "store").exists()
    keys.make_key(tmp_path / "locked", "correct horse")
    done = invoke(*command, "--sign", tmp_path / "locked", env=empty | {"EDGEKD_PASSPHRASE": "wrong horse"})
    assert done.returncode == 2
    assert "does not open" in done.stderr
    assert "horse" not in done.stdout + done.stderr
    done = invoke(*command, "--bundle-version", "1.0-beta", env=empty)
    assert done.returncode == 2
    assert "--bundle-version '1.0-beta' is no version" in done.stderr


# ---- the documents


def built(line, folder):
    """What `edgekd build` would have made of a line of the page: a tiny bundle of that version and those keys."""
    words = line.split()
    out = folder / words[words.index("--out") + 1]
    made = make_bundle(out, name="rpi4", arch="aarch64", isa=["asimd"])
    relist(made, version=words[words.index("--bundle-version") + 1])
    sign(made, *(folder / words[at + 1] for at, word in enumerate(words) if word == "--sign"))


def test_the_page_s_commands_run_as_they_stand(tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "signing.md").read_text("utf-8")
    lines = (
        "".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL)).replace("/opt/models/", f"{tmp_path}/").splitlines()
    )
    edgekd = f'edgekd() {{ PYTHONPATH={Path(__file__).parents[1]} {sys.executable} -m edgekd "$@"; }}\n'
    assert len(lines) > 8
    for line in lines:
        if line.startswith("edgekd build"):
            built(line, tmp_path)
            continue
        done = subprocess.run(["bash", "-ec", edgekd + line], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (line, done.stderr)
    assert (tmp_path / "questions-rpi4.sig").exists()
    assert "also signed by release.key.pub (" in done.stdout, "the last line: a revoked key beside a good one"


# ---- how long it takes, and where it runs


def large_bundle(folder, megabytes=25):
    """A bundle whose model has weights of so many MB: one more matrix on the way."""

    def model(path):
        width = int((megabytes * 1e6 / 4 / 2) ** 0.5)
        rng = np.random.default_rng(0)
        nodes = [
            helper.make_node("MatMul", ["x", "up"], ["wide"]),
            helper.make_node("MatMul", ["wide", "w"], ["w1"]),
            helper.make_node("MatMul", ["w1", "v"], ["w2"]),
            helper.make_node("ReduceMean", ["w2"], ["mean"], axes=[1], keepdims=0),
            helper.make_node("MatMul", ["mean", "down"], ["y"]),
        ]
        shapes = {"up": (32, width), "w": (width, width), "v": (width, width), "down": (width, 4)}
        weights = {name: rng.normal(0, 1 / shape[0] ** 0.5, shape).astype(np.float32) for name, shape in shapes.items()}
        return save_graph(path, nodes, [1, 4], **weights)

    make_bundle(folder, model=model)
    return folder


@pytest.mark.slow
def test_25_mb_take_less_than_2_s(tmp_path):
    large_bundle(tmp_path / "bundle")
    keys.make_key(tmp_path / "k")
    sign(tmp_path / "bundle", tmp_path / "k")
    seconds = []
    for _ in range(3):
        before = time.perf_counter()
        done = run("verify", tmp_path / "bundle", "--key", tmp_path / "k.pub")
        seconds.append(time.perf_counter() - before)
        assert done.returncode == 0, done.stderr
    assert sum(path.stat().st_size for path in (tmp_path / "bundle").rglob("*") if path.is_file()) > 25e6
    assert min(seconds) < 2


@pytest.mark.emulator
def test_the_verifier_runs_on_arm(emulator, tmp_path):
    from edgekd.core.registry import make

    bundle = make_bundle(tmp_path / "bundle", onboard=True)
    with make("devices", "qemu", cpu="cortex-a53").up() as device:
        done = device.python([str(bundle / "verify.py")])
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert "fp32 model's outputs (aarch64 was not recorded)" in done.stdout.decode()
        flip(bundle / "onnx/model.onnx")
        assert device.python([str(bundle / "verify.py")]).returncode == 1
