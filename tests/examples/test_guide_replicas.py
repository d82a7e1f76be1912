"""Two replicas of the guide's application and one broker: what goes in here comes out there."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from tests.examples.guide import Json, Listener, Replica, eventually

STATUSES = ["approved", "in_progress", "fulfilled", "rejected", "pending"]


async def everybody(replicas: list[Replica], path: str, stack: AsyncExitStack) -> list[Listener]:
    """A listener on each replica."""
    return [await stack.enter_async_context(replica.listen(path)) for replica in replicas]


async def hear(listeners: list[Listener]) -> Json:
    """What all of them receive next, which must be the same."""
    first, *others = await asyncio.gather(*(listener.next() for listener in listeners))
    assert all(other == first for other in others)
    return first


def without_delivery(answer: Json) -> Json:
    return {name: value for name, value in answer.items() if name != "delivery"}


@pytest.mark.parametrize("publisher", [0, 1])
async def test_broadcast_reaches_both_replicas_when_posted_to_either(pair: list[Replica], publisher: int) -> None:
    async with AsyncExitStack() as stack:
        listeners = await everybody(pair, "/ws/broadcasts?user_id=ben", stack)
        posted = await pair[publisher].make("POST", "/api/broadcasts", {"title": "Friday", "content": "New album"})
        message = await hear(listeners)
        assert message == {"type": "new_broadcast", "data": without_delivery(posted)}
        assert (posted["title"], posted["content"], posted["user_id"]) == ("Friday", "New album", "ann")
        assert posted["delivery"]["scope"] == "cluster"
        assert all([await listener.has_nothing_more() for listener in listeners])


async def test_broadcasts_arrive_once_and_in_order_when_many_are_posted(pair: list[Replica]) -> None:
    async with AsyncExitStack() as stack:
        listeners = await everybody(pair, "/ws/broadcasts", stack)
        for number in range(20):
            await pair[number % 2].make("POST", "/api/broadcasts", {"title": f"{number}", "content": "x"})
        for listener in listeners:
            assert [(await listener.next())["data"]["title"] for _ in range(20)] == [f"{n}" for n in range(20)]
            assert await listener.has_nothing_more()


async def test_comment_is_edited_and_deleted_when_asked_through_the_other_replica(pair: list[Replica]) -> None:
    here, there = pair
    async with AsyncExitStack() as stack:
        listeners = await everybody(pair, "/ws/comments/7?user_id=ben", stack)
        posted = await here.make("POST", "/api/comments", {"track_id": "7", "content": "First", "timestamp": 83.5})
        message = await hear(listeners)
        assert message == {"type": "new_comment", "track_id": "7", "data": without_delivery(posted)}
        assert (posted["content"], posted["timestamp"], posted["user_id"]) == ("First", 83.5, "ann")

        path = f"/api/comments/{posted['id']}"
        edited = await there.make("PUT", path, {"content": "Second"})
        message = await hear(listeners)
        assert message == {"type": "comment_updated", "track_id": "7", "data": without_delivery(edited)}
        assert (edited["id"], edited["content"], edited["timestamp"]) == (posted["id"], "Second", 83.5)

        await here.make("DELETE", path)
        message = await hear(listeners)
        assert message == {"type": "comment_deleted", "track_id": "7", "data": {"id": posted["id"], "track_id": "7"}}
        for replica in pair:
            assert (await replica.call("PUT", path, {"content": "Third"})).status_code == 404


async def test_comment_stays_unheard_when_another_track_is_watched(pair: list[Replica]) -> None:
    here, there = pair
    async with here.listen("/ws/comments/1") as near, there.listen("/ws/comments/1") as far:
        await here.make("POST", "/api/comments", {"track_id": 2, "content": "Elsewhere", "timestamp": 0})
        posted = await here.make("POST", "/api/comments", {"track_id": 1, "content": "Here", "timestamp": 0})
        assert posted["track_id"] == "1"
        for listener in (near, far):
            message = await listener.next()
            assert (message["track_id"], message["data"]["content"]) == ("1", "Here")
            assert await listener.has_nothing_more()


async def test_connected_comes_first_when_comments_are_under_way(pair: list[Replica]) -> None:
    here, there = pair
    for track in range(20, 30):
        comment = {"track_id": track, "content": "Early", "timestamp": 0}
        async with asyncio.TaskGroup() as posting:
            for _ in range(8):
                posting.create_task(there.make("POST", "/api/comments", comment))
            async with here.listen(f"/ws/comments/{track}"):  # asserts it
                pass


async def test_comment_is_refused_to_others_when_they_edit_or_delete_it(pair: list[Replica]) -> None:
    posted = await pair[0].make("POST", "/api/comments", {"track_id": "7", "content": "Mine", "timestamp": 1})
    path = f"/api/comments/{posted['id']}"
    for replica in pair:
        assert (await replica.call("PUT", path, {"content": "Yours"}, user="ben")).status_code == 403
        assert (await replica.call("DELETE", path, user="ben")).status_code == 403
    assert (await pair[1].make("PUT", path, {"content": "Still mine"}))["content"] == "Still mine"


async def test_post_reaches_its_thread_alone_when_written_on_another_replica(pair: list[Replica]) -> None:
    here, there = pair
    async with (
        here.listen("/ws/forum/9") as near,
        there.listen("/ws/forum/9") as far,
        there.listen("/ws/forum/8") as other,
    ):
        posted = await here.make("POST", "/api/forum/posts", {"thread_id": "9", "content": "Hello"})
        message = await hear([near, far])
        assert message == {"type": "new_post", "thread_id": "9", "data": without_delivery(posted)}
        assert (posted["content"], posted["user_id"]) == ("Hello", "ann")
        assert await other.has_nothing_more()


async def test_book_request_reaches_requester_and_creators_when_made_and_decided(pair: list[Replica]) -> None:
    here, there = pair
    async with AsyncExitStack() as stack:
        requester = await everybody(pair, "/ws/book-requests?user_id=ann", stack)
        stranger = await everybody(pair, "/ws/book-requests?user_id=ben", stack)
        creators = await everybody(pair, "/ws/book-requests/admin?user_id=cleo&role=creator", stack)

        made = await here.make("POST", "/api/book-requests", {"title": "Momo"})
        id = made["id"]
        data = {"id": id, "title": "Momo", "status": "pending"}
        assert await hear(requester) == {"type": "request_created", "data": data}
        data = {"id": id, "title": "Momo", "user": "ann", "created_at": made["created_at"]}
        assert await hear(creators) == {"type": "new_request", "data": data}

        for replica, status in zip([there, here, there, here, there], STATUSES, strict=True):
            path = f"/api/book-requests/{id}/status"
            decided = await replica.make("PUT", path, {"status": status}, user="cleo", role="creator")
            assert decided["status"] == status
            told = {"id": id, "status": status, "message": f"Your request 'Momo' is now {status}"}
            assert await hear(requester) == {"type": "status_updated", "data": told}
            assert await hear(creators) == {"type": "request_updated", "data": {"id": id, "status": status}}
        assert all([await listener.has_nothing_more() for listener in stranger])


async def test_stats_count_both_replicas_when_clients_are_connected_to_each(pair: list[Replica]) -> None:
    here, there = pair
    async with here.listen("/ws/forum/9?user_id=ann"), here.listen("/ws/forum/9?user_id=ann"):
        async with there.listen("/ws/forum/9?user_id=ann"), there.listen("/ws/forum/5?user_id=ben"):
            counted = {"connections": 4, "users": 2, "replicas": 2, "complete": True}

            async def counts_are_right() -> bool:  # sockets of the tests before may still be leaving
                first, second = [(await replica.make("GET", "/stats"))["managers"]["forum"] for replica in pair]
                here_right = (first["connections"], first["users"], first["cluster"]) == (2, 1, counted)
                return here_right and (second["connections"], second["users"], second["cluster"]) == (2, 2, counted)

            await eventually(counts_are_right, "the counts")
    stats = await here.make("GET", "/stats")
    assert list(stats["managers"]) == ["broadcasts", "track_comments", "forum", "book_requests", "book_requests_admin"]
    assert {manager["state"] for manager in stats["managers"].values()} == {"up"}
