"""Who is told of something that happened in the forum: finding them, storing it, pushing it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, exists, func, insert, literal, select, true, union_all
from sqlalchemy.ext.asyncio import AsyncSession

from encore.accounts.models import User
from encore.db import BigId, now
from encore.forum.channel import manager
from encore.forum.notification_counts import batches, hold, tell_counts
from encore.forum.notification_messages import ForumNotification, Kind, NotificationContent
from encore.forum.notification_models import Follow, Notification, NotificationPreferences, Recipient
from encore.forum.schemas import excerpt
from encore.live import announce

__all__ = ["Happening", "deliver", "reasons_for", "title_of", "wants"]

_TITLES = {
    Kind.MENTION: "{name} mentioned you in “{thread}”",
    Kind.REPLY: "{name} answered you in “{thread}”",
    Kind.FOLLOW: "{name} wrote in “{thread}”",
    Kind.EVERYONE: "{name} wrote to everyone in “{thread}”",
    Kind.LIKE: "{name} likes your message in “{thread}”",
}


@dataclass(frozen=True, slots=True)
class Happening:
    """A message, or a like of one, that people may want to know of."""

    author: User
    thread_id: int
    title: str
    message_id: int
    text: str
    visible_to: Collection[int] | None
    """Nobody else may learn of it; None: it is public."""


def title_of(kind: Kind, *, name: str, thread: str) -> str:
    """The line that a notification is headed by."""
    return _TITLES[kind].format(name=name, thread=thread)


async def reasons_for(
    session: AsyncSession,
    happening: Happening,
    *,
    usernames: Collection[str] = (),
    reply_to_user_id: int | None = None,
    follows: bool = False,
) -> dict[int, Kind]:
    """Whom to tell, and why: the first of mention, reply and follow that holds and that the person wants.

    One query, which goes by the names, the author of what is answered, and the followers; never over all users.
    """
    sources = [select(User.id.label("id")).where(User.username_key.in_(usernames))]
    if reply_to_user_id is not None:
        sources.append(select(literal(reply_to_user_id, BigId).label("id")))
    if follows:
        sources.append(select(Follow.user_id.label("id")).where(Follow.thread_id == happening.thread_id))
    candidates = union_all(*sources).subquery()
    query = (
        select(User.id, User.username_key, Follow.user_id.is_not(None), NotificationPreferences)
        .outerjoin(Follow, and_(Follow.user_id == User.id, Follow.thread_id == happening.thread_id))
        .outerjoin(NotificationPreferences, NotificationPreferences.user_id == User.id)
        .where(User.id.in_(select(candidates.c.id)), _may_be_told(happening))
    )
    reasons: dict[int, Kind] = {}
    for user_id, username, is_follower, preferences in await session.execute(query):
        holds = {
            Kind.MENTION: username in usernames,
            Kind.REPLY: user_id == reply_to_user_id,
            Kind.FOLLOW: follows and is_follower,
        }
        kind = next((kind for kind, does in holds.items() if does and wants(preferences, kind)), None)
        if kind is not None and (happening.visible_to is None or user_id in happening.visible_to):
            reasons[user_id] = kind
    return reasons


def wants(preferences: NotificationPreferences | None, kind: Kind) -> bool:
    """Whether somebody with these preferences wants to be told of this kind."""
    return preferences is None or bool(getattr(preferences, kind.value))


async def deliver(
    session: AsyncSession, happening: Happening, reasons: Mapping[int, Kind], *, everyone: bool = False
) -> None:
    """Store the notifications, and announce them and the new counts to those whom they are for.

    With `everyone` all others are told too who may see it and want to know: however many they are, it takes a handful
    of statements and messages.
    """
    users_by_kind: defaultdict[Kind, list[int]] = defaultdict(list)
    for user_id, kind in reasons.items():
        users_by_kind[kind].append(user_id)
    stored: list[tuple[Notification, list[int]]] = []
    for kind, user_ids in users_by_kind.items():
        notification = await _store(session, happening, kind)
        rows = [{"user_id": user_id, "notification_id": notification.id, "kind": kind} for user_id in user_ids]
        await session.execute(insert(Recipient), rows)
        stored.append((notification, user_ids))
    if everyone and (notification_for_all := await _store_for_everyone(session, happening)) is not None:
        stored.append((notification_for_all, await _not_muted(session, notification_for_all)))
    if not stored:
        return
    ids = [notification.id for notification, _ in stored]
    held = await hold(session, select(Recipient.user_id).where(Recipient.notification_id.in_(ids)))
    for notification, user_ids in stored:
        message = ForumNotification(notification=_content(notification, happening))
        for batch in batches(user_ids):
            announce(session, manager, message, target_user_ids=map(str, batch))
    await tell_counts(session, held)


async def _store(session: AsyncSession, happening: Happening, kind: Kind) -> Notification:
    notification = Notification(
        kind=kind,
        message_id=happening.message_id,
        from_user_id=happening.author.id,
        created_at=now(),
    )
    session.add(notification)
    await session.flush()
    return notification


async def _store_for_everyone(session: AsyncSession, happening: Happening) -> Notification | None:
    """For all who are not told already, in one statement; None when there is nobody."""
    notification = await _store(session, happening, Kind.EVERYONE)
    wanted = func.coalesce(NotificationPreferences.everyone, true())
    chosen = (
        select(User.id, literal(notification.id, BigId), literal(Kind.EVERYONE.value))
        .outerjoin(NotificationPreferences, NotificationPreferences.user_id == User.id)
        .where(_may_be_told(happening), wanted)
    )
    if happening.visible_to is not None:
        chosen = chosen.where(User.id.in_(happening.visible_to))
    await session.execute(insert(Recipient).from_select(["user_id", "notification_id", "kind"], chosen))
    anybody = select(Recipient.user_id).where(Recipient.notification_id == notification.id).limit(1)
    if (await session.execute(anybody)).first() is not None:
        return notification
    await session.delete(notification)
    await session.flush()
    return None


async def _not_muted(session: AsyncSession, notification: Notification) -> list[int]:
    muted = exists().where(
        NotificationPreferences.user_id == Recipient.user_id, NotificationPreferences.everyone_muted.is_(True)
    )
    query = select(Recipient.user_id).where(Recipient.notification_id == notification.id, ~muted)
    return list((await session.execute(query)).scalars())


def _may_be_told(happening: Happening) -> ColumnElement[bool]:
    """Not the author, nobody who is banned, and nobody who has been told of this message for another reason."""
    of_this = select(Notification.id).where(
        Notification.message_id == happening.message_id, Notification.kind != Kind.LIKE
    )
    told = exists().where(Recipient.user_id == User.id, Recipient.notification_id.in_(of_this))
    return and_(User.id != happening.author.id, User.is_banned.is_(False), ~told)


def _content(notification: Notification, happening: Happening) -> NotificationContent:
    kind, name = Kind(notification.kind), happening.author.username
    return NotificationContent(
        id=notification.id,
        type=kind,
        title=title_of(kind, name=name, thread=happening.title),
        content=excerpt(happening.text),
        thread_id=happening.thread_id,
        message_id=happening.message_id,
        thread_title=happening.title,
        from_user_id=happening.author.id,
        from_username=name,
        created_at=notification.created_at,
    )
