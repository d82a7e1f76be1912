"""The load generator's process, and what it reports."""

from __future__ import annotations

import json
import select
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.fleet.cache import Native

__all__ = ["LOADGEN", "Connected", "Generator", "GeneratorFailed", "Result", "Target"]

LOADGEN = Native("loadgen", ("-lz",))
_ANSWER_S = 300.0


class GeneratorFailed(Exception):
    """The generator gave up: the server refused, lost connections or delivers nothing."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where clients connect, and how they talk."""

    port: int
    path: str
    protocol: str
    subprotocol: str | None


@dataclass(frozen=True, slots=True)
class Connected:
    """All connections are open, and joined where the protocol has such a step."""

    seconds: float
    per_s: float
    deflate: int
    """How many of them negotiated compression."""


@dataclass(frozen=True, slots=True)
class Result:
    """One command's figures. Latencies are from the moment a message was due until a client had it."""

    seconds: float
    messages: int
    deliveries: int
    missing: int
    disorder: int
    """Messages that came again, or after a later one of the same publisher."""
    corrupt: int
    closed: int
    drained: bool
    generator_cpu_s: float
    latency_count: int
    mean_us: float
    p50_us: float
    p99_us: float
    max_us: float
    stuck_gone_s: tuple[float, ...]


class Generator:
    """Connects when it is made, then carries out commands. Use it as a context."""

    def __init__(
        self,
        target: Target,
        *,
        connections: int,
        cores: Sequence[int],
        publishers: int = 32,
        size_bytes: int = 200,
        stuck: int = 0,
        topics: bool = False,
        deflate: bool = False,
        spin: bool = False,
    ) -> None:
        self._threads = len(cores)
        command = [str(LOADGEN.path), "--port", str(target.port), "--path", target.path]
        command += ["--protocol", target.protocol, "--connections", str(connections)]
        command += ["--publishers", str(publishers), "--threads", str(len(cores)), "--size", str(size_bytes)]
        command += ["--stuck", str(stuck)]
        for core in cores:
            command += ["--cpu", str(core)]
        if target.subprotocol:
            command += ["--subprotocol", target.subprotocol]
        flags = {"--topics": topics, "--deflate": deflate, "--spin": spin}
        command += [name for name, wanted in flags.items() if wanted]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        self._buffer = b""
        try:
            answer = self._event("connected")
        except BaseException:
            self.close()
            raise
        self.connected = Connected(
            seconds=_number(answer, "seconds"),
            per_s=_number(answer, "per_s"),
            deflate=int(_number(answer, "deflate")),
        )

    def __enter__(self) -> Generator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def threads(self) -> int:
        """How many cores it may use."""
        return self._threads

    def run(self, command: str, *, begin: Callable[[], None], end: Callable[[], None]) -> Result:
        """Carry out one command. `begin` and `end` are called when the measured time begins and ends."""
        self._say(command)
        self._event("begin")
        begin()
        self._event("end")
        end()
        answer = self._event("result")
        latency = answer["latency"]
        assert isinstance(latency, dict)
        gone = answer.get("stuck_gone_s", [])
        assert isinstance(gone, list)
        return Result(
            seconds=_number(answer, "seconds"),
            messages=int(_number(answer, "messages")),
            deliveries=int(_number(answer, "deliveries")),
            missing=int(_number(answer, "missing")),
            disorder=int(_number(answer, "disorder")),
            corrupt=int(_number(answer, "corrupt")),
            closed=int(_number(answer, "closed")),
            drained=answer["drained"] is True,
            generator_cpu_s=_number(answer, "generator_cpu_s"),
            latency_count=int(_number(latency, "count")),
            mean_us=_number(latency, "mean_us"),
            p50_us=_number(latency, "p50_us"),
            p99_us=_number(latency, "p99_us"),
            max_us=_number(latency, "max_us"),
            stuck_gone_s=tuple(float(each) for each in gone),
        )

    def close(self) -> None:
        """End it; its connections are reset, not closed politely, so that no TIME_WAIT stays behind."""
        if self._process.poll() is None:
            try:
                self._say("quit")
                self._process.wait(5)
            except (OSError, subprocess.TimeoutExpired, GeneratorFailed):
                self._process.kill()
                self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue

    def _say(self, line: str) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise GeneratorFailed(self._complaint()) from None

    def _event(self, name: str) -> dict[str, object]:
        """Wait for the next line, which has to be this event."""
        assert self._process.stdout
        deadline = time.monotonic() + _ANSWER_S
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            chunk = self._process.stdout.read1(65536) if ready else b""  # type: ignore[attr-defined] # a buffered pipe
            if not ready:
                raise GeneratorFailed(f"no {name} after {_ANSWER_S:.0f} s")
            if not chunk:
                raise GeneratorFailed(self._complaint())
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, object] = json.loads(line)
        if answer.get("event") != name:
            raise GeneratorFailed(f"expected {name}, got {line.decode()}")
        return answer

    def _complaint(self) -> str:
        assert self._process.stderr
        text = self._process.stderr.read().decode(errors="replace").strip()
        return text or f"the generator ended with status {self._process.wait()}"


def _number(answer: dict[str, object], name: str) -> float:
    value = answer[name]
    assert isinstance(value, (int, float))
    return float(value)
