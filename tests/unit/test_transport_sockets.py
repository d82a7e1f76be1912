"""Direct writing: joining, slices, order, what a socket does not take, lost descriptors, changes of membership."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from antiphon.errors import UsageError
from antiphon.transports.base import SendLimits
from antiphon.transports.sockets import SocketGroup, SocketLane, SocketTransport
from antiphon.wire.frames import Frame
from tests.unit.kernel import FakeTransport, Kernel, frames_in

MANY = 20
"""Sockets of a group that is too large to be written to at once."""


@pytest.fixture
async def kernel() -> AsyncIterator[Kernel]:
    kernel = Kernel()
    with kernel.installed():
        yield kernel


@pytest.fixture
async def lane(kernel: Kernel) -> AsyncIterator[SocketLane]:
    lane = SocketLane()
    yield lane
    lane.close()


def group_of(lane: SocketLane, *peers: FakeTransport) -> SocketGroup:
    group = lane.group()
    for peer in peers:
        group.add(peer.transport)
    return group


def wire(*names: str) -> bytes:
    return b"".join(Frame.of_text(name).wire for name in names)


async def turn(turns: int = 1) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


async def test_deliveries_of_one_turn_leave_in_one_write_per_socket(kernel: Kernel, lane: SocketLane) -> None:
    peers = [kernel.connect(lane) for _ in range(MANY)]
    group = group_of(lane, *peers)
    for name in ("a", "b", "c"):
        group.deliver(Frame.of_text(name))
    assert kernel.writes == []
    assert lane.backlog_bytes == 3
    await turn()
    assert kernel.writes == [(peer.descriptor, len(wire("a", "b", "c"))) for peer in peers]
    assert all(peer.received == wire("a", "b", "c") for peer in peers)
    assert lane.backlog_bytes == 0


async def test_small_groups_of_one_turn_leave_in_one_write_per_socket(kernel: Kernel, lane: SocketLane) -> None:
    first, second = kernel.connect(lane), kernel.connect(lane)
    one, other, both = group_of(lane, first), group_of(lane, second), group_of(lane, second, first)
    one.deliver(Frame.of_text("a"))
    other.deliver(Frame.of_text("x"))
    both.deliver(Frame.of_text("b"))
    first.transport.send(Frame.of_text("c"))
    assert kernel.writes == []
    assert lane.backlog_bytes > 0
    assert not lane.is_idle
    await turn()
    assert first.received == wire("a", "b", "c")
    assert second.received == wire("x", "b")
    assert len(kernel.writes) == 2
    assert lane.backlog_bytes == 0
    assert lane.is_idle


async def test_small_groups_leave_before_the_large_ones_that_followed(kernel: Kernel, lane: SocketLane) -> None:
    peers = [kernel.connect(lane) for _ in range(MANY)]
    few, group = group_of(lane, peers[0]), group_of(lane, *peers)
    few.deliver(Frame.of_text("1"))
    group.deliver(Frame.of_text("2"))
    few.deliver(Frame.of_text("3"))
    assert lane.pressure.messages == 3
    await turn()
    assert peers[0].received == wire("1", "2", "3")
    assert peers[1].received == wire("2")
    assert lane.pressure.messages == 0


async def test_small_groups_are_served_in_slices(kernel: Kernel, lane: SocketLane) -> None:
    peers = [kernel.connect(lane) for _ in range(200)]
    groups = [group_of(lane, peer) for peer in peers]
    for group in groups:
        group.deliver(Frame.of_text("a"))
    await turn()
    assert 120 <= len(kernel.writes) <= 130
    assert lane.pressure.messages == len(peers)
    groups[0].deliver(Frame.of_text("b"))
    await turn(2)
    assert peers[0].received == wire("a", "b")
    assert all(peer.received == wire("a") for peer in peers[1:])
    assert lane.is_idle
    assert lane.pressure.messages == 0


async def test_few_large_messages_to_one_socket_are_joined_up_to_the_limit(kernel: Kernel, lane: SocketLane) -> None:
    peer = kernel.connect(lane)
    text = "x" * 100_000
    for _ in range(7):
        peer.transport.send(Frame.of_text(text))
    await turn()
    assert peer.received == wire(*[text] * 7)
    assert [size // 100_000 for _, size in kernel.writes] == [3, 3, 1]


async def test_single_send_keeps_its_place_behind_queued_groups(kernel: Kernel, lane: SocketLane) -> None:
    peers = [kernel.connect(lane) for _ in range(MANY)]
    group = group_of(lane, *peers)
    few = group_of(lane, peers[0], peers[1])
    group.deliver(Frame.of_text("1"))
    peers[0].transport.send(Frame.of_text("2"))
    few.deliver(Frame.of_text("3"))
    group.deliver(Frame.of_text("4"))
    peers[0].transport.send(Frame.of_text("5"))
    await turn()
    assert peers[0].received == wire("1", "2", "3", "4", "5")
    assert peers[1].received == wire("1", "3", "4")
    assert peers[2].received == wire("1", "4")


async def test_large_group_is_served_in_slices_and_later_deliveries_are_joined(
    kernel: Kernel, lane: SocketLane
) -> None:
    peers = [kernel.connect(lane) for _ in range(300)]
    for descriptor, peer in enumerate(peers):
        assert peer.descriptor == descriptor
    group = group_of(lane, *peers)
    group.deliver(Frame.of_text("a"))
    await turn()
    served = len(kernel.writes)
    assert 120 <= served <= 130
    group.deliver(Frame.of_text("b"))
    await turn()
    group.deliver(Frame.of_text("c"))
    await turn(6)
    assert all(peer.received == wire("a", "b", "c") for peer in peers)
    assert len(kernel.writes) == 2 * len(peers)


async def test_large_joined_writes_reach_fewer_sockets_in_a_turn(kernel: Kernel, lane: SocketLane) -> None:
    peers = [kernel.connect(lane) for _ in range(100)]
    group = group_of(lane, *peers)
    group.deliver(Frame.of_text("x" * 250_000))
    await turn()
    assert 5 <= len(kernel.writes) <= 20
    await turn(20)
    assert len(kernel.writes) == 100


async def test_joining_stops_at_its_limit(kernel: Kernel, lane: SocketLane) -> None:
    peers = [kernel.connect(lane) for _ in range(MANY)]
    group = group_of(lane, *peers)
    for _ in range(10):
        group.deliver(Frame.of_text("x" * 100_000))
    await turn(20)
    assert max(size for _, size in kernel.writes) < 400_000
    assert all(frames_in(peer.received) == ([wire("x" * 100_000)] * 10, b"") for peer in peers)


async def test_rest_of_a_short_write_goes_first_when_the_client_reads(kernel: Kernel, lane: SocketLane) -> None:
    good = [kernel.connect(lane) for _ in range(MANY)]
    slow = kernel.connect(lane, room=5)
    group = group_of(lane, *good, slow)
    names = [f"message {number}" for number in range(10)]
    for name in names:
        group.deliver(Frame.of_text(name))
        await turn()
    assert slow.received == wire(*names)[:5]
    assert slow.transport.descriptor == -1
    assert slow.transport.queued_bytes == len(wire(*names)) - 5
    assert all(peer.received == wire(*names) for peer in good)
    while slow.transport.queued_bytes:
        slow.client_reads(7)
    assert slow.received == wire(*names)
    slow.client_reads(1000)
    group.deliver(Frame.of_text("quick again"))
    await turn()
    assert slow.transport.descriptor == slow.descriptor
    assert slow.received == wire(*names, "quick again")
    assert lane.is_idle


async def test_full_socket_gets_everything_through_its_queue(kernel: Kernel, lane: SocketLane) -> None:
    peer = kernel.connect(lane, room=0)
    peer.transport.send(Frame.of_text("a"))
    peer.transport.send(Frame.of_text("b"))
    await turn()
    peer.transport.send(Frame.of_text("c"))
    await turn()
    assert peer.received == b""
    assert not lane.is_idle
    peer.client_reads(1000)
    assert peer.received == wire("a", "b", "c")
    assert peer.transport.queued_bytes == 0


async def test_broken_socket_is_given_up_and_the_others_are_served(kernel: Kernel, lane: SocketLane) -> None:
    peers = [kernel.connect(lane) for _ in range(MANY)]
    group = group_of(lane, *peers)
    peers[3].broken = True
    group.deliver(Frame.of_text("a"))
    await turn(2)
    assert peers[3].lost == ["gone"]
    assert peers[3].aborted
    assert all(peer.received == wire("a") for peer in peers if peer is not peers[3])
    group.deliver(Frame.of_text("b"))
    await turn()
    assert len(kernel.writes) == 2 * MANY - 1


async def test_descriptor_that_is_used_again_during_a_delivery_gets_nothing_of_it(
    kernel: Kernel, lane: SocketLane
) -> None:
    peers = [kernel.connect(lane) for _ in range(275)]
    group = group_of(lane, *peers)
    group.deliver(Frame.of_text("a"))
    await turn()
    gone = peers[250]
    gone.disappear()
    newcomer = kernel.connect(lane)
    assert newcomer.descriptor == gone.descriptor
    group.add(newcomer.transport)
    group.deliver(Frame.of_text("b"))
    await turn(6)
    assert newcomer.received == wire("b")
    assert gone.received == b""
    assert gone.lost == ["gone"]
    assert all(peer.received == wire("a", "b") for peer in peers if peer is not gone)


async def test_socket_that_is_blocked_during_a_delivery_still_gets_it(kernel: Kernel, lane: SocketLane) -> None:
    peers = [kernel.connect(lane) for _ in range(275)]
    group = group_of(lane, *peers)
    group.deliver(Frame.of_text("a"))
    await turn()
    late = peers[262]
    late.room = 2
    late.write(b"\x81\x03own")  # the application's own message
    group.deliver(Frame.of_text("b"))
    await turn(6)
    late.client_reads(1000)
    assert late.received == b"\x81\x03own" + wire("a", "b")


async def test_newcomer_hears_nothing_that_was_delivered_before(kernel: Kernel, lane: SocketLane) -> None:
    peers = [kernel.connect(lane) for _ in range(MANY)]
    newcomer = kernel.connect(lane)
    group = group_of(lane, *peers)
    group.deliver(Frame.of_text("a"))
    group.add(newcomer.transport)
    group.add(newcomer.transport)
    group.deliver(Frame.of_text("b"))
    assert len(group) == MANY + 1
    await turn()
    assert newcomer.received == wire("b")
    assert peers[0].received == wire("a", "b")


async def test_who_leaves_still_hears_what_was_delivered_before(kernel: Kernel, lane: SocketLane) -> None:
    peers = [kernel.connect(lane) for _ in range(MANY)]
    group = group_of(lane, *peers)
    group.deliver(Frame.of_text("a"))
    group.discard(peers[0].transport)
    group.discard(peers[0].transport)
    group.deliver(Frame.of_text("b"))
    await turn()
    assert peers[0].received == wire("a")
    assert peers[1].received == wire("a", "b")


async def test_detach_writes_what_is_queued_and_tells_nobody(kernel: Kernel, lane: SocketLane) -> None:
    peers = [kernel.connect(lane) for _ in range(MANY)]
    group = group_of(lane, *peers)
    group.deliver(Frame.of_text("a"))
    group.discard(peers[0].transport)
    peers[0].transport.detach()
    peers[0].transport.detach()
    assert peers[0].received == wire("a")
    peers[0].transport.send(Frame.of_text("never"))
    peers[0].transport.close(1000, "never")
    await turn(2)
    assert peers[0].received == wire("a")
    assert (peers[0].lost, peers[0].said, peers[0].door.users) == ([], [], ())
    assert peers[1].received == wire("a")


async def test_detached_socket_that_is_full_gets_its_queue_later(kernel: Kernel, lane: SocketLane) -> None:
    peer = kernel.connect(lane, room=1)
    peer.transport.send(Frame.of_text("a"))
    peer.transport.send(Frame.of_text("b"))
    peer.transport.detach()
    peer.client_reads(1000)
    await turn()
    assert peer.received == wire("a", "b")
    assert (peer.lost, peer.door.users) == ([], ())


async def test_close_of_a_quick_socket_follows_what_is_queued(kernel: Kernel, lane: SocketLane) -> None:
    peers = [kernel.connect(lane) for _ in range(MANY)]
    group = group_of(lane, *peers)
    group.deliver(Frame.of_text("a"))
    peers[0].transport.close(4001, "slow")
    peers[0].transport.close(4002, "again")
    group.deliver(Frame.of_text("b"))
    await turn()
    assert peers[0].received == wire("a") + b"\x88\x00"
    assert (peers[0].said, peers[0].lost) == ([(4001, "slow")], ["closed"])


@pytest.mark.parametrize("detached", [False, True])
async def test_close_of_a_full_socket_waits_for_its_queue(kernel: Kernel, lane: SocketLane, detached: bool) -> None:
    peer = kernel.connect(lane, room=1)
    peer.transport.send(Frame.of_text("a"))
    peer.transport.close(1000, "done")
    if detached:
        peer.transport.detach()
    assert peer.said == []
    peer.client_reads(1000)
    await turn()
    assert peer.received == wire("a") + b"\x88\x00"
    assert peer.lost == ([] if detached else ["closed"])


async def test_close_of_a_socket_that_is_not_read_lets_it_be_read_again(kernel: Kernel, lane: SocketLane) -> None:
    paused, closing = kernel.connect(lane), kernel.connect(lane)
    paused.transport.pause_reading()
    paused.transport.close(1012, "bye")
    assert paused.reads
    assert paused.said == [(1012, "bye")]
    closing.reads = False  # as the server has decided
    closing.transport.close(1012, "bye")
    assert not closing.reads


@pytest.mark.virtual_time
async def test_close_of_a_full_socket_is_given_up_in_time(kernel: Kernel, lane: SocketLane) -> None:
    peer = kernel.connect(lane, room=1, limits=SendLimits(close_s=0.5))
    peer.transport.send(Frame.of_text("a"))
    peer.transport.close(1000, "done")
    await asyncio.sleep(0.4)
    assert peer.lost == []
    await asyncio.sleep(0.2)
    assert peer.lost == ["closed"]
    assert peer.aborted


@pytest.mark.virtual_time
async def test_close_frame_that_does_not_leave_ends_in_an_abort(kernel: Kernel, lane: SocketLane) -> None:
    peer = kernel.connect(lane, room=3, limits=SendLimits(close_s=0.5))
    peer.transport.send(Frame.of_text("a"))
    peer.transport.close(1000, "done")
    assert peer.said == [(1000, "done")]
    await asyncio.sleep(1)
    assert peer.aborted
    assert peer.lost == ["closed"]


async def test_socket_is_cut_off_when_too_many_bytes_wait(kernel: Kernel, lane: SocketLane) -> None:
    peer = kernel.connect(lane, room=0, limits=SendLimits(queued_bytes=1000))
    group = group_of(lane, peer)
    for _ in range(20):
        group.deliver(Frame.of_text("x" * 100))
        await turn()
    assert peer.lost == ["slow"]
    assert peer.said == [(4001, "too slow")]
    assert peer.transport.queued_bytes == 0
    assert lane.is_idle


@pytest.mark.virtual_time
async def test_socket_is_cut_off_when_something_waits_too_long(kernel: Kernel, lane: SocketLane) -> None:
    limits = SendLimits(queued_age_s=10.0, close_s=1.0)
    stuck = kernel.connect(lane, room=10, limits=limits)
    slow = kernel.connect(lane, room=10, limits=limits)
    stuck.transport.send(Frame.of_text("x" * 100))
    slow.transport.send(Frame.of_text("x" * 100))
    await asyncio.sleep(9)
    assert (stuck.lost, slow.lost) == ([], [])
    slow.client_reads(1000)
    await asyncio.sleep(4)
    assert (stuck.lost, slow.lost) == (["slow"], [])
    assert stuck.said == [(4001, "too slow")]
    assert stuck.aborted
    assert stuck.descriptor not in kernel.sockets


@pytest.mark.virtual_time
async def test_pause_by_the_applications_own_bytes_is_no_reason_to_cut(kernel: Kernel, lane: SocketLane) -> None:
    peer = kernel.connect(lane, room=10)
    peer.write(b"\x81\x64" + b"x" * 100)
    await asyncio.sleep(60)
    assert peer.lost == []
    peer.transport.send(Frame.of_text("waits"))
    await turn()
    assert peer.transport.queued_bytes > 0
    await asyncio.sleep(15)
    assert peer.lost == ["slow"]


async def test_single_sends_keep_their_place_before_the_applications_own(kernel: Kernel, lane: SocketLane) -> None:
    peers = [kernel.connect(lane) for _ in range(MANY)]
    group = group_of(lane, *peers)
    group.deliver(Frame.of_text("a"))
    peers[0].door.others_write()
    assert peers[0].received == b""
    peers[0].transport.send(Frame.of_text("b"))
    peers[0].door.others_write()
    peers[0].write(wire("own"))
    await turn()
    assert peers[0].received == wire("a", "b", "own")
    assert peers[1].received == wire("a")


async def test_end_of_the_socket_by_others_lets_the_queue_go_first(kernel: Kernel, lane: SocketLane) -> None:
    peers = [kernel.connect(lane) for _ in range(MANY)]
    group = group_of(lane, *peers)
    group.deliver(Frame.of_text("a"))
    peers[0].door.ending()
    assert peers[0].received == wire("a")
    peers[0].transport.send(Frame.of_text("never"))
    await turn(2)
    assert peers[0].lost == ["gone"]
    assert peers[0].received == wire("a")


async def test_socket_without_a_descriptor_is_written_to_by_the_event_loop(kernel: Kernel, lane: SocketLane) -> None:
    peers = [kernel.connect(lane, direct=False) for _ in range(MANY)]
    direct = kernel.connect(lane)
    group = group_of(lane, *peers, direct)
    group.deliver(Frame.of_text("a"))
    group.deliver(Frame.of_text("b"))
    await turn()
    assert all(peer.received == wire("a", "b") for peer in [*peers, direct])
    assert len(kernel.writes) == 1
    group_of(lane, peers[0]).deliver(Frame.of_text("c"))
    peers[1].transport.send(Frame.of_text("d"))
    await turn()
    assert peers[0].received == wire("a", "b", "c")
    assert peers[1].received == wire("a", "b", "d")


async def test_descriptor_is_left_alone_when_the_event_loop_stops_telling(kernel: Kernel, lane: SocketLane) -> None:
    peer = kernel.connect(lane, room=2)
    peer.silent = True  # as when somebody changed the limits of its buffer
    peer.transport.send(Frame.of_text("abc"))
    peer.transport.send(Frame.of_text("d"))
    await turn()
    peer.client_reads(1000)
    peer.transport.send(Frame.of_text("e"))
    await turn()
    assert peer.transport.descriptor == -1
    assert peer.received == wire("abc", "d", "e")


async def test_publishers_wait_only_while_much_is_under_way(kernel: Kernel, lane: SocketLane) -> None:
    peers = [kernel.connect(lane) for _ in range(MANY)]
    group = group_of(lane, *peers)
    for _ in range(64):
        group.deliver(Frame.of_text("x"))
    moderate = asyncio.create_task(lane.room())
    with pytest.raises(StopIteration):
        lane.room().send(None)
    group.deliver(Frame.of_text("one more"))
    waiting = asyncio.create_task(lane.room())
    await asyncio.wait_for(asyncio.gather(moderate, waiting), 10)
    assert lane.backlog_bytes == 0


@pytest.mark.virtual_time
async def test_stuck_socket_holds_publishers_for_a_moment_only(kernel: Kernel, lane: SocketLane) -> None:
    peer = kernel.connect(lane, room=0, limits=SendLimits(queued_bytes=10_000))
    loop = asyncio.get_running_loop()
    for _ in range(6):
        peer.transport.send(Frame.of_text("x" * 1000))
        await turn()
    begun = loop.time()
    await lane.room()
    assert 0 < loop.time() - begun < 0.2
    begun = loop.time()
    await lane.room()
    assert loop.time() == begun


@pytest.mark.virtual_time
async def test_socket_that_drains_holds_publishers_until_it_has_room(kernel: Kernel, lane: SocketLane) -> None:
    peer = kernel.connect(lane, room=0, limits=SendLimits(queued_bytes=10_000))
    for _ in range(8):
        peer.transport.send(Frame.of_text("x" * 1000))
        await turn()
    room = asyncio.create_task(lane.room())
    for _ in range(5):
        await asyncio.sleep(0.03)
        assert not room.done()
        peer.client_reads(100)
    peer.client_reads(5000)
    await asyncio.wait_for(room, 10)
    assert peer.lost == []


async def test_second_transport_of_a_lane_for_one_socket_is_refused(kernel: Kernel, lane: SocketLane) -> None:
    peer = kernel.connect(lane)
    with pytest.raises(UsageError):
        SocketTransport(peer.door, lane=lane, on_lost=peer.lost.append, limits=SendLimits())
    peer.transport.detach()
    again = SocketTransport(peer.door, lane=lane, on_lost=peer.lost.append, limits=SendLimits())
    again.send(Frame.of_text("a"))
    await turn()
    assert peer.received == wire("a")


async def test_error_of_one_event_loop_transport_stops_nobody_else(
    kernel: Kernel, lane: SocketLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = [kernel.connect(lane, direct=False) for _ in range(MANY)]
    group = group_of(lane, *peers)
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context["exception"]))
    error = ValueError("a bug of the event loop")

    def write(data: bytes) -> None:
        raise error

    monkeypatch.setattr(peers[3], "write", write)
    group.deliver(Frame.of_text("a"))
    await turn(3)
    assert errors == [error]
    assert all(peer.received == wire("a") for peer in peers if peer is not peers[3])
    assert lane.is_idle
    assert lane.backlog_bytes == 0


async def test_two_lanes_write_through_one_door_without_overtaking_its_rest(kernel: Kernel, lane: SocketLane) -> None:
    other_lane = SocketLane()
    peer = kernel.connect(lane, room=3)
    second = SocketTransport(peer.door, lane=other_lane, on_lost=peer.lost.append, limits=SendLimits())
    for number in range(3):
        peer.transport.send(Frame.of_text(f"first {number}"))
        await turn()
    assert (peer.transport.descriptor, second.descriptor) == (-1, -1)
    peer.client_reads(8)
    assert peer.buffer
    assert second.descriptor == -1
    second.send(Frame.of_text("second"))
    await turn()
    while peer.transport.queued_bytes or second.queued_bytes:
        peer.client_reads(4)
    assert peer.received == wire("first 0", "first 1", "first 2", "second")
    peer.door.ending()
    await turn()
    assert peer.lost == ["gone", "gone"]
    other_lane.close()


async def test_closed_lane_drops_what_is_queued(kernel: Kernel, lane: SocketLane) -> None:
    peers = [kernel.connect(lane) for _ in range(MANY)]
    blocked = kernel.connect(lane, room=0)
    group = group_of(lane, *peers)
    blocked.transport.send(Frame.of_text("x"))
    group.deliver(Frame.of_text("a"))
    lane.close()
    lane.close()
    await turn()
    assert lane.backlog_bytes == 0
    assert peers[0].received == b""
