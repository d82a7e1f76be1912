"""What a publisher asks for when the broker is away, and what it is told in the end."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from antiphon.codes import Reason
from antiphon.errors import ConfigurationError

__all__ = ["OutagePolicy", "Receipt", "check_outage"]

OutagePolicy: TypeAlias = Literal["local", "fail"]
"""What happens to a publication that the broker does not take: `"local"` delivers it to this replica's clients at once
and to the others later; `"fail"` delivers nothing and raises PublishFailed."""


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


def check_outage(outage: str) -> OutagePolicy:
    """Return the policy if it is one. Raises ConfigurationError."""
    if outage not in ("local", "fail"):
        raise ConfigurationError(f"outage={outage!r}: it is either 'local' or 'fail'")
    return "local" if outage == "local" else "fail"
