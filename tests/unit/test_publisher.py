"""Publishing from processes that hold no sockets: asynchronous and blocking, against real servers and scripted ones."""

from __future__ import annotations

import asyncio
import gc
import json
import multiprocessing
import socket
import threading
import time
import traceback
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from antiphon.brokers.memory import MemoryBroker
from antiphon.codes import Reason, State
from antiphon.dev.broker_server import BrokerServer
from antiphon.errors import (
    AntiphonError,
    BrokerRefused,
    BrokerUnavailable,
    ConfigurationError,
    InvalidChannelName,
    InvalidTopicName,
    InvalidUserId,
    ManagerClosed,
    MessageNotSerializable,
    MessageTooLarge,
    PublishFailed,
    WrongEventLoop,
)
from antiphon.limits import Limits
from antiphon.manager import WebSocketManager
from antiphon.publisher import Published, Publisher, SyncPublisher
from antiphon.testing.scripted_broker import Fail, Hang, ScriptedBroker
from tests.unit import browsers
from tests.unit.browsers import Browser, Fleet, settle, until

Publish = Callable[..., Awaitable[Published]]


class Listening:
    """Two replicas of a channel at a real server, with a client each."""

    def __init__(self, url: str) -> None:
        self.managers = [WebSocketManager("c", url=f"{url}?client_name=replica{number}") for number in range(2)]
        self.browsers = [Browser(), Browser()]

    async def start(self) -> None:
        for manager, browser in zip(self.managers, self.browsers, strict=True):
            await manager.connect(browser.websocket, "42", topics=["t"])
            await until(lambda manager=manager: manager.state is State.UP)  # type: ignore[misc]  # bound now

    async def close(self) -> None:
        for manager in self.managers:
            await manager.close()

    async def have(self, *texts: str) -> None:
        await until(lambda: all(len(browser.texts) >= len(texts) for browser in self.browsers))
        # What would come twice is behind it: this one comes last.
        await self.managers[0].broadcast("end")
        await until(lambda: all("end" in browser.texts for browser in self.browsers))
        for browser in self.browsers:
            assert browser.texts == [*texts, "end"]


@pytest.fixture
async def listening(server: BrokerServer) -> AsyncIterator[Listening]:
    listening = Listening(server.url)
    await listening.start()
    yield listening
    await listening.close()


@pytest.fixture(params=["async", "sync"])
async def publish(request: pytest.FixtureRequest, server: BrokerServer) -> AsyncIterator[Publish]:
    """One publisher of either kind, to be awaited."""
    url = f"{server.url}?client_name=publisher"
    if request.param == "async":
        async with Publisher(url) as publisher:
            yield publisher.publish
        return

    with SyncPublisher(url) as blocking:

        async def publish(*arguments: object, **options: object) -> Published:
            return await asyncio.to_thread(blocking.publish, *arguments, **options)  # type: ignore[arg-type]  # passed on

        yield publish


def kill_connections(server: BrokerServer, name: str) -> int:
    """End all connections of this name at the server."""
    with redis.Redis.from_url(server.url) as client:
        ids = [entry["id"] for entry in client.client_list() if entry["name"] == name]
        for id in ids:
            client.client_kill_filter(_id=id)
    return len(ids)


def count_connections(server: BrokerServer, name: str) -> int:
    with redis.Redis.from_url(server.url) as client:
        return sum(entry["name"] == name for entry in client.client_list())


# -- what arrives -----------------------------------------------------------------------------------------------------


async def test_a_message_reaches_every_client_once_and_in_order(listening: Listening, publish: Publish) -> None:
    results = [await publish("c", {"n": number}) for number in range(5)]
    results.append(await publish("c", "a text"))

    await listening.have(*[f'{{"n":{number}}}' for number in range(5)], "a text")
    assert [result.replicas for result in results] == [2] * 6
    assert len({result.id for result in results}) == 6


async def test_a_message_reaches_its_topic_and_users_alone(listening: Listening, publish: Publish) -> None:
    await publish("c", "1", topic="t")
    await publish("c", "2", target_user_ids={"42"})
    await publish("c", "3", target_user_ids=["7"])
    nobody = await publish("c", "4", topic="u")
    await publish("c", "5", expires_s=60)
    await publish("c", "6", slow="newest_per_key", key="k")
    with pytest.raises(ConfigurationError, match="key"):
        await publish("c", "7", slow="newest_per_key")

    await listening.have("1", "2", "5", "6")
    assert nobody.replicas == 0


@pytest.mark.parametrize("role", ["async", "sync"])
async def test_one_copy_arrives_when_the_publishers_connection_was_killed(
    listening: Listening, server: BrokerServer, role: str
) -> None:
    url = f"{server.url}?client_name=victim"
    publisher, blocking = Publisher(url), SyncPublisher(url)
    for number in range(5):
        if role == "async":
            await publisher.publish("c", str(number))
        else:
            blocking.publish("c", str(number))
        assert kill_connections(server, "victim") == 1
    await publisher.close()
    blocking.close()

    await listening.have("0", "1", "2", "3", "4")
    await until(lambda: count_connections(server, "victim") == 0)


async def test_publications_of_one_turn_keep_their_order(listening: Listening, server: BrokerServer) -> None:
    async with Publisher(server.url) as publisher:
        await asyncio.gather(*[publisher.publish("c", str(number)) for number in range(200)])

    await listening.have(*map(str, range(200)))


async def test_threads_may_share_a_blocking_publisher(listening: Listening, server: BrokerServer) -> None:
    with SyncPublisher(f"{server.url}?client_name=threads") as publisher, ThreadPoolExecutor(8) as threads:
        loop = asyncio.get_running_loop()
        publishing = [loop.run_in_executor(threads, publisher.publish, "c", str(number)) for number in range(100)]
        results = await asyncio.gather(*publishing)
        assert count_connections(server, "threads") == 1

    assert len({result.id for result in results}) == 100
    await until(lambda: all(len(browser.texts) == 100 for browser in listening.browsers))
    assert sorted(listening.browsers[0].texts, key=int) == [str(number) for number in range(100)]
    assert listening.browsers[0].texts == listening.browsers[1].texts


# -- processes and loops ----------------------------------------------------------------------------------------------


def _publish_in_child(publisher: SyncPublisher, texts: list[str], ids: multiprocessing.SimpleQueue[str]) -> None:
    for text in texts:
        ids.put(publisher.publish("c", text).id)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_a_forked_process_publishes_over_a_connection_and_under_a_name_of_its_own(
    listening: Listening, server: BrokerServer
) -> None:
    context = multiprocessing.get_context("fork")
    ids: multiprocessing.SimpleQueue[str] = context.SimpleQueue()
    with SyncPublisher(server.url) as publisher:
        first = publisher.publish("c", "parent 1")
        child = context.Process(target=_publish_in_child, args=(publisher, ["child 1", "child 2"], ids))
        child.start()
        await asyncio.to_thread(child.join, 60)
        assert child.exitcode == 0
        last = publisher.publish("c", "parent 2")
    senders = [id.rsplit("-", 1)[0] for id in (first.id, last.id, ids.get(), ids.get())]

    assert senders[0] == senders[1] != senders[2] == senders[3]
    await listening.have("parent 1", "child 1", "child 2", "parent 2")


def _publish_in_forked_loop(publisher: Publisher, text: str, ids: multiprocessing.SimpleQueue[str]) -> None:
    ids.put(asyncio.run(publisher.publish("c", text)).id)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_may_use_an_asynchronous_publisher_of_its_parent(server: BrokerServer) -> None:
    with redis.Redis.from_url(server.url) as client, client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe("c")
        pubsub.get_message(timeout=30)
        context = multiprocessing.get_context("fork")
        ids: multiprocessing.SimpleQueue[str] = context.SimpleQueue()
        publisher = Publisher(server.url)
        first = asyncio.run(publisher.publish("c", "parent 1"))
        child = context.Process(target=_publish_in_forked_loop, args=(publisher, "child", ids))
        child.start()
        child.join(60)
        assert child.exitcode == 0
        last = asyncio.run(publisher.publish("c", "parent 2"))
        got = [pubsub.get_message(timeout=30) for _ in range(3)]

    assert [json.loads(message["data"])["message"] for message in got if message] == ["parent 1", "child", "parent 2"]
    senders = [id.rsplit("-", 1)[0] for id in (first.id, last.id, ids.get())]
    assert senders[0] == senders[1] != senders[2]


def test_a_publisher_serves_one_loop_after_another_and_leaves_nothing_open(server: BrokerServer) -> None:
    publisher = Publisher(f"{server.url}?client_name=loops")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            published = asyncio.run(publisher.publish("nobody", "x"))
            assert published.replicas == 0
            gc.collect()
            _wait_for(lambda: count_connections(server, "loops") == 0)
        asyncio.run(publisher.close())
    with pytest.raises(ManagerClosed):
        asyncio.run(publisher.publish("c", "x"))


async def test_another_loop_is_refused_when_the_first_one_still_runs() -> None:
    publisher = Publisher(broker=ScriptedBroker())
    await publisher.publish("c", "x")
    errors: list[AntiphonError] = []

    def elsewhere() -> None:
        try:
            asyncio.run(publisher.publish("c", "x"))
        except AntiphonError as error:
            errors.append(error)

    await asyncio.to_thread(elsewhere)
    await publisher.publish("c", "x")
    await publisher.close()

    assert [type(error) for error in errors] == [WrongEventLoop]


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


# -- a broker that is away --------------------------------------------------------------------------------------------


@pytest.fixture
def closed_port() -> Iterator[int]:
    with browsers.closed_port() as port:
        yield port


async def test_a_broker_that_is_away_is_reported_at_once(closed_port: int) -> None:
    url = f"redis://127.0.0.1:{closed_port}"
    async with Publisher(url) as publisher:
        with pytest.raises(PublishFailed) as failed:
            await publisher.publish("c", "x")
    with SyncPublisher(url) as blocking, pytest.raises(PublishFailed) as failed_too:
        blocking.publish("c", "x")

    for error in (failed.value, failed_too.value):
        assert (error.reason, error.channel, error.outcome_unknown) == (Reason.UNREACHABLE, "c", False)
        assert f"127.0.0.1:{closed_port}" in str(error.__cause__)


async def test_a_wrong_password_is_reported_and_not_repeated(start_own_server: Callable[..., BrokerServer]) -> None:
    server = start_own_server("redis", "--requirepass", "right")
    url = server.url.replace("right", "wr0ng-Canary")
    async with Publisher(url) as publisher:
        with pytest.raises(PublishFailed) as failed:
            await publisher.publish("c", "x")
    with SyncPublisher(url) as blocking, pytest.raises(PublishFailed) as failed_too:
        blocking.publish("c", "x")

    for error in (failed.value, failed_too.value):
        assert (error.reason, error.outcome_unknown) == (Reason.AUTHENTICATION, False)
        assert "wr0ng-Canary" not in "".join(traceback.format_exception(error))


async def test_a_publisher_goes_on_when_the_broker_is_back(own_server: BrokerServer) -> None:
    async with Publisher(own_server.url) as publisher:
        with SyncPublisher(own_server.url) as blocking:
            await publisher.publish("c", "x")
            blocking.publish("c", "x")
            own_server.kill()
            for _ in range(2):
                with pytest.raises(PublishFailed):
                    await publisher.publish("c", "x")
                with pytest.raises(PublishFailed):
                    blocking.publish("c", "x")
            own_server.restart()

            assert (await publisher.publish("c", "x")).replicas == 0
            assert blocking.publish("c", "x").replicas == 0


async def test_the_outcome_is_unknown_when_the_broker_is_frozen(start_own_server: Callable[..., BrokerServer]) -> None:
    server = start_own_server("valkey")
    async with Publisher(server.url) as publisher:
        with SyncPublisher(server.url, timeout_s=1.0) as blocking:
            await publisher.publish("c", "x")
            blocking.publish("c", "x")
            server.freeze()
            try:
                start = time.monotonic()
                async_failure, sync_failure = await asyncio.gather(
                    publisher.publish("c", "x"), asyncio.to_thread(blocking.publish, "c", "x"), return_exceptions=True
                )
                took_s = time.monotonic() - start
            finally:
                server.thaw()

            for failure in (async_failure, sync_failure):
                assert isinstance(failure, PublishFailed)
                assert (failure.reason, failure.outcome_unknown) == (Reason.TIMEOUT, True)
            assert took_s < 15
            await publisher.publish("c", "x")
            blocking.publish("c", "x")


def test_the_outcome_is_known_when_a_new_connection_gets_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        with SyncPublisher(url, timeout_s=0.1) as blocking, pytest.raises(PublishFailed) as failed:
            blocking.publish("c", "x")

    assert (failed.value.reason, failed.value.outcome_unknown) == (Reason.TIMEOUT, False)


def test_a_thread_gives_up_when_others_hold_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with SyncPublisher(f"redis://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.3) as blocking:
            failures: list[PublishFailed] = []

            def publish() -> None:
                try:
                    blocking.publish("c", "x")
                except PublishFailed as failure:
                    failures.append(failure)

            threads = [threading.Thread(target=publish) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)

    assert len(failures) == 8
    assert {failure.reason for failure in failures} <= {Reason.TIMEOUT, Reason.BUSY}
    assert not any(failure.outcome_unknown for failure in failures)


# -- scripted, in virtual time ----------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_waiting_callers_do_not_add_up_when_the_broker_hangs() -> None:
    broker = ScriptedBroker(*[Hang()] * 20)
    async with Publisher(broker=broker) as publisher:
        loop = asyncio.get_running_loop()
        failures = await asyncio.gather(*[publisher.publish("c", n) for n in range(10)], return_exceptions=True)

    assert {type(failure) for failure in failures} == {PublishFailed}
    assert loop.time() <= 4


@pytest.mark.virtual_time
async def test_a_publication_is_sent_again_under_the_same_id_when_its_connection_is_lost() -> None:
    broker = ScriptedBroker()
    async with Publisher(broker=broker) as publisher:
        await publisher.publish("c", "before")
        first = await broker.publishing()
        first.answers = None
        publishing = asyncio.create_task(publisher.publish("c", "x"))
        publishing_too = asyncio.create_task(publisher.publish("c", "y"))
        await until(lambda: len(first.unanswered) == 2)
        first.lose()
        second = await broker.publishing()
        published = [await publishing, await publishing_too]

    assert second.payloads == first.payloads[1:]
    assert [result.replicas for result in published] == [1, 1]
    assert second.closed


@pytest.mark.virtual_time
async def test_the_outcome_is_unknown_when_the_second_connection_fails_too() -> None:
    broker = ScriptedBroker()
    async with Publisher(broker=broker) as publisher:
        await publisher.publish("c", "before")
        first = await broker.publishing()
        first.answers = None
        publishing = asyncio.create_task(publisher.publish("c", "x"))
        await until(lambda: bool(first.unanswered))
        broker.next_dials(Fail(BrokerUnavailable("gone")))
        first.lose()
        with pytest.raises(PublishFailed) as failed:
            await publishing

    assert (failed.value.reason, failed.value.outcome_unknown) == (Reason.UNREACHABLE, True)


@pytest.mark.virtual_time
async def test_the_outcome_is_unknown_when_the_second_attempt_is_refused() -> None:
    broker = ScriptedBroker()
    async with Publisher(broker=broker) as publisher:
        await publisher.publish("c", "before")
        first = await broker.publishing()
        first.answers = None
        publishing = asyncio.create_task(publisher.publish("c", "x"))
        await until(lambda: bool(first.unanswered))
        broker.next_dials(Fail(BrokerRefused("loading", reason=Reason.LOADING)))
        first.lose()
        with pytest.raises(PublishFailed) as failed:
            await publishing

    assert (failed.value.reason, failed.value.outcome_unknown) == (Reason.LOADING, True)


@pytest.mark.virtual_time
@pytest.mark.parametrize("reason", [Reason.PERMISSION, Reason.OUT_OF_MEMORY, Reason.REFUSED])
async def test_a_refusal_is_reported_with_its_reason_and_the_connection_kept(reason: Reason) -> None:
    broker = ScriptedBroker()
    async with Publisher(broker=broker) as publisher:
        await publisher.publish("c", "x")
        publishing = await broker.publishing()
        publishing.answers = None
        refused = asyncio.create_task(publisher.publish("c", "y"))
        await until(lambda: bool(publishing.unanswered))
        publishing.unanswered[0].refuse(reason)
        with pytest.raises(PublishFailed) as failed:
            await refused
        publishing.answers = 3
        assert (await publisher.publish("c", "z")).replicas == 3

    assert (failed.value.reason, failed.value.outcome_unknown) == (reason, False)
    assert broker.dials == 1


@pytest.mark.virtual_time
async def test_a_late_failure_leaves_the_new_connection_alone() -> None:
    broker = ScriptedBroker()
    async with Publisher(broker=broker) as publisher:
        await publisher.publish("c", "0")
        first = await broker.publishing()
        first.answers = None
        late = asyncio.create_task(publisher.publish("c", "late"))
        await until(lambda: bool(first.unanswered))
        await asyncio.sleep(1.5)
        later = asyncio.create_task(publisher.publish("c", "later"))
        with pytest.raises(PublishFailed):
            await late
        second = await broker.publishing()
        assert (await later).replicas == 1
        await asyncio.sleep(10)

        assert (first.closed, second.closed, broker.dials) == (True, False, 2)


@pytest.mark.virtual_time
async def test_nothing_is_lost_when_the_caller_is_cancelled_after_sending() -> None:
    async with Fleet(1) as fleet:
        browser = await fleet.join()
        async with Publisher(broker=MemoryBroker(fleet.server)) as publisher:
            await publisher.publish("c", "1")
            caller = asyncio.create_task(publisher.publish("c", "2"))
            await asyncio.sleep(0)
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
            await publisher.publish("c", "3")

        await fleet.everybody(browser, have=["1", "2", "3"])


# -- what is refused --------------------------------------------------------------------------------------------------


async def refusals(publish: Callable[..., object]) -> list[type[AntiphonError]]:
    errors: list[type[AntiphonError]] = []
    calls: list[tuple[tuple[str, object], dict[str, object]]] = [
        (("antiphon:control", "x"), {}),
        (("a b", "x"), {}),
        (("c", {1, 2}), {}),
        (("c", "x" * 300_000), {}),
        (("c", "x"), {"topic": "a/b"}),
        (("c", "x"), {"target_user_ids": [42]}),
        (("c", "x"), {"target_user_ids": "42"}),
        (("c", "x"), {"expires_s": 0}),
    ]
    for arguments, options in calls:
        try:
            result = publish(*arguments, **options)
            if isinstance(result, Awaitable):
                await result
        except AntiphonError as error:
            errors.append(type(error))
    return errors


async def test_a_publication_that_cannot_be_is_refused_before_anything_is_dialled(closed_port: int) -> None:
    url = f"redis://127.0.0.1:{closed_port}"
    with SyncPublisher(url) as blocking:
        expected = [
            InvalidChannelName,
            InvalidChannelName,
            MessageNotSerializable,
            MessageTooLarge,
            InvalidTopicName,
            InvalidUserId,
            ConfigurationError,
            ConfigurationError,
        ]
        assert await refusals(Publisher(url).publish) == await refusals(blocking.publish) == expected


async def test_the_limit_of_a_message_can_be_set(closed_port: int) -> None:
    limits = Limits(message_bytes=10)
    with pytest.raises(MessageTooLarge):
        await Publisher(f"redis://127.0.0.1:{closed_port}", limits=limits).publish("c", "x" * 9)
    with pytest.raises(MessageTooLarge):
        SyncPublisher(f"redis://127.0.0.1:{closed_port}", limits=limits).publish("c", "x" * 9)


@pytest.mark.parametrize("kind", [Publisher, SyncPublisher])
@pytest.mark.parametrize("switch", ["true", "false"])
def test_a_publisher_needs_an_address(
    kind: type[Publisher | SyncPublisher], switch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REDIS_URL", "ANTIPHON_BROKER_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("USE_REDIS_WEBSOCKET", switch)
    with pytest.raises(ConfigurationError, match="ANTIPHON_BROKER_URL or REDIS_URL"):
        kind("redis://localhost" if switch == "false" else None)


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan")])
def test_a_blocking_publisher_refuses_a_time_that_is_none(timeout_s: float) -> None:
    with pytest.raises(ConfigurationError, match="timeout_s"):
        SyncPublisher("redis://localhost", timeout_s=timeout_s)


async def test_the_address_comes_from_the_environment(server: BrokerServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTIPHON_BROKER_URL", raising=False)
    monkeypatch.setenv("REDIS_URL", server.url)
    async with Publisher() as publisher:
        assert (await publisher.publish("nobody", "x")).replicas == 0
    with SyncPublisher() as blocking:
        assert blocking.publish("nobody", "x").replicas == 0


# -- the end ----------------------------------------------------------------------------------------------------------


async def test_a_closed_publisher_says_so_and_leaves_no_connection(server: BrokerServer) -> None:
    url = f"{server.url}?client_name=closing"
    publisher, blocking = Publisher(url), SyncPublisher(url)
    await publisher.publish("c", "x")
    blocking.publish("c", "x")
    assert count_connections(server, "closing") == 2
    for _ in range(2):
        await publisher.close()
        blocking.close()

    with pytest.raises(ManagerClosed, match="construct a new one"):
        await publisher.publish("c", "x")
    with pytest.raises(ManagerClosed, match="construct a new one"):
        blocking.publish("c", "x")
    await until(lambda: count_connections(server, "closing") == 0)


async def test_closing_is_enough_when_a_publisher_was_never_used(closed_port: int) -> None:
    publisher = Publisher(f"redis://127.0.0.1:{closed_port}")
    blocking = SyncPublisher(f"redis://127.0.0.1:{closed_port}")
    await publisher.close()
    blocking.close()
    await settle()

    with pytest.raises(ManagerClosed):
        await publisher.publish("c", "x")
