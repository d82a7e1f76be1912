"""What every `antiphon.brokers.base.Broker` has to do, as tests for whoever writes one.

    class TestMyBroker(BrokerContract):
        @pytest.fixture
        def broker(self) -> MyBroker:
            return MyBroker(...)

        async def end_connections(self, broker: Broker) -> None:
            ...  # what a crash of the server does

It needs pytest and pytest-asyncio. Each test connects anew, and uses routes that begin with `contract:`. For readable
failures call `pytest.register_assert_rewrite("antiphon.testing.broker_contract")` in the conftest.py.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import pytest

from antiphon.brokers.base import Broker, Event, Listening, Message, Pong, Publishing, Subscribed, Unsubscribed
from antiphon.errors import BrokerUnavailable

__all__ = ["BrokerContract"]

_T = TypeVar("_T")

DEADLINE_S: Final = 30.0
"""How long a test waits before it fails. Wide, because a busy machine is no fault of the broker."""


class BrokerContract:
    """The tests. Subclass it, with a fixture `broker` and the method `end_connections`."""

    big_payload_bytes = 1024 * 1024
    """Size of the payload that `test_big_payload_arrives_whole` sends."""

    async def end_connections(self, broker: Broker) -> None:
        """End every connection of `broker` from the other side. To be overridden."""
        pytest.fail("override end_connections(): it has to end the connections as a crash of the server does")

    async def test_subscribing_is_confirmed_for_each_route(self, broker: Broker) -> None:
        async with _listening(broker) as listening:
            routes = [_route("a"), _route("b"), _route("c")]
            listening.subscribe(routes)
            events = await _receive(listening, 3)
            assert events == [Subscribed(route) for route in routes]

    async def test_publication_reaches_the_listener_when_it_is_subscribed(self, broker: Broker) -> None:
        route = _route()
        async with _listening(broker, route) as listening, _publishing(broker) as publishing:
            assert await _soon(publishing.publish(route, b'{"a":1}')) == 1
            assert await _receive(listening, 1) == [Message(route, b'{"a":1}')]

    async def test_publication_reaches_nobody_when_nobody_listens(self, broker: Broker) -> None:
        async with _listening(broker, _route("other")) as listening, _publishing(broker) as publishing:
            assert await _soon(publishing.publish(_route("lonely"), b"x")) == 0
            listening.ping(b"end")
            assert await _receive(listening, 1) == [Pong(b"end")]

    async def test_publication_reaches_each_of_two_listeners(self, broker: Broker) -> None:
        route = _route()
        async with (
            _listening(broker, route) as one,
            _listening(broker, route) as two,
            _publishing(broker) as publishing,
        ):
            assert await _soon(publishing.publish(route, b"x")) == 2
            assert await _receive(one, 1) == [Message(route, b"x")]
            assert await _receive(two, 1) == [Message(route, b"x")]

    async def test_order_is_kept_when_many_are_published_in_one_turn(self, broker: Broker) -> None:
        route = _route()
        payloads = [b"%d" % number for number in range(2_000)]
        async with _listening(broker, route) as listening, _publishing(broker) as publishing:
            answers = [publishing.publish(route, payload) for payload in payloads]
            assert await _soon(asyncio.gather(*answers)) == [1] * len(payloads)
            assert await _receive(listening, len(payloads)) == [Message(route, payload) for payload in payloads]

    async def test_order_is_kept_across_routes(self, broker: Broker) -> None:
        routes = [_route("a"), _route("b")]
        async with _listening(broker, *routes) as listening, _publishing(broker) as publishing:
            for number in range(200):
                _ = publishing.publish(routes[number % 2], b"%d" % number)
            events = await _receive(listening, 200)
            assert events == [Message(routes[number % 2], b"%d" % number) for number in range(200)]

    async def test_what_is_there_is_received_at_once(self, broker: Broker) -> None:
        route = _route()
        async with _listening(broker, route) as listening, _publishing(broker) as publishing:
            for number in range(50):
                _ = publishing.publish(route, b"%d" % number)
            await _soon(publishing.ping())
            calls = received = 0
            while received < 50:
                received += len(await _soon(listening.receive()))
                calls += 1
            assert calls < 50

    async def test_empty_payload_arrives(self, broker: Broker) -> None:
        route = _route()
        async with _listening(broker, route) as listening, _publishing(broker) as publishing:
            assert await _soon(publishing.publish(route, b"")) == 1
            assert await _receive(listening, 1) == [Message(route, b"")]

    async def test_bytes_arrive_as_they_are(self, broker: Broker) -> None:
        route = _route()
        payload = bytes(range(256)) + b"\r\n$5\r\n*3\r\n+OK\r\n-ERR\r\n"
        async with _listening(broker, route) as listening, _publishing(broker) as publishing:
            await _soon(publishing.publish(route, payload))
            assert await _receive(listening, 1) == [Message(route, payload)]

    async def test_big_payload_arrives_whole(self, broker: Broker) -> None:
        route = _route()
        payload = bytes(range(256)) * (self.big_payload_bytes // 256)
        async with _listening(broker, route) as listening, _publishing(broker) as publishing:
            assert await _soon(publishing.publish(route, payload)) == 1
            await _soon(publishing.publish(route, b"next"))
            (first, second) = await _receive(listening, 2)
            assert isinstance(first, Message)
            assert first.payload == payload
            assert second == Message(route, b"next")

    async def test_many_routes_are_heard(self, broker: Broker) -> None:
        routes = [_route(str(number)) for number in range(500)]
        async with _listening(broker) as listening, _publishing(broker) as publishing:
            listening.subscribe(routes)
            assert set(await _receive(listening, 500)) == {Subscribed(route) for route in routes}
            for route in routes:
                _ = publishing.publish(route, route.encode())
            assert await _receive(listening, 500) == [Message(route, route.encode()) for route in routes]

    async def test_route_beyond_ascii_is_heard(self, broker: Broker) -> None:
        route = _route("zażółć")
        async with _listening(broker, route) as listening, _publishing(broker) as publishing:
            assert await _soon(publishing.publish(route, b"x")) == 1
            assert await _receive(listening, 1) == [Message(route, b"x")]

    async def test_nothing_is_heard_after_unsubscribing(self, broker: Broker) -> None:
        kept, left = _route("kept"), _route("left")
        async with _listening(broker, kept, left) as listening, _publishing(broker) as publishing:
            listening.unsubscribe([left])
            assert await _receive(listening, 1) == [Unsubscribed(left)]
            assert await _soon(publishing.publish(left, b"x")) == 0
            assert await _soon(publishing.publish(kept, b"y")) == 1
            assert await _receive(listening, 1) == [Message(kept, b"y")]

    async def test_subscribing_again_is_heard_after_unsubscribing_from_all(self, broker: Broker) -> None:
        route = _route()
        async with _listening(broker, route) as listening, _publishing(broker) as publishing:
            listening.unsubscribe([route])
            listening.ping(b"between")
            listening.subscribe([route])
            assert await _receive(listening, 3) == [Unsubscribed(route), Pong(b"between"), Subscribed(route)]
            assert await _soon(publishing.publish(route, b"x")) == 1

    async def test_no_routes_ask_for_nothing(self, broker: Broker) -> None:
        route = _route()
        async with _listening(broker, route) as listening, _publishing(broker) as publishing:
            listening.subscribe([])
            listening.unsubscribe([])
            assert await _soon(publishing.publish(route, b"x")) == 1
            assert await _receive(listening, 1) == [Message(route, b"x")]

    async def test_ping_is_answered_before_and_after_subscribing(self, broker: Broker) -> None:
        async with _listening(broker) as listening:
            listening.ping(b"before")
            assert await _receive(listening, 1) == [Pong(b"before")]
            listening.subscribe([_route()])
            listening.ping(b"after")
            events = await _receive(listening, 2)
            assert events[1] == Pong(b"after")

    async def test_pong_comes_behind_what_was_published_before(self, broker: Broker) -> None:
        route = _route()
        async with _listening(broker, route) as listening, _publishing(broker) as publishing:
            await _soon(publishing.publish(route, b"x"))
            listening.ping(b"behind")
            assert await _receive(listening, 2) == [Message(route, b"x"), Pong(b"behind")]

    async def test_ping_of_the_publishing_end_comes_behind_the_publications(self, broker: Broker) -> None:
        async with _publishing(broker) as publishing:
            answers = [asyncio.ensure_future(publishing.publish(_route(), b"x")) for _ in range(20)]
            await _soon(publishing.ping())
            assert all(answer.done() for answer in answers)

    async def test_cancelling_a_publication_takes_nothing_back(self, broker: Broker) -> None:
        route = _route()
        async with _listening(broker, route) as listening, _publishing(broker) as publishing:
            asyncio.ensure_future(publishing.publish(route, b"1")).cancel()
            assert await _soon(publishing.publish(route, b"2")) == 1
            assert await _receive(listening, 2) == [Message(route, b"1"), Message(route, b"2")]

    async def test_cancelling_receive_loses_nothing(self, broker: Broker) -> None:
        route = _route()
        async with _listening(broker, route) as listening, _publishing(broker) as publishing:
            receiving = asyncio.ensure_future(listening.receive())
            await asyncio.sleep(0)
            receiving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await receiving
            await _soon(publishing.publish(route, b"x"))
            assert await _receive(listening, 1) == [Message(route, b"x")]

    async def test_close_ends_receive(self, broker: Broker) -> None:
        listening = await _soon(broker.open_listening())
        receiving = asyncio.ensure_future(listening.receive())
        await asyncio.sleep(0)
        await _soon(listening.close())
        with pytest.raises(BrokerUnavailable):
            await _soon(receiving)
        with pytest.raises(BrokerUnavailable):
            await _soon(listening.receive())

    async def test_close_ends_what_has_no_answer(self, broker: Broker) -> None:
        publishing = await _soon(broker.open_publishing())
        answer = publishing.publish(_route(), b"x")
        await _soon(publishing.close())
        with pytest.raises(BrokerUnavailable):
            await _soon(answer)
        assert publishing.lost

    async def test_closing_twice_is_closing_once(self, broker: Broker) -> None:
        listening = await _soon(broker.open_listening())
        publishing = await _soon(broker.open_publishing())
        for _ in range(2):
            await _soon(listening.close())
            await _soon(publishing.close())
        assert publishing.lost

    async def test_calls_neither_raise_nor_block_after_close(self, broker: Broker) -> None:
        listening = await _soon(broker.open_listening())
        publishing = await _soon(broker.open_publishing())
        await _soon(listening.close())
        await _soon(publishing.close())
        listening.subscribe([_route()])
        listening.unsubscribe([_route()])
        listening.ping(b"x")
        with pytest.raises(BrokerUnavailable):
            await _soon(publishing.publish(_route(), b"x"))
        with pytest.raises(BrokerUnavailable):
            await _soon(publishing.ping())

    async def test_loss_ends_receive_and_comes_after_what_was_heard(self, broker: Broker) -> None:
        route = _route()
        async with _listening(broker, route) as listening, _publishing(broker) as publishing:
            assert await _soon(publishing.publish(route, b"last")) == 1
            assert await _receive(listening, 1) == [Message(route, b"last")]
            await self.end_connections(broker)
            with pytest.raises(BrokerUnavailable):
                await _receive(listening, 1)
            with pytest.raises(BrokerUnavailable):
                await _soon(listening.receive())

    async def test_loss_ends_publishing(self, broker: Broker) -> None:
        async with _publishing(broker) as publishing:
            await _soon(publishing.ping())
            assert not publishing.lost
            await self.end_connections(broker)
            await _until(lambda: publishing.lost)
            with pytest.raises(BrokerUnavailable):
                await _soon(publishing.publish(_route(), b"x"))

    async def test_every_publication_ends_when_the_connection_is_lost(self, broker: Broker) -> None:
        async with _publishing(broker) as publishing:
            await _soon(publishing.ping())
            answers = [publishing.publish(_route(), b"x" * 1_000) for _ in range(500)]
            await self.end_connections(broker)
            results = await _soon(asyncio.gather(*answers, return_exceptions=True))
            assert all(isinstance(result, int | BrokerUnavailable) for result in results)

    async def test_new_connections_work_after_a_loss(self, broker: Broker) -> None:
        async with _listening(broker, _route("old")):
            await self.end_connections(broker)
        route = _route("new")
        async with _listening(broker, route) as listening, _publishing(broker) as publishing:
            assert await _soon(publishing.publish(route, b"x")) == 1
            assert await _receive(listening, 1) == [Message(route, b"x")]

    async def test_address_is_a_text_without_password(self, broker: Broker) -> None:
        assert isinstance(broker, Broker)
        assert broker.address
        assert "@" not in broker.address


def _route(name: str = "x") -> str:
    """A route that nobody else uses."""
    return f"contract:{uuid.uuid4().hex[:12]}:{name}"


async def _soon(waiting: Awaitable[_T]) -> _T:
    async with asyncio.timeout(DEADLINE_S):
        return await waiting


async def _receive(listening: Listening, count: int) -> list[Event]:
    """The next `count` events; more than that, in the same batch, fail the test that compares them."""
    events: list[Event] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(events) < count:
            batch: Sequence[Event] = await listening.receive()
            assert batch, "receive() returned nothing: it has to wait"
            events += batch
    return events


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  # a property has no event to wait for
            await asyncio.sleep(0.005)


@asynccontextmanager
async def _listening(broker: Broker, *routes: str) -> AsyncIterator[Listening]:
    """A listening connection that is subscribed to `routes`."""
    listening = await _soon(broker.open_listening())
    try:
        if routes:
            listening.subscribe(routes)
            assert await _receive(listening, len(routes)) == [Subscribed(route) for route in routes]
        yield listening
    finally:
        await _soon(listening.close())


@asynccontextmanager
async def _publishing(broker: Broker) -> AsyncIterator[Publishing]:
    publishing = await _soon(broker.open_publishing())
    try:
        yield publishing
    finally:
        await _soon(publishing.close())
