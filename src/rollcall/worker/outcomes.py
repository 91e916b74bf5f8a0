"""Telling what became of a command: to the one who asked, and refusals to everybody."""

from collections import Counter

from nats.aio.client import Client

from rollcall.bus import headers as h
from rollcall.bus import swift
from rollcall.bus.inbox import Asking
from rollcall.bus.subjects import NOBODY, Subjects, key
from rollcall.core import codec
from rollcall.core.errors import RollcallError
from rollcall.core.records import ChangeKind, Place, Record
from rollcall.worker.roster import Roster

UNCHANGED = "unchanged"
"""In the header of an outcome: the roll said so already."""


class Outcomes:
    """Answers on the subjects that the registry builds itself; never where a header points."""

    def __init__(
        self, client: Client, subjects: Subjects, roster: Roster, *, worker: str, counts: Counter[str]
    ) -> None:
        self._worker = worker
        self._client = client
        self._counts = counts
        self._subjects = subjects
        self._roster = roster

    async def accepted(self, asking: Asking, place: Place, what: ChangeKind | str, data: bytes | None = None) -> None:
        """The entry, to the one who asked. `data` is the record's bytes where they are at hand."""
        self._counts[str(what)] += 1
        if not asking.client:
            return
        clock = self._roster.clock
        seen = self._roster.observation(place, clock.now(), clock.wall())
        body = codec.splice(data or codec.encode_record(place.record), seen)
        await self._answer(asking, body, {h.CHANGE: str(what)})

    async def rejected(self, asking: Asking, error: RollcallError) -> None:
        """The error, to the one who asked and to everybody."""
        self._counts[error.code] += 1
        facts: dict[str, str] = {"command": asking.verb}
        if asking.key == f"{NOBODY}.{NOBODY}":
            facts["subject"] = asking.subject
        body = codec.encode_error(type(error)(error.message, **facts, **error.details))
        headers = {h.ERROR_CODE: str(error.status), h.ERROR: error.code}
        if asking.client:
            await self._answer(asking, body, headers)
        await self._client.publish(self._subjects.rejected(asking.key), body, headers=headers)

    async def waits(self, asking: Asking, error: RollcallError) -> None:
        """That it is not decided yet, to the one who asked."""
        if asking.client:
            headers = {h.ERROR_CODE: str(error.status), h.ERROR: error.code}
            await self._answer(asking, codec.encode_error(error), headers)

    async def alive(self, record: Record) -> None:
        """A command was a sign of life: the lease is renewed here at once, and by a beat at every other worker."""
        clock, agent = self._roster.clock, key(record.role, record.id)
        lease = self._roster.leases.get(agent)
        if lease is not None:
            # Whoever may change a record has proved to be its owner.
            lease.prove(clock.now())
        self._roster.leases.beat(agent, record.incarnation, clock.now(), clock.wall())
        body = codec.encode({"incarnation": record.incarnation}) if record.incarnation else b""
        await self._client.publish(self._subjects.heartbeat(agent), body, headers={h.WORKER: self._worker})

    async def _answer(self, asking: Asking, body: bytes, headers: dict[str, str]) -> None:
        if asking.command:
            headers[h.COMMAND] = asking.command
        headers[h.EPOCH] = self._roster.epoch
        lines = [swift.line(name, value) for name, value in headers.items()]
        await swift.publish(self._client, self._subjects.outcome(asking.client, asking.key), "", lines, body)
