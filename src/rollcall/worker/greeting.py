"""Hello: an agent asks on every new connection whether it is known, and the leader answers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec import Struct
from nats.aio.client import Client
from nats.aio.msg import Msg

from rollcall.bus import headers as h
from rollcall.bus.connection import release
from rollcall.bus.subjects import Subjects, names
from rollcall.core import codec
from rollcall.core.errors import RollcallError
from rollcall.worker.roster import Roster


class Hello(Struct, frozen=True):
    """What an agent says on a new connection."""

    incarnation: int = 0


class Greeted(Struct, frozen=True):
    """What the leader answers: whether the agent is on the roll, and whether a newer life took its place."""

    known: bool
    superseded: bool
    epoch: str
    revision: int


class Greeting:
    """Answers hellos while it is open."""

    def __init__(self, client: Client, subjects: Subjects, roster: Roster) -> None:
        self._client = client
        self._subjects = subjects
        self._roster = roster

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Answers until the block ends; what was asked by then is still answered."""
        subscription = await self._client.subscribe(self._subjects.hello("*.*"), cb=self._on_hello)
        try:
            yield
        finally:
            if self._client.is_connected:
                await release(self._client, subscription)
                await subscription.unsubscribe()

    async def _on_hello(self, message: Msg) -> None:
        try:
            role, id = names(".".join(message.subject.split(".")[3:]))
            hello = codec.decode(message.data, Hello) if message.data else Hello()
        except RollcallError as error:
            headers = {h.ERROR_CODE: str(error.status), h.ERROR: error.code}
            await self._client.publish(message.reply, codec.encode_error(error), headers=headers)
            return
        # Not message.respond: that sends the question's headers back, and with them who asked.
        await self._client.publish(message.reply, codec.encode(self._greeted(role, id, hello.incarnation)))

    def _greeted(self, role: str, id: str, incarnation: int) -> Greeted:
        place = self._roster.standing(id)
        epoch, revision = self._roster.epoch, self._roster.revision
        if place is None or place.record.role != role:
            return Greeted(False, False, epoch, revision)
        held = place.record.incarnation
        return Greeted(incarnation in (0, held), 0 < incarnation < held, epoch, revision)
