"""Clients' conversations where the library reads the socket: `WebSocketManager.serve`."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from antiphon.auth import Refused, close_quietly
from antiphon.codes import CloseCode
from antiphon.connection import Connection
from antiphon.conversation import Conversation, Conversations, Heartbeat, OnConnect, OnMessage, Rest
from antiphon.hub import Hub
from antiphon.journal import Journal

__all__ = ["OnClose", "OnConnect", "OnMessage", "Session", "Sessions"]

OnClose = Callable[[Connection], object]
"""Called once with a connection that is no longer counted. Must not block; what it raises is logged and counted."""

WAITING = 16
"""Messages of one client that may wait for its handler before its socket is not read any more."""
MOST_WAITING = 1024
"""Messages that wait at all: what the server has received before it stops reading is still handed over."""
TURN_MESSAGES = 256
"""Messages that one client's endpoint takes between two turns of the event loop: a server may hold many thousands."""
_CUT = frozenset((CloseCode.NOT_SIGNED_IN, CloseCode.REVOKED, CloseCode.FORBIDDEN))
"""The client may not be here any more: what it said before, and nobody has looked at, counts no longer."""


class Sessions:
    """The sockets of one manager that are read here: what they have in common, and who is at work for them."""

    __slots__ = ("_quiet", "at_work", "close_s", "forget", "hub", "in_endpoints", "journal")

    def __init__(
        self, hub: Hub, *, journal: Journal, forget: Callable[[Connection], object], close_s: float = 1.0
    ) -> None:
        self.hub = hub
        self.close_s = close_s
        """How long a close frame may take."""
        self.journal = journal
        self.forget = forget
        """Lets go of a connection whose client has gone."""
        self.at_work: set[asyncio.Task[None]] = set()
        """At most one for each adopted socket, while messages of its client wait."""
        self.in_endpoints: set[asyncio.Task[Any] | None] = set()
        """The tasks of endpoints whose `serve` is at work on a message, or on a greeting."""
        self._quiet: asyncio.Future[None] | None = None

    def open(
        self,
        connection: Connection,
        conversations: Conversations,
        *,
        on_message: OnMessage | None = None,
        on_close: OnClose | None = None,
        heartbeat: Heartbeat = "none",
        speaks_v1: bool = False,
    ) -> Session:
        """The session of a socket that has just been connected; nothing is read yet, but who expects it is welcomed.

        Where the server can be told, a message of more than `Limits.frame_bytes` is not even received as a whole.
        """
        connection._transport.limit_messages(conversations.limits.frame_bytes)
        conversation = conversations.begin(connection, on_message=on_message, heartbeat=heartbeat, speaks_v1=speaks_v1)
        return Session(connection, conversation, sessions=self, on_close=on_close)

    async def finish(self, *, limit_s: float) -> None:
        """Let handlers end: those of adopted sockets with all that has come in, the others with what they have begun.

        What takes longer than `limit_s` is cancelled and waited for as long again where its task is the library's own;
        what runs in an endpoint goes on there. May be called by a handler, for which it does not wait.
        """
        own = asyncio.current_task()
        tasks = [task for task in self.at_work if task is not own]
        endpoints = asyncio.ensure_future(self._endpoints_end(own)) if self.in_endpoints - {own} else None
        everything = tasks if endpoints is None else [*tasks, endpoints]
        if not everything:  # the usual case
            return
        try:
            _, pending = await asyncio.wait(everything, timeout=limit_s)
        finally:
            if endpoints is not None:
                endpoints.cancel()
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending, timeout=limit_s)

    async def _endpoints_end(self, own: asyncio.Task[Any] | None) -> None:
        while self.in_endpoints - {own}:
            self._quiet = self._quiet or asyncio.get_running_loop().create_future()
            await asyncio.shield(self._quiet)

    def end_in_endpoint(self, task: asyncio.Task[Any] | None) -> None:
        """An endpoint's `serve` has done its work."""
        self.in_endpoints.discard(task)
        quiet, self._quiet = self._quiet, None
        if quiet is not None and not quiet.done():
            quiet.set_result(None)


class Session:
    """Reads one socket until its client goes, in the endpoint's coroutine or, where the server allows it, without
    one: then it is called with each event of the adopted socket.
    """

    __slots__ = ("_connection", "_conversation", "_has_ended", "_on_close", "_sessions", "_waiting")

    def __init__(
        self, connection: Connection, conversation: Conversation, *, sessions: Sessions, on_close: OnClose | None
    ) -> None:
        self._connection = connection
        self._conversation = conversation
        self._sessions = sessions
        self._on_close = on_close
        self._has_ended = False
        self._waiting: list[Mapping[str, object]] | None = None
        """What came while a message is at work."""

    async def greet(self, websocket: WebSocket, on_connect: OnConnect) -> None:
        """Await `on_connect`, before anything of the client is read.

        What it raises ends the connection, and goes on to the caller; `on_close` is not called then.
        """
        sessions, task = self._sessions, asyncio.current_task()
        sessions.in_endpoints.add(task)
        try:
            await self._conversation.greet(self._connection, on_connect)
        except BaseException as error:
            is_here = sessions.hub.get(self._connection.id) is self._connection
            if is_here and isinstance(error, Exception):
                self._conversation.count_greeting(error)
            self._has_ended = True
            self._let_go()
            self._conversation.end()
            if isinstance(error, Exception):
                await asyncio.sleep(0)  # what was sent before, or an earlier end of it, has its turn
            if isinstance(error, Refused):
                close_quietly(websocket)  # Starlette closes it, with the code of the refusal
            elif isinstance(error, Exception) and is_here:
                await self._say_failed(websocket)
            raise
        finally:
            sessions.end_in_endpoint(task)

    async def _say_failed(self, websocket: WebSocket) -> None:
        """Tell the client that it is the server's fault; servers just drop the connection when an endpoint raises."""
        with contextlib.suppress(OSError, RuntimeError, TimeoutError, WebSocketDisconnect):
            async with asyncio.timeout(self._sessions.close_s):
                await websocket.close(CloseCode.INTERNAL, "the server failed")

    async def run(self, websocket: WebSocket) -> None:
        """Return when the client, or this replica, has closed the connection."""
        code: object = None
        sessions, task = self._sessions, asyncio.current_task()
        left = TURN_MESSAGES
        try:
            while websocket.client_state is not WebSocketState.DISCONNECTED:
                event = await websocket.receive()
                if event["type"] == "websocket.disconnect":
                    code = event.get("code")
                    return
                rest = self._conversation.take(event)
                if rest is not None:
                    sessions.in_endpoints.add(task)
                    try:
                        await rest
                    finally:
                        sessions.end_in_endpoint(task)
                left -= 1
                if not left:  # nothing above need ever wait: let the writer and everybody else have their turn
                    await asyncio.sleep(0)
                    left = TURN_MESSAGES
        finally:
            self._end(code)

    def _end(self, code: object) -> None:
        """It is over, and nothing waits."""
        self._has_ended = True
        self._let_go()
        self._finish(code)

    def _let_go(self) -> None:
        """Count the connection no longer."""
        try:
            self._sessions.forget(self._connection)
        except Exception as error:
            self._log(error)

    def _finish(self, code: object) -> None:
        """Say that everything that the client sent was taken."""
        self._conversation.end(code)
        try:
            result = self._on_close(self._connection) if self._on_close is not None else None
            if inspect.iscoroutine(result):
                result.close()
                raise TypeError("on_close is called and not awaited: it must not be `async def`")
        except Exception as error:
            self._log(error)

    def _log(self, error: Exception) -> None:
        sessions = self._sessions
        sessions.hub.counters.handler_errors += 1
        sessions.journal.warning("on_close", "on_close of channel %r raised", sessions.hub.channel, error=error)

    def __call__(self, event: Mapping[str, object]) -> None:
        """Take one event of an adopted socket; the handler runs in a task that lives while messages wait.

        The connection is let go as soon as the client has gone, but its end is told behind what waits. Unless the
        client lost the right to be here: then nothing more of it reaches the handler. Nothing is taken behind the end,
        which a server may say twice, at the close frame and when the socket closes.
        """
        if self._has_ended:
            return
        waiting = self._waiting
        if event["type"] == "websocket.disconnect":
            code = event.get("code")
            if waiting is None:
                self._end(code)
                return
            self._has_ended = True
            if code in _CUT:
                self._conversation.end(code)
            self._let_go()
            waiting.append(event)
        elif waiting is None:
            rest = self._conversation.take(event)
            if rest is not None:
                self._waiting = []
                at_work = self._sessions.at_work
                task = asyncio.get_running_loop().create_task(self._work(rest), name="antiphon-on-message")
                at_work.add(task)
                task.add_done_callback(at_work.discard)
        elif len(waiting) >= MOST_WAITING:
            self._conversation.refuse_unread()
        else:
            waiting.append(event)
            if len(waiting) >= WAITING - 1:  # one is at work
                self._connection._transport.pause_reading()

    async def _work(self, rest: Rest | None) -> None:
        waiting = self._waiting
        assert waiting is not None
        try:
            while True:
                if rest is not None:
                    await rest
                if not waiting or waiting[0]["type"] == "websocket.disconnect":
                    return
                rest = self._conversation.take(waiting.pop(0))
                if len(waiting) == WAITING // 2:
                    self._connection._transport.resume_reading()
        finally:
            self._waiting = None
            if self._has_ended:  # which is the last that waits
                self._finish(waiting[-1].get("code"))
