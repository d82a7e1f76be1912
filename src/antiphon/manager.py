"""`WebSocketManager`: the class that applications use. It composes the rest."""

from __future__ import annotations

import asyncio
import inspect
import weakref
from collections.abc import Collection, Iterable
from typing import Literal

from starlette.websockets import WebSocket

from antiphon.attachment import Attachment
from antiphon.brokers.base import Broker
from antiphon.codes import CloseCode, Reason, State
from antiphon.connection import Connection
from antiphon.errors import ConfigurationError, ManagerClosed, UsageError, WrongEventLoop
from antiphon.hub import Hub, MessageFilter
from antiphon.journal import Journal
from antiphon.limits import Limits
from antiphon.options import read_options
from antiphon.outbox import OutboxLimits
from antiphon.presence import ClusterCounts
from antiphon.publication import frame_of, new_publication
from antiphon.receipt import OutagePolicy, Receipt, check_outage
from antiphon.roster import Roster
from antiphon.session import OnClose, OnMessage, Sessions
from antiphon.settings import Timings
from antiphon.stats import ManagerStats
from antiphon.topics import check_channel, check_topic, check_user_id
from antiphon.transports.base import SendLimits

__all__ = ["OutagePolicy", "Receipt", "WebSocketManager", "managers_here"]

_CENSUS_S = 1.0
_managers: weakref.WeakSet[WebSocketManager] = weakref.WeakSet()


def managers_here() -> list[WebSocketManager]:
    """All managers of this process that are not closed, in no particular order."""
    return [manager for manager in _managers if manager.state is not State.CLOSED]


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
        self._options = read_options(
            url=url,
            broker=broker,
            outage=outage,
            limits=limits,
            send_limits=send_limits,
            outbox_limits=outbox_limits,
            timings=timings,
        )
        journal = Journal()
        self._hub = Hub(self.channel, journal=journal)
        self._roster = Roster(self._hub)
        self._sessions = Sessions(self._hub, journal=journal, forget=self._roster.forget)
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
        limit = self._options.limits.topics_per_connection
        if len(wanted) > limit:
            raise UsageError(f"{len(wanted)} topics, the limit of a connection is {limit}")
        if websocket in self._roster:
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
        return self._roster.add(
            websocket, user_id, topics=topics, attachment=attachment, limits=self._options.send_limits
        )

    def disconnect(self, websocket: WebSocket) -> None:
        """Forget a socket; nothing that is published afterwards reaches it. Idempotent; does not close the socket.

        What was published before is still sent, as far as the socket takes it.
        """
        self._roster.discard(websocket)

    async def serve(
        self,
        websocket: WebSocket,
        user_id: str | None = None,
        *,
        topics: Iterable[str] = (),
        subprotocol: str | None = None,
        on_message: OnMessage | None = None,
        on_close: OnClose | None = None,
    ) -> None:
        """Connect a socket, read it until the client goes, and disconnect it.

        `on_message(connection, message)` gets each message as decoded JSON, one at a time. What is not JSON is answered
        with an `error` message. A handler that raises is logged and counted, and the connection goes on. Raises what
        `connect` raises.

        It returns when nothing is left to do for the endpoint: with the end of the connection, and on the library's own
        uvicorn protocol as soon as the socket is connected, since the socket is read there without a coroutine for each
        client. What has to be done when the client goes belongs into `on_close(connection)`, not behind this call: it
        is called in either case once the connection is no longer counted, and must not block; what it raises is logged
        and counted in `handler_errors`.
        """
        connection = await self.connect(websocket, user_id, topics=topics, subprotocol=subprotocol)
        session = self._sessions.open(connection, on_message=on_message, on_close=on_close)
        if connection._transport.adopt(session):
            self._roster.let_go(connection)
        else:
            await session.run(websocket)

    async def subscribe(self, websocket: WebSocket | Connection, topic: str) -> None:
        """Let a connected socket hear a topic of the channel too; when it returns, it does. Idempotent.

        Does nothing for a client that has just gone. Raises NotConnected for a socket that was never connected, or was
        disconnected; InvalidTopicName; and UsageError above `Limits.topics_per_connection`.
        """
        topic = check_topic(topic)
        connection, attachment = self._roster.find(websocket), self._attach()
        if connection is None:
            return
        limit = self._options.limits.topics_per_connection
        if topic not in connection.topics and len(connection.topics) >= limit:
            raise UsageError(f"the limit is {limit} topics a connection")
        if self._hub.subscribe(connection, topic):
            attachment.listen(topic)
        await attachment.heard(topic)

    def unsubscribe(self, websocket: WebSocket | Connection, topic: str) -> None:
        """Let a socket hear a topic no longer. Idempotent."""
        self._roster.unsubscribe(websocket, topic)

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
        attachment = self._attachment
        plain = target_user_ids is None and exclude is None and expires_s is None and outage is None
        if plain and attachment is not None:
            receipt = attachment.publish_here(message, topic, limit_bytes=self._options.limits.message_bytes)
            if receipt is not None:
                if not attachment.lanes.has_room:
                    await attachment.lanes.room()
                return receipt
        # An endpoint that says goodbye after `stop` must not connect to the broker again.
        attachment = None if self._stopped and not self._closed else self._attach()
        publication = new_publication(
            message,
            sender=attachment.relay.replica if attachment is not None else "stopped",
            channel=self.channel,
            topic=topic,
            users=target_user_ids,
            exclude=None if exclude is None else self._roster.ids(exclude),
            expires_s=expires_s,
            limit_bytes=self._options.limits.message_bytes,
        )
        fail = check_outage(outage if outage is not None else self._options.outage) == "fail"
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
        connection = self._roster.find(websocket)
        frame = frame_of(message, limit_bytes=self._options.limits.message_bytes)
        if connection is not None:
            self._hub.send(connection, frame)
        if self._attachment is not None and not self._attachment.lanes.has_room:
            await self._attachment.lanes.room()

    def set_message_filter(self, message_filter: MessageFilter | None) -> None:
        """Deliver, on this replica, only the messages for which `message_filter(message)` is true; None removes it.

        It runs for every message on the event loop, so it must be quick. One that raises counts as "no".
        """
        if message_filter is not None and not callable(message_filter):
            raise ConfigurationError("a message filter is a function of one message, or None")
        if inspect.iscoroutinefunction(message_filter) or inspect.iscoroutinefunction(type(message_filter).__call__):
            raise ConfigurationError("a message filter must not be `async def`: it is asked while messages go out")
        self._hub.message_filter = message_filter

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
        return State.LOCAL if self._options.broker is None else State.DEGRADED

    def stats(self) -> ManagerStats:
        """A snapshot of this manager and of its broker link."""
        counters, hub = self._hub.counters, self._hub
        return ManagerStats(
            channel=self.channel,
            state=self.state,
            connections=len(hub),
            users=hub.user_count,
            topics=len(hub.topics),
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
        limit_s = self._options.send_limits.close_s
        await attachment.finish(limit_s=limit_s)
        for connection in connections:
            self._roster.let_go(connection)
            self._hub.remove(connection)
            connection._transport.close(int(code), reason)
        await self._sessions.finish(limit_s=limit_s)
        await attachment.lanes.drain(limit_s=limit_s)
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
            broker=self._options.broker,
            key=self._options.broker_key,
            timings=self._options.timings,
            outbox_limits=self._options.outbox_limits,
        )
        return self._attachment

    def _leave_dead_loop(self) -> None:
        """The loop of the first use has ended, as between two tests."""
        self._roster.clear()
        self._attachment = None
