"""The steps of a drain, and who they are done to."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from antiphon.codes import CloseCode
from antiphon.connection import Connection
from antiphon.drain.waves import moments, read_window, seconds, window_for
from antiphon.health.gate import close_gate, open_gate
from antiphon.health.operators import Operators
from antiphon.journal import logger
from antiphon.manager import WebSocketManager, managers_here

__all__ = ["Drain", "DrainReport", "Drainable"]

TOKEN_VARIABLE = "ANTIPHON_DRAIN_TOKEN"
REASON = "the server restarts: come back"
_FRESH = {"Cache-Control": "no-store"}
FLUSH_S = 3.0
WAVE_S = 0.02
"""Two waves are at least so far apart."""


class Drainable(Protocol):
    """What a drain needs of a manager's stay on a loop, beside that it asks `health.gate` before it takes a socket."""

    @property
    def is_here(self) -> bool:
        """Whether it is in use on the running event loop."""
        ...

    def open_connections(self) -> Sequence[Connection]:
        """The connections at this moment."""
        ...

    def expel(self, connection: Connection, *, code: int, reason: str) -> bool:
        """Send what is queued for a connection, close it, and count it no longer. False when it was gone already."""
        ...

    async def settle(self, *, limit_s: float) -> bool:
        """Wait until every close frame has left, and the broker has taken every publication; False after the limit."""
        ...


class DrainReport(NamedTuple):
    """What a drain did."""

    closed: int
    """Sockets that were asked to come back; those of clients that left by themselves meanwhile are not counted."""
    seconds: float
    settled: bool
    """Whether the close frames had left, and the outbox was empty, when it ended."""


class Drain:
    """Sends the clients of this replica away before it ends. One for each process; made again, the last one counts.

    Readiness turns red first and new sockets are refused; then the open ones are closed with 1012, which means "come
    back", spread over a window; then what waits for the broker is sent. After that the server may end.

    Args:
        window_s: The longest window in seconds; `ANTIPHON_DRAIN_S` of the environment by default, else 20. With few
            sockets it is shorter, about 25 of them a second; 0 closes all at once.
        flush_s: How long to wait for close frames to leave and for the outbox to be sent.
        token: What `endpoint` wants to be given; `ANTIPHON_DRAIN_TOKEN` by default. Without one it answers to the
            machine itself only.

    Raises ConfigurationError for values that cannot be used.
    """

    _current: Drain | None = None

    def __init__(
        self,
        *,
        window_s: float | None = None,
        flush_s: float = FLUSH_S,
        token: str | None = None,
        managers: Callable[[], Iterable[WebSocketManager]] = managers_here,
        rng: random.Random | None = None,
    ) -> None:
        self.window_s = read_window(window_s)
        self.flush_s = seconds(flush_s, name="flush_s")
        self.report: DrainReport | None = None
        """What it did, once it has ended."""
        token = token if token is not None else os.environ.get(TOKEN_VARIABLE)
        self._operators = Operators(token, setting=f"Drain(token=…) or {TOKEN_VARIABLE}")
        self._managers = managers
        self._rng = rng if rng is not None else random.Random()
        self._task: asyncio.Task[DrainReport] | None = None
        Drain._current = self

    @classmethod
    def current(cls) -> Drain:
        """The one of this process; made from the environment when the application has made none."""
        return cls._current if cls._current is not None else cls()

    @classmethod
    def has_begun(cls) -> bool:
        """Whether this process drains, or has drained."""
        return cls._current is not None and cls._current.draining

    @property
    def draining(self) -> bool:
        """Whether it has begun. It stays so: the replica is about to end."""
        return self._task is not None

    def begin(self) -> asyncio.Task[DrainReport]:
        """Begin on the running loop, at once: when it returns, new sockets are refused. Idempotent."""
        if self._task is None:
            loop = asyncio.get_running_loop()
            close_gate(loop)
            managers = [stay for one in self._managers() if (stay := one._stay) is not None and stay.is_here]
            self._task = loop.create_task(self._run(managers), name="antiphon-drain")
        return self._task

    async def run(self) -> DrainReport:
        """Drain, and return what was done; takes at most `window_s + flush_s`. Cancelling the caller stops nothing."""
        return await asyncio.shield(self.begin())

    def cut_short(self) -> None:
        """End it now: what is still open is left to the server. The task ends as cancelled."""
        if self._task is not None:
            self._task.cancel()

    def rearm(self) -> None:
        """The application starts anew in the same process: forget an earlier drain that has ended."""
        task = self._task
        if task is not None and (task.done() or task.get_loop().is_closed()):
            open_gate(task.get_loop())
            self._task = self.report = None

    # -- the steps -----------------------------------------------------------------------------------------------

    async def _run(self, managers: Sequence[Drainable]) -> DrainReport:
        loop = asyncio.get_running_loop()
        began = loop.time()
        waiting = [(manager, connection) for manager in managers for connection in manager.open_connections()]
        window_s = window_for(len(waiting), longest_s=self.window_s)
        if waiting:
            logger.info("draining: %d sockets are closed within %.1f s; new ones are refused", len(waiting), window_s)
        closed = await self._close_in_waves(managers, waiting, window_s=window_s)
        settled = await self._settle(managers)
        self.report = DrainReport(closed, loop.time() - began, settled)
        ending = "nothing waits any more" if settled else "something still waits for a client or for the broker"
        logger.info("drained in %.1f s: %d sockets were closed; %s", self.report.seconds, closed, ending)
        return self.report

    async def _close_in_waves(
        self, managers: Sequence[Drainable], waiting: list[tuple[Drainable, Connection]], *, window_s: float
    ) -> int:
        loop = asyncio.get_running_loop()
        # Not in the order in which they came: tabs of one user, or clients behind one proxy, came together.
        self._rng.shuffle(waiting)
        began, closed = loop.time(), 0
        for (manager, connection), moment in zip(
            waiting, moments(len(waiting), window_s=window_s, rng=self._rng), strict=True
        ):
            pause_s = began + moment - loop.time()
            if pause_s > 0:
                await asyncio.sleep(max(pause_s, min(WAVE_S, window_s)))
            closed += self._close(manager, connection)
        return closed

    @staticmethod
    def _close(manager: Drainable, connection: Connection) -> bool:
        try:
            return manager.expel(connection, code=int(CloseCode.DRAINING), reason=REASON)
        except Exception as error:
            # A defect of ours: the others are sent away all the same, and the server closes this one.
            logger.warning("a socket could not be closed while draining", exc_info=error)
            return False

    async def _settle(self, managers: Sequence[Drainable]) -> bool:
        endings = await asyncio.gather(
            *(manager.settle(limit_s=self.flush_s) for manager in managers), return_exceptions=True
        )
        for ending in endings:
            if isinstance(ending, BaseException):
                logger.warning("waiting for what is under way failed while draining", exc_info=ending)
        return all(ending is True for ending in endings)

    # -- the pre-stop hook ---------------------------------------------------------------------------------------

    async def endpoint(self, request: Request) -> Response:
        """Drain when an orchestrator asks for it, before it ends the process: `Route("/drain", drain.endpoint,
        methods=["POST"])`.

        Answers when it is done, with what was done; with `?wait=0` at once. Wants `Authorization: Bearer TOKEN`, or a
        caller on this machine where no token is set; anybody else gets 401 or 403 and changes nothing.
        """
        if request.method != "POST":
            return JSONResponse({"error": "use POST"}, 405, headers={"Allow": "POST"})
        refusal = self._operators.refusal(
            peer=request.client.host if request.client is not None else None, headers=request.headers.items()
        )
        if refusal is not None:
            status, text = refusal
            challenge = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
            return JSONResponse({"error": text}, status, headers=challenge)
        task = self.begin()
        if request.query_params.get("wait", "1").lower() in ("0", "false", "no") and not task.done():
            return JSONResponse({"status": "draining"}, 202)
        await asyncio.wait((task,))
        if task.cancelled() or task.exception() is not None:
            return JSONResponse({"status": "cut short"}, 500)
        report = task.result()
        return JSONResponse(
            {
                "status": "drained",
                "closed": report.closed,
                "seconds": round(report.seconds, 3),
                "settled": report.settled,
            }
        )
