"""Tables of book requests."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from encore.db import BigId, UtcTime

revision = "0007_book_requests"
down_revision = "0006_notifications"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "book_requests",
        sa.Column("id", BigId, primary_key=True),
        sa.Column("user_id", BigId, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("title_key", sa.String(200), nullable=False),
        sa.Column("author", sa.String(200), nullable=False),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("link", sa.String(500), nullable=False),
        sa.Column("is_private", sa.Boolean, nullable=False),
        sa.Column("status", sa.String(12), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("votes", sa.Integer, nullable=False),
        sa.Column("album_id", BigId, sa.ForeignKey("albums.id", ondelete="SET NULL")),
        sa.Column("merged_into_id", BigId, sa.ForeignKey("book_requests.id", ondelete="SET NULL")),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.Column("updated_at", UtcTime, nullable=False),
        sqlite_autoincrement=True,
    )
    for columns in (
        ("user_id", "id"),
        ("user_id", "created_at"),
        ("status", "id"),
        ("status", "votes", "id"),
        ("votes", "id"),
        ("title_key", "status"),
    ):
        op.create_index("ix_book_requests_" + "_".join(columns), "book_requests", list(columns))
    op.create_table(
        "book_request_votes",
        sa.Column("request_id", BigId, sa.ForeignKey("book_requests.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("user_id", BigId, sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("created_at", UtcTime, nullable=False),
    )
    op.create_index("ix_book_request_votes_user_id", "book_request_votes", ["user_id"])
    op.create_table(
        "book_request_events",
        sa.Column("id", BigId, primary_key=True),
        sa.Column("request_id", BigId, sa.ForeignKey("book_requests.id", ondelete="CASCADE"), nullable=False),
        sa.Column("user_id", BigId, sa.ForeignKey("users.id", ondelete="SET NULL")),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("from_status", sa.String(12), nullable=False),
        sa.Column("to_status", sa.String(12), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("created_at", UtcTime, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_book_request_events_request_id_id", "book_request_events", ["request_id", "id"])


def downgrade() -> None:
    op.drop_table("book_request_events")
    op.drop_table("book_request_votes")
    op.drop_table("book_requests")
