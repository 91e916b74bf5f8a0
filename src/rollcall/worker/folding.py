"""The one path by which anything becomes known to a worker: it follows the roll and folds what it tells."""

from collections.abc import Awaitable, Callable

from nats.aio.client import Client

from rollcall.bus.follow import Follower, Stored
from rollcall.bus.roll import read_change
from rollcall.core.records import Change
from rollcall.store.rows import Folded
from rollcall.worker.commit import Committer
from rollcall.worker.roster import Roster


class Folding:
    """Folds the roll into the roster, and hands each change to the disk and to the leader's term."""

    def __init__(
        self,
        client: Client,
        stream: str,
        roster: Roster,
        committer: Committer,
        on_fold: Callable[[Change], Awaitable[None]],
    ) -> None:
        self._client = client
        self._stream = stream
        self._roster = roster
        self._committer = committer
        self._on_fold = on_fold
        self._follower = Follower(client, stream, 0)

    def start(self) -> None:
        """Sets out from what the roster holds by now."""
        self._follower = Follower(self._client, self._stream, self._roster.revision)

    async def run(self) -> None:
        """Folds until cancelled."""
        async for batch in self._follower.batches():
            await self._note_gap(batch)
            for stored in batch:
                change = read_change(stored, self._roster.epoch)
                if change is not None:
                    before = self._roster.fold(change)
                    self._committer.add(Folded(change, stored.data, before))
                    await self._on_fold(change)
                self._roster.progress.advance(stored.seq)
            self._roster.progress.advance(self._follower.upto)

    async def _note_gap(self, batch: list[Stored]) -> None:
        """What the roll gave up before we read it is missing from history; whoever asks must hear so."""
        expected, gap = self._roster.revision + 1, 0
        for stored in batch:
            if stored.seq > expected:
                gap = stored.seq - 1
            expected = stored.seq + 1
        if gap:
            await self._committer.call(self._committer.snapshot.start_history, self._roster.epoch, gap)

    async def reached(self, end: int) -> None:
        """Returns once everything up to `end` is folded, where the roll still has it."""
        self._follower.expect(end)
        await self._roster.progress.reached(end)
