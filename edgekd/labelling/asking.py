"""Requests, many at once: each is set aside in the budget and noted in the ledger before it is sent."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from edgekd.core.errors import EdgeKDError
from edgekd.core.protocols import Progress
from edgekd.labelling import endings
from edgekd.labelling.answers import Reader
from edgekd.labelling.budget import Budget, Spent
from edgekd.labelling.client import Client, Failure, Reply
from edgekd.labelling.entries import Entry
from edgekd.labelling.forms import Form, refusal
from edgekd.labelling.ledger import Ledger
from edgekd.labelling.pace import Pace
from edgekd.labelling.prices import Tokens
from edgekd.labelling.prompts import Prompt
from edgekd.labelling.soft import soft_label

_TRIES = 6  # of one prompt in a run, of which nobody knows what became
_FIRST_ANSWERS = 20  # of which one must be a label
_FIRST_REJECTED = 5  # rows that the server takes in no form, before the first label
_IN_A_ROW = 20  # requests that may all be billed, and none answered
_UNREACHED = 4  # connections that fail before the first answer
_GRACE_S = 20.0  # for what is in flight when the run stops
_KEPT_CHARACTERS = 2000  # of an answer's words
_MOST_TOLD = 1 << 21  # tokens of a request that a server may say: more than any model takes
_MOST_TEXT = 1 << 20  # characters of a row


class Job(NamedTuple):
    """A text to ask about; `turn` 0 is its label, others are repeats."""

    text: str
    turn: int = 0


@dataclass(frozen=True)
class Teacher:
    """Who is asked: the model's name, the server's address, and how much one prompt may have (None: nobody says)."""

    model: str
    url: str
    context: int | None = None


def to_ask_again(entry: Entry, answer_tokens: int) -> bool:
    """Whether the answer was cut off where it would not be now."""
    return entry.outcome == "truncated" and answer_tokens > entry.most


def is_too_long(text: str, worst: Tokens, context: int | None) -> bool:
    """Whether a text may not fit the context, None where nobody says it, or is longer than any row may be."""
    return len(text) > _MOST_TEXT or (context is not None and worst.total > context)


class Asker:
    """Asks a teacher about rows until all are answered, a ceiling is reached, or it is told to stop."""

    def __init__(
        self,
        client: Client,
        teacher: Teacher,
        prompt: Prompt,
        form: Form,
        *,
        ledger: Ledger,
        budget: Budget,
        pace: Pace,
        progress: Progress,
    ) -> None:
        self.client, self.teacher, self.prompt, self.form = client, teacher, prompt, form
        self.ledger, self.budget, self.pace, self.progress = ledger, budget, pace, progress
        self.reader = Reader(prompt.classes, several=prompt.several)
        self.outcomes: Counter[str] = Counter()  # of this run
        self.over = self.failed = self.loose = 0
        self.last = ""  # why the latest request failed
        self._in_a_row = self._rejected = 0  # requests without an answer, and rows that the server takes in no form
        self.overrun = Tokens(0, 0)  # by which a request was billed more than it could be
        self.hurry = False  # told twice to stop
        self._stop = asyncio.Event()
        self._error: EdgeKDError | None = None
        self._asked: set[bytes] = set()  # those in flight: a text may stand in several rows
        self._left = Spent()

    def key(self, job: Job) -> bytes:
        """What the ledger knows the job's prompt by."""
        return self.prompt.key(self.teacher.model, job.text, job.turn)

    def entry(self, job: Job) -> Entry | None:
        """What became of the job; None where it is still to be asked."""
        found = self.ledger.entries.get(self.key(job))
        return None if found is None or to_ask_again(found, self.form.answer_tokens) else found

    def too_long(self, text: str) -> bool:
        """Whether the text surely or maybe does not fit: it is not asked about, and never cut."""
        return is_too_long(text, self._worst(text), self.teacher.context)

    def stop(self) -> None:
        """Send nothing more. What is in flight may still end, for a while."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        """Whether it was told to stop."""
        return self._stop.is_set()

    async def ask(self, jobs: Iterable[Job], *, rows: int) -> None:
        """Ask about all jobs that are not answered yet, of which `rows` are labels. Raises TeacherError, StoreError."""
        jobs = list(jobs)
        self._left = Spent()
        for job in jobs:
            if job.turn == 0 and self.entry(job) is None and not self.too_long(job.text):
                self._left.add(worst := self._worst(job.text), self.budget.cost(worst))
        self._done, self._rows = 0, rows
        turns = iter(jobs)
        workers = [asyncio.create_task(self._work(turns)) for _ in range(self.pace.most)]
        stopping = asyncio.create_task(self._told())
        try:
            while pending := {one for one in workers if not one.done()}:
                await asyncio.wait({*pending, stopping}, return_when=asyncio.FIRST_COMPLETED)
                for one in workers:
                    if one.done() and (error := one.exception()):
                        self._fail(error)
                if self.stopped:
                    await self._let_end(pending)
        finally:
            for one in (*workers, stopping):
                one.cancel()
            await asyncio.gather(*workers, stopping, return_exceptions=True)
            await self.ledger.drain()
        if self._error:
            raise self._error

    async def _told(self) -> None:
        await self._stop.wait()

    def _fail(self, error: BaseException) -> None:
        if not isinstance(error, EdgeKDError):
            raise error
        self._error = self._error or error
        self.stop()

    async def _let_end(self, pending: set[asyncio.Task[None]]) -> None:
        """Answers on their way are paid for: they may come, for a while."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _GRACE_S
        while self.pace.in_flight and loop.time() < until and not self.hurry:
            await asyncio.wait(pending, timeout=0.05)
        for one in pending:
            one.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    async def _work(self, jobs: Iterator[Job]) -> None:
        for job in jobs:
            if self.stopped:
                return
            if self.too_long(job.text):
                self._step(job)
                continue
            key = self.key(job)
            if key in self._asked or self.entry(job) is not None:
                self._step(job)
                continue
            worst = self._worst(job.text)
            if job.turn == 0:
                self._asked.add(key)
                self._left.add(Tokens(-worst.prompt, -worst.completion), -self.budget.cost(worst), -1)
            elif not self._repeats(job, worst):
                continue
            await self._ask(job, key)
            self._asked.discard(key)
            self._step(job)

    def _repeats(self, job: Job, worst: Tokens) -> bool:
        """Whether a repeat tells something, and takes nothing from what labels may still need."""
        first = self.ledger.entries.get(self.key(Job(job.text)))
        return first is not None and first.outcome == "label" and self.budget.fits(worst, beside=self._left)

    def _step(self, job: Job) -> None:
        if job.turn == 0:
            self._done += 1
        cost = f", ${self.budget.spent.picos / 1e12:.4f}" if self.budget.prices else ""
        self.progress.step(min(self._done, self._rows), f"{self.budget.spent.requests} requests{cost}")

    def _worst(self, text: str) -> Tokens:
        return Tokens(self.prompt.bound(text) + self.overrun.prompt, self.form.answer_tokens + self.overrun.completion)

    async def _ask(self, job: Job, key: bytes) -> None:
        """Ask until there is an answer, the budget is used up, or it was tried often enough."""
        tries = attempt = 0
        while tries < _TRIES and not self.stopped:
            async with self.pace.turn():
                if self.stopped:
                    return
                worst = self._worst(job.text)
                if not await self.budget.reserve(worst):
                    self.over += job.turn == 0
                    return
                wait = await self._send(job, key, worst, attempt)
            if wait is None:
                return
            tries += wait.counts
            attempt += 1
            await self._pause(wait.seconds)
        self.failed += tries >= _TRIES and job.turn == 0

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return

    async def _send(self, job: Job, key: bytes, worst: Tokens, attempt: int) -> _Again | None:
        """One request, from its intent to its end. None where the job is done, else when it is asked again."""
        request = await self.ledger.intend(key, worst)
        version, begun = self.form.version, asyncio.get_running_loop().time()
        try:
            reply = await self.client.ask(self.teacher.model, self._messages(job), self.form.options)
        except Failure as failure:
            self.last = failure.why
            if failure.billed:
                self.budget.settle(worst, worst)
                await self.ledger.lost(request, failure.why)
                self._give_up(failure)
                wait = self.pace.failed(failure.why, failure.headers, attempt, limited=failure.status == 503)
                return _Again(wait, counts=True)
            self.budget.settle(worst, Tokens(0, 0), sent=failure.sent)
            return await self._refused(job, failure, request, attempt, version)
        used = self._used(job, reply, worst)
        self.budget.settle(worst, used)
        self.pace.answered(reply.headers)
        self._in_a_row = 0
        await self._keep(request, reply, used, 1000 * (asyncio.get_running_loop().time() - begun))
        return None

    def _give_up(self, failure: Failure) -> None:
        """Raise TeacherError where one request after the other fails, each of which may be billed."""
        self._in_a_row += 1
        if self._in_a_row >= max(_IN_A_ROW, 3 * self.pace.most):
            raise endings.unanswered(self._in_a_row, failure)

    def _messages(self, job: Job) -> list[dict[str, Any]]:
        return [dict(message) for message in self.prompt.messages(job.text)]

    def _used(self, job: Job, reply: Reply, worst: Tokens) -> Tokens:
        """What the server says that it bills; the most where it says nothing that can be true.

        Where that is more than was thought possible, as of reasoning that no limit holds, so much more is set aside for
        each request from then on.
        """
        used = reply.used
        if used is None or used.total > _MOST_TOLD:
            return worst
        most = (self.prompt.bound(job.text), self.form.answer_tokens)
        over = (max(before, one - least) for before, one, least in zip(self.overrun, used, most, strict=True))
        self.overrun = Tokens(*over)
        return used

    async def _keep(self, request: int, reply: Reply, used: Tokens, latency_ms: float) -> None:
        answer = self.reader.read(reply)
        self.loose += not answer.strict
        record: dict[str, Any] = {
            "outcome": answer.outcome,
            "label": answer.label,
            "finish": reply.finish[:40],
            "latency_ms": round(latency_ms, 1),
            "text": (reply.content or reply.refusal)[:_KEPT_CHARACTERS],
        }
        if reply.fingerprint:
            record["fingerprint"] = reply.fingerprint
        if isinstance(answer.label, str) and reply.logprobs:
            soft = soft_label(reply.logprobs, answer.label, list(self.prompt.classes))
            record |= {"probabilities": soft} if soft else {}
        await self.ledger.answered(request, used, record)
        self._heed(reply, answer.outcome)

    def _heed(self, reply: Reply, outcome: str) -> None:
        """Tell where the model behind the name moved; stop where no answer is of use."""
        if self.ledger.fingerprints.get(reply.fingerprint) == 1 and len(self.ledger.fingerprints) > 1:
            self.progress.say(f"system_fingerprint is now {reply.fingerprint}: the model may have moved")
        self.outcomes[outcome] += 1
        if sum(self.outcomes.values()) >= _FIRST_ANSWERS and not self.outcomes["label"]:
            raise endings.useless(self.outcomes, self.form.answer_tokens)

    async def _refused(self, job: Job, failure: Failure, request: int, attempt: int, version: int) -> _Again | None:
        """A request that was not billed: end the run, end the row, or ask again."""
        if not failure.sent:
            await self.ledger.free(request, failure.why, sent=False)
            if not self.outcomes and attempt + 1 >= _UNREACHED:
                raise endings.unreached(self.teacher.url, failure)
            return _Again(self.pace.failed(failure.why, {}, attempt, limited=False))
        why = refusal(failure)
        if why in ("context", "content"):
            outcome = "too_long" if why == "context" else "refused"
            await self.ledger.answered(request, Tokens(0, 0), {"outcome": outcome, "label": None, "text": failure.why})
            self.outcomes[outcome] += 1
            return None
        await self.ledger.free(request, failure.why, sent=True)
        if why == "limit":
            return _Again(self.pace.failed(failure.why, failure.headers, attempt, limited=True))
        if why != "key" and (version != self.form.version or self.form.without(failure)):
            return _Again(0.0)
        if why == "form":  # this row may be what it does not take: others go on, and the next run tries it again
            self._rejected += 1
            self.failed += job.turn == 0
            if self.outcomes["label"] or self._rejected < _FIRST_REJECTED:
                return None
        names = await self.client.models() if why == "model" else []
        raise endings.refused(failure, why, self.teacher.model, names)


@dataclass(frozen=True)
class _Again:
    """Ask again after so many seconds; whether that `counts` as one of the tries."""

    seconds: float
    counts: bool = False
