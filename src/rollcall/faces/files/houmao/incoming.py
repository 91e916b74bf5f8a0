"""From the directory into the roll: once, or as files change."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import structlog
import watchfiles
from msgspec import Struct

from rollcall import Entry, Invalid, Mode, NotFound, Registry, RollcallError, Unavailable
from rollcall.core import codec
from rollcall.core.instants import Seconds
from rollcall.core.liveness import as_entry
from rollcall.faces.files.houmao import directory as places
from rollcall.faces.files.houmao.departed import Departed
from rollcall.faces.files.houmao.directory import RECORD, Directory
from rollcall.faces.files.houmao.mapping import (
    OWNER,
    external_fields,
    fields_of,
    patch_of,
)
from rollcall.faces.files.houmao.news import Asks, Stale, asks, external_asks
from rollcall.faces.files.houmao.ownership import fresh
from rollcall.faces.files.houmao.publish import check_secrets
from rollcall.faces.files.houmao.reading import Found, Ids, Misplaced, Read, Reading, Same, Skipped
from rollcall.faces.files.houmao.record import ExternalRecord, LocalRecord

AT_ONCE = 500
"""Records that are read, and registrations that are sent, together."""
ON_THEIR_WAY = 4
"""Times so many that wait for their outcomes: the worker's disk need not be waited for."""
PAST = 16
"""Earlier states of an agent that are known again in a file."""
LOOK_EVERY: Seconds = 30.0
"""How often the whole directory is looked at, whatever was heard of it."""
LOOK_AGAIN: Seconds = 1.0
BELIEVED = 0.15
AT_LEAST = 5
"""Records that may vanish at once and are believed; beyond it, and beyond that part of them, the directory was lost."""

log = structlog.get_logger(__name__)


class Refused(Struct, frozen=True):
    """A record that the roll does not take."""

    id: str
    error: str
    message: str


class Imported(Struct):
    """What became of the records of a directory."""

    root: str
    registered: int = 0
    updated: int = 0
    unchanged: int = 0
    deregistered: int = 0
    stale: list[Skipped] = []
    refused: list[Refused] = []


New = tuple[Read, dict[str, Any]]
"""A record, and the fields with which its agent is registered."""


class Incoming:
    """Takes records in. What was read before, and is the same, is not looked at again."""

    def __init__(self, registry: Registry, root: Path) -> None:
        self._registry = registry
        self._directory = Directory(root)
        self._reading = Reading(self._directory)
        self._troubles: dict[str, str] = {}

    async def take_in(self, only: Ids | None = None, advance: Callable[[int], object] = lambda _: None) -> Imported:
        """Takes in the records of the directory, or `only` those of these ids, by kind."""
        told = Imported(str(self._directory.root), stale=[], refused=[])
        known, found = await self._known(only), self._reading.found(only)
        sending: deque[asyncio.Task[None]] = deque()
        departed = Departed(self._registry)
        some = await asyncio.to_thread(_next, found)
        try:
            while some:
                # The next ones are read while these are on their way.
                following = asyncio.create_task(asyncio.to_thread(_next, found))
                try:
                    new = await self._take(some, known, departed, told)
                finally:
                    waiting, some = len(some), await following
                if len(sending) >= ON_THEIR_WAY:
                    await sending.popleft()
                sending.append(asyncio.create_task(self._register(new, told)))
                advance(waiting)
            while sending:
                await sending.popleft()
        finally:
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)
        return told

    async def _known(self, only: Ids | None) -> dict[str, Entry]:
        wanted = None if only is None else {id for ids in only.values() for id in ids}
        if wanted is None or len(wanted) > PAST:
            return {entry.id: entry for entry in await self._registry.list(exact=True)}
        found = {}
        for id in wanted:
            with contextlib.suppress(NotFound):
                found[id] = await self._registry.get(id)
        return found

    async def _take(self, some: list[Found], known: dict[str, Entry], departed: Departed, told: Imported) -> list[New]:
        """Does what these ask; who is to be registered is given back, to be sent together."""
        now = datetime.now(UTC)
        new: list[New] = []
        new_ids = [one.id for one in some if isinstance(one, Read) and one.id not in known]
        left = await departed.generations(new_ids)
        for one in some:
            match one:
                case Same():
                    told.unchanged += 1
                case Skipped():
                    told.stale.append(one)
                case Misplaced(id, error):
                    told.refused.append(Refused(id, error.code, error.message))
                case Read(kind, id, data, record):
                    try:
                        if left.get(id) == record.generation_id:
                            raise Invalid(f"generation `{left[id]}` left the roll; remove the record, or start it anew")
                        fields = await self._step(record, known.get(id), now, told)
                    except Invalid as error:
                        told.stale.append(Skipped(self._reading.path(kind, id), error.message))
                    except Unavailable:
                        raise
                    except RollcallError as error:
                        told.refused.append(Refused(id, error.code, error.message))
                    else:
                        if fields is None:
                            self._reading.taken_in[kind, id] = data
                        else:
                            new.append((one, fields))
        return new

    async def _step(
        self, record: LocalRecord | ExternalRecord, entry: Entry | None, now: datetime, told: Imported
    ) -> dict[str, Any] | None:
        """Does what a record asks; what is to be registered is given back, to be sent with others."""
        if isinstance(record, ExternalRecord):
            asked: Asks | Stale = external_asks(record, entry)
        else:
            asked = asks(record, entry, (), now)
            if entry is not None and asked not in (Asks.NOTHING, Asks.RENEW):
                asked = asks(record, entry, await self._past(entry), now)
        match asked:
            case Stale(why):
                raise Invalid(why)
            case Asks.NOTHING:
                told.unchanged += 1
                return None
        check_secrets(record)
        if entry is None:
            return fields_of(record, None, now) if isinstance(record, LocalRecord) else external_fields(record)
        if isinstance(record, LocalRecord) and asked is not Asks.TAKE_OVER:
            patch, alive = patch_of(record, entry, now), fresh(record, now)
            await self._registry.update(entry.role, entry.id, patch, expected=entry.revision, beat=alive)
        elif isinstance(record, LocalRecord):
            await self._take_over(entry, fields_of(record, entry, now))
        else:
            await self._take_over(entry, external_fields(record))
        told.updated += 1
        return None

    async def _past(self, entry: Entry) -> list[Entry]:
        """What the roll said of an agent before."""
        changes = await self._registry.history(entry.id, limit=PAST)
        return [as_entry(change.record, change.revision) for change in changes]

    async def _take_over(self, entry: Entry, fields: dict[str, Any]) -> None:
        if fields["role"] != entry.role:
            await self._registry.deregister(
                entry.role, entry.id, incarnation=entry.incarnation, reason=f"its tool is {fields['role']} now"
            )
            await self._registry.announce(codec.as_profile(fields), Mode.CREATE)
            return
        await self._registry.announce(codec.as_profile(fields), Mode.TAKEOVER, expected=entry.revision)

    async def _register(self, new: list[New], told: Imported) -> None:
        outcomes = await self._registry.register_many([fields for _, fields in new], mode=Mode.CREATE, timeout=30)
        for (one, _), outcome in zip(new, outcomes, strict=True):
            if isinstance(outcome, Unavailable):
                raise outcome
            if isinstance(outcome, RollcallError):
                told.refused.append(Refused(one.id, outcome.code, outcome.message))
            else:
                self._reading.taken_in[one.kind, one.id] = one.data
                told.registered += 1

    def news_of(self, told: Imported) -> Imported:
        """What was done, with each trouble told once, until it is another one."""
        stale = [one for one in told.stale if self._troubles.get(one.path) != one.why]
        refused = [one for one in told.refused if self._troubles.get(one.id) != one.message]
        self._troubles |= {one.path: one.why for one in stale} | {one.id: one.message for one in refused}
        return Imported(told.root, told.registered, told.updated, told.unchanged, told.deregistered, stale, refused)

    async def vanished(self, told: Imported) -> None:
        """Deregisters agents of the directory whose records were taken away."""
        gone = await asyncio.to_thread(self._reading.vanished)
        if len(gone) > AT_LEAST:
            there = {entry.id for entry in await self._registry.list(exact=True)}
            for kind, id in [one for one in gone if one[1] not in there]:
                self._reading.taken_in.pop((kind, id))
            gone = [one for one in gone if one[1] in there]
        if len(gone) > max(AT_LEAST, BELIEVED * len(self._reading.taken_in)):
            log.warning(
                "very many records vanished at once; nobody is deregistered for that",
                records=len(gone),
                root=str(self._directory.root),
            )
            return
        for kind, id in gone:
            data = self._reading.taken_in.pop((kind, id))
            try:
                told.deregistered += await self._deregister(self._reading.record(kind, id, data))
            except Unavailable:
                self._reading.taken_in[kind, id] = data
                raise
            except RollcallError as error:
                told.refused.append(Refused(id, error.code, error.message))

    async def _deregister(self, record: LocalRecord | ExternalRecord) -> bool:
        """Takes the agent of a record off the roll; whether it was there, in this generation."""
        id = record.agent_id if isinstance(record, LocalRecord) else record.external_agent_id
        try:
            entry = await self._registry.get(id)
            # An agent that only was mirrored there lives on; its file comes back.
            if entry.owner != OWNER + record.generation_id:
                return False
            reason = "its record was removed from the registry directory"
            await self._registry.deregister(entry.role, id, incarnation=entry.incarnation, reason=reason)
        except NotFound:
            return False
        return True


def _next(found: Iterator[Found]) -> list[Found]:
    return list(islice(found, AT_ONCE))


async def watch(registry: Registry, root: Path) -> AsyncIterator[Imported]:
    """Takes everything in, and then whatever changes; yields what was done. Ends only when it is closed."""
    incoming = Incoming(registry, root)
    while True:
        async for changed in _changes(root):
            try:
                told = await incoming.take_in(changed)
                await incoming.vanished(told)
            except Unavailable as error:
                log.warning("the registry does not answer; what changed is taken in later", error=error.message)
                break
            yield incoming.news_of(told)
        await asyncio.sleep(LOOK_AGAIN)


async def _changes(root: Path) -> AsyncIterator[dict[str, set[str]] | None]:
    """Which ids changed, by kind; None for whatever may have. Ends when another directory is there, or none."""
    watched, looked = _identity(root), 0.0
    yield None
    if watched is None:
        return
    try:
        async for changes in watchfiles.awatch(
            root, watch_filter=None, step=20, debounce=200, rust_timeout=round(LOOK_AGAIN * 1000), yield_on_timeout=True
        ):
            if _identity(root) != watched:
                return
            if changes:
                yield _ids(root, changes)
            elif not looked or time.monotonic() - looked > LOOK_EVERY:
                # Once more at first: between the look before and the first watching something may have happened.
                looked = time.monotonic()
                yield None
    except (OSError, RuntimeError) as error:
        log.debug("the directory cannot be watched now", error=str(error))


def _identity(root: Path) -> tuple[int, int] | None:
    """Which directory it is; None while there is none."""
    try:
        found = root.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _ids(root: Path, changes: set[tuple[watchfiles.Change, str]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {places.LOCAL: set(), places.EXTERNAL: set()}
    for _, path in changes:
        parts = Path(path).relative_to(root).parts
        if len(parts) >= 2 and parts[0] in found and (len(parts) == 2 or parts[2] == RECORD):
            found[parts[0]].add(parts[1])
    return found
