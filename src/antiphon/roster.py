"""Which sockets of a manager are here: by the application's WebSocket, and those that are just gone."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable
from types import MethodType

from starlette.websockets import WebSocket

from antiphon.attachment import Attachment
from antiphon.auth import Refused
from antiphon.connection import Connection
from antiphon.errors import ConfigurationError, NotConnected, UsageError
from antiphon.hub import Hub
from antiphon.identity import Identity
from antiphon.transports.base import SendLimits
from antiphon.transports.choice import transport_for

__all__ = ["Roster"]

_numbers = itertools.count(1)
_key = id


def socket_of(connection: Connection) -> WebSocket | None:
    """The application's WebSocket of a connection, unless it was let go, or nobody holds it any more."""
    reference = connection._socket
    websocket = reference() if isinstance(reference, weakref.ref) else None
    return websocket if isinstance(websocket, WebSocket) else None


class Roster:
    """The connections of one manager, in step with its hub and with what its attachment listens to."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._connections: dict[int, Connection] = {}
        """By the `id` of the WebSocket, which is held weakly: see `_on_abandoned`."""
        self._gone: weakref.WeakSet[WebSocket] = weakref.WeakSet()
        """Sockets that were lost before their endpoint has read everything that their clients sent."""
        self._lost = self._on_lost
        self._abandoned = self._on_abandoned

    def __contains__(self, websocket: WebSocket) -> bool:
        return self._by_socket(websocket) is not None

    def _by_socket(self, websocket: WebSocket) -> Connection | None:
        connection = self._connections.get(_key(websocket))
        return connection if connection is not None and socket_of(connection) is websocket else None

    @staticmethod
    def new_id(attachment: Attachment) -> str:
        """The id of a connection to come, unique across all replicas and restarts."""
        return f"{attachment.relay.replica}-{next(_numbers)}"

    # -- coming, going -------------------------------------------------------------------------------------------

    def add(
        self,
        websocket: WebSocket,
        id: str,
        user_id: str | None,
        *,
        identity: Identity | None = None,
        topics: Iterable[str],
        attachment: Attachment,
        limits: SendLimits,
        v1: bool = False,
    ) -> Connection:
        """Let an accepted socket hear the channel, and topics that the attachment listens to. Raises UsageError."""
        if websocket in self:
            raise UsageError("this socket was connected twice at once")
        # A method of the id takes a quarter of the memory of a `partial`.
        on_lost = MethodType(self._lost, id)
        transport = transport_for(websocket, lanes=attachment.lanes, on_lost=on_lost, limits=limits, v1=v1)
        connection = Connection(id, user_id=user_id, transport=transport)
        connection._socket = weakref.ref(websocket, MethodType(self._abandoned, connection))
        connection._home, connection._identity = attachment, identity
        self._connections[_key(websocket)] = connection
        self._hub.add(connection)
        for topic in topics:
            self._hub.subscribe(connection, topic)
        return connection

    def discard(self, websocket: WebSocket) -> None:
        """Forget a socket, if it is there: the application says so."""
        connection = self._by_socket(websocket)
        if connection is not None:
            self.forget(connection)
        self._gone.discard(websocket)

    def _on_abandoned(self, connection: Connection, reference: object) -> None:
        """Nobody can read or close this socket any more: its endpoint has ended without `disconnect`.

        Servers do not tell; their `send` may go on to take messages for nobody. Called by whatever thread collects.
        """
        home = connection._home
        if isinstance(home, Attachment) and not home.loop.is_closed():
            home.loop.call_soon_threadsafe(self.forget, connection)

    def _on_lost(self, id: str, reason: str) -> None:
        connection = self._hub.get(id)
        if connection is None:
            if reason == "slow":  # the close frame made the session of an adopted socket let go of it first
                self._hub.counters.lost[reason] += 1
            return
        self._note_gone(connection)
        if self.forget(connection) and reason != "gone":
            self._hub.counters.lost[reason] += 1

    def forget(self, connection: Connection) -> bool:
        """Let a connection hear nothing more. What was published before is still sent. False when it was not here."""
        self.let_go(connection)
        topics = self._hub.remove(connection)
        if topics is None:
            return False
        _leave(connection, topics)
        connection._transport.detach()
        return True

    def end(self, connection: Connection, refusal: Refused) -> None:
        """Let a connection hear nothing more, and close its socket with the code of the refusal.

        What was published before and has not begun to leave is dropped: the client may not have it any more. Nor is
        anything taken of it that the server has received, and nobody has read yet.
        """
        connection._is_cut = True
        self.expel(connection, code=refusal.close_code, reason=refusal.close_reason, discard=True)

    def expel(self, connection: Connection, *, code: int, reason: str, discard: bool = False) -> bool:
        """Send what is queued for a connection, close it, and count it no longer. False when it was not here.

        With `discard` what is queued is dropped, but for what has begun to leave.
        """
        self._note_gone(connection)
        self.let_go(connection)
        topics = self._hub.remove(connection)
        if topics is None:
            return False
        _leave(connection, topics)
        connection._transport.resume_reading()  # or the client's close frame is never read
        connection._transport.close(code, reason, discard=discard)
        return True

    def _note_gone(self, connection: Connection) -> None:
        websocket = socket_of(connection)
        if websocket is not None:
            self._gone.add(websocket)

    def let_go(self, connection: Connection) -> None:
        """Know a connection by its WebSocket no longer."""
        websocket, connection._socket = socket_of(connection), None
        if websocket is not None:
            self._connections.pop(_key(websocket), None)
        else:  # collected, or let go before
            stale = [key for key, known in self._connections.items() if known is connection]
            for key in stale:
                del self._connections[key]

    def clear(self) -> None:
        """The event loop of all of them has ended: they are gone with it."""
        for connection in self._hub.connections():
            self._hub.remove(connection)
        self._connections.clear()

    # -- finding -------------------------------------------------------------------------------------------------

    def find(self, websocket: WebSocket | Connection) -> Connection | None:
        """The connection of a socket; None for one that is gone, which its endpoint will find out when it receives.

        Raises NotConnected for a socket that was never connected, or was disconnected.
        """
        if isinstance(websocket, Connection):
            return websocket if self._hub.get(websocket.id) is websocket else None
        connection = self._by_socket(websocket)
        if connection is None and websocket not in self._gone:
            raise NotConnected("this socket is not connected to this manager: call connect() first")
        return connection

    def unsubscribe(self, websocket: WebSocket | Connection, topic: str) -> None:
        """Let a socket hear a topic no longer, if it is there and does."""
        connection = websocket if isinstance(websocket, Connection) else self._by_socket(websocket)
        if connection is not None and self._hub.unsubscribe(connection, topic):
            _unlisten(connection, topic)

    def ids(self, exclude: object) -> frozenset[str]:
        """The ids of connections that the application names in one of many ways. Raises ConfigurationError."""
        items = exclude if isinstance(exclude, Iterable) and not isinstance(exclude, (str, WebSocket)) else [exclude]
        found = set()
        for item in items:
            if isinstance(item, WebSocket):
                connection = self._by_socket(item)
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


def _leave(connection: Connection, topics: Iterable[str]) -> None:
    """It is gone: nothing listens for it any more, and its place is free."""
    for topic in [None, *topics]:
        _unlisten(connection, topic)
    home = connection._home
    if isinstance(home, Attachment) and home.on_gone is not None:
        home.on_gone(connection.id)


def _unlisten(connection: Connection, topic: str | None) -> None:
    """One listener less, on the loop that it was on, unless that has ended."""
    home = connection._home
    if isinstance(home, Attachment) and not home.loop.is_closed():
        home.unlisten(topic)
