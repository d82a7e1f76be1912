"""Comments as people on two replicas see them: with a broker, with one that dies half-way, and without."""

from __future__ import annotations

import copy
from contextlib import AsyncExitStack

import pytest
from conftest import MakeSite

from harness.site import Json, Person, Socket, eventually
from harness.tracks import add_track


async def write(person: Person, track: int, content: str, timestamp: float = 1.0, **more: object) -> Json:
    form = {"content": content, "timestamp": timestamp, **more}
    comment: Json = await person.post(f"/api/tracks/{track}/comments", data=form, status=201)
    return comment


async def listed(person: Person, track: int) -> list[Json]:
    """All comments, over as many pages as it takes."""
    items: list[Json] = []
    cursor = ""
    while True:
        page = await person.get(f"/api/tracks/{track}/comments?limit=3{cursor}")
        items += page["items"]
        if page["next_cursor"] is None:
            return items
        cursor = f"&cursor={page['next_cursor']}"


def folded(state: list[Json], messages: list[Json]) -> list[Json]:
    """What a page makes of the comments that it has and the messages that came."""
    comments = {comment["id"]: copy.deepcopy(comment) for comment in state}
    for message in messages:
        if message["type"] == "new_comment":
            comments[message["comment"]["id"]] = message["comment"]
        elif message["type"] == "comment_edited":
            kept = ("content", "timestamp", "is_edited", "last_edited_at")
            comments[message["comment_id"]].update({name: message[name] for name in kept})
        elif message["type"] == "comment_deleted":
            comments.pop(message["comment_id"])
            for comment in comments.values():
                if comment["parent_id"] == message["comment_id"]:
                    comment["parent_id"] = None
    return sorted(comments.values(), key=lambda comment: (comment["timestamp"], comment["id"]))


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_old_state_and_messages_make_the_fresh_state_when_people_comment(make_site: MakeSite, kind: str) -> None:
    site = await make_site(kind)
    cleo = await site.person("cleo", roles={"creator"})
    tom = await site.person("tom", roles={"team"})
    ann, ben = await site.person("ann"), await site.person("ben", replica=1)
    track, other = [await add_track(site.database, cleo.id) for _ in range(2)]
    await write(ann, track, "there before", 3.0)
    async with AsyncExitStack() as stack:

        async def open_socket(person: Person, path: str) -> Socket:
            return await stack.enter_async_context(person.socket(path))

        of_ann = await open_socket(ann, f"/api/ws/track/{track}")
        of_ben = await open_socket(ben, f"/ws/comments/{track}")
        elsewhere = await open_socket(ann.at(1), f"/ws/comments/{other}")
        of_cleo = await open_socket(cleo.at(1), f"/ws/comments/{other}")
        greeting = {"type": "connected", "track_id": track, "message": "Connected to comment updates"}
        for socket in (of_ann, of_ben):
            assert await socket.next() == greeting
        assert (await elsewhere.next())["track_id"] == other
        await of_cleo.next("connected")
        before = await listed(ben, track)

        first = await write(ann, track, "the bridge!", 61.25)
        reply = await write(ben, track, "yes, @Ann, and @nobody", 61.25, parent_id=first["id"])
        nested = await write(ann.at(1), track, "and again", 62.0, parent_id=reply["id"])
        assert (first["parent_id"], reply["parent_id"], nested["parent_id"]) == (None, first["id"], first["id"])
        # Naming finds her on another track and replica; the creator of the track hears of each new comment.
        mention = await elsewhere.next()
        assert (mention["type"], mention["track_id"], mention["comment"]["id"]) == ("mention", track, reply["id"])
        assert mention["from_user"]["username"] == "ben"
        assert [(await of_cleo.next("mention"))["comment"]["id"] for _ in range(3)] == [
            first["id"],
            reply["id"],
            nested["id"],
        ]
        edited = await ann.put(f"/api/comments/{first['id']}", {"content": "the bridge, @ben @tom"})
        assert (edited["is_edited"], edited["content"]) == (True, "the bridge, @ben @tom")
        assert (await of_ben.next("mention"))["comment"]["content"] == "the bridge, @ben @tom"
        again = await ben.put(f"/api/comments/{reply['id']}", data={"content": "yes, @ann"})
        assert again["content"] == "yes, @ann"
        await tom.delete(f"/api/comments/{first['id']}")
        last = await write(tom, track, "the end", 199.9)
        for socket in (of_ann, of_ben):

            async def arrived(socket: Socket = socket) -> list[Json]:
                await socket.heard()
                return socket.received

            messages = await eventually(arrived, lambda got: any(m.get("comment") == last for m in got))
            assert all(message["track_id"] == track for message in messages if message["type"] != "pong")
            assert folded(before, messages) == await listed(ann, track)
        assert [message["type"] for message in await elsewhere.heard()] == []
        newest = await ann.get(f"/api/tracks/{track}/comments?order=newest&limit=2")
        assert [comment["id"] for comment in newest["items"]] == [last["id"], nested["id"]]
        part = await ann.get(f"/api/tracks/{track}/comments?from_s=61&to_s=62")
        assert [comment["id"] for comment in part["items"]] == [reply["id"]]


async def test_typing_is_told_to_the_others_when_somebody_writes(make_site: MakeSite) -> None:
    site = await make_site()
    ann, ben = await site.person("ann"), await site.person("ben", replica=1)
    track = await add_track(site.database, ann.id)
    async with ann.socket(f"/ws/comments/{track}") as of_ann, ben.socket(f"/ws/comments/{track}") as of_ben:
        for socket in (of_ann, of_ben):
            await socket.next("connected")
        for _ in range(5):
            await of_ann.send({"type": "typing", "is_typing": True})
        await of_ann.send({"type": "typing", "is_typing": False})
        for is_typing in (True, False):
            assert await of_ben.next() == {
                "type": "user_typing",
                "track_id": track,
                "user_id": ann.id,
                "username": "ann",
                "is_typing": is_typing,
            }
        assert await of_ben.heard() == []
        assert await of_ann.heard() == []
        await of_ann.send({"type": "typing", "is_typing": "maybe"})
        assert (await of_ann.next("error"))["code"] == "bad_message"


@pytest.mark.parametrize("broker", ["none", "killed"])
async def test_this_replica_goes_on_when_there_is_no_broker(make_site: MakeSite, broker: str) -> None:
    site = await make_site(broker=broker == "killed")
    ann, ben = await site.person("ann"), await site.person("ben")
    track = await add_track(site.database, ann.id)
    async with AsyncExitStack() as stack:
        of_ann = await stack.enter_async_context(ann.socket(f"/ws/comments/{track}"))
        here = await stack.enter_async_context(ben.socket(f"/ws/comments/{track}"))
        there = await stack.enter_async_context(ben.at(1).socket(f"/ws/comments/{track}"))
        for socket in (of_ann, here, there):
            await socket.next("connected")
        if site.broker is not None:
            await write(ann, track, "before")
            for socket in (here, there):
                assert (await socket.next("new_comment"))["comment"]["content"] == "before"
            site.broker.kill()
        comment = await write(ann, track, "meanwhile, @ben")
        for wanted in ("new_comment", "mention"):
            assert (await here.next(wanted))["comment"] == comment
        await of_ann.send({"type": "typing", "is_typing": True})
        assert (await here.next())["type"] == "user_typing"
        await ann.put(f"/api/comments/{comment['id']}", {"content": "edited"})
        assert (await here.next())["content"] == "edited"
        # On the other replica the page finds it in the database.
        assert [row["content"] for row in await listed(ben.at(1), track)][-1] == "edited"
        if site.broker is not None:
            site.broker.restart()
            assert (await there.next("new_comment"))["comment"] == comment
            assert (await there.next("mention"))["comment"] == comment
            assert (await there.next("comment_edited"))["content"] == "edited"
            await ann.delete(f"/api/comments/{comment['id']}")
            assert (await there.next())["type"] == "comment_deleted"
            assert (await here.next())["type"] == "comment_deleted"
            types = [message["type"] for message in there.received if message["type"] != "user_typing"]
            assert types.count("new_comment") == 2
        else:
            await ann.delete(f"/api/comments/{comment['id']}")
            assert (await here.next())["type"] == "comment_deleted"
            assert await there.heard() == []
