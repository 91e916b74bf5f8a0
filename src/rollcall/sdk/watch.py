"""Every change, once, in order, without gaps; for any number of watchers.

Listening starts before asking, so nothing falls between the two. A change is dropped when the answer knew it already.
Each change names the one before it of its agent, the beacon the last one of each role and the sum of all; these, and
every reconnect, show whether something was missed. Then the registry is asked what changed since. When that is too
old to say, or the roll was replaced, the agents as they are are compared with the agents as they were known, and the
difference is told as changes.
"""

import asyncio
from collections.abc import AsyncIterator
from enum import StrEnum
from typing import Protocol

import structlog
from msgspec import Struct
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from rollcall.bus import headers as h
from rollcall.bus.connection import barrier, subscribe_all
from rollcall.bus.roll import read_broadcast
from rollcall.bus.subjects import Subjects, token
from rollcall.core import codec
from rollcall.core.errors import RollcallError, Unavailable
from rollcall.core.healing import Healed
from rollcall.core.instants import Seconds
from rollcall.core.names import checked_name
from rollcall.core.records import ENDINGS, Change, Entry, Record
from rollcall.sdk.difference import difference

STALE_AFTER: Seconds = 5.0
"""Two beacons and a half without one: the registry cannot be heard."""

MISSED_AFTER: Seconds = 0.2
"""How long a change that the beacon names may still be on its way."""

ASK_AGAIN: Seconds = 0.5

log = structlog.get_logger(__name__)


class Position(Struct, frozen=True):
    """A place in a roll; `epoch` says which roll. Empty: from now on."""

    epoch: str = ""
    revision: int = 0


class View(StrEnum):
    """What a watcher may believe of what it holds."""

    UNPOPULATED = "unpopulated"
    CURRENT = "current"
    STALE = "stale"


class Answered(Protocol):
    """An answer to `since`."""

    @property
    def changes(self) -> list[Change]: ...
    @property
    def agents(self) -> tuple[Entry, ...]: ...
    @property
    def next(self) -> str | None: ...
    @property
    def too_old(self) -> bool: ...
    @property
    def upto(self) -> int: ...
    @property
    def more(self) -> bool: ...
    @property
    def epoch(self) -> str: ...
    @property
    def revision(self) -> int: ...
    @property
    def healed(self) -> Healed | None: ...


ANYWHERE = Position()
"""Says nothing about what an answer must know."""

NOWHERE = Position("-", 0)
"""A position of no roll: always too old, so the answer holds the agents themselves."""


class Asker(Protocol):
    """What a watch needs of the registry."""

    def saw(self, position: Position) -> None: ...

    async def since(
        self, position: Position, *, role: str = ..., cursor: str = ..., at_least: Position = ...
    ) -> Answered: ...


class _Beacon(Struct, frozen=True):
    epoch: str = ""
    revision: int = 0
    leader: str = ""
    roles: dict[str, int] = {}
    sums: dict[str, int] = {}


class _Heard(Struct, frozen=True):
    """A change as it was broadcast, and the revision of its agent before that."""

    change: Change
    before: int


class Watch:
    """An asynchronous iterator of changes. `position` may be kept and given to the next watch to resume.

    `state` says what to believe: a watch that cannot hear the registry is stale, and never says that all are gone.
    """

    def __init__(
        self,
        client: Client,
        subjects: Subjects,
        asker: Asker,
        role: str | None,
        *,
        since: Position | None,
        registered: "set[Watch]",
    ) -> None:
        self._client = client
        self._subjects = subjects
        self._asker = asker
        self._role = checked_name("role", role) if role is not None else ""
        self._registered = registered
        self._subscriptions: list[Subscription] = []
        self._heard: asyncio.Queue[_Heard | _Beacon | None] = asyncio.Queue()
        self._ready: list[Change] = []
        self._known: dict[str, Entry | Record] = {}
        # Everything up to `_whole` was told, and of what came later just these revisions.
        self._whole = 0
        self._later: set[int] = set()
        self._compared: _Beacon | None = None
        self._wanted = since
        self._opened = False
        self._closed = False
        self._beacon_at: Seconds | None = None
        self._reconnects = 0
        self.position = since or Position()
        self._whole = self.position.revision
        self.reason = ""
        """Why the view had to be made anew last, in words; empty when it never had."""

    @property
    def state(self) -> View:
        """What to believe of what this watch has told."""
        if not self._opened:
            return View.UNPOPULATED
        heard = self._beacon_at is not None and _now() - self._beacon_at < STALE_AFTER
        return View.CURRENT if heard and self._client.is_connected else View.STALE

    async def open(self) -> list[Entry]:
        """Begins to listen; returns the agents as they are. Called by the first step of the iteration otherwise.

        Raises:
            Unavailable: nobody answers.
        """
        if self._opened:
            return []
        self._registered.add(self)
        which = f"{token(self._role)}.*" if self._role else "*.*"
        self._subscriptions = [
            await subscribe_all(self._client, self._subjects.changes(which), self._on_change),
            await self._client.subscribe(self._subjects.beacon, cb=self._on_beacon),
        ]
        await barrier(self._client)
        if self._wanted is None:
            agents = await self._snapshot()
        else:
            # Whoever resumes has seen the agents as they were; only what changed since is news.
            agents = []
            await self._catch_up()
        self._reconnects = self._client.stats["reconnects"]
        self._beacon_at = _now()
        self._opened = True
        return agents

    async def close(self) -> None:
        """Stops listening; the iteration ends."""
        if self._closed:
            return
        self._closed = True
        self._registered.discard(self)
        self._heard.put_nowait(None)
        if not self._client.is_closed:
            for subscription in self._subscriptions:
                await subscription.unsubscribe()

    async def __aenter__(self) -> "Watch":
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[Change]:
        return self

    async def __anext__(self) -> Change:
        if not self._opened and not self._closed:
            await self.open()
        while not self._ready:
            if self._closed:
                raise StopAsyncIteration
            await self._hear()
        return self._ready.pop(0)

    async def _hear(self) -> None:
        heard = await self._heard.get()
        if self._client.stats["reconnects"] != self._reconnects:
            self._reconnects = self._client.stats["reconnects"]
            await self._catch_up()
        match heard:
            case _Heard():
                await self._on_told(heard)
            case _Beacon():
                await self._compare(heard)

    async def _on_told(self, heard: _Heard) -> None:
        change = heard.change
        if change.epoch != self.position.epoch:
            return  # a roll that is being made, or was; the beacon says when there is another one
        if self._missed_before(heard):
            # Whoever answers may be behind whoever told us.
            before = heard.before if self._role else change.revision - 1
            await self._catch_up(Position(change.epoch, before))
        if change.epoch == self.position.epoch and not self._has(change.revision):
            self._tell(change)

    def _has(self, revision: int) -> bool:
        return revision <= self._whole or revision in self._later

    def _missed_before(self, heard: _Heard) -> bool:
        """Whether a change of the same agent came between; of all roles together, whether any did."""
        if self._has(heard.change.revision):
            return False
        if not self._role:
            return heard.change.revision != self.position.revision + 1
        return not self._has(heard.before)

    async def _compare(self, beacon: _Beacon) -> None:
        """Asks when the beacon names a change that has not come, or more of them than were told."""
        newest = beacon.roles.get(self._role, 0) if self._role else max(beacon.roles.values(), default=0)
        if beacon.epoch != self.position.epoch:
            await self._catch_up()
        elif newest > self.position.revision:
            if self._heard.empty():
                await asyncio.sleep(MISSED_AFTER)
                if self._heard.empty():
                    await self._catch_up()
        elif self._role and not self._sums_agree(beacon, newest):
            await self._catch_up()

    def _sums_agree(self, beacon: _Beacon, newest: int) -> bool:
        """Whether the leader's sum grew by just what was told since the beacon before; each leader sums for itself."""
        last, self._compared = self._compared, beacon
        if last is None or (last.leader, last.epoch) != (beacon.leader, beacon.epoch):
            return not self._later
        since = last.roles.get(self._role, 0)
        told = sum(revision for revision in self._later if since < revision <= newest)
        if beacon.sums.get(self._role, 0) - last.sums.get(self._role, 0) != told and newest > self._whole:
            return False
        self._settle(newest)
        return True

    def _settle(self, revision: int) -> None:
        """Everything up to `revision` was told."""
        self._whole = max(self._whole, revision)
        self._later = {later for later in self._later if later > self._whole}

    async def _catch_up(self, at_least: Position = ANYWHERE) -> None:
        """Tells everything after the position, up to `at_least`; asked until the registry answers."""
        while not self._closed:
            try:
                if await self._ask_since(at_least):
                    return
            except Unavailable as error:
                log.debug("the watch cannot ask; tries again", error=str(error))
                await asyncio.sleep(ASK_AGAIN)

    async def _ask_since(self, at_least: Position) -> bool:
        """One page of what changed; True when that was the last."""
        asked = Position(self.position.epoch, self._whole)
        answer = await self._asker.since(asked, role=self._role, at_least=at_least)
        if answer.epoch < asked.epoch:
            raise Unavailable("a worker answered that has not changed over to the present roll yet")
        if answer.too_old:
            why = "it was away longer than history reaches"
            if answer.epoch != asked.epoch:
                why = f"the roll was replaced ({answer.healed.why if answer.healed else 'it is another one'})"
            self.reason = f"{why}: {asked.epoch}/{asked.revision} -> {answer.epoch}/{answer.revision}"
            log.info("the watch compares everything anew", why=self.reason)
            before = dict(self._known)
            await self._snapshot(Position(answer.epoch, answer.revision))
            self._ready += difference(
                before, self._known, epoch=self.position.epoch, revision=self.position.revision, reason=self.reason
            )
            return True
        if answer.epoch != asked.epoch:
            # It holds nothing of the roll that was asked about.
            return False
        for change in answer.changes:
            if not self._has(change.revision):
                self._tell(change)
        self._settle(answer.upto)
        self.position = Position(answer.epoch, max(self.position.revision, answer.upto))
        return not answer.more

    async def _snapshot(self, known: Position = ANYWHERE) -> list[Entry]:
        """The agents as they are, not before `known`; the position is that of the first page."""
        agents: list[Entry] = []
        cursor, first = "", Position()
        while True:
            # Pages may come from several workers: none may know less than the one before.
            page = await self._asker.since(NOWHERE, role=self._role, cursor=cursor, at_least=first if cursor else known)
            if first.epoch not in ("", page.epoch):
                # The roll was replaced between two pages.
                agents, cursor, first = [], "", Position()
                continue
            first = first if first.epoch else Position(page.epoch, page.revision)
            agents += page.agents
            if page.next is None:
                break
            cursor = page.next
        self.position, self._whole, self._later, self._compared = first, first.revision, set(), None
        self._known = {entry.id: entry for entry in agents}
        return agents

    def _tell(self, change: Change) -> None:
        known = self._known.get(change.id)
        self.position = Position(change.epoch, max(self.position.revision, change.revision))
        if self._role:
            self._later.add(change.revision)
        else:
            # Of all roles together none is between one revision and the next.
            self._whole = change.revision
        if isinstance(known, Entry) and change.revision <= known.revision:
            # A later page of the snapshot knew it already.
            return
        if change.kind in ENDINGS:
            self._known.pop(change.id, None)
        else:
            self._known[change.id] = change.record
        self._ready.append(change)
        # The broadcast is faster than the workers fold: who hears it and asks must not be answered from before.
        self._asker.saw(self.position)

    async def _on_change(self, message: Msg) -> None:
        change = read_broadcast(message)
        if change is not None:
            before = int((message.headers or {}).get(h.LAST_SEQUENCE, "0"))
            self._heard.put_nowait(_Heard(change, before))

    async def _on_beacon(self, message: Msg) -> None:
        self._beacon_at = _now()
        try:
            self._heard.put_nowait(codec.decode(message.data, _Beacon))
        except RollcallError as error:
            log.warning("a beacon cannot be read", error=str(error))


def _now() -> Seconds:
    return asyncio.get_running_loop().time()
