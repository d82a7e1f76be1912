"""Replicas with signing keys: what is forged, unsigned or repeated reaches nobody, and nothing of their own is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from antiphon import Publisher, PublishFailed, WebSocketManager
from antiphon.brokers.base import Event, Message
from antiphon.brokers.memory import MemoryBroker, MemoryListening, MemoryServer
from antiphon.codes import State
from antiphon.errors import ConfigurationError, InvalidSigningKey
from antiphon.stats import LinkStats
from antiphon.topics import CONTROL_ROUTE, replica_route
from antiphon.wire import envelope as envelopes
from antiphon.wire.envelope import Envelope
from antiphon.wire.signing import Signer
from tests.unit.browsers import Browser, settle, until

pytestmark = pytest.mark.virtual_time

OLD, NEW = "old-key-0123456789-abcdefghijklmnop", "new-key-0123456789-abcdefghijklmnop"


class Fleet:
    """Managers with a client each, on one broker in memory, with keys each; and an ear at the broker."""

    def __init__(self, *keys: str | None, accept_unsigned: bool = False) -> None:
        self.server = MemoryServer()
        self.managers = [
            WebSocketManager(
                "c",
                broker=MemoryBroker(self.server),
                signing_keys=key,
                accept_unsigned=accept_unsigned and key is not None,
            )
            for key in keys
        ]
        self.browsers = [Browser() for _ in self.managers]
        self.captured: list[tuple[str, bytes]] = []

    async def __aenter__(self) -> Fleet:
        for manager, browser in zip(self.managers, self.browsers, strict=True):
            await manager.connect(browser.websocket, "42", topics=["t"])
        await until(lambda: all(manager.state is State.UP for manager in self.managers))
        self.ear = await MemoryBroker(self.server).open_listening()
        self.ear.subscribe(["c", "c/t", CONTROL_ROUTE])
        self._listening = asyncio.create_task(self._listen(self.ear))
        await settle()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)
        await self.ear.close()
        for manager in self.managers:
            await manager.close()

    async def _listen(self, ear: MemoryListening) -> None:
        while True:
            events: Sequence[Event] = await ear.receive()
            self.captured += [(event.route, event.payload) for event in events if isinstance(event, Message)]

    async def publish_raw(self, route: str, payload: bytes) -> None:
        publishing = await MemoryBroker(self.server).open_publishing()
        await publishing.publish(route, payload)
        await publishing.close()
        await settle()

    def link(self, number: int = 0) -> LinkStats:
        link = self.managers[number].stats().link
        assert link is not None
        return link

    async def all_have(self, *messages: object) -> None:
        await until(lambda: all(browser.messages == list(messages) for browser in self.browsers))
        await settle()
        assert all(browser.messages == list(messages) for browser in self.browsers)


async def test_messages_and_counts_cross_when_all_have_the_key() -> None:
    async with Fleet(OLD, OLD) as fleet:
        assert (await fleet.managers[0].broadcast(1)).replicas == 3
        await fleet.managers[1].broadcast(2, topic="t")
        await fleet.managers[1].send_to_user("42", 3)
        await fleet.all_have(1, 2, 3)
        counts = await fleet.managers[0].cluster_counts()
        assert (counts.connections, counts.replicas) == (2, 2)
        async with Publisher(broker=MemoryBroker(fleet.server), signing_keys=[OLD]) as publisher:
            await publisher.publish("c", 4)
        await fleet.all_have(1, 2, 3, 4)
        assert fleet.captured
        assert all(b',"sig":"' in payload for _, payload in fleet.captured)


async def test_what_is_not_signed_reaches_nobody_and_is_counted() -> None:
    async with Fleet(OLD, OLD) as fleet:
        forged = Envelope("evil-1", b'{"role":"admin"}', sender=fleet.link().replica, at_ms=1)
        for payload in (b'{"type":"x"}', envelopes.encode(forged), Signer(NEW).encode("c", forged)):
            await fleet.publish_raw("c", payload)
        for kind in ("ask", "answer", "probe", "revoke"):
            control = Envelope(None, b'{"ask":"1","channel":"c","question":{"user":"42"},"about":"revoke"}', kind=kind)
            await fleet.publish_raw(CONTROL_ROUTE, envelopes.encode(control))
            await fleet.publish_raw(CONTROL_ROUTE, Signer(NEW).encode(CONTROL_ROUTE, control))
        assert dict(fleet.link(1).rejected) == {"unsigned": 6, "forged": 5}
        await fleet.managers[0].broadcast("good")
        await until(lambda: fleet.browsers[1].texts == ["good"])
        assert [manager.state for manager in fleet.managers] == [State.UP] * 2


async def test_captured_message_reaches_nobody_again_and_no_other_channel() -> None:
    async with Fleet(OLD, OLD) as fleet:
        await fleet.managers[0].broadcast("once", topic="t")
        await until(lambda: any(route == "c/t" for route, _ in fleet.captured))
        (captured,) = [payload for route, payload in fleet.captured if route == "c/t"]
        before = fleet.link(1).duplicates
        await fleet.publish_raw("c/t", captured)
        await fleet.publish_raw("c", captured)
        await fleet.publish_raw(CONTROL_ROUTE, captured)
        assert [browser.texts for browser in fleet.browsers] == [["once"]] * 2
        assert fleet.link(1).duplicates == before + 1
        assert fleet.link(1).rejected["forged"] == 2


async def test_captured_control_message_is_no_good_a_second_time() -> None:
    async with Fleet(OLD, OLD) as fleet:
        answers = replica_route(fleet.link(0).replica)
        fleet.ear.subscribe([answers])
        await fleet.managers[0].cluster_counts()
        await until(lambda: any(b'"kind":"ask"' in payload for _, payload in fleet.captured))
        (ask,) = [payload for _, payload in fleet.captured if b'"kind":"ask"' in payload]
        await until(lambda: [route for route, _ in fleet.captured].count(answers) == 2)
        await fleet.publish_raw(CONTROL_ROUTE, ask)
        await settle()
        assert [fleet.link(number).duplicates for number in range(2)] == [1, 1]
        assert [route for route, _ in fleet.captured].count(answers) == 2


async def test_unsigned_messages_are_delivered_where_that_is_allowed_and_unsigned_control_is_not() -> None:
    async with Fleet(OLD, OLD, accept_unsigned=True) as fleet:
        await fleet.publish_raw("c", b'{"type":"x"}')
        ask = Envelope(None, b'{"ask":"1","channel":"c","question":{}}', sender="evil", kind="ask")
        await fleet.publish_raw(CONTROL_ROUTE, envelopes.encode(ask))
        await fleet.all_have({"type": "x"})
        assert dict(fleet.link().rejected) == {"unsigned": 1}


async def test_unsigned_message_with_the_id_of_a_publication_under_way_is_not_taken_for_it() -> None:
    async with Fleet(OLD, OLD, accept_unsigned=True) as fleet:
        replica = fleet.link().replica
        number = int((await fleet.managers[0].broadcast("first")).id.rpartition("-")[2])
        # The ids to come can be guessed. Who takes them first must not keep the real messages away.
        for guess in range(number + 1, number + 20):
            poison = Envelope(f"{replica}-{guess}", b'"poison"', sender=replica, at_ms=1)
            await fleet.publish_raw("c", envelopes.encode(poison))
        receipt = await fleet.managers[0].broadcast("real")
        assert number < int(receipt.id.rpartition("-")[2]) < number + 20
        assert (receipt.scope, receipt.connections) == ("cluster", 1)
        await until(lambda: all("real" in browser.texts for browser in fleet.browsers))


async def test_outbox_is_sent_signed_anew_when_the_broker_is_back() -> None:
    async with Fleet(OLD, OLD) as fleet:
        fleet.server.down = True
        fleet.server.kill()
        await until(lambda: all(manager.state is State.DEGRADED for manager in fleet.managers))
        receipts = [await fleet.managers[0].broadcast(number) for number in range(5)]
        assert all(receipt.queued for receipt in receipts)
        await asyncio.sleep(30.0)
        fleet.server.down = False
        await fleet.all_have(0, 1, 2, 3, 4)
        assert fleet.link(1).rejected == {}


async def test_keys_are_changed_without_losing_a_message() -> None:
    for first, second in [(OLD, f"{OLD},{NEW}"), (f"{OLD},{NEW}", f"{NEW},{OLD}"), (f"{NEW},{OLD}", NEW)]:
        async with Fleet(first, second) as fleet:
            await fleet.managers[0].broadcast(1)
            await fleet.managers[1].broadcast(2)
            await fleet.all_have(1, 2)
            assert (await fleet.managers[0].cluster_counts()).replicas == 2


async def test_messages_cross_while_keys_are_introduced() -> None:
    async with Fleet(OLD, None, accept_unsigned=True) as fleet:
        await fleet.managers[0].broadcast(1)
        await fleet.managers[1].broadcast(2)
        await fleet.all_have(1, 2)


async def test_replica_with_another_key_hears_nothing_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    async with Fleet(OLD, NEW) as fleet:
        await fleet.managers[0].broadcast("x")
        assert (await fleet.managers[0].broadcast("y")).scope == "cluster"
        await settle()
        assert fleet.browsers[0].texts == ["x", "y"]
        assert fleet.browsers[1].texts == []
    assert "give this process and the sender's the same signing_keys" in caplog.text
    assert OLD not in caplog.text


async def test_keys_come_from_the_environment_and_managers_with_other_keys_do_not_share_a_link(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broker = MemoryBroker()
    monkeypatch.setenv("ANTIPHON_SIGNING_KEYS", OLD)
    one, same = WebSocketManager("c", broker=broker), WebSocketManager("c", broker=broker, signing_keys=[OLD])
    other = WebSocketManager("c", broker=broker, signing_keys=NEW)
    for manager in (one, same, other):
        await manager.start()
    replicas = [link.replica for manager in (one, same, other) if (link := manager.stats().link) is not None]
    assert replicas[0] == replicas[1] != replicas[2]
    for manager in (one, same, other):
        assert OLD not in repr(manager)
        await manager.close()


async def test_key_that_protects_nothing_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidSigningKey):
        WebSocketManager("c", signing_keys="secret")
    with pytest.raises(InvalidSigningKey):
        WebSocketManager("c", signing_keys=[])
    with pytest.raises(ConfigurationError, match="signing_keys"):
        WebSocketManager("c", accept_unsigned=True)
    monkeypatch.setenv("ANTIPHON_SIGNING_KEYS", "changeme")
    with pytest.raises(InvalidSigningKey):
        WebSocketManager("c")


async def test_publication_fails_as_before_when_the_broker_is_away() -> None:
    server = MemoryServer()
    server.down = True
    async with Publisher(broker=MemoryBroker(server), signing_keys=OLD) as publisher:
        with pytest.raises(PublishFailed):
            await publisher.publish("c", {"type": "x"})
