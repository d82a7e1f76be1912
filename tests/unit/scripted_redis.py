"""A server on a socket that answers Redis commands as a test says. It runs in threads, and serves any event loop."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self, TypeAlias

Answer: TypeAlias = "bytes | Callable[[list[bytes]], bytes | None] | None"
"""What a command is answered with; None leaves it without an answer, `HANG_UP` ends the connection."""

HANG_UP = b"hang up"

DEADLINE_S = 30.0


class ScriptedRedis:
    """By default a primary at which nobody listens. `answers` names what is different, by the command's name."""

    def __init__(
        self,
        answers: dict[str, Answer] | None = None,
        *,
        greeting: bytes | None = None,
        reads: bool = True,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.answers: dict[str, Answer] = {
            "AUTH": b"+OK\r\n",
            "CLIENT": b"+OK\r\n",
            "PING": b"+PONG\r\n",
            "PUBLISH": b":0\r\n",
            "ROLE": b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n",
            "SELECT": b"+OK\r\n",
            "SUBSCRIBE": _confirm,
            "UNSUBSCRIBE": _confirm,
            **(answers or {}),
        }
        self.commands: list[list[bytes]] = []
        """Everything that was asked, over all connections."""
        self.accepted = 0
        self._greeting = greeting
        self._reads = reads
        self._tls = tls
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._finished = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """Connections that neither side has ended."""
        return len(self._open)

    def names(self) -> list[str]:
        """The names of the commands that came, in order."""
        return [command[0].decode() for command in self.commands]

    def drop(self) -> None:
        """End every connection with a reset."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                connection.shutdown(socket.SHUT_RDWR)

    def hang(self, command: list[bytes]) -> None:
        """As an answer: read nothing more from this connection, and answer nothing."""
        self._finished.wait()

    def push(self, data: bytes) -> None:
        """Send `data` over every connection."""
        for connection in list(self._open):
            connection.sendall(data)

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._finished.set()
        self.drop()
        for thread in self._threads:
            thread.join(DEADLINE_S)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._open.add(connection)
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        raw = connection
        with contextlib.suppress(OSError, ssl.SSLError):
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            if self._greeting is not None:
                connection.sendall(self._greeting)
            elif self._reads:
                self._converse(connection)
            else:
                self._finished.wait()
        self._open.discard(raw)
        connection.close()
        raw.close()

    def _converse(self, connection: socket.socket) -> None:
        for command in _read_commands(connection):
            self.commands.append(command)
            answer = self.answers.get(command[0].decode().upper(), b"-ERR unknown command\r\n")
            if callable(answer):
                answer = answer(command)
            if answer is not None and answer.endswith(HANG_UP):
                connection.sendall(answer.removesuffix(HANG_UP))
                return
            if answer is not None:
                connection.sendall(answer)


def wait_until(condition: Callable[[], bool]) -> None:
    """Block until the condition holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def _confirm(command: list[bytes]) -> bytes:
    kind = command[0].lower()
    return b"".join(
        b"*3\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n:1\r\n" % (len(kind), kind, len(route), route) for route in command[1:]
    )


def _read_commands(connection: socket.socket) -> Iterator[list[bytes]]:
    with connection.makefile("rb") as lines:
        while header := lines.readline():
            words = []
            for _ in range(int(header[1:])):
                size = int(lines.readline()[1:])
                words.append(lines.read(size + 2)[:-2])
            yield words
