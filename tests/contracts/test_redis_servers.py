"""How real servers refuse, freeze and come back, as the adapters report it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from antiphon.brokers.base import Message, Subscribed
from antiphon.brokers.redis_pubsub import RedisBroker
from antiphon.brokers.redis_sync import SyncRedisPublishing
from antiphon.codes import Reason
from antiphon.dev.broker_server import BrokerServer, ServerKind
from antiphon.errors import BrokerRefused, BrokerUnavailable
from tests.conftest import StartServer

DEADLINE_S = 30.0

KINDS = pytest.mark.parametrize("kind", ["valkey", "redis"])


def tell(server: BrokerServer, *commands: str) -> bytes:
    """Send inline commands; returns the bytes of the answers, which must not be errors."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S) as connection:
        connection.sendall("".join(f"{command}\r\n" for command in [*commands, "PING"]).encode())
        answer = b""
        while b"+PONG" not in answer:
            received = connection.recv(65_536)
            assert received, f"the server hung up after {answer!r}"
            answer += received
    assert not answer.startswith(b"-"), answer
    return answer


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)


def broker_at(server: BrokerServer, credentials: str = "") -> RedisBroker:
    return RedisBroker(f"redis://{credentials}127.0.0.1:{server.port}", connect_timeout_s=10.0)


async def test_connections_are_named_in_the_servers_list(server: BrokerServer) -> None:
    publishing = await broker_at(server).open_publishing()
    assert b"name=antiphon " in tell(server, "CLIENT LIST")
    await publishing.close()


async def test_acl_is_enough_with_five_commands(own_server: BrokerServer) -> None:
    """What an operator grants: publish, subscribe, unsubscribe, ping and the channels' prefix, and no other command."""
    tell(own_server, "ACL SETUSER app on >pw resetchannels &app:* -@all +publish +subscribe +unsubscribe +ping")
    broker = broker_at(own_server, "app:pw@")
    listening, publishing = await broker.open_listening(), await broker.open_publishing()
    listening.subscribe(["app:chat"])
    assert await asyncio.wait_for(listening.receive(), DEADLINE_S) == [Subscribed("app:chat")]
    assert await publishing.publish("app:chat", b"x") == 1
    assert await asyncio.wait_for(listening.receive(), DEADLINE_S) == [Message("app:chat", b"x")]
    with pytest.raises(BrokerRefused, match="refuses PUBLISH") as refused:
        await publishing.publish("other", b"x")
    assert refused.value.reason is Reason.PERMISSION
    assert not publishing.lost
    listening.subscribe(["other"])
    with pytest.raises(BrokerRefused, match="SUBSCRIBE other") as ended:
        await asyncio.wait_for(listening.receive(), DEADLINE_S)
    assert ended.value.reason is Reason.PERMISSION
    with SyncRedisPublishing(f"redis://app:pw@127.0.0.1:{own_server.port}", timeout_s=DEADLINE_S) as blocking:
        assert blocking.publish("app:chat", b"y") == 0
    await listening.close()
    await publishing.close()


async def test_user_that_is_switched_off_is_cut_and_refused(own_server: BrokerServer) -> None:
    tell(own_server, "ACL SETUSER app on >c4n4ry allchannels +@all")
    broker = broker_at(own_server, "app:c4n4ry@")
    listening = await broker.open_listening()
    tell(own_server, "ACL DELUSER app")
    with pytest.raises(BrokerUnavailable) as lost:
        await asyncio.wait_for(listening.receive(), DEADLINE_S)
    assert lost.value.reason is Reason.CONNECTION_LOST
    with pytest.raises(BrokerRefused) as refused:
        await broker.open_listening()
    assert refused.value.reason is Reason.AUTHENTICATION
    assert "c4n4ry" not in f"{lost.value!r}{refused.value!r}"
    await listening.close()


async def test_password_is_asked_for_and_taken(start_own_server: StartServer) -> None:
    server = start_own_server("redis", "--requirepass", "p@ss/w:rd")
    publishing = await RedisBroker(server.url, connect_timeout_s=10.0).open_publishing()
    assert await publishing.publish("r", b"x") == 0
    await publishing.close()
    with pytest.raises(BrokerRefused) as refused:
        await broker_at(server).open_listening()
    assert refused.value.reason is Reason.AUTHENTICATION


@KINDS
async def test_full_server_is_reported_as_full(start_own_server: StartServer, kind: ServerKind) -> None:
    server = start_own_server(kind, "--maxclients", "3")
    broker = broker_at(server)
    held = []
    with pytest.raises(BrokerRefused) as refused:
        for _ in range(4):
            held.append(await broker.open_publishing())
    assert refused.value.reason is Reason.MAX_CLIENTS
    for connection in held:
        await connection.close()

    def is_free() -> bool:
        try:
            return tell(server, "CLIENT LIST").count(b"name=antiphon") == 0
        except (AssertionError, OSError):  # still full
            return False

    await until(is_free)


async def test_replica_is_refused_by_every_adapter(own_server: BrokerServer, start_own_server: StartServer) -> None:
    replica = start_own_server(own_server.kind, "--replicaof", f"127.0.0.1 {own_server.port}")
    broker = broker_at(replica)
    for dial in (broker.open_listening, broker.open_publishing):
        with pytest.raises(BrokerRefused, match=f"replica of 127.0.0.1:{own_server.port}") as refused:
            await dial()
        assert refused.value.reason is Reason.READ_ONLY
    with pytest.raises(BrokerRefused) as refused:
        SyncRedisPublishing(f"redis://127.0.0.1:{replica.port}", timeout_s=DEADLINE_S).publish("r", b"x")
    assert refused.value.reason is Reason.READ_ONLY


@pytest.mark.every_loop
async def test_frozen_server_carries_everything_out_when_it_goes_on(own_server: BrokerServer) -> None:
    broker = broker_at(own_server)
    listening, publishing = await broker.open_listening(), await broker.open_publishing()
    listening.subscribe(["r"])
    await listening.receive()
    own_server.freeze()
    answers = [asyncio.ensure_future(publishing.publish("r", b"%d" % number)) for number in range(10)]
    _, waiting = await asyncio.wait(answers, timeout=0.2)
    assert len(waiting) == 10
    own_server.thaw()
    assert await asyncio.wait_for(asyncio.gather(*answers), DEADLINE_S) == [1] * 10
    events: list[object] = []
    while len(events) < 10:
        events += await asyncio.wait_for(listening.receive(), DEADLINE_S)
    assert events == [Message("r", b"%d" % number) for number in range(10)]
    await listening.close()
    await publishing.close()


@pytest.mark.every_loop
async def test_killed_server_ends_everything_and_is_found_again(own_server: BrokerServer) -> None:
    broker = broker_at(own_server)
    listening, publishing = await broker.open_listening(), await broker.open_publishing()
    own_server.kill()
    with pytest.raises(BrokerUnavailable) as lost:
        await asyncio.wait_for(listening.receive(), DEADLINE_S)
    assert lost.value.reason is Reason.CONNECTION_LOST
    await until(lambda: publishing.lost)
    with pytest.raises(BrokerUnavailable) as unreachable:
        await broker.open_listening()
    assert unreachable.value.reason is Reason.UNREACHABLE
    await listening.close()
    await publishing.close()
    own_server.restart()
    again = await broker.open_publishing()
    assert await again.publish("r", b"x") == 0
    await again.close()


def test_blocking_publisher_survives_a_restart(own_server: BrokerServer) -> None:
    with SyncRedisPublishing(own_server.url, timeout_s=DEADLINE_S) as publishing:
        assert publishing.publish("r", b"x") == 0
        own_server.kill()
        with pytest.raises(BrokerUnavailable):
            publishing.publish("r", b"x")
        own_server.restart()
        assert publishing.publish("r", b"x") == 0


@pytest.mark.every_loop
async def test_unix_socket_works(start_own_server: StartServer, tmp_path: Path) -> None:
    path = tmp_path / "s"
    start_own_server("redis", "--unixsocket", str(path))
    broker = RedisBroker(f"unix://{path}?db=1", connect_timeout_s=10.0)
    assert broker.address == f"unix:{path}/1"
    listening, publishing = await broker.open_listening(), await broker.open_publishing()
    listening.subscribe(["r"])
    await listening.receive()
    assert await publishing.publish("r", b"x") == 1
    assert await asyncio.wait_for(listening.receive(), DEADLINE_S) == [Message("r", b"x")]
    with SyncRedisPublishing(f"unix://{path}", timeout_s=DEADLINE_S) as blocking:
        assert blocking.publish("r", b"y") == 1
    await listening.close()
    await publishing.close()
