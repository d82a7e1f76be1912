"""Passwords: argon2id, two at a time, beside the event loop."""

from __future__ import annotations

import asyncio
import base64
import secrets
import unicodedata
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from pwdlib import PasswordHash
from pwdlib.exceptions import UnknownHashError
from pwdlib.hashers.argon2 import Argon2Hasher

from encore.errors import TooManyRequests

__all__ = ["LONGEST", "SHORTEST", "Checked", "Passwords", "close_passwords", "passwords"]

SHORTEST, LONGEST = 8, 1024
"""Characters of a password."""

MEMORY_KIB = 19 * 1024
ROUNDS = 2
LANES = 1
SALT_BYTES, DIGEST_BYTES = 16, 32

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of a password that was compared."""

    matches: bool
    better_hash: str | None = None
    """To be stored in place of the present one, which was made with other costs."""


class Passwords:
    """Hashes and compares, at most `threads` at a time, so that many logins cost neither the loop nor the memory.

    As many as `waiting` more wait for their turn; who comes then gets TooManyRequests.
    """

    def __init__(
        self, *, threads: int = 2, waiting: int = 64, memory_kib: int = MEMORY_KIB, rounds: int = ROUNDS
    ) -> None:
        hasher = Argon2Hasher(time_cost=rounds, memory_cost=memory_kib, parallelism=LANES)
        self._hashes = PasswordHash((hasher,))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="encore-passwords")
        self._limit = threads + waiting
        self._pending = 0
        self._nobodys = _made_up(memory_kib, rounds)
        self.refused = 0
        """How many found no place to wait since the start."""

    async def hash(self, password: str) -> str:
        """What to store of a password. Raises TooManyRequests."""
        return await self._aside(lambda: self._hashes.hash(_plain(password)))

    async def check(self, password: str, stored: str | None) -> Checked:
        """Compare a password with what was stored; None, where there is no such account, costs as much. Raises
        TooManyRequests.
        """
        return await self._aside(lambda: self._check(_plain(password), stored))

    def close(self) -> None:
        """Begin no more; those that have begun end by themselves."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _check(self, password: bytes, stored: str | None) -> Checked:
        if stored is not None:
            try:
                return Checked(*self._hashes.verify_and_update(password, stored))
            except UnknownHashError:
                pass  # an account without a password: nobody signs in to it, and nobody sees that from outside
        self._hashes.verify(password, self._nobodys)
        return Checked(matches=False)

    async def _aside(self, work: Callable[[], Value]) -> Value:
        if self._pending >= self._limit:
            self.refused += 1
            raise TooManyRequests("many people are signing in: try again in a moment", code="busy", retry_after_s=2)
        self._pending += 1
        loop = asyncio.get_running_loop()
        future = self._pool.submit(work)
        # Also when nobody waits for it any more: it holds its thread until it is done.
        future.add_done_callback(lambda done: self._count_down(loop, done))
        return await asyncio.wrap_future(future)

    def _count_down(self, loop: asyncio.AbstractEventLoop, done: Future[Value]) -> None:
        def count() -> None:
            self._pending -= 1

        if not loop.is_closed():
            loop.call_soon_threadsafe(count)


def _plain(password: str) -> bytes:
    """One spelling for what keyboards write in several. JSON can hold what is no text: that is no error either."""
    return unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")


def _made_up(memory_kib: int, rounds: int) -> str:
    """A hash of no password, which costs what a real one does."""
    salt, digest = (
        base64.b64encode(secrets.token_bytes(count)).decode().rstrip("=") for count in (SALT_BYTES, DIGEST_BYTES)
    )
    return f"$argon2id$v=19$m={memory_kib},t={rounds},p={LANES}${salt}${digest}"


_passwords: Passwords | None = None


def passwords() -> Passwords:
    """This process' own."""
    global _passwords
    if _passwords is None:
        _passwords = Passwords()
    return _passwords


def close_passwords() -> None:
    """Let the threads go. The next use makes new ones."""
    global _passwords
    if _passwords is not None:
        _passwords.close()
        _passwords = None
