"""`disconnect_user` and `disconnect_session`: here at once, and through the census on all other replicas."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from antiphon.auth import Identity, Revoked
from antiphon.errors import ConfigurationError
from antiphon.hub import Hub
from antiphon.presence import Answerer, Answers
from antiphon.revocation.ending import End, RevocationCounters, identity_of
from antiphon.revocation.notes import AHEAD_S, Notes
from antiphon.revocation.recent import RecentRevocations
from antiphon.topics import check_user_id

__all__ = ["Disconnected", "Entrant", "Revocations"]

_ABOUT: Final = "revoke"
_EXCEPTIONS: Final = 1_000
_SESSION_CHARACTERS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Disconnected:
    """What became of a revocation."""

    connections: int
    """Sockets that were cut, on all replicas that answered."""
    replicas: int
    """Replicas that answered, this one included."""
    complete: bool
    """Whether every replica has done it. If not (the broker is away, or one did not answer in time), the others find
    out at their next re-check.
    """


class Asking(Protocol):
    """What revocations need of the census."""

    def add(self, channel: str, answerer: Answerer, *, about: str) -> None: ...
    def discard(self, channel: str, answerer: Answerer, *, about: str) -> None: ...
    async def ask(self, channel: str, question: Mapping[str, object], *, timeout_s: float, about: str) -> Answers: ...


class Entrant:
    """Somebody who is being connected: not in the hub yet, and already within the reach of revocations."""

    __slots__ = ("after", "identity", "revoked", "user_id")

    def __init__(self, user_id: str | None, identity: Identity | None, *, after: int) -> None:
        self.user_id = user_id
        """Who it is, as far as that is known; it may be said later, before `check`."""
        self.identity = identity
        """The same for this one."""
        self.after = after
        """The number of the last revocation before it."""
        self.revoked = False


class Revocations:
    """Cuts the sockets of a user or a session, on this replica and through the census on all others."""

    def __init__(
        self,
        hub: Hub,
        census: Asking,
        *,
        end: End,
        notes: Notes | None = None,
        counters: RevocationCounters | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.counters = counters if counters is not None else RevocationCounters()
        self._notes = notes
        self._clock = clock
        self._hub = hub
        self._census = census
        self._end = end
        self._entrants: set[Entrant] = set()
        self._recent = RecentRevocations(clock)
        census.add(hub.channel, self._answer, about=_ABOUT)

    def close(self) -> None:
        """Answer no more. Idempotent."""
        self._census.discard(self._hub.channel, self._answer, about=_ABOUT)

    async def disconnect_user(
        self, user_id: str, *, except_: Collection[str | None] = (), timeout_s: float = 1.0
    ) -> Disconnected:
        """End all sockets of a user, on all replicas, but those of the sessions or connections named in `except_`.

        They are closed with code 4502, which tells clients not to come back. Change the database first: whoever
        connects at this moment is asked about there once more, so that nobody slips through. Who signed in, or got a
        ticket, before this and connects within the next 35 s is refused by the replicas that answered; who has a ticket
        also by those that nobody uses yet, where there is a store that replicas share. A None in `except_` is left out.

        On this replica it is done when the first await returns; on the others when they have answered, or, where the
        result is not `complete`, at their next re-check. A replica that has answered delivers nothing more to them.
        Never raises because the broker is away. Raises InvalidUserId; and ConfigurationError for an `except_` that
        makes no sense, when the sockets here were cut, but for what it names all the same.
        """
        return await self._disconnect({"user": check_user_id(user_id)}, except_, timeout_s)

    async def disconnect_session(
        self, session_id: str, *, except_: Collection[str | None] = (), timeout_s: float = 1.0
    ) -> Disconnected:
        """End all sockets of a session, known by `Identity.session_id`. As `disconnect_user` in everything else."""
        session: object = session_id
        if not isinstance(session, str) or not 0 < len(session) <= _SESSION_CHARACTERS:
            raise ConfigurationError("session_id is the session_id of an Identity: a text of at most 1,000 characters")
        return await self._disconnect({"session": session}, except_, timeout_s)

    async def _disconnect(
        self, whom: Mapping[str, object], except_: Collection[str | None], timeout_s: float
    ) -> Disconnected:
        items = _listed(except_)
        question = {**whom, "except": items}
        # Here at once, whatever the broker does or except_ holds; all others, and other managers of the channel here,
        # by the census.
        here = self._cut(question)
        noting = self._leave_note(whom, items)
        try:
            _check_exceptions(items, except_)
            if noting is not None:  # first, so that whoever comes too late to be asked finds the note
                await asyncio.wait({noting}, timeout=AHEAD_S)
            answers = await self._census.ask(self._hub.channel, question, timeout_s=timeout_s, about=_ABOUT)
        finally:
            if noting is not None:
                await noting
        cut = [answer.get("cut") for answer in answers.data]
        # An earlier release answers something else, and has cut nobody.
        known = [number for number in cut if type(number) is int and number >= 0]
        complete = answers.complete and len(known) == len(cut)
        return Disconnected(here + sum(known), answers.replicas, complete)

    def _leave_note(self, whom: Mapping[str, object], items: list[object]) -> asyncio.Task[None] | None:
        (kind, name), spared = next(iter(whom.items())), [item for item in items if isinstance(item, str)]
        if self._notes is None or not isinstance(name, str):
            return None
        return self._notes.leave(kind, name, spared=spared[:_EXCEPTIONS], at_s=self._clock())

    def _answer(self, question: Mapping[str, object]) -> Mapping[str, object]:
        return {"cut": self._cut(question)}

    def _cut(self, question: Mapping[str, object]) -> int:
        """Cut whom the question names. Nothing of it awaits, so nothing is delivered in between."""
        excepted = question.get("except")
        spared = {item for item in excepted if isinstance(item, str)} if isinstance(excepted, list) else set()
        user, session = question.get("user"), question.get("session")
        if isinstance(user, str):
            self.counters.forgotten += self._recent.add("user", user, spared=frozenset(spared))
        elif isinstance(session, str):
            self.counters.forgotten += self._recent.add("session", session, spared=frozenset(spared))
        for entrant in self._entrants:
            if _is_meant(entrant.user_id, entrant.identity, user, session, spared):
                entrant.revoked = True
        candidates = self._hub.of_user(user) if isinstance(user, str) else self._hub.connections()
        cut = 0
        for connection in candidates:
            if connection.id in spared:
                continue
            if _is_meant(connection.user_id, identity_of(connection), user, session, spared):
                self._end(connection, Revoked())
                cut += 1
        self.counters.revoked += cut
        return cut

    def register(self, user_id: str | None, identity: Identity | None) -> Entrant:
        """Registered first: from here on a revocation reaches this client, though it hears nothing yet.

        It may be registered before anybody knows who it is: set `user_id` and `identity` of the entrant when they are
        known. Then ask the application once more (`Rechecks.confirm`), call `check`, and put the connection into the
        hub without another await. `unregister` in any case.
        """
        entrant = Entrant(user_id, identity, after=self._recent.number)
        # Looked at now, and again by `check`: what is remembered now may have been forgotten by then.
        entrant.revoked = self._is_revoked(entrant)
        self._entrants.add(entrant)
        return entrant

    def unregister(self, entrant: Entrant) -> None:
        """The client is in the hub now, or was not let in. Idempotent."""
        self._entrants.discard(entrant)

    async def look_up(self, entrant: Entrant) -> None:
        """Ask the store about revocations that this replica was not there to hear of; `check` then knows."""
        if self._notes is not None and await self._notes.reach(entrant.user_id, entrant.identity):
            entrant.revoked = True

    def check(self, entrant: Entrant) -> None:
        """Raise Revoked for a client that was revoked while it connected, or after its identity was proved."""
        if entrant.revoked or self._is_revoked(entrant):
            entrant.revoked = True
            self.counters.entering += 1
            raise Revoked("revoked while it connected")

    def _is_revoked(self, entrant: Entrant) -> bool:
        return self._recent.reach(entrant.user_id, entrant.identity, after=entrant.after)


def _is_meant(
    user_id: str | None, identity: Identity | None, user: object, session: object, spared: Collection[str]
) -> bool:
    session_id = None if identity is None else identity.session_id
    if session_id is not None and session_id in spared:
        return False
    if isinstance(user, str):
        return user_id == user
    return isinstance(session, str) and session_id == session


def _listed(except_: object) -> list[object]:
    """What `except_` holds; None, as the session id of somebody who has none, names nobody."""
    if isinstance(except_, str):
        return [except_]
    return [item for item in except_ if item is not None] if isinstance(except_, Iterable) else []


def _check_exceptions(items: list[object], except_: object) -> None:
    if except_ is not None and not isinstance(except_, Iterable):
        raise ConfigurationError(f"except_ is a collection of session ids or connection ids, not {except_!r}")
    if not all(isinstance(item, str) for item in items):
        raise ConfigurationError("except_ holds session ids or connection ids, which are texts")
    if len(items) > _EXCEPTIONS:
        raise ConfigurationError(f"except_ has {len(items)} entries, the limit is {_EXCEPTIONS:,}")
