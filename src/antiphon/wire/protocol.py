"""What clients and this server say to each other beside the application's messages: `protocol/PROTOCOL.md` in code.

The frames of the server are built here, those of clients read, strictly. Nothing here knows a socket or a rule of who
may do what.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Literal, NamedTuple, TypeAlias

from antiphon.codes import CloseCode, ErrorCode
from antiphon.errors import AntiphonError, EnvelopeError
from antiphon.wire import codec
from antiphon.wire.codec import JSONValue
from antiphon.wire.frames import ControlFrame, Frame

__all__ = [
    "HEARTBEAT",
    "PING",
    "PONG",
    "V1",
    "AppMessage",
    "BadFrame",
    "ClientFrame",
    "Ping",
    "Pong",
    "Publish",
    "Subscribe",
    "Unsubscribe",
    "choose_subprotocol",
    "error",
    "pong",
    "published",
    "read",
    "read_object",
    "ref_of",
    "status",
    "subscribed",
    "unsubscribed",
    "welcome",
]

V1: Final = "antiphon.v1"
_VERSIONS = "antiphon.v"
_MAX_REF = 2**53 - 1


def choose_subprotocol(offered: Sequence[str], *, speaks_v1: bool) -> tuple[str | None, CloseCode | None]:
    """The subprotocol to accept a client with that offered these, and the code to close it with at once, if any.

    A client that knows only versions of the future is accepted with a name of its own: browsers show no close code of
    a handshake that failed.
    """
    if not speaks_v1:
        return None, None
    if V1 in offered:
        return V1, None
    others = [name for name in offered if name.startswith(_VERSIONS)]
    if others and len(others) == len(offered):
        return others[0], CloseCode.UNSUPPORTED_VERSION
    return None, None


# -- from the client --------------------------------------------------------------------------------------------------


class BadFrame(AntiphonError, ValueError):
    """A frame of a client breaks the protocol. The text is for the client: it repeats nothing of the frame."""

    def __init__(self, code: ErrorCode, message: str, *, ref: int | None = None) -> None:
        self.code = code
        self.ref = ref
        super().__init__(message)


class AppMessage(NamedTuple):
    """A message for the application's handler."""

    message: object
    ref: int | None = None


class Subscribe(NamedTuple):
    """The client asks for a topic. Its name is not checked here."""

    topic: str
    ref: int | None = None


class Unsubscribe(NamedTuple):
    """The client wants a topic no longer. Its name is not checked here."""

    topic: str
    ref: int | None = None


class Publish(NamedTuple):
    """The client wants to publish an object on a topic. Who it claims to be counts for nothing."""

    topic: str
    message: Mapping[str, object]
    ref: int | None = None


class Ping(NamedTuple):
    """The client wants a sign of life."""

    ref: int | None = None


class Pong(NamedTuple):
    """The client gives one."""


ClientFrame: TypeAlias = AppMessage | Subscribe | Unsubscribe | Publish | Ping | Pong


def read_object(payload: bytes, *, levels: int) -> dict[str, JSONValue]:
    """Decode a frame of a client, which must be a strict JSON object.

    Raises BadFrame for everything else, and for what is nested deeper than `levels`.
    """
    try:
        value = codec.decode(payload, levels=levels)
    except EnvelopeError as error:
        raise BadFrame(ErrorCode.BAD_REQUEST, _no_object(levels)) from error
    if type(value) is not dict:
        raise BadFrame(ErrorCode.BAD_REQUEST, _no_object(levels))
    return value


def _no_object(levels: int) -> str:
    return f"a message must be a JSON object in UTF-8, at most {levels} levels deep"


def read(payload: bytes, *, levels: int) -> ClientFrame:
    """Read a frame of a client that speaks `antiphon.v1`. Raises BadFrame for what is none.

    Fields that are not known are ignored.
    """
    fields = read_object(payload, levels=levels)
    ref = fields.get("ref")
    if ref is not None and not _is_ref(ref):
        raise BadFrame(ErrorCode.BAD_REQUEST, f"ref must be an integer from 0 to {_MAX_REF}")
    checked_ref = ref if isinstance(ref, int) else None
    kind = fields.get("type")
    if not isinstance(kind, str):
        raise BadFrame(ErrorCode.BAD_REQUEST, "type must be a string", ref=checked_ref)
    reader = _READERS.get(kind)
    if reader is None:
        raise BadFrame(ErrorCode.UNSUPPORTED, f"this is no type of frame in {V1}", ref=checked_ref)
    return reader(fields, checked_ref)


def ref_of(payload: bytes, *, levels: int) -> int | None:
    """The `ref` of a frame that is refused whatever it says; None where there is none that can be read."""
    try:
        ref = read_object(payload, levels=levels).get("ref")
    except BadFrame:
        return None
    return ref if isinstance(ref, int) and _is_ref(ref) else None


def _is_ref(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MAX_REF


def _read_message(fields: Mapping[str, object], ref: int | None) -> AppMessage:
    if "message" not in fields:
        raise BadFrame(ErrorCode.BAD_REQUEST, "message is missing", ref=ref)
    return AppMessage(fields["message"], ref)


def _read_publish(fields: Mapping[str, object], ref: int | None) -> Publish:
    content = fields.get("message")
    if not isinstance(content, dict):
        raise BadFrame(ErrorCode.BAD_REQUEST, "message must be an object", ref=ref)
    return Publish(_read_topic(fields, ref), content, ref)


def _read_topic(fields: Mapping[str, object], ref: int | None) -> str:
    topic = fields.get("topic")
    if not isinstance(topic, str):
        raise BadFrame(ErrorCode.BAD_REQUEST, "topic must be a string", ref=ref)
    return topic


_READERS: dict[str, Callable[[Mapping[str, object], int | None], ClientFrame]] = {
    "message": _read_message,
    "subscribe": lambda fields, ref: Subscribe(_read_topic(fields, ref), ref),
    "unsubscribe": lambda fields, ref: Unsubscribe(_read_topic(fields, ref), ref),
    "publish": _read_publish,
    "ping": lambda fields, ref: Ping(ref),
    "pong": lambda fields, ref: Pong(),
}


# -- from the server --------------------------------------------------------------------------------------------------

HEARTBEAT: Final = ControlFrame(b'{"type":"heartbeat"}')
"""For clients of the earlier protocols, after a time with nothing received."""
PING: Final = ControlFrame(b'{"type":"ping"}')
"""For clients that speak `antiphon.v1`: they answer."""
PONG: Final = ControlFrame(b'{"type":"pong"}')
"""The answer to a ping without `ref`."""


def welcome(
    *,
    connection: str,
    state: Literal["up", "degraded"],
    ping_s: int,
    silence_s: int,
    topics: Iterable[str],
    limits: Mapping[str, int],
) -> Frame:
    """The first frame of an `antiphon.v1` connection."""
    fields = {"type": "welcome", "protocol": V1, "connection": connection, "state": state}
    return _frame(
        {**fields, "ping_s": ping_s, "silence_s": silence_s, "topics": sorted(topics), "limits": dict(limits)}
    )


def subscribed(topic: str, *, ref: int | None = None) -> Frame:
    """The client hears the topic."""
    return _answer({"type": "subscribed", "topic": topic}, ref)


def unsubscribed(topic: str, *, ref: int | None = None, code: ErrorCode | None = None) -> Frame:
    """The client hears the topic no longer: it asked for that, or, with a code, lost the right."""
    fields: dict[str, object] = {"type": "unsubscribed", "topic": topic}
    if code is not None:
        fields["code"] = code.value
    return _answer(fields, ref)


def published(topic: str, *, id: str, scope: str, ref: int | None = None) -> Frame:
    """What the client wanted to publish is on its way."""
    return _answer({"type": "published", "topic": topic, "id": id, "scope": scope}, ref)


def pong(ref: int | None = None) -> Frame:
    """The answer to a ping."""
    return PONG if ref is None else _answer({"type": "pong"}, ref)


def status(state: Literal["up", "degraded"]) -> Frame:
    """How far messages reach has changed."""
    return _frame({"type": "status", "state": state})


def error(code: ErrorCode, message: str, *, ref: int | None = None) -> Frame:
    """A frame of the client was refused. Both conversations have it."""
    return _answer({"type": "error", "code": code.value, "message": message}, ref)


def _answer(fields: dict[str, object], ref: int | None) -> Frame:
    if ref is not None:
        fields["ref"] = ref
    return _frame(fields)


def _frame(fields: Mapping[str, object]) -> Frame:
    return ControlFrame(codec.encode(fields))
