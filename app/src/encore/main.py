"""The application: puts the features together, opens the database, answers errors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

import antiphon
from encore.accounts.routes import router as accounts
from encore.book_requests.routes import router as book_requests
from encore.broadcasts.routes import router as broadcasts
from encore.catalogue.routes import router as catalogue
from encore.comments.routes import router as comments
from encore.db import open_database
from encore.errors import SiteError
from encore.forum.routes import router as forum
from encore.settings import read_settings

__all__ = ["app", "create_app"]


@asynccontextmanager
async def _lifespan(application: FastAPI) -> AsyncIterator[None]:
    database = open_database(read_settings().database_url.get_secret_value())
    try:
        async with antiphon.lifespan(application):
            yield
    finally:
        await database.close()


async def _answer_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, SiteError)
    headers = {} if error.retry_after_s is None else {"Retry-After": str(max(1, round(error.retry_after_s)))}
    return JSONResponse({"code": error.code, "detail": error.detail}, status_code=error.status, headers=headers)


def create_app() -> FastAPI:
    """The site, ready to be served. One in a process."""
    application = FastAPI(title="Encore", lifespan=_lifespan)
    application.add_exception_handler(SiteError, _answer_error)
    for router in (accounts, catalogue, broadcasts, comments, forum, book_requests):
        application.include_router(router)

    @application.get("/healthz", include_in_schema=False)
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    return antiphon.install(application)


app = create_app()
