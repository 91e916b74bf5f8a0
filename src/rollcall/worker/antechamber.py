"""Where commands wait for somebody's word: they leave the inbox, and their agent's later ones queue up behind them."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from rollcall.bus.inbox import asking, read_command
from rollcall.core.commands import Asked, Command, Register
from rollcall.core.errors import Busy, Denied, RollcallError, Unavailable, Waits
from rollcall.core.instants import timestamp
from rollcall.core.records import Cause, Place
from rollcall.worker.clock import Clock
from rollcall.worker.governing import Governing, refusal
from rollcall.worker.identity import Identity
from rollcall.worker.outcomes import Outcomes
from rollcall.worker.pending import Pending
from rollcall.worker.shelf import Shelf, Waiting

APPROVAL = "approval"
POLICY = "policy"

MOST_OF_ONE = 8
"""Commands of one agent that may wait for a verdict."""

log = structlog.get_logger(__name__)


class Antechamber:
    """Asks, and keeps what waits. `busy` are the commands of each agent that the leader decides one by one.

    `advance` goes on with those of an agent; `refuse` and `settle` end a command, `release` only takes it out of the
    inbox.
    """

    def __init__(
        self,
        busy: dict[str, deque[Pending]],
        governing: Governing,
        identity: Identity,
        shelf: Shelf,
        outcomes: Outcomes,
        clock: Clock,
        *,
        advance: Callable[[str], Awaitable[None]],
        refuse: Callable[[Pending, RollcallError], None],
        settle: Callable[[Pending], None],
        release: Callable[[Pending], None],
    ) -> None:
        self._busy = busy
        self._governing = governing
        self._identity = identity
        self._shelf = shelf
        self._outcomes = outcomes
        self._clock = clock
        self._advance = advance
        self._refuse = refuse
        self._settle = settle
        self._release = release
        self._waiting: dict[str, deque[Pending]] = {}
        self._errands: set[asyncio.Task[None]] = set()
        self._in_order = asyncio.Lock()

    def concerns(self, pending: Pending) -> bool:
        """Whether somebody has to be asked before an accepted command happens."""
        command = pending.command
        return not pending.allowed and isinstance(command, Asked) and self._governing.concerns(command)

    def holds(self, cause: Cause) -> bool:
        """Whether a command of the inbox waits here already."""
        return self._shelf.held(cause)

    def queues(self, id: str) -> bool:
        """Whether commands of an agent wait here, so that another one has to wait behind them."""
        return id in self._waiting

    def told(self) -> list[dict[str, Any]]:
        """Which agents have commands that wait, for operators."""
        return [self._told(id, waiting) for id, waiting in self._waiting.items()]

    async def take_up(self) -> None:
        """Goes on with what waited when the last term ended.

        Raises:
            Unavailable: JetStream does not answer.
        """
        queues: dict[str, deque[Pending]] = {}
        for kept in await self._shelf.load():
            try:
                command = read_command(kept.stored, kept.inbox_epoch, kept.after)
            except RollcallError as error:
                log.warning("what waits cannot be read", subject=kept.subject, error=str(error))
                continue
            origin = (kept.inbox_epoch, kept.after)
            who = asking(kept.stored)
            pending = Pending(command, who, command.cause, kept.stored, origin, shelved=True)
            if await self._refused_already(pending):
                continue
            try:
                pending.command = self._identity.signed(command, kept.stored)
            except RollcallError as error:
                # What was proved when it came is not any more: its key was revoked meanwhile.
                self._refuse(pending, error)
            else:
                queues.setdefault(command.id, deque()).append(pending)
        for id, queue in queues.items():
            await self._resume(id, queue)

    async def _refused_already(self, pending: Pending) -> bool:
        """Whether the term before refused it, and ended before that was settled: a no stays a no."""
        assert pending.cause is not None
        error = await self._shelf.refused(pending.command.id, pending.cause)
        if error is not None:
            self._refuse(pending, error)
        return error is not None

    async def ask(self, pending: Pending, place: Place | None) -> None:
        """Asks whether a command may happen. Its agent's later commands wait behind it, and nobody else does."""
        held = place.record if place is not None and not place.gone else None
        try:
            await self._governing.allowed(
                pending.command, held, pending.stored_at, lambda why: self._shelve(pending, why)
            )
            self._identity.check_standing(pending.command)
        except RollcallError as error:
            await self._remember(pending, error)
            self._refuse(pending, error)
            await self._go_on(pending, refused=True)
        else:
            pending.allowed = True
            await self._go_on(pending, refused=False)

    async def behind(self, pending: Pending) -> None:
        """Takes in a command whose agent has others that wait."""
        if self._queues_up(pending, self._waiting[pending.command.id]):
            await self._keep_in_line(pending)

    async def _keep_in_line(self, pending: Pending) -> None:
        id = pending.command.id
        try:
            await self._keep(pending)
        except Unavailable as error:
            # It goes on without a copy where the verdict on those before it came meanwhile.
            if pending in self._waiting.get(id, ()):
                self._waiting[id].remove(pending)
                self._refuse(pending, error)
            return
        if self._governing.awaits_approval(id) and not pending.settled:
            await self._say_waits(pending)

    def settled(self, pending: Pending, error: RollcallError | None = None) -> None:
        """A command that waited here is done; a refusal is told once nothing can bring it up again."""
        self._run(self._finish(pending, error))

    async def _finish(self, pending: Pending, error: RollcallError | None) -> None:
        # One after the other: whoever listens hears the refusals of an agent in the order of its commands.
        async with self._in_order:
            await self._remove(pending)
            if error is not None and pending.asking is not None:
                await self._outcomes.rejected(pending.asking, error)

    async def _go_on(self, pending: Pending, *, refused: bool) -> None:
        """There is a verdict on the first command of an agent."""
        id = pending.command.id
        waiting = self._waiting.pop(id, None)
        if waiting is None:
            # It was quick: the command still stands first in the inbox's own queue.
            if refused:
                self._busy[id].popleft()
            await self._advance(id)
            return
        if refused:
            waiting.popleft()
        await self._resume(id, waiting)

    async def _resume(self, id: str, queue: deque[Pending]) -> None:
        """Hands commands back to be decided; the registry itself may be busy with their agent at this moment."""
        busy = self._busy.get(id)
        if busy is None:
            self._busy[id] = queue
            await self._advance(id)
        else:
            busy.extend(queue)

    async def _shelve(self, pending: Pending, why: str) -> None:
        """Takes the commands of an agent out of the inbox: the verdict on the first may be long in coming.

        Raises:
            Busy: too many wait.
            Unavailable: the server keeps nothing.
        """
        if pending.command.id not in self._waiting:
            await self._move(pending)
        else:
            await self._keep(pending)
        if why == APPROVAL:
            for one in list(self._waiting[pending.command.id]):
                await self._say_waits(one)

    async def _move(self, pending: Pending) -> None:
        id = pending.command.id
        if len(self._waiting) >= self._governing.most and not pending.shelved:
            raise Busy(f"{len(self._waiting)} agents have commands that wait for a verdict, the bound; try again later")
        queue = self._busy.pop(id)
        waiting = self._waiting[id] = deque((pending,))
        asked = [one for one in queue if one.asking is not None and one is not pending]
        # In line before anything is awaited: what arrives meanwhile comes later.
        in_line = [one for one in asked if self._queues_up(one, waiting)]
        own = deque(one for one in queue if one.asking is None)
        if own:
            # What the registry itself found out about the agent waits for nobody.
            self._busy[id] = own
            await self._advance(id)
        # The first one first: whoever leads next must find none that is older than those it finds here.
        await self._keep(pending)
        for one in in_line:
            await self._keep_in_line(one)

    def _queues_up(self, pending: Pending, waiting: deque[Pending]) -> bool:
        """Whether a command was put in line; else it is dealt with already."""
        place = len(waiting)
        while place > 1 and _order(waiting[place - 1]) > _order(pending):
            # What was taken up from the bucket may be younger than what the inbox still holds.
            place -= 1
        if _same(pending.command, waiting[place - 1].command):
            self._run(self._say_waits(pending))
            self._settle(pending)
            return False
        if len(waiting) >= MOST_OF_ONE:
            whom = f"{pending.command.role} {pending.command.id!r}"
            self._refuse(pending, Busy(f"{len(waiting)} commands of {whom} wait for a verdict already; try later"))
            return False
        waiting.insert(place, pending)
        return True

    async def _keep(self, pending: Pending) -> None:
        if pending.shelved or pending.stored is None:
            return
        stored, (inbox_epoch, after) = pending.stored, pending.origin
        headers = dict(stored.headers)
        kept = Waiting(stored.seq, stored.subject, headers, stored.data, stored.at, inbox_epoch, after)
        try:
            await self._shelf.put(kept, pending.command.id)
        except Unavailable:
            # It may be stored all the same.
            self._run(self._remove(pending))
            raise
        if pending.settled:
            self._run(self._remove(pending))
        else:
            self._release(pending)
            pending.shelved = True

    async def _remove(self, pending: Pending) -> None:
        assert pending.cause is not None
        try:
            await self._shelf.remove(pending.command.id, pending.cause)
        except Unavailable as error:
            log.warning("what waited is still kept; it is found settled later", id=pending.command.id, error=str(error))

    async def _say_waits(self, pending: Pending) -> None:
        assert pending.asking is not None
        whom = f"{pending.command.role} {pending.command.id!r}"
        if self._governing.awaits_approval(pending.command.id):
            why = f"a command of {whom} waits for an approval; an operator settles it: rollcall approve|deny ID"
        else:
            why = f"a command of {whom} waits until the policy has judged it; ask again"
        await self._outcomes.waits(pending.asking, Waits(why))

    async def _remember(self, pending: Pending, error: RollcallError) -> None:
        """A refusal by somebody's word belongs to the history of the agent."""
        if not isinstance(error, Denied):
            log.warning("nobody judged; it is refused", agent_id=pending.command.id, why=error.message)
            return
        told = refusal(pending.command, error, timestamp(self._clock.wall()))
        log.info("refused", agent_id=pending.command.id, role=pending.command.role, why=error.message)
        try:
            assert pending.cause is not None
            await self._shelf.remember(pending.command.id, told, pending.cause)
        except Unavailable as away:
            log.warning("a refusal is missing from history", agent_id=pending.command.id, error=str(away))

    def _told(self, id: str, waiting: deque[Pending]) -> dict[str, Any]:
        first = waiting[0]
        assert first.asking is not None
        return {
            "id": id,
            "role": first.command.role,
            "verb": first.asking.verb,
            "since": timestamp(first.stored_at),
            "waits_for": APPROVAL if self._governing.awaits_approval(id) else POLICY,
            "behind": len(waiting) - 1,
        }

    def _run(self, errand: Coroutine[Any, Any, None]) -> None:
        """Does something that nobody waits for; a term may end meanwhile."""
        task = asyncio.create_task(errand, name="pending: errand")
        self._errands.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._errands.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.warning("an errand failed", error=repr(task.exception()))


def _order(pending: Pending) -> tuple[int, int]:
    """When a command was sent: later inboxes count on from those before."""
    assert pending.cause is not None
    return pending.origin[1], pending.cause.seq


def _same(one: Command, other: Command) -> bool:
    """Whether an agent registers once more just as it did."""
    if not isinstance(one, Register) or not isinstance(other, Register):
        return False
    return (one.profile, one.mode) == (other.profile, other.mode)
