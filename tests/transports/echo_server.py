"""A server in a process of its own, so that its memory can be measured: it echoes, on every way to the sockets.

At `/` the application reads its socket, at `/serve` the library does, at `/deaf` nobody.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from antiphon import Connection, WebSocketManager, install
from antiphon.dev.guard import Guard
from tests.transports.servers import PROTOCOLS, WAIT_S, Way

__all__ = ["EchoServer", "echo_server"]

ROOT = Path(__file__).parents[2]
BROKERS = ("ANTIPHON_BROKER_URL", "REDIS_URL", "USE_REDIS_WEBSOCKET")


class EchoServer:
    """The process, seen from the test."""

    def __init__(self, way: Way, *, loop: str, limit_bytes: int, log: IO[str]) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in BROKERS}
        environment["PYTHONPATH"] = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
        self._log = log
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", __name__, way, loop, str(limit_bytes)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            cwd=ROOT,
            start_new_session=True,
            text=True,
        )
        Guard.shared().watch(self._process.pid)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline() or 0)
        assert self.port, self.log

    @property
    def log(self) -> str:
        """What it wrote so far."""
        self._log.seek(0)
        return self._log.read()

    @property
    def memory_bytes(self) -> int:
        """What of the memory is its own, shared pages in parts (Pss)."""
        return _kib(self._read("smaps_rollup"), "Pss") * 1024

    @contextmanager
    def peak(self) -> Iterator[list[int]]:
        """By how many bytes its memory rose at most within the block, as the only item of the list."""
        try:
            # 5 sets the high-water mark back to what is resident now, see proc(5).
            Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")
        except OSError:  # a kernel without it tells the rise above the highest mark so far
            pass
        before = _kib(self._read("status"), "VmHWM")
        rise: list[int] = []
        yield rise
        rise.append((_kib(self._read("status"), "VmHWM") - before) * 1024)

    def _read(self, name: str) -> str:
        return Path(f"/proc/{self._process.pid}/{name}").read_text()

    @property
    def sockets(self) -> int:
        """Descriptors that are sockets."""
        number = 0
        for name in os.listdir(f"/proc/{self._process.pid}/fd"):
            try:
                number += os.readlink(f"/proc/{self._process.pid}/fd/{name}").startswith("socket:")
            except FileNotFoundError:  # closed meanwhile
                continue
        return number

    def stop(self) -> None:
        """Let it end, and see that it does."""
        self._process.terminate()
        try:
            self._process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            Guard.shared().forget(self._process.pid)
            assert self._process.stdout is not None
            self._process.stdout.close()


def _kib(text: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    assert found is not None, text
    return int(found[1])


@contextmanager
def echo_server(way: Way, *, loop: str, limit_bytes: int) -> Iterator[EchoServer]:
    """A server on a free port whose messages are at most so long."""
    with tempfile.TemporaryFile("w+") as log:
        server = EchoServer(way, loop=loop, limit_bytes=limit_bytes, log=log)
        try:
            yield server
        finally:
            server.stop()


# What runs in the process.


async def read_and_echo(websocket: WebSocket) -> None:
    await websocket.accept()
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return
        if message.get("bytes") is not None:
            await websocket.send_bytes(message["bytes"])
        else:
            await websocket.send_text(message["text"])


def main(way: Way, loop: str, limit_bytes: int) -> None:
    manager = WebSocketManager(channel="echo")

    async def echo(connection: Connection, message: object) -> None:
        await manager.send_personal_message(message, connection)

    async def receive_nothing(websocket: WebSocket) -> None:
        await websocket.accept()
        await asyncio.Event().wait()

    async def serve(websocket: WebSocket) -> None:
        await manager.serve(websocket, on_message=echo)

    app = Starlette(routes=[WebSocketRoute("/", read_and_echo), WebSocketRoute("/serve", serve)])
    app.router.routes.append(WebSocketRoute("/deaf", receive_nothing))
    config = uvicorn.Config(
        install(app) if way == "install" else app,
        ws=PROTOCOLS[way],
        loop=loop,
        lifespan="off",
        log_level="warning",
        timeout_graceful_shutdown=1,
        ws_max_size=limit_bytes,
    )
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(100)
        print(listening.getsockname()[1], flush=True)
        uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main(cast(Way, sys.argv[1]), sys.argv[2], int(sys.argv[3]))
