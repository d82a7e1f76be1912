"""What the manager sends: to everybody, to some, to one; and what filters, expiry and receipts make of it."""

from __future__ import annotations

import asyncio
import json
import logging
import time

import pytest

from antiphon.codes import Reason
from antiphon.errors import ConfigurationError, InvalidUserId, NotConnected
from antiphon.manager import WebSocketManager
from antiphon.publication import SlowPolicy
from antiphon.transports.base import SendLimits
from antiphon.wire import codec
from antiphon.wire import envelope as envelopes
from antiphon.wire.envelope import Envelope
from tests.unit.browsers import Browser, Fleet, settle, until

pytestmark = pytest.mark.virtual_time


# -- everybody --------------------------------------------------------------------------------------------------------


async def test_every_client_gets_every_message_once_and_in_order_when_replicas_take_turns() -> None:
    async with Fleet(3) as fleet:
        browsers = [await fleet.join(replica) for replica in (0, 0, 1, 2)]
        receipts = [await fleet.managers[n % 3].broadcast({"n": n}) for n in range(30)]

        await fleet.everybody(*browsers, have=[f'{{"n":{n}}}' for n in range(30)])
        assert {(receipt.scope, receipt.replicas, receipt.queued, receipt.reason) for receipt in receipts} == {
            ("cluster", 3, False, None)
        }
        assert [receipt.connections for receipt in receipts[:3]] == [2, 1, 1]
        assert len({receipt.id for receipt in receipts}) == 30


async def test_all_clients_see_one_order_when_replicas_publish_at_the_same_time() -> None:
    async with Fleet(3) as fleet:
        browsers = [await fleet.join(replica) for replica in range(3)]
        await asyncio.gather(
            *[manager.broadcast([r, n]) for n in range(50) for r, manager in enumerate(fleet.managers)]
        )
        await until(lambda: all(len(browser.texts) == 150 for browser in browsers))

        assert browsers[0].texts == browsers[1].texts == browsers[2].texts
        for replica in range(3):
            own = [n for r, n in map(json.loads, browsers[0].texts) if r == replica]
            assert own == list(range(50))


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"type": "x", "é": [1, None, True, 1.5]}, '{"type":"x","é":[1,null,true,1.5]}'),
        ("a text", "a text"),
        ('{"type": "as it stands"}', '{"type": "as it stands"}'),
        ("", ""),
        ("zeilen\nund 🎧", "zeilen\nund 🎧"),
        (None, "null"),
        (42, "42"),
        ([], "[]"),
        (False, "false"),
    ],
)
async def test_a_message_is_one_text_frame_on_every_replica(message: object, text: str) -> None:
    async with Fleet(2) as fleet:
        browsers = [await fleet.join(0), await fleet.join(1)]
        await fleet.managers[0].broadcast(message)

        await fleet.everybody(*browsers, have=[text])


async def test_what_another_program_publishes_reaches_every_client() -> None:
    async with Fleet(3, channel="broadcasts") as fleet:
        browsers = [await fleet.join(replica, topics=("track:7",)) for replica in range(3)]

        assert await fleet.publish_raw("broadcasts", b' {"type": "x"} ') == 3
        assert await fleet.publish_raw("broadcasts/track:7", b'{"type":"y"}') == 3

        await fleet.everybody(*browsers, have=['{"type": "x"}', '{"type":"y"}'])


async def test_a_payload_that_is_no_message_is_counted_and_the_next_one_delivered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Fleet(1) as fleet:
        browser = await fleet.join()
        for payload in (b"", b"no json", b"[1]", b'"text"', b"\xff", b'{"a":NaN}', b'{"antiphon":9,"message":1}'):
            await fleet.publish_raw("c", payload)
        await fleet.publish_raw("c", b'{"good":1}')

        await fleet.everybody(browser, have=['{"good":1}'])
        link = fleet.managers[0].stats().link
        assert link is not None
        assert link.rejected == {"malformed": 6, "version": 1}
    assert len([record for record in caplog.records if "JSON object" in record.getMessage()]) == 1


async def test_control_messages_are_no_messages_when_published_on_a_channel() -> None:
    async with Fleet(1) as fleet:
        browser = await fleet.join()
        await fleet.publish_raw("c", envelopes.encode(Envelope(id="1", payload=b"{}", kind="ask")))
        await fleet.publish_raw("c", b'{"good":1}')

        await fleet.everybody(browser, have=['{"good":1}'])


# -- some -------------------------------------------------------------------------------------------------------------


async def test_target_users_alone_get_a_message_on_all_their_sockets_and_replicas() -> None:
    async with Fleet(3) as fleet:
        of_1 = [await fleet.join(replica, "1") for replica in (0, 0, 1)]
        of_2 = await fleet.join(2, "2")
        others = [await fleet.join(replica, user) for replica, user in [(0, "3"), (1, None), (2, "12")]]
        receipt = await fleet.managers[1].broadcast({"type": "x"}, target_user_ids={"1", "2", "nobody"})

        await fleet.everybody(*of_1, of_2, have=['{"type":"x"}'])
        assert [browser.texts for browser in others] == [[], [], []]
        assert receipt.connections == 1


@pytest.mark.parametrize("users", [["1", "1"], ("1",), frozenset({"1"}), {"1": None}])
async def test_target_users_may_be_any_collection(users: list[str]) -> None:
    async with Fleet(1) as fleet:
        browser = await fleet.join(0, "1")
        await fleet.managers[0].broadcast("x", users)

        await fleet.everybody(browser, have=["x"])


async def test_nobody_gets_a_message_when_the_target_users_are_none() -> None:
    async with Fleet(1) as fleet:
        browser = await fleet.join(0, "1")
        receipt = await fleet.managers[0].broadcast("x", target_user_ids=set())

        await fleet.everybody(browser, have=[])
        assert receipt.connections == 0


async def test_target_users_on_a_topic_are_those_who_hear_it() -> None:
    async with Fleet(2) as fleet:
        listening = await fleet.join(1, "1", topics=("t",))
        elsewhere = await fleet.join(1, "1")
        await fleet.managers[0].broadcast("x", {"1"}, topic="t")

        await fleet.everybody(listening, have=["x"])
        assert elsewhere.texts == []


@pytest.mark.parametrize("users", ["1", [1], [None], [""], ["1", 2]])
async def test_target_users_are_refused_when_they_are_no_collection_of_texts(users: list[str]) -> None:
    async with Fleet(1) as fleet:
        browser = await fleet.join(0, "1")
        with pytest.raises(ConfigurationError):
            await fleet.managers[0].broadcast("x", users)

        await fleet.everybody(browser, have=[])
        assert fleet.managers[0].stats().published == 0


async def test_send_to_user_reaches_all_of_his_sockets_wherever_they_are() -> None:
    async with Fleet(2) as fleet:
        his = [await fleet.join(0, "42"), await fleet.join(1, "42"), await fleet.join(1, "42")]
        other = await fleet.join(1, "7")
        receipt = await fleet.managers[0].send_to_user(user_id="42", message={"a": 1})

        await fleet.everybody(*his, have=['{"a":1}'])
        assert other.texts == []
        assert receipt.scope == "cluster"


async def test_send_to_user_is_refused_when_the_user_id_is_a_number() -> None:
    async with Fleet(1) as fleet:
        with pytest.raises(InvalidUserId, match=r"pass str\(42\)"):
            await fleet.managers[0].send_to_user(42, "x")  # type: ignore[arg-type]  # the mistake


# -- one --------------------------------------------------------------------------------------------------------------


async def test_a_personal_message_reaches_that_socket_alone() -> None:
    async with Fleet(1) as fleet:
        one, other = await fleet.join(0, "1"), await fleet.join(0, "1")
        await fleet.managers[0].send_personal_message("text", one.websocket)
        await fleet.managers[0].send_personal_message({"a": 1}, one.websocket)

        await fleet.everybody(one, have=["text", '{"a":1}'])
        assert other.texts == []


async def test_a_personal_message_keeps_its_place_among_what_is_published() -> None:
    async with Fleet(1) as fleet:
        [manager] = fleet.managers
        browser = await fleet.join()
        for number in range(20):
            await manager.send_personal_message(f"{number} me", browser.websocket)
            await manager.broadcast(f"{number} all")

        await fleet.everybody(browser, have=[f"{n} {who}" for n in range(20) for who in ("me", "all")])


async def test_a_personal_message_is_refused_when_the_socket_is_not_connected() -> None:
    async with Fleet(1) as fleet:
        browser = await fleet.join()
        fleet.managers[0].disconnect(browser.websocket)
        with pytest.raises(NotConnected, match=r"call connect\(\) first"):
            await fleet.managers[0].send_personal_message("x", browser.websocket)


# -- all but some -----------------------------------------------------------------------------------------------------


async def test_excluded_clients_get_nothing_however_they_are_named() -> None:
    async with Fleet(2) as fleet:
        here, other = fleet.managers
        (one, by_connection), (two, by_id) = await fleet.join_as(0), await fleet.join_as(0)
        three, far = await fleet.join(0), await fleet.join(1)
        await here.broadcast("1", exclude=one.websocket)
        await here.broadcast("2", exclude=by_connection)
        await here.broadcast("3", exclude=by_id.id)
        await here.broadcast("4", exclude=[one.websocket, by_id])
        await other.broadcast("5", exclude=by_connection)
        await here.broadcast("6", exclude=[])
        await here.broadcast("7", exclude=Browser().websocket)

        await fleet.everybody(three, far, have=list("1234567"))
        assert (one.texts, two.texts) == (list("367"), list("12567"))


async def test_an_excluded_client_is_no_other_managers_when_both_have_one_channel() -> None:
    manager, twin = WebSocketManager("c"), WebSocketManager("c")
    excluded, other = Browser(), Browser()
    await manager.connect(excluded.websocket)
    await twin.connect(other.websocket)
    await manager.broadcast("x", exclude=excluded.websocket)
    await settle()
    for each in (manager, twin):
        await each.close()

    assert (excluded.texts, other.texts) == ([], ["x"])


async def test_an_excluded_user_socket_is_left_out_of_the_users_others() -> None:
    async with Fleet(1) as fleet:
        writing, reading = await fleet.join(0, "1"), await fleet.join(0, "1")
        await fleet.managers[0].broadcast("x", {"1"}, exclude=writing.websocket)

        await fleet.everybody(reading, have=["x"])
        assert writing.texts == []


# -- the filter -------------------------------------------------------------------------------------------------------


async def test_a_filter_decides_on_its_replica_alone_and_none_removes_it() -> None:
    async with Fleet(2) as fleet:
        here, other = fleet.managers
        filtered, free = await fleet.join(0), await fleet.join(1)
        here.set_message_filter(lambda message: message.get("track_id") == "12345")  # type: ignore[attr-defined]  # as in the specification
        for track_id in ("12345", "2"):
            await other.broadcast({"track_id": track_id})
        await until(lambda: len(free.texts) == 2)
        here.set_message_filter(None)
        await other.broadcast({"track_id": "3"})

        await fleet.everybody(free, have=[f'{{"track_id":"{n}"}}' for n in ("12345", "2", "3")])
        assert filtered.messages == [{"track_id": "12345"}, {"track_id": "3"}]
        assert (here.stats().filtered, other.stats().filtered) == (1, 0)


async def test_a_filter_that_raises_says_no_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with Fleet(2) as fleet:
        here = fleet.managers[0]
        filtered, free = await fleet.join(0), await fleet.join(1)
        here.set_message_filter(lambda message: message["ok"])  # type: ignore[index]  # raises for some
        for number in range(10):
            await here.broadcast({"n": number, **({"ok": True} if number % 2 else {})})
        await here.broadcast("a text")

        await until(lambda: len(free.texts) == 11)
        assert [message["n"] for message in filtered.messages] == [1, 3, 5, 7, 9]  # type: ignore[index]  # objects
        assert (here.stats().filter_errors, here.stats().filtered) == (6, 0)
    assert len([record for record in caplog.records if record.exc_info and "filter" in record.getMessage()]) == 1


async def test_a_filter_cannot_change_what_others_get() -> None:
    async with Fleet(1) as fleet:
        browser = await fleet.join()
        fleet.managers[0].set_message_filter(lambda message: message.update(a=2) or True)  # type: ignore[attr-defined]  # a dict
        await fleet.managers[0].broadcast({"a": 1})

        await fleet.everybody(browser, have=['{"a":1}'])


async def test_a_filter_gets_a_text_as_text() -> None:
    got: list[object] = []
    async with Fleet(1) as fleet:
        await fleet.join()
        fleet.managers[0].set_message_filter(got.append)
        await fleet.managers[0].broadcast("a text")

    assert got == ["a text"]


async def test_a_filter_works_without_a_broker() -> None:
    manager = WebSocketManager("c")
    browser = Browser()
    await manager.connect(browser.websocket)
    manager.set_message_filter(lambda message: message == "yes")
    receipts = [await manager.broadcast(text) for text in ("yes", "no")]
    await settle()
    await manager.close()

    assert browser.texts == ["yes"]
    assert [receipt.connections for receipt in receipts] == [1, 0]


def test_a_filter_is_refused_when_it_is_no_function() -> None:
    with pytest.raises(ConfigurationError, match="function"):
        WebSocketManager("c").set_message_filter({"track_id": 1})  # type: ignore[arg-type]  # the mistake


# -- expiry -----------------------------------------------------------------------------------------------------------


async def test_an_expired_message_is_counted_and_reaches_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Fleet(2) as fleet:
        browsers = [await fleet.join(0), await fleet.join(1)]
        an_hour_ago = time.time_ns() - 3_600 * 1_000_000_000
        with monkeypatch.context() as patch:
            patch.setattr(time, "time_ns", lambda: an_hour_ago)
            late = await fleet.managers[0].broadcast("late", expires_s=60)
            await fleet.managers[0].broadcast("in time", expires_s=2 * 3_600)

        await fleet.everybody(*browsers, have=["in time"])
        assert (late.scope, late.connections) == ("cluster", 0)
        assert [manager.stats().expired for manager in fleet.managers] == [1, 1]


@pytest.mark.parametrize("expires_s", [0, -1, float("nan"), float("inf"), float("-inf"), "5", 1e300])
async def test_an_expiry_is_refused_when_it_is_no_time(expires_s: float) -> None:
    async with Fleet(1) as fleet:
        browser = await fleet.join()
        with pytest.raises(ConfigurationError, match="expires_s"):
            await fleet.managers[0].broadcast("x", expires_s=expires_s)

        await fleet.everybody(browser, have=[])


# -- what is counted --------------------------------------------------------------------------------------------------


async def test_every_publication_is_counted_once_by_its_outcome() -> None:
    async with Fleet(1) as fleet:
        [manager] = fleet.managers
        for _ in range(3):
            await fleet.join()
        for number in range(5):
            await manager.broadcast(number)
        stats = manager.stats()

        assert (stats.published, stats.published_cluster, stats.published_local, stats.publish_failed) == (5, 5, 0, 0)
        assert (stats.connections, stats.connects, stats.delivered) == (3, 3, 15)
        assert stats.channel == "c"


async def test_a_receipt_says_why_it_is_local_when_there_is_no_broker() -> None:
    manager = WebSocketManager("c")
    await manager.connect(Browser().websocket)
    receipt = await manager.broadcast("x")
    await manager.close()

    assert (receipt.scope, receipt.replicas, receipt.connections, receipt.queued, receipt.reason) == (
        "local",
        None,
        1,
        False,
        Reason.NO_BROKER,
    )


async def test_an_envelope_carries_what_the_receipt_names(caplog: pytest.LogCaptureFixture) -> None:
    async with Fleet(1) as fleet:
        caplog.set_level(logging.DEBUG)
        listening = await fleet.brokers[0].open_listening()
        listening.subscribe(["c"])
        await until(lambda: fleet.server.listeners("c") == 1)
        receipt = await fleet.managers[0].broadcast({"a": 1}, {"1"}, expires_s=60)
        events = list(await listening.receive())
        while len(events) < 2:
            events += await listening.receive()
        await listening.close()
        envelope = envelopes.decode(events[1].payload)  # type: ignore[union-attr]  # the message

        assert (envelope.id, codec.decode(envelope.payload)) == (receipt.id, {"a": 1})
        assert envelope.users == frozenset({"1"})
        assert envelope.at_ms is not None
        assert envelope.expires_at_ms == envelope.at_ms + 60_000


# -- slow clients -----------------------------------------------------------------------------------------------------


async def test_messages_with_a_policy_are_dropped_for_slow_clients_alone() -> None:
    async with Fleet(2, send_limits=SendLimits(queued_bytes=2_000, droppable_bytes=60)) as fleet:
        slow, *quick = [await fleet.join(replica, "1") for replica in (0, 0, 1)]
        slow.is_stuck = True
        await fleet.managers[1].broadcast("under way")
        wanted = ["under way"]
        for number in range(50):
            await fleet.managers[1].broadcast(f"typing {number}", slow="newest_per_key", key="ann")
            await fleet.managers[number % 2].send_to_user("1", f"cursor {number}", slow="drop_oldest")
            wanted += [f"typing {number}", f"cursor {number}"]
        await until(lambda: all(len(browser.texts) == len(wanted) for browser in quick))
        for browser in quick:
            assert sorted(browser.texts) == sorted(wanted)
        dropped = fleet.managers[0].stats().dropped_slow
        assert set(dropped) == {"drop_oldest", "replaced"}
        assert 90 <= sum(dropped.values()) <= 99
        assert fleet.managers[1].stats().dropped_slow == {}
        assert fleet.managers[0].stats().lost == {}
        assert fleet.managers[0].get_connection_count() == 2


async def test_a_policy_works_without_a_broker() -> None:
    manager, browser = WebSocketManager("c"), Browser()
    await manager.connect(browser.websocket)
    receipt = await manager.broadcast("typing", slow="drop_oldest")
    await manager.broadcast("comment")
    await until(lambda: browser.texts == ["typing", "comment"])
    assert (receipt.scope, receipt.connections) == ("local", 1)
    await manager.close()


@pytest.mark.parametrize(
    ("slow", "key"),
    [
        ("newest_per_key", None),
        ("newest_per_key", ""),
        ("newest_per_key", "k" * 129),
        ("newest_per_key", 7),
        ("newest_per_key", "\ud800"),
        ("drop_oldest", "k"),
        ("disconnect", "k"),
        ("drop", None),
        (None, None),
        (["drop_oldest"], None),
    ],
)
async def test_a_policy_is_refused_when_it_makes_no_sense(slow: SlowPolicy, key: str | None) -> None:
    manager, browser = WebSocketManager("c"), Browser()
    await manager.connect(browser.websocket)
    for topic in (None, "t"):
        with pytest.raises(ConfigurationError, match="slow"):
            await manager.broadcast("x", topic=topic, slow=slow, key=key)
    with pytest.raises(ConfigurationError, match="slow"):
        await manager.send_to_user("1", "x", slow=slow, key=key)
    assert browser.texts == []
    await manager.close()
