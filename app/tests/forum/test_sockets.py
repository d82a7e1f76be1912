"""The forum's sockets and routes at the edges: who is refused and how, what is not understood, what is switched off."""

from __future__ import annotations

import asyncio

import pytest
from conftest import MakeSite
from sqlalchemy import insert
from websockets.exceptions import ConnectionClosed, InvalidStatus

from encore.forum.models import Thread
from encore.forum.typing_allowance import TypingAllowance
from encore.pagination import write_cursor
from harness.site import Json, Person, Site

API = "/api/forum"

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def code_of(person: Person, path: str, *, origin: str | None = "") -> int:
    """The code with which a socket is refused."""
    try:
        async with person.socket(path, origin=origin) as socket:
            return await socket.closed()
    except (ConnectionClosed, InvalidStatus) as error:
        if isinstance(error, InvalidStatus):
            return error.response.status_code
        return error.rcvd.code if error.rcvd is not None else 1006


async def begin(person: Person, **more: object) -> Json:
    started: Json = await person.post(f"{API}/threads", {"title": "A title", "content": "text", **more}, status=201)
    return started


async def test_a_socket_is_refused_with_a_reason_when_it_may_not_be_there(shared_site: Site) -> None:
    ann, ben, ada = [await shared_site.person(roles=roles) for roles in ((), (), ("admin",))]
    private = (await begin(ann, is_private=True))["thread"]["id"]
    public = (await begin(ann))["thread"]["id"]
    for path in ("ws/v2", "ws/global", f"ws/thread/{public}"):
        assert await code_of(shared_site.guest(), f"{API}/{path}") == 4501
        assert await code_of(ben, f"{API}/{path}?user_id={ann.id}") == 4503
        assert await code_of(ben, f"{API}/{path}", origin="https://elsewhere.example") == 403
        async with ben.at(1).socket(f"{API}/{path}?user_id={ben.id}") as socket:
            assert (await socket.next())["type"] == "connected"
    for person in (ben, ada):
        for thread in (private, 10**17):
            for path in (f"{API}/ws/thread/{thread}", f"/ws/forum/{thread}"):
                assert await code_of(person.at(1), path) == 4503
    for path in (f"{API}/ws/thread/x", f"{API}/ws/thread/0", f"/ws/forum/{10**30}"):
        assert await code_of(ann, path) == 4503


async def test_what_is_not_understood_is_answered_and_the_socket_stays(shared_site: Site) -> None:
    ann = await shared_site.person()
    thread = (await begin(ann))["thread"]["id"]
    async with ann.socket(f"{API}/ws/thread/{thread}") as socket:
        await socket.next("connected")
        await socket.send({"type": "typing", "is_typing": "perhaps"})
        answer = await socket.next()
        assert (answer["type"], answer["code"]) == ("error", "invalid")
        assert await socket.heard() == []
    async with ann.socket(f"{API}/ws/v2") as socket:
        await socket.next("connected")
        for message, code in (
            ({"type": "dance"}, "unknown_type"),
            ({"type": ["subscribe"]}, "unknown_type"),
            ({}, "unknown_type"),
            ({"type": "subscribe"}, "invalid"),
            ({"type": "subscribe", "thread_id": "x"}, "invalid"),
            ({"type": "subscribe", "thread_id": -1}, "invalid"),
            ({"type": "subscribe", "thread_id": 2**63}, "invalid"),
            ({"type": "subscribe", "thread_id": 10**17}, "not_found"),
            ({"type": "typing"}, "invalid"),
            ({"type": "typing", "thread_id": 10**17}, "not_found"),
            ({"type": "typing", "thread_id": thread, "is_typing": "perhaps"}, "invalid"),
        ):
            await socket.send(message)
            answer = await socket.next()
            assert (answer["type"], answer["code"]) == ("error", code), message
            assert answer["message"]
        await socket.send("{")
        assert (await socket.next())["type"] == "error"
        for kind in ("subscribe", "unsubscribe", "unsubscribe"):
            await socket.send({"type": kind, "thread_id": thread})
            assert (await socket.next())["type"] == f"{kind}d"
        await ann.post(f"{API}/threads/{thread}/messages", {"content": "unheard"}, status=201)
        assert await socket.heard() == []


async def test_a_socket_takes_no_more_threads_when_it_hears_128(shared_site: Site) -> None:
    ann = await shared_site.person()
    row = {"title": "x", "author_id": ann.id, "message_count": 0}
    async with shared_site.database.writing() as session:
        added = insert(Thread).returning(Thread.id)
        threads = list((await session.execute(added, [row] * 129)).scalars())
    async with ann.at(1).socket(f"{API}/ws/v2") as socket:
        await socket.next("connected")
        for thread in threads:
            await socket.send({"type": "subscribe", "thread_id": thread})
        answers = [await socket.next() for _ in threads]
    assert [answer["type"] for answer in answers] == ["subscribed"] * 128 + ["error"]
    assert answers[-1]["code"] == "too_many_threads"


async def test_a_like_counts_once_when_it_is_clicked_on_two_replicas_at_once(shared_site: Site) -> None:
    ann, ben = await shared_site.person(), await shared_site.person()
    started = await begin(ann)
    path = f"{API}/messages/{started['message']['id']}/like"
    tabs = [ben.at(replica) for replica in (0, 1)]
    async with ann.at(1).socket(f"{API}/ws/thread/{started['thread']['id']}") as socket:
        await socket.next("connected")
        for act, kind, count in (("post", "message_liked", 1), ("delete", "message_unliked", 0)):
            answers = await asyncio.gather(*(getattr(tab, act)(path) for tab in tabs for _ in range(3)))
            assert [answer["like_count"] for answer in answers] == [count] * 6
            told = await socket.next(kind)
            assert (told["like_count"], told["thread_id"]) == (count, started["thread"]["id"])
        assert await socket.heard() == [], "told once for each"


async def test_guests_read_what_is_public_and_write_nothing(shared_site: Site) -> None:
    ann = await shared_site.person()
    started = await begin(ann)
    thread, message = started["thread"]["id"], started["message"]["id"]
    guest = shared_site.guest(replica=1)
    for path in (
        "threads",
        f"threads/{thread}",
        f"threads/{thread}/messages",
        f"threads/{thread}/sub-threads",
        f"messages/{message}",
        f"messages/{message}/sub-threads",
        f"messages/{message}/likes",
        f"messages/{message}/edits",
        "search?q=text",
    ):
        await guest.get(f"{API}/{path}")
    body = {"title": "x", "content": "x"}
    for method, path in (
        ("POST", "threads"),
        ("PATCH", f"threads/{thread}"),
        ("DELETE", f"threads/{thread}"),
        ("POST", f"threads/{thread}/sub-threads"),
        ("POST", f"messages/{message}/sub-threads"),
        ("POST", f"threads/{thread}/messages"),
        ("PATCH", f"messages/{message}"),
        ("DELETE", f"messages/{message}"),
        ("POST", f"messages/{message}/like"),
        ("DELETE", f"messages/{message}/like"),
        ("PUT", f"threads/{thread}/read"),
        ("GET", f"threads/{thread}/members"),
        ("PUT", f"threads/{thread}/members/1"),
        ("DELETE", f"threads/{thread}/members/1"),
        ("POST", f"threads/{thread}/pin"),
        ("DELETE", f"threads/{thread}/lock"),
        ("POST", f"threads/{thread}/move"),
        ("POST", f"messages/{message}/move"),
        ("POST", f"messages/{message}/report"),
        ("GET", "reports"),
        ("POST", "reports/1/resolve"),
        ("POST", "preview"),
    ):
        options = {} if method in ("GET", "DELETE") else {"json": body}
        await guest.ask(method, f"{API}/{path}", status=401, **options)


async def test_a_request_is_refused_when_it_makes_no_sense(shared_site: Site) -> None:
    ann, tom = await shared_site.person(), await shared_site.person(roles=("team",))
    thread = (await begin(ann))["thread"]["id"]
    for body in (
        {"title": "", "content": "x"},
        {"title": "x" * 201, "content": "x"},
        {"title": "two\nlines", "content": "x"},
        {"title": "x", "content": " \n "},
        {"title": "x", "content": "x" * 8_001},
        {"title": "x", "content": "\u0000"},
        {"title": "x", "content": "x", "is_private": True, "member_ids": list(range(1, 202))},
        {"title": "x", "content": "x", "is_private": True, "member_ids": [2**63]},
    ):
        await ann.post(f"{API}/threads", body, status=422)
    for path in (f"{API}/threads", f"{API}/threads/{thread}/messages", f"{API}/search?q=x&"):
        separator = "" if path.endswith("&") else "?"
        for wrong, status in (("cursor=nonsense", 400), ("cursor=W10", 400), ("limit=0", 422), ("limit=101", 422)):
            await ann.get(f"{path}{separator}{wrong}", status=status)
    for key in ([0, 10**18, 2**62], [-(2**62)] * 3, [2**62] * 3):
        await ann.get(f"{API}/threads?cursor={write_cursor(key)}")
    for number in (2**62, -(2**62)):
        for order in ("asc", "desc"):
            await ann.get(f"{API}/threads/{thread}/messages?order={order}&cursor={write_cursor([number])}")
    await ann.get(f"{API}/search", status=422)
    assert (await ann.get(f"{API}/search?q=***", status=400))["code"] == "no_words"
    for path in ("threads/0", f"threads/{2**63}", "threads/x", "messages/0"):
        await ann.get(f"{API}/{path}", status=422)
    assert (await ann.get(f"{API}/threads/{2**63 - 1}", status=404))["code"] == "not_found"
    await tom.post(f"{API}/reports/1/resolve", {"outcome": "forgiven"}, status=422)


@pytest.mark.asyncio(loop_scope="function")
async def test_the_earlier_sockets_say_so_and_close_when_they_are_switched_off(make_site: MakeSite) -> None:
    switched_off = {"ENCORE_EARLIER_FORUM_SOCKETS": "false"}
    site = await make_site(replicas=1, broker=False, environment=switched_off)
    ann = await site.person()
    thread = (await begin(ann))["thread"]["id"]
    for person in (ann, site.guest()):
        for path in (f"{API}/ws/global", f"{API}/ws/thread/{thread}", f"/ws/forum/{thread}"):
            async with person.socket(path) as socket:
                told = {"type": "deprecated", "message": "This endpoint is deprecated. Use /api/forum/ws/v2"}
                assert await socket.next() == told
                assert await socket.closed() == 1001
    async with ann.socket(f"{API}/ws/v2") as socket:
        assert (await socket.next())["type"] == "connected"
    assert "Traceback" not in site.log(0)


@pytest.mark.asyncio(loop_scope="function")
async def test_typing_is_sent_on_once_in_a_while_and_its_end_at_once() -> None:
    allowance = TypingAllowance()

    def takes(now: float, is_typing: bool = True, user: str = "1", thread: int = 7) -> bool:
        return allowance.takes(user, thread, is_typing=is_typing, now=now)

    assert not takes(0.0, is_typing=False), "nobody knows of it"
    assert [takes(at) for at in (0.0, 0.1, 2.4, 2.5, 4.9, 5.0)] == [True, False, False, True, False, True]
    assert [takes(5.1, is_typing=False), takes(5.2, is_typing=False), takes(5.3)] == [True, False, False]
    assert takes(5.3, user="2")
    assert takes(5.3, thread=8)
    assert allowance.dropped == 6
    for number in range(5_000):
        takes(1_000.0 + number, thread=number)
    assert len(allowance) < 2_000
