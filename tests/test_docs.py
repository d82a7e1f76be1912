"""The docs show only code that runs, name only what exists, and link only to what is there."""

from __future__ import annotations

import dataclasses
import enum
import importlib.util
import json
import re
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import get_args

import pytest
import redis
from fastapi import FastAPI, WebSocket
from starlette.testclient import TestClient

import antiphon
from antiphon import LinkStats, ManagerStats, Reason, State, WebSocketManager
from antiphon.cli.commands import app as command_line
from antiphon.cli.exits import Exit
from antiphon.dev.broker_server import BrokerServer
from antiphon.drain import Drain
from antiphon.health.status import Status
from antiphon.limits import Limits
from antiphon.metrics import FAMILIES
from antiphon.outbox import OutboxLimits
from antiphon.settings import Timings
from antiphon.topics import CONTROL_ROUTE, replica_route
from antiphon.transports.base import SendLimits
from antiphon.wire import envelope as envelopes
from antiphon.wire.envelope import Envelope

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
README, OPERATION, WIRE = ROOT / "README.md", ROOT / "docs/operation.md", ROOT / "docs/wire-format.md"

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`]+)`")
ENDINGS = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return [body for found, body in FENCE.findall(text(page)) if found == language]


def block(page: Path, language: str, *, containing: str) -> str:
    found = [body for body in blocks(page, language) if containing in body]
    assert len(found) == 1, f"{len(found)} {language} blocks of {page.name} contain {containing!r}"
    return found[0]


def prose(page: Path) -> str:
    return FENCE.sub("", text(page))


def section(page: Path, heading: str) -> str:
    """What stands under a heading, up to the next one of its rank or above."""
    rank, found = heading.split(" ")[0], re.search(rf"^{re.escape(heading)}$", text(page), re.M)
    assert found is not None, f"{page.name} has no {heading!r}"
    rest = text(page)[found.end() :]
    following = re.search(rf"^#{{1,{len(rank)}}} ", rest, re.M)
    return rest[: following.start()] if following else rest


def rows(part: str) -> list[list[str]]:
    """The cells of the first table."""
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def names(part: str) -> list[str]:
    """What stands in backticks in the first column of the first table."""
    return [name for row in rows(part) for name in CODE.findall(row[0])]


def values_of(kind: type[enum.Enum]) -> set[object]:
    return {member.value for member in kind}


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTIPHON_BROKER_URL", "REDIS_URL", "USE_REDIS_WEBSOCKET"):
        monkeypatch.delenv(name, raising=False)


# -- code -------------------------------------------------------------------------------------------------------------


def test_every_python_block_is_run_by_a_test_here() -> None:
    run_here = {"def websocket_endpoint", "async def example", "SyncPublisher()"}
    for page in PAGES:
        if page.name == "security.md":
            continue  # tests/test_docs_security.py
        for body in blocks(page, "python"):
            assert page == README, f"{page.name} shows code that no test runs"
            assert sum(mark in body for mark in run_here) == 1, body
    assert len(blocks(README, "python")) == len(run_here)


def test_chat_of_the_readme_does_what_the_tutorial_s_does() -> None:
    namespace: dict[str, object] = {}
    exec(block(README, "python", containing="def websocket_endpoint"), namespace)
    app = namespace["app"]
    assert isinstance(app, FastAPI)
    with TestClient(app) as client, client.websocket_connect("/ws/1") as one:
        with client.websocket_connect("/ws/2") as two:
            two.send_text("hello")
            assert two.receive_text() == "You wrote: hello"
            assert two.receive_text() == "Client #2 says: hello"
            assert one.receive_text() == "Client #2 says: hello"
        assert one.receive_text() == "Client #2 left the chat"


def test_lines_that_change_in_the_readme_are_those_of_its_chat() -> None:
    change = block(README, "diff", containing="ConnectionManager")
    added = [line[1:] for line in change.splitlines() if line.startswith("+")]
    chat = block(README, "python", containing="def websocket_endpoint").splitlines()
    assert len(added) == 3
    assert set(added) <= set(chat)


def test_second_example_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, object] = {}
    exec(block(README, "python", containing="async def example"), namespace)
    example = namespace["example"]
    manager = namespace["comments"]
    assert callable(example)
    assert isinstance(manager, WebSocketManager)
    app = FastAPI()

    async def endpoint(websocket: WebSocket) -> None:
        await example(websocket)
        await websocket.receive()
        manager.disconnect(websocket)

    app.add_api_websocket_route("/ws", endpoint)
    with TestClient(app) as client, client.websocket_connect("/ws") as socket:
        assert socket.receive_json() == {"type": "new_comment", "track_id": 7}
        assert socket.receive_json() == {"type": "mention"}
    printed = capsys.readouterr().out
    assert "local None no_broker" in printed
    assert "ClusterCounts(connections=1, users=1, replicas=1, complete=True)" in printed


def test_worker_of_the_readme_publishes(valkey_server: BrokerServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", valkey_server.url)
    namespace: dict[str, object] = {}
    exec(block(README, "python", containing="SyncPublisher()"), namespace)
    assert isinstance(namespace["publisher"], antiphon.SyncPublisher)


def test_commands_in_the_docs_exist() -> None:
    loader = SourceFileLoader("run_script", str(ROOT / "run"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    script = importlib.util.module_from_spec(spec)
    exec(compile(text(ROOT / "run"), "run", "exec"), vars(script))
    known = {
        command.name or (command.callback and command.callback.__name__) for command in command_line.registered_commands
    }
    for page in PAGES:
        for command in re.findall(r"(?<![/\w-])python3 run (\w+)", text(page)):
            assert command in script.COMMANDS, f"{page.name}: python3 run {command}"
        for command in re.findall(r"^antiphon ([a-z]\w*)|`antiphon ([a-z]\w*)", text(page), re.M):
            assert set(filter(None, command)) <= known, f"{page.name}: antiphon {command}"


# -- links ------------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors that a forge makes of the headings."""
    headings = re.findall(r"^#{1,6} (.*)$", FENCE.sub("", text(page)), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_every_page_of_the_docs_is_linked_from_the_readme() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in LINK.findall(prose(README))}
    assert {page for page in PAGES if page != README} <= linked


def test_every_module_has_its_place_in_contributing() -> None:
    layout = block(ROOT / "CONTRIBUTING.md", "text", containing="src/antiphon/")
    for path in sorted((ROOT / "src/antiphon").iterdir()):
        if path.name.startswith("__") or path.name == "py.typed":
            continue
        name = path.name if path.suffix == ".py" else f"{path.name}/"
        assert re.search(rf"(?<![\w/]){re.escape(name)}", layout), f"{name} is missing in CONTRIBUTING.md"
    for name in re.findall(r"^  (\w+\.py)", layout, re.M):
        assert (ROOT / "src/antiphon" / name).exists(), f"there is no {name}"


# -- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [Limits, SendLimits, OutboxLimits, Timings], ids=lambda kind: kind.__name__)
def test_settings_table_has_the_defaults_of_the_code(settings: type) -> None:
    table = {
        CODE.findall(row[0])[0]: float(row[1].replace(",", ""))
        for row in rows(section(OPERATION, f"### `{settings.__name__}`"))
    }
    assert table == {field.name: float(getattr(settings(), field.name)) for field in dataclasses.fields(settings)}


def test_states_table_is_complete() -> None:
    assert set(names(section(OPERATION, "## States"))) == values_of(State)


def test_reasons_table_is_complete() -> None:
    assert set(names(section(OPERATION, "## Reasons"))) == values_of(Reason)


@pytest.mark.parametrize(
    ("heading", "stats"), [("### Of a manager", ManagerStats), ("### Of a link", LinkStats)], ids=["manager", "link"]
)
def test_counters_table_is_complete(heading: str, stats: type) -> None:
    assert set(names(section(OPERATION, heading))) == {field.name for field in dataclasses.fields(stats)}


def test_metrics_table_is_that_of_the_code() -> None:
    table = {
        CODE.findall(row[0])[0]: (row[1], tuple(CODE.findall(row[2]))) for row in rows(section(OPERATION, "## Metrics"))
    }
    assert table == {name: (family.kind, family.labels) for name, family in FAMILIES.items()}


def test_alerts_ask_for_metrics_and_labels_that_exist() -> None:
    series = {f"{name}{end}" for name, family in FAMILIES.items() for end in ENDINGS[family.kind]}
    alerts = rows(section(OPERATION, "## Alerts"))
    assert len(alerts) > 5
    for _, expression, _ in alerts:
        name, labels = re.findall(r"(antiphon_\w+)(?:\{([^}]*)\})?", expression)[0]
        assert name in series
        family = FAMILIES.get(name) or FAMILIES[name.removesuffix("_bucket")]
        assert set(re.findall(r"(\w+)!?=", labels)) <= set(family.labels), expression
        assert set(re.findall(r"by \((\w+)\)", expression)) <= set(family.labels), expression


def test_readiness_table_is_that_of_the_code() -> None:
    table = {CODE.findall(row[0])[0]: row[1] for row in rows(section(OPERATION, "## Readiness"))}
    assert set(table) == set(get_args(Status))
    assert {status for status, answer in table.items() if answer == "200"} == {"ok", "degraded"}


def test_table_of_drain_has_the_defaults_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Drain, "_current", None)
    monkeypatch.delenv("ANTIPHON_DRAIN_S", raising=False)
    table = {CODE.findall(row[0])[0]: float(row[1]) for row in rows(section(OPERATION, "## Ending a replica"))}
    drain = Drain()
    assert table == {"window_s": drain.window_s, "flush_s": drain.flush_s}


def test_exit_codes_table_is_complete() -> None:
    table = {int(row[0]) for row in rows(section(OPERATION, "## The command line"))}
    assert table == {code.value for code in Exit}


def test_environment_table_is_complete() -> None:
    in_code = {
        name
        for path in (ROOT / "src").rglob("*.py")
        for name in re.findall(r"[\"']((?:ANTIPHON|REDIS|USE)_[A-Z_]+)[\"']", text(path))
    }
    in_table = set(names(section(OPERATION, "## Environment")))
    assert in_code == in_table


def test_fields_table_is_that_of_the_envelope() -> None:
    full = Envelope(
        id="1",
        payload=b'"x"',
        is_text=True,
        sender="r",
        users=frozenset({"u"}),
        exclude=frozenset({"c"}),
        expires_at_ms=1,
        retry_age_ms=1,
        kind="k",
        at_ms=1,
        slow="newest",
        key="k",
    )
    assert set(names(section(WIRE, "## Envelopes"))) == set(json.loads(envelopes.encode(full)))


def test_example_of_an_envelope_is_one() -> None:
    (example,) = blocks(WIRE, "json")
    envelope = envelopes.decode(example.strip().encode())
    assert envelopes.encode(envelope) == example.strip().encode()
    assert envelope.users == frozenset({"42"})


def test_routes_table_is_that_of_the_code() -> None:
    routes = names(section(WIRE, "## Routes"))
    assert CONTROL_ROUTE in routes
    assert replica_route("<id>") in routes


# -- what Redis must allow --------------------------------------------------------------------------------------------


async def test_user_with_the_documented_rights_is_enough(own_server: BrokerServer) -> None:
    rule = block(OPERATION, "text", containing="ACL SETUSER").strip()
    with redis.Redis.from_url(own_server.url) as admin:
        admin.execute_command(*rule.split())
    url = own_server.url.replace("redis://", "redis://app:PASSWORD@")
    manager = WebSocketManager(channel="chat", url=url)
    try:
        await manager.start()
        assert manager.state is State.UP, manager.stats()
        receipt = await manager.broadcast({"type": "x"}, topic="t")
        assert receipt.scope == "cluster"
        assert (await manager.cluster_counts(timeout_s=30)).complete
        async with antiphon.Publisher(url) as publisher:
            await publisher.publish("broadcasts", {"type": "x"})
            with pytest.raises(antiphon.PublishFailed) as refused:
                await publisher.publish("other", {"type": "x"})
        assert refused.value.reason is Reason.PERMISSION
    finally:
        await manager.close()
