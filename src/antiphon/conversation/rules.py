"""What the application decides about its clients' messages, and what is counted of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from antiphon.connection import Connection
from antiphon.errors import ConfigurationError

__all__ = [
    "HEARTBEAT_S",
    "PATIENCE",
    "PING_S",
    "PONG_S",
    "Actions",
    "ClientPublishing",
    "Heartbeat",
    "InboundCounters",
    "MayDo",
    "OnConnect",
    "OnMessage",
    "Published",
]

HEARTBEAT_S = 30
"""Clients of the earlier protocols get a heartbeat after so long with nothing received."""
PING_S = 25
"""Clients that speak `antiphon.v1` are asked for a sign of life so often."""
PONG_S = 10
"""They have so long to give it."""
PATIENCE = 10
"""The allowance of refusals gains so many times less than the allowance of messages."""

OnConnect: TypeAlias = Callable[[Connection], Awaitable[object]]
"""Awaited with a connection that hears everything, before anything of its client is read."""

OnMessage: TypeAlias = Callable[[Connection, object], Awaitable[object]]
"""Called with the connection and the decoded JSON message, one at a time and in order for each connection."""

Heartbeat: TypeAlias = Literal["none", "earlier"]
"""What bare clients expect: `"none"`, nothing; `"earlier"`, `{"type":"pong"}` for `{"type":"ping"}`, and
`{"type":"heartbeat"}` after each 30 s with nothing received."""

MayDo: TypeAlias = Callable[[Connection, str], Awaitable[bool] | bool]
"""Given the connection and the topic's name, says whether it may."""


def user_of(connection: Connection) -> Mapping[str, object]:
    """`{"user_id": …}`: the user that the application named when it connected the socket."""
    return {"user_id": connection.user_id}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientPublishing:
    """Lets `antiphon.v1` clients publish by themselves. Without it they may not.

    What a client publishes is never passed on as it is: only the fields named here are, and those that say who the
    sender is are set by the server. Raises ConfigurationError for a rule that cannot be meant.
    """

    may_publish: MayDo
    """Asked for each publication. One that raises counts as no."""
    fields: Collection[str]
    """The fields of a message that are passed on; all others are dropped."""
    identity: Callable[[Connection], Mapping[str, object]] = user_of
    """Fields that are set over whatever the client wrote there; by default `user_id`."""

    def __post_init__(self) -> None:
        if isinstance(self.fields, str) or not self.fields:
            raise ConfigurationError(
                f"fields={self.fields!r}: name the fields of a message that clients may set, such as {{'type', 'text'}}"
            )

    def cleaned(self, message: Mapping[str, object], connection: Connection) -> dict[str, object]:
        """The message as it may go out."""
        return {name: message[name] for name in message if name in self.fields} | dict(self.identity(connection))


class Published(Protocol):
    """What became of a publication: a `Receipt`."""

    @property
    def id(self) -> str:
        """Its id."""
        ...

    @property
    def scope(self) -> str:
        """`cluster` or `local`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Actions:
    """What a client may bring about, as the manager does it."""

    subscribe: Callable[[Connection, str], Awaitable[object]]
    """Let the connection hear a topic; the name was checked, the right was asked for."""
    unsubscribe: Callable[[Connection, str], object]
    """Let it hear the topic no longer. Idempotent."""
    publish: Callable[[Mapping[str, object], str], Awaitable[Published]]
    """Publish a message on a topic."""
    may_hear: MayDo | None = None
    """Asked for each topic that a client asks for. None: nobody may by themselves."""


@dataclass(slots=True)
class InboundCounters:
    """What one manager counts of its clients' messages on this replica, where the library reads the socket."""

    received: int = 0
    """Messages that clients sent, those that were refused included."""
    received_bytes: int = 0
    """Their bytes."""
    refused: Counter[str] = field(default_factory=Counter)
    """Messages that were answered with an error, by its code."""
    closed: Counter[str] = field(default_factory=Counter)
    """Connections that were closed for what the client sent, or did not send, or that were refused while they were
    greeted, by the name of the close code.
    """
    published: int = 0
    """Publications by clients."""
