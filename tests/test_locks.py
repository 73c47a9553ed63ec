"""Every pinned package is held to its hash when it is installed, torch's excepted."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HELD = sorted(file.name for file in (ROOT / "locks").glob("*.txt") if file.name not in ("torch.txt", "advisories.txt"))


def unheld(lock: str) -> list[str]:
    """Requirements of a lock without a hash."""
    joined = lock.replace("\\\n", " ").splitlines()
    return [line for line in joined if line.strip() and line[0] != "#" and "--hash=sha256:" not in line]


@pytest.mark.parametrize("name", HELD)
def test_every_package_is_held_to_hashes_but_torch(name: str) -> None:
    assert unheld((ROOT / "locks" / name).read_text(encoding="utf-8")) == []
    lines = re.findall(rf"^\t.*pip install.* -r locks/{re.escape(name)}.*$", (ROOT / "Makefile").read_text(), re.M)
    assert lines
    assert all("--require-hashes" in line and "--no-deps" in line for line in lines)


def test_a_package_without_a_hash_is_noticed() -> None:
    assert unheld("# a\nx==1 \\\n    --hash=sha256:00\ny==2\n") == ["y==2"]
