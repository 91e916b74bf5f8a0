"""The registry for scripts without an event loop: the same calls, waiting for each.

::

    with rollcall.sync.connect() as registry:
        with registry.agent(role="worker", name="billing"):
            print(registry.discover("lieutenant"))
"""

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, TypeVar, Unpack

from rollcall.bus.connection import FIRST_CONNECT
from rollcall.core.commands import Mode
from rollcall.core.instants import Seconds
from rollcall.core.records import Change, Entry, Health
from rollcall.sdk import registry as asynchronous
from rollcall.sdk.agent import Agent
from rollcall.sdk.answers import Page
from rollcall.sdk.login import SigningIn
from rollcall.sdk.watch import Position, Watch

T = TypeVar("T")


@contextmanager
def connect(
    url: str | None = None,
    *,
    realm: str | None = None,
    timeout: Seconds = FIRST_CONNECT,
    **signing_in: Unpack[SigningIn],
) -> "Iterator[SyncRegistry]":
    """The registry for a ``with`` block; see `rollcall.connect`. Its loop runs in a thread of its own."""
    with _loop() as loop:
        runner = Runner(loop)
        with runner.entered(asynchronous.connect(url, realm=realm, timeout=timeout, **signing_in)) as registry:
            yield SyncRegistry(registry, runner)


@contextmanager
def _loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="rollcall sync", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        asyncio.run_coroutine_threadsafe(_cancel_the_rest(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _cancel_the_rest() -> None:
    """Whoever still waits in another thread is told, instead of waiting for ever."""
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


class Runner:
    """Runs coroutines in the thread's loop, and waits."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __call__(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    @contextmanager
    def entered(self, manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
        """An ``async with`` block as a ``with`` block."""

        async def enter() -> T:
            return await manager.__aenter__()

        async def leave() -> None:
            await manager.__aexit__(None, None, None)

        value = self(enter())
        try:
            yield value
        finally:
            self(leave())


class SyncRegistry:
    """See `rollcall.Registry`; the same names and meanings."""

    def __init__(self, registry: asynchronous.Registry, runner: Runner) -> None:
        self._registry = registry
        self._run = runner

    @contextmanager
    def agent(self, role: str, name: str, *, id: str | None = None, **said: Any) -> Iterator[Agent]:
        """An agent, registered while the block runs."""

        async def make() -> Agent:
            return self._registry.agent(role, name, id=id, **said)

        with self._run.entered(self._run(make())) as agent:
            yield agent

    def register(self, role: str, id: str, *, mode: Mode = Mode.CLAIM, **said: Any) -> Entry:
        """Registers an agent; returns its entry."""
        return self._run(self._registry.register(role, id, mode=mode, **said))

    def update(self, role: str, id: str, patch: Mapping[str, Any], *, expected: int | None = None) -> Entry:
        """Merges a patch into a record; returns the new entry."""
        return self._run(self._registry.update(role, id, patch, expected=expected))

    def deregister(self, role: str, id: str, *, reason: str = "") -> Entry:
        """Takes an agent off the roll; returns its last entry."""
        return self._run(self._registry.deregister(role, id, reason=reason))

    def heartbeat(self, role: str, id: str, *, health: Health | None = None) -> None:
        """One sign of life."""
        self._run(self._registry.heartbeat(role, id, health=health))

    def discover(self, role: str, **asked: Any) -> Page:
        """The agents of a role that fit."""
        return self._run(self._registry.discover(role, **asked))

    def pick(self, role: str, count: int = 1, **asked: Any) -> Page:
        """At most `count` agents that fit."""
        return self._run(self._registry.pick(role, count, **asked))

    def list(self, **asked: Any) -> Page:
        """The agents of all roles that fit."""
        return self._run(self._registry.list(**asked))

    def get(self, id: str) -> Entry:
        """One agent."""
        return self._run(self._registry.get(id))

    def history(self, id: str, *, limit: int = 100) -> Sequence[Change]:
        """The changes of one agent."""
        return self._run(self._registry.history(id, limit=limit))

    def info(self) -> dict[str, Any]:
        """The state of the registry."""
        return self._run(self._registry.info())

    def watch(self, role: str | None = None, *, since: Position | None = None) -> Iterator[Change]:
        """Every change from now on, as a blocking iterator."""

        async def make() -> Watch:
            watch = self._registry.watch(role, since=since)
            await watch.open()
            return watch

        watch = self._run(make())
        try:
            while True:
                try:
                    change = self._run(watch.__anext__())
                except StopAsyncIteration:
                    return
                yield change
        finally:
            self._run(watch.close())
