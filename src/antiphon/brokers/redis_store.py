"""A store on Redis or Valkey: one connection for all calls, made when it is needed, and no scripts.

Each change that has to be whole is one MULTI … EXEC, sent in one write. These commands are all that a user needs for
it, on keys that begin with `antiphon:`

    MULTI EXEC SET GET DEL EXISTS PEXPIRE ZADD ZREM ZRANGE ZSCORE ZREMRANGEBYRANK ZUNIONSTORE PING

Places are the members of a sorted set, all with score 0, each named `owner:member`; an owner lives as long as its key.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Collection, Iterable, Mapping

from antiphon.brokers._redis import parse_address
from antiphon.brokers._redis_asking import Asking, Words, failed
from antiphon.brokers.store import NOTES_LIMIT, Lease
from antiphon.codes import Reason
from antiphon.errors import AntiphonError, BrokerTimeout, BrokerUnavailable, ConfigurationError, WrongEventLoop

__all__ = ["RedisStore"]


class RedisStore:
    """An `antiphon.brokers.store.Store` at a Redis or Valkey URL. Raises for a bad one as RedisBroker does.

    A call takes at most `timeout_s`, or 1.4 times that when it had to connect first, and `hold` as much again before it
    refuses. While 2,048 calls wait, further ones end as busy. One store may serve one event loop after
    another, and a process made by fork gets a connection of its own.
    """

    def __init__(self, url: str, *, timeout_s: float = 1.0, require_tls: bool | None = None) -> None:
        if not timeout_s > 0:
            raise ConfigurationError(f"timeout_s={timeout_s!r}: it must be above 0")
        self._address = parse_address(url, require_tls=require_tls)
        self._timeout_s = timeout_s
        self._pid = os.getpid()
        self._asking: Asking | None = None
        self._inherited: Asking | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<RedisStore {self._address}>"

    @property
    def address(self) -> str:
        """`host:port/db`, for logs: without user and password."""
        return self._address.text

    # -- values --------------------------------------------------------------------------------------------------

    async def put_once(self, key: str, value: bytes, *, ttl_s: float) -> bool:
        """Keep `value` for `ttl_s` by the server's clock; False when the key is taken."""
        (reply,) = await self._here().ask([(b"SET", _once(key), value, b"NX", b"PX", _ms(ttl_s))])
        return reply is not None

    async def take(self, key: str) -> bytes | None:
        """The value, for the first of all replicas who asks in time."""
        # GETDEL would be enough; Redis has it from 6.2 on.
        value, _ = await self._here().ask_whole([(b"GET", _once(key)), (b"DEL", _once(key))])
        return value if isinstance(value, bytes) else None

    # -- notes ---------------------------------------------------------------------------------------------------

    async def note(self, key: str, entry: bytes, *, at_s: float, ttl_s: float) -> None:
        """Add an entry to the notes at a key, in one round trip."""
        name = _note(key)
        await self._here().ask_whole(
            [
                (b"ZADD", name, b"%r" % at_s, entry),
                (b"ZREMRANGEBYRANK", name, b"0", b"%d" % (-NOTES_LIMIT - 1)),
                (b"PEXPIRE", name, _ms(ttl_s)),
            ]
        )

    async def notes(self, keys: Collection[str]) -> list[bytes]:
        """All entries at these keys, in one round trip."""
        if not keys:
            return []
        replies = await self._here().ask([(b"ZRANGE", _note(key), b"0", b"-1") for key in keys])
        return [entry for reply in replies if isinstance(reply, list) for entry in reply if isinstance(entry, bytes)]

    # -- places --------------------------------------------------------------------------------------------------

    async def beat(self, owner: str, *, ttl_s: float) -> bool:
        """The owner lives for `ttl_s` from now; False when it did not before."""
        known, _ = await self._here().ask_whole(
            [(b"EXISTS", _owner(owner)), (b"SET", _owner(owner), b"1", b"PX", _ms(ttl_s))],
        )
        return known == 1

    async def end(self, owner: str) -> None:
        """The owner lives no longer."""
        await self._here().ask([(b"DEL", _owner(owner))])

    async def hold(self, owner: str, member: str, limits: Mapping[str, int], *, ttl_s: float) -> str | None:
        """Take a place at each key, or return the first that is full: one round trip unless one is.

        Only then is it asked which owners still live, and the places of those that do not are cleared away.
        """
        full, taken = await self._try(owner, member, limits, ttl_s=ttl_s)
        if not full:
            return None
        try:
            async with asyncio.timeout(self._timeout_s):
                if await self._clear(full, limits):
                    full, more = await self._try(owner, member, limits, ttl_s=ttl_s)
                    taken += more
                if full and taken:
                    await self._here().ask([(b"ZREM", _place(key), _name(owner, member)) for key in taken])
        except TimeoutError as error:
            text = f"the broker {self._address} did not answer in {self._timeout_s:g} s: it is overloaded"
            raise BrokerTimeout(text) from error
        return full[0] if full else None

    async def renew(self, owner: str, leases: Collection[Lease], *, ttl_s: float) -> None:
        """Hold these places, whatever the limits say, in one round trip."""
        names: dict[str, list[bytes]] = {}
        for key, member in leases:
            names.setdefault(key, []).extend((b"0", _name(owner, member)))
        commands: list[Words] = []
        for key, scored in names.items():
            commands += [(b"ZADD", _place(key), *scored), (b"PEXPIRE", _place(key), _ms(ttl_s))]
        if commands:
            await self._here().ask(commands)

    def release(self, owner: str, leases: Collection[Lease]) -> Awaitable[object]:
        """Give places back on the connection that there is; without one the future ends with BrokerUnavailable."""
        try:
            asking = self._here()
        except AntiphonError as error:
            return failed(error)
        return asking.tell([(b"ZREM", _place(key), _name(owner, member)) for key, member in leases])

    async def count(self, key: str) -> int:
        """Places held at this key, by owners that live."""
        members, living = await self._members(key)
        return sum(_owner_of(member) in living for member in members)

    async def _try(
        self, owner: str, member: str, limits: Mapping[str, int], *, ttl_s: float
    ) -> tuple[list[str], list[str]]:
        """Try to take a place at each key for itself; returns the keys that are full, and those where one was taken.

        Of a copy with one member more, whatever exceeds the limit is cut off: the new one first, since its score is
        higher. What is left is put back. So only the new member can be refused, even where there are too many already,
        and nobody ever sees one too many. Needs no script and one round trip.
        """
        name = _name(owner, member)
        commands: list[Words] = []
        for key, limit in limits.items():
            place = _place(key)
            copy = place + b":new"
            commands += [
                (b"ZUNIONSTORE", copy, b"1", place),
                (b"ZADD", copy, b"1", name),
                (b"ZREMRANGEBYRANK", copy, b"%d" % limit, b"-1"),
                (b"ZUNIONSTORE", place, b"2", place, copy, b"WEIGHTS", b"1", b"0"),
                (b"DEL", copy),
                (b"PEXPIRE", place, _ms(ttl_s)),
                (b"ZSCORE", place, name),
            ]
        replies = await self._here().ask_whole(commands)
        full, taken = [], []
        for number, key in enumerate(limits):
            is_new, score = replies[7 * number + 1], replies[7 * number + 6]
            if score is None:
                full.append(key)
            elif is_new:
                taken.append(key)
        return full, taken

    async def _clear(self, keys: Iterable[str], limits: Mapping[str, int]) -> bool:
        """Clear away what owners that live no longer left at these keys. Whether trying again may help.

        That may be so without anything to clear: another replica may just have done it.
        """
        commands: list[Words] = []
        has_room = False
        for key in keys:
            members, living = await self._members(key)
            dead = [member for member in members if _owner_of(member) not in living]
            has_room = has_room or len(members) - len(dead) < limits[key]
            if dead:
                commands.append((b"ZREM", _place(key), *dead))
        if commands:
            await self._here().ask(commands)
        return has_room or bool(commands)

    async def _members(self, key: str) -> tuple[list[bytes], set[bytes]]:
        """The members at this key, and those of their owners that live."""
        (reply,) = await self._here().ask([(b"ZRANGE", _place(key), b"0", b"-1")])
        members = [member for member in reply if isinstance(member, bytes)] if isinstance(reply, list) else []
        owners = list({_owner_of(member) for member in members})
        if not owners:
            return members, set()
        alive = await self._here().ask([(b"EXISTS", _owner(owner.decode(errors="replace"))) for owner in owners])
        return members, {owner for owner, is_alive in zip(owners, alive, strict=True) if is_alive == 1}

    # -- the connection ------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """End the connection; calls under way end with BrokerUnavailable. Idempotent."""
        self._closed = True
        asking, self._asking = self._asking, None
        if asking is not None and asking.loop is asyncio.get_running_loop() and os.getpid() == self._pid:
            await asking.close()

    def _here(self) -> Asking:
        """What asks from the running event loop."""
        if self._closed:
            raise BrokerUnavailable(f"the store at {self._address} was closed", reason=Reason.CLOSED)
        if os.getpid() != self._pid:  # forked: the parent goes on with the connection
            self._pid = os.getpid()
            self._inherited = self._asking  # not to be touched here, nor by the garbage collector
            self._asking = None
        asking = self._asking
        if asking is None or asking.loop is not asyncio.get_running_loop():
            if asking is not None and asking.loop.is_running():
                raise WrongEventLoop("the store is in use on another event loop: use one store for each loop")
            asking = self._asking = Asking(self._address, timeout_s=self._timeout_s)
        return asking


def _once(key: str) -> bytes:
    return f"antiphon:once:{key}".encode()


def _note(key: str) -> bytes:
    return f"antiphon:notes:{key}".encode()


def _place(key: str) -> bytes:
    return f"antiphon:places:{key}".encode()


def _owner(owner: str) -> bytes:
    return f"antiphon:owner:{owner}".encode()


def _name(owner: str, member: str) -> bytes:
    return f"{owner}:{member}".encode()


def _owner_of(name: bytes) -> bytes:
    return name.partition(b":")[0]


def _ms(seconds: float) -> bytes:
    return b"%d" % max(1, round(seconds * 1000))
