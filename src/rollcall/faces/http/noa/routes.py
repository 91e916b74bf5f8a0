"""The routes of the NOA dialect."""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from rollcall import Conflict, Denied, Entry, Invalid, Mode, NotFound, Registry, RollcallError, TooLarge, Unavailable
from rollcall.core import codec, limits
from rollcall.core.instants import Seconds, timestamp
from rollcall.faces.http.access import Access, Scope
from rollcall.faces.http.beats import beaten
from rollcall.faces.http.metrics import Metrics, matched
from rollcall.faces.http.noa import agents
from rollcall.faces.http.noa.agents import Agent
from rollcall.faces.http.replies import bearer_header, reply, segment
from rollcall.faces.http.settings import NoaSettings
from rollcall.policy.court import Court
from rollcall.sdk.clock import now_ms

MEDIA = "application/json; charset=utf-8"
MESSAGES = 100
TIMEOUT: Seconds = 5.0
HEALTH_WITHIN: Seconds = 1.0
SERVICE_VERSION = "1.0.0"
READS = ("/agents/discover",)
"""What changes nothing though it is a POST."""

log = structlog.get_logger(__name__)

Handler = Callable[[Request], Awaitable[Response]]


class BadBody(Exception):
    """The body is not what the route takes; `args[0]` is the answer's text."""


class Noa:
    """Answers in the NOA dialect."""

    def __init__(
        self, registry: Registry, settings: NoaSettings, face: Access, metrics: Metrics, *, uptime: bool = False
    ) -> None:
        self._registry = registry
        self._settings = settings
        self._go = settings.go
        self._face = face
        self._metrics = metrics
        self._court = Court(settings.court, timeout=settings.court_timeout, fail_closed=settings.fail_closed)
        self._uptime = uptime
        self._started = time.monotonic()

    def app(self) -> ASGIApp:
        """The dialect on a listener of its own, or under its prefixes of another."""
        agent = "/agents/{id}"
        routes = [
            self._route("/health", self.health, "GET"),
            self._route("/metrics", self._measured, "GET"),
            self._route("/agents/register", self._register, "POST"),
            self._route("/agents", self._list, "GET"),
            self._route("/agents/discover", self._discover, "POST"),
            self._route(agent, self._get, "GET"),
            self._route(f"{agent}/health", self._agent_health, "GET"),
            self._route(f"{agent}/heartbeat", self._heartbeat, "POST"),
            self._route(f"{agent}/status", self._status, *(("PUT",) if self._go else ("PUT", "POST"))),
            self._route(f"{agent}/deregister", self._deregister, "DELETE"),
            self._route(f"{agent}/message", self._send, "POST"),
            self._route(f"{agent}/messages", self._messages, "GET"),
            self._route("/analytics/overview", self._overview, "GET"),
            self._route("/analytics/health", self._health_overview, "GET"),
        ]
        if not self._go:
            routes.append(self._route(agent, self._deregister, "DELETE"))
        app = Starlette(routes=routes, exception_handlers={404: no_such_route, 405: no_such_route})
        app.router.redirect_slashes = False
        return app

    async def close(self) -> None:
        """Ends what it holds open."""
        await self._court.close()

    async def health(self, _: Request) -> Response:
        """The health of the registry and of what it stands on."""
        bus = self._registry.connected
        # Whoever checks health does not wait long.
        everybody, store = (
            await asyncio.gather(self._everybody_or_none(), self._store_is_well()) if bus else ([], False)
        )
        told: dict[str, Any] = {
            "status": "healthy" if bus and store else "degraded",
            "service": "agent-registry",
            "timestamp": timestamp(now_ms()),
            "version": SERVICE_VERSION,
            "agents": {
                "total": len(everybody),
                "active": sum(one.status == agents.ACTIVE for one in everybody),
                "healthy": sum(one.healthy for one in everybody),
            },
            "dependencies": {
                "redis": _well(bus),
                "database": _well(store),
                "trifecta_court": self._court.state,
            },
        }
        if self._uptime:
            told["uptime"] = time.monotonic() - self._started
        return _reply(told)

    async def _register(self, request: Request) -> Response:
        body = await _body(request, agents.Registering, "Invalid request format")
        context = {"name": body.name or "", "type": body.type or "", "category": body.category or ""}
        await self._court.judge("register_agent", {**context, "capabilities": body.capabilities})
        entry = await self._registered(body)
        log.info(
            "Agent registered successfully", agent_id=entry.id, agent_name=body.name or "", agent_type=body.type or ""
        )
        return _reply(agents.registered(self._agent(entry), body))

    async def _registered(self, body: agents.Registering) -> Entry:
        while True:
            named = f"{body.name or ''}{body.type or ''}{time.time_ns()}"
            id = hashlib.sha256(named.encode(errors="replace")).hexdigest()[:16]
            role, fields = agents.registration(body, id, self._settings)
            try:
                return await self._registry.register(role, id, mode=Mode.CREATE, **fields)
            except Conflict as error:
                log.debug("the id is taken; takes another", id=id, error=str(error))

    async def _list(self, request: Request) -> Response:
        found = await self._everybody()
        if not self._go:
            wanted = agents.Discovering(
                type=request.query_params.get("type", ""), status=request.query_params.get("status", "")
            )
            found = [one for one in found if one.fits(wanted)]
        return _reply({"agents": [one.shown() for one in found], "total": len(found)})

    async def _discover(self, request: Request) -> Response:
        wanted = await _body(request, agents.Discovering, "Invalid request format")
        found = [one.shown() for one in await self._everybody() if one.fits(wanted)]
        return _reply({"agents": self._maybe_null(found), "query": wanted.given, "total": len(found)})

    async def _get(self, request: Request) -> Response:
        return _reply((await self._known(request)).shown())

    async def _agent_health(self, request: Request) -> Response:
        agent = await self._known(request)
        return _reply(
            {
                "agent_id": agent.entry.id,
                "health": agent.health,
                "last_seen": agent.last_seen,
                "status": agent.status,
            }
        )

    async def _heartbeat(self, request: Request) -> Response:
        agent = await self._known(request)
        body = await _body(request, agents.Heartbeat, "Invalid heartbeat data")
        entry = agent.entry
        health = None
        if body.health is not None:
            health = agents.felt(body.health, entry.health, go=self._go)
            said = codec.encode(health)
            if len(said) > limits.HEALTH_BYTES:
                raise BadBody("Invalid heartbeat data")
            codec.decode(said, type(health))
        told = self._agent(await beaten(self._registry, entry, health))
        at = told.entry.last_seen or told.entry.registered_at
        return _reply(
            {
                "success": True,
                "timestamp": at,
                "message": "Heartbeat recorded",
                "id": entry.id,
                "last_beat": at,
                "status": told.status,
            }
        )

    async def _status(self, request: Request) -> Response:
        agent = await self._known(request)
        body = await _body(request, agents.StatusChange, "Invalid request format")
        word = body.status or ""
        entry = await self._registry.update(agent.entry.role, agent.entry.id, agents.status_change(word))
        return _reply(self._agent(entry).shown(word))

    async def _deregister(self, request: Request) -> Response:
        agent = await self._known(request)
        await self._registry.deregister(agent.entry.role, agent.entry.id, reason="deregistered over HTTP")
        return _reply(
            {
                "success": True,
                "message": "Agent deregistered successfully",
                "id": agent.entry.id,
                "status": "deregistered",
            }
        )

    async def _send(self, request: Request) -> Response:
        body = await _body(request, agents.Message, "Invalid message format")
        sent = await self._registry.send_message(
            segment(request, "id"), type=body.type or "", content=body.content or "", data=body.data
        )
        return _reply({"success": True, "message_id": sent.id, "delivered": True})

    async def _messages(self, request: Request) -> Response:
        try:
            found = await self._registry.messages(segment(request, "id"), limit=MESSAGES)
        except Invalid:
            found = []
        return _reply({"messages": self._maybe_null([_shown_message(one) for one in found]), "total": len(found)})

    async def _overview(self, _: Request) -> Response:
        everybody = await self._everybody()
        return _reply(
            {
                "total_agents": len(everybody),
                "active_agents": sum(one.status == agents.ACTIVE for one in everybody),
                "healthy_agents": sum(one.healthy for one in everybody),
                "agent_types": agents.counted([one.type for one in everybody]),
                "categories": agents.counted([one.category for one in everybody]),
            }
        )

    async def _health_overview(self, _: Request) -> Response:
        started = [one for one in await self._everybody() if not one.defined]
        unhealthy = [one.entry.id for one in started if not one.well]
        return _reply(
            {
                "overall_health": sum(one.healthy for one in started) / len(started) if started else 1,
                "unhealthy_agents": self._maybe_null(unhealthy),
                "missed_heartbeats": {one.entry.id: one.missed_beats for one in started if one.missed_beats},
            }
        )

    async def _measured(self, _: Request) -> Response:
        return await self._metrics.page()

    async def _everybody(self, timeout: Seconds = TIMEOUT) -> list[Agent]:
        page = await self._registry.list(exact=True, timeout=timeout)
        return [self._agent(entry) for entry in sorted(page, key=lambda entry: entry.registered_seq)]

    async def _everybody_or_none(self) -> list[Agent]:
        try:
            return await self._everybody(timeout=HEALTH_WITHIN)
        except Unavailable as error:
            log.debug("nobody can be counted", error=str(error))
            return []

    async def _store_is_well(self) -> bool:
        try:
            info = await self._registry.info(timeout=HEALTH_WITHIN)
        except Unavailable:
            return False
        return info["trouble"] is None

    async def _known(self, request: Request) -> Agent:
        try:
            return self._agent(await self._registry.get(segment(request, "id")))
        except Invalid as error:
            raise NotFound(error.message) from error

    def _agent(self, entry: Entry) -> Agent:
        return Agent(entry, now_ms(), self._settings)

    def _maybe_null(self, found: list[Any]) -> list[Any] | None:
        """The Go code tells an empty list as null in some places."""
        return None if self._go and not found else found

    def _route(self, path: str, handler: Handler, *methods: str) -> Route:
        async def answered(request: Request) -> Response:
            matched(request, path)
            if request.method not in methods:
                return await no_such_route(request, None)
            reads = request.method == "GET" or path in READS
            if not self._face.allows(bearer_header(request), Scope.READ if reads else Scope.WRITE):
                return _reply({"error": "Unauthorized"}, 401)
            try:
                return await handler(request)
            except BadBody as error:
                return _reply({"error": error.args[0]}, 400)
            except RollcallError as error:
                return refusal(error)

        return Route(path, answered, methods=list(methods))


def refusal(error: RollcallError) -> Response:
    """What went wrong, in this dialect's form."""
    if isinstance(error, Denied) and "judged_by" not in error.details:
        return _reply({"error": error.message}, 403)
    words = agents.refused(error)
    if words is not None:
        return _reply(words, error.status)
    if isinstance(error, Invalid | TooLarge):
        return _reply({"error": "Invalid request format"}, 400)
    headers = {"Retry-After": str(error.details["retry_after"])} if "retry_after" in error.details else None
    return _reply({"error": error.message}, error.status, headers)


async def no_such_route(_: Request, __: Exception | None) -> Response:
    """An unknown path, or a known one with another method."""
    return PlainTextResponse("404 page not found", 404, headers={"content-type": "text/plain"})


async def _body(request: Request, kind: type[Any], wrong: str) -> Any:
    try:
        return agents.decoded(await request.body(), kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        log.debug("a body is wrong", error=str(error))
        raise BadBody(wrong) from error


def _shown_message(message: Any) -> dict[str, Any]:
    return {name: getattr(message, name) for name in ("to", "type", "content", "data", "timestamp", "id")}


def _reply(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return reply(value, status, media_type=MEDIA, headers=headers)


def _well(is_well: bool) -> str:
    return "healthy" if is_well else "unhealthy"
