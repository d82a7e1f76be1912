"""What the manager refuses: names, messages, sizes and addresses that cannot be; and that no password shows."""

from __future__ import annotations

import datetime
import logging
import traceback
from decimal import Decimal

import pytest

from antiphon.brokers.memory import MemoryBroker
from antiphon.codes import State
from antiphon.errors import (
    AntiphonError,
    ConfigurationError,
    InvalidBrokerURL,
    InvalidChannelName,
    InvalidUserId,
    MessageNotSerializable,
    MessageTooLarge,
)
from antiphon.limits import Limits
from antiphon.manager import WebSocketManager
from antiphon.publisher import Publisher, SyncPublisher
from tests.unit.browsers import Browser, Fleet, closed_port, until

# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "channel",
    ["", "a b", "a\nb", "a\x00", "a\x1b[31m", "ä", "x" * 129, "a/b", "a*", "../a", "antiphon:control", 7, b"c"],
)
def test_a_channels_name_is_refused_when_it_is_none(channel: str) -> None:
    with pytest.raises(InvalidChannelName) as refused:
        WebSocketManager(channel)

    assert all(character.isprintable() for character in str(refused.value))


def test_the_error_says_which_name_would_do_when_a_channels_name_is_wrong() -> None:
    with pytest.raises(InvalidChannelName, match="such as 'track-comments'"):
        WebSocketManager("track comments")


@pytest.mark.parametrize("user_id", [42, "", b"42", 4.2, ["42"]])
async def test_a_user_id_is_refused_wherever_it_is_asked_for_when_it_is_no_text(user_id: str) -> None:
    manager = WebSocketManager("c")
    with pytest.raises(InvalidUserId):
        manager.is_user_connected(user_id)
    with pytest.raises(InvalidUserId):
        await manager.is_user_connected_anywhere(user_id)
    with pytest.raises(InvalidUserId):
        await manager.send_to_user(user_id, "x")
    await manager.close()


# -- messages ---------------------------------------------------------------------------------------------------------


class Thing:
    pass


@pytest.mark.parametrize(
    ("message", "where"),
    [
        ({"a": [1, 2, datetime.datetime(2026, 1, 1)]}, r"message\['a'\]\[2\] is a datetime"),
        ({"price": Decimal("1.5")}, r"message\['price'\] is a Decimal"),
        ({1, 2}, "set"),
        (b"bytes", "bytes"),
        ({"a": Thing()}, "Thing"),
        ({1: "a"}, r"str\(key\)"),
        ([float("nan")], "nan"),
        ([float("-inf")], "infinity"),
        ("\ud800", "surrogate"),
        ({"a": {"b": "\udfff"}}, r"message\['a'\]\['b'\]"),
    ],
)
async def test_a_message_is_refused_and_nobody_gets_it_when_it_is_no_json(message: object, where: str) -> None:
    manager = WebSocketManager("c")
    browser = Browser()
    await manager.connect(browser.websocket, "1")
    with pytest.raises(MessageNotSerializable, match=where):
        await manager.broadcast(message)
    with pytest.raises(MessageNotSerializable, match=where):
        await manager.send_to_user("1", message)
    with pytest.raises(MessageNotSerializable, match=where):
        await manager.send_personal_message(message, browser.websocket)
    await manager.broadcast("good")
    await until(lambda: browser.texts == ["good"])
    assert manager.stats().published == 1
    await manager.close()


async def test_a_message_that_contains_itself_is_refused() -> None:
    loop: list[object] = []
    loop.append(loop)
    manager = WebSocketManager("c")
    with pytest.raises(MessageNotSerializable, match="contains itself"):
        await manager.broadcast(loop)
    await manager.close()


async def test_a_message_of_300_kib_is_refused_and_others_go_on() -> None:
    manager = WebSocketManager("c")
    browser = Browser()
    await manager.connect(browser.websocket)
    for send in (manager.broadcast, lambda message: manager.send_personal_message(message, browser.websocket)):
        with pytest.raises(MessageTooLarge, match="307,202 bytes, the limit is 262,144") as refused:
            await send("x" * 300 * 1024)
        assert (refused.value.size_bytes, refused.value.limit_bytes) == (300 * 1024 + 2, 256 * 1024)
    await manager.broadcast("good")
    await until(lambda: browser.texts == ["good"])
    await manager.close()


async def test_a_message_passes_when_it_is_as_large_as_allowed() -> None:
    manager = WebSocketManager("c", limits=Limits(message_bytes=10))
    browser = Browser()
    await manager.connect(browser.websocket)
    await manager.broadcast("x" * 8)
    with pytest.raises(MessageTooLarge):
        await manager.broadcast("x" * 9)
    with pytest.raises(MessageTooLarge):
        await manager.broadcast("é" * 5)
    await until(lambda: browser.texts == ["x" * 8])
    await manager.close()


@pytest.mark.virtual_time
async def test_the_largest_message_crosses_replicas() -> None:
    async with Fleet(2) as fleet:
        far = await fleet.join(1)
        text = "x" * (256 * 1024 - 2)
        receipt = await fleet.managers[0].broadcast(text)

        await fleet.everybody(far, have=[text])
        assert receipt.scope == "cluster"


@pytest.mark.parametrize("exclude", [42, [42], object()])
async def test_exclude_is_refused_when_it_names_no_socket(exclude: str) -> None:
    manager = WebSocketManager("c")
    with pytest.raises(ConfigurationError, match="exclude"):
        await manager.broadcast("x", exclude=exclude)
    await manager.close()


@pytest.mark.parametrize("outage", ["queue", "", None, True])
async def test_an_outage_policy_is_refused_when_it_is_unknown(outage: str) -> None:
    with pytest.raises(ConfigurationError, match="outage"):
        WebSocketManager("c", outage=outage)  # type: ignore[arg-type]  # the mistake


async def test_an_outage_policy_of_one_call_is_refused_when_it_is_unknown() -> None:
    manager = WebSocketManager("c")
    with pytest.raises(ConfigurationError, match="either 'local' or 'fail'"):
        await manager.broadcast("x", outage="queue")  # type: ignore[arg-type]  # the mistake
    await manager.close()


# -- addresses --------------------------------------------------------------------------------------------------------

SECRET = "s3cr3t-Canary"

WRONG_ADDRESSES = [
    f"redis:/user:{SECRET}@localhost:6379",
    f"redsi://user:{SECRET}@localhost:6379",
    f"http://user:{SECRET}@localhost:6379",
    f"user:{SECRET}@localhost:6379",
    f"redis://user:{SECRET}@localhost:port",
    f"redis://user:{SECRET}@localhost:99999",
    f"redis://user:{SECRET}@:6379",
    f"redis://user:{SECRET}@local host:6379",
    f"redis://user:{SECRET}/@localhost:6379",
    f"redis://user:{SECRET}#@localhost:6379",
    f"redis://user:{SECRET}@localhost:6379/zero",
    f"redis://user:{SECRET}@localhost:6379/0?pasword=x",
    f"redis://localhost:6379/0?password={SECRET}&db=x",
    f'"redis://user:{SECRET}@localhost:6379"',
    f"redis://user:{SECRET}@[::1:6379",
]


@pytest.mark.parametrize("url", WRONG_ADDRESSES)
@pytest.mark.parametrize("kind", [lambda url: WebSocketManager("c", url=url), Publisher, SyncPublisher])
def test_an_address_is_refused_at_once_and_without_its_password_when_it_is_wrong(
    kind: type[Publisher], url: str
) -> None:
    with pytest.raises(InvalidBrokerURL) as refused:
        kind(url)

    assert SECRET not in report_of(refused.value)


@pytest.mark.parametrize("name", ["ANTIPHON_BROKER_URL", "REDIS_URL"])
def test_an_address_from_the_environment_is_checked_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, f"redsi://user:{SECRET}@localhost")
    with pytest.raises(InvalidBrokerURL, match="did you mean redis://") as refused:
        WebSocketManager("c")

    assert SECRET not in report_of(refused.value)


def test_an_address_and_a_broker_are_refused_together() -> None:
    with pytest.raises(ConfigurationError, match="not both"):
        WebSocketManager("c", url="redis://localhost", broker=MemoryBroker())


async def test_no_password_shows_anywhere_when_the_broker_cannot_be_reached(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with closed_port() as port:
        seen = await use_everything(f"redis://user:{SECRET}@127.0.0.1:{port}/0", caplog)

    assert "degraded (unreachable)" in caplog.text
    assert SECRET not in "\n".join([*seen, *caplog.messages, caplog.text])


async def use_everything(url: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    """What all that knows an address shows of itself and of its failures."""
    caplog.set_level(logging.DEBUG)
    manager, publisher, blocking = WebSocketManager("c", url=url), Publisher(url), SyncPublisher(url)
    await manager.start()
    browser = Browser()
    connection = await manager.connect(browser.websocket, "1")
    receipt = await manager.broadcast("x")
    seen = [repr(each) for each in (manager, publisher, blocking, connection, receipt, manager.stats(), manager.state)]
    with pytest.raises(AntiphonError) as failed:
        await publisher.publish("c", "x")
    seen.append(report_of(failed.value))
    with pytest.raises(AntiphonError) as failed:
        blocking.publish("c", "x")
    seen.append(report_of(failed.value))
    with pytest.raises(AntiphonError) as failed:
        await manager.broadcast("x", outage="fail")
    seen.append(report_of(failed.value))
    await manager.close()
    await publisher.close()
    blocking.close()
    assert manager.state is State.CLOSED
    return seen


def report_of(error: BaseException) -> str:
    """What an error report may show of an exception and of all that it refers to, the frames' variables included."""
    parts = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None:
            parts += [str(one), repr(one), repr(one.args), repr(vars(one))]
            waiting += [one.__cause__, one.__context__]
    return "\n".join([*parts, *traceback.format_exception(error)])


@pytest.mark.parametrize("name", ["limits", "send_limits", "outbox_limits", "timings", "broker", "url"])
def test_an_argument_of_another_type_is_refused_when_the_manager_is_made(name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        WebSocketManager("c", **{name: 5})  # type: ignore[arg-type]  # that is the slip


def test_a_filter_that_is_a_coroutine_function_is_refused() -> None:
    async def later(message: object) -> bool:
        return True

    with pytest.raises(ConfigurationError, match="async def"):
        WebSocketManager("c").set_message_filter(later)
