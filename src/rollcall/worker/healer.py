"""Making a roll from what a worker knows, when there is none or not the one that there was.

While it is made it has no epoch, so nobody follows it. Sequences go on above all that were ever folded: a revision
never comes back, whatever was lost. Only the holder of the leader lease does this.
"""

import asyncio
from collections.abc import Callable

import structlog
from nats.aio.client import Client

from rollcall.bus import shapes, streams, swift
from rollcall.bus.roll import Ack, Roll, Written
from rollcall.bus.streams import StreamState
from rollcall.bus.subjects import Subjects, key
from rollcall.core import codec
from rollcall.core.errors import Unavailable
from rollcall.core.healing import Healed, Standing, Verdict, began
from rollcall.core.instants import Milliseconds, timestamp
from rollcall.core.records import Place
from rollcall.worker.roster import Roster, order

log = structlog.get_logger(__name__)


class Seeding:
    """Places on their way into the roll, and what became of each."""

    def __init__(self, roll: Roll, *, epoch: str, reason: str) -> None:
        self._roll = roll
        self._epoch = epoch
        self._reason = reason
        self._open = 0
        self._done = asyncio.Event()
        self.written = 0
        self.last = 0
        self.failed = ""

    async def write(self, place: Place, *, expected: int) -> None:
        """Writes a place if the roll still holds `expected` for its id."""
        record = place.record
        lines: list[swift.Line] = self._roll.change_lines(place.kind, epoch=self._epoch, reason=self._reason)
        self._open += 1
        data = codec.encode_record(record)
        await self._roll.write(key(record.role, record.id), data, lines, expected=expected, done=self._on_ack)

    async def settled(self) -> None:
        """Returns when every write is answered."""
        while self._open:
            self._done.clear()
            await self._done.wait()

    def _on_ack(self, ack: Ack) -> None:
        self._open -= 1
        self._done.set()
        if isinstance(ack, Written):
            self.written += 1
            self.last = max(self.last, ack.revision)
        else:
            self.failed = repr(ack)


class Healer:
    """Seeds the roll from the roster. `standing` says how far that is; `judge` looks at the roll that is there."""

    def __init__(
        self,
        client: Client,
        subjects: Subjects,
        roster: Roster,
        *,
        replicas: int,
        tombstone_ttl: float,
        standing: Callable[[], Standing],
    ) -> None:
        self._client = client
        self._subjects = subjects
        self._roster = roster
        self._replicas = replicas
        self._tombstone_ttl = tombstone_ttl
        self._standing = standing

    async def heal(self, verdict: Verdict, why: str, now: Milliseconds) -> None:
        """Makes the roll anew if the verdict on it is that it must be.

        Raises:
            Unavailable: the server did not do it; the roll still has no epoch, so it is tried again.
        """
        if verdict is not Verdict.UNSOUND:
            return
        known, stream = self._standing(), self._subjects.roll_stream
        roll = await streams.ensure(self._client, shapes.roll_config(self._subjects, self._replicas), epoch="")
        epoch = streams.new_epoch(max(now, began(known.epoch) + 1, began(roll.epoch) + 1))
        if not known.epoch:
            # Whatever is there is more than nothing: a seeding that was broken off, or a copy that somebody put there.
            await streams.set_epoch(self._client, stream, epoch)
            return
        log.warning("seeds the roll from the snapshot", why=why, agents=len(self._roster), epoch=epoch)
        if roll.epoch:
            await streams.set_epoch(self._client, stream, "")
        await streams.purge_up_to(self._client, stream, max(roll.last, known.revision) + 1)
        upto = await self._seed(epoch, why)
        healed = Healed(known.epoch, known.revision, timestamp(known.at), max(upto, roll.last, known.revision), why)
        await streams.set_epoch(self._client, stream, epoch, [*_chain(roll, self._roster), healed])
        log.warning("the roll is whole again", epoch=epoch, upto=upto)

    async def _seed(self, epoch: str, why: str) -> int:
        writer = Roll(self._client, self._subjects, tombstone_ttl=self._tombstone_ttl)
        async with writer.opened() as roll:
            seeding = Seeding(roll, epoch=epoch, reason=f"healed: {why}")
            for place in sorted(self._roster.places(), key=order):
                await seeding.write(place, expected=0)
            await seeding.settled()
        if seeding.failed:
            raise Unavailable(f"the roll could not be seeded: {seeding.failed}; it is tried again")
        return seeding.last


def _chain(roll: StreamState, roster: Roster) -> list[Healed]:
    """The healings before this one: a roll that was deleted no longer tells them."""
    return roster.healings if len(roster.healings) > len(roll.healings) else roll.healings
