"""Messages go with their agent: whoever leaves the roll leaves no letters behind."""

import asyncio

import structlog
from nats.aio.client import Client

from rollcall.bus import streams
from rollcall.bus.subjects import Subjects, token
from rollcall.core.errors import Unavailable
from rollcall.core.instants import Seconds
from rollcall.core.records import ENDINGS, Change

TRY_AGAIN: Seconds = 0.5

log = structlog.get_logger(__name__)


class Mail:
    """Removes, while this worker leads, what the messages stream holds of agents that left."""

    def __init__(self, client: Client, subjects: Subjects) -> None:
        self._client = client
        self._subjects = subjects
        self._left: dict[str, None] = {}
        self._somebody = asyncio.Event()

    def on_fold(self, change: Change) -> None:
        """Notes who left."""
        if change.kind in ENDINGS:
            self._left[change.id] = None
            self._somebody.set()

    async def run(self) -> None:
        """Removes what is left behind, until cancelled."""
        while True:
            await self._somebody.wait()
            self._somebody.clear()
            try:
                await self._remove()
            except Unavailable as error:
                log.debug("messages of agents that left cannot be removed now", error=str(error))
                self._somebody.set()
                await asyncio.sleep(TRY_AGAIN)

    async def _remove(self) -> None:
        stream = self._subjects.messages_stream
        if not (await streams.state(self._client, stream)).messages:
            self._left.clear()
        while self._left:
            id = next(iter(self._left))
            await streams.purge_subject(self._client, stream, self._subjects.message(token(id)))
            self._left.pop(id, None)
