"""Putting a message at the end of a thread: rendered, numbered, counted, and read by its author."""

from __future__ import annotations

import datetime
import json

from sqlalchemy import case
from sqlalchemy.ext.asyncio import AsyncSession

from encore.accounts.models import User
from encore.db import now
from encore.errors import BadRequest
from encore.forum.models import ForumMessage, ReadPosition, Thread
from encore.forum.notification_upsert import inserting
from encore.text.markdown import render

__all__ = ["add_message", "rendered", "set_read"]

MOST_BYTES = 128 * 1024
"""Of a message and its HTML together, as JSON: a message of the channel may have 256 KiB."""


def rendered(content: str, *, author: User) -> str:
    """The safe HTML of a message: make it before anything is locked. Raises BadRequest when it is too large.

    @everyone of the staff is marked, of others it is a word.
    """
    html = render(content, marks_everyone=author.is_staff)
    if len(json.dumps([content, html])) > MOST_BYTES:
        raise BadRequest("this comes out too large: use less formatting, or write two messages", code="too_large")
    return html


async def add_message(
    session: AsyncSession,
    thread: Thread,
    *,
    author: User,
    content: str,
    html: str,
    reply_to_id: int | None = None,
    at: datetime.datetime | None = None,
) -> ForumMessage:
    """A new message at the end of a thread that is locked. Its people are not loaded."""
    at = at or now()
    thread.last_number += 1
    thread.message_count += 1
    thread.revision += 1
    thread.last_message_at = at
    thread.last_message_user_id = author.id
    message = ForumMessage(
        thread_id=thread.id,
        number=thread.last_number,
        author_id=author.id,
        content=content,
        content_html=html,
        reply_to_id=reply_to_id,
        created_at=at,
    )
    session.add(message)
    await session.flush()
    await set_read(session, user_id=author.id, thread_id=thread.id, number=message.number)
    return message


async def set_read(session: AsyncSession, *, user_id: int, thread_id: int, number: int) -> int:
    """Somebody has read a thread up to this number; never goes back. Returns how far they have read it now."""
    statement = inserting(session, ReadPosition).values(
        user_id=user_id, thread_id=thread_id, number=number, updated_at=now()
    )
    new = statement.excluded
    statement = statement.on_conflict_do_update(
        index_elements=[ReadPosition.user_id, ReadPosition.thread_id],
        set_={
            "number": case((new.number > ReadPosition.number, new.number), else_=ReadPosition.number),
            "updated_at": new.updated_at,
        },
    )
    return int((await session.execute(statement.returning(ReadPosition.number))).scalar_one())
