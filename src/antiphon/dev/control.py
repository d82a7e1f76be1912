"""Orders to the broker of `antiphon dev` from the application itself, over a socket that only this user can open."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from typing import Final

from antiphon.dev.guard import Guard

__all__ = ["CONTROL_VARIABLE", "Control"]

CONTROL_VARIABLE: Final = "ANTIPHON_DEV_CONTROL"
"""Where replicas find the socket."""

LINE_BYTES: Final = 256
IDLE_S: Final = 10.0
MOST_CALLERS: Final = 16


class Control:
    """Listens on a UNIX socket for the lines `status`, `stop`, `start`, `freeze` and `thaw`.

    Each is answered with one line of JSON: `{"state": "up"}`, `"killed"` or `"frozen"` is how the broker is then, and
    `{"error": "…"}` says what was wrong. The socket is in a folder that nobody but this user can enter, so whoever can
    connect could kill the broker anyway. A caller that says nothing for 10 s is hung up on, and so is the 17th at a
    time.
    """

    def __init__(self, obey: Callable[[str], Awaitable[str]]) -> None:
        """`obey` carries an order out, and returns the state; it raises ValueError for one that makes no sense."""
        self._obey = obey
        self._directory = tempfile.mkdtemp(prefix="antiphon-dev-")
        Guard.shared().keep_clean(self._directory)
        self._server: asyncio.Server | None = None
        self._callers: set[asyncio.Task[None]] = set()

    @property
    def path(self) -> str:
        """The socket, there as soon as `start` has returned."""
        return os.path.join(self._directory, "control")

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_unix_server(self._accept, self.path, limit=LINE_BYTES)

    async def close(self) -> None:
        """Hang up on everybody, and remove the socket."""
        if self._server is not None:
            self._server.close()
        for caller in self._callers:
            caller.cancel()
        await asyncio.gather(*self._callers, return_exceptions=True)
        shutil.rmtree(self._directory, ignore_errors=True)
        Guard.shared().forget_directory(self._directory)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._callers) >= MOST_CALLERS:
            writer.close()
            return
        task = asyncio.create_task(self._answer(reader, writer), name="antiphon dev control")
        self._callers.add(task)
        task.add_done_callback(self._callers.discard)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                async with asyncio.timeout(IDLE_S):
                    line = await reader.readline()
                if not line:
                    return
                writer.write(json.dumps(await self._carried_out(line)).encode() + b"\n")
                await writer.drain()
        except (OSError, TimeoutError, ValueError):  # gone, silent, or a line without end
            pass
        finally:
            writer.close()

    async def _carried_out(self, line: bytes) -> dict[str, str]:
        try:
            return {"state": await self._obey(line.decode("utf-8", "replace").strip())}
        except ValueError as error:
            return {"error": str(error)}
