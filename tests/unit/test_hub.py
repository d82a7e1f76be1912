"""The hub: who hears what on this replica."""

from __future__ import annotations

import logging

import pytest

from antiphon.connection import Connection
from antiphon.hub import Hub
from antiphon.publication import Publication, SlowPolicy, new_publication
from antiphon.wire.frames import Policy
from tests.unit.lanes import NotedLane, NotedTransport

LANE = NotedLane()


class Room:
    """A hub, and sockets in it by name."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.hub = Hub("c", wall_clock=lambda: self.now)
        self.transports: dict[str, NotedTransport] = {}
        self.connections: dict[str, Connection] = {}

    def enter(self, name: str, user_id: str | None = None, *topics: str, lane: NotedLane = LANE) -> Connection:
        transport = self.transports[name] = NotedTransport(lane)
        connection = self.connections[name] = Connection(name, user_id=user_id, transport=transport)
        self.hub.add(connection)
        for topic in topics:
            self.hub.subscribe(connection, topic)
        return connection

    def heard(self) -> dict[str, list[str]]:
        return {name: transport.texts for name, transport in self.transports.items() if transport.texts}


def publication(
    message: object = "m",
    *,
    topic: str | None = None,
    users: set[str] | None = None,
    exclude: frozenset[str] | None = None,
    slow: SlowPolicy = "disconnect",
    key: str | None = None,
) -> Publication:
    return new_publication(
        message,
        sender="r",
        channel="c",
        topic=topic,
        users=users,
        exclude=exclude,
        slow=slow,
        key=key,
        limit_bytes=10_000,
    )


@pytest.fixture
def room() -> Room:
    return Room()


def test_every_connection_hears_the_channel_in_order(room: Room) -> None:
    room.enter("a")
    room.enter("b", lane=NotedLane())

    assert [room.hub.deliver(publication(text)) for text in ("one", "two")] == [2, 2]

    assert room.heard() == {"a": ["one", "two"], "b": ["one", "two"]}
    assert room.hub.counters.delivered == 4


def test_a_topic_reaches_only_those_that_hear_it(room: Room) -> None:
    room.enter("a", None, "t:1")
    room.enter("b", None, "t:2")
    room.enter("c")

    assert room.hub.deliver(publication("x", topic="t:1")) == 1

    assert room.heard() == {"a": ["x"]}
    assert set(room.hub.topics) == {"t:1", "t:2"}


def test_a_topic_is_forgotten_when_its_last_listener_leaves(room: Room) -> None:
    a = room.enter("a", None, "t")
    b = room.enter("b", None, "t")

    assert room.hub.unsubscribe(a, "t")
    assert not room.hub.unsubscribe(a, "t")
    assert room.hub.remove(b) == ["t"]

    assert list(room.hub.topics) == []
    assert room.hub.deliver(publication(topic="t")) == 0


def test_a_connection_subscribes_once_and_only_while_it_is_here(room: Room) -> None:
    a = room.enter("a")

    assert room.hub.subscribe(a, "t")
    assert not room.hub.subscribe(a, "t")
    room.hub.deliver(publication("once", topic="t"))
    room.hub.remove(a)

    assert not room.hub.subscribe(a, "t")
    assert room.heard() == {"a": ["once"]}


def test_users_are_reached_on_all_their_sockets_and_nobody_else_is(room: Room) -> None:
    for name, user in [("a", "1"), ("b", "1"), ("c", "1"), ("d", "2"), ("e", None)]:
        room.enter(name, user)

    assert room.hub.deliver(publication("x", users={"1", "9"})) == 3

    assert set(room.heard()) == {"a", "b", "c"}


def test_an_empty_set_of_users_reaches_nobody(room: Room) -> None:
    room.enter("a", "1")

    assert room.hub.deliver(publication(users=set())) == 0
    assert room.heard() == {}


def test_users_on_a_topic_are_those_who_hear_it(room: Room) -> None:
    room.enter("a", "1", "t")
    room.enter("b", "1")

    assert room.hub.deliver(publication("x", users={"1"}, topic="t")) == 1
    assert room.heard() == {"a": ["x"]}


def test_an_excluded_connection_hears_nothing(room: Room) -> None:
    for name in "abc":
        room.enter(name)

    assert room.hub.deliver(publication("x", exclude=frozenset({"b", "elsewhere"}))) == 2
    assert set(room.heard()) == {"a", "c"}


def test_excluding_somebody_elsewhere_changes_nothing_here(room: Room) -> None:
    room.enter("a")

    assert room.hub.deliver(publication("x", exclude=frozenset({"elsewhere"}))) == 1


def test_counts_follow_those_who_come_and_go(room: Room) -> None:
    a, b, c = room.enter("a", "1"), room.enter("b", "1"), room.enter("c", "1")
    room.enter("d")

    assert (len(room.hub), room.hub.user_count, room.hub.has_user("1")) == (4, 1, True)
    assert {connection.id for connection in room.hub.of_user("1")} == {"a", "b", "c"}
    for connection in (a, b, c):
        assert room.hub.has_user("1")
        room.hub.remove(connection)
    assert (len(room.hub), room.hub.user_count, room.hub.has_user("1")) == (1, 0, False)
    assert room.hub.remove(a) is None
    assert (room.hub.counters.connects, room.hub.counters.disconnects) == (4, 3)


def test_a_filter_keeps_messages_back_until_it_is_removed(room: Room) -> None:
    room.enter("a")
    room.hub.message_filter = lambda message: isinstance(message, dict) and message.get("n") == 1

    counts = [room.hub.deliver(publication({"n": n})) for n in (1, 2)]
    room.hub.message_filter = None
    counts.append(room.hub.deliver(publication({"n": 3})))

    assert counts == [1, 0, 1]
    assert room.heard() == {"a": ['{"n":1}', '{"n":3}']}
    assert room.hub.counters.filtered == 1


def test_a_filter_that_changes_its_message_changes_nobody_elses(room: Room) -> None:
    room.enter("a")

    def spoil(message: object) -> bool:
        assert isinstance(message, dict)
        message.clear()
        return True

    room.hub.message_filter = spoil
    room.hub.deliver(publication({"n": 1}))

    assert room.heard() == {"a": ['{"n":1}']}


def test_a_filter_that_raises_counts_as_no_and_is_logged_once(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    room.enter("a")
    room.hub.message_filter = lambda message: 1 / 0

    with caplog.at_level(logging.WARNING, logger="antiphon"):
        assert [room.hub.deliver(publication(str(n))) for n in range(50)] == [0] * 50

    assert room.heard() == {}
    assert room.hub.counters.filter_errors == 50
    assert len(caplog.records) == 1
    assert "ZeroDivisionError" in caplog.text


def test_an_expired_message_is_not_delivered(room: Room) -> None:
    room.enter("a")
    late = new_publication("late", sender="r", channel="c", expires_s=5.0, limit_bytes=100)
    assert late.envelope.expires_at_ms is not None

    room.now = late.envelope.expires_at_ms / 1000 - 1
    assert room.hub.deliver(late) == 1
    room.now += 2
    assert room.hub.deliver(late) == 0

    assert room.hub.counters.expired == 1


def test_a_message_to_one_connection_needs_it_here(room: Room) -> None:
    a = room.enter("a")
    frame = publication("x").frame

    assert room.hub.send(a, frame)
    room.hub.remove(a)
    assert not room.hub.send(a, frame)

    assert room.heard() == {"a": ["x"]}


def test_a_filter_that_answers_later_counts_as_no(room: Room) -> None:
    room.enter("a")

    async def later() -> bool:
        return True

    room.hub.message_filter = lambda message: later()

    assert room.hub.deliver(publication("x")) == 0
    assert (room.heard(), room.hub.counters.filter_errors) == ({}, 1)


def test_what_may_be_dropped_reaches_the_same_connections(room: Room) -> None:
    lanes = [LANE, NotedLane()]
    for number, (name, topics) in enumerate({"a": ("t", "u"), "b": ("t",), "c": ()}.items()):
        room.enter(name, f"user {name}", *topics, lane=lanes[number % 2])
    policy = Policy(("c/t", "k"))
    counts = [
        room.hub.deliver(publication("all", slow="drop_oldest")),
        room.hub.deliver(publication("two", topic="t", slow="newest_per_key", key="k")),
        room.hub.deliver(publication("one", topic="u", slow="drop_oldest")),
        room.hub.deliver(publication("nobody", topic="v", slow="drop_oldest")),
        room.hub.deliver(publication("him", users={"user c"}, slow="drop_oldest")),
        room.hub.deliver(publication("others", exclude=frozenset({"a"}), slow="newest_per_key", key="k")),
        room.hub.deliver(publication("plain")),
    ]
    assert counts == [3, 2, 1, 0, 1, 2, 3]
    assert room.heard() == {
        "a": ["all", "two", "one", "plain"],
        "b": ["all", "two", "others", "plain"],
        "c": ["all", "him", "others", "plain"],
    }
    assert room.transports["a"].policies == [Policy(), policy, Policy()]
    assert room.transports["b"].policies == [Policy(), policy, Policy(("c", "k"))]
    assert room.hub.counters.delivered == sum(counts)
    assert room.hub.counters.sent_bytes == sum(
        len(text) for transport in room.transports.values() for text in transport.texts
    )


def test_what_may_be_dropped_is_filtered_and_expires_too(room: Room) -> None:
    room.enter("a")
    room.hub.message_filter = lambda message: message != "no"
    assert room.hub.deliver(publication("no", slow="drop_oldest")) == 0
    late = publication("late", slow="drop_oldest")
    late.envelope.expires_at_ms = 1
    assert room.hub.deliver(late) == 0
    assert room.heard() == {}


def test_a_policy_of_another_program_without_a_key_is_the_simpler_one() -> None:
    found = publication(slow="newest_per_key", key="k")
    found.envelope.key = None
    assert found.policy == Policy()
    assert publication().policy is None
