"""Every answer that is no success has one form, whoever refused: a feature, FastAPI, or the database."""

from __future__ import annotations

import logging
import socket

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from encore.errors import ErrorAnswer, SiteError

__all__ = ["add_error_answers"]

log = logging.getLogger("encore.operation")

CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 415: "unsupported_media_type"}
DETAIL_CHARACTERS = 500


def add_error_answers(application: FastAPI) -> None:
    """Let every error that is foreseen become an ErrorAnswer; `encore.web` answers all others."""
    application.add_exception_handler(SiteError, _site_error)
    application.add_exception_handler(RequestValidationError, _invalid)
    application.add_exception_handler(HTTPException, _plain)
    # The driver's own errors while it connects are not wrapped.
    for kind in (DBAPIError, PoolTimeout, ConnectionError, TimeoutError, socket.gaierror):
        application.add_exception_handler(kind, _no_database)


def _answer(status: int, code: str, detail: str, *, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(ErrorAnswer(code=code, detail=detail).model_dump(), status, headers=headers)


async def _site_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, SiteError)
    headers = {} if error.retry_after_s is None else {"Retry-After": str(max(1, round(error.retry_after_s)))}
    return _answer(error.status, error.code, error.detail, headers=headers)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """Says what is wrong with the request without repeating what was sent, which may be a password."""
    assert isinstance(error, RequestValidationError)
    problems = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()[:5]]
    text = "; ".join(problems).encode("utf-8", "replace").decode()
    return _answer(422, "invalid", text[:DETAIL_CHARACTERS])


async def _plain(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = CODES.get(error.status_code, "refused")
    headers = None if error.headers is None else dict(error.headers)
    return _answer(error.status_code, code, str(error.detail), headers=headers)


async def _no_database(request: Request, error: Exception) -> JSONResponse:
    is_there = isinstance(error, DBAPIError) and not isinstance(error, OperationalError | InterfaceError)
    if is_there and not getattr(error, "connection_invalidated", False):
        raise error  # a defect of ours
    log.error("the database did not do what %s %s needs", request.method, request.url.path, exc_info=error)
    return _answer(
        503, "unavailable", "the database is not there at the moment: try again", headers={"Retry-After": "2"}
    )
