"""Tables of people and their sessions."""

from __future__ import annotations

import datetime

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from encore.db import BigId, Model, UtcTime, now

__all__ = ["LoginSession", "NameKey", "User"]

NameKey = String(32).with_variant(String(32, collation="C"), "postgresql")
"""Sorted by bytes in every database, so that the names that begin so are one stretch of the index."""


class User(Model):
    """A person with an account."""

    __tablename__ = "users"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    username: Mapped[str] = mapped_column(String(32), unique=True)
    """As the person wrote it: 3 to 32 of A-Z a-z 0-9 _ . - without a dot at the end."""
    username_key: Mapped[str] = mapped_column(NameKey, unique=True)
    """The same in lower case: what @mentions, logins and uniqueness go by."""
    email: Mapped[str] = mapped_column(String(254))
    email_key: Mapped[str] = mapped_column(String(254), unique=True)
    display_name: Mapped[str] = mapped_column(String(80), default="")
    password_hash: Mapped[str] = mapped_column(String(200))
    is_team: Mapped[bool] = mapped_column(default=False)
    is_creator: Mapped[bool] = mapped_column(default=False)
    is_admin: Mapped[bool] = mapped_column(default=False)
    is_banned: Mapped[bool] = mapped_column(default=False)
    is_demo: Mapped[bool] = mapped_column(default=False)
    """One of the people of the demonstration, whose password everybody knows: production does not start with them."""
    created_at: Mapped[datetime.datetime] = mapped_column(UtcTime, default=now)

    @property
    def roles(self) -> frozenset[str]:
        """Of "team", "creator" and "admin"; empty for a listener."""
        flags = {"team": self.is_team, "creator": self.is_creator, "admin": self.is_admin}
        return frozenset(name for name, holds in flags.items() if holds)

    @property
    def is_staff(self) -> bool:
        """Creators, team and admins: who may announce, and moderate."""
        return self.is_team or self.is_creator or self.is_admin


class LoginSession(Model):
    """A sign-in that lasts until it is ended or runs out."""

    __tablename__ = "login_sessions"
    # No number is given out twice: sockets and tickets know their session by it.
    __table_args__ = (
        Index(None, "user_id", "created_at"),
        Index(None, "expires_at"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    token_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    """Of the cookie's value: who reads the table cannot sign in with it."""
    created_at: Mapped[datetime.datetime] = mapped_column(UtcTime, default=now)
    last_seen_at: Mapped[datetime.datetime] = mapped_column(UtcTime, default=now)
    expires_at: Mapped[datetime.datetime] = mapped_column(UtcTime)
    user_agent: Mapped[str] = mapped_column(String(200), default="")
    address: Mapped[str] = mapped_column(String(64), default="")

    user: Mapped[User] = relationship(lazy="raise")
