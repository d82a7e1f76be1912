"""Ended sessions when something fails: what the result says, what is refused, and who is cut all the same."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from antiphon.brokers.memory import MemoryBroker
from antiphon.errors import ConfigurationError, InvalidUserId
from antiphon.revocation import Disconnected
from antiphon.topics import CONTROL_ROUTE
from tests.unit.browsers import until
from tests.unit.revocations import CUT, Fleet, now_s, texts

pytestmark = pytest.mark.virtual_time


async def test_revocation_is_local_and_incomplete_when_the_broker_is_away_and_reaches_the_others_when_it_is_back() -> (
    None
):
    async with Fleet() as fleet:
        his = [await replica.connect("42", "s1") for replica in fleet.replicas]
        others = [await replica.connect("4", "s2") for replica in fleet.replicas]
        await fleet.lose_broker()
        fleet.database.ended.add("s1")
        begun = now_s()
        done = await fleet.replicas[0].revocations.disconnect_session("s1")

        assert done == Disconnected(connections=1, replicas=1, complete=False)
        assert now_s() - begun < 2.0
        assert [texts(connection) for connection in his] == [[CUT], [], []]
        await fleet.regain_broker()
        back = now_s()
        await until(lambda: [texts(connection) for connection in his] == [[CUT]] * 3)
        assert now_s() - back < 2.0
        assert [texts(connection) for connection in others] == [[]] * 3


async def test_lost_revocation_takes_a_minute_at_most_when_the_broker_stays_away() -> None:
    async with Fleet() as fleet:
        his = [await replica.connect("42", "s1") for replica in fleet.replicas]
        await fleet.lose_broker()
        await asyncio.sleep(100.0)
        fleet.database.ended.add("s1")
        begun = now_s()
        await until(lambda: [texts(connection) for connection in his] == [[CUT]] * 3, within_s=100.0)
        assert now_s() - begun < 61.0


@pytest.mark.parametrize("fault", ["freeze", "deaf", "swallow"])
async def test_revocation_returns_in_time_and_incomplete_when_the_broker_fails_under_way(fault: str) -> None:
    async with Fleet(2) as fleet:
        his = [await replica.connect("42", "s1") for replica in fleet.replicas]
        begun = now_s()
        if fault == "freeze":
            fleet.server.freeze()
        elif fault == "deaf":
            fleet.server.deaf = True
        else:
            fleet.server.swallow_next_reply()
        ending = asyncio.create_task(fleet.replicas[0].revocations.disconnect_user("42"))
        await until(lambda: texts(his[0]) == [CUT])
        assert now_s() - begun < 0.5
        done = await ending
        fleet.server.thaw()
        fleet.server.deaf = False

        assert not done.complete
        assert now_s() - begun < 3.0


async def test_revocation_is_incomplete_when_a_replica_does_not_answer() -> None:
    async with Fleet(2) as fleet:
        await fleet.replicas[1].connect("42", "s1")
        killed = await MemoryBroker(fleet.server).open_listening()
        killed.subscribe([CONTROL_ROUTE])
        await until(lambda: fleet.server.listeners(CONTROL_ROUTE) == 3)

        assert await fleet.replicas[0].revocations.disconnect_user("42") == Disconnected(1, 2, False)
        await killed.close()


async def test_revocation_is_incomplete_when_a_replica_of_an_earlier_release_answers_something_else() -> None:
    async with Fleet(2) as fleet:
        earlier = fleet.replicas[1]
        earlier.revocations.close()
        earlier.census.add("c", lambda question: {"connections": 1, "users": 1, "sketch": []}, about="revoke")

        assert await fleet.replicas[0].revocations.disconnect_user("42") == Disconnected(0, 2, False)


@pytest.mark.parametrize(
    "question",
    [
        {},
        {"user": 42},
        {"session": None},
        {"user": None, "session": []},
        {"user": "42", "except": "42"},
        {"user": "nobody", "except": [1, None]},
        {"session": "*"},
    ],
    ids=str,
)
async def test_question_that_names_nobody_cuts_nobody(question: dict[str, object]) -> None:
    async with Fleet(1) as fleet:
        replica = fleet.replicas[0]
        connections = [await replica.connect("7", "s1"), await replica.connect(None, guest=True)]
        await replica.census.ask("c", question, timeout_s=1.0, about="revoke")
        assert [texts(connection) for connection in connections] == [[], []]


@pytest.mark.parametrize("user_id", ["", 42, None])
async def test_user_id_that_cannot_be_meant_is_refused(user_id: str) -> None:
    async with Fleet(1) as fleet:
        with pytest.raises(InvalidUserId):
            await fleet.replicas[0].revocations.disconnect_user(user_id)


@pytest.mark.parametrize("session_id", ["", None, 7, "s" * 1_001])
async def test_session_id_that_cannot_be_meant_is_refused(session_id: str) -> None:
    async with Fleet(1) as fleet:
        with pytest.raises(ConfigurationError):
            await fleet.replicas[0].revocations.disconnect_session(session_id)


@pytest.mark.parametrize(
    "except_", [["own", 7], 7, ["own", *map(str, range(1_000))]], ids=["list with a number", "number", "many"]
)
async def test_exceptions_that_cannot_be_meant_are_refused_when_the_others_were_cut_here(except_: Any) -> None:
    async with Fleet(1) as fleet:
        replica = fleet.replicas[0]
        own, other = await replica.connect("42", "own"), await replica.connect("42", "s1")
        with pytest.raises(ConfigurationError, match="except_"):
            await replica.revocations.disconnect_user("42", except_=except_)
        assert texts(other) == [CUT]
        assert texts(own) == ([CUT] if except_ == 7 else [])


@pytest.mark.parametrize("except_", [None, [None], {None, "nobody"}], ids=["none", "list", "set"])
async def test_exception_that_is_none_is_no_exception(except_: Any) -> None:
    """As the session id of somebody who has none."""
    async with Fleet(2) as fleet:
        his = [await replica.connect("42") for replica in fleet.replicas]
        assert await fleet.replicas[0].revocations.disconnect_user("42", except_=except_) == Disconnected(2, 2, True)
        assert [texts(connection) for connection in his] == [[CUT]] * 2
