"""Pings for all connections of a server with one timer: one for each would take 0.4 KiB a connection."""

from __future__ import annotations

import asyncio
import secrets
from typing import Protocol

__all__ = ["Keepalive", "Pinged"]

_SLACK_S = 0.5
"""Pings may leave so much too early, and a missing pong be noticed so much too late, that several share one turn."""


class Pinged(Protocol):
    """A connection that is kept alive."""

    def ping(self, payload: bytes, frame: bytes) -> bool:
        """Write the ping and remember its payload. False when the connection is closing: it needs no more of them."""
        ...

    def keepalive_timeout(self) -> None:
        """The pong did not come in time."""
        ...


class Keepalive:
    """Pings each connection `interval_s` after it was added or has answered, and gives it `timeout_s` to answer.

    Without an interval nothing is pinged, without a timeout nobody has to answer.
    """

    __slots__ = ("_at", "_awaited", "_due", "_interval_s", "_loop", "_now", "_slack_s", "_timeout_s", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, *, interval_s: float | None, timeout_s: float | None) -> None:
        self._loop = loop
        self._interval_s = interval_s or 0.0
        self._timeout_s = timeout_s
        self._slack_s = min(_SLACK_S, self._interval_s / 20)
        # All wait equally long, so that each dictionary is in the order of its times.
        self._due: dict[Pinged, float] = {}
        self._awaited: dict[Pinged, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0
        self._now = 0.0

    def __len__(self) -> int:
        return len(self._due) + len(self._awaited)

    def add(self, connection: Pinged) -> None:
        """Keep a connection alive from now on."""
        if self._interval_s <= 0:
            return
        now = self._loop.time()
        if now - self._now > self._slack_s:
            self._now = now  # one number for many connections
        self._due[connection] = at = self._now + self._interval_s
        if self._timer is None or at < self._at:
            self._arm()

    def discard(self, connection: Pinged) -> None:
        """No more pings; whether it was there or not."""
        self._due.pop(connection, None)
        self._awaited.pop(connection, None)

    def answered(self, connection: Pinged) -> None:
        """The pong came."""
        if self._awaited.pop(connection, None) is not None:
            self.add(connection)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        first = [next(iter(each.values())) for each in (self._due, self._awaited) if each]
        if first:
            self._at = min(first)
            self._timer = self._loop.call_at(self._at, self._turn)

    def _turn(self) -> None:
        self._timer = None
        now = self._loop.time()
        for connection in _take(self._awaited, until=now):
            try:
                connection.keepalive_timeout()
            except Exception as error:  # the others still have their turn
                self._complain(error)
        payload = secrets.token_bytes(4)
        frame = b"\x89\x04" + payload
        for connection in _take(self._due, until=now + self._slack_s):
            try:
                self._ping(connection, payload, frame, now)
            except Exception as error:
                self._complain(error)
        self._arm()

    def _ping(self, connection: Pinged, payload: bytes, frame: bytes, now: float) -> None:
        if not connection.ping(payload, frame):
            return
        if self._timeout_s is None:
            self.add(connection)
        else:
            self._awaited[connection] = now + self._timeout_s + self._slack_s

    def _complain(self, error: Exception) -> None:
        self._loop.call_exception_handler({"message": "keeping a WebSocket alive failed", "exception": error})


def _take(times: dict[Pinged, float], *, until: float) -> list[Pinged]:
    """Take out those whose time has come."""
    taken = []
    for connection, at in times.items():
        if at > until:
            break
        taken.append(connection)
    for connection in taken:
        del times[connection]
    return taken
