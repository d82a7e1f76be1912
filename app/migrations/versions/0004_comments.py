"""Tables of comments."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from encore.db import BigId, UtcTime

revision = "0004_comments"
down_revision = "0003_broadcasts"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "comments",
        sa.Column("id", BigId, primary_key=True),
        sa.Column("track_id", BigId, sa.ForeignKey("tracks.id", ondelete="CASCADE"), nullable=False),
        sa.Column("user_id", BigId, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
        sa.Column("parent_id", BigId, sa.ForeignKey("comments.id", ondelete="SET NULL")),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("at_s", sa.Double, nullable=False),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.Column("last_edited_at", UtcTime),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_comments_track_id_at_s_id", "comments", ["track_id", "at_s", "id"])
    op.create_index("ix_comments_track_id_id", "comments", ["track_id", "id"])
    op.create_index("ix_comments_user_id_created_at", "comments", ["user_id", "created_at"])
    op.create_index("ix_comments_parent_id", "comments", ["parent_id"])


def downgrade() -> None:
    op.drop_table("comments")
