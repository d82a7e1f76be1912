"""What goes over the channel `forum`.

Those of a thread go to its topic, `thread:{id}`, and of a private thread to its members alone.
"""

from __future__ import annotations

import datetime
from typing import Literal

from pydantic import BaseModel

from encore.forum.bodies import Id
from encore.forum.notification_messages import FROM_SERVER as NOTIFICATIONS
from encore.forum.schemas import MessageView, ThreadView
from encore.live import ClientMessage, Heartbeat, Ping, Pong, Problem, ServerMessage

__all__ = [
    "FROM_CLIENT",
    "FROM_SERVER",
    "Connected",
    "Deprecated",
    "MessageDeleted",
    "MessageEdited",
    "MessageLiked",
    "MessageUnliked",
    "NewMessage",
    "NewSubThreadCreated",
    "NewThreadCreated",
    "SubThreadCount",
    "Subscribe",
    "Subscribed",
    "ThreadDeleted",
    "ThreadUpdated",
    "Typing",
    "Unsubscribe",
    "Unsubscribed",
    "UserTyping",
]

# -- to the socket -----------------------------------------------------------------------------------------------------


class Connected(ServerMessage):
    type: Literal["connected"] = "connected"
    message: str
    thread_id: int | None = None
    """On the socket of one thread."""


class Deprecated(ServerMessage):
    """On the earlier sockets, where they are switched off; the socket is closed with 1001 then."""

    type: Literal["deprecated"] = "deprecated"
    message: str = "This endpoint is deprecated. Use /api/forum/ws/v2"


class Subscribed(ServerMessage):
    """The thread's messages come from now on: fetch it, then apply what is newer."""

    type: Literal["subscribed"] = "subscribed"
    thread_id: int


class Unsubscribed(ServerMessage):
    """Nothing of this thread comes any more, nor of its sub-threads when access was lost."""

    type: Literal["unsubscribed"] = "unsubscribed"
    thread_id: int
    reason: Literal["asked", "access_lost"] = "asked"


# -- of a thread -------------------------------------------------------------------------------------------------------


class NewMessage(ServerMessage):
    type: Literal["new_message"] = "new_message"
    thread_id: int
    message: MessageView
    message_count: int
    """Of the thread, with this message."""
    thread_revision: int


class SubThreadCount(BaseModel):
    """How many sub-threads a message has now."""

    message_id: int
    sub_thread_count: int
    revision: int


class ThreadUpdated(ServerMessage):
    """On the thread's own topic; when it was moved away, also on that of the thread that it belonged to."""

    type: Literal["thread_updated"] = "thread_updated"
    thread_id: int
    thread: ThreadView
    parent_message: SubThreadCount | None = None
    """The one of its messages that got or lost a sub-thread."""


class MessageEdited(ServerMessage):
    type: Literal["message_edited"] = "message_edited"
    thread_id: int
    message_id: int
    content: str
    content_html: str
    is_edited: bool = True
    edited_at: datetime.datetime
    revision: int


class MessageDeleted(ServerMessage):
    """The message was removed, and its place stays; or it was moved away, and is not here any more."""

    type: Literal["message_deleted"] = "message_deleted"
    thread_id: int
    message_id: int
    is_moved: bool = False
    revision: int


class MessageLiked(ServerMessage):
    type: Literal["message_liked"] = "message_liked"
    thread_id: int
    message_id: int
    like_count: int
    liked_by_user_id: int
    revision: int


class MessageUnliked(ServerMessage):
    type: Literal["message_unliked"] = "message_unliked"
    thread_id: int
    message_id: int
    like_count: int
    unliked_by_user_id: int
    revision: int


class UserTyping(ServerMessage):
    """Somebody writes, or has stopped to. Not stored: forget it after a few seconds."""

    type: Literal["user_typing"] = "user_typing"
    thread_id: int
    user_id: int
    username: str
    is_typing: bool


class NewSubThreadCreated(ServerMessage):
    """To those who hear the thread that the sub-thread belongs to: `thread_id`, which is then updated too."""

    type: Literal["new_sub_thread_created"] = "new_sub_thread_created"
    thread_id: int
    parent_message_id: int | None
    sub_thread: ThreadView


# -- to everyone; of a private thread to its members -------------------------------------------------------------------


class NewThreadCreated(ServerMessage):
    """A thread is there; or somebody has become a member of a private one."""

    type: Literal["new_thread_created"] = "new_thread_created"
    thread_id: int
    thread: ThreadView


class ThreadDeleted(ServerMessage):
    """A thread is gone, and all its sub-threads with it; or one sub-thread is."""

    type: Literal["thread_deleted"] = "thread_deleted"
    thread_id: int
    parent_thread_id: int | None = None


# -- from clients ------------------------------------------------------------------------------------------------------


class Typing(ClientMessage):
    type: Literal["typing"] = "typing"
    is_typing: bool = True
    thread_id: Id | None = None
    """Needed on v2; on the socket of one thread it is that one."""


class Subscribe(ClientMessage):
    type: Literal["subscribe"] = "subscribe"
    thread_id: Id


class Unsubscribe(ClientMessage):
    type: Literal["unsubscribe"] = "unsubscribe"
    thread_id: Id


FROM_SERVER: tuple[type[ServerMessage], ...] = (
    Connected,
    Deprecated,
    Subscribed,
    Unsubscribed,
    NewMessage,
    ThreadUpdated,
    MessageEdited,
    MessageDeleted,
    MessageLiked,
    MessageUnliked,
    UserTyping,
    NewSubThreadCreated,
    NewThreadCreated,
    ThreadDeleted,
    *NOTIFICATIONS,
    Problem,
    Pong,
    Heartbeat,
)
FROM_CLIENT: tuple[type[ClientMessage], ...] = (Subscribe, Unsubscribe, Typing, Ping)
