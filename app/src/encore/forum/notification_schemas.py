"""What the REST routes of notifications, follows and member completion take and give."""

from __future__ import annotations

import datetime

from pydantic import BaseModel, ConfigDict, Field

from encore.forum.notification_messages import NotificationContent
from encore.forum.notification_models import NotificationPreferences

__all__ = ["FollowItem", "FollowState", "NotificationItem", "Person", "Preferences", "Unread"]


class NotificationItem(NotificationContent):
    """A notification in the list."""

    is_read: bool
    read_at: datetime.datetime | None


class Unread(BaseModel):
    """How many notifications are unread."""

    count: int
    version: int = Field(description="Of two counts the one with the higher version holds")


class Preferences(BaseModel):
    """What one wants to be told, kind by kind."""

    model_config = ConfigDict(extra="forbid")

    mention: bool = Field(description="Somebody wrote @name")
    reply: bool = Field(description="Somebody answered one's message")
    follow: bool = Field(description="There is a new message in a thread that one follows")
    everyone: bool = Field(description="One of the staff wrote @everyone")
    like: bool = Field(description="Somebody likes one's message")
    everyone_muted: bool = Field(description="@everyone is listed and counted, and not pushed")

    @classmethod
    def of(cls, row: NotificationPreferences | None) -> Preferences:
        """Of a row; without one everything is on."""
        values = {name: getattr(row, name, name != "everyone_muted") for name in cls.model_fields}
        return cls.model_validate(values)


class FollowState(BaseModel):
    thread_id: int
    is_following: bool


class FollowItem(BaseModel):
    """A thread that one follows."""

    thread_id: int
    title: str
    followed_at: datetime.datetime


class Person(BaseModel):
    """Somebody whom one may mention."""

    user_id: int
    username: str
    display_name: str
