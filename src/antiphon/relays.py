"""One relay for each event loop and broker, shared by all managers there; and its stand-in where there is no broker."""

from __future__ import annotations

import asyncio
import secrets
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from antiphon.brokers.base import Broker
from antiphon.brokers.store import Store
from antiphon.codes import Reason, State
from antiphon.health.history import LinkHistory
from antiphon.hub import Hub
from antiphon.journal import Journal
from antiphon.ledger import Outcome
from antiphon.outbox import OutboxLimits
from antiphon.presence import Census
from antiphon.publication import Publication
from antiphon.relay import Relay
from antiphon.routes import Listener
from antiphon.settings import Timings
from antiphon.stats import LinkStats
from antiphon.topics import CONTROL_ROUTE
from antiphon.wire.envelope import Envelope
from antiphon.wire.signing import Signer

__all__ = ["LocalRelay", "Shared", "SharedRelay", "acquire", "release"]


class SharedRelay(Protocol):
    """What managers need of a relay."""

    replica: str
    history: LinkHistory | None
    """None where there is no broker."""

    @property
    def state(self) -> State: ...
    @property
    def reason(self) -> Reason | None: ...
    def watch(self, watcher: Callable[[State], None]) -> None: ...
    def unwatch(self, watcher: Callable[[State], None]) -> None: ...
    def add_room(self, room: Callable[[], Awaitable[None]]) -> None: ...
    def discard_room(self, room: Callable[[], Awaitable[None]]) -> None: ...
    def on_control(self, kind: str, handler: Callable[[Envelope], None]) -> None: ...
    def stats(self) -> LinkStats | None: ...
    def start(self) -> None: ...
    async def first_dial(self) -> None: ...
    async def close(self) -> None: ...
    def listen(self, channel: str, topic: str | None, listener: Listener) -> None: ...
    def unlisten(self, channel: str, topic: str | None, listener: Listener) -> None: ...
    async def heard(self, route: str) -> bool: ...
    @property
    def is_ready(self) -> bool: ...
    async def ready(self) -> None: ...
    def publish(self, publication: Publication, *, fail: bool, keep: bool) -> Outcome | asyncio.Future[Outcome]: ...
    def tell(self, route: str, envelope: Envelope) -> asyncio.Future[int] | None: ...


class LocalRelay:
    """No broker is configured: what is published here is delivered here, at once."""

    def __init__(self) -> None:
        self.replica = f"l{secrets.token_hex(6)}"
        self.history: LinkHistory | None = None
        self._journal = Journal()
        self._control: dict[str, Callable[[Envelope], None]] = {}
        self._hubs: dict[str, list[Hub]] = {}
        self._closed = False

    @property
    def state(self) -> State:
        return State.CLOSED if self._closed else State.LOCAL

    @property
    def reason(self) -> Reason | None:
        return Reason.CLOSED if self._closed else Reason.NO_BROKER

    def watch(self, watcher: Callable[[State], None]) -> None:
        """Nothing changes here."""

    def unwatch(self, watcher: Callable[[State], None]) -> None:
        """Nothing changes here."""

    def add_room(self, room: Callable[[], Awaitable[None]]) -> None:
        """Nothing is read from a broker here."""

    def discard_room(self, room: Callable[[], Awaitable[None]]) -> None:
        """Nothing is read from a broker here."""

    def on_control(self, kind: str, handler: Callable[[Envelope], None]) -> None:
        self._control[kind] = handler

    def stats(self) -> LinkStats | None:
        return None

    def start(self) -> None:
        """Nothing to start."""

    async def first_dial(self) -> None:
        """Nothing to wait for."""

    async def close(self) -> None:
        self._closed = True

    def listen(self, channel: str, topic: str | None, listener: Listener) -> None:
        """The hubs know what they hear: `join`."""

    def unlisten(self, channel: str, topic: str | None, listener: Listener) -> None:
        """See `listen`."""

    async def heard(self, route: str) -> bool:
        return True

    @property
    def is_ready(self) -> bool:
        return True

    async def ready(self) -> None:
        """Always ready."""

    def join(self, hub: Hub) -> list[Hub]:
        """A manager is here. Returns all hubs of its channel: a list that changes as managers come and go."""
        hubs = self._hubs.setdefault(hub.channel, [])
        hubs.append(hub)
        return hubs

    def leave(self, hub: Hub) -> None:
        """Take one `join` back."""
        hubs = self._hubs[hub.channel]
        hubs.remove(hub)
        if not hubs:
            del self._hubs[hub.channel]

    def publish(self, publication: Publication, *, fail: bool, keep: bool) -> Outcome:
        # Nothing comes back from a broker, so no id has to be remembered.
        count = 0
        for hub in tuple(self._hubs.get(publication.channel, ())):
            try:
                count += hub.deliver(publication)
            except Exception as error:
                # A defect of ours, or of what the application hooked in: the others still get the message.
                self._journal.warning("listener", "delivering a message on %r failed", publication.route, error=error)
        return Outcome(False, None, count, False, Reason.NO_BROKER)

    def tell(self, route: str, envelope: Envelope) -> asyncio.Future[int] | None:
        told: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        told.set_result(1)
        handler = self._control.get(envelope.kind or "")
        if handler is not None and (route == CONTROL_ROUTE or envelope.sender == self.replica):
            handler(envelope)
        return told


@dataclass(slots=True)
class Shared:
    """A relay with what hangs on it, and how many managers hold it."""

    relay: SharedRelay
    census: Census
    key: object
    store: Store | None = None
    """None without a broker's address: then each replica counts for itself."""
    holders: int = 0


_shared: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[object, Shared]] = weakref.WeakKeyDictionary()


def acquire(
    broker: Broker | None,
    *,
    key: object,
    timings: Timings,
    outbox_limits: OutboxLimits,
    signer: Signer | None = None,
    store_for: Callable[[], Store] | None = None,
) -> Shared:
    """The relay of the running loop for this broker, started; every `acquire` is taken back by one `release`.

    `key` names the broker: managers with the same key, timings, limits and signing keys share.
    """
    _forget_ended_loops()
    here = _shared.setdefault(asyncio.get_running_loop(), {})
    whole_key = (key, timings, outbox_limits, signer)
    shared = here.get(whole_key)
    if shared is None:
        relay: SharedRelay = (
            LocalRelay()
            if broker is None
            else Relay(broker, timings=timings, outbox_limits=outbox_limits, signer=signer)
        )
        store = store_for() if store_for is not None else None
        shared = here[whole_key] = Shared(relay, Census(relay), whole_key, store)
        relay.start()
    shared.holders += 1
    return shared


def _forget_ended_loops() -> None:
    """A loop that ended before its managers were closed would stay for ever: its relays refer to it."""
    for reference in _shared.keyrefs():
        loop = reference()
        if loop is not None and loop.is_closed():
            _shared.pop(loop, None)


async def retire(shared: Shared) -> None:
    """Close a relay that nobody else holds; whoever comes next gets a new one."""
    here = _shared.get(asyncio.get_running_loop(), {})
    if here.get(shared.key) is shared:
        del here[shared.key]
    await shared.relay.close()


async def release(shared: Shared) -> None:
    """Give a relay back; the last one closes it, and the store."""
    shared.holders -= 1
    if shared.holders > 0:
        return
    await retire(shared)
    if shared.store is not None:
        await shared.store.close()
