"""Who may do what with book requests, and what is refused."""

from __future__ import annotations

import pytest
import pytest_asyncio

from harness.site import Json, Person, Site

pytestmark = pytest.mark.asyncio(loop_scope="module")

ASK = "/api/book-requests"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cleo(shared_site: Site) -> Person:
    return await shared_site.person(roles={"creator"})


async def ask(person: Person, title: str, **more: object) -> int:
    request: Json = await person.post(ASK, {"title": title, **more}, status=201)
    return int(request["id"])


async def test_others_find_nothing_when_they_look_for_somebody_elses(shared_site: Site, cleo: Person) -> None:
    ann, ben, tom = [await shared_site.person(roles=roles) for roles in (set(), set(), {"team"})]
    number = await ask(ann, "Ulysses", note="secret")
    for person in (ben, tom):
        await person.get(f"{ASK}/{number}", status=404)
        await person.delete(f"{ASK}/{number}", status=404)
        await person.post(f"{ASK}/{number}/replies", {"text": "hello"}, status=404)
        await person.put(f"{ASK}/{number}/status", {"status": "approved"}, status=403)
        await person.post(f"{ASK}/{number}/merge", {"into_id": number}, status=403)
        await person.get(f"{ASK}/admin", status=403)
        await person.get(f"{ASK}/admin/counts", status=403)
        assert (await person.get(f"{ASK}?user_id={ann.id}"))["items"] == []
    assert (await cleo.get(f"{ASK}/{number}"))["note"] == "secret"
    guest = shared_site.guest()
    for method, path in (("GET", ASK), ("GET", f"{ASK}/{number}"), ("DELETE", f"{ASK}/{number}")):
        await guest.ask(method, path, status=401)


async def test_nobody_learns_of_it_when_it_is_private(shared_site: Site, cleo: Person) -> None:
    ann, ben = await shared_site.person(), await shared_site.person()
    number = await ask(ann, "A Private Matter", is_private=True)
    assert (await ben.get(f"{ASK}/similar?q=private+matter"))["requests"] == []
    await ben.post(f"{ASK}/{number}/vote", status=404)
    assert [row["id"] for row in (await ann.get(f"{ASK}/similar?q=private"))["requests"]] == [number]
    assert (await cleo.get(f"{ASK}/admin?q=private%20matter"))["items"][0]["id"] == number


async def test_only_its_owner_and_deciders_are_told_when_a_private_one_moves(shared_site: Site, cleo: Person) -> None:
    ann, ben = await shared_site.person(), await shared_site.person(replica=1)
    async with ann.at(1).socket("/ws/book-requests") as of_ann, ben.socket("/ws/book-requests") as of_ben:
        for socket in (of_ann, of_ben):
            assert await socket.heard() == []
        # Whose it is says the session, not the body.
        body = {"title": "Quietly", "is_private": True, "user_id": ben.id, "owner_id": ben.id, "status": "approved"}
        asked = await ann.post(ASK, body, status=201)
        assert (asked["user_id"], asked["status"]) == (ann.id, "pending")
        path = f"{ASK}/{asked['id']}"
        await cleo.put(f"{path}/status", {"status": "approved"})
        await cleo.post(f"{path}/replies", {"text": "It is on its way"}, status=201)
        await cleo.put(f"{path}/status", {"status": "pending"})
        await ben.patch(path, {"owner_id": ben.id}, status=405)
        await ann.delete(path)
        heard = [(message["type"], message["data"]["status"]) for message in await of_ann.heard()]
        statuses = [("status_updated", status) for status in ("approved", "pending", "withdrawn")]
        assert heard == [("request_created", "pending"), *statuses]
        assert await of_ben.heard() == []


async def test_a_private_one_stays_unknown_when_requests_are_merged(shared_site: Site, cleo: Person) -> None:
    ann, ben = await shared_site.person(), await shared_site.person()
    private, public = await ask(ann, "Her Secret", is_private=True), await ask(ben, "His Wish")
    refused = await cleo.post(f"{ASK}/{public}/merge", {"into_id": private}, status=409)
    assert refused["code"] == "private_request"
    await cleo.post(f"{ASK}/{private}/merge", {"into_id": public})
    seen = await ben.get(f"{ASK}/{public}")
    assert "Secret" not in str(seen)
    assert seen["votes"] == 1
    assert seen["history"][-1]["text"] == "a private request was merged into this one"
    # One's own private requests may be merged as one likes.
    first, second = await ask(ann, "Mine", is_private=True), await ask(ann, "Mine too", is_private=True)
    await cleo.post(f"{ASK}/{first}/merge", {"into_id": second})
    assert (await ann.get(f"{ASK}/{second}"))["history"][-1]["text"] == "'Mine' was merged into this one"


@pytest.mark.parametrize(
    ("steps", "status"),
    [
        (["fulfilled"], 409),
        (["in_progress"], 409),
        (["pending"], 409),
        (["approved", "approved"], 409),
        (["approved", "rejected"], 409),
        (["rejected", "approved"], 409),
        (["approved", "in_progress", "fulfilled", "pending"], 409),
        (["approved", "pending", "rejected", "pending", "approved"], 200),
        (["approved", "in_progress", "rejected"], 200),
        (["withdrawn"], 422),
    ],
)
async def test_only_steps_that_make_sense_are_taken_when_it_is_decided(
    shared_site: Site, cleo: Person, steps: list[str], status: int
) -> None:
    ann = await shared_site.person()
    number = await ask(ann, "Steps")
    for step in steps[:-1]:
        await cleo.put(f"{ASK}/{number}/status", {"status": step})
    await cleo.put(f"{ASK}/{number}/status", {"status": steps[-1]}, status=status)


async def test_the_second_is_told_when_it_is_not_what_they_saw(shared_site: Site, cleo: Person) -> None:
    ann = await shared_site.person()
    number = await ask(ann, "Seen")
    await cleo.put(f"{ASK}/{number}/status", {"status": "approved"})
    decision = {"status": "in_progress", "expected_status": "pending"}
    assert (await cleo.put(f"{ASK}/{number}/status", decision, status=409))["code"] == "decided_meanwhile"
    await cleo.put(f"{ASK}/{number}/status", {"status": "in_progress", "album_id": 1}, status=400)
    await cleo.put(f"{ASK}/{number}/status", {**decision, "expected_status": "approved"})
    done = {"status": "fulfilled", "album_id": 999_999}
    assert (await cleo.put(f"{ASK}/{number}/status", done, status=400))["code"] == "unknown_album"
    await cleo.put(f"{ASK}/999999/status", {"status": "approved"}, status=404)


async def test_it_stays_when_it_is_withdrawn_too_late(shared_site: Site, cleo: Person) -> None:
    ann = await shared_site.person()
    number = await ask(ann, "Too late")
    await cleo.put(f"{ASK}/{number}/status", {"status": "rejected", "reason": "we have it"})
    await ann.delete(f"{ASK}/{number}", status=409)
    assert (await ann.get(f"{ASK}/{number}"))["reason"] == "we have it"


async def test_one_asks_once_when_the_spelling_differs(shared_site: Site) -> None:
    ann, ben = await shared_site.person(), await shared_site.person()
    await ask(ann, "The Café of Dreams!")
    assert (await ann.post(ASK, {"title": "cafe of  dreams"}, status=409))["code"] == "duplicate"
    found = (await ben.get(f"{ASK}/similar?q=CAFE"))["requests"]
    assert [row["title"] for row in found] == ["The Café of Dreams!"]
    await ask(ben, "The Café of Dreams!")  # who asks all the same may


async def test_votes_are_counted_once_when_somebody_clicks_twice(shared_site: Site, cleo: Person) -> None:
    ann, ben = await shared_site.person(), await shared_site.person()
    number = await ask(ann, "Votes")
    assert (await ann.post(f"{ASK}/{number}/vote", status=409))["code"] == "own_request"
    for _ in range(2):
        assert await ben.post(f"{ASK}/{number}/vote") == {"id": number, "votes": 1, "have_voted": True}
    for _ in range(2):
        assert await ben.delete(f"{ASK}/{number}/vote") == {"id": number, "votes": 0, "have_voted": False}
    await cleo.put(f"{ASK}/{number}/status", {"status": "rejected"})
    assert (await ben.post(f"{ASK}/{number}/vote", status=409))["code"] == "decided"


async def test_votes_move_when_requests_are_merged(shared_site: Site, cleo: Person) -> None:
    ann, ben, tom = [await shared_site.person() for _ in range(3)]
    first, second = await ask(ann, "Emma"), await ask(ben, "Emma, by Austen")
    await tom.post(f"{ASK}/{first}/vote")
    await tom.post(f"{ASK}/{second}/vote")
    await ann.post(f"{ASK}/{second}/vote")
    async with ben.at(1).socket("/ws/book-requests") as of_ben, tom.socket("/ws/book-requests") as of_tom:
        for socket in (of_ben, of_tom):
            assert await socket.heard() == []
        await cleo.post(f"{ASK}/{second}/merge", {"into_id": second}, status=400)
        merged = await cleo.post(f"{ASK}/{second}/merge", {"into_id": first})
        assert (merged["status"], merged["merged_into_id"], merged["votes"]) == ("rejected", first, 0)
        message = await of_ben.next()
        assert message["data"]["message"] == "Your request 'Emma, by Austen' is now rejected"
        assert message["data"]["reason"] == "Merged into 'Emma'"
        assert (await of_tom.next())["data"]["id"] == second
    assert (await cleo.get(f"{ASK}/{first}"))["votes"] == 2  # Tom and Ben
    await cleo.post(f"{ASK}/{second}/merge", {"into_id": first}, status=409)


async def test_replies_stand_in_the_history_when_both_sides_talk(shared_site: Site, cleo: Person) -> None:
    ann = await shared_site.person()
    number = await ask(ann, "Talk")
    await cleo.post(f"{ASK}/{number}/replies", {"text": "Which edition?"}, status=201)
    await ann.post(f"{ASK}/{number}/replies", {"text": "Any"}, status=201)
    await ann.post(f"{ASK}/{number}/replies", {"text": " "}, status=422)
    history = (await ann.get(f"{ASK}/{number}"))["history"]
    assert [(row["kind"], row["text"]) for row in history[1:]] == [("reply", "Which edition?"), ("reply", "Any")]


async def test_the_quota_ends_it_when_somebody_asks_for_everything(shared_site: Site, cleo: Person) -> None:
    ann = await shared_site.person()
    limit = (await ann.get(f"{ASK}/quota"))["limit"]
    for number in range(limit):
        await ask(ann, f"Volume {number}")
    assert (await ann.post(ASK, {"title": "one more"}, status=429))["code"] == "quota"
    assert (await ann.get(f"{ASK}/quota"))["used"] == limit
    assert (await cleo.get(f"{ASK}/quota"))["limit"] is None


async def test_the_queue_is_sorted_and_filtered_when_asked(shared_site: Site, cleo: Person) -> None:
    ann, ben, tom = [await shared_site.person() for _ in range(3)]
    numbers = [await ask(ann, f"Queue 100% {letter}") for letter in "abc"]
    await ask(ann, "Queue 1000 d")
    for person in (ben, tom):
        await person.post(f"{ASK}/{numbers[1]}/vote")
    await ben.post(f"{ASK}/{numbers[2]}/vote")
    path = f"{ASK}/admin?q=queue%20100%25&limit=2"
    for sort, expected in (("votes", [1, 2, 0]), ("oldest", [0, 1, 2]), ("newest", [2, 1, 0])):
        first = await cleo.get(f"{path}&sort={sort}")
        rest = await cleo.get(f"{path}&sort={sort}&cursor={first['next_cursor']}")
        assert [row["id"] for row in [*first["items"], *rest["items"]]] == [numbers[place] for place in expected]
        assert rest["next_cursor"] is None
    await cleo.put(f"{ASK}/{numbers[0]}/status", {"status": "approved"})
    some = await cleo.get(f"{path}&status=approved&status=rejected")
    assert [row["id"] for row in some["items"]] == [numbers[0]]
    assert (await cleo.get(f"{ASK}/admin/counts"))["approved"] >= 1
    for bad in ("sort=title;drop", "cursor=AAAA", "limit=1000", "status=lost"):
        answer = await cleo.http.get(f"{ASK}/admin?{bad}")
        assert answer.status_code in (400, 422)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"title": ""},
        {"title": "two\nlines"},
        {"title": "x" * 201},
        {"title": "x", "kind": "film"},
        {"title": "x", "link": "javascript:alert(1)"},
        {"title": "x", "link": "file:///etc/passwd"},
        {"title": "x\x00"},
    ],
)
async def test_a_bad_request_is_refused_when_it_is_sent(shared_site: Site, body: object) -> None:
    await (await shared_site.person()).post(ASK, body, status=422)


@pytest.mark.parametrize(("roles", "code"), [((), 4503), (("team",), 4503), (("creator",), None), (("admin",), None)])
async def test_the_admin_socket_is_for_those_who_decide_when_others_try(
    shared_site: Site, roles: tuple[str, ...], code: int | None
) -> None:
    person = await shared_site.person(roles=roles)
    for path in ("/ws/book-requests/admin", "/api/ws/book-requests/admin"):
        async with person.socket(path) as socket:
            if code is not None:
                assert await socket.closed() == code
            else:
                assert await socket.heard() == []
                await socket.send({"type": "approve"})
                assert (await socket.next("error"))["code"] == "unknown_type"


async def test_old_state_and_messages_make_the_fresh_state_when_requests_move(shared_site: Site, cleo: Person) -> None:
    ann = await shared_site.person(replica=1)
    before = await ask(ann, "There before")
    async with ann.socket("/ws/book-requests") as mine, cleo.at(1).socket("/ws/book-requests/admin") as queue:
        for socket in (mine, queue):
            assert await socket.heard() == []
        own = {row["id"]: row["status"] for row in (await ann.get(ASK))["items"]}
        every = {row["id"]: row["status"] for row in (await cleo.get(f"{ASK}/admin?limit=100"))["items"]}
        numbers = [await ask(ann, f"Fold {letter}") for letter in "abcd"]
        await cleo.put(f"{ASK}/{before}/status", {"status": "approved"})
        await cleo.put(f"{ASK}/{before}/status", {"status": "in_progress"})
        await cleo.put(f"{ASK}/{numbers[0]}/status", {"status": "rejected"})
        await cleo.post(f"{ASK}/{numbers[1]}/merge", {"into_id": numbers[2]})
        await ann.delete(f"{ASK}/{numbers[3]}")
        last = await ask(ann, "Fold z")
        while (await mine.next("request_created"))["data"]["id"] != last:
            pass
        while (await queue.next("new_request"))["data"]["id"] != last:
            pass
        for message in mine.received:
            if message["type"] in ("request_created", "status_updated"):
                own[message["data"]["id"]] = message["data"]["status"]
        for message in queue.received:
            if message["type"] in ("new_request", "request_updated"):
                every[message["data"]["id"]] = message["data"].get("status", "pending")
        for state, path, person in ((own, ASK, ann), (every, f"{ASK}/admin?limit=100", cleo)):
            fresh = {row["id"]: row["status"] for row in (await person.get(path))["items"]}
            assert {number: status for number, status in state.items() if status != "withdrawn"} == fresh
