"""What the forum's sockets say about notifications and @everyone."""

from __future__ import annotations

import datetime
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from encore.live import ServerMessage

__all__ = [
    "FROM_SERVER",
    "EveryoneMentionDisabled",
    "EveryoneMentionEnabled",
    "ForumNotification",
    "ForumNotificationCount",
    "Kind",
    "NotificationContent",
]


class Kind(StrEnum):
    """Why somebody is told of something. Of several reasons for one message the first of these counts."""

    MENTION = "mention"
    """Somebody wrote @name."""
    REPLY = "reply"
    """Somebody answered one's message."""
    FOLLOW = "follow"
    """There is a new message in a thread that one follows."""
    EVERYONE = "everyone"
    """One of the staff wrote @everyone."""
    LIKE = "like"
    """Somebody likes one's message."""


class NotificationContent(BaseModel):
    """A notification as the list and the sockets show it. All who get the same one share its id."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: int
    type: Kind
    title: str = Field(description="A line for people, as: ann mentioned you in “Recordings”")
    content: str = Field(description="The beginning of the message, as plain text")
    thread_id: int
    message_id: int
    thread_title: str
    from_user_id: int | None = Field(description="Who caused it; null when the account is gone")
    from_username: str
    created_at: datetime.datetime


class ForumNotification(ServerMessage):
    """To those who are notified. Who muted @everyone gets only the new count for it."""

    type: Literal["forum_notification"] = "forum_notification"
    notification: NotificationContent


class ForumNotificationCount(ServerMessage):
    """To one user: how many notifications are unread, after anything that changed it."""

    type: Literal["forum_notification_count"] = "forum_notification_count"
    count: int
    version: int = Field(description="Grows with each change: of two counts the one with the higher version holds")
    read_ids: list[int] = Field(default=[], description="Notifications that were just read, the newest 500 of them")
    removed_ids: list[int] = Field(default=[], description="Notifications that are gone, the newest 500 of them")


class EveryoneMentionDisabled(ServerMessage):
    """To everyone: @everyone notifies nobody from now on."""

    type: Literal["everyone_mention_disabled"] = "everyone_mention_disabled"
    message: str


class EveryoneMentionEnabled(ServerMessage):
    """To everyone: @everyone works again."""

    type: Literal["everyone_mention_enabled"] = "everyone_mention_enabled"
    message: str


FROM_SERVER: tuple[type[ServerMessage], ...] = (
    ForumNotification,
    ForumNotificationCount,
    EveryoneMentionDisabled,
    EveryoneMentionEnabled,
)
