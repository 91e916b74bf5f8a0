"""What operators ask of the leader: to end the guard, to call the roll."""

from contextlib import AbstractAsyncContextManager
from typing import Any

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from rollcall.bus.connection import answering, refuse
from rollcall.bus.subjects import Subjects
from rollcall.core import codec
from rollcall.core.errors import Invalid, RollcallError
from rollcall.core.guard import Guard
from rollcall.worker.calling import Calling
from rollcall.worker.roster import Roster

log = structlog.get_logger(__name__)


class Operating:
    """Does what operators ask while it is open; only the leader opens it."""

    def __init__(self, client: Client, subjects: Subjects, roster: Roster, *, guard: Guard, calling: Calling) -> None:
        self._client = client
        self._subjects = subjects
        self._roster = roster
        self._guard = guard
        self._calling = calling

    def opened(self) -> AbstractAsyncContextManager[None]:
        """Answers until the block ends."""
        return answering(self._client, self._subjects.operate("*"), self._on_request)

    async def _on_request(self, message: Msg) -> None:
        try:
            done = await self._do(message.subject.rpartition(".")[2])
        except RollcallError as error:
            await refuse(self._client, message, error)
            return
        if message.reply:
            await self._client.publish(message.reply, codec.encode(done))

    async def _do(self, verb: str) -> Any:  # Any: the answer of the verb, a Struct or a mapping
        match verb:
            case "release":
                clock = self._roster.clock
                said = self._guard.says(clock.now(), clock.wall())
                self._guard.release(clock.now())
                if said is not None:
                    log.warning("an operator ended the guard", why=said.why)
                return {"released": said is not None, "guard": said}
            case "call":
                return await self._calling.call()
            case _:
                raise Invalid(f"operators can 'release' the guard or 'call' the roll, not {verb!r}")
