"""A file's name may end in capitals, whatever reads it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekd.data.images import read_images
from edgekd.data.read import read_tables
from edgekd.data.series import read_series
from edgekd.hardware.profile import load_profile, targets_folder


def _write(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


def _npz(shape: tuple[int, ...]) -> Callable[[Path], object]:
    def build(path: Path) -> None:
        with path.open("wb") as stream:
            np.savez(stream, x=np.zeros(shape, np.uint8), y=np.arange(shape[0]))

    return build


def _parquet(path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"], "label": ["x"]}), path)


ROWS = {"all": [{"text": "a", "label": "x"}]}
KINDS: list[tuple[str, Callable[[Path], object], Callable[[str], object]]] = [
    ("rows.CSV", _write("text,label\na,x\n"), read_tables),
    ("rows.Tsv", _write("text\tlabel\na\tx\n"), read_tables),
    ("rows.JSONL", _write('{"text": "a", "label": "x"}\n'), read_tables),
    ("rows.PARQUET", _parquet, read_tables),
    ("SERIES.NPZ", _npz((3, 9)), read_series),
    ("SERIES.TSV", _write("1" + "\t0" * 9 + "\n"), read_series),
    ("IMAGES.NPZ", _npz((3, 4, 4)), read_images),
    ("MINE.YAML", _write((targets_folder() / "rpi4.yaml").read_text(encoding="utf-8")), load_profile),
]


@pytest.mark.parametrize(("name", "build", "read"), KINDS, ids=[row[0] for row in KINDS])
def test_a_suffix_in_capitals(
    name: str, build: Callable[[Path], object], read: Callable[[str], object], tmp_path: Path
) -> None:
    build(tmp_path / name)
    found = read(str(tmp_path / name))
    if read is read_tables:
        assert found == ROWS
    assert found
