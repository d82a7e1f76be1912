"""A manager's stay on one event loop: everything of it that has to end there."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from antiphon.admission import Admission
from antiphon.attachment import Attachment
from antiphon.codes import State
from antiphon.connection import Connection
from antiphon.conversation import Actions, ClientPublishing, Conversations, InboundCounters
from antiphon.errors import AntiphonError, ManagerClosed, UsageError, WrongEventLoop
from antiphon.hub import Hub
from antiphon.journal import Journal
from antiphon.options import Options
from antiphon.quotas import QuotaCounters
from antiphon.receipt import Receipt
from antiphon.revocation import RevocationCounters
from antiphon.roster import Roster
from antiphon.session import Sessions

__all__ = ["Stay", "Tally"]


@dataclass(slots=True)
class Tally:
    """What one manager counts on this replica beside its hub, from its construction on. All grow only."""

    inbound: InboundCounters = field(default_factory=InboundCounters)
    revocations: RevocationCounters = field(default_factory=RevocationCounters)
    quotas: QuotaCounters = field(default_factory=QuotaCounters)
    refused: Counter[str] = field(default_factory=Counter)
    """Sockets that the manager did not let in, by the refusal's kind."""


class Stay:
    """Made on the running loop, at the manager's first use there; `end` gives everything back."""

    def __init__(
        self,
        hub: Hub,
        roster: Roster,
        sessions: Sessions,
        *,
        options: Options,
        journal: Journal,
        tally: Tally,
        state: Callable[[], State],
        publish: Callable[[Mapping[str, object], str], Awaitable[Receipt]],
        publishing: ClientPublishing | None,
    ) -> None:
        self._hub = hub
        self._roster = roster
        self._sessions = sessions
        self._options = options
        self._journal = journal
        self.attachment = Attachment(
            hub,
            broker=options.broker,
            key=options.broker_key,
            timings=options.timings,
            outbox_limits=options.outbox_limits,
            signer=options.signer,
            store_for=options.store_for,
        )
        self.conversations = Conversations(
            hub,
            actions=Actions(
                subscribe=self.subscribe, unsubscribe=roster.unsubscribe, publish=publish, may_hear=self._may_ask_for
            ),
            limits=options.limits,
            journal=journal,
            state=state,
            publishing=publishing,
            counters=tally.inbound,
        )
        self.admission = Admission(
            hub,
            roster,
            self.attachment,
            options=options,
            journal=journal,
            revocation_counters=tally.revocations,
            quota_counters=tally.quotas,
            refused=tally.refused,
            drop_topic=self._drop_topic,
        )

    async def subscribe(self, connection: Connection, topic: str) -> None:
        """Let a connection hear a topic that it may hear. Raises UsageError above `Limits.topics_per_connection`."""
        if self._roster.find(connection) is None:
            return
        limit = self._options.limits.topics_per_connection
        if topic not in connection.topics and len(connection.topics) >= limit:
            raise UsageError(f"the limit is {limit} topics a connection")
        if self._hub.subscribe(connection, topic):
            self.attachment.listen(topic)
        await self.attachment.heard(topic)

    async def _may_ask_for(self, connection: Connection, topic: str) -> bool:
        """Whether a client may have a topic that it asks for itself: only where the application says who may."""
        if not self.admission.security.asks_about_topics:
            self._journal.warning(
                "authorize",
                "a client asked for topic %r of channel %r, and nothing says who may hear what: "
                "give Security(authorize=)",
                topic,
                self._hub.channel,
            )
            return False
        return await self.admission.may_hear(connection, topic)

    def _drop_topic(self, connection: Connection, topic: str) -> None:
        """A re-check found that a connection may hear a topic no longer."""
        self._roster.unsubscribe(connection, topic)
        self.conversations.topic_ended(connection, topic)

    # What a drain asks: see `antiphon.drain.Drainable`.

    @property
    def is_here(self) -> bool:
        """Whether this is the running event loop."""
        return self.attachment.loop is asyncio.get_running_loop()

    def open_connections(self) -> list[Connection]:
        """The connections at this moment."""
        return self._hub.connections()

    def expel(self, connection: Connection, *, code: int, reason: str) -> bool:
        """Send what is queued for a connection, close it, and count it no longer. False when it was gone already."""
        return self._roster.expel(connection, code=code, reason=reason)

    async def settle(self, *, limit_s: float) -> bool:
        """Wait until every close frame has left, and the broker has taken everything; False after the limit."""
        return await self.attachment.settle(limit_s=limit_s)

    def is_here_or_over(self, *, fix: str) -> bool:
        """Whether this is the running event loop; False when that of the stay has ended.

        Raises WrongEventLoop, with what to do, when it still runs.
        """
        loop = self.attachment.loop
        if loop is asyncio.get_running_loop():
            return True
        if loop.is_closed():
            return False
        raise WrongEventLoop(f"the manager of channel {self._hub.channel!r} is in use on another event loop: {fix}")

    async def end(self, *, is_closed: bool, code: int, reason: str) -> None:
        """Close all sockets and give everything back; who is connecting meanwhile is told so."""
        ended: AntiphonError = UsageError(f"the manager of channel {self._hub.channel!r} was stopped meanwhile")
        if is_closed:
            ended = ManagerClosed(f"the manager of channel {self._hub.channel!r} was closed meanwhile")
        attachment, limit_s = self.attachment, self._options.send_limits.close_s
        self.conversations.close()
        self.admission.ended = ended
        connections = self._hub.connections()
        await attachment.finish(limit_s=limit_s)
        for connection in connections:
            self._roster.let_go(connection)
            self._hub.remove(connection)
            connection._transport.close(code, reason)
        await self._sessions.finish(limit_s=limit_s)
        await attachment.lanes.drain(limit_s=limit_s)
        await self.admission.close()
        await attachment.close()
