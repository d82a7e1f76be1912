"""Every code that leaves the library: WebSocket close codes, and the reasons that receipts, counters and logs name.

Close codes from 4000 to 4499 invite the client to come back, those from 4500 to 4999 tell it not to. The standard ones
are those of RFC 6455 §7.4.1 and of the IANA registry of WebSocket close codes.
"""

from __future__ import annotations

from enum import Enum, IntEnum

__all__ = ["CloseCode", "ErrorCode", "Reason", "State"]


class CloseCode(IntEnum):
    """Why a connection was ended, as the browser sees it in `CloseEvent.code`."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED = 1003
    INVALID_DATA = 1007
    POLICY = 1008
    TOO_BIG = 1009
    INTERNAL = 1011
    DRAINING = 1012
    OVERLOADED = 1013

    TOO_SLOW = 4001
    NO_PONG = 4002
    POSITION_LOST = 4003
    REFRESH_SESSION = 4004

    NOT_SIGNED_IN = 4501
    REVOKED = 4502
    FORBIDDEN = 4503
    TOO_MANY_CONNECTIONS = 4504
    TOO_FAST = 4505
    BAD_REQUEST = 4506
    UNSUPPORTED_VERSION = 4507

    @property
    def client_returns(self) -> bool:
        """Whether a client that receives this code should connect again."""
        return self in (CloseCode.GOING_AWAY, CloseCode.DRAINING, CloseCode.OVERLOADED) or 4000 <= self < 4500


class ErrorCode(str, Enum):
    """Why a message of a client was refused, as the client reads it in an `error` frame. The connection goes on."""

    BAD_REQUEST = "bad_request"
    """It is no JSON object of the allowed depth, or a field of it is missing or of another type."""
    UNSUPPORTED = "unsupported"
    """A type of frame that this endpoint does not take."""
    INVALID_TOPIC = "invalid_topic"
    FORBIDDEN = "forbidden"
    TOO_MANY_TOPICS = "too_many_topics"
    TOO_FAST = "too_fast"
    TOO_LARGE = "too_large"
    """A publication above the limit of a message."""
    UNAVAILABLE = "unavailable"
    """The broker did not take it, and the outage policy is "fail"."""
    INTERNAL = "internal"

    __str__ = str.__str__


class State(str, Enum):
    """Where the link to the broker stands, as `manager.state` reports it."""

    LOCAL = "local"
    """No broker is configured: everything stays on this replica."""
    UP = "up"
    """Messages cross replicas."""
    SUSPECT = "suspect"
    """The publishing connection alone is being made anew: publications wait for it, for two seconds at most."""
    DEGRADED = "degraded"
    """The broker is away: messages reach this replica's clients at once and the others later."""
    CLOSED = "closed"
    """The manager was closed."""

    __str__ = str.__str__


class Reason(str, Enum):
    """Why a publication stayed local, was queued or dropped, or why the link is degraded. Used as a metric's label."""

    STARTING = "starting"
    NO_BROKER = "no_broker"
    UNREACHABLE = "unreachable"
    CONNECTION_LOST = "connection_lost"
    TIMEOUT = "timeout"
    DEAF = "deaf"
    """Publishing works, but the own copies do not come back."""
    LOADING = "loading"
    READ_ONLY = "read_only"
    """The broker is a replica that accepts no writes."""
    OUT_OF_MEMORY = "oom"
    MAX_CLIENTS = "max_clients"
    AUTHENTICATION = "authentication"
    PERMISSION = "permission"
    REFUSED = "refused"
    """The broker answered with an error that has no name of its own here."""
    BUSY = "busy"
    """More publications are under way than the bound allows."""
    OVERFLOW = "overflow"
    EXPIRED = "expired"
    EPHEMERAL = "ephemeral"
    CLOSED = "closed"

    __str__ = str.__str__
