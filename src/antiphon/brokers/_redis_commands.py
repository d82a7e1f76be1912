"""Commands in RESP, and what is asked of a server before it is used: the same for every kind of connection."""

from __future__ import annotations

from typing import Any

from antiphon.brokers._redis import RedisAddress
from antiphon.codes import Reason
from antiphon.errors import BrokerRefused

__all__ = ["answers_ping", "check_role", "command", "is_optional", "sign_in_commands"]


def command(*words: bytes) -> bytes:
    """A command, ready to be sent."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def sign_in_commands(address: RedisAddress) -> list[tuple[str, bytes]]:
    """Names and bytes of the first commands, for one write.

    PING says whether the server serves, ROLE whether what is published there reaches everybody, and the name helps
    whoever reads CLIENT LIST.
    """
    commands = [
        ("PING", command(b"PING")),
        ("ROLE", command(b"ROLE")),
        ("CLIENT", command(b"CLIENT", b"SETNAME", address.client_name.encode())),
    ]
    if address.database:
        commands.insert(1, ("SELECT", command(b"SELECT", b"%d" % address.database)))
    if address.credentials:
        commands.insert(0, ("AUTH", command(b"AUTH", *address.credentials)))
    return commands


def is_optional(name: str, error: BrokerRefused) -> bool:
    """Whether the connection is good although this command of the sign-in was refused: by an ACL, or as unknown."""
    return name in ("CLIENT", "ROLE") and error.reason in (Reason.PERMISSION, Reason.REFUSED)


def answers_ping(reply: str) -> bool:
    """Whether this error is as good as a PONG: a server that cannot save to disk says so, and still publishes."""
    return reply.startswith("MISCONF")


def check_role(role: Any, address: RedisAddress) -> None:
    """Raises BrokerRefused for the ROLE of a server that does not reach all listeners."""
    kind = role[0] if isinstance(role, list) and role else None
    if kind == b"slave":
        primary = f"{role[1].decode(errors='replace')}:{role[2]}" if len(role) > 2 else "another server"
        raise BrokerRefused(
            f"the broker {address} is a replica of {primary}, and what is published on a replica stays there: "
            "point the broker URL at the primary",
            reason=Reason.READ_ONLY,
        )
    if kind == b"sentinel":
        raise BrokerRefused(
            f"the broker {address} is a Sentinel: point the broker URL at the primary that it watches",
            reason=Reason.REFUSED,
        )
