"""One accepted socket, as the hub and the application know it."""

from __future__ import annotations

from antiphon.identity import Identity
from antiphon.transports.base import Transport

__all__ = ["Connection"]


class Connection:
    """One client's socket on this replica. Made by `WebSocketManager.connect`; ends at `disconnect`, or with the
    socket.
    """

    __slots__ = ("_home", "_identity", "_is_cut", "_socket", "_topics", "_transport", "id", "user_id")

    def __init__(self, id: str, *, user_id: str | None, transport: Transport) -> None:
        self.id = id
        """Unique across all replicas and restarts; may be given as `exclude` on any of them."""
        self.user_id = user_id
        """The user that the application named, or None."""
        self._transport = transport
        self._topics: set[str] | None = None
        self._identity: Identity | None = None
        self._is_cut = False
        """It was ended because it may not be here: what its client sent, and nobody has taken, counts no longer."""
        self._home: object | None = None
        """The manager's attachment to the event loop that the connection is on."""
        self._socket: object | None = None
        """A weak reference to the application's WebSocket, by which the manager knows it; None once it is let go."""

    @property
    def topics(self) -> frozenset[str]:
        """The topics that the socket hears beside the channel itself."""
        return frozenset(self._topics or ())

    @property
    def identity(self) -> Identity | None:
        """Who it is, as of the last re-check; None where the application names the users itself, and for guests."""
        return self._identity

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait for this client because it does not read; 0 for one that keeps up."""
        return self._transport.queued_bytes

    def __repr__(self) -> str:
        return f"<Connection {self.id} user_id={self.user_id!r} topics={len(self._topics or ())}>"
