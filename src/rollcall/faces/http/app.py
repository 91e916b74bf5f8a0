"""The face put together: which dialect answers which request."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from rollcall import Registry
from rollcall.core.errors import Misconfigured, RollcallError
from rollcall.faces.http.access import Access
from rollcall.faces.http.bounds import Bounds, Refuse
from rollcall.faces.http.events import Hub
from rollcall.faces.http.houmao.routes import Houmao
from rollcall.faces.http.metrics import Measured, Metrics, matched
from rollcall.faces.http.native import Native
from rollcall.faces.http.noa import routes as noa
from rollcall.faces.http.noa.rust import Rust
from rollcall.faces.http.problems import problem
from rollcall.faces.http.replies import reply
from rollcall.faces.http.settings import Dialect, FaceSettings
from rollcall.faces.http.vers import routes as vers

VERS_PREFIX = "/registry"
NOA_PREFIXES = ("/agents", "/analytics")
HOUMAO_PREFIX = "/houmao"


class Face:
    """Everything that answers over HTTP, on one connection to the registry."""

    def __init__(self, registry: Registry, settings: FaceSettings) -> None:
        self._registry = registry
        self._settings = settings
        self._access = Access(settings.tokens)
        self._hub = Hub(registry)
        self._metrics = Metrics(registry, self._hub, settings)
        self._to_close: list[noa.Noa | Rust] = []

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["Face"]:
        """Listens for changes while the block runs."""
        listening = asyncio.create_task(self._hub.run(), name="events")
        try:
            yield self
        finally:
            listening.cancel()
            for part in self._to_close:
                await part.close()

    async def end_streams(self) -> None:
        """Ends the connections that would last for ever."""
        self._hub.close()

    def app(self, dialect: Dialect) -> ASGIApp:
        """What one listener runs."""
        match dialect:
            case Dialect.ALL:
                return self._around(self._together(), _refused)
            case Dialect.VERS:
                return self._around(self._vers(), _as_vers)
            case Dialect.NOA:
                return self._around(self._noa().app(), _as_noa)
            case Dialect.NOA_RUST:
                rust = Rust(self._registry, self._settings.noa, self._access)
                self._to_close.append(rust)
                return self._around(rust.app(), _as_noa, open_to_all=True)
            case Dialect.MINDX:
                return self._around(self._mindx(), _as_detail)
            case Dialect.HOUMAO:
                return self._around(self._houmao(end=_end_process), _as_detail)

    def _mindx(self) -> ASGIApp:
        try:
            from rollcall.faces.http.mindx.routes import Mindx  # noqa: PLC0415  its cryptography is slow to load
        except ImportError as error:
            raise Misconfigured(f"{error.name} is missing; install it: pip install 'rollcall-bus[mindx]'") from error
        return Mindx(self._registry, self._settings.mindx_root, self._access).app()

    def _houmao(self, end: Callable[[], None] | None = None) -> ASGIApp:
        return Houmao(self._registry, self._access, end).app()

    def _together(self) -> ASGIApp:
        of_noa = self._noa(uptime=True)
        native = Native(self._registry, self._hub, self._access, self._metrics).app()
        return Together(self._vers(), of_noa, self._houmao(), native)

    def _vers(self) -> ASGIApp:
        return vers.Vers(self._registry, self._settings.vers, self._access).app()

    def _noa(self, *, uptime: bool = False) -> noa.Noa:
        made = noa.Noa(self._registry, self._settings.noa, self._access, self._metrics, uptime=uptime)
        self._to_close.append(made)
        return made

    def _around(self, app: ASGIApp, refuse: Refuse, *, open_to_all: bool = False) -> ASGIApp:
        settings = self._settings
        origins = ("*",) if open_to_all else settings.origins
        app = Bounds(
            app,
            size=settings.body_bytes,
            within=settings.body_timeout,
            rate=settings.rate,
            origins=origins,
            refuse=refuse,
        )
        if origins:
            exposed = ["ETag", "Location", "Retry-After"]
            app = CORSMiddleware(
                app, allow_origins=origins, allow_methods=["*"], allow_headers=["*"], expose_headers=exposed
            )
        return Measured(app, self._metrics.requests)


class Together:
    """All dialects on one port: the prefix decides."""

    def __init__(self, of_vers: ASGIApp, of_noa: noa.Noa, of_houmao: ASGIApp, native: ASGIApp) -> None:
        self._vers = of_vers
        self._houmao = of_houmao
        self._noa = of_noa.app()
        self._health = of_noa.health
        self._native = native

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        path = scope.get("path", "")
        if path == "/health" and scope["method"] in ("GET", "HEAD"):
            request = Request(scope)
            matched(request, path)
            await (await self._health(request))(scope, receive, send)
        elif under(path, VERS_PREFIX):
            await self._vers(scope, receive, send)
        elif under(path, *NOA_PREFIXES):
            await self._noa(scope, receive, send)
        elif under(path, HOUMAO_PREFIX):
            await self._houmao(scope, receive, send)
        else:
            await self._native(scope, receive, send)


def _end_process() -> None:
    """Ends as when it is told to by whoever started it."""
    signal.raise_signal(signal.SIGTERM)


def under(path: str, *prefixes: str) -> bool:
    """Whether a path is one of the prefixes, or below it."""
    return any(path == prefix or path.startswith(f"{prefix}/") for prefix in prefixes)


def _refused(path: str, error: RollcallError, status: int) -> Response:
    """A request that went no further, in the form that belongs to its path."""
    if under(path, VERS_PREFIX):
        return _as_vers(path, error, status)
    if under(path, HOUMAO_PREFIX):
        return _as_detail(path, error, status)
    return _as_noa(path, error, status) if under(path, *NOA_PREFIXES) else problem(error, status)


def _as_vers(_: str, error: RollcallError, __: int) -> Response:
    return vers.refusal(error)


def _as_noa(_: str, error: RollcallError, __: int) -> Response:
    return noa.refusal(error)


def _as_detail(_: str, error: RollcallError, status: int) -> Response:
    return reply({"detail": error.message}, status)
