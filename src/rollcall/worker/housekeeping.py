"""What every worker does beside: bring to disk when agents were seen, end tombstones, keep history in bounds.

A disk that takes nothing now ends none of this; it is tried again the next time.
"""

import asyncio

import structlog
from nats.aio.client import Client

from rollcall.bus import streams
from rollcall.bus.subjects import Subjects, key, names
from rollcall.core import codec
from rollcall.core.errors import Unavailable
from rollcall.core.instants import Seconds
from rollcall.store.rows import Seen
from rollcall.worker.commit import Committer
from rollcall.worker.roster import Roster
from rollcall.worker.settings import WorkerSettings

SAVE_SEEN_EVERY: Seconds = 1.0
TIDY_EVERY: Seconds = 5.0
PRUNE_EVERY: Seconds = 60.0

log = structlog.get_logger(__name__)


class Housekeeping:
    """The housekeeping of one worker."""

    def __init__(
        self, client: Client, subjects: Subjects, settings: WorkerSettings, roster: Roster, committer: Committer
    ) -> None:
        self._client = client
        self._subjects = subjects
        self._settings = settings
        self._roster = roster
        self._committer = committer

    async def drop_what_ended(self) -> None:
        """Forgets agents whose tombstone came and ended while no worker of this snapshot listened."""
        end = self._roster.revision
        known = sum(1 for _ in self._roster.places())
        if known <= (await streams.state(self._client, self._subjects.roll_stream)).subjects:
            # Whatever the roll holds was folded, so as many subjects as places means the same ones.
            return
        held = await streams.subjects_held(self._client, self._subjects.roll_stream)
        gone = [
            place.record.id
            for place in self._roster.places()
            if place.revision <= end and self._subjects.roll(key(place.record.role, place.record.id)) not in held
        ]
        if gone:
            log.info("forgets what the roll no longer holds", agents=len(gone))
            await self._forget(gone)
            # When they left, nobody here saw.
            await self._committer.settled()
            now = self._roster.clock.wall()
            await self._committer.call(self._committer.snapshot.rebase, self._roster.revision, now)

    async def save_seen(self) -> None:
        """Brings to disk, once a second, when agents were last heard."""
        while True:
            await asyncio.sleep(SAVE_SEEN_EVERY)
            await self.see()

    async def see(self) -> None:
        """Stores what beats told since the last time, in one transaction."""
        batch = []
        for key_, lease in self._roster.leases.unsaved():
            lease.unsaved = False
            health = codec.encode(lease.beat.health).decode() if lease.beat is not None else None
            batch.append(Seen(names(key_)[1], lease.seen_at or 0, health))
        if not batch:
            return
        try:
            await self._committer.call(self._committer.snapshot.see, batch)
        except Unavailable as error:
            log.warning("when agents were seen is not saved", error=str(error))

    async def tidy(self) -> None:
        """Ends tombstones by time: on the server they end silently."""
        while True:
            await asyncio.sleep(TIDY_EVERY)
            horizon = self._roster.clock.wall() - round((self._settings.tombstone_ttl + 1) * 1000)
            ended = self._roster.ended_tombstones(horizon)
            if ended and not self._committer.trouble:
                await self._forget(ended)

    async def prune(self) -> None:
        """Keeps history in its bounds."""
        while True:
            await asyncio.sleep(PRUNE_EVERY)
            before = self._roster.clock.wall() - round(self._settings.history_age * 1000)
            try:
                await self._committer.call(
                    self._committer.snapshot.prune, keep=self._settings.history_rows, before=before
                )
            except Unavailable as error:
                log.warning("history is not pruned", error=str(error))

    async def _forget(self, ids: list[str]) -> None:
        for id in ids:
            self._roster.forget(id)
        try:
            await self._committer.call(self._committer.snapshot.forget, ids)
        except Unavailable as error:
            log.warning("who is gone stays on disk; the next start forgets them", error=str(error))
