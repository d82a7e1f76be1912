"""The broker in the process, and its faults."""

from __future__ import annotations

import asyncio

import pytest

from antiphon.brokers.base import Message, Pong, Subscribed
from antiphon.brokers.memory import COMMAND_LIMIT, MemoryBroker, MemoryListening, MemoryPublishing, MemoryServer
from antiphon.codes import Reason
from antiphon.errors import BrokerRefused, BrokerUnavailable, UsageError

pytestmark = pytest.mark.virtual_time


async def connect(server: MemoryServer, *routes: str) -> tuple[MemoryListening, MemoryPublishing]:
    broker = MemoryBroker(server)
    listening, publishing = await broker.open_listening(), await broker.open_publishing()
    if routes:
        listening.subscribe(routes)
        assert await listening.receive() == [Subscribed(route) for route in routes]
    return listening, publishing


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_brokers_of_one_server_hear_one_another() -> None:
    server = MemoryServer()
    listening, _ = await connect(server, "r")
    _, publishing = await connect(server)
    assert await publishing.publish("r", b"x") == 1
    assert await listening.receive() == [Message("r", b"x")]
    assert (server.published, server.connections, server.listeners("r"), server.routes()) == (1, 4, 1, {"r"})


async def test_brokers_without_a_common_server_do_not() -> None:
    await connect(MemoryServer(), "r")
    publishing = await MemoryBroker().open_publishing()
    assert await publishing.publish("r", b"x") == 0


async def test_server_forgets_connections_that_are_closed() -> None:
    server = MemoryServer()
    listening, publishing = await connect(server, "r")
    await listening.close()
    await publishing.close()
    assert (server.connections, server.routes()) == (0, set())


async def test_dial_fails_while_the_server_is_down() -> None:
    broker = MemoryBroker()
    broker.server.down = True
    for dial in (broker.open_listening, broker.open_publishing):
        with pytest.raises(BrokerUnavailable) as caught:
            await dial()
        assert caught.value.reason is Reason.UNREACHABLE
    broker.server.down = False
    await broker.open_listening()


async def test_dial_waits_while_the_server_is_frozen() -> None:
    broker = MemoryBroker()
    broker.server.freeze()
    dialling = asyncio.ensure_future(broker.open_listening())
    await asyncio.sleep(100)
    assert not dialling.done()
    broker.server.thaw()
    await dialling
    assert broker.server.connections == 1


async def test_cancelled_dial_leaves_nothing_open() -> None:
    broker = MemoryBroker()
    broker.server.freeze()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await broker.open_publishing()
    broker.server.thaw()
    await settle()
    assert broker.server.connections == 0


async def test_frozen_server_carries_everything_out_in_order_when_thawed() -> None:
    server = MemoryServer()
    listening, publishing = await connect(server, "r")
    server.freeze()
    assert server.is_frozen
    answers = [asyncio.ensure_future(publishing.publish("r", payload)) for payload in (b"1", b"2")]
    listening.ping(b"token")
    receiving = asyncio.ensure_future(listening.receive())
    await asyncio.sleep(100)
    assert not receiving.done()
    assert not any(answer.done() for answer in answers)
    server.thaw()
    assert await asyncio.gather(*answers) == [1, 1]
    assert await receiving == [Message("r", b"1"), Message("r", b"2"), Pong(b"token")]


async def test_publication_of_a_closed_connection_is_carried_out_when_thawed() -> None:
    server = MemoryServer()
    listening, publishing = await connect(server, "r")
    server.freeze()
    answer = publishing.publish("r", b"late")
    await publishing.close()
    with pytest.raises(BrokerUnavailable):
        await answer
    server.thaw()
    assert await listening.receive() == [Message("r", b"late")]


async def test_killed_server_ends_every_connection_and_drops_what_waits() -> None:
    server = MemoryServer()
    listening, publishing = await connect(server, "r")
    server.freeze()
    answer = publishing.publish("r", b"x")
    server.kill()
    server.thaw()
    with pytest.raises(BrokerUnavailable) as caught:
        await answer
    assert caught.value.reason is Reason.CONNECTION_LOST
    with pytest.raises(BrokerUnavailable):
        await listening.receive()
    assert (publishing.lost, server.published, server.connections) == (True, 0, 0)


async def test_publishing_goes_on_when_only_listeners_are_killed() -> None:
    server = MemoryServer()
    listening, publishing = await connect(server, "r")
    server.kill_listening()
    with pytest.raises(BrokerUnavailable):
        await listening.receive()
    assert await publishing.publish("r", b"x") == 0


async def test_deaf_server_counts_its_listeners_and_tells_them_nothing() -> None:
    server = MemoryServer()
    listening, publishing = await connect(server, "r")
    server.deaf = True
    assert await publishing.publish("r", b"x") == 1
    listening.ping(b"still")
    assert await listening.receive() == [Pong(b"still")]


async def test_nothing_is_answered_after_a_swallowed_reply_though_it_was_carried_out() -> None:
    server = MemoryServer()
    listening, publishing = await connect(server, "r")
    server.swallow_next_reply()
    answers = [asyncio.ensure_future(publishing.publish("r", payload)) for payload in (b"1", b"2")]
    ping = asyncio.ensure_future(publishing.ping())
    assert await listening.receive() == [Message("r", b"1"), Message("r", b"2")]
    done, _ = await asyncio.wait([*answers, ping], timeout=100)
    assert done == set()
    await publishing.close()
    done, _ = await asyncio.wait([*answers, ping])
    assert all(isinstance(answer.exception(), BrokerUnavailable) for answer in done)


async def test_listening_goes_on_when_only_publishers_are_killed() -> None:
    server = MemoryServer()
    listening, publishing = await connect(server, "r")
    sent = publishing.publish("r", b"x")
    server.kill_publishing()
    with pytest.raises(BrokerUnavailable):
        await sent
    assert await listening.receive() == [Message("r", b"x")]


async def test_refused_publication_is_not_carried_out() -> None:
    server = MemoryServer()
    _, publishing = await connect(server)
    server.publish_error = BrokerRefused("full", reason=Reason.OUT_OF_MEMORY)
    with pytest.raises(BrokerRefused) as caught:
        await publishing.publish("r", b"x")
    assert caught.value.reason is Reason.OUT_OF_MEMORY
    assert server.published == 0
    server.publish_error = None
    assert await publishing.publish("r", b"x") == 0


async def test_listener_that_does_not_read_is_ended_at_the_limit() -> None:
    server = MemoryServer(listener_limit_bytes=10_000)
    listening, publishing = await connect(server, "r")
    for _ in range(20):
        await publishing.publish("r", bytes(1_000))
    received = await listening.receive()
    assert 0 < len(received) < 20
    with pytest.raises(BrokerUnavailable) as caught:
        await listening.receive()
    assert caught.value.reason is Reason.CONNECTION_LOST


async def test_connection_is_ended_as_busy_when_too_many_commands_wait() -> None:
    server = MemoryServer()
    _, publishing = await connect(server)
    server.freeze()
    answers = [publishing.publish("r", b"") for _ in range(COMMAND_LIMIT + 1)]
    with pytest.raises(BrokerUnavailable) as caught:
        await answers[-1]
    assert caught.value.reason is Reason.BUSY
    assert publishing.lost


async def test_second_receiver_is_refused_while_the_first_waits() -> None:
    listening, _ = await connect(MemoryServer())
    first = asyncio.ensure_future(listening.receive())
    await settle()
    with pytest.raises(UsageError, match="another task receives"):
        await listening.receive()
    first.cancel()
