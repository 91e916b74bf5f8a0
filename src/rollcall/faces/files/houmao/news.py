"""What a record in the directory asks of the roll. Pure.

::

    on the roll                     in the file                       what is asked
    ------------------------------  --------------------------------  -----------------------------------------
    nobody                          a record                          register it
    the same generation             what the roll said last, or       nothing
                                    what was taken in last
    the same generation             a longer lease only               renew it
    the same generation             something else                    update it
    another one, active and fresh   a record                          a conflict: it must stand down
    another one                     a record                          take the place over, at that revision
"""

from collections.abc import Iterable
from datetime import datetime
from enum import Enum

from msgspec import Struct

from rollcall import Conflict, Entry
from rollcall.faces.files.houmao.fields import time_of
from rollcall.faces.files.houmao.mapping import (
    DIALECT,
    SLACK,
    Inexpressible,
    express,
    generation_of,
    kept,
    kept_external,
    section,
)
from rollcall.faces.files.houmao.ownership import conflict, fresh
from rollcall.faces.files.houmao.publish import same_but_lease
from rollcall.faces.files.houmao.record import LIVE_STATES, ExternalRecord, LocalRecord

STALE_LEASE = "registry lease expired"


class Asks(Enum):
    """What a record asks for."""

    NOTHING = "nothing"
    REGISTER = "register"
    RENEW = "renew"
    UPDATE = "update"
    TAKE_OVER = "take over"


class Stale(Struct, frozen=True):
    """A record that is not taken in, and why."""

    why: str


def asks(record: LocalRecord, entry: Entry | None, past: Iterable[Entry], now: datetime) -> Asks | Stale:
    """What a record asks of the roll, where `entry` is held. `past` are earlier states of it, read only if need be.

    Raises:
        Conflict: an active generation holds the place.
    """
    over = record.lifecycle.state in LIVE_STATES and not fresh(record, now)
    if entry is None:
        return Stale(STALE_LEASE) if over else Asks.REGISTER
    if entry.extensions.get(DIALECT) == section(record):
        return Asks.NOTHING
    taken_in, shown = kept(entry), _expressed(entry, now)
    known = [one for one in (shown, taken_in) if one is not None]
    if any(same_but_lease(one, record) for one in known):
        return Asks.RENEW if not over and _lasts_longer(record, known) else Asks.NOTHING
    moved_on = shown is None or taken_in is None or not same_but_lease(shown, taken_in)
    before = (_expressed(state, now) for state in past) if moved_on else ()
    if any(same_but_lease(one, record) for one in before if one is not None):
        # The roll has moved on from what the file says, and the file is about to be written anew.
        return Asks.NOTHING
    if over:
        return Stale(STALE_LEASE)
    if generation_of(entry) == record.generation_id:
        return Asks.UPDATE
    wrong = conflict(shown, record, now)
    if wrong:
        raise Conflict(wrong)
    return Asks.TAKE_OVER


def external_asks(record: ExternalRecord, entry: Entry | None) -> Asks:
    """What an external record asks of the roll."""
    if entry is None:
        return Asks.REGISTER
    held = kept_external(entry)
    if held == record or (held is not None and time_of(held.updated_at_utc) > time_of(record.updated_at_utc)):
        return Asks.NOTHING
    return Asks.TAKE_OVER


def _expressed(entry: Entry, now: datetime) -> LocalRecord | None:
    try:
        return express(entry, now)
    except Inexpressible:
        return None


def _lasts_longer(record: LocalRecord, known: Iterable[LocalRecord]) -> bool:
    if record.liveness is None:
        return False
    ends = [time_of(one.liveness.lease_expires_at) for one in known if one.liveness is not None]
    return not ends or time_of(record.liveness.lease_expires_at) > max(ends) + SLACK
