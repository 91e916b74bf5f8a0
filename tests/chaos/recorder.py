"""Writes down what was acknowledged and what a watcher was told, and reads what the roll holds in the end."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import rollcall
from rollcall import Change, Entry, Position, Record
from rollcall.bus.follow import Follower
from rollcall.bus.roll import read_change
from tests.chaos.checker import Held, Observed, Said, Told, violations
from tests.chaos.rig import Rig
from tests.conftest import eventually

SETTLED_WITHIN = 20.0
NOTICED_WITHIN = 6.0
"""Three beacons: so long a watch may take to notice that it missed something."""


class Recorder:
    """One run. `mortal` are the ids that may be lost."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self.said: list[Said] = []
        self.tried: dict[str, int] = {}
        self.told: list[Told] = []
        self.times: list[float] = []
        """When each of `told` was told, in monotonic seconds."""
        self.oddities: list[str] = []
        self.mortal: set[str] = set()
        self._before: list[Held] = []
        self._start = Position()

    @asynccontextmanager
    async def watching(self, url: str = "") -> AsyncIterator[rollcall.Watch]:
        """A watch on a connection of its own, written down while the block runs."""
        async with rollcall.connect(url or self._rig.url, realm=self._rig.realm) as registry:
            watch = registry.watch()
            self._before = [held(entry) for entry in await watch.open()]
            self._start = watch.position
            task = asyncio.create_task(self._listen(watch), name="recorder")
            try:
                yield watch
            finally:
                await watch.close()
                await task

    async def _listen(self, watch: rollcall.Watch) -> None:
        async for change in watch:
            self.told.append(told(change))
            self.times.append(time.monotonic())

    def lost(self) -> set[str]:
        """Who was called lost."""
        return {one.id for one in self.told if one.kind == "lost"}

    def changes(self, id: str) -> list[str]:
        """The kinds of the changes of one agent, in order."""
        return [one.kind for one in self.told if one.id == id]

    def story(self, id: str) -> str:
        """What was acknowledged of an agent and what was told of it, for whoever looks for the fault."""
        said = [f"acknowledged {one.verb} {one.mark} at {one.revision}" for one in self.said if one.id == id]
        told_ = [
            f"{datetime.fromtimestamp(time.time() - time.monotonic() + at, UTC):%H:%M:%S.%f} told {one}"
            for one, at in zip(self.told, self.times, strict=True)
            if one.id == id
        ]
        return "\n".join([f"{id}:", *said[-8:], *told_[-8:]])

    def when(self, kind: str, id: str) -> float | None:
        """When the last such change was told, in monotonic seconds."""
        found = [at for one, at in zip(self.told, self.times, strict=True) if (one.kind, one.id) == (kind, id)]
        return found[-1] if found else None

    async def check(self, watch: rollcall.Watch) -> Observed:
        """Waits until the watcher was told everything; raises when any rule is broken."""
        noticed_by = time.monotonic() + NOTICED_WITHIN
        async with self._rig.registry() as registry:
            while True:
                await eventually(lambda: _all_told(registry, watch), within=SETTLED_WITHIN, what="all told")
                at = watch.position
                seen = await self._observed(registry, watch)
                if watch.position == at and await _all_told(registry, watch):
                    wrong = violations(seen)
                    # A watch notices what it missed with the next beacon, also when it heard what came after.
                    if not wrong or time.monotonic() > noticed_by:
                        break
                    await asyncio.sleep(0.2)
        assert not wrong, f"{len(wrong)} violations:\n" + "\n".join(wrong[:20])
        return seen

    async def _observed(self, registry: rollcall.Registry, watch: rollcall.Watch) -> Observed:
        return Observed(
            said=self.said,
            tried=self.tried,
            before=self._before,
            told=self.told,
            compared_anew=bool(watch.reason),
            listed=[held(entry) for entry in await registry.list()],
            rolled=await self._rolled(),
            kept=await self._kept(registry),
            mortal=frozenset(self.mortal),
            oddities=self.oddities,
        )

    async def _rolled(self) -> list[Told]:
        """Not what anybody remembers, but what the server stored."""
        found: list[Told] = []
        async with self._rig.inside() as inside:
            async for batch in Follower(inside, self._rig.subjects.roll_stream, 0).batches():
                changes = (read_change(stored, stored.headers.get("Rollcall-Epoch", "")) for stored in batch)
                found += [told(change) for change in changes if change is not None]
                if not batch or batch[-1].pending == 0:
                    return found
        return found

    async def _kept(self, registry: rollcall.Registry) -> list[Told] | None:
        position, found = self._start, []
        while True:
            try:
                answer = await registry.since(position)
            except rollcall.Unavailable:
                # A worker whose disk is full refuses what it cannot know; the next one that is asked may be well.
                await asyncio.sleep(0.05)
                continue
            if answer.too_old:
                return None
            found += [told(change) for change in answer.changes]
            if not answer.more:
                return found
            position = Position(answer.epoch, answer.upto)


async def _all_told(registry: rollcall.Registry, watch: rollcall.Watch) -> bool:
    try:
        info = await registry.info(timeout=1)
    except rollcall.Unavailable:
        return False
    return (info["epoch"], info["revision"]) == (watch.position.epoch, watch.position.revision)


def mark(record: Record) -> int:
    return int(record.labels.get("mark", 0))


def held(entry: Entry) -> Held:
    return Held(entry.id, entry.revision, mark(entry), entry.lost_at is not None)


def told(change: Change) -> Told:
    """A goodbye carries its mark in its reason."""
    record, cause = change.record, change.record.cause
    goodbye = change.kind == "deregistered" and change.reason.isdecimal()
    return Told(
        change.id,
        str(change.kind),
        change.epoch,
        change.revision,
        int(change.reason) if goodbye else mark(record),
        record.lost_at is not None,
        (cause.inbox_epoch, cause.seq) if cause is not None else None,
    )
