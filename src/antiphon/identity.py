"""Who is at the other end of a socket or a request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

from antiphon.errors import ConfigurationError
from antiphon.topics import check_user_id

__all__ = ["Identity"]


class _Proved:
    """The place for how and when an identity was proved; no field, so that nothing shows, compares or stores it."""

    __slots__ = ("_again", "_at_s")
    _again: Callable[[], Awaitable[Identity]] | None
    _at_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity(_Proved):
    """Who is at the other end of a socket or a request. Raises ConfigurationError for values of the wrong type."""

    user_id: str | None
    """The user, as the manager's messages name it; None for a guest."""
    session_id: str | None = field(default=None, repr=False)
    """Which of the user's sessions: what `disconnect_session` names. Better no secret, and so not the cookie."""
    roles: frozenset[str] = frozenset()
    """What the user may do, in words of the application."""
    expires_at_s: float | None = None
    """When it ends, in seconds of Unix time; None: only when it is revoked."""
    claims: Mapping[str, object] = field(default_factory=dict, repr=False, hash=False)
    """Whatever else the application knows of the user; JSON values where tickets are used."""

    def __post_init__(self) -> None:
        if self.user_id is not None:
            check_user_id(self.user_id)
        session_id: object = self.session_id
        if session_id is not None and not (isinstance(session_id, str) and session_id):
            raise ConfigurationError("Identity.session_id is a non-empty text, or None")
        roles: object = self.roles
        if isinstance(roles, str):
            raise ConfigurationError(f"Identity.roles={roles!r} is one text: give a set, as in {{{roles!r}}}")
        object.__setattr__(self, "roles", frozenset(self.roles))
        expires_at_s: object = self.expires_at_s
        if expires_at_s is not None and not isinstance(expires_at_s, (int, float)):
            raise ConfigurationError("Identity.expires_at_s is a number of seconds of Unix time, or None")

    @property
    def proved_again(self) -> Callable[[], Awaitable[Identity]] | None:
        """What asks for the same identity once more, if the way that it was proved allows that; for re-checks.

        It is equal for identities that were proved by the same token: one answer is good for all of them.
        """
        return getattr(self, "_again", None)

    @property
    def proved_at_s(self) -> float | None:
        """When the question was asked whose answer this is, or the ticket issued, in seconds of Unix time.

        None when nobody knows, as for an identity that the application has made.
        """
        return getattr(self, "_at_s", None)

    def _proved_by(self, again: Callable[[], Awaitable[Identity]] | None, *, at_s: float | None) -> Identity:
        """A copy that remembers how and when it was proved: what `lookup` returned may be one object for many sockets.

        `again` must be equal for the same proof, and for no other.
        """
        copy = replace(self)
        object.__setattr__(copy, "_again", again)
        object.__setattr__(copy, "_at_s", at_s)
        return copy
