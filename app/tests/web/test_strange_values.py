"""What nobody would write into an address, at every route that only reads, on both databases: nothing breaks."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx2

from encore.accounts.models import User
from encore.accounts.sessions import cookie_name, start_session
from encore.db import Database
from encore.main import app

FAR = 2**62
KEYS: tuple[Any, ...] = (
    [],
    {},
    [1],
    [True],
    ["1"],
    [FAR],
    [2**63 - 1],
    [2**31, FAR],
    [FAR, FAR],
    [10**17, FAR],
    [-(10**17), 1],
    [1.5, FAR],
    [1e308, 1],
    [float("nan"), 1],
    [float("inf"), 1],
    ["a", FAR],
    ["x'; DROP TABLE users --"],
    ["\0", 1],
    ["\ud800", 1],
    ["2026-01-01T00:00:00", 1],
    ["2026-01-01T00:00:00Z", FAR],
    ["0001-01-01T00:00:00+23:59", 1],
    ["9999-12-31T23:59:59-23:59", 1],
    [True, FAR, FAR],
    [1, FAR, FAR],
)
CURSORS = [base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=") for key in KEYS]
CURSORS += [base64.urlsafe_b64encode(b"[" * 370).decode(), "!", "AAAA", "é", "\0"]
TEXTS: tuple[str, ...] = (
    "",
    "'",
    "' OR 1=1 --",
    "%",
    "_",
    "\\",
    '"',
    '"*',
    "a\"b' x:y",
    "NEAR(a b)",
    "NOT",
    ":*",
    "a & b",
    "(a",
    "-a",
)
TEXTS += (
    "\0",
    "\x01",
    "\ud800",
    "𞤀𞤁 x",
    "½ ² ①",
    "٣",
    "\U0001e5d0",
    "ﷺ" * 100,
    "-1",
    "1e400",
    "NaN",
    str(2**63),
    "9" * 5_000,
)


NUMBERS = ("-1", "NaN", str(2**63))
IDS = ("thread_id", "message_id", "track_id", "album_id", "request_id", "broadcast_id", "user_id")


def choices(operation: dict[str, Any]) -> list[str]:
    """Each value of everything that has a few: another order or kind of the listing, with cursors of another form."""
    found = [""]
    for parameter in operation.get("parameters", ()):
        schema = parameter["schema"]
        if schema.get("type") == "boolean":
            found.append(f"&{parameter['name']}=true")
        found.extend(f"&{parameter['name']}={value}" for value in schema.get("enum", ()))
    return found


def addresses() -> Iterator[str]:
    for path, methods in app.openapi()["paths"].items():
        operation = methods.get("get", {})
        for parameter in operation.get("parameters", ()):
            name, is_number = parameter["name"], parameter["schema"].get("type") == "integer"
            beside = "&q=a" if path.endswith("/search") and name != "q" else ""
            for value in CURSORS if name == "cursor" else NUMBERS if is_number else TEXTS:
                text = quote(value.encode("utf-8", "surrogatepass"), safe="")
                place = path.replace("{" + name + "}", text)
                for thing in IDS:
                    place = place.replace("{" + thing + "}", "1")
                if parameter["in"] == "path":
                    yield place
                    continue
                for more in choices(operation) if name == "cursor" else [""]:
                    yield f"{place}?{name}={text}{beside}{more}"


async def test_no_address_breaks_the_site_or_is_answered_with_a_database_error(database: Database) -> None:
    async with database.writing() as session:
        user = User(username="ada", username_key="ada", email="a@b", email_key="a@b", password_hash="!", is_admin=True)
        session.add(user)
        await session.flush()
        _, token = await start_session(session, user)
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    statuses: dict[int, list[str]] = {}
    waiting = iter(sorted(set(addresses())))
    async with httpx2.AsyncClient(transport=transport, base_url="http://site.example", timeout=60) as client:
        client.cookies.set(cookie_name(), token)

        async def ask() -> None:
            for address in waiting:
                statuses.setdefault((await client.get(address)).status_code, []).append(address)

        await asyncio.gather(*(ask() for _ in range(4)))
    told = {code: found[:3] for code, found in statuses.items()}
    assert set(statuses) <= {200, 307, 400, 404, 409, 422}, told
    assert min(len(statuses[code]) for code in (200, 400, 404, 422)) > 20, told
