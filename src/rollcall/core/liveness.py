"""Whether an agent is believed alive, from its record and its lease."""

from typing import Any

from rollcall.core.instants import Milliseconds, Seconds, timestamp
from rollcall.core.lease import MISSED_IS_SUSPECT, Lease
from rollcall.core.records import Entry, Liveness, Record

STUCK_AFTER: Seconds = 5.0
"""How long an agent's own loop may stand still before it is called stuck."""


def as_entry(record: Record, revision: int) -> Entry:
    """A record as an entry, where nothing was heard of the agent: lost or not, the record itself says."""
    believed = Liveness.LIVE if record.beating else Liveness.UNKNOWN
    liveness = Liveness.LOST if record.lost_at is not None else believed
    return Entry(
        **{name: getattr(record, name) for name in Record.__struct_fields__}, revision=revision, liveness=liveness
    )


def missed_beats(record: Record, lease: Lease, now: Seconds) -> int:
    """Beats that are overdue, each from half an interval after it was due."""
    interval = record.beat_interval
    if interval is None or not record.beating:
        return 0
    return max(0, int((now - lease.at) / interval - 0.5))


def liveness(record: Record, lease: Lease, now: Seconds) -> Liveness:
    """What to believe at `now`, by the precedence lost > suspect > stuck > live."""
    if record.lost_at is not None:
        return Liveness.LOST
    if not record.beating:
        return Liveness.UNKNOWN
    if lease.gone_at is not None:
        return Liveness.SUSPECT
    ends_at = lease.ends_at
    if ends_at is not None and (now >= ends_at or missed_beats(record, lease, now) >= MISSED_IS_SUSPECT):
        return Liveness.SUSPECT
    if lease.stuck_for >= STUCK_AFTER:
        return Liveness.STUCK
    return Liveness.LIVE


def observation(record: Record, lease: Lease, *, revision: int, now: Seconds, wall: Milliseconds) -> dict[str, Any]:
    """The members that make an entry of a record; those at their default are left out.

    `wall` is the wall-clock instant of the monotonic `now`.
    """
    seen: dict[str, Any] = {"revision": revision, "liveness": liveness(record, lease, now)}
    if lease.seen_at is not None:
        seen["last_seen"] = timestamp(lease.seen_at)
    ends_at = lease.ends_at
    if ends_at is not None and record.beating:
        seen["expires_at"] = timestamp(wall + round((ends_at - now) * 1000))
    if lease.beat is not None:
        seen["health"] = lease.beat.health
    missed = missed_beats(record, lease, now)
    if missed:
        seen["missed_beats"] = missed
    if lease.stuck_for >= STUCK_AFTER:
        seen["stuck_for"] = round(lease.stuck_for, 3)
    if lease.flapping(now):
        seen["flapping"] = True
    return seen
