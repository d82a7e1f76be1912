"""Tables of comments."""

from __future__ import annotations

revision = "0004_comments"
down_revision = "0003_broadcasts"
branch_labels = None
depends_on = None


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
