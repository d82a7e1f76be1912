"""Which pages may change something here: no page of another website acts with the cookies of its visitors."""

from __future__ import annotations

import logging
import re

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from antiphon import OriginRefused, Security
from encore.settings import Settings
from encore.web.answers import closing, refusal

__all__ = ["SAFE_METHODS", "OwnPages"]

log = logging.getLogger("encore.web")

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
OWN_PAGES = frozenset({"same-origin", "none"})
AUTHORITY = re.compile(r"[a-z]+://(.+)", re.ASCII)
DETAIL = "a page of another website may not do this: use the site's own pages, or ENCORE_ALLOWED_ORIGINS"


class OwnPages:
    """Refuses with 403 what another website's page wants to change: by form or script, signed in or not.

    Browsers say where a request comes from: `Sec-Fetch-Site`, `Origin`, or both; a request with neither comes from no
    browser. The Origin is held to the rule for WebSockets, with the same list; without one, `Sec-Fetch-Site` decides.
    Sign-in, sign-up and sign-out are held to it too. Methods that change nothing pass.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self.app = app
        self._rule = Security(
            allowed_origins=list(settings.allowed_origins),
            trusted_proxies=list(settings.trusted_proxies),
            cookies_without_origin=True,
        )
        self.refused = 0
        """How many requests were refused since the start."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in SAFE_METHODS or self._is_ours(scope):
            await self.app(scope, receive, send)
            return
        self.refused += 1
        log.warning("refused %s %a: a page of another website asked for it", scope["method"], scope["path"][:200])
        await refusal(403, code="cross_site", detail=DETAIL)(scope, receive, closing(send))

    def _is_ours(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        sites, origins = headers.getlist("sec-fetch-site"), headers.getlist("origin")
        says_own = all(site.lower() in OWN_PAGES for site in sites)
        if not origins:
            return says_own
        try:
            # Asked as for a handshake: of requests the library looks only at those that carry a cookie, and a page that
            # signs its visitor in under a name of its own choice needs none.
            self._rule.check_origin(HTTPConnection({**scope, "type": "websocket"}))
        except OriginRefused:
            return False
        return says_own or not _is_this_host(origins[0], headers)


def _is_this_host(origin: str, headers: Headers) -> bool:
    """Whether the page's host is this one. Then a browser that calls it another site means the scheme: no TLS there."""
    match = AUTHORITY.fullmatch(origin.lower())
    names = [*headers.getlist("host"), *",".join(headers.getlist("x-forwarded-host")).split(",")]
    return match is None or match[1] in {name.strip().lower() for name in names}
