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
_FAMILIES = ("antiphon.", "daphne.", "granian.", "gunicorn.", "hypercorn.", "uvicorn.", "websockets.")

_SECRET = (
    r"(?:[a-z0-9]*(?:token|ticket|secret|password|passwd|key|session|auth)|passphrase|pwd|sess|sid|otp|pin|jwt|sig"
    r"|signature|credentials?|authorization)(?:[-_]?id)?"
)
# The last word of a name counts: `access_token`, `X-Auth-Token`, `sessionid`, but not `author` or `keyboard`.
_secret_name = re.compile(rf"(?i)(?:.*[^a-z0-9])?{_SECRET}\]?")

_name = re.compile(r"""([^\s=?&;"'(){}<>,/]{1,80})(?:=|%3[Dd])""")
_value = re.compile(r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")?[^\s&]*""")
_closing = re.compile(r"""['")\]}>,;]+$""")
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
    """
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
    while name := _name.search(text, done):
        parts.append(text[done : name.end()])
        done = name.end()
        # Servers decode a name before they look at it.
        value = _value.match(text, done) if _secret_name.fullmatch(unquote(name[1])) else None
        if value is not None and value[0]:
            closing = _closing.search(value[0][1:])
            parts.append(MASK + (closing[0] if closing else ""))
            done = value.end()
    return "".join((*parts, text[done:]))


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
    line = record.getMessage()
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


def hide_secrets(*, loggers: Iterable[str] = ()) -> SecretsFilter:
    """Mask secrets in the log lines of this library and of the common ASGI servers, and of `loggers` too.

    Handlers that are configured later get masked records as well. Idempotent, and quick; `Security` and every manager
    call it. Loggers that the application makes itself are left alone: name them, or add the filter that this returns.
    """
    existing = [name for name in logging.root.manager.loggerDict if name.startswith(_FAMILIES)]
    for name in {*_LOGGERS, *existing, *loggers}:
        logger = logging.getLogger(name)
        if _filter not in logger.filters:
            logger.addFilter(_filter)
    return _filter
