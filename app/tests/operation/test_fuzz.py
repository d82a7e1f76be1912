"""Requests that nobody would write, made from the OpenAPI document, by everybody: nothing breaks, nothing undocumented.

The examples are the same in every run.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Sequence
from functools import cache
from typing import Any

import hypothesis
import pytest
import pytest_asyncio
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from encore.main import app
from encore.seeding import seed_demo
from harness.databases import Databases
from harness.site import Site

EXAMPLES = 3
GUESTS_EXAMPLES = 2
"""For each route and role: about 1,500 requests in all."""
ROLES = ("guest", "listener", "team", "creator", "admin")
LEFT_OUT = {
    # They would sign the one who asks out, or take their roles.
    "accounts_logout",
    "accounts_end_all_sessions",
    "accounts_end_session",
    "accounts_change_user",
    # Passwords are hashed slowly on purpose; what is held back after many is tested beside them.
    "accounts_signup",
    "accounts_login",
    "accounts_change_password",
}
CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)
UNAVAILABLE = {"accounts_issue_ticket"}
"""There is no Redis here, and it says so by a 503."""


class Crowd:
    """A seeded site, and one person of each role."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.cookies: dict[str, str] = {}

    async def populate(self) -> None:
        await seed_demo(self.site.database, longest_s=1.0)
        for role in ROLES[1:]:
            person = await self.site.person(f"fuzz-{role}", roles=[] if role == "listener" else [role])
            self.cookies[role] = f"encore_session={person.token}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def crowd(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Crowd]:
    environment = {"ENCORE_OPERATOR_TOKEN": "the-operators-token-for-tests", "ENCORE_LOG_LEVEL": "warning"}
    async with Site(databases.fresh("sqlite"), replicas=1, environment=environment) as site:
        found = Crowd(site)
        await found.populate()
        yield found
        log = site.log(0)
        assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:6000]


@cache
def routes() -> dict[str, Any]:
    """What makes requests for each route."""
    document = copy.deepcopy(app.openapi())
    # Everybody asks as who they are; what others get is the matrix's business.
    del document["components"]["securitySchemes"]
    for methods in document["paths"].values():
        for operation in methods.values():
            del operation["security"]
    schema = schemathesis.openapi.from_dict(document)
    found = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    assert len(found) > 100
    return {operation.definition.raw["operationId"]: operation for operation in found}


def break_it(crowd: Crowd, role: str, *, mode: GenerationMode, examples: int, checks: Sequence[Any]) -> list[str]:
    """Ask for every route as this role: what went wrong."""
    headers = {"Sec-Fetch-Site": "same-origin"}
    if role != "guest":
        headers["Cookie"] = crowd.cookies[role]
    failures: list[str] = []
    for name, operation in routes().items():
        if name in LEFT_OUT or (name in UNAVAILABLE and role != "guest"):
            continue

        @hypothesis.settings(
            max_examples=examples,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            if mode is GenerationMode.POSITIVE:
                case.path_parameters = {key: nearby(value) for key, value in (case.path_parameters or {}).items()}
            case.call_and_validate(base_url=crowd.site.url(), headers=headers, checks=checks)

        try:
            ask()
        except Unsatisfiable:
            assert mode is GenerationMode.NEGATIVE, name  # it takes nothing that could be wrong
        except (Exception, BaseExceptionGroup) as error:  # what schemathesis raises is a group of its own
            failures.append(f"{name}: {type(error).__name__}: {str(error)[:600]}")
    return failures


def nearby(value: object) -> object:
    """Most numbers lead nowhere: every other one becomes that of something which is there."""
    return value % 12 + 1 if isinstance(value, int) and value % 2 else value


@pytest.mark.parametrize("role", ROLES)
def test_no_request_breaks_the_site_or_gets_what_is_not_documented(crowd: Crowd, role: str) -> None:
    examples = GUESTS_EXAMPLES if role == "guest" else EXAMPLES
    assert break_it(crowd, role, mode=GenerationMode.POSITIVE, examples=examples, checks=CHECKS) == []


def test_what_the_document_does_not_allow_is_refused_and_breaks_nothing(crowd: Crowd) -> None:
    checks = (not_a_server_error, status_code_conformance, negative_data_rejection)
    assert break_it(crowd, "admin", mode=GenerationMode.NEGATIVE, examples=EXAMPLES, checks=checks) == []
