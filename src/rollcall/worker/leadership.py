"""Standing for the leader lease, and one term after the other."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from msgspec import Struct
from nats.aio.client import Client

from rollcall.bus import streams
from rollcall.bus.connection import forget_cancellation
from rollcall.bus.follow import Follower
from rollcall.bus.leader import FRESH, RENEW_EVERY, TTL, LeaseKey
from rollcall.bus.roll import Roll
from rollcall.bus.subjects import Subjects
from rollcall.core import codec
from rollcall.core.errors import Unavailable
from rollcall.core.instants import Seconds
from rollcall.core.records import Change
from rollcall.store.rows import Folded
from rollcall.worker.beacon import Beacon
from rollcall.worker.beats import Beats, Hearing
from rollcall.worker.commit import Committer
from rollcall.worker.greeting import Greeting
from rollcall.worker.judge import Judge
from rollcall.worker.lead import Bounds, Lead
from rollcall.worker.outcomes import Outcomes
from rollcall.worker.position import LostLease, Position
from rollcall.worker.roster import Roster
from rollcall.worker.settings import WorkerSettings

log = structlog.get_logger(__name__)


class Holder(Struct, frozen=True):
    """Who leads."""

    worker: str


class Leadership:
    """The part of a worker that leads when it can."""

    def __init__(
        self,
        client: Client,
        subjects: Subjects,
        settings: WorkerSettings,
        *,
        roster: Roster,
        committer: Committer,
        beats: Beats,
        folded_to: Callable[[int], Awaitable[None]],
    ) -> None:
        self._client = client
        self._subjects = subjects
        self._settings = settings
        self._roster = roster
        self._committer = committer
        self._beats = beats
        self._folded_to = folded_to
        self._lease = LeaseKey(client, subjects, "leader", ttl=TTL)
        self._position = Position(client, subjects)
        self._renewed_at: Seconds = 0.0
        self._stopping = False
        self.lead: Lead | None = None
        self.leader = ""
        """The worker that leads, as far as this one knows."""

    async def run(self) -> None:
        """Stands for the lease, leads while it holds, and stands again; ends only by cancellation."""
        while not self._stopping:
            if await self._won():
                log.info("leads", worker=self._settings.name, realm=self._subjects.realm)
                try:
                    await self._term()
                except* LostLease as lost:
                    log.warning("no longer leads", worker=self._settings.name, why=str(lost.exceptions[0]))
                except* Unavailable as away:
                    log.warning("no longer leads", worker=self._settings.name, why=str(away.exceptions[0]))
                forget_cancellation()
            await asyncio.sleep(RENEW_EVERY)

    def stop(self) -> None:
        """Called before the task is cancelled: a task group in which something failed may forget a cancellation."""
        self._stopping = True

    async def on_fold(self, change: Change) -> None:
        """Passes a folded change on to the term that runs."""
        if self.lead is not None:
            await self.lead.on_fold(change)

    async def on_durable(self, batch: list[Folded]) -> None:
        """Passes changes that are on disk on to the term that runs."""
        if self.lead is not None:
            await self.lead.on_durable(batch)

    async def _won(self) -> bool:
        try:
            self._lease.revision = 0
            if await self._renew():
                return True
            held = await self._lease.read()
        except Unavailable as error:
            log.debug("cannot stand for the lease", error=str(error))
            return False
        self.leader = codec.decode(held, Holder).worker if held else ""
        return False

    async def _renew(self) -> bool:
        asked_at = self._roster.clock.now()
        won = await self._lease.write(codec.encode(Holder(self._settings.name)))
        if won:
            # The server's TTL runs from some moment after the question, so this errs on the safe side.
            self._renewed_at = asked_at
            self.leader = self._settings.name
        return won

    async def _term(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            # The lease is renewed from the first moment: catching up may take longer than it lasts.
            keeping = tasks.create_task(self._keep(), name="leader: renew")
            start = await self._position.start(self._roster.clock.wall())
            await self._catch_up()
            replay_until = await self._committer.call(self._committer.snapshot.highest_cause, start.inbox_epoch)
            roll = Roll(self._client, self._subjects, tombstone_ttl=self._settings.tombstone_ttl)
            async with roll.opened():
                self.lead = Lead(
                    roll,
                    self._roster,
                    self._committer,
                    Outcomes(self._client, self._subjects, self._roster),
                    bounds=Bounds(self._settings.max_agents, self._settings.max_roles),
                    folded_to=self._folded_to,
                    inbox_epoch=start.inbox_epoch,
                    settled=start.seq,
                    replay_until=replay_until,
                )
                judge = Judge(self._client, self._subjects, self._roster, self.lead, fresh=self._fresh)
                self._beats.hearing = Hearing(judge.again, judge.sign, judge.refused)
                try:
                    async with Greeting(self._client, self._subjects, self._roster).opened():
                        await self._lead(self.lead, judge, start.seq)
                finally:
                    self._beats.hearing = None
                    lead, self.lead = self.lead, None
                    # A renewal after the lease was given back would look like a lost one.
                    keeping.cancel()
                    await self._resign(lead)

    async def _lead(self, lead: Lead, judge: Judge, start: int) -> None:
        async with asyncio.TaskGroup() as tasks:
            follower = Follower(self._client, self._subjects.inbox_stream, start)
            beacon = Beacon(self._client, self._subjects, self._roster, lead, leader=self._settings.name)
            tasks.create_task(lead.take(follower), name="leader: take")
            tasks.create_task(self._position.keep(lead), name="leader: position")
            tasks.create_task(self._position.purge(), name="leader: purge the inbox")
            tasks.create_task(judge.sweep(), name="leader: sweep")
            tasks.create_task(beacon.shine(), name="leader: beacon")

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(RENEW_EVERY)
            try:
                if not await self._renew():
                    raise LostLease("another worker holds the lease")
            except Unavailable as error:
                if self._roster.clock.now() - self._renewed_at > TTL:
                    raise LostLease(f"the lease could not be renewed: {error}") from error

    def _fresh(self) -> bool:
        return self._roster.clock.now() - self._renewed_at < FRESH

    async def _catch_up(self) -> None:
        """Waits until everything the roll says is folded and on disk."""
        end = (await streams.state(self._client, self._subjects.roll_stream)).last
        await self._folded_to(end)
        await self._committer.settled()

    async def _resign(self, lead: Lead) -> None:
        """Saves the position and gives the lease back, so that another worker need not wait for its end."""
        if not self._client.is_connected or not self._fresh():
            return
        try:
            async with asyncio.timeout(0.5):
                await self._position.save(lead)
                await self._lease.clear()
        except (TimeoutError, Unavailable, LostLease) as error:
            log.debug("the lease ends by itself", error=str(error))
