"""Whatever happens in whatever order: each client gets its messages whole, in order, once, and nobody else's.

Messages with a policy may be missing where a client was behind, and then they are counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from antiphon.transports import sockets, writing
from antiphon.transports.base import SendLimits
from antiphon.transports.sockets import SocketGroup, SocketLane
from antiphon.wire.frames import Frame, Policy
from tests.unit.kernel import FakeTransport, Kernel, frames_in

GROUPS = 3
CLOSE = b"\x88\x00"
picks = st.integers(0, 1000)
some_group = st.integers(0, GROUPS - 1)
sizes = st.sampled_from([0, 10, 200])
policies = st.sampled_from([Policy(), Policy("a"), Policy("b")])
PeerAction = Callable[[FakeTransport], None]


class Sockets(RuleBasedStateMachine):
    """Rules note what is to happen; `turn` does all of it within one turn of the event loop."""

    lane: SocketLane
    groups: list[SocketGroup]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.errors: list[object] = []
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context.get("exception")))
        self.kernel = Kernel()
        self.patch = self.kernel.installed()
        self.patch.__enter__()
        self.plan: list[Callable[[], None]] = []
        self.peers: list[FakeTransport] = []
        self.members: list[set[FakeTransport]] = [set() for _ in range(GROUPS)]
        self.wanted: dict[FakeTransport, list[bytes]] = {}
        self.own: dict[FakeTransport, list[bytes]] = {}
        self.ending: list[FakeTransport] = []
        """Detached or closed: they still get what they were sent before."""
        self.policies: dict[bytes, Policy] = {}
        """Of the messages that may be dropped."""
        self.discarded: dict[FakeTransport, bytes] = {}
        """Closed at once: all that they get before the close frame."""
        self.some_are_gone = False
        self.number = 0
        self.before = (writing.SLICE, writing.JOIN_BYTES, sockets.FEW)

    @initialize(
        slice_size=st.sampled_from([1, 2, 3, 512]), join=st.sampled_from([1, 40, 1 << 18]), few=st.integers(0, 3)
    )
    def begin(self, slice_size: int, join: int, few: int) -> None:
        writing.SLICE, writing.JOIN_BYTES, sockets.FEW = slice_size, join, few
        self.plan.append(self.make_lane)
        self.turn(0)

    def make_lane(self) -> None:
        self.lane = SocketLane()
        self.groups = [self.lane.group() for _ in range(GROUPS)]

    @rule(turns=st.integers(0, 3))
    def turn(self, turns: int) -> None:
        async def act() -> None:
            for action in self.plan:
                action()
            self.plan.clear()
            for _ in range(turns):
                await asyncio.sleep(0)

        self.loop.run_until_complete(act())
        assert self.errors == []
        for peer in self.peers:
            assert peer.lost == []
            self.check_so_far(peer)
            self.check_bounds(peer)

    def to_one(self, which: int, action: PeerAction) -> None:
        def act() -> None:
            if self.peers:
                action(self.peers[which % len(self.peers)])

        self.plan.append(act)

    def frame(self, size: int) -> Frame:
        self.number += 1
        return Frame.of_text(f"{self.number}:" + "x" * size)

    # What happens.

    @rule(
        room=st.sampled_from([0, 3, 50, 1 << 20]),
        direct=st.sampled_from([True, True, False]),
        group=some_group,
        droppable=st.sampled_from([20, 300, 1 << 30]),
    )
    def connect(self, room: int, direct: bool, group: int, droppable: int) -> None:
        def action() -> None:
            limits = SendLimits(queued_bytes=1 << 30, queued_age_s=1e9, close_s=1e9, droppable_bytes=droppable)
            peer = self.kernel.connect(self.lane, room=room, limits=limits, direct=direct)
            self.peers.append(peer)
            self.wanted[peer] = []
            self.own[peer] = []
            self.groups[group].add(peer.transport)
            self.members[group].add(peer)

        self.plan.append(action)

    @rule(which=picks, group=some_group)
    def join(self, which: int, group: int) -> None:
        def action(peer: FakeTransport) -> None:
            self.groups[group].add(peer.transport)
            self.members[group].add(peer)

        self.to_one(which, action)

    @rule(which=picks, group=some_group)
    def leave(self, which: int, group: int) -> None:
        def action(peer: FakeTransport) -> None:
            self.groups[group].discard(peer.transport)
            self.members[group].discard(peer)

        self.to_one(which, action)

    @rule(group=some_group, of=st.lists(sizes, min_size=1, max_size=4))
    def deliver(self, group: int, of: list[int]) -> None:
        def action() -> None:
            for size in of:
                frame = self.frame(size)
                for peer in self.members[group]:
                    self.wanted[peer].append(frame.wire)
                self.groups[group].deliver(frame)

        self.plan.append(action)

    @rule(which=picks, size=sizes)
    def send(self, which: int, size: int) -> None:
        def action(peer: FakeTransport) -> None:
            frame = self.frame(size)
            self.wanted[peer].append(frame.wire)
            peer.transport.send(frame)

        self.to_one(which, action)

    @rule(group=some_group, of=st.lists(st.tuples(sizes, policies), min_size=1, max_size=6))
    def deliver_or_drop(self, group: int, of: list[tuple[int, Policy]]) -> None:
        def action() -> None:
            for size, policy in of:
                frame = self.frame(size)
                self.policies[frame.wire] = policy
                for peer in self.members[group]:
                    self.wanted[peer].append(frame.wire)
                self.groups[group].deliver_or_drop(frame, policy)

        self.plan.append(action)

    @rule(group=some_group, of=st.lists(st.tuples(sizes, st.none() | policies), min_size=2, max_size=8))
    def deliver_both_kinds(self, group: int, of: list[tuple[int, Policy | None]]) -> None:
        for size, policy in of:
            if policy is None:
                self.deliver(group, [size])
            else:
                self.deliver_or_drop(group, [(size, policy)])

    @rule(which=picks, size=sizes, policy=policies)
    def send_or_drop(self, which: int, size: int, policy: Policy) -> None:
        def action(peer: FakeTransport) -> None:
            frame = self.frame(size)
            self.policies[frame.wire] = policy
            self.wanted[peer].append(frame.wire)
            peer.transport.send_or_drop(frame, policy)

        self.to_one(which, action)

    @rule(which=picks, size=sizes)
    def application_writes(self, which: int, size: int) -> None:
        def action(peer: FakeTransport) -> None:
            frame = self.frame(size)
            self.own[peer].append(frame.wire)
            peer.write(frame.wire)

        self.to_one(which, action)

    @rule(which=picks, size=st.sampled_from([1, 5, 100, 5000]))
    def client_reads(self, which: int, size: int) -> None:
        self.to_one(which, lambda peer: peer.client_reads(size))

    @rule(which=picks, room=st.sampled_from([0, 1, 60]))
    def kernel_buffer_fills(self, which: int, room: int) -> None:
        def action(peer: FakeTransport) -> None:
            peer.room = min(peer.room, room)

        self.to_one(which, action)

    @rule(which=picks)
    def is_lost(self, which: int) -> None:
        def action(peer: FakeTransport) -> None:
            peer.disappear()
            self.forget(peer)
            self.some_are_gone = True

        self.to_one(which, action)

    @rule(which=picks)
    def breaks(self, which: int) -> None:
        """The client is gone, which the next write may tell."""

        def action(peer: FakeTransport) -> None:
            peer.broken = True
            peer.transport.send(Frame.of_text("into the void"))
            self.forget(peer)
            self.some_are_gone = True
            self.loop.call_soon(peer.disappear)

        self.to_one(which, action)

    @rule(which=picks, leaves_groups_first=st.booleans())
    def is_detached(self, which: int, leaves_groups_first: bool) -> None:
        def action(peer: FakeTransport) -> None:
            if leaves_groups_first:
                self.forget(peer)
            peer.transport.detach()
            if not leaves_groups_first:
                self.forget(peer)
            self.ending.append(peer)

        self.to_one(which, action)

    @rule(which=picks)
    def is_closed(self, which: int) -> None:
        def action(peer: FakeTransport) -> None:
            peer.transport.close(1000, "")
            self.forget(peer)
            self.wanted[peer].append(CLOSE)
            self.ending.append(peer)

        self.to_one(which, action)

    @rule(which=picks)
    def is_closed_and_discards(self, which: int) -> None:
        def action(peer: FakeTransport) -> None:
            self.discarded[peer] = bytes(peer.received + peer.buffer) + CLOSE
            peer.transport.close(1000, "", discard=True)
            self.forget(peer)
            self.ending.append(peer)

        self.to_one(which, action)

    def forget(self, peer: FakeTransport) -> None:
        for group, members in zip(self.groups, self.members, strict=True):
            group.discard(peer.transport)
            members.discard(peer)
        self.peers.remove(peer)

    # What must hold.

    def check_so_far(self, peer: FakeTransport) -> None:
        received, _ = frames_in(peer.received)
        self.without_the_dropped(peer, [frame for frame in received if frame not in self.own[peer]])

    def without_the_dropped(self, peer: FakeTransport, ours: list[bytes]) -> list[bytes]:
        """What it was sent and has not got, checked to be frames with a policy as far as later ones arrived."""
        missing: list[bytes] = []
        wanted = iter(self.wanted[peer])
        for frame in ours:
            for expected in wanted:
                if expected == frame:
                    break
                assert expected in self.policies, "a frame that is never dropped is missing"
                missing.append(expected)
            else:
                raise AssertionError("out of order, or not for this client")
        return [*missing, *wanted]

    def check_bounds(self, peer: FakeTransport) -> None:
        backlog = peer.transport._outbox
        if backlog is None:
            return
        cells = [cell for cell in backlog._cells if cell.data is not None]
        droppables = [cell for cell in cells if cell.policy is not None]
        keys = [cell.policy.newest for cell in droppables if cell.policy is not None and cell.policy.newest is not None]
        assert len(backlog) == len(cells)
        assert len(backlog._cells) <= 2 * len(cells)
        assert backlog.bytes == sum(cell.size for cell in cells)
        assert backlog.droppable_bytes == sum(cell.size for cell in droppables)
        assert backlog.droppable_bytes <= peer.transport._limits.droppable_bytes or len(droppables) == 1
        assert len(keys) == len(set(keys)), "two of one key wait"

    def check_complete(self, peer: FakeTransport) -> int:
        """Returns how many frames it misses."""
        received, rest = frames_in(peer.received)
        assert rest == b""
        assert [frame for frame in received if frame in self.own[peer]] == self.own[peer]
        if peer in self.discarded:
            assert bytes(peer.received) == self.discarded[peer]
            return 0
        missing = self.without_the_dropped(peer, [frame for frame in received if frame not in self.own[peer]])
        assert self.policies.keys() >= set(missing)
        for newest in ("a", "b"):
            sent = [frame for frame in self.wanted[peer] if self.policies.get(frame) == Policy(newest)]
            if peer.transport._limits.droppable_bytes == 1 << 30:
                assert sent[-1:] == [frame for frame in received if frame in sent][-1:]
        if peer.transport._limits.droppable_bytes == 1 << 30:
            assert not any(self.policies[frame] == Policy() for frame in missing)
        return len(missing)

    def read_everything(self) -> None:
        for peer in [*self.peers, *self.ending]:
            peer.client_reads(1 << 20)

    def teardown(self) -> None:
        try:
            if hasattr(self, "lane"):
                self.turn(3)
                for _ in range(1000):
                    self.plan.append(self.read_everything)
                    self.turn(1)
                    if self.lane.is_idle and not any(peer.buffer for peer in [*self.peers, *self.ending]):
                        break
                missing = sum(map(self.check_complete, [*self.peers, *self.ending]))
                dropped = self.lane.dropped.total()
                assert dropped >= missing if self.some_are_gone or self.discarded else dropped == missing
                assert self.lane.backlog_bytes == 0
                assert self.lane.pressure.messages == 0
                assert len(self.lane.members) == sum(peer.transport.descriptor >= 0 for peer in self.peers)
        finally:
            writing.SLICE, writing.JOIN_BYTES, sockets.FEW = self.before
            self.patch.__exit__(None, None, None)
            self.loop.close()


TestSockets = Sockets.TestCase
TestSockets.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
