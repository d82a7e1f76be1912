"""Tables of forum."""

from __future__ import annotations

revision = "0005_forum"
down_revision = "0004_comments"
branch_labels = None
depends_on = None


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
