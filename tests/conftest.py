"""A real nats-server for the whole run, a realm of its own for every test."""

import asyncio
import gc
import itertools
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from nats.aio.client import Client

import rollcall
from rollcall.bus import streams
from rollcall.bus.connection import connected
from rollcall.bus.subjects import Subjects
from rollcall.embedded import EmbeddedServer, running
from rollcall.worker import Worker, WorkerSettings, serving

# A shell starts background jobs with SIGINT ignored, and whoever ignores it hands that on: Ctrl-C is part of what is
# tested here.
signal.signal(signal.SIGINT, signal.default_int_handler)

_numbers = itertools.count(1)
_failed_before = 0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, None, None]:
    """What a failed test left open is found after it, and at the end of its file: no later test is blamed for it."""
    global _failed_before
    try:
        return (yield)
    finally:
        if item.session.testsfailed > _failed_before:
            _forget_what_failed()
        if nextitem is None or nextitem.path != item.path:
            _failed_before = item.session.testsfailed


def _forget_what_failed() -> None:
    for kept in ("last_type", "last_value", "last_traceback", "last_exc"):
        vars(sys).pop(kept, None)
    told, sys.unraisablehook = sys.unraisablehook, lambda _: None
    gc.collect()
    sys.unraisablehook = told


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """A command that runs in this process sets up logs, onto what pytest closes after the test."""
    configured, before = structlog.is_configured(), structlog.get_config()
    yield
    if configured:
        structlog.configure(**before)
    else:
        structlog.reset_defaults()


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    with asyncio.Runner() as runner:
        manager = running(tmp_path_factory.mktemp("nats"))
        server = runner.run(manager.__aenter__())
        yield server
        runner.run(manager.__aexit__(None, None, None))


class Bus:
    """One realm on the test server, and ways into it."""

    def __init__(self, server: EmbeddedServer, realm: str, home: Path) -> None:
        self.server = server
        self.url = server.url
        self.realm = realm
        self.home = home
        self.subjects = Subjects(realm)

    def worker(self, name: str = "w1", **settings: Any) -> AbstractAsyncContextManager[Worker]:
        settings = {"url": self.url, "nkey_seed": self.server.worker_seed, **settings}
        return serving(WorkerSettings(realm=self.realm, name=name, snapshot=self.home / f"{name}.db", **settings))

    def registry(self) -> AbstractAsyncContextManager[rollcall.Registry]:
        return rollcall.connect(self.url, realm=self.realm)

    def agent_connection(self) -> AbstractAsyncContextManager[Client]:
        """A plain NATS connection, as any client may open."""
        return connected(self.url, name="test agent")

    def worker_connection(self) -> AbstractAsyncContextManager[Client]:
        """A plain NATS connection with the rights of a worker."""
        return connected(self.url, name="test worker", nkey_seed=self.server.worker_seed)

    @asynccontextmanager
    async def served(self, **settings: Any) -> AsyncIterator[rollcall.Registry]:
        async with self.worker(**settings), self.registry() as registry:
            await leads(registry)
            yield registry


@pytest.fixture
def bus(nats_server: EmbeddedServer, tmp_path: Path) -> Iterator[Bus]:
    yield from a_bus(nats_server, tmp_path)


def a_bus(server: EmbeddedServer, home: Path) -> Iterator[Bus]:
    """A realm that nobody else uses."""
    one = Bus(server, f"t{os.getpid()}-{next(_numbers)}", home)
    yield one
    asyncio.run(_remove_streams(one))


async def _remove_streams(bus: Bus) -> None:
    """The server sets disk aside for each stream; a run of many realms would use it up."""
    async with bus.worker_connection() as inside:
        subjects = bus.subjects
        beside = (subjects.leases_stream, subjects.messages_stream, subjects.pending_stream)
        for stream in (subjects.inbox_stream, subjects.roll_stream, *beside):
            await streams.request(inside, f"STREAM.DELETE.{stream}")


async def eventually(right: Callable[[], Any | Awaitable[Any]], *, within: float = 15.0, what: str = "") -> Any:
    """Polls until `right` answers something true, and returns that."""
    deadline = time.monotonic() + within
    while True:
        value = right()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {within} s: {what or right}"
        await asyncio.sleep(0.02)


async def leads(registry: rollcall.Registry) -> str:
    """Waits until somebody decides commands; says who."""

    async def somebody() -> str:
        return str((await registry.info())["leader"])

    return str(await eventually(somebody, what="a leader"))


def ids(page: Any) -> list[str]:
    return [entry.id for entry in page]
