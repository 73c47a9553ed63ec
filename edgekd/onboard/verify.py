"""Checks this bundle where it lies: every file, that the model loads, that it answers as it did when made.

    python verify.py                    needs numpy and onnxruntime alone; no key, no network
    python verify.py --ignore-modes     on a card formatted as FAT, which keeps no permissions
    python verify.py CLIP.wav           of a bundle for speech: checks the files, then prints what was said

Exit code 0: all is well; 1: this is not what was shipped; 7: ONNX Runtime cannot load the model; 5: the outputs are
outside the tolerances in golden/golden.json; 2: there is no such option, or the recording cannot be used.

Hashes show damage, not malice: who can change a file can change its hash in manifest.json, and this script as well.
Only a signature shows who made the bundle: `edgekd verify BUNDLE --key PUB`, with a key that came by another way.
"""

import os
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
if __name__ == "__main__":  # a stray json.py in this folder would be imported before the walk finds it
    sys.path = [place for place in sys.path if os.path.realpath(place) != HERE]

import hashlib  # noqa: E402
import json  # noqa: E402
import math  # noqa: E402
import platform  # noqa: E402
import re  # noqa: E402
import stat  # noqa: E402
import unicodedata  # noqa: E402
import zipfile  # noqa: E402
import zlib  # noqa: E402
from pathlib import Path, PurePosixPath  # noqa: E402

SCHEMAS = (1, 2, 3)  # of manifest.json, that this script reads; 2 has self_sha256, 3 names a model's graphs
LARGEST_JSON = 4 << 20  # bytes
LARGEST_PAPER = 64 << 20  # bytes of report.json and the like
LARGEST_BUNDLE = 16 << 30  # bytes of all files that a manifest lists
LARGEST_ARRAYS = 256 << 20  # bytes of all arrays of an .npz
MOST_FILES, MOST_STEPS = 4096, 16  # that a manifest lists, and folders above one of them
MOST_ARRAYS = 65_536  # in an .npz
MOST_GRAPHS, MOST_OUTPUTS = 16, 64  # of a model
PROGRAMS = ("forward", "causal", "recurrent", "seq2seq")  # that run a model's graphs: files beside bench/runner.py
RULES = ("as_is", "mean", "words")  # of what is kept of an output
DATA = "_data"  # follows the name of a graph's file: its external data
BROKEN_ZIP = (zipfile.BadZipFile, zlib.error)
MOST_SHOWN = 20  # problems
KINDS = {
    "name": str,
    "version": str,
    "task": str,
    "recipe": str,
    "model": str,
    "plan_sha256": str,
    "compatible": list,
    "min": dict,
    "artifact": dict,
    "evidence": dict,
}
NEWER = "install a newer edgekd"
PLAIN_MODES = "chmod -R a-xst,u=rwX,go=rX"
USAGE = "usage: python verify.py [--ignore-modes] [CLIP.wav]"
NOTE = "note    hashes show damage, not malice: `edgekd verify --key PUB` tells who signed this bundle"


class Newer(ValueError):
    """A manifest of a later schema than this script knows, or of a program that it does not have."""


# ---- manifest.json: whatever it holds, the answer is a dict of the right kinds or a ValueError in words
POINTER = b"version https://git-lfs.github.com/spec/"  # as a file of Git LFS begins that was not fetched


def shown(text):
    """A stranger's text as it may go to a terminal: no control characters, not endless."""
    text = text if text.isascii() and text.isprintable() else ascii(text)
    return text if len(text) <= 200 else text[:200] + "..."


def read_json(raw):
    """A JSON value. Raises ValueError for what two readers could take in two ways, absurd numbers and depths."""

    def unique(pairs):
        values = dict(pairs)
        if len(values) != len(pairs):
            raise ValueError("a key stands in it twice")
        return values

    def whole(digits):
        if len(digits) > 18:
            raise ValueError(f"a number of {len(digits)} digits")
        return int(digits)

    def finite(text):
        if not math.isfinite(float(text)):
            raise ValueError(f"{shown(text)} is no number")
        return float(text)

    try:
        return json.loads(
            raw.decode("utf-8"), object_pairs_hook=unique, parse_int=whole, parse_float=finite, parse_constant=finite
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_small(path, most=LARGEST_JSON):
    """The bytes of a file that is no link, device or giant, more than `most` bytes. Raises OSError, ValueError."""
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path.name} is a link, folder or device, not a file")
    if found.st_size > most:
        raise ValueError(f"{path.name} has {found.st_size} bytes, more than {most}")
    with open_file(path) as file:
        return file.read(most)


def open_file(path):
    """A plain file for reading. Raises OSError; ValueError for a pipe or device, which is never waited for."""
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError(f"{path.name} is a link, folder or device, not a file")
    return file


def read_manifest(folder, raw=None):
    """What manifest.json says: every key that is needed, of its kind. Raises OSError, ValueError; Newer by name.

    `raw` are its bytes where they were read before, as a signature is held against them.
    """
    raw = read_small(folder / "manifest.json") if raw is None else raw
    manifest = read_json(raw)
    if not isinstance(manifest, dict):
        raise ValueError("it is no JSON object")
    schema = manifest.get("schema")
    if type(schema) is int and schema > SCHEMAS[-1]:
        raise Newer(f"it was made by a newer edgekd: its schema is {schema}, {SCHEMAS[-1]} is the newest known here")
    if type(schema) is not int or schema not in SCHEMAS:
        raise ValueError(f"its schema is none of {SCHEMAS}")
    if schema > 1:
        check_own_hash(raw, manifest.get("self_sha256"))
    for key, kind in (KINDS | ({"model": dict} if schema > 2 else {})).items():
        value = manifest.get(key)
        if not isinstance(value, kind) or (kind is str and not is_plain(value)):
            raise ValueError(f"its {key} is missing, or no plain {kind.__name__}")
    if not manifest["compatible"] or not all(map(is_plain, manifest["compatible"])):
        raise ValueError("its compatible is no list of targets")
    if not is_plain(manifest["min"].get("ort_version")):
        raise ValueError("its min has no ort_version")
    check_list(manifest)
    check_model(manifest)
    return manifest


def check_own_hash(raw, own):
    """Raises ValueError where the manifest's bytes, with its own hash as zeros, have another hash than that."""
    digits = own.encode() if is_hash(own) else b""
    if not digits or raw.count(digits) != 1:
        raise ValueError("its self_sha256 is missing")
    if hashlib.sha256(raw.replace(digits, b"0" * 64)).hexdigest() != own:
        raise ValueError("its content was changed: self_sha256 is another")


def check_list(manifest):
    """Raises ValueError where the list of files could mean anything but plain files of this folder, each once."""
    spelled = {}
    check_amount(manifest)
    for part in ("artifact", "evidence"):
        files = manifest[part]["files"]
        for name, entry in files.items():
            if not is_plain(name) or "\\" in name or any(step in ("", ".", "..") for step in name.split("/")):
                raise ValueError(f"it lists {shown(name)}, which is no plain path inside the bundle")
            if not isinstance(entry, dict) or not is_hash(entry.get("sha256")) or type(entry.get("size")) is not int:
                raise ValueError(f"its entry for {shown(name)} is no size and SHA-256")
            for path in (name, *folders_of([name])):  # FAT and many other cards take A and a for the same
                if spelled.setdefault(unicodedata.normalize("NFC", path).casefold(), path) != path:
                    raise ValueError(f"it lists {shown(path)} in two spellings")
    names = [*manifest["artifact"]["files"], *manifest["evidence"]["files"], "manifest.json"]
    if len(set(names)) < len(names):
        raise ValueError("it lists a file in both parts, or itself")
    if both := folders_of(names) & set(names):
        raise ValueError(f"it lists {shown(min(both))} as a file and as a folder")


def model_of(manifest):
    """The model of a manifest of any schema: its `program`, its `graphs` (`file`, `recipe`) and what `outputs` keep.

    Before schema 3 there was one graph, and no output was named: `mean` alone is the first one's over its positions.
    """
    model = manifest["model"]
    if isinstance(model, dict):
        return model
    graphs = {"model": {"file": model, "recipe": manifest["recipe"]}}
    return {"program": "forward", "graphs": graphs, "outputs": "mean"}


def check_model(manifest):
    """Raises ValueError where it names no model of this bundle; Newer for a program or a rule that is not known."""
    model = manifest["model"]
    if isinstance(model, str):
        check_graph_files(manifest, [model])
        return
    graphs, outputs = model.get("graphs"), model.get("outputs")
    if not isinstance(graphs, dict) or not isinstance(outputs, dict) or not is_plain(model.get("program")):
        raise ValueError("its model is no program with graphs and outputs")
    if not 0 < len(graphs) <= MOST_GRAPHS or not 0 < len(outputs) <= MOST_OUTPUTS:
        has = f"{len(graphs)} graphs and {len(outputs)} outputs"
        raise ValueError(f"its model has {has}; at most {MOST_GRAPHS} and {MOST_OUTPUTS} are read, and one of each")
    if model["program"].partition(":")[0] not in PROGRAMS:
        raise Newer(f"it was made by a newer edgekd: its program {shown(model['program'])} is not known here")
    for name, graph in graphs.items():
        told = isinstance(graph, dict) and is_plain(graph.get("file")) and is_plain(graph.get("recipe"))
        if re.fullmatch(r"\w{1,64}", name, re.ASCII) is None or not told:
            raise ValueError(f"its graph {shown(name)} is no name with a file and a recipe")
    check_graph_files(manifest, [graph["file"] for graph in graphs.values()])
    for name, rule in outputs.items():
        if not is_plain(name) or not isinstance(rule, str):
            raise ValueError(f"its output {shown(name)} is no name with a rule")
        if rule not in RULES:
            raise Newer(f"it was made by a newer edgekd: what it keeps of {shown(name)} is not known here")


def check_graph_files(manifest, files):
    """Raises ValueError where a graph's file, or its external data, is none of the artifact's, or another graph's."""
    for file in files:
        if file not in manifest["artifact"]["files"]:
            raise ValueError(f"it names no model of this bundle: {shown(file)} is none of the artifact's files")
        if file + DATA in manifest["evidence"]["files"]:
            raise ValueError(f"it lists the weights {shown(file + DATA)} as evidence")
    if len({*files, *(file + DATA for file in files)}) < 2 * len(files):
        raise ValueError("it names one file for two graphs")


def model_files(manifest):
    """The names of a model's files: each graph's and, where it is listed, that of its external data."""
    files = [graph["file"] for graph in model_of(manifest)["graphs"].values()]
    return [name for file in files for name in (file, file + DATA) if name in manifest["artifact"]["files"]]


def model_name(manifest):
    """A model's graphs by their files, for a reader and for receipts: at most 500 characters."""
    return ", ".join(graph["file"] for graph in model_of(manifest)["graphs"].values())[:500]


def model_sha256(manifest):
    """One SHA-256 over a model's files, as the manifest lists them: of a single file its own."""
    listed, names = manifest["artifact"]["files"], model_files(manifest)
    if len(names) == 1:
        return listed[names[0]]["sha256"]
    lines = "".join(f"{listed[name]['sha256']}  {name}\n" for name in names)
    return hashlib.sha256(lines.encode()).hexdigest()


def model_job(folder, manifest):
    """What names the model of the bundle in `folder` in a runner's job: `model`, and a `program` other than forward."""
    model = model_of(manifest)
    paths = {name: str(folder / graph["file"]) for name, graph in model["graphs"].items()}
    named = {"model": paths["model"] if list(paths) == ["model"] else paths}
    return named if model["program"] == "forward" else {**named, "program": model["program"]}


def check_amount(manifest):
    """Raises ValueError where the list has more files, deeper ones or more bytes than are read in reasonable time."""
    total = count = 0
    for part in ("artifact", "evidence"):
        files = manifest[part].get("files")
        if not isinstance(files, dict):
            raise ValueError(f"its {part} has no files")
        count += len(files)
        if count > MOST_FILES:
            raise ValueError(f"it lists more than {MOST_FILES} files")
        if deep := next((name for name in files if name.count("/") > MOST_STEPS), None):
            raise ValueError(f"it lists {shown(deep)}, which lies more than {MOST_STEPS} folders deep")
        sizes = [entry.get("size") for entry in files.values() if isinstance(entry, dict)]
        if any(type(size) is not int or size < 0 for size in sizes):
            raise ValueError("it lists an entry that is no size and SHA-256")
        total += sum(sizes)
    if total > LARGEST_BUNDLE:
        raise ValueError(f"it lists files of {total} bytes, more than {LARGEST_BUNDLE} in all")


def is_plain(text):
    """Whether it is text of one line, such as may stand in a report or be a file's name."""
    return isinstance(text, str) and text.isprintable() and 0 < len(text) <= 255


def is_hash(text):
    """Whether it is a SHA-256 as 64 hexadecimal digits."""
    return isinstance(text, str) and re.fullmatch("[0-9a-f]{64}", text) is not None


# ---- the files: nothing is opened that the walk did not see as a plain file


def folders_of(names):
    """Every folder that files of these names lie in."""
    return {str(parent) for name in names for parent in PurePosixPath(name).parents} - {"."}


def walk(folder, inside, most):
    """Every entry of the folder and of the folders `inside` it, links not followed: name to os.lstat.

    It ends as soon as there are more than `most`.
    """
    found = {}
    for place in ("", *sorted(inside)):  # a folder comes before those in it
        if place and (place not in found or not stat.S_ISDIR(found[place].st_mode)):
            continue
        with os.scandir(folder / place) as entries:
            for one in entries:
                found[f"{place}/{one.name}" if place else one.name] = os.lstat(one.path)
                if len(found) > most:
                    return found
    return found


def changed_files(folder, manifest):
    """What differs from the manifest, in words: files changed, missing or added, links, devices, folders of nothing.

    A hard link is a file: its content is what counts. Raises OSError where the folder cannot be read.
    """
    listed = {**manifest["artifact"]["files"], **manifest["evidence"]["files"]}
    folders = folders_of(listed)
    most = len(listed) + len(folders) + MOST_FILES
    present = walk(folder, folders, most)
    if len(present) > most:
        return [f"more than {most} files and folders: {len(listed) + 1} files are part of the bundle"]
    problems = [f"{shown(name)}: missing" for name in sorted({*listed, "manifest.json"} - set(present))]
    for name in sorted(set(present) - {*listed, *folders, "manifest.json"}):
        slash = "/" if stat.S_ISDIR(present[name].st_mode) else ""
        problems.append(f"{shown(name)}{slash}: not part of the bundle")
    for name in sorted(set(present) & {*listed, *folders, "manifest.json"}):
        mode, entry = present[name].st_mode, listed.get(name)
        if name in folders and stat.S_ISDIR(mode):
            continue
        if name in folders or not stat.S_ISREG(mode):
            problems.append(f"{shown(name)}: a link, folder or device in place of what was shipped")
        elif entry and present[name].st_size != entry["size"]:
            why = ", a pointer of Git LFS: run `git lfs pull`" if is_pointer(folder / name) else ""
            problems.append(f"{shown(name)}: {present[name].st_size} bytes, not {entry['size']}{why}")
        elif entry and sha256_of(folder / name) != entry["sha256"]:
            problems.append(f"{shown(name)}: its content was changed")
    return problems


def is_pointer(path):
    """Whether a repository that was cloned without Git LFS holds a few lines in the place of this file."""
    with open_file(path) as file:
        return file.read(len(POINTER)) == POINTER


def sha256_of(path):
    """SHA-256 of a file, read in blocks: a small board has little memory."""
    hasher = hashlib.sha256()
    with open_file(path) as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            hasher.update(block)
    return hasher.hexdigest()


def odd_modes(folder):
    """Permissions beyond 0644 of files and 0755 of folders, in words. For a folder without `changed_files`."""
    problems, folder = [], os.path.realpath(folder)  # a link to a bundle has modes of its own, which say nothing
    for place, _, names in os.walk(folder) if os.name == "posix" else ():
        for path, most in [(place, 0o755), *((os.path.join(place, name), 0o644) for name in sorted(names))]:
            mode = stat.S_IMODE(os.lstat(path).st_mode)
            if mode & ~most:
                problems.append(f"{os.path.relpath(path, folder)}: mode {mode:04o}, more than {most:04o}")
    return problems


# ---- the golden vectors


def read_arrays(path, largest=LARGEST_ARRAYS):
    """The arrays of an .npz by name. Raises OSError, and ValueError for whatever is no .npz of numbers.

    That is one of objects, one that is damaged or encrypted, and one whose arrays claim more than their file holds.
    """
    with open_file(path) as stream:
        try:
            return arrays_of(stream, largest)
        except (ImportError, ValueError):
            raise
        except Exception as error:  # numpy and zipfile raise a dozen unrelated kinds
            raise ValueError(
                f"{path.name} is no .npz of numbers: {shown(str(error) or type(error).__name__)}"
            ) from error


def arrays_of(stream, largest):
    """The same of an open file. Raises whatever numpy and zipfile raise."""
    import numpy as np

    most, total = min(os.fstat(stream.fileno()).st_size, largest), 0
    with zipfile.ZipFile(stream) as archive:
        members = archive.infolist()
        if len(members) > MOST_ARRAYS:
            raise ValueError(f"it holds {len(members)} arrays, more than {MOST_ARRAYS}")
        for member in members:
            total += member.file_size  # of all together: members may share one place in the file
            if total > most:
                raise ValueError(f"its arrays have more than {most} bytes in all")
            with archive.open(member) as file:
                check_array(file, member)
    stream.seek(0)
    with np.load(stream, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def check_array(file, member):
    """Raises ValueError where a member's header is not that of numbers of just its size."""
    import numpy as np

    first = np.lib.format.read_magic(file)[0] == 1
    read_header = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
    shape, _, kind = read_header(file)
    size = file.tell() + kind.itemsize * math.prod(shape)
    if kind.kind not in "biuf" or size != member.file_size:
        raise ValueError(f"{shown(member.filename)} is no plain array of numbers")


def read_inputs(folder):
    """The golden inputs, row by row, each by the model's names. Raises whatever numpy and zipfile raise."""
    rows = {}
    for key, values in read_arrays(folder / "golden" / "inputs.npz").items():
        row, _, name = key.partition(".")
        rows.setdefault(int(row), {})[name] = values
    return [rows[row] for row in range(len(rows))]


def read_golden(folder):
    """What the answers are held to: on which ISA recorded, outputs by input, tolerances by output. Raises ValueError.

    Outputs are `{row: {name: array}}`. A bundle of schema 1 or 2 has one output, whose name it does not say: "".
    """
    try:
        count = len(read_inputs(folder))
        expected = read_expected(read_arrays(folder / "golden" / "expected.npz"))
        limits = read_json(read_small(folder / "golden" / "golden.json"))["tolerance"]
        isa = platform.machine() if platform.machine() in expected else "float32"
        reference, limit = expected[isa], limits[isa]
        if "" in next(iter(reference.values()), ()):
            limit = {"": limit}
    except Exception as error:  # numpy and zipfile raise a dozen unrelated kinds
        lacks = "they lack " if isinstance(error, KeyError) else ""
        raise ValueError(f"the golden vectors cannot be used: {lacks}{shown(str(error))}") from error
    check_reference(reference, limit, count)
    return isa, reference, limit


def read_expected(arrays):
    """The answers in expected.npz by ISA, input and output. Raises ValueError where a key is no ISA.ROW.NAME.

    Schemas 1 and 2 have one array an ISA, (rows, width): the one output's, which has no name there.
    """
    if not any("." in key for key in arrays):
        return {isa: {row: {"": values} for row, values in enumerate(rows)} for isa, rows in arrays.items()}
    found = {}
    for key, values in arrays.items():
        isa, row, name = [*key.split(".", 2), "", ""][:3]
        if not (isa and is_plain(name) and row.isdecimal() and row.isascii() and str(int(row)) == row):
            raise ValueError(f"{shown(key)} is no answer to an input")
        found.setdefault(isa, {}).setdefault(int(row), {})[name] = values
    return found


def check_reference(reference, limits, count):
    """Raises ValueError where answers are none to so many inputs, no finite numbers, or have no tolerance each."""
    import numpy as np

    bad = "the golden vectors cannot be used: "
    if not reference or not all(row < count for row in reference):
        raise ValueError(f"{bad}no answers to {count} inputs")
    names = set(next(iter(reference.values())))
    if any(set(outputs) != names for outputs in reference.values()):
        raise ValueError(f"{bad}answers of other outputs from input to input")
    plain = "f" if "" in names else "biuf"
    for outputs in reference.values():
        for name, values in outputs.items():
            if values.dtype.kind not in plain or not np.isfinite(values).all() or (not name and values.ndim != 1):
                raise ValueError(f"{bad}answers that are no rows of finite numbers")
    if not isinstance(limits, dict) or set(limits) != names:
        raise ValueError(f"{bad}their tolerances are not of the outputs {shown(', '.join(sorted(names)))}")
    if any(type(limit) not in (int, float) or limit < 0 for limit in limits.values()):  # NaN and infinity are no JSON
        raise ValueError(f"{bad}their tolerance is no number, or negative")


def programs():
    """What `programs.py` defines: of edgekd where this is a part of it, else of the bundle that this lies in.

    Nothing is imported by its name from a bundle: the file, whose hash was checked, is compiled from its text.
    """
    return beside("programs")


def beside(name):
    """What a file beside `programs.py` defines, as that one is found."""
    if __package__:
        import importlib

        return vars(importlib.import_module(f"{__package__}.{name}"))
    import runpy

    return runpy.run_path(os.path.join(HERE, "bench", f"{name}.py"))


def open_program(folder, manifest):
    """The bundle's program over its graphs, on one thread."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read on import: else it writes files of its own
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    model = model_of(manifest)
    sessions = {
        name: ort.InferenceSession(str(folder / graph["file"]), options, providers=["CPUExecutionProvider"])
        for name, graph in model["graphs"].items()
    }
    return programs()["open_program"](model["program"], sessions)


def run_golden(folder, manifest):
    """Outputs of the golden inputs by name, each input run alone and unpadded: a list of dicts."""
    program, model, rule = open_program(folder, manifest), model_of(manifest), programs()
    rules = rule["rules_of"](model["outputs"], program.outputs)
    return [
        rule["kept"](program.named(program.run(None, program.feed(sample))), sample, rules)
        for sample in read_inputs(folder)
    ]


def check_golden(folder, outputs):
    """The verdict on the outputs: (well, words). On an unknown ISA they are held against the fp32 model's."""
    isa, reference, limits = read_golden(folder)
    known = isa == platform.machine()
    found = held_to(reference, limits, outputs)
    if isinstance(found, str):
        return False, found
    name, worst, limit = found
    of = f" of {shown(name)}" if len(limits) > 1 else ""
    against = f"outputs recorded on {isa}" if known else f"fp32 model's outputs ({platform.machine()} was not recorded)"
    return worst <= limit, f"largest difference{of} {worst:.4g} to the {against}, tolerance {limit:.4g}"


def held_to(reference, limits, outputs):
    """The output that is furthest beyond its limit, how far apart it is, and the limit; else in words what is wrong."""
    import numpy as np

    worst = dict.fromkeys(limits, 0.0)
    for row, expected in reference.items():  # an emulator may have answered some of the rows alone
        if row >= len(outputs) or (len(outputs[row]) != 1 if "" in expected else set(outputs[row]) != set(expected)):
            return f"no outputs {', '.join(map(shown, expected)) or 'of one name'} of input {row}"
        for name, values in expected.items():
            own = outputs[row][name] if name else next(iter(outputs[row].values()))
            if own.shape != values.shape or not np.isfinite(own).all():
                of = f"input {row}: " + (f"{shown(name)} " if name else "outputs ")
                return f"{of}of shape {own.shape} or not finite; expected {values.shape}"
            if own.size:
                worst[name] = max(worst[name], apart(own, values))
    name = max(limits, key=lambda one: worst[one] / limits[one] if limits[one] else worst[one] and math.inf)
    return name, worst[name], limits[name]


def apart(own, other):
    """How far two arrays of one shape are apart: the largest difference; of whole numbers, which are names as token
    ids are, the share that differs."""
    import numpy as np

    if own.dtype.kind in "biu" and other.dtype.kind in "biu":
        return float((own != other).mean())
    return float(np.abs(own.astype(np.float64) - other).max())


# ---- the whole check


class Failed(Exception):
    """Why this is not the bundle that it should be, the exit code that says so, and the way out where one is known."""

    def __init__(self, words, code=1, fix=""):
        super().__init__(words)
        self.code, self.fix = code, fix


def listed(problems):
    """Problems a line each, and no more of them than a screen holds."""
    more = [f"and {len(problems) - MOST_SHOWN} more"] if len(problems) > MOST_SHOWN else []
    return "".join(f"\n  {problem}" for problem in problems[:MOST_SHOWN] + more)


def check_files(folder, ignore_modes=False, raw=None):
    """The manifest of a bundle whose files are those that it lists. Raises Failed; loads nothing.

    `raw` are the manifest's bytes where they were read, and held against a signature, before.
    """
    try:
        manifest = read_manifest(folder, raw)
    except Newer as error:
        raise Failed(f"manifest.json cannot be used: {error}", fix=NEWER) from error
    except (OSError, ValueError) as error:
        raise Failed(f"manifest.json cannot be used: {error}") from error
    try:
        if problems := changed_files(folder, manifest):
            raise Failed(f"this is not the bundle that was shipped:{listed(problems)}")
        if not ignore_modes and (problems := odd_modes(folder)):
            raise Failed(
                f"permissions that nothing in a bundle needs (`{PLAIN_MODES}` takes them away; "
                f"--ignore-modes where a card keeps none):{listed(problems)}",
                fix=f"{PLAIN_MODES} {folder}",
            )
    except OSError as error:
        raise Failed(f"the bundle cannot be read: {error}") from error
    return manifest


def check_answers(folder, manifest):
    """Run the model on the golden inputs: how far off it was, in words. Raises Failed."""
    try:
        read_golden(folder)  # before the runtime sees anything
    except ImportError as error:
        raise Failed(f"{error}: install numpy and onnxruntime {manifest['min']['ort_version']}", 7) from error
    except ValueError as error:
        raise Failed(str(error)) from error
    try:
        outputs = run_golden(folder, manifest)
    except OSError as error:
        raise Failed(f"the program cannot be read: {error}") from error
    except ImportError as error:
        raise Failed(f"{error}: install numpy and onnxruntime {manifest['min']['ort_version']}", 7) from error
    except Exception as error:  # ONNX Runtime raises a dozen unrelated kinds
        raise Failed(f"ONNX Runtime cannot run {shown(model_name(manifest))}: {shown(str(error))}", 7) from error
    well, words = check_golden(folder, outputs)
    if not well:
        raise Failed(f"golden vectors: {words}", 5)
    return words


def hear(folder, manifest, recording):
    """Yield a line for each stretch of a WAV file: when, and what was said. Raises Failed."""
    needs = manifest["min"]["ort_version"]
    try:
        program = open_program(folder, manifest)
        if not hasattr(program, "stream"):
            raise Failed(f"this bundle's program {model_of(manifest)['program']} takes no recordings", 2)
        for begin, end, text in program.stream(beside("wav")["blocks"](Path(recording))):
            yield f"{begin:.1f}-{end:.1f} s  {shown_text(text) or '(no speech)'}"
    except ImportError as error:
        raise Failed(f"{error}: install numpy and onnxruntime {needs}", 7) from error
    except (OSError, ValueError) as error:
        raise Failed(f"{shown(str(recording))} cannot be used: {shown(str(error))}", 2) from error
    except Failed:
        raise
    except Exception as error:  # ONNX Runtime raises a dozen unrelated kinds
        raise Failed(f"ONNX Runtime cannot run {shown(model_name(manifest))}: {shown(str(error))}", 7) from error


def shown_text(text):
    """A text that a model heard, as it may go to a terminal: letters of any language, no control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def main(folder, ignore_modes=False, recording=None):
    """Print what was checked, or what was said in a recording; the exit code says how it went."""
    try:
        manifest = check_files(folder, ignore_modes)
        count = len(manifest["artifact"]["files"]) + len(manifest["evidence"]["files"])
        print(f"ok      {count} files are those that the manifest lists")
        if recording is not None:
            for line in hear(folder, manifest, recording):
                print(line, flush=True)
            return 0
        words = check_answers(folder, manifest)
    except Failed as error:
        print(f"FAILED  {error}")
        return error.code
    print(f"ok      {shown(model_name(manifest))} loads and runs")
    print(f"ok      golden vectors: {words}")
    print(NOTE)
    return 0


if __name__ == "__main__":
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(USAGE)
        sys.exit(0)
    given = [one for one in sys.argv[1:] if one != "--ignore-modes"]
    if len(given) > 1 or any(one.startswith("-") for one in given):
        print(USAGE, file=sys.stderr)
        sys.exit(2)
    sys.exit(main(Path(HERE), "--ignore-modes" in sys.argv, *given))
