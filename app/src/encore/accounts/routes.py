"""The routes of accounts."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from antiphon import SignInUnavailable
from encore.accounts import service, service_people, upkeep
from encore.accounts.access import Admin, CurrentSession, CurrentUser, identity_of
from encore.accounts.models import User
from encore.accounts.schemas import (
    Changes,
    Ended,
    LogIn,
    ManagedUser,
    Me,
    NewPassword,
    Profile,
    SessionInfo,
    SignUp,
    Ticket,
)
from encore.accounts.service import Entered, Visitor
from encore.accounts.sessions import cookie_name
from encore.accounts.sockets import tickets
from encore.db import ReadSession, WriteSession
from encore.errors import BadRequest, ErrorAnswer, Unavailable
from encore.pagination import Cursor, Limit, Page, cut, read_cursor
from encore.settings import read_settings
from encore.web import client_address

__all__ = ["router", "upkeep"]

router = APIRouter(tags=["accounts"])

SessionId = Annotated[int, Path(ge=1, le=2**63 - 1)]
Name = Annotated[str, Path(min_length=3, max_length=32, description="In any letter case")]
Prefix = Annotated[
    str, Query(max_length=32, pattern=r"^[A-Za-z0-9_.-]*$", description="Only those whose name begins so")
]


async def _visitor(request: Request) -> Visitor:
    return Visitor(
        address=client_address(request),
        user_agent=request.headers.get("user-agent", ""),
        token=request.cookies.get(cookie_name(), ""),
    )


Visiting = Annotated[Visitor, Depends(_visitor)]


@router.post("/api/auth/signup", status_code=201, responses={409: {"model": ErrorAnswer}})
async def signup(body: SignUp, visitor: Visiting, response: Response, session: WriteSession) -> Me:
    """Make an account, and sign in. 409 when the username or the e-mail address is taken; it does not say which."""
    entered = await service.sign_up(
        session,
        username=body.username,
        email=body.email,
        password=body.password.get_secret_value(),
        visitor=visitor,
    )
    return _welcome(entered, response)


@router.post("/api/auth/login")
async def login(body: LogIn, visitor: Visiting, response: Response, session: WriteSession) -> Me:
    """Sign in: sets the session's cookie. One answer for wrong names and passwords; 429 after too many of them."""
    entered = await service.log_in(
        session, username=body.username, password=body.password.get_secret_value(), visitor=visitor
    )
    return _welcome(entered, response)


@router.post("/api/auth/logout")
async def logout(me: CurrentSession, response: Response, session: WriteSession) -> Ended:
    """End this session. Its sockets are closed, on all replicas."""
    count = await service.end_session(session, me.user.id, me.session.id)
    _take_cookie(response)
    return Ended(sessions=count)


@router.get("/api/auth/me")
async def me(user: CurrentUser) -> Me:
    """Who is signed in."""
    return Me.of(user)


@router.get("/api/auth/sessions")
async def list_sessions(me: CurrentSession, session: ReadSession) -> Page[SessionInfo]:
    """One's own sessions, newest first: fifty at most, all on one page."""
    rows = await service.list_sessions(session, me.user.id)
    return Page(items=[SessionInfo.of(row, current_id=me.session.id) for row in rows])


@router.delete("/api/auth/sessions")
async def end_all_sessions(me: CurrentSession, response: Response, session: WriteSession) -> Ended:
    """Sign out everywhere, here as well. All sockets are closed, on all replicas."""
    count = await service.end_all_sessions(session, me.user.id)
    _take_cookie(response)
    return Ended(sessions=count)


@router.delete("/api/auth/sessions/{session_id}", responses={404: {"model": ErrorAnswer}})
async def end_session(session_id: SessionId, me: CurrentSession, response: Response, session: WriteSession) -> Ended:
    """End one of one's own sessions. Its sockets are closed, on all replicas."""
    count = await service.end_session(session, me.user.id, session_id)
    if session_id == me.session.id:
        _take_cookie(response)
    return Ended(sessions=count)


@router.post("/api/auth/password", responses={400: {"model": ErrorAnswer}, 409: {"model": ErrorAnswer}})
async def change_password(body: NewPassword, me: CurrentSession, session: WriteSession) -> Ended:
    """Take a new password. All other sessions end, with their sockets; this one stays."""
    count = await service.change_password(
        session, me, current=body.current_password.get_secret_value(), new=body.new_password.get_secret_value()
    )
    return Ended(sessions=count)


@router.post("/api/auth/ws-ticket", responses={503: {"model": ErrorAnswer}})
async def issue_ticket(me: CurrentSession) -> Ticket:
    """A sign-in for one WebSocket, for clients that cannot send the cookie there. 503 while Redis is away."""
    await service.may_ask_for_a_ticket(me.user.id)
    try:
        ticket = await tickets.issue(identity_of(me))
    except SignInUnavailable as error:
        raise Unavailable("no ticket can be made at present: try again", retry_after_s=2) from error
    return Ticket(ticket=ticket, expires_in_s=tickets.ttl_s)


@router.get("/api/users")
async def list_users(
    admin: Admin, session: ReadSession, prefix: Prefix = "", limit: Limit = 50, cursor: Cursor = None
) -> Page[ManagedUser]:
    """Everybody, by name; for admins."""
    key = read_cursor(cursor, str)
    after = None if key is None else str(key[0])
    if after is not None and not service_people.is_name(after):
        raise BadRequest("cursor= is not one of ours: take next_cursor of the page before", code="bad_cursor")
    rows = await service_people.list_users(session, prefix=prefix, after=after, limit=limit)
    page, next_cursor = cut(rows, limit=limit, key=_key)
    return Page(items=[ManagedUser.of(row) for row in page], next_cursor=next_cursor)


@router.get("/api/users/{username}", responses={404: {"model": ErrorAnswer}})
async def user_profile(username: Name, session: ReadSession) -> Profile:
    """What everybody may know of somebody; for guests too."""
    return Profile.of(await service_people.find_user(session, username))


@router.patch("/api/users/{username}", responses={404: {"model": ErrorAnswer}, 409: {"model": ErrorAnswer}})
async def change_user(username: Name, body: Changes, admin: Admin, session: WriteSession) -> ManagedUser:
    """Give and take roles, ban and unban; for admins. Whoever loses something is cut off at once, on all replicas."""
    return ManagedUser.of(await service_people.change_user(session, username, body, actor_id=admin.id))


def _key(user: User) -> list[int | float | str]:
    return [user.username_key]


def _welcome(entered: Entered, response: Response) -> Me:
    settings = read_settings()
    response.set_cookie(
        cookie_name(),
        entered.token,
        max_age=settings.session_days * 24 * 3600,
        path="/",
        secure=settings.uses_tls,
        httponly=True,
        samesite="lax",
    )
    return Me.of(entered.user)


def _take_cookie(response: Response) -> None:
    response.delete_cookie(cookie_name(), path="/", secure=read_settings().uses_tls, httponly=True, samesite="lax")
