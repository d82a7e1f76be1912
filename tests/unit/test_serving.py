"""`install` and `run`."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware

import antiphon
from antiphon.errors import MissingExtra
from antiphon.serving import DEFLATING_PROTOCOL, PROTOCOL
from antiphon.transports.doors import DoorMiddleware


class Other:
    """Any middleware."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


def layers(app: Any) -> list[str]:
    """The classes of a middleware stack, from the outermost."""
    names = []
    while hasattr(app, "app"):
        names.append(type(app).__name__)
        app = app.app
    return names


@pytest.mark.parametrize("kind", [Starlette, FastAPI])
def test_install_is_outermost_whatever_is_added_later(kind: type[Starlette]) -> None:
    app = kind(middleware=[Middleware(Other)])
    assert antiphon.install(app) is app
    assert antiphon.install(app) is app
    app.add_middleware(Other)
    names = layers(app.build_middleware_stack())
    assert names[0] == "DoorMiddleware"
    assert names.count("DoorMiddleware") == 1
    assert names.count("Other") == 2


@pytest.mark.parametrize("kind", [Starlette, FastAPI])
def test_install_reaches_an_application_that_was_built_already(kind: type[Starlette]) -> None:
    app = kind()
    app.middleware_stack = app.build_middleware_stack()
    antiphon.install(app)
    antiphon.install(app)
    assert layers(app.middleware_stack)[:2] == ["DoorMiddleware", "ServerErrorMiddleware"]


def test_install_wraps_any_other_application_once() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        return None

    installed = antiphon.install(app)
    assert isinstance(installed, DoorMiddleware)
    assert installed.app is app
    assert antiphon.install(installed) is installed


def test_run_serves_with_the_quick_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, dict[str, Any]]] = []
    monkeypatch.setattr("uvicorn.run", lambda app, **options: calls.append((app, options)))
    antiphon.run("app:app", port=0, log_level="warning")
    antiphon.run("app:app", deflate=True)
    antiphon.run("app:app", ws="auto", ws_max_size=4096)
    assert calls == [
        ("app:app", {"ws": PROTOCOL, "ws_max_size": 1024 * 1024, "port": 0, "log_level": "warning"}),
        ("app:app", {"ws": DEFLATING_PROTOCOL, "ws_max_size": 1024 * 1024}),
        ("app:app", {"ws": "auto", "ws_max_size": 4096}),
    ]


def test_run_says_what_to_install_when_uvicorn_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingExtra, match=r"antiphon\[uvicorn\]"):
        antiphon.run("app:app")
