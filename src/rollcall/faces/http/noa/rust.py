"""The small Rust variant of the NOA registry, which needs a listener of its own."""

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from msgspec import Struct
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from rollcall import Entry, Invalid, Mode, Registry, RollcallError, Status
from rollcall.faces.http.access import Access, Scope
from rollcall.faces.http.metrics import matched
from rollcall.faces.http.noa.agents import NO_TYPE, Agent, refused
from rollcall.faces.http.replies import bearer_header, reply, segment
from rollcall.faces.http.settings import NoaSettings
from rollcall.policy.court import Court
from rollcall.sdk.clock import now_ms

_STATUS = {Status.RUNNING: "Active", Status.DRAINING: "Maintenance", Status.PAUSED: "Maintenance"}
"""Everything else is inactive; who is overdue is in error."""


class Registering(Struct, frozen=True):
    """The body of a registration; only metadata may be left out."""

    name: str
    agent_type: str
    capabilities: list[str]
    endpoint: str
    metadata: dict[str, str] | None = None


class NoUuid(Exception):
    """Ids of this variant are UUIDs."""


class Rust:
    """Answers in the Rust variant."""

    def __init__(self, registry: Registry, settings: NoaSettings, face: Access) -> None:
        self._registry = registry
        self._settings = settings
        self._face = face
        self._court = Court(settings.rust_court, timeout=settings.court_timeout, fail_closed=True)

    def app(self) -> ASGIApp:
        """The variant on a listener of its own."""
        app = Starlette(
            routes=[
                self._route("/health", self._health, "GET"),
                self._route("/agents/register", self._register, "POST"),
                self._route("/agents", self._list, "GET"),
                self._route("/agents/{id}", self._get, "GET"),
                self._route("/agents/{id}/heartbeat", self._heartbeat, "POST"),
            ],
            exception_handlers={404: _no_such_route, 405: _no_such_route},
        )
        app.router.redirect_slashes = False
        return app

    async def close(self) -> None:
        """Ends what it holds open."""
        await self._court.close()

    async def _health(self, _: Request) -> Response:
        return reply({"status": "healthy", "service": "agent-registry"})

    async def _register(self, request: Request) -> Response:
        try:
            body = msgspec.json.decode(await request.body(), type=Registering)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Invalid(f"Invalid request format: {error}") from error
        await self._court.judge(
            "register_agent",
            {"agent_name": body.name, "agent_type": body.agent_type, "capabilities": body.capabilities},
        )
        id = str(uuid.uuid4())
        entry = await self._registry.register(
            body.agent_type or NO_TYPE,
            id,
            mode=Mode.CREATE,
            name=body.name or id,
            capabilities=body.capabilities,
            address=body.endpoint,
            endpoints={"endpoint": body.endpoint} if body.endpoint else {},
            metadata=body.metadata or {},
            ttl=None,
            origin="noa",
            keep=True,
        )
        return reply(self._shown(entry))

    async def _list(self, _: Request) -> Response:
        page = await self._registry.list(exact=True)
        return reply([self._shown(entry) for entry in sorted(page, key=lambda entry: entry.registered_seq)])

    async def _get(self, request: Request) -> Response:
        return reply(self._shown(await self._known(request)))

    async def _heartbeat(self, request: Request) -> Response:
        entry = await self._known(request)
        if entry.status is Status.RUNNING:
            await self._registry.heartbeat(entry.role, entry.id)
        else:
            await self._registry.update(entry.role, entry.id, {"status": "running"}, beat=True)
        return reply({"status": "heartbeat_received"})

    async def _known(self, request: Request) -> Entry:
        try:
            id = str(uuid.UUID(segment(request, "id")))
        except ValueError as error:
            raise NoUuid from error
        return await self._registry.get(id)

    def _shown(self, entry: Entry) -> dict[str, Any]:
        overdue = Agent(entry, now_ms(), self._settings).status == "unhealthy"
        return {
            "id": entry.id,
            "name": entry.name,
            "agent_type": entry.role,
            "capabilities": entry.capabilities,
            "status": "Error" if overdue else _STATUS.get(entry.status, "Inactive"),
            "endpoint": entry.address,
            "metadata": {name: value for name, value in entry.metadata.items() if isinstance(value, str)},
            "registered_at": entry.registered_at,
            "last_heartbeat": entry.last_seen or entry.registered_at,
        }

    def _route(self, path: str, handler: Callable[[Request], Awaitable[Response]], method: str) -> Route:
        async def answered(request: Request) -> Response:
            matched(request, path)
            wanted = Scope.READ if method == "GET" else Scope.WRITE
            if not self._face.allows(bearer_header(request), wanted):
                return reply({"error": "Unauthorized"}, 401)
            try:
                return await handler(request)
            except NoUuid:
                return reply({"error": "Invalid agent ID"}, 400)
            except RollcallError as error:
                return _refusal(error)

        return Route(path, answered, methods=[method])


def _refusal(error: RollcallError) -> Response:
    return reply(refused(error) or {"error": error.message}, error.status)


async def _no_such_route(_: Request, __: Exception) -> Response:
    return Response(status_code=404)
