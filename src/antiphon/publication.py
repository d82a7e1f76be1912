"""One publication on its way: who it is for, and its message in every form that is asked for, each made once."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Collection
from typing import Literal, TypeAlias

from antiphon.errors import ConfigurationError, MessageTooLarge
from antiphon.topics import check_topic, check_user_id, route_of
from antiphon.wire import codec
from antiphon.wire.envelope import KEY_CHARACTERS, Envelope, WhenSlow
from antiphon.wire.frames import Frame, Policy

__all__ = ["Publication", "SlowPolicy", "frame_of", "new_publication", "numbers"]

SlowPolicy: TypeAlias = Literal["disconnect", "drop_oldest", "newest_per_key"]
"""What happens where a message has to wait for a client that is behind."""

numbers = itertools.count(1)
"""What makes the ids of this process unique, behind the random name of the replica."""
_TEN_YEARS_S = 10 * 366 * 86_400
_SURROGATES = re.compile("[\ud800-\udfff]")
_ENVELOPES = 4
"""A message with the users and the connections that it names may have so many times the bytes of a message."""
_WHEN_SLOW: dict[str, WhenSlow | None] = {
    "disconnect": None,
    "drop_oldest": "drop",
    "newest_per_key": "newest",
}


class Publication:
    """A message with its channel, its topic and its envelope."""

    __slots__ = ("_frame", "channel", "envelope", "route", "topic")

    def __init__(self, envelope: Envelope, *, channel: str, topic: str | None = None) -> None:
        self.envelope = envelope
        self.channel = channel
        self.topic = topic
        self.route = route_of(channel, topic)
        self._frame: Frame | None = None

    @property
    def frame(self) -> Frame:
        """The message as it goes to the sockets."""
        frame = self._frame
        if frame is None:
            payload = self.envelope.payload
            frame = Frame.of_text(str(codec.decode(payload))) if self.envelope.is_text else Frame.json(payload)
            frame.about = (self.envelope.id, self.topic)
            self._frame = frame
        return frame

    @property
    def policy(self) -> Policy | None:
        """What may happen to it where it has to wait for a client; None: it is never dropped."""
        slow, key = self.envelope.slow, self.envelope.key
        if slow is None:
            return None
        return Policy((self.route, key) if slow == "newest" and key is not None else None)

    def message(self) -> object:
        """The message as a Python value; decoded anew at each call, so that the caller may change it."""
        return codec.decode(self.envelope.payload)


def new_publication(
    message: object,
    *,
    sender: str,
    channel: str,
    limit_bytes: int,
    topic: str | None = None,
    users: Collection[str] | None = None,
    exclude: frozenset[str] | None = None,
    expires_s: float | None = None,
    slow: SlowPolicy = "disconnect",
    key: str | None = None,
) -> Publication:
    """Check and encode a message, and give it its id: the sender's name and a number.

    Raises MessageNotSerializable, MessageTooLarge, InvalidTopicName, InvalidUserId or ConfigurationError.
    """
    payload = _encode(message, limit_bytes=limit_bytes)
    when_slow = None if slow == "disconnect" and key is None else _checked_policy(slow, key)
    if users is not None:
        users = _checked_users(users)
    if users is not None or exclude:
        size_bytes = len(payload) + sum(map(len, users or ())) + sum(map(len, exclude or ()))
        if size_bytes > _ENVELOPES * limit_bytes:
            raise MessageTooLarge(size_bytes, limit_bytes=_ENVELOPES * limit_bytes)
    now_ms = time.time_ns() // 1_000_000
    if expires_s is not None:
        _check_expiry(expires_s)
    expires_at_ms = None if expires_s is None else now_ms + round(expires_s * 1000)
    id = f"{sender}-{next(numbers)}"
    envelope = Envelope(
        id, payload, isinstance(message, str), sender, users, exclude or None, expires_at_ms, None, None, now_ms
    )
    if when_slow is not None:
        envelope.slow, envelope.key = when_slow, key
    return Publication(envelope, channel=channel, topic=None if topic is None else check_topic(topic))


def _checked_policy(slow: object, key: object) -> WhenSlow | None:
    if not isinstance(slow, str) or slow not in _WHEN_SLOW:
        raise ConfigurationError(f"slow={slow!r}: it must be one of {', '.join(map(repr, _WHEN_SLOW))}")
    if slow == "newest_per_key":
        if not isinstance(key, str) or not 0 < len(key) <= KEY_CHARACTERS or _SURROGATES.search(key):
            raise ConfigurationError(
                f'key={key!r}: slow="newest_per_key" needs a text of 1 to {KEY_CHARACTERS} characters that says '
                "which earlier messages this one replaces"
            )
    elif key is not None:
        raise ConfigurationError(f'key={key!r} is for slow="newest_per_key" alone: leave it out, or set that')
    return _WHEN_SLOW[slow]


def _check_expiry(expires_s: object) -> None:
    is_number = isinstance(expires_s, (int, float)) and not isinstance(expires_s, bool)
    if not is_number or not 0 < expires_s <= _TEN_YEARS_S:  # type: ignore[operator]  # it is a number
        raise ConfigurationError(f"expires_s={expires_s!r}: it must be a number of seconds above 0, at most ten years")


def _checked_users(users: Collection[str]) -> frozenset[str]:
    if isinstance(users, str):
        raise ConfigurationError(f"target_user_ids={users!r} is one text: give a set of user ids, as in {{{users!r}}}")
    if not isinstance(users, Collection):
        raise ConfigurationError(f"target_user_ids={users!r}: give a set of user ids")
    return frozenset(check_user_id(user) for user in users)


def frame_of(message: object, *, limit_bytes: int) -> Frame:
    """A message for one socket. Raises MessageNotSerializable and MessageTooLarge."""
    payload = codec.encode(message)
    if len(payload) > limit_bytes:
        raise MessageTooLarge(len(payload), limit_bytes=limit_bytes)
    return Frame(payload) if not isinstance(message, str) else Frame.of_text(message)


def _encode(message: object, *, limit_bytes: int) -> bytes:
    payload = codec.encode(message)
    if len(payload) > limit_bytes:
        raise MessageTooLarge(len(payload), limit_bytes=limit_bytes)
    return payload
