"""The parts of a journey in which people talk: broadcasts, comments, book requests."""

from __future__ import annotations

import datetime

from journeys.stage import Stage

from harness.site import Json, eventually
from harness.tracks import add_track

__all__ = ["book_requests", "broadcasts", "comments"]


async def broadcasts(stage: Stage) -> None:
    ann, cleo = stage.ann, stage.cleo
    root = "/api/creator/broadcast"
    pages = [*await stage.pages(ann, f"{root}/ws"), *await stage.pages(stage.ben, "/ws/broadcasts")]
    assert (await cleo.get(f"{root}/limits"))["max_characters"] == 280
    sent = await cleo.post(root, {"message": "Tonight at nine", "type": "urgent"})
    assert sent["scope"] == ("cluster" if stage.linked else "local")
    assert sent["sent_to_users"] == 2
    number = sent["broadcast"]["id"]
    await stage.all_hear(pages, "new_broadcast", broadcast=sent["broadcast"])
    assert (await stage.there(ann).get(f"{root}/active"))["broadcast"] == sent["broadcast"]
    for page in pages:
        await page.send({"type": "get_active_broadcast"})
    await stage.all_hear(pages, "active_broadcast", broadcast=sent["broadcast"])
    half = len(pages) // 2
    await pages[0].send({"type": "acknowledge_broadcast", "broadcast_id": number})
    await stage.all_hear(pages[:half], "broadcast_cleared", broadcast_id=number)
    assert (await stage.there(ann).get(f"{root}/active"))["acknowledged"] == [number]
    await stage.ben.post(f"{root}/acknowledge", {"broadcast_id": number})
    await stage.all_hear(pages[half:], "broadcast_cleared", broadcast_id=number)
    stats = await eventually(lambda: cleo.get(f"{root}/stats"), lambda seen: seen["cluster"]["acknowledged"] == 2)
    assert stats["active_broadcast"]["id"] == number
    receipts = await stage.there(cleo).get(f"{root}s/{number}/receipts")
    assert {row["username"] for row in receipts["items"] if row["acknowledged_at"]} == {"ann", "ben"}
    assert (await cleo.post(f"{root}/clear"))["cleared"] == [number]
    await stage.all_hear(pages, "broadcast_cleared", broadcast_id=number)
    soon = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)).isoformat()
    scheduled = (await cleo.post(root, {"message": "later", "send_at": soon}))["broadcast"]["id"]
    waiting = await stage.there(cleo).get(f"{root}s?scheduled=true")
    assert [row["id"] for row in waiting["items"]] == [scheduled]
    await cleo.delete(f"{root}s/{scheduled}")
    assert (await stage.there(cleo).get(f"{root}s"))["items"][0]["id"] == number


async def comments(stage: Stage) -> None:
    ann, ben, cleo = stage.ann, stage.ben, stage.cleo
    track, other = [await add_track(stage.site.database, cleo.id) for _ in range(2)]
    pages = [*await stage.pages(ben, f"/api/ws/track/{track}"), *await stage.pages(cleo, f"/ws/comments/{track}")]
    typist = (await stage.pages(ann, f"/ws/comments/{track}"))[0]
    elsewhere = await stage.pages(ben, f"/ws/comments/{other}")
    await typist.send({"type": "typing", "is_typing": True})
    await stage.all_hear(pages, "user_typing", track_id=track, user_id=ann.id, username="ann", is_typing=True)
    form = {"content": "listen, @ben", "timestamp": 83.5}
    comment: Json = await ann.post(f"/api/tracks/{track}/comments", data=form, status=201)
    await stage.all_hear(pages, "new_comment", track_id=track, comment=comment)
    told = await stage.all_hear(elsewhere, "mention", track_id=track, comment=comment)
    assert told["from_user"]["username"] == "ann"
    edited = await ann.put(f"/api/comments/{comment['id']}", {"content": "listen"})
    message = await stage.all_hear(pages, "comment_edited", comment_id=comment["id"], content="listen", is_edited=True)
    assert message["last_edited_at"] == edited["last_edited_at"]
    listed = await stage.there(ben).get(f"/api/tracks/{track}/comments")
    assert listed["items"] == [edited]
    assert await cleo.put(f"/api/tracks/{track}/comments-closed", {"closed": True}) == {"closed": True}
    await stage.all_hear(pages, "comments_closed", track_id=track, closed=True)
    await ann.delete(f"/api/comments/{comment['id']}")
    await stage.all_hear(pages, "comment_deleted", track_id=track, comment_id=comment["id"])
    assert (await stage.there(ben).get(f"/api/tracks/{track}/comments"))["items"] == []


async def book_requests(stage: Stage) -> None:
    ann, ben, cleo = stage.ann, stage.ben, stage.cleo
    root = "/api/book-requests"
    mine = await stage.pages(ann, "/ws/book-requests", greeting=False)
    theirs = await stage.pages(ben, "/api/ws/book-requests", greeting=False)
    queue = await stage.pages(cleo, "/ws/book-requests/admin", greeting=False)
    asked = await ann.post(root, {"title": "Middlemarch"}, status=201)
    number = asked["id"]
    await stage.all_hear(mine, "request_created", data={"id": number, "title": "Middlemarch", "status": "pending"})
    await stage.all_hear(queue, "new_request")
    double = (await ben.post(root, {"title": "Middlemarch (Eliot)"}, status=201))["id"]
    await stage.all_hear(theirs, "request_created")
    there = stage.there(ben)
    assert [row["id"] for row in (await there.get(f"{root}/similar?q=middlemarch"))["requests"]] == [double, number]
    await ben.post(f"{root}/{number}/vote")
    await ben.delete(f"{root}/{number}/vote")
    assert (await cleo.post(f"{root}/{double}/merge", {"into_id": number}))["merged_into_id"] == number
    message = await stage.all_hear(theirs, "status_updated")
    assert message["data"]["message"] == "Your request 'Middlemarch (Eliot)' is now rejected"
    assert message["data"]["reason"] == "Merged into 'Middlemarch'"
    await cleo.post(f"{root}/{number}/replies", {"text": "on its way"}, status=201)
    await cleo.put(f"{root}/{number}/status", {"status": "approved"})
    for pages in (mine, theirs):
        message = await stage.all_hear(pages, "status_updated")
        assert (message["data"]["id"], message["data"]["status"]) == (number, "approved")
    await stage.all_hear(queue, "request_updated", data={"id": double, "status": "rejected"})
    await stage.all_hear(queue, "request_updated", data={"id": number, "status": "approved"})
    detail = await stage.there(ann).get(f"{root}/{number}")
    assert [row["kind"] for row in detail["history"]] == ["created", "merged", "reply", "status"]
    assert [row["id"] for row in (await stage.there(ann).get(root))["items"]] == [number]
    assert (await ann.get(f"{root}/quota"))["used"] == 1
    assert [row["id"] for row in (await stage.there(cleo).get(f"{root}/admin?sort=votes"))["items"]] == [number, double]
    assert (await stage.there(cleo).get(f"{root}/admin/counts"))["approved"] == 1
    last = (await ann.post(root, {"title": "Emma"}, status=201))["id"]
    await ann.delete(f"{root}/{last}")
    await stage.all_hear(queue, "new_request")
    while (await stage.all_hear(queue, "request_updated"))["data"] != {"id": last, "status": "withdrawn"}:
        pass
