"""Reading the forum: threads, messages, who likes what. Every page costs the same number of queries."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Literal, TypeVarTuple

from sqlalchemy import Select, literal, select, tuple_, union_all
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload

from encore.accounts.models import User
from encore.db import BigId, UtcTime
from encore.forum import follow_service
from encore.forum.access import readable_message, readable_thread
from encore.forum.models import ForumMessage, Like, MessageEdit, ReadPosition, Thread, ThreadMember
from encore.forum.schemas import EditItem, MessageItem, MessagePlace, PersonItem, ThreadItem
from encore.pagination import Page, cut, read_cursor

__all__ = [
    "Order",
    "get_thread",
    "item_of",
    "list_edits",
    "list_likers",
    "list_messages",
    "list_sub_threads",
    "list_threads",
    "message_item",
    "place_of_message",
]

Row = TypeVarTuple("Row")
Order = Literal["asc", "desc"]
MOST_NUMBER = 2**31 - 1
BEFORE = 5
"""Messages that are shown before the one that a link leads to."""
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
MICROSECOND = datetime.timedelta(microseconds=1)

_people = (joinedload(Thread.author), joinedload(Thread.last_message_user))
_shown = (joinedload(ForumMessage.author), joinedload(ForumMessage.reply_to).joinedload(ForumMessage.author))


# -- threads -----------------------------------------------------------------------------------------------------------


async def list_threads(
    session: AsyncSession, *, reader: User | None, limit: int, cursor: str | None
) -> Page[ThreadItem]:
    """The index: pinned threads first, then by their last message; private ones only for their members."""
    key = read_cursor(cursor, int, int, int)
    public = select(Thread.id).where(Thread.is_sub_thread == False, Thread.is_private == False)  # noqa: E712 - SQL
    # Each part walks one index as far as the page needs; a condition with OR would walk all threads.
    parts = [_index_page(public, key, limit)]
    if reader is not None:
        private = (
            select(Thread.id)
            .join(ThreadMember, ThreadMember.thread_id == Thread.id)
            .where(ThreadMember.user_id == reader.id)
        )
        parts.append(_index_page(private, key, limit))
    ids = union_all(*(select(part.subquery().c.id) for part in parts)).subquery()
    query = select(Thread).where(Thread.id.in_(select(ids.c.id))).options(*_people)
    rows = (await session.execute(_by_activity(query).limit(limit + 1))).scalars().all()
    shown, next_cursor = cut(rows, limit=limit, key=_index_key)
    return Page(items=await _items(session, shown, reader=reader), next_cursor=next_cursor)


def _index_page(query: Select[int], key: list[int | float | str] | None, limit: int) -> Select[int]:
    if key is not None:
        pinned, microseconds, id = key
        at = _moment(int(microseconds))
        before = tuple_(literal(bool(pinned)), literal(at, UtcTime()), literal(id, BigId))
        query = query.where(tuple_(Thread.is_pinned, Thread.last_message_at, Thread.id) < before)
    return _by_activity(query).limit(limit + 1)


def _by_activity(query: Select[*Row]) -> Select[*Row]:
    return query.order_by(Thread.is_pinned.desc(), Thread.last_message_at.desc(), Thread.id.desc())


def _index_key(thread: Thread) -> Sequence[int]:
    return int(thread.is_pinned), (thread.last_message_at - EPOCH) // MICROSECOND, thread.id


def _moment(microseconds: int) -> datetime.datetime:
    try:
        return EPOCH + microseconds * MICROSECOND
    except OverflowError:  # made up: there is nothing before it
        return EPOCH


async def list_sub_threads(
    session: AsyncSession,
    *,
    reader: User | None,
    thread_id: int | None = None,
    message_id: int | None = None,
    limit: int,
    cursor: str | None,
) -> Page[ThreadItem]:
    """The sub-threads of a thread, or of one message, oldest first. Raises NotFound."""
    key = read_cursor(cursor, int)
    query = select(Thread).options(*_people).order_by(Thread.id).limit(limit + 1)
    if message_id is not None:
        await readable_message(session, message_id, reader=reader)
        query = query.where(Thread.parent_message_id == message_id)
    elif thread_id is not None:
        await readable_thread(session, thread_id, reader=reader)
        query = query.where(Thread.parent_thread_id == thread_id)
    if key is not None:
        query = query.where(Thread.id > key[0])
    shown, next_cursor = cut((await session.execute(query)).scalars().all(), limit=limit, key=lambda row: [row.id])
    return Page(items=await _items(session, shown, reader=reader), next_cursor=next_cursor)


async def get_thread(session: AsyncSession, *, reader: User | None, thread_id: int) -> ThreadItem:
    """One thread. Raises NotFound."""
    return await item_of(session, await readable_thread(session, thread_id, reader=reader), reader=reader)


async def item_of(session: AsyncSession, thread: Thread, *, reader: User | None) -> ThreadItem:
    """A thread with its people, for this reader."""
    return (await _items(session, [thread], reader=reader))[0]


async def _items(session: AsyncSession, threads: Sequence[Thread], *, reader: User | None) -> list[ThreadItem]:
    if reader is None or not threads:
        return [ThreadItem.for_reader(thread, read_number=None, is_following=False) for thread in threads]
    ids = [thread.id for thread in threads]
    positions = select(ReadPosition.thread_id, ReadPosition.number).where(
        ReadPosition.user_id == reader.id, ReadPosition.thread_id.in_(ids)
    )
    read = {row.thread_id: row.number for row in await session.execute(positions)}
    followed = await follow_service.followed(session, user_id=reader.id, thread_ids=ids)
    return [
        ThreadItem.for_reader(thread, read_number=read.get(thread.id, 0), is_following=thread.id in followed)
        for thread in threads
    ]


# -- messages ----------------------------------------------------------------------------------------------------------


async def list_messages(
    session: AsyncSession,
    *,
    reader: User | None,
    thread_id: int,
    from_number: int | None,
    order: Order,
    limit: int,
    cursor: str | None,
) -> Page[MessageItem]:
    """The messages of a thread by number, removed ones too; from a number on, upwards or downwards. Raises NotFound."""
    key = read_cursor(cursor, int)
    behind = None if key is None else max(0, min(int(key[0]), MOST_NUMBER))
    await readable_thread(session, thread_id, reader=reader)
    query = select(ForumMessage).where(ForumMessage.thread_id == thread_id).options(*_shown).limit(limit + 1)
    number = ForumMessage.number
    if order == "asc":
        query = query.order_by(number)
        if behind is not None:
            query = query.where(number > behind)
        elif from_number is not None:
            query = query.where(number >= from_number)
    else:
        query = query.order_by(number.desc())
        if behind is not None:
            query = query.where(number < behind)
        elif from_number is not None:
            query = query.where(number <= from_number)
    rows = (await session.execute(query)).scalars().all()
    shown, next_cursor = cut(rows, limit=limit, key=lambda row: [row.number])
    return Page(items=await _liked(session, shown, reader=reader), next_cursor=next_cursor)


async def place_of_message(session: AsyncSession, *, reader: User | None, message_id: int) -> MessagePlace:
    """A message, its thread, and where in it: for links. Raises NotFound."""
    message = await readable_message(session, message_id, reader=reader)
    thread = await get_thread(session, reader=reader, thread_id=message.thread_id)
    items = await _liked(session, [message], reader=reader)
    return MessagePlace(message=items[0], thread=thread, from_number=max(1, message.number - BEFORE))


async def message_item(session: AsyncSession, message: ForumMessage, *, reader: User) -> MessageItem:
    """A message with its people, for this reader."""
    return (await _liked(session, [message], reader=reader))[0]


async def _liked(session: AsyncSession, messages: Sequence[ForumMessage], *, reader: User | None) -> list[MessageItem]:
    liked: set[int] = set()
    if reader is not None and messages:
        ids = [message.id for message in messages]
        query = select(Like.message_id).where(Like.user_id == reader.id, Like.message_id.in_(ids))
        liked = set((await session.execute(query)).scalars())
    return [MessageItem.for_reader(message, is_liked=message.id in liked) for message in messages]


async def list_likers(
    session: AsyncSession, *, reader: User | None, message_id: int, limit: int, cursor: str | None
) -> Page[PersonItem]:
    """Who likes a message, the latest first. Raises NotFound."""
    key = read_cursor(cursor, int)
    await readable_message(session, message_id, reader=reader)
    query = (
        select(Like)
        .where(Like.message_id == message_id)
        .options(joinedload(Like.user))
        .order_by(Like.id.desc())
        .limit(limit + 1)
    )
    if key is not None:
        query = query.where(Like.id < key[0])
    shown, next_cursor = cut((await session.execute(query)).scalars().all(), limit=limit, key=lambda row: [row.id])
    return Page(items=[PersonItem.of(like.user, like.created_at) for like in shown], next_cursor=next_cursor)


async def list_edits(
    session: AsyncSession, *, reader: User | None, message_id: int, limit: int, cursor: str | None
) -> Page[EditItem]:
    """What a message said before, the latest first; nothing once it is removed. Raises NotFound."""
    key = read_cursor(cursor, int)
    await readable_message(session, message_id, reader=reader)
    query = select(MessageEdit).where(MessageEdit.message_id == message_id).order_by(MessageEdit.id.desc())
    if key is not None:
        query = query.where(MessageEdit.id < key[0])
    rows = (await session.execute(query.limit(limit + 1))).scalars().all()
    shown, next_cursor = cut(rows, limit=limit, key=lambda row: [row.id])
    return Page(items=[EditItem.of(edit) for edit in shown], next_cursor=next_cursor)
