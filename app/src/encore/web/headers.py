"""Headers by which browsers protect the visitors of the site."""

from __future__ import annotations

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["SecurityHeaders"]

PLAIN_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(?::[0-9]{1,5})?", re.ASCII)

FIXED = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "strict-origin-when-cross-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
}
POLICY = (
    "default-src 'self'; connect-src {sources}; img-src 'self' data: blob:; media-src 'self' blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
ONE_YEAR_S = 365 * 24 * 3600


class SecurityHeaders:
    """Adds them to every answer; one that has a header of its own keeps it.

    Answers below `/api` are for the one who asks: `no-store`, unless the route says otherwise.
    """

    def __init__(self, app: ASGIApp, *, uses_tls: bool) -> None:
        self.app = app
        self._uses_tls = uses_tls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_safe(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add(MutableHeaders(scope=message), scope)
            await send(message)

        await self.app(scope, receive, send_safe)

    def _add(self, headers: MutableHeaders, scope: Scope) -> None:
        for name, value in FIXED.items():
            headers.setdefault(name, value)
        headers.setdefault("Content-Security-Policy", POLICY.format(sources=self._sources(scope)))
        if self._uses_tls:
            headers.setdefault("Strict-Transport-Security", f"max-age={ONE_YEAR_S}")
        if scope["path"].startswith("/api/"):
            headers.setdefault("Cache-Control", "no-store")

    def _sources(self, scope: Scope) -> str:
        """Where pages may connect to. Not every browser takes 'self' for the sockets of the same host too."""
        host = Headers(scope=scope).get("host", "")
        if not PLAIN_HOST.fullmatch(host):
            return "'self'"
        return f"'self' {'wss' if self._uses_tls else 'ws'}://{host}"
