"""The OpenAPI document: readable ids, a tag for each feature, and the errors that any route can give."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from encore.errors import ErrorAnswer

__all__ = ["GENERAL", "TAGS", "document", "operation_id"]

GENERAL: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "The request makes no sense as it is"},
    401: {"model": ErrorAnswer, "description": "Not signed in"},
    403: {"model": ErrorAnswer, "description": "Not allowed, or from a page of another website"},
    422: {"model": ErrorAnswer, "description": "The request is not of the form described here"},
    429: {"model": ErrorAnswer, "description": "Too much at once: `Retry-After` says when to come back"},
    503: {"model": ErrorAnswer, "description": "The database is away"},
}
"""What every route may answer."""

TAGS = [
    {"name": "accounts", "description": "People, sessions, and tickets for sockets"},
    {"name": "catalogue", "description": "Albums, tracks, their audio, and what was listened to"},
    {"name": "broadcasts", "description": "Announcements from the creators to everybody"},
    {"name": "comments", "description": "Comments at a second of a track"},
    {"name": "forum", "description": "Threads, messages, notifications, search"},
    {"name": "book_requests", "description": "Audiobooks that listeners ask for"},
    {"name": "operation", "description": "How the site is"},
]


def operation_id(route: APIRoute) -> str:
    """The feature and the function's name, as in `forum_list_threads`: stays the same when an address changes."""
    return f"{route.endpoint.__module__.split('.')[1]}_{route.name}"


def document(application: FastAPI) -> None:
    """Let the application's OpenAPI document name the feature of each route as its tag."""
    generate = application.openapi

    def openapi() -> dict[str, Any]:
        if application.openapi_schema is None:
            for operations in generate()["paths"].values():
                for operation in operations.values():
                    operation["tags"] = [_feature(operation["operationId"])]
        assert application.openapi_schema is not None
        return application.openapi_schema

    application.openapi = openapi  # type: ignore[method-assign]  # the way that FastAPI documents


def _feature(name: str) -> str:
    return next(tag["name"] for tag in TAGS if name.startswith(f"{tag['name']}_"))
