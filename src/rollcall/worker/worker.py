"""One worker: follows the roll, keeps its snapshot, answers, and leads when it can. If one part falls, all fall."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

import structlog
from nats.aio.client import Client

from rollcall.bus import streams
from rollcall.bus.connection import barrier, connected
from rollcall.bus.streams import StreamState
from rollcall.bus.subjects import Subjects, key, names
from rollcall.core import codec, limits
from rollcall.core.errors import Misconfigured
from rollcall.core.instants import Milliseconds, Seconds, timestamp
from rollcall.core.records import Change
from rollcall.store.files import locked
from rollcall.store.rows import Folded, Seen
from rollcall.store.snapshot import Snapshot
from rollcall.worker.answers import Answers
from rollcall.worker.beats import Beats
from rollcall.worker.clock import Clock
from rollcall.worker.commit import Committer
from rollcall.worker.folding import Folding
from rollcall.worker.leadership import Leadership
from rollcall.worker.roster import Roster
from rollcall.worker.service import Service
from rollcall.worker.settings import WorkerSettings

SAVE_SEEN_EVERY: Seconds = 1.0
TIDY_EVERY: Seconds = 5.0
PRUNE_EVERY: Seconds = 60.0
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
    name = f"rollcall:{settings.realm}:worker:{settings.name}"
    with locked(settings.snapshot.with_name(settings.snapshot.name + ".lock")):
        roster = Roster(clock)
        absence = Absence(roster)
        async with connected(
            settings.url,
            name=name,
            nkey_seed=settings.nkey_seed,
            on_disconnect=absence.began,
            on_reconnect=absence.ended,
        ) as client:
            roll = await _streams(client, subjects, settings, clock.wall())
            snapshot = Snapshot.open(settings.snapshot, now=clock.wall())
            worker = Worker(client, subjects, settings, snapshot, roster)
            async with worker.running(roll):
                yield worker


async def _streams(client: Client, subjects: Subjects, settings: WorkerSettings, now: Milliseconds) -> StreamState:
    """Makes or checks what must exist on the server; returns the roll as it stands."""
    if client.max_payload < 2 * limits.RECORD_BYTES:
        raise Misconfigured(
            f"the server takes messages of {client.max_payload} bytes, a record may have {limits.RECORD_BYTES}; "
            f"set its max_payload to {2 * limits.RECORD_BYTES} or more"
        )
    await streams.ensure(client, streams.inbox_config(subjects, settings.replicas), now=now)
    await streams.ensure(client, streams.leases_config(subjects, settings.replicas), now=now)
    return await streams.ensure(client, streams.roll_config(subjects, settings.replicas), now=now)


class Absence:
    """While the bus is away no beat can be heard: every lease gets that time back."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._since: Seconds | None = None

    async def began(self) -> None:
        """The connection is gone."""
        if self._since is None:
            self._since = self._roster.clock.now()

    async def ended(self) -> None:
        """The connection is back."""
        if self._since is not None:
            missed = self._roster.clock.now() - self._since
            self._since = None
            self._roster.leases.extend(missed)
            log.warning("the bus was away; every lease gets what was missed", seconds=round(missed, 3))


class Worker:
    """The parts of a worker, put together."""

    def __init__(
        self, client: Client, subjects: Subjects, settings: WorkerSettings, snapshot: Snapshot, roster: Roster
    ) -> None:
        self._client = client
        self._subjects = subjects
        self._settings = settings
        self._clock = roster.clock
        self._started = roster.clock.wall()
        self._roster = roster
        self._committer = Committer(snapshot, self._on_durable)
        self._beats = Beats(client, subjects, self._roster)
        self._folding = Folding(client, subjects.roll_stream, self._roster, self._committer, self._on_fold)
        self._leadership = Leadership(
            client,
            subjects,
            settings,
            roster=self._roster,
            committer=self._committer,
            beats=self._beats,
            folded_to=self._folding.reached,
        )
        self._service = Service(
            client,
            subjects,
            worker=settings.name,
            roster=self._roster,
            committer=self._committer,
            answers=Answers(self._roster, worker=settings.name, room=client.max_payload - REPLY_MARGIN),
            info=self.info,
        )

    @asynccontextmanager
    async def running(self, roll: StreamState) -> AsyncIterator[None]:
        """Serves while the block runs."""
        await self._committer.call(self._restore, roll)
        self._committer.start(self._roster.revision)
        self._folding.start()
        # Beats are heard before the roll is: nobody is late because we were.
        await self._beats.listen()
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(self._folding.run(), name="follow the roll"),
                    tasks.create_task(self._committer.run(), name="commit"),
                ]
                await self._caught_up(roll.last)
                async with self._service.opened():
                    await barrier(self._client)
                    running += [
                        tasks.create_task(self._leadership.run(), name="stand for leader"),
                        tasks.create_task(self._save_seen(), name="save when agents were seen"),
                        tasks.create_task(self._tidy(), name="end tombstones"),
                        tasks.create_task(self._prune(), name="prune history"),
                    ]
                    log.info("serves", worker=self._settings.name, agents=len(self._roster), epoch=roll.epoch)
                    try:
                        yield
                    finally:
                        self._leadership.stop()
                for task in reversed(running):
                    task.cancel()
        finally:
            await self._committer.drain()
            await self._see()
            await self._committer.close()

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
            "leader": self._leadership.leader,
            "leads": lead is not None,
            "guard": None,
            "agents": len(self._roster),
            "liveness": dict(sorted(liveness.items())),
            "roles": {name: len(role.members) for name, role in sorted(self._roster.roles.items()) if role.members},
            "inbox": {"waiting": lead.waiting, "settled": lead.settled} if lead is not None else None,
            "beats": self._beats.count,
            "time": timestamp(self._clock.wall()),
            "started_at": timestamp(self._started),
            "snapshot": str(self._settings.snapshot),
        }

    async def _on_fold(self, change: Change) -> None:
        await self._leadership.on_fold(change)

    async def _on_durable(self, batch: list[Folded]) -> None:
        await self._leadership.on_durable(batch)

    def _restore(self, roll: StreamState) -> None:
        """Takes over what the snapshot knows of this roll; of another roll it starts anew."""
        snapshot = self._committer.snapshot
        known = snapshot.position()
        if known.epoch != roll.epoch or known.revision > roll.last:
            if known.epoch:
                log.warning("the snapshot is of another roll; starts anew", snapshot=known.epoch, roll=roll.epoch)
            snapshot.begin(roll.epoch)
            snapshot.start_history(roll.epoch, 0 if roll.first <= 1 else roll.first - 1)
            known = snapshot.position()
        self._roster.epoch = roll.epoch
        self._roster.progress.start(known.revision)
        for kept in snapshot.load():
            self._roster.restore(kept.place, kept.seen_at)

    async def _caught_up(self, end: int) -> None:
        await self._folding.reached(end)
        await self._drop_what_ended(end)

    async def _drop_what_ended(self, end: int) -> None:
        """Forgets agents whose tombstone came and ended while no worker of this snapshot listened."""
        known = sum(1 for _ in self._roster.places())
        if known <= (await streams.state(self._client, self._subjects.roll_stream)).subjects:
            # Whatever the roll holds was folded, so as many subjects as places means the same ones.
            return
        held = await streams.subjects_held(self._client, self._subjects.roll_stream)
        gone = [
            place.record.id
            for place in self._roster.places()
            if place.revision <= end and self._subjects.roll(key(place.record.role, place.record.id)) not in held
        ]
        if gone:
            log.info("forgets what the roll no longer holds", agents=len(gone))
            await self._forget(gone)

    async def _forget(self, ids: list[str]) -> None:
        for id in ids:
            self._roster.forget(id)
        await self._committer.call(self._committer.snapshot.forget, ids)

    async def _save_seen(self) -> None:
        while True:
            await asyncio.sleep(SAVE_SEEN_EVERY)
            await self._see()

    async def _see(self) -> None:
        """Stores what beats told since the last time, in one transaction."""
        batch = []
        for key_, lease in self._roster.leases.unsaved():
            lease.unsaved = False
            health = codec.encode(lease.beat.health).decode() if lease.beat is not None else None
            batch.append(Seen(names(key_)[1], lease.seen_at or 0, health))
        if batch:
            await self._committer.call(self._committer.snapshot.see, batch)

    async def _tidy(self) -> None:
        """Ends tombstones by time: on the server they end silently."""
        while True:
            await asyncio.sleep(TIDY_EVERY)
            horizon = self._clock.wall() - round((self._settings.tombstone_ttl + 1) * 1000)
            ended = self._roster.ended_tombstones(horizon)
            if ended:
                await self._forget(ended)

    async def _prune(self) -> None:
        while True:
            await asyncio.sleep(PRUNE_EVERY)
            before = self._clock.wall() - round(self._settings.history_age * 1000)
            await self._committer.call(self._committer.snapshot.prune, keep=self._settings.history_rows, before=before)
