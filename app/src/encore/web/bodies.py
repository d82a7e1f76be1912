"""What a request may carry: JSON of 64 KiB, and where a route takes something else, that."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from encore.web.answers import closing, refusal
from encore.web.crossing import SAFE_METHODS

__all__ = ["BODIES", "Bodies", "BodyRule"]

JSON_BYTES = 64 * 1024
BODY_S = 30.0
"""How long a body may take that is counted here: whoever sends one byte at a time keeps a connection for nothing."""
FORM = ("application/x-www-form-urlencoded", "multipart/form-data")
UPLOAD = ("multipart/form-data",)
PICTURE = ("image/jpeg", "image/png", "image/webp")


@dataclass(frozen=True, slots=True)
class BodyRule:
    """What one route takes instead of JSON."""

    method: str
    path: str
    """As the route has it: `/api/tracks/{track_id}/comments`."""
    content_types: tuple[str, ...]
    limit_bytes: int | None = JSON_BYTES
    """None: the route counts for itself while it reads."""
    takes_json: bool = False
    """Whether JSON is taken as well."""
    pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        parts = re.split(r"\{[^{}]+\}", self.path)
        object.__setattr__(self, "pattern", re.compile("[^/]+".join(map(re.escape, parts))))


BODIES: tuple[BodyRule, ...] = (
    BodyRule("POST", "/api/tracks", UPLOAD, limit_bytes=None),
    BodyRule("PUT", "/api/tracks/{track_id}/cover", PICTURE, limit_bytes=None),
    BodyRule("PUT", "/api/albums/{album_id}/cover", PICTURE, limit_bytes=None),
    BodyRule("POST", "/api/tracks/{track_id}/comments", FORM),
    BodyRule("PUT", "/api/comments/{comment_id}", FORM, takes_json=True),
)
"""All routes of the site that take something else than JSON. One that is not here answers 415 to it."""


class Bodies:
    """Refuses bodies that a route does not take (415), and, while they arrive, those that are too large (413) or too
    slow (408).

    A form of another website can only send types that are no JSON, so those never reach a route that did not ask for
    them. Nothing is kept here: what arrives is passed on as it comes.
    """

    def __init__(
        self, app: ASGIApp, *, rules: Sequence[BodyRule] = BODIES, json_bytes: int = JSON_BYTES, body_s: float = BODY_S
    ) -> None:
        self.app = app
        self._body_s = body_s
        self._rules = tuple(rules)
        self._json_bytes = json_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        rule = None if scope["method"] in SAFE_METHODS else self._rule_of(scope)
        limit_bytes = self._json_bytes if rule is None else rule.limit_bytes
        length = _length_of(headers)
        if length is None:
            answer = refusal(400, code="bad_request", detail="Content-Length is no number")
            await answer(scope, receive, closing(send))
        elif scope["method"] not in SAFE_METHODS and length != 0 and not _is_taken(headers, rule):
            expected = ", ".join(_types_of(rule))
            answer = refusal(415, code="unsupported_media_type", detail=f"send this as {expected}")
            await answer(scope, receive, closing(send))
        elif limit_bytes is None:
            await self.app(scope, receive, send)
        elif length > limit_bytes:
            await _too_large(limit_bytes)(scope, receive, closing(send))
        else:
            await self._count(scope, receive, send, limit_bytes)

    def _rule_of(self, scope: Scope) -> BodyRule | None:
        for rule in self._rules:
            if rule.method == scope["method"] and rule.pattern.fullmatch(scope["path"]):
                return rule
        return None

    async def _count(self, scope: Scope, receive: Receive, send: Send, limit_bytes: int) -> None:
        """Let the route read, up to the limits. Whatever it makes of the rest, the answer is 413 or 408."""
        came_bytes = 0
        is_complete = has_started = False
        over: ASGIApp | None = None
        until = asyncio.get_running_loop().time() + self._body_s

        async def receive_counted() -> Message:
            nonlocal came_bytes, is_complete, over
            try:
                # Behind the body comes only the news that the client has gone, for which routes may wait.
                async with asyncio.timeout_at(None if is_complete else until):
                    message = await receive()
            except TimeoutError:
                over = _too_slow(self._body_s)
                raise HTTPException(408) from None
            is_complete = not message.get("more_body", False)
            came_bytes += len(message.get("body", b"")) if message["type"] == "http.request" else 0
            if came_bytes > limit_bytes:
                over = _too_large(limit_bytes)
                raise HTTPException(413)
            return message

        async def send_unless_over(message: Message) -> None:
            nonlocal has_started
            if over is None or has_started:
                has_started = True
                await send(message)

        try:
            await self.app(scope, receive_counted, send_unless_over)
        except HTTPException:
            if over is None:
                raise
        if over is not None and not has_started:
            await over(scope, receive, closing(send))


def _types_of(rule: BodyRule | None) -> tuple[str, ...]:
    if rule is None:
        return ("application/json",)
    return (*rule.content_types, "application/json") if rule.takes_json else rule.content_types


def _is_taken(headers: Headers, rule: BodyRule | None) -> bool:
    given = headers.getlist("content-type")
    return len(given) == 1 and given[0].partition(";")[0].strip().lower() in _types_of(rule)


def _length_of(headers: Headers) -> int | None:
    """The announced length; -1 for one that only the end will tell, None for nonsense."""
    if "transfer-encoding" in headers:
        return -1
    text = headers.get("content-length", "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _too_slow(limit_s: float) -> ASGIApp:
    return refusal(408, code="too_slow", detail=f"a request has to be here within {limit_s:g} s")


def _too_large(limit_bytes: int) -> ASGIApp:
    return refusal(413, code="too_large", detail=f"a request may carry at most {limit_bytes:,} bytes here")
