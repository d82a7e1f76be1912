"""What holds on every way to the sockets: plain ASGI, `install` on a stock uvicorn, and our protocol class."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.websockets import WebSocket
from websockets.exceptions import ConnectionClosed

from antiphon.transports.asgi import AsgiTransport
from antiphon.transports.base import SendLimits
from antiphon.transports.sockets import SocketTransport
from antiphon.wire.frames import Frame
from tests.transports.certificate import self_signed
from tests.transports.servers import (
    DOORS,
    HANDSHAKE,
    WAIT_S,
    WAYS,
    DeafClient,
    Site,
    Way,
    clients,
    serving,
    site,
    texts,
    until,
)

pytestmark = [pytest.mark.every_loop, pytest.mark.parametrize("way", WAYS)]


@pytest.fixture
async def served(way: Way) -> AsyncIterator[Site]:
    async with site(way) as served:
        yield served


async def test_takes_the_quickest_transport_that_the_server_allows(served: Site) -> None:
    async with clients(served):
        transport = served.clients[0].transport
        if served.way == "asgi":
            assert isinstance(transport, AsgiTransport)
        else:
            assert isinstance(transport, SocketTransport)
            assert transport.descriptor >= 0
            assert (transport.lane is served.lanes.sockets(deflates=True)) == (served.way == "deflating")


async def test_application_echoes_text_and_binary_as_before(served: Site) -> None:
    async with clients(served) as (client,):
        for message in ("", "Grüße, 世界", "x" * 70_000, b"", b"\x00\xff" * 40_000):
            await client.send(message)
            assert await asyncio.wait_for(client.recv(), WAIT_S) == message


async def test_fragments_from_the_client_arrive_as_one_message(served: Site) -> None:
    async with clients(served) as (client,):
        await client.send(["one ", "two ", "", "three"])
        await client.send([b"1", b"2"])
        assert await texts(client, 1) == ["one two three"]
        assert await asyncio.wait_for(client.recv(), WAIT_S) == b"12"


async def test_ping_is_answered_between_deliveries(served: Site) -> None:
    async with clients(served) as (client,):
        served.deliver("before")
        pong = await client.ping(b"are you there")
        served.deliver("after")
        await asyncio.wait_for(pong, WAIT_S)
        assert await texts(client, 2) == ["before", "after"]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 300_000])
async def test_message_arrives_whole_when_its_length_changes_the_header(served: Site, size: int) -> None:
    async with clients(served) as (client,):
        text = "é" * (size // 2) + "x" * (size % 2)
        served.deliver(text, "next")
        assert await texts(client, 2) == [text, "next"]


async def test_messages_of_one_turn_arrive_as_separate_messages_in_order(served: Site) -> None:
    async with clients(served, 3) as opened:
        wanted = [f"message {number}" for number in range(200)]
        served.deliver(*wanted)
        for client in opened:
            assert await texts(client, len(wanted)) == wanted


async def test_order_holds_between_groups_and_single_sends(served: Site) -> None:
    async with clients(served, 2) as (first, second):
        ours, other = served.clients
        group = ours.transport.lane.group()
        group.add(ours.transport)
        wanted: list[str] = []
        for number in range(50):
            served.deliver(f"all {number}")
            ours.transport.send(Frame.of_text(f"own {number}"))
            group.deliver(Frame.of_text(f"few {number}"))
            other.transport.send(Frame.of_text(f"other {number}"))
            wanted += [f"all {number}", f"own {number}", f"few {number}"]
            if number % 7 == 0:
                await asyncio.sleep(0)
        assert await texts(first, len(wanted)) == wanted
        assert await texts(second, 100) == [f"{who} {number}" for number in range(50) for who in ("all", "other")]


async def test_message_to_one_socket_precedes_the_applications_own(served: Site) -> None:
    async with clients(served) as (client,):
        ours = served.clients[0]
        for number in range(20):
            ours.transport.send(Frame.of_text(f"sent {number}"))
            await served.lanes.room()
            await ours.websocket.send_text(f"own {number}")
        assert await texts(client, 40) == [f"{who} {number}" for number in range(20) for who in ("sent", "own")]


async def test_hundred_clients_hear_everything_in_order(served: Site) -> None:
    async with clients(served, 100) as opened:
        wanted = [f"{number} " + "x" * (number * 37 % 2000) for number in range(60)]
        for number, text in enumerate(wanted):
            served.deliver(text)
            if number % 5 == 0:
                await served.lanes.room()
                await asyncio.sleep(0)
        received = await asyncio.gather(*(texts(client, len(wanted)) for client in opened))
        assert all(of_one == wanted for of_one in received)
        await until(lambda: served.lanes.backlog_bytes == 0)


async def test_who_joins_hears_nothing_earlier_and_who_leaves_nothing_later(served: Site) -> None:
    async with clients(served, 3) as (first, second, third):
        ours, joining, leaving = (client.transport for client in served.clients)
        group = ours.lane.group()
        group.add(ours)
        group.add(leaving)
        group.deliver(Frame.of_text("one"))
        group.add(joining)
        group.deliver(Frame.of_text("two"))
        group.discard(leaving)
        group.deliver(Frame.of_text("three"))
        for transport in (ours, joining, leaving):
            transport.send(Frame.of_text("end"))
        assert await texts(first, 4) == ["one", "two", "three", "end"]
        assert await texts(second, 3) == ["two", "three", "end"]
        assert await texts(third, 3) == ["one", "two", "end"]


async def test_close_sends_what_is_queued_and_then_code_and_reason(served: Site) -> None:
    async with clients(served) as (client,):
        served.deliver("first", "second")
        served.clients[0].transport.close(4001, "too slow, sorry")
        served.deliver("never seen")
        assert await texts(client, 2) == ["first", "second"]
        with pytest.raises(ConnectionClosed) as closed:
            await asyncio.wait_for(client.recv(), WAIT_S)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "too slow, sorry")
        await asyncio.wait_for(served.clients[0].left.wait(), WAIT_S)
        await until(lambda: served.clients[0].lost == ["closed"])
        await until(lambda: served.sockets == 0)


async def test_client_that_closes_gets_its_code_back_and_the_application_is_told(served: Site) -> None:
    async with clients(served) as (client,):
        await client.close(3456, "done")
        assert client.close_code == 3456
        await asyncio.wait_for(served.clients[0].left.wait(), WAIT_S)
        assert served.clients[0].left_with == "disconnect 3456"
        await until(lambda: served.sockets == 0)
        served.deliver("to nobody")


async def test_application_that_closes_after_a_delivery_loses_nothing(served: Site) -> None:
    async with clients(served) as (client,):
        served.deliver("last words")
        await served.lanes.room()
        await served.clients[0].websocket.close(1000, "bye")
        assert await texts(client, 1) == ["last words"]
        with pytest.raises(ConnectionClosed) as closed:
            await asyncio.wait_for(client.recv(), WAIT_S)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1000, "bye")
        await until(lambda: served.sockets == 0)


async def test_socket_closes_when_the_application_returns(served: Site) -> None:
    async with clients(served) as (client,):
        await client.send("return")
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(client.recv(), WAIT_S)
        await until(lambda: served.sockets == 0)


async def test_detached_socket_gets_what_was_sent_before_and_is_the_applications_again(served: Site) -> None:
    async with clients(served) as (client,):
        ours = served.clients[0]
        served.deliver("before")
        served.everybody.discard(ours.transport)
        ours.transport.detach()
        served.deliver("never seen")
        assert await texts(client, 1) == ["before"]
        await client.send("still here")
        assert await texts(client, 1) == ["still here"]
        assert ours.lost == []


async def test_reset_by_a_client_harms_nobody_else(served: Site) -> None:
    async with clients(served, 2) as (good, _), DeafClient(served) as bad:
        await served.came(3)
        linger_not = struct.pack("ii", 1, 0)
        bad.socket.setsockopt(1, 13, linger_not)  # SOL_SOCKET, SO_LINGER
        bad.socket.close()
        wanted = [str(number) for number in range(200)]
        for text in wanted:
            served.deliver(text)
            await asyncio.sleep(0)
        assert await texts(good, 200) == wanted
        await asyncio.wait_for(served.clients[2].left.wait(), WAIT_S)
        await until(lambda: served.sockets == 2)
        assert served.clients[0].lost == []


async def test_sockets_are_lost_while_a_large_delivery_is_under_way(served: Site) -> None:
    async with clients(served, 40) as opened:
        for client in opened[::2]:
            client.transport.abort()
        wanted = [f"{number}" + "x" * 5000 for number in range(100)]
        for number, text in enumerate(wanted):
            served.deliver(text)
            if number == 50:
                served.everybody.discard(served.clients[1].transport)
            if number % 3 == 0:
                await asyncio.sleep(0)
        for client in opened[3::2]:
            assert await texts(client, 100) == wanted
        assert await texts(opened[1], 51) == wanted[:51]
        await until(lambda: served.sockets == 20)


async def test_client_that_does_not_read_is_cut_off_and_the_others_miss_nothing(way: Way) -> None:
    limits = SendLimits(queued_bytes=100_000, close_s=0.2)
    async with site(way, limits=limits, send_buffer_bytes=16_384) as served, DeafClient(served) as deaf:
        await served.came(1)
        async with clients(served) as (good,):
            sent = 0
            text = "x" * 16_000
            async with asyncio.timeout(2 * WAIT_S):
                while not served.clients[0].lost:
                    served.deliver(f"{sent} {text}")
                    sent += 1
                    await served.lanes.room()
                    assert (await texts(good, 1))[0].startswith(f"{sent - 1} ")
            assert served.clients[0].lost == ["slow"]
            assert served.clients[0].transport.queued_bytes == 0
            if way in DOORS:
                await asyncio.wait_for(served.clients[0].left.wait(), WAIT_S)
                await until(lambda: served.sockets == 1)
                assert (await deaf.read_to_end())[1], "the kernel should have forgotten the rest"
            served.deliver("still here")
            assert await texts(good, 1) == ["still here"]


async def test_client_is_cut_off_by_age_when_nothing_more_is_sent(way: Way) -> None:
    limits = SendLimits(queued_bytes=64 * 1024 * 1024, queued_age_s=0.3, close_s=0.1)
    async with site(way, limits=limits, send_buffer_bytes=16_384) as served, DeafClient(served):
        await served.came(1)
        ours = served.clients[0]
        for _ in range(100):
            served.deliver("x" * 100_000)
        await until(lambda: ours.transport.queued_bytes > 0 or bool(ours.lost))
        await until(lambda: ours.lost == ["slow"])
        if way in DOORS:
            await asyncio.wait_for(ours.left.wait(), WAIT_S)
            await until(lambda: served.sockets == 0)


async def test_slow_client_that_reads_at_last_gets_everything_in_order(way: Way) -> None:
    async with site(way, send_buffer_bytes=16_384) as served, DeafClient(served) as slow:
        await served.came(1)
        ours = served.clients[0]
        sent = b""
        for number in range(40):
            frame = Frame.of_text(f"{number} " + "x" * 16_000)
            sent += frame.wire
            ours.transport.send(frame)
            await asyncio.sleep(0)
        await until(lambda: ours.transport.queued_bytes > 0)
        ours.transport.send(Frame.of_text("the end"))
        sent += Frame.of_text("the end").wire
        loop = asyncio.get_running_loop()
        received = b""
        async with asyncio.timeout(WAIT_S):
            while len(received) < len(sent):
                received += await loop.sock_recv(slow.socket, 65536)
        assert received == sent
        await until(lambda: ours.transport.queued_bytes == 0)
        assert ours.lost == []
        ours.transport.send(Frame.of_text("quick again"))
        assert await asyncio.wait_for(loop.sock_recv(slow.socket, 100), WAIT_S) == Frame.of_text("quick again").wire


async def test_close_of_a_client_that_does_not_read_ends_in_time(way: Way) -> None:
    limits = SendLimits(close_s=0.2)
    async with site(way, limits=limits, send_buffer_bytes=16_384) as served, DeafClient(served):
        await served.came(1)
        ours = served.clients[0]
        for _ in range(30):
            served.deliver("x" * 16_000)
        await until(lambda: ours.transport.queued_bytes > 0)
        ours.transport.close(1012, "restart")
        await until(lambda: ours.lost == ["closed"])
        if way in DOORS:
            await asyncio.wait_for(ours.left.wait(), WAIT_S)
            await until(lambda: served.sockets == 0)


async def test_own_messages_of_the_application_never_cut_a_frame_in_two(way: Way) -> None:
    async with site(way, send_buffer_bytes=16_384, deflate=False) as served, clients(served) as (client,):
        ours = served.clients[0]
        wanted = {f"own {number} " + "y" * 20_000 for number in range(20)}

        async def own() -> None:
            for text in sorted(wanted):
                await ours.websocket.send_text(text)

        writing = asyncio.create_task(own())
        delivered = [f"all {number} " + "x" * 20_000 for number in range(20)]
        for text in delivered:
            served.deliver(text)
            await served.lanes.room()
            await asyncio.sleep(0)
        received = await texts(client, 40)
        await writing
        assert [text for text in received if text.startswith("all")] == delivered
        assert {text for text in received if text.startswith("own")} == wanted


async def test_clients_with_and_without_compression_hear_the_same(served: Site) -> None:
    wanted = ["", "short", "long enough " * 100, "Grüße, 世界 " * 1000]
    async with clients(served, 2) as compressed, clients(served, 2, compression=None) as plain:
        served.deliver(*wanted)
        assert await served.lanes.drain(limit_s=WAIT_S)
        for text in wanted:
            served.clients[0].transport.send(Frame.of_text(text))
            await served.clients[1].websocket.send_text(text)
        for client in (*compressed, *plain):
            assert await texts(client, len(wanted)) == wanted
        for client in compressed:
            assert await texts(client, len(wanted)) == wanted
            assert bool(client.protocol.extensions) == (served.way != "protocol")
            await client.send("echo " * 1000)
            assert await texts(client, 1) == ["echo " * 1000]


async def test_tls_carries_everything_by_the_event_loop(way: Way, tmp_path: Path) -> None:
    async with site(way, tls=self_signed(tmp_path)) as served, clients(served, 2, tls=True) as opened:
        transport = served.clients[0].transport
        if isinstance(transport, SocketTransport):
            assert transport.descriptor == -1
        wanted = [f"{number} " + "x" * 30_000 for number in range(40)]
        reading = [asyncio.create_task(texts(client, len(wanted))) for client in opened]
        for text in wanted:
            served.deliver(text)
            await served.lanes.room()
            await asyncio.sleep(0)
        for received in reading:
            assert await received == wanted
        transport.close(4001, "bye")
        with pytest.raises(ConnectionClosed) as closed:
            await asyncio.wait_for(opened[0].recv(), WAIT_S)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4001


async def test_client_that_answers_no_ping_is_closed(way: Way) -> None:
    async with site(way, ping_s=0.2) as served, DeafClient(served) as deaf:
        await served.came(1)
        received, _ = await deaf.read_to_end()
        assert received[0] == 0x89
        await asyncio.wait_for(served.clients[0].left.wait(), WAIT_S)
        await until(lambda: served.sockets == 0)


async def test_two_managers_share_a_socket(served: Site) -> None:
    from antiphon.transports.choice import Lanes, transport_for

    async with clients(served) as (client,):
        ours = served.clients[0]
        lanes = Lanes()
        lost: list[str] = []
        second = transport_for(ours.websocket, lanes=lanes, on_lost=lost.append, limits=SendLimits())
        for number in range(30):
            ours.transport.send(Frame.of_text(f"first {number}"))
            second.send(Frame.of_text(f"second {number}"))
        received = await texts(client, 60)
        for who in ("first", "second"):
            assert [text for text in received if text.startswith(who)] == [f"{who} {number}" for number in range(30)]
        second.detach()
        lanes.close()


async def test_shutdown_of_the_server_is_not_held_up_by_a_client_that_does_not_read(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "asgi":
        return  # uvicorn alone waits for ever
    monkeypatch.setattr("antiphon.transports.uvicorn_door.END_S", 0.2)
    async with site(way, send_buffer_bytes=16_384) as served, DeafClient(served), clients(served):
        await served.came(2)
        for _ in range(20):
            served.deliver("x" * 16_000)
        await until(lambda: served.clients[0].transport.queued_bytes > 0)
        assert served.server is not None
        for connection in list(served.server.server_state.connections):
            connection.shutdown()
        await until(lambda: served.sockets == 0)
        for client in served.clients:
            await asyncio.wait_for(client.left.wait(), WAIT_S)


async def test_close_frame_of_the_client_ends_a_connection_that_it_does_not_read(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "asgi":
        return  # uvicorn alone waits until its buffer has drained
    monkeypatch.setattr("antiphon.transports.uvicorn_door.END_S", 0.2)
    async with site(way, send_buffer_bytes=16_384) as served, DeafClient(served) as deaf:
        await served.came(1)
        for _ in range(20):
            served.deliver("x" * 16_000)
        await until(lambda: served.clients[0].transport.queued_bytes > 0)
        await asyncio.get_running_loop().sock_sendall(deaf.socket, bytes((0x88, 0x80, 0, 0, 0, 0)))
        await asyncio.wait_for(served.clients[0].left.wait(), WAIT_S)
        await until(lambda: served.sockets == 0)
        assert served.clients[0].lost == ["gone"]


async def test_broken_frame_from_the_client_is_refused_with_its_code(served: Site) -> None:
    async with DeafClient(served) as client:
        await served.came(1)
        served.deliver("before")
        await asyncio.sleep(0.01)
        await asyncio.get_running_loop().sock_sendall(client.socket, b"\xf1\x80\x00\x00\x00\x00")
        received, _ = await client.read_to_end()
        assert Frame.of_text("before").wire in received
        assert b"\x03\xea" in received  # 1002
        await until(lambda: served.sockets == 0)


async def test_nothing_is_left_behind_when_everybody_is_gone(served: Site) -> None:
    async with clients(served, 20):
        served.deliver("hello")
    await until(lambda: served.sockets == 0)
    for client in served.clients:
        await asyncio.wait_for(client.left.wait(), WAIT_S)
    assert len(served.everybody) == 0
    served.deliver("to nobody")
    assert await served.lanes.drain(limit_s=WAIT_S)
    assert served.lanes.backlog_bytes == 0
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(served.lanes.room(), WAIT_S)


async def test_frame_that_begins_before_the_handshake_is_answered_arrives_whole(way: Way) -> None:
    entered, accepts = asyncio.Event(), asyncio.Event()
    received: list[object] = []

    async def endpoint(websocket: WebSocket) -> None:
        await websocket.receive()
        entered.set()
        await accepts.wait()
        await websocket.accept()
        received.append(await websocket.receive_text())

    async with serving(way, endpoint) as (_, url):
        loop = asyncio.get_running_loop()
        with socket.socket() as client:
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", int(url.removesuffix("/").rpartition(":")[2])))
            await loop.sock_sendall(client, HANDSHAKE)
            await asyncio.wait_for(entered.wait(), WAIT_S)
            frame = b"\x81\x85\x00\x00\x00\x00hello"
            await loop.sock_sendall(client, frame[:4])
            for _ in range(20):  # the server reads it in one of these turns
                await asyncio.sleep(0.001)
            accepts.set()
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += await asyncio.wait_for(loop.sock_recv(client, 1), WAIT_S)
            await loop.sock_sendall(client, frame[4:])
            await until(lambda: received == ["hello"])
