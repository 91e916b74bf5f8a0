"""From the roll into the directory: once, or as it changes."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from msgspec import Struct

from rollcall import Entry, Invalid, NotFound, Registry, RollcallError, Unavailable
from rollcall.core.instants import Seconds
from rollcall.core.records import ENDINGS, EXTERNAL, Change, Record
from rollcall.faces.files.houmao import directory as places
from rollcall.faces.files.houmao.directory import Directory
from rollcall.faces.files.houmao.mapping import Ended, express, express_external, generation_of, kept, time_in
from rollcall.faces.files.houmao.ownership import LEASE
from rollcall.faces.files.houmao.publish import Since, publish, publish_external, withdraw
from rollcall.faces.files.waiting import news_or_fall

LOOK_EVERY: Seconds = 5.0
"""How often leases are renewed in the files, and files that went away are looked for."""
MANY = 64
"""Changes at once from which everybody is asked for at once."""

log = structlog.get_logger(__name__)


class Left(Struct, frozen=True):
    """An agent that was not written, and why."""

    id: str
    why: str


class Exported(Struct):
    """What became of the agents of a realm in a directory."""

    root: str
    written: int = 0
    unchanged: int = 0
    removed: int = 0
    left: list[Left] = []


def export(
    directory: Directory, entries: Iterable[Entry], now: datetime, advance: Callable[[], object] = lambda: None
) -> Exported:
    """Writes every agent that can be expressed; `advance` is called after each."""
    told = Exported(str(directory.root), left=[])
    for entry in entries:
        _write(directory, entry, now, told)
        advance()
    return told


def _write(directory: Directory, entry: Entry, now: datetime, told: Exported) -> None:
    try:
        if entry.origin == EXTERNAL:
            new = publish_external(directory, express_external(entry))
        else:
            new = publish(directory, express(entry, now), now, Since(time_in(entry.updated_at), kept(entry)))
        told.written += new
        told.unchanged += not new
    except Ended as error:
        told.removed += withdraw(directory, places.LOCAL, entry.id, generation_of(entry))
        told.left.append(Left(entry.id, error.message))
    except RollcallError as error:
        told.left.append(Left(entry.id, error.message))
    except OSError as error:
        told.left.append(Left(entry.id, f"{error.strerror or error}: {directory.root}"))


class Mirroring:
    """Keeps a directory in step with the roll. The roll is the truth; what others write there is left alone until the
    agent changes, and what they take away comes back."""

    def __init__(self, registry: Registry, root: Path) -> None:
        self._registry = registry
        self._directory = Directory(root)
        self._dirty: set[str] = set()
        self._gone: dict[str, Record] = {}
        self._news = asyncio.Event()
        self._missing: set[str] = set()
        self._due: dict[str, tuple[int, datetime]] = {}
        self._trouble: dict[str, str] = {}

    async def run(self) -> AsyncIterator[Exported]:
        """Exports, and then whatever changes; yields what was done. Ends only when it is closed."""
        async with self._registry.watch() as changes:
            following = asyncio.create_task(self._follow(changes), name="houmao: the roll")
            try:
                while True:
                    try:
                        yield await self._all()
                        look_again = time.monotonic() + LOOK_EVERY
                        while await self._heard(following, until=look_again):
                            yield await self._changed()
                    except Unavailable as error:
                        log.warning("the registry does not answer; the files stay as they are", error=error.message)
                        await asyncio.sleep(LOOK_EVERY)
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)

    async def _heard(self, following: asyncio.Task[None], *, until: float) -> bool:
        """Waits for a change; False when none came in time."""
        try:
            # Only waiting may be broken off, never writing.
            async with asyncio.timeout(until - time.monotonic()):
                await news_or_fall(self._news, following)
        except TimeoutError:
            return False
        self._news.clear()
        return True

    async def _follow(self, changes: AsyncIterator[Change]) -> None:
        async for change in changes:
            if change.kind in ENDINGS:
                self._gone[change.id] = change.record
            self._dirty.add(change.id)
            self._news.set()

    async def _changed(self) -> Exported:
        # Whatever comes from now on is of the next time.
        (dirty, self._dirty), (gone, self._gone) = (self._dirty, set()), (self._gone, {})
        try:
            entries = await self._entries(dirty)
        except Unavailable:
            self._dirty |= dirty
            self._gone = {**gone, **self._gone}
            raise
        there = {entry.id for entry in entries}
        told = await asyncio.to_thread(self._export, entries)
        for id, record in gone.items():
            if id not in there:
                told.removed += await asyncio.to_thread(self._withdraw, record, told)
        return self._news_of(told)

    async def _entries(self, ids: set[str]) -> list[Entry]:
        if len(ids) > MANY:
            return [entry for entry in await self._registry.list(exact=True) if entry.id in ids]
        found = await asyncio.gather(*map(self._registry.get, sorted(ids)), return_exceptions=True)
        for error in found:
            if isinstance(error, BaseException) and not isinstance(error, NotFound):
                raise error
        return [entry for entry in found if isinstance(entry, Entry)]

    def _withdraw(self, record: Record, told: Exported) -> bool:
        kind = places.EXTERNAL if record.origin == EXTERNAL else places.LOCAL
        self._due.pop(record.id, None)
        try:
            return withdraw(self._directory, kind, record.id, generation_of(record))
        except (OSError, Invalid) as error:
            told.left.append(Left(record.id, f"its record is not removed: {error}"))
            return False

    async def _all(self) -> Exported:
        """Everybody of whom there is news: leases move on, and files may have been taken away."""
        entries = list(await self._registry.list(exact=True))
        return self._news_of(await asyncio.to_thread(self._renew, entries))

    def _renew(self, entries: list[Entry]) -> Exported:
        now = datetime.now(UTC)
        try:
            there = {kind: self._directory.recorded(kind) for kind in (places.LOCAL, places.EXTERNAL)}
        except OSError as error:
            return Exported(str(self._directory.root), left=[Left("", f"{error.strerror}: {self._directory.root}")])
        missing = {entry.id for entry in entries if entry.id not in there[_kind(entry)] and entry.id in self._due}
        # Whoever took one record away may be about to say so on the roll.
        patient = missing - self._missing if len(missing) < len(self._due) else set()
        self._missing = missing
        wanted = [
            entry for entry in entries if entry.id not in patient and (entry.id in missing or self._is_due(entry, now))
        ]
        return self._export(wanted)

    def _export(self, entries: list[Entry]) -> Exported:
        now = datetime.now(UTC)
        told = export(self._directory, entries, now)
        failed = {one.id for one in told.left}
        for entry in entries:
            if entry.id not in failed:
                self._due[entry.id] = (entry.revision, now + _rest(entry, now))
        return told

    def _is_due(self, entry: Entry, now: datetime) -> bool:
        revision, due = self._due.get(entry.id, (0, now))
        return revision != entry.revision or due <= now

    def _news_of(self, told: Exported) -> Exported:
        """Each trouble is told once, until it is another one."""
        new = [one for one in told.left if self._trouble.get(one.id) != one.why]
        self._trouble |= {one.id: one.why for one in told.left}
        return Exported(told.root, told.written, told.unchanged, told.removed, new)


def _kind(entry: Record) -> str:
    return places.EXTERNAL if entry.origin == EXTERNAL else places.LOCAL


def _rest(entry: Entry, now: datetime) -> timedelta:
    """How long the lease in a file is good for: half of what it has."""
    if entry.expires_at is None:
        return LEASE / 4
    return (time_in(entry.expires_at) - now) / 2
