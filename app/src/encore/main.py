"""The application: puts the features together, opens the database, answers errors."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from fastapi import FastAPI

import antiphon
import encore
from encore import web
from encore.accounts.routes import router as accounts
from encore.book_requests.routes import router as book_requests
from encore.broadcasts.routes import router as broadcasts
from encore.catalogue.routes import router as catalogue
from encore.comments.routes import router as comments
from encore.db import open_database
from encore.forum.routes import router as forum
from encore.live import working
from encore.operation.answers import add_error_answers
from encore.operation.demo import router as demo
from encore.operation.logs import configure_logging
from encore.operation.metrics import CountRequests
from encore.operation.openapi import GENERAL, TAGS, document, operation_id
from encore.operation.routes import router as operation
from encore.operation.start import check_database, check_settings
from encore.settings import Settings, read_settings

__all__ = ["app", "create_app"]

METRICS_TOKEN = "ANTIPHON_METRICS_TOKEN"


@asynccontextmanager
async def _lifespan(application: FastAPI) -> AsyncIterator[None]:
    settings = read_settings()
    configure_logging(settings)
    check_settings(settings)
    database = open_database(settings.database_url.get_secret_value())
    try:
        await check_database(settings, database)
        with _operators_token(settings):
            async with antiphon.lifespan(application), working():
                yield
    finally:
        await database.close()


@contextmanager
def _operators_token(settings: Settings) -> Iterator[None]:
    """One token for all that operators ask: the library's endpoints take it too."""
    if settings.operator_token is None:
        yield
        return
    token = settings.operator_token.get_secret_value()
    antiphon.Drain(token=token)
    before = os.environ.get(METRICS_TOKEN)
    os.environ[METRICS_TOKEN] = token
    try:
        yield
    finally:
        if before is None:
            del os.environ[METRICS_TOKEN]
        else:
            os.environ[METRICS_TOKEN] = before


def create_app() -> FastAPI:
    """The site, ready to be served. One in a process."""
    settings = read_settings()
    application = FastAPI(
        title="Encore",
        version=encore.__version__,
        description="An audio-streaming community site, live on every replica.",
        openapi_tags=TAGS,
        generate_unique_id_function=operation_id,
        lifespan=_lifespan,
        debug=settings.debug,
        # Routes of our own serve these, for those who may see them.
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    add_error_answers(application)
    routers = [accounts, catalogue, broadcasts, comments, forum, book_requests, operation]
    if settings.mode == "demo":
        routers.append(demo)
    for router in routers:
        application.include_router(router, responses=GENERAL)
    document(application)
    web.install(application)
    application.add_middleware(CountRequests)
    return antiphon.install(application)


app = create_app()
