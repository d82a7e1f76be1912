"""`WebSocketManager`: the class that applications use. It composes the rest."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import weakref
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Literal, NamedTuple, TypeAlias, TypeVar

from starlette.websockets import WebSocket

from antiphon.attachment import Attachment
from antiphon.brokers import broker_for
from antiphon.brokers.base import Broker
from antiphon.codes import CloseCode, Reason, State
from antiphon.connection import Connection
from antiphon.errors import ConfigurationError, ManagerClosed, NotConnected, UsageError, WrongEventLoop
from antiphon.hub import Hub, MessageFilter
from antiphon.journal import Journal
from antiphon.limits import Limits
from antiphon.outbox import OutboxLimits
from antiphon.presence import ClusterCounts
from antiphon.publication import frame_of, new_publication
from antiphon.session import OnMessage, Session
from antiphon.settings import Timings, read_settings
from antiphon.stats import ManagerStats
from antiphon.topics import check_channel, check_topic, check_user_id
from antiphon.transports.base import SendLimits
from antiphon.transports.choice import transport_for

__all__ = ["OutagePolicy", "Receipt", "WebSocketManager", "managers_here"]

OutagePolicy: TypeAlias = Literal["local", "fail"]
"""What happens to a publication that the broker does not take: `"local"` delivers it to this replica's clients at once
and to the others later; `"fail"` delivers nothing and raises PublishFailed."""

_CENSUS_S = 1.0
_Options = TypeVar("_Options", Limits, SendLimits, OutboxLimits, Timings)
_connection_numbers = itertools.count(1)
_managers: weakref.WeakSet[WebSocketManager] = weakref.WeakSet()


def managers_here() -> list[WebSocketManager]:
    """All managers of this process that are not closed, in no particular order."""
    return [manager for manager in _managers if manager.state is not State.CLOSED]


class Receipt(NamedTuple):
    """What became of one publication."""

    id: str
    """The publication's id, unique across all replicas."""
    scope: Literal["cluster", "local"]
    """`"cluster"`: the broker took it, and every replica hears it. `"local"`: so far only this replica's clients
    had it.
    """
    replicas: int | None
    """Subscribers that the broker handed it to: the replicas with listeners, and whoever else listens there, as
    `antiphon tail` does. None when `scope` is `"local"`."""
    connections: int
    """Sockets of this replica that it was given to. Giving is not receiving: a client may be gone without a sign."""
    queued: bool
    """Whether it waits in the outbox, to reach the other replicas when the broker is back."""
    reason: Reason | None
    """Why `scope` is `"local"`; None otherwise."""


class WebSocketManager:
    """The WebSockets of one channel, on however many replicas.

    Construct it at import time; no event loop is needed and no connection is made before its first use. Everything else
    happens on the event loop of that first use, and no method may be called from another thread.

    Args:
        channel: The name of the Redis pub/sub channel, `[A-Za-z0-9_.:-]{1,128}`.
        url: Address of Redis or Valkey. Without it, `ANTIPHON_BROKER_URL`, else `REDIS_URL` of the environment; without
            those, and with `USE_REDIS_WEBSOCKET=false`, single-replica mode.
        broker: A broker object instead of an address, for tests and for brokers of your own.
        outage: What happens, unless a call says otherwise, to a publication that the broker does not take.
        limits: Bounds on what the application sends and clients ask for.
        send_limits: How much may wait for one client before it is cut off.
        outbox_limits: How much is kept for the other replicas while the broker is away.
        timings: Deadlines of the broker link. Managers of one address share a link if these and the outbox limits are
        equal.

    Raises:
        InvalidChannelName, InvalidBrokerURL, ConfigurationError: at once, naming the fix.
    """

    def __init__(
        self,
        channel: str,
        *,
        url: str | None = None,
        broker: Broker | None = None,
        outage: OutagePolicy = "local",
        limits: Limits | None = None,
        send_limits: SendLimits | None = None,
        outbox_limits: OutboxLimits | None = None,
        timings: Timings | None = None,
    ) -> None:
        self.channel = check_channel(channel)
        self._outage = _check_outage(outage)
        self._limits = _checked("limits", limits, Limits)
        self._send_limits = _checked("send_limits", send_limits, SendLimits)
        self._outbox_limits = _checked("outbox_limits", outbox_limits, OutboxLimits)
        self._timings = _checked("timings", timings, Timings)
        if broker is not None and url is not None:
            raise ConfigurationError("give either url= or broker=, not both")
        if broker is not None and not isinstance(broker, Broker):
            raise ConfigurationError("broker= takes a broker object; an address goes into url=")
        self._broker_url = read_settings(url).broker_url if broker is None else None
        self._broker = broker if broker is not None else broker_for(self._broker_url)
        self._journal = Journal()
        self._hub = Hub(self.channel, journal=self._journal)
        self._connections: dict[WebSocket, Connection] = {}
        self._gone: weakref.WeakSet[WebSocket] = weakref.WeakSet()
        """Sockets that were lost before their endpoint has read everything that their clients sent."""
        self._attachment: Attachment | None = None
        self._closed = False
        self._stopped = False
        _managers.add(self)

    def __repr__(self) -> str:
        return f"<WebSocketManager channel={self.channel!r} state={self.state} connections={len(self._hub)}>"

    # -- connections ---------------------------------------------------------------------------------------------

    async def connect(
        self,
        websocket: WebSocket,
        user_id: str | None = None,
        *,
        topics: Iterable[str] = (),
        accept: bool = True,
        subprotocol: str | None = None,
    ) -> Connection:
        """Accept a socket and let it hear the channel, and `topics` of it.

        When it returns, the broker has confirmed that this replica hears all of them, or is known to be away: what is
        published from then on reaches the socket. A user may hold many sockets. With `accept=False` the application has
        accepted the socket itself.

        Raises InvalidUserId, InvalidTopicName and UsageError before the socket is accepted; whatever the server raises
        when the client has gone meanwhile.
        """
        if user_id is not None:
            user_id = check_user_id(user_id)
        if isinstance(topics, str):
            raise ConfigurationError(f"topics={topics!r} is one text: give a list of topics, as in [{topics!r}]")
        wanted = [check_topic(topic) for topic in dict.fromkeys(topics)]
        if len(wanted) > self._limits.topics_per_connection:
            raise UsageError(f"{len(wanted)} topics, the limit of a connection is {self._limits.topics_per_connection}")
        if websocket in self._connections:
            raise UsageError("this socket is connected already")
        attachment = self._attach()
        if accept:
            await websocket.accept(subprotocol=subprotocol)
        routes = [None, *wanted]
        for route in routes:
            attachment.listen(route)
        try:
            for route in routes:
                await attachment.heard(route)
            # From here to the caller's next line nothing awaits: what it sends first is the first that the client gets.
            return self._add(websocket, user_id, wanted, attachment)
        except BaseException:
            for route in routes:
                attachment.unlisten(route)
            raise

    def _add(self, websocket: WebSocket, user_id: str | None, topics: list[str], attachment: Attachment) -> Connection:
        if self._closed:
            raise ManagerClosed(f"the manager of channel {self.channel!r} was closed while the socket connected")
        if self._attachment is not attachment:
            raise UsageError(f"the manager of channel {self.channel!r} was stopped while the socket connected")
        if websocket in self._connections:
            raise UsageError("this socket was connected twice at once")
        id = f"{attachment.relay.replica}-{next(_connection_numbers)}"
        on_lost = partial(self._on_lost, id)
        transport = transport_for(websocket, lanes=attachment.lanes, on_lost=on_lost, limits=self._send_limits)
        connection = Connection(id, user_id=user_id, transport=transport)
        connection._socket, connection._home = websocket, attachment
        self._connections[websocket] = connection
        self._hub.add(connection)
        for topic in topics:
            self._hub.subscribe(connection, topic)
        return connection

    def disconnect(self, websocket: WebSocket) -> None:
        """Forget a socket; nothing that is published afterwards reaches it. Idempotent; does not close the socket.

        What was published before is still sent, as far as the socket takes it.
        """
        connection = self._connections.get(websocket)
        if connection is not None:
            self._forget(connection)
        self._gone.discard(websocket)

    def _on_lost(self, id: str, reason: str) -> None:
        connection = self._hub.get(id)
        if connection is None:
            return
        if isinstance(connection._socket, WebSocket):
            self._gone.add(connection._socket)
        if self._forget(connection) and reason != "gone":
            self._hub.counters.lost[reason] += 1

    def _forget(self, connection: Connection) -> bool:
        self._let_go(connection)
        topics = self._hub.remove(connection)
        if topics is None:
            return False
        for topic in [None, *topics]:
            _unlisten(connection, topic)
        connection._transport.detach()
        return True

    def _let_go(self, connection: Connection) -> None:
        """Know the connection by its WebSocket no longer."""
        socket, connection._socket = connection._socket, None
        if isinstance(socket, WebSocket):
            self._connections.pop(socket, None)

    async def serve(
        self,
        websocket: WebSocket,
        user_id: str | None = None,
        *,
        topics: Iterable[str] = (),
        subprotocol: str | None = None,
        on_message: OnMessage | None = None,
        on_close: Callable[[Connection], object] | None = None,
    ) -> None:
        """Connect a socket, read it until the client goes, and disconnect it.

        `on_message(connection, message)` gets each message as decoded JSON, one at a time. What is not JSON is answered
        with an `error` message. A handler that raises is logged and counted, and the connection goes on. Raises what
        `connect` raises.

        It returns when nothing is left to do for the endpoint: with the end of the connection, and on the library's own
        uvicorn protocol as soon as the socket is connected, since the socket is read there without a coroutine for each
        client. What has to be done when the client goes belongs into `on_close(connection)`, not behind this call: it
        is called in either case once the connection is no longer counted, and must neither block nor raise.
        """
        connection = await self.connect(websocket, user_id, topics=topics, subprotocol=subprotocol)

        def on_end(connection: Connection) -> None:
            self._forget(connection)
            if on_close is not None:
                on_close(connection)

        session = Session(connection, hub=self._hub, on_message=on_message, on_end=on_end, journal=self._journal)
        if connection._transport.adopt(session.receive):
            self._let_go(connection)
        else:
            await session.run(websocket)

    async def subscribe(self, websocket: WebSocket | Connection, topic: str) -> None:
        """Let a connected socket hear a topic of the channel too; when it returns, it does. Idempotent.

        Does nothing for a client that has just gone. Raises NotConnected for a socket that was never connected, or was
        disconnected; InvalidTopicName; and UsageError above `Limits.topics_per_connection`.
        """
        topic = check_topic(topic)
        connection, attachment = self._connection(websocket), self._attach()
        if connection is None:
            return
        if topic not in connection.topics and len(connection.topics) >= self._limits.topics_per_connection:
            raise UsageError(f"the limit is {self._limits.topics_per_connection} topics a connection")
        if self._hub.subscribe(connection, topic):
            attachment.listen(topic)
        await attachment.heard(topic)

    def unsubscribe(self, websocket: WebSocket | Connection, topic: str) -> None:
        """Let a socket hear a topic no longer. Idempotent."""
        connection = websocket if isinstance(websocket, Connection) else self._connections.get(websocket)
        if connection is not None and self._hub.unsubscribe(connection, topic):
            _unlisten(connection, topic)

    def _connection(self, websocket: WebSocket | Connection) -> Connection | None:
        """The connection of a socket; None for one that is gone, which its endpoint will find out when it receives."""
        if isinstance(websocket, Connection):
            return websocket if self._hub.get(websocket.id) is websocket else None
        connection = self._connections.get(websocket)
        if connection is None and websocket not in self._gone:
            raise NotConnected("this socket is not connected to this manager: call connect() first")
        return connection

    # -- messages ------------------------------------------------------------------------------------------------

    async def broadcast(
        self,
        message: object,
        target_user_ids: Collection[str] | None = None,
        *,
        topic: str | None = None,
        exclude: WebSocket | Connection | str | Iterable[WebSocket | Connection | str] | None = None,
        outage: OutagePolicy | None = None,
        expires_s: float | None = None,
        ephemeral: bool = False,
    ) -> Receipt:
        """Send a message to every client of the channel, on every replica; each gets it once, in publishing order.

        A `str` goes out as that text, everything else as one JSON text frame.

        Args:
            message: A JSON value, or a text.
            target_user_ids: Only these users' sockets; an empty collection reaches nobody.
            topic: Only the sockets that hear this topic.
            exclude: Sockets, connections or connection ids that do not get it.
            outage: What happens when the broker does not take it; the manager's policy by default.
            expires_s: Seconds after which it is not delivered any more, by the clocks of the replicas.
            ephemeral: It is not kept for the other replicas while the broker is away (typing, cursors).

        Returns when this replica's sockets were given it and the broker has taken it, or is known not to have; after at
        most about 2 s. Never blocks on a slow client. Nothing raises because the broker is away, but PublishFailed
        where the policy is `"fail"`. A publication whose outcome is unknown is delivered here, and again later under
        the same id, which every replica recognises.

        Raises MessageNotSerializable, MessageTooLarge, InvalidTopicName, InvalidUserId, ManagerClosed: before anything
        was sent.
        """
        # An endpoint that says goodbye after `stop` must not connect to the broker again.
        attachment = None if self._stopped and not self._closed else self._attach()
        publication = new_publication(
            message,
            sender=attachment.relay.replica if attachment is not None else "stopped",
            channel=self.channel,
            topic=topic,
            users=target_user_ids,
            exclude=None if exclude is None else self._ids(exclude),
            expires_s=expires_s,
            limit_bytes=self._limits.message_bytes,
        )
        fail = _check_outage(outage if outage is not None else self._outage) == "fail"
        if attachment is None:
            return Receipt(publication.envelope.id or "", "local", None, 0, False, Reason.CLOSED)
        confirmed, replicas, connections, queued, reason = await attachment.publish(
            publication, fail=fail, keep=not ephemeral
        )
        scope: Literal["cluster", "local"] = "cluster" if confirmed else "local"
        return Receipt(publication.envelope.id or "", scope, replicas, connections, queued, reason)

    async def send_to_user(
        self, user_id: str, message: object, *, outage: OutagePolicy | None = None, expires_s: float | None = None
    ) -> Receipt:
        """Send a message to all sockets of one user, wherever they are. As `broadcast` in everything else."""
        return await self.broadcast(message, {check_user_id(user_id)}, outage=outage, expires_s=expires_s)

    async def send_personal_message(self, message: object, websocket: WebSocket | Connection) -> None:
        """Send a message to one socket of this replica, in order with what is published.

        A `str` goes out as that text, everything else as JSON. Does nothing for a client that has just gone. Raises
        NotConnected for a socket that was never connected, or was disconnected; MessageNotSerializable;
        MessageTooLarge.
        """
        connection = self._connection(websocket)
        frame = frame_of(message, limit_bytes=self._limits.message_bytes)
        if connection is not None:
            self._hub.send(connection, frame)
        if self._attachment is not None:
            await self._attachment.lanes.room()

    def set_message_filter(self, message_filter: MessageFilter | None) -> None:
        """Deliver, on this replica, only the messages for which `message_filter(message)` is true; None removes it.

        It runs for every message on the event loop, so it must be quick. One that raises counts as "no".
        """
        if message_filter is not None and not callable(message_filter):
            raise ConfigurationError("a message filter is a function of one message, or None")
        if inspect.iscoroutinefunction(message_filter) or inspect.iscoroutinefunction(type(message_filter).__call__):
            raise ConfigurationError("a message filter must not be `async def`: it is asked while messages go out")
        self._hub.set_filter(message_filter)

    def _ids(self, exclude: object) -> frozenset[str]:
        items = exclude if isinstance(exclude, Iterable) and not isinstance(exclude, (str, WebSocket)) else [exclude]
        found = set()
        for item in items:
            if isinstance(item, WebSocket):
                connection = self._connections.get(item)
                if connection is not None:
                    found.add(connection.id)
            elif isinstance(item, (Connection, str)):
                found.add(item if isinstance(item, str) else item.id)
            else:
                raise ConfigurationError(
                    f"exclude={exclude!r}: give sockets, connections or connection ids (str); "
                    "for users, name those who get it in target_user_ids"
                )
        return frozenset(found)

    # -- counting ------------------------------------------------------------------------------------------------

    def get_connection_count(self) -> int:
        """Sockets on this replica."""
        return len(self._hub)

    def get_user_count(self) -> int:
        """Distinct users on this replica; sockets without a user id do not count."""
        return self._hub.user_count

    def is_user_connected(self, user_id: str) -> bool:
        """Whether that user has a socket on this replica."""
        return self._hub.has_user(check_user_id(user_id))

    async def cluster_counts(self, *, timeout_s: float = _CENSUS_S) -> ClusterCounts:
        """Sockets and users on all replicas, asked for now; `complete` says whether all answered within `timeout_s`."""
        attachment = await self._first_dial()
        return await attachment.counts(timeout_s=timeout_s)

    async def is_user_connected_anywhere(self, user_id: str, *, timeout_s: float = _CENSUS_S) -> bool:
        """Whether that user has a socket on any replica. While the broker is away it knows of this replica only."""
        user_id = check_user_id(user_id)
        attachment = await self._first_dial()
        return await attachment.has_user(user_id, timeout_s=timeout_s)

    async def _first_dial(self) -> Attachment:
        attachment = self._attach()
        await attachment.relay.first_dial()
        return attachment

    # -- state and life ------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """Whether messages cross replicas: `local`, `up`, `suspect`, `degraded` or `closed`."""
        if self._closed:
            return State.CLOSED
        if self._attachment is not None:
            return self._attachment.relay.state
        return State.LOCAL if self._broker is None else State.DEGRADED

    def stats(self) -> ManagerStats:
        """A snapshot of this manager and of its broker link."""
        counters, hub = self._hub.counters, self._hub
        return ManagerStats(
            channel=self.channel,
            state=self.state,
            connections=len(hub),
            users=hub.user_count,
            topics=len(list(hub.topics)),
            published=counters.published,
            published_cluster=counters.published_cluster,
            published_local=counters.published_local,
            publish_failed=counters.publish_failed,
            delivered=counters.delivered,
            filtered=counters.filtered,
            filter_errors=counters.filter_errors,
            handler_errors=counters.handler_errors,
            expired=counters.expired,
            connects=counters.connects,
            disconnects=counters.disconnects,
            lost=dict(counters.lost),
            link=self._attachment.relay.stats() if self._attachment is not None else None,
        )

    async def start(self) -> None:
        """Connect to the broker now instead of at the first use; returns after the first attempt, in about a second.

        Never raises because the broker is away. Idempotent.
        """
        await self._first_dial()

    async def stop(self, *, code: int = CloseCode.GOING_AWAY, reason: str = "the server is shutting down") -> None:
        """Close all sockets of this manager, end its tasks and its broker connections; the next use starts it again.

        Publications under way get up to `SendLimits.close_s` to be settled, and the sockets as much again to take what
        is queued for them. What still waits in the outbox of the last manager of a broker is dropped and counted.
        Raises WrongEventLoop on another loop than that of its use.
        """
        attachment = self._attachment
        if attachment is None:
            return
        if attachment.loop.is_closed():
            self._leave_dead_loop()
            return
        self._check_loop()
        self._attachment = None
        self._stopped = True
        connections = self._hub.connections()
        await attachment.finish(limit_s=self._send_limits.close_s)
        for connection in connections:
            self._let_go(connection)
            self._hub.remove(connection)
            connection._transport.close(int(code), reason)
        await attachment.lanes.drain(limit_s=self._send_limits.close_s)
        await attachment.close()

    async def close(self, *, code: int = CloseCode.GOING_AWAY, reason: str = "the server is shutting down") -> None:
        """`stop`, for good: every later use raises ManagerClosed. Idempotent."""
        self._check_loop()
        self._closed = True
        await self.stop(code=code, reason=reason)

    def _check_loop(self) -> None:
        attachment = self._attachment
        if attachment is None or attachment.loop.is_closed() or attachment.loop is asyncio.get_running_loop():
            return
        raise WrongEventLoop(f"the manager of channel {self.channel!r} is in use on another event loop: end it there")

    def _attach(self) -> Attachment:
        if self._closed:
            raise ManagerClosed(f"the manager of channel {self.channel!r} was closed: construct a new one")
        attachment = self._attachment
        loop = asyncio.get_running_loop()
        if attachment is not None:
            if attachment.loop is loop:
                return attachment
            if not attachment.loop.is_closed():
                raise WrongEventLoop(
                    f"the manager of channel {self.channel!r} is in use on another event loop: use one manager for "
                    "each loop, or in tests `with TestClient(app) as client:`, which keeps to one loop"
                )
            self._leave_dead_loop()
        self._stopped = False
        self._attachment = Attachment(
            self._hub,
            broker=self._broker,
            key=self._broker_url if self._broker_url is not None else id(self._broker),
            timings=self._timings,
            outbox_limits=self._outbox_limits,
        )
        return self._attachment

    def _leave_dead_loop(self) -> None:
        """The loop of the first use has ended, as between two tests: its sockets are gone with it."""
        for connection in self._hub.connections():
            self._hub.remove(connection)
        self._connections.clear()
        self._attachment = None


def _checked(name: str, value: _Options | None, kind: type[_Options]) -> _Options:
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise ConfigurationError(f"{name}= takes {kind.__name__}(…), not {type(value).__name__}")
    return value


def _unlisten(connection: Connection, topic: str | None) -> None:
    """One listener less, on the loop that it was on, unless that has ended."""
    home = connection._home
    if isinstance(home, Attachment) and not home.loop.is_closed():
        home.unlisten(topic)


def _check_outage(outage: str) -> OutagePolicy:
    if outage not in ("local", "fail"):
        raise ConfigurationError(f"outage={outage!r}: it is either 'local' or 'fail'")
    return "local" if outage == "local" else "fail"
