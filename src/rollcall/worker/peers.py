"""The workers of a realm tell each other how far they are: the most advanced one seeds a roll that was lost."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from rollcall.bus.connection import subscribe_all
from rollcall.bus.subjects import Subjects
from rollcall.core import codec
from rollcall.core.errors import RollcallError
from rollcall.core.healing import Standing
from rollcall.core.instants import Seconds

ANSWERS_WITHIN: Seconds = 0.3

log = structlog.get_logger(__name__)


class Peers:
    """The other workers, as this one hears them. `give_way` is told of one that knows more and cannot go on."""

    def __init__(
        self,
        client: Client,
        subjects: Subjects,
        *,
        standing: Callable[[], Standing],
        give_way: Callable[[Standing], None],
    ) -> None:
        self._client = client
        self._subject = subjects.peers
        self._standing = standing
        self._give_way = give_way

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Answers others while the block runs."""
        subscription = await subscribe_all(self._client, self._subject, self._on_question)
        try:
            yield
        finally:
            if not self._client.is_closed:
                await subscription.unsubscribe()

    async def most_advanced(self) -> Standing:
        """The greatest standing of all that answer, our own included. When nobody listens it takes no time."""
        found, heard = [self._standing()], asyncio.Event()

        async def hear(message: Msg) -> None:
            if message.data:
                try:
                    found.append(codec.decode(message.data, Standing))
                except RollcallError as error:
                    log.warning("a worker's standing cannot be read", error=str(error))
            else:
                heard.set()  # nobody listens

        inbox = self._client.new_inbox()
        subscription = await subscribe_all(self._client, inbox, hear)
        try:
            await self._client.publish(self._subject, codec.encode(self._standing()), reply=inbox)
            async with asyncio.timeout(ANSWERS_WITHIN):
                await heard.wait()
        except TimeoutError:
            pass  # everybody had the time
        finally:
            if not self._client.is_closed:
                await subscription.unsubscribe()
        return max(found)

    async def _on_question(self, message: Msg) -> None:
        """Somebody cannot follow the roll. Who knows less of the same roll must not go on deciding on it."""
        mine = self._standing()
        await self._client.publish(message.reply, codec.encode(mine))
        try:
            theirs = codec.decode(message.data, Standing)
        except RollcallError as error:
            log.warning("a worker's standing cannot be read", error=str(error))
            return
        if theirs.epoch == mine.epoch and theirs.revision > mine.revision:
            self._give_way(theirs)
