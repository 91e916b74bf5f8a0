"""Asking silent agents whether they live, on their own subjects; as many at once as there are."""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nats.aio.client import Client
from nats.aio.msg import Msg

from rollcall.bus import headers as h
from rollcall.bus.connection import subscribe_all
from rollcall.bus.subjects import Subjects
from rollcall.core.instants import Seconds
from rollcall.core.lease import Doubt, Lease
from rollcall.core.leases import Leases

ASK_AGAIN: Seconds = 1.0
MOST_OPEN = 20_000
"""Questions without an answer yet that are remembered."""

NOBODY_LISTENS = "503"


class Inquiry:
    """Asks on ``ping.<id>``. An answer is passed on as a beat of the agent, so every worker hears it."""

    def __init__(self, client: Client, subjects: Subjects, leases: Leases) -> None:
        self._client = client
        self._subjects = subjects
        self._leases = leases
        self._prefix = client.new_inbox()
        self._open: dict[str, str] = {}
        self._order: deque[str] = deque()
        self._next = 0

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["Inquiry"]:
        """Hears answers while the block runs."""
        subscription = await subscribe_all(self._client, f"{self._prefix}.*", self._on_answer)
        try:
            yield self
        finally:
            if not self._client.is_closed:
                await subscription.unsubscribe()

    async def ask(self, key_: str, lease: Lease, now: Seconds) -> None:
        """Asks one agent, at most once a second."""
        doubt = lease.doubt = lease.doubt or Doubt()
        if doubt.asked_at is not None and now - doubt.asked_at < ASK_AGAIN:
            return
        doubt.asked_at = now
        self._next += 1
        number = str(self._next)
        self._open[number] = key_
        self._order.append(number)
        while len(self._order) > MOST_OPEN:
            self._open.pop(self._order.popleft(), None)
        id_token = key_.partition(".")[2]
        await self._client.publish(self._subjects.ping(id_token), b"", reply=f"{self._prefix}.{number}")

    async def _on_answer(self, message: Msg) -> None:
        key_ = self._open.pop(message.subject.rpartition(".")[2], None)
        if key_ is None:
            return
        if (message.headers or {}).get(h.STATUS) != NOBODY_LISTENS:
            await self._client.publish(self._subjects.heartbeat(key_), message.data)
            return
        lease = self._leases.get(key_)
        # An agent that was never seen on a connection of its own may beat without listening anywhere.
        if lease is not None and lease.doubt is not None and lease.greeted:
            lease.doubt.deaf = True
