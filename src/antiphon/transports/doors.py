"""The quick way to the sockets of a uvicorn that was started without any option: an outermost ASGI middleware.

The `send` that uvicorn hands to the application is a method of the object that owns the socket, and the outermost
middleware sees it. What is relied upon there is checked first: on any other server, or on a uvicorn that has changed,
the middleware does nothing, and messages go the usual way of ASGI.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from antiphon.transports.door import EXTENSION

__all__ = ["AsgiApp", "DoorMiddleware"]

# The types of an ASGI application, as Starlette spells them: events and scopes are open dictionaries.
Event: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Event, Receive, Send], Awaitable[None]]


class DoorMiddleware:
    """Has to be the outermost: another one around it would hide the server's own `send`."""

    def __init__(self, app: AsgiApp) -> None:
        self.app = app

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket" or EXTENSION in (scope.get("extensions") or ()):
            await self.app(scope, receive, send)
            return
        owner = getattr(send, "__self__", None)
        if not type(owner).__module__.startswith("uvicorn.protocols."):
            await self.app(scope, receive, send)
            return
        from antiphon.transports.uvicorn_door import (
            open_door,
        )  # only now: the server is there, so the import must succeed

        protocol = open_door(owner, scope)
        if protocol is None:
            await self.app(scope, receive, send)
        else:
            await protocol.run_app(self.app, receive, protocol.send)
