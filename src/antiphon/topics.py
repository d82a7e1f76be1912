"""Names: which channels, topics and user ids are allowed, and which of the broker's routes belong to them."""

from __future__ import annotations

import re

from antiphon.errors import ConfigurationError, InvalidChannelName, InvalidTopicName, InvalidUserId

__all__ = ["CONTROL_ROUTE", "check_channel", "check_topic", "check_user_id", "replica_route", "route_of"]

_RESERVED = "antiphon:"

CONTROL_ROUTE = f"{_RESERVED}control"
"""Where replicas talk to all replicas."""

_NAME_CHARACTERS = 128
_allowed = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_not_allowed = re.compile(r"[^A-Za-z0-9_.:-]+")


def check_channel(name: object) -> str:
    """Return `name` if it is a channel's name. Raises InvalidChannelName, which says what to write instead."""
    text = _check_name(name, what="channel", error=InvalidChannelName)
    if text.startswith(_RESERVED):
        raise InvalidChannelName(
            f"channel {text!r}: names beginning with {_RESERVED!r} belong to the library, take another prefix"
        )
    return text


def check_topic(name: object) -> str:
    """Return `name` if it is a topic's name. Raises InvalidTopicName, which says what to write instead."""
    return _check_name(name, what="topic", error=InvalidTopicName)


def check_user_id(value: object) -> str:
    """Return `value` if it is a user id: a non-empty `str`. Raises InvalidUserId, which says what to pass."""
    if type(value) is str and value and value.isascii():
        return value
    if not isinstance(value, str):
        raise InvalidUserId(_wrong_user_id(value))
    if not value:
        raise InvalidUserId(
            "the user id is empty: pass the id of the signed-in user, or None where nobody is signed in"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidUserId(f"the user id {value!r} holds a lone surrogate: pass valid text") from error
    return str.__str__(value)


def route_of(channel: str, topic: str | None) -> str:
    """The broker's route for a channel, or for one topic of it. The names must have been checked."""
    return channel if topic is None else f"{channel}/{topic}"


def replica_route(replica_id: str) -> str:
    """The broker's route that one replica alone hears."""
    return f"{_RESERVED}replica:{replica_id}"


def _check_name(name: object, *, what: str, error: type[ConfigurationError]) -> str:
    if isinstance(name, str):
        if _allowed.fullmatch(name):
            return str.__str__(name)
        if not name:
            raise error(f"the {what}'s name is empty: give it one, such as {what}={_EXAMPLES[what]!r}")
        if len(name) > _NAME_CHARACTERS:
            raise error(
                f"the {what}'s name has {len(name)} characters, the limit is {_NAME_CHARACTERS}: {name[:40]!r}…"
            )
        better = _not_allowed.sub("-", name)
        raise error(f"{what} {name!r}: only letters (A-Z, a-z), digits and _ . : - are allowed, such as {better!r}")
    if isinstance(name, bytes):
        raise error(f"{what} {name!r} is bytes: pass a str, such as {what}={_EXAMPLES[what]!r}")
    raise error(f"{what} {name!r} is {_kind(name)}: pass a str, such as {what}={_EXAMPLES[what]!r}")


_EXAMPLES = {"channel": "comments", "topic": "track:7"}


def _kind(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[:1] in 'aeioAEIO' else 'a'} {name}"


def _wrong_user_id(value: object) -> str:
    if value is None:
        return "the user id is None: pass the str id of a user"
    if isinstance(value, bytes):
        return f"user id {value!r} is bytes: pass a str, such as value.decode()"
    if isinstance(value, (list, tuple, set, frozenset)):
        return f"user id {value!r} is {_kind(value)}: pass one str; several ids go into target_user_ids"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"user id {value!r} is {_kind(value)}: pass str({value!r})"
    return f"user id {value!r} is {_kind(value)}: pass str(…) of the id"
