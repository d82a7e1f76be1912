"""Starts replicas in half the time: by forks of a process that has imported already what all of them need.

Each replica is a process of its own, as `python -c CODE ARGUMENT …` would be: with its environment, its log, and all
modules of the site imported anew. Only other people's packages and the library are there before.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from antiphon.dev.guard import Guard

__all__ = ["Replica", "start", "tend"]

FOLDER = Path(__file__).parents[1]
IMPORTS = (
    "antiphon, antiphon.serving, uvicorn, uvloop, websockets.server, fastapi, fastapi.middleware.cors, pydantic.v1",
    "pydantic_settings, sqlalchemy.ext.asyncio, sqlalchemy.dialects.sqlite.aiosqlite",
    "sqlalchemy.dialects.postgresql.asyncpg, redis.asyncio, limits.aio.storage, limits.aio.strategies, structlog",
    "typer, python_multipart, pwdlib.hashers.argon2, nh3, markdown_it",
)


class Replica:
    """One of the processes, in the terms of subprocess.Popen."""

    def __init__(self, nursery: _Nursery, pid: int) -> None:
        self._nursery = nursery
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code, once it has ended. Until somebody has asked, its number is nobody else's."""
        if self.returncode is None:
            self.returncode = self._nursery.ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"replica {self.pid}", timeout)
            time.sleep(0.01)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Nursery:
    """The process that forks. It ends with this one."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from harness.nursery import tend; tend()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
            # Ctrl-C in the terminal is for this process, which ends the replicas in its turn.
            start_new_session=True,
        )
        Guard.shared().watch(self._process.pid)
        self._lock = threading.Lock()

    def ask(self, request: Mapping[str, object]) -> Any:
        """One request, one answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            raise AssertionError(f"the process that starts replicas ended with {self._process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        Guard.shared().forget(self._process.pid)


_nursery: _Nursery | None = None


def start(code: str, *arguments: str, environment: Mapping[str, str], log: Path) -> Replica:
    """A new process that runs this code, with what it writes at the end of the log."""
    global _nursery
    if _nursery is None:
        _nursery = _Nursery()
        atexit.register(_nursery.close)
    order = {"code": code, "arguments": arguments, "environment": dict(environment), "log": str(log)}
    return Replica(_nursery, _nursery.ask({"start": order}))


# -- in the process that forks -----------------------------------------------------------------------------------------


def tend() -> None:
    """Fork and look after the forks, as the lines of standard input say, until it ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing else gets between the answers
    for line in IMPORTS:
        with contextlib.suppress(ImportError):  # what the site needs it imports itself
            exec(f"import {line}")
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            sys.stdout.flush()
            pid = os.fork()
            if pid == 0:
                _become(**request["start"])
            answers.write(f"{pid}\n")
        else:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answers.write(f"{os.waitstatus_to_exitcode(status) if pid else 'null'}\n")
        answers.flush()


def _become(*, code: str, arguments: list[str], environment: dict[str, str], log: str) -> NoReturn:
    """Be the new process: nothing of the one before is left but its modules."""
    exit_code = 1
    try:
        os.environ.clear()
        os.environ.update(environment)
        nothing = os.open(os.devnull, os.O_RDONLY)
        output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for source, target in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        os.closerange(3, 256)
        path = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
        sys.path[:] = [*path, *(entry for entry in sys.path if entry not in (str(FOLDER), *path))]
        sys.argv = ["-c", *arguments]
        exec(compile(code, "<replica>", "exec"), {"__name__": "__main__"})
        exit_code = 0
    except SystemExit as end:
        exit_code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(exit_code)
