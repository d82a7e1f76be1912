"""`WebSocketManager`: the class that applications use. It composes the rest."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Collection, Iterable
from typing import Literal

from starlette.websockets import WebSocket

from antiphon.admission import Admission
from antiphon.attachment import Attachment
from antiphon.auth import Forbidden
from antiphon.brokers.base import Broker
from antiphon.claims import check_call
from antiphon.codes import CloseCode, Reason, State
from antiphon.connection import Connection
from antiphon.conversation import ClientPublishing, Heartbeat, OnConnect, OnMessage
from antiphon.errors import ConfigurationError, ManagerClosed
from antiphon.health.status import Health
from antiphon.health.vitals import Vitals
from antiphon.hub import Hub, MessageFilter
from antiphon.identity import Identity
from antiphon.journal import Journal
from antiphon.limits import Limits
from antiphon.options import read_options
from antiphon.outbox import OutboxLimits
from antiphon.presence import ClusterCounts
from antiphon.publication import SlowPolicy, frame_of, new_publication
from antiphon.quotas import QuotaTimings
from antiphon.receipt import OutagePolicy, Receipt, check_outage
from antiphon.revocation import Disconnected
from antiphon.roster import Roster
from antiphon.security import Security
from antiphon.session import OnClose, Sessions
from antiphon.settings import Timings
from antiphon.snapshots import health_from, stats_of, vitals_of
from antiphon.stats import ManagerStats
from antiphon.stay import Stay, Tally
from antiphon.topics import check_channel, check_topic, check_user_id
from antiphon.transports.base import SendLimits
from antiphon.wire import protocol

__all__ = ["OutagePolicy", "Receipt", "WebSocketManager", "managers_here"]

_CENSUS_S = 1.0
_ONE_LOOP = "use one manager for each loop, or in tests `with TestClient(app) as client:`, which keeps to one loop"
_managers: weakref.WeakSet[WebSocketManager] = weakref.WeakSet()


on_first_use: list[Callable[[], object]] = []
"""Called when a manager begins to work on an event loop."""


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
        timings: Deadlines of the broker link. Managers of one address share a link if these, the outbox limits and the
            signing keys are equal.
        security: Who may connect, from where, and what they may hear. By default the application says who it is, and
            pages of other websites are refused.
        client_publishing: What clients that speak `antiphon.v1` may publish themselves; nothing by default.
        signing_keys: Sign what goes through the broker, and believe only what is signed with one of these (at least 32
            bytes each; the first signs). By default `ANTIPHON_SIGNING_KEYS` of the environment; without, nothing is.
        accept_unsigned: Deliver messages of programs that do not sign all the same, but no control messages.
        require_tls: Refuse addresses without verified TLS; by default as `ANTIPHON_REQUIRE_TLS` says.
        quota_timings: How connections are counted over all replicas.

    Raises:
        InvalidChannelName, InvalidBrokerURL, InvalidSigningKey, ConfigurationError: at once, naming the fix.
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
        security: Security | None = None,
        client_publishing: ClientPublishing | None = None,
        signing_keys: str | Iterable[str] | None = None,
        accept_unsigned: bool = False,
        require_tls: bool | None = None,
        quota_timings: QuotaTimings | None = None,
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
            signing_keys=signing_keys,
            accept_unsigned=accept_unsigned,
            require_tls=require_tls,
            security=security,
            quota_timings=quota_timings,
        )
        journal = self._journal = Journal()
        self._client_publishing = client_publishing
        self._tally = Tally()
        self._hub = Hub(self.channel, journal=journal)
        self._roster = Roster(self._hub)
        self._sessions = Sessions(
            self._hub, journal=journal, forget=self._roster.forget, close_s=self._options.send_limits.close_s
        )
        self._stay: Stay | None = None
        self._attachment: Attachment | None = None
        """That of the stay, one step nearer."""
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
        identity: Identity | None = None,
        topics: Iterable[str] = (),
        accept: bool = True,
        subprotocol: str | None = None,
    ) -> Connection:
        """Accept a socket and let it hear the channel, and `topics` of it.

        When it returns, the broker has confirmed that this replica hears all of them, or is known to be away: what is
        published from then on reaches the socket. A user may hold many sockets. With `accept=False` the application has
        accepted the socket itself.

        Who it is: `identity`, as a dependency on a `Security` gives it; else whom the authenticators of the manager's
        own `security` find; else `user_id`, as the application says. Pages of other websites are refused.

        Raises Refused when the client is not let in: Starlette and FastAPI then end its socket with the right code, so
        an endpoint need not catch it. That includes a user id or topics that cannot be used, since these may come from
        the address (`BadRequest`, 4506). Values of the wrong type are mistakes of the endpoint: InvalidUserId,
        InvalidTopicName, ConfigurationError and UsageError, before the socket is accepted. Also raises whatever the
        server raises when the client has gone meanwhile.
        """
        wanted = check_call(user_id, identity=identity, topics=topics, subprotocol=subprotocol)
        return await self._admitting().enter(
            websocket, user_id, wanted, identity=identity, accept=accept, subprotocol=subprotocol
        )

    def _admitting(self) -> Admission:
        return self._here().admission

    def disconnect(self, websocket: WebSocket) -> None:
        """Forget a socket; nothing that is published afterwards reaches it. Idempotent; does not close the socket.

        What was published before is still sent, as far as the socket takes it.
        """
        self._roster.discard(websocket)

    async def disconnect_user(
        self, user_id: str, *, except_: Collection[str] = (), timeout_s: float = _CENSUS_S
    ) -> Disconnected:
        """End all sockets of a user, on all replicas, but those of the sessions or connections named in `except_`.

        They are closed with code 4502, which tells clients not to come back. Change the database first: whoever
        connects at this moment is asked about there once more, so that nobody slips through.

        Here they are cut before anything else happens; on the other replicas when the result says so. Where it is not
        `complete` (the broker is away), they are cut at their next re-check, which needs `Security`. A replica that has
        answered delivers nothing more to them. Never raises because the broker is away. Raises InvalidUserId and
        ConfigurationError.
        """
        return await self._admitting().revocations.disconnect_user(user_id, except_=except_, timeout_s=timeout_s)

    async def disconnect_session(
        self, session_id: str, *, except_: Collection[str] = (), timeout_s: float = _CENSUS_S
    ) -> Disconnected:
        """End all sockets of a session, known by `Identity.session_id`. As `disconnect_user` in everything else."""
        return await self._admitting().revocations.disconnect_session(session_id, except_=except_, timeout_s=timeout_s)

    def recheck(self) -> None:
        """Ask the application again, soon, about everybody here and what they hear, as after a change of roles.

        It happens by itself every `Security.recheck_s` and after the broker was away. For this replica alone.
        """
        rechecks = self._admitting().rechecks
        rechecks.start()
        rechecks.now()

    async def serve(
        self,
        websocket: WebSocket,
        user_id: str | None = None,
        *,
        identity: Identity | None = None,
        topics: Iterable[str] = (),
        subprotocol: str | None = None,
        on_connect: OnConnect | None = None,
        on_message: OnMessage | None = None,
        on_close: OnClose | None = None,
        heartbeat: Heartbeat = "none",
    ) -> None:
        """Connect a socket, read it until the client goes, and disconnect it.

        `on_message(connection, message)` gets each message as decoded JSON, one at a time. Answer by the connection:
        the WebSocket may be known no longer. What is no JSON object, or comes too fast, is answered with an `error`
        message; who goes on with it, or sends what is too large, is closed (`Limits`). A handler that raises is logged
        and counted, and the connection goes on. Raises what `connect` raises.

        `on_connect(connection)` is awaited once the socket hears everything, and before the first message of the client
        is read: the place for a greeting, by `send_personal_message`. What is published meanwhile may come before it.
        What it raises goes on to the endpoint and ends the connection: with the code of a `Refused`, else with 1011. It
        is not interrupted when the client leaves meanwhile, or is cut off.

        A client that offers the subprotocol `antiphon.v1` is spoken to in that protocol, unless `subprotocol` names
        another; its messages reach `on_message` as those of all others, and may be any JSON. `heartbeat="earlier"`
        answers `{"type":"ping"}` of all others, and sends `{"type":"heartbeat"}` after 30 s with nothing received.

        It returns when nothing is left to do for the endpoint: with the end of the connection, and on the library's own
        uvicorn protocol as soon as the socket is connected, since the socket is read there without a coroutine for each
        client. What has to be done when the client goes belongs into `on_close(connection)`, not behind this call: it
        is called in either case, unless `on_connect` raised, once the connection is no longer counted, and must not
        block; what it raises is logged. What any of the three raises is counted in `handler_errors`.
        """
        stay = self._here()
        if subprotocol is None:
            offered = websocket.scope.get("subprotocols") or ()
            subprotocol, refusal = protocol.choose_subprotocol(offered, speaks_v1=True)
            if refusal is not None:
                await stay.admission.refuse_version(websocket)
        v1 = subprotocol == protocol.V1
        wanted = check_call(user_id, identity=identity, topics=topics)
        connection = await stay.admission.enter(
            websocket, user_id, wanted, identity=identity, subprotocol=subprotocol, v1=v1
        )
        session = self._sessions.open(
            connection,
            stay.conversations,
            on_message=on_message,
            on_close=on_close,
            heartbeat=heartbeat,
            speaks_v1=v1,
        )
        if on_connect is not None:
            await session.greet(websocket, on_connect)
        if connection._transport.adopt(session):
            self._roster.let_go(connection)
        else:
            await session.run(websocket)

    async def subscribe(self, websocket: WebSocket | Connection, topic: str) -> None:
        """Let a connected socket hear a topic of the channel too; when it returns, it does. Idempotent.

        Does nothing for a client that has just gone. Raises NotConnected for a socket that was never connected, or was
        disconnected; Forbidden when `Security.authorize` says no, in which case the broker is not asked for anything;
        InvalidTopicName; and UsageError above `Limits.topics_per_connection`.
        """
        topic = check_topic(topic)
        connection = self._roster.find(websocket)
        if connection is None:  # perhaps a handler that still runs after `stop`: it starts nothing again
            self._check_open()
            return
        stay = self._here()
        if not await stay.admission.may_hear(connection, topic):
            raise Forbidden(f"topic {topic!r}")
        await stay.subscribe(connection, topic)

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
        slow: SlowPolicy = "disconnect",
        key: str | None = None,
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
            slow: What happens where it has to wait because a client does not read quickly enough. "disconnect": the
                client is cut off when too much waits, or for too long (`SendLimits`). "drop_oldest": the oldest of
                such messages are dropped instead. "newest_per_key": also, a later message of the same topic and `key`
                takes its place. Clients that keep up get all of them, and the order never changes.
            key: With "newest_per_key", and only there: whose or what state this is; 1 to 128 characters.

        Returns when this replica's sockets were given it and the broker has taken it, or is known not to have; after at
        most about 2 s. Never blocks on a slow client. Nothing raises because the broker is away, but PublishFailed
        where the policy is `"fail"`. A publication whose outcome is unknown is delivered here, and again later under
        the same id, which every replica recognises.

        Raises MessageNotSerializable, MessageTooLarge, InvalidTopicName, InvalidUserId, ConfigurationError,
        ManagerClosed: before anything was sent.
        """
        attachment = self._attachment
        plain = target_user_ids is None and exclude is None and expires_s is None and outage is None
        if plain and slow == "disconnect" and key is None and attachment is not None:
            receipt = attachment.publish_here(message, topic, limit_bytes=self._options.limits.message_bytes)
            if receipt is not None:
                if not attachment.lanes.has_room:
                    await attachment.lanes.room()
                return receipt
        # An endpoint that says goodbye after `stop` must not connect to the broker again.
        attachment = None if self._stopped and not self._closed else self._here().attachment
        publication = new_publication(
            message,
            sender=attachment.relay.replica if attachment is not None else "stopped",
            channel=self.channel,
            topic=topic,
            users=target_user_ids,
            exclude=None if exclude is None else self._roster.ids(exclude),
            expires_s=expires_s,
            slow=slow,
            key=key,
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
        self,
        user_id: str,
        message: object,
        *,
        outage: OutagePolicy | None = None,
        expires_s: float | None = None,
        slow: SlowPolicy = "disconnect",
        key: str | None = None,
    ) -> Receipt:
        """Send a message to all sockets of one user, wherever they are. As `broadcast` in everything else."""
        users = {check_user_id(user_id)}
        return await self.broadcast(message, users, outage=outage, expires_s=expires_s, slow=slow, key=key)

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
        attachment = self._here().attachment
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
        return stats_of(self._hub, state=self.state, attachment=self._attachment)

    def vitals(self) -> Vitals:
        """What is measured beside the statistics; for metrics."""
        security = self._stay.admission.security if self._stay is not None else self._options.security
        return vitals_of(self._hub, self._tally, attachment=self._attachment, security=security)

    def health(self, *, red_when_degraded: bool = False) -> Health:
        """Whether this replica should get new clients, and how its link to the broker is."""
        return health_from(self.stats(), self.vitals(), red_when_degraded=red_when_degraded)

    async def start(self) -> None:
        """Connect to the broker now instead of at the first use; returns after the first attempt, in about a second.

        Never raises because the broker is away. Idempotent.
        """
        await self._first_dial()

    async def stop(self, *, code: int = CloseCode.GOING_AWAY, reason: str = "the server is shutting down") -> None:
        """Close all sockets of this manager, end its tasks and its broker connections; the next use starts it again.

        Publications under way get up to `SendLimits.close_s` to be settled, handlers that are at work on a message as
        much again to end, and the sockets as much again to take what is queued for them. A handler that takes longer is
        cancelled where the library reads the socket by itself, and goes on where it runs in an endpoint's coroutine.
        What still waits in the outbox of the last manager of a broker is dropped and counted. Raises WrongEventLoop on
        another loop than that of its use.
        """
        stay = self._stay
        if stay is None:
            return
        is_here = stay.is_here_or_over(fix="end it there")
        self._stay = self._attachment = None
        if not is_here:
            self._roster.clear()
            return
        self._stopped = True
        await stay.end(is_closed=self._closed, code=int(code), reason=reason)

    async def close(self, *, code: int = CloseCode.GOING_AWAY, reason: str = "the server is shutting down") -> None:
        """`stop`, for good: every later use raises ManagerClosed. Idempotent."""
        if self._stay is not None:
            self._stay.is_here_or_over(fix="end it there")
        self._closed = True
        await self.stop(code=code, reason=reason)

    def _check_open(self) -> None:
        if self._closed:
            raise ManagerClosed(f"the manager of channel {self.channel!r} was closed: construct a new one")

    def _here(self) -> Stay:
        """The stay on the running event loop, which begins with the first use there."""
        self._check_open()
        stay = self._stay
        if stay is not None:
            if stay.is_here_or_over(fix=_ONE_LOOP):
                return stay
            self._roster.clear()  # the loop of the first use has ended, as between two tests
        self._stopped = False
        stay = Stay(
            self._hub,
            self._roster,
            self._sessions,
            options=self._options,
            journal=self._journal,
            tally=self._tally,
            state=lambda: self.state,
            publish=lambda message, topic: self.broadcast(message, topic=topic),
            publishing=self._client_publishing,
        )
        self._stay, self._attachment = stay, stay.attachment
        for told in on_first_use:
            told()
        return stay
