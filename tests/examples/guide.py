"""The guide's application as its readers start it: `uvicorn app:app` in its folder, one process for each replica."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from antiphon.dev.guard import Guard
from antiphon.dev.ports import HOST, free_port

__all__ = ["GUIDE", "Json", "Listener", "Replica", "eventually"]

GUIDE = Path(__file__).resolve().parents[2] / "examples" / "guide"
WAIT_S = 30.0
NOT_OURS = ("ANTIPHON_BROKER_URL", "REDIS_URL", "USE_REDIS_WEBSOCKET", "ANTIPHON_DEV_REPLICAS")
UNHANDLED = re.compile(r"Traceback|never retrieved|never awaited|Warning:")

Json = dict[str, Any]


async def eventually(look: Callable[[], Awaitable[bool]], what: str) -> None:
    """Look again and again until it is so."""
    deadline = time.monotonic() + WAIT_S
    while not await look():
        assert time.monotonic() < deadline, f"{what}: not within {WAIT_S:g} s"
        await asyncio.sleep(0.05)


class Listener:
    """A client's WebSocket."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def next(self) -> Json:
        """The next message."""
        async with asyncio.timeout(WAIT_S):
            message = json.loads(await self._socket.recv(decode=True))
        assert isinstance(message, dict)
        return message

    async def send(self, text: str | bytes) -> None:
        await self._socket.send(text)

    async def closed(self) -> int:
        """Wait for the close, and return its code. Nothing may come before it."""
        with pytest.raises(ConnectionClosed):
            raise AssertionError(f"a message before the close: {await self.next()}")
        assert self._socket.close_code is not None
        return self._socket.close_code

    async def has_nothing_more(self) -> bool:
        """Whether nothing is under way to it: the answer to a ping comes behind all that was sent before."""
        await self.send('{"type": "ping"}')
        return await self.next() == {"type": "pong"}


class Replica:
    """One process on a port of its own."""

    def __init__(self, url: str | None) -> None:
        self.port = 0
        self._url = url
        self._log = tempfile.NamedTemporaryFile(prefix="guide-", suffix=".log")  # noqa: SIM115 - closed by stop()
        self._text = ""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers; on another port when somebody was quicker to take the first."""
        deadline = time.monotonic() + WAIT_S
        self._launch()
        while not self._answers():
            assert time.monotonic() < deadline, self.log()
            assert self._process is not None
            if self._process.poll() is not None:
                assert "address already in use" in self.log(), self.log()
                self._launch()
            time.sleep(0.05)

    def _launch(self) -> None:
        self.port = free_port()
        environment = {name: value for name, value in os.environ.items() if name not in NOT_OURS}
        environment["PYTHONUNBUFFERED"] = "1"
        if self._url is not None:
            environment["REDIS_URL"] = self._url
        self._log.truncate(0)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "app:app", "--port", str(self.port), "--no-access-log"],
            cwd=GUIDE,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        Guard.shared().watch(self._process.pid)

    def _answers(self) -> bool:
        with contextlib.suppress(httpx2.HTTPError):
            return httpx2.get(f"http://{HOST}:{self.port}/stats", trust_env=False, timeout=5.0).is_success
        return False

    def stop(self) -> int:
        """End it by SIGTERM. Returns its exit code."""
        process = self._process
        assert process is not None
        process.terminate()
        try:
            return process.wait(WAIT_S)
        finally:
            process.kill()
            process.wait()
            Guard.shared().forget(process.pid)
            self._text = self.log()
            self._log.close()

    def log(self) -> str:
        """All that it wrote."""
        return self._text if self._log.closed else Path(self._log.name).read_text(errors="replace")

    def unhandled(self) -> list[str]:
        """What should never be in a log."""
        return [line for line in self.log().splitlines() if UNHANDLED.search(line)]

    async def call(
        self, method: str, path: str, body: object = None, *, user: str | None = "ann", role: str | None = None
    ) -> httpx2.Response:
        """One request as a user."""
        asked = {"user_id": user, "role": role}
        parameters = {name: value for name, value in asked.items() if value is not None}
        async with httpx2.AsyncClient(
            base_url=f"http://{HOST}:{self.port}", verify=False, trust_env=False, timeout=WAIT_S
        ) as client:
            return await client.request(method, path, params=parameters, json=body)

    async def make(
        self, method: str, path: str, body: object = None, *, user: str = "ann", role: str | None = None
    ) -> Json:
        """One request that must succeed. Returns its answer."""
        response = await self.call(method, path, body, user=user, role=role)
        assert response.is_success, f"{response.status_code}: {response.text}"
        answer = response.json()
        assert isinstance(answer, dict)
        return answer

    @contextlib.asynccontextmanager
    async def dial(self, path: str) -> AsyncIterator[Listener]:
        """Open a WebSocket."""
        async with connect(f"ws://{HOST}:{self.port}{path}", proxy=None, open_timeout=WAIT_S) as socket:
            yield Listener(socket)

    @contextlib.asynccontextmanager
    async def listen(self, path: str) -> AsyncIterator[Listener]:
        """Open a WebSocket, and take its first message, which must be `connected`."""
        async with self.dial(path) as listener:
            first = await listener.next()
            assert first["type"] == "connected", first
            yield listener
