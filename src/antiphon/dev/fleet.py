"""All that `antiphon dev` runs at once: replicas, the port in front of them, the broker, keys and signals."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping
from typing import Final

from antiphon.dev import texts
from antiphon.dev.balancer import Balancer
from antiphon.dev.broker import DevBroker
from antiphon.dev.control import CONTROL_VARIABLE, Control
from antiphon.dev.keys import Keyboard
from antiphon.dev.plan import DevFailed, Plan
from antiphon.dev.replica import Replica, ReplicaState, WorkerOptions, describe_exit
from antiphon.dev.screen import Screen

__all__ = ["Fleet"]

SLOW_START_S: Final = 5.0
BROKER_KEYS: Final = 8
LEAVING_SIGNALS: Final = ("SIGINT", "SIGTERM", "SIGHUP")


class Fleet:
    """Starts everything, keeps it running until it is told to leave, and ends everything."""

    def __init__(
        self,
        *,
        plan: Plan,
        environment: Mapping[str, str],
        broker: DevBroker | None,
        screen: Screen,
        broker_switch: bool = False,
    ) -> None:
        self._plan = plan
        self._broker = broker
        self._screen = screen
        self._leaving = asyncio.Event()
        self._broker_keys: set[asyncio.Task[None]] = set()
        self._broker_turn = asyncio.Lock()
        self._keyboard: Keyboard | None = None
        self._control = Control(self._obey) if broker_switch and broker is not None else None
        if self._control is not None:
            environment = {**environment, CONTROL_VARIABLE: self._control.path}
        options = WorkerOptions(app=plan.app, app_dir=plan.app_dir, colors=screen.colors, environment=environment)
        self._replicas = [
            Replica(number=number, port=port, options=options, screen=screen)
            for number, port in enumerate(plan.replica_ports, start=1)
        ]
        self._balancer = Balancer(port=plan.port, living=self._living_ports)

    async def run(self, *, keys: bool) -> bool:
        """Until it is left. False when a replica did not start, which was reported then."""
        self._catch_signals()
        tasks = [asyncio.create_task(replica.run(), name=f"replica {replica.number}") for replica in self._replicas]
        if self._broker is not None:
            tasks.append(asyncio.create_task(self._broker.watch(), name="broker"))
        leaving = asyncio.create_task(self._leaving.wait(), name="leaving")
        try:
            if self._control is not None:
                await self._control.start()
            if not await self._start(leaving):
                return False
            if not self._leaving.is_set():
                await self._open(keys=keys)
            done, _ = await asyncio.wait((leaving, *tasks), return_when=asyncio.FIRST_COMPLETED)
            for task in done - {leaving}:
                task.result()  # none of them ends before it is told to: this raises what ended it
            return True
        finally:
            leaving.cancel()
            await self._close(tasks)

    async def _start(self, leaving: asyncio.Task[bool]) -> bool:
        """Until all are up. Shows the output of one that fails, and not that of the others, which is the same."""
        self._screen.say(f"starting {self._plan.app} on {texts.count(self._plan.replicas, 'replica')}")
        waiting = {replica.outcome: replica for replica in self._replicas}
        timeout_s: float | None = SLOW_START_S
        while waiting:
            done, _ = await asyncio.wait((leaving, *waiting), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if leaving in done:
                return True
            if not done:
                self._screen.say("still starting: this is what the first of them says")
                next(iter(waiting.values())).show_output()
                timeout_s = None
            for outcome in done & waiting.keys():
                replica = waiting.pop(outcome)
                replica.show_output()
                if not outcome.result():
                    how = describe_exit(replica.exit_code)
                    self._screen.say(f"{self._plan.app} did not start: replica {replica.number} ended ({how})")
                    if hint := texts.missing_module_hint(self._plan):
                        self._screen.say(hint)
                    return False
        return True

    async def _open(self, *, keys: bool) -> None:
        try:
            await self._balancer.start()
        except OSError as error:
            raise DevFailed(f"port {self._plan.port} was taken meanwhile: pass another --port") from error
        if keys:
            self._keyboard = Keyboard(self._on_key)
            self._keyboard.open()
        self._screen.block(texts.banner(self._plan, self._broker, keys=keys, screen=self._screen))

    async def _close(self, tasks: list[asyncio.Task[None]]) -> None:
        if self._keyboard is not None:
            self._keyboard.close()
        await self._balancer.close()
        if self._control is not None:
            await self._control.close()
        for replica in self._replicas:
            replica.stop()
        for task in tasks[len(self._replicas) :]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*self._broker_keys)
        for result in results:
            if isinstance(result, Exception):
                self._screen.say(f"something went wrong at the end: {result!r}")
        if self._broker is not None:
            await asyncio.to_thread(self._broker.close)
        self._release_signals()
        if self._leaving.is_set():
            self._screen.say("left: nothing is running any more")

    def _living_ports(self) -> list[int]:
        return [replica.port for replica in self._replicas if replica.state is ReplicaState.UP]

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for name in LEAVING_SIGNALS:
            number = getattr(signal, name)
            if name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN:  # nohup means it
                loop.add_signal_handler(number, self._leave)

    def _release_signals(self) -> None:
        for name in LEAVING_SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(getattr(signal, name))

    def _leave(self) -> None:
        """In order the first time, at once the second time."""
        if self._leaving.is_set():
            for replica in self._replicas:
                replica.kill()
            return
        self._leaving.set()
        self._screen.say("leaving (Ctrl-C once more to force it)")

    def _on_key(self, key: str) -> None:
        if key.isdigit() and 1 <= int(key) <= len(self._replicas):
            self._replicas[int(key) - 1].kill_or_start()
        elif key in "bf":
            self._on_broker_key(key)
        elif key == "s":
            self._screen.block(texts.status(self._plan, self._replicas, self._broker, self._balancer))
        elif key in "?h":
            self._screen.block(texts.banner(self._plan, self._broker, keys=True, screen=self._screen))
        elif key == "q":
            self._leave()
        elif key in "\r\n":
            self._screen.write("\n")

    def _on_broker_key(self, key: str) -> None:
        if self._broker is None:
            what = "there is no broker" if self._plan.broker_url is None else "this broker is not of this command"
            self._screen.say(f"{what}: without --redis, one is started that this key works on")
        elif len(self._broker_keys) < BROKER_KEYS:
            act = self._broker.stop_or_start if key == "b" else self._broker.freeze_or_thaw
            task = asyncio.create_task(self._one_by_one(act), name="broker key")
            self._broker_keys.add(task)
            task.add_done_callback(self._broker_keys.discard)

    async def _obey(self, order: str) -> str:
        """What the application orders; one after the other, as with the keys."""
        assert self._broker is not None
        async with self._broker_turn:
            return (await asyncio.to_thread(self._broker.obey, order)).value

    async def _one_by_one(self, act: Callable[[], None]) -> None:
        async with self._broker_turn:
            await asyncio.to_thread(act)
