"""`antiphon drain`: ask a replica to send its clients away, and wait until it has, as a pre-stop hook does."""

from __future__ import annotations

import http.client
import json
import os
import ssl
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from antiphon.errors import AntiphonError, ConfigurationError

__all__ = ["DrainFailed", "Drained", "InvalidDrainURL", "drain"]

TOKEN_VARIABLE = "ANTIPHON_DRAIN_TOKEN"
PATH = "/drain"
ANSWER_BYTES = 64 * 1024


class InvalidDrainURL(ConfigurationError):
    """The address of the replica cannot be used. Nothing was sent."""


class DrainFailed(AntiphonError):
    """The replica could not be asked, or refused. No text holds the token."""


class Drained(NamedTuple):
    """What the replica answered."""

    status: str
    """`drained`, or `draining` when it was not waited for."""
    closed: int | None
    seconds: float | None
    settled: bool | None


def drain(url: str, *, token: str | None = None, wait: bool = True, timeout_s: float = 60.0) -> Drained:
    """Ask the replica at `url` (path `/drain` unless it says another), with the token given or in the environment.

    Follows no redirect and uses no proxy: the token goes to that address and nowhere else. Raises InvalidDrainURL and
    DrainFailed.
    """
    parts = _checked(url)
    token = token if token is not None else os.environ.get(TOKEN_VARIABLE)
    headers = {"Content-Length": "0", "Accept": "application/json"}
    if token and token.strip():
        headers["Authorization"] = f"Bearer {token.strip()}"
    path = (parts.path if parts.path not in ("", "/") else PATH) + ("" if wait else "?wait=0")
    try:
        status, body = _post(parts, path, headers, timeout_s=timeout_s)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DrainFailed(
            f"{parts.scheme}://{parts.netloc} cannot be asked: {str(error) or type(error).__name__}"
        ) from error
    answer = _decoded(body)
    if status not in (200, 202):
        raise DrainFailed(f"{parts.scheme}://{parts.netloc}{path} answered {status}: {_said(status, answer)}")
    closed, seconds, settled = (answer.get(name) for name in ("closed", "seconds", "settled"))
    return Drained(
        str(answer.get("status", "draining" if status == 202 else "drained")),
        closed if isinstance(closed, int) else None,
        float(seconds) if isinstance(seconds, (int, float)) else None,
        settled if isinstance(settled, bool) else None,
    )


def _checked(url: str) -> SplitResult:
    shape = "give the address of one replica, such as http://127.0.0.1:8000"
    try:
        parts = urlsplit(url)
        port_is_sound = parts.port is None or parts.port > 0
    except ValueError as error:
        raise InvalidDrainURL(f"this address cannot be read ({error}): {shape}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_sound:
        raise InvalidDrainURL(f"{parts.scheme or 'this'}: no address of http or https: {shape}")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise InvalidDrainURL(f"the address may have no user, password, query or fragment: {shape}, and use --token")
    return parts


def _post(parts: SplitResult, path: str, headers: Mapping[str, str], *, timeout_s: float) -> tuple[int, bytes]:
    assert parts.hostname is not None
    connection = (
        http.client.HTTPSConnection(parts.hostname, parts.port, timeout=timeout_s, context=ssl.create_default_context())
        if parts.scheme == "https"
        else http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
    )
    try:
        connection.request("POST", path, headers=dict(headers))
        response = connection.getresponse()
        return response.status, response.read(ANSWER_BYTES)
    finally:
        connection.close()


def _decoded(body: bytes) -> Mapping[str, object]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _said(status: int, answer: Mapping[str, object]) -> str:
    if status == 401:
        return f"the token is missing or wrong: give --token, or set {TOKEN_VARIABLE}"
    if status in (404, 405):
        return 'there is no drain endpoint: add Route("/drain", antiphon.drain_endpoint, methods=["POST"])'
    return str(answer.get("error", "no reason given"))
