"""What an identity carries besides its fields: how it was proved, and when. Nothing of it shows."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable

import pytest
from starlette.requests import HTTPConnection

from antiphon.auth import BearerToken, CookieSession, Identity, Revoked, SessionExpired

ANN = Identity(user_id="ann", session_id="s1")


def cookie(value: str) -> HTTPConnection:
    return HTTPConnection({"type": "http", "path": "/", "headers": [(b"cookie", f"s={value}".encode())]})


def bearer(value: str) -> HTTPConnection:
    return HTTPConnection({"type": "http", "path": "/", "headers": [(b"authorization", f"Bearer {value}".encode())]})


async def proved(way: CookieSession | BearerToken, token: str) -> Identity:
    identity = await way.authenticate(cookie(token) if isinstance(way, CookieSession) else bearer(token))
    assert identity is not None
    return identity


WAYS: list[Callable[[], CookieSession | BearerToken]] = [
    lambda: CookieSession("s", lambda token: ANN),
    lambda: BearerToken(lambda token: ANN),
]


@pytest.mark.parametrize("make", WAYS, ids=["cookie", "bearer"])
async def test_proofs_are_equal_for_one_token_of_one_authenticator_alone(
    make: Callable[[], CookieSession | BearerToken],
) -> None:
    way = make()
    one, again, other = await proved(way, "t1"), await proved(way, "t1"), await proved(way, "t2")
    elsewhere = await proved(make(), "t1")
    assert one.proved_again is not again.proved_again
    assert len({one.proved_again, again.proved_again}) == 1
    assert len({one.proved_again, other.proved_again, elsewhere.proved_again, None}) == 4


@pytest.mark.parametrize("make", WAYS, ids=["cookie", "bearer"])
async def test_proof_shows_nowhere(make: Callable[[], CookieSession | BearerToken]) -> None:
    identity = await proved(make(), "c4n4ry")
    assert identity == ANN
    assert hash(identity) == hash(ANN)
    assert "c4n4ry" not in f"{identity!r} {identity.proved_again!r}"
    assert pickle.loads(pickle.dumps(identity)).proved_again is None


async def test_proof_is_asked_for_again_and_knows_how_it_ends() -> None:
    valid = {"t1": ANN}
    for way, ended in (CookieSession("s", valid.get), Revoked), (BearerToken(valid.get), SessionExpired):
        valid["t1"] = ANN
        identity = await proved(way, "t1")
        assert identity.proved_again is not None
        fresh = await identity.proved_again()
        assert fresh == ANN
        assert fresh.proved_again == identity.proved_again
        valid.clear()
        with pytest.raises(ended):
            await identity.proved_again()


@pytest.mark.parametrize("rechecks", [True, False])
async def test_identity_was_proved_when_the_question_was_asked_not_when_it_was_answered(rechecks: bool) -> None:
    asked_s: list[float] = []

    def lookup(token: str) -> Identity:
        asked_s.append(time.time())
        return ANN

    before_s = time.time()
    identity = await proved(CookieSession("s", lookup, rechecks=rechecks), "t1")
    assert identity.proved_at_s is not None
    assert before_s <= identity.proved_at_s <= asked_s[0]
    assert (identity.proved_again is not None) is rechecks
    assert ANN.proved_at_s is None
