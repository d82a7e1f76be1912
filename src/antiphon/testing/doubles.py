"""Stand-ins for sockets and for the clock: they record what they are given, and fail when they are told to."""

from __future__ import annotations

import asyncio
from collections import Counter

from antiphon.transports.backlog import Backlog
from antiphon.transports.base import OnLost, Receiver, SendLimits, Transport
from antiphon.wire.frames import Frame, Policy

__all__ = ["ManualClock", "RecordingGroup", "RecordingLane", "RecordingTransport"]


class ManualClock:
    """A clock that stands still until it is told to go on: give it wherever a `clock` is asked for."""

    def __init__(self, now: float = 1_000.0) -> None:
        self._now = now

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        if seconds < 0:
            raise ValueError(f"a monotonic clock does not go back: advance({seconds})")
        self._now += seconds


class RecordingTransport:
    """A `Transport` that keeps its frames in `frames`.

    `slow()` makes it hold back what comes then, until `catch_up()`; `lose()` is what the network does to a socket.
    Frames with a policy are dropped, by `limits`, as real transports do it; nobody is ever cut off.
    """

    def __init__(
        self, lane: RecordingLane | None = None, *, on_lost: OnLost | None = None, limits: SendLimits | None = None
    ) -> None:
        self.frames: list[Frame] = []
        """What the client received."""
        self.close_sent: tuple[int, str] | None = None
        """Code and reason of the close frame, if there was one."""
        self.detached = False
        self._lane = RecordingLane() if lane is None else lane
        self._on_lost = on_lost
        self._limits = SendLimits() if limits is None else limits
        self._queue: Backlog[Frame] | None = None
        self._lost = False

    @property
    def lane(self) -> RecordingLane:
        """The lane that this socket belongs to."""
        return self._lane

    @property
    def texts(self) -> list[str]:
        """The content of `frames`."""
        return [frame.text for frame in self.frames]

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait since `slow()`."""
        return 0 if self._queue is None else self._queue.bytes

    @property
    def lost(self) -> bool:
        """Whether it carries nothing any more: closed, detached or lost."""
        return self._lost

    def send(self, frame: Frame) -> None:
        """Record one frame, or queue it while slow. Dropped once the socket is lost."""
        if self._lost:
            return
        if self._queue is None:
            self.frames.append(frame)
        else:
            self._queue.make_room(frame.size, elsewhere_bytes=0)
            self._queue.append(frame, frame.size, 0.0)

    def send_or_drop(self, frame: Frame, policy: Policy) -> None:
        """Record one frame, or queue it while slow, where it may be dropped."""
        if self._lost:
            return
        if self._queue is None:
            self.frames.append(frame)
        else:
            self._queue.append_or_drop(frame, frame.size, 0.0, policy, elsewhere_bytes=0)

    def close(self, code: int, reason: str, *, discard: bool = False) -> None:
        """Record the close frame, behind what is queued unless that is discarded. `on_lost` is told "closed"."""
        if not self._lost:
            if discard and self._queue is not None:
                self._queue.clear()
            self.catch_up()
            self.close_sent = (code, reason)
            self.lose("closed")

    def adopt(self, receiver: Receiver) -> bool:
        """Never: tests feed the application's own coroutine."""
        return False

    def limit_messages(self, limit_bytes: int) -> None:
        """Nothing is read here."""

    def pause_reading(self) -> None:
        """Nothing is read here."""

    def resume_reading(self) -> None:
        """Nothing is read here."""

    def detach(self) -> None:
        """Let go without closing; `on_lost` is not told. Idempotent."""
        self.detached = True
        self._lost = True
        self._on_lost = None

    def slow(self) -> None:
        """The client reads no more: frames queue up."""
        if self._queue is None:
            self._queue = Backlog(self._limits, dropped=self._lane.dropped, now=0.0)

    def catch_up(self) -> None:
        """The client reads again: what was queued is in `frames` now."""
        queued, self._queue = self._queue, None
        while queued:
            frame = queued.take().data
            assert frame is not None
            self.frames.append(frame)

    def lose(self, reason: str = "gone") -> None:
        """End the socket. `on_lost` is told from the event loop, in its next turn; at once where no loop runs."""
        if self._lost:
            return
        self._lost = True
        self._queue = None
        on_lost, self._on_lost = self._on_lost, None
        if on_lost is None:
            return
        try:
            asyncio.get_running_loop().call_soon(on_lost, reason)
        except RuntimeError:
            on_lost(reason)


class RecordingGroup:
    """A `Group` that hands each frame to its sockets at once."""

    def __init__(self, lane: RecordingLane) -> None:
        self._lane = lane
        self._transports: dict[Transport, None] = {}

    def add(self, transport: Transport) -> None:
        """Add a socket of the same lane."""
        if not isinstance(transport, RecordingTransport) or transport.lane is not self._lane:
            raise ValueError("this socket belongs to another lane: make one group for each lane")
        self._transports[transport] = None

    def discard(self, transport: Transport) -> None:
        """Remove a socket, if it is there."""
        self._transports.pop(transport, None)

    def deliver(self, frame: Frame) -> None:
        """Hand `frame` to every socket."""
        self._lane.delivered.append(frame)
        for transport in list(self._transports):
            transport.send(frame)

    def deliver_or_drop(self, frame: Frame, policy: Policy) -> None:
        """Hand `frame` to every socket; those that are slow may drop it."""
        self._lane.delivered.append(frame)
        for transport in list(self._transports):
            transport.send_or_drop(frame, policy)

    def __len__(self) -> int:
        return len(self._transports)


class RecordingLane:
    """A `Lane` whose groups hand on at once. While `crowd()` holds, `room` does not return."""

    def __init__(self) -> None:
        self.delivered: list[Frame] = []
        """What the groups were given, once for each call."""
        self.dropped: Counter[str] = Counter()
        """Frames that slow sockets dropped, by reason."""
        self.closed = False
        self._backlog_bytes = 0
        self._room = asyncio.Event()
        self._room.set()

    def transport(self, *, on_lost: OnLost | None = None, limits: SendLimits | None = None) -> RecordingTransport:
        """A new socket of this lane."""
        return RecordingTransport(self, on_lost=on_lost, limits=limits)

    def group(self) -> RecordingGroup:
        """A new, empty group."""
        return RecordingGroup(self)

    @property
    def backlog_bytes(self) -> int:
        """What `crowd` said; 0 otherwise."""
        return self._backlog_bytes

    async def room(self) -> None:
        """Return at once, unless `crowd` was called: then after `clear`."""
        await self._room.wait()

    def crowd(self, backlog_bytes: int = 16 * 1024 * 1024) -> None:
        """Behave as with this much under way."""
        self._backlog_bytes = backlog_bytes
        self._room.clear()

    def clear(self) -> None:
        """There is room again."""
        self._backlog_bytes = 0
        self._room.set()

    def close(self) -> None:
        """Record that the lane was closed. Idempotent."""
        self.closed = True
        self._room.set()
