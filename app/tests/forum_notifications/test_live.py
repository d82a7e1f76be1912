"""Notifications as people on two replicas have them: with a broker, with one that dies half-way, and without."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
from conftest import MakeSite

from harness.site import Json, Person, Site, Socket, eventually

FORUM = "/api/forum"
CHANGES = ("forum_notification", "forum_notification_count")


@dataclass
class Tab:
    """A page of somebody: its socket, and what it knows of the notifications by listening."""

    person: Person
    socket: Socket
    count: int = 0
    version: int = 0

    async def told(self, kind: str, text: str) -> Json:
        """The next notification, and the count behind it."""
        notification: Json = (await self.socket.next("forum_notification"))["notification"]
        assert (notification["type"], notification["content"]) == (kind, text), notification
        await self.counted()
        return notification

    async def counted(self) -> Json:
        """The next count, which holds if it is a newer one."""
        message = await self.socket.next("forum_notification_count")
        if message["version"] > self.version:
            self.count, self.version = message["count"], message["version"]
        return message

    async def unread(self) -> int:
        """What the site says, asked at this tab's replica."""
        answer = await self.person.get(f"{FORUM}/notifications/unread-count")
        assert (answer["count"], answer["version"]) == (self.count, self.version)
        return int(answer["count"])

    async def heard(self) -> list[str]:
        """The types of what came about notifications up to now."""
        return [message["type"] for message in await self.socket.heard() if message["type"] in CHANGES]


async def open_tabs(stack: AsyncExitStack, *people: Person) -> list[Tab]:
    tabs = []
    for number, person in enumerate(people):
        # The earlier socket for everybody has them, too.
        path = "ws/global" if number == 0 else "ws/v2"
        socket = await stack.enter_async_context(person.socket(f"{FORUM}/{path}"))
        await socket.next("connected")
        tabs.append(Tab(person, socket))
    return tabs


async def listed(person: Person, **options: str) -> list[Json]:
    """All of somebody's notifications, page by page, the newest first."""
    items: list[Json] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await person.get(
            f"{FORUM}/notifications", params={"limit": "2", **options, **({"cursor": cursor} if cursor else {})}
        )
        items += page["items"]
        cursor = page["next_cursor"]
    return items


class Scene:
    """Cleo and Ann write at replica 1; Ann and Ben have tabs at replica 2, too. `far` hear only through the broker."""

    def __init__(self, cleo: Tab, ada: Tab, near: Tab, far: list[Tab]) -> None:
        self.cleo, self.ada, self.ann, self.far = cleo, ada, near, far
        self.ben = far[-1]

    async def play(self, *, is_linked: bool) -> None:
        """Everything that can happen, from the beginning."""
        thread, message = await self.mentioned(is_linked=is_linked)
        await self.followed_and_liked(thread, message, is_linked=is_linked)
        await self.everyone(thread, is_linked=is_linked)
        await self.read(is_linked=is_linked)
        await self.private(is_linked=is_linked)
        await self.taken_back(is_linked=is_linked)

    async def mentioned(self, *, is_linked: bool) -> tuple[int, int]:
        begun = await self.cleo.person.post(
            f"{FORUM}/threads", {"title": "Recordings", "content": "look, @Ann, and `@ben`"}, status=201
        )
        thread, message = begun["thread"]["id"], begun["message"]["id"]
        for tab in [self.ann, *([self.far[0]] if is_linked else [])]:
            notification = await tab.told("mention", "look, @Ann, and `@ben`")
            assert notification["title"] == "cleo mentioned you in “Recordings”"
            assert (notification["thread_id"], notification["message_id"]) == (thread, message)
        (item,) = await listed(self.far[0].person, unread="true", type="mention")
        assert (item["message_id"], item["from_username"], item["is_read"]) == (message, "cleo", False)
        assert begun["thread"]["is_following"]
        return thread, message

    async def followed_and_liked(self, thread: int, message: int, *, is_linked: bool) -> None:
        ben, cleo, ann = self.ben.person, self.cleo.person, self.ann.person
        assert (await ben.post(f"{FORUM}/threads/{thread}/follow"))["is_following"]
        assert [item["thread_id"] for item in (await ben.get(f"{FORUM}/follows"))["items"]] == [thread]
        reply = await ann.post(
            f"{FORUM}/threads/{thread}/messages", {"content": "thanks", "reply_to_id": message}, status=201
        )
        await self.cleo.told("reply", "thanks")
        await cleo.post(f"{FORUM}/messages/{reply['id']}/like")
        await cleo.delete(f"{FORUM}/messages/{reply['id']}/like")
        await cleo.post(f"{FORUM}/messages/{reply['id']}/like")
        await self.ann.told("like", "thanks")
        await ann.patch(f"{FORUM}/messages/{reply['id']}", {"content": "thanks, @ada"})
        await self.ada.told("mention", "thanks, @ada")
        if is_linked:
            await self.far[0].told("like", "thanks")
            await self.ben.told("follow", "thanks")
        assert (await listed(ben))[0]["type"] == "follow"
        assert not (await ben.delete(f"{FORUM}/threads/{thread}/follow"))["is_following"]

    async def everyone(self, thread: int, *, is_linked: bool) -> None:
        path, ada = f"{FORUM}/everyone-mention", self.ada.person
        hearing = [self.ada, self.ann, *(self.far if is_linked else [])]
        messages = f"{FORUM}/threads/{thread}/messages"
        await self.ann.person.post(messages, {"content": "@everyone, I may not"}, status=201)
        await self.cleo.told("follow", "@everyone, I may not")
        await self.cleo.person.post(messages, {"content": "@everyone!"}, status=201)
        for tab in hearing:
            await tab.told("everyone", "@everyone!")
        await self.cleo.person.delete(path, status=403)
        off = await ada.delete(path, params={"reason": "an accident"})
        assert (off["enabled"], off["reason"], off["may_use"]) == (False, "an accident", True)
        for tab in hearing:
            switched = await tab.socket.next("everyone_mention_disabled")
            assert switched["message"] == "@everyone is switched off: an accident"
        await self.cleo.person.post(messages, {"content": "@everyone?"}, status=201)
        assert await self.ada.heard() == []
        assert (await ada.post(path))["enabled"]
        for tab in hearing:
            assert (await tab.socket.next("everyone_mention_enabled"))["message"] == "@everyone works again"
        state = await self.ben.person.get(path)
        assert (state["enabled"], state["may_use"]) == (True, False)

    async def read(self, *, is_linked: bool) -> None:
        near, far = self.ann, self.far[0]
        newest, older, *_ = await listed(near.person)
        await near.person.post(f"{FORUM}/notifications/{newest['id']}/read")
        await near.person.delete(f"{FORUM}/notifications/{older['id']}")
        await self.ben.person.post(f"{FORUM}/notifications/{older['id']}/read", status=404)
        assert (await near.person.post(f"{FORUM}/notifications/mark-all-read"))["count"] == 0
        for tab in [near, *([far] if is_linked else [])]:
            assert newest["id"] in (await tab.counted())["read_ids"]
            assert (await tab.counted())["removed_ids"] == [older["id"]]
            assert (await tab.counted())["count"] == 0
            assert await tab.unread() == 0
        assert await listed(far.person, unread="true") == []
        assert older["id"] not in [item["id"] for item in await listed(far.person)]

    async def private(self, *, is_linked: bool) -> None:
        cleo, ann, ben = self.cleo.person, self.ann.person, self.ben.person
        body: Json = {
            "title": "Secret",
            "content": "only @ann, not @ben, not @everyone",
            "is_private": True,
            "member_ids": [ann.id],
        }
        thread = (await cleo.post(f"{FORUM}/threads", body, status=201))["thread"]["id"]
        await self.ann.told("mention", body["content"])
        if is_linked:
            await self.far[0].told("mention", body["content"])
        await ben.post(f"{FORUM}/threads/{thread}/follow", status=404)
        await ben.get(f"{FORUM}/members", params={"q": "a", "thread_id": thread}, status=404)
        members = await ann.get(f"{FORUM}/members", params={"q": "A", "thread_id": thread})
        assert [member["username"] for member in members] == ["ann"]
        assert "Secret" not in {item["thread_title"] for item in await listed(ben)}
        await cleo.delete(f"{FORUM}/threads/{thread}/members/{ann.id}")
        for tab in [self.ann, *([self.far[0]] if is_linked else [])]:
            assert (await tab.counted())["count"] == 0
        assert "Secret" not in {item["thread_title"] for item in await listed(ann)}

    async def taken_back(self, *, is_linked: bool) -> None:
        cleo, ann = self.cleo.person, self.ann.person
        wanted = await ann.get(f"{FORUM}/notifications/preferences")
        assert wanted == await ann.put(f"{FORUM}/notifications/preferences", wanted)
        begun = await cleo.post(f"{FORUM}/threads", {"title": "Slip", "content": "@ann @ben oops"}, status=201)
        await cleo.delete(f"{FORUM}/messages/{begun['message']['id']}")
        for tab in [self.ann, *(self.far if is_linked else [])]:
            number = (await tab.told("mention", "@ann @ben oops"))["id"]
            assert (await tab.counted())["removed_ids"] == [number]
            assert number not in [item["id"] for item in await listed(tab.person)]
            await tab.unread()
        await cleo.delete(f"{FORUM}/threads/{begun['thread']['id']}")
        await ann.put(f"{FORUM}/notifications/preferences", {**wanted, "mention": False})
        await cleo.post(f"{FORUM}/threads", {"title": "Quiet", "content": "@ann"}, status=201)
        assert await self.ann.heard() == []
        await ann.put(f"{FORUM}/notifications/preferences", wanted)


async def catches_up(tab: Tab) -> None:
    """What a tab hears makes its count right, sooner or later."""
    there = await tab.person.get(f"{FORUM}/notifications/unread-count")
    while tab.version < there["version"]:
        await tab.counted()
    assert tab.count == there["count"]


@pytest.mark.parametrize(("kind", "broker"), [("postgres", "up"), ("sqlite", "killed"), ("sqlite", "none")])
async def test_everybody_has_their_notifications_on_every_replica(make_site: MakeSite, kind: str, broker: str) -> None:
    site: Site = await make_site(kind, broker=broker != "none")
    cleo, ada = await site.person("cleo", roles={"creator"}), await site.person("ada", roles={"admin"})
    ann, ben = await site.person("ann"), await site.person("ben", replica=1)
    async with AsyncExitStack() as stack:
        cleo1, ada1, ann1, ann2, ben2 = await open_tabs(stack, cleo, ada, ann, ann.at(1), ben)
        scene = Scene(cleo1, ada1, ann1, [ann2, ben2])
        await scene.play(is_linked=broker != "none")
        if broker != "killed":
            return
        assert site.broker is not None
        site.broker.kill()
        await scene.play(is_linked=False)
        site.broker.restart()
        for tab in (ann2, ben2):
            await catches_up(tab)


async def test_nobody_gets_in_when_not_signed_in_and_only_admins_turn_the_switch(make_site: MakeSite) -> None:
    site = await make_site(replicas=1, broker=False)
    guest, ann = site.guest(), await site.person("ann")
    people = [ann, await site.person("tom", roles={"team"}), await site.person("cleo", roles={"creator"})]
    calls = [
        ("GET", "notifications"),
        ("GET", "notifications/unread-count"),
        ("GET", "notifications/preferences"),
        ("PUT", "notifications/preferences"),
        ("POST", "notifications/mark-all-read"),
        ("POST", "notifications/1/read"),
        ("DELETE", "notifications/1"),
        ("POST", "threads/1/follow"),
        ("DELETE", "threads/1/follow"),
        ("GET", "follows"),
        ("GET", "everyone-mention"),
        ("POST", "everyone-mention"),
        ("DELETE", "everyone-mention"),
        ("GET", "members?q=a"),
    ]
    for method, path in calls:
        answer = await guest.ask(method, f"{FORUM}/{path}", status=401)
        assert answer["code"] == "not_signed_in"
    for person in people:
        for method in ("POST", "DELETE"):
            await person.ask(method, f"{FORUM}/everyone-mention", status=403)
    bad: list[tuple[str, str, int]] = [
        ("GET", "notifications?cursor=x", 400),
        ("GET", "notifications?limit=101", 422),
        ("GET", "notifications?type=other", 422),
        ("GET", "follows?cursor=WyJhIl0", 400),
        ("GET", "members?q=%25", 422),
        ("GET", "members?q=a%00", 422),
        ("GET", f"members?q={'a' * 33}", 422),
        ("POST", "notifications/0/read", 422),
        ("POST", f"notifications/{2**63}/read", 422),
        ("POST", "notifications/7/read", 404),
        ("DELETE", "notifications/7", 404),
        ("POST", "threads/7/follow", 404),
        ("GET", "members?q=a&thread_id=7", 404),
    ]
    for method, path, status in bad:
        await ann.ask(method, f"{FORUM}/{path}", status=status)
    await ann.put(f"{FORUM}/notifications/preferences", {"mention": True}, status=422)
    ada = await site.person("ada", roles={"admin"})
    await ada.delete(f"{FORUM}/everyone-mention", params={"reason": "a\nb"}, status=422)
    await ada.delete(f"{FORUM}/everyone-mention")
    await eventually(lambda: ann.get(f"{FORUM}/everyone-mention"), lambda state: not state["enabled"])
