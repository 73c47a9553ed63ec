"""Why a run ends before its rows do, and what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from edgekd.core.errors import TeacherError, suggestion
from edgekd.labelling.client import Failure


def useless(outcomes: Counter[str], answer_tokens: int) -> TeacherError:
    """No answer names a class."""
    counted = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in outcomes.most_common())
    most = outcomes.most_common(1)[0][0]
    room = max(2000, 4 * answer_tokens)
    fix = {
        "truncated": f"give more room, as models that reason need it: --answer-tokens {room}",
        "refused": "ask another model, or look at the rows: this one refuses them",
    }.get(
        most,
        "look at the answers in ledger.jsonl; give labelled rows as examples (--shots 8), edit the prompt "
        "(--prompt FILE), or ask another --model",
    )
    return TeacherError(f"none of {outcomes.total()} answers names a class: {counted}", fix=fix)


def refused(failure: Failure, why: str, model: str, names: Sequence[str]) -> TeacherError:
    """The server takes no request. `names` are its models, where it says them."""
    if why == "model":
        near = f"{suggestion(model, names)}; or c" if names else "c"
        return TeacherError(
            f"the server has no model {model!r}, or the URL is wrong ({failure.why})",
            fix=f"{near}heck --model and the URL, which often ends in /v1",
        )
    return TeacherError(
        f"the server refuses the requests ({failure.why})",
        fix={
            "key": "put a valid key into $EDGEKD_API_KEY (or $OPENAI_API_KEY)",
            "credit": "pay the provider, or raise the limit there; then run the same command again",
            "redirect": "give the address that it redirects to: --teacher api:URL",
        }.get(why, "look at what it says; another --model, or a shorter --prompt, may be taken"),
    )


def unreached(url: str, failure: Failure) -> TeacherError:
    """No connection came about."""
    return TeacherError(f"cannot reach {url}: {failure.why}", fix="check the URL, and whether the server runs")


def unanswered(count: int, failure: Failure) -> TeacherError:
    """One request after the other failed, and each may be billed."""
    return TeacherError(
        f"{count} requests in a row got no whole answer: {failure.why}",
        fix="look at the server, or give it longer (--timeout S); the same command goes on from there",
    )


def no_pilot(failed: int, last: str) -> TeacherError:
    """The pilot's accuracy is unknown, and a floor was given."""
    return TeacherError(
        f"{failed} of the pilot's rows got no answer, so nobody knows whether the teacher is above the floor ({last})",
        fix="run the same command again: it asks for those alone; or leave out --min-accuracy",
    )


def nothing(failed: int, last: str) -> TeacherError:
    """All is done and no row has a label."""
    return TeacherError(
        f"no row was labelled: {failed} got no answer that could be read ({last})",
        fix="look at the server's log and at ledger.jsonl, which says why each request failed",
    )
