"""Forgetting: agents that were lost for long leave the roll, with a tombstone that outlives their late beats."""

import asyncio

from rollcall.core.commands import Expire
from rollcall.core.instants import Seconds
from rollcall.worker.lead import Lead
from rollcall.worker.roster import Roster

LOOK_EVERY: Seconds = 1.0
AT_ONCE = 1000
"""Agents forgotten in one look; more wait for the next."""


class Forgetting:
    """Forgets, while this worker leads, whoever was lost for `after` seconds."""

    def __init__(self, roster: Roster, lead: Lead, *, after: Seconds) -> None:
        self._roster = roster
        self._lead = lead
        self._after = after

    async def run(self) -> None:
        """Looks again and again, until cancelled."""
        while True:
            await asyncio.sleep(min(LOOK_EVERY, self._after / 2))
            horizon = self._roster.clock.now() - self._after
            for place in self._roster.lost_before(horizon, AT_ONCE):
                record = place.record
                reason = f"lost since {record.lost_at}, longer than the {self._after:g} s that lost agents are kept"
                await self._lead.observe(Expire(role=record.role, id=record.id, reason=reason))
