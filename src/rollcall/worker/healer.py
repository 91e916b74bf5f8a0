"""Making a roll from what a worker knows, when there is none or not the one that there was.

While it is made it has no epoch, so nobody follows it. Sequences go on above all that were ever folded: a revision
never comes back, whatever was lost. Only the holder of the leader lease does this.
"""

import asyncio
from collections.abc import Callable, Sequence

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
        roll = await self._ensured()
        known = self._standing()
        if not known.epoch:
            # Whatever is there is more than nothing: a seeding that was broken off, or a copy that somebody put there.
            await streams.set_epoch(
                self._client, self._subjects.roll_stream, _epoch_after(now, known.epoch, roll.epoch)
            )
            return
        await self._make(roll, list(self._roster.places()), why, f"healed: {why}", now)

    async def restore(self, added: Sequence[Place], why: str, now: Milliseconds) -> str:
        """Makes a sound roll anew, with agents that it does not hold; returns its epoch.

        Raises:
            Unavailable: the server did not do it. If the roll has no epoch then, it is healed as any other.
        """
        roll = await self._ensured()
        back = {place.record.id for place in added}
        stay = [place for place in self._roster.places() if place.record.id not in back]
        return await self._make(roll, [*stay, *added], why, why, now)

    async def _ensured(self) -> StreamState:
        return await streams.ensure(self._client, shapes.roll_config(self._subjects, self._replicas), epoch="")

    async def _make(self, roll: StreamState, places: Sequence[Place], why: str, reason: str, now: Milliseconds) -> str:
        """Makes a roll of these places; changes are told with the `reason`."""
        known, stream = self._standing(), self._subjects.roll_stream
        epoch = _epoch_after(now, known.epoch, roll.epoch)
        log.warning("makes the roll anew", why=why, agents=len(places), epoch=epoch)
        if roll.epoch:
            await streams.set_epoch(self._client, stream, "")
        await streams.purge_up_to(self._client, stream, max(roll.last, known.revision) + 1)
        upto = await self._seed(places, epoch, reason)
        healed = Healed(known.epoch, known.revision, timestamp(known.at), max(upto, roll.last, known.revision), why)
        await streams.set_epoch(self._client, stream, epoch, [*_chain(roll, self._roster), healed])
        log.warning("the roll is whole again", epoch=epoch, upto=upto)
        return epoch

    async def _seed(self, places: Sequence[Place], epoch: str, reason: str) -> int:
        writer = Roll(self._client, self._subjects, tombstone_ttl=self._tombstone_ttl)
        async with writer.opened() as roll:
            seeding = Seeding(roll, epoch=epoch, reason=reason)
            for place in sorted(places, key=order):
                await seeding.write(place, expected=0)
            await seeding.settled()
        if seeding.failed:
            raise Unavailable(f"the roll could not be seeded: {seeding.failed}; it is tried again")
        return seeding.last


def _epoch_after(now: Milliseconds, *epochs: str) -> str:
    """A new epoch, later than these."""
    return streams.new_epoch(max(now, *(began(epoch) + 1 for epoch in epochs)))


def _chain(roll: StreamState, roster: Roster) -> list[Healed]:
    """The healings before this one: a roll that was deleted no longer tells them."""
    return roster.healings if len(roster.healings) > len(roll.healings) else roll.healings
