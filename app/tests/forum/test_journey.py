"""Everything that the forum does, on two replicas: with a broker, with one that dies half-way, without."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest
from conftest import MakeSite
from forum.scene import ThreadPage

from harness.site import Json, Person, Site, Socket

API = "/api/forum"


@dataclass
class Cast:
    """People who write at one replica, and listen at another, or at the same where no message crosses."""

    ann: Person
    ben: Person
    tom: Person
    listen_at: int

    def listener(self, person: Person) -> Person:
        return person.at(self.listen_at)


@asynccontextmanager
async def watching(person: Person, *thread_ids: int) -> AsyncIterator[Socket]:
    """A socket of /ws/v2 that hears these threads."""
    async with person.socket(f"{API}/ws/v2") as socket:
        assert await socket.next() == {"type": "connected", "message": "Connected to forum updates", "thread_id": None}
        for thread_id in thread_ids:
            await socket.send({"type": "subscribe", "thread_id": thread_id})
            assert await socket.next() == {"type": "subscribed", "thread_id": thread_id}
        yield socket


async def fetched(person: Person, thread_id: int) -> ThreadPage:
    thread = await person.get(f"{API}/threads/{thread_id}")
    messages = await everything(person, f"{API}/threads/{thread_id}/messages")
    subs = await everything(person, f"{API}/threads/{thread_id}/sub-threads")
    return ThreadPage(thread, messages, subs)


async def everything(person: Person, path: str) -> list[Json]:
    """All items of a listing, over as many pages as it takes."""
    items: list[Json] = []
    cursor = ""
    while True:
        page = await person.get(f"{path}?limit=3{cursor}")
        items += page["items"]
        if page["next_cursor"] is None:
            return items
        cursor = f"&cursor={page['next_cursor']}"


async def begin(person: Person, title: str, **more: object) -> Json:
    body = {"title": title, "content": f"**{title}** begins", **more}
    started: Json = await person.post(f"{API}/threads", body, status=201)
    return started


async def say(person: Person, thread_id: int, content: str, **more: object) -> Json:
    message: Json = await person.post(f"{API}/threads/{thread_id}/messages", {"content": content, **more}, status=201)
    return message


# -- the acts ----------------------------------------------------------------------------------------------------------


async def talk_in_public(cast: Cast) -> None:
    """Threads, messages, likes, sub-threads, moderation: all of it arrives, and makes the state that is there."""
    ann = cast.ann
    listener = cast.listener(cast.ben)
    async with AsyncExitStack() as stack:
        index = await stack.enter_async_context(watching(listener))
        everybody = await stack.enter_async_context(listener.socket(f"{API}/ws/global"))
        assert (await everybody.next())["type"] == "connected"
        started = await begin(ann, "Recordings")
        thread, first = started["thread"]["id"], started["message"]["id"]
        for socket in (index, everybody):
            news = await socket.next("new_thread_created")
            assert (news["thread_id"], news["thread"]["title"]) == (thread, "Recordings")

        page_socket = await stack.enter_async_context(watching(listener, thread))
        earlier = [
            await stack.enter_async_context(listener.socket(path))
            for path in (f"{API}/ws/thread/{thread}", f"/ws/forum/{thread}")
        ]
        for socket in earlier:
            hello = {"type": "connected", "message": "Connected to thread updates", "thread_id": thread}
            assert await socket.next() == hello
        pages = [await fetched(listener, thread) for _ in range(3)]

        await _write(cast, thread, first)
        aside = await _branch(cast, thread, first)
        await _moderate(cast, thread)
        mark = await say(ann, thread, "the end of it")
        for socket, page in zip((page_socket, *earlier), pages, strict=True):
            while (await socket.next("new_message"))["message"]["id"] != mark["id"]:
                pass
            mine = [message for message in socket.received if "thread_id" in message]
            assert page.apply(mine).state == (await fetched(ann, thread)).state
        by_thread = {m["type"] for m in page_socket.received if m.get("thread_id") == thread}
        assert by_thread >= {
            "new_message",
            "message_edited",
            "message_liked",
            "message_unliked",
            "message_deleted",
            "thread_updated",
            "new_sub_thread_created",
        }
        await _type(cast, thread, page_socket)
        await ann.delete(f"{API}/threads/{thread}")
        for socket in (index, everybody, page_socket, *earlier):
            while (await socket.next("thread_deleted"))["thread_id"] != thread:
                pass
        for id in (thread, aside):
            await listener.get(f"{API}/threads/{id}", status=404)


async def _write(cast: Cast, thread: int, first: int) -> None:
    ann, ben, tom = cast.ann, cast.ben, cast.tom
    reply = await say(ben, thread, "I *heard* it", reply_to_id=first)
    assert reply["content_html"] == "<p>I <em>heard</em> it</p>\n"
    assert (reply["reply_to"]["id"], reply["reply_to"]["excerpt"]) == (first, "**Recordings** begins")
    edited = await ben.patch(f"{API}/messages/{reply['id']}", {"content": "I *saw* it"})
    assert (edited["content"], edited["is_edited"]) == ("I *saw* it", True)
    edits = (await ann.get(f"{API}/messages/{reply['id']}/edits"))["items"]
    assert [edit["content"] for edit in edits] == ["I *heard* it"]
    for person, count in ((ann, 1), (ann, 1), (tom, 2)):
        liked = await person.post(f"{API}/messages/{reply['id']}/like")
        assert (liked["like_count"], liked["is_liked"]) == (count, True)
    likers = (await ben.get(f"{API}/messages/{reply['id']}/likes"))["items"]
    assert [liker["username"] for liker in likers] == [tom.user.username, ann.user.username]
    for _ in range(2):
        unliked = await tom.delete(f"{API}/messages/{reply['id']}/like")
        assert (unliked["like_count"], unliked["is_liked"]) == (1, False)
    rude = await say(ann, thread, "something rude")
    await ben.delete(f"{API}/messages/{rude['id']}", status=403)
    await ann.delete(f"{API}/messages/{rude['id']}")
    place = await ben.get(f"{API}/messages/{rude['id']}")
    assert (place["message"]["is_deleted"], place["message"]["content"], place["thread"]["id"]) == (True, "", thread)
    state = await ben.put(f"{API}/threads/{thread}/read", {"number": 2})
    assert state["unread_count"] == 1
    listed = (await ben.get(f"{API}/threads"))["items"]
    assert [item["unread_count"] for item in listed if item["id"] == thread] == [1]
    assert (await ben.put(f"{API}/threads/{thread}/read", {}))["unread_count"] == 0
    preview = await ben.post(f"{API}/preview", {"content": "<b>bold</b> **bold**"})
    assert "<strong>bold</strong>" in preview["content_html"]
    assert "<b>" not in preview["content_html"]
    hits = (await ben.get(f"{API}/search", params={"q": "saw"}))["items"]
    assert reply["id"] in [hit["message_id"] for hit in hits]


async def _branch(cast: Cast, thread: int, first: int) -> int:
    """Sub-threads, and what is moved between them."""
    ann, ben, tom = cast.ann, cast.ben, cast.tom
    body = {"title": "Aside", "content": "by the way"}
    aside = await ben.post(f"{API}/messages/{first}/sub-threads", body, status=201)
    other = await ann.post(f"{API}/threads/{thread}/sub-threads", body, status=201)
    of_message = (await ann.get(f"{API}/messages/{first}/sub-threads"))["items"]
    assert [item["id"] for item in of_message] == [aside["thread"]["id"]]
    of_thread = (await ann.get(f"{API}/threads/{thread}/sub-threads"))["items"]
    assert [item["id"] for item in of_thread] == [aside["thread"]["id"], other["thread"]["id"]]
    stray = await say(ben, thread, "this belongs there")
    moved = await tom.post(f"{API}/messages/{stray['id']}/move", {"thread_id": aside["thread"]["id"]})
    assert (moved["thread_id"], moved["number"]) == (aside["thread"]["id"], 2)
    await tom.post(f"{API}/threads/{other['thread']['id']}/move", {"parent_message_id": first})
    assert (await ann.get(f"{API}/messages/{first}"))["message"]["sub_thread_count"] == 2
    await tom.post(f"{API}/threads/{other['thread']['id']}/move", {})
    await ann.delete(f"{API}/threads/{other['thread']['id']}")
    id: int = aside["thread"]["id"]
    return id


async def _moderate(cast: Cast, thread: int) -> None:
    ann, ben, tom = cast.ann, cast.ben, cast.tom
    renamed = await ann.patch(f"{API}/threads/{thread}", {"title": "Old recordings"})
    assert renamed["title"] == "Old recordings"
    for path in (f"threads/{thread}/pin", f"threads/{thread}/lock"):
        await ben.post(f"{API}/{path}", status=403)
    assert (await tom.post(f"{API}/threads/{thread}/pin"))["is_pinned"]
    assert (await ben.get(f"{API}/threads"))["items"][0]["id"] == thread
    assert not (await tom.delete(f"{API}/threads/{thread}/pin"))["is_pinned"]
    locked = await tom.post(f"{API}/threads/{thread}/lock", {"reason": "a pause"})
    assert (locked["is_locked"], locked["lock_reason"]) == (True, "a pause")
    refused = await ben.post(f"{API}/threads/{thread}/messages", {"content": "but"}, status=403)
    assert refused["code"] == "thread_locked"
    assert "a pause" in refused["detail"]
    assert not (await tom.delete(f"{API}/threads/{thread}/lock"))["is_locked"]
    spam = await say(ben, thread, "buy this")
    report = await ann.post(f"{API}/messages/{spam['id']}/report", {"reason": "spam"}, status=201)
    await ben.get(f"{API}/reports", status=403)
    listed = (await tom.get(f"{API}/reports"))["items"]
    assert [item["content"] for item in listed if item["id"] == report["id"]] == ["buy this"]
    resolved = await tom.post(f"{API}/reports/{report['id']}/resolve", {"outcome": "removed"})
    assert (resolved["status"], resolved["resolved_by"]) == ("removed", tom.user.username)
    await tom.post(f"{API}/reports/{report['id']}/resolve", {"outcome": "dismissed"}, status=409)


async def _type(cast: Cast, thread: int, socket: Socket) -> None:
    """Somebody types where the others listen: they hear it, once; the one who types does not."""
    typist = cast.listener(cast.ann)
    async with typist.socket(f"{API}/ws/thread/{thread}") as own, watching(typist, thread) as v2:
        await own.next("connected")
        await own.send({"type": "typing", "is_typing": True})
        heard = await socket.next("user_typing")
        assert heard == {
            "type": "user_typing",
            "thread_id": thread,
            "user_id": typist.id,
            "username": typist.user.username,
            "is_typing": True,
        }
        await v2.send({"type": "typing", "thread_id": thread})
        await v2.send({"type": "typing", "thread_id": thread, "is_typing": False})
        assert not (await socket.next("user_typing"))["is_typing"], "too soon for another"
        for mine in (own, v2):
            assert "user_typing" not in [message["type"] for message in await mine.heard()]


async def talk_in_private(cast: Cast) -> None:
    """A private thread is nothing to outsiders; who loses access hears nothing more of it, on any socket."""
    ann, ben, tom = cast.ann, cast.ben, cast.tom
    listener, outsider = cast.listener(ben), cast.listener(tom)
    async with AsyncExitStack() as stack:
        index = await stack.enter_async_context(watching(listener))
        nosy = [await stack.enter_async_context(outsider.socket(f"{API}/ws/{path}")) for path in ("v2", "global")]
        started = await begin(ann, "A surprise", is_private=True, member_ids=[ben.id])
        thread, first = started["thread"]["id"], started["message"]["id"]
        assert (await index.next("new_thread_created"))["thread_id"] == thread
        body = {"title": "The cake", "content": "with cherries"}
        aside = (await ann.post(f"{API}/messages/{first}/sub-threads", body, status=201))["thread"]["id"]
        hearing = await stack.enter_async_context(watching(listener, thread, aside))
        earlier = await stack.enter_async_context(listener.socket(f"/ws/forum/{thread}"))
        await say(ann, thread, "@everybody in the kitchen?")
        await say(ann, aside, "or chocolate")
        assert (await hearing.next("new_message"))["thread_id"] == thread
        assert (await hearing.next("new_message"))["thread_id"] == aside
        await earlier.next("new_message")
        members = (await ben.get(f"{API}/threads/{thread}/members"))["items"]
        assert {member["user_id"] for member in members} == {ann.id, ben.id}
        assert (await ben.get(f"{API}/threads/{thread}/members/{ann.id}"))["is_author"]
        await ben.get(f"{API}/threads/{thread}/members/{tom.id}", status=404)

        await ann.delete(f"{API}/threads/{thread}/members/{ben.id}")
        for socket in (index, hearing, earlier):
            lost = await socket.next("unsubscribed")
            assert lost == {"type": "unsubscribed", "thread_id": thread, "reason": "access_lost"}
        await say(ann, thread, "he is gone")
        await say(ann, aside, "so is he")
        await ann.post(f"{API}/messages/{first}/like")
        for socket in (index, hearing, earlier):
            assert await socket.heard() == []
        for id in (thread, aside):
            await ben.get(f"{API}/threads/{id}", status=404)
            await hearing.send({"type": "subscribe", "thread_id": id})
            assert (await hearing.next())["type"] == "error"
            await hearing.send({"type": "typing", "thread_id": id})
            assert (await hearing.next())["type"] == "error"

        await ann.put(f"{API}/threads/{thread}/members/{ben.id}")
        assert (await index.next("new_thread_created"))["thread_id"] == thread
        await ann.delete(f"{API}/threads/{thread}")
        assert (await index.next("thread_deleted"))["thread_id"] == thread
        for socket in nosy:
            assert {message["type"] for message in await socket.heard()} <= {"connected"}


@pytest.mark.parametrize(
    ("kind", "broker"),
    [("sqlite", "killed"), ("sqlite", "none"), ("postgres", "up")],
)
async def test_everything_works_when_the_broker_is_there_dies_or_never_was(
    make_site: MakeSite, kind: str, broker: str
) -> None:
    site = await make_site(kind, replicas=2, broker=broker != "none")
    crosses = broker != "none"
    ann, ben = await site.person("ann"), await site.person("ben")
    tom = await site.person("tom", roles={"team"})
    cast = Cast(ann, ben, tom, listen_at=1 if crosses else 0)
    await talk_in_public(cast)
    await talk_in_private(cast)
    if broker == "killed":
        assert site.broker is not None
        await _go_on_without(site, cast)
    _check_logs(site)


async def _go_on_without(site: Site, cast: Cast) -> None:
    """The sockets of before are still there, and all that happens where they are reaches them."""
    assert site.broker is not None
    started = await begin(cast.ann, "Before and after")
    thread = started["thread"]["id"]
    here, there = cast.listener(cast.ben), cast.ben
    async with watching(here, thread) as near, watching(there, thread) as far:
        site.broker.kill()
        await say(cast.ann.at(cast.listen_at), thread, "can you hear me?")
        assert (await near.next("new_message"))["message"]["content"] == "can you hear me?"
        listed = (await there.get(f"{API}/threads/{thread}/messages"))["items"]
        assert [message["content"] for message in listed][-1] == "can you hear me?"
        assert "new_message" not in [message["type"] for message in await far.heard()]
    ann, ben, tom = (person.at(cast.listen_at) for person in (cast.ann, cast.ben, cast.tom))
    alone = Cast(ann, ben, tom, listen_at=cast.listen_at)
    await talk_in_public(alone)
    await talk_in_private(alone)


def _check_logs(site: Site) -> None:
    for replica in range(2):
        log = site.log(replica)
        assert "Traceback" not in log, log[-4000:]
