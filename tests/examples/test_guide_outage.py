"""The broker of two replicas is killed and comes back: the guide's application goes on."""

from __future__ import annotations

from antiphon.dev.broker_server import BrokerServer
from tests.examples.guide import Replica, eventually


async def state(replica: Replica) -> str:
    managers = (await replica.make("GET", "/stats"))["managers"]
    return str(managers["track_comments"]["state"])


async def test_application_goes_on_when_the_broker_dies_and_returns(
    broker: BrokerServer, pair_of_broker: list[Replica]
) -> None:
    here, there = pair_of_broker
    comment = {"track_id": "7", "content": "Before", "timestamp": 1}
    async with here.listen("/ws/comments/7") as near, there.listen("/ws/comments/7") as far:
        before = await here.make("POST", "/api/comments", comment)
        assert [(await listener.next())["data"]["content"] for listener in (near, far)] == ["Before", "Before"]

        broker.kill()
        during = await here.make("POST", "/api/comments", {**comment, "content": "During"})
        assert during["delivery"]["scope"] == "local"
        assert (await near.next())["data"]["content"] == "During"
        await here.make("PUT", f"/api/comments/{before['id']}", {"content": "Edited"})
        assert (await near.next())["data"]["content"] == "Edited"
        request = await there.make("POST", "/api/book-requests", {"title": "Momo"}, user="ben")
        path = f"/api/book-requests/{request['id']}/status"
        assert (await there.make("PUT", path, {"status": "approved"}, role="creator"))["status"] == "approved"
        assert (await there.call("DELETE", "/api/comments/unknown")).status_code == 404
        assert await state(here) == "degraded"

        broker.restart()

        async def is_up() -> bool:
            return [await state(here), await state(there)] == ["up", "up"]

        await eventually(is_up, "both replicas are back")
        assert [(await far.next())["data"]["content"] for _ in range(2)] == ["During", "Edited"]

        async def is_known_there() -> bool:
            answer = await there.call("PUT", f"/api/comments/{during['id']}", {"content": "After"})
            return answer.status_code == 200

        await eventually(is_known_there, "the other replica knows the comment of the outage")
        assert [(await listener.next())["data"]["content"] for listener in (near, far)] == ["After", "After"]

        async def is_known_here() -> bool:
            answer = await here.call("PUT", path, {"status": "fulfilled"}, role="creator")
            return answer.status_code == 200 and answer.json()["title"] == "Momo"

        await eventually(is_known_here, "this replica knows the book request of the outage")
        assert await near.has_nothing_more()
        assert await far.has_nothing_more()
