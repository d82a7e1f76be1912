"""Publishing without an event loop: for scripts, workers and synchronous endpoints."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self, cast

import redis.exceptions as foreign
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.retry import Retry

from antiphon.brokers._redis import RedisAddress, parse_address
from antiphon.brokers._redis_commands import answers_ping, check_role, command, is_optional, sign_in_commands
from antiphon.brokers._redis_errors import dial_failed, hung_up, lost, raw_reply, refused, timed_out
from antiphon.codes import Reason
from antiphon.errors import BrokerError, BrokerRefused, BrokerTimeout, BrokerUnavailable

__all__ = ["SyncRedisPublishing"]


class SyncRedisPublishing:
    """Publishes to a Redis or Valkey server by its URL, and blocks until the server answers.

    It connects with the first publication. A connection that was reset is made anew once and the publication sent
    again, so that its payload must carry an id by which the receivers drop the second copy. Threads may share it and
    wait for one another; a process made by fork gets a connection of its own.

    Raises InvalidBrokerURL for a URL that cannot be used, TLSRequired as `RedisBroker` does. Every step on the network
    takes at most `timeout_s`; of these there are three at worst (what a lost connection had to answer, the new
    connection, its answer).
    """

    def __init__(self, url: str, *, timeout_s: float = 2.0, require_tls: bool | None = None) -> None:
        self._address = parse_address(url, require_tls=require_tls)
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._line: _Line | None = None
        self._is_closed = False
        _all.add(self)

    def __repr__(self) -> str:
        return f"<SyncRedisPublishing {self._address}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def address(self) -> str:
        """`host:port/db`, for logs: without user and password."""
        return self._address.text

    def publish(self, route: str, payload: bytes) -> int:
        """Send one publication; returns the number of subscribers that the server handed it to.

        Raises BrokerRefused when the server answers with an error; BrokerTimeout when it does not answer in time, so
        that it is unknown whether it carried it out; BrokerUnavailable when it cannot be reached, or with another
        reason: CONNECTION_LOST when the connection ended and a new one did not help (unknown as well), BUSY when other
        threads held the connection for `timeout_s`, CLOSED after `close`.
        """
        data = command(b"PUBLISH", route.encode(), payload)
        if not self._lock.acquire(timeout=self._timeout_s):
            raise BrokerUnavailable(
                f"other threads keep the connection to the broker {self._address} busy: use a publisher for each",
                reason=Reason.BUSY,
            )
        try:
            return self._publish(data)
        finally:
            self._lock.release()

    def close(self) -> None:
        """End the connection. Idempotent; waits for a publication that is under way in another thread."""
        with self._lock:
            self._is_closed = True
            self._hang_up()

    def _publish(self, data: bytes) -> int:
        if self._is_closed:
            raise BrokerUnavailable(f"this publisher to the broker {self._address} was closed", reason=Reason.CLOSED)
        if self._line is None:
            self._line = _Line(self._address, timeout_s=self._timeout_s)
        try:
            return self._ask(data)
        except BrokerUnavailable:
            pass
        try:
            self._line = _Line(self._address, timeout_s=self._timeout_s)
        except BrokerError as error:
            # Not the reason of the new connection: the lost one may have carried the publication out.
            raise BrokerUnavailable(str(error), reason=Reason.CONNECTION_LOST) from error.__cause__
        return self._ask(data)

    def _ask(self, data: bytes) -> int:
        assert self._line is not None
        try:
            reply = self._line.ask("PUBLISH", data)
            if isinstance(reply, int):
                return reply
        except BrokerError:
            self._hang_up()  # redis-py would connect again by itself, and not sign in
            raise
        reply = None  # whatever it was: error reports may show a frame's variables
        self._hang_up()
        raise lost(self._address, None, doing="its answer to PUBLISH is no number")

    def _hang_up(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.close()

    def _forked(self) -> None:
        """In the child: the lock may be held by a thread that was not copied, and the socket is the parent's."""
        self._lock = threading.Lock()
        self._hang_up()


class _Line:
    """One life of a blocking connection, signed in."""

    def __init__(self, address: RedisAddress, *, timeout_s: float) -> None:
        self._address = address
        self._connection = _connection(address, timeout_s=timeout_s)
        failure: BrokerError | None = None
        try:
            self._connection.connect()  # type: ignore[no-untyped-call]  # redis-py has types for some of it
        except (foreign.RedisError, OSError) as error:
            failure = dial_failed(address, error)
        if failure is not None:
            self.close()
            raise failure
        try:
            self._sign_in()
        except BrokerTimeout:
            self.close()
            raise BrokerUnavailable(
                f"the broker {address} accepts connections and does not answer: it hangs, or it is overloaded",
                reason=Reason.TIMEOUT,
            ) from None
        except BrokerUnavailable as error:
            self.close()
            raise hung_up(address, error) from error.__cause__
        except BaseException:
            self.close()
            raise

    def ask(self, name: str, data: bytes) -> Any:
        """Send one command and return its reply. Raises BrokerError; then the connection is of no use any more."""
        failure = self._send(data)
        if failure is not None:
            raise failure
        return self._receive(name)

    def close(self) -> None:
        """End the connection without waiting for the other side."""
        self._connection.disconnect()  # type: ignore[no-untyped-call]  # as above

    def _sign_in(self) -> None:
        # No variable here holds the commands: one of them is AUTH, and error reports may show a frame's variables.
        failure = self._send(b"".join(data for _, data in sign_in_commands(self._address)))
        if failure is not None:
            raise failure
        for name in [name for name, _ in sign_in_commands(self._address)]:
            try:
                reply = self._receive(name)
            except BrokerRefused as error:
                if not is_optional(name, error):
                    raise
            else:
                if name == "ROLE":
                    check_role(reply, self._address)

    def _send(self, data: bytes) -> BrokerError | None:
        try:
            self._connection.send_packed_command([data], check_health=False)  # type: ignore[no-untyped-call]  # as above
        except foreign.TimeoutError as error:
            return timed_out(self._address, error)
        except (foreign.RedisError, OSError) as error:
            return lost(self._address, error)
        return None

    def _receive(self, name: str) -> Any:
        failure: BrokerError | None
        try:
            return self._connection.read_response(disable_decoding=True)
        except foreign.TimeoutError as error:
            failure = timed_out(self._address, error)
        except (foreign.RedisError, OSError) as error:
            failure = self._failure(name, error)
        if failure is not None:
            raise failure
        return b"PONG"

    def _failure(self, name: str, error: Exception) -> BrokerError | None:
        """What an exception of redis-py means; None for an error that is as good as an answer."""
        reply = raw_reply(error)
        if reply is None:
            return lost(self._address, error)
        return None if name == "PING" and answers_ping(reply) else refused(self._address, reply, doing=name)


def _connection(address: RedisAddress, *, timeout_s: float) -> AbstractConnection:
    """A connection of redis-py that sends nothing by itself, and neither retries nor checks anything."""
    arguments: dict[str, Any] = {
        **address.options,
        "driver_info": None,
        "health_check_interval": 0,
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "socket_connect_timeout": timeout_s,
        "socket_timeout": timeout_s,
    }
    return _KINDS[address.kind](**arguments)


_KINDS: Final = cast(
    "dict[str, Callable[..., AbstractConnection]]",
    {"tcp": Connection, "tls": SSLConnection, "unix": UnixDomainSocketConnection},
)

_all: weakref.WeakSet[SyncRedisPublishing] = weakref.WeakSet()


def _after_fork() -> None:
    for publishing in list(_all):
        publishing._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
