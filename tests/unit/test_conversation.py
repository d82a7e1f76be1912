"""One client's conversation: limits, answers, signs of life. Whole conversations are those of `protocol/vectors`."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest

from antiphon.codes import CloseCode, Reason, State
from antiphon.connection import Connection
from antiphon.conversation import (
    Actions,
    ClientPublishing,
    Conversation,
    Conversations,
    Heartbeat,
    OnMessage,
)
from antiphon.conversation.wheel import SLICE, Wheel
from antiphon.errors import ConfigurationError, MessageTooLarge, PublishFailed
from antiphon.hub import Hub
from antiphon.journal import Journal
from antiphon.limits import Limits
from antiphon.testing.doubles import RecordingLane, RecordingTransport
from antiphon.testing.virtual_time import VirtualTimeLoop
from tests.unit.vectors import cases

pytestmark = pytest.mark.virtual_time


class Sent(NamedTuple):
    """What became of a publication."""

    id: str
    scope: str


class Replica:
    """A replica as its conversations see it: rules are sets of topics, and what was asked for is written down."""

    def __init__(
        self,
        *,
        may_hear: list[str] | None = None,
        publishing: Mapping[str, Any] | None = None,
        limits: Mapping[str, int] | None = None,
    ) -> None:
        self.hub = Hub("c")
        self.state = State.UP
        self.asked: list[str] = []
        self.published: list[list[object]] = []
        self.publishing_fails: Exception | None = None
        self.rule_fails = False
        self._may_hear = may_hear
        loop = asyncio.get_running_loop()
        self.conversations = Conversations(
            self.hub,
            actions=Actions(
                subscribe=self._subscribe,
                unsubscribe=self.hub.unsubscribe,
                publish=self._publish,
                may_hear=None if may_hear is None else self._allows,
            ),
            limits=Limits(**(limits or {})),
            journal=Journal(),
            state=lambda: self.state,
            publishing=None
            if publishing is None
            else ClientPublishing(
                may_publish=lambda connection, topic: topic in publishing["topics"], fields=publishing["fields"]
            ),
            clock=loop.time,
        )

    @property
    def counters(self) -> Any:
        return self.conversations.counters

    async def _allows(self, connection: Connection, topic: str) -> bool:
        await asyncio.sleep(0)
        if self.rule_fails:
            raise ZeroDivisionError
        self.asked.append(topic)
        return self._may_hear is not None and ("*" in self._may_hear or topic in self._may_hear)

    async def _subscribe(self, connection: Connection, topic: str) -> None:
        await asyncio.sleep(0)
        self.hub.subscribe(connection, topic)

    async def _publish(self, message: Mapping[str, object], topic: str) -> Sent:
        await asyncio.sleep(0)
        if self.publishing_fails is not None:
            raise self.publishing_fails
        self.published.append([topic, message])
        return Sent(f"r-{len(self.published)}", "cluster")

    def client(
        self,
        protocol: str = "bare",
        *,
        user_id: str | None = None,
        heartbeat: Heartbeat = "none",
        handler: bool | OnMessage = True,
        id: str = "r-1",
    ) -> Client:
        return Client(self, protocol, user_id=user_id, heartbeat=heartbeat, handler=handler, id=id)


class Client:
    """A client whose messages are given to a conversation."""

    def __init__(
        self,
        replica: Replica,
        protocol: str,
        *,
        user_id: str | None,
        heartbeat: Heartbeat,
        handler: bool | OnMessage,
        id: str,
    ) -> None:
        self.transport = RecordingTransport(RecordingLane())
        self.connection = Connection(id, user_id=user_id, transport=self.transport)
        replica.hub.add(self.connection)
        self.handled: list[object] = []
        self._read = 0
        self.conversation: Conversation = replica.conversations.begin(
            self.connection,
            on_message=(self._note if handler is True else None) if isinstance(handler, bool) else handler,
            heartbeat=heartbeat,
            speaks_v1=protocol == "antiphon.v1",
        )

    async def _note(self, connection: Connection, message: object) -> None:
        assert connection is self.connection
        self.handled.append(message)

    async def says(self, text: str | None, *, binary: bytes | None = None) -> None:
        rest = self.conversation.take({"type": "websocket.receive", "text": text, "bytes": binary})
        if rest is not None:
            await rest

    def unread(self) -> list[dict[str, Any]]:
        """The frames that came since the last call."""
        frames = [json.loads(text) for text in self.transport.texts[self._read :]]
        self._read = len(self.transport.frames)
        return frames

    @property
    def close_code(self) -> int | None:
        return None if self.transport.close_sent is None else self.transport.close_sent[0]


# -- whole conversations ----------------------------------------------------------------------------------------------


class Play:
    """Plays one conversation of the vectors. Each kind of step is a method; `frames` came and were not looked at."""

    def __init__(self, setting: dict[str, Any]) -> None:
        setting = dict(setting)
        self.replica = Replica(
            **{name: setting.pop(name) for name in ("may_hear", "publishing", "limits") if name in setting}
        )
        self.client = self.replica.client(**setting)
        self.frames: list[dict[str, Any]] = []

    async def step(self, step: dict[str, Any]) -> None:
        step = dict(step)
        kind = next(name for name in step if name not in ("times", "code"))
        await getattr(self, f"on_{kind}")(step.pop(kind), **step)
        self.frames += self.client.unread()

    async def on_client(self, text: str, times: int = 1) -> None:
        for _ in range(times):
            await self.client.says(text)

    async def on_client_binary(self, data: str) -> None:
        await self.client.says(None, binary=bytes.fromhex(data))

    async def on_client_fill(self, fill: dict[str, Any]) -> None:
        missing = fill["bytes"] - len((fill["before"] + fill["after"]).encode())
        text = fill["before"] + fill["fill"] * (missing // len(fill["fill"].encode())) + fill["after"]
        assert len(text.encode()) == fill["bytes"]
        await self.client.says(text)

    async def on_server(self, expected: dict[str, Any]) -> None:
        frame = self.frames.pop(0)
        assert frame.keys() == expected.keys()
        assert {name: frame[name] for name, value in expected.items() if value != "*"} == {
            name: value for name, value in expected.items() if value != "*"
        }

    async def on_errors(self, count: int, *, code: str) -> None:
        await self.on_quiet_but(count)
        assert [frame["code"] for frame in self.frames] == [code] * count
        self.frames.clear()

    async def on_quiet_but(self, count: int) -> None:
        assert len(self.frames) == count

    async def on_quiet(self, _: bool) -> None:
        assert self.frames == []
        assert self.client.close_code is None

    async def on_handler(self, expected: object) -> None:
        assert expected in ("*", self.client.handled.pop(0))

    async def on_handled(self, count: int) -> None:
        assert len(self.client.handled) == count
        self.client.handled.clear()

    async def on_wait_s(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def on_open(self, _: bool) -> None:
        assert self.client.close_code is None

    async def on_close(self, code: int) -> None:
        assert self.client.close_code == code
        await self.client.says('{"type":"ping"}')
        assert self.client.handled == []

    async def on_hears(self, topics: list[str]) -> None:
        assert sorted(self.client.connection.topics) == topics == sorted(self.replica.hub.topics)

    async def on_asked(self, topics: list[str]) -> None:
        assert self.replica.asked == topics

    async def on_published(self, expected: list[object]) -> None:
        assert self.replica.published == expected
        self.replica.published.clear()

    async def on_state(self, state: str) -> None:
        self.replica.state = State(state)

    async def on_topic_ended(self, topic: str) -> None:
        self.replica.conversations.topic_ended(self.client.connection, topic)

    def finish(self) -> None:
        """Nothing has happened that no step named."""
        assert self.frames == []
        assert self.client.handled == []
        self.replica.conversations.close()


@pytest.mark.parametrize("case", cases("conversations", "conversations"), ids=lambda case: case["name"])
async def test_a_conversation_goes_as_the_vectors_say(case: dict[str, Any]) -> None:
    play = Play(case["setting"])
    play.frames += play.client.unread()
    for step in case["steps"]:
        await play.step(step)
    play.finish()


# -- what is counted and bounded --------------------------------------------------------------------------------------


async def test_what_clients_send_is_counted_with_what_was_refused() -> None:
    replica = Replica(limits={"frames_burst": 3})
    client = replica.client()
    for text in ("{}", "[]", "{", "{}", "{}"):
        await client.says(text)

    assert (replica.counters.received, replica.counters.received_bytes) == (5, 9)
    assert replica.counters.refused == Counter(bad_request=2, too_fast=2)
    await client.says("x" * 70_000)
    assert replica.counters.closed == Counter(TOO_BIG=1)


async def test_connections_of_one_user_share_an_allowance_and_others_have_their_own() -> None:
    replica = Replica(limits={"user_frames_burst": 3, "user_frames_per_s": 1})
    ann, also_ann = replica.client(user_id="ann", id="1"), replica.client(user_id="ann", id="2")
    ben, nobody = replica.client(user_id="ben", id="3"), replica.client(id="4")
    for client in (ann, also_ann, ben, nobody):
        await client.says("{}")
        await client.says("{}")

    assert [len(client.handled) for client in (ann, also_ann, ben, nobody)] == [2, 1, 2, 2]
    assert [frame["code"] for frame in also_ann.unread()] == ["too_fast"]
    await asyncio.sleep(1)
    await also_ann.says("{}")
    assert len(also_ann.handled) == 2


async def test_a_flood_ends_after_as_many_errors_as_the_rule_says_however_fast_it_is() -> None:
    replica = Replica()
    client = replica.client()
    sent = 0
    while client.close_code is None:
        await client.says('{"n":1}')
        sent += 1
        if sent % 5 == 0:
            await asyncio.sleep(0.01)  # 500 a second

    assert client.close_code == CloseCode.TOO_FAST
    seconds = asyncio.get_running_loop().time()
    assert sent == pytest.approx(500 * seconds, abs=6)
    assert len(client.handled) == pytest.approx(200 + 100 * seconds, abs=2)
    assert 200 <= len(client.unread()) <= 200 + 10 * seconds
    assert seconds < 1.5


async def test_a_client_that_is_a_little_too_fast_is_told_and_stays() -> None:
    replica = Replica()
    client = replica.client()
    for _ in range(60 * 105):
        await client.says("{}")
        await asyncio.sleep(1 / 105)

    assert client.close_code is None
    assert len(client.handled) == pytest.approx(60 * 100 + 200, abs=3)
    assert len(client.unread()) == pytest.approx(60 * 105 - 60 * 100 - 200, abs=3)


async def test_a_subscription_flood_is_refused_before_anybody_is_asked_and_ends() -> None:
    replica = Replica(may_hear=["*"])
    client = replica.client("antiphon.v1")
    client.unread()
    number = 0
    while client.close_code is None:
        number += 1
        await client.says(json.dumps({"type": "subscribe", "topic": f"t{number}", "ref": number}))
        await asyncio.sleep(0.001)

    answers = Counter(frame.get("code", frame["type"]) for frame in client.unread())
    assert client.close_code == CloseCode.TOO_FAST
    assert answers["subscribed"] == len(replica.asked) == 128
    assert 200 <= answers["too_fast"] <= 200 + 10 * asyncio.get_running_loop().time()
    assert number < 1_000


async def test_a_message_that_is_far_too_large_is_not_even_encoded() -> None:
    replica = Replica()
    client = replica.client()
    await client.says("\ud800" * 17 * 1024 * 1024)

    assert client.close_code == CloseCode.TOO_BIG
    assert replica.counters.received_bytes == 0


async def test_the_socket_is_read_again_when_it_is_closed_so_that_the_client_can_answer() -> None:
    calls: list[object] = []

    class Transport(RecordingTransport):
        def resume_reading(self) -> None:
            calls.append("resume")

        def close(self, code: int, reason: str, *, discard: bool = False) -> None:
            calls.append(code)

    connection = Connection("r-1", user_id=None, transport=Transport())
    conversation = Replica().conversations.begin(connection)
    assert conversation.take({"text": None, "bytes": b"{}"}) is None

    assert calls == ["resume", CloseCode.UNSUPPORTED]


@pytest.mark.parametrize("text", ["\ud800", '{"a":"\udfff"}'])
async def test_a_text_with_a_lone_surrogate_is_refused(text: str) -> None:
    client = Replica().client()
    await client.says(text)

    assert [frame["code"] for frame in client.unread()] == ["bad_request"]
    assert client.close_code is None


async def test_without_a_handler_everything_is_read_and_only_the_limits_hold() -> None:
    client = Replica(limits={"frames_burst": 2, "frames_per_s": 1}).client(handler=False)
    await client.says("no json")
    await client.says("{}")
    assert client.unread() == []
    await client.says("{}")
    assert [frame["code"] for frame in client.unread()] == ["too_fast"]


# -- handlers and rules that fail -------------------------------------------------------------------------------------


async def test_a_handler_that_raises_is_counted_and_the_next_message_is_handled() -> None:
    replica = Replica()
    seen: list[object] = []

    async def on_message(connection: Connection, message: object) -> None:
        seen.append(message)
        if len(seen) == 1:
            raise ZeroDivisionError

    client = replica.client(handler=on_message)
    await client.says('{"n":1}')
    await client.says('{"n":2}')

    assert seen == [{"n": 1}, {"n": 2}]
    assert replica.hub.counters.handler_errors == 1
    assert client.unread() == []


async def test_a_rule_that_raises_counts_as_no() -> None:
    replica = Replica(may_hear=["*"])
    client = replica.client("antiphon.v1")
    replica.rule_fails = True
    await client.says('{"type":"subscribe","topic":"a","ref":1}')

    assert [frame.get("code") for frame in client.unread()] == [None, "forbidden"]
    assert client.connection.topics == frozenset()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MessageTooLarge(9, limit_bytes=8), "too_large"),
        (PublishFailed(reason=Reason.TIMEOUT, channel="c", id="r-1", outcome_unknown=True), "unavailable"),
        (PublishFailed(reason=Reason.UNREACHABLE, channel="c", id="r-1"), "unavailable"),
        (ZeroDivisionError("secret"), "internal"),
    ],
)
async def test_a_publication_that_fails_is_answered_with_the_reason(error: Exception, code: str) -> None:
    replica = Replica(publishing={"topics": ["a"], "fields": ["x"]})
    client = replica.client("antiphon.v1")
    client.unread()
    replica.publishing_fails = error
    await client.says('{"type":"publish","topic":"a","message":{"x":1},"ref":7}')
    await client.says('{"type":"ping","ref":8}')

    refused, alive = client.unread()
    assert (refused["code"], refused["ref"], alive) == (code, 7, {"type": "pong", "ref": 8})
    assert "secret" not in refused["message"]
    assert replica.counters.published == 0


async def test_the_server_says_who_a_publication_is_from_and_nested_fields_stay() -> None:
    rule = ClientPublishing(
        may_publish=lambda connection, topic: True,
        fields=["text", "from"],
        identity=lambda connection: {"from": connection.user_id, "connection": connection.id},
    )
    replica = Replica()
    connection = replica.client(user_id="42").connection
    cleaned = rule.cleaned({"from": "1", "connection": "x", "off": 1, "ts": 2, "text": {"admin": True}}, connection)

    assert cleaned == {"from": "42", "connection": "r-1", "text": {"admin": True}}


@pytest.mark.parametrize("fields", ["text", [], frozenset()])
def test_a_publishing_rule_must_name_fields(fields: Any) -> None:
    with pytest.raises(ConfigurationError, match="name the fields"):
        ClientPublishing(may_publish=lambda connection, topic: True, fields=fields)


async def test_a_client_that_goes_while_it_is_asked_for_is_not_subscribed() -> None:
    replica = Replica(may_hear=["*"])
    client = replica.client("antiphon.v1")
    rest = client.conversation.take({"text": '{"type":"subscribe","topic":"a"}'})
    assert rest is not None
    client.conversation.end()
    await rest

    assert list(replica.hub.topics) == []


# -- signs of life ----------------------------------------------------------------------------------------------------


async def test_a_busy_handler_is_no_silence() -> None:
    replica = Replica()

    async def on_message(connection: Connection, message: object) -> None:
        await asyncio.sleep(120)

    client = replica.client("antiphon.v1", handler=on_message)
    rest = client.conversation.take({"text": '{"type":"message","message":1}'})
    assert rest is not None
    await rest
    await asyncio.sleep(8)
    assert client.close_code is None
    assert [frame["type"] for frame in client.unread()].count("ping") >= 4
    await asyncio.sleep(40)
    assert client.close_code == CloseCode.NO_PONG


async def test_time_in_which_the_loop_stood_still_does_not_count_as_silence() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    replica = Replica()
    client = replica.client("antiphon.v1")
    while client.unread()[-1:] != [{"type": "ping"}]:
        await asyncio.sleep(0.5)
    beating = replica.client(heartbeat="earlier", id="r-2")
    for _ in range(3):
        loop.stand_still(20)
        await asyncio.sleep(1)
        assert client.close_code is None
    assert beating.unread() == []
    await client.says('{"type":"pong"}')
    await asyncio.sleep(20)
    assert client.close_code is None


async def test_pings_of_clients_that_came_together_are_spread_over_the_interval() -> None:
    replica = Replica()
    clients = [replica.client("antiphon.v1", id=f"r-{number}", handler=False) for number in range(100)]
    pinged: list[int] = []
    for _ in range(26):
        await asyncio.sleep(1)
        pinged.append(sum({"type": "ping"} in client.unread() for client in clients))

    assert sum(pinged) >= 100
    assert max(pinged) <= 8


async def test_one_timer_serves_all_and_is_gone_with_the_last_client() -> None:
    loop: Any = asyncio.get_running_loop()
    before = len(loop._scheduled)
    replica = Replica()
    clients = [replica.client("antiphon.v1", id=f"r-{number}") for number in range(50)]
    clients += [replica.client(heartbeat="earlier", id=f"s-{number}") for number in range(50)]
    assert len(loop._scheduled) == before + 1
    for client in clients:
        client.conversation.end()
    await asyncio.sleep(70)

    assert len(replica.conversations.wheel) == 0
    assert len(loop._scheduled) == before
    newcomer = replica.client("antiphon.v1", id="t")
    await asyncio.sleep(27)
    assert newcomer.unread()[-1] == {"type": "ping"}
    replica.conversations.close()
    await asyncio.sleep(60)
    assert newcomer.close_code is None


async def test_everybody_who_speaks_v1_is_told_of_a_change_once_and_nobody_else() -> None:
    replica = Replica()
    clients = [replica.client("antiphon.v1", id=f"r-{number}") for number in range(3)]
    bare = replica.client(heartbeat="earlier", id="bare")
    clients[0].conversation.end()
    replica.state = State.DEGRADED
    late = replica.client("antiphon.v1", id="late")
    await asyncio.sleep(3)

    told = [[frame for frame in client.unread() if frame["type"] == "status"] for client in (*clients, late, bare)]
    assert told == [[], [{"type": "status", "state": "degraded"}], [{"type": "status", "state": "degraded"}], [], []]
    replica.conversations.topic_ended(bare.connection, "a")
    assert bare.unread() == []


class Counting:
    """A member of a wheel that wants to be visited every so many ticks."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.visits: list[int] = []
        self.raises = False

    def visit(self, tick: int) -> int:
        self.visits.append(tick)
        if self.raises:
            raise ZeroDivisionError
        return self.every


async def test_a_wheel_visits_each_member_when_its_time_has_come() -> None:
    wheel = Wheel()
    members = [Counting(every) for every in (1, 7, 63)]
    for member in members:
        wheel.add(member, in_ticks=member.every)
    await asyncio.sleep(130.5)

    assert wheel.tick == 131
    assert [len(member.visits) for member in members] == [130, 18, 2]
    assert members[2].visits == [64, 127]
    wheel.close()


async def test_a_wheel_goes_on_when_a_member_raises() -> None:
    loop = asyncio.get_running_loop()
    reported: list[object] = []
    loop.set_exception_handler(lambda loop, context: reported.append(context["exception"]))
    wheel = Wheel()
    bad, good = Counting(1), Counting(1)
    bad.raises = True
    for member in (good, bad):
        wheel.add(member, in_ticks=1)
    await asyncio.sleep(10.5)

    assert [type(error) for error in reported] == [ZeroDivisionError]
    assert (len(bad.visits), len(good.visits)) == (1, 10)
    wheel.close()


async def test_a_wheel_lets_others_run_between_many_visits() -> None:
    wheel = Wheel()
    members = [Counting(0) for _ in range(3 * SLICE)]
    for member in members:
        wheel.add(member, in_ticks=1)
    loop = asyncio.get_running_loop()
    seen: list[int] = []

    def look() -> None:
        seen.append(sum(len(member.visits) for member in members))
        if seen[-1] < len(members):
            loop.call_soon(look)

    loop.call_at(loop.time() + 1, look)
    await asyncio.sleep(2)

    assert max(later - earlier for earlier, later in itertools.pairwise(seen)) <= SLICE
    assert seen[-1] == len(members)
    assert len(wheel) == 0


# -- memory -----------------------------------------------------------------------------------------------------------


async def test_an_idle_conversation_takes_little_and_a_finished_one_holds_nothing() -> None:
    replica = Replica()
    client = replica.client("antiphon.v1")
    assert sys.getsizeof(client.conversation) <= 128
    kept = [part for part in gc.get_referents(client.conversation) if isinstance(part, float)]
    assert all(part == 0.0 for part in kept)
    client.conversation.end()
    assert not any(isinstance(part, Connection) for part in gc.get_referents(client.conversation))
    replica.conversations.close()
