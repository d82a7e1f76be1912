"""Clients' conversations where the library reads the socket: `WebSocketManager.serve`."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping

from starlette.websockets import WebSocket, WebSocketState

from antiphon.codes import CloseCode
from antiphon.connection import Connection
from antiphon.errors import EnvelopeError
from antiphon.hub import Hub
from antiphon.journal import Journal
from antiphon.wire import codec
from antiphon.wire.frames import Frame

__all__ = ["OnClose", "OnMessage", "Session", "Sessions"]

OnMessage = Callable[[Connection, object], Awaitable[object]]
"""Called with the connection and the decoded JSON message, one at a time and in order for each connection."""

OnClose = Callable[[Connection], object]
"""Called once with a connection that is no longer counted. Must not block; what it raises is logged and counted."""

WAITING = 16
"""Messages of one client that may wait for its handler before its socket is not read any more."""


class Sessions:
    """The sockets of one manager that are read here: what they have in common, and who is at work for them."""

    __slots__ = ("at_work", "forget", "hub", "journal")

    def __init__(self, hub: Hub, *, journal: Journal, forget: Callable[[Connection], object]) -> None:
        self.hub = hub
        self.journal = journal
        self.forget = forget
        """Lets go of a connection whose client has gone."""
        self.at_work: set[asyncio.Task[None]] = set()
        """At most one for each adopted socket, while messages of its client wait."""

    def open(
        self, connection: Connection, *, on_message: OnMessage | None = None, on_close: OnClose | None = None
    ) -> Session:
        """The session of a socket that has just been connected; nothing is read yet."""
        return Session(connection, sessions=self, on_message=on_message, on_close=on_close)

    async def finish(self, *, limit_s: float) -> None:
        """Let the handlers of adopted sockets take the messages that have come in, once nothing more is read.

        What takes longer than `limit_s` is cancelled, and waited for as long again. May be called by a handler, for
        which it does not wait.
        """
        own = asyncio.current_task()
        tasks = [task for task in self.at_work if task is not own]
        if not tasks:
            return
        _, pending = await asyncio.wait(tasks, timeout=limit_s)
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending, timeout=limit_s)


class Session:
    """Reads one socket until its client goes, in the endpoint's coroutine or, where the server allows it, without
    one: then it is called with each event of the adopted socket.
    """

    __slots__ = ("_connection", "_has_ended", "_on_close", "_on_message", "_sessions", "_waiting")

    def __init__(
        self, connection: Connection, *, sessions: Sessions, on_message: OnMessage | None, on_close: OnClose | None
    ) -> None:
        self._connection = connection
        self._sessions = sessions
        self._on_message = on_message
        self._on_close = on_close
        self._has_ended = False
        self._waiting: list[Mapping[str, object]] | None = None

    async def run(self, websocket: WebSocket) -> None:
        """Return when the client, or this replica, has closed the connection."""
        try:
            while websocket.client_state is not WebSocketState.DISCONNECTED:
                event = await websocket.receive()
                if event["type"] == "websocket.disconnect":
                    return
                await self._take(event)
        finally:
            self._end()

    def _end(self) -> None:
        """Say once that it is over; a server may say it twice, at the close frame and when the socket closes."""
        if self._has_ended:
            return
        self._has_ended = True
        sessions = self._sessions
        try:
            sessions.forget(self._connection)
            result = self._on_close(self._connection) if self._on_close is not None else None
            if inspect.iscoroutine(result):
                result.close()
                raise TypeError("on_close is called and not awaited: it must not be `async def`")
        except Exception as error:
            sessions.hub.counters.handler_errors += 1
            sessions.journal.warning("on_close", "on_close of channel %r raised", sessions.hub.channel, error=error)

    def __call__(self, event: Mapping[str, object]) -> None:
        """Take one event of an adopted socket; the handler runs in a task that lives while messages wait."""
        if event["type"] == "websocket.disconnect":
            self._end()
            return
        if self._on_message is None:
            return
        if self._waiting is None:
            self._waiting = [event]
            at_work = self._sessions.at_work
            task = asyncio.get_running_loop().create_task(self._work(), name="antiphon-on-message")
            at_work.add(task)
            task.add_done_callback(at_work.discard)
            return
        self._waiting.append(event)
        if len(self._waiting) >= WAITING:
            self._connection._transport.pause_reading()

    async def _work(self) -> None:
        waiting = self._waiting
        try:
            while waiting:
                await self._take(waiting[0])
                waiting.pop(0)
                if len(waiting) == WAITING // 2:
                    self._connection._transport.resume_reading()
        finally:
            self._waiting = None

    async def _take(self, event: Mapping[str, object]) -> None:
        if self._on_message is None:
            return
        sessions = self._sessions
        hub = sessions.hub
        text = event.get("text")
        if not isinstance(text, str):
            self._on_message = None  # nothing more is taken
            self._connection._transport.close(CloseCode.UNSUPPORTED, "messages are text")
            return
        try:
            message = codec.decode(text.encode())
        except (EnvelopeError, UnicodeEncodeError):
            refusal = {"type": "error", "code": "bad_request", "message": "a message must be JSON text"}
            hub.send(self._connection, Frame.json(codec.encode(refusal)))
            return
        try:
            await self._on_message(self._connection, message)
        except Exception as error:
            hub.counters.handler_errors += 1
            sessions.journal.warning(
                "handler", "on_message of channel %r raised; the connection goes on", hub.channel, error=error
            )
