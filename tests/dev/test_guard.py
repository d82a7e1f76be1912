"""What a guard was told about ends with the process, whatever its end was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.dev.processes import DEADLINE_S, is_gone, wait_until

WARD = """
import os, signal, subprocess, sys
from antiphon.dev.guard import Guard
guard = Guard.shared()
for directory in sys.argv[1:3]:
    os.mkdir(directory)
    guard.keep_clean(directory)
guard.forget_directory(sys.argv[2])
children = [subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL, start_new_session=True) for _ in range(3)]
for child in children:
    guard.watch(child.pid)
guard.forget(children[1].pid)
print(*(child.pid for child in children), flush=True)
os.kill(os.getpid(), signal.Signals[sys.argv[3]])
"""


@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM"])
def test_what_is_watched_ends_and_what_is_forgotten_stays(tmp_path: Path, end: str) -> None:
    watched, forgotten = tmp_path / "with a space" / "$(watched)", tmp_path / "forgotten"
    watched.parent.mkdir()
    parent = subprocess.run(
        [sys.executable, "-c", WARD, watched, forgotten, end],
        stdout=subprocess.PIPE,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    first, second, third = map(int, parent.stdout.split())
    try:
        wait_until(lambda: is_gone(first) and is_gone(third), what="the watched processes end")
        wait_until(lambda: not watched.exists(), what="the directory is removed")
        assert not is_gone(second)
        assert forgotten.exists()
    finally:
        os.kill(second, signal.SIGKILL)


def test_shared_is_one_for_the_process_and_new_after_its_shell_was_killed() -> None:
    # In a process of its own: what closes a guard ends everything that this process watches, its servers included.
    program = """
from antiphon.dev.guard import Guard
guard = Guard.shared()
assert Guard.shared() is guard
guard.close()
assert Guard.shared() is not guard
guard.watch(1_000_000_000)  # says nothing to nobody
print("done")
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert (ended.stdout, ended.stderr, ended.returncode) == ("done\n", "", 0)
