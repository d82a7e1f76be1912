"""What the REST routes of accounts take and give."""

from __future__ import annotations

from pydantic import BaseModel

from encore.accounts.models import User

__all__ = ["Me"]


class Me(BaseModel):
    """The one who asks."""

    id: int
    username: str
    display_name: str
    roles: list[str]

    @classmethod
    def of(cls, user: User) -> Me:
        return cls(id=user.id, username=user.username, display_name=user.display_name, roles=sorted(user.roles))
