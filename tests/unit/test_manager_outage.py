"""The manager while the broker is away, frozen or refusing, and when it is back."""

from __future__ import annotations

import asyncio
import logging

import pytest

from antiphon.codes import Reason, State
from antiphon.errors import BrokerRefused, PublishFailed
from antiphon.manager import Receipt, WebSocketManager
from antiphon.outbox import OutboxLimits
from antiphon.stats import LinkStats
from tests.unit.browsers import Browser, Fleet, settle, until

pytestmark = pytest.mark.virtual_time


def link_of(manager: WebSocketManager) -> LinkStats:
    link = manager.stats().link
    assert link is not None
    return link


async def test_messages_reach_the_own_clients_at_once_and_nobody_gets_an_exception_when_the_broker_dies() -> None:
    async with Fleet(2) as fleet:
        here, far = await fleet.join(0), await fleet.join(1)
        await fleet.lose_broker()
        receipt = await fleet.managers[0].broadcast("x")

        await fleet.everybody(here, have=["x"])
        assert far.texts == []
        assert (receipt.scope, receipt.replicas, receipt.connections, receipt.queued) == ("local", None, 1, True)
        assert receipt.reason in (Reason.CONNECTION_LOST, Reason.UNREACHABLE)


async def test_what_was_kept_arrives_once_and_in_order_when_the_broker_is_back() -> None:
    async with Fleet(3) as fleet:
        browsers = [await fleet.join(replica, "1", topics=("t",)) for replica in range(3)]
        first = fleet.managers[0]
        await first.broadcast("before")
        await fleet.lose_broker()
        for number in range(20):
            await first.broadcast(str(number), {"1"} if number % 2 else None, topic="t" if number % 3 else None)
        await fleet.regain_broker()
        await first.broadcast("after")

        await fleet.everybody(*browsers, have=["before", *map(str, range(20)), "after"])
        assert (link_of(first).queued, link_of(first).flushed, link_of(first).outbox_messages) == (20, 20, 0)


async def test_every_replicas_messages_cross_when_all_of_them_published_during_the_outage() -> None:
    async with Fleet(3) as fleet:
        browsers = [await fleet.join(replica) for replica in range(3)]
        await fleet.lose_broker()
        for number in range(5):
            for replica, manager in enumerate(fleet.managers):
                await manager.broadcast([replica, number])
        await asyncio.sleep(10)
        await fleet.regain_broker()
        await until(lambda: all(len(browser.texts) >= 15 for browser in browsers))
        await settle()

        for browser in browsers:
            for replica in range(3):
                own = [text for text in browser.texts if text.startswith(f"[{replica},")]
                assert own == [f"[{replica},{number}]" for number in range(5)]


async def test_a_freeze_of_twelve_seconds_leaves_one_copy_everywhere_and_holds_nobody_up() -> None:
    async with Fleet(2) as fleet:
        here, far = await fleet.join(0), await fleet.join(1)
        loop = asyncio.get_running_loop()
        fleet.server.freeze()
        slowest = 0.0
        sent: list[str] = []
        while loop.time() < 12:
            start = loop.time()
            sent.append(f"{len(sent)}")
            await fleet.managers[0].broadcast(sent[-1])
            slowest = max(slowest, loop.time() - start)
            await asyncio.sleep(0.05)
        assert here.texts == sent
        fleet.server.thaw()
        await until(lambda: len(far.texts) >= len(sent))
        await asyncio.sleep(30)

        assert slowest < 3
        assert here.texts == sent
        assert sorted(far.texts, key=int) == sent


async def test_the_policy_fail_raises_and_delivers_nothing_when_the_broker_is_away() -> None:
    async with Fleet(2, outage="fail") as fleet:
        browsers = [await fleet.join(0), await fleet.join(1)]
        manager = fleet.managers[0]
        await fleet.lose_broker()
        with pytest.raises(PublishFailed) as failed:
            await manager.broadcast("x")
        await fleet.regain_broker()
        await manager.broadcast("y")

        await fleet.everybody(*browsers, have=["y"])
        assert (failed.value.channel, failed.value.outcome_unknown) == ("c", False)
        assert failed.value.reason in (Reason.CONNECTION_LOST, Reason.UNREACHABLE)
        stats = manager.stats()
        assert (stats.published, stats.published_cluster, stats.publish_failed) == (2, 1, 1)


async def test_the_policy_fail_says_that_the_outcome_is_unknown_when_the_broker_froze() -> None:
    async with Fleet(2) as fleet:
        browsers = [await fleet.join(0), await fleet.join(1)]
        fleet.server.freeze()
        with pytest.raises(PublishFailed) as failed:
            await fleet.managers[0].broadcast("x", outage="fail")
        assert [browser.texts for browser in browsers] == [[], []]
        fleet.server.thaw()
        await asyncio.sleep(30)

        assert (failed.value.outcome_unknown, failed.value.reason) == (True, Reason.TIMEOUT)
        assert [len(browser.texts) <= 1 for browser in browsers] == [True, True]


async def test_one_call_may_have_another_policy_than_its_manager() -> None:
    async with Fleet(1, outage="fail") as fleet:
        browser = await fleet.join(0, "1")
        await fleet.lose_broker()
        receipt = await fleet.managers[0].broadcast("x", outage="local")
        with pytest.raises(PublishFailed):
            await fleet.managers[0].send_to_user("1", "y")

        await fleet.everybody(browser, have=["x"])
        assert receipt.queued


async def test_the_policy_fail_delivers_when_no_broker_is_configured() -> None:
    manager = WebSocketManager("c", outage="fail")
    browser = Browser()
    await manager.connect(browser.websocket)
    receipt = await manager.broadcast("x")
    await settle()
    await manager.close()

    assert browser.texts == ["x"]
    assert receipt.reason is Reason.NO_BROKER


async def test_an_ephemeral_message_is_not_kept_when_the_broker_is_away() -> None:
    async with Fleet(2) as fleet:
        here, far = await fleet.join(0), await fleet.join(1)
        await fleet.lose_broker()
        receipt = await fleet.managers[0].broadcast("typing", ephemeral=True)
        await fleet.regain_broker()
        await fleet.managers[0].broadcast("x")

        await fleet.everybody(far, have=["x"])
        assert here.texts == ["typing", "x"]
        assert not receipt.queued
        assert link_of(fleet.managers[0]).dropped == {"ephemeral": 1}


async def test_an_ephemeral_message_crosses_like_any_other_when_the_broker_is_there() -> None:
    async with Fleet(2) as fleet:
        browsers = [await fleet.join(0), await fleet.join(1)]
        await fleet.managers[0].broadcast("typing", ephemeral=True)

        await fleet.everybody(*browsers, have=["typing"])


async def test_the_oldest_are_dropped_and_counted_when_more_is_published_than_the_outbox_holds() -> None:
    async with Fleet(2, outbox_limits=OutboxLimits(messages=3)) as fleet:
        here, far = await fleet.join(0), await fleet.join(1)
        await fleet.lose_broker()
        for number in range(10):
            await fleet.managers[0].broadcast(str(number))
        await fleet.regain_broker()

        await fleet.everybody(far, have=["7", "8", "9"])
        assert here.texts == [str(number) for number in range(10)]
        assert link_of(fleet.managers[0]).dropped == {"overflow": 7}


async def test_what_is_too_old_is_dropped_and_counted_when_the_outage_is_long() -> None:
    async with Fleet(2) as fleet:
        far = await fleet.join(1)
        await fleet.lose_broker()
        await fleet.managers[0].broadcast("old")
        await asyncio.sleep(59)
        await fleet.managers[0].broadcast("new")
        await asyncio.sleep(10)
        await fleet.regain_broker()

        await fleet.everybody(far, have=["new"])
        assert link_of(fleet.managers[0]).dropped == {"expired": 1}


async def test_a_refused_publication_says_why_and_stays_here() -> None:
    async with Fleet(2) as fleet:
        here, far = await fleet.join(0), await fleet.join(1)
        fleet.server.publish_error = BrokerRefused("refused", reason=Reason.PERMISSION)
        receipt = await fleet.managers[0].broadcast("x")
        fleet.server.publish_error = None
        await fleet.managers[0].broadcast("y")

        await fleet.everybody(here, have=["x", "y"])
        assert far.texts == ["y"]
        assert (receipt.scope, receipt.queued, receipt.reason) == ("local", False, Reason.PERMISSION)


async def test_a_message_crosses_once_when_the_publishing_connections_are_killed_under_way() -> None:
    async with Fleet(2) as fleet:
        browsers = [await fleet.join(0), await fleet.join(1)]
        sent = []
        for number in range(20):
            publishing = asyncio.create_task(fleet.managers[0].broadcast(str(number)))
            await asyncio.sleep(0)
            fleet.server.kill_publishing()
            sent.append(await publishing)

        await fleet.everybody(*browsers, have=[str(number) for number in range(20)])
        assert {receipt.scope for receipt in sent} == {"cluster"}


# -- callers that go away ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", range(8))
async def test_nothing_is_lost_or_doubled_when_the_caller_is_cancelled_in_the_middle(turns: int) -> None:
    async with Fleet(2) as fleet:
        browsers = [await fleet.join(0), await fleet.join(1)]
        for number in range(5):
            caller = asyncio.create_task(fleet.managers[0].broadcast(str(number)))
            await asyncio.sleep(0)
            for _ in range(turns):
                await asyncio.sleep(0)
            caller.cancel()
            await asyncio.gather(caller, return_exceptions=True)
        await fleet.managers[0].broadcast("end")

        await fleet.everybody(*browsers, have=[*"01234", "end"])
        assert link_of(fleet.managers[0]).in_flight == 0


async def test_nothing_is_lost_when_the_caller_is_cancelled_while_the_broker_is_frozen() -> None:
    async with Fleet(2) as fleet:
        here, far = await fleet.join(0), await fleet.join(1)
        fleet.server.freeze()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(fleet.managers[0].broadcast("x"), 0.5)
        assert here.texts == []
        await asyncio.sleep(10)
        assert here.texts == ["x"]
        fleet.server.thaw()
        await until(lambda: bool(far.texts))
        await asyncio.sleep(30)

        assert (here.texts, far.texts) == (["x"], ["x"])


async def test_a_cancelled_publication_is_counted_like_any_other() -> None:
    async with Fleet(1) as fleet:
        [manager] = fleet.managers
        fleet.server.freeze()
        callers = [
            asyncio.create_task(manager.broadcast("1")),
            asyncio.create_task(manager.broadcast("2", outage="fail")),
        ]
        await settle()
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        await asyncio.sleep(10)
        stats = manager.stats()

        assert stats.published == stats.published_cluster + stats.published_local + stats.publish_failed == 2


# -- the beginning ----------------------------------------------------------------------------------------------------


async def test_the_manager_serves_its_own_clients_when_the_broker_is_away_from_the_start() -> None:
    fleet = Fleet(2)
    fleet.server.down = True
    browsers = [await fleet.join(0), await fleet.join(1)]
    receipts = [await manager.broadcast("x") for manager in fleet.managers]
    assert [browser.texts for browser in browsers] == [["x"], ["x"]]
    assert {receipt.scope for receipt in receipts} == {"local"}
    await asyncio.sleep(100)
    await fleet.regain_broker()
    await fleet.managers[0].broadcast("y")

    await fleet.everybody(*browsers, have=["x", "y"])
    async with fleet:
        pass


async def test_connecting_takes_about_a_second_at_most_when_the_broker_hangs() -> None:
    fleet = Fleet(1)
    fleet.server.freeze()
    loop = asyncio.get_running_loop()
    browser = await fleet.join(topics=("t",))
    assert loop.time() < 3
    receipt = await fleet.managers[0].broadcast("x", topic="t")
    assert loop.time() < 6
    assert (browser.texts, receipt.scope) == (["x"], "local")
    fleet.server.thaw()
    async with fleet:
        pass


async def test_a_client_that_came_during_the_outage_hears_the_others_when_the_broker_is_back() -> None:
    async with Fleet(2) as fleet:
        await fleet.lose_broker()
        browser = await fleet.join(0, topics=("t",))
        await fleet.managers[0].subscribe(browser.websocket, "u")
        await fleet.regain_broker()
        for topic in (None, "t", "u"):
            await fleet.managers[1].broadcast(str(topic), topic=topic)

        await fleet.everybody(browser, have=["None", "t", "u"])


async def test_the_first_publications_keep_their_order_when_the_link_is_only_being_made() -> None:
    fleet = Fleet(2)
    far = await fleet.join(1)
    receipts = await asyncio.gather(*[fleet.managers[0].broadcast(str(number)) for number in range(50)])

    await fleet.everybody(far, have=[str(number) for number in range(50)])
    assert {receipt.scope for receipt in receipts} == {"cluster"}
    async with fleet:
        pass


# -- what operators see -----------------------------------------------------------------------------------------------


async def test_the_state_and_one_log_line_for_each_change_say_how_the_link_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "antiphon")
    async with Fleet(1) as fleet:
        [manager] = fleet.managers
        assert manager.state is State.UP
        await fleet.lose_broker()
        for _ in range(100):
            await manager.broadcast("x")
            await asyncio.sleep(0.1)
        assert (manager.state, link_of(manager).state) == (State.DEGRADED, State.DEGRADED)
        assert link_of(manager).reason is Reason.UNREACHABLE
        await fleet.regain_broker()
        assert (manager.state, link_of(manager).reason) == (State.UP, None)
        lines = [record.getMessage().split(":")[0] for record in caplog.records]

        # "still": the reason has changed, what was lost cannot be reached now. That it is back is kept off the log for
        # a second after the first "up", and no real time has passed.
        assert lines == ["up", "degraded (connection_lost)", "still degraded, now (unreachable)"]


async def test_the_statistics_count_everybody_who_hears() -> None:
    async with Fleet(3) as fleet:
        await fleet.join(0, topics=("a", "b"))
        receipt = await fleet.managers[0].broadcast("x")
        assert isinstance(receipt, Receipt)
        await until(lambda: link_of(fleet.managers[0]).replicas == 3)
        link = link_of(fleet.managers[0])

        assert (link.address, link.routes, link.in_flight, fleet.managers[0].stats().topics) == ("memory", 3, 0, 2)
        assert link.received >= 1
        assert link.losses == {}
