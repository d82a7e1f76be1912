"""What admins do with accounts, and what everybody may know of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

import httpx2
import pytest
from sqlalchemy import event, select

from encore.accounts.models import User
from encore.accounts.service import list_sessions
from encore.accounts.service_people import add_user, create_user, find_user, grant_roles, list_users, set_banned
from encore.accounts.sessions import cookie_name, find_session, start_session
from encore.db import Database
from encore.errors import BadRequest, Conflict, NotFound, SiteError

Visitors = Callable[..., httpx2.AsyncClient]


async def person(client: Visitors, database: Database, name: str, *, roles: Collection[str] = ()) -> httpx2.AsyncClient:
    async with database.writing() as session:
        user = await create_user(
            session, username=name, email=f"{name}@example.org", password="correct horse", roles=roles
        )
        _, token = await start_session(session, user)
    visitor = client()
    visitor.cookies.set(cookie_name(), token)
    return visitor


async def test_a_profile_shows_no_more_than_everybody_may_know(client: Visitors, database: Database) -> None:
    await person(client, database, "Cleo", roles=["creator"])
    answer = await client().get("/api/users/cLEO")
    assert answer.json()["username"] == "Cleo"
    assert (answer.json()["roles"], answer.json()["is_creator"]) == (["creator"], True)
    assert "email" not in answer.json()
    assert "banned" not in answer.text
    for name in ("nobody", "\u212aate", "nul%00", "a' OR 1=1 --"):
        assert (await client().get(f"/api/users/{name}")).status_code == 404


@pytest.mark.parametrize(("role", "status"), [(None, 401), ("listener", 403), ("team", 403), ("creator", 403)])
async def test_only_admins_see_and_change_accounts(
    client: Visitors, database: Database, role: str | None, status: int
) -> None:
    roles = () if role in (None, "listener") else (role,)
    visitor = client() if role is None else await person(client, database, "visitor", roles=[str(one) for one in roles])
    await person(client, database, "ann")
    assert (await visitor.get("/api/users")).status_code == status
    assert (await visitor.patch("/api/users/ann", json={"is_admin": True})).status_code == status
    assert (await client().get("/api/users/ann")).json()["roles"] == []


async def test_everybody_is_listed_by_name_page_by_page(client: Visitors, database: Database) -> None:
    ada = await person(client, database, "ada", roles=["admin"])
    for name in ("b_1", "Ben", "bea", "b-2", "zoe"):
        await person(client, database, name)
    names, cursor = [], None
    while True:
        params = {"limit": "2", "prefix": "B"} | ({} if cursor is None else {"cursor": cursor})
        page = (await ada.get("/api/users", params=params)).json()
        names += [one["username"] for one in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert sorted(names) == ["Ben", "b-2", "b_1", "bea"]
    underscore = (await ada.get("/api/users", params={"prefix": "b_"})).json()["items"]
    assert [one["username"] for one in underscore] == ["b_1"]
    assert {"email", "is_banned"} <= set(underscore[0])
    for cursor in ("nonsense", "WyJcdTAwMDAiXQ", "WyJhJyBPUiAxPTEiXQ"):
        assert (await ada.get("/api/users", params={"cursor": cursor})).status_code == 400
    assert (await ada.get("/api/users", params={"prefix": "\x00"})).status_code == 422
    assert (await ada.get("/api/users", params={"limit": "101"})).status_code == 422


async def test_an_admin_gives_and_takes_roles(client: Visitors, database: Database) -> None:
    ada, ben = await person(client, database, "ada", roles=["admin"]), await person(client, database, "ben")
    answer = await ada.patch("/api/users/BEN", json={"is_team": True, "is_creator": True})
    assert answer.json()["roles"] == ["creator", "team"]
    assert (await ben.get("/api/auth/me")).json()["roles"] == ["creator", "team"]
    assert (await ada.patch("/api/users/ben", json={"is_team": False})).json()["roles"] == ["creator"]
    assert (await ada.patch("/api/users/ben", json={"is_owner": True})).status_code == 422
    assert (await ada.patch("/api/users/nobody", json={"is_team": True})).status_code == 404


async def test_nobody_signs_in_who_is_banned(client: Visitors, database: Database) -> None:
    ada, ben = await person(client, database, "ada", roles=["admin"]), await person(client, database, "ben")
    login = {"username": "ben", "password": "correct horse"}
    assert (await ada.patch("/api/users/ben", json={"is_banned": True})).json()["is_banned"]
    assert (await ben.get("/api/auth/me")).status_code == 401
    answer = await client().post("/api/auth/login", json=login)
    assert (answer.status_code, answer.json()["code"], "set-cookie" in answer.headers) == (403, "banned", False)
    assert (await client().post("/api/auth/login", json={**login, "password": "wrong"})).status_code == 401
    await ada.patch("/api/users/ben", json={"is_banned": False})
    assert (await ben.get("/api/auth/me")).status_code == 401
    assert (await client().post("/api/auth/login", json=login)).status_code == 200


@pytest.mark.parametrize("change", [{"is_admin": False}, {"is_banned": True}])
async def test_admins_do_not_lock_themselves_out(client: Visitors, database: Database, change: dict[str, bool]) -> None:
    ada = await person(client, database, "ada", roles=["admin"])
    answer = await ada.patch("/api/users/ada", json=change)
    assert (answer.status_code, answer.json()["code"]) == (409, "oneself")
    assert (await ada.get("/api/auth/me")).json()["roles"] == ["admin"]


async def test_an_account_for_the_command_line_is_checked_like_any_other(database: Database) -> None:
    good = {"username": "ada", "email": "ada@example.org", "password": "correct horse"}
    wrong: list[tuple[dict[str, object], type[SiteError]]] = [
        ({"username": "a"}, BadRequest),
        ({"email": "ada"}, BadRequest),
        ({"password": "short"}, BadRequest),
        ({"roles": ["owner"]}, BadRequest),
        ({"username": "everyone"}, Conflict),
    ]
    for changes, kind in wrong:
        with pytest.raises(kind):
            async with database.writing() as session:
                await create_user(session, **{**good, **changes})  # type: ignore[arg-type]  # on purpose
    async with database.writing() as session:
        user = await create_user(session, **good, roles=["admin"], is_demo=True)
        assert (user.roles, user.is_demo) == (frozenset({"admin"}), True)
    async with database.writing() as session:
        await grant_roles(session, "ADA", roles=["team", "creator"])
        await set_banned(session, "ada", is_banned=True)
        with pytest.raises(NotFound):
            await set_banned(session, "nobody", is_banned=True)
    async with database.reading() as session:
        found = await find_user(session, "Ada")
        assert (found.roles, found.is_banned) == (frozenset({"team", "creator"}), True)


async def test_one_admin_stays_when_two_take_the_role_from_one_another(client: Visitors, database: Database) -> None:
    ada = await person(client, database, "ada", roles=["admin"])
    eve = await person(client, database, "eve", roles=["admin"])
    answers = await asyncio.gather(
        ada.patch("/api/users/eve", json={"is_admin": False}), eve.patch("/api/users/ada", json={"is_admin": False})
    )
    assert sorted(answer.status_code for answer in answers) == [200, 403]
    async with database.reading() as session:
        admins = (await session.execute(select(User.username).where(User.is_admin))).scalars().all()
    assert len(admins) == 1


@pytest.mark.parametrize("path", ["/api/users?limit=100", "/api/auth/sessions"])
async def test_a_listing_asks_as_often_for_many_rows_as_for_one(
    client: Visitors, database: Database, path: str
) -> None:
    ada = await person(client, database, "ada", roles=["admin"])
    statements: list[str] = []

    def note(connection: object, cursor: object, statement: str, *more: object) -> None:
        statements.append(statement)

    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    few = len((await ada.get(path)).json()["items"])
    asked_for_few = len(statements)
    async with database.writing() as session:
        owner = await find_user(session, "ada")
        for number in range(30):
            await add_user(session, username=f"n{number}", email=f"n{number}@example.org", password_hash="!")
            await start_session(session, owner)
    statements.clear()
    assert len((await ada.get(path)).json()["items"]) == few + 30
    assert len(statements) == asked_for_few


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # PostgreSQL scans tables as small as these
async def test_listings_go_by_an_index(database: Database) -> None:
    statements: list[tuple[str, object]] = []

    def note(connection: object, cursor: object, statement: str, parameters: object, *more: object) -> None:
        if statement.startswith("SELECT"):
            statements.append((statement, parameters))

    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    async with database.reading() as session:
        await list_users(session, prefix="b", after="ben", limit=50)
        await list_sessions(session, 7)
        await find_session(session, "x" * 43)
    event.remove(database.engine.sync_engine, "before_cursor_execute", note)
    indexes = ("sqlite_autoindex_users", "ix_login_sessions_user_id_created_at", "sqlite_autoindex_login_sessions")
    async with database.reading() as session:
        connection = await session.connection()
        for (statement, parameters), index in zip(statements, indexes, strict=True):
            plan = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)  # type: ignore[arg-type]  # as the driver got them
            lines = [str(row["detail"]) for row in plan.mappings()]
            assert any(index in line for line in lines), lines
            assert not any(line.startswith("SCAN") or "TEMP B-TREE FOR ORDER" in line for line in lines), lines
