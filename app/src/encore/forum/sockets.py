"""The forum's sockets: /ws/v2 for everything, and the two earlier ones, of one thread and of what everybody hears.

What cannot be done is answered by `error` with one of the codes unknown_type, invalid, not_found and too_many_threads.
"""

# No `from __future__ import annotations`: FastAPI reads the annotations of the endpoints.

import asyncio
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, WebSocket
from pydantic import ValidationError
from starlette.exceptions import WebSocketException

from antiphon import Connection, Forbidden, UsageError, refuse
from encore.db import database
from encore.forum.access import audience, may_read, topic_of
from encore.forum.channel import SignedIn, manager
from encore.forum.messages import (
    Connected,
    Deprecated,
    Subscribe,
    Subscribed,
    Typing,
    Unsubscribe,
    Unsubscribed,
    UserTyping,
)
from encore.forum.models import Thread
from encore.forum.typing_allowance import TypingAllowance
from encore.live import Problem, ServerMessage
from encore.settings import read_settings

__all__ = ["router", "typing_allowance"]

router = APIRouter()
typing_allowance = TypingAllowance()
_sockets: defaultdict[str, set[str]] = defaultdict(set)
"""The connections of each user on this replica: nobody is told that they type themselves."""

OnMessage = Callable[[Connection, object], Awaitable[None]]
_NUMBER = re.compile(r"[1-9][0-9]{0,17}")
NO_THREAD = Problem(code="not_found", message="There is no such thread")


async def _still_offered(websocket: WebSocket) -> None:
    """The earlier sockets, where they are switched off, say so to whoever comes, and close."""
    if not read_settings().earlier_forum_sockets:
        await websocket.accept()
        await websocket.send_json(Deprecated().model_dump(mode="json"))
        raise WebSocketException(1001, "use /api/forum/ws/v2")


Earlier = Annotated[None, Depends(_still_offered)]


@router.websocket("/api/forum/ws/v2")
async def everything(websocket: WebSocket, identity: SignedIn) -> None:
    """What everybody hears, one's own notifications, and the threads that the client subscribes to."""
    await _serve(websocket, identity, Connected(message="Connected to forum updates"), on_message=_on_message)


@router.websocket("/api/forum/ws/global")
async def what_everybody_hears(websocket: WebSocket, offered: Earlier, identity: SignedIn) -> None:
    """The earlier socket for what everybody hears, and one's own notifications."""
    await _serve(websocket, identity, Connected(message="Connected to forum updates"))


@router.websocket("/api/forum/ws/thread/{thread_id}")
@router.websocket("/ws/forum/{thread_id}")
async def one_thread(websocket: WebSocket, thread_id: str, offered: Earlier, identity: SignedIn) -> None:
    """The earlier socket of one thread. Refused with 4503 when there is none, or it is not for this user."""
    if _NUMBER.fullmatch(thread_id) is None:
        await refuse(websocket, Forbidden(f"there is no thread {thread_id[:40]!r}"))
    number = int(thread_id)

    async def on_message(connection: Connection, message: object) -> None:
        if isinstance(message, dict) and message.get("type") == "typing":
            await _handle(_on_typing, connection, {**message, "thread_id": number})

    hello = Connected(message="Connected to thread updates", thread_id=number)
    await _serve(websocket, identity, hello, topics=[topic_of(number)], on_message=on_message)


async def _serve(
    websocket: WebSocket,
    identity: SignedIn,
    hello: Connected,
    *,
    topics: Sequence[str] = (),
    on_message: OnMessage | None = None,
) -> None:
    async def greet(connection: Connection) -> None:
        await _answer(connection, hello)
        if connection.user_id is not None:
            _sockets[connection.user_id].add(connection.id)

    await manager.serve(
        websocket,
        identity=identity,
        topics=topics,
        on_connect=greet,
        on_message=on_message,
        on_close=_forget,
        heartbeat="earlier",
    )


def _forget(connection: Connection) -> None:
    user_id = connection.user_id
    if user_id is not None and user_id in _sockets:
        _sockets[user_id].discard(connection.id)
        if not _sockets[user_id]:
            del _sockets[user_id]


# -- what clients of v2 send -------------------------------------------------------------------------------------------


async def _on_message(connection: Connection, message: object) -> None:
    kind = message.get("type") if isinstance(message, dict) else None
    handler = {"subscribe": _on_subscribe, "unsubscribe": _on_unsubscribe, "typing": _on_typing}.get(str(kind))
    if handler is None:
        unknown = "This socket takes the types subscribe, unsubscribe, typing and ping"
        await _answer(connection, Problem(code="unknown_type", message=unknown))
        return
    await _handle(handler, connection, message)


async def _handle(handler: OnMessage, connection: Connection, message: object) -> None:
    """Let this do what a client asks for; what is wrong with the message is answered."""
    try:
        await handler(connection, message)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        await _answer(connection, Problem(code="invalid", message=f"{where}: {first['msg']}"))


async def _on_subscribe(connection: Connection, message: object) -> None:
    thread_id = Subscribe.model_validate(message).thread_id
    try:
        await manager.subscribe(connection, topic_of(thread_id))
    except Forbidden:
        await _answer(connection, NO_THREAD)
    except UsageError:
        await _answer(connection, Problem(code="too_many_threads", message="Unsubscribe from other threads first"))
    else:
        await _answer(connection, Subscribed(thread_id=thread_id))


async def _on_unsubscribe(connection: Connection, message: object) -> None:
    thread_id = Unsubscribe.model_validate(message).thread_id
    manager.unsubscribe(connection, topic_of(thread_id))
    await _answer(connection, Unsubscribed(thread_id=thread_id))


async def _on_typing(connection: Connection, message: object) -> None:
    """Tell the others in the thread; not stored, and not kept for replicas that the broker does not reach now."""
    typing = Typing.model_validate(message)
    identity, thread_id = connection.identity, typing.thread_id
    if identity is None or identity.user_id is None:
        return
    if thread_id is None:
        await _answer(connection, Problem(code="invalid", message="thread_id: typing needs it here"))
        return
    now = asyncio.get_running_loop().time()
    if not typing_allowance.takes(identity.user_id, thread_id, is_typing=typing.is_typing, now=now):
        return
    async with database().reading() as session:
        is_reader = await may_read(session, user_id=int(identity.user_id), thread_id=thread_id)
        thread = await session.get(Thread, thread_id) if is_reader else None
        visible_to = None if thread is None else await audience(session, thread)
    if thread is None:
        await _answer(connection, NO_THREAD)
        return
    signal = UserTyping(
        thread_id=thread_id,
        user_id=int(identity.user_id),
        username=str(identity.claims.get("username", "")),
        is_typing=typing.is_typing,
    )
    await manager.broadcast(
        signal.model_dump(mode="json"),
        topic=topic_of(thread_id),
        target_user_ids=None if visible_to is None else {str(user_id) for user_id in visible_to},
        exclude=list(_sockets.get(identity.user_id, ())),
        ephemeral=True,
        expires_s=10.0,
        slow="newest_per_key",
        key=f"typing:{identity.user_id}",
    )


async def _answer(connection: Connection, message: ServerMessage) -> None:
    await manager.send_personal_message(message.model_dump(mode="json"), connection)
