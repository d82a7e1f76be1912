"""What the REST routes of comments take and give."""

from __future__ import annotations

import datetime
from typing import Annotated

from pydantic import BaseModel, Field

from encore.comments.models import Comment
from encore.text.fields import prose

__all__ = ["Closing", "CommentData", "Content", "Edited"]

Content = Annotated[str, prose(max_length=2_000)]


class CommentData(BaseModel):
    """A comment, as messages and answers carry it."""

    id: int
    track_id: int
    user_id: int
    username: str
    display_name: str
    content: str = Field(description="Plain text: no markup")
    timestamp: float = Field(description="Seconds into the track")
    parent_id: int | None = Field(description="The comment that it replies to; null when that was deleted")
    created_at: datetime.datetime
    is_edited: bool
    last_edited_at: datetime.datetime | None

    @classmethod
    def of(cls, comment: Comment, *, username: str, display_name: str) -> CommentData:
        return cls(
            id=comment.id,
            track_id=comment.track_id,
            user_id=comment.user_id,
            username=username,
            display_name=display_name or username,
            content=comment.content,
            timestamp=comment.at_s,
            parent_id=comment.parent_id,
            created_at=comment.created_at,
            is_edited=comment.last_edited_at is not None,
            last_edited_at=comment.last_edited_at,
        )


class Closing(BaseModel):
    """Whether a track's comments are closed; creators, the team and admins comment all the same."""

    closed: bool


class Edited(BaseModel):
    """The new text of a comment."""

    content: Content
