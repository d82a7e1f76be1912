"""Tables of notifications."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from encore.db import BigId, UtcTime, now

revision = "0006_notifications"
down_revision = "0005_forum"
branch_labels = None
depends_on = None


def _user_id() -> sa.Column[int]:
    """The primary key, or its first part; given by us and never by the database."""
    users = sa.ForeignKey("users.id", ondelete="CASCADE")
    return sa.Column("user_id", BigId, users, primary_key=True, autoincrement=False)


def _part_of_key(name: str, table: str) -> sa.Column[int]:
    return sa.Column(name, BigId, sa.ForeignKey(f"{table}.id", ondelete="CASCADE"), primary_key=True)


def upgrade() -> None:
    op.create_table(
        "forum_notifications",
        sa.Column("id", BigId, primary_key=True),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("message_id", BigId, sa.ForeignKey("forum_messages.id", ondelete="CASCADE"), nullable=False),
        sa.Column("from_user_id", BigId, sa.ForeignKey("users.id", ondelete="SET NULL")),
        sa.Column("created_at", UtcTime, nullable=False),
        sqlite_autoincrement=True,
    )
    for columns in (["message_id", "kind"], ["from_user_id"]):
        op.create_index(f"ix_forum_notifications_{'_'.join(columns)}", "forum_notifications", columns)
    _create_recipients()
    op.create_table(
        "forum_notification_versions",
        _user_id(),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "forum_notification_preferences",
        _user_id(),
        *(
            sa.Column(name, sa.Boolean, nullable=False)
            for name in ("mention", "reply", "follow", "everyone", "likes", "everyone_muted")
        ),
    )
    op.create_table(
        "forum_follows",
        _user_id(),
        _part_of_key("thread_id", "forum_threads"),
        sa.Column("created_at", UtcTime, nullable=False),
    )
    op.create_index("ix_forum_follows_thread_id", "forum_follows", ["thread_id"])
    _create_switch()


def _create_recipients() -> None:
    table = "forum_notification_recipients"
    unread = sa.text("read_at IS NULL")
    op.create_table(
        table,
        _user_id(),
        _part_of_key("notification_id", "forum_notifications"),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("read_at", UtcTime),
    )
    op.create_index(f"ix_{table}_kind", table, ["user_id", "kind", "notification_id"])
    op.create_index(f"ix_{table}_notification_id", table, ["notification_id"])
    op.create_index(
        f"ix_{table}_unread", table, ["user_id", "notification_id"], sqlite_where=unread, postgresql_where=unread
    )


def _create_switch() -> None:
    switch = op.create_table(
        "forum_everyone_switch",
        sa.Column("id", BigId, primary_key=True),
        sa.Column("is_on", sa.Boolean, nullable=False),
        sa.Column("reason", sa.String(200), nullable=False),
        sa.Column("changed_at", UtcTime, nullable=False),
        sa.Column("changed_by_id", BigId, sa.ForeignKey("users.id", ondelete="SET NULL")),
    )
    # There from the start, so that there is always a row to lock.
    op.bulk_insert(switch, [{"id": 1, "is_on": True, "reason": "", "changed_at": now(), "changed_by_id": None}])


def downgrade() -> None:
    for table in (
        "forum_everyone_switch",
        "forum_follows",
        "forum_notification_preferences",
        "forum_notification_versions",
        "forum_notification_recipients",
        "forum_notifications",
    ):
        op.drop_table(table)
