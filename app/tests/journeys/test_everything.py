"""Everything that the site can do, on replicas with a broker, with one that is killed half-way, and without.

At the end the requests and messages of the journey are compared with the site's own documents: what is new there, and
is not in a journey, makes this fail.
"""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from typing import Any

import pytest
from conftest import MakeSite
from journeys import forum_part, site_parts, talk
from journeys.stage import Stage

from harness.site import Site, eventually

PARTS = (
    site_parts.accounts,
    site_parts.catalogue,
    talk.broadcasts,
    talk.comments,
    talk.book_requests,
    forum_part.forum,
    site_parts.operation,
)
BY_THEMSELVES = {"heartbeat", "deprecated", "error"}
"""Types with tests of their own: they need half a minute, a setting, or a mistake."""
ELSEWHERE = {("POST", "/drain")}
"""Ends a replica: tests of its own."""


async def prepare(site: Site, stack: AsyncExitStack, *, linked: bool) -> Stage:
    return Stage(
        site=site,
        stack=stack,
        ann=await site.person("ann"),
        ben=await site.person("ben"),
        tom=await site.person("tom", roles={"team"}),
        cleo=await site.person("cleo", roles={"creator"}),
        ada=await site.person("ada", roles={"admin"}),
        linked=linked,
    )


@pytest.mark.parametrize("broker", ["up", "killed", "none"])
async def test_everything_works_when_the_broker_is(make_site: MakeSite, broker: str) -> None:
    site = await make_site(broker=broker != "none", replicas=3 if broker == "up" else 2)
    async with AsyncExitStack() as stack:
        stage = await prepare(site, stack, linked=broker == "up")
        if broker == "killed":
            assert site.broker is not None
            await cross(stage)
            site.broker.kill()
        for part in PARTS:
            async with AsyncExitStack() as stage.stack:
                await part(stage)
        if broker == "killed":
            assert site.broker is not None
            site.broker.restart()
            await cross(stage)
        documents = [await stage.ada.get(path) for path in ("/openapi.json", "/asyncapi.json")]
        assert routes_left(documents[0], site.calls) == set()
        assert types_left(documents[1], site.heard_types) == set()


async def cross(stage: Stage) -> None:
    """A message crosses from one replica to the other; after an outage as soon as they are linked again."""
    async with stage.there(stage.ann).socket("/ws/broadcasts") as socket:
        await socket.next("connected")

        async def sent() -> str:
            scope: str = (await stage.cleo.post("/api/creator/broadcast", {"message": "does it cross?"}))["scope"]
            return scope

        await eventually(sent, lambda scope: scope == "cluster")
        await socket.next("new_broadcast")


def routes_left(openapi: Any, calls: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Of the routes in the document, those that nobody called."""
    left = set()
    for path, methods in openapi["paths"].items():
        pattern = re.compile(re.sub(r"\{[^}]+\}", "[^/]+", path))
        for method in (name.upper() for name in methods):
            if not any(method == called and pattern.fullmatch(place) for called, place in calls):
                left.add((method, path))
    return left - ELSEWHERE


def types_left(asyncapi: Any, heard: set[str]) -> set[str]:
    """Of the messages that the server may send, the types that nobody got."""

    def resolved(node: Any) -> Any:
        while "$ref" in node:
            place, node = node["$ref"], asyncapi
            for part in place.removeprefix("#/").split("/"):
                node = node[part]
        return node

    sent: set[str] = set()
    for operation in asyncapi["operations"].values():
        if operation["action"] == "send":
            for message in operation["messages"]:
                payload = resolved(resolved(message)["payload"])
                sent.add(payload["properties"]["type"]["const"])
    assert "new_message" in sent
    return sent - heard - BY_THEMSELVES
