"""Messages to JSON and back. orjson does the work where it is installed; without it the results are the same, slower.

Both back ends accept exactly what `strict` accepts: that is what keeps a mixed fleet consistent.
"""

from __future__ import annotations

from antiphon.errors import EnvelopeError
from antiphon.wire import strict
from antiphon.wire.strict import MAX_DEPTH, JSONValue

__all__ = ["FAST", "MAX_DEPTH", "JSONValue", "decode", "encode", "parse", "too_deep"]

_DIGITS_AS_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_BEYOND_64_BITS = b"0" * 19
"""The shortest integers that orjson turns into floats have as many digits."""

try:
    import orjson
except ImportError:
    FAST = False

    def encode(message: object) -> bytes:
        """Encode `message` as compact JSON in UTF-8; see the variant for orjson."""
        return strict.dumps(strict.plain(message))

    def parse(payload: bytes, *, levels: int = MAX_DEPTH) -> JSONValue:
        """Decode strict UTF-8 JSON; see the variant for orjson."""
        return strict.parse(payload, levels=levels)

else:
    FAST = True

    _OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS
    _dumps = orjson.dumps
    _loads = orjson.loads

    def encode(message: object) -> bytes:
        """Encode `message` as compact JSON in UTF-8.

        Accepted are `dict` with `str` keys, `list`, `tuple`, `str`, `int`, finite `float`, `bool`, `None` and their
        subclasses; an `Enum` goes as its value, a `UUID` as its text. Anything else, and whatever is nested deeper than
        `MAX_DEPTH` or contains itself, raises MessageNotSerializable, whose text names the place and the remedy.
        """
        try:
            payload = _dumps(message, None, _OPTIONS)
        except TypeError:
            return strict.dumps(strict.plain(message))
        # orjson writes NaN as null, and nests deeper than allowed: only a text that shows it may be so is looked into.
        # (`in` would try the bytes as a number first, which takes longer than the encoding.)
        if (
            payload.find(b"null") >= 0 or (len(payload) > 2 * MAX_DEPTH and _many_brackets(payload, MAX_DEPTH))
        ) and not strict.sound(message):
            return strict.dumps(strict.plain(message))
        return payload

    def parse(payload: bytes, *, levels: int = MAX_DEPTH) -> JSONValue:
        """Decode as `decode` does, but an integer beyond 64 bits may come out as the nearest float.

        For callers that check the JSON and read only fields of their own.
        """
        try:
            value: JSONValue = _loads(payload)
        except ValueError as error:
            raise EnvelopeError(f"not JSON in UTF-8: {error}") from error
        if len(payload) > 2 * levels and too_deep(payload, value, levels=levels):
            raise EnvelopeError(f"the JSON is nested deeper than {levels} levels")
        return value


def decode(payload: bytes, *, levels: int = MAX_DEPTH) -> JSONValue:
    """Decode strict UTF-8 JSON.

    Raises EnvelopeError for anything else: NaN and infinities, lone surrogates, a byte order mark, numbers beyond the
    range of a double, nesting deeper than `levels`. Integers keep every digit. Of repeated keys the last one counts.
    """
    if FAST and payload.translate(_DIGITS_AS_ZEROS).find(_BEYOND_64_BITS) >= 0:
        return strict.parse(payload, levels=levels)
    return parse(payload, levels=levels)


def too_deep(payload: bytes, value: object, *, levels: int) -> bool:
    """Whether `value`, which `payload` was decoded to, is nested deeper than `levels`."""
    return _many_brackets(payload, levels) and not strict.sound(value, levels=levels)


def _many_brackets(payload: bytes, levels: int) -> bool:
    return payload.count(b"[") + payload.count(b"{") > levels
