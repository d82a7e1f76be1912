"""What goes over the channel `track_comments`. Every message but those about the socket itself carries `track_id`."""

from __future__ import annotations

import datetime
from typing import Literal

from pydantic import BaseModel

from encore.comments.schemas import CommentData
from encore.live import ClientMessage, Heartbeat, Ping, Pong, Problem, ServerMessage

__all__ = [
    "FROM_CLIENT",
    "FROM_SERVER",
    "CommentDeleted",
    "CommentEdited",
    "CommentsClosed",
    "Connected",
    "Mention",
    "NewComment",
    "Sender",
    "Typing",
    "UserTyping",
]


class Sender(BaseModel):
    """Who wrote something."""

    id: int
    username: str
    display_name: str


class Connected(ServerMessage):
    type: Literal["connected"] = "connected"
    track_id: int
    message: str = "Connected to comment updates"


class NewComment(ServerMessage):
    type: Literal["new_comment"] = "new_comment"
    track_id: int
    comment: CommentData


class CommentEdited(ServerMessage):
    type: Literal["comment_edited"] = "comment_edited"
    track_id: int
    comment_id: int
    content: str
    timestamp: float
    is_edited: bool
    last_edited_at: datetime.datetime


class CommentDeleted(ServerMessage):
    """It is gone; its replies stand by themselves, with `parent_id` null."""

    type: Literal["comment_deleted"] = "comment_deleted"
    track_id: int
    comment_id: int


class CommentsClosed(ServerMessage):
    """Comments on the track were closed, or opened again."""

    type: Literal["comments_closed"] = "comments_closed"
    track_id: int
    closed: bool


class UserTyping(ServerMessage):
    """Somebody writes, or has stopped. Never stored, and lost without harm."""

    type: Literal["user_typing"] = "user_typing"
    track_id: int
    user_id: int
    username: str
    is_typing: bool


class Mention(ServerMessage):
    """To one person, on whatever track they are: a comment names them, or is on a track of theirs."""

    type: Literal["mention"] = "mention"
    track_id: int
    comment: CommentData
    from_user: Sender


class Typing(ClientMessage):
    type: Literal["typing"] = "typing"
    is_typing: bool = True


FROM_SERVER = (
    Connected,
    NewComment,
    CommentEdited,
    CommentDeleted,
    CommentsClosed,
    UserTyping,
    Mention,
    Problem,
    Pong,
    Heartbeat,
)
FROM_CLIENT = (Typing, Ping)
