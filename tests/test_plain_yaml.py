"""One reader of YAML: plain values alone, whatever a stranger writes."""

import time
from pathlib import Path

import pytest
import yaml
from strange_yaml import REFUSED, TEXTS, Builder

from edgekd.core import licences, plain_yaml
from edgekd.core.errors import DataError, UsageError
from edgekd.data import hub
from edgekd.data.read import read_tables
from edgekd.hardware.profile import load_profile, targets_folder


@pytest.mark.parametrize(("build", "reason", "line"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_is_more_than_plain_is_refused_at_once_with_its_line(
    build: Builder, reason: str, line: int, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(build())
    began = time.process_time()
    with pytest.raises(UsageError) as refusal:
        load_profile(str(path))
    assert time.process_time() - began < 2
    assert str(path) in refusal.value.message
    if path.stat().st_size < 64 << 10:  # a profile has a smaller limit of its own, and no line then
        assert f": line {line}: " in refusal.value.message
        assert reason in refusal.value.message
    assert refusal.value.message.isprintable()
    with pytest.raises(plain_yaml.PlainYamlError) as plain:
        plain_yaml.read(build())
    assert str(plain.value).startswith(f"line {line}: ")
    assert reason in str(plain.value)
    assert plain.value.fix


@pytest.mark.parametrize("text", [text for _, text in TEXTS], ids=[name for name, _ in TEXTS])
def test_what_is_no_plain_number_is_text(text: str, tmp_path: Path) -> None:
    assert plain_yaml.read(f"a: {text}\n") == {"a": text}
    path = tmp_path / "mine.yaml"
    shipped = (targets_folder() / "rpi4.yaml").read_text(encoding="utf-8")
    path.write_text("\n".join(f"cores: {text}" if line.startswith("cores:") else line for line in shipped.split("\n")))
    with pytest.raises(UsageError, match="cores is ") as refusal:
        load_profile(str(path))
    assert len(refusal.value.message) < 500


def test_plain_values_are_those_of_pyyaml() -> None:
    text = """
none: ~
void:
yes_: yes
off_: Off
one: 1
minus: -12
half: .5
real: 1.25e-3
words: some text  # and a comment
quoted: "1"
single: 'it''s'
folded: >
  two
  lines
list: [a, 1, {b: true}]
block:
- x
- y: [z]
"""
    assert plain_yaml.read(text) == yaml.safe_load(text)
    assert plain_yaml.read("") is None
    for path in targets_folder().glob("*.yaml"):
        assert plain_yaml.read(path.read_bytes()) == yaml.safe_load(path.read_text(encoding="utf-8"))


def test_what_we_write_is_read_again_as_it_was() -> None:
    values = dict(TEXTS) | {"t": "true", "n": "null", "e": "", "i": 3, "f": 1e-05, "b": False}
    values |= {"merge": "<<", "tag": "!x", "anchor": "&a", "k": ["*a", "%x", "- y", "1", "1.5"]}
    assert plain_yaml.read(yaml.safe_dump(values, allow_unicode=True)) == values


def test_the_fix_of_a_refusal_helps() -> None:
    """Each wrong text, and the same one after its fix was obeyed."""
    for wrong, fix, mended in (
        ("a: *x", "quote text that begins with & or *", "a: '*x'"),
        ("a: !x", "quote text that begins with !", "a: '!x'"),
        ("a: 1\na: 2", "keep one of them", "a: 1"),
        ("<<: {a: 1}", "write the keys out", "a: 1"),
    ):
        with pytest.raises(plain_yaml.PlainYamlError) as refusal:
            plain_yaml.read(wrong)
        assert fix in refusal.value.fix
        assert plain_yaml.read(mended)["a"] in (1, "*x", "!x")


@pytest.mark.parametrize("build", [row[1] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_cards_front_matter_is_read_by_the_same_reader(build: Builder, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(b"---\nlicense: mit\n" + build() + b"\n---\n")
    began = time.process_time()
    said = licences.of_teacher(tmp_path)
    assert time.process_time() - began < 2
    assert said.startswith(("not stated in the teacher's folder", "mit (as"))
    (tmp_path / "README.md").write_text("# x\n")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    assert licences.of_teacher(tmp_path) == "mit (as its model card says)"


def test_a_card_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: mit\na: &b c\n---\n")
    said = licences.of_teacher(tmp_path)
    assert said.startswith("not stated in the teacher's folder (README.md cannot be read: line 3: ")


def test_no_other_module_reads_yaml() -> None:
    package = Path(plain_yaml.__file__).parents[1]
    for path in package.rglob("*.py"):
        if path.name != "plain_yaml.py":
            text = path.read_text(encoding="utf-8")
            assert not any(word in text for word in ("yaml.safe_load", "yaml.load", "CSafeLoader", "yaml.full_load")), (
                path
            )


@pytest.mark.parametrize("reachable", [True, False], ids=["from the hub", "cached copy"])
def test_a_datasets_card_is_read_as_plain_yaml_before_the_library_reads_it(reachable, tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("---\nlicense: mit\na: &b c\n---\n")
    (tmp_path / "train.csv").write_text("text,label\na,x\nb,y\n")

    def ask(*_):
        if not reachable:
            raise hub.Unreachable("no network")

    def load(*_, **__):
        raise AssertionError("the library was given the card")

    monkeypatch.setattr(hub, "ask", ask)
    monkeypatch.setattr(hub, "cached", lambda *_: tmp_path)
    monkeypatch.setattr(hub, "dataset_card", lambda _: tmp_path / "README.md")
    monkeypatch.setattr("datasets.load_dataset", load)
    with pytest.raises(DataError, match=r"README\.md cannot be read: line 3: &b") as refusal:
        read_tables("someone/rows")
    assert "write the value out" in refusal.value.fix
