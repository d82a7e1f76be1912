"""nginx before the server under attack, with the very lines that docs/operation.md recommends."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from antiphon.dev.guard import Guard
from antiphon.dev.ports import free_port, is_free

__all__ = ["TIMEOUT_S", "Proxy", "proxy"]

GUIDE = Path(__file__).parents[2] / "docs" / "operation.md"
START_S = 20.0
TIMEOUT_S = 2
"""In place of the ten seconds of the documentation."""


class Proxy:
    """A running nginx."""

    def __init__(self, *, port: int, folder: Path) -> None:
        self.port = port
        self._folder = folder

    @property
    def log(self) -> str:
        """Its access log."""
        return (self._folder / "access.log").read_text(errors="replace")


@contextmanager
def proxy(upstream_port: int) -> Iterator[Proxy]:
    """Start nginx before a server of this machine, and stop it at the end. Skips the test where there is none."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("nginx is not installed: apt install nginx-light")
    folder = Path(tempfile.mkdtemp(prefix="antiphon-nginx-"))
    Guard.shared().keep_clean(str(folder))
    port = free_port()
    (folder / "nginx.conf").write_text(_configuration(folder, port=port, upstream_port=upstream_port))
    command = [program, "-e", str(folder / "error.log"), "-p", str(folder), "-c", str(folder / "nginx.conf")]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    Guard.shared().watch(process.pid)
    try:
        deadline = time.monotonic() + START_S
        while is_free(port):
            assert process.poll() is None, (folder / "error.log").read_text()
            assert time.monotonic() < deadline, "nginx does not listen"
            time.sleep(0.02)
        yield Proxy(port=port, folder=folder)
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        finally:
            process.kill()
            Guard.shared().forget(process.pid)


def _configuration(folder: Path, *, port: int, upstream_port: int) -> str:
    """A whole configuration around the documented lines."""
    found = re.search(r"```text\n(client_header_timeout.+?)```", GUIDE.read_text(), re.S)
    assert found is not None, "docs/operation.md has no lines for nginx any more"
    lines = found[1].replace("10s", f"{TIMEOUT_S}s").replace("/var/log/nginx", str(folder))
    lines = lines.replace("127.0.0.1:8000", f"127.0.0.1:{upstream_port}")
    outer, location = lines.split("location", 1)
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
{temporary}
{outer}
server {{
listen 127.0.0.1:{port};
location{location}
}}
}}
"""
