"""What is live: the channels of the site, and `announce()`, the one door for what is pushed over them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from antiphon import Connection, Limits, Receipt, Security, WebSocketManager
from encore.db import after_commit
from encore.errors import BadRequest, SiteError

__all__ = [
    "Heartbeat",
    "Ping",
    "Pong",
    "Problem",
    "Announcement",
    "ClientMessage",
    "ServerMessage",
    "announce",
    "channel",
    "channels",
    "disconnect_session",
    "disconnect_user",
    "read_message",
    "tell",
    "telling_problems",
    "while_serving",
    "working",
]

log = logging.getLogger("encore.live")

LIMITS = Limits(connections_per_user=10, frames_per_s=20, frames_burst=40, frame_bytes=16 * 1024)
"""Tighter than the library's: nobody types faster, and nobody has more tabs open."""

RESTART_S = 1.0
"""How long a task that failed waits before it is started again."""

Work = Callable[[], Awaitable[None]]

_channels: dict[str, WebSocketManager] = {}
_works: list[Work] = []


class ServerMessage(BaseModel):
    """What the server sends: one class for each `type`. Clients may count on every field being there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: str


class ClientMessage(BaseModel):
    """What clients send. Fields that nobody asked for are ignored: earlier clients have some."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    type: str


class Pong(ServerMessage):
    """The answer to `ping`, on every socket."""

    type: Literal["pong"] = "pong"


class Heartbeat(ServerMessage):
    """On every socket, when 30 s have passed with nothing received from the client."""

    type: Literal["heartbeat"] = "heartbeat"


class Problem(ServerMessage):
    """On every socket: what the client sent was not understood, or may not be done. The socket stays open."""

    type: Literal["error"] = "error"
    code: str
    message: str


class Ping(ClientMessage):
    """On every socket: answered with `pong`."""

    type: Literal["ping"] = "ping"


Said = TypeVar("Said", bound=ClientMessage)


def channel(name: str, *, security: Security, limits: Limits = LIMITS) -> WebSocketManager:
    """The manager of one of the site's channels; called once for each, at import."""
    manager = _channels[name] = WebSocketManager(channel=name, security=security, limits=limits)
    return manager


def channels() -> dict[str, WebSocketManager]:
    """All channels by name."""
    return dict(_channels)


def read_message(message: object, *kinds: type[Said]) -> Said:
    """What a client said, as one of these classes, told by its `type`. Raises BadRequest, which says what is wrong."""
    name = message.get("type") if isinstance(message, dict) else None
    kind = next((kind for kind in kinds if kind.model_fields["type"].default == name), None)
    if kind is None:
        raise BadRequest(f"there is no message type {str(name)[:40]!r} here", code="unknown_type")
    try:
        return kind.model_validate(message)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "message"
        raise BadRequest(f"{where}: {first['msg']}", code="bad_message") from error


async def tell(manager: WebSocketManager, connection: Connection, message: ServerMessage) -> None:
    """Send a message to one socket of this replica."""
    await manager.send_personal_message(message.model_dump(mode="json"), connection)


@asynccontextmanager
async def telling_problems(manager: WebSocketManager, connection: Connection) -> AsyncIterator[None]:
    """Around what a client's message asks for: what goes wrong for the client is said to it; the socket stays open."""
    try:
        yield
    except SiteError as error:
        await tell(manager, connection, Problem(code=error.code, message=error.detail))


class Announcement:
    """A message that goes out once its unit of work is committed."""

    def __init__(self, send: Callable[[], Awaitable[Receipt]]) -> None:
        self._send = send
        self.receipt: Receipt | None = None
        """What became of it; None before the commit, and for ever after a rollback."""

    async def go_out(self) -> None:
        self.receipt = await self._send()


def announce(
    session: AsyncSession,
    manager: WebSocketManager,
    message: ServerMessage,
    *,
    topic: str | None = None,
    target_user_ids: Iterable[str] | None = None,
) -> Announcement:
    """Send this to everybody who listens, on every replica, after the session's commit; on a rollback never.

    The order within one unit of work is kept. A broker that is away fails nothing: this replica's clients get the
    message at once, the others when it is back, or when their page asks the database again.
    """
    payload = message.model_dump(mode="json")
    targets = None if target_user_ids is None else frozenset(target_user_ids)

    async def send() -> Receipt:
        return await manager.broadcast(payload, target_user_ids=targets, topic=topic)

    announcement = Announcement(send)
    after_commit(session, announcement.go_out)
    return announcement


async def disconnect_user(user_id: int, *, except_session_id: int | None = None) -> int:
    """End the user's sockets on all channels and replicas, but for those of one session. How many were cut."""
    kept = () if except_session_id is None else (str(except_session_id),)
    return await _cut(lambda manager: manager.disconnect_user(str(user_id), except_=kept))


async def disconnect_session(session_id: int) -> int:
    """End a session's sockets on all channels and replicas. How many were cut."""
    return await _cut(lambda manager: manager.disconnect_session(str(session_id)))


async def _cut(end: Callable[[WebSocketManager], Awaitable[object]]) -> int:
    results: Collection[object] = await asyncio.gather(
        *(end(manager) for manager in _channels.values()), return_exceptions=True
    )
    count = 0
    for result in results:
        if isinstance(result, BaseException):
            # The re-check, a minute later, finds what was missed here.
            log.warning("sockets of a session that ended could not all be closed at once: %s", result)
        else:
            count += int(getattr(result, "connections", 0))
    return count


def while_serving(work: Work) -> Work:
    """Let this run for as long as the site serves; a decorator. What it raises is logged, and it is started again."""
    _works.append(work)
    return work


@asynccontextmanager
async def working() -> AsyncIterator[None]:
    """Run what `while_serving` was told, until the block is left."""
    tasks = [asyncio.create_task(_again_and_again(work), name=f"encore-{work.__module__}") for work in _works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _again_and_again(work: Work) -> None:
    while True:
        try:
            await work()
        except Exception:
            log.exception("%s.%s failed; it is started again", work.__module__, getattr(work, "__name__", "work"))
        await asyncio.sleep(RESTART_S)
