"""Every broker keeps the contract: in memory, on Valkey and on Redis, with both parsers and on both event loops."""

from __future__ import annotations

import asyncio
import socket

import pytest

from antiphon.brokers import _redis_wire
from antiphon.brokers._redis_replies import PlainReplies
from antiphon.brokers.base import Broker, Message
from antiphon.brokers.memory import MemoryBroker
from antiphon.brokers.redis_pubsub import RedisBroker
from antiphon.dev.broker_server import BrokerServer
from antiphon.testing.broker_contract import BrokerContract
from tests.conftest import StartServer


class RedisContract(BrokerContract):
    """The server ends the connections, and stays: it is shared with other tests."""

    @pytest.fixture
    def broker(self, server: BrokerServer) -> RedisBroker:
        return RedisBroker(server.url, connect_timeout_s=10.0)

    async def end_connections(self, broker: Broker) -> None:
        assert isinstance(broker, RedisBroker)
        address = broker.address.partition("/")[0].rpartition(":")
        with socket.create_connection((address[0], int(address[2])), timeout=10.0) as connection:
            connection.sendall(b"CLIENT KILL TYPE pubsub\r\nCLIENT KILL TYPE normal SKIPME yes\r\n")
            answer = b""
            while answer.count(b"\r\n") < 2:
                answer += connection.recv(4_096)
        assert answer.startswith(b":"), answer


class TestMemoryBroker(BrokerContract):
    @pytest.fixture
    def broker(self) -> MemoryBroker:
        return MemoryBroker()

    async def end_connections(self, broker: Broker) -> None:
        assert isinstance(broker, MemoryBroker)
        broker.server.kill()


@pytest.mark.every_loop
class TestRedisBroker(RedisContract):
    """With hiredis, where it is installed."""


class TestRedisBrokerWithoutHiredis(RedisContract):
    """With redis-py's own parser, which a plain installation has."""

    big_payload_bytes = 8 * 1024 * 1024

    @pytest.fixture(autouse=True)
    def _plain(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_redis_wire, "open_replies", PlainReplies)


async def _carry_33_mib(server: BrokerServer) -> None:
    """Redis' default ends every subscriber at 32 MiB; a server that is set up otherwise must find us ready."""
    broker = RedisBroker(server.url, connect_timeout_s=10.0)
    listening, publishing = await broker.open_listening(), await broker.open_publishing()
    listening.subscribe(["huge"])
    await listening.receive()
    payload = bytes(33 * 1024 * 1024)
    async with asyncio.timeout(60.0):
        assert await publishing.publish("huge", payload) == 1
        assert await publishing.publish("huge", b"next") == 1
        received: list[object] = []
        while len(received) < 2:
            received += await listening.receive()
    assert received == [Message("huge", payload), Message("huge", b"next")]
    await listening.close()
    await publishing.close()


@pytest.mark.every_loop
async def test_33_mib_arrive_when_the_server_lets_them_pass(start_own_server: StartServer) -> None:
    await _carry_33_mib(start_own_server("valkey", "--client-output-buffer-limit", "pubsub", "0", "0", "0"))


async def test_33_mib_arrive_when_hiredis_is_not_installed(
    start_own_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_redis_wire, "open_replies", PlainReplies)
    await _carry_33_mib(start_own_server("valkey", "--client-output-buffer-limit", "pubsub", "0", "0", "0"))
