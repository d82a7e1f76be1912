"""Every route and every role: who may, by a table that is kept by hand. Nobody else gets in, and nothing breaks."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from catalogue.sounds import picture, sound
from websockets.exceptions import ConnectionClosed, InvalidStatus

from encore.main import app
from encore.operation.asyncapi import SOCKETS
from harness.databases import Databases
from harness.site import Person, Site
from harness.tracks import add_track

pytestmark = pytest.mark.asyncio(loop_scope="module")

GUEST, LISTENER, TEAM, CREATOR, ADMIN, OWNER = "guest", "listener", "team", "creator", "admin", "owner"
ROLES = (GUEST, LISTENER, TEAM, CREATOR, ADMIN, OWNER)
"""All but the owner are strangers to what is asked for. The owner is a listener, and of music a creator."""

EVERYBODY = frozenset(ROLES)
SIGNED_IN = EVERYBODY - {GUEST}
STAFF = frozenset({TEAM, CREATOR, ADMIN})
DECIDERS = frozenset({CREATOR, ADMIN})
ADMINS = frozenset({ADMIN})
OWNERS = frozenset({OWNER})
OPERATORS: frozenset[str] = frozenset()

WHO_MAY = {
    "accounts_signup": EVERYBODY,
    "accounts_login": EVERYBODY,
    "accounts_logout": SIGNED_IN,
    "accounts_me": SIGNED_IN,
    "accounts_list_sessions": SIGNED_IN,
    "accounts_end_all_sessions": SIGNED_IN,
    "accounts_end_session": OWNERS,
    "accounts_change_password": SIGNED_IN,
    "accounts_issue_ticket": SIGNED_IN,
    "accounts_list_users": ADMINS,
    "accounts_user_profile": EVERYBODY,
    "accounts_change_user": ADMINS,
    "catalogue_albums": EVERYBODY,
    "catalogue_add_album": STAFF | OWNERS,
    "catalogue_album": EVERYBODY,
    "catalogue_change_album": ADMINS | OWNERS,
    "catalogue_delete_album": ADMINS | OWNERS,
    "catalogue_tracks": EVERYBODY,
    "catalogue_upload_track": STAFF | OWNERS,
    "catalogue_track": EVERYBODY,
    "catalogue_change_track": ADMINS | OWNERS,
    "catalogue_delete_track": ADMINS | OWNERS,
    "catalogue_play": SIGNED_IN,
    "catalogue_position": SIGNED_IN,
    "catalogue_keep_position": SIGNED_IN,
    "catalogue_positions": SIGNED_IN,
    "catalogue_audio": EVERYBODY,
    "catalogue_peaks": EVERYBODY,
    "catalogue_track_cover": EVERYBODY,
    "catalogue_put_track_cover": ADMINS | OWNERS,
    "catalogue_album_cover": EVERYBODY,
    "catalogue_put_album_cover": ADMINS | OWNERS,
    "broadcasts_send_broadcast": STAFF,
    "broadcasts_clear_broadcast": STAFF,
    "broadcasts_acknowledge_broadcast": SIGNED_IN,
    "broadcasts_get_active_broadcast": SIGNED_IN,
    "broadcasts_get_broadcast_limits": SIGNED_IN,
    "broadcasts_get_broadcast_stats": STAFF,
    "broadcasts_list_broadcasts": STAFF,
    "broadcasts_list_broadcast_receipts": STAFF,
    "broadcasts_cancel_broadcast": STAFF,
    "comments_list_comments": EVERYBODY,
    "comments_write_comment": SIGNED_IN,
    "comments_edit_comment": OWNERS,
    "comments_delete_comment": STAFF | OWNERS,
    "comments_close_comments": frozenset({TEAM, ADMIN, OWNER}),
    "forum_list_threads": EVERYBODY,
    "forum_create_thread": SIGNED_IN,
    "forum_get_thread": EVERYBODY,
    "forum_rename_thread": STAFF | OWNERS,
    "forum_delete_thread": STAFF | OWNERS,
    "forum_list_sub_threads_of_thread": EVERYBODY,
    "forum_create_sub_thread_of_thread": SIGNED_IN,
    "forum_mark_thread_read": SIGNED_IN,
    "forum_list_thread_members": OWNERS,
    "forum_get_thread_member": OWNERS,
    "forum_add_thread_member": OWNERS,
    "forum_remove_thread_member": OWNERS,
    "forum_search": EVERYBODY,
    "forum_list_messages": EVERYBODY,
    "forum_post_message": SIGNED_IN,
    "forum_preview": SIGNED_IN,
    "forum_get_message": EVERYBODY,
    "forum_edit_message": OWNERS,
    "forum_delete_message": STAFF | OWNERS,
    "forum_list_edits": EVERYBODY,
    "forum_list_sub_threads_of_message": EVERYBODY,
    "forum_create_sub_thread_of_message": SIGNED_IN,
    "forum_like_message": SIGNED_IN,
    "forum_unlike_message": SIGNED_IN,
    "forum_list_likers": EVERYBODY,
    "forum_report_message": SIGNED_IN,
    "forum_pin_thread": STAFF,
    "forum_unpin_thread": STAFF,
    "forum_lock_thread": STAFF,
    "forum_unlock_thread": STAFF,
    "forum_move_thread": STAFF,
    "forum_move_message": STAFF,
    "forum_list_reports": STAFF,
    "forum_resolve_report": STAFF,
    "forum_list_notifications": SIGNED_IN,
    "forum_get_unread_count": SIGNED_IN,
    "forum_mark_all_notifications_read": SIGNED_IN,
    "forum_get_preferences": SIGNED_IN,
    "forum_set_preferences": SIGNED_IN,
    "forum_mark_notification_read": OWNERS,
    "forum_remove_notification": OWNERS,
    "forum_follow_thread": SIGNED_IN,
    "forum_unfollow_thread": SIGNED_IN,
    "forum_list_follows": SIGNED_IN,
    "forum_get_everyone_mention": SIGNED_IN,
    "forum_enable_everyone_mention": ADMINS,
    "forum_disable_everyone_mention": ADMINS,
    "forum_complete_member": SIGNED_IN,
    "book_requests_list_all_requests": DECIDERS,
    "book_requests_count_requests": DECIDERS,
    "book_requests_decide_on_request": DECIDERS,
    "book_requests_merge_request": DECIDERS,
    "book_requests_list_own_requests": SIGNED_IN,
    "book_requests_ask_for_book": SIGNED_IN,
    "book_requests_find_similar": SIGNED_IN,
    "book_requests_get_quota": SIGNED_IN,
    "book_requests_get_request": DECIDERS | OWNERS,
    "book_requests_withdraw_request": OWNERS,
    "book_requests_vote_for_request": SIGNED_IN,
    "book_requests_take_vote_back": SIGNED_IN,
    "book_requests_reply_to_request": DECIDERS | OWNERS,
    "operation_liveness": EVERYBODY,
    "operation_readiness": EVERYBODY,
    "operation_status": STAFF,
    "operation_prometheus": OPERATORS,
    "operation_drain": OPERATORS,
    "operation_openapi_document": EVERYBODY,
    "operation_asyncapi_document": EVERYBODY,
}

MEANWHILE = {
    # What those who may are told all the same, because of what was made for them here.
    "accounts_signup": {201, 409},
    "accounts_login": {401, 429},
    "accounts_change_password": {400},
    "accounts_issue_ticket": {503},  # there is no Redis here
    "catalogue_track_cover": {404},
    "catalogue_album_cover": {404},
    "broadcasts_acknowledge_broadcast": {404},
    "forum_report_message": {400},
    "book_requests_vote_for_request": {409},
    "book_requests_take_vote_back": {409},
}

TOKEN = "the-operators-token-for-tests"
OPERATIONS = {
    operation["operationId"]: (method.upper(), path, operation)
    for path, methods in app.openapi()["paths"].items()
    for method, operation in methods.items()
}
DRASTIC = {"accounts_signup", "accounts_login", "accounts_logout", "accounts_end_all_sessions"}
"""These end the session of who asks, or begin another: they get one of their own."""
Made = dict[str, object]


async def test_the_table_has_every_route_and_no_other() -> None:
    assert set(WHO_MAY) == set(OPERATIONS)


def soon() -> str:
    """A moment for which a broadcast may be scheduled, and which does not come while this runs."""
    return (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=100)).isoformat()


async def test_the_document_says_the_same_of_guests_as_the_table() -> None:
    for name, (_, _, operation) in OPERATIONS.items():
        is_open = operation["security"] == [] or {} in operation["security"]
        assert is_open is (GUEST in WHO_MAY[name]), name


class World:
    """What is there to be asked for: each time something new, which belongs to the owner."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.people: dict[str, Person] = {}
        self._count = 0
        self._audio = sound(seconds=0.1)

    async def populate(self) -> None:
        self.people[GUEST] = self.site.guest()
        for role in (LISTENER, TEAM, CREATOR, ADMIN):
            roles = [] if role == LISTENER else [role]
            self.people[role] = await self.site.person(f"the-{role}", roles=roles)
        self.people[OWNER] = await self.site.person("the-owner")
        self.people["musician"] = await self.site.person("the-musician", roles=["creator"])
        for person in self.people.values():
            person.http.headers["Sec-Fetch-Site"] = "same-origin"

    def asker(self, role: str, operation: str) -> Person:
        """The one of that role: what music belongs to is a creator's."""
        is_music = operation.startswith("catalogue_") or operation == "comments_close_comments"
        return self.people["musician" if role == OWNER and is_music else role]

    def name(self) -> str:
        self._count += 1
        return f"thing {self._count}"

    async def thread(self, *, is_private: bool = False) -> int:
        body = {"title": self.name(), "content": "Hello", "is_private": is_private}
        return int((await self.people[OWNER].post("/api/forum/threads", body, status=201))["thread"]["id"])

    async def message(self, *, is_private: bool = False) -> int:
        thread = await self.thread(is_private=is_private)
        path = f"/api/forum/threads/{thread}/messages"
        return int((await self.people[OWNER].post(path, {"content": "Hello"}, status=201))["id"])

    async def notification(self) -> int:
        thread = await self.thread()
        body = {"content": "See @the-owner"}
        await self.people[TEAM].post(f"/api/forum/threads/{thread}/messages", body, status=201)
        return int((await self.people[OWNER].get("/api/forum/notifications"))["items"][0]["id"])

    async def report(self) -> int:
        path = f"/api/forum/messages/{await self.message()}/report"
        return int((await self.people["musician"].post(path, {"reason": "Bad"}, status=201))["id"])

    async def track(self) -> int:
        files = {"audio": ("a.flac", self._audio, "audio/flac")}
        made = await self.people["musician"].post("/api/tracks", data={"title": self.name()}, files=files, status=201)
        return int(made["id"])

    async def silent_track(self) -> int:
        return await add_track(self.site.database, self.people["musician"].id, title=self.name())

    async def album(self) -> int:
        return int((await self.people["musician"].post("/api/albums", {"title": self.name()}, status=201))["id"])

    async def comment(self) -> int:
        path = f"/api/tracks/{await self.silent_track()}/comments"
        form = {"content": "Nice", "timestamp": "1"}
        return int((await self.people[OWNER].post(path, data=form, status=201))["id"])

    async def broadcast(self) -> int:
        body = {"message": self.name(), "send_at": soon()}
        return int((await self.people["musician"].post("/api/creator/broadcast", body))["broadcast"]["id"])

    async def request(self, *, is_private: bool = False) -> int:
        """By an owner of its own: nobody may ask for many in a week."""
        self.people[OWNER] = owner = await self.site.person()
        owner.http.headers["Sec-Fetch-Site"] = "same-origin"
        body = {"title": self.name(), "is_private": is_private}
        return int((await owner.post("/api/book-requests", body, status=201))["id"])

    async def session(self) -> int:
        """The owner's second one, the first being what they ask with."""
        from encore.accounts.sessions import start_session

        async with self.site.database.writing() as session:
            row, _ = await start_session(session, self.people[OWNER].user)
        return row.id

    async def username(self) -> str:
        return (await self.site.person()).user.username

    async def user(self) -> int:
        """Somebody who is a member of no thread yet."""
        return (await self.site.person()).id


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(databases: Databases) -> AsyncIterator[World]:
    async with Site(databases.fresh("sqlite"), replicas=1, environment={"ENCORE_OPERATOR_TOKEN": TOKEN}) as site:
        found = World(site)
        await found.populate()
        yield found
        log = site.log(0)
        assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:6000]


async def places(world: World, operation: str, path: str, *, is_private: bool) -> Made:
    """Something for each name in the path."""
    makers: dict[str, Callable[[], Awaitable[object]]] = {
        "{thread_id}": lambda: world.thread(is_private=is_private),
        "{message_id}": lambda: world.message(is_private=is_private),
        "{notification_id}": world.notification,
        "{report_id}": world.report,
        "{track_id}": world.track if operation.startswith("catalogue_") else world.silent_track,
        "{album_id}": world.album,
        "{comment_id}": world.comment,
        "{broadcast_id}": world.broadcast,
        "{request_id}": lambda: world.request(is_private=is_private),
        "{session_id}": world.session,
        "{username}": world.username,
        "{user_id}": world.user,
    }
    made = {name: await make() for name, make in makers.items() if name in path}
    if operation in ("forum_get_thread_member", "forum_remove_thread_member"):
        await world.people[OWNER].put(f"/api/forum/threads/{made['{thread_id}']}/members/{made['{user_id}']}")
    return made


async def body_of(world: World, operation: str) -> dict[str, Any]:
    """What goes with the request, so that it would be carried out."""
    bodies: dict[str, Any] = {
        "accounts_signup": {"username": "fresh", "email": "fresh@example.org", "password": "correct horse"},
        "accounts_login": {"username": "nobody", "password": "wrong"},
        "accounts_change_password": {"current_password": "wrong", "new_password": "correct horse"},
        "accounts_change_user": {"is_team": True},
        "catalogue_add_album": {"title": "An album"},
        "catalogue_change_album": {"title": "Another title"},
        "catalogue_change_track": {"title": "Another title"},
        "catalogue_keep_position": {"position_s": 3},
        "broadcasts_send_broadcast": {"message": "Hello", "send_at": soon()},
        "broadcasts_acknowledge_broadcast": {"broadcast_id": 9_999},
        "comments_edit_comment": {"content": "Nicer"},
        "comments_close_comments": {"closed": True},
        "forum_create_thread": {"title": "A thread", "content": "Hello"},
        "forum_rename_thread": {"title": "Another title"},
        "forum_create_sub_thread_of_thread": {"title": "Below", "content": "Hello"},
        "forum_create_sub_thread_of_message": {"title": "Below", "content": "Hello"},
        "forum_mark_thread_read": {},
        "forum_post_message": {"content": "Hello"},
        "forum_preview": {"content": "Hello"},
        "forum_edit_message": {"content": "Hello again"},
        "forum_report_message": {"reason": "Bad"},
        "forum_resolve_report": {"outcome": "dismissed"},
        "forum_set_preferences": dict.fromkeys(
            ("mention", "reply", "follow", "everyone", "like", "everyone_muted"), True
        ),
        "book_requests_decide_on_request": {"status": "approved"},
        "book_requests_ask_for_book": {"title": world.name()},
        "book_requests_reply_to_request": {"text": "Hello"},
    }
    if operation == "comments_write_comment":
        return {"data": {"content": "Nice", "timestamp": "1"}}
    if operation == "catalogue_upload_track":
        return {"files": {"audio": ("a.flac", sound(seconds=0.1), "audio/flac")}, "data": {"title": "A title"}}
    if operation.endswith("_cover") and "put" in operation:
        return {"content": picture(), "headers": {"Content-Type": "image/png"}}
    if operation == "forum_move_message":
        return {"json": {"thread_id": await world.thread()}}
    if operation == "forum_move_thread":
        return {"json": {"parent_thread_id": await world.thread()}}
    if operation == "book_requests_merge_request":
        owner, into = world.people[OWNER], await world.request()
        world.people[OWNER] = owner
        return {"json": {"into_id": into}}
    return {"json": bodies[operation]} if operation in bodies else {}


class Asking:
    """One route, asked for by one after the other. What it needs is made anew once somebody has changed it."""

    def __init__(self, world: World, operation: str, *, is_private: bool = False) -> None:
        self._world = world
        self._operation = operation
        self._method, self._path, _ = OPERATIONS[operation]
        self._is_private = is_private or "/members" in self._path
        self._made: Made | None = None

    async def by(self, role: str) -> int:
        """The status that somebody of this role gets."""
        world, operation = self._world, self._operation
        if self._made is None:
            self._made = await places(world, operation, self._path, is_private=self._is_private)
        options = await body_of(world, operation)
        if operation == "forum_search":
            options["params"] = {"q": "hello"}
        path = self._path
        for name, value in self._made.items():
            path = path.replace(name, str(value))
        person = await self._person(role)
        answer: httpx2.Response = await person.http.request(self._method, path, **options)
        if answer.is_success and self._method != "GET":
            self._made = None
        return answer.status_code

    async def _person(self, role: str) -> Person:
        if self._operation not in DRASTIC:
            return self._world.asker(role, self._operation)
        if role == GUEST:
            return self._world.site.guest()
        person = await self._world.site.person(roles=[role] if role in ("team", "creator", "admin") else [])
        person.http.headers["Sec-Fetch-Site"] = "same-origin"
        return person


@pytest.mark.parametrize("operation", sorted(WHO_MAY))
async def test_a_route_is_for_those_of_the_table_and_for_nobody_else(world: World, operation: str) -> None:
    wrong, asking = [], Asking(world, operation)
    for role in ROLES:
        status = await asking.by(role)
        if role in WHO_MAY[operation]:
            fits = 200 <= status < 300 or status in MEANWHILE.get(operation, ())
        else:
            fits = status in ((401,) if role == GUEST else (401, 403, 404))
        if not fits:
            wrong.append(f"{role}: {status}")
    assert wrong == []


PRIVATE = sorted(
    operation
    for operation, (_, path, _) in OPERATIONS.items()
    if any(name in path for name in ("{thread_id}", "{message_id}")) and "/members" not in path
)


@pytest.mark.parametrize("operation", PRIVATE)
async def test_what_is_private_is_not_there_for_anybody_else(world: World, operation: str) -> None:
    wrong, asking = [], Asking(world, operation, is_private=True)
    for role in (GUEST, LISTENER, TEAM, CREATOR, ADMIN):
        status = await asking.by(role)
        expected = {404} if role in WHO_MAY[operation] else {401} if role == GUEST else {403, 404}
        # Following no more is answered alike whether it is there or not, so that nothing is learnt from it.
        is_silent = operation == "forum_unfollow_thread" and status == 200
        if status not in expected and not is_silent:
            wrong.append(f"{role}: {status}")
    assert wrong == []


@pytest.mark.parametrize("operation", ["book_requests_vote_for_request", "book_requests_get_request"])
async def test_a_private_request_is_not_there_for_other_listeners(world: World, operation: str) -> None:
    asking = Asking(world, operation, is_private=True)
    for role in (LISTENER, TEAM):
        assert await asking.by(role) == 404


@pytest.mark.parametrize("operation", sorted(name for name in WHO_MAY if WHO_MAY[name] is OPERATORS))
async def test_what_operators_may_nobody_may_by_a_session(world: World, operation: str) -> None:
    _, path, _ = OPERATIONS[operation]
    answer = await world.people[ADMIN].http.get(path, headers={"Authorization": "Bearer the-operators-token"})
    assert answer.status_code in (401, 405)


# -- sockets ----------------------------------------------------------------------------------------------------------

WHO_MAY_LISTEN = {
    "broadcasts": SIGNED_IN,
    "trackComments": SIGNED_IN,
    "forum": SIGNED_IN,
    "forumThread": SIGNED_IN,
    "forumGlobal": SIGNED_IN,
    "bookRequests": SIGNED_IN,
    "bookRequestsAdmin": DECIDERS,
}
LISTENED = [(socket.name, address) for socket in SOCKETS for address in socket.addresses]


async def hears(person: Person, path: str) -> bool:
    """Whether somebody is let in and answered. Else they get a status, or a code that says: do not come back."""
    refusal = await refusal_of(person, path)
    assert refusal in (None, 401, 403, 404) or 4500 <= refusal < 4600
    return refusal is None


async def refusal_of(person: Person, path: str) -> int | None:
    try:
        async with person.socket(path) as socket:
            await socket.send({"type": "ping"})
            await socket.next("pong")
            return None
    except InvalidStatus as refused:
        return refused.response.status_code
    except ConnectionClosed as closed:
        return 1006 if closed.rcvd is None else closed.rcvd.code


@pytest.mark.parametrize(("name", "address"), LISTENED)
async def test_a_socket_is_for_those_of_the_table_and_for_nobody_else(world: World, name: str, address: str) -> None:
    made = await places(world, name, address, is_private=False)
    for place, value in made.items():
        address = address.replace(place, str(value))
    heard = {role for role in ROLES if await hears(world.people[role], address)}
    assert heard == WHO_MAY_LISTEN[name]


@pytest.mark.parametrize("address", ["/api/forum/ws/thread/{thread_id}", "/ws/forum/{thread_id}"])
async def test_a_private_threads_socket_is_for_its_members_alone(world: World, address: str) -> None:
    address = address.replace("{thread_id}", str(await world.thread(is_private=True)))
    assert {role for role in ROLES if await hears(world.people[role], address)} == OWNERS


@pytest.mark.parametrize("address", ["/ws/comments/999999", "/ws/forum/999999", "/ws/comments/x", "/ws/forum/x"])
async def test_a_socket_of_what_is_not_there_is_refused_for_everybody(world: World, address: str) -> None:
    assert {role for role in ROLES if await hears(world.people[role], address)} == set()


@pytest.mark.parametrize(("name", "address"), LISTENED)
async def test_who_one_claims_to_be_is_never_believed(world: World, name: str, address: str) -> None:
    made = await places(world, name, address, is_private=False)
    for place, value in made.items():
        address = address.replace(place, str(value))
    ada, cleo = world.people[ADMIN], world.people[CREATOR]
    assert await hears(ada, f"{address}?user_id={ada.id}")
    assert not await hears(cleo, f"{address}?user_id={ada.id}")
    assert not await hears(world.people[GUEST], f"{address}?user_id={ada.id}")
