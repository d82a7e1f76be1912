"""Wrong passwords, many of them, and many at once; on whole replicas."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import httpx2
import pytest
from accounts.conftest import MakeHall

from encore.accounts.service_people import create_user
from encore.accounts.sessions import start_session
from harness.site import Person, Site

pytestmark = pytest.mark.asyncio(loop_scope="module")

PASSWORD = "correct horse"
LAG_S = 1.8
"""The target is 0.1 s; hashing on the event loop would take several seconds in one piece."""
MORE_MIB = 150


async def account(site: Site, name: str, *, address: str = "") -> Person:
    async with site.database.writing() as session:
        user = await create_user(session, username=name, email=f"{name}@example.org", password=PASSWORD)
        _, token = await start_session(session, user, address=address)
    return Person(site, user=user, token=token, replica=0)


async def log_in(site: Site, name: str, password: str = PASSWORD, *, replica: int = 0) -> httpx2.Response:
    return await site.guest(replica=replica).http.post("/api/auth/login", json={"username": name, "password": password})


async def test_a_name_is_throttled_on_all_replicas_and_free_again_when_the_wait_is_over(halls: Site) -> None:
    await account(halls, "mia")
    await account(halls, "max")
    for _ in range(3):
        answers = [await log_in(halls, "MIA", f"wrong {number}", replica=number % 2) for number in range(8)]
        codes = [answer.status_code for answer in answers]
        assert codes[:5] == [401] * 5
        assert 429 in codes[5:]
        locked = await asyncio.gather(*(log_in(halls, "mia", replica=replica) for replica in (0, 1)))
        if 429 in [answer.status_code for answer in locked]:
            break  # otherwise the machine stood still for the whole wait, which does not happen again and again
    else:
        raise AssertionError("the right password is not held back after wrong ones")
    assert (await log_in(halls, "max")).status_code == 200
    deadline_s = time.monotonic() + 200
    answer = await log_in(halls, "mia")
    while answer.status_code == 429:
        assert time.monotonic() < deadline_s, "locked for good"
        await asyncio.sleep(float(answer.headers["retry-after"]))
        answer = await log_in(halls, "mia", replica=1)
    assert answer.status_code == 200
    assert (await log_in(halls, "mia", "wrong")).status_code == 401


@pytest.mark.asyncio(loop_scope="function")
async def test_an_address_is_throttled_when_it_tries_many_names_but_not_who_is_known_there(
    make_halls: MakeHall,
) -> None:
    site = await make_halls(broker=False, replicas=1)
    await account(site, "known", address="127.0.0.1")
    await account(site, "stranger")
    codes = [(await log_in(site, f"user{number}", "wrong")).status_code for number in range(30)]
    assert codes == [401] * 30
    # A client does not choose its address where no proxy is trusted.
    forwarded = {"x-forwarded-for": "198.51.100.7"}
    stranger = {"username": "stranger", "password": PASSWORD}
    answers: Sequence[httpx2.Response] = ()
    for number in range(4):
        found = await asyncio.gather(
            log_in(site, f"more{number}", "wrong"),
            log_in(site, "stranger"),
            site.guest().http.post("/api/auth/login", json=stranger, headers=forwarded),
        )
        answers = list(found)
        if [answer.status_code for answer in answers] == [429] * 3:
            break  # otherwise the machine stood still for the whole wait; the next one is twice as long
    else:
        raise AssertionError(f"the address is not held back: {answers}")
    assert (await log_in(site, "known")).status_code == 200


async def test_an_unknown_name_takes_as_long_as_a_wrong_password(halls: Site) -> None:
    names = [f"timed{number}" for number in range(3)]
    for name in names:
        await account(halls, name)
    known_s: list[float] = []
    unknown_s: list[float] = []
    for name in names * 2:
        for taken_s, tried in ((known_s, name), (unknown_s, f"{name}-nobody")):
            began_s = time.perf_counter()
            assert (await log_in(halls, tried, "wrong horse")).status_code == 401
            taken_s.append(time.perf_counter() - began_s)
    known, unknown = statistics.median(known_s), statistics.median(unknown_s)
    # The target is 10 ms. Without the comparison the unknown one would take a fraction of the other.
    assert abs(known - unknown) < 1.5
    assert min(unknown_s) > 0.3 * min(known_s)


@pytest.mark.asyncio(loop_scope="function")
async def test_a_hundred_logins_at_once_hold_nobody_up(make_halls: MakeHall) -> None:
    site = await make_halls(broker=False, replicas=1)
    await account(site, "popular", address="127.0.0.1")
    status = Path(f"/proc/{site.pid()}/status")

    def peak_mib() -> float:
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 1024 if status.exists() else 0.0

    guest = site.guest()
    await log_in(site, "popular")
    before_mib = peak_mib()
    await guest.get("/api/hall/lag")
    limits = httpx2.Limits(max_connections=110)
    async with httpx2.AsyncClient(base_url=guest.base, timeout=60, limits=limits) as client:
        body = [{"username": f"u{number}", "password": PASSWORD} for number in range(99)]
        answers = await asyncio.gather(*(client.post("/api/auth/login", json=one) for one in body))
    assert (await guest.get("/api/hall/lag"))["longest_s"] < LAG_S
    assert peak_mib() - before_mib < MORE_MIB
    assert {answer.status_code for answer in answers} <= {401, 429}
    busy = [answer for answer in answers if answer.status_code == 429]
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in busy)
    assert (await log_in(site, "popular")).status_code == 200
