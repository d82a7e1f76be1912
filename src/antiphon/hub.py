"""This replica's clients of one channel: who hears what, and the fan-out to them, which never awaits."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Collection, Iterable, Iterator

from antiphon.connection import Connection
from antiphon.journal import Journal
from antiphon.publication import Publication
from antiphon.stats import HubCounters
from antiphon.transports.base import Group, Lane, Transport
from antiphon.wire.envelope import Envelope
from antiphon.wire.frames import Frame

__all__ = ["Hub", "MessageFilter"]

MessageFilter = Callable[[object], object]
"""Given a message, says whether this replica delivers it: anything true does."""


class Audience:
    """Connections that hear the same, grouped by the lane that writes to them."""

    __slots__ = ("groups", "members")

    def __init__(self) -> None:
        self.members: dict[Connection, None] = {}
        self.groups: dict[Lane, Group] = {}

    def add(self, connection: Connection, transport: Transport) -> None:
        self.members[connection] = None
        _join(self.groups, transport)

    def discard(self, connection: Connection, transport: Transport) -> None:
        if self.members.pop(connection, self) is not self:
            _leave(self.groups, transport)


def _join(groups: dict[Lane, Group], transport: Transport) -> None:
    lane = transport.lane
    group = groups.get(lane)
    if group is None:
        group = groups[lane] = lane.group()
    group.add(transport)


def _leave(groups: dict[Lane, Group], transport: Transport) -> None:
    lane = transport.lane
    group = groups.get(lane)
    if group is not None:
        group.discard(transport)
        if not group:
            del groups[lane]


def _members(heard: Connection | Audience) -> Collection[Connection]:
    return (heard,) if isinstance(heard, Connection) else heard.members


class Hub:
    """The connections of one channel on this replica.

    All methods are synchronous and run on the event loop's thread. A delivery hands the message to the lanes, which
    write in the order of the calls; no socket can delay or break another.
    """

    def __init__(
        self,
        channel: str,
        *,
        counters: HubCounters | None = None,
        wall_clock: Callable[[], float] = time.time,
        journal: Journal | None = None,
    ) -> None:
        self.channel = channel
        self.counters = counters if counters is not None else HubCounters()
        self._wall_clock = wall_clock
        self._journal = journal if journal is not None else Journal()
        self._groups: dict[Lane, Group] = {}
        """Everybody, grouped by the lane that writes to them."""
        self._by_id: dict[str, Connection] = {}
        self._users: dict[str, Connection | set[Connection]] = {}
        self._topics: dict[str, Connection | Audience] = {}
        """A topic with one listener needs no audience: there may be very many of them."""
        self.topics = self._topics.keys()
        """The topics that somebody here hears."""
        self.message_filter: MessageFilter | None = None
        """Decides which messages `deliver` delivers here; None lets all pass."""

    # -- who is here ---------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def user_count(self) -> int:
        """Distinct user ids among the connections."""
        return len(self._users)

    def get(self, id: str) -> Connection | None:
        """The connection with this id, if it is here."""
        return self._by_id.get(id)

    def connections(self) -> list[Connection]:
        """All connections, oldest first."""
        return list(self._by_id.values())

    def users(self) -> Iterable[str]:
        """The user ids that are here."""
        return self._users.keys()

    def has_user(self, user_id: str) -> bool:
        """Whether at least one connection here is that user's."""
        return user_id in self._users

    def of_user(self, user_id: str) -> list[Connection]:
        """That user's connections here."""
        found = self._users.get(user_id)
        if found is None:
            return []
        return [found] if isinstance(found, Connection) else list(found)

    # -- coming, going -------------------------------------------------------------------------------------------

    def add(self, connection: Connection) -> None:
        """Let a connection hear the channel."""
        self._by_id[connection.id] = connection
        _join(self._groups, connection._transport)
        self.counters.connects += 1
        user_id = connection.user_id
        if user_id is not None:
            found = self._users.get(user_id)
            if found is None:
                self._users[user_id] = connection
            elif isinstance(found, Connection):
                self._users[user_id] = {found, connection}
            else:
                found.add(connection)

    def remove(self, connection: Connection) -> list[str] | None:
        """Forget a connection. Returns its topics, or None when it was not here (any more)."""
        if self._by_id.pop(connection.id, None) is None:
            return None
        self.counters.disconnects += 1
        _leave(self._groups, connection._transport)
        left = list(connection._topics or ())
        for topic in left:
            self.unsubscribe(connection, topic)
        self._forget_user(connection)
        return left

    def _forget_user(self, connection: Connection) -> None:
        user_id = connection.user_id
        if user_id is None:
            return
        found = self._users.get(user_id)
        if found is connection:
            del self._users[user_id]
        elif isinstance(found, set):
            found.discard(connection)
            if len(found) == 1:
                self._users[user_id] = found.pop()

    def subscribe(self, connection: Connection, topic: str) -> bool:
        """Let a connection hear a topic too. Returns False when it did already, or is not here."""
        if connection.id not in self._by_id:
            return False
        if connection._topics is None:
            connection._topics = set()
        elif topic in connection._topics:
            return False
        connection._topics.add(topic)
        found = self._topics.get(topic)
        if found is None:
            self._topics[topic] = connection
            return True
        if isinstance(found, Connection):
            only, found = found, Audience()
            found.add(only, only._transport)
            self._topics[topic] = found
        found.add(connection, connection._transport)
        return True

    def unsubscribe(self, connection: Connection, topic: str) -> bool:
        """Let a connection hear a topic no longer. Returns False when it did not."""
        if not connection._topics or topic not in connection._topics:
            return False
        connection._topics.discard(topic)
        found = self._topics[topic]
        if isinstance(found, Connection):
            del self._topics[topic]
            return True
        found.discard(connection, connection._transport)
        if len(found.members) == 1:
            self._topics[topic] = next(iter(found.members))
        return True

    # -- fan-out -------------------------------------------------------------------------------------------------

    def deliver(self, publication: Publication) -> int:
        """Hand a publication to the sockets that it is for. Returns how many those are."""
        envelope = publication.envelope
        topic = publication.topic
        heard = None if topic is None else self._topics.get(topic)
        if not self._by_id or (heard is None and topic is not None):
            return 0
        if envelope.expires_at_ms is not None and envelope.expires_at_ms <= self._wall_clock() * 1000:
            self.counters.expired += 1
            return 0
        if self.message_filter is not None and not self._passes(publication):
            return 0
        if envelope.slow is not None:
            return self._deliver_or_drop(publication, heard)
        frame = publication.frame
        if envelope.users is None and (not envelope.exclude or envelope.exclude.isdisjoint(self._by_id)):
            return self.deliver_to_all(frame, topic)
        count = 0
        for connection in self._chosen(envelope, self._by_id.values() if heard is None else _members(heard)):
            connection._transport.send(frame)
            count += 1
        self.counters.delivered += count
        self.counters.sent_bytes += count * frame.size
        return count

    def deliver_to_all(self, frame: Frame, topic: str | None) -> int:
        """Hand a frame to everybody who hears the channel, or a topic of it. Returns how many sockets those are.

        The short way for what names nobody and does not expire, with the same result as `deliver`.
        """
        if topic is None:
            groups, count = self._groups, len(self._by_id)
        else:
            heard = self._topics.get(topic)
            if heard is None:
                return 0
            if type(heard) is Connection:
                heard._transport.send(frame)
                self.counters.delivered += 1
                self.counters.sent_bytes += frame.size
                return 1
            assert isinstance(heard, Audience)
            groups, count = heard.groups, len(heard.members)
        for group in groups.values():
            group.deliver(frame)
        self.counters.delivered += count
        self.counters.sent_bytes += count * frame.size
        return count

    def _deliver_or_drop(self, publication: Publication, heard: Connection | Audience | None) -> int:
        """The same for what may be dropped where it has to wait. `heard` is None for the whole channel."""
        envelope, frame, policy = publication.envelope, publication.frame, publication.policy
        assert policy is not None
        if envelope.users is None and not envelope.exclude and not isinstance(heard, Connection):
            groups = self._groups if heard is None else heard.groups
            for group in groups.values():
                group.deliver_or_drop(frame, policy)
            count = len(self._by_id if heard is None else heard.members)
        else:
            count = 0
            for connection in self._chosen(envelope, self._by_id.values() if heard is None else _members(heard)):
                connection._transport.send_or_drop(frame, policy)
                count += 1
        self.counters.delivered += count
        self.counters.sent_bytes += count * frame.size
        return count

    def _chosen(self, envelope: Envelope, members: Collection[Connection]) -> Iterator[Connection]:
        """Those of `members` that the envelope names, or does not except."""
        excluded = envelope.exclude or ()
        if envelope.users is None:
            candidates = list(members)
        else:
            candidates = [connection for user_id in envelope.users for connection in self.of_user(user_id)]
            if len(members) < len(self._by_id):
                candidates = [connection for connection in candidates if connection in members]
        for connection in candidates:
            if connection.id not in excluded:
                yield connection

    def _passes(self, publication: Publication) -> bool:
        message_filter = self.message_filter
        assert message_filter is not None
        try:
            passes = message_filter(publication.message())
            if inspect.isawaitable(passes):
                if inspect.iscoroutine(passes):
                    passes.close()
                raise TypeError("a message filter must answer at once, this one returned an awaitable")
            passes = bool(passes)
        except Exception as error:
            self.counters.filter_errors += 1
            self._journal.warning(
                "filter",
                "the message filter of channel %r raised: the message is not delivered",
                self.channel,
                error=error,
            )
            return False
        if not passes:
            self.counters.filtered += 1
        return passes

    def send(self, connection: Connection, frame: Frame) -> bool:
        """Hand one frame to one connection. Returns False when it is not here."""
        if connection.id not in self._by_id:
            return False
        connection._transport.send(frame)
        self.counters.delivered += 1
        self.counters.sent_bytes += frame.size
        return True
