"""Asking the application again and again whether those who are connected may still be."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final, ParamSpec, TypeVar

from antiphon.auth import Identity, Refused
from antiphon.codes import State
from antiphon.connection import Connection
from antiphon.hub import Hub
from antiphon.journal import Journal
from antiphon.revocation.ending import End, RevocationCounters, identity_of

__all__ = ["Rechecks"]

_JITTER: Final = 0.2
_STUCK: Final = 256
"""Questions that were given up and do not end; then no more are asked."""

_T = TypeVar("_T")
_P = ParamSpec("_P")


class Rechecks:
    """Asks the application again and again whether those who are connected may still be, and hear what they hear.

    `recheck` returns the identity as it is now, and raises Revoked, or another Refused, for one that does not hold any
    more. What else it raises, or when it takes longer than `limit_s`, counts as "keep for now": it is counted, logged,
    and asked again after `retry_s`. One question for each token that proved a session, or identity that cannot be
    proved again; at most `width` at the same time, in random order.
    """

    def __init__(
        self,
        hub: Hub,
        *,
        recheck: Callable[[Identity], Awaitable[Identity]],
        may_hear: Callable[[Identity | None, str], Awaitable[bool]] | None = None,
        end: End,
        drop_topic: Callable[[Connection, str], None],
        every_s: float = 60.0,
        retry_s: float = 5.0,
        limit_s: float = 5.0,
        width: int = 16,
        counters: RevocationCounters | None = None,
        journal: Journal | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.counters = counters if counters is not None else RevocationCounters()
        self._hub = hub
        self._recheck = recheck
        self._may_hear = may_hear
        self._end = end
        self._drop_topic = drop_topic
        self._every_s = every_s
        self._retry_s = retry_s
        self._limit_s = limit_s
        self._width = width
        self._journal = journal if journal is not None else Journal()
        self._rng = rng if rng is not None else random.Random()
        self._task: asyncio.Task[None] | None = None
        self._stuck: set[asyncio.Task[Any]] = set()
        """Questions that were given up, and have not ended yet."""
        self._away = False
        self._closed = False
        self._woken = asyncio.Event()

    # -- life --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin the rounds. Idempotent; does nothing after `close`."""
        if self._task is None and not self._closed:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="antiphon-recheck")

    async def close(self) -> None:
        """End the rounds, and the questions under way, for good. Idempotent."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._stuck:
            await asyncio.wait(self._stuck, timeout=self._limit_s)

    def on_state(self, state: State) -> None:
        """The broker link's state has changed: when it is back, a revocation may have been missed."""
        if state is State.DEGRADED:
            self._away = True
        elif state is State.UP and self._away:
            self._away = False
            self.now()

    def now(self) -> None:
        """Ask about everybody here at once, as after a change of roles; a round under way ends first."""
        self._woken.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + self._pause()
        unanswered: set[object] = set()
        while True:
            until = min(due, loop.time() + self._retry_s) if unanswered else due
            try:
                async with asyncio.timeout_at(until):
                    await self._woken.wait()
            except TimeoutError:
                pass
            all_of_them = self._woken.is_set() or loop.time() >= due
            if all_of_them:
                self._woken.clear()
                due = loop.time() + self._pause()
            try:
                unanswered = await self._round(None if all_of_them else unanswered)
            except Exception as error:
                self._journal.warning("recheck_round", "a round of re-checks failed", error=error)

    def _pause(self) -> float:
        """Never longer than asked for; not the same on all replicas, so that they do not ask all at once."""
        return self._every_s * (1 - _JITTER * self._rng.random())

    # -- a round -----------------------------------------------------------------------------------------------------

    async def _round(self, wanted: set[object] | None) -> set[object]:
        """Ask about everybody here, or the `wanted` keys. Returns those for whom there was no answer."""
        sessions: dict[object, list[Connection]] = {}
        for connection in self._hub.connections():
            key = _key_of(connection)
            if wanted is None or key in wanted:
                sessions.setdefault(key, []).append(connection)
        self.counters.rechecks += wanted is None
        unanswered: set[object] = set()
        # Some that always fail must not stand before the others in every round.
        order = self._rng.sample(list(sessions), len(sessions))
        waiting = iter(order)
        silent = 0

        async def work() -> None:
            nonlocal silent
            for key in waiting:
                # When nobody answers, the rest is not asked either: the database is down, and all those waits add up.
                answered = silent < self._width and await self._check(sessions[key])
                silent = 0 if answered else silent + 1
                if not answered:
                    # As it is now: the first part of the answer may have changed the identity.
                    unanswered.add(_key_of(sessions[key][0]))

        async with asyncio.TaskGroup() as workers:
            for _ in range(min(self._width, len(sessions))):
                workers.create_task(work(), name="antiphon-recheck")
        return unanswered

    async def _check(self, connections: list[Connection]) -> bool:
        """Ask about connections that share a key. Returns whether everything was answered."""
        # The one that is valid longest: a session may have been prolonged since the others connected.
        identity = identity_of(max(connections, key=_until))
        if identity is not None:
            try:
                fresh = await self._answer(self._recheck, identity)
            except Refused as refusal:
                self._cut(connections, identity, refusal)
                return True
            if fresh is None:
                return False
            for connection in connections:
                if connection._identity is not None:
                    connection._identity = fresh
            identity = fresh
        return await self._check_topics(connections, identity)

    async def _check_topics(self, connections: list[Connection], identity: Identity | None) -> bool:
        if self._may_hear is None:
            return True
        for topic in sorted(set().union(*(connection.topics for connection in connections))):
            try:
                allowed = await self._answer(self._may_hear, identity, topic)
            except Refused:
                allowed = False
            if allowed is None:
                return False
            if not allowed:
                for connection in connections:
                    if topic in connection.topics and self._hub.get(connection.id) is connection:
                        self._drop_topic(connection, topic)
                        self.counters.topics_dropped += 1
        return True

    def _cut(self, connections: list[Connection], identity: Identity, refusal: Refused) -> None:
        for connection in connections:
            if self._hub.get(connection.id) is connection:
                self._end(connection, refusal)
                self.counters.ended_by[getattr(refusal.close_code, "name", str(refusal.close_code))] += 1
        self._journal.info(
            "ended", "a re-check ended the sockets of user %r: %s", identity.user_id, refusal.close_reason
        )

    # -- one question ------------------------------------------------------------------------------------------------

    async def confirm(self, identity: Identity) -> Identity:
        """Checked again second: the identity of somebody who is being connected, as it is now.

        Raises Revoked, or another Refused, for one that does not hold any more; keeps it when nobody can tell.
        """
        fresh = await self._answer(self._recheck, identity)
        return identity if fresh is None else fresh

    async def _answer(self, question: Callable[_P, Awaitable[_T]], *args: _P.args, **kwargs: _P.kwargs) -> _T | None:
        """The application's answer, or None when there is none in time. Raises only Refused, which is an answer."""
        self.counters.questions += 1
        if len(self._stuck) >= _STUCK:
            self.counters.timeouts += 1
            return None

        async def ask() -> _T:
            return await question(*args, **kwargs)

        task = asyncio.get_running_loop().create_task(ask(), name="antiphon-recheck-question")
        try:
            await asyncio.wait({task}, timeout=self._limit_s)
        finally:
            if not task.done():
                self._give_up(task)
        if not task.done():
            self.counters.timeouts += 1
            self._journal.warning(
                "recheck_timeout",
                "a re-check did not answer within %g s, the connection is kept for now: is the database slow?",
                self._limit_s,
            )
            return None
        try:
            return task.result()
        except Refused:
            raise
        except (Exception, asyncio.CancelledError) as error:
            # The task was not cancelled by us, and we were not, or the wait above would have raised.
            self.counters.errors += 1
            self._journal.warning("recheck_error", "a re-check raised, the connection is kept for now", error=error)
            return None

    def _give_up(self, task: asyncio.Task[_T]) -> None:
        """Cancel a question, and own it until it has ended: it may take its time, or catch the cancellation."""
        task.cancel()
        self._stuck.add(task)
        task.add_done_callback(self._stuck.discard)
        task.add_done_callback(_look)


def _key_of(connection: Connection) -> object:
    """What has the same key is asked about once: the sockets of a token, and all guests.

    Never what was proved in different ways: the answer about one says nothing of the other, nor can it be asked again
    by the other's proof.
    """
    identity = identity_of(connection)
    if identity is None:
        return None
    if identity.proved_again is not None:
        return identity.user_id, identity.session_id, identity.proved_again
    return connection.id if identity.session_id is None else identity


def _until(connection: Connection) -> float:
    identity = identity_of(connection)
    return math.inf if identity is None or identity.expires_at_s is None else identity.expires_at_s


def _look(task: asyncio.Future[_T]) -> None:
    """Nobody may be left to look at the exception of a question that took too long."""
    if not task.cancelled():
        task.exception()
