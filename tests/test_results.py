"""Kept figures name the commit and the command that made them, and are held against the history."""

import json
import subprocess

import pytest

from benchmarks import results


@pytest.fixture
def repository(tmp_path):
    """A repository whose second commit has the script; git in it, and a function that keeps a file and asks."""

    def git(*arguments):
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *who, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "-q", "-b", "main")
    git("commit", "-q", "--allow-empty", "-m", "empty")
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "benchmarks" / "x.py").write_text("print(1)\n")
    git("add", "-A")
    git("commit", "-q", "-m", "script")
    return tmp_path, git


def asked(root, grace=frozenset(), **said):
    folder = root / "benchmarks" / "results"
    (folder / "x.json").write_text(json.dumps({"figures": {}} | said))
    return " ".join(results.problems(folder, root, grace))


def test_a_file_of_this_history_is_taken(repository):
    root, git = repository
    commit = git("rev-parse", "HEAD")
    git("commit", "-q", "--allow-empty", "-m", "later")
    assert asked(root, commit=commit, command="python -m benchmarks.x --seed 1") == ""


def test_others_are_refused_for_their_reason(repository):
    root, git = repository
    first, command = git("rev-parse", "HEAD~1"), "python -m benchmarks.x"
    assert "does not hold benchmarks/x.py" in asked(root, commit=first, command=command)
    assert "the history has no commit" in asked(root, commit="0" * 40, command=command)
    assert "no full hash" in asked(root, commit="HEAD", command=command)
    assert "no full hash" in asked(root, commit=git("rev-parse", "HEAD"), command="sh -c x")
    assert "no full hash" in asked(root, commit=git("rev-parse", "HEAD"))
    assert "names no commit" in asked(root)
    assert asked(root, frozenset({"x"})) == ""
    git("checkout", "-q", "-b", "side")
    git("commit", "-q", "--allow-empty", "-m", "side")
    side = git("rev-parse", "HEAD")
    git("checkout", "-q", "main")
    assert "is no ancestor" in asked(root, commit=side, command=command)


def test_a_shallow_clone_does_not_refuse_what_it_cannot_know(repository, tmp_path_factory):
    root, git = repository
    old = git("rev-parse", "HEAD")
    git("commit", "-q", "--allow-empty", "-m", "later")
    clone = tmp_path_factory.mktemp("clone") / "c"
    subprocess.run(["git", "clone", "-q", "--depth", "1", root.as_uri(), str(clone)], check=True)
    (clone / "benchmarks" / "results").mkdir()
    assert asked(clone, commit=old, command="python -m benchmarks.x") == ""
    assert "names no commit" in asked(clone)


def test_without_git_the_form_alone_is_held(tmp_path):
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    assert asked(tmp_path, commit="0" * 40, command="python -m benchmarks.x") == ""
    assert "names no commit" in asked(tmp_path)


def test_figures_of_a_changed_tree_are_not_kept(repository):
    root, git = repository
    (root / "benchmarks" / "results" / "other.json").write_text("{}")
    assert results.made_by(root)["commit"] == git("rev-parse", "HEAD"), "results of another benchmark do no harm"
    (root / "benchmarks" / "x.py").write_text("print(2)\n")
    with pytest.raises(SystemExit, match="commit or stash"):
        results.made_by(root)


def test_every_kept_file_is_of_this_history_and_grace_is_for_files_that_need_it():
    assert results.problems() == []
    old = {file.stem for file in results.FOLDER.glob("*.json") if "commit" not in json.loads(file.read_text("utf-8"))}
    assert old == results.GRACE, "a file made anew needs no grace: remove its name"
