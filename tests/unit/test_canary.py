"""A password in the broker's address is seen by nobody, whatever goes wrong: in logs, texts, statistics and pickles."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import io
import logging
import pickle
import traceback
from collections.abc import Awaitable, Callable, Iterator
from urllib.parse import quote

import pytest
from typer.testing import CliRunner

from antiphon import Publisher, SyncPublisher, WebSocketManager
from antiphon.brokers import _redis_wire, broker_for, store_for
from antiphon.brokers._redis_replies import PlainReplies
from antiphon.brokers.redis_sync import SyncRedisPublishing
from antiphon.cli.commands import app as command_line
from antiphon.errors import AntiphonError, BrokerError, InvalidBrokerURL, PublishFailed
from antiphon.manager import managers_here
from antiphon.settings import Timings, read_settings
from tests.unit.browsers import Browser, closed_port
from tests.unit.scripted_redis import HANG_UP, Answer, ScriptedRedis

CANARY = "c4n4ry"
PASSWORD = f"{CANARY}/p@ss w:rd%"
QUICK = Timings(connect_s=0.3, command_s=0.3, prove_s=0.3, dead_after_s=0.3, ping_every_s=0.1, own_copy_s=0.3)


class Overheard(logging.Handler):
    """Everything that is logged anywhere, as it would be written, with tracebacks and their variables of ours."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.text = io.StringIO()

    def emit(self, record: logging.LogRecord) -> None:
        self.text.write(f"{self.format(record)} {record.args!r} {vars(record)!r}\n")
        if record.exc_info and record.exc_info[1] is not None:
            self.text.write(everything_about(record.exc_info[1]))


@pytest.fixture(autouse=True)
def overheard() -> Iterator[Overheard]:
    """Fails the test when a log line holds the password."""
    root, handler = logging.getLogger(), Overheard()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    root.removeHandler(handler)
    root.setLevel(before)
    assert CANARY not in handler.text.getvalue()


def everything_about(error: BaseException) -> str:
    """What an error says of itself, of its causes, and what an error report shows of our frames and their variables."""
    parts = []
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        parts += [str(one), repr(one), repr(one.args), repr(vars(one)), "".join(traceback.format_exception(one))]
        frames = traceback.walk_tb(one.__traceback__)
        parts += [repr(frame.f_locals) for frame, _ in frames if "/antiphon/brokers/" in frame.f_code.co_filename]
        waiting += [one.__cause__, one.__context__]
    with contextlib.suppress(TypeError, AttributeError):
        parts += [repr(pickle.dumps(error)), str(pickle.loads(pickle.dumps(error))), repr(copy.deepcopy(error))]
    return "\n".join(parts)


def said_by(manager: WebSocketManager) -> str:
    """Everything that a manager says in public."""
    stats = manager.stats()
    parts = [repr(manager), str(manager), repr(stats), repr(stats.link), repr(manager.state), repr(managers_here())]
    health = getattr(manager, "health", None)
    if callable(health):
        parts.append(repr(health()))
    return "\n".join(parts)


def addresses(port: int) -> list[str]:
    """The ways to write a password for a server at this port."""
    coded, host = quote(PASSWORD, safe=""), f"127.0.0.1:{port}"
    return [f"redis://ws:{coded}@{host}/0", f"redis://:{coded}@{host}", f"redis://{host}?password={coded}&username=ws"]


ECHO = b"-ERR unknown command, with args beginning with: '" + PASSWORD.encode() + b"'\r\n"


def said_back(command: list[bytes]) -> bytes:
    return b"-ERR what is " + b" ".join(command) + b"\r\n"


FAULTS: dict[str, dict[str, Answer]] = {
    "wrong password": {"AUTH": b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"},
    "password said back": {"AUTH": ECHO},
    "command said back": {"AUTH": said_back},
    "password instead of an answer": {"AUTH": PASSWORD.encode() + b"\r\n"},
    "password as an answer": {"AUTH": b"$%d\r\n%b\r\n" % (len(PASSWORD), PASSWORD.encode())},
    "hangs at sign-in": {"AUTH": None},
    "hangs up at sign-in": {"AUTH": HANG_UP},
    "loading": {"PING": b"-LOADING " + PASSWORD.encode() + b"\r\n"},
    "no rights": {"PING": b"-NOPERM no " + PASSWORD.encode() + b"\r\n"},
    "replica": {"ROLE": b"*5\r\n$5\r\nslave\r\n$6\r\nc4n4r0\r\n:6399\r\n$9\r\nconnected\r\n:14\r\n"},
    "publish refused": {"PUBLISH": ECHO},
    "publish hangs": {"PUBLISH": None},
    "publish hangs up": {"PUBLISH": HANG_UP},
    "publish out of step": {"PUBLISH": b"+" + PASSWORD.encode() + b"\r\n"},
    "subscribe refused": {"SUBSCRIBE": ECHO},
    "subscribe hangs": {"SUBSCRIBE": None},
    "store refused": {"SET": ECHO},
}


async def use_manager(url: str) -> str:
    manager = WebSocketManager("chat", url=url, timings=QUICK)
    said = [said_by(manager)]
    await manager.start()
    await manager.connect(Browser().websocket, "42", topics=["t"])
    said.append(repr(await manager.broadcast({"type": "x"})))
    try:
        await manager.broadcast({"type": "x"}, topic="t", outage="fail")
    except PublishFailed as failed:
        said.append(everything_about(failed))
    said += [repr(await manager.cluster_counts(timeout_s=0.1)), said_by(manager)]
    await manager.close()
    return "\n".join([*said, said_by(manager)])


async def use_publisher(url: str) -> str:
    async with Publisher(url) as publisher:
        publisher._timings = QUICK
        return f"{publisher!r} {await failure_of(publisher.publish('chat', {'type': 'x'}))}"


async def use_sync_publisher(url: str) -> str:
    publisher = SyncPublisher(url, timeout_s=0.3)
    said = await failure_of(asyncio.to_thread(publisher.publish, "chat", {"type": "x"}))
    await asyncio.to_thread(publisher.close)
    return f"{publisher!r} {said}"


async def use_broker(url: str) -> str:
    broker = broker_for(url)
    assert broker is not None
    said = [repr(broker), str(broker), broker.address]
    for dial in (broker.open_listening, broker.open_publishing):
        try:
            async with asyncio.timeout(1.0):
                connection = await dial()
        except (BrokerError, TimeoutError) as error:
            said.append(everything_about(error))
        else:
            said += [repr(connection), repr(vars(connection))]
            await connection.close()
    return "\n".join(said)


async def use_store(url: str) -> str:
    store = store_for(url)
    said = f"{store!r} {await failure_of(store.put_once('key', b'x', ttl_s=1.0))}"
    await store.close()
    return said


async def failure_of(call: Awaitable[object]) -> str:
    try:
        return repr(await call)
    except AntiphonError as error:
        return everything_about(error)


USES = pytest.mark.parametrize(
    "use", [use_manager, use_publisher, use_sync_publisher, use_broker, use_store], ids=lambda use: use.__name__[4:]
)
Use = Callable[[str], Awaitable[str]]


@USES
@pytest.mark.parametrize("fault", FAULTS)
async def test_password_is_in_nothing_that_is_said_when_the_server_misbehaves(use: Use, fault: str) -> None:
    with ScriptedRedis(FAULTS[fault]) as server:
        said = ""
        for _ in range(20):  # a busy machine may not even get so far as to sign in
            said += await use(addresses(server.port)[0])
            if [b"AUTH", b"ws", PASSWORD.encode()] in server.commands:
                break
        assert [b"AUTH", b"ws", PASSWORD.encode()] in server.commands
    assert CANARY not in said


@pytest.mark.parametrize("use", [use_manager, use_publisher, use_broker, use_store], ids=lambda use: use.__name__[4:])
async def test_password_is_in_nothing_that_is_said_when_the_parser_repeats_what_it_cannot_read(
    use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    """redis-py's own parser does, which is used where hiredis is not installed."""
    monkeypatch.setattr(_redis_wire, "open_replies", PlainReplies)
    with ScriptedRedis(FAULTS["password instead of an answer"]) as server:
        assert CANARY not in await use(addresses(server.port)[0])


@USES
@pytest.mark.parametrize("form", [0, 1, 2])
async def test_password_is_in_nothing_that_is_said_when_nobody_listens(use: Use, form: int) -> None:
    with closed_port() as port:
        said = await use(addresses(port)[form])
    assert said
    assert CANARY not in said


@USES
async def test_password_is_in_nothing_that_is_said_when_the_server_is_silent(use: Use) -> None:
    with ScriptedRedis(reads=False) as server:
        assert CANARY not in await use(addresses(server.port)[0])


@USES
async def test_password_is_in_nothing_that_is_said_when_there_is_no_tls(use: Use) -> None:
    with ScriptedRedis(greeting=b"HTTP/1.1 400 Bad Request\r\n\r\n") as server:
        assert CANARY not in await use(addresses(server.port)[0].replace("redis://", "rediss://"))


@USES
async def test_password_is_in_nothing_that_is_said_when_there_is_no_such_socket(use: Use) -> None:
    said = await use(f"unix://ws:{quote(PASSWORD, safe='')}@/nowhere/redis.sock")
    assert said
    assert CANARY not in said


# -- addresses that cannot be used ------------------------------------------------------------------------------------

MALFORMED = [
    f"redis://:{PASSWORD}@localhost",
    f"redis://:{CANARY}#x@localhost",
    f"redis://:{CANARY}?x@localhost",
    f"redis://:{CANARY}[x@localhost",
    f"redis://:{CANARY}]@localhost",
    f"redis://u:{CANARY}:6379",
    f"redis://:{CANARY}@localhost:{CANARY}",
    f"redis://:{CANARY}@localhost:99999",
    f"redis://:{CANARY}@localhost:0",
    f"redis://:{CANARY}@localhost/{CANARY}",
    f"redis://:{CANARY}@localhost/-1",
    f"redis://:{CANARY}@",
    f"redis://:{CANARY}@:6379",
    f"redis:{CANARY}@localhost",
    f"redis//:{CANARY}@localhost",
    f":{CANARY}@localhost:6379",
    f"{CANARY}",
    f"http://:{CANARY}@localhost",
    f"redsi://:{CANARY}@localhost",
    f"redis+sentinel://:{CANARY}@localhost",
    f"'redis://:{CANARY}@localhost'",
    f"redis://:{CANARY}\n@localhost",
    f"redis://:{CANARY}\x00@localhost",
    f"redis://localhost?pasword={CANARY}",
    f"redis://localhost?{CANARY}=1",
    f"redis://:{CANARY}@localhost?db=zero",
    f"redis://:{CANARY}@localhost?ssl_ca_certs=/x",
    f"rediss://:{CANARY}@localhost?ssl_cert_reqs=maybe",
    f"rediss://:{CANARY}@localhost?ssl_ca_certs=/nowhere/{CANARY}.pem",
    f"rediss://:{CANARY}@localhost?ssl_certfile=/nowhere&ssl_password={CANARY}",
    f"rediss://:{CANARY}@localhost?ssl_min_version={CANARY}",
    f"unix://:{CANARY}@host/path",
    f"unix://:{CANARY}@",
]

MAKERS: list[Callable[[str], object]] = [
    lambda url: WebSocketManager("chat", url=url),
    lambda url: Publisher(url),
    lambda url: SyncPublisher(url),
    lambda url: SyncRedisPublishing(url),
    lambda url: broker_for(url),
    lambda url: store_for(url),
]


@pytest.mark.parametrize("url", MALFORMED)
def test_address_that_cannot_be_used_is_repeated_by_no_exception(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for make in MAKERS:
        with pytest.raises(InvalidBrokerURL) as caught:
            make(url)
        error = caught.value
        texts = [str(error), repr(error), repr(error.args), repr(vars(error)), repr(pickle.dumps(error))]
        assert CANARY not in "".join([*texts, str(pickle.loads(pickle.dumps(error)))])
        # The frames hold the address as an argument; a traceback without variables is what a log shows.
        assert CANARY not in "".join(traceback.format_exception(error, limit=-3)).replace(repr(url), "")
        assert error.__cause__ is None
    if "\x00" not in url:
        monkeypatch.setenv("ANTIPHON_BROKER_URL", url)
        with pytest.raises(InvalidBrokerURL) as caught:
            WebSocketManager("chat")
        assert CANARY not in f"{caught.value!s}{caught.value!r}"


@pytest.mark.parametrize(
    "url",
    [
        *addresses(6379),
        f"redis://:{PASSWORD}@localhost",
        f"redis://:{CANARY}#x@localhost",
        f"redis://:{CANARY}\n@localhost",
        f":{CANARY}@localhost:6379",
        f"rediss://localhost?ssl_password={CANARY}&ssl_certfile=/x",
        f"unix://:{CANARY}@/run/redis.sock",
    ],
)
def test_settings_show_no_password(url: str) -> None:
    assert CANARY not in repr(read_settings(url, {}))


@pytest.mark.parametrize("command", ["tail", "publish"])
@pytest.mark.parametrize("url", [MALFORMED[0], f"redis://:{CANARY}@127.0.0.1:1/0"])
def test_command_line_prints_no_password(command: str, url: str) -> None:
    arguments = [command, "chat", *(["{}"] if command == "publish" else []), "--url", url]
    done = CliRunner().invoke(command_line, arguments)
    assert done.exit_code != 0
    assert done.output
    assert CANARY not in done.output
