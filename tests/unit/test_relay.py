"""The relay and its link, over a broker that fails on demand, in virtual time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

import pytest

from antiphon.brokers.memory import MemoryBroker, MemoryPublishing, MemoryServer
from antiphon.codes import Reason, State
from antiphon.errors import BrokerRefused, BrokerUnavailable, PublishFailed
from antiphon.ledger import Outcome
from antiphon.outbox import OutboxLimits
from antiphon.publication import Publication, new_publication
from antiphon.relay import Relay
from antiphon.testing import virtual_time
from antiphon.topics import CONTROL_ROUTE
from antiphon.wire.envelope import Envelope


class Replica:
    """A relay with one listener on channel `c`."""

    def __init__(self, server: MemoryServer, outbox_limits: OutboxLimits | None = None) -> None:
        self.relay = Relay(MemoryBroker(server), outbox_limits=outbox_limits)
        self.texts: list[str] = []
        self.states: list[State] = []
        self.relay.watch(self.states.append)
        self.relay.start()
        self.relay.listen("c", None, self.listener)

    def listener(self, publication: Publication) -> int:
        self.texts.append(publication.frame.text)
        return 1

    def publish(self, text: str, *, fail: bool = False, keep: bool = True) -> asyncio.Future[Outcome]:
        publication = new_publication(text, sender=self.relay.replica, channel="c", limit_bytes=1_000)
        return self.relay.publish(publication, fail=fail, keep=keep)


class Cluster:
    def __init__(self, size: int, outbox_limits: OutboxLimits | None = None) -> None:
        self.server = MemoryServer()
        self.replicas = [Replica(self.server, outbox_limits) for _ in range(size)]

    async def up(self) -> None:
        await until(lambda: all(replica.relay.state is State.UP for replica in self.replicas))
        for replica in self.replicas:
            assert await replica.relay.heard("c")

    async def close(self) -> None:
        for replica in self.replicas:
            await replica.relay.close()


async def until(condition: Callable[[], bool], *, within_s: float = 30.0) -> float:
    """Wait, in virtual time; returns the seconds that it took."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    while not condition():
        assert loop.time() - start < within_s, "it did not happen"
        await asyncio.sleep(0.01)
    return loop.time() - start


def in_virtual_time(size: int = 2, outbox_limits: OutboxLimits | None = None) -> Callable[..., Callable[[], None]]:
    """Run a test over a cluster that is up, and close it afterwards."""

    def decorate(test: Callable[[Cluster], Awaitable[None]]) -> Callable[[], None]:
        async def main() -> None:
            cluster = Cluster(size, outbox_limits)
            await cluster.up()
            try:
                await asyncio.wait_for(test(cluster), 3_600)
            finally:
                await cluster.close()
            assert cluster.server.connections == 0
            assert len(asyncio.all_tasks()) == 1

        # Not `wraps`: pytest would take the parameter for a fixture.
        def run() -> None:
            virtual_time.run(main())

        run.__name__, run.__doc__ = test.__name__, test.__doc__
        return run

    return decorate


@in_virtual_time(3)
async def test_every_replica_hears_every_publication_once_and_in_order(cluster: Cluster) -> None:
    a, b, c = cluster.replicas
    outcomes = [await replica.publish(str(n)) for n, replica in enumerate([a, b, c, a])]

    assert {(outcome.confirmed, outcome.replicas, outcome.connections) for outcome in outcomes} == {(True, 3, 1)}
    assert [replica.texts for replica in cluster.replicas] == [["0", "1", "2", "3"]] * 3


@in_virtual_time(3)
async def test_replicas_learn_how_many_they_are(cluster: Cluster) -> None:
    await until(lambda: all(replica.relay.replicas == 3 for replica in cluster.replicas))


@in_virtual_time(3)
async def test_replicas_know_how_many_they_are_soon_after_an_outage(cluster: Cluster) -> None:
    relays = [replica.relay for replica in cluster.replicas]
    await until(lambda: all(relay.replicas == 3 for relay in relays))
    for _ in range(5):
        cluster.server.down = True
        cluster.server.kill()
        await until(lambda: all(relay.state is State.DEGRADED for relay in relays))
        cluster.server.down = False
        await until(lambda: all(relay.state is State.UP for relay in relays))
        assert await until(lambda: all(relay.replicas == 3 for relay in relays)) < 1.5
        assert all(relay._expected_replicas == 3 for relay in relays)


@in_virtual_time(3)
async def test_a_replica_whose_link_alone_was_lost_and_the_others_count_all_again(cluster: Cluster) -> None:
    relays = [replica.relay for replica in cluster.replicas]
    await until(lambda: all(relay.replicas == 3 for relay in relays))
    link = relays[0]._link
    assert link is not None
    link.lose(BrokerUnavailable("this one alone", reason=Reason.CONNECTION_LOST))
    await until(lambda: relays[0].state is State.DEGRADED)
    await until(lambda: relays[0].state is State.UP)
    assert await until(lambda: all(relay.replicas == 3 for relay in relays)) < 1.5


@in_virtual_time()
async def test_publications_of_one_turn_keep_their_order(cluster: Cluster) -> None:
    a, b = cluster.replicas
    await asyncio.gather(*[a.publish(str(n)) for n in range(100)])

    assert a.texts == b.texts == [str(n) for n in range(100)]


@in_virtual_time()
async def test_a_killed_broker_is_seen_at_once_and_delivery_goes_on_here(cluster: Cluster) -> None:
    a, b = cluster.replicas
    cluster.server.down = True
    cluster.server.kill()
    assert await until(lambda: a.relay.state is State.DEGRADED) < 0.2

    outcome = await a.publish("x")

    assert (outcome.confirmed, outcome.queued, outcome.connections) == (False, True, 1)
    assert (a.texts, b.texts) == (["x"], [])


@in_virtual_time()
async def test_the_outbox_arrives_once_when_the_broker_is_back(cluster: Cluster) -> None:
    a, b = cluster.replicas
    cluster.server.down = True
    cluster.server.kill()
    await until(lambda: a.relay.state is b.relay.state is State.DEGRADED)
    for number in range(250):
        await a.publish(str(number))
    await asyncio.sleep(5)
    cluster.server.down = False

    assert await until(lambda: a.relay.state is b.relay.state is State.UP) < 2.5
    await a.publish("after")
    await until(lambda: len(b.texts) == 251)

    assert a.texts == b.texts == [*map(str, range(250)), "after"]
    assert (a.relay.counters.queued, a.relay.counters.flushed) == (250, 250)


@in_virtual_time()
async def test_publications_during_the_flush_come_after_it(cluster: Cluster) -> None:
    a, b = cluster.replicas
    cluster.server.down = True
    cluster.server.kill()
    await until(lambda: a.relay.state is b.relay.state is State.DEGRADED)
    await a.publish("old")
    cluster.server.down = False
    sent = 0
    while a.relay.state is not State.UP:
        await a.publish(f"new {sent}")
        sent += 1
        await asyncio.sleep(0.01)
    await until(lambda: len(b.texts) == sent + 1)

    assert a.texts == b.texts == ["old", *[f"new {number}" for number in range(sent)]]


@in_virtual_time()
async def test_a_freeze_shorter_than_dead_changes_nothing(cluster: Cluster) -> None:
    a, b = cluster.replicas
    cluster.server.freeze()
    publishing = a.publish("x")
    await asyncio.sleep(1.5)
    cluster.server.thaw()

    assert (await publishing).confirmed
    assert a.states == b.states == [State.UP]


@in_virtual_time()
async def test_a_long_freeze_is_seen_and_leaves_one_copy_everywhere(cluster: Cluster) -> None:
    a, b = cluster.replicas
    loop = asyncio.get_running_loop()
    cluster.server.freeze()
    slowest = 0.0
    for number in range(240):
        start = loop.time()
        await a.publish(str(number))
        slowest = max(slowest, loop.time() - start)
        await asyncio.sleep(0.05)
    assert a.relay.state is b.relay.state is State.DEGRADED
    cluster.server.thaw()
    await until(lambda: a.relay.state is b.relay.state is State.UP)
    await until(lambda: len(b.texts) == 240)
    await asyncio.sleep(20)

    assert slowest <= 2.5
    assert a.texts == b.texts == [str(number) for number in range(240)]


@in_virtual_time()
async def test_a_swallowed_reply_leaves_one_copy_and_a_typed_outcome(cluster: Cluster) -> None:
    a, b = cluster.replicas
    cluster.server.swallow_next_reply()
    outcome = await a.publish("x")
    await until(lambda: a.relay.state is State.UP)
    await asyncio.sleep(20)

    # The own copy came back, but the broker's word did not: the outcome is not claimed to be known.
    assert (outcome.confirmed, outcome.reason) == (False, Reason.TIMEOUT)
    assert a.texts == b.texts == ["x"]


@in_virtual_time()
async def test_a_deaf_link_is_found_out_by_the_missing_own_copy(cluster: Cluster) -> None:
    a, _ = cluster.replicas
    cluster.server.deaf = True
    outcome = await a.publish("x")

    assert (outcome.confirmed, outcome.connections) == (True, 1)
    assert (a.relay.state, a.relay.reason, a.texts) == (State.DEGRADED, Reason.DEAF, ["x"])


@in_virtual_time()
async def test_a_deaf_link_is_found_out_by_the_probe_when_nothing_is_published(cluster: Cluster) -> None:
    a, b = cluster.replicas
    cluster.server.deaf = True

    assert await until(lambda: a.relay.state is b.relay.state is State.DEGRADED) < 15


@in_virtual_time()
async def test_a_lost_publishing_connection_alone_is_mended_and_loses_nothing(cluster: Cluster) -> None:
    a, b = cluster.replicas
    for number in range(5):
        publishing = [a.publish(f"{number}.{n}") for n in range(10)]
        cluster.server.kill_publishing()
        outcomes = await asyncio.gather(*publishing)
        assert all(outcome.confirmed for outcome in outcomes)
    await until(lambda: len(b.texts) >= 50)

    assert a.texts == b.texts == [f"{number}.{n}" for number in range(5) for n in range(10)]
    assert a.states == [State.UP]
    assert a.relay.counters.publisher_redials == 5


@in_virtual_time()
async def test_killed_listeners_come_back_by_themselves(cluster: Cluster) -> None:
    a, b = cluster.replicas
    for number in range(10):
        cluster.server.kill_listening()
        await asyncio.sleep(0.5)
        await until(lambda: a.relay.state is b.relay.state is State.UP)
        assert (await a.publish(str(number))).confirmed
    await until(lambda: len(b.texts) == 10)

    assert a.texts == b.texts == [str(number) for number in range(10)]


@in_virtual_time()
async def test_the_policy_fail_raises_and_delivers_nothing_while_the_broker_is_away(cluster: Cluster) -> None:
    a, b = cluster.replicas
    cluster.server.freeze()
    with pytest.raises(PublishFailed) as unknown:
        await a.publish("in doubt", fail=True)
    with pytest.raises(PublishFailed) as refused:
        await a.publish("not sent", fail=True)

    assert (unknown.value.outcome_unknown, refused.value.outcome_unknown) == (True, False)
    assert (a.texts, b.texts, a.relay.stats().outbox_messages) == ([], [], 0)


@in_virtual_time()
async def test_an_ephemeral_publication_is_not_kept(cluster: Cluster) -> None:
    a, b = cluster.replicas
    cluster.server.down = True
    cluster.server.kill()
    await until(lambda: a.relay.state is State.DEGRADED)
    outcome = await a.publish("typing", keep=False)
    cluster.server.down = False
    await until(lambda: a.relay.state is b.relay.state is State.UP)
    await asyncio.sleep(5)

    assert (outcome.queued, a.texts, b.texts) == (False, ["typing"], [])
    assert a.relay.counters.dropped == {Reason.EPHEMERAL: 1}


@in_virtual_time(2, OutboxLimits(messages=100, age_s=60))
async def test_the_outbox_accounts_for_everything_over_a_long_freeze(cluster: Cluster) -> None:
    a, b = cluster.replicas
    cluster.server.freeze()
    sent = 0
    for _ in range(900):
        await a.publish(str(sent))
        sent += 1
        await asyncio.sleep(0.1)
    cluster.server.thaw()
    await until(lambda: a.relay.state is b.relay.state is State.UP)
    await asyncio.sleep(5)
    counters = a.relay.counters

    assert a.texts == [str(number) for number in range(sent)]
    assert counters.queued == counters.flushed + sum(counters.dropped.values())
    assert counters.dropped[Reason.OVERFLOW] > 0
    assert b.texts == [str(number) for number in range(sent - len(b.texts), sent)] or len(b.texts) > 100


@pytest.mark.parametrize(
    ("reason", "degrades"),
    [(Reason.PERMISSION, False), (Reason.REFUSED, False), (Reason.OUT_OF_MEMORY, True), (Reason.LOADING, True)],
)
def test_a_refused_publication_is_delivered_here_with_the_reason(reason: Reason, degrades: bool) -> None:
    @in_virtual_time()
    async def scenario(cluster: Cluster) -> None:
        a, _ = cluster.replicas
        cluster.server.publish_error = BrokerRefused("refused", reason=reason)
        outcome = await a.publish("x")
        cluster.server.publish_error = None

        assert (outcome.confirmed, outcome.reason, outcome.queued) == (False, reason, degrades)
        assert (a.relay.state is State.DEGRADED) is degrades
        await until(lambda: a.relay.state is State.UP)
        assert a.texts == ["x"]

    scenario()


def test_a_broker_that_is_down_from_the_start_is_found_when_it_appears() -> None:
    async def main() -> None:
        server = MemoryServer()
        server.down = True
        replica = Replica(server)
        assert not await replica.relay.heard("c")
        assert (await replica.publish("local")).connections == 1
        await asyncio.sleep(60)
        dials = replica.relay.counters.dials
        server.down = False
        assert await until(lambda: replica.relay.state is State.UP) < 2.5
        await replica.relay.close()
        # Full jitter over at most a second: about two a second, and never a hot loop.
        assert 60 <= dials <= 240

    virtual_time.run(main())


def test_a_broker_that_hangs_does_not_hold_up_the_start() -> None:
    async def main() -> None:
        server = MemoryServer()
        server.freeze()
        replica = Replica(server)
        loop = asyncio.get_running_loop()
        start = loop.time()
        await replica.relay.ready()
        assert loop.time() - start <= 1.5
        assert not (await replica.publish("x")).confirmed
        await replica.relay.close()

    virtual_time.run(main())


def test_refused_credentials_are_not_tried_more_than_once_a_second(caplog: pytest.LogCaptureFixture) -> None:
    class Refusing(MemoryBroker):
        async def open_publishing(self) -> MemoryPublishing:
            raise BrokerRefused("WRONGPASS", reason=Reason.AUTHENTICATION)

    async def main() -> int:
        relay = Relay(Refusing(MemoryServer()))
        relay.start()
        await asyncio.sleep(60)
        dials = relay.counters.dials
        await relay.close()
        return dials

    with caplog.at_level(logging.INFO, logger="antiphon"):
        dials = virtual_time.run(main())
    assert dials <= 61
    assert len(caplog.records) == 1


@in_virtual_time()
async def test_closing_settles_what_is_under_way_and_counts_what_waited(cluster: Cluster) -> None:
    a, _ = cluster.replicas
    cluster.server.freeze()
    publishing = [a.publish(str(number)) for number in range(3)]
    await asyncio.sleep(0.1)
    await a.relay.close()

    outcomes = await asyncio.gather(*publishing)
    assert {outcome.reason for outcome in outcomes} == {Reason.CLOSED}
    assert a.texts == ["0", "1", "2"]
    assert a.relay.state is State.CLOSED
    assert a.relay.counters.dropped[Reason.CLOSED] == 3
    assert not (await a.publish("late")).queued


@in_virtual_time()
async def test_a_loop_that_stood_still_does_not_take_the_broker_for_dead(cluster: Cluster) -> None:
    a, _ = cluster.replicas
    loop = asyncio.get_running_loop()
    assert isinstance(loop, virtual_time.VirtualTimeLoop)
    publishing = a.publish("x")
    loop.stand_still(5.0)
    await asyncio.sleep(10)

    assert (await publishing).confirmed
    assert a.states == [State.UP]


@in_virtual_time()
async def test_a_topic_is_heard_after_the_wait_and_unsubscribed_after_the_linger_time(cluster: Cluster) -> None:
    a, _ = cluster.replicas
    heard: list[str] = []

    def listener(publication: Publication) -> int:
        heard.append(publication.frame.text)
        return 1

    a.relay.listen("c", "t", listener)
    assert await a.relay.heard("c/t")
    assert cluster.server.listeners("c/t") == 1
    topical = new_publication("x", sender=a.relay.replica, channel="c", topic="t", limit_bytes=100)
    assert (await a.relay.publish(topical, fail=False, keep=True)).replicas == 1
    a.relay.unlisten("c", "t", listener)
    assert cluster.server.listeners("c/t") == 1

    assert 4 < await until(lambda: cluster.server.listeners("c/t") == 0) < 7
    assert heard == ["x"]


@in_virtual_time()
async def test_control_messages_reach_their_handlers_and_a_broken_one_ends_nothing(cluster: Cluster) -> None:
    a, b = cluster.replicas
    got: list[str] = []

    def handler(envelope: Envelope) -> None:
        got.append(envelope.sender or "")
        raise ZeroDivisionError

    b.relay.on_control("x", handler)
    told = a.relay.tell(CONTROL_ROUTE, Envelope(id=None, payload=b"{}", sender="me", kind="x"))
    assert told is not None
    assert await told == 2
    await until(lambda: got == ["me"])

    assert (await a.publish("x")).confirmed
    assert b.texts == ["x"]


def test_virtual_time_takes_no_time() -> None:
    start = time.monotonic()
    virtual_time.run(asyncio.sleep(86_400))
    assert time.monotonic() - start < 60
