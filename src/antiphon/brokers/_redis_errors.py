"""What the errors of a Redis server and of the way to it mean: a reason for programs, cause and fix for people."""

from __future__ import annotations

import socket
import ssl
from typing import Final, TypeVar

import redis.exceptions as foreign

from antiphon.brokers._redis import RedisAddress
from antiphon.codes import Reason
from antiphon.errors import BrokerError, BrokerRefused, BrokerTimeout, BrokerUnavailable

__all__ = ["dial_failed", "hung_up", "lost", "raw_reply", "refused", "timed_out"]

_E = TypeVar("_E", bound=BrokerError)

_BY_CODE: Final = {
    "NOAUTH": (
        Reason.AUTHENTICATION,
        "it asks for a password: put it into the broker URL, as in redis://user:password@host:6379/0",
    ),
    "WRONGPASS": (
        Reason.AUTHENTICATION,
        "user name or password are wrong, or the user is switched off: compare the broker URL with its ACL LIST "
        "(a password without a user is written redis://:password@host)",
    ),
    "NOPERM": (
        Reason.PERMISSION,
        "its ACL does not allow that to this user: grant the command (ACL SETUSER name +command), "
        "the channels (&prefix*) and the keys (~antiphon:*)",
    ),
    "OOM": (
        Reason.OUT_OF_MEMORY,
        "it has reached maxmemory and may evict nothing: raise maxmemory or choose an eviction policy",
    ),
    "LOADING": (Reason.LOADING, "it is still reading its data from disk: it will be ready by itself"),
    "READONLY": (Reason.READ_ONLY, "it is a replica: point the broker URL at the primary"),
    "MASTERDOWN": (Reason.READ_ONLY, "it is a replica that lost its primary: point the broker URL at the primary"),
    "DENIED": (
        Reason.PERMISSION,
        "it is in protected mode, which admits this machine only: set a password and name it in the broker URL",
    ),
    "MISCONF": (Reason.REFUSED, "it cannot write to its disk: look into its log"),
    "BUSY": (Reason.REFUSED, "a Lua script runs there and blocks it: wait, or end it with SCRIPT KILL"),
}

_BY_TEXT: Final = (
    (
        "max number of clients",
        Reason.MAX_CLIENTS,
        "it has as many connections as it admits: raise its maxclients, or find who holds them with CLIENT LIST",
    ),
    ("invalid password", Reason.AUTHENTICATION, "the password is wrong: compare the broker URL with its requirepass"),
    (
        "without any password configured",
        Reason.AUTHENTICATION,
        "it has no password, but the broker URL does: remove it there, or set requirepass",
    ),
    (
        "no password is set",
        Reason.AUTHENTICATION,
        "it has no password, but the broker URL does: remove it there, or set requirepass",
    ),
    (
        "db index is out of range",
        Reason.REFUSED,
        "it has no database of that number: choose another at the end of the broker URL, or raise its databases",
    ),
)


def refused(address: RedisAddress, reply: str, *, doing: str) -> BrokerRefused:
    """The error for an error reply such as `NOPERM this user has no permissions ...`."""
    reason, fix = _BY_CODE.get(reply.partition(" ")[0], (Reason.REFUSED, ""))
    if not fix:
        for text, named_reason, named_fix in _BY_TEXT:
            if text in reply.lower():
                reason, fix = named_reason, named_fix
                break
    said = address.scrub(reply)[:300]
    explained = f"{fix} (it said: {said})" if fix else f"it said: {said}"
    return BrokerRefused(f"the broker {address} refuses {doing}: {explained}", reason=reason)


def dial_failed(address: RedisAddress, error: Exception) -> BrokerError:
    """The error for what redis-py raised while it connected."""
    reason, explained = _explain(_system_error(error), str(error))
    if reason is Reason.TIMEOUT and address.kind == "tls":
        explained += ". A port without TLS may be silent too: it is written redis://"
    text = f"the broker {address} cannot be reached: {address.scrub(explained)[:500]}"
    return _chain(BrokerUnavailable(text, reason=reason), error, address)


def raw_reply(error: Exception) -> str | None:
    """The error reply as the server sent it, from the exception that redis-py made of it; None for another error."""
    code: str | None = getattr(error, "status_code", None)
    if code is not None:
        return f"{code} {error}"
    return str(error) if isinstance(error, foreign.ResponseError) else None


def lost(address: RedisAddress, error: BaseException | None, *, doing: str = "") -> BrokerUnavailable:
    """The error for a connection that worked and ended."""
    detail = (
        doing or (address.scrub(str(error))[:300] if error else "") or "the server or something on the way ended it"
    )
    text = f"the connection to the broker {address} was lost: {detail}"
    return _chain(BrokerUnavailable(text, reason=Reason.CONNECTION_LOST), error, address)


def hung_up(address: RedisAddress, error: BrokerUnavailable) -> BrokerUnavailable:
    """The error for a server that ended the connection before it was signed in."""
    if error.reason is not Reason.CONNECTION_LOST or address.kind != "tcp":
        return error
    return BrokerUnavailable(f"{error}. A port that expects TLS is written rediss://", reason=error.reason)


def timed_out(address: RedisAddress, error: BaseException) -> BrokerTimeout:
    """The error for an answer that did not come."""
    text = f"the broker {address} did not answer in time: it hangs, or it is overloaded"
    return _chain(BrokerTimeout(text), error, address)


def _system_error(error: BaseException) -> BaseException:
    """The operating system's or TLS' error below redis-py's, if there is one."""
    below = error.__cause__ or error.__context__
    while below is not None:
        if isinstance(below, OSError):
            return below
        below = below.__cause__ or below.__context__
    return error


def _explain(error: BaseException, said: str) -> tuple[Reason, str]:
    match error:
        case ssl.SSLCertVerificationError():
            return Reason.UNREACHABLE, (
                f"its certificate is not trusted ({error.verify_message}): name its authority with "
                "?ssl_ca_certs=/path/to/ca.pem at the end of the broker URL"
            )
        case ssl.SSLError():
            return Reason.UNREACHABLE, f"TLS failed: does this port speak TLS? If not, write redis:// ({error})"
        case TimeoutError() | foreign.TimeoutError():
            return Reason.TIMEOUT, "no answer in time: it hangs, or a firewall drops what is sent to it"
        case socket.gaierror():
            return Reason.UNREACHABLE, f"its host name is not known: check the spelling and the DNS ({error})"
        case FileNotFoundError():
            return Reason.UNREACHABLE, "there is no such socket: is the server running, and its unixsocket this path?"
        case PermissionError():
            return Reason.UNREACHABLE, "this process may not open its socket: check unixsocketperm and the group"
        case ConnectionResetError() | BrokenPipeError():
            return Reason.UNREACHABLE, _ENDED
    if isinstance(error, ConnectionRefusedError) or "Connect call failed" in said:
        return Reason.UNREACHABLE, "nothing listens there: is the server running, are host and port right?"
    if "closed by server" in said.lower():
        return Reason.UNREACHABLE, _ENDED
    return Reason.UNREACHABLE, said


_ENDED: Final = (
    "it ended the connection at once: is it a Redis or Valkey server? A port that expects TLS is written rediss://"
)


def _chain(error: _E, cause: BaseException | None, address: RedisAddress) -> _E:
    """Keep `cause`, but neither one with a password in its text nor its frames, whose variables hold the password."""
    if cause is not None and not address.holds_secret(cause):
        error.__cause__ = cause
        below: BaseException | None = cause
        while below is not None:
            below.__traceback__ = None
            below = below.__cause__ or below.__context__
    return error
