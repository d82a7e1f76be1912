"""Nothing outlives its parent: processes end and directories go even when this process is killed."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import subprocess
import threading
from typing import Final

__all__ = ["Guard"]

CLOSE_TIMEOUT_S: Final = 5.0

# It reads what to watch from a pipe whose other end only this process holds. The end of the file means that this
# process is gone, however it went; a preexec function with PR_SET_PDEATHSIG would not be safe with threads, and would
# fire when the thread that started the child ends.
SCRIPT = r"""
trap '' INT TERM HUP QUIT TSTP
pids=' '
directories=''
while read -r what value; do
    case $what in
        +) pids="$pids$value " ;;
        -) before=${pids%%" $value "*}; after=${pids#*" $value "}
           [ "$before" = "$pids" ] || pids="$before $after" ;;
        d) directories="$directories$value
" ;;
        e) rest=''
           while read -r one; do [ "$one" = "$value" ] || [ -z "$one" ] || rest="$rest$one
"; done <<END
$directories
END
           directories=$rest ;;
    esac
done
for pid in $pids; do kill -9 -- "-$pid" 2>/dev/null || kill -9 "$pid" 2>/dev/null; done
while read -r one; do [ -z "$one" ] || rm -rf -- "$one"; done <<END
$directories
END
"""


class Guard:
    """Ends the processes and removes the directories it was told about once this process is gone, even by SIGKILL.

    It costs one small shell for the whole process, started with the first call. Without `/bin/sh` it does nothing, and
    only orderly ends clean up. A process made by `os.fork` that lives on keeps the guard waiting.
    """

    _shared: Guard | None = None
    _creating = threading.Lock()

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner_pid = os.getpid()
        self._shell: subprocess.Popen[str] | None = None
        self._start()

    @classmethod
    def shared(cls) -> Guard:
        """The one of this process."""
        with cls._creating:
            if cls._shared is None or cls._shared._owner_pid != os.getpid() or not cls._shared._is_running():
                cls._shared = cls()
            return cls._shared

    def watch(self, pid: int) -> None:
        """Kill `pid` when this process is gone."""
        self._tell(f"+ {pid}")

    def forget(self, pid: int) -> None:
        """`pid` ended: its number may soon belong to somebody else."""
        self._tell(f"- {pid}")

    def keep_clean(self, directory: str) -> None:
        """Remove `directory` when this process is gone."""
        self._tell(f"d {directory}")

    def forget_directory(self, directory: str) -> None:
        """`directory` was removed."""
        self._tell(f"e {directory}")

    def close(self) -> None:
        """Do now what it would do at the end: what is still watched ends."""
        if self._shell is not None and self._shell.stdin is not None and self._owner_pid == os.getpid():
            with self._lock, contextlib.suppress(OSError, subprocess.TimeoutExpired):
                self._shell.stdin.close()
                self._shell.wait(CLOSE_TIMEOUT_S)

    def _start(self) -> None:
        shell = shutil.which("sh")
        if shell is None:
            return
        # Its own session: Ctrl-C in the terminal goes to the whole foreground group. `/`: it holds no directory.
        self._shell = subprocess.Popen(
            [shell, "-c", SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
            env={"PATH": os.environ.get("PATH", "/usr/bin:/bin")},
            text=True,
        )

    def _is_running(self) -> bool:
        return self._shell is not None and self._shell.poll() is None

    def _tell(self, line: str) -> None:
        if self._shell is None or self._shell.stdin is None or self._owner_pid != os.getpid():
            return
        with self._lock, contextlib.suppress(OSError, ValueError):  # the shell was killed, or closed at the end
            self._shell.stdin.write(line + "\n")
            self._shell.stdin.flush()


@atexit.register
def _close_shared() -> None:
    if Guard._shared is not None:
        Guard._shared.close()
