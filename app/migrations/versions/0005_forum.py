"""Tables of the forum, and the indexes of its full-text search."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from encore.db import BigId, UtcTime

revision = "0005_forum"
down_revision = "0004_comments"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_threads()
    _create_messages()
    _create_what_people_do()
    _create_reports()
    if op.get_bind().dialect.name == "sqlite":
        _create_sqlite_search("forum_message_search", table="forum_messages", column="content")
        _create_sqlite_search("forum_thread_search", table="forum_threads", column="title")
    else:
        for index, table, column in (
            ("ix_forum_messages_search", "forum_messages", "content"),
            ("ix_forum_threads_search", "forum_threads", "title"),
        ):
            op.execute(f"CREATE INDEX {index} ON {table} USING gin (to_tsvector('simple', {column}))")


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for name in ("forum_message_search", "forum_thread_search"):
            for what in ("added", "removed", "changed"):
                op.execute(f"DROP TRIGGER {name}_{what}")
            op.execute(f"DROP TABLE {name}")
    for table in (
        "forum_reports",
        "forum_read_positions",
        "forum_likes",
        "forum_message_edits",
        "forum_messages",
        "forum_thread_members",
        "forum_threads",
    ):
        op.drop_table(table)


def _person(name: str, *, nullable: bool = False) -> sa.Column[int]:
    ondelete = "SET NULL" if nullable else "CASCADE"
    return sa.Column(name, BigId, sa.ForeignKey("users.id", ondelete=ondelete), nullable=nullable)


def _thread(name: str, *, nullable: bool = False, primary_key: bool = False) -> sa.Column[int]:
    key = sa.ForeignKey("forum_threads.id", ondelete="CASCADE")
    return sa.Column(name, BigId, key, nullable=nullable, primary_key=primary_key)


def _message(name: str, *, nullable: bool = False) -> sa.Column[int]:
    ondelete = "SET NULL" if nullable else "CASCADE"
    return sa.Column(name, BigId, sa.ForeignKey("forum_messages.id", ondelete=ondelete), nullable=nullable)


def _index(table: str, *columns: str) -> None:
    op.create_index(f"ix_{table}_{'_'.join(columns)}", table, list(columns))


def _create_threads() -> None:
    op.create_table(
        "forum_threads",
        sa.Column("id", BigId, primary_key=True),
        sa.Column("title", sa.String(200), nullable=False),
        _person("author_id"),
        sa.Column("is_sub_thread", sa.Boolean, nullable=False),
        _thread("parent_thread_id", nullable=True),
        sa.Column("parent_message_id", BigId, nullable=True),
        sa.Column("is_private", sa.Boolean, nullable=False),
        sa.Column("is_pinned", sa.Boolean, nullable=False),
        sa.Column("is_locked", sa.Boolean, nullable=False),
        sa.Column("lock_reason", sa.String(200), nullable=False),
        sa.Column("message_count", sa.Integer, nullable=False),
        sa.Column("last_number", sa.Integer, nullable=False),
        sa.Column("sub_thread_count", sa.Integer, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.Column("last_message_at", UtcTime, nullable=False),
        _person("last_message_user_id", nullable=True),
        sqlite_autoincrement=True,
    )
    listing = ["is_sub_thread", "is_private", "is_pinned", "last_message_at", "id"]
    op.create_index("ix_forum_threads_listing", "forum_threads", listing)
    _index("forum_threads", "parent_thread_id", "id")
    _index("forum_threads", "parent_message_id", "id")
    _index("forum_threads", "author_id")
    _index("forum_threads", "last_message_user_id")
    op.create_table(
        "forum_thread_members",
        _thread("thread_id", primary_key=True),
        sa.Column("user_id", BigId, sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("added_at", UtcTime, nullable=False),
    )
    _index("forum_thread_members", "user_id", "thread_id")


def _create_messages() -> None:
    op.create_table(
        "forum_messages",
        sa.Column("id", BigId, primary_key=True),
        _thread("thread_id"),
        sa.Column("number", sa.Integer, nullable=False),
        _person("author_id"),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("content_html", sa.Text, nullable=False),
        _message("reply_to_id", nullable=True),
        sa.Column("like_count", sa.Integer, nullable=False),
        sa.Column("sub_thread_count", sa.Integer, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.Column("edited_at", UtcTime, nullable=True),
        sa.Column("deleted_at", UtcTime, nullable=True),
        _person("deleted_by_id", nullable=True),
        sa.UniqueConstraint("thread_id", "number"),
        sqlite_autoincrement=True,
    )
    _index("forum_messages", "author_id", "id")
    _index("forum_messages", "reply_to_id")
    _index("forum_messages", "deleted_by_id")
    op.create_table(
        "forum_message_edits",
        sa.Column("id", BigId, primary_key=True),
        _message("message_id"),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("content_html", sa.Text, nullable=False),
        sa.Column("replaced_at", UtcTime, nullable=False),
    )
    _index("forum_message_edits", "message_id", "id")


def _create_what_people_do() -> None:
    op.create_table(
        "forum_likes",
        sa.Column("id", BigId, primary_key=True),
        _message("message_id"),
        _person("user_id"),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.UniqueConstraint("message_id", "user_id"),
    )
    _index("forum_likes", "message_id", "id")
    _index("forum_likes", "user_id")
    op.create_table(
        "forum_read_positions",
        sa.Column("user_id", BigId, sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
        _thread("thread_id", primary_key=True),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("updated_at", UtcTime, nullable=False),
    )
    _index("forum_read_positions", "thread_id")


def _create_reports() -> None:
    op.create_table(
        "forum_reports",
        sa.Column("id", BigId, primary_key=True),
        _message("message_id", nullable=True),
        _person("author_id"),
        _person("reporter_id"),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("reason", sa.String(1000), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("note", sa.String(1000), nullable=False),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.Column("resolved_at", UtcTime, nullable=True),
        _person("resolved_by_id", nullable=True),
        sa.UniqueConstraint("message_id", "reporter_id"),
    )
    _index("forum_reports", "status", "id")
    _index("forum_reports", "reporter_id")
    _index("forum_reports", "author_id")
    _index("forum_reports", "resolved_by_id")


def _create_sqlite_search(name: str, *, table: str, column: str) -> None:
    """A full-text index without a copy of the texts, kept in step by triggers."""
    op.execute(
        f"CREATE VIRTUAL TABLE {name} USING fts5({column}, content='{table}', content_rowid='id', "
        "tokenize='unicode61 remove_diacritics 0', prefix='2 3')"
    )
    drop = f"INSERT INTO {name}({name}, rowid, {column}) VALUES ('delete', old.id, old.{column});"
    add = f"INSERT INTO {name}(rowid, {column}) VALUES (new.id, new.{column});"
    op.execute(f"CREATE TRIGGER {name}_added AFTER INSERT ON {table} BEGIN {add} END")
    op.execute(f"CREATE TRIGGER {name}_removed AFTER DELETE ON {table} BEGIN {drop} END")
    op.execute(f"CREATE TRIGGER {name}_changed AFTER UPDATE OF {column} ON {table} BEGIN {drop} {add} END")
