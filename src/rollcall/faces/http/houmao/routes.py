"""Houmao's routes about agents. They only tell: nothing here changes the roll."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from rollcall import NotFound, Registry, RollcallError, Unauthorized
from rollcall.core.instants import Seconds
from rollcall.core.records import EXTERNAL
from rollcall.faces.files.houmao.fields import time_text
from rollcall.faces.files.houmao.finding import Known, found
from rollcall.faces.files.houmao.lookup import by_name
from rollcall.faces.files.houmao.resolution import resolved, shown, summaries, summary
from rollcall.faces.http.access import Access, Scope
from rollcall.faces.http.metrics import matched
from rollcall.faces.http.replies import bearer_header, reply, segment

ANSWERED_WITHIN: Seconds = 0.1

Handler = Callable[[Request], Awaitable[Response]]


class Houmao:
    """Answers as Houmao's passive server does, of the whole realm: by leases and beats, from whichever host.

    Where it has a process of its own, `end` ends that.
    """

    def __init__(self, registry: Registry, face: Access, end: Callable[[], None] | None = None) -> None:
        self._registry = registry
        self._face = face
        self._end = end
        self._started = time_text(datetime.now(UTC))

    def app(self) -> ASGIApp:
        """The dialect, alone on a listener or among others."""
        routes = [
            self._route("/health", self._health),
            self._route("/houmao/server/current-instance", self._instance),
            self._route("/houmao/agents", self._list),
            self._route("/houmao/agents/{ref}", self._get),
            self._route("/houmao/agents/{ref}/resolve", self._resolve),
        ]
        if self._end is not None:
            routes.append(self._route("/houmao/server/shutdown", self._shutdown, "POST", Scope.ADMIN))
        app = Starlette(
            routes=routes,
            exception_handlers={404: _no_such_route, 405: _no_such_route},
        )
        app.router.redirect_slashes = False
        return app

    async def _health(self, _: Request) -> Response:
        return reply({"status": "ok", "houmao_service": "houmao-passive-server"})

    async def _instance(self, request: Request) -> Response:
        base = f"{request.url.scheme}://{request.url.netloc}"
        instance = {"schema_version": 1, "status": "ok", "pid": os.getpid(), "api_base_url": base}
        return reply({**instance, "server_root": "", "started_at_utc": self._started})

    async def _shutdown(self, _: Request) -> Response:
        assert self._end is not None
        # The answer is on its way by then.
        asyncio.get_running_loop().call_later(ANSWERED_WITHIN, self._end)
        return reply({"status": "ok"})

    async def _list(self, _: Request) -> Response:
        entries = await self._registry.list(status=["running", "draining"], exact=True)
        return reply({"agents": summaries(entries, datetime.now(UTC))})

    async def _get(self, request: Request) -> Response:
        ref, now = segment(request, "ref"), datetime.now(UTC)
        records = [record for one in await self._found(ref) if (record := shown(one.entry, now)) is not None]
        if not records:
            raise NotFound(f"Agent not found: {ref}")
        if len(records) > 1:
            detail = f"Ambiguous agent name: {len(records)} agents share this name. Disambiguate by agent_id."
            return reply({"detail": detail, "agent_ids": [record.agent_id for record in records]}, 409)
        return reply(summary(records[0]))

    async def _resolve(self, request: Request) -> Response:
        ref = segment(request, "ref")
        return reply(resolved(ref, await self._found(ref), datetime.now(UTC)))

    async def _found(self, ref: str) -> list[Known]:
        """Who is meant, of this registry: those of others are not ours to tell."""
        candidates = [one for one in await found(self._registry, ref) if one.entry.origin != EXTERNAL]
        return candidates if len(candidates) < 2 else by_name(candidates, ref)

    def _route(self, path: str, handler: Handler, method: str = "GET", wanted: Scope = Scope.READ) -> Route:
        async def answered(request: Request) -> Response:
            matched(request, path)
            try:
                if not self._face.allows(bearer_header(request), wanted):
                    raise Unauthorized("send 'Authorization: Bearer TOKEN' with a token of this server")
                return await handler(request)
            except RollcallError as error:
                return refusal(error)

        return Route(path, answered, methods=[method])


def refusal(error: RollcallError) -> Response:
    """An error in the form of these routes."""
    return reply({"detail": error.message}, error.status)


async def _no_such_route(request: Request, error: Exception) -> Response:
    status: Any = getattr(error, "status_code", 404)
    detail = "Method Not Allowed" if status == 405 else "Not Found"
    return reply({"detail": detail}, status)
