"""The roll call: every agent is asked to announce itself again, spread over a window that grows with the fleet.

It is called by itself once for each epoch, and whenever an operator asks.
"""

from contextlib import suppress

import structlog
from msgspec import Struct
from nats.aio.client import Client

from rollcall.bus.leader import LeaseKey
from rollcall.bus.subjects import Subjects
from rollcall.core import codec
from rollcall.core.errors import Busy
from rollcall.core.instants import Seconds
from rollcall.worker.roster import Roster
from rollcall.worker.witness import Witness

SHORTEST: Seconds = 0.5
LONGEST: Seconds = 30.0
ANSWERS_PER_SECOND = 1000
"""What a worker decides beside its other work on two small cores."""

log = structlog.get_logger(__name__)


class Called(Struct, frozen=True):
    """A call that was made: how many agents are expected to answer, and within how many seconds."""

    agents: int
    window: Seconds


class Calling:
    """Calls the roll while this worker leads."""

    def __init__(self, client: Client, subjects: Subjects, roster: Roster, witness: Witness) -> None:
        self._client = client
        self._subjects = subjects
        self._roster = roster
        self._witness = witness
        self._key = LeaseKey(client, subjects, "called")
        self._until: Seconds = 0.0

    async def once_for(self, epoch: str) -> None:
        """Calls unless this epoch was called already.

        Raises:
            Unavailable: the server did not answer.
        """
        value = await self._key.read()
        if value is not None and value.decode() == epoch:
            return
        if await self._key.write(epoch.encode()):
            with suppress(Busy):  # an operator was faster
                await self.call()

    async def call(self) -> Called:
        """Calls at once.

        Raises:
            Busy: the answers to the last call are still coming in.
        """
        now = self._roster.clock.now()
        if now < self._until:
            raise Busy(f"the roll was called a moment ago; its answers come in for another {self._until - now:.1f} s")
        agents = max(len(self._roster), self._witness.named)
        window = min(LONGEST, max(SHORTEST, agents / ANSWERS_PER_SECOND))
        self._until = now + window
        log.info("calls the roll", agents=agents, window=window)
        await self._client.publish(self._subjects.roll_call, codec.encode({"window": window}))
        return Called(agents, window)
