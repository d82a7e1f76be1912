"""Signing up, in and out, on both databases."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable

import httpx2
import pytest
from sqlalchemy import func, select, update

from encore.accounts.models import LoginSession, User
from encore.accounts.passwords import Passwords
from encore.accounts.sessions import SESSIONS_PER_USER, cookie_name, start_session
from encore.accounts.sightings import sightings
from encore.accounts.turns import Turns
from encore.accounts.upkeep import purge
from encore.db import Database, now
from encore.errors import TooManyRequests

Visitors = Callable[..., httpx2.AsyncClient]

ANN = {"username": "Ann", "email": "ann@example.org", "password": "correct horse"}
LOGIN = {"username": "ann", "password": "correct horse"}


async def signed_up(client: Visitors, **changes: str) -> httpx2.AsyncClient:
    visitor = client()
    answer = await visitor.post("/api/auth/signup", json={**ANN, **changes})
    assert answer.status_code == 201, answer.text
    return visitor


async def test_an_account_is_made_and_signed_in_when_somebody_signs_up(client: Visitors) -> None:
    ann = await signed_up(client)
    me = (await ann.get("/api/auth/me")).json()
    assert (me["username"], me["email"], me["roles"]) == ("Ann", "ann@example.org", [])
    assert (await client().get("/api/auth/me")).status_code == 401


@pytest.mark.parametrize(
    "changes",
    [{"email": "other@example.org", "username": "aNN"}, {"username": "other", "email": "ANN@example.org"}],
    ids=["name", "address"],
)
async def test_sign_up_conflicts_without_saying_why_when_something_is_taken(
    client: Visitors, changes: dict[str, str]
) -> None:
    await signed_up(client)
    answer = await client().post("/api/auth/signup", json={**ANN, **changes})
    assert answer.status_code == 409
    assert answer.json() == {"code": "taken", "detail": "this username or this e-mail address is taken already"}
    assert "set-cookie" not in answer.headers


async def test_one_account_is_made_when_many_sign_up_by_one_name_at_once(client: Visitors, database: Database) -> None:
    tries = [
        client().post("/api/auth/signup", json={**ANN, "username": name, "email": f"{number}@example.org"})
        for number, name in enumerate(["ann", "ANN", "Ann", "aNn"])
    ]
    codes = sorted(answer.status_code for answer in await asyncio.gather(*tries))
    assert codes == [201, 409, 409, 409]
    async with database.reading() as session:
        assert (await session.execute(select(func.count()).select_from(User))).scalar_one() == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"username": "an"},
        {"username": "a" * 33},
        {"username": "аnn"},  # the first letter is Cyrillic
        {"username": "\u212aate"},  # the sign of kelvin, which lower() makes a k
        {"username": "ann\n"},
        {"username": "ann\x00"},
        {"username": "ann b"},
        {"username": "ann."},
        {"email": "ann"},
        {"email": "ann@exa mple.org"},
        {"email": "ann@example.org\n"},
        {"email": "ann@" + "x." * 130 + "org"},
        {"password": "seven77"},
        {"password": "x" * 1025},
    ],
)
async def test_sign_up_is_refused_when_a_field_is_not_in_order(client: Visitors, changes: dict[str, str]) -> None:
    answer = await client().post("/api/auth/signup", json={**ANN, **changes})
    assert answer.status_code == 422, answer.text
    assert "correct horse" not in answer.text
    if "password" in changes:
        assert answer.json()["detail"] == "body.password: A password has 8 to 1,024 characters"


@pytest.mark.parametrize("name", ["everyone", "Here"])
async def test_sign_up_conflicts_when_the_name_means_something_else(client: Visitors, name: str) -> None:
    assert (await client().post("/api/auth/signup", json={**ANN, "username": name})).status_code == 409


async def test_sign_up_gives_no_role_when_the_body_asks_for_one(client: Visitors) -> None:
    answer = await client().post("/api/auth/signup", json={**ANN, "is_admin": True, "roles": ["admin"]})
    assert (answer.status_code, answer.json()["roles"]) == (201, [])


async def test_the_answer_is_the_same_when_the_name_or_the_password_is_wrong(client: Visitors) -> None:
    await signed_up(client)
    answers = [
        await client().post("/api/auth/login", json={"username": name, "password": password})
        for name, password in (
            ("ann", "wrong horse"),
            ("nobody", "correct horse"),
            ("\u212aate", "correct horse"),
            ("nul\x00", "correct horse"),
            ("x" * 254, "correct horse"),
        )
    ]
    assert {answer.status_code for answer in answers} == {401}
    assert {answer.text for answer in answers} == {answers[0].text}
    assert all("set-cookie" not in answer.headers for answer in answers)


@pytest.mark.parametrize("text", ['"\\ud800 horse horse"', '"nul \\u0000 horse"', "12345678", "null", "[]"])
async def test_strange_passwords_cause_no_error_of_the_server(client: Visitors, text: str) -> None:
    for path in ("signup", "login"):
        body = f'{{"username": "ann", "email": "ann@example.org", "password": {text}}}'
        answer = await client().post(
            f"/api/auth/{path}", content=body.encode(), headers={"content-type": "application/json"}
        )
        assert answer.status_code < 500, answer.text


async def test_somebody_without_a_password_cannot_sign_in(client: Visitors, database: Database) -> None:
    await signed_up(client)
    async with database.writing() as session:
        await session.execute(update(User).values(password_hash="!"))
    for password in ("correct horse", "!"):
        answer = await client().post("/api/auth/login", json={**LOGIN, "password": password})
        assert answer.status_code == 401


async def test_signing_in_makes_a_new_session_and_ends_the_one_that_came_along(client: Visitors) -> None:
    visitor = await signed_up(client)
    before = visitor.cookies[cookie_name()]
    planted = client()
    planted.cookies.set(cookie_name(), "planted-by-somebody-else-0123456789")
    for browser in (visitor, planted):
        assert (await browser.post("/api/auth/login", json=LOGIN)).status_code == 200
        jar = [cookie.value for cookie in browser.cookies.jar if cookie.name == cookie_name()]
        assert "planted-by-somebody-else-0123456789" not in jar or len(jar) == 2
        assert before not in jar
    copy = client()
    copy.cookies.set(cookie_name(), before)
    assert (await copy.get("/api/auth/me")).status_code == 401


async def test_everybody_gets_in_who_knows_the_password_when_many_come_at_once(client: Visitors) -> None:
    await signed_up(client)
    tries = [client().post("/api/auth/login", json=LOGIN) for _ in range(20)]
    answers = await asyncio.gather(*tries)
    assert [answer.status_code for answer in answers] == [200] * 20
    assert len({answer.cookies[cookie_name()] for answer in answers}) == 20


async def test_guesses_are_not_free_when_many_come_at_once(client: Visitors) -> None:
    await signed_up(client)
    guesses = [client().post("/api/auth/login", json={**LOGIN, "password": f"guess {n}"}) for n in range(20)]
    codes = [answer.status_code for answer in await asyncio.gather(*guesses)]
    assert sorted(set(codes)) == [401, 429]
    assert codes.count(401) < 10


async def test_who_finds_no_place_to_wait_is_told_so() -> None:
    turns = Turns(limit=2)
    order: list[int] = []
    gate = asyncio.Event()

    async def come(number: int) -> None:
        async with turns.take("ann"):
            order.append(number)
            await gate.wait()

    tries = [asyncio.create_task(come(number)) for number in range(3)]
    await asyncio.sleep(0)  # each of them gets as far as it can
    async with turns.take("ben"):
        with pytest.raises(TooManyRequests):
            await come(3)
    tries[1].cancel()
    gate.set()
    await asyncio.wait(tries)
    assert (order, turns.refused) == ([0, 2], 1)
    await come(4)
    assert not turns._queues


async def test_a_copied_cookie_is_worth_nothing_when_its_owner_has_signed_out(client: Visitors) -> None:
    ann = await signed_up(client)
    copy = client()
    copy.cookies.set(cookie_name(), ann.cookies[cookie_name()])
    assert (await copy.get("/api/auth/me")).status_code == 200
    answer = await ann.post("/api/auth/logout")
    assert (answer.status_code, answer.json()) == (200, {"sessions": 1})
    assert "max-age=0" in answer.headers["set-cookie"].lower()
    assert (await copy.get("/api/auth/me")).status_code == 401


async def test_sessions_are_listed_and_ended_one_by_one(client: Visitors) -> None:
    ann = await signed_up(client)
    phone, ben = client("2001:db8:1:2:3::4"), await signed_up(client, username="ben", email="ben@example.org")
    login = await phone.post("/api/auth/login", json=LOGIN, headers={"user-agent": "phone"})
    assert login.status_code == 200
    listed = (await ann.get("/api/auth/sessions")).json()["items"]
    assert [(one["is_current"], one["address"]) for one in listed] == [
        (False, "2001:db8:1:2::/64"),
        (True, "203.0.113.1"),
    ]
    assert listed[0]["user_agent"] == "phone"
    path = f"/api/auth/sessions/{listed[0]['id']}"
    assert (await ben.delete(path)).status_code == 404
    assert (await phone.get("/api/auth/me")).status_code == 200
    assert (await ann.delete(path)).json() == {"sessions": 1}
    assert (await phone.get("/api/auth/me")).status_code == 401
    assert (await ann.delete(path)).status_code == 404
    assert (await ann.get("/api/auth/me")).status_code == 200


async def test_no_session_gets_the_number_of_one_that_ended(client: Visitors) -> None:
    ann, seen = await signed_up(client), set()
    for _ in range(3):
        seen.add((await ann.get("/api/auth/sessions")).json()["items"][0]["id"])
        await ann.post("/api/auth/logout")
        assert (await ann.post("/api/auth/login", json=LOGIN)).status_code == 200
    assert len(seen) == 3


async def test_all_sessions_end_when_somebody_signs_out_everywhere(client: Visitors) -> None:
    ann, phone = await signed_up(client), client()
    await phone.post("/api/auth/login", json=LOGIN)
    assert (await ann.delete("/api/auth/sessions")).json() == {"sessions": 2}
    for browser in (ann, phone):
        assert (await browser.get("/api/auth/me")).status_code == 401


async def test_the_other_sessions_end_when_the_password_is_changed(client: Visitors) -> None:
    ann, phone = await signed_up(client), client()
    await phone.post("/api/auth/login", json=LOGIN)
    change = {"current_password": "correct horse", "new_password": "battery staple"}
    wrong = await ann.post("/api/auth/password", json={**change, "current_password": "wrong horse"})
    assert (wrong.status_code, wrong.json()["code"]) == (400, "wrong_password")
    assert (await phone.get("/api/auth/me")).status_code == 200
    answer = await ann.post("/api/auth/password", json=change)
    assert (answer.json(), "set-cookie" in answer.headers) == ({"sessions": 1}, False)
    assert (await ann.get("/api/auth/me")).status_code == 200
    assert (await phone.get("/api/auth/me")).status_code == 401
    assert (await client().post("/api/auth/login", json=LOGIN)).status_code == 401
    again = await client().post("/api/auth/login", json={**LOGIN, "password": "battery staple"})
    assert again.status_code == 200


async def test_nobody_gets_in_by_the_old_password_when_it_is_changed_at_that_moment(
    client: Visitors, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await signed_up(client)
    check = Passwords.check

    async def slow_check(self: Passwords, password: str, stored: str | None) -> object:
        checked = await check(self, password, stored)
        async with database.writing() as session:
            await session.execute(update(User).values(password_hash="another"))
        return checked

    monkeypatch.setattr(Passwords, "check", slow_check)
    answer = await client().post("/api/auth/login", json=LOGIN)
    assert (answer.status_code, "set-cookie" in answer.headers) == (409, False)


async def test_the_oldest_session_ends_when_somebody_has_too_many(client: Visitors, database: Database) -> None:
    ann = await signed_up(client)
    async with database.writing() as session:
        user = (await session.execute(select(User))).scalar_one()
        for _ in range(SESSIONS_PER_USER - 1):
            await start_session(session, user)
    assert (await ann.get("/api/auth/me")).status_code == 200
    assert (await client().post("/api/auth/login", json=LOGIN)).status_code == 200
    assert (await ann.get("/api/auth/me")).status_code == 401
    async with database.reading() as session:
        count = await session.execute(select(func.count()).select_from(LoginSession))
        assert count.scalar_one() == SESSIONS_PER_USER


async def test_expired_sessions_are_refused_and_then_removed(client: Visitors, database: Database) -> None:
    ann = await signed_up(client)
    ben = await signed_up(client, username="ben", email="ben@example.org")
    async with database.writing() as session:
        anns = select(User.id).where(User.username_key == "ann").scalar_subquery()
        past = now() - datetime.timedelta(seconds=1)
        await session.execute(update(LoginSession).where(LoginSession.user_id == anns).values(expires_at=past))
    assert (await ann.get("/api/auth/me")).status_code == 401
    assert await purge(database) == 1
    assert await purge(database) == 0
    assert (await ben.get("/api/auth/me")).status_code == 200


async def test_the_last_use_of_a_session_is_written_at_most_once_a_minute(client: Visitors, database: Database) -> None:
    ann = await signed_up(client)
    assert (await ann.get("/api/auth/me")).status_code == 200
    assert await sightings.write(database) == 0
    long_ago = now() - datetime.timedelta(hours=1)
    async with database.writing() as session:
        await session.execute(update(LoginSession).values(last_seen_at=long_ago))
    for _ in range(3):
        assert (await ann.get("/api/auth/me")).status_code == 200
    assert await sightings.write(database) == 1
    seen = datetime.datetime.fromisoformat((await ann.get("/api/auth/sessions")).json()["items"][0]["last_seen_at"])
    assert seen > long_ago + datetime.timedelta(minutes=59)
    assert await sightings.write(database) == 0


async def test_a_better_hash_is_stored_when_somebody_signs_in(client: Visitors, database: Database) -> None:
    await signed_up(client)
    cheap = Passwords(memory_kib=16, rounds=1)
    old = await cheap.hash("correct horse")
    cheap.close()
    async with database.writing() as session:
        await session.execute(update(User).values(password_hash=old))
    assert (await client().post("/api/auth/login", json=LOGIN)).status_code == 200
    async with database.reading() as session:
        stored = (await session.execute(select(User.password_hash))).scalar_one()
    assert stored != old
    assert (await client().post("/api/auth/login", json=LOGIN)).status_code == 200
    async with database.reading() as session:
        assert (await session.execute(select(User.password_hash))).scalar_one() == stored
