"""Answers about agents, as bytes. Those about many are kept ready, per role and question.

A ready answer serves until its role changes or a second has passed. Where making it is dear, it is made again at
most so often that making it costs a tenth of the time; a question that is `exact`, or asks for `at_least` a newer
revision, never gets an older one.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from msgspec import Struct

from rollcall.bus.subjects import text, token
from rollcall.core import codec
from rollcall.core.errors import Invalid
from rollcall.core.guard import Guarding
from rollcall.core.instants import Milliseconds, Seconds
from rollcall.core.query import By, Query, check, mismatch
from rollcall.core.records import Place
from rollcall.worker.roster import Roster, order
from rollcall.worker.sight import View

RENEW_AFTER: Seconds = 1.0
CHEAP: Seconds = 0.001
READY_PER_ROLE = 64


class Ready(Struct, gc=False):
    """One ready answer: made when, from which state, at what cost."""

    data: bytes
    role_revision: int
    made_at: Seconds
    cost: Seconds
    at_least: bool


class Reply:
    """What one reply has room for: entries up to a limit, and why candidates fit or not."""

    def __init__(self, room: int, limit: int) -> None:
        self._room = room
        self._limit = limit
        self._last: Place | None = None
        self.entries: list[bytes] = []
        self.explained: list[dict[str, Any]] = []
        self.cursor: str | None = None

    def add(self, place: Place, entry: bytes) -> bool:
        """Takes an entry in; False when there is no room, and `cursor` then says where to go on."""
        if len(self.entries) == self._limit or not self._fits(len(entry)):
            return self._end()
        self.entries.append(entry)
        self._last = place
        return True

    def explain(self, place: Place, why: str) -> bool:
        """Takes in why a candidate fits or not; False when there is no room."""
        one = {"id": place.record.id, "role": place.record.role, "kept": not why, "why": why}
        if not self._fits(len(codec.encode(one))):
            return self._end()
        self.explained.append(one)
        if why:
            self._last = place
        return True

    def _fits(self, size: int) -> bool:
        self._room -= size + 1
        return self._room >= 0

    def _end(self) -> bool:
        self.cursor = _cursor(self._last) if self._last is not None else None
        return False


class Answers:
    """What this worker answers. `room` is how many bytes one reply may have."""

    def __init__(self, roster: Roster, *, worker: str, room: int, guard: Callable[[], Guarding | None]) -> None:
        self._roster = roster
        self._guard = guard
        self._worker = worker
        self._room = room
        self._ready: dict[str, dict[bytes, Ready]] = {}
        self._turns: dict[str, int] = {}

    def ready(self, role: str, question: bytes) -> bytes | None:
        """The answer to a question that was asked before in just these bytes, if it still serves."""
        found = self._ready.get(role, {}).get(question)
        known = self._roster.roles.get(role)
        if known is None:
            self._ready.pop(role, None)
        if found is None or known is None:
            return None
        age = self._roster.clock.now() - found.made_at
        if age > RENEW_AFTER:
            return None
        changed = found.role_revision != known.revision
        if changed and (found.cost < CHEAP or age > 10 * found.cost or found.at_least):
            return None
        return found.data

    def discover(self, role: str, query: Query, question: bytes) -> bytes:
        """The agents of a role that fit.

        Raises:
            Invalid: the question means nothing.
        """
        check(query)
        started = self._roster.clock.now()
        known = self._roster.roles.get(role)
        role_revision = known.revision if known is not None else 0
        same_roll = query.epoch == self._roster.epoch
        # Of a role that is gone nobody knows any more when that was, so its end is always told.
        if known is not None and query.if_revision is not None and same_roll and role_revision <= query.if_revision:
            return self.envelope(not_modified=True)
        if query.pick is not None:
            return self._picked(role, query)
        data = self._page([role], query)
        if known is not None and not query.exact:
            finished = self._roster.clock.now()
            ready = Ready(data, role_revision, finished, finished - started, query.at_least is not None)
            self._keep(role, question, ready)
        return data

    def everybody(self, query: Query, view: View) -> bytes:
        """The agents of every role that fit and that the asker sees, role by role.

        Raises:
            Invalid: the question means nothing.
        """
        check(query)
        return self._page(sorted(role for role in self._roster.roles if view.sees(role)), query)

    def entry(self, place: Place) -> bytes:
        """One agent, to the moment."""
        clock = self._roster.clock
        return codec.splice(
            codec.encode_record(place.record), self._roster.observation(place, clock.now(), clock.wall())
        )

    def envelope(self, **members: Any) -> bytes:  # Any: whatever the answer holds
        """An answer with what every answer says."""
        return codec.encode({**members, **self.signature()})

    def signature(self) -> dict[str, Any]:
        """Who answers, and how much of the roll it knows."""
        return {
            "epoch": self._roster.epoch,
            "revision": self._roster.revision,
            "worker": self._worker,
            "guard": self._guard(),
        }

    def _keep(self, role: str, question: bytes, ready: Ready) -> None:
        kept = self._ready.setdefault(role, {})
        if len(kept) >= READY_PER_ROLE:
            kept.clear()
        kept[question] = ready

    def _page(self, roles: Sequence[str], query: Query) -> bytes:
        """One page: entries until the limit or the room for a reply is reached, and the cursor behind the last."""
        clock = self._roster.clock
        now, wall = clock.now(), clock.wall()
        reply = Reply(self._room, query.limit)
        for place in self._after(roles, query.cursor):
            why = mismatch(query, place.record, self._roster.liveness(place, now))
            if query.explain and not reply.explain(place, why):
                break
            if not why and not reply.add(place, self._spliced(place, now, wall)):
                break
        return self._wrapped(reply, query)

    def _spliced(self, place: Place, now: Seconds, wall: Milliseconds) -> bytes:
        return codec.splice(codec.encode_record(place.record), self._roster.observation(place, now, wall))

    def _wrapped(self, reply: "Reply", query: Query) -> bytes:
        rest: dict[str, Any] = {"count": len(reply.entries), "next": reply.cursor}
        if query.explain:
            rest["explained"] = reply.explained
        return b'{"agents":[' + b",".join(reply.entries) + b"]," + codec.encode({**rest, **self.signature()})[1:]

    def _after(self, roles: Sequence[str], cursor: str) -> Iterator[Place]:
        """The agents of `roles` behind `cursor`."""
        if not cursor:
            return chain.from_iterable(self._roster.members(role) for role in roles)
        role, position = _read_cursor(cursor)
        rest = (place for place in self._roster.members(role) if order(place) > position) if role in roles else ()
        later = (self._roster.members(name) for name in roles if name > role)
        return chain(rest, chain.from_iterable(later))

    def _picked(self, role: str, query: Query) -> bytes:
        assert query.pick is not None
        clock = self._roster.clock
        now, wall = clock.now(), clock.wall()
        reply = Reply(self._room, query.pick)
        fitting: list[Place] = []
        for place in self._roster.members(role):
            why = mismatch(query, place.record, self._roster.liveness(place, now))
            if query.explain:
                reply.explain(place, why)
            if not why:
                fitting.append(place)
        for place in self._choose(role, fitting, min(query.pick, len(fitting)), query.by):
            if not reply.add(place, self._spliced(place, now, wall)):
                break
        reply.cursor = None
        return self._wrapped(reply, query)

    def _choose(self, role: str, fitting: list[Place], count: int, by: By) -> Iterable[Place]:
        match by:
            case By.RANDOM:
                return random.sample(fitting, count)
            case By.LEAST_LOADED:
                # Shuffled first, so that equals share the load.
                shuffled = random.sample(fitting, len(fitting))
                return sorted(shuffled, key=self._load)[:count]
            case By.ROUND_ROBIN:
                turn = self._turns.get(role, 0)
                self._turns[role] = turn + count
                return [fitting[(turn + step) % len(fitting)] for step in range(count)]

    def _load(self, place: Place) -> tuple[float, float]:
        """Open connections first, then the processor; an agent that says nothing counts as idle."""
        beat = self._roster.lease(place.record).beat
        if beat is None:
            return (0.0, 0.0)
        return (beat.active_connections or 0, beat.cpu_percent or 0.0)


def _cursor(place: Place) -> str:
    record = place.record
    return f"{token(record.role)}.{record.registered_seq}.{record.id}"


def _read_cursor(cursor: str) -> tuple[str, tuple[int, str]]:
    role, _, rest = cursor.partition(".")
    seq, dot, id = rest.partition(".")
    if not dot or not seq.isdecimal():
        raise Invalid(f"cursor {cursor!r} is none of ours; send the 'next' of the page before, or none")
    return text(role), (int(seq), id)
