"""The position: up to where the inbox is settled, kept on the server for the next leader."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from msgspec import structs
from nats.aio.client import Client

from rollcall.bus import streams
from rollcall.bus.leader import RENEW_EVERY, LeaseKey
from rollcall.bus.streams import StreamState
from rollcall.bus.subjects import Subjects
from rollcall.core import codec
from rollcall.core.healing import Healed, Standing, missed_since
from rollcall.core.instants import Milliseconds, Seconds
from rollcall.worker.lead import Lead
from rollcall.worker.ledger import Past, Settled

PURGE_EVERY: Seconds = 5.0
BREATH: Seconds = 0.001

log = structlog.get_logger(__name__)


class LostLease(Exception):
    """Somebody else leads, or may."""


class Position:
    """Read at the start of a term, and written by compare-and-set while it lasts."""

    def __init__(self, client: Client, subjects: Subjects) -> None:
        self._client = client
        self._inbox = subjects.inbox_stream
        self._key = LeaseKey(client, subjects, "position")
        self._saved = Settled("", 0)

    async def start(
        self,
        now: Milliseconds,
        *,
        known: Standing,
        healings: list[Healed],
        last: Callable[[str], Awaitable[int]],
        registered: int,
    ) -> Settled:
        """Where a term starts, whatever became of the inbox.

        `last` is the last command of an inbox that made a change; `registered` the greatest order of a registration.

        Raises:
            LostLease: another worker wrote the position.
            Unavailable: the server did not answer.
        """
        inbox = await streams.state(self._client, self._inbox)
        value = await self._key.read()
        if value is not None:
            saved = codec.decode(value, Settled)
        else:
            saved = Settled(inbox.epoch, 0, registered if registered > inbox.last else 0, known.epoch)
        start = await self._found(saved, inbox, now, known=known, healings=healings, last=last)
        if value is None or start != saved:
            await self._write(start)
        self._saved = start
        return start

    async def _found(
        self,
        saved: Settled,
        inbox: StreamState,
        now: Milliseconds,
        *,
        known: Standing,
        healings: list[Healed],
        last: Callable[[str], Awaitable[int]],
    ) -> Settled:
        """
        ::

            the inbox                              what is in it
            -------------------------------------  ----------------------------------------------------------------
            another than the position is of        is new: it was recreated
            ends before the position               is old: it was rolled back by itself
            of another roll than the position,     is old if it was stored before the newest that is known of that
            or ends before what is known of it     roll, else new: roll, inbox and position were rolled back
        """
        if not inbox.epoch or saved.inbox_epoch not in (inbox.epoch, inbox.before):
            epoch = inbox.epoch or await self._new_epoch(now, "it was recreated")
            return Settled(epoch, 0, saved.after + saved.seq, known.epoch)
        if saved.seq > inbox.last:
            epoch = await self._new_epoch(now, f"it was rolled back from {saved.seq} to {inbox.last}")
            await streams.purge_up_to(self._client, self._inbox, saved.seq + 1)
            return Settled(epoch, saved.seq, saved.after, known.epoch)
        highest = await last(saved.inbox_epoch)
        if saved.inbox_epoch == inbox.epoch and saved.roll in ("", known.epoch) and highest <= inbox.last:
            return structs.replace(saved, roll=known.epoch)
        until = known.at if saved.roll == known.epoch else missed_since(Standing(saved.roll), healings)
        epoch = await self._new_epoch(now, "the roll was made anew")
        past = Past(saved.inbox_epoch, saved.after, until)
        return Settled(epoch, saved.seq, saved.after + max(highest, saved.seq), known.epoch, past)

    async def keep(self, lead: Lead) -> None:
        """Saves beside each renewal of the lease, and at once when a refusal waits to be told.

        Raises:
            LostLease: another worker wrote the position.
        """
        while True:
            try:
                async with asyncio.timeout(RENEW_EVERY):
                    await lead.has_refusals.wait()
            except TimeoutError:
                pass  # time to save what was settled meanwhile
            await self.save(lead)
            # A refusal behind a command that is still on its way waits for that; there is nothing new to save yet.
            await asyncio.sleep(BREATH)

    async def save(self, lead: Lead) -> None:
        """Saves up to where everything is settled, and tells the refusals up to there.

        Raises:
            LostLease: another worker wrote the position.
        """
        position = structs.replace(self._saved, seq=lead.settled)
        await lead.keep_spent()
        if position != self._saved:
            await self._write(position)
            self._saved = position
        await lead.tell_refusals(self._saved.seq)

    async def purge(self) -> None:
        """Keeps the inbox small: what is settled and saved is removed every few seconds."""
        done = 0
        while True:
            await asyncio.sleep(PURGE_EVERY)
            if self._saved.seq > done:
                done = self._saved.seq
                await streams.purge_up_to(self._client, self._inbox, done + 1)

    async def _write(self, position: Settled) -> None:
        if not await self._key.write(codec.encode(position)):
            raise LostLease("another worker wrote the position")

    async def _new_epoch(self, now: Milliseconds, why: str) -> str:
        epoch = streams.new_epoch(now)
        log.warning("the inbox goes on under a new epoch", why=why, epoch=epoch)
        await streams.set_epoch(self._client, self._inbox, epoch)
        return epoch
