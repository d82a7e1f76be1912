"""The forum's part of a journey."""

from __future__ import annotations

from journeys.stage import Stage

__all__ = ["forum"]

ROOT = "/api/forum"


async def forum(stage: Stage) -> None:
    thread, message = await _threads(stage)
    for part in (_moderation, _notifications, _private):
        # One has ten sockets on a channel at most, and these have all that they need by now.
        await stage.stack.aclose()
        await part(stage, thread, message)


async def _threads(stage: Stage) -> tuple[int, int]:
    ann, ben = stage.ann, stage.ben
    pages = await stage.pages(ben, f"{ROOT}/ws/v2")
    world = await stage.pages(ben, f"{ROOT}/ws/global")
    begun = await ann.post(f"{ROOT}/threads", {"title": "Microphones", "content": "Which **one**?"}, status=201)
    thread, first = begun["thread"]["id"], begun["message"]["id"]
    await stage.all_hear([*pages, *world], "new_thread_created", thread_id=thread)
    for page in pages:
        await page.send({"type": "subscribe", "thread_id": thread})
    await stage.all_hear(pages, "subscribed", thread_id=thread)
    earlier = [
        *await stage.pages(ben, f"{ROOT}/ws/thread/{thread}"),
        *await stage.pages(ben, f"/ws/forum/{thread}"),
    ]
    typist = (await stage.pages(ann, f"{ROOT}/ws/v2"))[0]
    everywhere = [*pages, *earlier]
    await typist.send({"type": "typing", "is_typing": True, "thread_id": thread})
    await stage.all_hear(everywhere, "user_typing", thread_id=thread, user_id=ann.id, is_typing=True)
    new = {"content": "This one, @ben", "reply_to_id": first}
    reply = await ann.post(f"{ROOT}/threads/{thread}/messages", new, status=201)
    told = await stage.all_hear(everywhere, "new_message", thread_id=thread)
    assert (told["message"]["id"], told["message"]["username"]) == (reply["id"], "ann")
    await stage.all_hear(pages, "forum_notification")
    await stage.all_hear(pages, "forum_notification_count")
    await ann.patch(f"{ROOT}/messages/{reply['id']}", {"content": "That one"})
    await stage.all_hear(everywhere, "message_edited", message_id=reply["id"], content="That one", is_edited=True)
    assert len((await stage.there(ben).get(f"{ROOT}/messages/{reply['id']}/edits"))["items"]) >= 1
    await stage.cleo.post(f"{ROOT}/messages/{reply['id']}/like")
    liked = {"message_id": reply["id"], "like_count": 1, "liked_by_user_id": stage.cleo.id}
    await stage.all_hear(everywhere, "message_liked", **liked)
    assert len((await stage.there(ben).get(f"{ROOT}/messages/{reply['id']}/likes"))["items"]) == 1
    await stage.cleo.delete(f"{ROOT}/messages/{reply['id']}/like")
    unliked = {"message_id": reply["id"], "like_count": 0, "unliked_by_user_id": stage.cleo.id}
    await stage.all_hear(everywhere, "message_unliked", **unliked)
    for place in (f"threads/{thread}", f"messages/{reply['id']}"):
        sub = {"title": "An aside", "content": "by the way"}
        await ann.post(f"{ROOT}/{place}/sub-threads", sub, status=201)
        await stage.all_hear(everywhere, "new_sub_thread_created", thread_id=thread)
        assert len((await stage.there(ben).get(f"{ROOT}/{place}/sub-threads"))["items"]) >= 1
    there = stage.there(ben)
    assert (await there.get(f"{ROOT}/messages/{reply['id']}"))["message"]["id"] == reply["id"]
    assert len((await there.get(f"{ROOT}/threads/{thread}/messages"))["items"]) == 2
    assert thread in [row["id"] for row in (await there.get(f"{ROOT}/threads"))["items"]]
    await there.get(f"{ROOT}/threads/{thread}")
    await there.put(f"{ROOT}/threads/{thread}/read", {"number": 2})
    assert (await there.get(f"{ROOT}/search", params={"q": "microphones", "what": "titles"}))["items"]
    assert "<strong>" in (await ben.post(f"{ROOT}/preview", {"content": "**x**"}))["content_html"]
    for page in pages:
        await page.send({"type": "unsubscribe", "thread_id": thread})
    await stage.all_hear(pages, "unsubscribed", thread_id=thread)
    await ann.delete(f"{ROOT}/messages/{reply['id']}")
    await stage.all_hear(earlier, "message_deleted", message_id=reply["id"])
    return thread, first


async def _moderation(stage: Stage, thread: int, message: int) -> None:
    ann, tom = stage.ann, stage.tom
    pages = await stage.pages(ann, f"{ROOT}/ws/thread/{thread}")
    await ann.patch(f"{ROOT}/threads/{thread}", {"title": "Microphones, again"})
    await stage.all_hear(pages, "thread_updated", thread_id=thread)
    for what in ("pin", "lock"):
        await tom.post(f"{ROOT}/threads/{thread}/{what}")
        await stage.all_hear(pages, "thread_updated", thread_id=thread)
        await tom.delete(f"{ROOT}/threads/{thread}/{what}")
        await stage.all_hear(pages, "thread_updated", thread_id=thread)
    reported = await stage.ben.post(f"{ROOT}/messages/{message}/report", {"reason": "off topic"}, status=201)
    reports = (await stage.there(tom).get(f"{ROOT}/reports"))["items"]
    number = reported.get("id", reports[0]["id"])
    await tom.post(f"{ROOT}/reports/{number}/resolve", {"outcome": "dismissed"})
    begun = await ann.post(f"{ROOT}/threads", {"title": "Elsewhere", "content": "here"}, status=201)
    other = begun["thread"]["id"]
    extra = await ann.post(f"{ROOT}/threads/{thread}/messages", {"content": "misplaced"}, status=201)
    await tom.post(f"{ROOT}/messages/{extra['id']}/move", {"thread_id": other})
    await tom.post(f"{ROOT}/threads/{other}/move", {"parent_thread_id": thread})
    await stage.there(tom).get(f"{ROOT}/threads/{other}")
    doomed = await ann.post(f"{ROOT}/threads", {"title": "A mistake", "content": "x"}, status=201)
    world = await stage.pages(ann, f"{ROOT}/ws/global")
    await tom.delete(f"{ROOT}/threads/{doomed['thread']['id']}")
    await stage.all_hear(world, "thread_deleted", thread_id=doomed["thread"]["id"])


async def _notifications(stage: Stage, thread: int, message: int) -> None:
    ann, ben, ada = stage.ann, stage.ben, stage.ada
    pages = await stage.pages(ben, f"{ROOT}/ws/v2")
    await ben.post(f"{ROOT}/threads/{thread}/follow")
    assert thread in [row["thread_id"] for row in (await stage.there(ben).get(f"{ROOT}/follows"))["items"]]
    await ann.post(f"{ROOT}/threads/{thread}/messages", {"content": "news"}, status=201)
    await stage.all_hear(pages, "forum_notification")
    await stage.all_hear(pages, "forum_notification_count")
    items = (await stage.there(ben).get(f"{ROOT}/notifications"))["items"]
    await ben.post(f"{ROOT}/notifications/{items[0]['id']}/read")
    await stage.all_hear(pages, "forum_notification_count")
    await ben.delete(f"{ROOT}/notifications/{items[0]['id']}")
    await ben.post(f"{ROOT}/notifications/mark-all-read")
    assert (await stage.there(ben).get(f"{ROOT}/notifications/unread-count"))["count"] == 0
    await ben.delete(f"{ROOT}/threads/{thread}/follow")
    wanted = await ben.get(f"{ROOT}/notifications/preferences")
    names = ("mention", "reply", "follow", "everyone", "like", "everyone_muted")
    await ben.put(f"{ROOT}/notifications/preferences", {name: wanted[name] for name in names})
    await ada.delete(f"{ROOT}/everyone-mention")
    await stage.all_hear(pages, "everyone_mention_disabled")
    assert not (await stage.there(ben).get(f"{ROOT}/everyone-mention"))["enabled"]
    await ada.post(f"{ROOT}/everyone-mention")
    await stage.all_hear(pages, "everyone_mention_enabled")
    assert (await stage.there(ben).get(f"{ROOT}/members?q=an"))[0]["username"] == "ann"


async def _private(stage: Stage, thread: int, message: int) -> None:
    ann, ben = stage.ann, stage.ben
    new = {"title": "Between us", "content": "quiet", "is_private": True, "member_ids": [ben.id]}
    thread = (await ann.post(f"{ROOT}/threads", new, status=201))["thread"]["id"]
    pages = await stage.pages(ben, f"{ROOT}/ws/v2")
    for page in pages:
        await page.send({"type": "subscribe", "thread_id": thread})
    await stage.all_hear(pages, "subscribed", thread_id=thread)
    assert len((await stage.there(ben).get(f"{ROOT}/threads/{thread}/members"))["items"]) == 2
    await stage.there(ben).get(f"{ROOT}/threads/{thread}/members/{ben.id}")
    await ann.put(f"{ROOT}/threads/{thread}/members/{stage.tom.id}")
    await ann.delete(f"{ROOT}/threads/{thread}/members/{ben.id}")
    await stage.all_hear(pages, "unsubscribed", thread_id=thread)
    await stage.there(ben).get(f"{ROOT}/threads/{thread}", status=404)
