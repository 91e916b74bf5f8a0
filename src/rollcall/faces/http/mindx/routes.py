"""mindX's routes about agents and their wallets, on a listener of their own."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from rollcall import Conflict, Denied, Entry, Invalid, Liveness, Mode, NotFound, Registry, RollcallError, Status
from rollcall.core.instants import instant
from rollcall.faces.files.mindx.identities import IdentityManager
from rollcall.faces.files.mindx.running import record_fields, role_of, running
from rollcall.faces.files.mindx.tool import WALLETS_FILE
from rollcall.faces.files.mindx.wallets import FileWallets
from rollcall.faces.http.access import Access, Scope
from rollcall.faces.http.metrics import matched
from rollcall.faces.http.replies import Malformed, bearer_header, read_json, reply, segment
from rollcall.faces.http.settings import is_loopback

Handler = Callable[[Request], Awaitable[Response]]


class Mindx:
    """Answers as mindX does. The wallets are those of the installation at `root`."""

    def __init__(self, registry: Registry, root: Path, face: Access) -> None:
        self._registry = registry
        self._manager = IdentityManager(FileWallets(root / WALLETS_FILE))
        self._face = face

    def app(self) -> ASGIApp:
        """The dialect on a listener of its own."""
        app = Starlette(
            routes=[
                self._route("/health", self._health, "GET", Scope.READ),
                self._route("/registry/agents", self._list, "GET", Scope.READ),
                self._route("/agents", self._list, "GET", Scope.READ),
                self._route("/agents", self._register, "POST", Scope.WRITE),
                self._route("/agents/{id}", self._get, "GET", Scope.READ),
                self._route("/agents/{id}", self._deregister, "DELETE", Scope.WRITE),
                # Whoever may ask for signatures is the agent.
                self._route("/agents/{id}/sign", self._sign, "POST", Scope.ADMIN),
                self._route("/identities", self._identities, "GET", Scope.READ),
            ],
            exception_handlers={404: _no_such_route, 405: _no_such_route},
        )
        app.router.redirect_slashes = False
        return app

    async def _health(self, _: Request) -> Response:
        info = await self._registry.info()
        return reply({"status": "healthy", "agents": info["agents"]})

    async def _list(self, request: Request) -> Response:
        page = await self._registry.list(exact=True)
        agents = {entry.id: shown(entry) for entry in sorted(page, key=lambda entry: entry.registered_seq)}
        match request.query_params.get("shape", ""):
            case "":
                return reply(agents)
            case "list":
                return reply({"agents": list(agents.values())})
            case "registry":
                active = sum(1 for agent in agents.values() if agent["status"] == "active")
                told = {"total_agents": len(agents), "active_agents": active, "registered_agents": agents}
                return reply({"success": True, "registry": told})
            case other:
                raise Invalid(f"shape {other!r} is unknown; it is 'registry' or 'list', or left out")

    async def _get(self, request: Request) -> Response:
        return reply(shown(await self._registry.get(segment(request, "id"))))

    async def _register(self, request: Request) -> Response:
        body = await _object(request)
        type_, id, config = body.get("agent_type"), body.get("agent_id"), body.get("config")
        if not isinstance(type_, str) or not type_ or not isinstance(id, str) or not id:
            raise Invalid("agent_type and agent_id are texts that have to be there")
        if config is not None and not isinstance(config, dict):
            raise Invalid("config is an object, or left out")
        entry = {"id": id, "name": id, "type": type_, **(config or {})}
        entry["type"] = type_
        fields = record_fields(id, entry)
        try:
            made = await self._registry.register(
                role_of(entry), id, mode=Mode.CREATE, ttl=None, incarnation=0, origin="mindx", keep=True, **fields
            )
        except Conflict as error:
            message = f"Agent '{id}' already exists."
            return reply({"status": "FAILURE", "success": False, "message": message, "error": error.message}, 409)
        return reply({"status": "SUCCESS", "success": True, "agent_id": id, "agent": shown(made)}, 201)

    async def _deregister(self, request: Request) -> Response:
        held = await self._registry.get(segment(request, "id"))
        await self._registry.deregister(held.role, held.id, reason="deregistered over HTTP")
        return reply({"status": "SUCCESS", "success": True, "agent_id": held.id})

    async def _sign(self, request: Request) -> Response:
        if not self._face.needs(Scope.ADMIN) and not is_loopback(request.url.hostname or ""):
            raise Denied("without tokens only this machine gets signatures; give the face a token (--token)")
        id, body = segment(request, "id"), await _object(request)
        message = body.get("message")
        if not isinstance(message, str):
            raise Invalid("message is a text that has to be there")
        signature = self._manager.sign(id, message)
        if signature is None:
            raise NotFound(f"agent {id!r} has no wallet")
        return reply({"signature": signature})

    async def _identities(self, _: Request) -> Response:
        return reply(await self._manager.list_managed_identities())

    def _route(self, path: str, handler: Handler, method: str, wanted: Scope) -> Route:
        async def answered(request: Request) -> Response:
            matched(request, path)
            if not self._face.allows(bearer_header(request), wanted):
                return reply({"detail": "Unauthorized"}, 401)
            try:
                return await handler(request)
            except Malformed as error:
                return reply({"detail": f"Invalid JSON: {error}"}, 400)
            except RollcallError as error:
                return refusal(error)

        return Route(path, answered, methods=[method])


def shown(entry: Entry) -> dict[str, Any]:
    """An agent as the coordinator of mindX has it; its instance never leaves its process."""
    description = running(entry).fields.get("description")
    return {
        "agent_id": entry.id,
        "agent_type": entry.role,
        "description": description,
        "status": status(entry),
        "registered_at": instant(entry.registered_at) / 1000,
    }


def status(entry: Entry) -> str:
    """The word of mindX for how an agent is."""
    if entry.status is Status.PAUSED:
        return "disabled"
    if entry.liveness is Liveness.LOST:
        return "lost"
    return "active" if entry.status is Status.RUNNING else str(entry.status)


def refusal(error: RollcallError) -> Response:
    """A refusal as FastAPI, and so mindX, says it."""
    return reply({"detail": error.message}, error.status)


async def _object(request: Request) -> dict[str, Any]:
    body = await read_json(request)
    if not isinstance(body, dict):
        raise Invalid("the body is no JSON object")
    return body


async def _no_such_route(_: Request, __: Exception) -> Response:
    return reply({"detail": "Not Found"}, 404)
