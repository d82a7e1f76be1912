"""What only the demonstration has: signing in by one click, and the broker switch. No other mode has the routes."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from sqlalchemy import select

from encore.accounts.access import CurrentUser
from encore.accounts.models import User
from encore.accounts.schemas import Me
from encore.accounts.service import Visitor, log_in
from encore.accounts.sessions import cookie_name
from encore.db import ReadSession, WriteSession
from encore.errors import ErrorAnswer, NotFound
from encore.operation.broker_switch import ask_broker
from encore.operation.schemas import Bus, BusOrder, DemoPerson, DemoSignIn
from encore.settings import read_settings
from encore.web import client_address

__all__ = ["router"]

PASSWORD = "antiphon-demo"
"""Of all demo people, and printed wherever they are named: production does not start where they are."""

router = APIRouter(prefix="/api/demo")


@router.get("/people")
async def demo_people(session: ReadSession) -> list[DemoPerson]:
    """The people of the demonstration: one click signs in as any of them."""
    people = await session.scalars(select(User).where(User.is_demo).order_by(User.id).limit(20))
    return [
        DemoPerson(name=one.username, display_name=one.display_name or one.username, roles=sorted(one.roles))
        for one in people
    ]


@router.post("/sign-in", responses={404: {"model": ErrorAnswer, "description": "There is no such demo person"}})
async def demo_sign_in(session: WriteSession, who: DemoSignIn, request: Request, response: Response) -> Me:
    """Sign in as one of the demo people, without a password."""
    found = await session.scalars(select(User).where(User.username_key == who.name.casefold(), User.is_demo))
    user = found.one_or_none()
    if user is None:
        raise NotFound("there is no such demo person: GET /api/demo/people lists them")
    visitor = Visitor(
        address=client_address(request),
        user_agent=request.headers.get("user-agent", ""),
        token=request.cookies.get(cookie_name(), ""),
    )
    entered = await log_in(session, username=user.username, password=PASSWORD, visitor=visitor)
    response.set_cookie(
        cookie_name(),
        entered.token,
        max_age=read_settings().session_days * 24 * 3600,
        secure=read_settings().uses_tls,
        httponly=True,
        samesite="lax",
    )
    return Me.of(entered.user)


@router.get("/broker", responses={404: {"model": ErrorAnswer, "description": "Started without --broker-switch"}})
async def demo_broker(user: CurrentUser) -> Bus:
    """How the broker of the demonstration is."""
    return Bus(state=await ask_broker("status"))


@router.post("/broker", responses={404: {"model": ErrorAnswer, "description": "Started without --broker-switch"}})
async def order_demo_broker(user: CurrentUser, order: BusOrder) -> Bus:
    """Stop, start, freeze or thaw the broker, to see what happens meanwhile."""
    return Bus(state=await ask_broker(order.action))
