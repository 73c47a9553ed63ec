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


def test_pins_and_the_least_versions_allowed_are_both_held(capsys):
    tool = runpy.run_path(str(ROOT / "tools" / "check_advisories.py"))
    project = {"dependencies": ["jinja2>=3.1", "click>=8.1,<9"], "optional-dependencies": {"build": ["optimum==2.1.0"]}}
    assert tool["least"](project) == "jinja2==3.1\nclick==8.1\noptimum==2.1.0"
    assert tool["unmet"](tool["least"](project), "jinja2 | <3.1.6 | CVE-2025-27516 |")
    assert set(tool["PINS"]) == {"requirements.txt", "torch.txt"}
    assert tool["main"]() == 0, capsys.readouterr().out


def test_each_line_names_a_package_that_is_pinned_with_a_range_that_ends():
    from packaging.specifiers import SpecifierSet

    pins = "".join((ROOT / "locks" / name).read_text(encoding="utf-8") for name in ("requirements.txt", "torch.txt"))
    for line in (ROOT / "locks" / "advisories.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            package, affected, identifier, _ = (part.strip() for part in line.split("|"))
            assert f"{package}==" in pins, line
            assert any(part.operator in ("<", "<=") for part in SpecifierSet(affected)), line
            assert identifier.startswith(("CVE-", "GHSA-")), line
