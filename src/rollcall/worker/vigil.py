"""Watching over this process itself: whoever could not hear may not judge.

Every worker gives its leases back what it missed, leader or not, so that whoever leads next judges rightly. Only
monotonic time counts; a clock that jumps decides nothing.
"""

import asyncio
from typing import Protocol

import structlog

from rollcall.core.guard import Guard
from rollcall.core.instants import Seconds
from rollcall.worker.roster import Roster

SWEEP_EVERY: Seconds = 0.1
LAG: Seconds = 0.5
"""A turn later than this by itself means that beats may wait unheard."""

JUST_DUE: Seconds = 0.02
"""Whoever became due since the last look is looked at now; whoever stays due longer is held, and can wait."""

RETURN_WITHIN: Seconds = 3.0
"""What agents may take to find the bus again: two seconds of backoff, and a second over which they spread."""

log = structlog.get_logger(__name__)


class Sweeps(Protocol):
    """Whoever judges while this worker leads."""

    async def sweep(self, now: Seconds) -> None: ...

    def next_due(self) -> Seconds | None: ...


class Vigil:
    """The watch of one worker. `judge` is set while it leads."""

    def __init__(self, roster: Roster, guard: Guard) -> None:
        self._roster = roster
        self._guard = guard
        self._woken = asyncio.Event()
        self._away_since: Seconds | None = None
        self._leaving_since: Seconds | None = None
        self._credited_to: Seconds = 0.0
        self.returned = asyncio.Event()
        """The bus was away and is back: what happened meanwhile was missed."""
        self.judge: Sweeps | None = None

    def wake(self) -> None:
        """Somebody may be due sooner than was known."""
        self._woken.set()

    async def watch(self) -> None:
        """Sweeps while nothing was missed, until cancelled."""
        clock = self._roster.clock
        while True:
            began = clock.now()
            pause = self._pause(began)
            self._woken.clear()
            try:
                async with asyncio.timeout(pause):
                    await self._woken.wait()
            except TimeoutError:
                pass  # as planned
            now = clock.now()
            if now - began - pause > LAG:
                self._missed(began, now, "this worker stood still", returning=0.0)
            elif self.judge is not None and self._away_since is None:
                await self.judge.sweep(now)

    async def bus_lost(self) -> None:
        """The connection is gone; no beat can be heard."""
        if self._away_since is None:
            self._away_since = self._roster.clock.now()

    async def bus_back(self) -> None:
        """The connection is back; agents that lost theirs too take a little longer."""
        if self._away_since is not None:
            since = self._away_since if self._leaving_since is None else self._leaving_since
            self._away_since = self._leaving_since = None
            self._missed(since, self._roster.clock.now(), "the bus was away", returning=RETURN_WITHIN)
            self.returned.set()

    async def bus_leaving(self) -> None:
        """The server is about to end: from now on it cuts off one after the other, perhaps us last."""
        self._leaving_since = self._roster.clock.now()
        self._guard.blind(self._roster.clock.now(), RETURN_WITHIN, "the server is about to end")

    def _pause(self, now: Seconds) -> Seconds:
        due = self.judge.next_due() if self.judge is not None else None
        if due is None or due < now - JUST_DUE:
            return SWEEP_EVERY
        return min(SWEEP_EVERY, max(0.0, due - now))

    def _missed(self, since: Seconds, until: Seconds, why: str, *, returning: Seconds) -> None:
        """Gives the leases that time back, once: a process that stood still lost its connection, too."""
        missed = until - max(since, self._credited_to)
        self._credited_to = until
        self._roster.leases.extend(max(0.0, missed) + returning, until)
        self._guard.blind(until, max(1.0, returning), f"{why} for {until - since:.1f} s")
        log.warning("could not hear; every lease gets that back", why=why, seconds=round(until - since, 3))
