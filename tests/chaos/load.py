"""Clients that register, update and deregister without a pause, and remember what they were promised."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import count

import rollcall
from rollcall import Entry
from tests.chaos.checker import Said
from tests.chaos.recorder import Recorder
from tests.conftest import eventually

TIMEOUT = 1.5
LIFE = ("register", "update", "update", "deregister")
"""What is said of an id, again and again."""


class Load:
    """`callers` clients over one connection, each with `ids` agents of its own; one command of a caller at a time.

    A command that was not answered is said again until it is: the same life saying the same changes nothing. The
    agents have no lease, so none of them may ever be lost.
    """

    def __init__(
        self,
        registry: rollcall.Registry,
        recorder: Recorder,
        *,
        callers: int = 20,
        ids: int = 8,
        pause: float = 0.0,
        name: str = "l",
    ) -> None:
        self._registry = registry
        self._recorder = recorder
        self._callers = callers
        self._ids = [[f"{name}{caller}-{number}" for number in range(ids)] for caller in range(callers)]
        self._pause = pause
        self._ending = False
        self._last_at = 0.0
        self.acknowledged = 0
        self.longest_gap = 0.0
        """Seconds between two acknowledgements, at most."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Load"]:
        """Loads while the block runs; what was said by then is still brought to its end."""
        self._last_at = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for caller in range(self._callers):
                tasks.create_task(self._call(caller), name=f"caller {caller}")
            try:
                yield self
            finally:
                self._ending = True

    async def more(self, number: int, *, within: float = 20.0) -> None:
        """Returns once so many more commands are acknowledged."""
        wanted = self.acknowledged + number
        await eventually(lambda: self.acknowledged >= wanted, within=within, what=f"{number} more acknowledgements")

    async def right_again(self, *, within: float = 20.0) -> float:
        """Seconds from now until a command is acknowledged that was sent after now."""
        began = time.monotonic()
        await self.more(self._callers + 1, within=within)
        return time.monotonic() - began

    async def _call(self, caller: int) -> None:
        for mark in count(1):
            for id in self._ids[caller]:
                if self._ending:
                    return
                await self._say(LIFE[(mark - 1) % len(LIFE)], f"role{caller % 5}", id, mark)
                await asyncio.sleep(self._pause)

    async def _say(self, verb: str, role: str, id: str, mark: int) -> None:
        self._recorder.tried[id] = mark
        for attempt in count(1):
            try:
                entry = await self._send(verb, role, id, mark)
            except (rollcall.Unavailable, rollcall.Busy):
                await asyncio.sleep(0.05)
            except rollcall.RollcallError as error:
                # Of a goodbye said twice the first may have been heard, and its answer not.
                if not (isinstance(error, rollcall.NotFound) and verb == "deregister" and attempt > 1):
                    # The time is that of the workers' logs.
                    at = datetime.now(UTC).isoformat(timespec="milliseconds")
                    self._recorder.oddities.append(f"{at} {verb} {id} mark {mark} attempt {attempt}: {error!r}")
                return
            else:
                self._acknowledged(Said(id, verb, mark, entry.revision))
                return

    async def _send(self, verb: str, role: str, id: str, mark: int) -> Entry:
        labels = {"mark": str(mark)}
        match verb:
            case "register":
                return await self._registry.register(role, id, incarnation=1, ttl=None, labels=labels, timeout=TIMEOUT)
            case "update":
                return await self._registry.update(role, id, {"labels": labels}, timeout=TIMEOUT)
            case _:
                return await self._registry.deregister(role, id, reason=str(mark), timeout=TIMEOUT)

    def _acknowledged(self, said: Said) -> None:
        now = time.monotonic()
        self._recorder.said.append(said)
        self.acknowledged += 1
        self.longest_gap, self._last_at = max(self.longest_gap, now - self._last_at), now
