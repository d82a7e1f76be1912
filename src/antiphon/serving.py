"""Giving an application the quick way to its sockets: `install` for any uvicorn, `run` for one that is started here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast, overload

from starlette.applications import Starlette

from antiphon.errors import MissingExtra
from antiphon.transports.doors import AsgiApp, DoorMiddleware

__all__ = ["DEFLATING_PROTOCOL", "PROTOCOL", "WS_MAX_SIZE", "install", "run"]

PROTOCOL = "antiphon.transports.uvicorn:AntiphonProtocol"
"""What `uvicorn --ws` takes for the quickest way with the least memory."""

DEFLATING_PROTOCOL = "antiphon.transports.uvicorn:DeflatingProtocol"
"""The same with permessage-deflate, for clients behind thin lines."""

WS_MAX_SIZE = 1024 * 1024
"""Bytes of one message that `run` and `antiphon dev` let clients send where the endpoint reads the socket itself."""

StarletteApp = TypeVar("StarletteApp", bound=Starlette)


class _Outermost:
    """Builds an application's middleware stack with the doors around it."""

    def __init__(self, build: Callable[[], AsgiApp]) -> None:
        self.build = build

    def __call__(self) -> AsgiApp:
        return DoorMiddleware(self.build())


@overload
def install(app: StarletteApp) -> StarletteApp: ...


@overload
def install(app: AsgiApp) -> AsgiApp: ...


def install(app: AsgiApp) -> AsgiApp:
    """Let messages of this application take the quick way when a stock `uvicorn app:app` serves it.

    A Starlette or FastAPI application is changed in place and returned; of any other ASGI application a wrapper is
    returned, which has to be what the server gets. Calling it twice does nothing. On other servers, and when another
    ASGI application is wrapped around this one, nothing changes: messages go the usual way of ASGI.
    """
    if not isinstance(app, Starlette):
        return app if isinstance(app, DoorMiddleware) else DoorMiddleware(app)
    if isinstance(app.build_middleware_stack, _Outermost):
        return app
    # An instance attribute: Starlette has no way to name the outermost middleware, what is added later goes around.
    app.build_middleware_stack = _Outermost(app.build_middleware_stack)  # type: ignore[method-assign]
    if app.middleware_stack is not None:
        app.middleware_stack = DoorMiddleware(app.middleware_stack)
    return app


def run(app: AsgiApp | str, *, deflate: bool = False, **options: object) -> None:
    """Serve with uvicorn and the quickest transport, until it is told to stop.

    `app` is the application, or `"module:name"` where `reload` or `workers` is used; `options` are those of
    `uvicorn.run` (`host`, `port`, `log_level` and so on). With `deflate`, clients that offer permessage-deflate get
    compressed messages: less traffic for more time, the server's too for what they send. A message of a client may have
    1 MiB, where `serve` or `FirstMessage` does not allow less; `ws_max_size` says otherwise, and has to for a larger
    `Limits.frame_bytes`. Raises MissingExtra when uvicorn is not installed, and ConfigurationError for a release of it
    that this one does not know.
    """
    try:
        import uvicorn
        import websockets  # noqa: F401 - what uvicorn's protocol is built on
    except ImportError as error:
        raise MissingExtra("antiphon.run needs uvicorn and websockets: pip install 'antiphon[uvicorn]'") from error
    protocol = DEFLATING_PROTOCOL if deflate else PROTOCOL
    uvicorn.run(cast(Any, app), **cast("dict[str, Any]", {"ws": protocol, "ws_max_size": WS_MAX_SIZE, **options}))
