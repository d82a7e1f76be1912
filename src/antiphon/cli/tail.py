"""`antiphon tail`: everything that is published on a channel, by any replica or program, one line each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime

from antiphon.brokers.base import Broker, Event, Listening, Message, Subscribed
from antiphon.cli.output import print_json, print_parts, printable
from antiphon.errors import BrokerError, BrokerTimeout, BrokerUnavailable, EnvelopeError
from antiphon.wire import codec
from antiphon.wire import envelope as envelopes
from antiphon.wire.envelope import Envelope

__all__ = ["Arrival", "follow", "print_arrival", "tail", "understand"]

CONNECT_S = 5.0
PING_S = 2.0
DEAD_S = 6.0
RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """One payload as it came from the broker. `envelope` is None when it cannot be understood; `error` says why."""

    route: str
    payload: bytes
    at: float
    envelope: Envelope | None = None
    error: str = ""


def understand(message: Message, *, at: float) -> Arrival:
    """Decode what came; what is malformed is shown too, since finding it is what one tails for."""
    try:
        return Arrival(message.route, message.payload, at, envelope=envelopes.decode(message.payload))
    except EnvelopeError as error:
        return Arrival(message.route, message.payload, at, error=str(error))


async def follow(
    broker: Broker, routes: Collection[str], *, notice: Callable[[str], None]
) -> AsyncGenerator[Arrival, None]:
    """Yield what is published on the routes, for ever.

    Raises BrokerError when the broker cannot be reached at first. A connection that is lost later is made anew, as
    often as it takes; what was published meanwhile is missing, and `notice` is told.
    """
    listening = await _listen(broker, routes)
    notice(f"listening to {', '.join(routes)} at {broker.address}")
    while True:
        try:
            async with aclosing(_messages(listening)) as messages:
                async for message in messages:
                    yield understand(message, at=time.time())
        except BrokerError as error:
            notice(f"the connection was lost, what is published now is missing here: {error}")
        finally:
            await listening.close()
        listening = await _listen_again(broker, routes)
        notice("listening again")


async def _listen_again(broker: Broker, routes: Collection[str]) -> Listening:
    while True:
        await asyncio.sleep(RETRY_S)
        try:
            return await _listen(broker, routes)
        except BrokerError:
            continue


async def _listen(broker: Broker, routes: Collection[str]) -> Listening:
    """Connect and subscribe; returns when every route is confirmed."""
    try:
        async with asyncio.timeout(CONNECT_S):
            listening = await broker.open_listening()
            try:
                await _confirm(listening, routes)
            except BaseException:
                await listening.close()
                raise
            return listening
    except TimeoutError as error:
        raise BrokerUnavailable(f"{broker.address} did not answer within {CONNECT_S:g} s") from error


async def _confirm(listening: Listening, routes: Collection[str]) -> None:
    missing = set(routes)
    listening.subscribe(routes)
    while missing:
        for event in await listening.receive():
            if isinstance(event, Subscribed):
                missing.discard(event.route)


async def _messages(listening: Listening) -> AsyncGenerator[Message, None]:
    """What arrives, until the connection ends; silence is broken by a ping, and means death when that has no answer."""
    receiving: asyncio.Task[list[Event]] | None = None
    heard = time.monotonic()
    try:
        while True:
            if receiving is None:
                receiving = asyncio.create_task(_receive(listening))
            done, _ = await asyncio.wait({receiving}, timeout=PING_S)
            if done:
                events, receiving = receiving.result(), None
                heard = time.monotonic()
                for event in events:
                    if isinstance(event, Message):
                        yield event
            elif time.monotonic() - heard > DEAD_S:
                raise BrokerTimeout(f"no answer for {DEAD_S:g} s")
            else:
                listening.ping(b"antiphon-tail")
    finally:
        if receiving is not None:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)


async def _receive(listening: Listening) -> list[Event]:
    return list(await listening.receive())


def print_arrival(arrival: Arrival, *, channel: str, as_json: bool) -> None:
    """Print one line: time, sender, for whom, message."""
    if as_json:
        print_json(_as_json(arrival, channel=channel))
    else:
        print_parts(*_as_line(arrival, channel=channel))


def _topic(arrival: Arrival, *, channel: str) -> str | None:
    return arrival.route[len(channel) + 1 :] if len(arrival.route) > len(channel) else None


def _as_json(arrival: Arrival, *, channel: str) -> dict[str, object]:
    envelope = arrival.envelope
    line: dict[str, object] = {
        "received_at": datetime.fromtimestamp(arrival.at, UTC).isoformat(timespec="milliseconds"),
        "channel": channel,
        "topic": _topic(arrival, channel=channel),
    }
    if envelope is None:
        return {**line, "error": arrival.error, "payload": arrival.payload.decode("utf-8", "backslashreplace")}
    return {
        **line,
        "id": envelope.id,
        "from": envelope.sender,
        "published_at_ms": envelope.at_ms,
        "users": None if envelope.users is None else sorted(envelope.users),
        "exclude": None if envelope.exclude is None else sorted(envelope.exclude),
        "expires_at_ms": envelope.expires_at_ms,
        "retry_age_ms": envelope.retry_age_ms,
        "kind": envelope.kind,
        "text": envelope.is_text,
        "message": codec.decode(envelope.payload),
    }


def _as_line(arrival: Arrival, *, channel: str) -> list[tuple[str, str]]:
    envelope = arrival.envelope
    published_at = envelope.at_ms / 1000 if envelope is not None and envelope.at_ms is not None else arrival.at
    head = [
        (f"{_clock_time(published_at)} ", "dim"),
        (f"{printable((envelope.sender if envelope else None) or '-'):<12} ", "cyan"),
        (f"{_audience(arrival, channel=channel):<12} ", "magenta"),
    ]
    if envelope is None:
        shown = arrival.payload[:200].decode("utf-8", "backslashreplace")
        return [*head, (f"not understood ({printable(arrival.error)}): ", "red"), (printable(shown), "")]
    return [*head, (printable(envelope.payload.decode()), "")]


def _clock_time(seconds: float) -> str:
    """The local time of day; a time that no calendar has (another program's mistake) as the number."""
    try:
        return datetime.fromtimestamp(seconds).strftime("%H:%M:%S.%f")[:-3]
    except (OverflowError, ValueError, OSError):
        return f"{seconds:g}"


def _audience(arrival: Arrival, *, channel: str) -> str:
    """For whom it is: a topic, users, or all; a re-send and a control message are marked."""
    envelope = arrival.envelope
    parts = [_topic(arrival, channel=channel) or "all"]
    if envelope is not None and envelope.users is not None:
        parts.append("to " + ",".join(sorted(envelope.users)))
    if envelope is not None and envelope.exclude:
        parts.append(f"but {len(envelope.exclude)}")
    if envelope is not None and envelope.retry_age_ms is not None:
        parts.append(f"sent again after {envelope.retry_age_ms / 1000:.1f} s")
    if envelope is not None and envelope.kind is not None:
        parts.append(f"control {envelope.kind}")
    return printable(" ".join(parts))


async def tail(
    broker: Broker,
    *,
    channel: str,
    routes: Collection[str],
    count: int | None,
    as_json: bool,
    notice: Callable[[str], None],
) -> None:
    """Print what arrives, `count` lines or for ever. Raises BrokerError when the broker cannot be reached at first."""
    printed = 0
    async with aclosing(follow(broker, routes, notice=notice)) as arrivals:
        async for arrival in arrivals:
            print_arrival(arrival, channel=channel, as_json=as_json)
            printed += 1
            if printed == count:
                return
