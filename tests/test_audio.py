"""Recordings and transcripts: every format and form of folder to 16 kHz mono, and a way out for what cannot be used."""

import json
import struct
from itertools import pairwise

import numpy as np
import pytest
from audio_files import RATE, encoded, save, speak, voice
from conftest import call_here

from edgekd.core.errors import DataError
from edgekd.data import decoded, sound
from edgekd.data.audio import Waveforms, cut, read_audio, waveform
from edgekd.data.silences import FRAME, spans
from edgekd.security import child
from edgekd.store.store import Store


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """What decodes in a process of its own does so in this one: each file takes milliseconds."""
    monkeypatch.setattr(child, "call", call_here)


@pytest.fixture
def read(tmp_path):
    store = Store(tmp_path / "store")

    def tables(source, **columns):
        return read_audio(str(source), store=store, **columns)

    return tables


def heard(table):
    """Each row's samples and text."""
    return [(waveform(row["audio"]), row["transcript"]) for row in table]


@pytest.mark.parametrize(
    ("kind", "subtype", "rate", "suffix"),
    [
        ("WAV", "PCM_16", 16_000, "wav"),
        ("WAV", "PCM_U8", 8000, "wav"),
        ("WAV", "PCM_24", 44_100, "wav"),
        ("WAV", "FLOAT", 48_000, "wav"),
        ("FLAC", None, 22_050, "flac"),
        ("OGG", "VORBIS", 32_000, "ogg"),
        ("OGG", "OPUS", 48_000, "opus"),
        ("MP3", None, 11_025, "mp3"),
    ],
)
def test_every_format_and_rate_becomes_the_same_samples(tmp_path, kind, subtype, rate, suffix):
    recording = sound.decode(save(tmp_path / f"a.{suffix}", voice(1.0, rate), rate, kind, subtype))
    own, wanted = recording.samples / 32768, voice(1.0)
    assert abs(len(own) - RATE) <= RATE * 0.08  # a lossy format pads to whole frames
    spectrum = np.abs(np.fft.rfft(own[:RATE] * np.hanning(len(own[:RATE]))))
    assert abs(np.argmax(spectrum) * RATE / len(own[:RATE]) - 220) < 3
    assert own.std() == pytest.approx(wanted.std(), rel=0.1)
    if suffix == "wav" and rate == RATE:
        assert np.abs(own - wanted).max() < 1e-4


def test_stereo_is_the_mean_of_its_channels(tmp_path):
    both = np.stack([voice(0.5), np.zeros(RATE // 2, np.float32)], axis=1)
    assert np.abs(sound.decode(save(tmp_path / "a.wav", both)).samples / 32768 - voice(0.5) / 2).max() < 1e-4


def patched(raw: bytes, length: int) -> bytes:
    """A WAV whose header tells of so many bytes of sound."""
    at = raw.index(b"data") + 4
    return raw[:at] + struct.pack("<I", length) + raw[at + 4 :]


WAV, FLAC, OGG, MP3 = (encoded(voice(2.0), kind=kind) for kind in ("WAV", "FLAC", "OGG", "MP3"))
BAD = {
    "silent": (encoded(np.zeros(RATE, np.float32)), "is silent", "record it louder"),
    "hardly a sound": (encoded(voice(1.0, loud=3e-4)), "is silent", "record it louder"),
    "empty": (b"", "is empty", "fetch or record it again"),
    "no samples": (encoded(np.zeros(0, np.float32)), "holds no sound", "fetch or record it again"),
    "a blink": (encoded(voice(0.05)), "holds 0.05 s of sound", "remove it"),
    "8 channels": (encoded(np.tile(voice(1.0)[:, None], 8)), "has 8 channels", "pan=mono"),
    "4 kHz": (encoded(voice(1.0, 4000), 4000), "has 4,000 samples a second", "record it at 16,000"),
    "channels that cancel": (
        encoded(np.stack([voice(1.0), -voice(1.0)], axis=1)),
        "its two channels cancel each other",
        "keep one channel",
    ),
    "NaN": (encoded(np.full(RATE, np.nan, np.float32), subtype="FLOAT"), "holds NaN or infinity", "record it again"),
    "cut WAV": (WAV[: len(WAV) // 2], "1.0 s are there of the 2.0 s", "fetch or record it again"),
    "cut FLAC": (FLAC[: len(FLAC) // 2], "cannot be decoded", "fetch or record it again"),
    "cut OGG": (OGG[: len(OGG) // 2], "is cut", "fetch or record it again"),
    "cut MP3": (MP3[: len(MP3) // 2], "is cut", "fetch or record it again"),
    "an unfinished WAV": (patched(WAV, 0), "whoever wrote it did not finish", "--ignore-length"),
    "a boastful WAV": (patched(WAV, 0x7FFFFFF0), "is cut", "fetch or record it again"),
    "a text": (b"hello " * 100, "is no WAV, FLAC, OGG or MP3", "ffmpeg"),
    "another format": (encoded(voice(1.0), kind="AIFF"), "is no WAV, FLAC, OGG or MP3", "ffmpeg"),
    "noise that says it is MP3": (b"\xff\xfb" + np.random.default_rng(0).bytes(4000), "", ""),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "pointer of Git LFS", "git lfs pull"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_says_why_and_what_to_do(tmp_path, name):
    raw, reason, fix = BAD[name]
    file = tmp_path / "a.wav"
    file.write_bytes(raw)
    with pytest.raises(sound.Unusable) as error:
        sound.decode(file)
    assert reason in error.value.reason
    assert fix in error.value.fix


def test_a_wav_written_into_a_pipe_is_whole(tmp_path):
    file = tmp_path / "a.wav"
    file.write_bytes(patched(WAV, 0xFFFFFFFF))
    assert len(sound.decode(file).samples) == 2 * RATE


def test_the_fix_for_an_unfinished_header_is_obeyed(tmp_path):
    file = tmp_path / "a.wav"
    file.write_bytes(patched(patched(WAV, 0), len(WAV) - WAV.index(b"data") - 8))  # what --ignore-length writes
    assert len(sound.decode(file).samples) == 2 * RATE


def test_more_than_four_hours_are_refused_before_they_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(sound, "MOST_SECONDS", 1)
    with pytest.raises(sound.Unusable, match="is longer than"):
        sound.decode(save(tmp_path / "a.flac", voice(20.0), kind="FLAC"))


def test_texts_stand_beside_recordings(tmp_path, read):
    folder = tmp_path / "clips"
    files = speak(folder, 4)
    for file in files[:3]:
        file.with_suffix(".txt").write_text(f"\ufeffThis is\n {file.stem} .\n", encoding="utf-8")
    (folder / "README.txt").write_text("about these")
    table = read(folder)["all"]
    assert [text for _, text in heard(table)] == ["This is 000 .", "This is 001 .", "This is 002 .", None]
    assert all(samples.dtype == np.float32 and samples.shape == (3200,) for samples, _ in heard(table))
    assert table.columns.label == "transcript"


@pytest.mark.parametrize("name", ["metadata.csv", "transcripts.csv", "metadata.jsonl", "lines.tsv"])
def test_a_table_among_the_recordings_names_their_texts(tmp_path, read, name):
    folder = tmp_path / "clips"
    speak(folder / "wavs", 4)
    rows = [
        {"file_name": f"wavs/{number:03d}" + ".wav" * (number % 2), "sentence": f"line {number}"} for number in range(4)
    ]
    if name.endswith("jsonl"):
        text = "\n".join(map(json.dumps, rows))
    else:
        comma = "\t" if name.endswith("tsv") else ","
        text = "\n".join(comma.join(row.values()) for row in [dict(zip(rows[0], rows[0], strict=True)), *rows])
    (folder / name).write_text(text)
    table = read(folder)["all"]
    assert [text for _, text in heard(table)] == ["line 0", "line 1", "line 2", "line 3"]
    assert table.columns.label == "sentence"


def test_folders_named_by_split_and_a_table_of_its_own(tmp_path, read):
    folder = tmp_path / "data"
    for part, count in (("train", 3), ("test", 2)):
        for file in speak(folder / part / "speaker", count, seconds=0.2 if part == "train" else 0.3):
            file.with_suffix(".txt").write_text(file.stem)
    tables = read(folder)
    assert {part: len(table) for part, table in tables.items()} == {"train": 3, "test": 2}
    (tmp_path / "clips.csv").write_text("path,text\ndata/train/speaker/000.wav,one\ndata/test/speaker/001.wav,\n")
    assert [text for _, text in heard(read(tmp_path / "clips.csv")["all"])] == ["one", None]


def test_common_voices_form(tmp_path, read):
    speak(tmp_path / "cv" / "clips", 3)
    for part, numbers in (("train", (0, 1)), ("test", (2,))):
        lines = [f"{number:03d}.wav\tsay {number}" for number in numbers]
        (tmp_path / "cv" / f"{part}.tsv").write_text("\n".join(["path\tsentence", *lines]) + "\n")
    tables = read(tmp_path / "cv")
    assert [text for _, text in heard(tables["test"])] == ["say 2"]
    assert len(tables["train"]) == 2


def test_a_hugging_face_dataset_of_recordings(tmp_path, read):
    import datasets

    rows = {
        "audio": [{"bytes": encoded(voice(0.3, pitch=200 + 9 * number)), "path": None} for number in range(5)],
        "text": [f"line {number}" for number in range(5)],
    }
    made = datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio())  # as it is read, none is decoded
    made.to_parquet(tmp_path / "train.parquet")
    assert [text for _, text in heard(read(tmp_path / "train.parquet")["all"])] == rows["text"]
    made.save_to_disk(tmp_path / "saved")
    assert [len(samples) for samples, _ in heard(read(tmp_path / "saved")["all"])] == [4800] * 5


def test_the_reverse_transcripts_without_recordings(tmp_path, read):
    folder = tmp_path / "clips"
    speak(folder, 3)
    for number in range(5):
        (folder / f"{number:03d}.txt").write_text("words")
    with pytest.raises(DataError, match=r"2 \.txt files in .* have no recording of their name") as error:
        read(folder)
    assert "add the recordings" in error.value.fix
    (folder / "003.txt").unlink()
    (folder / "004.txt").unlink()
    assert len(read(folder)["all"]) == 3  # the fix, obeyed


def test_a_table_that_names_recordings_that_are_not_there(tmp_path, read):
    folder = tmp_path / "clips"
    speak(folder, 3)
    (folder / "metadata.csv").write_text("file_name,text\n000.wav,a\n001.wav,b\ngone.wav,c\n")
    with pytest.raises(DataError, match="names 1 recordings that are not there"):
        read(folder)
    (tmp_path / "all.csv").write_text("path,text\nclips/000.wav,a\nclips/gone.wav,b\n")
    with pytest.raises(DataError, match=r"1 of 2 recordings in .* cannot be used: gone.wav is not there") as error:
        read(tmp_path / "all.csv")
    assert "up to 5% are left out" in error.value.fix


def test_few_bad_recordings_are_left_out_and_counted(tmp_path, read):
    folder = tmp_path / "clips"
    speak(folder, 40)
    save(folder / "x.wav", np.zeros(RATE, np.float32))
    table = read(folder)["all"]
    assert len(table) == 40
    assert table.notes == ("1 of 41 recordings left out: x.wav is silent",)


def test_clipped_recordings_are_told_and_kept(tmp_path, read):
    folder = tmp_path / "clips"
    speak(folder, 3)
    save(folder / "loud.wav", np.clip(voice(1.0, loud=3.0), -1, 1))
    table = read(folder)["all"]
    assert len(table) == 4
    assert "1 clipped recording" in " ".join(table.notes)


def spoken(words: int, seconds: float = 2.0, pause: float = 0.4) -> np.ndarray:
    """So many tones with pauses between them."""
    parts = [
        np.r_[voice(seconds, pitch=150 + 10 * number), np.zeros(int(pause * RATE), np.float32)]
        for number in range(words)
    ]
    return np.concatenate(parts)


def test_a_long_recording_is_cut_where_it_is_silent(tmp_path, read):
    values = spoken(30)  # 72 s
    save(tmp_path / "clips" / "long.flac", values, kind="FLAC")
    table = read(tmp_path / "clips")["all"]
    pieces = [samples for samples, _ in heard(table)]
    assert len(pieces) == 3
    assert "cut at silences into 3 pieces" in " ".join(table.notes)
    assert np.abs(np.concatenate(pieces) - values).max() < 1e-3
    for piece in pieces[:-1]:
        assert len(piece) <= 30 * RATE
        assert np.abs(piece[-FRAME:]).max() < 1e-3
    assert len({row["audio"].sha256 for row in table}) == 3


def test_one_with_a_transcript_is_kept_whole(tmp_path, read):
    file = save(tmp_path / "clips" / "long.wav", spoken(20))
    file.with_suffix(".txt").write_text("many words")
    table = read(tmp_path / "clips")["all"]
    assert len(table) == 1
    assert "longer than 30 s with a transcript kept whole" in " ".join(table.notes)


def test_clips_are_cut_to_a_shorter_window(tmp_path, read):
    save(tmp_path / "clips" / "a.wav", spoken(10))  # 24 s
    clip = read(tmp_path / "clips")["all"][0]["audio"]
    pieces = cut(clip, 10.0)
    assert all(piece.seconds <= 10 for piece in pieces)
    assert np.array_equal(np.concatenate([waveform(piece) for piece in pieces]), waveform(clip))
    assert cut(clip, 30.0) == [clip]


@pytest.mark.parametrize("length", [1, FRAME - 1, FRAME, 5 * FRAME + 3, 1000 * FRAME + 1])
@pytest.mark.parametrize("most", [FRAME, 7 * FRAME, 300 * FRAME])
def test_pieces_are_the_whole_whatever_their_lengths(length, most):
    values = np.random.default_rng(length).standard_normal(length).astype(np.float32)
    found = spans(values, most)
    assert found[0][0] == 0
    assert all(first + count == other for (first, count), (other, _) in pairwise(found))
    assert sum(count for _, count in found) == length
    assert all(0 < count <= most for _, count in found)


def test_the_same_sound_in_two_files_is_one_row(tmp_path, read):
    values = (voice(0.5) * 32767).astype(np.int16)
    save(tmp_path / "clips" / "a.wav", values)
    save(tmp_path / "clips" / "b.flac", values, kind="FLAC")
    one, other = (row["audio"] for row in read(tmp_path / "clips")["all"])
    assert one.content == other.content


def test_samples_are_read_when_asked_for(tmp_path, read):
    speak(tmp_path / "clips", 3)
    rows = [row["audio"] for row in read(tmp_path / "clips")["all"]]
    samples = Waveforms([*rows, np.zeros(7, np.float32)])
    assert samples.lengths.tolist() == [3200, 3200, 3200, 7]
    assert [len(one["audio"]) for one in samples] == [3200, 3200, 3200, 7]
    assert len(samples[1:3]) == 2


def test_decoding_is_done_once(tmp_path, read, monkeypatch):
    speak(tmp_path / "clips", 3)
    first = read(tmp_path / "clips")["all"]
    monkeypatch.setattr(decoded, "_call", None)
    assert read(tmp_path / "clips")["all"] == first


def test_a_decoder_that_dies_names_the_file(tmp_path, read, monkeypatch):
    speak(tmp_path / "clips", 3)

    def dies(function, arguments, *, said, **more):
        said("1")
        raise child.ChildError("the child process crashed", fix="", why="its child process crashed")

    monkeypatch.setattr(child, "call", dies)
    with pytest.raises(DataError, match=r"cannot be decoded: at 001.wav its child process crashed"):
        read(tmp_path / "clips")


def test_a_table_whose_columns_nobody_knows(tmp_path, read):
    speak(tmp_path / "clips", 2)
    (tmp_path / "all.csv").write_text("what,text\nclips/000.wav,a\nclips/001.wav,b\n")
    with pytest.raises(DataError, match="has no audio column by a usual name") as error:
        read(tmp_path / "all.csv")
    assert error.value.fix == "call the column of the recordings audio"
    (tmp_path / "all.csv").write_text("audio,text\nclips/000.wav,a\nclips/001.wav,b\n")  # the fix, obeyed
    assert len(read(tmp_path / "all.csv")["all"]) == 2


def test_nothing_to_hear(tmp_path, read):
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="holds no recordings"):
        read(tmp_path / "none")


@pytest.mark.parametrize(
    ("cell", "reason"), [("[1, 2]", "not a text"), ('{"a": 1}', "not a text"), ("true", "not a text")]
)
def test_a_transcript_that_is_no_text(tmp_path, read, cell, reason):
    speak(tmp_path / "clips", 2)
    (tmp_path / "clips" / "metadata.jsonl").write_text(
        f'{{"file_name": "000.wav", "text": {cell}}}\n{{"file_name": "001.wav", "text": "fine"}}\n'
    )
    with pytest.raises(DataError, match=reason):
        read(tmp_path / "clips")
