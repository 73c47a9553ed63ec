"""Labelling's parts: how answers are read, soft labels, prices, bounds, addresses, classes."""

from __future__ import annotations

import json
from math import log
from pathlib import Path
from typing import Any

import pytest
from helpers import fast
from hypothesis import given
from hypothesis import strategies as st

from edgekd.core.errors import UsageError
from edgekd.data.splits import Example
from edgekd.labelling.address import address
from edgekd.labelling.answers import Reader
from edgekd.labelling.client import Failure, Reply, _body, _reply
from edgekd.labelling.entries import Entries, Entry
from edgekd.labelling.forms import Form, refusal
from edgekd.labelling.prices import PICO, Tokens, dollars, prices
from edgekd.labelling.prompts import Prompt, classes, template
from edgekd.labelling.soft import soft_label

NAMES = ("spam", "ham", "not sure", "c++", "c")


def reply(content: str, finish: str = "stop", refused: str = "") -> Reply:
    return Reply(content, finish, refused, None, "", (), {})


@pytest.mark.parametrize(
    ("content", "label", "strict"),
    [
        ('{"label": "spam"}', "spam", True),
        ('{"label":"SPAM","why":"x"}', "spam", True),
        ('```json\n{"label": "ham"}\n```', "ham", False),
        ('Sure: {"label": "not  sure"} I hope', "not sure", False),
        ('<think>{"label": "ham"} or spam?</think>{"label": "spam"}', "spam", True),
        ("spam", "spam", False),
        (" **Spam.** ", "spam", False),
        ("'not sure'", "not sure", False),
        ("C++", "c++", False),
        ("The label is ham.", "ham", False),
        ('label: "spam"', "spam", False),
        ("It sells something.\n\nspam", "spam", False),
        ("spam\nIt sells something.", "spam", False),
    ],
)
def test_a_label_is_read(content: str, label: str, strict: bool) -> None:
    answer = Reader(NAMES).read(reply(content))
    assert (answer.outcome, answer.label, answer.strict) == ("label", label, strict)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (reply("this is not spam"), "off_list"),
        (reply("I would say that this is clearly not spam at all."), "malformed"),
        (reply("spam\nham"), "off_list"),
        (reply('{"label": "eggs"}'), "off_list"),
        (reply("Werbung"), "off_list"),
        (reply('{"label": ["spam"]}'), "malformed"),
        (reply('{"label": null}'), "malformed"),
        (reply('{"lab'), "malformed"),
        (reply('{"label": "sp', "length"), "truncated"),
        (reply("", "length"), "truncated"),
        (reply('<think>the label is spam. {"label": "spam"}', "length"), "truncated"),
        (reply("<think>" * 9000, "length"), "truncated"),
        (reply(""), "malformed"),
        (reply("", "no choices"), "malformed"),
        (reply("", refused="I cannot"), "refused"),
        (reply('{"label": "spam"}', "content_filter"), "refused"),
    ],
)
def test_what_is_no_label_is_told_why(answer: Reply, outcome: str) -> None:
    read = Reader(NAMES).read(answer)
    assert (read.outcome, read.label) == (outcome, None)


def test_numbers_and_booleans_are_the_classes_that_readers_make_of_them() -> None:
    reader = Reader(["0", "1", "true"])
    for content, label in (('{"label": 1}', "1"), ('{"label": 1.0}', "1"), ("0", "0"), ('{"label": true}', "true")):
        assert reader.read(reply(content)).label == label


@given(st.text(max_size=200))
@fast
def test_any_content_is_read(content: str) -> None:
    answer = Reader(NAMES).read(reply(content))
    assert (answer.label in NAMES) == (answer.outcome == "label")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "message", "content", "usage", "prompt_tokens", "completion_tokens", "logprobs", "error"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(json_values)
@fast
def test_any_body_is_a_reply_or_unreadable(value: Any) -> None:
    try:
        found = _reply(_body(json.dumps(value), ""), {})
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return
    assert isinstance(found.content, str)
    assert found.used is None or min(found.used) >= 0


def tops(*pairs: tuple[str, float]) -> list[dict[str, Any]]:
    return [{"token": token, "logprob": log(share)} for token, share in pairs]


def at(*tokens: str, label: int, top: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"token": token, "top_logprobs": top if place == label else []} for place, token in enumerate(tokens)]


def test_a_soft_label_is_the_sum_over_spellings() -> None:
    top = tops(("pos", 0.5), (" Pos", 0.1), ("NEG", 0.2), ("the", 0.2))
    for found in (
        at('{"', "label", '":', ' "', "pos", 'itive"}', label=4, top=top),
        at('{"label', '": "', "pos", 'itive"', "}", label=2, top=top),
        at('{"label":', ' "pos', 'itive"}', label=1, top=top),
        at(" positive", label=0, top=top),
    ):
        soft = soft_label(found, "positive", ["positive", "negative", "other"])
        assert soft == pytest.approx({"positive": 0.75, "negative": 0.25, "other": 0.0})


@pytest.mark.parametrize(
    ("top", "label"),
    [
        (tops(("pos", 0.3), ("neg", 0.7)), "positive"),  # not the likeliest
        (tops(("p", 0.9), ("neg", 0.1)), "positive"),  # begins two names
        (tops(("the", 0.9), ("pos", 0.05)), "positive"),  # nearly all is something else
        ([], "positive"),
        ([{"token": None, "logprob": 0.0}], "positive"),
        ([{"token": "pos", "logprob": float("nan")}], "positive"),
        ([{"token": "pos", "logprob": "x"}], "positive"),
    ],
)
def test_where_there_is_no_soft_label(top: list[dict[str, Any]], label: str) -> None:
    assert soft_label(at("pos", "itive", label=0, top=top), label, ["positive", "negative", "panic"]) is None


def test_no_soft_label_where_the_place_is_unclear() -> None:
    top = tops(("pos", 1.0))
    assert soft_label(at('{"name": "', "pos", label=1, top=top), "positive", ["positive", "negative"]) is None
    assert soft_label([], "positive", ["positive", "negative"]) is None
    assert soft_label([{"token": 3}], "positive", ["positive", "negative"]) is None


def test_prices_are_exact() -> None:
    found = prices("0.15,0.60", "any", host="example.com", loopback=False)
    assert found is not None
    assert found.of(Tokens(1_000_000, 1_000_000)) == PICO * 75 // 100
    assert sum(found.of(Tokens(1, 0)) for _ in range(10)) == found.of(Tokens(10, 0))
    assert prices(None, "gpt-4o-mini-2024-07-18", host="api.openai.com", loopback=False) == prices(
        None, "gpt-4o-mini", host="api.openai.com", loopback=False
    )
    assert prices(None, "gpt-4o-mini", host="resold.example.com", loopback=False) is None
    assert prices(None, "gpt-99", host="api.openai.com", loopback=False) is None
    tiny = prices("0.0000001,0", "x", host="", loopback=True)
    assert tiny is not None
    assert tiny.prompt == 1, "never less than it is"
    assert dollars("2.50", "max-cost") == 25 * PICO // 10


@given(st.text(max_size=300).filter(lambda text: text.strip() != ""))
@fast
def test_a_prompt_has_no_more_tokens_than_its_bound(text: str) -> None:
    prompt = Prompt(template("text-classification", None), {"a": "", "b": "x"}, (Example("one", "a"),))
    said = json.dumps(prompt.messages(text), ensure_ascii=False).encode("utf-8", "replace")
    content = sum(len(message["content"].encode("utf-8", "replace")) for message in prompt.messages(text))
    assert content < prompt.bound(text) < len(said) + 900
    assert json.loads(prompt.messages(text)[-1]["content"]) == text
    assert prompt.messages(text)[:-1] == list(prompt.constant)


def test_prompts_are_known_by_all_that_they_say() -> None:
    words = template("text-classification", None)
    one = Prompt(words, {"a": "", "b": ""})
    keys = {
        one.key("m", "x", 0),
        one.key("n", "x", 0),
        one.key("m", "y", 0),
        one.key("m", "x", 1),
        Prompt(words, {"a": "", "c": ""}).key("m", "x", 0),
        Prompt(words, {"a": "meaning", "b": ""}).key("m", "x", 0),
        Prompt(words, {"a": "", "b": ""}, (Example("x", "a"),)).key("m", "x", 0),
    }
    assert len(keys) == 7
    assert Prompt(words, {"a": "", "b": ""}).key("m", "x", 0) == one.key("m", "x", 0)


def test_classes_from_words_files_and_rows(tmp_path: Path) -> None:
    assert classes("a, b ,1.0", []) == {"a": "", "b": "", "1": ""}
    assert classes(None, ["x", "y"]) == {"x": "", "y": ""}
    (tmp_path / "c.json").write_text('{"a": "first", "b": "second"}')
    assert classes(str(tmp_path / "c.json"), ["a"]) == {"a": "first", "b": "second"}
    (tmp_path / "c.txt").write_text("a: has: colons\nb\n")
    assert classes(str(tmp_path / "c.txt"), []) == {"a": "has: colons", "b": ""}
    for wrong in ("a,a", "a,,b", "a", "1,1.0"):
        with pytest.raises(UsageError):
            classes(wrong, [])
    with pytest.raises(UsageError, match="rows have labels that --classes does not name: 'c'"):
        classes("a,b", ["c"])


def test_addresses() -> None:
    assert address("api:http://localhost:8000/v1/").url == "http://localhost:8000/v1"
    assert address("api:http://[::1]:8000/v1").loopback
    assert address("api:http://127.0.0.2/v1").identity == address("api:http://127.0.0.1:9/v1").identity
    assert not address("api:https://127.0.0.1.example.com/v1").loopback
    assert address("api:https://api.openai.com/v1").newest
    for wrong in ("api:", "api:localhost:8000", "api:https://", "api:https://a b/v1", "api:https://x/v1?key=1"):
        with pytest.raises(UsageError):
            address(wrong)


def test_why_a_server_refuses() -> None:
    def of(status: int, code: str = "", why: str = "") -> str:
        return refusal(Failure(why, billed=False, status=status, code=code))

    assert of(401) == of(403) == "key"
    assert of(403, why="flagged by moderation") == of(400, "content_filter") == "content"
    assert of(429, "insufficient_quota") == of(402) == "credit"
    assert of(429) == of(408) == "limit"
    assert of(404) == of(400, "model_not_found") == "model"
    assert of(400, "context_length_exceeded") == "context"
    assert of(400, why="the request exceeds the available context size") == "context"
    assert of(307) == "redirect"
    assert of(400) == of(422) == "form"


def test_the_limit_of_an_answer_is_renamed_once() -> None:
    form = Form({}, 10, newest=False, soft=True)
    told = Failure("Use 'max_completion_tokens' instead of 'max_tokens'", billed=False, status=400)
    assert form.without(told)
    assert form.options["max_completion_tokens"] == 10
    assert "max_tokens" not in form.options
    assert not form.without(told)
    assert not form.without(Failure("something else", billed=False, status=400))
    assert not form.without(Failure("temperature", billed=False, status=401))


def test_what_became_of_a_prompt_is_kept_out_of_memory() -> None:
    import tracemalloc

    entries = Entries()
    kinds = (
        Entry("label", "food", 3, 4, 50, 7),
        Entry("label", ("a", "b"), 0, 0, 1, 2),
        Entry("refused", None, 1, 0, 1, 1),
    )
    for number, entry in enumerate(kinds):
        entries[bytes([number])] = entry
        assert entries.get(bytes([number])) == entry
    entries[b"\0"] = kinds[2]
    assert (entries.get(b"\0"), len(entries), entries.get(b"none")) == (kinds[2], 3, None)
    assert entries.billed() == (2, Tokens(2, 0))
    tracemalloc.start()
    for number in range(20_000):
        entries[number.to_bytes(17)] = kinds[0]
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    entries.close()
    assert grown < 100_000, "a dictionary of them takes six million bytes"
