"""The order of writing: what was delivered, to whom, and in which turn of the event loop it leaves.

While nothing waits in the event loop for a socket, its descriptor stands in the flat lists of its groups, and one
`os.write` per socket carries everything that was delivered in the meantime. A socket that takes less leaves the lists.

What goes to few sockets waits at each of them, and all of it leaves in one go: a kernel that is called again and again
finds its memory in the caches, which takes half as long as when each call follows other work.
"""

from __future__ import annotations

import asyncio
import operator
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeAlias

from antiphon.transports.base import SendLimits
from antiphon.transports.pressure import Pressure
from antiphon.wire.frames import Frame, Policy

__all__ = ["JOIN_BYTES", "Lists", "Member", "Target", "WriteQueue", "pend_behind"]

SLICE = 128
"""Sockets written to between two turns of the event loop: about 1 ms.

What others do in these turns pays: publishers that are answered during a fan-out have their next messages ready to be
joined when it ends. Four through a broker at 1,000 connections take half of the time that they take with 512.
"""
JOIN_BYTES = 256 * 1024
"""Deliveries are joined up to this size."""
WATCH_S = 1.0

COST_BYTES = 16 * 1024
"""Copying so much into the kernel takes as long as a write itself."""


DEFLATE_BYTES = 128
"""Below this size compressing makes a frame hardly smaller."""


def _deflated(frame: Frame) -> bytes:
    return frame.wire if frame.size < DEFLATE_BYTES else frame.deflated


_plain: Callable[[Frame], bytes] = operator.attrgetter("wire")


def _v1_deflated(frame: Frame) -> bytes:
    return _deflated(frame.v1)


_FORMS: dict[tuple[bool, bool], Callable[[Frame], bytes]] = {
    (False, False): _plain,
    (True, False): _deflated,
    (False, True): operator.attrgetter("v1.wire"),
    (True, True): _v1_deflated,
}


class Member(Protocol):
    """One socket, as the queue sees it."""

    pending: bytes | list[bytes] | None
    """What was delivered to it and few others, or to it alone, and leaves ahead of all jobs."""

    @property
    def descriptor(self) -> int:
        """What may be written to directly now; -1 for nothing."""
        ...

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait because the client does not read."""
        ...

    def push(self, data: bytes) -> None:
        """Write whole frames through the event loop, or let them wait."""
        ...

    def push_or_drop(self, data: bytes, policy: Policy) -> None:
        """The same for one frame that may be dropped while it waits."""
        ...

    def keep_rest(self, rest: bytes, *, droppable: bool = False) -> None:
        """The socket took only a part of what was written to its descriptor.

        What is `droppable` is the rest of one frame that would have been dropped, had it not begun to leave.
        """
        ...

    def broken(self) -> None:
        """Writing to the descriptor failed."""
        ...

    def check_age(self, now: float) -> None:
        """Cut the socket off if something has waited for too long."""
        ...

    def holds_publishers(self) -> bool:
        """Whether it drains so quickly that waiting for it is better than cutting it off."""
        ...


def pend_behind(member: Member, pending: bytes | list[bytes], data: bytes) -> None:
    """Let `data` follow what is pending."""
    if isinstance(pending, list):
        pending.append(data)
    else:
        member.pending = [pending, data]


Lists: TypeAlias = tuple[Sequence[int], Sequence[Member]]
"""Descriptors that may be written to directly, and the sockets that have none now."""


class Target(Protocol):
    """Whom a delivery is for: a group of sockets, or one."""

    open_jobs: int
    """Queued jobs that go to whoever belongs to it when their turn comes."""

    def split(self) -> Lists:
        """Its sockets, as they are now. The lists are never changed afterwards."""
        ...

    def reaches(self, member: object) -> bool:
        """Whether the socket belongs to it."""
        ...


class _Job:
    """Deliveries to the same sockets, one after the other, which leave in one write per socket."""

    __slots__ = ("count", "data", "descriptors", "frames", "others", "position", "size", "target")

    def __init__(self, target: Target, frame: Frame) -> None:
        self.target = target
        self.frames = [frame]
        self.size = frame.size
        self.count = 1
        self.data = b""
        self.descriptors: Sequence[int] | None = None
        """Sockets that are written to directly, from `position` on; None while deliveries are still joined."""
        self.others: list[Member] = []
        """Sockets that are not; served from the end."""
        self.position = 0

    def seal(self, wire_of: Callable[[Frame], bytes]) -> None:
        """Fix what is sent and who gets it."""
        if self.descriptors is None:
            self.descriptors, others = self.target.split()
            self.others = list(others)
            self.data = wire_of(self.frames[0]) if self.count == 1 else b"".join(map(wire_of, self.frames))
            self.frames = []

    def push_to(self, member: Member) -> None:
        """Give everything to a socket that is not written to directly."""
        member.push(self.data)

    def take(self, member: Member) -> bool:
        """Remove a socket, if the job still has to serve it."""
        if member in self.others:
            self.others.remove(member)
            return True
        descriptors = self.descriptors
        if member.descriptor < 0 or not descriptors:
            return False
        try:
            index = descriptors.index(member.descriptor, self.position)
        except ValueError:
            return False
        self.descriptors = [*descriptors[:index], *descriptors[index + 1 :]]
        return True


class _DroppableJob(_Job):
    """The same for frames with policies. Who takes all of it at once gets it in one write; others, frame by frame."""

    __slots__ = ("policies", "wires")

    def __init__(self, target: Target, frame: Frame, policy: Policy) -> None:
        super().__init__(target, frame)
        self.policies = [policy]
        self.wires: list[bytes] = []

    def seal(self, wire_of: Callable[[Frame], bytes]) -> None:
        if self.descriptors is None:
            self.wires = [wire_of(frame) for frame in self.frames]
            super().seal(wire_of)

    def push_to(self, member: Member) -> None:
        for wire, policy in zip(self.wires, self.policies, strict=True):
            member.push_or_drop(wire, policy)

    def write_to(self, descriptor: int, members: Mapping[int, Member]) -> None:
        """Write to a socket for which nothing waits."""
        try:
            written = os.write(descriptor, self.data)
        except BlockingIOError:
            written = 0
        except OSError:
            members[descriptor].broken()
            return
        if written != len(self.data):
            self._keep_rest(members[descriptor], written)

    def _keep_rest(self, member: Member, written: int) -> None:
        """Only the frame that is cut in two has to follow; it, or the first one, tells when there is room again."""
        first = 0
        while written >= len(self.wires[first]):
            written -= len(self.wires[first])
            first += 1
        member.keep_rest(self.wires[first][written:], droppable=True)
        for wire, policy in zip(self.wires[first + 1 :], self.policies[first + 1 :], strict=True):
            member.push_or_drop(wire, policy)


class WriteQueue:
    """The sockets of one manager on one event loop that are written to directly."""

    def __init__(self, *, deflates: bool = False, v1: bool = False, dropped: Counter[str] | None = None) -> None:
        self.is_plain = not deflates and not v1
        """Whether `Frame.wire` is what its sockets get."""
        self.wire_of = _FORMS[deflates, v1]
        """The bytes that stand for a frame on these sockets."""
        self.loop = asyncio.get_running_loop()
        self.ready: deque[Member] = deque()
        """Sockets with something pending, in the order of the deliveries. There were no jobs when those were made."""
        self.jobs: deque[_Job] = deque()
        self._last: _Job | None = None
        """The job that deliveries are still joined to."""
        self._last_droppable: _DroppableJob | None = None
        """The job that those with a policy are joined to, while it is the last of all."""
        self.dropped: Counter[str] = dropped if dropped is not None else Counter()
        """Frames that were dropped because a client was behind, by reason."""
        self.scheduled: asyncio.Handle | None = None
        """The next turn, when there is something to write."""
        self.members: dict[int, Member] = {}
        self.changes = 0
        """How often a socket came to be written to directly, or ceased to be: flat lists are as old as this."""
        self._blocked: dict[Member, None] = {}
        self._watch: asyncio.TimerHandle | None = None
        self._watch_s = WATCH_S
        self.pressure = Pressure()

    @property
    def backlog_bytes(self) -> int:
        """Bytes of frames that were delivered and not yet handed to every socket."""
        return self.pressure.bytes

    @property
    def is_idle(self) -> bool:
        """Whether nothing is queued any more, for no socket."""
        return not self.jobs and not self.ready and not self._blocked

    def waiting(self) -> list[Member]:
        """The sockets that take no more for now."""
        return list(self._blocked)

    async def room(self) -> None:
        """Return at once while the backlog is small, else when it is."""
        await self.pressure.room()

    def close(self) -> None:
        """End the timers of the lane; what is still queued is dropped. The sockets stay open."""
        for job in self.jobs:
            job.seal(self.wire_of)
        self.jobs.clear()
        self._last = self._last_droppable = None
        for member in self.ready:
            member.pending = None
        self.ready.clear()
        self._count_done()
        if self.scheduled is not None:
            self.scheduled.cancel()
            self.scheduled = None
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    # Deliveries.

    def deliver(self, target: Target, frame: Frame) -> None:
        """Queue one delivery, joined to the last one if that is for the same sockets."""
        last = self._last
        if last is not None and last.target is target and last.size < JOIN_BYTES:
            last.frames.append(frame)
            last.size += frame.size
            last.count += 1
        else:
            last = self._last = _Job(target, frame)
            self.jobs.append(last)
            target.open_jobs += 1
            if self.scheduled is None:
                self.schedule()
        pressure = self.pressure
        pressure.messages += 1
        pressure.bytes += frame.size

    def deliver_or_drop(self, target: Target, frame: Frame, policy: Policy) -> None:
        """The same for a frame that may be dropped where it has to wait: never in one job with others."""
        last = self._last_droppable
        if last is not None and last.target is target and last.size < JOIN_BYTES and self.jobs[-1] is last:
            last.frames.append(frame)
            last.policies.append(policy)
            last.size += frame.size
            last.count += 1
        else:
            last = self._last_droppable = _DroppableJob(target, frame, policy)
            self._last = None  # what comes without a policy follows
            self.jobs.append(last)
            target.open_jobs += 1
            if self.scheduled is None:
                self.schedule()
        self.pressure.add(frame.size)

    def deliver_to_few(self, members: Iterable[Member], frame: Frame) -> None:
        """Queue one delivery for so few sockets that a job would cost more than it saves. Only while there are none."""
        data = self.wire_of(frame)
        for member in members:
            pending = member.pending
            if pending is None:
                member.pending = data
                self.ready.append(member)
            else:
                pend_behind(member, pending, data)
        pressure = self.pressure
        pressure.messages += 1
        pressure.bytes += len(data)
        if self.scheduled is None:
            self.schedule()

    def schedule(self) -> None:
        """Write in the next turn of the event loop."""
        self.scheduled = self.loop.call_soon(self._run)

    def _run(self) -> None:
        self.scheduled = None
        jobs, ready = self.jobs, self.ready
        budget = SLICE
        few = bool(ready)
        try:
            if few:
                budget = self._serve_ready(budget)
            while jobs and budget > 0:
                job = jobs[0]
                if job.descriptors is None:
                    self._seal(job)
                budget = self._serve(job, budget)
        finally:  # whatever a transport of the event loop raises must not stop the others
            if jobs or ready:
                self.schedule()
            if few and not ready:
                self._count_done()

    def _serve_ready(self, budget: int) -> int:
        """Write what is pending at single sockets, as far as the budget allows. What is left of it is returned."""
        ready = self.ready
        write = os.write
        while ready and budget > 0:
            member = ready.popleft()
            data = member.pending
            if data is None:  # it was flushed
                continue
            member.pending = None
            budget -= 1
            if isinstance(data, list):
                budget -= self._write_parts(member, data)
                continue
            descriptor = member.descriptor
            if descriptor < 0:
                member.push(data)
                continue
            try:
                written = write(descriptor, data)
            except BlockingIOError:
                written = 0
            except OSError:
                member.broken()
                continue
            size = len(data)
            if written != size:
                member.keep_rest(data[written:])
            if size > COST_BYTES:
                budget -= size // COST_BYTES
        return budget

    def _write_parts(self, member: Member, parts: Sequence[bytes]) -> int:
        """Write several frames to one socket, joined up to the limit. Returns what that adds to the cost of a write."""
        size, first = 0, 0
        cost = -1
        for index, part in enumerate(parts, 1):
            size += len(part)
            if size >= JOIN_BYTES or index == len(parts):
                data = b"".join(parts[first:index])
                if member.descriptor >= 0:
                    self.write((member.descriptor,), data)
                else:
                    member.push(data)
                cost += 1 + size // COST_BYTES
                size, first = 0, index
        return cost

    def _count_done(self) -> None:
        """Nothing is pending any more: only the jobs are still under way."""
        pressure = self.pressure
        if pressure.messages:
            messages = sum(job.count for job in self.jobs)
            pressure.done(pressure.messages - messages, pressure.bytes - sum(job.size for job in self.jobs))

    def _serve(self, job: _Job, budget: int) -> int:
        """Write to as many of the job's sockets as the budget allows. What is left of the budget is returned."""
        descriptors = job.descriptors
        assert descriptors is not None
        cost = 1 + len(job.data) // COST_BYTES
        start = job.position
        end = min(start + 1 + budget // cost, len(descriptors))
        job.position = end
        some = descriptors if end - start == len(descriptors) else descriptors[start:end]
        droppable = job if isinstance(job, _DroppableJob) else None
        if droppable is None:
            self.write(some, job.data)
        else:
            for descriptor in some:
                droppable.write_to(descriptor, self.members)
        budget -= (end - start) * cost
        others = job.others
        while others and budget > 0:
            member = others.pop()
            if droppable is None:
                member.push(job.data)
            else:
                droppable.push_to(member)
            budget -= cost
        if not others and job.position == len(job.descriptors or ()):
            self.jobs.popleft()
            self.pressure.done(job.count, job.size)
        return budget - 1

    def write(self, descriptors: Sequence[int], data: bytes) -> None:
        """Write to sockets for which nothing waits."""
        write = os.write
        size = len(data)
        for descriptor in descriptors:
            try:
                written = write(descriptor, data)
            except BlockingIOError:
                written = 0
            except OSError:
                self.members[descriptor].broken()
                continue
            if written != size:
                self.members[descriptor].keep_rest(data[written:])

    def _seal(self, job: _Job) -> None:
        job.seal(self.wire_of)
        job.target.open_jobs -= 1
        if job is self._last:
            self._last = None
        elif job is self._last_droppable:
            self._last_droppable = None

    def seal_all_of(self, target: Target) -> None:
        """Fix who gets what was delivered so far: the group is about to change."""
        for job in self.jobs:
            if job.target is target and job.descriptors is None:
                self._seal(job)

    def no_longer_quick(self, member: Member, *, still_served: bool) -> None:
        """Take a descriptor out of every list: it may be closed, and then be another socket's, at any time."""
        for job in self.jobs:
            if job.descriptors is not None and job.take(member) and still_served:
                job.others.append(member)

    def flush(self, member: Member) -> None:
        """Write what is queued for one socket ahead of its turn, because nothing can follow."""
        pending, member.pending = member.pending, None
        if pending is not None:
            self._write_parts(member, pending if isinstance(pending, list) else [pending])
        for job in self.jobs:
            if job.descriptors is None and job.target.reaches(member):
                self._seal(job)
            if job.descriptors is not None and job.take(member):
                job.push_to(member)

    def discard(self, member: Member) -> None:
        """Drop what is queued for one socket: nothing of it has begun to leave."""
        member.pending = None
        for job in self.jobs:
            if job.descriptors is None and job.target.reaches(member):
                self._seal(job)
            if job.descriptors is not None:
                job.take(member)

    # Slow clients.

    def now_blocked(self, member: Member, limits: SendLimits) -> None:
        """The socket takes no more: look after it now and then."""
        self._blocked[member] = None
        self._watch_s = min(self._watch_s, limits.queued_age_s / 4)
        if self._watch is None:
            self._watch = self.loop.call_later(self._watch_s, self._look_for_slow)

    def no_longer_blocked(self, member: Member) -> None:
        """It takes more again, or is gone."""
        self._blocked.pop(member, None)
        self.pressure.crowded.pop(member, None)

    def _look_for_slow(self) -> None:
        self._watch = None
        now = self.loop.time()
        for member in list(self._blocked):
            member.check_age(now)
        if self._blocked:
            self._watch = self.loop.call_later(self._watch_s, self._look_for_slow)
