"""The native API under ``/v1``: what the SDK can, over HTTP."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial, wraps
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import msgspec
from fastapi import FastAPI
from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rollcall import Conflict, Denied, Entry, Health, Invalid, Position, Registry, RollcallError, Unauthorized
from rollcall.core import codec, limits
from rollcall.core.names import checked_name
from rollcall.core.records import Profile
from rollcall.faces.http.access import Access, Scope
from rollcall.faces.http.beats import beaten
from rollcall.faces.http.document import described, documented
from rollcall.faces.http.events import EventStream, Hub, position, shown
from rollcall.faces.http.metrics import Metrics, matched
from rollcall.faces.http.parameters import (
    Discovering,
    Listing,
    Newest,
    Reason,
    Registering,
    SinceParameters,
    Watching,
    parameters,
)
from rollcall.faces.http.problems import Failed, problem
from rollcall.faces.http.replies import Malformed, bearer_header, read_json, reply, segment

_JSON_TYPES = ("", "application/json", "application/merge-patch+json")

Handler = Callable[..., Awaitable[Any]]


class PreconditionFailed(RollcallError):
    """The record is at another revision than ``If-Match`` named."""

    code = "precondition_failed"
    status = 412


class _Envelope(Struct, frozen=True):
    epoch: str = ""
    revision: int = 0
    not_modified: bool = False


_envelope = msgspec.json.Decoder(_Envelope)


class _Page:
    """An answer of a worker, as it came."""

    def __init__(self, data: bytes) -> None:
        told = _envelope.decode(data)
        self.data = data
        self.etag = f'"{told.epoch}:{told.revision}"'
        self.not_modified = told.not_modified


class Native:
    """Answers under ``/v1``, and tells what there is at ``/openapi.json`` and ``/docs``."""

    def __init__(self, registry: Registry, hub: Hub, access: Access, metrics: Metrics) -> None:
        self._registry = registry
        self._hub = hub
        self._access = access
        self._metrics = metrics
        self._asking: dict[tuple[str, Position, str], asyncio.Future[_Page]] = {}

    def app(self) -> FastAPI:
        """The routes and their document."""
        app = FastAPI(title="rollcall", redirect_slashes=False, redoc_url=None, separate_input_output_schemas=False)
        app.exception_handlers[HTTPException] = _on_http_error
        for method, path, handler, scope in (
            ("POST", "/v1/agents", self._register, Scope.WRITE),
            ("GET", "/v1/agents", self._list, Scope.READ),
            ("GET", "/v1/agents/{id}", self._get, Scope.READ),
            ("PATCH", "/v1/agents/{id}", self._update, Scope.WRITE),
            ("DELETE", "/v1/agents/{id}", self._deregister, Scope.WRITE),
            ("POST", "/v1/agents/{id}/heartbeat", self._heartbeat, Scope.WRITE),
            ("GET", "/v1/agents/{id}/history", self._history, Scope.READ),
            ("GET", "/v1/discover/{role}", self._discover, Scope.READ),
            ("GET", "/v1/since", self._since, Scope.READ),
            ("GET", "/v1/watch", self._watch, Scope.READ),
            ("GET", "/v1/info", self._info, Scope.READ),
            ("GET", "/v1/guard", self._guard, Scope.READ),
            ("POST", "/v1/guard/release", self._release_guard, Scope.ADMIN),
            ("POST", "/v1/rollcall", self._call_roll, Scope.ADMIN),
            ("GET", "/v1/pending", self._pending, Scope.READ),
            ("POST", "/v1/pending/{id}/approve", self._approve, Scope.ADMIN),
            ("POST", "/v1/pending/{id}/deny", self._deny, Scope.ADMIN),
            ("GET", "/metrics", self._measured, Scope.READ),
        ):
            answered = self._answered(path, handler, scope)
            app.add_api_route(path, answered, methods=[method], **documented(handler.__name__[1:], scope))
            if method == "GET" and handler != self._watch:
                app.add_api_route(path, answered, methods=["HEAD"], include_in_schema=False)
        described(app)
        return app

    async def _register(self, request: Request) -> Response:
        """Register an agent. Without an id it gets one."""
        mode = parameters(request, Registering).mode
        said = await _object(request)
        _check_fields(said)
        role, id = said.pop("role", ""), said.pop("id", None)
        id = uuid4().hex if id in (None, "") else id
        if not isinstance(role, str) or not isinstance(id, str):
            raise Invalid("role and id are texts")
        entry = await self._registry.register(checked_name("role", role), id, mode=mode, **said)
        return _entry(entry, 201, {"Location": f"/v1/agents/{quote(entry.id, safe='')}"})

    async def _list(self, request: Request) -> Response:
        """List agents of all roles, a page at a time; whatever their status and liveness unless asked otherwise."""
        asked = parameters(request, Listing).asked()
        page = await self._registry.list(**{"status": ["all"], "include": ["all"], **asked})
        return reply({name: getattr(page, name) for name in ("agents", "count", "next", "epoch", "revision")})

    async def _get(self, request: Request) -> Response:
        """Get one agent, to the moment."""
        entry = await self._known(request)
        if {etag(entry.revision), "*"} & set(_tags(request, "if-none-match")):
            return Response(status_code=304, headers={"ETag": etag(entry.revision)})
        return _entry(entry)

    async def _update(self, request: Request) -> Response:
        """Change fields of a record by a merge patch (RFC 7396); with If-Match only at that revision."""
        patch = await _object(request)
        held = await self._known(request)
        wanted = _matching(request, held)
        expected = held.revision if wanted and "*" not in wanted else None
        try:
            return _entry(await self._registry.update(held.role, held.id, patch, expected=expected))
        except Conflict as error:
            if expected is None:
                raise
            raise PreconditionFailed(error.message, **error.details) from error

    async def _deregister(self, request: Request) -> Response:
        """Take an agent off the roll; its last entry is the answer."""
        reason = parameters(request, Reason).reason
        held = await self._known(request)
        _matching(request, held)
        return _entry(await self._registry.deregister(held.role, held.id, reason=reason))

    async def _heartbeat(self, request: Request) -> Response:
        """Send a sign of life, with health if there is any to tell."""
        held = await self._known(request)
        health = codec.decode(codec.encode(await _object(request, optional=True)), Health)
        codec.check_depth(health.metrics)
        size = len(codec.encode(health))
        if size > limits.HEALTH_BYTES:
            raise Invalid(f"the health has {size} bytes; at most {limits.HEALTH_BYTES} are allowed")
        return _entry(await beaten(self._registry, held, health))

    async def _history(self, request: Request) -> Response:
        """The newest changes of one agent, oldest first, also of one that is gone; and commands that were refused."""
        told = await self._registry.story(segment(request, "id"), limit=parameters(request, Newest).limit)
        return reply({"changes": [shown(change) for change in told.changes], "refusals": told.refusals})

    async def _discover(self, request: Request) -> Response:
        """Discover the agents of a role that fit; without status and include those that run and are live."""
        asked = parameters(request, Discovering).asked() | _if_changed(request)
        page = await self._page(segment(request, "role"), asked)
        headers = {"ETag": page.etag}
        if page.not_modified:
            return Response(status_code=304, headers=headers)
        return Response(page.data, headers=headers, media_type="application/json")

    async def _page(self, role: str, asked: dict[str, Any]) -> "_Page":
        """An answer of the registry; those who ask the same while it is on its way share it."""
        if asked.get("exact") or "pick" in asked:
            return await self._asked(role, asked)
        question = (role, self._registry.seen, repr(asked))
        asking = self._asking.get(question)
        if asking is None:
            asking = self._asking[question] = asyncio.ensure_future(self._asked(role, asked))
            asking.add_done_callback(partial(self._answered_all, question))
        # Shielded: one client that goes away takes the answer from nobody else.
        return await asyncio.shield(asking)

    def _answered_all(self, question: tuple[str, Position, str], asking: "asyncio.Future[_Page]") -> None:
        del self._asking[question]
        # Looked at here, where perhaps nobody is left who asked.
        if not asking.cancelled():
            asking.exception()

    async def _asked(self, role: str, asked: dict[str, Any]) -> "_Page":
        return _Page(await self._registry.discover_bytes(role, **asked))

    async def _since(self, request: Request) -> Response:
        """What changed after a position; when that is too old to say, the agents as they are."""
        asked = parameters(request, SinceParameters)
        if asked.role:
            checked_name("role", asked.role)
        position_ = Position(asked.epoch, asked.revision)
        told = await self._registry.since(position_, role=asked.role, limit=asked.limit, cursor=asked.cursor)
        names = ("agents", "next", "too_old", "upto", "more", "epoch", "revision")
        return reply({"changes": [shown(one) for one in told.changes], **{name: getattr(told, name) for name in names}})

    async def _watch(self, request: Request) -> Any:
        """Changes as server-sent events, from the Last-Event-ID or `since` on, else from now on."""
        asked = parameters(request, Watching)
        if asked.role:
            checked_name("role", asked.role)
        start = position(request.headers.get("last-event-id", "") or asked.since)
        await self._hub.heard()
        return EventStream(self._hub, asked.role, start)

    async def _info(self, request: Request) -> Response:
        """The state of the registry, as one worker sees it."""
        return reply(await self._registry.info())

    async def _guard(self, request: Request) -> Response:
        """What the guard says: null while it rests."""
        return reply({"guard": (await self._registry.info())["guard"]})

    async def _release_guard(self, request: Request) -> Response:
        """End the guard: whom it holds is lost, unless it beats."""
        return reply(await self._registry.release_guard())

    async def _call_roll(self, request: Request) -> Response:
        """Ask every agent to announce itself again."""
        return reply(await self._registry.call_roll())

    async def _pending(self, request: Request) -> Response:
        """Commands that wait for a decision."""
        return reply({"pending": await self._registry.pending()})

    async def _approve(self, request: Request) -> Response:
        """Let the command happen that waits longest for this agent."""
        return reply(await self._registry.approve(segment(request, "id")))

    async def _deny(self, request: Request) -> Response:
        """Refuse the command that waits longest for this agent."""
        reason = parameters(request, Reason).reason
        return reply(await self._registry.deny(segment(request, "id"), reason=reason))

    async def _measured(self, request: Request) -> Response:
        """Metrics for Prometheus."""
        return await self._metrics.page()

    async def _known(self, request: Request) -> Entry:
        return await self._registry.get(segment(request, "id"))

    def _answered(self, path: str, handler: Handler, scope: Scope) -> Handler:
        """The handler behind the check of tokens, with errors told as problems."""

        @wraps(handler)
        async def answered(request: Request) -> Any:
            matched(request, path)
            try:
                self._check(request, scope)
                return await handler(request)
            except Malformed as error:
                return problem(Invalid(f"the body is no JSON: {error}"))
            except Unauthorized as error:
                return problem(error, headers={"WWW-Authenticate": "Bearer"})
            except RollcallError as error:
                return problem(error)

        return answered

    def _check(self, request: Request, scope: Scope) -> None:
        header = bearer_header(request)
        if self._access.allows(header, scope):
            return
        if self._access.granted(header):
            raise Denied(f"this token does not allow to {scope.name.lower()}; use one that does")
        raise Unauthorized("send 'Authorization: Bearer TOKEN' with a token of this server")


def etag(revision: int) -> str:
    """The entity tag of a record at a revision."""
    return f'"{revision}"'


def _entry(entry: Entry, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return reply(entry, status, headers={"ETag": etag(entry.revision), **(headers or {})})


def _tags(request: Request, header: str) -> list[str]:
    return [tag.strip().removeprefix("W/") for tag in request.headers.get(header, "").split(",") if tag.strip()]


def _if_changed(request: Request) -> dict[str, Any]:
    """A question that is answered only if the role changed since the entity tag that the client has."""
    known = []
    for tag in _tags(request, "if-none-match"):
        epoch, colon, revision = tag.strip('"').rpartition(":")
        if colon and epoch[:1].isdigit() and revision.isascii() and revision.isdigit() and len(revision) < 19:
            known.append((epoch, int(revision)))
    # Epochs are greater the later they began.
    return {"epoch": max(known)[0], "if_revision": max(known)[1]} if known else {}


def _check_fields(said: dict[str, Any]) -> None:
    unknown = said.keys() - set(Profile.__struct_fields__)
    if unknown:
        raise Invalid(f"{', '.join(sorted(unknown))}: no such field of an agent; /docs shows which there are")


def _matching(request: Request, held: Entry) -> list[str]:
    """The entity tags that the record must have one of; none when it may be at any revision."""
    wanted = _tags(request, "if-match")
    if wanted and etag(held.revision) not in wanted and "*" not in wanted:
        raise PreconditionFailed(f"{held.id!r} is at revision {held.revision}; read it and try again")
    return wanted


async def _object(request: Request, *, optional: bool = False) -> dict[str, Any]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _JSON_TYPES:
        raise Failed(415, f"the body is {kind}; send application/json")
    if optional and not await request.body():
        return {}
    value = await read_json(request, unique=True)
    if not isinstance(value, dict):
        raise Invalid("the body is not a JSON object; send {...}")
    return value


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    match error.status_code:
        case 404:
            message = f"there is nothing at {path}; /docs shows what there is"
        case 405:
            message = f"{request.method} is not possible at {path}; /docs shows what is"
        case _:
            message = str(error.detail)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        # Each method is a route of its own, and the one that was tried names only itself.
        fitting = [route for route in request.app.routes if isinstance(route, Route) and route.path_regex.match(path)]
        headers["Allow"] = ", ".join(sorted(method for route in fitting for method in route.methods or ()))
    return problem(Failed(error.status_code, message), headers=headers)
