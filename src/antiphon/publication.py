"""One publication on its way: who it is for, and its message in every form that is asked for, each made once."""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection

from antiphon.errors import ConfigurationError, MessageTooLarge
from antiphon.topics import check_topic, check_user_id, route_of
from antiphon.wire import codec
from antiphon.wire.envelope import Envelope
from antiphon.wire.frames import Frame

__all__ = ["Publication", "frame_of", "new_publication", "numbers"]

numbers = itertools.count(1)
"""What makes the ids of this process unique, behind the random name of the replica."""
_TEN_YEARS_S = 10 * 366 * 86_400
_ENVELOPES = 4
"""A message with the users and the connections that it names may have so many times the bytes of a message."""


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
) -> Publication:
    """Check and encode a message, and give it its id: the sender's name and a number.

    Raises MessageNotSerializable, MessageTooLarge, InvalidTopicName, InvalidUserId or ConfigurationError.
    """
    payload = _encode(message, limit_bytes=limit_bytes)
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
    return Publication(envelope, channel=channel, topic=None if topic is None else check_topic(topic))


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
