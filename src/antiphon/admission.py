"""How the sockets of one manager get in on one event loop, and how they are made to leave again.

The order matters: from where and who it is come first, then whether what it asks for makes sense, how many there are,
and what may be heard; only then is the socket accepted. From the beginning a revocation reaches it, and the application
is asked once more before it hears anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from starlette.websockets import WebSocket, WebSocketState

from antiphon.attachment import Attachment
from antiphon.auth import BadRequest, Draining, Forbidden, NotSignedIn, Refused, TooManyConnections, UnsupportedVersion
from antiphon.claims import check_claims
from antiphon.connection import Connection
from antiphon.errors import AntiphonError, UsageError
from antiphon.health.gate import gate_is_open
from antiphon.hub import Hub
from antiphon.identity import Identity
from antiphon.journal import Journal
from antiphon.options import Options
from antiphon.presence import Answerer, Answers
from antiphon.quotas import QuotaCounters, Quotas
from antiphon.revocation import Entrant, Notes, Rechecks, RevocationCounters, Revocations
from antiphon.roster import Roster
from antiphon.security import Security, asked_before, refuse

__all__ = ["Admission"]

_TRIES = 3


_notes_journal = Journal()
"""One for all managers of the process: who is signed out is so on all of their channels, and one line says it."""


class Admission:
    """Lets sockets in and cuts them off; made on the running loop, ends with the attachment."""

    def __init__(
        self,
        hub: Hub,
        roster: Roster,
        attachment: Attachment,
        *,
        options: Options,
        journal: Journal,
        revocation_counters: RevocationCounters,
        quota_counters: QuotaCounters,
        refused: Counter[str],
        drop_topic: Callable[[Connection, str], None],
    ) -> None:
        self._hub = hub
        self._roster = roster
        self._attachment = attachment
        self._options = options
        self._journal = journal
        self._refused = refused
        self.ended: AntiphonError | None = None
        """Why nobody can get in any more."""
        self.security = options.security
        """The manager's own; where it was given none, the first that an endpoint or a dependency has asked."""
        self._is_settled = options.has_own_security
        self._counters = revocation_counters
        self._drop_topic = drop_topic
        self.quotas = Quotas(
            attachment.store,
            per_user=options.limits.connections_per_user,
            per_address=self.security.connections_per_address,
            scope=hub.channel,
            timings=options.quota_timings,
            counters=quota_counters,
        )
        attachment.on_gone = self._on_gone
        self.revocations = Revocations(
            hub,
            _Asking(attachment),
            end=roster.end,
            notes=Notes(attachment.store, scope=hub.channel, counters=revocation_counters, journal=_notes_journal),
            counters=revocation_counters,
        )
        self.rechecks = self._rechecks()
        self._earlier: list[Rechecks] = []

    def _rechecks(self) -> Rechecks:
        security = self.security
        rechecks = Rechecks(
            self._hub,
            recheck=security.recheck,
            may_hear=security.may_still_hear if security.asks_about_topics else None,
            end=self._roster.end,
            drop_topic=self._drop_topic,
            every_s=security.recheck_s,
            counters=self._counters,
        )
        self._attachment.relay.watch(rechecks.on_state)
        return rechecks

    def _use(self, security: Security) -> None:
        """The application asks this one before it connects sockets: it is meant for them, then."""
        self._is_settled = True
        if security is self.security:
            return
        self.security = security
        self._attachment.relay.unwatch(self.rechecks.on_state)
        self._earlier.append(self.rechecks)
        self.rechecks = self._rechecks()

    async def enter(
        self,
        websocket: WebSocket,
        user_id: str | None,
        topics: list[str],
        *,
        identity: Identity | None = None,
        accept: bool = True,
        subprotocol: str | None = None,
        v1: bool = False,
    ) -> Connection:
        """Let a socket in, to hear the channel and topics of it. The call was checked, its texts were not.

        Raises UsageError for a socket that is here already; Refused, in a way that the client can see; `ended`; and
        what the server raises when the client has gone.
        """
        if websocket in self._roster:
            raise UsageError("this socket is connected already")
        if self.ended is not None:
            await self._refuse(websocket, Draining())
        if not self._is_settled and (asked := asked_before(websocket)) is not None:
            self._use(asked)
        security, revocations = self.security, self.revocations
        id = self._roster.new_id(self._attachment)
        # Registered first: a revocation reaches the client from the moment on at which it is known who it is.
        entrant = revocations.register(_user_of(user_id, identity), identity)
        try:
            address = security.address_of(websocket)
            if address is not None:
                # Before anything is asked of the database: who waits to sign in counts too.
                await self._count_in(websocket, _by_address(id), None, address)
            if identity is None:
                identity = await security.admit(websocket, user_id=user_id, subprotocol=subprotocol)
                entrant.user_id, entrant.identity = _user_of(user_id, identity), identity
            else:
                await security.admit_origin(websocket)
                if user_id is not None and user_id != identity.user_id:
                    await self._refuse(websocket, NotSignedIn("the client claims to be another user"))
            await self._check_claims(websocket, entrant, topics)
            user_id = entrant.user_id
            if user_id is not None:
                await self._count_in(websocket, id, user_id, None)
            if identity is None and user_id is not None and security.asks_about_topics:
                identity = Identity(user_id=user_id)  # the application's word for it
            asked_in = self._counters.rechecks
            await self._check_topics(websocket, identity, topics)
            return await self._let_in(
                websocket,
                id,
                entrant,
                topics,
                identity=identity,
                asked_in=asked_in,
                accept=accept,
                subprotocol=subprotocol,
                v1=v1,
            )
        except BaseException:
            self._on_gone(id)
            raise
        finally:
            revocations.unregister(entrant)

    async def refuse_version(self, websocket: WebSocket) -> NoReturn:
        """Refuse a client that speaks no version of the protocol that this server does; its origin is checked first."""
        await self.security.admit_origin(websocket)
        await self._refuse(websocket, UnsupportedVersion())

    async def _check_claims(self, websocket: WebSocket, entrant: Entrant, topics: list[str]) -> None:
        try:
            entrant.user_id = check_claims(entrant.user_id, topics, limits=self._options.limits)
        except BadRequest as refusal:
            # The endpoint may be to blame after all.
            self._journal.warning(
                "bad_request", "a client of channel %r was refused: %.300s", self._hub.channel, refusal.detail
            )
            await self._refuse(websocket, refusal)

    async def _check_topics(self, websocket: WebSocket, identity: Identity | None, topics: Sequence[str]) -> None:
        for topic in topics:
            if not await self.security.may_hear(identity, topic):
                await self._refuse(websocket, Forbidden(f"topic {topic!r}"))

    async def _count_in(self, websocket: WebSocket, id: str, user_id: str | None, address: str | None) -> None:
        try:
            await self.quotas.enter(id, user_id, address)
        except TooManyConnections as refusal:
            await self._refuse(websocket, refusal)

    async def _refuse(self, websocket: WebSocket, refusal: Refused) -> NoReturn:
        self._refused[refusal.kind] += 1
        await refuse(websocket, refusal)

    async def _let_in(
        self,
        websocket: WebSocket,
        id: str,
        entrant: Entrant,
        topics: Sequence[str],
        *,
        identity: Identity | None,
        asked_in: int,
        accept: bool,
        subprotocol: str | None,
        v1: bool,
    ) -> Connection:
        attachment = self._attachment
        listened: list[str | None] = []
        try:
            if accept and websocket.application_state is WebSocketState.CONNECTING:
                await websocket.accept(subprotocol=subprotocol)
            self._check_gate()
            routes = [None, *topics]
            for route in routes:
                attachment.listen(route)
            listened = routes
            for route in routes:
                await attachment.heard(route)
            identity = await self._ask_again(websocket, entrant, topics, identity=identity, asked_in=asked_in)
            self._check_revoked(entrant)
            self._check_gate()
            if self.ended is not None:
                raise self.ended
            # From here to the caller's next line nothing awaits: what it sends first, the client gets first.
            return self._roster.add(
                websocket,
                id,
                entrant.user_id,
                identity=identity,
                topics=topics,
                attachment=attachment,
                limits=self._options.send_limits,
                v1=v1,
            )
        except BaseException:
            for route in listened:
                attachment.unlisten(route)
            raise

    async def _ask_again(
        self,
        websocket: WebSocket,
        entrant: Entrant,
        topics: Sequence[str],
        *,
        identity: Identity | None,
        asked_in: int,
    ) -> Identity | None:
        """Ask about a client once more, and return who it is now. `asked_in` is the re-check that its topics saw last.

        A round of re-checks that begins meanwhile, perhaps since something has changed, does not reach this client:
        then everything is asked anew. Who comes in the middle of one round after the other is seen by the next.
        """
        if self.security.asks_about_topics:
            self.rechecks.start()
        for _ in range(_TRIES):
            round_now = self._counters.rechecks
            fresh = identity if identity is None else await self._confirm(identity)
            if fresh != identity or round_now != asked_in:
                await self._check_topics(websocket, fresh, topics)
            identity, asked_in = fresh, round_now
            await self.revocations.look_up(entrant)
            if self._counters.rechecks == round_now:
                break
        return identity

    async def _confirm(self, identity: Identity) -> Identity:
        """Checked again second: what happened before the client was within the reach of revocations shows here."""
        self.rechecks.start()
        try:
            return await self.rechecks.confirm(identity)
        except Refused as refusal:
            self._refused[refusal.kind] += 1
            raise

    def _check_revoked(self, entrant: Entrant) -> None:
        try:
            self.revocations.check(entrant)
        except Refused as refusal:
            self._refused[refusal.kind] += 1
            raise

    def _check_gate(self) -> None:
        if not gate_is_open(self._attachment.loop):
            self._refused[Draining.kind] += 1
            raise Draining()

    def _on_gone(self, id: str) -> None:
        self.quotas.leave(id)
        self.quotas.leave(_by_address(id))

    async def may_hear(self, connection: Connection, topic: str) -> bool:
        """Whether a connection may hear a topic whose name was checked."""
        while True:
            round_before = self._counters.rechecks
            if not await self.security.may_hear(connection.identity, topic):
                return False
            if self._counters.rechecks == round_before:  # or a re-check has begun meanwhile, and may have missed it
                return True

    async def close(self) -> None:
        """End the tasks, and give the places in the quotas back. Idempotent."""
        self._attachment.relay.unwatch(self.rechecks.on_state)
        self.revocations.close()
        for rechecks in [*self._earlier, self.rechecks]:
            await rechecks.close()
        await self.quotas.close()


class _Asking:
    """The census, which is asked once the first attempt to connect to the broker has ended."""

    def __init__(self, attachment: Attachment) -> None:
        self._attachment = attachment

    def add(self, channel: str, answerer: Answerer, *, about: str) -> None:
        self._attachment.census.add(channel, answerer, about=about)

    def discard(self, channel: str, answerer: Answerer, *, about: str) -> None:
        self._attachment.census.discard(channel, answerer, about=about)

    async def ask(self, channel: str, question: Mapping[str, object], *, timeout_s: float, about: str) -> Answers:
        await self._attachment.relay.first_dial()
        return await self._attachment.census.ask(channel, question, timeout_s=timeout_s, about=about)


def _user_of(user_id: str | None, identity: Identity | None) -> str | None:
    return identity.user_id if user_id is None and identity is not None else user_id


def _by_address(id: str) -> str:
    """A connection counts twice: for its address from the handshake on, for its user once that is known."""
    return f"{id}@"
