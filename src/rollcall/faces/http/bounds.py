"""What no request may exceed, whatever it asks: size, time, and how often. Plain ASGI, before any routing."""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rollcall.core.errors import Denied, RollcallError
from rollcall.core.instants import Seconds

CLIENTS = 10_000
"""Clients whose rate is remembered; the one heard longest ago is forgotten first."""

Refuse = Callable[[str, RollcallError, int], Response]
"""The answer to a request under this path that goes no further, in the form that belongs there."""


class Gone(Exception):
    """Nobody is there any more to be answered."""


class TooSlow(RollcallError):
    """The body did not arrive in time."""

    code = "timeout"
    status = 408


class TooLargeBody(RollcallError):
    """The body is larger than any request may be."""

    code = "too_large"
    status = 413


class TooOften(RollcallError):
    """More requests a second than one client may send."""

    code = "busy"
    status = 429


class Bounds:
    """Reads the body before anything else happens, within a size and a time, and counts the requests of each client.

    The path is matched as it was sent, not decoded: an encoded slash is part of an id.
    """

    def __init__(
        self, app: ASGIApp, *, size: int, within: Seconds, rate: float, origins: Sequence[str], refuse: Refuse
    ) -> None:
        self._app = app
        self._size = size
        self._within = within
        self._rates = Rates(rate) if rate else None
        self._origins = origins
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = (scope.get("raw_path") or scope["path"].encode()).decode("ascii", "replace")
        scope = {**scope, "path": path, "root_path": ""}
        try:
            self._count(scope)
            self._check_origin(scope)
            receive = await self._whole(scope, receive)
        except Gone:
            return
        except RollcallError as error:
            await self._refuse(path, error, error.status)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _count(self, scope: Scope) -> None:
        client = scope.get("client")
        if self._rates is None or client is None:
            return
        wait = self._rates.wait(client[0], time.monotonic())
        if wait > 0:
            told = f"more than {self._rates.rate:g} requests a second; wait {wait:.1f} s"
            raise TooOften(told, retry_after=max(1, math.ceil(wait)))

    def _check_origin(self, scope: Scope) -> None:
        """A page of another origin may send simple requests without asking; whoever looks at it means none of them."""
        headers = dict(scope["headers"])
        origin = headers.get(b"origin", b"").decode("latin-1")
        if not origin or scope["method"] in ("GET", "HEAD", "OPTIONS") or "*" in self._origins:
            return
        own = headers.get(b"host", b"").decode("latin-1")
        if origin not in self._origins and origin.partition("://")[2] != own:
            raise Denied(f"pages of {origin} may not change anything here; allow them with --cors")

    async def _whole(self, scope: Scope, receive: Receive) -> Receive:
        headers = dict(scope["headers"])
        if b"content-length" not in headers and b"transfer-encoding" not in headers:
            return receive
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._size:
            raise self._too_large()
        try:
            async with asyncio.timeout(self._within):
                body = await self._read(receive)
        except TimeoutError as error:
            raise TooSlow(f"the body did not arrive within {self._within:g} s; send it at once") from error
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def told() -> Message:
            return messages.pop() if messages else await receive()

        return told

    async def _read(self, receive: Receive) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise Gone("the client went away in the middle of its request")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._size:
                raise self._too_large()
            if not message.get("more_body"):
                return b"".join(parts)

    def _too_large(self) -> TooLargeBody:
        return TooLargeBody(f"the body is larger than {self._size} bytes; send less")


class Rates:
    """How often each client came: each may save up one second of its rate."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._clients: OrderedDict[str, tuple[float, Seconds]] = OrderedDict()

    def wait(self, client: str, now: Seconds) -> Seconds:
        """Seconds until the client may come again; 0 or less when it may now, which is then counted."""
        saved, at = self._clients.get(client, (max(1.0, self.rate), now))
        saved = min(max(1.0, self.rate), saved + (now - at) * self.rate)
        wait = 0.0 if saved >= 1 else (1 - saved) / self.rate
        self._clients[client] = (saved if wait else saved - 1, now)
        self._clients.move_to_end(client)
        if len(self._clients) > CLIENTS:
            self._clients.popitem(last=False)
        return wait
