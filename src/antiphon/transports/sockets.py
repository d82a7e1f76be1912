"""The quick way to the sockets: frames are built and joined once, and written straight to the descriptors.

What a socket does not take at once waits in the event loop, and what comes later in a bounded queue of its own; when
all of it has left, the socket is written to directly again.
"""

from __future__ import annotations

import asyncio

from antiphon.codes import CloseCode
from antiphon.errors import UsageError
from antiphon.transports.backlog import Backlog
from antiphon.transports.base import OnLost, Receiver, SendLimits, Transport
from antiphon.transports.door import Door
from antiphon.transports.progress import unsent_bytes
from antiphon.transports.writing import JOIN_BYTES, Lists, WriteQueue, pend_behind
from antiphon.wire.frames import Frame, Policy

__all__ = ["SocketGroup", "SocketLane", "SocketTransport"]

FEW = 8
"""Sockets of a group whose deliveries wait at each of them rather than in a job of their own."""
PROGRESS_S = 0.05
PATIENCE_S = 1.0


class SocketLane(WriteQueue):
    """The sockets of one manager on one event loop that are written to directly."""

    def group(self) -> SocketGroup:
        """A new, empty group."""
        return SocketGroup(self)


class SocketTransport:
    """One socket behind a `Door`. Make it on the event loop, when the socket was accepted; one per lane and door."""

    __slots__ = (
        "_buffered",
        "_closing",
        "_deadline",
        "_detached",
        "_door",
        "_ended",
        "_lane",
        "_last",
        "_limits",
        "_on_lost",
        "_outbox",
        "_pauses",
        "_progress_at",
        "_since",
        "_takes_nothing",
        "descriptor",
        "open_jobs",
        "pending",
    )

    def __init__(self, door: Door, *, lane: SocketLane, on_lost: OnLost, limits: SendLimits) -> None:
        if not door.is_open or any(isinstance(user, SocketTransport) and user._lane is lane for user in door.users):
            raise UsageError("the socket is closed, or connected to this manager already: disconnect it first")
        self._door = door
        self._lane: SocketLane = lane
        self._on_lost = on_lost
        self._limits = limits
        self._outbox: Backlog[bytes] | None = None
        """What waits here; None while nothing of ours waits, or what does is in the event loop and never dropped."""
        self._since: float | None = None
        """When the oldest of our frames that are never dropped began to wait, here or in the event loop."""
        self._buffered = 0
        self._progress_at = 0.0
        self.open_jobs = 0
        self.pending: bytes | list[bytes] | None = None
        """What leaves in the lane's next turn, ahead of its jobs."""
        self._closing = False
        self._detached = False
        self._ended = False
        self._pauses = False
        """The client's messages are not read for now."""
        self._takes_nothing = False
        """Closing, detached or ended."""
        self._last: tuple[int, str] | None = None
        """The close frame that follows when the queue is empty."""
        self._deadline: asyncio.TimerHandle | None = None
        self.descriptor = -1
        """What may be written to directly now; -1 for nothing."""
        door.users += (self,)
        if not door.paused:
            self._quick()

    @property
    def lane(self) -> SocketLane:
        """The lane that this socket belongs to."""
        return self._lane

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait because the client does not read; 0 for one that keeps up."""
        outbox = self._outbox
        if outbox is None:
            return 0 if self._since is None else self._door.transport.get_write_buffer_size()
        return outbox.bytes + self._door.transport.get_write_buffer_size()

    def send(self, frame: Frame) -> None:
        """Queue one frame for this socket alone, behind what its groups were given before."""
        if self._takes_nothing:
            return
        lane = self._lane
        if lane.jobs:
            lane.deliver(self, frame)
            return
        # As `WriteQueue.deliver_to_few` does, once more: it is the whole cost of a topic with one listener.
        data = frame.wire if lane.is_plain else lane.wire_of(frame)
        pending = self.pending
        if pending is None:
            self.pending = data
            lane.ready.append(self)
        else:
            pend_behind(self, pending, data)
        pressure = lane.pressure
        pressure.messages += 1
        pressure.bytes += len(data)
        if lane.scheduled is None:
            lane.schedule()

    def send_or_drop(self, frame: Frame, policy: Policy) -> None:
        """The same for a frame that is dropped, rather than the client, when it has to wait for too long."""
        if not self._takes_nothing:
            self._lane.deliver_or_drop(self, frame, policy)

    def close(self, code: int, reason: str, *, discard: bool = False) -> None:
        """Send what is queued, then a close frame; abort when that takes more than `SendLimits.close_s`. Idempotent.

        With `discard` only what has begun to leave is sent: what is in the kernel, or in the event loop's buffer.
        """
        if self._takes_nothing:
            return
        self._closing = self._takes_nothing = True
        if self._pauses:
            self.resume_reading()  # or the client's close frame would not be read
        if discard:
            self._lane.discard(self)
            self._lane.pressure.crowded.pop(self, None)
            if self._outbox is not None:
                self._outbox.clear()
        else:
            self._lane.flush(self)
        if self._outbox or self._door.paused:
            self._say_close_later(code, reason)
        elif not self._ended:
            self._say_close(code, reason)

    def adopt(self, receiver: Receiver) -> bool:
        """Read the socket for the application, if its protocol object can."""
        return not self._ended and self._door.adopt(receiver)

    def limit_messages(self, limit_bytes: int) -> None:
        """Let the client's messages have so many bytes from now on."""
        if not self._ended:
            self._door.limit_messages(limit_bytes)

    def pause_reading(self) -> None:
        """Take nothing more from an adopted socket for now. Idempotent."""
        if not self._ended:
            self._pauses = True
            self._door.pause_reading()

    def resume_reading(self) -> None:
        """Go on reading. Idempotent."""
        self._pauses = False
        if not self._ended:
            self._door.resume_reading()

    def detach(self) -> None:
        """Take nothing more. What was given before still leaves, if the socket takes it; `on_lost` is not told."""
        if self._detached or self._ended:
            return
        self._lane.flush(self)
        self._detached = self._takes_nothing = True
        if not self._outbox and self._last is None:
            self._end("closed")

    def holds_publishers(self) -> bool:
        """Whether it drains so quickly that waiting for it is better than cutting it off."""
        now = self._lane.loop.time()
        buffered = self._door.transport.get_write_buffer_size()
        if buffered < self._buffered:
            self._progress_at = now
        self._buffered = buffered
        return self._since is not None and now - self._progress_at < PROGRESS_S and now - self._since < PATIENCE_S

    # What the door tells.

    def writing_paused(self) -> None:
        """The socket takes no more."""
        if self._ended:
            return
        self._leave_quick(still_served=True)
        self._progress_at = self._lane.loop.time()
        self._lane.now_blocked(self, self._limits)

    def writing_resumed(self) -> None:
        """Everything that waited in the event loop has left: what waits here goes on."""
        if self._ended:
            return
        door = self._door
        outbox = self._outbox
        self._since = None
        self._progress_at = self._lane.loop.time()
        if outbox is not None:
            outbox.progress_at = self._progress_at
        while outbox:
            since, data = self._next_write(outbox)
            if not door.write(data):
                self._since = since if since is not None else outbox.kept_since()
                return
        self._outbox = None
        self._lane.no_longer_blocked(self)
        if self._last is not None:
            self._say_close(*self._last)
        elif self._detached:
            self._end("closed")
        else:
            self._quick()

    def others_write(self) -> None:
        """What was sent to this socket alone keeps its place before the application's own messages."""
        if self.open_jobs or self.pending is not None:
            self._lane.flush(self)

    def writing_ends(self, *, lost: bool) -> None:
        """The close frame of somebody else follows, or the socket is lost."""
        if not lost and not self._door.paused:
            self._lane.flush(self)
        self._end("closed" if self._closing else "gone")

    def _next_write(self, outbox: Backlog[bytes]) -> tuple[float | None, bytes]:
        """Take from the queue what goes into one write, and since when the first of it waited that is never dropped."""
        since: float | None = None
        parts: list[bytes] = []
        size = 0
        while outbox and (not parts or size < JOIN_BYTES):
            cell = outbox.take()
            assert cell.data is not None
            parts.append(cell.data)
            size += cell.size
            if since is None and cell.policy is None:
                since = cell.at
        if outbox.kept_bytes <= self._limits.queued_bytes // 2:
            self._lane.pressure.crowded.pop(self, None)
        return since, b"".join(parts)

    # What the lane does with it.

    def split(self) -> Lists:
        return ((self.descriptor,), ()) if self.descriptor >= 0 else ((), (self,))

    def reaches(self, member: object) -> bool:
        return member is self

    def _quick(self) -> None:
        """Nothing waits: let the lane write to the descriptor."""
        if self._door.descriptor < 0 or self._closing or self._detached:
            return
        self.descriptor = self._door.descriptor
        self._lane.members[self.descriptor] = self
        self._lane.changes += 1

    def _leave_quick(self, *, still_served: bool) -> None:
        if self.descriptor < 0:
            return
        self._lane.no_longer_quick(self, still_served=still_served)
        del self._lane.members[self.descriptor]
        self.descriptor = -1
        self._lane.changes += 1

    def keep_rest(self, rest: bytes, *, droppable: bool = False) -> None:
        """The socket took only a part: the event loop sends the rest, and says when it is gone."""
        door = self._door
        self._since = None if droppable else self._lane.loop.time()
        if not door.write(rest):
            if droppable:
                self._backlog()
            return
        self._since = None
        if door.transport.get_write_buffer_size():
            # Somebody changed the limits of the event loop's buffer: nobody may write past it any more.
            self._leave_quick(still_served=True)
            door.descriptor = -1

    def push(self, data: bytes) -> None:
        """Write through the event loop, or let it wait here."""
        if self._ended:
            return
        door = self._door
        if not door.paused:
            if not door.write(data):
                self._since = self._lane.loop.time()
            return
        outbox = self._backlog()
        if not outbox.make_room(len(data), elsewhere_bytes=door.transport.get_write_buffer_size()):
            self._cut()
            return
        now = self._lane.loop.time()
        outbox.append(data, len(data), now)
        if self._since is None:
            self._since = now
        if outbox.kept_bytes > self._limits.queued_bytes // 2:
            self._lane.pressure.crowded[self] = None

    def push_or_drop(self, data: bytes, policy: Policy) -> None:
        """The same for one frame that may be dropped while it waits."""
        if self._ended:
            return
        door = self._door
        if not door.paused:
            if not door.write(data):
                self._backlog()
            return
        elsewhere_bytes = door.transport.get_write_buffer_size()
        now = self._lane.loop.time()
        self._backlog().append_or_drop(data, len(data), now, policy, elsewhere_bytes=elsewhere_bytes)

    def _backlog(self) -> Backlog[bytes]:
        outbox = self._outbox
        if outbox is None:
            lane = self._lane
            outbox = self._outbox = Backlog(self._limits, dropped=lane.dropped, now=lane.loop.time())
        return outbox

    def check_age(self, now: float) -> None:
        """Drop or cut what has waited for too long; cut as well who takes nothing at all, whatever waits."""
        limit_s = self._limits.queued_age_s
        outbox = self._outbox
        if outbox is not None:
            outbox.expire(before=now - limit_s)
        if self._since is not None:
            if now - self._since > limit_s:
                self._cut()
        elif outbox is not None and outbox.is_stuck(unsent_bytes(self._door.transport), now):
            self._cut()

    def _cut(self) -> None:
        """The client does not read: drop what waits, say why if that can still leave, and abort."""
        detached = self._detached
        self._end("slow")
        if not detached:
            self._door.close(CloseCode.TOO_SLOW, "too slow", limit_s=self._limits.close_s)

    def broken(self) -> None:
        """Writing failed: the event loop will notice only when it reads, and it may not be reading."""
        self._end("gone")
        self._door.abort()

    def _say_close(self, code: int, reason: str) -> None:
        self._end("closed")
        self._door.close(code, reason, limit_s=self._limits.close_s)

    def _say_close_later(self, code: int, reason: str) -> None:
        self._last = (code, reason)
        self._deadline = self._lane.loop.call_later(self._limits.close_s, self._give_up)

    def _give_up(self) -> None:
        self._end("closed")
        self._door.abort()

    def _end(self, reason: str) -> None:
        """Carry nothing more. Idempotent."""
        if self._ended:
            return
        self._leave_quick(still_served=False)
        self._ended = self._takes_nothing = True
        self._outbox = None
        self.pending = None
        self._since = None
        self._lane.no_longer_blocked(self)
        self._door.users = tuple(user for user in self._door.users if user is not self)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if not self._detached:
            self._lane.loop.call_soon(self._on_lost, reason)


class SocketGroup:
    """Some sockets of one lane that hear the same."""

    __slots__ = ("_changes", "_lane", "_lists", "_members", "open_jobs")

    def __init__(self, lane: SocketLane) -> None:
        self._lane = lane
        self._members: dict[SocketTransport, None] = {}
        self._lists: Lists | None = None
        """Descriptors that may be written to directly, and the sockets that have none now. None: to be made."""
        self._changes = -1
        """The lane's `changes` when the lists were made."""
        self.open_jobs = 0
        """Queued jobs that go to whoever is a member when their turn comes."""

    def add(self, transport: Transport) -> None:
        """Add a socket of the same lane. What was delivered before does not reach it."""
        assert isinstance(transport, SocketTransport)
        assert transport._lane is self._lane, "a socket of another lane"
        if transport in self._members:
            return
        if self.open_jobs:
            self._lane.seal_all_of(self)
        self._members[transport] = None
        self._lists = None

    def discard(self, transport: Transport) -> None:
        """Remove a socket, if it is there. What was delivered before still reaches it."""
        assert isinstance(transport, SocketTransport)
        if transport not in self._members:
            return
        if self.open_jobs:
            self._lane.seal_all_of(self)
        del self._members[transport]
        self._lists = None

    def deliver(self, frame: Frame) -> None:
        """Queue one frame for every socket of the group."""
        lane = self._lane
        members = self._members
        if lane.jobs or len(members) > FEW:
            if members:
                lane.deliver(self, frame)
        elif members:
            lane.deliver_to_few(members, frame)

    def deliver_or_drop(self, frame: Frame, policy: Policy) -> None:
        """The same for a frame that may be dropped where it has to wait. It keeps its place among the others."""
        if self._members:
            self._lane.deliver_or_drop(self, frame, policy)

    def __len__(self) -> int:
        return len(self._members)

    def split(self) -> Lists:
        lists = self._lists
        if lists is None or self._changes != self._lane.changes:
            members = self._members
            descriptors = [member.descriptor for member in members if member.descriptor >= 0]
            others = [member for member in members if member.descriptor < 0] if len(descriptors) != len(members) else []
            lists = self._lists = (descriptors, others)
            self._changes = self._lane.changes
        return lists

    def reaches(self, member: object) -> bool:
        return member in self._members
