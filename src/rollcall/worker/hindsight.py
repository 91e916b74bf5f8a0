"""Questions about the past of the roll. They are answered from disk, beside everything else."""

import asyncio
from typing import Annotated, Any

from msgspec import Meta, Struct

from rollcall.core import codec, limits
from rollcall.core.errors import Invalid, NotFound
from rollcall.core.instants import Milliseconds, instant, timestamp
from rollcall.core.liveness import as_entry
from rollcall.core.records import Change, Entry, Label, Text, Whole
from rollcall.store.past import Moment, Past
from rollcall.worker.answers import Answers
from rollcall.worker.commit import Committer
from rollcall.worker.roster import Roster
from rollcall.worker.sight import View

SKEW: Milliseconds = 5000
"""How far ahead the clock of whoever asks may be."""

AT_ONCE = 2
"""Questions about the past that are answered at once; each may read very much."""


class AsOf(Struct, frozen=True, kw_only=True):
    """Which state of the roll: the one at a time, or after a `revision`; without both the present one.

    A revision never comes back, so `epoch` is needed only where a roll was rolled back. An empty `role` or `id` is any.
    """

    at: Text = ""
    revision: Whole | None = None
    epoch: Label = ""
    role: Label = ""
    id: Label = ""
    limit: Annotated[int, Meta(ge=1, le=limits.PAGE)] = limits.PAGE
    cursor: Label = ""


class Hindsight:
    """Answers them, from the snapshot of this worker. `room` is how many bytes one reply may have."""

    def __init__(self, roster: Roster, committer: Committer, answers: Answers, *, room: int) -> None:
        self._roster = roster
        self._committer = committer
        self._answers = answers
        self._room = room
        self._past = Past(committer.snapshot.path)
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def begins(self) -> dict[str, Any] | None:
        """From when on this worker knows everything."""
        begins = await asyncio.to_thread(self._past.begins)
        return None if begins is None else told(begins)

    async def answer(self, query: AsOf, view: View) -> bytes:
        """Who was on the roll, one page of them.

        Raises:
            NotFound: that is before everything that this worker knows.
            Invalid: the moment is none, or has not come yet.
        """
        if query.role:
            view.check(query.role)
        await self._committer.settled()
        async with self._turns:
            moment = await asyncio.to_thread(self._moment, query)
            found, following = await asyncio.to_thread(
                self._past.standing, moment, role=query.role, id=query.id, after=query.cursor, limit=query.limit
            )
            begins = await self.begins()
        agents, cut = self._fitting([change for change in found if view.sees_agent(change.record)])
        after = agents[-1].id if cut else following or None
        return self._answers.envelope(agents=agents, count=len(agents), next=after, asof=told(moment), begins=begins)

    def _moment(self, query: AsOf) -> Moment:
        if query.at and query.revision is not None:
            raise Invalid("'at' and 'revision' are two ways to name a moment; send one")
        moment = self._at_time(query.at) if query.at else self._at_revision(query)
        if moment is None:
            raise NotFound(_unknown(self._past.begins()))
        return moment

    def _at_time(self, text: str) -> Moment | None:
        at, now = instant(text), self._roster.clock.wall()
        if at > now + SKEW:
            raise Invalid(f"{text} has not come yet; it is {timestamp(now)}")
        return self._past.at_time(at)

    def _at_revision(self, query: AsOf) -> Moment | None:
        here, now = self._roster.epoch, self._roster.revision
        if query.revision is None:
            return self._past.at_revision(query.epoch or here, now)
        if query.epoch in ("", here) and query.revision > now:
            raise Invalid(f"revision {query.revision} has not come yet; the roll is at {now}")
        return self._past.at_revision(query.epoch, query.revision)

    def _fitting(self, found: list[Change]) -> tuple[list[Entry], bool]:
        """As many agents as one reply has room for, and whether some were left out."""
        room = self._room
        agents: list[Entry] = []
        for change in found:
            entry = as_entry(change.record, change.revision)
            room -= len(codec.encode(entry)) + 1
            if room < 0 and agents:
                return agents, True
            agents.append(entry)
        return agents, False


def told(moment: Moment) -> dict[str, Any]:
    """A moment as it is answered."""
    return {"epoch": moment.epoch, "revision": moment.revision, "at": timestamp(moment.at)}


def _unknown(begins: Moment | None) -> str:
    if begins is None:
        return "nothing is known of the past yet; ask again in a moment"
    at = timestamp(begins.at)
    return (
        f"this worker does not know the roll of then: what it knows begins at {at}, with revision {begins.revision} "
        f"of epoch {begins.epoch}"
    )
