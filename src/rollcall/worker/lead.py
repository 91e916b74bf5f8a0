"""What only the leader does: take commands, decide each, write the roll, settle.

::

    inbox ─take─▶ decide ─┬─ accepted ─▶ roll (compare-and-set) ─▶ folded ─▶ on disk ─▶ answered ─┐
                          └─ refused ──────────────────────────────────────────────────────────┴─▶ settled
    settled up to n ─▶ position saved ─▶ refusals up to n are told

A second command for an id waits until the record of the first is folded.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import structlog
from msgspec import Struct
from msgspec.structs import replace

from rollcall.bus.follow import Follower, Stored
from rollcall.bus.inbox import Asking, asking, read_command
from rollcall.bus.roll import Ack, Refused, Roll, Unknown, Written
from rollcall.bus.subjects import key
from rollcall.core import codec
from rollcall.core.commands import Command, Observed, Recover, Register, Update
from rollcall.core.decide import Accepted, Rejected, Unchanged, decide
from rollcall.core.errors import Busy, Conflict, RollcallError
from rollcall.core.instants import Seconds
from rollcall.core.lease import Lease
from rollcall.core.records import Cause, Change, ChangeKind, Place, Record
from rollcall.store.rows import Folded
from rollcall.worker.antechamber import Antechamber
from rollcall.worker.commit import Committer
from rollcall.worker.governing import Governing
from rollcall.worker.identity import Identity
from rollcall.worker.ledger import Ledger, Settled
from rollcall.worker.outcomes import UNCHANGED, Outcomes
from rollcall.worker.pending import Pending
from rollcall.worker.roster import Roster
from rollcall.worker.shelf import Shelf

MAX_OPEN = 10_000
"""Commands taken and not settled; beyond it the inbox waits on the server."""

MOST_OF_ONE = 256
"""Commands of one agent that wait for each other: whoever floods is told so, and nobody else waits for it."""

RETRY: Seconds = 0.05

log = structlog.get_logger(__name__)


class Bounds(Struct, frozen=True):
    """How many agents and roles the realm may have."""

    agents: int
    roles: int


class Lead:
    """One term of leading, from taking the lease to losing it."""

    def __init__(
        self,
        roll: Roll,
        roster: Roster,
        committer: Committer,
        outcomes: Outcomes,
        *,
        bounds: Bounds,
        folded_to: Callable[[int], Awaitable[None]],
        look: Callable[[], Awaitable[None]],
        believed: Callable[[], Awaitable[None]],
        governing: Governing,
        identity: Identity,
        shelf: Shelf,
        start: Settled,
        replay_until: Mapping[str, int],
    ) -> None:
        self._roll = roll
        self._roster = roster
        self._committer = committer
        self._outcomes = outcomes
        self._bounds = bounds
        self._folded_to = folded_to
        self._look = look
        self._believed = believed
        self._identity = identity
        self._start = start
        self._replay_until = replay_until
        self._ledger = Ledger(start.seq)
        self._busy: dict[str, deque[Pending]] = {}
        # New agents on their way to the roll, with their roles: bounds count them, too.
        self._joining: dict[str, str] = {}
        self._unsafe: defaultdict[int, list[tuple[Pending, ChangeKind | str]]] = defaultdict(list)
        self._refusals: deque[tuple[Asking, RollcallError]] = deque()
        self._room = asyncio.Event()
        self._room.set()
        self._tasks: asyncio.TaskGroup | None = None
        self.antechamber = Antechamber(
            self._busy,
            governing,
            identity,
            shelf,
            outcomes,
            roster.clock,
            advance=self._advance,
            refuse=self._refuse,
            settle=self._settle,
            release=self._release,
        )
        self.has_refusals = asyncio.Event()

    @property
    def settled(self) -> int:
        """Every command up to this sequence of the inbox is settled."""
        return self._ledger.settled

    @property
    def waiting(self) -> int:
        """Commands taken and not settled."""
        return len(self._ledger)

    async def take(self, follower: Follower) -> None:
        """Decides what the inbox holds, until cancelled."""
        async with asyncio.TaskGroup() as self._tasks:
            await self.antechamber.take_up()
            async for batch in follower.batches():
                for stored in batch:
                    await self._take_one(stored)

    async def observe(self, command: Observed) -> bool:
        """Decides a command of the registry itself; False when it was passed over.

        While the agent is busy with another one, being lost is passed over: it will be seen again. Being heard waits
        its turn, for it may not be heard twice.
        """
        waiting = self._busy.get(command.id)
        if waiting is None:
            self._busy[command.id] = deque((Pending(command, observed_at=self._roster.clock.now()),))
            await self._advance(command.id)
            return True
        if isinstance(command, Recover) and not any(isinstance(one.command, Recover) for one in waiting):
            waiting.append(Pending(command))
            return True
        return False

    async def on_fold(self, change: Change) -> None:
        """A change is in memory: its command is done but for the disk, and the next one of that id may go."""
        waiting = self._busy.get(change.id)
        if waiting is None or not waiting or not _is_of(change, waiting[0]):
            return
        pending = waiting[0]
        pending.folded = True
        self._joining.pop(change.id, None)
        self._unsafe[change.revision].append((pending, change.kind))
        if change.kind is ChangeKind.UPDATED and _is_sign_of_life(pending.command):
            await self._outcomes.alive(change.record)
        waiting.popleft()
        if change.kind is ChangeKind.LOST and _heard_since(self._roster.lease(change.record), pending.observed_at):
            waiting.append(Pending(Recover(role=change.role, id=change.id)))
        await self._advance(change.id)

    async def on_durable(self, batch: list[Folded]) -> None:
        """Changes are on disk: their commands are answered and settled."""
        if not self._unsafe:
            return
        for folded in batch:
            change = folded.change
            for pending, what in self._unsafe.pop(change.revision, ()):
                place = Place(change.record, change.revision, change.kind, change.at)
                await self._answer(pending, self._current(place), what, folded.data)

    async def tell_refusals(self, saved: int) -> None:
        """Tells every refusal up to `saved`, a position that is on the server."""
        while self._refusals and self._refusals[0][0].seq <= saved:
            asking_, error = self._refusals.popleft()
            await self._outcomes.rejected(asking_, error)
        if not self._refusals:
            self.has_refusals.clear()

    async def keep_spent(self) -> None:
        """Keeps the nonces of commands that came to nothing; before the position says that they are settled."""
        spent = self._identity.spent()
        if spent:
            rows = [(one.user, one.nonce, one.ts, codec.encode(one.cause).decode()) for one in spent]
            await self._committer.call(self._committer.snapshot.spend, rows, now=self._roster.clock.wall())

    async def _take_one(self, stored: Stored) -> None:
        self._ledger.take(stored.seq)
        who, origin = asking(stored), self._start.origin(stored.at)
        try:
            command = self._identity.signed(read_command(stored, *origin), stored)
        except RollcallError as error:
            self._refuse(Pending(None, who), error)
            return
        pending = Pending(command, who, command.cause, stored, origin)
        if self.antechamber.holds(command.cause):
            self._settle(pending)
            return
        if self.antechamber.queues(command.id):
            await self.antechamber.behind(pending)
            return
        waiting = self._busy.get(command.id)
        if waiting is not None and len(waiting) >= MOST_OF_ONE:
            self._refuse(
                pending, Busy(f"{len(waiting)} commands of {command.role} {command.id!r} wait already; slow down")
            )
        elif waiting is not None:
            waiting.append(pending)
        else:
            self._busy[command.id] = deque((pending,))
            await self._advance(command.id)
        if len(self._ledger) >= MAX_OPEN:
            self._room.clear()
            await self._room.wait()

    async def _advance(self, id: str) -> None:
        """Decides the commands of an id one by one, until one is on its way to the roll or none is left."""
        waiting = self._busy[id]
        while waiting:
            if await self._step(waiting[0]):
                return
            waiting.popleft()
        del self._busy[id]

    async def _step(self, pending: Pending) -> bool:
        """Decides a command on what is folded now; True when what follows from it is on its way to the roll."""
        if await self._replayed(pending):
            return False
        place = None if pending.on_nothing else self._roster.place(pending.command.id)
        self._joining.pop(pending.command.id, None)
        outcome = decide(place, pending.command, now=self._roster.clock.wall(), disconnected=self._disconnected(place))
        try:
            match outcome:
                case Accepted():
                    self._check_bounds(place, outcome)
                    if self.antechamber.concerns(pending) and not _is_only_back(place, outcome.record):
                        assert self._tasks is not None
                        asking_ = self.antechamber.ask(pending, place)
                        self._tasks.create_task(asking_, name=f"may {pending.command.id!r} happen")
                        return True
                    self._joins(place, outcome)
                    await self._write(pending, outcome, place)
                    return True
                case Unchanged():
                    await self._unchanged(pending, outcome.place)
                case Rejected():
                    raise outcome.error
        except RollcallError as error:
            if pending.asking is not None:
                self._refuse(pending, error)
        return False

    def _disconnected(self, place: Place | None) -> bool:
        return place is not None and not place.gone and self._roster.lease(place.record).gone_at is not None

    async def _write(self, pending: Pending, accepted: Accepted, place: Place | None) -> None:
        pending.kind = accepted.kind
        record = accepted.record
        data = codec.encode_record(record)
        expected = pending.expected if pending.expected is not None else (place.revision if place is not None else 0)
        lines = self._roll.change_lines(accepted.kind, epoch=self._roster.epoch, reason=accepted.reason)
        done = partial(self._on_ack, pending)
        # It may have stood still, and another may lead: then this term ends before anything is written.
        await self._believed()
        await self._roll.write(key(record.role, record.id), data, lines, expected=expected, done=done)

    def _on_ack(self, pending: Pending, ack: Ack) -> None:
        if pending.folded or isinstance(ack, Written):
            return
        assert self._tasks is not None
        again = self._again(pending, ack)
        try:
            self._tasks.create_task(again, name=f"decide {pending.command.id!r} again")
        except RuntimeError:
            again.close()  # the term ends; the next one finds the command in the inbox

    async def _again(self, pending: Pending, ack: Refused | Unknown) -> None:
        """Decides anew after a write that was refused or lost: first everything the roll says is folded."""
        # Somebody else may have led meanwhile, and settled it.
        pending.doubted = True
        place = self._roster.place(pending.command.id)
        stands = ack.stands if isinstance(ack, Refused) else None
        log.debug("decide again", id=pending.command.id, ack=repr(ack))
        if stands is not None and place is not None and not place.gone and stands < place.revision:
            # Somebody took a living agent out of the roll: it is looked at, and this term ends if it has to be healed.
            await self._look()
            await asyncio.sleep(RETRY)
        if stands is not None and stands < (place.revision if place is not None else 1):
            # The tombstone that we still remember has ended.
            self._roster.forget(pending.command.id)
            pending.expected, pending.on_nothing = stands, True
        elif stands is not None and stands <= self._roster.revision and (place is None or place.revision < stands):
            # What stands there was read and is no agent of ours: a tombstone that we forgot before the server did,
            # or something that is no change at all.
            pending.expected, pending.on_nothing = stands, place is None
        else:
            pending.expected, pending.on_nothing = None, False
            await asyncio.sleep(RETRY)
            await self._folded_to_the_end(stands)
        if not pending.folded:
            await self._advance(pending.command.id)

    async def _folded_to_the_end(self, stands: int | None) -> None:
        end = stands if stands is not None else await self._roll.end()
        await self._folded_to(end)

    async def _replayed(self, pending: Pending) -> bool:
        """Whether an earlier leader settled this command; then it is answered from what it made, or refused.

        What was stored before the command was is not of its making, whatever the numbers say.
        """
        mine = pending.cause
        if pending.asking is None or mine is None:
            return False
        if pending.doubted:
            await self._committer.settled()
        elif not pending.shelved and mine.seq > self._replay_until.get(mine.inbox_epoch, 0):
            return False
        made = await self._committer.call(self._committer.snapshot.caused, mine)
        if made is not None and made.at >= pending.stored_at:
            place = Place(made.record, made.revision, made.kind, made.at)
            await self._answer(pending, self._current(place), made.kind)
            return True
        standing = self._roster.place(pending.command.id)
        if standing is not None and standing.at >= pending.stored_at and _settled_after(standing.record.cause, mine):
            whom = f"{pending.command.role} {pending.command.id!r}"
            self._refuse(pending, Conflict(f"a later command of {whom} is settled already; read it and try again"))
            return True
        return False

    async def _unchanged(self, pending: Pending, place: Place) -> None:
        self._identity.spend(pending.command)
        if _is_sign_of_life(pending.command):
            await self._outcomes.alive(place.record)
        if place.revision > self._committer.durable.at:
            self._unsafe[place.revision].append((pending, UNCHANGED))
        else:
            await self._answer(pending, place, UNCHANGED)

    async def _answer(self, pending: Pending, place: Place, what: ChangeKind | str, data: bytes | None = None) -> None:
        if pending.asking is None:
            return
        await self._outcomes.accepted(pending.asking, place, what, data)
        self._settle(pending)

    def _current(self, place: Place) -> Place:
        """`place` as one that may be observed: an agent that is gone meanwhile has no lease left to look at."""
        standing = self._roster.standing(place.record.id)
        if standing is None and not place.gone:
            return Place(place.record, place.revision, ChangeKind.DEREGISTERED, place.at)
        return place

    def _refuse(self, pending: Pending, error: RollcallError) -> None:
        assert pending.asking is not None
        pending.settled = True
        self._identity.spend(pending.command)
        if pending.shelved:
            self.antechamber.settled(pending, error)
            return
        self._refusals.append((pending.asking, error))
        self.has_refusals.set()
        self._settle(pending)

    def _settle(self, pending: Pending) -> None:
        pending.settled = True
        if pending.shelved:
            self.antechamber.settled(pending)
        else:
            self._release(pending)

    def _release(self, pending: Pending) -> None:
        """The inbox need not keep a command any longer."""
        assert pending.asking is not None
        self._ledger.settle(pending.asking.seq)
        if not self._room.is_set() and len(self._ledger) < MAX_OPEN // 2:
            self._room.set()

    def _check_bounds(self, place: Place | None, accepted: Accepted) -> None:
        if accepted.kind is not ChangeKind.REGISTERED or (place is not None and not place.gone):
            return
        agents = len(self._roster) + len(self._joining)
        if agents >= self._bounds.agents:
            raise Busy(f"the realm holds {agents} agents, its bound; deregister some or raise ROLLCALL_MAX_AGENTS")
        if place is None and self._roster.tombstones >= self._bounds.agents:
            raise Busy(
                f"the realm remembers {self._roster.tombstones} agents that left, its bound; use ids again, wait until "
                "tombstones end, or raise ROLLCALL_MAX_AGENTS"
            )
        role, roles = accepted.record.role, self._roster.roles
        if role not in roles and len(roles) + len({new for new in self._joining.values() if new not in roles}) >= (
            self._bounds.roles
        ):
            raise Busy(f"the realm holds {self._bounds.roles} roles, its bound; use an existing role")

    def _joins(self, place: Place | None, accepted: Accepted) -> None:
        """A new agent is on its way to the roll."""
        if accepted.kind is ChangeKind.REGISTERED and (place is None or place.gone):
            self._joining[accepted.record.id] = accepted.record.role


def _heard_since(lease: Lease, decided_at: Seconds) -> bool:
    """Whether a beat or a hello came between the decision that the agent is lost and now: fresh evidence wins.

    Whoever is lost is doubted, and any sign of life ends doubt.
    """
    return lease.doubt is None or lease.at > decided_at


def _settled_after(cause: Cause | None, mine: Cause) -> bool:
    return cause is not None and cause.inbox_epoch == mine.inbox_epoch and cause.seq >= mine.seq


def _is_only_back(place: Place | None, record: Record) -> bool:
    """Whether a lost agent says again just what it said before: that is life, and nobody's word is needed for it."""
    if place is None or place.gone or place.record.lost_at is None:
        return False
    held = place.record
    return record == replace(held, lost_at=None, updated_at=record.updated_at, cause=record.cause)


def _is_sign_of_life(command: Command) -> bool:
    """Whether the agent itself spoke; an update may be an operator's unless it says that it is a beat too."""
    return isinstance(command, Register) or (isinstance(command, Update) and command.beat)


def _is_of(change: Change, pending: Pending) -> bool:
    """Whether `change` is what `pending` asked for."""
    return change.kind is pending.kind and (pending.cause is None or change.record.cause == pending.cause)
