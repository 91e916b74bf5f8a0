"""Standing for the leader lease, and one term after the other."""

import asyncio

import structlog
from msgspec import Struct
from nats.aio.client import Client

from rollcall.bus import shapes, streams
from rollcall.bus.connection import forget_cancellation
from rollcall.bus.follow import Follower
from rollcall.bus.leader import FRESH, RENEW_EVERY, TTL, LeaseKey
from rollcall.bus.roll import Roll
from rollcall.bus.subjects import Subjects
from rollcall.core import codec
from rollcall.core.errors import Misconfigured, Unavailable
from rollcall.core.guard import Guard
from rollcall.core.healing import Standing, Verdict
from rollcall.core.instants import Seconds
from rollcall.core.records import Cause, Change
from rollcall.identity.nonces import SKEW
from rollcall.store.rows import Folded
from rollcall.worker.beacon import Beacon
from rollcall.worker.beats import Beats, Hearing
from rollcall.worker.calling import Calling
from rollcall.worker.commit import Committer
from rollcall.worker.folding import Folding
from rollcall.worker.forgetting import Forgetting
from rollcall.worker.gazette import Gazette
from rollcall.worker.governing import Governing
from rollcall.worker.ground import Ground
from rollcall.worker.healer import Healer
from rollcall.worker.identity import Identity, Used
from rollcall.worker.inquiry import Inquiry
from rollcall.worker.judge import Judge
from rollcall.worker.lead import Bounds, Lead
from rollcall.worker.mail import Mail
from rollcall.worker.measures import Measures
from rollcall.worker.operating import Operating
from rollcall.worker.outcomes import Outcomes
from rollcall.worker.peers import Peers
from rollcall.worker.position import LostLease, Position
from rollcall.worker.restoring import Restoring
from rollcall.worker.roster import Roster
from rollcall.worker.settings import WorkerSettings
from rollcall.worker.shelf import Shelf
from rollcall.worker.vigil import Vigil
from rollcall.worker.witness import Witness

LOOK_EVERY: Seconds = 2.0

RESTORED_WITHIN: Seconds = 30.0

GIVE_WAY: Seconds = 3.0
"""How long a worker that knows less leaves the lease to one that knows more."""

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
        witness: Witness,
        vigil: Vigil,
        guard: Guard,
        folding: Folding,
        ground: Ground,
        measures: Measures,
        governing: Governing,
        identity: Identity,
        gazette: Gazette,
    ) -> None:
        self._client = client
        self._subjects = subjects
        self._settings = settings
        self._roster = roster
        self._committer = committer
        self._beats = beats
        self._witness = witness
        self._vigil = vigil
        self._guard = guard
        self._folding = folding
        self._ground = ground
        self._measures = measures
        self._healer = Healer(
            client,
            subjects,
            roster,
            replicas=settings.replicas,
            tombstone_ttl=settings.tombstone_ttl,
            standing=lambda: folding.standing,
        )
        self.peers = Peers(client, subjects, standing=lambda: folding.standing, give_way=self._give_way)
        self._given_way_until: Seconds = 0.0
        self._lease = LeaseKey(client, subjects, "leader", ttl=TTL)
        self._position = Position(client, subjects)
        self._renewed_at: Seconds = 0.0
        self._renewal = asyncio.Event()
        self._stopping = False
        self._governing = governing
        self._identity = identity
        self._gazette = gazette
        self._restoring = Restoring(roster, max_agents=settings.max_agents, max_roles=settings.max_roles)
        self._mail: Mail | None = None
        self.lead: Lead | None = None
        self.leader = ""
        """The worker that leads, as far as this one knows."""

    async def run(self) -> None:
        """Stands for the lease, leads while it holds, and stands again; ends only by cancellation."""
        while not self._stopping:
            if await self._may_stand() and await self._won():
                log.info("leads", worker=self._settings.name, realm=self._subjects.realm)
                try:
                    await self._term()
                except* LostLease as lost:
                    log.warning("no longer leads", worker=self._settings.name, why=_reason(lost))
                except* Unavailable as away:
                    log.warning("no longer leads", worker=self._settings.name, why=_reason(away))
                self.leader = ""
                forget_cancellation()
                if self._restoring.due:
                    continue  # the lease is ours still
            await self._ground.news(within=RENEW_EVERY)

    def stop(self) -> None:
        """Called before the task is cancelled: a task group in which something failed may forget a cancellation."""
        self._stopping = True

    async def on_fold(self, change: Change) -> None:
        """Passes a folded change on to the term that runs."""
        if self.lead is not None:
            if self._mail is not None:
                self._mail.on_fold(change)
            await self.lead.on_fold(change)

    async def on_durable(self, batch: list[Folded]) -> None:
        """Passes changes that are on disk on to the term that runs."""
        if self.lead is not None:
            await self.lead.on_durable(batch)

    def _give_way(self, to: Standing) -> None:
        log.warning("gives way to a worker that knows more", worker=to.worker, revision=to.revision)
        self._given_way_until = self._roster.clock.now() + GIVE_WAY
        self._ground.shake(f"worker {to.worker} knows this roll up to {to.revision}")
        self._ground.settle()

    async def _may_stand(self) -> bool:
        """Whoever follows a sound roll may; one that must be made anew is for the worker that knows most."""
        if self._committer.trouble or self._roster.clock.now() < self._given_way_until:
            return False
        if self._ground.firm.is_set() or self._restoring.due:
            return True
        if not self._ground.shaken.is_set():
            return False
        try:
            what, _, _ = await self._folding.look()
            return what is Verdict.UNSOUND and await self.peers.most_advanced() == self._folding.standing
        except Unavailable as error:
            log.debug("the roll cannot be looked at", error=str(error))
            return False

    async def _won(self) -> bool:
        try:
            if not self._restoring.due:
                self._lease.revision = 0
            if await self._renew():
                return True
            held = await self._lease.read()
        except Unavailable as error:
            log.debug("cannot stand for the lease", error=str(error))
            await self._make_what_is_missing()
            return False
        self.leader = codec.decode(held, Holder).worker if held else ""
        return False

    async def _renew(self) -> bool:
        asked_at = self._roster.clock.now()
        won = await self._lease.write(codec.encode(Holder(self._settings.name)))
        if won:
            # The server's TTL runs from some moment after the question, so this errs on the safe side.
            self._renewed_at = asked_at
            self._renewal.set()
            self.leader = self._settings.name
        return won

    async def _term(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            # The lease is renewed from the first moment: catching up may take longer than it lasts.
            keeping = tasks.create_task(self._keep(), name="leader: renew")
            await self._stand_firm()
            conditions = [
                keeping,
                tasks.create_task(self._while_firm(), name="leader: while the roll is sound"),
                tasks.create_task(self._while_healthy(), name="leader: while the disk takes changes"),
            ]
            await self._catch_up()
            start = await self._position.start(
                self._roster.clock.wall(),
                known=self._folding.standing,
                healings=self._roster.healings,
                last=self._last,
                registered=max((place.record.registered_seq for place in self._roster.agents()), default=0),
            )
            inboxes = {start.inbox_epoch, *([start.past.inbox_epoch] if start.past is not None else [])}
            replay_until = {inbox: await self._last(inbox) for inbox in inboxes}
            roll = Roll(self._client, self._subjects, tombstone_ttl=self._settings.tombstone_ttl)
            async with roll.opened():
                lead = Lead(
                    roll,
                    self._roster,
                    self._committer,
                    Outcomes(
                        self._client,
                        self._subjects,
                        self._roster,
                        worker=self._settings.name,
                        counts=self._measures.commands,
                    ),
                    bounds=Bounds(self._settings.max_agents, self._settings.max_roles),
                    folded_to=self._folding.reached,
                    look=self._folding.check,
                    believed=self._believed,
                    governing=self._governing,
                    identity=self._identity,
                    shelf=Shelf(self._client, self._subjects),
                    start=start,
                    replay_until=replay_until,
                )
                try:
                    async with Inquiry(self._client, self._subjects, self._roster.leases).opened() as inquiry:
                        # At once: between the two nothing may happen that nobody judges.
                        self.lead = lead
                        judge = self._judge(lead, inquiry)
                        await self._lead(lead, judge, start.seq)
                finally:
                    self._beats.hearing = self._witness.sign = self._vigil.judge = None
                    self.lead = None
                    # A renewal after the lease was given back would look like a lost one.
                    for condition in conditions:
                        condition.cancel()
                    await self._resign(lead)

    async def _lead(self, lead: Lead, judge: Judge, start: int) -> None:
        client, subjects, roster = self._client, self._subjects, self._roster
        calling = Calling(client, subjects, roster, self._witness)
        mail = self._mail = Mail(client, subjects)
        operating = Operating(
            client,
            subjects,
            roster,
            guard=self._guard,
            calling=calling,
            lead=lead,
            governing=self._governing,
            identity=self._identity,
            gazette=self._gazette,
            restoring=self._restoring,
            restore=self._end_for_restore,
        )
        async with operating.opened(), asyncio.TaskGroup() as tasks:
            follower = Follower(client, subjects.inbox_stream, start)
            beacon = Beacon(client, subjects, roster, lead, leader=self._settings.name, guard=self._guard)
            forgetting = Forgetting(roster, lead, after=self._settings.forget_after)
            tasks.create_task(judge.sign_vanished(), name="leader: who vanished while nobody led")
            tasks.create_task(self._take(lead, follower), name="leader: take")
            tasks.create_task(self._position.keep(lead), name="leader: position")
            tasks.create_task(self._position.purge(), name="leader: purge the inbox")
            tasks.create_task(beacon.shine(), name="leader: beacon")
            tasks.create_task(forgetting.run(), name="leader: forget")
            tasks.create_task(self._make_again(), name="leader: what was deleted on the server")
            tasks.create_task(mail.run(), name="leader: messages go with their agents")
            # What a standby could not bind, because it heard of agents later than of their connections.
            tasks.create_task(self._witness.look(), name="leader: look who is connected")
            tasks.create_task(calling.once_for(roster.epoch), name="leader: call the roll")

    def _judge(self, lead: Lead, inquiry: Inquiry) -> Judge:
        """From now on this worker judges, and hears of whoever it judged."""
        judge = Judge(
            self._client,
            self._subjects,
            self._roster,
            lead,
            guard=self._guard,
            inquiry=inquiry,
            grace=self._settings.disconnect_grace,
            fresh=self._fresh,
            wake=self._vigil.wake,
        )
        self._beats.hearing = Hearing(judge.attend, judge.refused)
        self._witness.sign = judge.attend
        self._vigil.judge = judge
        return judge

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(RENEW_EVERY)
            try:
                if not await self._renew():
                    raise LostLease("another worker holds the lease")
            except Unavailable as error:
                if self._roster.clock.now() - self._renewed_at > TTL:
                    raise LostLease(f"the lease could not be renewed: {error}") from error

    async def _believed(self) -> None:
        """Returns while nobody else may lead yet, by our own clock; waits else for the lease to be renewed."""
        while self._roster.clock.now() - self._renewed_at >= TTL:
            self._renewal.clear()
            await self._renewal.wait()

    def _fresh(self) -> bool:
        return self._roster.clock.now() - self._renewed_at < FRESH

    async def _take(self, lead: Lead, follower: Follower) -> None:
        await self._recall_nonces()
        await lead.take(follower)

    async def _recall_nonces(self) -> None:
        """Knows again whatever was signed when the commands that wait now were: a replay may be among them."""
        oldest = await streams.first_at(self._client, self._subjects.inbox_stream)
        wall, call = self._roster.clock.wall(), self._committer.call
        since = min(wall, wall if oldest is None else oldest) - 2 * SKEW
        for change in await call(self._committer.snapshot.latest, self._roster.epoch, since):
            self._identity.recall(change)
        for user, nonce, ts, cause in await call(self._committer.snapshot.spent, since):
            self._identity.recall_spent(Used(user, nonce, ts, codec.decode(cause.encode(), Cause)))

    async def _last(self, inbox_epoch: str) -> int:
        """The last command of an inbox that is known to have made a change."""
        return await self._committer.call(self._committer.snapshot.highest_cause, inbox_epoch)

    async def _make_what_is_missing(self) -> None:
        try:
            await streams.ensure_beside_roll(
                self._client, self._subjects, self._settings.replicas, self._roster.clock.wall()
            )
        except Unavailable as error:
            log.debug("inbox and leases cannot be made now", error=str(error))

    async def _make_again(self) -> None:
        """Makes messages and pending bucket anew when somebody deleted them; inbox, leases and roll end the term."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            for config in (shapes.messages_config, shapes.pending_config):
                wanted = config(self._subjects, self._settings.replicas)
                try:
                    await streams.ensure(self._client, wanted, epoch=streams.new_epoch(self._roster.clock.wall()))
                except (Unavailable, Misconfigured) as error:
                    log.warning("a stream is not as it must be", stream=wanted["name"], error=str(error))

    async def _stand_firm(self) -> None:
        """Makes what the term stands on, where that is missing, and waits until this worker has folded it."""
        clock = self._roster.clock
        await streams.ensure_beside_roll(self._client, self._subjects, self._settings.replicas, clock.wall())
        if not self._ground.firm.is_set():
            what, why, _ = await self._folding.look()
            await self._healer.heal(what, why, clock.wall())
            self._ground.mended.set()
            await self._ground.firm.wait()
        if self._restoring.due:
            await self._restore()

    async def _restore(self) -> None:
        """Makes the roll anew with what a backup brings back, and waits until this worker follows it."""
        added, clock = self._restoring.take_due(), self._roster.clock
        if not added:
            return
        epoch = await self._healer.restore(added, self._restoring.why, clock.wall())
        deadline = clock.now() + RESTORED_WITHIN
        while self._roster.epoch != epoch or not self._ground.firm.is_set():
            if clock.now() > deadline:
                raise Unavailable(f"the restored roll of epoch {epoch} is not followed; it is looked at again")
            await self._folding.check()
            self._ground.mended.set()
            await asyncio.sleep(RENEW_EVERY / 10)

    def _end_for_restore(self) -> None:
        """Ends the term as soon as its answers are out; the next one begins with the backup."""
        self._ground.shake(self._restoring.why)
        self._ground.settle()

    async def _while_firm(self) -> None:
        await self._ground.shaken.wait()
        why = self._restoring.why if self._restoring.due else self._ground.why
        raise LostLease(why or "it gives way to a worker that knows more")

    async def _while_healthy(self) -> None:
        await self._committer.troubled.wait()
        raise LostLease(self._committer.trouble)

    async def _catch_up(self) -> None:
        """Waits until everything the roll says is folded and on disk."""
        end = (await streams.state(self._client, self._subjects.roll_stream)).last
        await self._folding.reached(end)
        await self._committer.settled()

    async def _resign(self, lead: Lead) -> None:
        """Saves the position and gives the lease back, so that another worker need not wait for its end."""
        if not self._client.is_connected or not self._fresh():
            return
        try:
            async with asyncio.timeout(0.5):
                await self._position.save(lead)
                if not self._restoring.due:
                    await self._lease.clear()
        except (TimeoutError, Unavailable, LostLease) as error:
            log.debug("the lease ends by itself", error=str(error))


def _reason(group: BaseExceptionGroup[Exception]) -> str:
    """What the first of them says; a group may hold groups."""
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return str(first)
