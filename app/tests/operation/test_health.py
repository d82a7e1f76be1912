"""What a replica says of itself, and to whom: in development, and as production is served."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import pytest_asyncio

import encore
from encore.db import open_database
from encore.main import app
from harness.databases import Databases
from harness.site import WITHOUT_TLS, Person, Site, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKEN = "the-operators-token-for-tests"
OPERATOR = {"Authorization": f"Bearer {TOKEN}"}
COOKIE = "__Host-encore_session"
CHANNELS = {"broadcasts", "track_comments", "forum", "book_requests", "book_requests_admin"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def production(databases: Databases) -> AsyncIterator[Site]:
    """One replica as production has it."""
    environment = {"ENCORE_MODE": "production", "ENCORE_OPERATOR_TOKEN": TOKEN, "ENCORE_REPLICA": "front-1"}
    async with Site(databases.fresh("sqlite"), replicas=1, environment=environment) as site:
        yield site


async def signed_in(site: Site, *roles: str) -> dict[str, str]:
    """The headers of somebody new: the cookie has another name there."""
    person = await site.person(roles=roles)
    return {"Cookie": f"{COOKIE}={person.token}", "Sec-Fetch-Site": "same-origin"}


async def ask(site: Site, path: str, *, method: str = "GET", **headers: str) -> httpx2.Response:
    async with httpx2.AsyncClient(base_url=site.url(), timeout=20, verify=WITHOUT_TLS) as client:
        return await client.request(method, path, headers=headers)


# -- health -----------------------------------------------------------------------------------------------------------


async def test_health_and_readiness_are_for_everybody_and_tell_no_version_or_address(production: Site) -> None:
    alive = await ask(production, "/healthz")
    assert (alive.status_code, alive.json()) == (200, {"status": "ok"})
    ready = await ask(production, "/readyz")
    assert (ready.status_code, ready.json()["ready"], ready.json()["database"]) == (200, True, "ok")
    for path in ("/healthz", "/readyz", "/"):
        assert (await ask(production, path, method="HEAD")).status_code == 200
    for answer in (alive, ready):
        assert answer.headers["cache-control"] == "no-store"
        text = f"{answer.text}{dict(answer.headers)}"
        assert encore.__version__ not in text
        host = production.url().removeprefix("http://")
        assert "127.0.0.1" not in text.replace(f"wss://{host}", "")  # the policy repeats what was asked for
        assert "front-1" not in text
        assert "server" not in answer.headers


async def test_readiness_says_how_the_bus_is_without_its_address(shared_site: Site) -> None:
    assert shared_site.broker is not None
    ready = await shared_site.guest().get("/readyz")
    assert [broker["state"] for broker in ready["brokers"]] == ["up"]
    assert str(shared_site.broker.port) not in json.dumps(ready)


async def test_readiness_is_red_and_every_answer_says_so_when_the_database_is_away() -> None:
    database = open_database("postgresql+asyncpg://site:geheim@127.0.0.1:1/site")
    try:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://site") as client:
            alive, ready, tracks = [await client.get(path) for path in ("/healthz", "/readyz", "/api/tracks")]
    finally:
        await database.close()
    assert alive.status_code == 200
    assert (ready.status_code, ready.json()["database"], ready.json()["ready"]) == (503, "unavailable", False)
    assert (tracks.status_code, tracks.json()["code"]) == (503, "unavailable")
    assert "geheim" not in ready.text + tracks.text


# -- status -----------------------------------------------------------------------------------------------------------


async def test_status_tells_sockets_of_this_replica_and_of_all(shared_site: Site) -> None:
    ada = await shared_site.person(roles=["admin"])
    async with ada.socket("/ws/broadcasts") as here, ada.at(1).socket("/ws/broadcasts") as there:
        await here.heard()
        await there.heard()
        for replica in (0, 1):
            status = await eventually(
                lambda replica=replica: ada.at(replica).get("/status"),  # type: ignore[misc]  # bound at once
                lambda found: channel(found, "broadcasts")["cluster"]["connections"] == 2,
            )
            assert status["replica"] == f"r{replica + 1}"
            assert status["bus"]["state"] == "up"
            assert channel(status, "broadcasts")["connections"] == 1
            assert channel(status, "broadcasts")["cluster"]["replicas"] == 2
            assert {one["channel"] for one in status["channels"]} >= CHANNELS
            assert status["totals"]["connections"] >= 1
            assert status["uptime_s"] > 0


def channel(status: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in status["channels"] if one["channel"] == name)


async def test_status_is_for_staff_and_operators(shared_site: Site, production: Site) -> None:
    for roles, status in ((), 403), (("team",), 200), (("creator",), 200), (("admin",), 200):
        person = await shared_site.person(roles=roles)
        await browser(person).get("/status", status=status)
    await browser(shared_site.guest()).get("/status", status=401)
    await shared_site.guest().get("/status")  # from this machine, without a proxy and without a browser
    assert (await ask(production, "/status")).status_code == 401
    assert (await ask(production, "/status", Authorization="Bearer wrong")).status_code == 401
    assert (await ask(production, "/status", **OPERATOR)).json()["replica"] == "front-1"
    assert (await ask(production, "/status", **await signed_in(production, "team"))).status_code == 200
    assert (await ask(production, "/status", **await signed_in(production))).status_code == 403


def browser(person: Person) -> Person:
    """The same person's browser, which says where its requests come from."""
    person.http.headers["Sec-Fetch-Site"] = "same-origin"
    return person


# -- metrics, drain ---------------------------------------------------------------------------------------------------


async def test_metrics_are_the_librarys_and_the_sites(production: Site) -> None:
    await ask(production, "/healthz")
    answer = await ask(production, "/metrics", **OPERATOR)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    names = {line.split("{")[0].split(" ")[0] for line in answer.text.splitlines() if not line.startswith("#")}
    assert {"antiphon_connections", "antiphon_loop_lag_worst_seconds"} <= names
    assert {"encore_start_time_seconds", "encore_http_requests_total", "encore_database_connections"} <= names
    for line in answer.text.splitlines():
        assert line.startswith("#") or float(line.rpartition(" ")[2]) >= 0


@pytest.mark.parametrize(("method", "path"), [("GET", "/metrics"), ("POST", "/drain")])
async def test_metrics_and_the_drain_are_for_operators_alone(
    shared_site: Site, production: Site, method: str, path: str
) -> None:
    admin = await signed_in(production, "admin")
    for headers in ({}, admin, {"Authorization": "Bearer"}, {"Authorization": f"Basic {TOKEN}"}):
        refused = await ask(production, path, method=method, **headers)
        assert refused.status_code == 401
        assert refused.json()["code"] == "not_signed_in"
    forwarded = await ask(shared_site, path, method=method, **{"X-Forwarded-For": "127.0.0.1"})
    assert forwarded.status_code == 403
    assert (await ask(production, "/readyz")).json()["draining"] is False


async def test_a_drained_replica_is_red_without_sockets_and_ends_with_0(
    databases: Databases,
) -> None:
    async with Site(databases.fresh("sqlite"), replicas=1) as site:
        ann = await site.person()
        async with ann.socket("/ws/broadcasts") as socket:
            await socket.heard()
            report = await site.guest().post("/drain")
            assert (report["status"], report["closed"]) == ("drained", 1)
            assert await socket.closed() == 1012
        assert (await site.guest().get("/readyz", status=503))["status"] == "draining"
        assert site.terminate(0) == 0
        assert "drained" in site.log(0)
        assert "Traceback" not in site.log(0)


# -- what production does not show ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/asyncapi.json"])
async def test_the_documents_are_for_admins_and_operators_when_it_is_production(
    production: Site, shared_site: Site, path: str
) -> None:
    for headers in ({}, await signed_in(production), await signed_in(production, "creator")):
        assert (await ask(production, path, **headers)).status_code == 404
    assert (await ask(production, path, **await signed_in(production, "admin"))).status_code == 200
    assert (await ask(production, path, **OPERATOR)).status_code == 200
    assert (await ask(shared_site, path)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/api/demo/people"), ("POST", "/api/demo/sign-in"), ("GET", "/api/demo/broker"), ("GET", "/redoc")],
)
async def test_what_belongs_to_the_demonstration_is_not_there_otherwise(
    production: Site, shared_site: Site, method: str, path: str
) -> None:
    for site in (production, shared_site):
        assert (await ask(site, path, method=method)).status_code == 404


async def test_an_error_nobody_foresaw_tells_nothing_of_the_program(production: Site) -> None:
    for path in ("/nope", "/page/../settings.py", "/page/..%2fpages.py"):
        answer = await ask(production, path)
        assert answer.status_code == 404
        assert answer.json()["code"] == "not_found"
    answer = await ask(production, "/healthz", method="DELETE")
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")


# -- the log of a real replica ----------------------------------------------------------------------------------------


async def test_the_log_of_production_is_json_with_ids_and_without_secrets(production: Site) -> None:
    headers = await signed_in(production)
    answer = await ask(production, "/api/auth/me?ticket=geheim", **headers)
    assert answer.status_code == 200
    lines = [json.loads(line) for line in production.log(0).splitlines()]
    (line,) = [line for line in lines if line["event"].startswith("GET /api/auth/me?ticket=")]
    assert line["request_id"] == answer.headers["x-request-id"]
    assert line["user_id"] == answer.json()["id"]
    assert line["replica"] == "front-1"
    assert line["status"] == 200
    assert "geheim" not in production.log(0)
    assert headers["Cookie"].partition("=")[2] not in production.log(0)
    assert TOKEN not in production.log(0)
