"""The beacon: where the roll is, told by the leader again and again."""

import asyncio

import structlog
from msgspec import Struct
from nats.aio.client import Client
from nats.aio.msg import Msg

from rollcall.bus.subjects import Subjects
from rollcall.core import codec
from rollcall.core.errors import RollcallError
from rollcall.core.guard import Guard, Guarding
from rollcall.core.instants import Seconds
from rollcall.worker.lead import Lead
from rollcall.worker.roster import Roster

EVERY: Seconds = 2.0
SOONEST: Seconds = 0.1
STALE_AFTER: Seconds = 5.0

log = structlog.get_logger(__name__)


class Beacon:
    """Shines at least every two seconds, and soon after anything in it changed."""

    def __init__(
        self, client: Client, subjects: Subjects, roster: Roster, lead: Lead, *, leader: str, guard: Guard
    ) -> None:
        self._client = client
        self._subject = subjects.beacon
        self._roster = roster
        self._lead = lead
        self._leader = leader
        self._guard = guard

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
        clock = self._roster.clock
        return codec.encode(
            {
                "epoch": self._roster.epoch,
                "revision": self._roster.revision,
                "leader": self._leader,
                "guard": self._guard.says(clock.now(), clock.wall()),
                "inbox": {"waiting": self._lead.waiting},
                "roles": {name: role.revision for name, role in self._roster.roles.items()},
                "sums": {name: role.told for name, role in self._roster.roles.items()},
            }
        )


class _Told(Struct, frozen=True):
    guard: Guarding | None = None
    leader: str = ""


class Ear:
    """Hears the beacon of whoever leads: the guard is the leader's, and every answer repeats it."""

    def __init__(self, client: Client, subjects: Subjects, roster: Roster) -> None:
        self._client = client
        self._subject = subjects.beacon
        self._roster = roster
        self._told = _Told()
        self._at: Seconds = 0.0

    async def listen(self) -> None:
        """Hears beacons from now on."""
        await self._client.subscribe(self._subject, cb=self._on_beacon)

    @property
    def guard(self) -> Guarding | None:
        """What the leader's guard said last."""
        return self._told.guard if self._fresh else None

    @property
    def leader(self) -> str:
        """Who leads; empty when nobody was heard of late."""
        return self._told.leader if self._fresh else ""

    @property
    def _fresh(self) -> bool:
        return self._roster.clock.now() - self._at < STALE_AFTER

    async def _on_beacon(self, message: Msg) -> None:
        try:
            self._told, self._at = codec.decode(message.data, _Told), self._roster.clock.now()
        except RollcallError as error:
            log.warning("a beacon cannot be read", error=str(error))
