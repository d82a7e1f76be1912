"""What travels between replicas: a publication with what the other side must know about it.

An envelope is one JSON object. `antiphon`, the major version, comes first and `message` last, as the publisher encoded
it: no replica decodes and encodes a message again. A JSON object without `antiphon` is a plain message for every client
of the channel; that is what programs without this library publish.

| field | type | meaning; absent means |
| --- | --- | --- |
| `antiphon` | `1` | major version of this format; absent: a plain message |
| `id` | str, 1-200 characters | the publication's id, for dropping repeats; absent: never a repeat |
| `from` | str | id of the replica that published it; absent: another program |
| `text` | bool | the message is a JSON string whose content goes out as it stands; absent: `false` |
| `users` | array of str | only the clients of these user ids; absent: everybody (an empty array: nobody) |
| `not` | array of str | ids of connections that do not get it; absent: none |
| `expires` | int | Unix time in ms from which on it is of no use; absent: never |
| `slow` | str | where it has to wait for a client: `drop`, or `newest` of its `key`; absent: it is never dropped |
| `key` | str, 1-128 characters | with `newest`: what a later message of the same key takes the place of; absent: none |
| `retry` | int | it is a re-send: milliseconds since the publication; absent: the first attempt |
| `kind` | str | a control message of this kind, never for clients; absent: a message |
| `at` | int | Unix time of the publication in ms; absent: unknown |
| `message` | any JSON | the message |

A signed envelope has `sig` right before `message`: see `wire.signing`. Here it is a field that is not known.

Fields that are not known are ignored, and so is a `slow` that is not known. A known field of another type, `null`
included, makes the envelope malformed: to take a broken `users` for "everybody" would tell everybody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Literal, TypeAlias, cast

from antiphon.errors import EnvelopeError, UnsupportedEnvelope
from antiphon.wire import codec

__all__ = ["KEY_CHARACTERS", "VERSION", "Envelope", "WhenSlow", "decode", "encode"]

VERSION = 1

_MESSAGE = b',"message":'
_BLANKS = b" \t\r\n"
_ID_CHARACTERS = 200
KEY_CHARACTERS = 128
"""The most that `key` may have."""
_MOST = 2**63
_OWN_LEVELS = codec.MAX_DEPTH + 1
"""The envelope is one level around a message that may be nested to the limit."""


WhenSlow: TypeAlias = Literal["drop", "newest"]


@dataclass(slots=True)
class Envelope:
    """A publication as it travels. Not to be changed once it was made: replicas share it (freezing would cost 1 µs)."""

    id: str | None
    """Drops repeats; None for plain messages of other programs, which are never taken for repeats."""
    payload: bytes
    """The message as JSON, just as it was encoded; a JSON string when `is_text`."""
    is_text: bool = False
    """Whether clients get the content of the JSON string instead of JSON."""
    sender: str | None = None
    """The id of the replica that published it."""
    users: frozenset[str] | None = None
    """The user ids it is for; None for everybody."""
    exclude: frozenset[str] | None = None
    """The ids of connections that do not get it."""
    expires_at_ms: int | None = None
    """Unix time from which on it is of no use."""
    retry_age_ms: int | None = None
    """How old the publication was when it was sent again; None on the first attempt."""
    kind: str | None = None
    """None for a message; otherwise what kind of control message it is."""
    at_ms: int | None = None
    """Unix time of the publication."""
    slow: WhenSlow | None = None
    """What happens to it where it has to wait for a client that is behind; None: it is never dropped."""
    key: str | None = None
    """With "newest": a later publication of the same key takes its place."""


def encode(envelope: Envelope) -> bytes:
    """Return the envelope's JSON; `payload` goes in as it is and must be JSON.

    Raises MessageNotSerializable when a name in it is no valid text.
    """
    header: dict[str, object] = {"antiphon": VERSION}
    if envelope.id is not None:
        header["id"] = envelope.id
    if envelope.sender is not None:
        header["from"] = envelope.sender
    if envelope.at_ms is not None:
        header["at"] = envelope.at_ms
    if envelope.is_text:
        header["text"] = True
    if envelope.users is not None:
        header["users"] = list(envelope.users)
    if envelope.exclude is not None:
        header["not"] = list(envelope.exclude)
    if envelope.expires_at_ms is not None:
        header["expires"] = envelope.expires_at_ms
    if envelope.slow is not None:
        header["slow"] = envelope.slow
    if envelope.key is not None:
        header["key"] = envelope.key
    if envelope.retry_age_ms is not None:
        header["retry"] = envelope.retry_age_ms
    if envelope.kind is not None:
        header["kind"] = envelope.kind
    return b"".join((codec.encode(header)[:-1], _MESSAGE, envelope.payload, b"}"))


def decode(data: bytes) -> Envelope:
    """Understand what came from the broker: an envelope, or a JSON object, which is a plain message.

    Raises EnvelopeError for anything else, UnsupportedEnvelope for another major version; nothing else whatever the
    bytes are. The message of an envelope is checked to be JSON, and kept as it came.
    """
    if data.startswith(b'{"antiphon":'):
        envelope = _decode_own(data)
        if envelope is not None:
            return envelope
    return _decode_any(data)


def _decode_own(data: bytes) -> Envelope | None:
    """Read the spelling that `encode` writes; None when it is another one, or malformed.

    It splits at the first `,"message":`. In a JSON string these bytes cannot stand, since the quotes would be escaped;
    in a nested object the part before is no JSON; and with a field after the message the part behind is none.
    """
    header, found, rest = data.partition(_MESSAGE)
    if not found or not rest.endswith(b"}"):
        return None
    payload = rest[:-1].strip(_BLANKS)
    try:
        fields: dict[str, object] = codec.parse(header + b"}", levels=_OWN_LEVELS)  # type: ignore[assignment]  # "{…}"
        message = codec.parse(payload)
    except EnvelopeError:
        return None
    _check_version(fields["antiphon"])
    return _read(fields, payload, message)


def _decode_any(data: bytes) -> Envelope:
    fields = codec.parse(data, levels=_OWN_LEVELS)
    if not isinstance(fields, dict):
        raise EnvelopeError(f"what is published must be a JSON object, this is {_JSON_NAMES[type(fields)]}")
    if "antiphon" not in fields:
        if len(data) > 2 * codec.MAX_DEPTH and codec.too_deep(data, fields, levels=codec.MAX_DEPTH):
            raise EnvelopeError(f"the message is nested deeper than {codec.MAX_DEPTH} levels")
        return Envelope(None, data.strip(_BLANKS))
    _check_version(fields["antiphon"])
    if "message" not in fields:
        raise EnvelopeError("the envelope has no message")
    # Of a spelling that is not ours the message keeps its value, not its bytes.
    exact = cast("dict[str, object]", codec.decode(data, levels=_OWN_LEVELS))
    return _read(exact, codec.encode(exact["message"]), exact["message"])


def _check_version(version: object) -> None:
    if type(version) is int and version == VERSION:
        return
    if type(version) in (int, float):
        raise UnsupportedEnvelope(version)
    raise EnvelopeError(f"the envelope's version is not a number but {_JSON_NAMES[type(version)]}")


def _read(fields: Mapping[str, object], payload: bytes, message: object) -> Envelope:
    """Fill an envelope. The fields that every envelope has are read here, the others by `_READERS`."""
    draft = Envelope(None, payload)
    for name, value in fields.items():
        if name == "id":
            if type(value) is not str or not 0 < len(value) <= _ID_CHARACTERS:
                raise EnvelopeError(f"the envelope's id is not a string of 1 to {_ID_CHARACTERS} characters")
            draft.id = value
        elif name == "from":
            if type(value) is not str:
                raise _mistyped(name, value)
            draft.sender = value
        elif name == "at":
            if type(value) is not int or not 0 <= value < _MOST:
                raise _mistyped(name, value)
            draft.at_ms = value
        elif name in _READERS:
            _READERS[name](draft, name, value)
    if draft.is_text and type(message) is not str:
        raise EnvelopeError("the envelope says that its message is text, but it is no JSON string")
    return draft


def _read_text(draft: Envelope, name: str, value: object) -> None:
    if type(value) is not bool:
        raise _mistyped(name, value)
    draft.is_text = value


def _read_kind(draft: Envelope, name: str, value: object) -> None:
    if type(value) is not str:
        raise _mistyped(name, value)
    draft.kind = value


def _read_users(draft: Envelope, name: str, value: object) -> None:
    draft.users = _strings(name, value)


def _read_not(draft: Envelope, name: str, value: object) -> None:
    draft.exclude = _strings(name, value)


def _read_expires(draft: Envelope, name: str, value: object) -> None:
    draft.expires_at_ms = _whole_number(name, value)


def _read_retry(draft: Envelope, name: str, value: object) -> None:
    draft.retry_age_ms = _whole_number(name, value)


def _read_slow(draft: Envelope, name: str, value: object) -> None:
    if type(value) is not str:
        raise _mistyped(name, value)
    if value == "drop":
        draft.slow = "drop"
    elif value == "newest":
        draft.slow = "newest"


def _read_key(draft: Envelope, name: str, value: object) -> None:
    if type(value) is not str or not 0 < len(value) <= KEY_CHARACTERS:
        raise EnvelopeError(f"the envelope's key is not a string of 1 to {KEY_CHARACTERS} characters")
    draft.key = value


_READERS: dict[str, Callable[[Envelope, str, object], None]] = {
    "text": _read_text,
    "users": _read_users,
    "not": _read_not,
    "expires": _read_expires,
    "slow": _read_slow,
    "key": _read_key,
    "retry": _read_retry,
    "kind": _read_kind,
}

_JSON_NAMES = {
    NoneType: "null",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
}


def _strings(name: str, value: object) -> frozenset[str]:
    if type(value) is not list or not {str}.issuperset(map(type, value)):
        raise _mistyped(name, value)
    return frozenset(value)


def _whole_number(name: str, value: object) -> int:
    if type(value) is not int or not 0 <= value < _MOST:
        raise _mistyped(name, value)
    return value


def _mistyped(name: str, value: object) -> EnvelopeError:
    return EnvelopeError(
        f"the envelope's field {name!r} has a value that is not allowed there ({_JSON_NAMES[type(value)]})"
    )
