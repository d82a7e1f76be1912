"""Tables of notifications."""

from __future__ import annotations

revision = "0006_notifications"
down_revision = "0005_forum"
branch_labels = None
depends_on = None


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
