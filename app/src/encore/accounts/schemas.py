"""What the REST routes of accounts take and give."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, field_validator
from pydantic_core import PydanticCustomError

from encore.accounts.models import LoginSession, User
from encore.accounts.passwords import LONGEST, SHORTEST

__all__ = [
    "Changes",
    "Ended",
    "LogIn",
    "ManagedUser",
    "Me",
    "NewPassword",
    "Profile",
    "SessionInfo",
    "SignUp",
    "Ticket",
    "Username",
]

USERNAME = r"^[A-Za-z0-9_.-]{2,31}[A-Za-z0-9_-]$"
EMAIL = (
    r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    r"(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$"
)

Username = Annotated[
    str,
    Field(
        min_length=3,
        max_length=32,
        pattern=USERNAME,
        description="3 to 32 of A-Z a-z 0-9 _ . - without a dot at the end; nobody else has it in other letter case",
        examples=["ann"],
    ),
]


def _at_least(shortest: int) -> AfterValidator:
    def check(value: SecretStr) -> SecretStr:
        # pydantic's own text for secrets counts their "items".
        if not shortest <= len(value.get_secret_value()) <= LONGEST:
            raise PydanticCustomError("password_length", f"A password has {shortest} to {LONGEST:,} characters")
        return value

    return AfterValidator(check)


def _documented(shortest: int) -> Any:
    return Field(json_schema_extra={"minLength": shortest, "maxLength": LONGEST})


GivenPassword = Annotated[SecretStr, _at_least(1), _documented(1)]
ChosenPassword = Annotated[SecretStr, _at_least(SHORTEST), _documented(SHORTEST)]


class SignUp(BaseModel):
    """A new account."""

    username: Username
    email: str = Field(
        min_length=3,
        max_length=254,
        pattern=EMAIL,
        description="Shown to its owner and to admins",
        examples=["a@b.example"],
    )
    password: ChosenPassword


class LogIn(BaseModel):
    """Who signs in."""

    username: str = Field(min_length=1, max_length=254, description="In any letter case", examples=["ann"])
    password: GivenPassword


class NewPassword(BaseModel):
    """The present password, and the one to have from now on."""

    current_password: GivenPassword
    new_password: ChosenPassword


class Profile(BaseModel):
    """What everybody may know of somebody."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    username: str
    display_name: str = Field(description="Empty: show the username")
    roles: list[str] = Field(description='Of "admin", "creator" and "team"; none for a listener')
    is_team: bool
    is_creator: bool
    is_admin: bool
    created_at: datetime.datetime

    @field_validator("roles", mode="before")
    @classmethod
    def _in_order(cls, value: Iterable[str]) -> list[str]:
        return sorted(value)

    @classmethod
    def of(cls, user: User) -> Self:
        """What of them is shown here."""
        return cls.model_validate(user)


class Me(Profile):
    """The one who asks."""

    email: str


class ManagedUser(Profile):
    """Somebody, as admins see them."""

    email: str
    is_banned: bool


class Changes(BaseModel):
    """What an admin changes; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    is_team: bool | None = None
    is_creator: bool | None = None
    is_admin: bool | None = None
    is_banned: bool | None = Field(default=None, description="Ends all sessions, and lets nobody sign in")


class SessionInfo(BaseModel):
    """One sign-in of the one who asks."""

    id: int
    created_at: datetime.datetime
    last_seen_at: datetime.datetime = Field(description="To the minute")
    expires_at: datetime.datetime
    user_agent: str
    address: str = Field(description="Where it was begun; of IPv6 the /64 network")
    is_current: bool

    @classmethod
    def of(cls, row: LoginSession, *, current_id: int) -> SessionInfo:
        return cls(
            id=row.id,
            created_at=row.created_at,
            last_seen_at=row.last_seen_at,
            expires_at=row.expires_at,
            user_agent=row.user_agent,
            address=row.address,
            is_current=row.id == current_id,
        )


class Ended(BaseModel):
    """How many sessions were ended. Their sockets are closed, on all replicas, when this answer comes."""

    sessions: int


class Ticket(BaseModel):
    """A sign-in for one WebSocket, as `?ticket=…`."""

    ticket: str
    expires_in_s: float = Field(description="It is good for so long, and for one use")
