"""What the people of the demonstration said, asked for and listened to: through the services that everybody uses."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from encore.accounts.models import User
from encore.book_requests import decisions
from encore.book_requests import service as requests
from encore.book_requests.models import BookRequest, RequestEvent
from encore.book_requests.schemas import Decision, NewRequest
from encore.broadcasts import service as broadcasts
from encore.broadcasts.models import Broadcast
from encore.broadcasts.schemas import NewBroadcastBody
from encore.catalogue import service as catalogue
from encore.catalogue.models import Track
from encore.comments import service as comments
from encore.comments.models import Comment
from encore.db import Model, now
from encore.forum import follow_service, like_service, message_service, moderation_service, thread_service
from encore.forum.models import ForumMessage
from encore.forum.notification_models import Notification
from encore.seeding.texts import BROADCASTS, COMMENTS, LISTENED, REQUESTS, THREADS, Said, Thread

__all__ = ["seed_conversation"]

People = Mapping[str, User]
ANSWER_EVERY = datetime.timedelta(minutes=95)
ALONE = {"synchronize_session": False}


async def seed_conversation(session: AsyncSession, people: People, tracks: Mapping[str, Track]) -> None:
    """Everything but the people and their music. In the one unit of work that the caller throws away if it fails."""
    moment = now()
    await _seed_comments(session, people, tracks, moment)
    await _seed_listening(session, people, tracks)
    for thread in THREADS:
        await _seed_thread(session, people, thread, moment)
    written_at = select(ForumMessage.created_at).where(ForumMessage.id == Notification.message_id).scalar_subquery()
    await session.execute(update(Notification).values(created_at=written_at), execution_options=ALONE)
    await _seed_requests(session, people, tracks, moment)
    await _seed_broadcasts(session, people, moment)


async def _seed_comments(
    session: AsyncSession, people: People, tracks: Mapping[str, Track], moment: datetime.datetime
) -> None:
    for title, said in COMMENTS.items():
        track = tracks[title]
        ids: list[int] = []
        for number, remark in enumerate(said):
            comment = await comments.create(
                session,
                people[remark.by],
                track_id=track.id,
                content=remark.text,
                at_s=round(track.duration_s * remark.at, 1),
                parent_id=None if remark.answers is None else ids[remark.answers],
            )
            ids.append(comment.id)
            at = moment - datetime.timedelta(hours=40 - 7 * number, minutes=11 * len(title))
            await _date(session, Comment, comment.id, created_at=at)


async def _seed_listening(session: AsyncSession, people: People, tracks: Mapping[str, Track]) -> None:
    for title, (listeners, stopped) in LISTENED.items():
        track = tracks[title]
        for name in listeners:
            await catalogue.count_play(session, people[name], track.id)
        for name, share in stopped.items():
            await catalogue.keep_position(session, people[name], track.id, round(track.duration_s * share, 1))


async def _seed_thread(session: AsyncSession, people: People, plan: Thread, moment: datetime.datetime) -> None:
    at = moment - datetime.timedelta(hours=plan.hours_ago)
    started = await thread_service.create_thread(
        session,
        author=people[plan.first.by],
        title=plan.title,
        content=plan.first.text,
        is_private=bool(plan.members),
        member_ids=[people[name].id for name in plan.members],
        at=at,
    )
    thread_id = started.thread.id
    ids = [started.message.id]
    await _like(session, people, plan.first, ids[0])
    step = min(ANSWER_EVERY, (moment - at) / (len(plan.answers) + 2))
    for number, said in enumerate(plan.answers, start=1):
        message = await message_service.post_message(
            session,
            author=people[said.by],
            thread_id=thread_id,
            content=said.text,
            reply_to_id=None if said.answers is None else ids[said.answers],
            at=at + step * number,
        )
        ids.append(message.id)
        await _like(session, people, said, message.id)
    if plan.aside is not None:
        place, title, aside = plan.aside
        await thread_service.create_sub_thread(
            session,
            author=people[aside.by],
            title=title,
            content=aside.text,
            parent_message_id=ids[place],
            at=at + step * (len(plan.answers) + 1),
        )
    for name in plan.followers:
        await follow_service.follow(session, thread_id, user=people[name])
    for name in plan.readers:
        await thread_service.mark_read(session, reader=people[name], thread_id=thread_id, number=None)
    if plan.is_pinned:
        await moderation_service.set_pinned(session, moderator=people["ada"], thread_id=thread_id, is_pinned=True)


async def _like(session: AsyncSession, people: People, said: Said, message_id: int) -> None:
    for name in said.liked_by:
        await like_service.like_message(session, liker=people[name], message_id=message_id)


async def _seed_requests(
    session: AsyncSession, people: People, tracks: Mapping[str, Track], moment: datetime.datetime
) -> None:
    for plan in REQUESTS:
        new = NewRequest(title=plan.title, author=plan.author, note=plan.note)
        request = await requests.ask(session, people[plan.by], new)
        request_id = request.id
        for name in plan.voters:
            await requests.vote(session, people[name], request_id)
        for status, reason in plan.decisions:
            album_id = tracks[plan.given].album_id if status == "fulfilled" else None
            decision = Decision(status=status, reason=reason, album_id=album_id)
            await decisions.decide(session, people["ada"], request_id, decision)
        asked_at = moment - datetime.timedelta(hours=plan.hours_ago)
        decided_at = asked_at + datetime.timedelta(hours=plan.hours_ago * 0.6 if plan.decisions else 0)
        await _date(session, BookRequest, request_id, created_at=asked_at, updated_at=decided_at)
        is_its = RequestEvent.request_id == request_id
        await session.execute(update(RequestEvent).where(is_its).values(created_at=decided_at), execution_options=ALONE)
        is_first = is_its & (RequestEvent.kind == "created")
        await session.execute(update(RequestEvent).where(is_first).values(created_at=asked_at), execution_options=ALONE)


async def _seed_broadcasts(session: AsyncSession, people: People, moment: datetime.datetime) -> None:
    """A history, the last of which is still to be read by some."""
    earlier: int | None = None
    for plan in BROADCASTS:
        author = people[plan.by]
        broadcast, _ = await broadcasts.create(session, author, NewBroadcastBody(message=plan.text, type=plan.type))
        await session.flush()
        for name in plan.read_by:
            person = people[name]
            await broadcasts.acknowledge(session, user_id=person.id, roles=person.roles, broadcast_id=broadcast.id)
        sent_at = moment - datetime.timedelta(hours=plan.hours_ago)
        values: dict[str, Any] = {"created_at": sent_at, "sent_at": sent_at, "reached": len(people)}
        await _date(session, Broadcast, broadcast.id, **values)
        if earlier is not None:
            await _date(session, Broadcast, earlier, ended_at=sent_at)
        earlier = broadcast.id


async def _date(session: AsyncSession, table: type[Model], row_id: int, **values: Any) -> None:
    """Let it have happened at another time than now."""
    statement = update(table).where(table.id == row_id)  # type: ignore[attr-defined]  # all of them have one
    await session.execute(statement.values(**values), execution_options=ALONE)
