"""The OpenAPI document of the native API: its schemas are those of the bus, made from the same Structs."""

from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from rollcall.bus.schemas import payloads
from rollcall.core.commands import Mode
from rollcall.core.query import By
from rollcall.core.records import Profile
from rollcall.faces.http.access import Scope
from rollcall.faces.http.parameters import described as described_parameters

# Any: JSON Schema is free-form JSON.
Json = dict[str, Any]

_DESCRIPTION = """\
Agents register, beat and leave; anyone discovers them by role; every change is told.

Errors are problem details (RFC 9457) with a `code`. A record's `ETag` is its revision.
"""

_PROBLEM: Json = {
    "description": "What happened, to whom, and the next step: RFC 9457.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
    },
}
_OBJECT: Json = {"type": "object"}
_CHANGE: Json = {
    "type": "object",
    "required": ["kind", "role", "id", "revision", "epoch", "at", "reason", "record"],
    "properties": {
        "kind": {"$ref": "#/components/schemas/ChangeKind"},
        "role": {"type": "string"},
        "id": {"type": "string"},
        "revision": {"type": "integer"},
        "epoch": {"type": "string"},
        "at": {"type": "string", "format": "date-time"},
        "reason": {"type": "string"},
        "record": {"$ref": "#/components/schemas/Record"},
    },
}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def _members(required: str, **members: Json) -> Json:
    return {"type": "object", "required": required.split(), "properties": members}


_TEXT: Json = {"type": "string"}
_WHOLE: Json = {"type": "integer"}
_FLAG: Json = {"type": "boolean"}
_CURSOR: Json = {"anyOf": [_TEXT, {"type": "null"}]}

_ANSWERS: dict[str, Json] = {
    "register": _ref("Entry"),
    "list": _members(
        "agents count next epoch revision",
        agents=_list(_ref("Entry")),
        count=_WHOLE,
        next=_CURSOR,
        epoch=_TEXT,
        revision=_WHOLE,
    ),
    "get": _ref("Entry"),
    "update": _ref("Entry"),
    "deregister": _ref("Entry"),
    "heartbeat": _ref("Entry"),
    "history": _members("changes refusals", changes=_list(_CHANGE), refusals=_list(_OBJECT)),
    "discover": _members(
        "agents count epoch revision worker guard",
        agents=_list(_ref("Entry")),
        count=_WHOLE,
        next=_CURSOR,
        epoch=_TEXT,
        revision=_WHOLE,
        worker=_TEXT,
        guard={},
        explained=_list(_OBJECT),
    ),
    "since": _members(
        "changes agents next too_old upto more epoch revision",
        changes=_list(_CHANGE),
        agents=_list(_ref("Entry")),
        next=_CURSOR,
        too_old=_FLAG,
        upto=_WHOLE,
        more=_FLAG,
        epoch=_TEXT,
        revision=_WHOLE,
    ),
    "info": _OBJECT,
    "guard": _members("guard", guard={}),
    "release_guard": _members("released guard", released=_FLAG, guard={}),
    "call_roll": _members("agents window", agents=_WHOLE, window={"type": "number"}),
    "pending": _members("pending", pending=_list(_OBJECT)),
    "approve": _OBJECT,
    "deny": _OBJECT,
}
_BODIES: dict[str, tuple[Json, bool]] = {
    "register": (_ref("Registration"), True),
    "update": (_OBJECT, True),
    "heartbeat": (_ref("Health"), False),
}
_MAY_BE_UNCHANGED = ("get", "discover")
_ABOUT_A_RECORD = ("update", "deregister")


def documented(name: str, scope: Scope) -> Json:
    """What FastAPI is told about the route of that name."""
    extra: Json = {"security": [{"bearer": []}, {}]}
    body = _BODIES.get(name)
    if body is not None:
        extra["requestBody"] = {"required": body[1], "content": {"application/json": {"schema": body[0]}}}
    extra["parameters"] = _parameters(name)
    status = 201 if name == "register" else 200
    return {
        "name": name,
        "operation_id": name,
        "status_code": status,
        "response_model": None,
        "responses": _responses(name, status),
        "openapi_extra": extra,
        "tags": ["operators" if scope is Scope.ADMIN else "agents"],
    }


def _parameters(name: str) -> list[Json]:
    """What is read beside the parameters that the handler names."""
    found = [
        {"name": part, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for part in _PATH_PARTS.get(name, ())
    ]
    found += described_parameters(name)
    headers = [*(["If-None-Match"] if name in _MAY_BE_UNCHANGED else [])]
    headers += ["If-Match"] if name in _ABOUT_A_RECORD else []
    headers += ["Last-Event-ID"] if name == "watch" else []
    return found + [{"name": header, "in": "header", "schema": _TEXT} for header in headers]


_PATH_PARTS = {
    **dict.fromkeys(("get", "update", "deregister", "heartbeat", "history", "approve", "deny"), ("id",)),
    "discover": ("role",),
}


def _responses(name: str, status: int) -> dict[int | str, Json]:
    if name == "watch":
        told: Json = {"description": "events", "content": {"text/event-stream": {"schema": _TEXT}}}
    elif name == "measured":
        told = {"description": "metrics", "content": {"text/plain": {"schema": _TEXT}}}
    else:
        told = {"description": "done", "content": {"application/json": {"schema": _ANSWERS[name]}}}
    found: dict[int | str, Json] = {status: told}
    if name in _MAY_BE_UNCHANGED:
        found[304] = {"description": "unchanged"}
    content = {"application/problem+json": {"schema": _ref("Problem")}}
    return found | {code: {"description": why, "content": content} for code, why in _PROBLEMS.items()}


_PROBLEMS = {
    202: "it waits for an approval",
    400: "the request is wrong",
    401: "a token is needed",
    403: "not allowed, or a policy refused it",
    404: "no such agent",
    409: "another holds the place",
    412: "another revision stands there",
    413: "too large",
    415: "not JSON",
    429: "too many",
    503: "nobody could be asked",
}


def described(app: FastAPI) -> None:
    """Makes the document complete: schemas, how to sign in."""

    def openapi() -> Json:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version="1", description=_DESCRIPTION, routes=app.routes)
            components = document.setdefault("components", {})
            components["schemas"] = {**_schemas(), "Problem": _PROBLEM}
            components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _schemas() -> Json:
    found = payloads()
    known: Json = {name: found[name] for name in found}
    known["Registration"] = {
        "allOf": [_ref(Profile.__name__)],
        "required": ["role", "name"],
        "description": "What is said of an agent.",
    }
    _, words = msgspec.json.schema_components([By, Mode], ref_template="#/components/schemas/{name}")
    return known | words
