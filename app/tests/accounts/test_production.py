"""Cookies and requests of other websites, on replicas as they run in production and in development."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from http.cookies import Morsel, SimpleCookie
from typing import Any

import httpx2
import pytest
from conftest import MakeSite
from fastapi.routing import iter_route_contexts

from encore.db import WriteSession
from encore.main import app
from harness.site import WITHOUT_TLS, Site

ANN = {"username": "ann", "email": "ann@example.org", "password": "correct horse"}
PRODUCTION = {"ENCORE_MODE": "production", "ENCORE_OPERATOR_TOKEN": "operator-token-of-the-tests"}


def cookie_of(answer: httpx2.Response) -> Morsel[str]:
    cookies: SimpleCookie = SimpleCookie()
    cookies.load(answer.headers["set-cookie"])
    assert len(cookies) == 1
    return next(iter(cookies.values()))


async def journey(site: Site, name: str, *, is_secure: bool) -> None:
    """Sign up, look at everything, sign out: the cookie is set where it has to be, and nowhere else."""
    async with httpx2.AsyncClient(base_url=site.url(), timeout=20, verify=WITHOUT_TLS) as visitor:
        answer = await visitor.post("/api/auth/signup", json=ANN)
        assert answer.status_code == 201, answer.text
        cookie = cookie_of(answer)
        assert cookie.key == name
        assert (cookie["httponly"], cookie["samesite"].lower(), cookie["path"]) == (True, "lax", "/")
        assert bool(cookie["secure"]) is is_secure
        assert cookie["domain"] == ""
        assert int(cookie["max-age"]) == 30 * 24 * 3600
        assert len(cookie.value) >= 43
        assert answer.headers["cache-control"] == "no-store"
        # A client that goes by the rules sends a Secure cookie back by https alone; this one has no TLS before it.
        visitor.headers["cookie"] = f"{name}={cookie.value}"
        for method, path in (
            ("GET", "/api/auth/me"),
            ("GET", "/api/auth/sessions"),
            ("POST", "/api/auth/ws-ticket"),
            ("GET", "/api/users/ann"),
            ("GET", "/api/users"),
            ("GET", "/nowhere"),
        ):
            assert "set-cookie" not in (await visitor.request(method, path)).headers
        for origin in ("https://evil.example", "null"):
            for path in ("logout", "login", "ws-ticket"):
                refused = await visitor.post(f"/api/auth/{path}", headers={"origin": origin})
                assert (refused.status_code, refused.json()["code"]) == (403, "cross_site")
        assert (await visitor.get("/api/auth/me")).status_code == 200
        left = await visitor.post("/api/auth/logout", headers={"origin": site.url(), "sec-fetch-site": "same-origin"})
        gone = cookie_of(left)
        assert (gone.key, gone["max-age"], gone["path"], bool(gone["secure"])) == (name, "0", "/", is_secure)
        assert (await visitor.get("/api/auth/me")).status_code == 401
        again = cookie_of(await visitor.post("/api/auth/login", json=ANN))
        assert again.value != cookie.value


async def test_the_cookie_of_a_session_is_bound_to_its_host_and_to_https_in_production(make_site: MakeSite) -> None:
    site = await make_site(replicas=1, broker=False, environment=PRODUCTION)
    await journey(site, "__Host-encore_session", is_secure=True)


async def test_the_cookie_works_without_https_in_development(make_site: MakeSite) -> None:
    site = await make_site(replicas=1, broker=False)
    await journey(site, "encore_session", is_secure=False)


def routes() -> Iterator[tuple[set[str], Any]]:
    for context in iter_route_contexts(app.routes):
        methods, endpoint = getattr(context, "methods", None), getattr(context, "endpoint", None)
        if methods and endpoint is not None:
            yield set(methods), endpoint


def test_no_route_that_only_reads_asks_for_a_session_to_write() -> None:
    seen = 0
    for methods, endpoint in routes():
        wanted = [parameter.annotation for parameter in inspect.signature(endpoint, eval_str=True).parameters.values()]
        if WriteSession in wanted:
            seen += 1
            assert not methods & {"GET", "HEAD", "OPTIONS"}, endpoint
    assert seen > 5, "the routes were not found"


@pytest.mark.parametrize("path", ["/api/auth/login", "/api/auth/logout", "/api/auth/signup", "/api/auth/ws-ticket"])
async def test_signing_in_and_out_is_not_done_by_reading(path: str) -> None:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://site.example") as visitor:
        assert (await visitor.get(path)).status_code == 405
