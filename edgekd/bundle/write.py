"""Ship: the folder that a device team receives, written aside, proved, and moved into place at once."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.bundle import contents, documents, golden, licences
from edgekd.compression.candidates import graphs_in, recipes_of, variant
from edgekd.compression.choose import FP32
from edgekd.core.digests import file_sha256
from edgekd.core.errors import EdgeKDError, StoreError, UsageError
from edgekd.core.files import storage_error, turn, write_file, writing
from edgekd.core.model import Model
from edgekd.core.outputs import check_above
from edgekd.core.predictions import largest_difference, largest_value, main_output, network_outputs
from edgekd.core.protocols import PackagedTask
from edgekd.core.registry import make
from edgekd.data.splits import Splits
from edgekd.inference.predict import outputs
from edgekd.onboard import RUNNER_FILES, verify
from edgekd.onboard.bench import CHECKS
from edgekd.plan.plan import Plan
from edgekd.report import page
from edgekd.security import signing
from edgekd.security.signing import Signer

if TYPE_CHECKING:
    from edgekd.core.predictions import Prediction
    from edgekd.core.protocols import EcosystemLoader, Task

SCHEMA = 3  # of manifest.json; `onboard/verify.py` reads 1 and 2 as well
_EVIDENCE = ("report.json", "report.md", "report.html", "provenance.json", "sbom.cdx.json", "README.md")
_READ_BY_LOADERS = (  # beside the graph; whatever else a model's folder holds stays there
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "generation_config.json",
    "genai_config.json",
    "chat_template.jinja",
    "modules.json",
    "sentence_bert_config.json",
)
_OF_MODULES = ("[1-9]*_*/config.json", "[1-9]*_*/model.safetensors")  # folders of sentence-transformers
_ONBOARD = {  # of edgekd/onboard: where it lies in a bundle, to be run on the device
    "verify.py": "verify.py",
    "bench.py": "bench/__main__.py",
    **{name: f"bench/{name}" for name in RUNNER_FILES},
}
_PROOF_ROWS = 8
_NAME_BYTES, _PATH_BYTES = 200, 3800  # of 255 and 4096: a signature, receipts and fresh folders have longer names
_REBUILD = "look who changed it, remove the folder, and run the same command again: finished stages are kept"
_UNKNOWN = "0" * 64  # stands for the manifest's own hash while it is taken


def is_finished(out: Path, plan_sha256: str) -> bool:
    """Whether `out` holds the bundle of this very plan, every file whole."""
    try:
        return bool(verify.check_files(out, ignore_modes=True)["plan_sha256"] == plan_sha256)
    except verify.Failed:
        return False


def check_free(out: Path, *, plan_sha256: str = "", store: Path | None = None) -> None:
    """Nothing is ever overwritten: raises UsageError where `out` holds anything, or a signature lies beside.

    Nor is anything added to a finished bundle or to the store. Raises StoreError where nothing can be written there.
    """
    _check_name(out)
    check_above(out, store)
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UsageError(f"the output {out} is not a folder", fix="give --out a new or an empty folder")
    if out.is_dir() and (os.path.samefile(out, ".") or _is_mount(out)):  # no rename can take their place
        raise UsageError(
            f"the output {out} is the folder that you are in, or where a disk is mounted",
            fix=f"give --out a new folder inside it: {out / 'bundle'}",
        )
    if out.is_dir() and any(out.iterdir()):
        _tell_damaged(out, plan_sha256)
        raise UsageError(
            f"the output folder {out} is not empty", fix="give --out a new or an empty folder, or remove this one first"
        )
    if os.path.lexists(signing.beside(out)):
        raise UsageError(
            f"{signing.beside(out)} is the signature of another bundle than is to be made",
            fix="move it away, or give another --out",
        )
    there = next(path for path in Path(os.path.abspath(out)).parents if os.path.exists(path))
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:  # found now, not after the whole build
        why = "no file can be made in it" if error.errno == errno.ENOENT else error.strerror  # as in /proc
        raise storage_error(OSError(error.errno, why), there) from error


def _check_name(out: Path) -> None:
    """Raises UsageError where the names of `out` leave no room for those beside and inside it, or are no text."""
    place = Path(os.path.abspath(out))
    try:
        str(place).encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"the output {place.name!a} has a name that is no UTF-8",
            fix="give --out a folder with a path in UTF-8",
        ) from error
    longest = max(len(part.encode()) for part in place.parts)
    if longest > _NAME_BYTES or len(str(place).encode()) > _PATH_BYTES:
        raise UsageError(
            f"the output has {longest} bytes in one name and {len(str(place).encode())} in all; at most {_NAME_BYTES} "
            f"and {_PATH_BYTES} leave room for what is written beside and inside it",
            fix="give --out a folder with a shorter path",
        )


def _is_mount(folder: Path) -> bool:
    """Whether a disk is mounted there, or a folder of the same disk, which `ismount` does not see."""
    if os.path.ismount(folder):
        return True
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:  # not Linux
        return False
    places = (re.sub(rb"\\(\d{3})", lambda found: bytes([int(found[1], 8)]), line.split(b" ")[4]) for line in lines)
    return os.fsencode(os.path.realpath(folder)) in places


def _tell_damaged(out: Path, plan_sha256: str) -> None:
    """Raises UsageError where `out` holds the bundle of this very plan, and not every file whole."""
    try:
        manifest = verify.read_manifest(out)
        problems = verify.changed_files(out, manifest) if manifest["plan_sha256"] == plan_sha256 else []
    except (OSError, ValueError):  # a damaged manifest names no plan
        return
    if problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise UsageError(
            f"the output folder {out} holds this plan's bundle, but it was changed: {problems[0]}{more}",
            fix="look who changed it, then remove this folder; or give --out a new one",
        )


def sign(out: Path, signers: Sequence[Signer]) -> None:
    """Sign a finished bundle; signatures of other keys, if they are of this very manifest, are kept.

    Raises UsageError where what lies at the signature's place is anything else, StoreError where it cannot be written.
    """
    if signers:
        with turn(out):  # two who sign at once would each keep the signatures that were there before both
            _sign(out, signers)


def _sign(out: Path, signers: Sequence[Signer]) -> None:
    _check_subject(out)
    place, away = signing.beside(out), "move it away, or give another --out"
    before = signing.Envelope(verify.read_small(out / "manifest.json"), ())
    if os.path.lexists(place):
        try:
            there = signing.read_envelope(place)
        except EdgeKDError as error:
            raise UsageError(error.message, fix=away) from error
        if there.payload != before.payload:
            raise UsageError(f"{place} is the signature of another bundle", fix=away)
        before = there
    made = before.signed(signers)
    if made != before:
        write_file(place, made.text(), mode=0o644)


def _check_subject(out: Path) -> None:
    """Raises EdgeKDError where a file is not the one that provenance.json tells of: it was altered since.

    The artifact's files are its subject, the reports and the other documents are its byproducts.
    """
    try:
        manifest = verify.read_manifest(out)
        files = {**manifest["artifact"]["files"], **manifest["evidence"]["files"]}
        files.pop(contents.PROVENANCE, None)  # which cannot hold its own hash
        said = json.loads(verify.read_small(out / contents.PROVENANCE, verify.LARGEST_PAPER))
        beside = said["predicate"]["runDetails"]["byproducts"] if "predicate" in said else []
        told = [*said["subject"], *(one for one in beside if one["name"] != CHECKS)]
        subject = {one["name"]: one["digest"]["sha256"] for one in told}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise EdgeKDError(
            f"{out} is not signed: it does not tell what was built, its provenance.json cannot be used", fix=_REBUILD
        ) from error
    other = {name for name in {*files, *subject} if name not in files or files[name]["sha256"] != subject.get(name)}
    if other:
        raise EdgeKDError(
            f"{out} is not signed: {verify.shown(min(other))} is not the file that was built, by provenance.json",
            fix=_REBUILD,
        )


def check_space(folders: list[Path], needed_mib: int) -> None:
    """Raises StoreError where a folder's disk has less free than a build may take."""
    for folder in folders:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        free_mib = shutil.disk_usage(there).free >> 20
        if free_mib < needed_mib:
            raise StoreError(
                f"no space: {folder} has {free_mib} MiB free, a build of this teacher may take {needed_mib} MiB",
                fix="free some space, or point $EDGEKD_STORE and --out to a larger disk",
            )


def write(
    plan: Plan,
    splits: Splits,
    said: dict[str, Any],
    folder: Path,
    variants: Path,
    name: str,
    out: Path,
    *,
    golden_there: Path | None = None,
) -> None:
    """Write the bundle of the variant of that name to `out`; `folder` has its tokenizer or preprocessing.

    `golden_there` has what the target's own kernels answered to the golden inputs.

    Raises EdgeKDError where it does not open as it should.
    """
    check_free(out)
    try:
        with writing(out) as fresh:
            _artifact(plan, splits, folder, variants, name, golden_there, fresh)
            proof = _proof(plan, splits, fresh, folder, variant(variants, name, plan.made_task))
            page.write(said, fresh)
            _evidence(plan, said, proof, fresh)
            _manifest(plan, said, fresh)
            _plain_modes(fresh)
            verify.check_files(fresh)
    except verify.Failed as error:
        raise EdgeKDError(f"the bundle does not verify: {error}", fix="run the same command again") from error
    except OSError as error:
        raise storage_error(error, out) from error


def _artifact(
    plan: Plan, splits: Splits, folder: Path, variants: Path, name: str, golden_there: Path | None, fresh: Path
) -> None:
    for path in sorted(folder.iterdir()):
        if path.is_file() and any(path.match(pattern) for pattern in _READ_BY_LOADERS):
            shutil.copyfile(path, fresh / path.name)
    for path in sorted(path for pattern in _OF_MODULES for path in folder.glob(pattern)):
        (fresh / path.parent.name).mkdir(exist_ok=True)
        shutil.copyfile(path, fresh / path.parent.name / path.name)
    (fresh / "onnx").mkdir()
    model = variant(variants, name, plan.made_task).copied(fresh / "onnx")
    task = plan.made_task
    if isinstance(task, PackagedTask):
        task.package(fresh, model)
    onboard = Path(verify.__file__).parent
    for file, inside in _ONBOARD.items():
        (fresh / inside).parent.mkdir(exist_ok=True)
        shutil.copyfile(onboard / file, fresh / inside)
    plain = variant(variants, FP32, plan.made_task)
    golden.write(plan, golden.inputs(plan, splits, folder), model, plain, golden_there, fresh / "golden")
    licences.write(plan, fresh)


def _proof(plan: Plan, splits: Splits, fresh: Path, folder: Path, model: Model) -> dict[str, Any]:
    """Open the folder as optimum does, where it knows the task, and hold its outputs against the measured model's."""
    optimum = make("exporters", "optimum")
    if not optimum.opens(plan.task):
        return {"optimum": f"has no loader for {plan.task}; onnxruntime opens it (golden vectors)"}
    inputs = [row.input for row in splits.known[:_PROOF_ROWS]]
    task = plan.made_task
    if len(model.graphs) > 1:
        return _generated(optimum, fresh, model, task, inputs, plan)
    loader, opened = optimum.open(fresh, model.file.name, task.ordinary(fresh, inputs), task=plan.task)
    samples = task.encode(folder, inputs, plan.student.survey.max_size)
    ours = outputs(model, samples, threads=1, keep=optimum.proves(plan.task))
    return {"optimum": f"{loader} opens it; {_held_to(opened, ours)}"}


def _held_to(opened: Sequence[Prediction], ours: Sequence[Prediction]) -> str:
    """Return how far a loader's outputs are from ours, in words. Raises EdgeKDError where that is too far.

    Kernels may round differently at another thread count: values by a twentieth of the largest, and of one in eight
    texts that are written the choice between two tokens that are as likely.
    """
    names = all(values.dtype.kind in "biu" for row in ours for values in row.values())
    if names:
        apart = sum(largest_difference([one], [own]) > 0 for one, own in zip(opened, ours, strict=True))
        words, well = f"{len(ours) - apart} of {len(ours)} outputs are the same", 8 * apart <= len(ours)
    else:
        difference = largest_difference(opened, ours)
        words, well = f"largest difference {difference:.2g}", difference <= 0.05 * largest_value(ours)
    if not well:
        raise EdgeKDError(
            f"the bundle says something else in optimum: {words}",
            fix="this is a fault of edgekd: please report it with the command you ran",
        )
    return words


def _generated(
    optimum: EcosystemLoader, fresh: Path, model: Model, task: Task, inputs: Sequence[Any], plan: Plan
) -> dict[str, Any]:
    """Let the loader generate tokens of a few inputs, and count how often they are the program's own."""
    loader, opened = optimum.generate(fresh, task.ordinary(fresh, inputs), task=plan.task)
    samples = task.encode(fresh, inputs, plan.student.survey.max_size)
    main = main_output(task.keep)
    ours = [row[main].tolist() for row in outputs(model, samples, threads=1, keep=network_outputs(task))]
    same = sum(own == other for own, other in zip(ours, opened, strict=True))
    return {"optimum": f"{loader} opens it; the same {main} of {same} of {len(ours)} inputs"}


def _evidence(plan: Plan, said: dict[str, Any], proof: dict[str, Any], fresh: Path) -> None:
    documents.write(contents.read(plan, said, proof, fresh, set(_EVIDENCE)))


def _manifest(plan: Plan, said: dict[str, Any], fresh: Path) -> None:
    model = graphs_in(fresh / "onnx", said["choice"]["recipe"], plan.made_task)
    opset, ir_version = _least(model)
    files = {path.relative_to(fresh).as_posix(): path for path in sorted(fresh.rglob("*")) if path.is_file()}
    listed = {name: {"size": path.stat().st_size, "sha256": file_sha256(path)} for name, path in files.items()}
    manifest = {
        "schema": SCHEMA,
        "self_sha256": _UNKNOWN,
        "name": plan.name,
        "version": plan.version,
        "task": plan.task,
        "fidelity": plan.made_task.fidelity.name,
        "model": _named(model, plan, said["choice"]["recipe"]),
        "recipe": said["choice"]["recipe"],
        "compatible": [plan.target.name],
        "min": {
            "ort_version": plan.target.ort_version,
            "opset": opset,
            "ir_version": ir_version,
            "arch": plan.target.arch,
            "isa": plan.target.isa,
        },
        "plan_sha256": plan.digest,
        "artifact": {"files": {name: entry for name, entry in listed.items() if name not in _EVIDENCE}},
        "evidence": {"files": {name: entry for name, entry in listed.items() if name in _EVIDENCE}},
    }
    raw = (json.dumps(manifest, indent=1) + "\n").encode()
    own = sha256(raw).hexdigest()
    (fresh / "manifest.json").write_bytes(raw.replace(_UNKNOWN.encode(), own.encode(), 1))


def _named(model: Model, plan: Plan, recipe: str) -> dict[str, Any]:
    """Return the model as the manifest names it: program, graphs with what was made of each, outputs and their rule."""
    task, recipes = plan.made_task, recipes_of(model, recipe)
    graphs = {name: {"file": f"onnx/{file.name}", "recipe": recipes[name]} for name, file in model.graphs.items()}
    return {"program": model.program, "graphs": graphs, "outputs": dict(task.keep)}


def _least(model: Model) -> tuple[int, int]:
    """Return the opset and the IR version that a runtime must know at least."""
    import onnx

    graphs = [onnx.load(file, load_external_data=False) for file in model.graphs.values()]
    opsets = [entry.version for graph in graphs for entry in graph.opset_import if entry.domain in ("", "ai.onnx")]
    return max(opsets), max(graph.ir_version for graph in graphs)


def _plain_modes(fresh: Path) -> None:
    """Whatever the umask and the modes of what was copied are, a bundle's are the same everywhere."""
    for path in (fresh, *fresh.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
