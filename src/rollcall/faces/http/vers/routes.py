"""The routes of the Vers dialect."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakValueDictionary

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from rollcall import Conflict, Denied, Entry, Invalid, Mode, NotFound, Registry, RollcallError, Unavailable
from rollcall.faces.http import access
from rollcall.faces.http.access import Access
from rollcall.faces.http.beats import beaten
from rollcall.faces.http.metrics import matched
from rollcall.faces.http.replies import Malformed, bearer_header, read_json, reply, segment
from rollcall.faces.http.settings import VersSettings
from rollcall.faces.http.vers import entries
from rollcall.faces.http.vers.entries import Refused, Staleness
from rollcall.sdk.clock import now_ms

PREFIX = "/registry"

TRIES = 32
"""How often a change is tried on top of a record that others change at the same time."""

_SILENT = ("suspect", "stuck", "lost")

log = structlog.get_logger(__name__)


class Guarded:
    """Nobody comes past without a token where one is needed; asked before routing, as the original does."""

    def __init__(self, app: ASGIApp, settings: VersSettings, face: Access) -> None:
        self._app = app
        self._token = settings.token
        self._face = face

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        refused = self._refused(Request(scope)) if scope["type"] == "http" else None
        await (refused or self._app)(scope, receive, send)

    def _refused(self, request: Request) -> Response | None:
        path = request.scope["path"]
        if path != PREFIX and not path.startswith(f"{PREFIX}/"):
            return None
        wanted = access.Scope.READ if request.method in ("GET", "HEAD") else access.Scope.WRITE
        if not self._token and not self._face.needs(wanted):
            return None
        header = bearer_header(request)
        if not header:
            return reply({"error": "Unauthorized — missing Authorization header"}, 401)
        if self._token and access.same(access.bearer(header), self._token):
            return None
        if self._face.granted(header) >= wanted:
            return None
        return reply({"error": "Unauthorized — invalid token"}, 401)


class Vers:
    """Answers in the Vers dialect."""

    def __init__(self, registry: Registry, settings: VersSettings, face: Access) -> None:
        self._registry = registry
        self._settings = settings
        self._reef = settings.reef
        self._staleness = Staleness(settings.grace)
        self._face = face
        self._changing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._started = time.monotonic()

    def app(self) -> ASGIApp:
        """The dialect on a listener of its own, or under ``/registry`` of another."""
        vm = "/registry/vms/{id}"
        routes = [
            _route("/registry/vms", self._register, "POST"),
            _route("/registry/vms", self._list),
            _route(vm, self._get),
            _route(vm, self._update, "PATCH"),
            _route(vm, self._delete, "DELETE"),
            _route(f"{vm}/heartbeat", self._heartbeat, "POST"),
            _route("/registry/discover/{role}", self._discover),
            _route("/health", self._health),
        ]
        if self._reef:
            routes += [
                _route(f"{vm}/children", self._children),
                _route(f"{vm}/ancestors", self._ancestors),
                _route(f"{vm}/subtree", self._subtree),
                _route(f"{vm}/diff/{{other}}", self._diff),
            ]
        app = Starlette(routes=routes, exception_handlers={404: _no_such_route, 405: _no_such_route})
        app.router.redirect_slashes = False
        return Guarded(app, self._settings, self._face)

    async def _register(self, request: Request) -> Response:
        body = await read_json(request)
        if body is None:
            raise Malformed("null")
        role, id, fields = entries.registration(body, ttl=max(0.5, self._settings.stale), reef=self._reef)
        if self._reef:
            return await self._register_again(role, id, body, fields)
        entry = await self._registry.register(role, id, mode=Mode.CREATE, **fields)
        return self._one(entry, 201)

    async def _register_again(self, role: str, id: str, body: dict[str, Any], fields: dict[str, Any]) -> Response:
        for _ in range(TRIES):
            said = fields
            try:
                held = await self._registry.get(id)
            except NotFound:
                mode = Mode.CREATE
            else:
                mode = Mode.CLAIM
                said = entries.again(body, fields, held)
                if held.role != role:
                    await self._registry.deregister(held.role, id, reason="registered with another role")
                    mode = Mode.CREATE
            try:
                return self._one(await self._registry.register(role, id, mode=mode, **said), 201)
            except Conflict as error:
                if mode is Mode.CLAIM:
                    raise
                log.debug("registered by another at the same time", id=id, error=str(error))
        raise Unavailable(f"{id!r} is registered by many at once; try again")

    async def _list(self, request: Request) -> Response:
        role, status = request.query_params.get("role", ""), request.query_params.get("status", "")
        found = entries.in_list_order(await self._everybody(role), reef=self._reef)
        if status:
            found = [entry for entry in found if entries.shown_status(entry) == status]
        if status == "running":
            found = self._fresh(found)
        above = request.query_params.get("parentVmId", "") if self._reef else ""
        return self._many("vms", [entry for entry in found if not above or entries.parent(entry) == above])

    async def _get(self, request: Request) -> Response:
        return self._one(await self._known(request, "id"))

    async def _update(self, request: Request) -> Response:
        body = await read_json(request)
        # One after the other here; another face may still come between, and then it is tried again.
        async with self._changing.setdefault(request.path_params["id"], asyncio.Lock()):
            for attempt in range(TRIES):
                held = await self._known(request, "id")
                if body is None:
                    raise Malformed("null")
                patch = entries.update(body, held, reef=self._reef)
                try:
                    changed = await self._registry.update(held.role, held.id, patch, expected=held.revision, beat=True)
                except Conflict as error:
                    log.debug("changed by another at the same time", id=held.id, error=str(error))
                    await asyncio.sleep(random.uniform(0, 0.005 * attempt))
                    continue
                return self._one(changed)
        raise Unavailable("the entry is changed by many at once; try again")

    async def _delete(self, request: Request) -> Response:
        held = await self._known(request, "id")
        await self._registry.deregister(held.role, held.id, reason="deleted over HTTP")
        return reply({"deleted": True})

    async def _heartbeat(self, request: Request) -> Response:
        held = await self._known(request, "id")
        if self._reef and held.status != "running":
            held = await self._registry.update(held.role, held.id, {"status": "running"}, beat=True)
        else:
            held = await beaten(self._registry, held)
        return reply({"id": held.id, "lastSeen": entries.last_seen(held)})

    async def _discover(self, request: Request) -> Response:
        try:
            page = await self._registry.discover(
                segment(request, "role"), status=["running"], include=_SILENT, exact=True
            )
        except Invalid:
            # A text that can be no role is the role of nobody.
            return self._many("vms", [])
        found = [entry for entry in page if entries.shown_status(entry) == "running"]
        return self._many("vms", sorted(self._fresh(found), key=lambda entry: entry.registered_seq))

    async def _health(self, _: Request) -> Response:
        return reply({"status": "ok", "uptime": time.monotonic() - self._started})

    async def _children(self, request: Request) -> Response:
        above = await self._known(request, "id")
        return self._many("children", (await self._below()).get(above.id, []))

    async def _ancestors(self, request: Request) -> Response:
        entry: Entry | None = await self._known(request, "id")
        known = {one.id: one for one in await self._everybody()}
        chain: list[Entry] = []
        seen = set()
        while entry is not None and entry.id not in seen:
            seen.add(entry.id)
            entry = known.get(entries.parent(entry) or "")
            if entry is not None and entry.id not in seen:
                chain.append(entry)
        return self._many("ancestors", chain[::-1])

    async def _subtree(self, request: Request) -> Response:
        root = await self._known(request, "id")
        below = await self._below()
        found, seen = [root], {root.id}
        for entry in found:
            for child in below.get(entry.id, []):
                if child.id not in seen:
                    seen.add(child.id)
                    found.append(child)
        return self._many("subtree", found)

    async def _diff(self, request: Request) -> Response:
        one, other = await self._known(request, "id"), await self._known(request, "other")
        before, after = entries.config(one), entries.config(other)
        return reply({"added": _lacking(before, after), "removed": _lacking(after, before)})

    async def _below(self) -> dict[str, list[Entry]]:
        """The children of each entry, in the order of registration."""
        found: dict[str, list[Entry]] = {}
        for entry in sorted(await self._everybody(), key=lambda entry: entry.registered_seq):
            above = entries.parent(entry)
            if above is not None:
                found.setdefault(above, []).append(entry)
        return found

    async def _everybody(self, role: str = "") -> list[Entry]:
        if not role:
            return list(await self._registry.list(exact=True))
        try:
            return list(await self._registry.discover(role, status=["all"], include=["all"], exact=True))
        except Invalid:
            return []

    async def _known(self, request: Request, name: str) -> Entry:
        try:
            return await self._registry.get(segment(request, name))
        except Invalid as error:
            raise NotFound(error.message) from error

    def _fresh(self, found: list[Entry]) -> list[Entry]:
        now = now_ms()
        return [entry for entry in found if not self._staleness.stale(entry, now)]

    def _one(self, entry: Entry, status: int = 200) -> Response:
        return reply(entries.shown(entry, reef=self._reef), status)

    def _many(self, name: str, found: list[Entry]) -> Response:
        return reply({name: [entries.shown(entry, reef=self._reef) for entry in found], "count": len(found)})


def _lacking(before: dict[str, list[Any]], after: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {name: [one for one in after[name] if one not in before[name]] for name in after}


def _route(path: str, handler: Callable[[Request], Awaitable[Response]], method: str = "GET") -> Route:
    async def answered(request: Request) -> Response:
        matched(request, path)
        try:
            return await handler(request)
        except Malformed:
            return reply({"error": "Invalid JSON"}, 400)
        except Refused as error:
            return reply({"error": error.args[0]}, 400)
        except RollcallError as error:
            return refusal(error)

    return Route(path, answered, methods=[method])


def refusal(error: RollcallError) -> Response:
    """What went wrong, in this dialect's form."""
    match error:
        case NotFound():
            return reply({"error": "VM not found"}, 404)
        case Conflict():
            log.info("already registered", why=error.message, holder=error.details.get("holder"))
            return reply({"error": "VM already registered"}, 409)
        case Denied() if "owner" in error.details:
            return reply({"error": "VM already registered"}, 409)
        case Unavailable():
            return reply({"error": "Registry unavailable"}, 503)
    headers = {"Retry-After": str(error.details["retry_after"])} if "retry_after" in error.details else None
    return reply({"error": error.message}, error.status, headers=headers)


async def _no_such_route(_: Request, __: Exception) -> Response:
    return PlainTextResponse("404 Not Found", 404, headers={"content-type": "text/plain; charset=UTF-8"})
