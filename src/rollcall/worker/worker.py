"""One worker: follows the roll, keeps its snapshot, answers, and leads when it can. If one part falls, all fall."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from typing import Any

import structlog
from nats.aio.client import Client

from rollcall.bus import shapes, streams
from rollcall.bus.connection import barrier, connected
from rollcall.bus.presence import Connections, own_account
from rollcall.bus.subjects import Subjects
from rollcall.core import codec, limits
from rollcall.core.errors import Misconfigured
from rollcall.core.guard import Guard, Guarding
from rollcall.core.healing import began
from rollcall.core.instants import Milliseconds, Seconds, timestamp
from rollcall.core.records import Beat, Change
from rollcall.policy.judges import Judge, judge_of
from rollcall.store.files import locked
from rollcall.store.rows import Folded
from rollcall.store.snapshot import Snapshot
from rollcall.worker.answers import Answers
from rollcall.worker.beacon import Ear
from rollcall.worker.beats import Beats
from rollcall.worker.clock import Clock
from rollcall.worker.commit import Committer
from rollcall.worker.folding import Folding
from rollcall.worker.gazette import Gazette
from rollcall.worker.governing import Governing
from rollcall.worker.greeting import Greeting
from rollcall.worker.ground import Ground
from rollcall.worker.hindsight import Hindsight
from rollcall.worker.housekeeping import Housekeeping
from rollcall.worker.identity import Identity
from rollcall.worker.leadership import Leadership
from rollcall.worker.measures import Measures
from rollcall.worker.roster import Roster
from rollcall.worker.service import Service
from rollcall.worker.settings import WorkerSettings
from rollcall.worker.sight import Sight
from rollcall.worker.vigil import Vigil
from rollcall.worker.witness import Witness

CHECK_EVERY: Seconds = 5.0
LOOK_AGAIN: Seconds = 1.0
PATIENCE: Seconds = 10.0
REPLY_MARGIN = 16 * 1024
"""Bytes of a reply that are not entries: the envelope, headers, the protocol."""

log = structlog.get_logger(__name__)


@asynccontextmanager
async def serving(settings: WorkerSettings, *, clock: Clock | None = None) -> AsyncIterator["Worker"]:
    """A worker that has folded the roll and answers, while the block runs.

    Raises:
        Unavailable: the bus cannot be reached.
        Misconfigured: a stream or the snapshot is not what it must be, or another worker uses it.
    """
    clock = clock or Clock()
    subjects = Subjects(settings.realm)
    with locked(settings.snapshot.with_name(settings.snapshot.name + ".lock")):
        roster, guard = Roster(clock, proofs=settings.identity.signatures != "off"), Guard()
        vigil = Vigil(roster, guard)
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(
                connected(
                    settings.url,
                    name=f"rollcall-worker:{settings.realm}:{settings.name}",
                    nkey_seed=settings.nkey_seed,
                    credentials=settings.credentials,
                    tls=settings.tls,
                    on_disconnect=vigil.bus_lost,
                    on_reconnect=vigil.bus_back,
                    on_leaving=vigil.bus_leaving,
                )
            )
            connections = await _connections(stack, client, settings)
            witness = Witness(subjects, roster, connections, account=await own_account(client))
            await _streams_are_there(client, subjects, settings, clock)
            snapshot = Snapshot.open(settings.snapshot, now=clock.wall())
            judge = judge_of(
                settings.governing.policy,
                client,
                subjects.policy,
                timeout=settings.governing.timeout,
                concurrency=settings.governing.concurrency,
            )
            if judge is not None:
                stack.push_async_callback(judge.close)
            worker = Worker(
                client,
                subjects,
                settings,
                snapshot=snapshot,
                roster=roster,
                guard=guard,
                vigil=vigil,
                witness=witness,
                judge=judge,
            )
            await stack.enter_async_context(worker.running())
            yield worker


async def _connections(stack: AsyncExitStack, client: Client, settings: WorkerSettings) -> Connections:
    """Who is connected: told in our own account, or in the system account where we can sign in to it."""
    if not settings.system_url:
        return Connections(client, system=False)
    name = f"rollcall-worker:{settings.realm}:{settings.name}"
    system = connected(
        settings.system_url,
        name=name,
        nkey_seed=settings.system_seed,
        credentials=settings.system_creds,
        tls=settings.tls,
    )
    return Connections(await stack.enter_async_context(system), system=True)


async def _streams_are_there(client: Client, subjects: Subjects, settings: WorkerSettings, clock: Clock) -> None:
    """Waits a while for a cluster that has just started and is choosing its leader."""
    patient_until = clock.now() + PATIENCE
    while True:
        try:
            return await _check_streams(client, subjects, settings, clock.wall())
        except streams.NoAnswer as error:
            if clock.now() > patient_until:
                raise
            log.info("waits for JetStream", why=str(error))
            await asyncio.sleep(LOOK_AGAIN / 2)


async def _check_streams(client: Client, subjects: Subjects, settings: WorkerSettings, now: Milliseconds) -> None:
    """Checks what is on the server, and makes inbox and leases. The roll is made by whoever may seed it."""
    if client.max_payload < 2 * limits.RECORD_BYTES:
        raise Misconfigured(
            f"the server takes messages of {client.max_payload} bytes, a record may have {limits.RECORD_BYTES}; "
            f"set its max_payload to {2 * limits.RECORD_BYTES} or more"
        )
    await streams.ensure_beside_roll(client, subjects, settings.replicas, now)
    await streams.check(client, shapes.roll_config(subjects, settings.replicas))


class Worker:
    """The parts of a worker, put together."""

    def __init__(
        self,
        client: Client,
        subjects: Subjects,
        settings: WorkerSettings,
        *,
        snapshot: Snapshot,
        roster: Roster,
        guard: Guard,
        vigil: Vigil,
        witness: Witness,
        judge: Judge | None,
    ) -> None:
        self._client = client
        self._subjects = subjects
        self._settings = settings
        self._clock = roster.clock
        self._started = roster.clock.wall()
        self._roster = roster
        self._guard = guard
        self._vigil = vigil
        self._witness = witness
        self._ear = Ear(client, subjects, roster)
        self._measures = Measures()
        self._identity = Identity(settings.identity, self._clock, self._measures.signatures)
        self._committer = Committer(snapshot, self._on_durable, self._measures.snapshot_batch)
        self._gazette = Gazette(client, subjects, self._identity, self._committer)
        self._housekeeping = Housekeeping(client, subjects, settings, roster, self._committer)
        self._beats = Beats(client, subjects, self._roster, self._identity, worker=settings.name)
        self._ground = Ground()
        self._folding = Folding(
            client,
            subjects,
            roster,
            self._committer,
            self._ground,
            worker=settings.name,
            tombstone_ttl=settings.tombstone_ttl,
            on_fold=self._on_fold,
        )
        self._leadership = Leadership(
            client,
            subjects,
            settings,
            roster=self._roster,
            committer=self._committer,
            beats=self._beats,
            witness=witness,
            vigil=vigil,
            guard=guard,
            folding=self._folding,
            ground=self._ground,
            measures=self._measures,
            governing=Governing(settings.governing, judge, self._clock),
            identity=self._identity,
            gazette=self._gazette,
        )
        self._greeting = Greeting(
            client, subjects, roster, witness, self._identity, leads=lambda: self._leadership.lead is not None
        )
        answers = Answers(
            self._roster, worker=settings.name, room=client.max_payload - REPLY_MARGIN, guard=self._guarding
        )
        self._service = Service(
            client,
            subjects,
            worker=settings.name,
            roster=self._roster,
            committer=self._committer,
            answers=answers,
            hindsight=Hindsight(roster, self._committer, answers, room=client.max_payload - REPLY_MARGIN),
            folding=self._folding,
            beats=self._beats,
            sight=Sight(self._identity, roster),
            times=self._measures.discover,
            info=self.info,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serves while the block runs."""
        self._folding.start(await self._committer.call(self._restore))
        self._committer.start(self._roster.revision)
        # Beats are heard before the roll is: nobody is late because we were.
        await self._beats.listen()
        await self._ear.listen()
        await self._gazette.listen()
        await self._witness.listen()
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(self._folding.run(), name="follow the roll"),
                    tasks.create_task(self._committer.run(), name="commit"),
                ]
                running.append(tasks.create_task(self._gazette.run(), name="which keys are revoked"))
                running.append(tasks.create_task(self._gazette.share(), name="tell which nonces were used"))
                running.append(tasks.create_task(self._leadership.run(), name="stand for leader"))
                await self._ground.firm.wait()
                await self._housekeeping.drop_what_ended()
                async with self._service.opened(), self._greeting.opened(), self._leadership.peers.opened():
                    await barrier(self._client)
                    await self._witness.look()
                    running += [
                        tasks.create_task(self._vigil.watch(), name="watch over this worker"),
                        tasks.create_task(self._look_again(), name="look who is connected"),
                        tasks.create_task(self._check(), name="check the roll"),
                        tasks.create_task(self._housekeeping.save_seen(), name="save when agents were seen"),
                        tasks.create_task(self._housekeeping.tidy(), name="end tombstones"),
                        tasks.create_task(self._housekeeping.prune(), name="prune history"),
                    ]
                    log.info("serves", worker=self._settings.name, agents=len(self._roster), epoch=self._roster.epoch)
                    try:
                        yield
                    finally:
                        self._leadership.stop()
                for task in reversed(running):
                    task.cancel()
        finally:
            await self._committer.drain()
            await self._housekeeping.see()
            await self._committer.close()

    @property
    def name(self) -> str:
        """How it is called in answers."""
        return self._settings.name

    def info(self) -> dict[str, Any]:
        """The state of the registry, as this worker sees it."""
        now = self._clock.now()
        liveness = Counter(str(self._roster.liveness(place, now)) for place in self._roster.agents())
        lead = self._leadership.lead
        return {
            "realm": self._subjects.realm,
            "worker": self._settings.name,
            "version": version("rollcall-bus"),
            "epoch": self._roster.epoch,
            "revision": self._roster.revision,
            "durable": self._committer.durable.at,
            "leader": self._settings.name if lead is not None else self._ear.leader or self._leadership.leader,
            "leads": lead is not None,
            "healing": self._ground.why or None,
            "trouble": self._committer.trouble or None,
            "healed": self._roster.healings[-1] if self._roster.healings else None,
            "guard": self._guarding(),
            "connection_evidence": self._witness.evidence,
            "signatures": self._settings.identity.signatures,
            "operators": self._identity.operators,
            "agents": len(self._roster),
            "tombstones": sum(1 for _ in self._roster.places()) - len(self._roster),
            "forget_after": self._settings.forget_after,
            "liveness": dict(sorted(liveness.items())),
            "roles": {name: len(role.members) for name, role in sorted(self._roster.roles.items()) if role.members},
            "inbox": {"waiting": lead.waiting, "settled": lead.settled} if lead is not None else None,
            "beats": self._beats.count,
            "counts": self._measures.told(),
            "time": timestamp(self._clock.wall()),
            "started_at": timestamp(self._started),
            "snapshot": str(self._settings.snapshot),
        }

    def _guarding(self) -> Guarding | None:
        """The guard is the leader's."""
        if self._leadership.lead is None:
            return self._ear.guard
        return self._guard.says(self._clock.now(), self._clock.wall())

    async def _on_fold(self, change: Change) -> None:
        self._measures.changes[change.kind] += 1
        self._identity.on_fold(change)
        if self._leadership.lead is not None:
            log.info(str(change.kind), agent_id=change.id, role=change.role, revision=change.revision)
        self._witness.on_fold(change)
        await self._leadership.on_fold(change)

    async def _on_durable(self, batch: list[Folded]) -> None:
        await self._leadership.on_durable(batch)

    def _restore(self) -> tuple[int, Milliseconds]:
        """Takes over what the snapshot knows; returns the newest of it, and when that was stored in the roll."""
        snapshot = self._committer.snapshot
        known = snapshot.position()
        self._roster.epoch = known.epoch
        self._roster.progress.start(known.revision)
        self._roster.rolls.start(began(known.epoch))
        newest = (0, 0)
        for kept in snapshot.load():
            beat = codec.decode(kept.health.encode(), Beat) if kept.health else None
            self._roster.restore(kept.place, kept.seen_at, beat)
            newest = max(newest, (kept.place.revision, kept.place.at))
        self._roster.restored()
        return newest

    async def _look_again(self) -> None:
        """After each absence of the bus, and while nobody answered."""
        while True:
            if self._witness.unanswered:
                await asyncio.sleep(LOOK_AGAIN)
            else:
                await self._vigil.returned.wait()
                self._vigil.returned.clear()
                self._folding.look_again()
            await self._witness.look()

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(CHECK_EVERY)
            await self._folding.check()
