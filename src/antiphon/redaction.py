"""Keeping tickets, tokens and passwords out of the log lines of the server and of this library.

Servers write the address of every WebSocket into their logs, with its query, even when the access log is off.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from urllib.parse import unquote

__all__ = ["SecretsFilter", "hide_secrets", "mask"]

MASK = "***"

_LOGGERS = (
    "antiphon",
    "daphne.access",
    "daphne.http_protocol",
    "daphne.server",
    "daphne.ws_protocol",
    "granian.access",
    "_granian",
    "gunicorn.access",
    "gunicorn.error",
    "hypercorn.access",
    "hypercorn.error",
    "uvicorn",
    "uvicorn.access",
    "uvicorn.asgi",
    "uvicorn.error",
    "websockets",
    "websockets.client",
    "websockets.protocol",
    "websockets.server",
)
_ACCESS_LOG = "uvicorn.access"
_ACCESS_ARGUMENTS = 5
"""Its formatter needs so many as they are: its lines consist of them, each masked by itself, and of nothing else."""
_FAMILIES = ("antiphon.", "daphne.", "granian.", "gunicorn.", "hypercorn.", "uvicorn.", "websockets.")

_ENDINGS = ("token", "ticket", "secret", "password", "passwd", "key", "session", "auth")
_WORDS = (
    *("passphrase", "pwd", "sess", "sid", "otp", "pin", "jwt", "sig", "signature", "credential", "credentials"),
    "authorization",
)
# The last word of a name counts: `access_token`, `X-Auth-Token`, `sessionid`, but not `author` or `keyboard`.
_SECRET = rf"(?:[a-z0-9]*(?:{'|'.join(_ENDINGS)})|{'|'.join(_WORDS)})(?:[-_]?id)?"

# Strangers write what is searched here: no pattern may look at one character again for each of the characters after it.
SCAN_CHARACTERS = 8 * 1024
"""What is looked at of one line where a text is longer than this; what comes after it is left out."""
TEXT_CHARACTERS = 64 * 1024
"""What is looked at of one text."""
PAIRS = 256
"""`name=value` pairs that are looked at in one text, or in a line of a longer one; what comes after is left out."""
_NAME_CHARACTERS = 80
_WORD_CHARACTERS = 8

_parameters: set[str] = set()
"""Parameters that applications named."""

_equals = re.compile(r"=|%3[Dd]")
_reversed_name = re.compile(r"""[^\s=?&;"'(){}<>,/]*""")
_asked = re.compile(r"[?&]")
_reversed_word = re.compile(r"[a-z0-9]*")
_value = re.compile(r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")?[^\s&]*""")
_CLOSING = "'\")]}>,;"
_userinfo = re.compile(r"(?<=://)([^\s/@'\":]*):[^\s/@'\"]*(?=@)")
_header = re.compile(
    r"""(?ix)\b(?P<name>(?:proxy-)?authorization|(?:set-)?cookie|x-(?:api-key|auth-token|csrf-token|access-token))\b
    (?P<between>\\?['"]?\s*[:=,]\s*(?:b(?=['"]))?)
    (?P<value>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\r\n]+)"""
)
_scheme = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/-]{4,}=*")
_member = re.compile(
    rf"""(?ix)(?P<open>\\?['"])(?P<name>(?:[\w.-]{{0,64}}[._-])?{_SECRET})(?P=open)(?P<between>\s*:\s*(?:b(?=['"]))?)
    (?P<quote>\\?['"])(?:(?!(?P=quote)).)*(?:(?P=quote)|$)"""
)


def mask(text: str) -> str:
    """The text with `***` in place of what looks like a secret.

    That is: values of `name=value` pairs (of queries, forms and cookies) and of JSON members whose name ends in ticket,
    token, key, password, session, auth and the like, also when the name is percent-encoded; the headers Authorization,
    Cookie, Set-Cookie and X-Api-Key; what follows `Bearer` or `Basic`; passwords in addresses.

    Of a text above 8 KiB only the first 8 KiB of each line stay, and of all its lines 64 KiB; and nothing stays that
    comes behind 256 pairs. That bounds the time.
    """
    if len(text) <= SCAN_CHARACTERS:
        return _masked(text)
    left_out = len(text) - TEXT_CHARACTERS
    lines = map(_masked_line, text[:TEXT_CHARACTERS].split("\n"))
    return "\n".join(lines) + (f"... ({left_out} characters left out)" if left_out > 0 else "")


def _masked_line(line: str) -> str:
    left_out = len(line) - SCAN_CHARACTERS
    if left_out <= 0:
        return _masked(line)
    start = line[:SCAN_CHARACTERS]
    address = start.rfind("://") + 3
    if address > 2 and not any(character.isspace() for character in start[address:]):
        start = start[:address]  # a password is known by the "@" behind it, which may just have been left out
    before, space, word = start.rpartition(" ")
    if len(word) < _WORD_CHARACTERS:
        start = before + space  # of a token too little may be left to be known as one
    return f"{_masked(start)}... ({left_out} characters left out)"


def _masked(text: str) -> str:
    """What `mask` says of a text that is not too long; takes time in proportion to its length."""
    if "://" in text:
        text = _userinfo.sub(rf"\1:{MASK}", text)
    lowered = text.lower()
    if "bearer" in lowered or "basic" in lowered:
        text = _scheme.sub(rf"\1 {MASK}", text)
    if "=" in text or "%3" in text:
        text = _mask_pairs(text)
    if "authorization" in lowered or "cookie" in lowered or "x-" in lowered:
        text = _header.sub(_masked_header, text)
    if ":" in text and ('"' in text or "'" in text):
        text = _member.sub(rf"\g<open>\g<name>\g<open>\g<between>\g<quote>{MASK}\g<quote>", text)
    return text


def _mask_pairs(text: str) -> str:
    """The values of `name=value`; a value may hold other pairs, as an address in an address does."""
    parts: list[str] = []
    done = 0
    for _ in range(PAIRS):
        equals = _equals.search(text, done)
        if equals is None:
            return "".join((*parts, text[done:]))
        before = text[max(done, equals.start() - _NAME_CHARACTERS) : equals.start()]
        parts.append(text[done : equals.end()])
        done = equals.end()
        name = _end_of(before, _reversed_name) if before else ""
        value = _value.match(text, done) if name and _is_secret(name) else None
        if value is not None and value[0]:
            kept = value[0][1:]
            parts.append(MASK + kept[len(kept.rstrip(_CLOSING)) :])
            done = value.end()
    more = _equals.search(text, done)
    return "".join((*parts, text[done:] if more is None else f"... ({len(text) - done} characters left out)"))


def _is_secret(name: str) -> bool:
    """Whether a parameter of this name is to be masked. Servers decode a name before they look at it."""
    name = unquote(name).lower()
    if _parameters and _asked.split(name)[-1] in _parameters:
        return True
    name = name.removesuffix("]")
    names = [name]
    if name.endswith("id"):
        names.append(re.sub("[-_]$", "", name[:-2]))
    words = [_end_of(name, _reversed_word) for name in names]
    return any(word in _WORDS or word.endswith(_ENDINGS) for word in words)


def _end_of(text: str, pattern: re.Pattern[str]) -> str:
    """The end of a text that consists of what the pattern matches."""
    match = pattern.match(text[::-1])
    return text[len(text) - match.end() :] if match is not None else ""


def _masked_header(match: re.Match[str]) -> str:
    quote = match["value"][:1] if match["value"][:1] in "'\"" else ""
    return f"{match['name']}{match['between']}{quote}{MASK}{quote}"


class SecretsFilter(logging.Filter):
    """Masks secrets in log records, in the text and in its arguments; keeps every record.

    The arguments keep their number and order, since formatters of servers take them apart; only what had to be masked
    becomes a text. It works on the record itself, so that every handler gets the masked one. What an exception's
    traceback shows is masked too. Never raises: a record that cannot be looked at is emptied.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask one record. Always true."""
        try:
            _mask_record(record)
        except Exception as error:
            # Better a line that says nothing than one that says too much, or an exception in the caller's face.
            record.msg, record.args = "a log line could not be masked and was left out: %s", (type(error).__name__,)
            record.exc_info = record.exc_text = record.stack_info = None
        return True


def _mask_record(record: logging.LogRecord) -> None:
    if isinstance(record.args, tuple):
        record.args = tuple(_masked_argument(argument) for argument in record.args)
    elif type(record.args) is dict:
        record.args = {name: _masked_argument(argument) for name, argument in record.args.items()}
    # Any other mapping computes its values, as those of hypercorn and gunicorn do: only the whole line is looked at.
    taken_apart = (
        record.name == _ACCESS_LOG and isinstance(record.args, tuple) and len(record.args) == _ACCESS_ARGUMENTS
    )
    line = "" if taken_apart else record.getMessage()
    masked = mask(line)
    if masked != line:
        # A secret that only the whole line shows, as in "token=%s".
        record.msg, record.args = masked, ()
    if record.exc_info and record.exc_info[0] is not None:
        text = record.exc_text or logging.Formatter().formatException(record.exc_info)
        masked = mask(text)
        if masked != text:
            record.exc_text, record.exc_info = masked, None
    if record.stack_info:
        record.stack_info = mask(record.stack_info)


def _masked_argument(argument: object) -> object:
    """The argument itself if its text shows nothing, else the masked text."""
    if argument is None or isinstance(argument, (int, float)):
        return argument
    text = argument if isinstance(argument, str) else repr(argument) if isinstance(argument, bytes) else str(argument)
    masked = mask(text)
    return argument if masked == text else masked


_filter = SecretsFilter()


def hide_secrets(*, loggers: Iterable[str] = (), parameters: Iterable[str] = ()) -> SecretsFilter:
    """Mask secrets in the log lines of this library and of the common ASGI servers, and of `loggers` too.

    `parameters` are names of parameters whose values are secrets, beside those that `mask` knows by their endings; they
    are masked from then on, in every line. `Security` names those of its authenticators (`Tickets(parameter=…)`).

    Handlers that are configured later get masked records as well. Idempotent, and quick; `Security` and every manager
    call it. Loggers that the application makes itself are left alone: name them, or add the filter that this returns.
    """
    _parameters.update(name.lower() for name in parameters)
    existing = [name for name in logging.root.manager.loggerDict if name.startswith(_FAMILIES)]
    for name in {*_LOGGERS, *existing, *loggers}:
        logger = logging.getLogger(name)
        if _filter not in logger.filters:
            logger.addFilter(_filter)
    return _filter
