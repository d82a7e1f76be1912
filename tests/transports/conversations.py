"""Conversations of one client with an echoing server, as tables: what is sent, and what has to be heard."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from tests.transports.raw_client import CONTINUATION, TEXT, Answer, RawClient, close, close_frame, frame, raw_client

__all__ = ["Case", "answered", "faults_of", "in_fragments", "refused"]


@dataclass(frozen=True)
class Case:
    """What the client sends, and what it has to hear. `fails` is the close code when the client breaks a rule."""

    name: str
    sends: bytes
    hears: tuple[Answer, ...]
    fails: int | None = None

    def fault(self, heard: list[Answer], ended: str) -> str | None:
        """What was wrong with the server's answers."""
        if self.fails is None:
            right = heard == [*self.hears, close(1000)] and ended == "closed"
        else:
            # §7.1.7: a client that breaks a rule may be cut off before the application has answered what came earlier.
            data = [answer for answer in heard if answer.kind in ("text", "binary")]
            wanted = [answer for answer in self.hears if answer.kind in ("text", "binary")]
            others = [answer for answer in heard if answer not in data]
            right = data == wanted[: len(data)] and others == [
                *(answer for answer in self.hears if answer not in wanted),
                close(self.fails),
            ]
        if right:
            return None
        return f"{self.name}: heard {heard}, {ended}, instead of {list(self.hears)} and {self.fails or 1000}"


def answered(name: str, *sends: bytes, hears: tuple[Answer, ...] = ()) -> Case:
    return Case(name, b"".join(sends), hears)


def refused(name: str, *sends: bytes, code: int = 1002, hears: tuple[Answer, ...] = ()) -> Case:
    return Case(name, b"".join(sends), hears, fails=code)


async def converse(client: RawClient, case: Case, *, in_pieces: bool) -> str | None:
    reading = asyncio.create_task(client.answers(len(case.hears) if case.fails is None else None))
    size = max(len(case.sends) // 500, 1) if in_pieces else max(len(case.sends), 1)
    for start in range(0, len(case.sends), size):
        await client.send(case.sends[start : start + size])
        await asyncio.sleep(0)
    heard = await reading
    if case.fails is None and not client.ended:
        await client.send(close_frame(1000))
        heard += await client.answers()
    return case.fault(heard, client.ended)


async def faults_of(cases: list[Case], port: int, *, offer: str | None = None) -> list[str]:
    """What was wrong with the server's answers to each case, sent as a whole and in pieces."""
    faults = []
    for case in cases:
        for in_pieces in (False, True):
            async with raw_client(port, offer=offer) as client:
                fault = await converse(client, case, in_pieces=in_pieces)
                if fault is not None:
                    faults.append(f"{fault} ({'in pieces' if in_pieces else 'at once'})")
    return faults


def in_fragments(content: bytes, *, opcode: int = TEXT, size: int = 1, between: bytes = b"") -> bytes:
    """One message in fragments of a size, with something between any two of them."""
    parts = [content[start : start + size] for start in range(0, len(content), size)] or [b""]
    frames = [
        frame(CONTINUATION if number else opcode, part, fin=number == len(parts) - 1)
        for number, part in enumerate(parts)
    ]
    return between.join(frames)
