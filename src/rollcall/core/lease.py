"""One lease: how long an agent is believed, and what speaks against it since it was last heard."""

import math
from collections import OrderedDict
from enum import Enum

from rollcall.core.instants import Milliseconds, Seconds
from rollcall.core.records import Beat

MISSED_IS_SUSPECT = 2
"""Missed beats after which an agent is suspect."""

FLAPS = 3
"""Times lost within `FLAPPING_FOR` that make an agent flapping."""

FLAPPING_FOR: Seconds = 60.0

PROOF_LASTS: Seconds = 150.0
"""How long one signed hello or beat vouches for the unsigned beats after it; an agent says hello once a minute."""


class Stage(Enum):
    """What is due at the end of a queue: suspicion first, the end of the lease then."""

    FRESH = "fresh"
    LATE = "late"


class Doubt:
    """What speaks against an agent since it was last heard."""

    __slots__ = ("asked_at", "closed", "deaf", "gone_at")

    def __init__(self) -> None:
        self.gone_at: Seconds | None = None
        """When its last connection ended."""
        self.closed = False
        """The agent's own side ended that connection, as a process that dies does."""
        self.asked_at: Seconds | None = None
        """When it was asked whether it lives."""
        self.deaf = False
        """Nobody listens any more where it used to be asked."""

    @property
    def proves(self) -> bool:
        """Whether it is more than silence. Who was given up by the server can listen nowhere: that says no more."""
        return self.closed or (self.deaf and self.gone_at is None)


class Queue:
    """Leases that are due `period` seconds after their last sign of life, oldest first."""

    __slots__ = ("deadline", "leases", "period", "stage")

    def __init__(self, stage: Stage, period: Seconds) -> None:
        self.stage = stage
        self.period = period
        self.leases: OrderedDict[str, Lease] = OrderedDict()
        self.deadline: Seconds = 0.0

    def __lt__(self, other: "Queue") -> bool:
        return self.period < other.period


class Lease:
    """How long one agent is believed without a beat, and when it was last heard.

    `at` is the monotonic start of the running ttl; `seen_at` is the wall-clock time of the last sign of life.
    """

    __slots__ = (
        "at",
        "beat",
        "doubt",
        "expected",
        "flaps",
        "greeted",
        "host",
        "incarnation",
        "interval",
        "lost",
        "owned",
        "proved_until",
        "queue",
        "seen_at",
        "stuck_for",
        "told",
        "ttl",
        "unsaved",
    )

    def __init__(self, incarnation: int, at: Seconds) -> None:
        self.incarnation = incarnation
        self.at = at
        self.ttl: Seconds | None = None
        self.interval: Seconds | None = None
        self.seen_at: Milliseconds | None = None
        self.beat: Beat | None = None
        """The last beat that said how the agent feels."""
        self.doubt: Doubt | None = None
        self.greeted = False
        """It was seen on a connection of its own, so it listens where agents are asked."""
        self.flaps: tuple[Seconds, ...] = ()
        """When it was lost, the last few times."""
        self.expected = False
        """A sign of life is expected: by its intent the agent runs."""
        self.host = ""
        self.lost = False
        self.owned = False
        """It belongs to a key, so signs of life have to be proved now and then."""
        self.proved_until: Seconds = math.inf
        """How long beats are believed without another proof that they are of the owner."""
        self.stuck_for: Seconds = 0.0
        self.queue: Queue | None = None
        self.told = ""
        """What watchers were told last, if it was not that the agent is live; they have to hear when that ends."""
        self.unsaved = False
        """`seen_at` is newer than on disk."""

    def prove(self, now: Seconds) -> None:
        """Its owner said, and signed, that it lives."""
        if self.owned:
            self.proved_until = now + PROOF_LASTS

    @property
    def gone_at(self) -> Seconds | None:
        """When its last connection ended; None while that is not known."""
        return None if self.doubt is None else self.doubt.gone_at

    def flapping(self, now: Seconds) -> bool:
        """Whether it was lost again and again of late."""
        return len(self.flaps) >= FLAPS and now - self.flaps[-FLAPS] < FLAPPING_FOR

    @property
    def ends_at(self) -> Seconds | None:
        """When belief ends; None without a ttl."""
        return None if self.ttl is None else self.at + self.ttl

    @property
    def late_after(self) -> Seconds:
        """Seconds of silence after which the agent is suspect: half an interval after the last beat it may miss.

        Beats travel, and clocks tick unevenly.
        """
        assert self.ttl is not None
        interval = self.interval or self.ttl / 3
        return min(self.ttl, (MISSED_IS_SUSPECT + 0.5) * interval)
