"""Listening: one or more ports, each with its dialect, on one connection to the registry."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import structlog
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

import rollcall
from rollcall.core.errors import Misconfigured
from rollcall.core.instants import Seconds
from rollcall.faces.http.access import Token
from rollcall.faces.http.app import Face
from rollcall.faces.http.events import ABORT
from rollcall.faces.http.settings import FaceSettings, Listener, check_address
from rollcall.sdk.login import SigningIn

BACKLOG = 2048
TAKEN_WITHIN = 30_000
"""Milliseconds."""

KEPT_BYTES = 512 * 1024
"""Bytes of a request that are no body: its head, extensions of chunks, trailers."""

TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"

HEADERS_WITHIN: Seconds = 10.0

log = structlog.get_logger(__name__)


@asynccontextmanager
async def serving(
    url: str, realm: str, listeners: Sequence[Listener], settings: FaceSettings, signing_in: SigningIn | None = None
) -> AsyncIterator[list[Listener]]:
    """The face, listening while the block runs; says where, with real ports.

    Raises:
        Misconfigured: an address cannot be listened on, or may not without a token.
        Unavailable: the bus cannot be reached.
    """
    for listener in listeners:
        check_address(listener, settings)
    async with AsyncExitStack() as stack:
        sockets = [stack.enter_context(_bound(listener)) for listener in listeners]
        registry = await stack.enter_async_context(
            rollcall.connect(
                url, realm=realm, name=f"rollcall-http:{realm}:{socket.gethostname()}", **(signing_in or {})
            )
        )
        face = await stack.enter_async_context(Face(registry, settings).opened())
        apps = [face.app(listener.dialect) for listener in listeners]
        await stack.enter_async_context(_served(apps, sockets, settings.drain, before_end=face.end_streams))
        yield [
            Listener(listener.host, bound.getsockname()[1], listener.dialect)
            for listener, bound in zip(listeners, sockets, strict=True)
        ]


@asynccontextmanager
async def serving_app(app: ASGIApp, listener: Listener, tokens: tuple[Token, ...]) -> AsyncIterator[Listener]:
    """One plain application, listening while the block runs; says where. It checks the tokens itself."""
    check_address(listener, FaceSettings(tokens=tokens))
    with _bound(listener) as bound:
        async with _served([app], [bound], drain=1.0):
            yield Listener(listener.host, bound.getsockname()[1], listener.dialect)


@contextmanager
def _bound(listener: Listener) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in listener.host else socket.AF_INET
    # Named as TCP, or asyncio leaves Nagle's algorithm on, and each answer waits for the client's acknowledgement.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # Who takes nothing for so long is cut off by the kernel: a close would wait for it.
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TAKEN_WITHIN)
        try:
            bound.bind((listener.host, listener.port))
        except OSError as error:
            raise Misconfigured(
                f"cannot listen on {listener.host}:{listener.port}: {error.strerror or error}; "
                "end what uses it, or choose another port; 0 takes a free one (`up` has --http HOST:PORT or off)"
            ) from error
        bound.listen(BACKLOG)
        yield bound
    finally:
        bound.close()


class _Protocol(HttpToolsProtocol):
    """A connection on which a request has to come whole, or nothing: uvicorn waits for the rest of one without end."""

    _waiting: asyncio.TimerHandle | None = None
    _taken = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        if self._waiting is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_headers()
        super().data_received(data)
        # What the parser has not understood by now it keeps, and looks at again with each further piece.
        self._taken += len(data)
        if self._taken > KEPT_BYTES:
            self.transport.write(TOO_LARGE)
            self.transport.close()

    def on_headers_complete(self) -> None:
        self._expect_nothing()
        self._taken = 0
        self.scope[ABORT] = self.transport.abort  # type: ignore[literal-required]
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._taken -= len(body)
        super().on_body(body)

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        super().connection_lost(exc)

    def _expect_headers(self) -> None:
        self._waiting = self.loop.call_later(HEADERS_WITHIN, self.transport.close)

    def _expect_nothing(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


class _Server(uvicorn.Server):
    """A server that leaves signals to the command that runs it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def _served(
    apps: Sequence[ASGIApp],
    sockets: Sequence[socket.socket],
    drain: Seconds,
    before_end: Callable[[], Awaitable[None]] | None = None,
) -> AsyncIterator[None]:
    """Requests in flight are finished at the end, within `drain` seconds."""
    servers = [_Server(_config(app, drain)) for app in apps]
    running = [
        asyncio.create_task(server.serve(sockets=[bound]), name="http")
        for server, bound in zip(servers, sockets, strict=True)
    ]
    try:
        while not all(server.started for server in servers):
            await asyncio.wait(running, timeout=0.01, return_when=asyncio.FIRST_COMPLETED)
            for task in running:
                if task.done():
                    task.result()
        yield
    finally:
        if before_end is not None:
            await before_end()
        for server in servers:
            server.should_exit = True
        await asyncio.wait(running, timeout=drain + 2)


def _config(app: ASGIApp, drain: Seconds) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=max(1, round(drain)),
        backlog=BACKLOG,
    )
