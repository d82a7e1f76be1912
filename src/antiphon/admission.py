"""How the sockets of one manager get in on one event loop, and how they are made to leave again.

The order matters: what is wrong with the call comes first, then who it is and from where, how many there are, and what
may be heard; only then is the socket accepted. From there on a revocation reaches it, and the application is asked once
more before it hears anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from starlette.websockets import WebSocket, WebSocketState

from antiphon.attachment import Attachment
from antiphon.auth import Draining, Forbidden, Refused, TooManyConnections
from antiphon.connection import Connection
from antiphon.errors import AntiphonError
from antiphon.health.gate import gate_is_open
from antiphon.hub import Hub
from antiphon.identity import Identity
from antiphon.options import Options
from antiphon.quotas import Quotas
from antiphon.revocation import Entrant, Rechecks, RevocationCounters, Revocations
from antiphon.roster import Roster
from antiphon.security import refuse

__all__ = ["Admission"]


class Admission:
    """Lets sockets in and cuts them off; made on the running loop, ends with the attachment."""

    def __init__(
        self,
        hub: Hub,
        roster: Roster,
        attachment: Attachment,
        *,
        options: Options,
        revocation_counters: RevocationCounters,
        refused: Counter[str],
        drop_topic: Callable[[Connection, str], None],
    ) -> None:
        self._hub = hub
        self._roster = roster
        self._attachment = attachment
        self._options = options
        self._refused = refused
        self.ended: AntiphonError | None = None
        """Why nobody can get in any more."""
        security = self._security = options.security
        self.quotas = Quotas(
            attachment.store,
            per_user=options.limits.connections_per_user,
            per_address=security.connections_per_address,
            scope=hub.channel,
            timings=options.quota_timings,
        )
        attachment.on_gone = self._on_gone
        self.revocations = Revocations(hub, attachment.census, end=roster.end, counters=revocation_counters)
        self.rechecks = Rechecks(
            hub,
            recheck=security.recheck,
            may_hear=security.may_still_hear if security.asks_about_topics else None,
            end=roster.end,
            drop_topic=drop_topic,
            every_s=security.recheck_s,
            counters=revocation_counters,
        )
        attachment.relay.watch(self.rechecks.on_state)

    async def enter(
        self,
        websocket: WebSocket,
        user_id: str | None,
        topics: Sequence[str],
        *,
        identity: Identity | None = None,
        accept: bool = True,
        subprotocol: str | None = None,
        v1: bool = False,
    ) -> Connection:
        """Let a socket in, to hear the channel and topics of it. What was checked of the call before is not looked at.

        Raises Refused, in a way that the client can see; `ended`; and what the server raises when the client has gone.
        """
        security = self._security
        id = self._roster.new_id(self._attachment)
        by_address = _by_address(id)
        try:
            address = security.address_of(websocket)
            if address is not None:
                # Before anything is asked of the database: who waits to sign in counts too.
                await self._count_in(websocket, by_address, None, address)
            if identity is None:
                identity = await security.admit(websocket, user_id=user_id)
            else:
                await security.admit_origin(websocket)
            if user_id is None and identity is not None:
                user_id = identity.user_id
            if user_id is not None:
                await self._count_in(websocket, id, user_id, None)
            for topic in topics:
                if not await security.may_hear(identity, topic):
                    await self._refuse(websocket, Forbidden(f"topic {topic!r}"))
            return await self._let_in(
                websocket, id, user_id, topics, identity=identity, accept=accept, subprotocol=subprotocol, v1=v1
            )
        except BaseException:
            self._on_gone(id)
            raise

    async def _count_in(self, websocket: WebSocket, id: str, user_id: str | None, address: str | None) -> None:
        try:
            await self.quotas.enter(id, user_id, address)
        except TooManyConnections as refusal:
            await self._refuse(websocket, refusal)

    async def _refuse(self, websocket: WebSocket, refusal: Refused) -> None:
        self._refused[refusal.kind] += 1
        await refuse(websocket, refusal)

    async def _let_in(
        self,
        websocket: WebSocket,
        id: str,
        user_id: str | None,
        topics: Sequence[str],
        *,
        identity: Identity | None,
        accept: bool,
        subprotocol: str | None,
        v1: bool,
    ) -> Connection:
        attachment = self._attachment
        listened: list[str | None] = []
        entrant = self.revocations.register(user_id, identity)
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
            if identity is not None:
                identity = await self._confirm(identity)
            self._check_revoked(entrant)
            self._check_gate()
            if self.ended is not None:
                raise self.ended
            # From here to the caller's next line nothing awaits: what it sends first, the client gets first.
            return self._roster.add(
                websocket,
                id,
                user_id,
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
        finally:
            self.revocations.unregister(entrant)

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
        return await self._security.may_hear(connection.identity, topic)

    async def close(self) -> None:
        """End the tasks, and give the places in the quotas back. Idempotent."""
        self._attachment.relay.unwatch(self.rechecks.on_state)
        self.revocations.close()
        await self.rechecks.close()
        await self.quotas.close()


def _by_address(id: str) -> str:
    """A connection counts twice: for its address while it signs in, for its user from then on."""
    return f"{id}@"
