"""The worker of the command line, which kills itself at the n-th time of one step of leading; run as a script.

    failing_worker.py <step> <n> worker --nats ...

======== ===================================================================================
take     a command was read from the inbox, and is not decided
publish  a record was sent to the server, whose answer is not heard
store    the server has stored it and tells us so; it is not folded
fold     it is in memory, and not on disk
commit   it is on disk, and not answered
answer   it is answered, and the position not saved
position the position behind it is on the server, and the refusals that waited for it not told
seed     a roll that was lost is seeded in part
======== ===================================================================================
"""

import asyncio
import os
import signal
import sys
from typing import Any, NoReturn

from nats.aio.client import Client

from rollcall.bus.connection import barrier
from rollcall.bus.inbox import read_command
from rollcall.bus.roll import Roll
from rollcall.core.records import Change
from rollcall.faces.cli.app import main
from rollcall.worker import lead
from rollcall.worker.healer import Seeding
from rollcall.worker.lead import Lead
from rollcall.worker.outcomes import Outcomes
from rollcall.worker.position import Position
from rollcall.worker.roster import Roster


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("nobody survives that")


class Countdown:
    """Zero at the n-th time."""

    def __init__(self, times: int) -> None:
        self._left = times

    def __call__(self) -> bool:
        self._left -= 1
        return self._left == 0


async def sent(client: Client) -> None:
    """What was published is in the hands of the system."""
    await client._flush_pending(force_flush=True)
    await asyncio.sleep(0)


def arm(step: str, last: Countdown) -> None:
    writing: set[str] = set()
    write, fold, accepted = Roll.write, Roster.fold, Outcomes.accepted
    on_fold, on_durable, save, seed = Lead.on_fold, Lead.on_durable, Position.save, Seeding.write

    def failing_read(*args: Any) -> Any:
        command = read_command(*args)
        return die() if last() else command

    async def failing_write(self: Roll, key: str, *args: Any, **more: Any) -> None:
        writing.add(key.partition(".")[2])
        await write(self, key, *args, **more)
        if step == "publish" and last():
            await sent(self._client)
            die()

    def failing_fold(self: Roster, change: Change) -> Any:
        # Only what this process wrote as the leader counts.
        if change.id in writing and last():
            die()
        return fold(self, change)

    async def failing_on_fold(self: Lead, change: Change) -> None:
        if last():
            die()
        await on_fold(self, change)

    async def failing_on_durable(self: Lead, batch: Any) -> None:
        if any(last() for _ in batch):
            die()
        await on_durable(self, batch)

    async def failing_accepted(self: Outcomes, *args: Any) -> None:
        await accepted(self, *args)
        if last():
            await sent(self._client)
            die()

    async def failing_save(self: Position, told: Lead) -> None:
        saved = self._saved
        tell, told.tell_refusals = told.tell_refusals, _tell_nobody
        await save(self, told)
        if self._saved != saved and last():
            await barrier(self._client)
            die()
        told.tell_refusals = tell
        await tell(self._saved.seq)

    async def failing_seed(self: Seeding, *args: Any, **more: Any) -> None:
        await seed(self, *args, **more)
        if last():
            await sent(self._roll._client)
            die()

    match step:
        case "take":
            lead.read_command = failing_read
        case "publish":
            Roll.write = failing_write
        case "store":
            Roll.write, Roster.fold = failing_write, failing_fold
        case "fold":
            Lead.on_fold = failing_on_fold
        case "commit":
            Lead.on_durable = failing_on_durable
        case "answer":
            Outcomes.accepted = failing_accepted
        case "position":
            Position.save = failing_save
        case "seed":
            Seeding.write = failing_seed
        case _:
            raise SystemExit(f"no step {step!r}")


async def _tell_nobody(_: int) -> None:
    pass


arm(sys.argv[1], Countdown(int(sys.argv[2])))
del sys.argv[1:3]
main()
