"""The only way to disk: one thread, one batch after the other, and word when a batch is safe."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import structlog

from rollcall.core.errors import Unavailable
from rollcall.core.instants import Milliseconds, Seconds
from rollcall.store.rows import Folded, Prepared, prepared
from rollcall.store.snapshot import Snapshot
from rollcall.worker.measures import Times
from rollcall.worker.progress import Progress

P = ParamSpec("P")
T = TypeVar("T")

BATCH = 2000
"""Changes in one transaction at most: an answer waits for its whole batch."""

MOST_WAITING = 100_000
TRY_AGAIN: Seconds = 1.0

log = structlog.get_logger(__name__)


class Committer:
    """Commits what is folded; `on_durable` is told of each batch that is on disk."""

    def __init__(self, snapshot: Snapshot, on_durable: Callable[[list[Folded]], Awaitable[None]], times: Times) -> None:
        self.snapshot = snapshot
        self._times = times
        self.durable = Progress()
        self.newest = 0
        self._on_durable = on_durable
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="snapshot")
        self._waiting: list[Folded] = []
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self.trouble = ""
        """Why nothing reaches the disk now; empty while all is well."""
        self.troubled = asyncio.Event()

    def start(self, revision: int) -> None:
        """Sets up to where the file holds the roll."""
        self.durable.start(revision)
        self.newest = revision

    async def settled(self) -> None:
        """Returns once everything that was added so far is on disk.

        Raises:
            Unavailable: the disk takes nothing.
        """
        reached = asyncio.ensure_future(self.durable.reached(self.newest))
        troubled = asyncio.ensure_future(self.troubled.wait())
        try:
            await asyncio.wait((reached, troubled), return_when=asyncio.FIRST_COMPLETED)
        finally:
            reached.cancel()
            troubled.cancel()
        if not reached.done() or reached.cancelled():
            raise Unavailable(f"{self.trouble or 'the disk takes nothing'}; ask again, another worker may answer")

    async def become(self, roll: Prepared, *, horizon: int, at: Milliseconds, whole: bool = False) -> None:
        """Holds another roll from now on.

        Raises:
            Unavailable: the disk takes nothing.
        """
        await self.settled()
        await self.call(self.snapshot.become, roll, horizon=horizon, at=at, whole=whole)
        self.start(roll.revision)

    async def has_room(self) -> None:
        """Returns when not too much waits for the disk."""
        await self._room.wait()

    def add(self, folded: Folded) -> None:
        """Takes a folded change; it is committed with whatever else has arrived by then."""
        self._waiting.append(folded)
        if len(self._waiting) > MOST_WAITING:
            self._room.clear()
        self.newest = folded.change.revision
        self._arrived.set()

    async def run(self) -> None:
        """Commits until cancelled. A disk that takes nothing is tried on and on; nothing is answered meanwhile."""
        while True:
            await self._arrived.wait()
            try:
                await self._commit_some()
            except Unavailable as error:
                self._suffer(error)
                await asyncio.sleep(TRY_AGAIN)

    async def drain(self) -> None:
        """Commits everything that waits, if the disk takes it: what it does not was never answered."""
        try:
            while self._waiting:
                await self._commit_some()
        except Unavailable as error:
            log.error("ends with changes that are not on disk; the roll has them", error=str(error))

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a snapshot function between two commits."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: function(*args, **kwargs))

    async def close(self) -> None:
        """Ends the thread and the file; what it was doing is finished first."""
        await self.call(self.snapshot.close)
        self._thread.shutdown()

    def _suffer(self, error: Unavailable) -> None:
        if not self.trouble:
            log.error("nothing reaches the disk; this worker answers no command before it does", error=str(error))
        self.trouble = str(error)
        self.troubled.set()

    async def _commit_some(self) -> None:
        batch = self._waiting[:BATCH]
        if batch:
            # Prepared here, stored there: the thread then needs the interpreter lock hardly at all.
            started = time.monotonic()
            await self.call(self.snapshot.apply, prepared(batch))
            self._times.add(time.monotonic() - started)
            del self._waiting[: len(batch)]
            self._room.set()
        if not self._waiting:
            self._arrived.clear()
        if not batch:
            return
        if self.trouble:
            log.warning("the disk takes changes again", changes=len(batch))
            self.trouble = ""
            self.troubled.clear()
        self.durable.advance(batch[-1].change.revision)
        await self._on_durable(batch)
