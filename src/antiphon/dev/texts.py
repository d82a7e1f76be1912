"""What `antiphon dev` tells people: the addresses, the keys, the table of what is running."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from antiphon.dev.balancer import Balancer
from antiphon.dev.broker import DevBroker
from antiphon.dev.plan import Plan
from antiphon.dev.replica import Replica, ReplicaState
from antiphon.dev.screen import Screen

__all__ = ["banner", "count", "missing_module_hint", "status"]

EXAMPLE: Final = """'{"type": "hello"}'"""
MANAGER: Final = re.compile(r"""WebSocketManager\(\s*(?:channel\s*=\s*)?["']([A-Za-z0-9_.:-]+)["']""")
SOCKET_TABLES: Final = ("/proc/net/tcp", "/proc/net/tcp6")
ESTABLISHED: Final = "01"


def banner(plan: Plan, broker: DevBroker | None, *, keys: bool, screen: Screen) -> list[str]:
    """Shown once everything is up, and again by `?`."""
    lines = [f"  {screen.styled(plan.app, 'bold')} runs on {count(plan.replicas, 'replica')}", ""]
    lines.append(f"  open         {screen.styled(plan.url, 'bold')}   each new connection goes to the next replica")
    lines += [f"  replica {number}    {url}" for number, url in enumerate(plan.replica_urls, start=1)]
    lines.append(f"  broker       {_broker_line(plan, broker)}")
    if plan.broker_url is not None and plan.is_switched_off:
        lines.append("               USE_REDIS_WEBSOCKET is off: managers do not use it, each replica is on its own")
    if plan.broker_url is not None:
        lines += ["", "  Publish from another terminal:", *_publish_lines(plan, broker)]
    lines.append("")
    if keys:
        lines += _key_lines(plan, broker, screen)
    else:
        lines.append("  Ctrl-C ends everything.")
    return lines


def status(plan: Plan, replicas: Sequence[Replica], broker: DevBroker | None, balancer: Balancer) -> list[str]:
    """The table of the key `s`."""
    connections = _connections_by_port()
    rows = [("", "state", "pid", "port", "connections", "up for")]
    for replica in replicas:
        is_up = replica.state is ReplicaState.UP
        rows.append(
            (
                f"replica {replica.number}",
                replica.state.value,
                str(replica.pid or "-"),
                str(replica.port),
                "-" if connections is None or not is_up else str(connections[replica.port]),
                _duration(time.monotonic() - replica.up_since_s) if is_up else "-",
            )
        )
    if broker is not None:
        server = broker.server
        pid = str(server.pid) if server.is_running else "-"
        clients = "-" if connections is None else str(connections[server.port])
        rows.append(("broker", broker.state.value, pid, str(server.port), clients, "-"))
    elif plan.broker_url is not None:
        rows.append(("broker", "not ours", "-", plan.broker_address, "-", "-"))
    rows.append(("all", "up", "-", str(plan.port), str(balancer.connection_count), "-"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines += ["", "connections: open now; those of all go on to a replica"]
    return [f"  {line}".rstrip() for line in lines]


def missing_module_hint(plan: Plan) -> str | None:
    """What to do when the application's module is not where it is looked for."""
    name = plan.app.partition(":")[0].partition(".")[0]
    folder = Path(plan.app_dir)
    if (folder / f"{name}.py").exists() or (folder / name).is_dir():
        return None
    return f"there is no {name}.py in {folder}: go to its folder first, or name it with --app-dir"


def count(number: int, what: str) -> str:
    """`1 replica`, `3 replicas`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _broker_line(plan: Plan, broker: DevBroker | None) -> str:
    if broker is not None:
        return f"{plan.broker_address}   {broker.server.kind} {broker.server.version}, only for this run"
    if plan.broker_url is not None:
        return plan.broker_address
    return "none: each replica is on its own"


def _publish_lines(plan: Plan, broker: DevBroker | None) -> list[str]:
    what = f"{_channel(plan)} {EXAMPLE}"
    lines = [f"    {_own_program()} publish {what} --url {plan.broker_address}"]
    program = next((name for name in ("valkey-cli", "redis-cli") if shutil.which(name)), None)
    if broker is not None and program is not None:
        lines.append(f"    {program} -p {broker.server.port} PUBLISH {what}")
    return lines


def _channel(plan: Plan) -> str:
    """A channel of this application, if its source shows one: then the command can be copied as it is."""
    module = plan.app.partition(":")[0].replace(".", "/")
    for path in (Path(plan.app_dir, f"{module}.py"), Path(plan.app_dir, module, "__init__.py")):
        try:
            found = MANAGER.search(path.read_text(encoding="utf-8", errors="replace"))
        except OSError:
            continue
        if found:
            return found[1]
    return "CHANNEL"


def _own_program() -> str:
    """How another terminal, in the folder where this command was typed, calls this installation."""
    folder = os.environ.get("PWD")
    program = Path(sys.executable).with_name("antiphon")
    if folder and program.exists() and program.is_relative_to(folder):
        return os.fspath(program.relative_to(folder))
    return "antiphon"


def _key_lines(plan: Plan, broker: DevBroker | None, screen: Screen) -> list[str]:
    def row(*keys: tuple[str, str]) -> str:
        return "   ".join(f"{screen.styled(key, 'bold')} {what}" for key, what in keys)

    replicas = "1" if plan.replicas == 1 else f"1-{plan.replicas}"
    others = row((replicas, "kill/start that replica"), ("s", "status"), ("?", "help"), ("q", "leave"))
    if broker is None:
        return [f"  Keys:  {others}"]
    return [f"  Keys:  {row(('b', 'kill/start the broker'), ('f', 'freeze/thaw the broker'))}", f"         {others}"]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _connections_by_port() -> Counter[int] | None:
    """Open TCP connections by the port of the side that listens, where the system tells."""
    found: Counter[int] = Counter()
    try:
        for table in SOCKET_TABLES:
            path = Path(table)
            for line in path.read_text().splitlines()[1:] if path.exists() else ():
                fields = line.split()
                if fields[3] == ESTABLISHED:
                    found[int(fields[1].rpartition(":")[2], 16)] += 1
    except (OSError, ValueError, IndexError):
        return None
    return found if Path(SOCKET_TABLES[0]).exists() else None
