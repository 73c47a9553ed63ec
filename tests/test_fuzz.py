"""Foreign files, mutated: every reader gives its result or an EdgeKDError with a way out, and nothing else."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import struct
from pathlib import Path
from random import Random
from typing import Any

import made_up
import numpy as np
import pytest
import yaml
from bert_files import HEADER, INDEX, TEACHER, TOKENIZER, serialized, teacher
from helpers import fast
from hypothesis import given, settings
from hypothesis import strategies as st
from made_bundle import make_bundle
from mutations import damaged, mutated
from tampering import make_lab

from edgekd.core.errors import DataError, EdgeKDError, TeacherError, UsageError
from edgekd.core.receipt import Receipt, ReceiptRefused, parse
from edgekd.core.registry import make
from edgekd.core.seals import is_whole
from edgekd.data import vocabulary
from edgekd.data.arrays import read_idx, read_npz
from edgekd.data.given import read_given
from edgekd.data.images import decode, read_images
from edgekd.data.series import read_series
from edgekd.devices.local import Local
from edgekd.hardware.profile import load_profile, parse_profile, targets_folder
from edgekd.onboard import bench, verify
from edgekd.receipts import files, shipped, trust, validate
from edgekd.report import page
from edgekd.security import keys, signing
from edgekd.store.shards import read_header
from edgekd.store.store import Store

seeds = st.integers(0, 2**32 - 1).map(Random)
REPORT = json.loads(json.dumps(made_up.composed()))
ROWS = [(f"row {number} of many", "ab"[number % 2]) for number in range(6)]


def refusal(kind: type[EdgeKDError], call: Any, *arguments: Any) -> EdgeKDError | None:
    """What it is refused with; whatever is no `kind` passes, and fails the test."""
    try:
        call(*arguments)
    except kind as error:
        refused = error
    else:
        return None
    assert refused.message
    assert refused.fix
    return refused


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return path


# target profiles


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@fast
@given(random=seeds)
def test_profiles(folder, random):
    shipped_profile = (targets_folder() / "rpi4.yaml").read_bytes()
    content = (
        mutated(yaml.safe_load(shipped_profile), random) if random.random() < 0.6 else damaged(shipped_profile, random)
    )
    refusal(UsageError, load_profile, str(write(folder / "target.yaml", content)))


@fast
@given(text=st.text(st.characters(codec="utf-8"), max_size=40))
def test_any_text_is_a_profile_or_refused(folder, text):
    assert refusal(UsageError, load_profile, str(write(folder / "any.yaml", text)))


def test_a_profile_of_aliases_of_aliases_is_refused_in_a_few_words(folder):
    """Nine lines that stand for 9^8 words: they must not be written out into the error."""
    names = ["schema", "name", "title", "soc", "source", "arch", "microarch", "cores", "isa"]
    lines = [f"{names[0]}: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{name}: &a{at} [{', '.join([f'*a{at - 1}'] * 9)}]" for at, name in enumerate(names) if at]
    error = refusal(UsageError, load_profile, str(write(folder / "aliases.yaml", "\n".join(lines))))
    assert "line 1: &a0 is an anchor's name or its alias" in error.message
    assert len(error.message) < 5000


def test_a_profile_of_many_megabytes_is_refused_unread(folder):
    error = refusal(UsageError, load_profile, str(write(folder / "large.yaml", "a: " + "[" * 100_000)))
    assert "more than 65,536 bytes" in error.message


def test_a_profile_survives_being_written_and_read(folder):
    profile = load_profile("rpi4")
    again = load_profile(str(write(folder / "again.yaml", yaml.safe_dump(profile.as_dict()))))
    assert again == profile == parse_profile(profile.as_dict(), where="here")


# receipts


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("fuzzed") / "tiny-here")


@pytest.fixture(scope="module")
def genuine(bundle):
    return bench.receipt(bundle, Local().run, device="local")


def sealed(text: str) -> bytes:
    """With the digest that its content has, where it has one."""
    with contextlib.suppress(AttributeError, ValueError, TypeError, RecursionError):
        said = json.loads(text)
        text = json.dumps(said | {"digest": bench.digest(said)})
    return text.encode("utf-8", "surrogatepass")


@fast
@given(random=seeds)
def test_receipts(bundle, genuine, random):
    kind = random.randrange(3)
    raw = (
        damaged(json.dumps(genuine).encode(), random)
        if kind == 2
        else mutated(genuine, random).encode("utf-8", "surrogatepass")
    )
    raw = sealed(raw.decode("utf-8", "surrogatepass")) if kind == 1 else raw
    error = refusal(ReceiptRefused, files.check, raw, bundle)
    if error is None:
        assert isinstance(parse(raw), Receipt)


def test_a_receipt_of_a_billion_processes_is_refused_by_its_form(bundle, genuine):
    protocol = genuine["protocol"] | {"processes": 2**40}
    error = refusal(ReceiptRefused, files.check, sealed(json.dumps(genuine | {"protocol": protocol})), bundle)
    assert "protocol.processes is 1099511627776" in error.message


@fast
@given(random=seeds)
def test_receipts_beside_a_bundle_are_held_or_refused_with_reasons(bundle, genuine, random):
    write(files.folder(bundle) / "mutated.json", sealed(mutated(genuine, random)))
    held, refused = files.read_all(bundle)
    assert len(held) + len(refused) == 1
    assert all(reasons for _, reasons in refused)


# bundles: their files mutated, the manifest sealed anew over them, as who tampers would


JSON_FILES = ("report.json", "provenance.json", "golden/golden.json", "manifest.json")
ARRAYS = ("golden/expected.npz", "golden/inputs.npz")


@contextlib.contextmanager
def changed(bundle: Path, name: str, random: Random):
    """The bundle with that file mutated."""
    whole = {one: (bundle / one).read_bytes() for one in (name, "manifest.json")}
    if name.endswith(".json") and random.random() < 0.7:
        write(bundle / name, mutated(json.loads(whole[name]), random))
    else:
        write(bundle / name, damaged(whole[name], random))
    if name != "manifest.json":
        manifest = json.loads(whole["manifest.json"])
        raw = (bundle / name).read_bytes()
        for part in ("artifact", "evidence"):
            if name in manifest[part]["files"]:
                manifest[part]["files"][name] = {"size": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
        write(bundle / "manifest.json", json.dumps(manifest))
    try:
        yield
    finally:
        for one, raw in whole.items():
            (bundle / one).write_bytes(raw)


@pytest.mark.parametrize("name", JSON_FILES + ARRAYS)
@fast
@given(random=seeds)
def test_the_bundles_own_check_prints_and_ends_with_a_code(bundle, name, random):
    with changed(bundle, name, random), contextlib.redirect_stdout(io.StringIO()) as said:
        code = verify.main(bundle)
    assert code in (0, 1, 5, 7)
    assert ("FAILED" in said.getvalue()) == (code != 0)


@pytest.mark.parametrize("name", JSON_FILES + ARRAYS)
@fast
@given(random=seeds)
def test_bundles_are_opened_or_refused(bundle, name, random):
    def used():
        opened = shipped.open_bundle(bundle)
        _ = opened.name, opened.model, opened.task, opened.survey, opened.classes, opened.golden()

    with changed(bundle, name, random):
        refusal(EdgeKDError, validate.made, bundle)
        refusal(EdgeKDError, used)
        refusal(EdgeKDError, page.read, bundle)
        refusal(EdgeKDError, files.read_all, bundle)


@settings(fast, max_examples=6)  # a page takes half a second
@given(random=seeds)
def test_reports_are_shown_or_refused(bundle, genuine, random):
    """A whole report, with a receipt beside its bundle, as text and as a page."""
    whole = (bundle / "report.json").read_bytes()
    write(files.folder(bundle) / "mutated.json", sealed(json.dumps(genuine)))
    write(bundle / "report.md", damaged(b"# A report\n\x1b[31min red\n", random))
    write(bundle / "report.json", mutated(REPORT, random))
    try:
        refusal(EdgeKDError, page.write_page, bundle)
        with contextlib.suppress(EdgeKDError):
            assert "\x1b" not in page.text(bundle)
    finally:
        write(bundle / "report.json", whole)
        (bundle / "report.md").unlink()


# keys and signatures


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return make_lab(tmp_path_factory.mktemp("signed") / "lab")


@fast
@given(random=seeds)
def test_envelopes(lab, folder, random):
    """What is not the envelope as it was made is refused: by its form, or as no trusted signature of this bundle."""
    whole, asked = lab.sig.read_bytes(), trust.Asked(trust.Trust.of([lab.pub]))
    content = mutated(json.loads(whole), random) if random.random() < 0.7 else damaged(whole, random).decode("latin-1")
    raw = content.encode("utf-8", "surrogatepass")
    refusal(EdgeKDError, signing.read_envelope, write(folder / "one.sig", raw))
    try:
        lab.sig.write_bytes(raw)
        if refusal(EdgeKDError, trust.check, lab.bundle, asked) is None:
            assert json.loads(raw) == json.loads(whole)
    finally:
        lab.sig.write_bytes(whole)


@fast
@given(random=seeds)
def test_public_keys(lab, folder, random):
    refusal(UsageError, keys.read_public, write(folder / "one.pub", damaged(lab.pub.read_bytes(), random)))


@fast
@given(random=seeds)
def test_private_keys(lab, folder, random):
    path = write(folder / "private", damaged(lab.release.read_bytes(), random))
    path.chmod(0o600)
    refusal(UsageError, keys.open_signer, path, lambda path: "")


# data files


def _table(suffix: str) -> bytes:
    import pyarrow
    import pyarrow.parquet

    rows = [{"text": text, "label": label} for text, label in ROWS]
    if suffix == ".parquet":
        stream = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), stream)
        return stream.getvalue()
    if suffix == ".jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    between = {".csv": ",", ".tsv": "\t"}[suffix]
    return "".join(between.join(row) + "\n" for row in [("text", "label"), *ROWS]).encode()


def _read(task: str, path: Path) -> None:
    read_given(make("tasks", task), str(path), None, classes=None, labelled=True)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
@fast
@given(random=seeds)
def test_tables(folder, suffix, random):
    refusal(DataError, _read, "text-classification", write(folder / f"table{suffix}", damaged(_table(suffix), random)))


@settings(fast, max_examples=8)  # each is read in a process of its own
@given(random=seeds)
def test_parquet(folder, random):
    refusal(DataError, _read, "text-classification", write(folder / "a.parquet", damaged(_table(".parquet"), random)))


@pytest.mark.parametrize(
    ("task", "row"),
    [
        ("text-classification", {"text": "a text", "label": "a"}),
        ("time-series-classification", {"series": [0.5, 1.0] * 5, "label": "a"}),
        ("time-series-classification", {"series": [[0.5, 1.0]] * 10, "label": 1}),
    ],
)
@fast
@given(random=seeds)
def test_json_lines(folder, task, row, random):
    lines = [json.dumps(row), mutated(row, random), json.dumps(row | {"label": "b"})]
    refusal(DataError, _read, task, write(folder / "lines.jsonl", "\n".join(lines)))


def _npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


LABELS = np.arange(6) % 2


@fast
@given(random=seeds)
def test_archives(folder, random):
    pictures = _npz(x_train=np.zeros((6, 4, 4, 3), np.uint8), y_train=LABELS)
    series = _npz(x=np.ones((6, 10, 2), np.float32), y=LABELS)
    refusal(DataError, read_npz, write(folder / "pictures.npz", damaged(pictures, random)))
    refusal(DataError, read_series, str(write(folder / "series.npz", damaged(series, random))))


@fast
@given(random=seeds)
def test_series_of_the_ucr_archive(folder, random):
    lines = "".join(f"{number % 2}\t" + "\t".join(["0.5", "-1e-3"] * 5) + "\n" for number in range(6))
    refusal(DataError, read_series, str(write(folder / "S_TRAIN.tsv", damaged(lines.encode(), random))))


@fast
@given(random=seeds)
def test_idx_files(folder, random):
    pictures = struct.pack(">4I", 0x803, 6, 4, 4) + bytes(96)
    labels = struct.pack(">2I", 0x801, 6) + bytes([0, 1] * 3)
    write(folder / "idx" / "train-images-idx3-ubyte", damaged(pictures, random))
    write(folder / "idx" / "train-labels-idx1-ubyte", damaged(labels, random) if random.random() < 0.5 else labels)
    refusal(DataError, read_idx, folder / "idx")


@pytest.mark.parametrize("form", ["BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"])
@fast
@given(random=seeds)
def test_images(folder, form, random):
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)).save(stream, form)
    for label in "ab":
        write(folder / form / "train" / label / f"whole.{form.lower()}", stream.getvalue())
    write(folder / form / "train" / "b" / f"mutated.{form.lower()}", damaged(stream.getvalue(), random))

    def all_decoded():
        for table in read_images(str(folder / form), store=Store(folder / "images")).values():
            for row in table:
                with contextlib.suppress(ValueError, OSError):  # what its docstring promises
                    decode(row["image"], 3)

    refusal(DataError, all_decoded)


# teachers


def inspect(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = make("teachers", "huggingface").inspect(str(folder), "text-classification")
    return found


def test_the_teacher_that_is_mutated_below_is_a_good_one(folder):
    assert inspect(teacher(folder / "teacher"))["labels"] == ("a", "b")
    assert inspect(teacher(folder / "teacher", **{"model.safetensors.index.json": json.dumps(INDEX)}))["ready"]


@pytest.mark.parametrize("name", [*TEACHER, "model.safetensors.index.json"])
@fast
@given(random=seeds)
def test_a_teachers_papers(folder, name, random):
    whole = INDEX if "index" in name else TEACHER[name]
    content = mutated(whole, random) if random.random() < 0.7 else damaged(json.dumps(whole).encode(), random)
    refusal(TeacherError, inspect, teacher(folder / "teacher", **{name: content}))


@fast
@given(random=seeds)
def test_a_teachers_tokenizer_is_opened_or_refused(folder, random):
    path = write(folder / "tokenizer.json", mutated(TOKENIZER, random))
    refusal(EdgeKDError, vocabulary.survey, path, ["a b c", "d"])


def test_the_tokenizer_that_is_mutated_is_a_good_one(folder):
    path = write(folder / "tokenizer.json", json.dumps(TOKENIZER))
    assert vocabulary.survey(path, ["a b c", "d"])[0] == [4, 2]


@fast
@given(random=seeds)
def test_headers_of_weights(folder, random):
    if random.random() < 0.7:
        header = mutated(HEADER, random).encode("utf-8", "surrogatepass")
        raw = struct.pack("<Q", len(header)) + header + bytes(160)
    else:
        raw = damaged(serialized(HEADER), random) + bytes(160)
    path = teacher(folder / "teacher", **{"model.safetensors": raw}) / "model.safetensors"
    refusal(TeacherError, inspect, path.parent)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, struct.error):  # what its docstring promises
        read_header(path)


# the store


@fast
@given(random=seeds)
def test_seals(folder, random):
    store, made = Store(folder / "store"), []

    def produce(out: Path) -> None:
        made.append(out)
        write(out / "inner" / "result.json", "{}")

    place = store.stage("teach", {"rows": 1}, produce)
    seal = place / ".seal.json"
    raw = seal.read_bytes()
    write(seal, mutated(json.loads(raw), random) if random.random() < 0.7 else damaged(raw, random))
    as_it_was = seal.read_bytes() == raw
    assert store.stage("teach", {"rows": 1}, produce) == place
    assert is_whole(place)
    assert len(made) <= 2
    assert not as_it_was or len(made) <= 1
