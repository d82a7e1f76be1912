"""Counts what the interpreter does: bytecode instructions, calls of Python functions, calls of C functions."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType

import antiphon

__all__ = ["Counts", "count", "peak_bytes"]

_LIBRARY = str(Path(antiphon.__file__).parent)


@dataclass
class Counts:
    """What happened in a block."""

    instructions: int = 0
    """Bytecode instructions of the library itself: not of asyncio, nor of what is called in C."""
    python_calls: Counter[str] = field(default_factory=Counter)
    """By the function's qualified name; a coroutine or generator that goes on counts again."""
    c_calls: Counter[str] = field(default_factory=Counter)

    @property
    def calls(self) -> int:
        """All calls of Python functions."""
        return self.python_calls.total()


@contextmanager
def count() -> Iterator[Counts]:
    """Count in this thread while the block runs, callbacks of the event loop included; the collector is held off."""
    counts = Counts()

    def profile(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            counts.python_calls[frame.f_code.co_qualname] += 1
        elif event == "c_call":
            counts.c_calls[getattr(argument, "__name__", "?")] += 1

    profile_before, collects = sys.getprofile(), gc.isenabled()
    gc.disable()
    try:
        with _instructions(counts):
            sys.setprofile(profile)
            try:
                yield counts
            finally:
                sys.setprofile(profile_before)
    finally:
        if collects:
            gc.enable()


if sys.version_info >= (3, 12):

    @contextmanager
    def _instructions(counts: Counts) -> Iterator[None]:
        monitoring = sys.monitoring
        tool = next(number for number in range(6) if monitoring.get_tool(number) is None)

        def instruction(code: CodeType, offset: int) -> object:
            if _LIBRARY not in code.co_filename:
                return monitoring.DISABLE
            counts.instructions += 1
            return None

        monitoring.use_tool_id(tool, "counting")
        monitoring.register_callback(tool, monitoring.events.INSTRUCTION, instruction)
        monitoring.restart_events()
        monitoring.set_events(tool, monitoring.events.INSTRUCTION)
        try:
            yield
        finally:
            monitoring.set_events(tool, monitoring.events.NO_EVENTS)
            monitoring.free_tool_id(tool)

else:

    @contextmanager
    def _instructions(counts: Counts) -> Iterator[None]:
        def trace(frame: FrameType, event: str, argument: object) -> object:
            if _LIBRARY not in frame.f_code.co_filename:
                return None
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
            if event == "opcode":
                counts.instructions += 1
            return trace

        before = sys.gettrace()
        sys.settrace(trace)  # type: ignore[arg-type] # a trace function returns the next one, which no type can say
        try:
            yield
        finally:
            sys.settrace(before)


@contextmanager
def peak_bytes() -> Iterator[list[int]]:
    """The highest memory that the block had allocated at any moment, and what it left behind: `[peak, left]`."""
    gc.collect()
    result: list[int] = []
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        yield result
        _, peak = tracemalloc.get_traced_memory()
        gc.collect()
        left, _ = tracemalloc.get_traced_memory()
        result[:] = [peak - before, left - before]
    finally:
        tracemalloc.stop()
