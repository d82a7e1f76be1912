"""Tables of broadcasts."""

from __future__ import annotations

revision = "0003_broadcasts"
down_revision = "0002_catalogue"
branch_labels = None
depends_on = None


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
