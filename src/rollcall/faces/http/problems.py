"""Errors of the native API: problem details, RFC 9457."""

from http import HTTPStatus
from typing import Any

import msgspec
from starlette.responses import Response

from rollcall.core.errors import RollcallError

MEDIA = "application/problem+json"
KIND = "urn:rollcall:error:"
"""A problem's ``type`` is this and the code of the error."""


class Failed(RollcallError):
    """Stands for an error of HTTP itself, such as an unknown path."""

    def __init__(self, status: int, message: str, **details: Any) -> None:  # Any: whatever JSON can hold
        super().__init__(message, **details)
        self.code = HTTPStatus(status).name.lower()  # type: ignore[misc]
        self.status = status  # type: ignore[misc]


def problem(error: RollcallError, status: int | None = None, headers: dict[str, str] | None = None) -> Response:
    """What went wrong, to whom, and the next step."""
    status = status or error.status
    told = {name: value for name, value in error.details.items() if name not in _RESERVED}
    body = {
        "type": KIND + error.code,
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": error.message,
        "code": error.code,
        **told,
    }
    headers = dict(headers or {})
    if "retry_after" in error.details:
        headers["Retry-After"] = str(error.details["retry_after"])
    elif status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "1"
    return Response(msgspec.json.encode(body), status, headers, MEDIA)


_RESERVED = frozenset({"type", "title", "status", "detail", "code"})
