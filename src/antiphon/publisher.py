"""Publishing from processes that hold no sockets: workers, cron jobs, scripts; asynchronous and blocking."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncGenerator, Collection, Iterable
from dataclasses import dataclass
from types import TracebackType

from antiphon.brokers import broker_for
from antiphon.brokers.base import Broker, Publishing
from antiphon.codes import Reason
from antiphon.errors import (
    BrokerError,
    BrokerRefused,
    BrokerTimeout,
    ConfigurationError,
    ManagerClosed,
    PublishFailed,
    WrongEventLoop,
)
from antiphon.limits import Limits
from antiphon.options import signer_for
from antiphon.publication import Publication, SlowPolicy, new_publication
from antiphon.settings import Timings, read_settings
from antiphon.topics import check_channel
from antiphon.wire.signing import seal

__all__ = ["Published", "Publisher", "SyncPublisher"]


@dataclass(frozen=True, slots=True)
class Published:
    """A publication that the broker took."""

    id: str
    replicas: int
    """Subscribers that the broker handed it to: replicas with listeners, and whoever else listens there."""


class Publisher:
    """Publishes to the clients of any channel without being a replica.

        async with Publisher() as publisher:
            await publisher.publish("broadcasts", {"type": "x"})

    Connects at the first publication; the same object may serve one event loop after another. The address is found as
    WebSocketManager finds it. Raises InvalidBrokerURL, and ConfigurationError when there is no address.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        broker: Broker | None = None,
        limits: Limits | None = None,
        signing_keys: str | Iterable[str] | None = None,
        require_tls: bool | None = None,
    ) -> None:
        found = broker if broker is not None else broker_for(_address(url), require_tls=require_tls)
        assert found is not None
        self._signer = signer_for(signing_keys)
        self._broker = found
        self._limits = limits if limits is not None else Limits()
        self._timings = Timings()
        self._sender = f"p{secrets.token_hex(6)}"
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._publishing: Publishing | None = None
        self._keeper: AsyncGenerator[None, None] | None = None
        self._inherited: AsyncGenerator[None, None] | None = None
        self._dialling = asyncio.Lock()
        self._closed = False

    async def publish(
        self,
        channel: str,
        message: object,
        *,
        topic: str | None = None,
        target_user_ids: Collection[str] | None = None,
        expires_s: float | None = None,
        slow: SlowPolicy = "disconnect",
        key: str | None = None,
    ) -> Published:
        """Publish, and return when the broker has taken it; publications keep the order of the calls.

        The arguments mean what they mean for WebSocketManager.broadcast.

        Raises PublishFailed, within about 4 s, when the broker did not take it; `outcome_unknown` says whether it may
        have all the same. A connection that was merely reset is made anew once, and the same id sent again: no client
        gets it twice. Raises what WebSocketManager.broadcast raises for a message that cannot be sent, and
        WrongEventLoop while another loop uses this publisher.
        """
        if self._closed:
            raise ManagerClosed("the publisher was closed: construct a new one")
        loop = self._enter_loop()
        publication = new_publication(
            message,
            sender=self._sender,
            channel=check_channel(channel),
            topic=topic,
            users=target_user_ids,
            expires_s=expires_s,
            slow=slow,
            key=key,
            limit_bytes=self._limits.message_bytes,
        )
        payload = seal(self._signer, publication.route, publication.envelope)
        end = loop.time() + 2 * self._timings.command_s
        in_doubt = False
        while True:
            publishing: Publishing | None = None
            try:
                async with asyncio.timeout_at(min(end, loop.time() + self._timings.connect_s)):
                    publishing = await self._open()
                async with asyncio.timeout_at(min(end, loop.time() + self._timings.command_s)):
                    replicas = await publishing.publish(publication.route, payload)
                return Published(publication.envelope.id or "", replicas)
            except TimeoutError as error:
                await self._drop(publishing)
                unknown = in_doubt or publishing is not None
                raise _failed(publication, Reason.TIMEOUT, unknown=unknown) from error
            except BrokerRefused as error:
                raise _failed(publication, error.reason, unknown=in_doubt) from error
            except BrokerError as error:
                await self._drop(publishing)
                if in_doubt or publishing is None:
                    raise _failed(publication, error.reason, unknown=in_doubt) from error
                in_doubt = True

    def _enter_loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if os.getpid() != self._pid:  # forked: the parent goes on with the old name and connection
            self._pid = os.getpid()
            self._sender = f"p{secrets.token_hex(6)}"
            self._inherited = self._keeper  # not to be touched here, nor by the garbage collector
            self._loop = None
        if self._loop is not loop:
            if self._loop is not None and self._loop.is_running():
                raise WrongEventLoop("the publisher is in use on another event loop: use one publisher for each loop")
            self._loop, self._dialling = loop, asyncio.Lock()
            self._publishing = self._keeper = None
        return loop

    async def _open(self) -> Publishing:
        async with self._dialling:
            if self._publishing is None or self._publishing.lost:
                await self._drop(self._publishing)
                publishing = await self._broker.open_publishing()
                self._publishing, self._keeper = publishing, _until_loop_ends(publishing)
                await anext(self._keeper)
            return self._publishing

    async def _drop(self, publishing: Publishing | None) -> None:
        """Close this connection, unless another has taken its place meanwhile."""
        if publishing is not None and publishing is self._publishing:
            keeper, self._publishing, self._keeper = self._keeper, None, None
            if keeper is not None:
                await keeper.aclose()

    async def close(self) -> None:
        """End the connection. Idempotent."""
        self._closed = True
        if self._loop is asyncio.get_running_loop():
            await self._drop(self._publishing)

    async def __aenter__(self) -> Publisher:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def _until_loop_ends(publishing: Publishing) -> AsyncGenerator[None, None]:
    """Close a connection before its loop does: `asyncio.run` ends what is suspended here, so nothing stays open."""
    try:
        yield
    finally:
        await publishing.close()


class SyncPublisher:
    """The same for code without an event loop. Threads may share one; a forked process makes its own connection."""

    def __init__(
        self,
        url: str | None = None,
        *,
        timeout_s: float = 2.0,
        limits: Limits | None = None,
        signing_keys: str | Iterable[str] | None = None,
        require_tls: bool | None = None,
    ) -> None:
        # Imported here so that an application without a broker does not load the Redis client.
        from antiphon.brokers.redis_sync import SyncRedisPublishing

        if not timeout_s > 0:
            raise ConfigurationError(f"timeout_s={timeout_s!r}: it must be above 0")
        self._signer = signer_for(signing_keys)
        self._publishing = SyncRedisPublishing(_address(url), timeout_s=timeout_s, require_tls=require_tls)
        self._limits = limits if limits is not None else Limits()
        self._sender = f"s{secrets.token_hex(6)}"
        self._pid = os.getpid()
        self._closed = False

    def publish(
        self,
        channel: str,
        message: object,
        *,
        topic: str | None = None,
        target_user_ids: Collection[str] | None = None,
        expires_s: float | None = None,
        slow: SlowPolicy = "disconnect",
        key: str | None = None,
    ) -> Published:
        """Publish, and return when the broker has taken it. Blocks; raises as `Publisher.publish` does."""
        if self._closed:
            raise ManagerClosed("the publisher was closed: construct a new one")
        if os.getpid() != self._pid:
            self._pid, self._sender = os.getpid(), f"s{secrets.token_hex(6)}"
        publication = new_publication(
            message,
            sender=self._sender,
            channel=check_channel(channel),
            topic=topic,
            users=target_user_ids,
            expires_s=expires_s,
            slow=slow,
            key=key,
            limit_bytes=self._limits.message_bytes,
        )
        try:
            payload = seal(self._signer, publication.route, publication.envelope)
            replicas = self._publishing.publish(publication.route, payload)
        except BrokerRefused as error:
            raise _failed(publication, error.reason, unknown=False) from error
        except BrokerError as error:
            unknown = isinstance(error, BrokerTimeout) or error.reason is Reason.CONNECTION_LOST
            raise _failed(publication, error.reason, unknown=unknown) from error
        return Published(publication.envelope.id or "", replicas)

    def close(self) -> None:
        """End the connection. Idempotent."""
        self._closed = True
        self._publishing.close()

    def __enter__(self) -> SyncPublisher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _address(url: str | None) -> str:
    found = read_settings(url).broker_url
    if found is None:
        raise ConfigurationError(
            "there is no broker to publish to: give url=, or set ANTIPHON_BROKER_URL or REDIS_URL "
            "(and not USE_REDIS_WEBSOCKET=false)"
        )
    return found


def _failed(publication: Publication, reason: Reason, *, unknown: bool) -> PublishFailed:
    id = publication.envelope.id or ""
    return PublishFailed(reason=reason, channel=publication.channel, id=id, outcome_unknown=unknown)
