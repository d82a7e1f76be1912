"""The library's handler before the server's: held back, handed on, and never in anybody's way."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import pytest
import uvicorn

from antiphon.drain import Drain, drains_on_signals, install_signals, restore_signals, signals
from antiphon.drain.waves import VARIABLE
from antiphon.manager import WebSocketManager
from tests.unit.browsers import Browser, until

Handler = Callable[[int, FrameType | None], object]


class Server:
    """Somebody's handler: writes down the signals that reach it."""

    def __init__(self) -> None:
        self.got: list[int] = []

    def handle(self, number: int, frame: FrameType | None) -> None:
        self.got.append(number)


@pytest.fixture(autouse=True)
def own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that does not drain yet; its handlers are put back at the end."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(Drain, "_current", None)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    restore_signals()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def server() -> Server:
    """Its handler is there before the library's, as uvicorn's is."""
    server = Server()
    signal.signal(signal.SIGTERM, server.handle)
    signal.signal(signal.SIGINT, server.handle)
    return server


async def crowd(count: int) -> tuple[WebSocketManager, list[Browser]]:
    manager = WebSocketManager("c")
    browsers = [Browser() for _ in range(count)]
    for browser in browsers:
        await manager.connect(browser.websocket)
    return manager, browsers


def tell(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.every_loop
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_clients_are_sent_away_before_the_server_hears_of_the_signal(server: Server, number: int) -> None:
    manager, browsers = await crowd(5)
    Drain(managers=lambda: [manager])
    assert install_signals()
    tell(number)
    assert server.got == []
    await until(lambda: bool(server.got))
    assert server.got == [number]
    assert all(browser.close_code == 1012 for browser in browsers)
    await manager.close()


@pytest.mark.every_loop
async def test_the_loop_wakes_up_for_a_signal_although_nothing_else_happens(server: Server) -> None:
    Drain(managers=list)
    assert install_signals()
    heard = asyncio.get_running_loop().create_future()
    signals._chain._previous[signal.SIGTERM] = lambda number, frame: heard.set_result(number)  # type: ignore[union-attr]
    timer = threading.Timer(0.2, tell)
    timer.start()
    async with asyncio.timeout(30):
        assert await heard == signal.SIGTERM
    timer.join()


async def test_a_second_signal_goes_through_at_once_and_is_not_doubled(server: Server) -> None:
    manager, browsers = await crowd(200)
    draining = Drain(managers=lambda: [manager], window_s=600)
    assert install_signals()
    tell()
    await until(lambda: draining.draining)
    assert server.got == []
    tell(signal.SIGINT)
    assert server.got == [signal.SIGINT]
    await asyncio.wait((draining.begin(),))
    assert draining.begin().cancelled()
    tell()
    assert server.got == [signal.SIGINT, signal.SIGTERM]
    await asyncio.sleep(0.05)
    assert server.got == [signal.SIGINT, signal.SIGTERM]
    assert any(browser.close_code is None for browser in browsers)
    await manager.close()


async def test_a_worker_takes_a_signal_that_follows_at_once_for_the_repetition_of_its_parent(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multiprocessing.process.parent_process", lambda: object())
    manager, browsers = await crowd(5)
    draining = Drain(managers=lambda: [manager])
    assert install_signals()
    tell(signal.SIGINT)
    tell(signal.SIGTERM)
    await until(lambda: draining.draining)
    assert server.got == []
    await until(lambda: bool(server.got))
    assert server.got == [signal.SIGINT]
    assert all(browser.close_code == 1012 for browser in browsers)
    await manager.close()


async def test_a_worker_ends_at_once_when_the_signal_comes_a_third_time(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multiprocessing.process.parent_process", lambda: object())
    manager, _ = await crowd(200)
    draining = Drain(managers=lambda: [manager], window_s=600)
    assert install_signals()
    for _ in range(3):
        tell()
    assert server.got == [signal.SIGTERM]
    assert not draining.draining
    await manager.close()


async def test_two_signals_in_one_moment_end_the_server_once(server: Server) -> None:
    draining = Drain(managers=list)
    install_signals()
    tell()
    tell()
    assert server.got == [signal.SIGTERM]
    await asyncio.sleep(0.05)
    assert server.got == [signal.SIGTERM]
    assert not draining.draining


async def test_a_drain_that_the_hook_began_is_waited_for_and_one_that_is_over_is_not(server: Server) -> None:
    manager, _ = await crowd(30)
    draining = Drain(managers=lambda: [manager])
    install_signals()
    task = draining.begin()
    tell()
    await until(lambda: bool(server.got))
    assert task.done()
    assert draining.report is not None
    restore_signals()
    draining.rearm()
    await draining.run()
    install_signals()  # the drain that is over is forgotten: the application starts anew
    assert not draining.draining
    await manager.close()


async def test_the_server_ends_all_the_same_when_draining_fails(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> list[WebSocketManager]:
        raise ZeroDivisionError

    Drain(managers=broken)
    install_signals()
    tell()
    await until(lambda: bool(server.got))
    assert "draining failed" in caplog.text


async def test_handlers_are_put_back_at_the_end(server: Server) -> None:
    with drains_on_signals() as installed:
        assert installed
        assert signal.getsignal(signal.SIGTERM) != server.handle
    assert signal.getsignal(signal.SIGTERM) == server.handle
    assert signal.getsignal(signal.SIGINT) == server.handle
    tell()
    assert server.got == [signal.SIGTERM]


async def test_installing_twice_does_nothing_more(server: Server) -> None:
    assert install_signals()
    first = signal.getsignal(signal.SIGTERM)
    assert install_signals()
    assert signal.getsignal(signal.SIGTERM) is first
    restore_signals()
    restore_signals()
    assert signal.getsignal(signal.SIGTERM) == server.handle


async def test_a_handler_that_the_application_installs_later_stays_and_may_call_ours(server: Server) -> None:
    Drain(managers=list)
    install_signals()
    ours = signal.getsignal(signal.SIGTERM)
    assert callable(ours)
    own: list[int] = []

    def theirs(number: int, frame: FrameType | None) -> None:
        own.append(number)
        ours(number, frame)

    signal.signal(signal.SIGTERM, theirs)
    tell()
    await until(lambda: bool(server.got))
    assert own == [signal.SIGTERM]
    restore_signals()
    assert signal.getsignal(signal.SIGTERM) is theirs
    tell()  # the chain still leads to the server
    assert server.got == [signal.SIGTERM, signal.SIGTERM]


async def test_installing_before_a_handler_that_calls_an_older_one_of_ours_makes_no_circle(server: Server) -> None:
    Drain(managers=list)
    install_signals()
    old = signal.getsignal(signal.SIGTERM)
    assert callable(old)
    signal.signal(signal.SIGTERM, lambda number, frame: old(number, frame))
    signal.signal(signal.SIGINT, server.handle)
    assert install_signals()
    tell()
    await until(lambda: bool(server.got))
    assert server.got == [signal.SIGTERM]


@pytest.mark.parametrize("disposition", [signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler])
async def test_what_nobody_handles_is_left_as_it_is(disposition: signal.Handlers | Handler) -> None:
    signal.signal(signal.SIGTERM, disposition)
    signal.signal(signal.SIGINT, disposition)
    assert not install_signals()
    assert signal.getsignal(signal.SIGTERM) is disposition


@pytest.mark.every_loop
async def test_what_the_event_loop_handles_is_left_to_it() -> None:
    loop = asyncio.get_running_loop()
    heard: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, heard.append, number)
    assert not install_signals()
    tell()
    await until(lambda: bool(heard))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)


def test_another_thread_than_the_main_one_installs_nothing(server: Server) -> None:
    async def install() -> bool:
        return install_signals()

    installed: list[bool] = []
    thread = threading.Thread(target=lambda: installed.append(asyncio.run(install())))
    thread.start()
    thread.join()
    assert installed == [False]
    assert signal.getsignal(signal.SIGTERM) == server.handle


def test_a_signal_reaches_the_server_when_the_loop_has_ended(server: Server) -> None:
    async def install() -> bool:
        return install_signals()

    asyncio.run(install())
    tell()
    assert server.got == [signal.SIGTERM]
    asyncio.run(install())  # the next application in the same process
    assert signals._chain is not None
    restore_signals()
    assert signal.getsignal(signal.SIGTERM) == server.handle


async def test_uvicorn_is_told_to_end_without_the_signal_so_that_its_process_ends_with_0() -> None:
    async def app(scope: object, receive: object, send: object) -> None:
        """Never called."""

    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    with server.capture_signals():
        Drain(managers=list)
        assert install_signals(before_uvicorn_only=True)
        tell()
        await until(lambda: server.should_exit)
        assert server._captured_signals == []
        tell()
        assert server._captured_signals == [signal.SIGTERM]
        server._captured_signals.clear()


async def test_a_handler_that_is_not_uvicorn_s_is_left_alone_when_nobody_asked(server: Server) -> None:
    assert not install_signals(before_uvicorn_only=True)
    assert signal.getsignal(signal.SIGTERM) == server.handle


async def test_a_loop_that_stands_still_drains_when_it_goes_on(server: Server) -> None:
    Drain(managers=list)
    install_signals()
    tell()
    time.sleep(0.2)
    assert server.got == []
    await until(lambda: server.got == [signal.SIGTERM])
