from __future__ import annotations

import asyncio
import datetime
import hashlib
import logging
from urllib.parse import quote

import pytest
from starlette.requests import HTTPConnection

from antiphon.auth import Identity, NotSignedIn, SignInUnavailable
from antiphon.brokers.memory_store import MemoryStore
from antiphon.brokers.redis_store import RedisStore
from antiphon.codes import CloseCode
from antiphon.errors import ConfigurationError, InvalidBrokerURL
from antiphon.tickets import Tickets
from antiphon.wire import codec

ANN = Identity(
    user_id="ann",
    session_id="s1",
    roles=frozenset({"admin", "writer"}),
    expires_at_s=4_000_000_000.5,
    claims={"name": "Ann ☃", "groups": [1, 2]},
)

WRITTEN = {
    "ticket": 1,
    "user_id": "ann",
    "session_id": None,
    "roles": [],
    "expires_at_s": None,
    "claims": {},
    "origin": None,
    "issued_at_s": 1_000.0,
}


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def handshake(*tickets: str, origin: str | None = None) -> HTTPConnection:
    query = "&".join(f"ticket={quote(ticket)}" for ticket in tickets)
    headers = [] if origin is None else [(b"origin", origin.encode())]
    return HTTPConnection(
        {"type": "websocket", "path": "/ws", "query_string": f"a=1&{query}".encode(), "headers": headers}
    )


async def test_ticket_gives_the_identity_that_it_was_issued_for() -> None:
    tickets = Tickets(MemoryStore())
    taken = await tickets.authenticate(handshake(await tickets.issue(ANN)))
    assert taken == ANN
    guest = Identity(user_id=None)
    assert await tickets.authenticate(handshake(await tickets.issue(guest))) == guest


async def test_nothing_is_said_when_there_is_no_ticket() -> None:
    assert await Tickets(MemoryStore()).authenticate(handshake()) is None


async def test_ticket_has_256_bits_and_needs_no_encoding() -> None:
    tickets = Tickets(MemoryStore())
    issued = {await tickets.issue(ANN) for _ in range(50)}
    assert len(issued) == 50
    assert all(len(ticket) == 43 and quote(ticket) == ticket for ticket in issued)


async def test_one_handshake_wins_when_50_try_the_ticket_at_once() -> None:
    tickets = Tickets(MemoryStore())
    ticket = await tickets.issue(ANN)
    tries = [tickets.authenticate(handshake(ticket)) for _ in range(50)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert results.count(ANN) == 1
    assert sum(isinstance(result, NotSignedIn) for result in results) == 49


async def test_unknown_used_and_expired_tickets_are_refused_alike() -> None:
    clock = Clock()
    tickets = Tickets(MemoryStore(clock), ttl_s=30)
    used, expired, in_time = [await tickets.issue(ANN) for _ in range(3)]
    await tickets.authenticate(handshake(used))
    clock.now += 29.9
    await tickets.authenticate(handshake(in_time))
    clock.now += 0.2
    valid = await tickets.issue(ANN)
    seen = set()
    bad = [
        ("x" * 43,),
        (used,),
        (expired,),
        ("",),
        ("x",),
        ("x" * 1_000_000,),
        (valid, valid),
        ("é" * 43,),
        ("x\n" * 9,),
    ]
    for given in bad:
        with pytest.raises(NotSignedIn) as refused:
            await tickets.authenticate(handshake(*given))
        seen.add((str(refused.value), refused.value.code, refused.value.reason, refused.value.http_status))
    assert len(seen) == 1
    assert await tickets.authenticate(handshake(valid)) == ANN


@pytest.mark.parametrize("ttl_s", [0, -1, 30.1, True, float("nan"), "30"])
def test_time_to_live_is_refused_when_it_is_longer_than_30_s(ttl_s: float) -> None:
    with pytest.raises(ConfigurationError, match="ttl_s"):
        Tickets(MemoryStore(), ttl_s=ttl_s)


async def test_store_holds_a_hash_and_no_ticket() -> None:
    store = MemoryStore()
    ticket = await Tickets(store).issue(ANN)
    assert list(store._values) == ["ticket-" + hashlib.sha256(f"\0{ticket}".encode()).hexdigest()]
    assert ticket not in repr(store._values)


async def test_ticket_works_from_its_own_website_alone() -> None:
    tickets = Tickets(MemoryStore())
    for given in (None, "https://evil.example", "null"):
        ticket = await tickets.issue(ANN, origin="https://app.example")
        with pytest.raises(NotSignedIn):
            await tickets.authenticate(handshake(ticket, origin=given))
        with pytest.raises(NotSignedIn, match="used before"):
            await tickets.authenticate(handshake(ticket, origin="https://app.example"))
    ticket = await tickets.issue(ANN, origin="https://app.example")
    assert await tickets.authenticate(handshake(ticket, origin="https://APP.example")) == ANN


async def test_ticket_of_one_scope_does_not_work_in_another() -> None:
    store = MemoryStore()
    production, staging = Tickets(store, scope="production"), Tickets(store, scope="staging")
    ticket = await staging.issue(ANN)
    with pytest.raises(NotSignedIn):
        await production.authenticate(handshake(ticket))
    assert await staging.authenticate(handshake(ticket)) == ANN


async def test_ticket_does_not_outlive_its_identity() -> None:
    clock = Clock()
    tickets = Tickets(MemoryStore(lambda: 0.0), clock=clock)
    short = Identity(user_id="ann", expires_at_s=clock.now + 5.0)
    ticket = await tickets.issue(short)
    clock.now += 5.0
    with pytest.raises(NotSignedIn):
        await tickets.authenticate(handshake(ticket))
    with pytest.raises(NotSignedIn, match="expired"):
        await tickets.issue(short)


async def test_ticket_knows_when_it_was_issued() -> None:
    clock = Clock()
    tickets = Tickets(MemoryStore(lambda: 0.0), clock=clock)
    ticket = await tickets.issue(Identity(user_id="ann"))
    clock.now += 20.0
    taken = await tickets.authenticate(handshake(ticket))
    assert taken is not None
    assert taken.proved_at_s == 1_000.0


async def test_ticket_is_as_old_as_what_proved_the_identity_that_it_was_issued_for() -> None:
    clock = Clock()
    tickets = Tickets(MemoryStore(lambda: 0.0), clock=clock)
    for proved_at_s, expected_s in (990.0, 990.0), (1_010.0, 1_000.0):
        identity = Identity(user_id="ann")._proved_by(None, at_s=proved_at_s)
        taken = await tickets.authenticate(handshake(await tickets.issue(identity)))
        assert taken is not None
        assert taken.proved_at_s == expected_s


async def test_identity_is_refused_when_it_cannot_be_written_down() -> None:
    tickets = Tickets(MemoryStore())
    with pytest.raises(ConfigurationError, match=r"\['claims'\]\['since'\] is a datetime"):
        await tickets.issue(Identity(user_id="ann", claims={"since": datetime.datetime.now()}))
    with pytest.raises(ConfigurationError, match="16,384"):
        await tickets.issue(Identity(user_id="ann", claims={"all": "x" * 16_384}))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"user_id":"root"}',
        b'{"ticket":2,"user_id":"root"}',
        codec.encode({"ticket": 1, "user_id": "root"}),
        codec.encode({**WRITTEN, "user_id": 7}),
        codec.encode({**WRITTEN, "session_id": ""}),
        codec.encode({**WRITTEN, "roles": 7}),
        codec.encode({**WRITTEN, "expires_at_s": "never"}),
        codec.encode({**WRITTEN, "claims": []}),
        codec.encode({**WRITTEN, "issued_at_s": "now"}),
        codec.encode({**WRITTEN, "issued_at_s": None}),
        codec.encode({**WRITTEN, "issued_at_s": True}),
    ],
)
async def test_ticket_is_refused_when_its_value_is_something_else(value: bytes) -> None:
    store = MemoryStore()
    tickets = Tickets(store)
    ticket = "t" * 43
    await store.put_once(tickets._key(ticket), value, ttl_s=30.0)
    with pytest.raises(NotSignedIn, match="unknown"):
        await tickets.authenticate(handshake(ticket))


async def test_value_as_it_is_written_is_accepted() -> None:
    """The one that the values above are made of by a change each."""
    store = MemoryStore()
    tickets = Tickets(store)
    await store.put_once(tickets._key("t" * 43), codec.encode(WRITTEN), ttl_s=30.0)
    taken = await tickets.authenticate(handshake("t" * 43))
    assert taken == Identity(user_id="ann")
    assert taken.proved_at_s == 1_000.0


async def test_ticket_of_an_earlier_release_counts_as_issued_before_every_revocation() -> None:
    store = MemoryStore()
    tickets = Tickets(store)
    earlier = {name: value for name, value in WRITTEN.items() if name != "issued_at_s"}
    await store.put_once(tickets._key("t" * 43), codec.encode(earlier), ttl_s=30.0)
    taken = await tickets.authenticate(handshake("t" * 43))
    assert taken is not None
    assert taken.proved_at_s == 0.0


async def test_client_is_invited_to_come_back_when_the_broker_is_away(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    tickets = Tickets("redis://:c4n4ry@127.0.0.1:1/0")
    with pytest.raises(SignInUnavailable) as unissued:
        await tickets.issue(ANN)
    with pytest.raises(SignInUnavailable) as untaken:
        await tickets.authenticate(handshake("t" * 43))
    await tickets.close()
    for refused in (unissued.value, untaken.value):
        assert refused.code is CloseCode.OVERLOADED
        assert refused.close_code.client_returns
        assert "c4n4ry" not in f"{refused!r} {refused.__cause__!r} {tickets!r} {caplog.text}"
        assert "t" * 43 not in f"{refused!r} {refused.__cause__!r}"


async def test_client_is_invited_to_come_back_when_every_ticket_is_taken() -> None:
    class Full(MemoryStore):
        async def put_once(self, key: str, value: bytes, *, ttl_s: float) -> bool:
            return False

    with pytest.raises(SignInUnavailable):
        await Tickets(Full()).issue(ANN)


async def test_store_is_found_as_the_managers_find_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTIPHON_BROKER_URL", raising=False)
    monkeypatch.delenv("REDIS_URL", raising=False)
    assert isinstance(Tickets()._store, MemoryStore)
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/4")
    tickets = Tickets()
    assert isinstance(tickets._store, RedisStore)
    assert repr(tickets) == "<Tickets store=127.0.0.1:1/4 ttl_s=30>"
    with pytest.raises(InvalidBrokerURL):
        Tickets("http://127.0.0.1")
    with pytest.raises(ConfigurationError, match="parameter"):
        Tickets(MemoryStore(), parameter="")


async def test_closing_leaves_a_store_open_that_was_given() -> None:
    store = MemoryStore()
    await Tickets(store).close()
    assert await store.put_once("a", b"x", ttl_s=1.0)
    own = Tickets()
    await own.close()
    with pytest.raises(SignInUnavailable):
        await own.issue(ANN)
