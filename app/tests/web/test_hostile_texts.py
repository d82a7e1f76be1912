"""Texts that are meant to become markup stay texts, wherever people may write; only the forum's HTML is HTML."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from encore.text.markdown import sanitise
from harness.site import Json, Person, Site
from harness.tracks import add_track

pytestmark = pytest.mark.asyncio(loop_scope="module")

ATTACKS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1)) [y](data:text/html,<script>alert(1)</script>)",
    '![" onerror=alert(1) ](x) <https://a/"onmouseover=alert(1)>',
    "<svg/onload=alert(1)><math><mi><style><img src=x onerror=alert(1)>",
    '@<b>x</b> @"onmouseover=alert(1) </title></script>',
    "&lt;script&gt; {{7*7}} ${7*7} '\"`",
)


class Markup(HTMLParser):
    """Every tag and attribute of some HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.extend((name, value or "") for name, value in attrs)


async def say(cleo: Person, track: int, text: str) -> list[Json]:
    """Write it everywhere: the answers."""
    album = await cleo.post("/api/albums", {"title": text, "description": text}, status=201)
    comments = f"/api/tracks/{track}/comments"
    comment = await cleo.post(comments, data={"content": text, "timestamp": "1"}, status=201)
    request = {"title": text, "author": text, "note": text}
    asked = await cleo.post("/api/book-requests", request, status=201)
    reply = await cleo.post(f"/api/book-requests/{asked['id']}/replies", {"text": text}, status=201)
    sent = await cleo.post("/api/creator/broadcast", {"message": text})
    thread = await cleo.post("/api/forum/threads", {"title": text, "content": text}, status=201)
    return [album, comment, asked, reply, sent, thread]


@pytest.mark.parametrize("text", ATTACKS)
async def test_a_text_stays_the_text_it_was_wherever_it_is_written(shared_site: Site, text: str) -> None:
    cleo = await shared_site.person(roles=["creator"])
    answers = await say(cleo, await add_track(shared_site.database, cleo.id, title=text), text)
    for answer in answers:
        assert text in strings(answer), answer
    thread_id = answers[-1]["thread"]["id"]
    for path in ("/api/albums", "/api/tracks", "/api/book-requests", f"/api/forum/threads/{thread_id}/messages"):
        got = await cleo.read(path)
        assert got.headers["content-type"] == "application/json"
        assert got.headers["x-content-type-options"] == "nosniff"
        assert text in strings(got.json())
    (message,) = (await cleo.get(f"/api/forum/threads/{thread_id}/messages"))["items"]
    preview = await cleo.post("/api/forum/preview", {"content": text})
    for shown in (message["content_html"], preview["content_html"]):
        assert sanitise(shown) == shown
        markup = Markup(shown)
        assert markup.tags <= {"p", "a", "img", "span", "code", "br", "em", "strong"}
        for name, value in markup.attributes:
            assert name in {"href", "rel", "src", "alt", "title", "loading", "class", "data-user"}
            assert not re.match(r"\s*(javascript|data|vbscript):", value, re.I)
        assert not any(name == "src" and not value.startswith("/") for name, value in markup.attributes)
    # What somebody cannot sign up as is not repeated as markup either.
    body = {"username": text, "email": text, "password": "correct horse"}
    refused = await cleo.http.post("/api/auth/signup", json=body)
    assert refused.status_code == 422
    assert text not in json.dumps(refused.json())


def strings(value: object) -> list[str]:
    """Every text in some JSON."""
    if isinstance(value, dict):
        return [text for one in value.values() for text in strings(one)]
    if isinstance(value, list):
        return [text for one in value for text in strings(one)]
    return [value] if isinstance(value, str) else []
