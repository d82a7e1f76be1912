"""Full-text search: messages, or threads by their titles, that have all of the words. The newest first.

SQLite's FTS5 or PostgreSQL's text search find them by index; what the asker may not read is never among them.
"""

from __future__ import annotations

import re
from typing import Literal, TypeVarTuple

from sqlalchemy import ColumnElement, Integer, Select, String, column, func, literal_column, select, table
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute, joinedload

from encore.accounts.models import User
from encore.errors import BadRequest
from encore.forum.access import readable
from encore.forum.models import ForumMessage, Thread
from encore.forum.schemas import SearchHit
from encore.pagination import Page, cut, read_cursor

__all__ = ["QUERY_CHARACTERS", "What", "search", "words_of"]

Row = TypeVarTuple("Row")
What = Literal["messages", "titles"]
QUERY_CHARACTERS = 200
MOST_WORDS = 8
AROUND = 80
"""Characters of a message that are shown before the first word found; twice as many behind it."""

_WORD = re.compile(r"[^\W_]+")


def words_of(query: str) -> list[str]:
    """The words that are looked for; nothing in them means anything to the database. It folds the case itself."""
    return list(dict.fromkeys(_WORD.findall(query)))[:MOST_WORDS]


async def search(
    session: AsyncSession, *, reader: User | None, query: str, what: What, limit: int, cursor: str | None
) -> Page[SearchHit]:
    """What has all of the words, or words that begin with them. Raises BadRequest where there is no word."""
    key = read_cursor(cursor, int)
    words = words_of(query)
    if not words:
        raise BadRequest("q= has no word in it", code="no_words")
    reader_id = None if reader is None else reader.id
    if what == "messages":
        return await _messages(session, words, reader_id=reader_id, limit=limit, key=key)
    return await _titles(session, words, reader_id=reader_id, limit=limit, key=key)


async def _messages(
    session: AsyncSession, words: list[str], *, reader_id: int | None, limit: int, key: list[int | float | str] | None
) -> Page[SearchHit]:
    query = (
        select(ForumMessage, Thread.title)
        .join(Thread, Thread.id == ForumMessage.thread_id)
        .where(readable(reader_id))
        .options(joinedload(ForumMessage.author))
    )
    page = _newest(
        session,
        query,
        words,
        ForumMessage.id,
        ForumMessage.content,
        index="forum_message_search",
        key=key,
        limit=limit,
    )
    rows = (await session.execute(page)).all()
    shown, next_cursor = cut(rows, limit=limit, key=lambda row: [row[0].id])
    hits = [
        SearchHit(
            thread_id=message.thread_id,
            title=title,
            message_id=message.id,
            number=message.number,
            user_id=message.author_id,
            username=message.author.username,
            created_at=message.created_at,
            excerpt=_around(message.content, words),
        )
        for message, title in shown
    ]
    return Page(items=hits, next_cursor=next_cursor)


async def _titles(
    session: AsyncSession, words: list[str], *, reader_id: int | None, limit: int, key: list[int | float | str] | None
) -> Page[SearchHit]:
    query = select(Thread).where(readable(reader_id)).options(joinedload(Thread.author))
    page = _newest(session, query, words, Thread.id, Thread.title, index="forum_thread_search", key=key, limit=limit)
    rows = (await session.execute(page)).scalars().all()
    shown, next_cursor = cut(rows, limit=limit, key=lambda row: [row.id])
    hits = [
        SearchHit(
            thread_id=thread.id,
            title=thread.title,
            message_id=None,
            number=None,
            user_id=thread.author_id,
            username=thread.author.username,
            created_at=thread.created_at,
            excerpt=_around(thread.title, words),
        )
        for thread in shown
    ]
    return Page(items=hits, next_cursor=next_cursor)


def _newest(
    session: AsyncSession,
    query: Select[*Row],
    words: list[str],
    id: InstrumentedAttribute[int],
    text: InstrumentedAttribute[str],
    *,
    index: str,
    key: list[int | float | str] | None,
    limit: int,
) -> Select[*Row]:
    """The page of the query's rows that have all of the words. They go to the database as a parameter."""
    found: ColumnElement[int]
    if session.get_bind().dialect.name == "sqlite":
        match = table(index, column("rowid", Integer), column(index, String))
        phrase = " ".join(f'"{word}"*' for word in words)
        query = query.join(match, match.c.rowid == id).where(match.c[index].op("MATCH")(phrase))
        found = match.c.rowid  # FTS5 gives them in this order by itself
    else:
        simple: ColumnElement[str] = literal_column("'simple'")  # as the index has it, or it does not fit
        phrase = " & ".join(f"'{word}':*" for word in words)
        vector = func.to_tsvector(simple, text)
        matches = select(id.label("id")).where(vector.op("@@")(func.to_tsquery(simple, phrase)))
        # Left to itself it walks all messages by id when it takes the words for common ones.
        match_ids = matches.cte("found").prefix_with("MATERIALIZED", dialect="postgresql")
        query = query.join(match_ids, match_ids.c.id == id)
        found = match_ids.c.id
    if key is not None:
        query = query.where(found < key[0])
    return query.order_by(found.desc()).limit(limit + 1)


def _around(content: str, words: list[str]) -> str:
    """A piece of the text, on one line, from a little before the first of the words."""
    lower = content.lower()
    places = [at for word in words if (at := lower.find(word.lower())) >= 0]
    begin = max(0, min(places, default=0) - AROUND)
    piece = content[begin : begin + 3 * AROUND]
    return ("…" if begin else "") + " ".join(piece.split()) + ("…" if begin + 3 * AROUND < len(content) else "")
