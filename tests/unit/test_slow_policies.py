"""What every kind of transport has to do with messages that may be dropped."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Protocol

import pytest

from antiphon.testing.doubles import RecordingLane
from antiphon.transports import asgi, sockets
from antiphon.transports.asgi import AsgiLane, AsgiTransport
from antiphon.transports.base import Group, SendLimits, Transport
from antiphon.transports.sockets import SocketLane
from antiphon.wire.frames import Frame, Policy
from tests.unit.kernel import Kernel, frames_in

LIMITS = SendLimits(queued_bytes=4000, droppable_bytes=100, queued_age_s=30)
DROP, TYPING = Policy(), Policy(("chat", "ann"))
DEADLINE_S = 15


class Peer(Protocol):
    """A client that can stop reading. What was under way when it did so is not counted among what waits."""

    @property
    def transport(self) -> Transport: ...

    def texts(self) -> list[str]: ...

    def stops_reading(self) -> None: ...

    def reads_again(self) -> None: ...

    def is_closed(self) -> bool: ...

    def was_cut(self) -> bool: ...


class Way(Protocol):
    """One kind of lane."""

    dropped: Counter[str]

    def group(self) -> Group: ...

    def connect(self, limits: SendLimits) -> Peer: ...

    def close(self) -> None: ...


class Sockets:
    def __init__(self) -> None:
        self.kernel = Kernel()
        self.patch = self.kernel.installed()
        self.patch.__enter__()
        self.lane = SocketLane()
        self.dropped = self.lane.dropped
        self.group = self.lane.group

    def connect(self, limits: SendLimits) -> Peer:
        return SocketPeer(self, limits)

    def close(self) -> None:
        self.lane.close()
        self.patch.__exit__(None, None, None)


class SocketPeer:
    def __init__(self, way: Sockets, limits: SendLimits) -> None:
        self.peer = way.kernel.connect(way.lane, limits=limits)
        self.transport = self.peer.transport

    def texts(self) -> list[str]:
        frames, _ = frames_in(self.peer.received)
        return [frame[2:].decode() for frame in frames if frame[0] == 0x81 and frame[1] < 126]

    def stops_reading(self) -> None:
        self.peer.room = 0

    def reads_again(self) -> None:
        self.peer.client_reads(1 << 30)

    def is_closed(self) -> bool:
        return bool(self.peer.said)

    def was_cut(self) -> bool:
        return self.peer.lost == ["slow"]


class Asgi:
    def __init__(self) -> None:
        self.lane = AsgiLane()
        self.dropped = self.lane.dropped
        self.group = self.lane.group

    def connect(self, limits: SendLimits) -> Peer:
        return AsgiPeer(self.lane, limits)

    def close(self) -> None:
        self.lane.close()


class AsgiPeer:
    def __init__(self, lane: AsgiLane, limits: SendLimits) -> None:
        self.sent: list[str] = []
        self.closed = False
        self.lost: list[str] = []
        self.open = asyncio.Event()
        self.open.set()
        self.transport = AsgiTransport(self.send, lane=lane, on_lost=self.lost.append, limits=limits)

    async def send(self, event: dict[str, object]) -> None:
        if not self.open.is_set():
            await self.open.wait()
        if event["type"] == "websocket.close":
            self.closed = True
        else:
            self.sent.append(str(event["text"]))

    def texts(self) -> list[str]:
        return self.sent

    def stops_reading(self) -> None:
        self.open.clear()

    def reads_again(self) -> None:
        self.open.set()

    def is_closed(self) -> bool:
        return self.closed

    def was_cut(self) -> bool:
        return self.lost == ["slow"]


class Recording:
    def __init__(self) -> None:
        self.lane = RecordingLane()
        self.dropped = self.lane.dropped
        self.group = self.lane.group

    def connect(self, limits: SendLimits) -> Peer:
        return RecordingPeer(self.lane, limits)

    def close(self) -> None:
        self.lane.close()


class RecordingPeer:
    def __init__(self, lane: RecordingLane, limits: SendLimits) -> None:
        self.transport = self.recording = lane.transport(limits=limits)

    def texts(self) -> list[str]:
        return self.recording.texts

    def stops_reading(self) -> None:
        self.recording.slow()

    def reads_again(self) -> None:
        self.recording.catch_up()

    def is_closed(self) -> bool:
        return self.recording.close_sent is not None

    def was_cut(self) -> bool:
        return False


@pytest.fixture(params=[Sockets, Asgi, Recording])
async def way(request: pytest.FixtureRequest) -> AsyncIterator[Way]:
    way: Way = request.param()
    yield way
    way.close()
    await asyncio.sleep(0)


async def settle() -> None:
    for _ in range(100):
        await asyncio.sleep(0)


async def behind(way: Way, limits: SendLimits = LIMITS) -> tuple[Peer, Group]:
    """A client that has stopped reading; one frame, "first", is under way to it."""
    peer, group = way.connect(limits), way.group()
    group.add(peer.transport)
    peer.stops_reading()
    group.deliver(Frame.of_text("first"))
    await settle()
    return peer, group


async def caught_up(peer: Peer) -> list[str]:
    peer.reads_again()
    await settle()
    return peer.texts()


@pytest.mark.parametrize("policy", [DROP, TYPING])
async def test_who_keeps_up_gets_everything_in_order(way: Way, policy: Policy) -> None:
    peers, group = [way.connect(LIMITS) for _ in range(20)], way.group()
    for peer in peers:
        group.add(peer.transport)
    wanted = []
    for number in range(100):
        group.deliver_or_drop(Frame.of_text(f"typing {number}"), policy)
        group.deliver(Frame.of_text(f"comment {number}"))
        peers[0].transport.send_or_drop(Frame.of_text(f"mine {number}"), policy)
        wanted += [f"typing {number}", f"comment {number}", f"mine {number}"]
    await settle()
    assert peers[0].texts() == wanted
    for peer in peers[1:]:
        assert peer.texts() == [text for text in wanted if not text.startswith("mine")]
    assert not way.dropped


async def test_messages_of_both_kinds_keep_their_order_within_a_turn(way: Way) -> None:
    peers, group = [way.connect(LIMITS) for _ in range(3)], way.group()
    for peer in peers:
        group.add(peer.transport)
    wanted = [f"typing {number}" if number % 3 else f"comment {number}" for number in range(30)]
    for text in wanted:
        if text.startswith("typing"):
            group.deliver_or_drop(Frame.of_text(text), DROP)
        else:
            group.deliver(Frame.of_text(text))
    await settle()
    assert [peer.texts() for peer in peers] == [wanted] * 3


async def test_the_oldest_go_when_a_client_is_behind(way: Way) -> None:
    peer, group = await behind(way)
    for number in range(100):
        group.deliver_or_drop(Frame.of_text(f"{number:03}" + "x" * 15), DROP)
        await settle()
    assert peer.transport.queued_bytes <= LIMITS.droppable_bytes + 20
    texts = await caught_up(peer)
    assert texts[0] == "first"
    assert 4 <= len(texts) - 1 <= 5
    assert [text[:3] for text in texts[1:]] == [f"{number:03}" for number in range(101 - len(texts), 100)]
    assert way.dropped == {"drop_oldest": 101 - len(texts)}
    group.deliver_or_drop(Frame.of_text("again"), DROP)
    await settle()
    assert peer.texts()[-1] == "again"


async def test_the_newest_of_a_key_arrives_at_its_own_place(way: Way) -> None:
    peer, group = await behind(way)
    group.deliver_or_drop(Frame.of_text("bob 1"), Policy(("chat", "bob")))
    for number in range(50):
        peer.transport.send_or_drop(Frame.of_text(f"ann {number}"), TYPING)
    group.deliver(Frame.of_text("comment"))
    group.deliver_or_drop(Frame.of_text("ann 50"), TYPING)
    await settle()
    assert await caught_up(peer) == ["first", "bob 1", "comment", "ann 50"]
    assert way.dropped == {"replaced": 50}


async def test_what_has_no_policy_is_never_dropped_and_takes_the_room(way: Way) -> None:
    peer, group = await behind(way)
    wanted = ["first"]
    for number in range(30):
        group.deliver_or_drop(Frame.of_text("typing" + "x" * 30), DROP)
        group.deliver(Frame.of_text(f"comment {number}" + "x" * 100))
        wanted.append(f"comment {number}" + "x" * 100)
        await settle()
    assert peer.transport.queued_bytes <= LIMITS.queued_bytes
    texts = await caught_up(peer)
    assert [text for text in texts if not text.startswith("typing")] == wanted
    assert not peer.was_cut()


async def test_nobody_is_cut_for_any_number_of_them(way: Way) -> None:
    peer, group = await behind(way)
    for number in range(3000):
        group.deliver_or_drop(Frame.of_text(f"typing {number}"), DROP if number % 2 else TYPING)
        if number % 50 == 0:
            await settle()
    await settle()
    assert not peer.was_cut()
    texts = await caught_up(peer)
    assert texts[-1] == "typing 2999"
    assert way.dropped.total() == 3001 - len(texts)


async def test_closing_sends_what_waits(way: Way) -> None:
    peer, group = await behind(way)
    group.deliver(Frame.of_text("comment"))
    group.deliver_or_drop(Frame.of_text("typing"), DROP)
    peer.transport.close(1000, "bye")
    await settle()
    assert await caught_up(peer) == ["first", "comment", "typing"]
    assert peer.is_closed()


async def test_closing_cuts_nobody_for_what_may_be_dropped(way: Way) -> None:
    peer, group = await behind(way)
    for number in range(600):
        group.deliver_or_drop(Frame.of_text(f"typing {number}"), DROP)
    peer.transport.close(1000, "bye")
    await settle()
    texts = await caught_up(peer)
    assert texts[-1] == "typing 599"
    assert peer.is_closed()
    assert not peer.was_cut()


async def test_closing_drops_what_waits_when_it_may_not_be_seen(way: Way) -> None:
    peer, group = await behind(way)
    group.deliver(Frame.of_text("comment"))
    await settle()
    group.deliver_or_drop(Frame.of_text("typing"), DROP)
    group.deliver(Frame.of_text("another"))
    peer.transport.close(4502, "revoked", discard=True)
    await settle()
    texts = await caught_up(peer)
    assert texts == ([] if isinstance(way, Recording) else ["first"])  # that had begun to leave
    assert peer.is_closed()


async def test_closing_drops_what_was_delivered_in_the_same_turn(way: Way) -> None:
    peers, group = [way.connect(LIMITS) for _ in range(3)], way.group()
    for peer in peers:
        group.add(peer.transport)
    if isinstance(way, Recording):
        peers[0].stops_reading()  # it hands on at once
    group.deliver(Frame.of_text("comment"))
    peers[0].transport.send(Frame.of_text("mine"))
    group.deliver_or_drop(Frame.of_text("typing"), DROP)
    peers[0].transport.close(4502, "revoked", discard=True)
    group.discard(peers[0].transport)
    await settle()
    assert peers[0].texts() == []
    assert peers[0].is_closed()
    assert [peer.texts() for peer in peers[1:]] == [["comment", "typing"]] * 2


async def test_nothing_follows_when_the_lane_comes_to_it_after_the_client_has_caught_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asgi, "SLICE", 1)
    way = Asgi()
    peers, group = [way.connect(LIMITS) for _ in range(20)], way.group()
    for peer in peers:
        group.add(peer.transport)
    peers[-1].stops_reading()
    peers[-1].transport.send(Frame.of_text("first"))
    await settle()
    group.deliver(Frame.of_text("comment"))
    peers[-1].transport.close(4502, "revoked", discard=True)
    peers[-1].reads_again()
    await settle()
    assert peers[-1].texts() == ["first"]
    assert peers[-1].is_closed()
    assert peers[0].texts() == ["comment"]
    way.close()


async def test_what_waits_behind_droppable_frames_has_its_own_age(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "JOIN_BYTES", 10)
    way = Sockets()
    try:
        peer = way.connect(SendLimits(queued_age_s=0.2))
        assert isinstance(peer, SocketPeer)
        peer.stops_reading()
        for text in ("under way", "typing 1", "typing 2"):
            peer.transport.send_or_drop(Frame.of_text(text), DROP)
        await settle()
        peer.transport.send(Frame.of_text("comment"))
        await settle()
        peer.peer.client_reads(len(Frame.of_text("under way").wire))
        before = peer.peer.transport._since
        assert before is not None
        await until(lambda: peer.peer.lost == ["slow"])
    finally:
        way.close()


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture(params=[Sockets, Asgi])
async def real_way(request: pytest.FixtureRequest) -> AsyncIterator[Way]:
    way: Way = request.param()
    yield way
    way.close()
    await asyncio.sleep(0)


async def test_who_takes_nothing_at_all_is_cut_whatever_waits(real_way: Way) -> None:
    limits = SendLimits(queued_age_s=0.2)
    peer, group = real_way.connect(limits), real_way.group()
    group.add(peer.transport)
    peer.stops_reading()
    group.deliver_or_drop(Frame.of_text("under way"), DROP)
    await settle()
    group.deliver_or_drop(Frame.of_text("typing"), DROP)
    await until(peer.was_cut)


async def test_who_waits_for_what_has_no_policy_is_cut_after_the_age(real_way: Way) -> None:
    peer, group = await behind(real_way, SendLimits(queued_age_s=0.2))
    group.deliver_or_drop(Frame.of_text("typing"), DROP)
    await until(peer.was_cut)


async def test_a_client_that_lags_in_typing_alone_stays_and_they_age() -> None:
    way = Sockets()
    try:
        limits = SendLimits(queued_age_s=0.2, droppable_bytes=50_000)
        peer = way.kernel.connect(way.lane, limits=limits, room=0)
        group = way.group()
        group.add(peer.transport)
        for number in range(200):
            group.deliver_or_drop(Frame.of_text(f"{number:03}" + "x" * 90), DROP)
        await settle()
        async with asyncio.timeout(DEADLINE_S):
            while not way.dropped["aged"]:  # a byte now and then: the first frame never leaves as a whole
                peer.room += 0 if len(peer.buffer) < 30 else 1
                peer.buffer = peer.buffer[peer.take(peer.buffer) :]
                await asyncio.sleep(0.02)
        assert peer.lost == []
        group.deliver_or_drop(Frame.of_text("newest"), DROP)
        await settle()
        peer.client_reads(1 << 20)
        frames, rest = frames_in(peer.received)
        assert rest == b""
        assert frames[-1] == Frame.of_text("newest").wire
    finally:
        way.close()


async def test_a_frame_that_is_cut_in_two_is_finished_and_those_behind_it_may_be_dropped() -> None:
    way = Sockets()
    try:
        limits = SendLimits(droppable_bytes=25)
        wires = [Frame.of_text(f"typing {number}").wire for number in range(6)]
        peer = way.kernel.connect(way.lane, limits=limits, room=len(wires[0]) + 3)
        for number in range(6):
            peer.transport.send_or_drop(Frame.of_text(f"typing {number}"), DROP)
        await settle()
        assert bytes(peer.received + peer.buffer) == wires[0] + wires[1]
        peer.client_reads(1 << 20)
        assert bytes(peer.received) == wires[0] + wires[1] + wires[4] + wires[5]
        assert way.dropped == {"drop_oldest": 2}
    finally:
        way.close()


async def test_publishers_do_not_wait_for_what_may_be_dropped(real_way: Way) -> None:
    limits = SendLimits(queued_bytes=1000, droppable_bytes=900)
    peer, group = real_way.connect(limits), real_way.group()
    group.add(peer.transport)
    peer.stops_reading()
    for number in range(40):
        group.deliver_or_drop(Frame.of_text(f"{number:03}" + "x" * 20), DROP)
        await settle()
    assert peer.transport.queued_bytes > 500
    async with asyncio.timeout(DEADLINE_S):
        await peer.transport.lane.room()
