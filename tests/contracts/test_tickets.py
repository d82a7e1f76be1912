"""Tickets over real servers: one winner whichever replica is asked, and the server's own clock."""

from __future__ import annotations

import asyncio
import os

import pytest

from antiphon.auth import NotSignedIn, SignInUnavailable
from antiphon.brokers.redis_store import RedisStore
from antiphon.dev.broker_server import BrokerServer
from antiphon.tickets import Tickets
from tests.contracts.test_redis_servers import DEADLINE_S, tell
from tests.unit.test_tickets import ANN, handshake


async def test_one_handshake_wins_when_50_try_on_two_replicas(server: BrokerServer) -> None:
    one, two = (Tickets(RedisStore(server.url, timeout_s=DEADLINE_S)) for _ in range(2))
    for _ in range(5):
        ticket = await one.issue(ANN)
        tries = [tickets.authenticate(handshake(ticket)) for tickets in [one, two] * 25]
        results = await asyncio.gather(*tries, return_exceptions=True)
        assert results.count(ANN) == 1
        assert sum(isinstance(result, NotSignedIn) for result in results) == 49
    await one._store.close()
    await two._store.close()


async def test_ticket_expires_by_the_clock_of_the_server(server: BrokerServer) -> None:
    store = RedisStore(server.url, timeout_s=DEADLINE_S)
    tickets = Tickets(store, ttl_s=0.05, scope=str(os.getpid()))
    ticket = await tickets.issue(ANN)
    key = f"antiphon:once:{tickets._key(ticket)}"
    async with asyncio.timeout(DEADLINE_S):
        while b":1" in tell(server, f"EXISTS {key}"):
            await asyncio.sleep(0.01)
    with pytest.raises(NotSignedIn):
        await tickets.authenticate(handshake(ticket))
    lasting = Tickets(store)
    ticket = await lasting.issue(ANN)
    left_ms = int(tell(server, f"PTTL antiphon:once:{lasting._key(ticket)}").split()[0][1:])
    assert 0 < left_ms <= 30_000
    await store.close()


async def test_ticket_is_never_taken_unchecked_when_the_broker_is_away(own_server: BrokerServer) -> None:
    tickets = Tickets(own_server.url)
    ticket = await tickets.issue(ANN)
    own_server.kill()
    with pytest.raises(SignInUnavailable):
        await tickets.authenticate(handshake(ticket))
    with pytest.raises(SignInUnavailable):
        await tickets.issue(ANN)
    own_server.restart()
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                fresh = await tickets.issue(ANN)
                assert await tickets.authenticate(handshake(fresh)) == ANN
                break
            except SignInUnavailable:
                await asyncio.sleep(0.05)
    with pytest.raises(NotSignedIn):  # it was lost with the server's memory
        await tickets.authenticate(handshake(ticket))
    await tickets.close()
