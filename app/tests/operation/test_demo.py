"""`encore demo` as a person starts it: seeded, on several replicas, with the broker switch."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from antiphon.dev.guard import Guard
from harness.site import NOT_OURS, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

START_S = 120.0
PEOPLE = {"ann": [], "ben": [], "tom": ["team"], "cleo": ["creator"], "ada": ["admin"]}


class Demo:
    """The running command."""

    def __init__(self, folder: Path) -> None:
        self.log_path = folder / "demo.log"
        environment = {name: value for name, value in os.environ.items() if not name.startswith(NOT_OURS)}
        command = [sys.executable, "-m", "encore", "demo", "--port", "0", "--replicas", "2", "--no-keys"]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--folder", str(folder / "data")],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        Guard.shared().watch(self.process.pid)

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    async def ready(self) -> None:
        deadline = time.monotonic() + START_S
        while "Ctrl-C ends everything" not in self.log:
            is_starting = self.process.poll() is None and time.monotonic() < deadline
            assert is_starting, self.log[-4000:]
            await asyncio.sleep(0.1)

    def url(self, replica: int) -> str:
        found = re.search(rf"replica {replica} +(http://\S+)", self.log)
        assert found is not None
        return found[1]

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=60)
        finally:
            self.process.kill()
            self.process.wait()
            Guard.shared().forget(self.process.pid)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def demo(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Demo]:
    started = Demo(tmp_path_factory.mktemp("demo"))
    try:
        await started.ready()
        yield started
    finally:
        assert started.end() == 0, started.log[-4000:]


async def ask(client: httpx2.AsyncClient, method: str, path: str, *, status: int = 200, **options: Any) -> Any:
    answer = await client.request(method, path, **options)
    assert answer.status_code == status, f"{method} {path}: {answer.status_code}: {answer.text[:500]}"
    return answer.json() if answer.content else None


def client(demo: Demo, *, replica: int = 1) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=demo.url(replica), timeout=30, headers={"Sec-Fetch-Site": "same-origin"})


async def test_the_people_and_what_to_try_are_said(demo: Demo) -> None:
    for name in PEOPLE:
        assert name in demo.log
    assert "antiphon-demo" in demo.log
    assert "two people, two replicas" in demo.log


async def test_one_click_signs_in_as_any_of_the_people(demo: Demo) -> None:
    async with client(demo) as browser:
        people = await ask(browser, "GET", "/api/demo/people")
        assert {person["name"]: person["roles"] for person in people} == PEOPLE
        for name, roles in PEOPLE.items():
            me = await ask(browser, "POST", "/api/demo/sign-in", json={"name": name})
            assert (me["username"], me["roles"]) == (name, roles)
            assert (await ask(browser, "GET", "/api/auth/me"))["username"] == name
            # Whoever signs in leaves the session before.
            assert len((await ask(browser, "GET", "/api/auth/sessions"))["items"]) == 1
        await ask(browser, "POST", "/api/demo/sign-in", json={"name": "nobody"}, status=404)
        await ask(browser, "POST", "/api/demo/sign-in", json={"name": "a\0"}, status=422)


async def test_the_password_works_and_there_is_something_to_look_at(demo: Demo) -> None:
    async with client(demo, replica=2) as browser:
        await ask(browser, "POST", "/api/auth/login", json={"username": "cleo", "password": "antiphon-demo"})
        for path in ("/api/albums", "/api/tracks", "/api/forum/threads", "/api/book-requests/admin"):
            assert (await ask(browser, "GET", path))["items"], path
        assert "Encore" in (await browser.get("/")).text


async def test_the_broker_is_stopped_and_started_from_the_page(demo: Demo) -> None:
    async with client(demo) as browser:
        await ask(browser, "GET", "/api/demo/broker", status=401)
        await ask(browser, "POST", "/api/demo/sign-in", json={"name": "ben"})
        assert await ask(browser, "GET", "/api/demo/broker") == {"state": "up"}
        await ask(browser, "POST", "/api/demo/broker", json={"action": "explode"}, status=422)
        for action, state, bus in (
            ("stop", "killed", "degraded"),
            ("start", "up", "up"),
            ("freeze", "frozen", "degraded"),
            ("thaw", "up", "up"),
        ):
            assert await ask(browser, "POST", "/api/demo/broker", json={"action": action}) == {"state": state}
            status = await eventually(
                lambda: ask(browser, "GET", "/status"),
                lambda found, bus=bus: found["bus"]["state"] == bus,  # type: ignore[misc]  # bound at once
                timeout_s=60,
            )
            assert status["mode"] == "demo"


async def test_run_demo_starts_the_site_and_run_guide_the_smallest_example(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(__file__).parents[3] / "run"
    loader = SourceFileLoader("run_of_the_repository", str(path))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    run = importlib.util.module_from_spec(spec)
    loader.exec_module(run)
    became: list[tuple[list[str], str]] = []
    monkeypatch.setattr(run, "setup", lambda: None)
    monkeypatch.setattr(run, "become", lambda command, environment, folder: became.append((command, folder)))
    run.main(["demo", "--port", "0"])
    run.main(["demo", "--folder", "here"])
    run.main(["guide"])
    demo, chosen, guide = became
    assert demo[0][1:] == ["-m", "encore", "demo", "--folder", run.DEMO, "--port", "0"]
    assert chosen[0][1:] == ["-m", "encore", "demo", "--folder", "here"]
    assert guide[0][1:] == ["-m", "antiphon.cli", "dev", "app:app", "--replicas", "3"]
    assert (Path(guide[1]) / "app.py").is_file()
