"""What the conversations of one manager have in common: rules, counters, and the one timer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, TypeAlias

from antiphon.codes import ErrorCode, State
from antiphon.connection import Connection
from antiphon.conversation.conversation import Conversation
from antiphon.conversation.rules import (
    HEARTBEAT_S,
    PATIENCE,
    PING_S,
    PONG_S,
    Actions,
    ClientPublishing,
    Heartbeat,
    InboundCounters,
    OnMessage,
)
from antiphon.conversation.wheel import Wheel
from antiphon.hub import Hub
from antiphon.journal import Journal
from antiphon.limits import Allowances, Limits, Rate
from antiphon.wire import protocol
from antiphon.wire.frames import Frame

__all__ = ["Conversations"]

Shown: TypeAlias = Literal["up", "degraded"]


class Conversations:
    """What the conversations of one manager share, from its start on one event loop to its end there."""

    def __init__(
        self,
        hub: Hub,
        *,
        actions: Actions,
        limits: Limits,
        journal: Journal,
        state: Callable[[], State],
        publishing: ClientPublishing | None = None,
        counters: InboundCounters | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.hub = hub
        self.actions = actions
        self.limits = limits
        self.journal = journal
        self.publishing = publishing
        self.counters = counters if counters is not None else InboundCounters()
        self.clock = clock
        self.frames = Rate(limits.frames_per_s, limits.frames_burst)
        self.bytes = Rate(limits.inbound_bytes_per_s, max(limits.inbound_bytes_burst, limits.frame_bytes))
        self.patience = Rate(limits.frames_per_s / PATIENCE, limits.frames_burst)
        self.subscribes = Rate(limits.subscribes_per_s, limits.subscribes_burst)
        self.users = Allowances(Rate(limits.user_frames_per_s, limits.user_frames_burst))
        self.wheel = Wheel()
        self._state = state
        self._shown: Shown = "up"
        self._speakers: dict[Connection, None] = {}
        """The connections that speak `antiphon.v1`."""
        self._joined = 0

    def begin(
        self,
        connection: Connection,
        *,
        on_message: OnMessage | None = None,
        heartbeat: Heartbeat = "none",
        speaks_v1: bool = False,
    ) -> Conversation:
        """Begin the conversation with a client that was just connected: one that speaks `antiphon.v1` is welcomed.

        Call it before anything is sent to the client.
        """
        conversation = Conversation(self, connection, on_message, beats=heartbeat == "earlier", speaks_v1=speaks_v1)
        if speaks_v1:
            connection._transport.send(self._welcome(connection))
            self._speakers[connection] = None
            if not self._joined:
                self.wheel.add(self, in_ticks=1)
            # Not all at once, although all come at once when a replica has died.
            self.wheel.add(conversation, in_ticks=PING_S - self._joined % PING_S)
            self._joined += 1
        elif heartbeat == "earlier":
            self.wheel.add(conversation, in_ticks=HEARTBEAT_S)
        return conversation

    def _welcome(self, connection: Connection) -> Frame:
        limits = self.limits
        return protocol.welcome(
            connection=connection.id,
            state=self._look(),
            ping_s=PING_S,
            silence_s=PING_S + PONG_S,
            topics=connection.topics,
            limits={
                "frame_bytes": limits.frame_bytes,
                "frame_depth": limits.frame_depth,
                "frames_per_s": limits.frames_per_s,
                "frames_burst": limits.frames_burst,
                "bytes_per_s": limits.inbound_bytes_per_s,
                "bytes_burst": limits.inbound_bytes_burst,
                "topics": limits.topics_per_connection,
            },
        )

    def _look(self) -> Shown:
        """How far messages reach now; clients that speak `antiphon.v1` are told when it has changed."""
        state = self._state()
        shown = self._shown
        if state is State.DEGRADED:
            shown = "degraded"
        elif state in (State.UP, State.LOCAL):
            shown = "up"
        if shown != self._shown:
            self._shown = shown
            frame = protocol.status(shown)
            for connection in self._speakers:
                connection._transport.send(frame)
        return shown

    def visit(self, tick: int) -> int:
        """Look at the state of the broker link once a second, while there is somebody to tell."""
        self._look()
        if self._speakers:
            return 1
        self._joined = 0
        return 0

    def topic_ended(self, connection: Connection, topic: str) -> None:
        """Tell a client that it lost the right to hear a topic, if it speaks a protocol that can say so."""
        if connection in self._speakers:
            connection._transport.send(protocol.unsubscribed(topic, code=ErrorCode.FORBIDDEN))

    def ended(self, connection: Connection) -> None:
        """One conversation is over."""
        self._speakers.pop(connection, None)

    def close(self) -> None:
        """End the timer. Idempotent."""
        self.wheel.close()
