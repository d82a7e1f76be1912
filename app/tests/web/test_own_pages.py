"""Pages of other websites change nothing, whatever they send; programs and the site's own pages do."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable

import httpx2
import pytest
import pytest_asyncio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from encore import web
from encore.main import app as site
from encore.settings import Settings
from encore.web.bodies import BODIES

EVIL = "https://evil.example"
SITE = "https://site.example"

Visitors = Callable[..., httpx2.AsyncClient]


async def echo(request: Request) -> JSONResponse:
    return JSONResponse({"length": len(await request.body())})


def application(settings: Settings) -> Starlette:
    routes = [
        Route("/api/auth/{what}", echo, methods=["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"]),
        Route("/api/tracks/{track_id:int}/comments", echo, methods=["POST"]),
    ]
    made = Starlette(routes=routes)
    web.install(made, settings)
    return made


@pytest_asyncio.fixture
async def visitor() -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app=application(Settings()))
    async with httpx2.AsyncClient(transport=transport, base_url="https://site.example") as client:
        yield client


FOREIGN = [
    {"origin": EVIL},
    {"origin": EVIL, "sec-fetch-site": "cross-site"},
    {"origin": "null", "sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "something-new"},
    {"origin": "https://site.example.evil.example"},
    {"origin": "https://evilsite.example"},
    {"origin": "https://sub.site.example", "sec-fetch-site": "same-site"},
    {"origin": "https://site.example:8443"},
    {"origin": "https://site.example."},
    {"origin": "http://site.example@evil.example"},
    {"origin": "http://site.example", "sec-fetch-site": "cross-site"},
    {"origin": ""},
    {"origin": EVIL, "sec-fetch-site": "same-origin"},
    {"origin": EVIL, "x-forwarded-host": "evil.example"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=lambda headers: "+".join(headers.values()) or "empty")
@pytest.mark.parametrize("what", ["login", "logout", "password"])
async def test_a_page_of_another_website_is_refused_whatever_it_says(
    visitor: httpx2.AsyncClient, headers: dict[str, str], what: str
) -> None:
    answer = await visitor.post(f"/api/auth/{what}", json={}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "cross_site")
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_every_method_that_changes_something_is_refused_to_other_pages(
    visitor: httpx2.AsyncClient, method: str
) -> None:
    answer = await visitor.request(method, "/api/auth/x", headers={"sec-fetch-site": "cross-site"})
    assert answer.status_code == 403


async def test_two_origins_are_refused(visitor: httpx2.AsyncClient) -> None:
    headers = [("origin", SITE), ("origin", EVIL)]
    assert (await visitor.post("/api/auth/login", headers=headers)).status_code == 403


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "text/json", "*/*"],
)
async def test_a_form_of_another_website_is_refused_twice_over(visitor: httpx2.AsyncClient, content_type: str) -> None:
    headers = {"content-type": content_type} if content_type else {}
    body = b'{"username": "mallory", "password": "mallory-knows"}'
    own = await visitor.post("/api/auth/login", content=body, headers=headers)
    assert (own.status_code, own.json()["code"]) == (415, "unsupported_media_type")
    foreign = await visitor.post("/api/auth/login", content=body, headers={**headers, "origin": EVIL})
    assert foreign.status_code == 403
    empty = await visitor.post("/api/auth/logout", headers={**headers, "origin": EVIL})
    assert empty.status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": SITE},
        {"origin": "HTTPS://SITE.example:443"},
        {"origin": SITE, "sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
    ],
    ids=lambda headers: "+".join(headers.values()) or "program",
)
async def test_own_pages_and_programs_may_change_something(
    visitor: httpx2.AsyncClient, headers: dict[str, str]
) -> None:
    assert (await visitor.post("/api/auth/login", json={"a": 1}, headers=headers)).status_code == 200
    assert (await visitor.post("/api/auth/logout", headers=headers)).status_code == 200


async def test_reading_is_open_to_links_from_other_websites(visitor: httpx2.AsyncClient) -> None:
    answer = await visitor.get("/api/auth/me", headers={"sec-fetch-site": "cross-site"})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


async def test_a_listed_website_may_and_others_still_may_not() -> None:
    settings = Settings(allowed_origins=("https://app.example",))
    transport = httpx2.ASGITransport(app=application(settings))
    async with httpx2.AsyncClient(transport=transport, base_url="https://site.example") as client:
        listed = {"origin": "https://app.example", "sec-fetch-site": "cross-site"}
        answer = await client.post("/api/auth/login", json={}, headers=listed)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert answer.headers["access-control-allow-credentials"] == "true"
        preflight = {**listed, "access-control-request-method": "PUT", "access-control-request-headers": "content-type"}
        assert (await client.options("/api/auth/login", headers=preflight)).status_code == 200
        for origin in ("http://app.example", "https://app.example.evil.example", EVIL):
            refused = await client.post("/api/auth/login", json={}, headers={"origin": origin})
            assert refused.status_code == 403
            assert "access-control-allow-origin" not in refused.headers
            preflight["origin"] = origin
            assert (await client.options("/api/auth/login", headers=preflight)).status_code == 400
        assert (await client.post("/api/auth/login", json={}, headers={"origin": SITE})).status_code == 200


async def test_a_development_server_on_this_machine_may() -> None:
    transport = httpx2.ASGITransport(app=application(Settings()))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
        headers = {"origin": "http://localhost:5173", "sec-fetch-site": "same-site"}
        assert (await client.post("/api/auth/login", json={}, headers=headers)).status_code == 200


def changing_routes() -> list[tuple[str, str]]:
    """Method and path of everything on the site that changes something."""
    found = [
        (method.upper(), path)
        for path, methods in site.openapi()["paths"].items()
        for method in methods
        if method in ("post", "put", "patch", "delete")
    ]
    assert len(found) > 50
    return found


async def test_no_route_of_the_site_is_open_to_pages_of_other_websites() -> None:
    transport = httpx2.ASGITransport(app=site)
    async with httpx2.AsyncClient(transport=transport, base_url=SITE) as client:
        for method, path in changing_routes():
            place = re.sub(r"\{[^}]+\}", "1", path)
            for headers in ({"origin": EVIL}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}):
                answer = await client.request(method, place, headers=headers)
                assert (answer.status_code, answer.json()["code"]) == (403, "cross_site"), (method, path)
            rule = next((one for one in BODIES if one.method == method and one.pattern.fullmatch(place)), None)
            taken = () if rule is None else rule.content_types
            # A form that says nothing of where it comes from can send no JSON.
            for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
                if kind not in taken:
                    answer = await client.request(method, place, content=b"{}", headers={"content-type": kind})
                    assert answer.status_code == 415, (method, path, kind)
