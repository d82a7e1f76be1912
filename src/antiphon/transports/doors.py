"""The quick way to the sockets of a uvicorn that was started without any option: an outermost ASGI middleware.

The `send` that uvicorn hands to the application is a method of the object that owns the socket, and the outermost
middleware sees it. What is relied upon there is checked first: on any other server, or on a uvicorn that has changed,
the middleware does nothing, and messages go the usual way of ASGI.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, TypeAlias

from antiphon.journal import Journal
from antiphon.transports.door import EXTENSION

if TYPE_CHECKING:
    from antiphon.transports.uvicorn_door import DoorProtocol

__all__ = ["AsgiApp", "DoorMiddleware"]

_STOCK = "uvicorn.protocols.websockets.websockets_sansio_impl"
"""Where the protocol class is whose objects are known here. uvicorn has others, which need other packages."""
_journal = Journal()

# The types of an ASGI application, as Starlette spells them: events and scopes are open dictionaries.
Event: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Event, Receive, Send], Awaitable[None]]


class DoorMiddleware:
    """Has to be the outermost: another one around it would hide the server's own `send`."""

    def __init__(self, app: AsgiApp) -> None:
        self.app = app
        self._may_open = True
        """No attempt has failed."""

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket" or EXTENSION in (scope.get("extensions") or ()):
            await self.app(scope, receive, send)
            return
        owner = getattr(send, "__self__", None)
        protocol = None
        if self._may_open and type(owner).__module__ == _STOCK and getattr(receive, "__self__", None) is owner:
            protocol = self._open(owner, scope)
        if protocol is None:
            await self.app(scope, receive, send)
        else:
            await protocol.run_app(self.app, protocol.receive, protocol.send)

    def _open(self, owner: object, scope: Event) -> DoorProtocol | None:
        try:
            # Only now: the server is there, so this succeeds, unless that is another release than is known here.
            from antiphon.transports.uvicorn_door import open_door
        except (ImportError, AttributeError) as error:
            self._may_open = False
            _journal.warning(
                "uvicorn", "this release of uvicorn or websockets is not known: messages go through ASGI", error=error
            )
            return None
        return open_door(owner, scope)
