"""A broker inside the process: for a single replica, and for tests that need a broker which fails on demand."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Final

from antiphon.brokers._arrivals import Arrivals
from antiphon.brokers.base import Event, Message, Pong, Subscribed, Unsubscribed
from antiphon.codes import Reason
from antiphon.errors import BrokerError, BrokerRefused, BrokerUnavailable

__all__ = ["MemoryBroker", "MemoryServer"]

COMMAND_LIMIT: Final = 65_536
"""Commands that may wait for a frozen server; the connection that sends one more is ended."""

LISTENER_LIMIT_BYTES: Final = 32 * 1024 * 1024
"""Bytes that may wait for one listener, as with Redis' `client-output-buffer-limit pubsub`; above it, it is ended."""

EVENT_OVERHEAD_BYTES: Final = 100


class MemoryServer:
    """What the connections of `MemoryBroker` share: who listens to what, and the faults that a test asks for.

    It behaves as Redis does: commands are carried out in the order in which they were sent and never within the call;
    a frozen server carries them out when it is thawed, even if their connection is gone by then. One event loop only.
    """

    def __init__(self, *, listener_limit_bytes: int = LISTENER_LIMIT_BYTES) -> None:
        self.down = False
        """Refuse every new connection."""
        self.deaf = False
        """Carry out publications, but hand them to nobody: the fault of a listener at the wrong node."""
        self.publish_error: BrokerRefused | None = None
        """Answer each publication with this error, and do not carry it out."""
        self.published = 0
        """Publications that were carried out."""
        self._listener_limit_bytes = listener_limit_bytes
        self._swallow = 0
        self._routes: dict[str, dict[MemoryListening, None]] = {}
        self._connections: dict[MemoryListening | MemoryPublishing, None] = {}
        self._commands: deque[Callable[[], None]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_scheduled = False
        self._thawed: asyncio.Event | None = None

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return len(self._connections)

    @property
    def is_frozen(self) -> bool:
        """Whether the server holds everything back."""
        return self._thawed is not None

    def listeners(self, route: str) -> int:
        """How many connections are subscribed to `route`."""
        return len(self._routes.get(route, ()))

    def routes(self) -> set[str]:
        """The routes that somebody is subscribed to."""
        return set(self._routes)

    def kill(self) -> None:
        """End every connection. What was sent and not carried out is lost; with `down`, nobody can come back."""
        self._commands.clear()
        for connection in list(self._connections):
            connection.end(BrokerUnavailable("the connection to memory was ended", reason=Reason.CONNECTION_LOST))

    def kill_listening(self) -> None:
        """End every listening connection, and leave the others."""
        for connection in list(self._connections):
            if isinstance(connection, MemoryListening):
                connection.end(BrokerUnavailable("the connection to memory was ended", reason=Reason.CONNECTION_LOST))

    def kill_publishing(self) -> None:
        """End every publishing connection, and leave the others; what was sent is still carried out."""
        for connection in list(self._connections):
            if isinstance(connection, MemoryPublishing):
                connection.end(BrokerUnavailable("the connection to memory was ended", reason=Reason.CONNECTION_LOST))

    def freeze(self) -> None:
        """Hold back replies, deliveries and new connections until `thaw`, without ending anything."""
        if self._thawed is None:
            self._thawed = asyncio.Event()

    def thaw(self) -> None:
        """Carry out what came while frozen, and go on."""
        if self._thawed is not None:
            self._thawed.set()
            self._thawed = None
            self._schedule()

    def swallow_next_reply(self, count: int = 1) -> None:
        """Carry out the next publications and never answer them, nor anything else on their connections.

        On a stream whose answers are told apart by their order alone, one lost answer makes all later ones useless.
        """
        self._swallow = count

    @property
    def is_swallowing(self) -> bool:
        """Whether a reply was swallowed on a connection that is still open, or will be."""
        mute = (isinstance(connection, MemoryPublishing) and connection.is_mute for connection in self._connections)
        return self._swallow > 0 or any(mute)

    # -- for the connections of this module -------------------------------------------------------------------------

    async def _admit(self, connection: MemoryListening | MemoryPublishing) -> None:
        self._loop = asyncio.get_running_loop()
        await asyncio.sleep(0)
        if self._thawed is not None:
            await self._thawed.wait()
        if self.down:
            raise BrokerUnavailable("memory refuses connections: its `down` is set", reason=Reason.UNREACHABLE)
        self._connections[connection] = None

    def _forget(self, connection: MemoryListening | MemoryPublishing) -> None:
        self._connections.pop(connection, None)
        if isinstance(connection, MemoryListening):
            for route in connection.routes:
                self._unlink(connection, route)

    def _send(self, connection: MemoryListening | MemoryPublishing, command: Callable[[], None]) -> None:
        if len(self._commands) >= COMMAND_LIMIT:
            connection.end(BrokerUnavailable(f"memory holds {COMMAND_LIMIT:,} commands already", reason=Reason.BUSY))
            return
        self._commands.append(command)
        self._schedule()

    def _schedule(self) -> None:
        if self._commands and self._thawed is None and not self._is_scheduled and self._loop is not None:
            self._is_scheduled = True
            self._loop.call_soon(self._work)

    def _work(self) -> None:
        self._is_scheduled = False
        while self._commands and self._thawed is None:
            self._commands.popleft()()

    def _subscribe(self, listening: MemoryListening, route: str) -> None:
        if listening in self._connections:
            self._routes.setdefault(route, {})[listening] = None
            listening.routes.add(route)
            self._hand(listening, Subscribed(route))

    def _unsubscribe(self, listening: MemoryListening, route: str) -> None:
        if listening in self._connections:
            self._unlink(listening, route)
            listening.routes.discard(route)
            self._hand(listening, Unsubscribed(route))

    def _unlink(self, listening: MemoryListening, route: str) -> None:
        listeners = self._routes.get(route, {})
        listeners.pop(listening, None)
        if not listeners:
            self._routes.pop(route, None)

    def _hand(self, listening: MemoryListening, event: Event) -> None:
        size = EVENT_OVERHEAD_BYTES + (len(event.payload) if isinstance(event, Message) else 0)
        if listening.arrivals.size_bytes + size > self._listener_limit_bytes:
            listening.end(
                BrokerUnavailable("memory ended a listener that does not read", reason=Reason.CONNECTION_LOST)
            )
            return
        listening.arrivals.add([event], size_bytes=size)

    def _publish(self, route: str, payload: bytes, answer: asyncio.Future[int], publishing: MemoryPublishing) -> None:
        if self.publish_error is not None:
            error = self.publish_error
            if publishing.is_mute:
                return None
            return _fail(answer, BrokerRefused(str(error), reason=error.reason))
        self.published += 1
        listeners = list(self._routes.get(route, ()))
        if not self.deaf:
            message = Message(route, payload)
            for listening in listeners:
                self._hand(listening, message)
        if self._swallow:
            self._swallow -= 1
            publishing.is_mute = True
        if not publishing.is_mute and not answer.done():
            answer.set_result(len(listeners))


class MemoryListening:
    """One life of a connection that hears; see `antiphon.brokers.base.Listening`."""

    def __init__(self, server: MemoryServer) -> None:
        self.routes: set[str] = set()
        self.arrivals = Arrivals()
        self._server = server
        self._ended = False

    async def receive(self) -> Sequence[Event]:
        """Everything that came; waits until there is something. Raises BrokerUnavailable once the connection ended."""
        return await self.arrivals.take()

    def subscribe(self, routes: Collection[str]) -> None:
        """Ask to hear `routes`; each is confirmed by `Subscribed`."""
        for route in routes:
            self._send(partial(self._server._subscribe, self, route))

    def unsubscribe(self, routes: Collection[str]) -> None:
        """Ask to hear `routes` no longer; each is confirmed by `Unsubscribed`."""
        for route in routes:
            self._send(partial(self._server._unsubscribe, self, route))

    def ping(self, token: bytes) -> None:
        """Ask for a `Pong` with this token."""
        self._send(partial(self._server._hand, self, Pong(token)))

    async def close(self) -> None:
        """End the connection. Idempotent."""
        self.end(BrokerUnavailable("this connection to memory was closed", reason=Reason.CLOSED))

    def end(self, error: BrokerError) -> None:
        """End the connection for this reason; `receive` raises it after what came before. The first one counts."""
        if not self._ended:
            self._ended = True
            self._server._forget(self)
            self.arrivals.end(error)

    def _send(self, command: Callable[[], None]) -> None:
        if not self._ended:
            self._server._send(self, command)


class MemoryPublishing:
    """One life of a connection that publishes; see `antiphon.brokers.base.Publishing`."""

    def __init__(self, server: MemoryServer) -> None:
        self._server = server
        self._end: BrokerError | None = None
        self._pending: dict[asyncio.Future[int] | asyncio.Future[None], None] = {}
        self.is_mute = False
        """The server answers nothing on this connection any more."""

    def publish(self, route: str, payload: bytes) -> Awaitable[int]:
        """Send one publication; the future's result is the number of listeners that it was handed to."""
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._ask(answer, partial(self._server._publish, route, payload, answer, self))
        return answer

    def ping(self) -> Awaitable[None]:
        """Ask for an answer, behind everything that was sent before."""
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ask(answer, partial(self._answer_ping, answer))
        return answer

    def _answer_ping(self, answer: asyncio.Future[None]) -> None:
        if not self.is_mute and not answer.done():
            answer.set_result(None)

    @property
    def lost(self) -> bool:
        """Whether the connection has ended."""
        return self._end is not None

    async def close(self) -> None:
        """End the connection; what has no answer yet ends with BrokerUnavailable. Idempotent."""
        self.end(BrokerUnavailable("this connection to memory was closed", reason=Reason.CLOSED))

    def end(self, error: BrokerError) -> None:
        """End the connection for this reason. The first one counts."""
        if self._end is None:
            self._end = error
            self._server._forget(self)
            for answer in list(self._pending):
                _fail(answer, BrokerUnavailable(str(error), reason=error.reason))

    def _ask(self, answer: asyncio.Future[int] | asyncio.Future[None], command: Callable[[], None]) -> None:
        if self._end is not None:
            return _fail(answer, BrokerUnavailable(str(self._end), reason=self._end.reason))
        self._pending[answer] = None
        answer.add_done_callback(lambda done: self._pending.pop(done, None))
        self._server._send(self, command)


class MemoryBroker:
    """A `Broker` in this process. All brokers of one `MemoryServer` hear one another."""

    def __init__(self, server: MemoryServer | None = None) -> None:
        self._server = MemoryServer() if server is None else server

    @property
    def server(self) -> MemoryServer:
        """What this broker connects to."""
        return self._server

    @property
    def address(self) -> str:
        """Always `memory`."""
        return "memory"

    async def open_listening(self) -> MemoryListening:
        """Connect for listening. Raises BrokerUnavailable while the server is down, and waits while it is frozen."""
        listening = MemoryListening(self._server)
        await self._server._admit(listening)
        return listening

    async def open_publishing(self) -> MemoryPublishing:
        """Connect for publishing, as `open_listening` does."""
        publishing = MemoryPublishing(self._server)
        await self._server._admit(publishing)
        return publishing


def _fail(answer: asyncio.Future[int] | asyncio.Future[None], error: BrokerError) -> None:
    if not answer.done():
        answer.set_exception(error)
        answer.exception()  # counts as seen: nobody has to look at the answer to a publication
