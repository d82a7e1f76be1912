"""What somebody may hear, and whether an identity still holds."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import Any

import pytest
from starlette.requests import HTTPConnection

from antiphon.auth import Forbidden, Identity, Refused, Revoked, SessionExpired, SignInUnavailable
from antiphon.security import RecheckFailed, Security
from tests.unit.guards import COOKIE, SITE, TOM, Store, admitted, security


async def test_everybody_may_hear_everything_unless_somebody_says_otherwise() -> None:
    assert await Security().may_hear(None, "private:1")


async def test_authorize_is_asked_with_identity_and_topic() -> None:
    asked: list[tuple[Identity | None, str]] = []

    async def slowly(identity: Identity | None, topic: str) -> bool:
        asked.append((identity, topic))
        await asyncio.sleep(0)
        return topic == "open"

    def quickly(identity: Identity | None, topic: str) -> bool:
        asked.append((identity, topic))
        return topic == "open"

    for authorize in (slowly, quickly):
        guard = Security(authorize=authorize)
        assert await guard.may_hear(TOM, "open")
        assert not await guard.may_hear(None, "private:1")
        assert guard.counters.topics_denied == 1
    assert asked == [(TOM, "open"), (None, "private:1")] * 2


async def test_an_authorize_that_raises_or_forgets_to_answer_says_no(caplog: pytest.LogCaptureFixture) -> None:
    def broken(identity: Identity | None, topic: str) -> bool:
        raise KeyError(topic)

    async def broken_later(identity: Identity | None, topic: str) -> bool:
        raise KeyError(topic)

    def forgetful(identity: Identity | None, topic: str) -> Any:
        return None

    for authorize, errors in ((broken, 1), (broken_later, 1), (forgetful, 0)):
        guard = Security(authorize=authorize)
        assert await guard.may_hear(TOM, "a") is False
        assert (guard.counters.authorize_errors, guard.counters.topics_denied) == (errors, 1)
    assert "authorize raised KeyError: that is a no" in caplog.text


async def test_a_recheck_gives_the_identity_as_it_is_now() -> None:
    store = Store(good=TOM)
    guard = security(store)
    identity = await admitted(guard, {**SITE, **COOKIE})
    assert identity is not None
    store.sessions["good"] = dataclasses.replace(TOM, roles=frozenset({"admin"}))
    assert (await guard.recheck(identity)).roles == {"admin"}
    assert await guard.is_valid(identity)
    del store.sessions["good"]
    with pytest.raises(Revoked):
        await guard.recheck(identity)
    assert not await guard.is_valid(identity)


async def test_credentials_that_belong_to_somebody_else_by_now_are_revoked() -> None:
    store = Store(good=TOM)
    guard = security(store)
    identity = await admitted(guard, {**SITE, **COOKIE})
    assert identity is not None
    for other in (Identity(user_id="ada", session_id="s-1"), Identity(user_id="tom", session_id="s-2")):
        store.sessions["good"] = other
        assert not await guard.is_valid(identity)


@pytest.mark.parametrize("error", [ConnectionError("away"), SignInUnavailable("away")])
async def test_a_database_that_is_away_is_no_reason_to_cut_anybody_off(error: Exception) -> None:
    store = Store(good=TOM)
    guard = security(store)
    identity = await admitted(guard, {**SITE, **COOKIE})
    assert identity is not None
    store.error = error
    with pytest.raises(RecheckFailed) as failed:
        await guard.recheck(identity)
    assert failed.value.__cause__ is error
    assert not isinstance(failed.value, Refused)
    assert await guard.is_valid(identity)
    assert guard.counters.recheck_errors == 2


async def test_a_lookup_may_say_itself_why_somebody_is_refused() -> None:
    store = Store(good=TOM)
    guard = security(store)
    identity = await admitted(guard, {**SITE, **COOKIE})
    assert identity is not None
    store.error = Forbidden("banned")
    for question in (guard.recheck(identity), admitted(guard, {**SITE, **COOKIE})):
        with pytest.raises(Forbidden):
            await question


async def test_who_hears_a_topic_already_is_not_cut_off_by_an_authorize_that_raises() -> None:
    def broken(identity: Identity | None, topic: str) -> bool:
        raise KeyError(topic)

    guard = Security(authorize=broken)
    with pytest.raises(KeyError):
        await guard.may_still_hear(TOM, "a")
    assert guard.counters.authorize_errors == guard.counters.topics_denied == 0
    assert await Security(authorize=lambda *_: True).may_still_hear(TOM, "a")
    assert not await Security(authorize=lambda *_: False).may_still_hear(TOM, "a")


async def test_what_has_expired_has_expired_even_then() -> None:
    store = Store(good=dataclasses.replace(TOM, expires_at_s=time.time() - 1))
    store.error = ConnectionError("away")
    with pytest.raises(SessionExpired):
        await security(store).recheck(store.sessions["good"])


async def test_an_authenticator_that_can_recheck_is_asked_about_every_identity() -> None:
    class Bans:
        def __init__(self) -> None:
            self.banned: set[str | None] = set()

        async def authenticate(self, connection: HTTPConnection) -> Identity | None:
            return None

        async def is_valid(self, identity: Identity) -> bool:
            return identity.user_id not in self.banned

    bans = Bans()
    guard = Security(authenticators=[bans], refusal_s=0)
    assert await guard.recheck(TOM) is TOM
    bans.banned = {"tom"}
    with pytest.raises(Revoked):
        await guard.recheck(TOM)
