"""Commands that wait for a verdict, on the server: one place for all that were taken out of the inbox undecided."""

import asyncio
import json
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import msgspec
import nats.errors
import structlog
from msgspec import Struct
from nats.aio.client import Client

from rollcall.bus import connection, streams
from rollcall.bus.follow import Follower, Stored
from rollcall.bus.messages import held
from rollcall.bus.subjects import Subjects, text, token
from rollcall.core import codec
from rollcall.core.errors import Denied, Invalid, RollcallError, Unavailable
from rollcall.core.instants import Milliseconds, Seconds
from rollcall.core.records import Cause

REFUSALS = 16
"""Refusals that are remembered of each agent."""

NOTED = 100_000
"""Commands of a term that are known to have been kept here."""

ACK_WITHIN: Seconds = 5.0

log = structlog.get_logger(__name__)


class Waiting(Struct, frozen=True):
    """A command as it stood in the inbox, and which inbox that was."""

    seq: int
    subject: str
    headers: dict[str, str]
    data: bytes
    at: Milliseconds
    inbox_epoch: str
    after: int

    @property
    def stored(self) -> Stored:
        """The message of the inbox."""
        return Stored(self.seq, self.subject, self.headers, self.data, self.at, 0)

    @property
    def cause(self) -> Cause:
        """Which command it is."""
        return Cause(self.inbox_epoch, self.seq)


class Shelf:
    """The pending bucket, for the leader to write."""

    def __init__(self, client: Client, subjects: Subjects) -> None:
        self._client = client
        self._subjects = subjects
        self._telling = asyncio.Lock()
        self._held: OrderedDict[Cause, None] = OrderedDict()

    def held(self, cause: Cause) -> bool:
        """Whether a command was kept here in this term, settled meanwhile or not: the inbox may tell it once more."""
        return cause in self._held

    async def load(self) -> Sequence[Waiting]:
        """Everything that waits, in the order it came.

        Raises:
            Unavailable: JetStream does not answer.
        """
        state = await streams.state(self._client, self._subjects.pending_stream)
        found: dict[str, bytes] = {}
        if state.messages:
            follower = Follower(self._client, self._subjects.pending_stream, 0)
            follower.expect(state.last)
            async for batch in follower.batches():
                found |= {stored.subject: stored.data for stored in batch}
                if follower.upto >= state.last:
                    break
        prefix = self._subjects.pending("wait.")
        kept = (self._read(subject, data) for subject, data in found.items() if subject.startswith(prefix))
        waiting = [one for one in kept if one is not None]
        waiting.sort(key=lambda one: (one.after, one.seq))
        for one in waiting:
            self._note(one.cause)
        return waiting

    async def put(self, waiting: Waiting, id: str) -> None:
        """Keeps a command; from now on the inbox need not.

        Raises:
            Unavailable: the server did not store it.
        """
        await self._store(self._key(id, waiting.cause), codec.encode(waiting))
        self._note(waiting.cause)

    async def remove(self, id: str, cause: Cause) -> None:
        """The command is settled."""
        await streams.purge_subject(self._client, self._subjects.pending_stream, self._key(id, cause))

    async def refused(self, id: str, cause: Cause) -> RollcallError | None:
        """The refusal of a command that is remembered.

        Raises:
            Unavailable: JetStream does not answer.
        """
        for told in await refusals(self._client, self._subjects, id):
            if told.get("cause") == msgspec.to_builtins(cause):
                return Denied(str(told.get("reason")), judged_by=told.get("by"))
        return None

    async def remember(self, id: str, refusal: dict[str, Any], cause: Cause) -> None:
        """Adds to the refusals of an agent, once for each command; the newest ones are kept.

        Raises:
            Unavailable: the server did not store it.
        """
        said = {**refusal, "cause": msgspec.to_builtins(cause)}
        async with self._telling:
            known = await refusals(self._client, self._subjects, id)
            if any(one.get("cause") == said["cause"] for one in known):
                return
            told = [*known, said]
            await self._store(self._refused(id), codec.encode(told[-REFUSALS:]))

    def _note(self, cause: Cause) -> None:
        self._held[cause] = None
        if len(self._held) > NOTED:
            self._held.popitem(last=False)

    def _read(self, subject: str, data: bytes) -> Waiting | None:
        """What waits under a key; None for what nobody of us wrote there."""
        try:
            waiting = codec.decode(data, Waiting)
            _, _, _, _, id = waiting.subject.split(".")
            if subject != self._key(text(id), waiting.cause):
                raise Invalid("it is about another agent than its key")
        except (RollcallError, ValueError) as error:
            log.warning("a message in the pending bucket is no command", subject=subject, error=str(error))
            return None
        return waiting

    def _key(self, id: str, cause: Cause) -> str:
        return self._subjects.pending(f"wait.{token(id)}.{token(cause.inbox_epoch)}-{cause.seq}")

    def _refused(self, id: str) -> str:
        return self._subjects.pending(f"refused.{token(id)}")

    async def _store(self, subject: str, data: bytes) -> None:
        try:
            reply = await connection.request(self._client, subject, data, timeout=ACK_WITHIN)
        except (TimeoutError, nats.errors.Error) as error:
            raise Unavailable(f"the pending bucket did not answer: {error!r}") from error
        error_ = json.loads(reply.data).get("error")
        if error_:
            raise Unavailable(f"the pending bucket takes nothing: {error_.get('description')}")


async def refusals(client: Client, subjects: Subjects, id: str) -> list[dict[str, Any]]:
    """What was refused of an agent, oldest first.

    Raises:
        Unavailable: JetStream does not answer.
    """
    kept = await held(client, subjects.pending_stream, subjects.pending(f"refused.{token(id)}"), 1)
    try:
        return codec.decode(kept[0], list[dict[str, Any]]) if kept else []
    except Invalid as error:
        log.warning("the refusals of an agent cannot be read", id=id, error=str(error))
        return []
