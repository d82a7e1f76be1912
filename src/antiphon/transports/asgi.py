"""The way to the sockets of any ASGI server: its own `send`, one event prebuilt for everybody.

One driver task per lane takes the first step of every `send` itself. That step is usually the whole of it, and then no
task is woken for a delivery. A `send` that suspends keeps the task that began it (libraries remember the task that
entered a cancel scope): the driver goes on as that connection's writer, and another driver takes over the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import operator
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from types import CoroutineType
from typing import Protocol, TypeAlias

from antiphon.codes import CloseCode
from antiphon.transports.backlog import Backlog, Cell
from antiphon.transports.base import OnLost, Receiver, SendLimits, Transport
from antiphon.transports.pressure import Pressure
from antiphon.wire.frames import Frame, Policy

__all__ = ["AsgiGroup", "AsgiLane", "AsgiSend", "AsgiTransport"]

logger = logging.getLogger("antiphon")

SLICE = 512
"""Sends between two turns of the event loop."""
BURST = 64
"""Sends of one writer between two turns of the event loop."""
_GONE = frozenset(("BrokenResourceError", "ClosedResourceError", "WebSocketDisconnect"))
"""Exceptions of anyio (Starlette's test client) and Starlette that say so, known by name: neither is imported here."""
WATCH_S = 1.0
PROGRESS_S = 0.1

AsgiSend: TypeAlias = Callable[[dict[str, object]], Awaitable[None]]
"""An ASGI server's `send`, as an endpoint gets it."""


class _Job:
    """One event for some sockets, as they were when it was delivered."""

    __slots__ = ("event", "last", "policy", "position", "size", "targets")

    def __init__(
        self,
        targets: Sequence[AsgiTransport],
        event: dict[str, object],
        size: int,
        *,
        last: bool = False,
        policy: Policy | None = None,
    ) -> None:
        self.targets = targets
        self.event = event
        self.size = size
        self.last = last
        self.policy = policy
        self.position = 0


class _Step(Protocol):
    """What a coroutine offers for being driven by hand."""

    def send(self, value: object, /) -> object: ...

    def throw(self, error: BaseException, /) -> object: ...

    def close(self) -> None: ...


class _Rest:
    """What is left of a coroutine that took its first step elsewhere: awaiting it goes on where it stopped."""

    __slots__ = ("_context", "_step", "_yielded")

    def __init__(self, step: _Step, context: contextvars.Context, yielded: object) -> None:
        self._step = step
        self._context = context
        self._yielded = yielded

    def __await__(self) -> Generator[object, object, None]:
        run = self._context.run
        step = self._step
        yielded = self._yielded
        try:
            while True:
                try:
                    answer = yield yielded
                except GeneratorExit:
                    run(step.close)
                    raise
                except BaseException as error:
                    yielded = run(step.throw, error)
                else:
                    yielded = run(step.send, answer)
        except StopIteration:
            return


_v1: Callable[[Frame], Frame] = operator.attrgetter("v1")


def _itself(frame: Frame) -> Frame:
    return frame


async def _awaited(awaitable: Awaitable[None]) -> None:
    await awaitable


class AsgiLane:
    """The sockets of one manager on one event loop that are written to through ASGI."""

    def __init__(self, *, v1: bool = False, dropped: Counter[str] | None = None) -> None:
        self.dropped: Counter[str] = dropped if dropped is not None else Counter()
        """Frames that were dropped because a client was behind, by reason."""
        self._form: Callable[[Frame], Frame] = _v1 if v1 else _itself
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._jobs: deque[_Job] = deque()
        self._driver: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._watch: asyncio.TimerHandle | None = None
        self._watch_s = WATCH_S
        self._busy: dict[AsgiTransport, None] = {}
        self._closed = False
        self.pressure = Pressure()

    def group(self) -> AsgiGroup:
        """A new, empty group."""
        return AsgiGroup(self)

    @property
    def backlog_bytes(self) -> int:
        """Bytes of frames that were delivered and not yet handed to every socket."""
        return self.pressure.bytes

    @property
    def is_idle(self) -> bool:
        """Whether nothing is queued any more, for no socket."""
        return not self._tasks

    def waiting(self) -> list[AsgiTransport]:
        """The sockets that something waits for."""
        return list(self._busy)

    async def room(self) -> None:
        """Return when the backlog is small; give the driver a turn first, so that a `close` can follow a message."""
        if self._jobs:
            await asyncio.sleep(0)
        await self.pressure.room()

    def close(self) -> None:
        """End every task of the lane; what is still queued is dropped. The sockets stay open."""
        self._closed = True
        for transport in list(self._busy):
            transport.detach()
        self.pressure.done(len(self._jobs), sum(job.size for job in self._jobs))
        self._jobs.clear()
        for task in self._tasks:
            task.cancel()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    # What transports and groups ask for.

    def _queue(self, job: _Job) -> None:
        self._jobs.append(job)
        self.pressure.add(job.size)
        if self._driver is None or self._driver.done():  # done without an end of its own: somebody cancelled it
            self._start_driver()

    def _goes_on(self) -> bool:
        """Whether what is queued has its turn still; sees to it that somebody works on it."""
        if self._closed:
            return False
        if self._jobs and (self._driver is None or self._driver.done()):
            self._start_driver()
        return not self.is_idle

    def _spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        # Not `create_task`: a loop whose tasks start eagerly would run it inside of the caller.
        task = asyncio.Task(work, loop=self._loop, name="antiphon-send", context=self._context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _start_driver(self) -> None:
        self._driver = self._spawn(self._drive())

    def _now_busy(self, transport: AsgiTransport) -> None:
        self._busy[transport] = None
        self._watch_s = min(self._watch_s, transport._limits.queued_age_s / 4)
        if self._watch is None:
            self._watch = self._loop.call_later(self._watch_s, self._look_for_slow)

    def _no_longer_busy(self, transport: AsgiTransport) -> None:
        self._busy.pop(transport, None)
        self.pressure.crowded.pop(transport, None)

    def _look_for_slow(self) -> None:
        self._watch = None
        now = self._loop.time()
        for transport in list(self._busy):
            transport._check_age(now)
        if self._busy:
            self._watch = self._loop.call_later(self._watch_s, self._look_for_slow)

    # The tasks.

    async def _drive(self) -> None:
        budget = SLICE
        while self._jobs:
            job = self._jobs[0]
            suspended = self._step_through(job, budget)
            if suspended is not None:
                transport, rest = suspended
                transport._writer = self._driver
                self._start_driver()
                await transport._write(job, rest)
                return
            if job.position < len(job.targets):
                budget = 0
            else:
                self._jobs.popleft()
                self.pressure.done(1, job.size)
                budget -= min(budget, len(job.targets))
            if not budget:
                await asyncio.sleep(0)
                budget = SLICE
        self._driver = None

    def _step_through(self, job: _Job, budget: int) -> tuple[AsgiTransport, _Rest] | None:
        """Send to up to `budget` of the job's sockets that are left. What is returned did not finish at once."""
        event = job.event
        position = job.position
        for transport in job.targets[position : position + budget]:
            position += 1
            if not transport._quick or job.last:
                transport._put(job)
                continue
            try:
                step = transport._send(event)
                if type(step) is not CoroutineType:
                    step = _awaited(step)
                yielded = transport._context.run(step.send, None)
            except StopIteration:
                continue
            except (Exception, asyncio.CancelledError) as error:
                transport._fail(error)
            else:
                job.position = position
                return transport, _Rest(step, transport._context, yielded)
        job.position = position
        return None


class AsgiTransport:
    """One socket that is written to by its server's `send`. Make it on the event loop, when the socket was accepted."""

    __slots__ = (
        "_closing",
        "_context",
        "_deadline",
        "_detached",
        "_discards",
        "_ended",
        "_lane",
        "_limits",
        "_on_lost",
        "_progress_at",
        "_queue",
        "_quick",
        "_send",
        "_sending",
        "_suspends",
        "_writer",
    )

    def __init__(self, send: AsgiSend, *, lane: AsgiLane, on_lost: OnLost, limits: SendLimits) -> None:
        self._send = send
        self._lane = lane
        self._on_lost = on_lost
        self._limits = limits
        self._context = contextvars.copy_context()
        self._quick = True
        """Nothing waits and nobody writes: the driver may."""
        self._suspends = False
        """The last send suspended: the next begins in a task of its own."""
        self._queue: Backlog[dict[str, object]] | None = None
        self._sending: Cell[dict[str, object]] | None = None
        """What the server's `send` has, and did not finish with yet."""
        self._writer: asyncio.Task[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._progress_at = 0.0
        self._closing = False
        self._discards = False
        """Only the close frame is still sent."""
        self._detached = False
        self._ended = False

    @property
    def lane(self) -> AsgiLane:
        """The lane that this socket belongs to."""
        return self._lane

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait because the client does not read; 0 for one that keeps up."""
        return self._sending_bytes + (self._queue.bytes if self._queue is not None else 0)

    @property
    def _sending_bytes(self) -> int:
        return self._sending.size if self._sending is not None else 0

    def send(self, frame: Frame) -> None:
        """Queue one frame for this socket alone, behind what its groups were given before."""
        if not (self._closing or self._detached or self._ended):
            frame = self._lane._form(frame)
            self._lane._queue(_Job((self,), frame.event, frame.size))

    def send_or_drop(self, frame: Frame, policy: Policy) -> None:
        """The same for a frame that is dropped, rather than the client, when it has to wait for too long."""
        if not (self._closing or self._detached or self._ended):
            frame = self._lane._form(frame)
            self._lane._queue(_Job((self,), frame.event, frame.size, policy=policy))

    def close(self, code: int, reason: str, *, discard: bool = False) -> None:
        """Send what is queued, then the close frame; give up when that takes more than `SendLimits.close_s`.

        With `discard` only what the server's `send` has already goes ahead of the close frame.
        """
        if self._closing or self._detached or self._ended:
            return
        self._closing = True
        if discard:
            self._discards = True
            self._quick = False  # what the lane still holds for it comes through `_put`
            self._lane.pressure.crowded.pop(self, None)
            if self._queue is not None:
                self._queue.clear()
        self._lane._queue(_Job((self,), _close_event(code, reason), 0, last=True))
        self._deadline = self._lane._loop.call_later(self._limits.close_s, self._close_in_vain)

    def _close_in_vain(self) -> None:
        """The time for the close frame is over: give up where the server holds it up.

        Where it was the event loop that stood still, the frame has its turn soon, and nothing else ends this socket.
        """
        if self._sending is None and self._lane._goes_on():
            self._deadline = self._lane._loop.call_later(self._limits.close_s, self._close_in_vain)
        else:
            self._end("closed")

    def adopt(self, receiver: Receiver) -> bool:
        """Never: an ASGI server closes the socket when the application's coroutine ends."""
        return False

    def limit_messages(self, limit_bytes: int) -> None:
        """Does nothing: what a message may have is the server's own limit."""

    def pause_reading(self) -> None:
        """Nothing is read here."""

    def resume_reading(self) -> None:
        """Nothing is read here."""

    def detach(self) -> None:
        """Take nothing more. What was given before still leaves, if the socket takes it; `on_lost` is not told."""
        self._detached = True

    def holds_publishers(self) -> bool:
        """Whether it drains so quickly that waiting for it is better than cutting it off."""
        since = self._kept_since()
        if since is None:
            return False
        now = self._lane._loop.time()
        return now - self._progress_at < PROGRESS_S and now - since < 1.0

    # What the lane does with it.

    def _put(self, job: _Job) -> None:
        """Let the event wait for this socket's own writer."""
        if self._ended or (self._discards and not job.last):
            return
        queue = self._backlog()
        if queue.is_final:
            return
        now = self._lane._loop.time()
        sending_bytes = self._sending_bytes
        if job.policy is not None:
            queue.append_or_drop(job.event, job.size, now, job.policy, elsewhere_bytes=sending_bytes)
        else:
            if not queue.make_room(job.size, elsewhere_bytes=sending_bytes) and (queue or self._sending is not None):
                self._cut()
                return
            queue.append(job.event, job.size, now)
            queue.is_final = job.last
            if queue.kept_bytes + sending_bytes > self._limits.queued_bytes // 2:
                self._lane.pressure.crowded[self] = None
        if self._writer is None:
            self._quick = False
            self._progress_at = now
            self._writer = self._lane._spawn(self._write(None, None))
            self._lane._now_busy(self)

    async def _write(self, job: _Job | None, rest: _Rest | None) -> None:
        """Send until nothing waits; beginning with the rest of a send that the driver began."""
        try:
            queue = self._backlog()
            if job is not None and rest is not None:
                self._quick = False
                self._sending = Cell(job.event, job.size, self._lane._loop.time(), job.policy)
                self._progress_at = self._sending.at
                self._lane._now_busy(self)
                await rest
                self._sent(suspended=True)
            burst = BURST
            while queue and not self._ended:
                cell = self._sending = queue.take()
                assert cell.data is not None
                await self._send_one(cell.data)
                if queue.is_final and not queue:
                    self._end("closed")
                burst -= 1
                if not burst:
                    await asyncio.sleep(0)
                    burst = BURST
        except asyncio.CancelledError:
            self._end("gone")
        except Exception as error:
            self._fail(error)
        finally:
            self._writer = None
            if not self._ended:
                self._queue = None
                self._quick = not self._suspends and not self._discards
                self._lane._no_longer_busy(self)

    async def _send_one(self, event: dict[str, object]) -> None:
        step = self._send(event)
        if type(step) is not CoroutineType:
            step = _awaited(step)
        try:
            yielded = self._context.run(step.send, None)
        except StopIteration:
            suspended = False
        else:
            suspended = True
            await _Rest(step, self._context, yielded)
        self._sent(suspended=suspended)

    def _sent(self, *, suspended: bool) -> None:
        self._suspends = suspended
        self._progress_at = self._lane._loop.time()
        self._sending = None
        if self._queue is not None and self._queue.kept_bytes <= self._limits.queued_bytes // 2:
            self._lane.pressure.crowded.pop(self, None)

    def _backlog(self) -> Backlog[dict[str, object]]:
        queue = self._queue
        if queue is None:
            lane = self._lane
            queue = self._queue = Backlog(self._limits, dropped=lane.dropped, now=lane._loop.time())
        return queue

    def _kept_since(self) -> float | None:
        """Since when the oldest event waits that is never dropped."""
        sending = self._sending
        if sending is not None and sending.policy is None:
            return sending.at
        return self._queue.kept_since() if self._queue is not None else None

    def _check_age(self, now: float) -> None:
        """Drop or cut what has waited for too long; cut as well who takes nothing at all, whatever waits."""
        limit_s = self._limits.queued_age_s
        if self._queue is not None:
            self._queue.expire(before=now - limit_s)
        since = self._kept_since()
        if (since is not None and now - since > limit_s) or (
            self._sending is not None and now - self._progress_at > limit_s
        ):
            self._cut()

    def _cut(self) -> None:
        """The client does not read: drop what waits, and say so in a close frame if that can still leave."""
        if self._ended:
            return
        said = self._closing or self._detached
        self._end("slow")
        if not said:
            self._lane._spawn(self._say_slow())

    async def _say_slow(self) -> None:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(self._limits.close_s):
                await self._send(_close_event(CloseCode.TOO_SLOW, "too slow"))

    def _fail(self, error: BaseException) -> None:
        if _means_gone(error):
            self._end("gone")
            return
        if not self._ended and not self._detached:
            logger.warning("the server's send failed: the connection is given up", exc_info=error)
        self._end("error")

    def _end(self, reason: str) -> None:
        """Carry nothing more. Idempotent."""
        if self._ended:
            return
        self._ended = True
        self._quick = False
        self._queue = self._sending = None
        self._lane._no_longer_busy(self)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._writer is not None and self._writer is not asyncio.current_task():
            self._writer.cancel()
        if not self._detached:
            self._lane._loop.call_soon(self._on_lost, reason)


class AsgiGroup:
    """Some sockets of one lane that hear the same."""

    __slots__ = ("_lane", "_members", "_targets")

    def __init__(self, lane: AsgiLane) -> None:
        self._lane = lane
        self._members: dict[AsgiTransport, None] = {}
        self._targets: tuple[AsgiTransport, ...] | None = ()

    def add(self, transport: Transport) -> None:
        """Add a socket of the same lane. What was delivered before does not reach it."""
        assert isinstance(transport, AsgiTransport)
        assert transport._lane is self._lane, "a socket of another lane"
        self._members[transport] = None
        self._targets = None

    def discard(self, transport: Transport) -> None:
        """Remove a socket, if it is there. What was delivered before still reaches it."""
        assert isinstance(transport, AsgiTransport)
        if self._members.pop(transport, self) is None:
            self._targets = None

    def deliver(self, frame: Frame) -> None:
        """Queue one frame for every socket of the group."""
        self._deliver(frame, None)

    def deliver_or_drop(self, frame: Frame, policy: Policy) -> None:
        """The same for a frame that may be dropped where it has to wait. It keeps its place among the others."""
        self._deliver(frame, policy)

    def _deliver(self, frame: Frame, policy: Policy | None) -> None:
        targets = self._targets
        if targets is None:
            targets = self._targets = tuple(self._members)
        if targets:
            frame = self._lane._form(frame)
            self._lane._queue(_Job(targets, frame.event, frame.size, policy=policy))

    def __len__(self) -> int:
        return len(self._members)


def _close_event(code: int, reason: str) -> dict[str, object]:
    return {"type": "websocket.close", "code": int(code), "reason": reason}


def _means_gone(error: BaseException) -> bool:
    """Whether this is how servers and frameworks say that the socket is closed."""
    if isinstance(error, OSError | RuntimeError | asyncio.CancelledError):
        return True
    return any(cls.__name__ in _GONE for cls in type(error).__mro__)
