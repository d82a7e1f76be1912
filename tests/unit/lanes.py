"""A lane that writes down what its sockets are given, for tests of what stands above the transports."""

from __future__ import annotations

from antiphon.transports.base import Receiver, Transport
from antiphon.wire.frames import Frame, Policy


class NotedLane:
    """Delivers at once, into lists."""

    backlog_bytes = 0

    def group(self) -> NotedGroup:
        return NotedGroup()

    async def room(self) -> None:
        return None

    def close(self) -> None:
        return None


class NotedGroup:
    def __init__(self) -> None:
        self.members: dict[Transport, None] = {}

    def add(self, transport: Transport) -> None:
        self.members[transport] = None

    def discard(self, transport: Transport) -> None:
        self.members.pop(transport, None)

    def deliver(self, frame: Frame) -> None:
        for transport in self.members:
            transport.send(frame)

    def deliver_or_drop(self, frame: Frame, policy: Policy) -> None:
        for transport in self.members:
            transport.send_or_drop(frame, policy)

    def __len__(self) -> int:
        return len(self.members)


class NotedTransport:
    """A socket that keeps what it was sent, as texts."""

    queued_bytes = 0

    def __init__(self, lane: NotedLane) -> None:
        self.lane = lane
        self.texts: list[str] = []
        self.policies: list[Policy] = []
        """Of those that may be dropped."""

    def send(self, frame: Frame) -> None:
        self.texts.append(frame.text)

    def send_or_drop(self, frame: Frame, policy: Policy) -> None:
        self.send(frame)
        self.policies.append(policy)

    def close(self, code: int, reason: str, *, discard: bool = False) -> None:
        self.texts.append(f"closed {code}")

    def adopt(self, receiver: Receiver) -> bool:
        return False

    def limit_messages(self, limit_bytes: int) -> None:
        return None

    def pause_reading(self) -> None:
        return None

    def resume_reading(self) -> None:
        return None

    def detach(self) -> None:
        return None
