"""Answers and bodies as JSON."""

import json
from typing import Any
from urllib.parse import unquote

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from rollcall import Invalid

_encoder = msgspec.json.Encoder()


class Malformed(Exception):
    """The body is no JSON."""


def reply(
    value: Any, status: int = 200, *, media_type: str = "application/json", headers: dict[str, str] | None = None
) -> Response:
    """A JSON answer, its members in the order of `value`."""
    return Response(_encoder.encode(value), status, headers, media_type)


async def read_json(request: Request, *, unique: bool = False) -> Any:  # Any: whatever JSON can hold
    """The body as JSON; of a member that is there twice the last one counts, unless members must be `unique`.

    Raises:
        Malformed: it is none, nests deeper than anybody needs, or has a member twice.
    """
    body = await request.body()
    try:
        if unique:
            json.loads(body, object_pairs_hook=_unique)
        return msgspec.json.decode(body)
    except (ValueError, RecursionError) as error:
        raise Malformed(str(error)) from error


def _unique(pairs: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"member {twice!r} is there twice")


def segment(request: Request, name: str) -> str:
    """A part of the path, as the client meant it: an encoded slash belongs to it.

    Raises:
        Invalid: it is no UTF-8.
    """
    try:
        return unquote(request.path_params[name], errors="strict")
    except UnicodeDecodeError as error:
        raise Invalid(f"{name} is no UTF-8; encode it as such") from error


def bearer_header(request: Request) -> str:
    """The ``Authorization`` header, empty when there is none."""
    return request.headers.get("authorization", "")
