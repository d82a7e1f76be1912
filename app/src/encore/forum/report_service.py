"""Reports: people tell the moderators about messages, and one moderator decides."""

from __future__ import annotations

from typing import Literal

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload

from encore.accounts.models import User
from encore.db import now
from encore.errors import BadRequest, Conflict, NotFound
from encore.forum.locks import locked_message, reported_message
from encore.forum.message_service import remove
from encore.forum.models import Report, ReportStatus
from encore.forum.notification_upsert import inserting
from encore.forum.schemas import ReportItem
from encore.pagination import Page, cut, read_cursor

__all__ = ["list_reports", "report_message", "resolve_report"]

_people = (joinedload(Report.author), joinedload(Report.reporter), joinedload(Report.resolved_by))


async def report_message(session: AsyncSession, *, reporter: User, message_id: int, reason: str) -> ReportItem:
    """Tell the moderators about a message, which they see even if it is private. Nobody else is told.

    Raises NotFound, BadRequest for one's own, and Conflict the second time and when it was removed.
    """
    message, _ = await locked_message(session, message_id, writer=reporter, hold="members")
    if message.author_id == reporter.id:
        raise BadRequest("this is your own message: you can remove it")
    if message.is_deleted:
        raise Conflict("this message was removed", code="message_removed")
    statement = inserting(session, Report).values(
        message_id=message_id,
        author_id=message.author_id,
        reporter_id=reporter.id,
        content=message.content,
        reason=reason,
        status=ReportStatus.OPEN,
        note="",
        created_at=now(),
    )
    added = await session.execute(statement.on_conflict_do_nothing().returning(Report.id))
    report_id = added.scalar_one_or_none()
    if report_id is None:
        raise Conflict("you have reported this message already", code="already_reported")
    return await _item(session, report_id)


async def list_reports(
    session: AsyncSession, *, status: Literal["open", "dismissed", "removed"], limit: int, cursor: str | None
) -> Page[ReportItem]:
    """Reports of one kind, the latest first. For moderators."""
    key = read_cursor(cursor, int)
    query = select(Report).where(Report.status == status).options(*_people).order_by(Report.id.desc()).limit(limit + 1)
    if key is not None:
        query = query.where(Report.id < key[0])
    shown, next_cursor = cut((await session.execute(query)).scalars().all(), limit=limit, key=lambda row: [row.id])
    return Page(items=[ReportItem.of(report) for report in shown], next_cursor=next_cursor)


async def resolve_report(
    session: AsyncSession, *, moderator: User, report_id: int, outcome: Literal["dismissed", "removed"], note: str
) -> ReportItem:
    """Decide; with "removed" the message is removed too. Of two moderators one wins. Raises NotFound and Conflict."""
    query = select(Report.message_id).where(Report.id == report_id)
    found = (await session.execute(query)).one_or_none()
    if found is None:
        raise NotFound(f"there is no report {report_id}")
    # The message first, as everybody locks it; then whoever finds the report open has it.
    reported = None
    if outcome == "removed" and found.message_id is not None:
        reported = await reported_message(session, found.message_id)
    statement = (
        update(Report)
        .where(Report.id == report_id, Report.status == ReportStatus.OPEN)
        .values(status=outcome, note=note, resolved_at=now(), resolved_by_id=moderator.id)
        .returning(Report.id)
        .execution_options(synchronize_session=False)
    )
    if (await session.execute(statement)).scalar_one_or_none() is None:
        raise Conflict("somebody else has decided this report", code="already_resolved")
    if reported is not None:
        await remove(session, *reported, remover=moderator)
    return await _item(session, report_id)


async def _item(session: AsyncSession, report_id: int) -> ReportItem:
    query = select(Report).where(Report.id == report_id).options(*_people).execution_options(populate_existing=True)
    return ReportItem.of((await session.execute(query)).scalar_one())
