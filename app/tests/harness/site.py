"""The site as its visitors have it: real processes, a real broker, and people with cookies and sockets."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from antiphon.dev.broker_server import BrokerServer
from antiphon.dev.guard import Guard
from antiphon.dev.ports import free_port
from encore.accounts.models import User
from encore.accounts.sessions import cookie_name, start_session
from encore.db import Database
from harness import nursery

__all__ = ["WITHOUT_TLS", "Json", "Person", "Site", "Socket", "eventually"]

Json = dict[str, Any]
Value = TypeVar("Value")
START_S = 60.0
ANSWER_S = 30.0
WITHOUT_TLS = False
"""For clients of replicas: to read all certificates of the machine would take each of them 30 ms."""
PORT_TAKEN = re.compile(r"cannot listen on \S+ port|address already in use", re.IGNORECASE)
NOT_OURS = ("ANTIPHON_", "ENCORE_", "REDIS_URL", "DATABASE_URL", "USE_REDIS_WEBSOCKET")
_numbers = itertools.count(1)


async def eventually(
    look: Callable[[], Awaitable[Value]], holds: Callable[[Value], object], *, timeout_s: float = ANSWER_S
) -> Value:
    """Look again and again until `holds` is true of what was seen, and return that."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = await look()
        if holds(value):
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"this did not come true within {timeout_s:g} s; last seen: {value!r}")
        await asyncio.sleep(0.05)


class Socket:
    """A WebSocket of a person, as a client without any library has it. Everything it got stays in `received`."""

    def __init__(self, connection: ClientConnection, *, types: set[str] | None = None) -> None:
        self._connection = connection
        self._types = types if types is not None else set()
        """Of all messages that came, on whatever socket of the site."""
        self.received: list[Json] = []
        self._unread: list[Json] = []

    @property
    def close_reason(self) -> str:
        """What the server gave as its reason for closing."""
        return self._connection.close_reason or ""

    async def send(self, message: Json | str) -> None:
        await self._connection.send(message if isinstance(message, str) else json.dumps(message))

    async def next(self, *types: str, timeout_s: float = ANSWER_S) -> Json:
        """The next message of one of these types (of any, without), in the order of arrival; passes over others."""
        while True:
            while self._unread:
                message = self._unread.pop(0)
                if not types or message["type"] in types:
                    return message
            try:
                async with asyncio.timeout(timeout_s):
                    text = await self._connection.recv()
            except TimeoutError:
                raise AssertionError(f"no {types} within {timeout_s:g} s; got {self.received}") from None
            message = json.loads(text)
            self.received.append(message)
            self._types.add(message["type"])
            self._unread.append(message)

    async def heard(self) -> list[Json]:
        """Everything that came up to now: a ping is sent, and what comes before its pong is read. Needs `pong`."""
        before = len(self.received)
        await self.send({"type": "ping"})
        await self.next("pong")
        return [message for message in self.received[before:] if message["type"] != "pong"]

    async def closed(self, *, timeout_s: float = ANSWER_S) -> int:
        """Wait until the server has closed it: the code."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    self.received.append(json.loads(await self._connection.recv()))
        except ConnectionClosed:
            return self._connection.close_code or 1006
        except TimeoutError:
            raise AssertionError(f"still open after {timeout_s:g} s; got {self.received}") from None


class Person:
    """Somebody at one replica, with the cookie if signed in: `get`, `post` and so on ask, and check the status."""

    def __init__(self, site: Site, *, user: User | None, token: str | None, replica: int) -> None:
        self._site = site
        self._user = user
        self.token = token
        self.replica = replica
        self.base = site.url(replica)
        cookies = {} if token is None else {cookie_name(): token}
        self.http = httpx2.AsyncClient(base_url=self.base, cookies=cookies, timeout=ANSWER_S, verify=WITHOUT_TLS)
        site.clients.append(self.http)

    @property
    def user(self) -> User:
        assert self._user is not None, "a guest"
        return self._user

    @property
    def id(self) -> int:
        return self.user.id

    def at(self, replica: int) -> Person:
        """The same person, with the same session, at another replica."""
        return Person(self._site, user=self._user, token=self.token, replica=replica)

    async def ask(self, method: str, path: str, *, status: int = 200, **options: Any) -> Any:
        """One request; its answer's JSON (None when empty). Another status than the expected fails the test."""
        answer = await self.http.request(method, path, **options)
        self._site.calls.add((method, path.partition("?")[0]))
        assert answer.status_code == status, (
            f"{method} {path}: {answer.status_code}, not {status}: {answer.text[:2000]}"
        )
        return answer.json() if answer.content else None

    async def read(self, path: str, **options: Any) -> httpx2.Response:
        """The answer to a GET as it is: for files and texts."""
        answer = await self.http.get(path, **options)
        self._site.calls.add(("GET", path.partition("?")[0]))
        return answer

    async def get(self, path: str, *, status: int = 200, **options: Any) -> Any:
        return await self.ask("GET", path, status=status, **options)

    async def post(self, path: str, body: object = None, *, status: int = 200, **options: Any) -> Any:
        if body is not None:
            options["json"] = body
        return await self.ask("POST", path, status=status, **options)

    async def put(self, path: str, body: object = None, *, status: int = 200, **options: Any) -> Any:
        if body is not None:
            options["json"] = body
        return await self.ask("PUT", path, status=status, **options)

    async def patch(self, path: str, body: object, *, status: int = 200, **options: Any) -> Any:
        return await self.ask("PATCH", path, status=status, json=body, **options)

    async def delete(self, path: str, *, status: int = 200, **options: Any) -> Any:
        return await self.ask("DELETE", path, status=status, **options)

    @contextlib.asynccontextmanager
    async def socket(self, path: str, *, origin: str | None = "", cookie: bool = True) -> AsyncIterator[Socket]:
        """A socket at this replica, as a page of the site opens it. Raises websockets' InvalidStatus when refused."""
        headers = {}
        if cookie and self.token is not None:
            headers["Cookie"] = f"{cookie_name()}={self.token}"
        address = self.base.replace("http", "ws", 1) + path
        page = self.base if origin == "" else origin
        # With a bound, a socket that many unread messages have come to would take 10 s to close.
        options: dict[str, Any] = {"origin": page, "compression": None, "proxy": None, "max_queue": None}
        async with connect(address, additional_headers=headers, **options) as connection:
            yield Socket(connection, types=self._site.heard_types)


class Site:
    """Replicas on ports of their own over one database, with or without a broker. Start it by `async with`."""

    code = "import sys; from encore.cli import main; main(['serve', '--port', sys.argv[1]])"
    """What a replica runs, with its port as the argument; tests with endpoints of their own run something else."""

    def __init__(
        self,
        database_url: str,
        *,
        replicas: int = 2,
        broker: BrokerServer | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.database_url = database_url
        self.broker = broker
        self.clients: list[httpx2.AsyncClient] = []
        self.calls: set[tuple[str, str]] = set()
        """Method and path of every request that `Person.ask` made."""
        self.heard_types: set[str] = set()
        """The types of all messages that came over anybody's socket."""
        self.database = Database(database_url)
        self._count = replicas
        self._environment = dict(environment or {})
        self._folder = tempfile.mkdtemp(prefix="encore-site-")
        Guard.shared().keep_clean(self._folder)
        self.storage = Path(self._folder, "files")
        self.ports = [free_port() for _ in range(replicas)]
        self._processes: list[nursery.Replica | None] = [None] * replicas

    async def __aenter__(self) -> Site:
        for number in range(self._count):
            self.start(number)
        try:
            for number in range(self._count):
                await self._first_ready(number)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    def start(self, replica: int) -> None:
        """Start one replica's process; `ready` says when it serves."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(NOT_OURS)}
        environment.update(
            DATABASE_URL=self.database_url,
            ENCORE_STORAGE=str(self.storage),
            ENCORE_REPLICA=f"r{replica + 1}",
            ANTIPHON_DRAIN_S="1",
            PYTHONUNBUFFERED="1",
        )
        if self.broker is not None:
            environment["REDIS_URL"] = self.broker.url
        environment.update(self._environment)
        port = str(self.ports[replica])
        process = nursery.start(self.code, port, environment=environment, log=self.log_path(replica))
        Guard.shared().watch(process.pid)
        self._processes[replica] = process

    def pid(self, replica: int = 0) -> int:
        """The process of a replica that runs."""
        process = self._processes[replica]
        assert process is not None, "this replica does not run"
        return process.pid

    async def ready(self, replica: int) -> None:
        process = self._processes[replica]
        assert process is not None
        deadline = time.monotonic() + START_S
        async with httpx2.AsyncClient(base_url=self.url(replica), timeout=ANSWER_S, verify=WITHOUT_TLS) as client:
            while True:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"replica {replica + 1} does not serve:\n{self.log(replica)[-4000:]}")
                with contextlib.suppress(httpx2.TransportError):
                    if (await client.get("/healthz")).status_code == 200:
                        return
                await asyncio.sleep(0.05)

    async def _first_ready(self, replica: int) -> None:
        """As `ready`, on another port when somebody else's server has taken the chosen one meanwhile."""
        while True:
            try:
                return await self.ready(replica)
            except AssertionError:
                if not PORT_TAKEN.search(self.log(replica)):
                    raise
            self.kill(replica)
            self.log_path(replica).unlink()
            self.ports[replica] = free_port()
            self.start(replica)

    def kill(self, replica: int) -> None:
        """SIGKILL, and wait."""
        self._end(replica, signal.SIGKILL)

    def terminate(self, replica: int) -> int:
        """SIGTERM, and wait for the process to end: its exit code."""
        return self._end(replica, signal.SIGTERM)

    async def close(self) -> None:
        for client in self.clients:
            await client.aclose()
        for replica in range(self._count):
            self.kill(replica)
        await self.database.close()

    def url(self, replica: int = 0) -> str:
        return f"http://127.0.0.1:{self.ports[replica]}"

    def log_path(self, replica: int) -> Path:
        return Path(self._folder, f"replica-{replica + 1}.log")

    def log(self, replica: int) -> str:
        """Everything that the replica wrote to its log."""
        return self.log_path(replica).read_text(errors="replace")

    async def person(self, name: str = "", *, roles: Collection[str] = (), replica: int = 0) -> Person:
        """A new account, signed in. Without a name one is made up; a name may be used once on a site."""
        name = name or f"person{next(_numbers)}"
        async with self.database.writing() as session:
            user = User(
                username=name,
                username_key=name.casefold(),
                email=f"{name}@example.org",
                email_key=f"{name}@example.org".casefold(),
                password_hash="!",
                **{f"is_{role}": True for role in roles},
            )
            session.add(user)
            await session.flush()
            _, token = await start_session(session, user)
        return Person(self, user=user, token=token, replica=replica)

    def guest(self, *, replica: int = 0) -> Person:
        """Somebody who is not signed in."""
        return Person(self, user=None, token=None, replica=replica)

    def _end(self, replica: int, number: signal.Signals) -> int:
        process, self._processes[replica] = self._processes[replica], None
        if process is None:
            return 0
        process.send_signal(number)
        try:
            return process.wait(timeout=60)
        finally:
            process.kill()
            process.wait(timeout=60)
            Guard.shared().forget(process.pid)
