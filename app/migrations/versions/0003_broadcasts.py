"""Tables of broadcasts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from encore.db import BigId, UtcTime

revision = "0003_broadcasts"
down_revision = "0002_catalogue"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "broadcasts",
        sa.Column("id", BigId, primary_key=True),
        sa.Column("author_id", BigId, sa.ForeignKey("users.id", ondelete="SET NULL")),
        sa.Column("author_name", sa.String(80), nullable=False),
        sa.Column("message", sa.String(280), nullable=False),
        sa.Column("type", sa.String(10), nullable=False),
        sa.Column("status", sa.String(10), nullable=False),
        sa.Column("roles", sa.JSON, nullable=False),
        sa.Column("user_ids", sa.JSON, nullable=False),
        sa.Column("audience", sa.String(80), nullable=False),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.Column("send_at", UtcTime),
        sa.Column("sent_at", UtcTime),
        sa.Column("ended_at", UtcTime),
        sa.Column("sent_to_users", sa.Integer, nullable=False),
        sa.Column("reached", sa.Integer, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_broadcasts_status_send_at", "broadcasts", ["status", "send_at"])
    op.create_index("ix_broadcasts_sent_at_id", "broadcasts", ["sent_at", "id"])
    op.create_table(
        "broadcast_receipts",
        sa.Column("broadcast_id", BigId, sa.ForeignKey("broadcasts.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("user_id", BigId, sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("delivered_at", UtcTime, nullable=False),
        sa.Column("acknowledged_at", UtcTime),
    )


def downgrade() -> None:
    op.drop_table("broadcast_receipts")
    op.drop_table("broadcasts")
