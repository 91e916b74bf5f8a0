"""Standing for the leader lease, and one term after the other."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog
from msgspec import Struct
from nats.aio.client import Client
from nats.aio.msg import Msg

from rollcall.bus import headers as h
from rollcall.bus import streams
from rollcall.bus.connection import release
from rollcall.bus.follow import Follower
from rollcall.bus.leader import FRESH, RENEW_EVERY, TTL, LeaseKey
from rollcall.bus.roll import Roll
from rollcall.bus.subjects import Subjects, names
from rollcall.core import codec
from rollcall.core.errors import RollcallError, Unavailable
from rollcall.core.instants import Seconds
from rollcall.core.records import Change
from rollcall.store.snapshot import Folded
from rollcall.worker.beats import Beats, Hearing
from rollcall.worker.commit import Committer
from rollcall.worker.judge import Judge
from rollcall.worker.lead import Bounds, Lead
from rollcall.worker.outcomes import Outcomes
from rollcall.worker.roster import Roster
from rollcall.worker.settings import WorkerSettings

PURGE_EVERY: Seconds = 5.0
BEACON_EVERY: Seconds = 2.0
BEACON_SOONEST: Seconds = 0.1

log = structlog.get_logger(__name__)


class LostLease(Exception):
    """Somebody else leads, or may."""


class Settled(Struct, frozen=True):
    """The position: every command of the inbox up to `seq` is settled."""

    inbox_epoch: str
    seq: int


class Holder(Struct, frozen=True):
    """Who leads."""

    worker: str


class Hello(Struct, frozen=True):
    """What an agent says on a new connection."""

    incarnation: int = 0


class Greeted(Struct, frozen=True):
    """What the leader answers: whether the agent is on the roll, and whether a newer life took its place."""

    known: bool
    superseded: bool
    epoch: str
    revision: int


def _end_if_cancelled() -> None:
    """A task group in which something failed forgets that it was cancelled meanwhile; we must not."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


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
        self._position = LeaseKey(client, subjects, "position")
        self._renewed_at: Seconds = 0.0
        self._saved_seq = 0
        self.lead: Lead | None = None
        self.leader = ""
        """The worker that leads, as far as this one knows."""

    async def run(self) -> None:
        """Stands for the lease, leads while it holds, and stands again; ends only by cancellation."""
        while True:
            if await self._won():
                log.info("leads", worker=self._settings.name, realm=self._subjects.realm)
                try:
                    await self._term()
                except* LostLease as lost:
                    log.warning("no longer leads", worker=self._settings.name, why=str(lost.exceptions[0]))
                except* Unavailable as away:
                    log.warning("no longer leads", worker=self._settings.name, why=str(away.exceptions[0]))
                _end_if_cancelled()
            await asyncio.sleep(RENEW_EVERY)

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
            settled, inbox_epoch = await self._where_to_start()
            await self._catch_up()
            replay_until = await self._committer.call(self._committer.snapshot.highest_cause, inbox_epoch)
            roll = Roll(self._client, self._subjects, tombstone_ttl=self._settings.tombstone_ttl)
            async with roll.opened():
                self.lead = Lead(
                    roll,
                    self._roster,
                    self._committer,
                    Outcomes(self._client, self._subjects, self._roster),
                    bounds=Bounds(self._settings.max_agents, self._settings.max_roles),
                    folded_to=self._folded_to,
                    inbox_epoch=inbox_epoch,
                    settled=settled,
                    replay_until=replay_until,
                )
                judge = Judge(self._client, self._subjects, self._roster, self.lead, fresh=self._fresh)
                self._beats.hearing = Hearing(judge.again, judge.sign, judge.refused)
                try:
                    async with self._greeting():
                        await self._lead(self.lead, judge, Settled(inbox_epoch, settled))
                finally:
                    self._beats.hearing = None
                    lead, self.lead = self.lead, None
                    # A renewal after the lease was given back would look like a lost one.
                    keeping.cancel()
                    await self._resign(lead, inbox_epoch)

    async def _lead(self, lead: Lead, judge: Judge, start: Settled) -> None:
        async with asyncio.TaskGroup() as tasks:
            follower = Follower(self._client, self._subjects.inbox_stream, start.seq)
            tasks.create_task(lead.take(follower), name="leader: take")
            tasks.create_task(self._save_position(lead, start), name="leader: position")
            tasks.create_task(self._purge(), name="leader: purge the inbox")
            tasks.create_task(judge.sweep(), name="leader: sweep")
            tasks.create_task(self._shine(lead), name="leader: beacon")

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

    async def _where_to_start(self) -> tuple[int, str]:
        """The position and the inbox epoch; an inbox that ends before the position is moved up to it."""
        inbox = await streams.state(self._client, self._subjects.inbox_stream)
        value = await self._position.read()
        saved = codec.decode(value, Settled) if value is not None else Settled(inbox.epoch, 0)
        if saved.inbox_epoch == inbox.epoch and saved.seq <= inbox.last:
            return saved.seq, inbox.epoch
        epoch = streams.new_epoch(self._roster.clock.wall())
        start = max(saved.seq, inbox.last)
        log.warning("the inbox was rolled back or recreated; it goes on under a new epoch", seq=start, epoch=epoch)
        await streams.purge_up_to(self._client, self._subjects.inbox_stream, start + 1)
        await streams.set_epoch(self._client, self._subjects.inbox_stream, epoch)
        return start, epoch

    async def _catch_up(self) -> None:
        """Waits until everything the roll says is folded and on disk."""
        end = (await streams.state(self._client, self._subjects.roll_stream)).last
        await self._folded_to(end)
        await self._committer.settled()

    async def _save_position(self, lead: Lead, saved: Settled) -> None:
        """Saves the position beside each renewal, and at once when a refusal waits to be told."""
        while True:
            try:
                async with asyncio.timeout(RENEW_EVERY):
                    await lead.has_refusals.wait()
            except TimeoutError:
                pass  # time to save what was settled meanwhile
            position = Settled(saved.inbox_epoch, lead.settled)
            if position != saved:
                if not await self._position.write(codec.encode(position)):
                    raise LostLease("another worker wrote the position")
                saved = position
                self._saved_seq = position.seq
            await lead.tell_refusals(saved.seq)
            # A refusal behind a command that is still on its way waits for that; there is nothing new to save yet.
            await asyncio.sleep(0.001)

    async def _purge(self) -> None:
        done = 0
        while True:
            await asyncio.sleep(PURGE_EVERY)
            settled = self._saved_seq
            if settled > done:
                await streams.purge_up_to(self._client, self._subjects.inbox_stream, settled + 1)
                done = settled

    async def _shine(self, lead: Lead) -> None:
        """The beacon: at least every two seconds, and soon after anything in it changed."""
        last, shone_at = b"", -BEACON_EVERY
        while True:
            body = self._beacon(lead)
            now = self._roster.clock.now()
            if body != last or now - shone_at >= BEACON_EVERY:
                await self._client.publish(self._subjects.beacon, body)
                last, shone_at = body, now
            await asyncio.sleep(BEACON_SOONEST)

    def _beacon(self, lead: Lead) -> bytes:
        return codec.encode(
            {
                "epoch": self._roster.epoch,
                "revision": self._roster.revision,
                "leader": self._settings.name,
                "guard": None,
                "inbox": {"waiting": lead.waiting},
                "roles": {name: role.revision for name, role in self._roster.roles.items()},
            }
        )

    @asynccontextmanager
    async def _greeting(self) -> AsyncIterator[None]:
        subscription = await self._client.subscribe(self._subjects.hello("*.*"), cb=self._on_hello)
        try:
            yield
        finally:
            if self._client.is_connected:
                await release(self._client, subscription)
                await subscription.unsubscribe()

    async def _on_hello(self, message: Msg) -> None:
        """Tells an agent whether it is known, and whether a newer life took its place."""
        try:
            role, id = names(".".join(message.subject.split(".")[3:]))
            hello = codec.decode(message.data, Hello) if message.data else Hello()
        except RollcallError as error:
            headers = {h.ERROR_CODE: str(error.status), h.ERROR: error.code}
            await self._client.publish(message.reply, codec.encode_error(error), headers=headers)
            return
        # Not message.respond: that sends the question's headers back, and with them who asked.
        await self._client.publish(message.reply, codec.encode(self._greeted(role, id, hello.incarnation)))

    def _greeted(self, role: str, id: str, incarnation: int) -> Greeted:
        place = self._roster.standing(id)
        epoch, revision = self._roster.epoch, self._roster.revision
        if place is None or place.record.role != role:
            return Greeted(False, False, epoch, revision)
        held = place.record.incarnation
        return Greeted(incarnation in (0, held), 0 < incarnation < held, epoch, revision)

    async def _resign(self, lead: Lead, inbox_epoch: str) -> None:
        """Saves the position and gives the lease back, so that another worker need not wait for its end."""
        if not self._client.is_connected or not self._fresh():
            return
        try:
            async with asyncio.timeout(0.5):
                if await self._position.write(codec.encode(Settled(inbox_epoch, lead.settled))):
                    await lead.tell_refusals(lead.settled)
                await self._lease.clear()
        except (TimeoutError, Unavailable) as error:
            log.debug("the lease ends by itself", error=str(error))
