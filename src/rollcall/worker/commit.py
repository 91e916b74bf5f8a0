"""The only way to disk: one thread, one batch after the other, and word when a batch is safe."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from rollcall.store.rows import Folded, prepared
from rollcall.store.snapshot import Snapshot
from rollcall.worker.progress import Progress

P = ParamSpec("P")
T = TypeVar("T")

BATCH = 2000
"""Changes in one transaction at most: an answer waits for its whole batch."""


class Committer:
    """Commits what is folded; `on_durable` is told of each batch that is on disk."""

    def __init__(self, snapshot: Snapshot, on_durable: Callable[[list[Folded]], Awaitable[None]]) -> None:
        self.snapshot = snapshot
        self.durable = Progress()
        self.newest = 0
        self._on_durable = on_durable
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="snapshot")
        self._waiting: list[Folded] = []
        self._arrived = asyncio.Event()

    def start(self, revision: int) -> None:
        """Sets up to where the file holds the roll."""
        self.durable.start(revision)
        self.newest = revision

    async def settled(self) -> None:
        """Returns once everything that was added so far is on disk."""
        await self.durable.reached(self.newest)

    def add(self, folded: Folded) -> None:
        """Takes a folded change; it is committed with whatever else has arrived by then."""
        self._waiting.append(folded)
        self.newest = folded.change.revision
        self._arrived.set()

    async def run(self) -> None:
        """Commits until cancelled."""
        while True:
            await self._arrived.wait()
            await self._commit_some()

    async def drain(self) -> None:
        """Commits everything that waits."""
        while self._waiting:
            await self._commit_some()

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a snapshot function between two commits."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: function(*args, **kwargs))

    async def close(self) -> None:
        """Ends the thread and the file; what it was doing is finished first."""
        await self.call(self.snapshot.close)
        self._thread.shutdown()

    async def _commit_some(self) -> None:
        batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
        if not self._waiting:
            self._arrived.clear()
        if not batch:
            return
        # Prepared here, stored there: the thread then needs the interpreter lock hardly at all.
        await self.call(self.snapshot.apply, prepared(batch))
        self.durable.advance(batch[-1].change.revision)
        await self._on_durable(batch)
