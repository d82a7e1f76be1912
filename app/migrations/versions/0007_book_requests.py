"""Tables of book_requests."""

from __future__ import annotations

revision = "0007_book_requests"
down_revision = "0006_notifications"
branch_labels = None
depends_on = None


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
