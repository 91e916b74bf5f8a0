"""A face on a free port for one test, and a client of it."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx

import rollcall
from rollcall.embedded import EmbeddedServer
from rollcall.faces.http.server import serving
from rollcall.faces.http.settings import FaceSettings, Listener
from tests.conftest import Bus, _remove_streams


class Opened:
    """One face and who asks it."""

    def __init__(self, url: str, client: httpx.AsyncClient, registry: rollcall.Registry) -> None:
        self.url = url
        self.client = client
        self.registry = registry

    @property
    def address(self) -> tuple[str, int]:
        """For plain sockets."""
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)


@asynccontextmanager
async def face(bus: Bus, **settings: Any) -> AsyncIterator[str]:
    """A face on whatever serves the realm; says its address."""
    async with serving(bus.url, bus.realm, [Listener("127.0.0.1", 0)], FaceSettings(**settings)) as found:
        yield found[0].url


@asynccontextmanager
async def facing(bus: Bus, registry: rollcall.Registry, **settings: Any) -> AsyncIterator[Opened]:
    """A face on a realm that is served, and a client of it."""
    async with face(bus, **settings) as url, httpx.AsyncClient(base_url=url, timeout=20) as client:
        yield Opened(url, client, registry)


@asynccontextmanager
async def opened(bus: Bus, worker: dict[str, Any] | None = None, **settings: Any) -> AsyncIterator[Opened]:
    """A worker, a face and a client of it."""
    async with bus.served(**(worker or {})) as registry, facing(bus, registry, **settings) as one:
        yield one


Facing = Callable[..., AbstractAsyncContextManager[Opened]]


@asynccontextmanager
async def shared_realm(server: EmbeddedServer, home: Path) -> AsyncIterator[Facing]:
    """A worker for many tests, each with a face and names of its own: much faster than a realm for each."""
    bus = Bus(server, f"{home.name}-{os.getpid()}", home)
    async with bus.served() as registry:
        yield partial(facing, bus, registry)
    await _remove_streams(bus)


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Something that goes on while the block runs."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def raw(
    one: Opened, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """One request as it is written, on a connection of its own: clients tidy paths up."""
    reader, writer = await asyncio.open_connection(*one.address)
    try:
        said = {"host": "test", "connection": "close", "content-length": str(len(body)), **headers}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name.replace('_', '-')}: {value}" for name, value in said.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        return answered(await asyncio.wait_for(reader.read(), 20))
    finally:
        writer.close()


def answered(data: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one answer."""
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(first.split()[1]), headers, body


def refuses(address: tuple[str, int]) -> bool:
    """Whether nobody listens there any more."""
    with socket.socket() as plain:
        plain.settimeout(1)
        return plain.connect_ex(address) != 0
