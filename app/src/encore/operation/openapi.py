"""The OpenAPI document: readable ids, a tag for each feature, and the errors that any route can give."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias, get_args

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from encore.accounts.access import CurrentSession, MaybeUser
from encore.accounts.sessions import cookie_name
from encore.errors import ErrorAnswer
from encore.operation.operators import Insider, Operator, Reader

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


Security: TypeAlias = dict[str, list[str]]
SESSION: Security = {"session": []}
OPERATOR: Security = {"operator": []}


def operation_id(route: APIRoute) -> str:
    """The feature and the function's name, as in `forum_list_threads`: stays the same when an address changes."""
    return f"{route.endpoint.__module__.split('.')[1]}_{route.name}"


def document(application: FastAPI) -> None:
    """Let the application's OpenAPI document name the feature of each route as its tag, and who may ask for it."""
    generate = application.openapi

    def openapi() -> dict[str, Any]:
        if application.openapi_schema is None:
            found = generate()
            securities = dict(_securities(application))
            for operations in found["paths"].values():
                for operation in operations.values():
                    operation["tags"] = [_feature(operation["operationId"])]
                    operation["security"] = securities[operation["operationId"]]
            found["components"]["securitySchemes"] = _schemes()
        assert application.openapi_schema is not None
        return application.openapi_schema

    application.openapi = openapi  # type: ignore[method-assign]  # the way that FastAPI documents


def _feature(name: str) -> str:
    return next(tag["name"] for tag in TAGS if name.startswith(f"{tag['name']}_"))


def _schemes() -> dict[str, Any]:
    return {
        "session": {"type": "apiKey", "in": "cookie", "name": cookie_name(), "description": "What signing in sets"},
        "operator": {"type": "http", "scheme": "bearer", "description": "ENCORE_OPERATOR_TOKEN"},
    }


def _securities(application: FastAPI) -> Iterator[tuple[str, list[Security]]]:
    """What each route wants, read from its dependencies: one of these; nothing at all where `{}` is among them."""
    signed_in = get_args(CurrentSession)[1].dependency
    maybe = get_args(MaybeUser)[1].dependency
    wanted: list[tuple[object, list[Security]]] = [
        (Operator.dependency, [OPERATOR]),
        (Insider.dependency, [SESSION, OPERATOR]),
        (Reader.dependency, [SESSION, OPERATOR, {}]),
        (signed_in, [SESSION]),
        (maybe, [SESSION, {}]),
    ]
    for route in _routes(application):
        found = set(_dependencies(route.dependant))
        yield operation_id(route), next((security for one, security in wanted if one in found), [])


def _routes(application: FastAPI) -> Iterator[APIRoute]:
    for included in application.routes:
        for context in getattr(included, "effective_route_contexts", list)():
            if isinstance(context.original_route, APIRoute):
                yield context.original_route


def _dependencies(dependant: Dependant) -> Iterator[object]:
    for one in dependant.dependencies:
        yield one.call
        yield from _dependencies(one)
