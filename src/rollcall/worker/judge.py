"""The leader's judgement of life: who is suspect, who is lost, who is back.

*Lost* rests on hearing, not on the roll, so it is said only while the leader lease is fresh and this process heard
everything: a sweep that came late gives every lease what was missed and judges nobody.
"""

import asyncio
from collections.abc import Callable

import structlog
from nats.aio.client import Client

from rollcall.bus import headers as h
from rollcall.bus.subjects import Subjects, names
from rollcall.core import codec
from rollcall.core.commands import Lose, Recover
from rollcall.core.errors import RollcallError
from rollcall.core.instants import Seconds, timestamp
from rollcall.core.leases import Lease, Stage
from rollcall.core.liveness import liveness
from rollcall.core.records import Liveness
from rollcall.worker.lead import Lead
from rollcall.worker.roster import Roster

SWEEP_EVERY: Seconds = 0.1
LAG: Seconds = 0.5
"""A sweep later than this by itself means that beats may wait unheard."""

REFUSALS_PER_SECOND = 100

log = structlog.get_logger(__name__)


class Judge:
    """Judges while this worker leads; `fresh` says whether its lease may be relied on at this moment."""

    def __init__(
        self, client: Client, subjects: Subjects, roster: Roster, lead: Lead, *, fresh: Callable[[], bool]
    ) -> None:
        self._client = client
        self._subjects = subjects
        self._roster = roster
        self._lead = lead
        self._fresh = fresh
        self._refused: set[str] = set()
        self._refused_since: Seconds = 0.0

    async def sweep(self) -> None:
        """Looks for leases that are due, until cancelled."""
        clock = self._roster.clock
        last = clock.now()
        while True:
            await asyncio.sleep(SWEEP_EVERY)
            now = clock.now()
            late, last = now - last - SWEEP_EVERY, now
            if late > LAG:
                log.warning("this worker stood still; every lease gets what was missed", seconds=round(late, 3))
                self._roster.leases.extend(late)
            elif self._fresh():
                await self._judge(now)

    async def again(self, key: str, lease: Lease) -> None:
        """A lost agent beats: it is live again."""
        role, id = names(key)
        lease.told = ""
        await self._lead.observe(Recover(role=role, id=id))

    async def sign(self, key: str, lease: Lease) -> None:
        """Tells when an agent begins or ends to be suspect or stuck."""
        _, id = names(key)
        place = self._roster.standing(id)
        if place is None:
            return
        believed = liveness(place.record, lease, self._roster.clock.now())
        if believed == (lease.told or Liveness.LIVE):
            return
        lease.told = "" if believed is Liveness.LIVE else believed
        seen = timestamp(lease.seen_at) if lease.seen_at is not None else None
        body = codec.encode({"liveness": believed, "last_seen": seen, "revision": place.revision})
        await self._client.publish(self._subjects.signs(key), body)

    async def refused(self, key: str, error: RollcallError) -> None:
        """Tells that a beat renewed nothing: once a second for an agent, and not more often than bounds allow."""
        now = self._roster.clock.now()
        if now - self._refused_since >= 1:
            self._refused, self._refused_since = set(), now
        if key in self._refused or len(self._refused) >= REFUSALS_PER_SECOND:
            return
        self._refused.add(key)
        try:
            names(key)
        except RollcallError:
            # Whoever spells no name cannot be listening for it.
            return
        body = codec.encode_error(type(error)(error.message, command="heartbeat"))
        headers = {h.ERROR_CODE: str(error.status), h.ERROR: error.code}
        await self._client.publish(self._subjects.rejected(key), body, headers=headers)

    async def _judge(self, now: Seconds) -> None:
        for key, lease, stage in self._roster.leases.due(now):
            if stage is Stage.FRESH:
                await self.sign(key, lease)
            else:
                role, id = names(key)
                await self._lead.observe(Lose(role=role, id=id, reason=f"no heartbeat for {now - lease.at:.1f} s"))
