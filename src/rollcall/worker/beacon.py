"""The beacon: where the roll is, told by the leader again and again."""

import asyncio

from nats.aio.client import Client

from rollcall.bus.subjects import Subjects
from rollcall.core import codec
from rollcall.core.instants import Seconds
from rollcall.worker.lead import Lead
from rollcall.worker.roster import Roster

EVERY: Seconds = 2.0
SOONEST: Seconds = 0.1


class Beacon:
    """Shines at least every two seconds, and soon after anything in it changed."""

    def __init__(self, client: Client, subjects: Subjects, roster: Roster, lead: Lead, *, leader: str) -> None:
        self._client = client
        self._subject = subjects.beacon
        self._roster = roster
        self._lead = lead
        self._leader = leader

    async def shine(self) -> None:
        """Shines until cancelled."""
        last, shone_at = b"", -EVERY
        while True:
            body = self._body()
            now = self._roster.clock.now()
            if body != last or now - shone_at >= EVERY:
                await self._client.publish(self._subject, body)
                last, shone_at = body, now
            await asyncio.sleep(SOONEST)

    def _body(self) -> bytes:
        return codec.encode(
            {
                "epoch": self._roster.epoch,
                "revision": self._roster.revision,
                "leader": self._leader,
                "guard": None,
                "inbox": {"waiting": self._lead.waiting},
                "roles": {name: role.revision for name, role in self._roster.roles.items()},
            }
        )
