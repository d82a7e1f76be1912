"""Tables of catalogue."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from encore.db import BigId, UtcTime

revision = "0002_catalogue"
down_revision = "0001_accounts"
branch_labels = None
depends_on = None

SORT_KEY = sa.String(24).with_variant(sa.String(24, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "albums",
        sa.Column("id", BigId, primary_key=True),
        sa.Column("creator_id", BigId, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("cover_file", sa.String(80)),
        sa.Column("track_count", sa.Integer, nullable=False),
        sa.Column("sort_key", SORT_KEY, nullable=False),
        sa.Column("search_text", sa.Text, nullable=False),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.Column("updated_at", UtcTime, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_albums_creator_id_id", "albums", ["creator_id", "id"])
    op.create_index("ix_albums_sort_key_id", "albums", ["sort_key", "id"])
    op.create_table(
        "tracks",
        sa.Column("id", BigId, primary_key=True),
        sa.Column("album_id", BigId, sa.ForeignKey("albums.id", ondelete="SET NULL")),
        sa.Column("creator_id", BigId, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("artist", sa.String(200), nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("duration_s", sa.Double, nullable=False),
        sa.Column("sample_rate", sa.Integer, nullable=False),
        sa.Column("audio_file", sa.String(80), nullable=False),
        sa.Column("audio_type", sa.String(40), nullable=False),
        sa.Column("audio_bytes", sa.BigInteger, nullable=False),
        sa.Column("audio_sha256", sa.String(64), nullable=False),
        sa.Column("peaks", sa.LargeBinary, nullable=False),
        sa.Column("frames_per_peak", sa.Integer, nullable=False),
        sa.Column("cover_file", sa.String(80)),
        sa.Column("comments_closed", sa.Boolean, nullable=False),
        sa.Column("play_count", sa.Integer, nullable=False),
        sa.Column("sort_key", SORT_KEY, nullable=False),
        sa.Column("search_text", sa.Text, nullable=False),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.Column("updated_at", UtcTime, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_tracks_album_id_number_id", "tracks", ["album_id", "number", "id"])
    op.create_index("ix_tracks_creator_id_id", "tracks", ["creator_id", "id"])
    op.create_index("ix_tracks_sort_key_id", "tracks", ["sort_key", "id"])
    op.create_index("ix_tracks_play_count_id", "tracks", ["play_count", "id"])
    op.create_table(
        "listenings",
        sa.Column("user_id", BigId, sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("track_id", BigId, sa.ForeignKey("tracks.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("position_s", sa.Double, nullable=False),
        sa.Column("position_at", UtcTime),
        sa.Column("counted_at", UtcTime),
    )
    op.create_index("ix_listenings_user_id_position_at_track_id", "listenings", ["user_id", "position_at", "track_id"])
    op.create_index("ix_listenings_track_id", "listenings", ["track_id"])


def downgrade() -> None:
    op.drop_table("listenings")
    op.drop_table("tracks")
    op.drop_table("albums")
