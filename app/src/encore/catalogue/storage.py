"""Where the files are: below `ENCORE_STORAGE`, under names made up here, and never below anything that is served.

A file is written under `incoming/`, and moved to its place when it is complete and was looked at: nothing half-written
can be found. All replicas share the folder. Everything here blocks: call it in a thread.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import time
from collections.abc import Iterable
from pathlib import Path

from encore.settings import read_settings

__all__ = ["Storage", "storage"]

log = logging.getLogger("encore.catalogue")

NAME = re.compile(r"[0-9a-f]{32}\.(?:wav|flac|ogg|mp3|jpg|png|webp)")
LEFT_OVER_S = 24 * 3600.0
"""Age at which a file in `incoming/` belongs to an upload that nobody finishes any more."""


class Storage:
    """The files of the catalogue. Raises OSError as the file system does: full, away, not writable."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._incoming = self._folder / "incoming"

    def incoming(self) -> Path:
        """The name of a new file to write to, which does not exist yet."""
        self._incoming.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._incoming / f"{secrets.token_hex(16)}.part"

    def keep(self, incoming: Path, *, suffix: str) -> str:
        """Move a complete file to its place. Its name there, for the database; what the client called it is lost."""
        name = f"{secrets.token_hex(16)}.{suffix}"
        place = self.path(name)
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with incoming.open("rb") as file:
            os.fsync(file.fileno())
        incoming.rename(place)
        return name

    def keep_bytes(self, content: bytes, *, suffix: str) -> str:
        """The same for a small file that is in memory."""
        incoming = self.incoming()
        try:
            incoming.write_bytes(content)
            return self.keep(incoming, suffix=suffix)
        finally:
            incoming.unlink(missing_ok=True)

    def path(self, name: str) -> Path:
        """Where the file of this name is. Raises ValueError for a name that was not made here."""
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of the storage")
        return self._folder / "kept" / name[:2] / name

    def remove(self, names: Iterable[str | None]) -> None:
        """Delete files that no row names any more. One that cannot be deleted stays, and is logged."""
        for name in names:
            if name is None:
                continue
            try:
                self.path(name).unlink(missing_ok=True)
            except OSError:
                log.warning("file %s could not be deleted, and takes up space for nothing", name, exc_info=True)

    def sweep(self, *, older_than_s: float = LEFT_OVER_S) -> int:
        """Delete what uploads left behind that ended with their process. How many files."""
        count = 0
        oldest = time.time() - older_than_s
        for path in self._incoming.glob("*.part"):
            try:
                if path.stat().st_mtime < oldest:
                    path.unlink()
                    count += 1
            except OSError:
                continue  # another replica was quicker
        return count


def storage() -> Storage:
    """The storage that the settings name."""
    return Storage(read_settings().storage)
