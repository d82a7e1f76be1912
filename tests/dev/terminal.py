"""`antiphon dev` as a person starts it: in a terminal of its own, or without one."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.dev.processes import DEADLINE_S

APPLICATION = '''
"""An application without a framework: it says which replica it is, and what its environment is."""

import asyncio, json, os, sys

print("the application is imported", file=sys.stderr)


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if os.environ.get("HANG_AT_THE_END"):
            print("the application hangs", file=sys.stderr)
            await asyncio.sleep(3600)
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "http":
        if scope["path"] == "/exit":
            os._exit(7)
        told = ("ANTIPHON_REPLICA", "ANTIPHON_DEV_REPLICAS", "ANTIPHON_BROKER_URL", "REDIS_URL")
        body = json.dumps({"pid": os.getpid(), **{name: os.environ.get(name) for name in told}}).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
    else:
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": os.environ["ANTIPHON_REPLICA"] + " " + event["text"]})
'''

COMMAND = """
import sys, json
from antiphon.dev.command import run_dev
sys.exit(run_dev(**json.loads(sys.argv[1])))
"""

# The terminal becomes the one that sends Ctrl-C and Ctrl-Z to the command, as for a shell's child.
IN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class Dev:
    """A running `antiphon dev` and all that it has written so far."""

    def __init__(self, process: subprocess.Popen[bytes], *, reader: int, terminal: int | None) -> None:
        self.process = process
        self.text = ""
        self._reader = reader
        self._terminal = terminal
        self._before = None if terminal is None else termios.tcgetattr(terminal)

    @classmethod
    def start(
        cls, folder: Path, *, in_terminal: bool = True, environment: dict[str, str] | None = None, **options: Any
    ) -> Self:
        """Start it on an application in `folder` with 2 replicas and free ports, unless `options` say otherwise."""
        if not (folder / "app.py").exists():
            (folder / "app.py").write_text(APPLICATION)
        arguments = {
            "app": "app:app",
            "replicas": 2,
            "port": 0,
            "redis_url": None,
            "app_dir": str(folder),
            "keys": True,
        }
        command = ["-c", COMMAND, json.dumps(arguments | options)]
        variables = {**os.environ, "TERM": "xterm", "NO_COLOR": "1", **(environment or {})}
        if in_terminal:
            reader, terminal = pty.openpty()
            started = subprocess.Popen(
                [sys.executable, "-c", IN_TERMINAL, *command],
                stdin=terminal,
                stdout=terminal,
                stderr=terminal,
                start_new_session=True,
                env=variables,
            )
            return cls(started, reader=reader, terminal=terminal)
        reader, writer = os.pipe()
        started = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=writer,
            start_new_session=True,
            env=variables,
        )
        os.close(writer)
        return cls(started, reader=reader, terminal=None)

    def wait_for(self, text: str, *, since: int = 0) -> str:
        """Until it has written `text` after the first `since` characters; returns all after these."""
        self._read_until(lambda: text in self.text[since:], what=f"{text!r} in the output")
        return self.text[since:]

    def wait_until_ready(self) -> Self:
        """Until the addresses are shown."""
        self.wait_for("q leave" if self._terminal is not None else "Ctrl-C ends everything")
        return self

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._reader, keys.encode())

    def after(self, keys: str, text: str) -> str:
        """Press keys, wait for `text`, and return what was written since."""
        self._read(0.0)
        since = len(self.text)
        self.press(keys)
        return self.wait_for(text, since=since)

    def wait(self) -> int:
        """Until it ended; returns its exit code."""
        self._read_until(lambda: self.process.poll() is not None, what="its end")
        self._read(0.0)
        return self.process.wait()

    def terminal_is_as_before(self) -> bool:
        """Whether echo, line editing and the like are as they were before the start."""
        assert self._terminal is not None
        return termios.tcgetattr(self._terminal) == self._before

    @property
    def port(self) -> int:
        """The shared one."""
        return self._find(r"open +http://127\.0\.0\.1:(\d+)")

    @property
    def broker_port(self) -> int:
        """The broker's."""
        return self._find(r"broker +redis://127\.0\.0\.1:(\d+)")

    def status(self) -> dict[str, list[str]]:
        """The table of the key s: the words of each row by its first one."""
        lines = self.after("s", "go on to a replica").splitlines()
        # What a replica logs may come in between.
        table = [line.strip() for line in lines if not re.match(r"\d\d:\d\d:\d\d ", line)]
        rows = (re.split(r"   +", line) for line in table)
        return {row[0]: row[1:] for row in rows if len(row) > 1}

    def pids(self) -> list[int]:
        """All processes that it started, as the table says."""
        return [int(row[1]) for name, row in self.status().items() if name.startswith(("replica", "broker"))]

    def get(self, path: str = "/", *, replica: int = 0) -> dict[str, Any]:
        """Ask a replica, or the shared port (0)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port + replica, timeout=DEADLINE_S)
        with contextlib.closing(connection):
            connection.request("GET", path)
            found: dict[str, Any] = json.loads(connection.getresponse().read())
            return found

    def close(self) -> None:
        """End it if a test has not, and free the terminal."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            with contextlib.suppress(AssertionError):
                self.wait()
            self.process.kill()
        self.process.wait()
        os.close(self._reader)
        if self._terminal is not None:
            os.close(self._terminal)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _find(self, pattern: str) -> int:
        match = re.search(pattern, self.text)
        assert match, self.text
        return int(match[1])

    def _read_until(self, condition: Callable[[], bool], *, what: str) -> None:
        end = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < end, f"not in {DEADLINE_S:.0f} s: {what}. It wrote:\n{self.text}"
            had_ended = self.process.poll() is not None
            self._read(0.05)
            assert not had_ended or condition(), f"it ended before: {what}. It wrote:\n{self.text}"

    def _read(self, timeout_s: float) -> None:
        while select.select([self._reader], [], [], timeout_s)[0]:
            try:
                data = os.read(self._reader, 65_536)
            except OSError:  # the other side of a terminal is closed
                data = b""
            if not data:
                time.sleep(timeout_s)
                return
            self.text += data.decode(errors="replace").replace("\r\n", "\n")
            timeout_s = 0.0
