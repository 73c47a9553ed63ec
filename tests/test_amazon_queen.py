"""The game's one file: its table, its dialogues, and folders that the loader of recordings takes."""

import csv
import struct

import pytest
from audio_files import encoded, voice

from edgekd.core.errors import DataError
from edgekd.data import amazon_queen
from edgekd.data.amazon_queen import read_lines, read_table, write_queen


def string(key, text):
    raw = struct.pack(">hhB", 0, key, len(text)) + text.encode("cp437")
    return raw + b"\0" * (-len(raw) % 4)


def dialogue(talk, *, joe=(), other=()):
    """A dialogue of one level, as the game keeps it."""
    before = 32 + 96
    own = b"".join(string(key, text) for key, text in joe)
    head = struct.pack(">5h", -1, 0, talk, len(joe), len(other)) + b"\0" * 12
    head += struct.pack(">3H", before + len(own), 0, 0)
    body = head + b"\0" * (before - len(head)) + own + b"".join(string(key, text) for key, text in other)
    return b"AmBk" + b"\0" * 16 + body


def packed(files):
    table, at = b"", 15 + 21 * len(files)
    for name, raw in files.items():
        table += name.encode().ljust(12, b"\0") + b"\x01" + struct.pack(">II", at, len(raw))
        at += len(raw)
    return b"QTBLCEM10".ljust(13, b"\0") + struct.pack(">H", len(files)) + table + b"".join(files.values())


def game(dialogues=12):
    """Each dialogue has three recordings; one more is of none."""
    files = {}
    for talk in range(1, dialogues + 1):
        joe, other = [(6, f"Line {talk} of Joe.*04")], [(-7, f"*FLOne of {talk}.*02And *03*01another of {talk}!")]
        files[f"D{talk}.DOG"] = dialogue(talk, joe=joe, other=other)
        for name in (f"{talk:02d}0006J1", f"{talk:02d}0007P2", f"{talk:02d}0007P5"):
            files[f"{name}.SB"] = encoded(voice(0.3, 11_025, pitch=100 + 3 * len(files)), 11_025, "MP3")
    files["JOKE0001.SB"] = encoded(voice(0.4, 11_025, pitch=777), 11_025, "MP3")
    return files


def test_a_line_is_cut_where_the_game_cuts_it():
    raw = packed(game(1))
    said = {line.name: line.text for line in read_lines(raw, read_table(raw))}
    assert said == {
        "010006J1.SB": "Line 1 of Joe.",
        "010007P2.SB": "One of 1.",
        "010007P5.SB": "another of 1!",
        "JOKE0001.SB": "",
    }


def test_one_name_for_two_lines_has_no_text():
    files = game(1) | {"E.DOG": dialogue(1, joe=[(6, "Something else.")])}
    raw = packed(files)
    assert next(line.text for line in read_lines(raw, read_table(raw)) if line.name == "010006J1.SB") == ""


def test_dialogues_are_of_one_split_and_what_training_says_is_not_tested(tmp_path, monkeypatch):
    monkeypatch.setattr(amazon_queen, "TEST_LINES", 7)
    monkeypatch.setattr(amazon_queen, "VALIDATION_LINES", 4)
    files = game()
    for talk in range(1, 13):  # every dialogue ends in the same words
        files[f"D{talk}.DOG"] = dialogue(talk, joe=[(6, f"Line {talk}."), (9, "Good-bye!")])
        files[f"{talk:02d}0009J1.SB"] = files["JOKE0001.SB"]
    (tmp_path / "queen.1c").write_bytes(packed(files))
    write_queen(tmp_path / "queen.1c", tmp_path / "out")
    rows = {}
    for split in ("train", "validation", "test", "unlabelled"):
        with (tmp_path / "out" / split / "metadata.csv").open(encoding="utf-8") as stream:
            rows[split] = list(csv.DictReader(stream))
        assert all((tmp_path / "out" / split / row["file_name"]).stat().st_size for row in rows[split])
    of = {split: {row["dialogue"] for row in own} for split, own in rows.items() if split != "unlabelled"}
    assert sum(map(len, of.values())) == len(set().union(*of.values())) == 12
    assert {row["transcript"] for row in rows["test"]} == {f"Line {name[1:]}." for name in of["test"]}
    assert len(of["test"]) == 4
    assert len(of["validation"]) == 2
    assert len(rows["train"]) == 12
    assert {row["transcript"] for row in rows["unlabelled"]} == {""}
    assert len(rows["unlabelled"]) == 25  # those of the lines that were replaced, and the joke


@pytest.mark.parametrize("name", ["another", "cut table", "cut file", "cut dialogue"])
def test_another_file_is_refused_with_a_way_out(tmp_path, name):
    whole = packed({"A.DOG": dialogue(1, joe=[(6, "Words.")])})
    raw = {
        "another": b"RIFF" + whole[4:],
        "cut table": whole[:20],
        "cut file": whole[:-40],
        "cut dialogue": packed({"A.DOG": dialogue(1)[:28]}),
    }[name]
    (tmp_path / "queen.1c").write_bytes(raw)
    with pytest.raises(DataError) as error:
        write_queen(tmp_path / "queen.1c", tmp_path / "out")
    assert "apt-get download flight-of-the-amazon-queen" in error.value.fix
