"""The broker of `antiphon dev`: its own server, started, stopped, frozen and watched while the replicas run."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from enum import Enum
from typing import Final

from antiphon.dev.broker_server import BrokerServer, BrokerServerFailed
from antiphon.dev.ports import is_free
from antiphon.errors import MissingExtra

__all__ = ["DevBroker", "DevBrokerState"]

# The same port each time, where possible: commands in the history of another terminal stay right.
USUAL_PORT: Final = 6390
WATCH_S: Final = 0.25
RESTART_S: Final = 1.0
LOG_BYTES: Final = 65_536
ORDERS: Final = ("status", "stop", "start", "freeze", "thaw")


class DevBrokerState(Enum):
    """Where the server stands. The value is what people read."""

    UP = "up"
    STOPPED = "killed"
    FROZEN = "frozen"


class DevBroker:
    """One `BrokerServer`. The one that dies by itself comes back after a second, the one stopped by a key does not.

    `say` gets what happens to it and the warnings of its log.
    """

    def __init__(self, *, say: Callable[[str], None]) -> None:
        self._say = say
        self._lock = threading.Lock()
        self._is_closed = False
        self._state = DevBrokerState.UP
        self._server = self._launch()
        self._log_position = self._log_size()

    @property
    def server(self) -> BrokerServer:
        """The process behind it."""
        return self._server

    @property
    def state(self) -> DevBrokerState:
        """As the keys left it."""
        return self._state

    def stop_or_start(self) -> None:
        """Kill the server (SIGKILL), or start it again on its port. Blocks for as long as that takes."""
        with self._lock:
            if self._is_closed:
                return
            if self._state is DevBrokerState.STOPPED:
                self._restart()
            else:
                self._state = DevBrokerState.STOPPED
                self._server.kill()
                self._say("killed: messages stay on their replica and wait; press b to start it again")

    def freeze_or_thaw(self) -> None:
        """SIGSTOP or SIGCONT."""
        with self._lock:
            if self._is_closed:
                return
            if self._state is DevBrokerState.STOPPED:
                self._say("it is not running: press b to start it")
            elif self._state is DevBrokerState.FROZEN:
                self._server.thaw()
                self._state = DevBrokerState.UP
                self._say("thawed: it works off what was sent meanwhile")
            else:
                self._server.freeze()
                self._state = DevBrokerState.FROZEN
                self._say("frozen: connections stay open, nothing answers; press f to thaw it")

    def obey(self, order: str) -> DevBrokerState:
        """Carry out `stop`, `start`, `freeze`, `thaw` or `status`, unless it is so already; return how it is then.

        For the control socket. `start` thaws a server that is frozen. Blocks as the keys do. Raises ValueError for
        another word, and for `freeze` and `thaw` of a server that is stopped.
        """
        if order not in ORDERS:
            raise ValueError(f"there is no order {order[:40]!r}: {', '.join(ORDERS)}")
        state = self._state
        if order in ("freeze", "thaw") and state is DevBrokerState.STOPPED:
            raise ValueError("the broker is not running: start it first")
        if (order == "stop" and state is not DevBrokerState.STOPPED) or (
            order == "start" and state is DevBrokerState.STOPPED
        ):
            self.stop_or_start()
        elif (order == "freeze" and state is DevBrokerState.UP) or (
            order in ("thaw", "start") and state is DevBrokerState.FROZEN
        ):
            self.freeze_or_thaw()
        return self._state

    def close(self) -> None:
        """End the server and remove what it wrote."""
        with self._lock:
            self._is_closed = True
            self._server.stop()

    async def watch(self) -> None:
        """Until cancelled: pass on its warnings, and start it again when it died by itself."""
        while True:
            await asyncio.sleep(WATCH_S)
            self._pass_on_warnings()
            if self._state is not DevBrokerState.STOPPED and not self._server.is_running:
                self._say(f"ended by itself: again in {RESTART_S:g} s")
                await asyncio.sleep(RESTART_S)
                await asyncio.to_thread(self._restart_if_dead)

    def _launch(self) -> BrokerServer:
        try:
            if is_free(USUAL_PORT):
                with contextlib.suppress(BrokerServerFailed):
                    return BrokerServer.start(port=USUAL_PORT)
            return BrokerServer.start()
        except MissingExtra as missing:
            raise MissingExtra(f"{missing}. Or name a running one with --redis URL, or pass --redis none") from missing

    def _restart_if_dead(self) -> None:
        with self._lock:
            if not self._is_closed and self._state is not DevBrokerState.STOPPED and not self._server.is_running:
                self._restart()

    def _restart(self) -> None:
        try:
            self._server.restart()
        except BrokerServerFailed as failure:
            self._state = DevBrokerState.STOPPED
            self._say(f"{failure}; press b to try again")
            return
        self._state = DevBrokerState.UP
        self._log_position = self._log_size()
        self._say(f"up again on port {self._server.port} (pid {self._server.pid}), empty")

    def _log_size(self) -> int:
        return self._server.log_path.stat().st_size

    def _pass_on_warnings(self) -> None:
        """What it says at its start is left out: that is about machines that keep data."""
        if not self._lock.acquire(blocking=False):  # a key is being obeyed, which may take a moment
            return
        try:
            with self._server.log_path.open("rb") as log:
                log.seek(self._log_position)
                text = log.read(LOG_BYTES)
                self._log_position = log.tell()
        except OSError:
            return
        finally:
            self._lock.release()
        for line in text.decode(errors="replace").splitlines():
            _, marker, warning = line.partition(" # ")
            if marker:
                self._say(warning)
