"""A manager with what drain, health and metrics need of one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from starlette.websockets import WebSocket

from antiphon.attachment import Attachment
from antiphon.auth import Refused
from antiphon.codes import CloseCode
from antiphon.connection import Connection
from antiphon.health.gate import gate_is_open
from antiphon.health.history import LinkHistory
from antiphon.health.vitals import Vitals
from antiphon.loop_lag import LoopLag
from antiphon.manager import WebSocketManager
from antiphon.roster import _unlisten


class Draining(Refused):
    """This replica is about to end: the client should come back, to another one."""

    close_code = CloseCode.DRAINING
    close_reason = "the server restarts: come back"
    http_status = 503
    kind = "draining"


class DrainableManager(WebSocketManager):
    """`history` and `lag` stand for what the relay and the attachment own."""

    history: LinkHistory | None = None
    lag: LoopLag | None = None

    def _add(self, websocket: WebSocket, user_id: str | None, topics: list[str], attachment: Attachment) -> Connection:
        if not gate_is_open(attachment.loop):
            raise Draining()
        return super()._add(websocket, user_id, topics, attachment)

    @property
    def _is_here(self) -> bool:
        return self._attachment is not None and self._attachment.loop is asyncio.get_running_loop()

    def _open_connections(self) -> Sequence[Connection]:
        return self._hub.connections()

    def _expel(self, connection: Connection, *, code: int, reason: str) -> bool:
        self._roster.let_go(connection)
        topics = self._hub.remove(connection)
        if topics is None:
            return False
        for topic in [None, *topics]:
            _unlisten(connection, topic)
        connection._transport.close(code, reason)
        return True

    async def _settle(self, *, limit_s: float) -> bool:
        attachment = self._attachment
        if attachment is None:
            return True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limit_s
        sent = await attachment.lanes.drain(limit_s=limit_s)
        while (link := attachment.relay.stats()) is not None and link.outbox_messages:
            if loop.time() >= deadline:
                return False
            await asyncio.sleep(0.02)
        return sent

    def vitals(self) -> Vitals:
        draining = self._attachment is not None and not gate_is_open(self._attachment.loop)
        return Vitals(draining=draining, history=self.history, loop_lag=self.lag)
