"""How passwords are kept, and what many of them at once cost."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from encore.accounts import passwords as module
from encore.accounts.passwords import Passwords
from encore.errors import TooManyRequests

STORED = re.compile(r"\$argon2id\$v=19\$m=(\d+),t=(\d+),p=(\d+)\$")


@pytest_asyncio.fixture
async def cheap() -> AsyncIterator[Passwords]:
    passwords = Passwords(threads=2, waiting=3, memory_kib=8, rounds=1)
    yield passwords
    passwords.close()


async def test_a_password_is_stored_by_argon2id_with_the_costs_that_are_advised() -> None:
    passwords = Passwords()
    stored = await passwords.hash("correct horse")
    found = STORED.match(stored)
    assert found is not None, stored
    assert int(found[1]) >= 19_456
    assert int(found[2]) >= 2
    assert (await passwords.check("correct horse", stored)).matches
    passwords.close()


async def test_a_password_that_nobody_has_costs_as_much_as_one_that_is_stored() -> None:
    passwords = Passwords()
    stored, made_up = STORED.match(await passwords.hash("correct horse")), STORED.match(passwords._nobodys)
    assert stored is not None
    assert made_up is not None
    assert made_up.groups() == stored.groups()
    assert len(passwords._nobodys) == len(await passwords.hash("x"))
    passwords.close()


@pytest.mark.parametrize("stored", [None, "!", "", "$2b$12$abcdefghijklmnopqrstuv"])
async def test_the_same_work_is_done_when_there_is_nothing_to_compare_with(
    cheap: Passwords, stored: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[str | bytes] = []
    verify = cheap._hashes.verify

    def noted(password: str | bytes, hashed: str | bytes) -> bool:
        compared.append(hashed)
        return verify(password, hashed)

    monkeypatch.setattr(cheap._hashes, "verify", noted)
    assert not (await cheap.check("correct horse", stored)).matches
    assert compared == [cheap._nobodys]


async def test_a_password_matches_when_another_keyboard_writes_it(cheap: Passwords) -> None:
    stored = await cheap.hash("Zu\u0308rich \u2460")
    assert (await cheap.check("Z\u00fcrich 1", stored)).matches
    assert not (await cheap.check("Zurich 1", stored)).matches


async def test_another_hash_is_offered_when_the_stored_one_was_cheaper(cheap: Passwords) -> None:
    dearer = Passwords(memory_kib=16, rounds=2)
    stored = await cheap.hash("correct horse")
    checked = await dearer.check("correct horse", stored)
    assert checked.matches
    assert checked.better_hash is not None
    assert await dearer.check("correct horse", checked.better_hash) == module.Checked(matches=True)
    assert await dearer.check("wrong", stored) == module.Checked(matches=False)
    dearer.close()


async def test_two_are_hashed_at_a_time_and_those_without_a_place_are_told(
    cheap: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, lock = threading.Event(), threading.Lock()
    busy = most = 0

    def held(password: str | bytes) -> str:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        assert gate.wait(60)
        with lock:
            busy -= 1
        return threading.current_thread().name

    monkeypatch.setattr(cheap._hashes, "hash", held)
    tries = [asyncio.create_task(cheap.hash("correct horse")) for _ in range(8)]
    await asyncio.wait(tries, return_when=asyncio.FIRST_COMPLETED)
    tries[0].cancel()  # whoever goes away gives no place free: the thread goes on
    with pytest.raises(TooManyRequests) as refused:
        await cheap.hash("one more")
    gate.set()
    ended = await asyncio.gather(*tries, return_exceptions=True)
    assert refused.value.retry_after_s
    assert most == 2
    names = [end for end in ended if isinstance(end, str)]
    assert len(names) == 4
    assert all(name.startswith("encore-passwords") for name in names)
    assert sum(isinstance(end, TooManyRequests) for end in ended) == 3
    assert cheap.refused == 4
    assert await cheap.hash("there is room again")
