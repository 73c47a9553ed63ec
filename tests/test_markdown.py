"""What others wrote stands in report.md and in the card as text: it forges no row, link, heading, picture or tag."""

import copy
import json
import re

import pytest
import yaml
from made_up import CARD, composed
from markdown_it import MarkdownIt

from edgekd.report.markdown import escaped
from edgekd.report.page import render, write

HOSTILE = {
    "rows": "ham\n| forged | 100.0% |\n\n| a | b |\n|---|---|\n| c | d |",
    "cells": "ham | forged | 100.0% \\| x \\\\| y",
    "heading": "# forged",
    "setext": "====",
    "rule": "\n\n---\n\n# forged",
    "list": "- forged",
    "number": "1. forged",
    "quotation": "> forged",
    "code": "```\nforged\n```",
    "tilde": "~~~\nforged\n~~~",
    "indented": "        forged",
    "span": "`forged`",
    "half a span": "ham `",
    "strong": "**forged**",
    "emphasis": "_forged_ __forged__",
    "link": "[forged](https://evil.example)",
    "half a link": "](https://evil.example)",
    "numbers": "[1, 2](https://evil.example) [1, 2]: https://evil.example",
    "reference": "[forged]: https://evil.example",
    "picture": "![forged](https://evil.example/a.png)",
    "autolink": "<https://evil.example>",
    "address": "https://evil.example www.evil.example",
    "tag": "<img src=x onerror=alert(1)>",
    "comment": "<!-- forged",
    "entity": "&lt;img&gt; &#124;",
    "struck": "~~forged~~",
    "returns": "ham\r| forged |\u2028# forged\x0b\x0c- forged\x85> forged",
    "terminal": "\x1b[2J\x1b]0;forged\x07",
    "backwards": "\u202eegrof",
    "backslash": "ham\\",
    "checkbox": "[x] forged",
    "front matter": "---\nlicense: forged\n---",
    "template": "{{ 7 * 7 }} {% raw %}",
}
FP32 = "ham"
MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def _named(said, name):
    """A report in which all that others name has that name."""
    said = copy.deepcopy(said) | {"name": name, "plugins": {f"losses/{name}": name}}
    for part in ("teacher", "data"):
        said[part] |= {"name": name, "licence": name}
    said["data"]["notes"] = [name]
    said["teacher"] |= {"words": name, "checks": [name]}
    for row in (*said["classes"]["rows"], *said["classes"]["worst"], *said["classes"]["best"]):
        row["name"] = name
    for trial in said["trials"]:
        trial["said"] = name
    said["summary"] |= {"verdict": name, "measured_on": name, "target": name}
    if said["fit"]:
        said["fit"] |= {"warnings": [name], "host": name}
    return said


def _form(text):
    """The structure of a Markdown text, and where its links go."""
    body, structure = text.split("\n---\n", 1)[1] if text.startswith("---\n") else text, []
    for token in MARKDOWN.parse(body):
        structure.append((token.type, token.tag, token.markup, token.level))
        for child in token.children or ():
            if child.type != "text":
                structure.append((child.type, child.tag, child.content, dict(child.attrs)))
    return structure


@pytest.fixture(scope="module")
def reports():
    """Of each file, a report's values and the structure that it has with an ordinary name everywhere."""
    values = json.loads(json.dumps(composed()))
    return {file: (values, _form(render(file, _named(values, FP32) | CARD))) for file in ("report.md", "card.md")}


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_name_changes_no_structure(name, reports):
    for file, (said, wanted) in reports.items():
        assert _form(render(file, _named(said, name) | CARD)) == wanted, file


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_it_is_shown_as_it_was_written(name):
    """Each character that is seen comes out of the Markdown again."""
    (paragraph,) = (token for token in MARKDOWN.parse(escaped(name)) if token.type == "inline")
    shown = "".join(child.content for child in paragraph.children)
    seen = "".join(one if one.isprintable() else "\ufffd" if one == "\u202e" else " " for one in name)
    assert shown.strip() == seen.strip()


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_link_without_being_asked_needs_its_address_whole(name):
    """GitHub makes links of bare addresses; an escape within ends that."""
    assert not re.search(r"(?<!\\)://|www\.", escaped(name))


@pytest.mark.parametrize(
    "text",
    [
        "google/bert_uncased_L-2_H-128",
        "Ünïcode, 100% (ok)",
        "p < 0.05 & so on",
        "-5.2 to +3.1",
        "2.5 ms",
        "R&D",
        "a-b",
        "model_q4.onnx",
        "می\u200cخواهم",
        "日本語",
        "$0.05 an hour",
        "x = 3 > 2",
        "C#",
        "2024-05-01",
        "`edgekd doctor --fix predictor` measures it",
        "+9.1 points [+7.9, +10.3], 2 seeds",
        "ssh://pi@rpi4:22",
    ],
)
def test_ordinary_text_stays_as_it_is(text):
    assert escaped(text) == text


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_code_and_front_matter_of_the_card_are_their_own(name, reports):
    """A bundle's name in code is a string of that code; a fence is closed by its own template alone."""
    front = yaml.safe_dump({"name": name, "tags": [name]}, sort_keys=False, allow_unicode=True, width=1000).strip()
    said, wanted = reports["card.md"]
    text = render("card.md", said | CARD | {"bundle": name, "model": name, "front": front})
    head, body = text.removeprefix("---\n").split("\n---\n", 1)
    assert yaml.safe_load(head)["tags"] == [name]
    fences = [token for token in MARKDOWN.parse(body) if token.type == "fence"]
    assert len(fences) == sum(kind == "fence" for kind, *_ in wanted)
    (code,) = (token.content for token in fences if token.info == "python")
    compile(code, "card", "exec")


def test_what_is_written_into_a_bundle_is_escaped(tmp_path, reports):
    write(_named(reports["report.md"][0], HOSTILE["rows"]), tmp_path)
    lines = (tmp_path / "report.md").read_text(encoding="utf-8").splitlines()
    assert not any(line.startswith(("| forged", "| c | d")) for line in lines)
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["name"] == HOSTILE["rows"]
