"""What the routes of operation take and give, beside `status.ReplicaStatus`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from encore.text.fields import line

__all__ = ["Alive", "Bus", "BusOrder", "DemoPerson", "DemoSignIn", "Readiness", "ReadyBroker", "DrainAnswer"]


class Alive(BaseModel):
    """The event loop answers."""

    status: Literal["ok"] = "ok"


class ReadyBroker(BaseModel):
    """The link to one broker, without its address."""

    state: str
    reason: str | None
    since_s: float | None


class Readiness(BaseModel):
    """Whether new visitors should be sent here. No version, no address, no name."""

    ready: bool
    status: Literal["ok", "degraded", "starting", "draining", "closed"]
    draining: bool
    database: Literal["ok", "unavailable"]
    brokers: list[ReadyBroker]


class DrainAnswer(BaseModel):
    """What a drain did; nothing but the status while it goes on."""

    status: str
    closed: int | None = None
    seconds: float | None = None
    settled: bool | None = None


class DemoPerson(BaseModel):
    """One of those that one click signs in as."""

    name: str
    display_name: str
    roles: list[str]


class DemoSignIn(BaseModel):
    """Who to be."""

    name: Annotated[str, line(max_length=32)] = Field(examples=["ann"])


class BusOrder(BaseModel):
    """What to do with the broker of the demonstration."""

    action: Literal["stop", "start", "freeze", "thaw"]


class Bus(BaseModel):
    """The broker of the demonstration."""

    state: Literal["up", "killed", "frozen"]
