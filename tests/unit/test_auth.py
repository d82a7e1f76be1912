"""Who it is: identities, the ways to prove one, and the refusals."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import json
import pickle
from typing import Any

import pytest
from starlette.exceptions import WebSocketException
from starlette.websockets import WebSocketDisconnect

from antiphon import auth
from antiphon.auth import (
    BearerToken,
    ClientGone,
    CookieSession,
    FirstMessage,
    FirstMessageTooBig,
    Forbidden,
    Identity,
    NotSignedIn,
    OriginRefused,
    Rechecking,
    Refused,
    Revoked,
    SessionExpired,
    SignInUnavailable,
    TooManyConnections,
    read_first_message,
)
from antiphon.codes import CloseCode
from antiphon.errors import AntiphonError, ConfigurationError, InvalidUserId
from antiphon.security import Security
from tests.unit.handshakes import Handshake, request

TOM = Identity(user_id="tom", session_id="s-1", roles=frozenset({"team"}), claims={"name": "Tom"})


class Store:
    """Sessions by token, and the tokens that were asked for."""

    def __init__(self, **sessions: Identity) -> None:
        self.sessions = sessions
        self.asked: list[str] = []

    async def lookup(self, token: str) -> Identity | None:
        self.asked.append(token)
        return self.sessions.get(token)


# -- identities -------------------------------------------------------------------------------------------------------


def test_an_identity_shows_neither_its_session_nor_its_claims() -> None:
    assert repr(TOM) == "Identity(user_id='tom', roles=frozenset({'team'}), expires_at_s=None)"


def test_identities_are_values() -> None:
    assert Identity(user_id="a", claims={"x": 1}) == Identity(user_id="a", claims={"x": 1})
    assert len({Identity(user_id="a", claims={"x": 1}), Identity(user_id="a", claims={"x": 1})}) == 1
    assert Identity(user_id="a") != Identity(user_id="b")
    assert Identity(user_id=None).user_id is None
    assert pickle.loads(pickle.dumps(TOM)) == copy.copy(TOM) == TOM
    assert dataclasses.replace(TOM, roles=frozenset()).roles == frozenset()


def test_an_identity_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TOM.user_id = "ada"  # type: ignore[misc] # what the test is about


def test_roles_may_be_any_collection_of_names() -> None:
    roles: Any = ["team", "admin"]
    assert Identity(user_id="a", roles=roles).roles == frozenset({"team", "admin"})


@pytest.mark.parametrize(
    "fields",
    [
        {"user_id": ""},
        {"user_id": 42},
        {"user_id": "a", "session_id": ""},
        {"user_id": "a", "session_id": 7},
        {"user_id": "a", "roles": "team"},
        {"user_id": "a", "expires_at_s": "tomorrow"},
    ],
)
def test_an_identity_of_wrong_types_is_refused_at_once(fields: dict[str, Any]) -> None:
    with pytest.raises((ConfigurationError, InvalidUserId)):
        Identity(**fields)


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "code", "status"),
    [
        (NotSignedIn, 4501, 401),
        (SessionExpired, 4004, 401),
        (Revoked, 4502, 401),
        (Forbidden, 4503, 403),
        (TooManyConnections, 4504, 429),
        (OriginRefused, 4503, 403),
        (SignInUnavailable, 1013, 503),
        (ClientGone, 1001, 403),
    ],
)
def test_a_refusal_carries_its_code_for_sockets_and_its_status_for_requests(
    kind: type[Refused], code: int, status: int
) -> None:
    refusal = kind("for the log alone")
    assert (refusal.code, refusal.http_status) == (code, status)
    assert isinstance(refusal, WebSocketException)
    assert isinstance(refusal, AntiphonError)
    assert "log" not in refusal.reason
    assert len(refusal.reason.encode()) <= 123
    assert refusal.reason
    assert str(refusal) == f"{refusal.reason}: for the log alone"
    assert str(kind()) == refusal.reason
    for arrived in (pickle.loads(pickle.dumps(refusal)), copy.copy(refusal)):
        assert type(arrived) is kind
        assert vars(arrived) == vars(refusal)


def test_only_a_refused_origin_is_always_told_before_the_upgrade() -> None:
    assert OriginRefused().before_upgrade
    assert not NotSignedIn().before_upgrade
    assert TooManyConnections(before_upgrade=True).before_upgrade


def test_every_refusal_has_a_kind_of_its_own_for_counters() -> None:
    kinds = [entry for entry in vars(auth).values() if isinstance(entry, type) and issubclass(entry, Refused)]
    assert len({kind.kind for kind in kinds}) == len(kinds) == 13


def test_clients_come_back_after_what_passes_and_not_after_what_stays() -> None:
    assert all(kind.close_code.client_returns for kind in (SessionExpired, SignInUnavailable))
    assert not any(kind.close_code.client_returns for kind in (NotSignedIn, Revoked, Forbidden, TooManyConnections))


# -- cookies ----------------------------------------------------------------------------------------------------------


async def test_a_session_cookie_is_looked_up() -> None:
    store = Store(good=TOM)
    sessions = CookieSession("session", store.lookup)
    assert await sessions.authenticate(Handshake({"Cookie": "a=b; session=good"}).websocket) == TOM
    assert await sessions.authenticate(request({"Cookie": "session=good"})) == TOM
    assert store.asked == ["good", "good"]


@pytest.mark.parametrize("headers", [{}, {"Cookie": ""}, {"Cookie": "other=good"}, {"Cookie": "session="}])
async def test_without_the_cookie_nobody_is_asked(headers: dict[str, str]) -> None:
    store = Store(good=TOM)
    assert await CookieSession("session", store.lookup).authenticate(Handshake(headers).websocket) is None
    assert store.asked == []


async def test_a_session_that_is_not_there_is_not_signed_in() -> None:
    with pytest.raises(NotSignedIn):
        await CookieSession("session", Store().lookup).authenticate(request({"Cookie": "session=forged"}))


@pytest.mark.parametrize("value", ['"\\000"', '"a\\012b"', "a b", "\xe9", "x" * 8193])
async def test_what_no_token_looks_like_does_not_reach_the_database(value: str) -> None:
    store = Store()
    with pytest.raises(NotSignedIn):
        await CookieSession("session", store.lookup).authenticate(request({"Cookie": f"session={value}"}))
    assert store.asked == []


async def test_no_authenticator_of_this_kind_reads_the_address() -> None:
    store = Store(good=TOM)
    connection = Handshake(query="session=good&token=good&access_token=good&authorization=Bearer+good").websocket
    assert await CookieSession("session", store.lookup).authenticate(connection) is None
    assert await BearerToken(store.lookup).authenticate(connection) is None
    assert store.asked == []


async def test_a_plain_function_may_do_the_lookup() -> None:
    sessions = CookieSession("session", {"good": TOM}.get)
    assert await sessions.authenticate(request({"Cookie": "session=good"})) == TOM


async def test_a_lookup_that_returns_something_else_is_told_what_to_return() -> None:
    wrong: Any = {"good": "tom"}.get
    with pytest.raises(ConfigurationError, match="return an Identity"):
        await CookieSession("session", wrong).authenticate(request({"Cookie": "session=good"}))


def test_a_cookie_needs_a_name() -> None:
    with pytest.raises(ConfigurationError, match="name the cookie"):
        CookieSession("", Store().lookup)


# -- bearer tokens ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["Bearer good", "bearer good", "BEARER   good", " Bearer good "])
async def test_a_bearer_token_is_verified(header: str) -> None:
    store = Store(good=TOM)
    assert await BearerToken(store.lookup).authenticate(request({"Authorization": header})) == TOM
    assert store.asked == ["good"]


@pytest.mark.parametrize("header", ["Basic good", "good", "Bearerx good", "Digest Bearer good", ""])
async def test_another_scheme_is_no_bearer_token(header: str) -> None:
    store = Store(good=TOM)
    assert await BearerToken(store.lookup).authenticate(request({"Authorization": header})) is None
    assert store.asked == []


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Bearer good good", "Bearer g\x00d", "Bearer " + "x" * 8193])
async def test_an_ill_formed_bearer_token_is_refused_unasked(header: str) -> None:
    store = Store(good=TOM)
    with pytest.raises(NotSignedIn):
        await BearerToken(store.lookup).authenticate(request({"Authorization": header}))
    assert store.asked == []


@pytest.mark.parametrize("other", ["Bearer good", "Basic x"])
async def test_two_authorization_headers_are_refused(other: str) -> None:
    headers = [("Authorization", "Bearer good"), ("Authorization", other)]
    with pytest.raises(NotSignedIn):
        await BearerToken(Store(good=TOM).lookup).authenticate(request(headers))


# -- again ------------------------------------------------------------------------------------------------------------


async def proved(authenticator: CookieSession | BearerToken, headers: dict[str, str]) -> Identity:
    identity = await authenticator.authenticate(request(headers))
    assert identity is not None
    return identity


async def test_a_session_can_be_asked_for_again_until_it_is_revoked() -> None:
    store = Store(good=TOM)
    identity = await proved(CookieSession("s", store.lookup), {"Cookie": "s=good"})
    assert identity.proved_again is not None
    store.sessions["good"] = dataclasses.replace(TOM, roles=frozenset())
    again = await identity.proved_again()
    assert again.roles == frozenset()
    assert again.proved_again is not None
    del store.sessions["good"]
    with pytest.raises(Revoked):
        await again.proved_again()


async def test_a_token_can_be_asked_for_again_until_it_runs_out() -> None:
    store = Store(good=TOM)
    identity = await proved(BearerToken(store.lookup), {"Authorization": "Bearer good"})
    assert identity.proved_again is not None
    assert await identity.proved_again() == TOM
    store.sessions.clear()
    with pytest.raises(SessionExpired):
        await identity.proved_again()


async def test_sockets_that_share_an_identity_object_are_asked_for_by_their_own_tokens() -> None:
    store = Store(one=TOM, two=TOM)
    sessions = CookieSession("s", store.lookup)
    one, two = await proved(sessions, {"Cookie": "s=one"}), await proved(sessions, {"Cookie": "s=two"})
    del store.sessions["one"]
    assert one.proved_again is not None
    assert two.proved_again is not None
    assert await two.proved_again() == TOM
    with pytest.raises(Revoked):
        await one.proved_again()
    assert TOM.proved_again is None


async def test_an_identity_holds_no_token_that_could_be_shown_or_stored() -> None:
    identity = await proved(CookieSession("s", Store(good=TOM).lookup), {"Cookie": "s=good"})
    assert "good" not in f"{identity} {dataclasses.asdict(identity)}"
    assert b"good" not in pickle.dumps(identity)
    assert pickle.loads(pickle.dumps(identity)).proved_again is None


async def test_nobody_is_asked_again_where_that_is_switched_off() -> None:
    store = Store(good=TOM)
    one = await proved(CookieSession("s", store.lookup, rechecks=False), {"Cookie": "s=good"})
    two = await proved(BearerToken(store.lookup, rechecks=False), {"Authorization": "Bearer good"})
    assert one.proved_again is two.proved_again is None


def test_an_authenticator_with_is_valid_can_recheck() -> None:
    class Database:
        async def is_valid(self, identity: Identity) -> bool:
            return identity.user_id == "tom"

    assert isinstance(Database(), Rechecking)
    assert not isinstance(CookieSession("s", Store().lookup), Rechecking)


# -- the first message ------------------------------------------------------------------------------------------------


def auth_message(token: object = "good", **more: object) -> str:
    return json.dumps({"type": "auth", "token": token, **more})


async def first(handshake: Handshake, store: Store, **options: Any) -> Identity | None:
    return await FirstMessage(store.lookup, **options).authenticate(handshake.websocket)


async def test_the_first_message_signs_in() -> None:
    for message in (auth_message(), auth_message(more=1)):
        handshake = Handshake()
        handshake.says(message)
        assert await first(handshake, Store(good=TOM)) == TOM
    handshake = Handshake()
    handshake.says(binary=auth_message().encode())
    assert await first(handshake, Store(good=TOM)) == TOM


async def test_the_socket_is_accepted_for_it_with_a_subprotocol_that_was_offered() -> None:
    for offered, chosen in (([], None), (["chat", "x"], "chat"), (["chat", "antiphon.v1"], "antiphon.v1")):
        handshake = Handshake(subprotocols=offered)
        handshake.says(auth_message())
        await first(handshake, Store(good=TOM))
        assert handshake.events == [{"type": "websocket.accept", "subprotocol": chosen, "headers": []}]


async def test_the_socket_is_accepted_as_it_will_be_spoken_to_where_that_is_known() -> None:
    for spoken in (None, "chat", "antiphon.v1"):
        guard = Security(authenticators=[FirstMessage(Store(good=TOM).lookup)])
        handshake = Handshake(subprotocols=["antiphon.v1", "chat"])
        handshake.says(auth_message())
        assert await guard.admit(handshake.websocket, subprotocol=spoken) == TOM
        assert handshake.events == [{"type": "websocket.accept", "subprotocol": spoken, "headers": []}]


async def test_a_socket_that_is_accepted_already_is_only_read() -> None:
    handshake = Handshake()
    await handshake.websocket.accept()
    handshake.says(auth_message())
    assert await first(handshake, Store(good=TOM)) == TOM
    assert len(handshake.events) == 1


async def test_a_plain_request_has_no_first_message() -> None:
    assert await FirstMessage(Store(good=TOM).lookup).authenticate(request()) is None


@pytest.mark.parametrize(
    "message",
    [
        "",
        "good",
        '"good"',
        "[]",
        "null",
        "{}",
        '{"type":"auth"}',
        '{"token":"good"}',
        '{"type":"ping","token":"good"}',
        '{"type":["auth"],"token":"good"}',
        '{"type":"auth","token":null}',
        '{"type":"auth","token":7}',
        '{"type":"auth","token":["good"]}',
        '{"type":"auth","token":""}',
        '{"type":"auth","token":"bad"}',
        '{"type":"auth","token":"g\\u0000"}',
        '{"type":"auth","token":NaN}',
        '{"type":"auth","token":"\\ud800"}',
        "[" * 5000,
        "\ud800",
        auth_message("x" * 8193),
    ],
)
async def test_another_first_message_is_refused(message: str) -> None:
    handshake = Handshake()
    handshake.says(message)
    with pytest.raises(NotSignedIn) as refused:
        await first(handshake, Store(good=TOM))
    assert refused.value.code == CloseCode.NOT_SIGNED_IN


@pytest.mark.parametrize(
    "message",
    [
        auth_message(padding="x" * (16 * 1024)),
        '{"type":"auth","token":"good","padding":"' + "\N{PILE OF POO}" * (5 * 1024) + '"}',
    ],
    ids=["characters", "bytes"],
)
async def test_a_first_message_above_the_limit_is_refused_at_once_with_a_code_of_its_own(message: str) -> None:
    handshake = Handshake()
    handshake.says(message)
    with pytest.raises(FirstMessageTooBig) as refused:
        await first(handshake, Store(good=TOM))
    assert refused.value.code == CloseCode.TOO_BIG


async def test_the_limit_of_the_first_message_is_in_bytes() -> None:
    size = len(auth_message())
    for limit_bytes, content in ((size, auth_message()), (size - 1, auth_message())):
        handshake = Handshake()
        handshake.says(content)
        if limit_bytes == size:
            assert await first(handshake, Store(good=TOM), limit_bytes=limit_bytes) == TOM
        else:
            with pytest.raises(FirstMessageTooBig, match="more than"):
                await first(handshake, Store(good=TOM), limit_bytes=limit_bytes)


async def test_only_the_first_message_is_taken() -> None:
    handshake = Handshake()
    handshake.says("no")
    handshake.says(auth_message())
    with pytest.raises(NotSignedIn):
        await first(handshake, Store(good=TOM))
    assert (await handshake.websocket.receive())["text"] == auth_message()


@pytest.mark.virtual_time
async def test_silence_is_refused_when_the_time_is_over() -> None:
    loop = asyncio.get_running_loop()
    for timeout_s in (5.0, 0.5):
        started = loop.time()
        handshake = Handshake()
        with pytest.raises(NotSignedIn, match="no first message"):
            await first(handshake, Store(good=TOM), timeout_s=timeout_s)
        assert loop.time() - started == pytest.approx(timeout_s)


@pytest.mark.virtual_time
async def test_a_message_at_the_last_moment_still_counts() -> None:
    handshake = Handshake()
    asyncio.get_running_loop().call_later(4.9, handshake.says, auth_message())
    assert await first(handshake, Store(good=TOM)) == TOM


async def test_a_client_that_goes_instead_leaves_nothing_behind() -> None:
    handshake = Handshake()
    handshake.leaves()
    with pytest.raises(ClientGone) as gone:
        await first(handshake, Store(good=TOM))
    assert isinstance(gone.value, WebSocketDisconnect)
    await handshake.websocket.close(code=4501)
    await handshake.websocket.close(code=4501)


async def test_a_handshake_whose_client_has_gone_is_no_error_of_the_server() -> None:
    handshake = Handshake()
    handshake.websocket._receive = handshake.websocket._send = _reset
    with pytest.raises(ClientGone):
        await first(handshake, Store(good=TOM))


async def _reset(*_: object) -> Any:
    raise ConnectionResetError


async def test_a_cancelled_sign_in_stays_cancelled() -> None:
    handshake = Handshake()
    await handshake.websocket.accept()
    task = asyncio.create_task(read_first_message(handshake.websocket, timeout_s=60, limit_bytes=100))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    "options", [{"timeout_s": 0}, {"timeout_s": -1}, {"limit_bytes": 0}, {"timeout_s": float("nan")}]
)
def test_limits_of_the_first_message_are_above_zero(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="above 0"):
        FirstMessage(Store().lookup, **options)
