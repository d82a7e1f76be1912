"""Putting it all before an application."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware

from encore.settings import Settings, read_settings
from encore.web.bodies import Bodies
from encore.web.crossing import OwnPages
from encore.web.headers import SecurityHeaders
from encore.web.identifiers import HEADER, RequestIds

__all__ = ["install"]


def install(application: Starlette, settings: Settings | None = None) -> None:
    """Add everything of this package to an application, before its first request. Sockets get a request id alone."""
    settings = settings or read_settings()
    # The last one added is the outermost.
    application.add_middleware(Bodies)
    application.add_middleware(OwnPages, settings=settings)
    if settings.allowed_origins:
        application.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.allowed_origins),
            allow_credentials=True,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["Content-Type", HEADER],
            expose_headers=["Retry-After", HEADER],
        )
    application.add_middleware(RequestIds, answers_crashes=not application.debug)
    application.add_middleware(SecurityHeaders, uses_tls=settings.uses_tls)
