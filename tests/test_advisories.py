"""Known advisories of pinned packages: each says what is done about it, or the check fails."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_an_advisory_without_an_answer_fails_and_ours_has_one():
    unmet = runpy.run_path(str(ROOT / "tools" / "check_advisories.py"))["unmet"]
    pins = "transformers==4.57.6 --hash=sha256:0\ntorch==2.13.0\n"
    line = "transformers | >=4.56,<5.3 | CVE-2026-4372 | "
    assert len(unmet(pins, line)) == 1
    assert unmet(pins, line + "its keys are refused") == []
    assert unmet("transformers==5.3.0\n", line) == []
    shipped = [(ROOT / "locks" / name).read_text(encoding="utf-8") for name in ("requirements.txt", "advisories.txt")]
    assert unmet(*shipped) == []
    assert "CVE-2026-4372" in shipped[1]
