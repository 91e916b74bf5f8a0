"""Whether the roll is the one that was folded, who may seed it when it is not, and what others have more.

::

    the roll on the server        what a worker knows              verdict
    ----------------------------  -------------------------------  -------------------------------------------
    our epoch, not shorter        its newest message stands there  SOUND: go on
    a later epoch                 an earlier one, or nothing       OTHER: take it over, offer what it lacks
    missing, or without an epoch  anything                         UNSOUND: the most advanced worker seeds it
    our epoch, but shorter        more                             UNSOUND: it was rolled back
    our epoch                     another message at its newest    UNSOUND: rolled back, and written since
    our epoch, and nothing since  more agents                      UNSOUND: it was purged
    an earlier epoch              a later one                      UNSOUND: an old copy was put in its place
"""

from enum import Enum

from msgspec import Struct

from rollcall.core.instants import Milliseconds, Timestamp, instant
from rollcall.core.records import Place


class Standing(Struct, frozen=True, order=True):
    """How far a worker has folded which roll; `at` is when the server stored the newest message. Greater leads."""

    epoch: str = ""
    revision: int = 0
    at: Milliseconds = 0
    worker: str = ""


class Healed(Struct, frozen=True):
    """One healing: from which roll, up to where and when that was known, up to where it was seeded, and why."""

    epoch: str
    revision: int
    at: Timestamp
    upto: int
    why: str


class Verdict(Enum):
    """What to do with the roll that is there."""

    SOUND = "sound"
    OTHER = "other"
    UNSOUND = "unsound"


class Found(Struct, frozen=True):
    """The roll as it is there; `stored_at` is the time of its message at our newest one, None when it has none.

    `missing` is how many agents that nobody took off it holds no more.
    """

    epoch: str
    last: int
    stored_at: Milliseconds | None = None
    missing: int = 0


def began(epoch: str) -> Milliseconds:
    """When a roll began, by its epoch; 0 for what is none."""
    first = epoch.partition("-")[0]
    return int(first) if first.isascii() and first.isdecimal() and len(first) < 20 else 0


def verdict(known: Standing, found: Found | None) -> tuple[Verdict, str]:
    """What to do, and why in words. `known` is what this worker has folded; `found` is None when there is no roll."""
    if found is None:
        return Verdict.UNSOUND, "the roll was deleted" if known.epoch else "there is no roll yet"
    if not found.epoch:
        return Verdict.UNSOUND, "the roll was recreated, or its seeding was broken off"
    if known.epoch > found.epoch:
        return Verdict.UNSOUND, f"an older roll, of epoch {found.epoch}, was put in its place"
    if known.epoch < found.epoch:
        return Verdict.OTHER, f"there is another roll, of epoch {found.epoch}"
    if found.last < known.revision:
        return Verdict.UNSOUND, f"the roll was rolled back from {known.revision} to {found.last}"
    if found.stored_at is not None and found.stored_at != known.at:
        return Verdict.UNSOUND, "the roll was rolled back, and written since"
    if found.missing:
        return Verdict.UNSOUND, f"somebody took agents out of the roll: {found.missing} are missing"
    return Verdict.SOUND, ""


def missed_since(known: Standing, healings: list[Healed]) -> Milliseconds:
    """After which moment what a worker knows may be news to a roll that was healed as told, oldest healing first."""
    return next((instant(healed.at) for healed in healings if healed.epoch == known.epoch), 0)


def is_news(mine: Place, theirs: Place | None) -> bool:
    """Whether a place tells more than what the new roll holds for its id."""
    if theirs is None:
        return True
    mine_life, their_life = mine.record.incarnation, theirs.record.incarnation
    if mine_life != their_life:
        return mine_life > their_life
    # Whoever decided wrote the time: RFC 3339 in one zone and one precision orders as text.
    return mine.record.updated_at > theirs.record.updated_at
