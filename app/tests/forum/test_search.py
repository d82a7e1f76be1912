"""Full-text search: it finds what is there, for those who may read it, whatever they type."""

from __future__ import annotations

from functools import partial

import pytest
from forum.scene import begin, do, people, say

from encore.accounts.models import User
from encore.db import Database
from encore.errors import BadRequest
from encore.forum import message_service, thread_service
from encore.forum.search import MOST_WORDS, search, words_of

HOSTILE = (
    "x' OR 1=1 --",
    "'; DROP TABLE forum_messages; --",
    '" OR content:* NOT "',
    "content : banana",
    "NEAR(banana split, 3)",
    "banana AND (",
    "ban* OR ^first",
    "\\' & !x | (y)",
    "%_%",
    "'x':* & 'y",
    "x\u0000y",
    "😀 banana",
)


async def found(database: Database, reader: User | None, query: str, what: str = "messages") -> list[int | None]:
    async with database.reading() as session:
        page = await search(
            session,
            reader=reader,
            query=query,
            what=what,  # type: ignore[arg-type]  # one of the two
            limit=100,
            cursor=None,
        )
    return [hit.message_id if what == "messages" else hit.thread_id for hit in page.items]


async def test_messages_are_found_by_all_words_and_their_beginnings(database: Database) -> None:
    ann, ben = await people(database, "ann", "ben")
    thread = (await begin(database, ann, title="Fruit bowl")).thread.id
    split = (await say(database, ann, thread, "A **banana** split, with cherries")).id
    bread = (await say(database, ben, thread, "Banana bread! Straße, ÉCLAIR, 東京")).id
    for query, ids in (
        ("banana", [bread, split]),
        ("BANANA split", [split]),
        ("split banana", [split]),
        ("ban", [bread, split]),
        ("anana", []),
        ("banana apple", []),
        ("éclair", [bread]),
        ("東京", [bread]),
        ("straße", [bread]),
        ("STRAS", []),
        ("first", [split - 1]),
        ("banana!!!", [bread, split]),
    ):
        assert await found(database, ben, query) == ids, query
        assert await found(database, None, query) == ids, query
    assert await found(database, ben, "bowl", "titles") == [thread]
    assert await found(database, ben, "banana", "titles") == []


async def test_what_was_changed_is_found_as_it_is_now(database: Database) -> None:
    (ann,) = await people(database, "ann")
    started = await begin(database, ann, title="Apples")
    thread, message = started.thread.id, started.message.id
    await do(database, partial(message_service.edit_message, editor=ann, message_id=message, content="cherries"))
    await do(database, partial(thread_service.rename_thread, actor=ann, thread_id=thread, title="Pears"))
    assert (await found(database, ann, "first"), await found(database, ann, "cherries")) == ([], [message])
    assert (await found(database, ann, "apples", "titles"), await found(database, ann, "pears", "titles")) == (
        [],
        [thread],
    )
    await do(database, partial(message_service.delete_message, actor=ann, message_id=message))
    assert await found(database, ann, "cherries") == []
    side = await do(
        database,
        partial(thread_service.create_sub_thread, author=ann, title="Side", content="plums", parent_thread_id=thread),
    )
    assert await found(database, ann, "plums") == [side.message.id]
    await do(database, partial(thread_service.delete_thread, actor=ann, thread_id=thread))
    assert (await found(database, ann, "plums"), await found(database, ann, "pears", "titles")) == ([], [])


async def test_what_is_private_is_found_by_its_members_alone(database: Database) -> None:
    ann, ben, ada = await people(database, "ann", "ben", ada="admin")
    private = await begin(database, ann, members=(ben,), title="A surprise")
    side = await do(
        database,
        partial(
            thread_service.create_sub_thread,
            author=ben,
            title="The surprise cake",
            content="first layer",
            parent_thread_id=private.thread.id,
        ),
    )
    messages, titles = [side.message.id, private.message.id], [side.thread.id, private.thread.id]
    for reader, is_member in ((ann, True), (ben, True), (ada, False), (None, False)):
        assert await found(database, reader, "first") == (messages if is_member else [])
        assert await found(database, reader, "surprise", "titles") == (titles if is_member else [])


@pytest.mark.parametrize("what", ["messages", "titles"])
async def test_what_is_typed_is_only_words_when_it_looks_like_a_query(database: Database, what: str) -> None:
    (ann,) = await people(database, "ann")
    thread = (await begin(database, ann, title="The banana")).thread.id
    message = (await say(database, ann, thread, "first banana")).id
    for query in HOSTILE:
        if words_of(query):
            assert await found(database, ann, query, what) in ([], [message], [thread])
    assert await found(database, ann, "😀 banana", what) == ([message] if what == "messages" else [thread])
    for query in ("***", "' \" --", "%_%", "😀"):
        with pytest.raises(BadRequest):
            await found(database, ann, query, what)
    assert len(words_of(" ".join(f"w{n}" for n in range(100)))) == MOST_WORDS


async def test_pages_of_hits_follow_one_another(database: Database) -> None:
    (ann,) = await people(database, "ann")
    thread = (await begin(database, ann)).thread.id
    ids = [(await say(database, ann, thread, f"banana number {n} " + "and so on " * 60)).id for n in range(5)]
    seen, cursor = [], None
    async with database.reading() as session:
        while True:
            page = await search(session, reader=ann, query="banana", what="messages", limit=2, cursor=cursor)
            seen += page.items
            cursor = page.next_cursor
            if cursor is None:
                break
    assert [hit.message_id for hit in seen] == ids[::-1]
    assert seen[0].excerpt.startswith("banana number 4")
    assert seen[0].excerpt.endswith("…")
    assert (seen[0].title, seen[0].username, seen[0].number) == ("A title", "ann", 6)
