"""A TCP proxy of the test's own, which breaks the network in every way that one process can.

It runs in a thread with an event loop of its own, so that it goes on while the test waits for something else.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TypeVar

from tests.replicas.resp import Splitter

__all__ = ["Proxy"]

Value = TypeVar("Value")
CHUNK_BYTES = 65_536


class _Thread:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="proxy", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[object, object, Value]) -> Value:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout=20.0)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=20.0)
        self.loop.close()


@dataclass(slots=True)
class _Faults:
    """What is done to bytes; the same for all connections of a proxy."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    discard_to_server: bool = False
    discard_to_client: bool = False
    hold: bool = False
    hang: bool = False
    swallow_command: bytes = b""
    swallow_every: int = 0
    cut_after_bytes: int | None = None


@dataclass(eq=False, slots=True)
class _Pipe:
    """One client's connection and the one to the server behind it."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    torn: bool = False
    """Bytes of this connection were thrown away: what comes later would make no sense, so nothing passes any more."""
    commands: deque[bytes] = field(default_factory=deque)
    asked: Splitter = field(default_factory=Splitter)
    answered: Splitter = field(default_factory=Splitter)
    forwarded_bytes: int = 0

    def close(self) -> None:
        for writer in (self.client, self.server):
            if writer is not None:
                writer.close()

    async def gone(self) -> None:
        """Wait until both sockets are closed."""
        for writer in (self.client, self.server):
            if writer is not None:
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    def reset(self) -> None:
        """End both sides with RST instead of FIN."""
        for writer in (self.client, self.server):
            if writer is None:
                continue
            raw = writer.get_extra_info("socket")
            if raw is not None:
                with contextlib.suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


class Proxy:
    """Listens on `port` and forwards to `target_port`, both on 127.0.0.1. All methods are for the test's thread."""

    def __init__(self, target_port: int, *, seed: int = 1) -> None:
        self.target_port = target_port
        self.port = 0
        self.accepted = 0
        self.swallowed = 0
        self._faults = _Faults()
        self._random = random.Random(seed)
        self._pipes: set[_Pipe] = set()
        self._matching = 0
        self._thread = _Thread()
        self._listener: asyncio.Server | None = None
        self._moved: asyncio.Event | None = None
        self._thread.run(self._listen())

    # faults

    def delay(self, mean_s: float, *, jitter_s: float = 0.0) -> None:
        """Keep every chunk for `mean_s` ± `jitter_s`, each way, in order."""
        self._set(delay_s=mean_s, jitter_s=jitter_s)

    def blackhole(self, *, to_server: bool = True, to_client: bool = True) -> None:
        """Take bytes and lose them: the kernel still acknowledges, nobody gets anything. Connecting still works."""
        self._set(discard_to_server=to_server, discard_to_client=to_client)

    def hold(self) -> None:
        """Stop reading, as when packets are lost and sent again: after `heal` everything still arrives."""
        self._set(hold=True)

    def hang(self) -> None:
        """Accept new connections and never answer on them; the server does not hear of them."""
        self._set(hang=True)

    def swallow(self, command: bytes, *, every: int) -> None:
        """Let the server carry out `command`, and lose the reply to every so-many-th of them."""
        self._set(swallow_command=command.upper(), swallow_every=every)

    def cut_after(self, count_bytes: int) -> None:
        """Reset each connection once so many more bytes went to its client: in the middle of a message, that is."""
        self._set(cut_after_bytes=count_bytes)

    def reset(self) -> None:
        """Reset all connections that there are; new ones work."""
        self._thread.run(self._reset())

    def refuse(self) -> None:
        """Reset all connections and listen no more: dialling is refused."""
        self._thread.run(self._refuse())

    def heal(self) -> None:
        """No more faults. Connections that lost bytes are reset; what was held back goes on its way."""
        self._thread.run(self._heal())

    @property
    def connections(self) -> int:
        """Connections that are open towards the proxy."""
        return len(self._pipes)

    def close(self) -> None:
        """End everything, the thread included."""
        self._thread.run(self._close())
        self._thread.stop()

    def _set(self, **changes: object) -> None:
        async def apply() -> None:
            for name, value in changes.items():
                setattr(self._faults, name, value)
            for pipe in self._pipes:
                pipe.forwarded_bytes = 0
            self._wake()

        self._thread.run(apply())

    # on the proxy's own loop

    def _wake(self) -> None:
        assert self._moved is not None
        self._moved.set()
        self._moved = asyncio.Event()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            assert self._moved is not None
            await self._moved.wait()

    async def _listen(self) -> None:
        self._moved = self._moved or asyncio.Event()
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=CHUNK_BYTES)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _reset(self) -> None:
        for pipe in list(self._pipes):
            pipe.reset()

    async def _refuse(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        await self._reset()

    async def _heal(self) -> None:
        self._faults = _Faults()
        for pipe in list(self._pipes):
            if pipe.torn or pipe.server is None:
                pipe.reset()
        self._wake()
        if self._listener is None:
            await self._listen()

    async def _close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        await self._reset()
        self._faults = _Faults()
        self._wake()
        # Their sockets are gone, so all tasks end by themselves.
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        if tasks:
            await asyncio.wait(tasks, timeout=10.0)
        await asyncio.sleep(0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        pipe = _Pipe(writer)
        self._pipes.add(pipe)
        try:
            if self._faults.hang:
                with contextlib.suppress(OSError):
                    while await reader.read(CHUNK_BYTES):
                        pass
                return
            try:
                server_reader, pipe.server = await asyncio.open_connection(
                    "127.0.0.1", self.target_port, limit=CHUNK_BYTES
                )
            except OSError:
                pipe.reset()
                return
            pipe.tasks = [
                asyncio.create_task(self._pump(pipe, reader, pipe.server, to_server=True)),
                asyncio.create_task(self._pump(pipe, server_reader, writer, to_server=False)),
            ]
            await asyncio.gather(*pipe.tasks, return_exceptions=True)
        finally:
            for task in pipe.tasks:
                task.cancel()
            pipe.close()
            await pipe.gone()
            self._pipes.discard(pipe)

    async def _pump(
        self, pipe: _Pipe, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, to_server: bool
    ) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=4096)
        sender = asyncio.create_task(self._send(pipe, queue, writer, to_server=to_server))
        release = 0.0
        try:
            while True:
                await self._until(lambda: not self._faults.hold)
                data = await reader.read(CHUNK_BYTES)
                await self._until(lambda: not self._faults.hold)
                if not data:
                    break
                data = self._transform(pipe, data, to_server=to_server)
                faults = self._faults
                wait_s = faults.delay_s + faults.jitter_s * self._random.uniform(-1.0, 1.0)
                release = max(release, time.monotonic() + wait_s)
                if data:
                    await queue.put((release, data))
        except OSError:
            pass
        finally:
            with contextlib.suppress(asyncio.QueueFull):
                queue.put_nowait((release, b""))
            await asyncio.wait([sender])

    async def _send(
        self,
        pipe: _Pipe,
        queue: asyncio.Queue[tuple[float, bytes]],
        writer: asyncio.StreamWriter,
        *,
        to_server: bool,
    ) -> None:
        try:
            while True:
                release, data = await queue.get()
                if (wait_s := release - time.monotonic()) > 0:
                    await asyncio.sleep(wait_s)
                if not data:
                    break
                cut = self._faults.cut_after_bytes
                if cut is not None and not to_server and pipe.forwarded_bytes + len(data) >= cut:
                    writer.write(data[: max(0, cut - pipe.forwarded_bytes)])
                    await writer.drain()
                    pipe.close()
                    return
                pipe.forwarded_bytes += 0 if to_server else len(data)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            # One side has ended: both end. In a hole nobody hears of that, as of nothing else.
            await self._until(lambda: not (self._faults.discard_to_server or self._faults.discard_to_client))
            pipe.close()

    def _transform(self, pipe: _Pipe, data: bytes, *, to_server: bool) -> bytes:
        faults = self._faults
        if faults.discard_to_server if to_server else faults.discard_to_client:
            pipe.torn = True
            return b""
        if to_server:
            pipe.commands.extend(command.name for command in pipe.asked.feed(data))
            return data
        kept = bytearray()
        for reply in pipe.answered.feed(data):
            command = b"" if reply.is_push or not pipe.commands else pipe.commands.popleft()
            if faults.swallow_every and command == faults.swallow_command:
                self._matching += 1
                if self._matching % faults.swallow_every == 0:
                    self.swallowed += 1
                    continue
            kept += reply.raw
        return bytes(kept)
