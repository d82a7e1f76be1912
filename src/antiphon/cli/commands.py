"""The commands and their options. What they do stands in the modules beside this one and in `antiphon.dev`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer

from antiphon.brokers import broker_for
from antiphon.brokers.base import Broker
from antiphon.cli.drain import drain as drain_replica
from antiphon.cli.exits import Exit, exit_for
from antiphon.cli.message import read_message
from antiphon.cli.output import notice, print_json, print_parts, shows_colors
from antiphon.cli.tail import tail as tail_channel
from antiphon.cli.versions import versions
from antiphon.errors import AntiphonError, BrokerError, ConfigurationError, PublishFailed
from antiphon.settings import read_settings
from antiphon.topics import check_channel, check_topic, route_of

__all__ = ["app", "run"]

app = typer.Typer(
    name="antiphon",
    help="Real-time messages across replicas: publish them, watch them, develop with them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich" if shows_colors() else None,
)

Url = Annotated[
    str | None,
    typer.Option(help="Address of the broker; else ANTIPHON_BROKER_URL, else REDIS_URL.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]


def run(arguments: Sequence[str]) -> int:
    """Carry out one command line and return its exit code."""
    try:
        app(args=list(arguments), prog_name="antiphon")
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    return Exit.OK


@contextmanager
def _reported() -> Generator[None]:
    """Turn the library's errors into a line on standard error and an exit code."""
    try:
        yield
    except AntiphonError as error:
        cause = error.__cause__ if isinstance(error, PublishFailed) else None
        notice(f"{error}: {cause}" if isinstance(cause, BrokerError) else str(error))
        raise typer.Exit(exit_for(error)) from error
    except BrokenPipeError as error:
        # Whoever read our output has left (`| head -1`). Python would complain once more at its own end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(Exit.OK) from error


class NoBroker(ConfigurationError):
    """No address was given, or the switch for single-replica mode is set."""


def _broker(url: str | None) -> Broker:
    broker = broker_for(read_settings(url).broker_url)
    if broker is None:
        raise NoBroker(
            "there is no broker to talk to: give --url redis://HOST:PORT/0, or set ANTIPHON_BROKER_URL or REDIS_URL "
            "(USE_REDIS_WEBSOCKET=false switches all of them off)"
        )
    return broker


@app.command()
def publish(
    channel: Annotated[str, typer.Argument(help="The manager's channel.")],
    message: Annotated[
        str, typer.Argument(help="The message, as JSON; - reads it from standard input.", metavar="JSON")
    ],
    topic: Annotated[
        str | None, typer.Option(help="Only for clients that hear this topic.", show_default=False)
    ] = None,
    to_user: Annotated[
        list[str] | None, typer.Option(help="Only for this user; may be given again.", show_default=False)
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Send a message to every client of a channel, on every replica."""
    from antiphon.publisher import Publisher

    async def send() -> None:
        async with Publisher(broker=broker) as publisher:
            receipt = await publisher.publish(
                channel, value, topic=topic, target_user_ids=None if to_user is None else set(to_user)
            )
        if as_json:
            print_json({"id": receipt.id, "replicas": receipt.replicas})
        else:
            print_parts((f"published {receipt.id}; listeners at the broker: {receipt.replicas}", ""))

    with _reported():
        value = read_message(message)
        broker = _broker(url)
        asyncio.run(send())


@app.command()
def tail(
    channel: Annotated[str, typer.Argument(help="The manager's channel.")],
    topic: Annotated[
        list[str] | None,
        typer.Option(help="Watch this topic instead of what is for everybody; may be given again.", show_default=False),
    ] = None,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, help="Stop after so many.", show_default=False)
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Show what is published on a channel, by every replica and program: time, sender, for whom, message.

    Ends with Ctrl-C. A topic has a route of its own at the broker: name it to see it.
    """
    with _reported():
        name = check_channel(channel)
        routes = [route_of(name, check_topic(one)) for one in topic] if topic else [name]
        broker = _broker(url)
        try:
            asyncio.run(tail_channel(broker, channel=name, routes=routes, count=count, as_json=as_json, notice=notice))
        except KeyboardInterrupt:
            raise typer.Exit(Exit.OK) from None


@app.command()
def drain(
    url: Annotated[str, typer.Argument(help="The replica's own address; the path /drain is added if it has none.")],
    token: Annotated[
        str | None, typer.Option(help="What its endpoint wants; else ANTIPHON_DRAIN_TOKEN.", show_default=False)
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Return when it is done.")] = True,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the answer.")] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Send the clients of one replica away before it is ended: the pre-stop hook of an orchestrator."""
    with _reported():
        answer = drain_replica(url, token=token, wait=wait, timeout_s=timeout_s)
        if as_json:
            print_json(answer._asdict())
        elif answer.closed is None or answer.seconds is None:
            print_parts((answer.status, ""))
        else:
            print_parts((f"{answer.status}: {answer.closed} sockets closed in {answer.seconds:.1f} s", ""))


@app.command()
def version(as_json: AsJson = False) -> None:
    """Show the releases of antiphon and of what it works with."""
    with _reported():
        found = versions()
        if as_json:
            print_json(found)
            return
        for name, release in found.items():
            print_parts((f"{name:<11} ", "bold" if name == "antiphon" else ""), (release or "not installed", ""))


@app.command()
def dev(
    application: Annotated[str, typer.Argument(help="The ASGI application, as uvicorn takes it.", metavar="APP")],
    replicas: Annotated[int, typer.Option("--replicas", "-n", min=1, help="How many processes.")] = 3,
    port: Annotated[
        int, typer.Option(min=0, max=65_525, help="The shared port; each replica has one above it too.")
    ] = 8000,
    redis: Annotated[
        str | None,
        typer.Option(help="A broker to use instead of an embedded Valkey; none for none.", show_default=False),
    ] = None,
    app_dir: Annotated[str, typer.Option(help="Folder that the application is imported from.")] = ".",
    keys: Annotated[bool, typer.Option("--keys/--no-keys", help="Stop and start parts by single keys.")] = True,
    broker_switch: Annotated[
        bool,
        typer.Option("--broker-switch", help="Let the application stop and start the broker (ANTIPHON_DEV_CONTROL)."),
    ] = False,
) -> None:
    """Run an application on several replicas in one terminal, with a broker of its own."""
    with _reported():
        from antiphon.dev.command import run_dev

        code = run_dev(
            app=application,
            replicas=replicas,
            port=port,
            redis_url=redis,
            app_dir=app_dir,
            keys=keys,
            broker_switch=broker_switch,
        )
        raise typer.Exit(code)
