"""Allowances: how much one publication, connection or user may take. On by default, and wide enough for honest use."""

from __future__ import annotations

from dataclasses import dataclass, fields

from antiphon.errors import ConfigurationError

__all__ = ["UNUSED", "Allowances", "Limits", "Rate"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a manager allows. Use the same values on every replica. Raises ConfigurationError for values below 1.

    What concerns the messages of clients holds where the library reads the socket: in `WebSocketManager.serve`.
    """

    message_bytes: int = 256 * 1024
    """Bytes of one encoded message; a larger one raises MessageTooLarge and goes nowhere."""
    topics_per_connection: int = 128
    """Topics that one connection may listen to."""
    connections_per_user: int | None = 64
    """Sockets of one user id, on all replicas together; None: no limit. Sockets without a user id do not count."""
    frame_bytes: int = 64 * 1024
    """Bytes of one message from a client; a larger one ends its connection with 1009."""
    frame_depth: int = 64
    """Containers within containers in a message from a client; what is nested deeper is answered with an error."""
    frames_per_s: int = 100
    """Messages a second that one connection may send on average; what comes faster is answered with an error."""
    frames_burst: int = 200
    """Messages that it may send at once after a pause."""
    inbound_bytes_per_s: int = 1024 * 1024
    """Bytes a second that one connection may send on average: large messages take long to read."""
    inbound_bytes_burst: int = 8 * 1024 * 1024
    """Bytes that it may send at once after a pause."""
    user_frames_per_s: int = 1_000
    """Messages a second that all connections of one user on one replica may send on average."""
    user_frames_burst: int = 2_000
    """Messages that they may send at once after a pause."""
    subscribes_per_s: int = 20
    """Topics a second that one connection may ask for on average."""
    subscribes_burst: int = 256
    """Topics that it may ask for at once after a pause, as a page does that comes back."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.name == "connections_per_user":
                continue
            if type(value) is not int or value < 1:
                raise ConfigurationError(f"Limits.{field.name} must be an int of at least 1, not {value!r}")


UNUSED = 0.0
"""The state of an allowance that nothing was taken from."""
_HAIR = 1e-3
"""Parts of a message that rounding may add, so that it never takes one away."""


class Rate:
    """An allowance of `per_s` on average that may be saved up to `burst`, for any number of those who share the rule.

    It keeps nothing for them. What one has left is a single number, the time at which its allowance is full again:
    `UNUSED` to begin with, then what `take` returned last. One that lies in the past may be forgotten.
    """

    __slots__ = ("_interval_s", "_span_s")

    def __init__(self, per_s: float, burst: float) -> None:
        if not per_s > 0 or not burst >= 1:
            raise ConfigurationError(
                f"an allowance needs a rate above 0 and a burst of at least 1, not {per_s!r} and {burst!r}"
            )
        self._interval_s = 1 / per_s
        self._span_s = (burst + _HAIR) / per_s

    def take(self, full_at: float, now: float, n: int = 1) -> float:
        """Take `n` from the allowance that is full at `full_at`, and return when it is full now.

        When less is left it returns -1, and nothing was taken. `now` is not negative and never goes back.
        """
        full_at = (full_at if full_at > now else now) + n * self._interval_s
        return full_at if full_at - now <= self._span_s else -1.0


class Allowances:
    """One allowance for each key, under one rule. Those that are full again are forgotten now and then."""

    __slots__ = ("_full_at", "_rate", "_sweep_at")

    SWEEP = 1_024
    """Fewer keys than that are kept as they are."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._full_at: dict[str, float] = {}
        self._sweep_at = self.SWEEP

    def take(self, key: str, now: float) -> bool:
        """Take one from the allowance of `key`; False when nothing is left of it."""
        full_at = self._rate.take(self._full_at.get(key, UNUSED), now)
        if full_at < 0:
            return False
        self._full_at[key] = full_at
        if len(self._full_at) >= self._sweep_at:
            self._full_at = {key: full_at for key, full_at in self._full_at.items() if full_at > now}
            self._sweep_at = max(self.SWEEP, 2 * len(self._full_at))
        return True

    def __len__(self) -> int:
        return len(self._full_at)
