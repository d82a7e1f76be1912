"""What goes wrong for a visitor, as types. Each has the status and the code that the answer carries."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, Field

__all__ = [
    "BadRequest",
    "Conflict",
    "ErrorAnswer",
    "Forbidden",
    "NotFound",
    "NotSignedIn",
    "SiteError",
    "TooLarge",
    "TooManyRequests",
    "Unavailable",
]


class ErrorAnswer(BaseModel):
    """The body of every answer that is not a success."""

    code: str = Field(description="For programs: stays the same", examples=["not_found"])
    detail: str = Field(description="For people: says what to do", examples=["There is no track 7"])


class SiteError(Exception):
    """Raise one anywhere below a route; the visitor gets `status` and an `ErrorAnswer`, and nothing is committed.

    SiteError
    ├── BadRequest        400  the request makes no sense as it is
    ├── NotSignedIn       401
    ├── Forbidden         403  the visitor may know that it exists, and may not do this
    ├── NotFound          404  does not exist, or is nobody's business of this visitor
    ├── Conflict          409  makes no sense in the present state: somebody else may have been quicker
    ├── TooLarge          413
    ├── TooManyRequests   429  `retry_after_s` says when to try again
    └── Unavailable       503
    """

    status: ClassVar[int] = 500
    code: str = "internal_error"

    def __init__(self, detail: str, *, code: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        if code is not None:
            self.code = code
        self.retry_after_s = retry_after_s


class BadRequest(SiteError):
    status = 400
    code = "bad_request"


class NotSignedIn(SiteError):
    status = 401
    code = "not_signed_in"


class Forbidden(SiteError):
    status = 403
    code = "forbidden"


class NotFound(SiteError):
    status = 404
    code = "not_found"


class Conflict(SiteError):
    status = 409
    code = "conflict"


class TooLarge(SiteError):
    status = 413
    code = "too_large"


class TooManyRequests(SiteError):
    status = 429
    code = "too_many_requests"


class Unavailable(SiteError):
    status = 503
    code = "unavailable"
