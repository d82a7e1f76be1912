"""Writing through any ASGI server's `send`: order, fairness, sends that suspend, clients that do not read, errors."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator

import anyio
import anyio.lowlevel
import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from antiphon.transports.asgi import AsgiLane, AsgiTransport
from antiphon.transports.base import SendLimits
from antiphon.transports.choice import Lanes, transport_for
from antiphon.wire.frames import Frame


class Peer:
    """A socket whose server takes messages, or does not."""

    def __init__(self, lane: AsgiLane, *, limits: SendLimits | None = None, open_: bool = True) -> None:
        self.texts: list[object] = []
        self.closed: list[object] = []
        self.lost: list[str] = []
        self.cancelled = 0
        self.open = asyncio.Event()
        if open_:
            self.open.set()
        self.transport = AsgiTransport(self.send, lane=lane, on_lost=self.lost.append, limits=limits or SendLimits())

    async def send(self, event: dict[str, object]) -> None:
        try:
            if not self.open.is_set():
                await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if event["type"] == "websocket.close":
            self.closed.append((event["code"], event["reason"]))
        else:
            self.texts.append(event["text"])


@pytest.fixture
async def lane() -> AsyncIterator[AsgiLane]:
    lane = AsgiLane()
    yield lane
    lane.close()
    await asyncio.sleep(0)
    assert lane.backlog_bytes == 0


async def idle(lane: AsgiLane) -> None:
    async with asyncio.timeout(15):
        while not lane.is_idle:
            await asyncio.sleep(0)


async def told_as(peer: Peer, reason: str) -> None:
    """Wait until the loss of a peer is told, for this reason."""
    async with asyncio.timeout(15):
        while not peer.lost:
            await asyncio.sleep(0.005)
    assert peer.lost == [reason]


def numbered(count: int) -> list[Frame]:
    return [Frame.of_text(str(number)) for number in range(count)]


async def test_order_holds_between_groups_and_single_sends(lane: AsgiLane) -> None:
    peers = [Peer(lane) for _ in range(3)]
    group = lane.group()
    for peer in peers:
        group.add(peer.transport)
    for frame in numbered(20):
        group.deliver(frame)
        peers[0].transport.send(Frame.of_text("own"))
    await idle(lane)
    assert peers[0].texts == [text for number in range(20) for text in (str(number), "own")]
    assert peers[1].texts == [str(number) for number in range(20)]


async def test_membership_counts_at_the_time_of_the_delivery(lane: AsgiLane) -> None:
    stays, joins, leaves = Peer(lane), Peer(lane), Peer(lane)
    group = lane.group()
    group.add(stays.transport)
    group.add(leaves.transport)
    group.deliver(Frame.of_text("1"))
    group.add(joins.transport)
    group.deliver(Frame.of_text("2"))
    group.discard(leaves.transport)
    group.discard(leaves.transport)
    group.deliver(Frame.of_text("3"))
    assert len(group) == 2
    await idle(lane)
    assert (stays.texts, joins.texts, leaves.texts) == (["1", "2", "3"], ["2", "3"], ["1", "2"])


async def test_blocked_socket_delays_nobody_and_gets_everything_later(lane: AsgiLane) -> None:
    blocked, good = Peer(lane, open_=False), Peer(lane)
    group = lane.group()
    group.add(blocked.transport)
    group.add(good.transport)
    for frame in numbered(10):
        group.deliver(frame)
    async with asyncio.timeout(15):
        while len(good.texts) < 10:
            await asyncio.sleep(0)
    assert blocked.texts == []
    assert blocked.transport.queued_bytes == 10
    blocked.open.set()
    await idle(lane)
    assert blocked.texts == good.texts
    assert blocked.transport.queued_bytes == 0
    group.deliver(Frame.of_text("quick again"))
    await idle(lane)
    assert blocked.texts[-1] == good.texts[-1] == "quick again"


async def test_no_task_is_made_per_delivery_while_sends_do_not_suspend(lane: AsgiLane) -> None:
    peers = [Peer(lane) for _ in range(50)]
    group = lane.group()
    for peer in peers:
        group.add(peer.transport)
    before = len(asyncio.all_tasks())
    for frame in numbered(10):
        group.deliver(frame)
    most = 0
    while not lane.is_idle:
        most = max(most, len(asyncio.all_tasks()))
        await asyncio.sleep(0)
    assert most <= before + 1
    assert all(len(peer.texts) == 10 for peer in peers)


async def test_send_that_suspends_ends_in_the_task_that_began_it(lane: AsgiLane) -> None:
    tasks: list[tuple[object, object]] = []
    texts: list[object] = []

    async def send(event: dict[str, object]) -> None:
        begun = asyncio.current_task()
        with anyio.CancelScope(shield=True):
            await anyio.lowlevel.checkpoint()
        tasks.append((begun, asyncio.current_task()))
        texts.append(event["text"])

    lost: list[str] = []
    group = lane.group()
    for _ in range(3):
        group.add(AsgiTransport(send, lane=lane, on_lost=lost.append, limits=SendLimits()))
    for frame in numbered(20):
        group.deliver(frame)
    await idle(lane)
    assert len(tasks) == 60
    assert all(begun is ended for begun, ended in tasks)
    assert sorted(map(str, texts)) == sorted(str(number) for number in range(20) for _ in range(3))
    assert lost == []


async def test_order_holds_when_the_loop_starts_tasks_eagerly(lane: AsgiLane) -> None:
    if sys.version_info >= (3, 12):
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    peers = [Peer(lane, open_=False) for _ in range(50)]
    group = lane.group()
    for peer in peers:
        group.add(peer.transport)
    for frame in numbered(5):
        group.deliver(frame)
    await asyncio.sleep(0)
    for peer in peers:
        peer.open.set()
    await idle(lane)
    assert all(peer.texts == [str(number) for number in range(5)] for peer in peers)


place: contextvars.ContextVar[str] = contextvars.ContextVar("place")


async def test_sends_run_in_the_context_of_their_connection(lane: AsgiLane) -> None:
    seen: list[tuple[str, str]] = []

    async def send(event: dict[str, object]) -> None:
        begun = place.get("nowhere")
        await asyncio.sleep(0)
        seen.append((begun, place.get("nowhere")))

    async def endpoint(name: str) -> AsgiTransport:
        place.set(name)
        return AsgiTransport(send, lane=lane, on_lost=lambda reason: None, limits=SendLimits())

    for name in ("one", "two"):
        transport = await asyncio.create_task(endpoint(name))
        for frame in numbered(3):
            transport.send(frame)
    await idle(lane)
    assert sorted(seen) == [("one", "one")] * 3 + [("two", "two")] * 3


class Later:
    """An awaitable that is no coroutine, as servers in other languages return them."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action

    def __await__(self) -> Generator[None, None, None]:
        yield
        self._action()


async def test_send_may_return_any_awaitable(lane: AsgiLane) -> None:
    texts: list[object] = []
    transport = AsgiTransport(
        lambda event: Later(lambda: texts.append(event["text"])),
        lane=lane,
        on_lost=lambda reason: None,
        limits=SendLimits(),
    )
    for frame in numbered(3):
        transport.send(frame)
    await idle(lane)
    assert texts == ["0", "1", "2"]


def refusing(error: BaseException, *, after_a_while: bool) -> Callable[[dict[str, object]], Awaitable[None]]:
    async def send(event: dict[str, object]) -> None:
        if after_a_while:
            await asyncio.sleep(0)
        raise error

    return send


@pytest.mark.parametrize("after_a_while", [False, True])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("Unexpected ASGI message 'websocket.send', after sending 'websocket.close'"), "gone"),
        (OSError(), "gone"),
        (WebSocketDisconnect(1006), "gone"),
        (asyncio.CancelledError(), "gone"),
        (anyio.ClosedResourceError(), "gone"),
        (anyio.BrokenResourceError(), "gone"),
        (ValueError("a bug of the server"), "error"),
    ],
)
async def test_error_of_a_send_ends_that_socket_alone(
    lane: AsgiLane, error: BaseException, reason: str, after_a_while: bool, caplog: pytest.LogCaptureFixture
) -> None:
    lost: list[str] = []
    send = refusing(error, after_a_while=after_a_while)
    bad = AsgiTransport(send, lane=lane, on_lost=lost.append, limits=SendLimits())
    good = Peer(lane)
    group = lane.group()
    group.add(bad)
    group.add(good.transport)
    with caplog.at_level(logging.WARNING, "antiphon"):
        for frame in numbered(3):
            group.deliver(frame)
        await idle(lane)
        await asyncio.sleep(0)
    assert good.texts == ["0", "1", "2"]
    assert lost == [reason]
    assert len(caplog.records) == (reason == "error")
    bad.send(Frame.of_text("never"))
    bad.close(1000, "")
    await idle(lane)
    assert lost == [reason]


async def test_client_is_cut_off_when_too_many_bytes_wait(lane: AsgiLane) -> None:
    peer = Peer(lane, open_=False, limits=SendLimits(queued_bytes=1000, close_s=15))
    for _ in range(11):
        peer.transport.send(Frame.of_text("x" * 100))
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert peer.lost == ["slow"]
    assert peer.cancelled == 1
    assert peer.transport.queued_bytes == 0
    peer.open.set()
    await idle(lane)
    assert peer.closed == [(4001, "too slow")]
    assert peer.texts == []


@pytest.mark.virtual_time
async def test_client_is_cut_off_when_something_waits_too_long(lane: AsgiLane) -> None:
    stuck, slow = Peer(lane, open_=False), Peer(lane, open_=False)
    stuck.transport.send(Frame.of_text("x"))
    slow.transport.send(Frame.of_text("x"))
    await asyncio.sleep(9)
    slow.open.set()
    await asyncio.sleep(3.5)
    assert (stuck.lost, slow.lost) == (["slow"], [])
    await asyncio.sleep(1)
    assert stuck.closed == []
    assert lane.is_idle


async def test_one_large_frame_is_not_refused(lane: AsgiLane) -> None:
    peer = Peer(lane, open_=False, limits=SendLimits(queued_bytes=100))
    peer.transport.send(Frame.of_text("x" * 1000))
    await asyncio.sleep(0)
    peer.open.set()
    await idle(lane)
    assert peer.texts == ["x" * 1000]
    assert peer.lost == []


async def test_close_follows_what_is_queued(lane: AsgiLane) -> None:
    peer = Peer(lane)
    group = lane.group()
    group.add(peer.transport)
    group.deliver(Frame.of_text("1"))
    peer.transport.close(4001, "bye")
    peer.transport.close(1000, "again")
    group.deliver(Frame.of_text("never"))
    peer.transport.send(Frame.of_text("never"))
    await idle(lane)
    await asyncio.sleep(0)
    assert (peer.texts, peer.closed, peer.lost) == (["1"], [(4001, "bye")], ["closed"])


@pytest.mark.virtual_time
async def test_close_is_given_up_in_time(lane: AsgiLane) -> None:
    peer = Peer(lane, open_=False, limits=SendLimits(close_s=0.5))
    peer.transport.send(Frame.of_text("1"))
    peer.transport.close(1000, "bye")
    await asyncio.sleep(1)
    assert (peer.texts, peer.closed, peer.lost, peer.cancelled) == ([], [], ["closed"], 1)
    assert lane.is_idle


async def test_detached_socket_still_gets_what_was_sent_before(lane: AsgiLane) -> None:
    peer = Peer(lane, open_=False)
    peer.transport.send(Frame.of_text("1"))
    await asyncio.sleep(0)
    peer.transport.send(Frame.of_text("2"))
    peer.transport.detach()
    peer.transport.send(Frame.of_text("never"))
    peer.transport.close(1000, "never")
    peer.open.set()
    await idle(lane)
    assert (peer.texts, peer.closed, peer.lost) == (["1", "2"], [], [])


@pytest.mark.virtual_time
async def test_detached_socket_that_is_stuck_is_let_go_silently(lane: AsgiLane) -> None:
    peer = Peer(lane, open_=False)
    peer.transport.send(Frame.of_text("1"))
    await asyncio.sleep(0)
    peer.transport.detach()
    await asyncio.sleep(15)
    assert (peer.cancelled, peer.closed, peer.lost) == (1, [], [])
    assert lane.is_idle


async def test_large_delivery_lets_others_have_their_turns(lane: AsgiLane) -> None:
    peers = [Peer(lane) for _ in range(2000)]
    group = lane.group()
    for peer in peers:
        group.add(peer.transport)
    group.deliver(Frame.of_text("x"))
    turns = 0
    while not lane.is_idle:
        turns += 1
        await asyncio.sleep(0)
    assert turns >= 4
    assert all(peer.texts == ["x"] for peer in peers)


async def test_publishers_wait_only_while_much_is_under_way(lane: AsgiLane) -> None:
    peer = Peer(lane)
    for frame in numbered(64):
        peer.transport.send(frame)
    assert lane.backlog_bytes > 0
    await asyncio.wait_for(lane.room(), 15)
    assert len(peer.texts) == 64
    await asyncio.wait_for(lane.room(), 15)


@pytest.mark.virtual_time
async def test_stuck_socket_holds_publishers_for_a_moment_only(lane: AsgiLane) -> None:
    peer = Peer(lane, open_=False, limits=SendLimits(queued_bytes=10_000))
    for _ in range(6):
        peer.transport.send(Frame.of_text("x" * 1000))
    await asyncio.sleep(0.001)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await lane.room()
    assert 0 < loop.time() - begun < 1
    begun = loop.time()
    await lane.room()
    assert loop.time() == begun


async def test_cancelled_driver_is_replaced_by_the_next_delivery(lane: AsgiLane) -> None:
    peer = Peer(lane)
    before = asyncio.all_tasks()
    peer.transport.send(Frame.of_text("1"))
    (driver,) = asyncio.all_tasks() - before
    driver.cancel()
    await asyncio.sleep(0)
    peer.transport.send(Frame.of_text("2"))
    await idle(lane)
    assert peer.texts == ["1", "2"]


async def test_close_frame_is_sent_though_the_loop_stood_still_for_longer_than_it_may_take(lane: AsgiLane) -> None:
    peer = Peer(lane, limits=SendLimits(close_s=0.05))
    for frame in numbered(400):
        peer.transport.send(frame)
    peer.transport.close(4505, "too many messages")
    time.sleep(0.1)  # the deadline is over before the driver has its first turn
    await told_as(peer, "closed")
    assert len(peer.texts) == 400
    assert peer.closed == [(4505, "too many messages")]


async def test_close_frame_is_sent_though_somebody_cancelled_the_driver(lane: AsgiLane) -> None:
    peer = Peer(lane, limits=SendLimits(close_s=0.05))
    peer.transport.close(4505, "too many messages")
    assert lane._driver is not None
    lane._driver.cancel()
    await told_as(peer, "closed")
    assert peer.closed == [(4505, "too many messages")]


async def test_close_is_given_up_when_its_lane_is_closed(lane: AsgiLane) -> None:
    peer = Peer(lane, limits=SendLimits(close_s=0.05))
    peer.transport.close(1001, "bye")
    lane.close()
    await told_as(peer, "closed")
    assert peer.closed == []
    assert peer.transport._deadline is None


async def test_closed_lane_leaves_no_task(lane: AsgiLane) -> None:
    blocked, good = Peer(lane, open_=False), Peer(lane)
    blocked.transport.send(Frame.of_text("1"))
    await asyncio.sleep(0)
    good.transport.send(Frame.of_text("1"))
    lane.close()
    lane.close()
    await idle(lane)
    assert (blocked.texts, good.texts, blocked.lost) == ([], [], [])


def test_starlettes_test_client_gets_messages_in_order() -> None:
    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        lanes = Lanes()
        transport = transport_for(websocket, lanes=lanes, on_lost=lambda reason: None, limits=SendLimits())
        group = transport.lane.group()
        group.add(transport)
        for frame in numbered(50):
            group.deliver(frame)
            transport.send(frame)
        assert await websocket.receive_text() == "done"
        transport.close(4001, "bye")
        assert await lanes.drain(limit_s=15)
        lanes.close()

    with TestClient(Starlette(routes=[WebSocketRoute("/", endpoint)])) as client:
        with client.websocket_connect("/") as socket:
            assert [socket.receive_text() for _ in range(100)] == [str(number // 2) for number in range(100)]
            socket.send_text("done")
            with pytest.raises(WebSocketDisconnect) as closed:
                socket.receive_text()
            assert (closed.value.code, closed.value.reason) == (4001, "bye")
