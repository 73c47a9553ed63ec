"""Checks this bundle where it lies: every file's hash, that the model loads, that it answers as it did when made.

    python verify.py

Needs numpy and onnxruntime alone, no argument and no key. Exit code 0: all is well; 1: a file is not what was
shipped; 7: ONNX Runtime cannot load the model; 5: the outputs are outside the tolerances in golden/golden.json.
"""

import hashlib
import json
import os
import platform
import sys
from pathlib import Path


def changed_files(folder, manifest):
    """What differs from the manifest, in words: changed, missing and unexpected files, and links."""
    listed = {**manifest["artifact"]["files"], **manifest["evidence"]["files"]}
    present = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if not p.is_dir() or p.is_symlink()}
    problems = [f"{name}: missing" for name in sorted(set(listed) - set(present))]
    problems += [f"{name}: not part of the bundle" for name in sorted(set(present) - set(listed) - {"manifest.json"})]
    for name in sorted(set(listed) & set(present)):
        path = present[name]
        if path.is_symlink() or not path.is_file():
            problems.append(f"{name}: a link or device, not a file")
        elif path.stat().st_size != listed[name]["size"]:
            problems.append(f"{name}: {path.stat().st_size} bytes, not {listed[name]['size']}")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != listed[name]["sha256"]:
            problems.append(f"{name}: its content was changed")
    return problems


def answer(output):
    """One input's row: logits (1, classes) as they are; of outputs for each token (1, tokens, width) the mean."""
    return output.reshape(1, -1, output.shape[-1]).mean(axis=1)


def run_golden(folder, model):
    """Answers to the golden inputs, each run alone and unpadded: (inputs, classes or width)."""
    import numpy as np

    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read on import: else it writes files of its own
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(folder / model), options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    with np.load(folder / "golden" / "inputs.npz", allow_pickle=False) as inputs:
        count = 1 + max(int(key.split(".")[0]) for key in inputs.files)
        return np.concatenate(
            [answer(session.run(None, {name: inputs[f"{row}.{name}"] for name in names})[0]) for row in range(count)]
        )


def check_golden(folder, outputs):
    """The verdict on the outputs: (well, words). On an unknown ISA they are held against the fp32 model's."""
    import numpy as np

    rules = json.loads((folder / "golden" / "golden.json").read_text(encoding="utf-8"))
    with np.load(folder / "golden" / "expected.npz", allow_pickle=False) as expected:
        isa = platform.machine()
        known = isa in expected.files
        reference = expected[isa if known else "float32"]
    outputs = outputs[: len(reference)] if known else outputs  # an emulator may have answered the first rows alone
    limit = rules["tolerance"][isa if known else "float32"]
    if outputs.shape != reference.shape or not np.isfinite(outputs).all():
        return False, f"outputs of shape {outputs.shape} or not finite; expected {reference.shape}"
    worst = float(np.abs(outputs - reference).max())
    against = f"the outputs recorded on {isa}" if known else f"the fp32 model's outputs ({isa} was not recorded)"
    return worst <= limit, f"largest difference {worst:.4g} to {against}, tolerance {limit:.4g}"


def main(folder):
    """Print what was checked; the exit code says how it went."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        problems = changed_files(folder, manifest)
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"FAILED  manifest.json cannot be used: {error}")
        return 1
    if problems:
        print("FAILED  this is not the bundle that was shipped:", *problems, sep="\n  ")
        return 1
    if manifest.get("model") not in manifest["artifact"]["files"]:
        print("FAILED  manifest.json names no model of this bundle")
        return 1
    count = len(manifest["artifact"]["files"]) + len(manifest["evidence"]["files"])
    print(f"ok      {count} files are those that the manifest lists")
    try:
        outputs = run_golden(folder, manifest["model"])
    except ImportError as error:
        print(f"FAILED  {error}: install numpy and onnxruntime {manifest['min']['ort_version']}")
        return 7
    except Exception as error:  # ONNX Runtime raises a dozen unrelated kinds
        print(f"FAILED  ONNX Runtime cannot run {manifest['model']}: {error}")
        return 7
    print(f"ok      {manifest['model']} loads and runs")
    well, words = check_golden(folder, outputs)
    print(f"{'ok    ' if well else 'FAILED'}  golden vectors: {words}")
    return 0 if well else 5


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent))
