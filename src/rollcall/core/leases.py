"""Who is overdue.

A lease waits in two stages, each a queue in order of the last sign of life: *fresh* until beats are missed, then
*late* until the ttl is over. A beat moves its lease to the end of its fresh queue, so only the heads of queues can be
due. The heads wait in a heap by deadline. A beat costs one dict move; a sweep touches nothing that is in time.

Monotonic seconds and wall-clock milliseconds both come from the caller; only the former decide anything.
"""

import heapq
from collections import OrderedDict
from collections.abc import Iterator
from enum import Enum

from rollcall.core.instants import Milliseconds, Seconds
from rollcall.core.records import BEATING, Beat, Record

MISSED_IS_SUSPECT = 2
"""Missed beats after which an agent is suspect."""


class Stage(Enum):
    """What is due at the end of a queue: suspicion first, the end of the lease then."""

    FRESH = "fresh"
    LATE = "late"


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
        "host",
        "incarnation",
        "interval",
        "lost",
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
        self.host = ""
        self.lost = False
        self.stuck_for: Seconds = 0.0
        self.queue: Queue | None = None
        self.told = ""
        """What watchers were told last, if it was not that the agent is live; they have to hear when that ends."""
        self.unsaved = False
        """`seen_at` is newer than on disk."""

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


class Leases:
    """The leases of all agents, by key."""

    def __init__(self) -> None:
        self._leases: dict[str, Lease] = {}
        self._queues: dict[tuple[Stage, Seconds], Queue] = {}
        self._heads: list[tuple[Seconds, Queue]] = []

    def __len__(self) -> int:
        return len(self._leases)

    def __getitem__(self, key: str) -> Lease:
        return self._leases[key]

    def get(self, key: str) -> Lease | None:
        """The lease of `key`."""
        return self._leases.get(key)

    def grant(self, key: str, record: Record, now: Seconds) -> Lease:
        """Gives the agent a full ttl from `now`; a new incarnation starts without health."""
        lease = self._leases.get(key)
        if lease is None or lease.incarnation != record.incarnation:
            self.drop(key)
            lease = self._leases[key] = Lease(record.incarnation, now)
        self._leave(key, lease)
        lease.at = now
        lease.lost = False
        self.amend(key, record)
        return lease

    def amend(self, key: str, record: Record) -> None:
        """Another ttl, interval or intent, with no sign of life. Where no beat is expected, nothing is ever due."""
        lease = self._leases[key]
        lease.host = record.host
        runs = record.status in BEATING and not lease.lost
        if (lease.ttl, lease.interval, lease.queue is not None) == (record.ttl, record.heartbeat_interval, runs):
            return
        lease.ttl, lease.interval = record.ttl, record.heartbeat_interval
        self._leave(key, lease)
        if runs:
            self._wait(key, lease, Stage.FRESH)

    def beat(self, key: str, incarnation: int, now: Seconds, wall: Milliseconds) -> Lease | None:
        """Renews the lease of `key`; None when there is none, or it belongs to another life. 0 means any life."""
        lease = self._leases.get(key)
        if lease is None or (incarnation and incarnation != lease.incarnation):
            return None
        lease.at = now
        lease.seen_at = wall
        lease.unsaved = True
        queue = lease.queue
        if queue is not None:
            if queue.stage is Stage.FRESH:
                queue.leases.move_to_end(key)
            else:
                self._leave(key, lease)
                self._wait(key, lease, Stage.FRESH)
        return lease

    def park(self, key: str) -> None:
        """The agent is lost: its lease is kept, and is not due again before it is granted anew."""
        lease = self._leases[key]
        lease.lost = True
        self._leave(key, lease)

    def drop(self, key: str) -> None:
        """The agent is gone."""
        lease = self._leases.pop(key, None)
        if lease is not None:
            self._leave(key, lease)

    def extend(self, missed: Seconds) -> None:
        """Gives every lease what the registry itself missed."""
        for lease in self._leases.values():
            lease.at += missed

    def unsaved(self) -> Iterator[tuple[str, Lease]]:
        """Leases that were renewed since they were last marked as saved."""
        return ((key, lease) for key, lease in self._leases.items() if lease.unsaved)

    def due(self, now: Seconds) -> Iterator[tuple[str, Lease, Stage]]:
        """What has ended by `now`: the late ones once, those whose lease is over until parked, dropped or renewed."""
        while self._heads and self._heads[0][0] <= now:
            deadline, queue = heapq.heappop(self._heads)
            if deadline != queue.deadline:
                continue
            try:
                for key, lease in self._overdue(queue, now):
                    if queue.stage is Stage.FRESH:
                        self._leave(key, lease)
                        self._wait(key, lease, Stage.LATE)
                    yield key, lease, queue.stage
            finally:
                # Also when whoever looks stops in the middle.
                self._watch(queue, now)

    @staticmethod
    def _overdue(queue: Queue, now: Seconds) -> list[tuple[str, Lease]]:
        overdue = []
        for key, lease in queue.leases.items():
            if lease.at + queue.period > now:
                break
            overdue.append((key, lease))
        return overdue

    def _watch(self, queue: Queue, now: Seconds) -> None:
        """Puts a queue back into the heap; one whose head stays overdue is looked at again a little later."""
        if not queue.leases:
            self._queues.pop((queue.stage, queue.period), None)
            return
        head = next(iter(queue.leases.values()))
        self._push(queue, max(head.at + queue.period, now + 0.1))

    def _push(self, queue: Queue, deadline: Seconds) -> None:
        """Only the last deadline of a queue counts; an earlier entry of it in the heap is passed over."""
        queue.deadline = deadline
        heapq.heappush(self._heads, (deadline, queue))

    def _wait(self, key: str, lease: Lease, stage: Stage) -> None:
        if lease.ttl is None:
            return
        period = lease.late_after if stage is Stage.FRESH else lease.ttl
        queue = self._queues.get((stage, period))
        if queue is None:
            queue = self._queues[stage, period] = Queue(stage, period)
            self._push(queue, lease.at + period)
        elif queue.leases and next(reversed(queue.leases.values())).at > lease.at:
            # It was heard longer ago than the last in line: the queue is put in order again. This is rare.
            queue.leases[key] = lease
            queue.leases = OrderedDict(sorted(queue.leases.items(), key=lambda item: item[1].at))
            self._push(queue, min(queue.deadline, lease.at + period))
        lease.queue = queue
        queue.leases[key] = lease

    @staticmethod
    def _leave(key: str, lease: Lease) -> None:
        if lease.queue is not None:
            lease.queue.leases.pop(key, None)
            lease.queue = None
