"""Who is where, across replicas: a question to all of them, answered from what each knows at that moment.

Nothing is stored at the broker, so nothing is left behind by a replica that was killed: it does not answer, and the
broker does not count it among those that heard the question.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from antiphon.errors import AntiphonError
from antiphon.topics import CONTROL_ROUTE, replica_route
from antiphon.wire import codec
from antiphon.wire.envelope import Envelope

__all__ = ["Answerer", "Answers", "Asking", "Census", "ClusterCounts", "count_distinct", "sketch"]

Answerer = Callable[[Mapping[str, object]], Mapping[str, object]]
"""Answers one question about one channel for this replica; it may act on it first."""

SKETCH_SIZE = 4_096
_COUNTS = "counts"
_SPACE = 1 << 63


@dataclass(frozen=True, slots=True)
class ClusterCounts:
    """How many are connected to a channel, on all replicas together."""

    connections: int
    users: int
    """Distinct user ids. Exact below 4,096 users a replica, above that an estimate within about 2 %."""
    replicas: int
    """Replicas that answered, this one included."""
    complete: bool
    """Whether every replica that heard the question answered in time; False too while the broker is away."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What the replicas answered."""

    data: list[Mapping[str, object]]
    replicas: int
    complete: bool


class Asking(Protocol):
    """What the census needs of a relay."""

    replica: str

    def on_control(self, kind: str, handler: Callable[[Envelope], None]) -> None: ...
    def tell(self, route: str, envelope: Envelope) -> asyncio.Future[int] | None: ...


class _Question:
    """One question under way."""

    def __init__(self, enough: Callable[[Mapping[str, object]], bool] | None) -> None:
        self.answers: list[list[Mapping[str, object]]] = []
        self.expected: int | None = None
        self.done = asyncio.Event()
        self._enough = enough

    def take(self, data: Sequence[object]) -> None:
        """One replica's answer; what makes no sense is left out."""
        answer = [item for item in data if isinstance(item, Mapping)]
        self.answers.append(answer)
        if self._enough is not None and any(map(self._enough, answer)):
            self.done.set()
        self.look()

    def look(self) -> None:
        if self.all_answered:
            self.done.set()

    @property
    def all_answered(self) -> bool:
        return self.expected is not None and len(self.answers) >= self.expected


class Census:
    """Asks all replicas, and answers for this one."""

    def __init__(self, relay: Asking) -> None:
        self._relay = relay
        self._answerers: dict[tuple[str, str], list[Answerer]] = {}
        self._questions: dict[str, _Question] = {}
        self._numbers = itertools.count(1)
        relay.on_control("ask", self._on_ask)
        relay.on_control("answer", self._on_answer)

    def add(self, channel: str, answerer: Answerer, *, about: str = _COUNTS) -> None:
        """Answer questions of one kind about this channel."""
        self._answerers.setdefault((channel, about), []).append(answerer)

    def discard(self, channel: str, answerer: Answerer, *, about: str = _COUNTS) -> None:
        """Take an `add` back."""
        answerers = self._answerers.get((channel, about), [])
        if answerer in answerers:
            answerers.remove(answerer)
        if not answerers:
            self._answerers.pop((channel, about), None)

    async def ask(
        self,
        channel: str,
        question: Mapping[str, object],
        *,
        timeout_s: float,
        about: str = _COUNTS,
        enough: Callable[[Mapping[str, object]], bool] | None = None,
    ) -> Answers:
        """Ask all replicas; returns when all have answered, or with what there is after `timeout_s`. Never raises.

        The first answer for which `enough` is true ends the waiting too.
        """
        number = str(next(self._numbers))
        open_question = self._questions[number] = _Question(enough)
        try:
            asking = {"ask": number, "channel": channel, "question": dict(question)}
            payload = codec.encode(asking if about == _COUNTS else {**asking, "about": about})
            asked = self._relay.tell(
                CONTROL_ROUTE, Envelope(id=None, payload=payload, sender=self._relay.replica, kind="ask")
            )
            if asked is None:
                return Answers(self._own(channel, question, about), 1, False)
            try:
                async with asyncio.timeout(timeout_s):
                    open_question.expected = await asked
                    open_question.look()
                    await open_question.done.wait()
            except (TimeoutError, AntiphonError):
                if not open_question.answers:
                    return Answers(self._own(channel, question, about), 1, False)
            data = [item for answer in open_question.answers for item in answer]
            return Answers(data, len(open_question.answers), open_question.all_answered)
        finally:
            del self._questions[number]

    def _own(self, channel: str, question: Mapping[str, object], about: str) -> list[Mapping[str, object]]:
        return [answerer(question) for answerer in tuple(self._answerers.get((channel, about), ()))]

    def _on_ask(self, envelope: Envelope) -> None:
        asked = codec.decode(envelope.payload)
        if not isinstance(asked, dict) or envelope.sender is None:
            return
        number, channel, question = asked.get("ask"), asked.get("channel"), asked.get("question")
        about = asked.get("about", _COUNTS)
        if not (isinstance(number, str) and isinstance(channel, str) and isinstance(question, dict)):
            return
        if not isinstance(about, str):
            return
        answers = [dict(answer) for answer in self._own(channel, question, about)]
        payload = codec.encode({"ask": number, "data": answers})
        # The sender of an answer is the one who asked: it goes to that replica alone.
        self._relay.tell(
            replica_route(envelope.sender),
            Envelope(id=None, payload=payload, sender=self._relay.replica, kind="answer"),
        )

    def _on_answer(self, envelope: Envelope) -> None:
        answer = codec.decode(envelope.payload)
        if not isinstance(answer, dict):
            return
        question = self._questions.get(str(answer.get("ask")))
        data = answer.get("data")
        if question is not None and isinstance(data, list):
            question.take(data)


def sketch(users: Iterable[str]) -> list[int]:
    """The smallest hashes of the user ids, as many as are enough to estimate how many distinct ones there are.

    Z. Bar-Yossef et al., "Counting distinct elements in a data stream", RANDOM 2002 (the "k minimum values" estimate).
    """
    hashes = {int.from_bytes(hashlib.blake2b(user.encode(), digest_size=8).digest(), "big") >> 1 for user in users}
    return heapq.nsmallest(SKETCH_SIZE, hashes)


def count_distinct(sketches: Iterable[Iterable[object]]) -> int:
    """How many distinct users several sketches stand for."""
    union: set[int] = set()
    full = False
    for one in sketches:
        hashes = {value for value in one if type(value) is int and 0 <= value < _SPACE}
        full = full or len(hashes) >= SKETCH_SIZE
        union.update(hashes)
    if not full:
        return len(union)
    smallest = heapq.nsmallest(SKETCH_SIZE, union)
    return round((SKETCH_SIZE - 1) / (smallest[-1] / _SPACE))
