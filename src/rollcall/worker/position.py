"""The position: up to where the inbox is settled, kept on the server for the next leader."""

import asyncio

import structlog
from msgspec import Struct
from nats.aio.client import Client

from rollcall.bus import streams
from rollcall.bus.leader import RENEW_EVERY, LeaseKey
from rollcall.bus.subjects import Subjects
from rollcall.core import codec
from rollcall.core.instants import Milliseconds, Seconds
from rollcall.worker.lead import Lead

PURGE_EVERY: Seconds = 5.0
BREATH: Seconds = 0.001

log = structlog.get_logger(__name__)


class LostLease(Exception):
    """Somebody else leads, or may."""


class Settled(Struct, frozen=True):
    """Every command of the inbox up to `seq` is settled."""

    inbox_epoch: str
    seq: int


class Position:
    """Read at the start of a term, and written by compare-and-set while it lasts."""

    def __init__(self, client: Client, subjects: Subjects) -> None:
        self._client = client
        self._inbox = subjects.inbox_stream
        self._key = LeaseKey(client, subjects, "position")
        self._saved = Settled("", 0)

    async def start(self, now: Milliseconds) -> Settled:
        """Where a term starts; an inbox that ends before that, or is another one, goes on from there.

        Raises:
            Unavailable: the server did not answer.
        """
        inbox = await streams.state(self._client, self._inbox)
        value = await self._key.read()
        saved = codec.decode(value, Settled) if value is not None else Settled(inbox.epoch, 0)
        if saved.inbox_epoch != inbox.epoch or saved.seq > inbox.last:
            saved = await self._under_a_new_epoch(max(saved.seq, inbox.last), now)
        self._saved = saved
        return saved

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
        position = Settled(self._saved.inbox_epoch, lead.settled)
        if position != self._saved:
            if not await self._key.write(codec.encode(position)):
                raise LostLease("another worker wrote the position")
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

    async def _under_a_new_epoch(self, seq: int, now: Milliseconds) -> Settled:
        epoch = streams.new_epoch(now)
        log.warning("the inbox was rolled back or recreated; it goes on under a new epoch", seq=seq, epoch=epoch)
        await streams.purge_up_to(self._client, self._inbox, seq + 1)
        await streams.set_epoch(self._client, self._inbox, epoch)
        return Settled(epoch, seq)
