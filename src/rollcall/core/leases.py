"""Who is overdue.

A lease waits in two stages, each a queue in order of the last sign of life: *fresh* until beats are missed, then
*late* until the ttl is over. A beat moves its lease to the end of its fresh queue, so only the heads of queues can be
due. The heads wait in a heap by deadline. A beat costs one dict move; a sweep touches nothing that is in time.

Monotonic seconds and wall-clock milliseconds both come from the caller; only the former decide anything.
What speaks against an agent since it was last heard is its *doubt*; any sign of life ends it.
"""

import heapq
import math
from collections import OrderedDict
from collections.abc import Iterator, KeysView

from rollcall.core.commands import NKEY
from rollcall.core.instants import Milliseconds, Seconds
from rollcall.core.lease import Doubt, Lease, Queue, Stage
from rollcall.core.records import Liveness, Record


class Leases:
    """The leases of all agents, by key. Without `proofs` an agent that belongs to a key is believed as any other."""

    def __init__(self, *, proofs: bool = True) -> None:
        self._proofs = proofs
        self._leases: dict[str, Lease] = {}
        self._queues: dict[tuple[Stage, Seconds], Queue] = {}
        self._heads: list[tuple[Seconds, Queue]] = []
        # In order of `gone_at`; those that were heard since are passed over.
        self._vanished: dict[str, Lease] = {}

    def __len__(self) -> int:
        return len(self._leases)

    def __getitem__(self, key: str) -> Lease:
        return self._leases[key]

    def keys(self) -> KeysView[str]:
        """Whose leases there are."""
        return self._leases.keys()

    def get(self, key: str) -> Lease | None:
        """The lease of `key`."""
        return self._leases.get(key)

    def grant(self, key: str, record: Record, now: Seconds) -> Lease:
        """Gives the agent a full ttl from `now`; a new incarnation starts without health."""
        lease = self._leases.get(key)
        if lease is None or lease.incarnation != record.incarnation:
            flaps = lease.flaps if lease is not None else ()
            self.drop(key)
            lease = self._leases[key] = Lease(record.incarnation, now)
            lease.flaps = flaps
            # Whoever may be flapping has something to be told of.
            lease.told = str(Liveness.LOST) if flaps else ""
        self._leave(key, lease)
        lease.at = now
        lease.lost = False
        lease.doubt = None
        self.amend(key, record)
        lease.prove(now)
        return lease

    def amend(self, key: str, record: Record) -> None:
        """Another ttl, interval or intent, with no sign of life. Where no beat is expected, nothing is ever due."""
        lease = self._leases[key]
        lease.host = record.host
        lease.owned = self._proofs and record.owner.startswith(NKEY)
        if not lease.owned:
            lease.proved_until = math.inf
        lease.expected = record.beating
        runs = lease.expected and not lease.lost
        if (lease.ttl, lease.interval, lease.queue is not None) == (record.ttl, record.heartbeat_interval, runs):
            return
        lease.ttl, lease.interval = record.ttl, record.heartbeat_interval
        self._leave(key, lease)
        if runs:
            self._wait(key, lease, Stage.FRESH)

    def beat(self, key: str, incarnation: int, now: Seconds, wall: Milliseconds) -> Lease | None:
        """Renews the lease of `key`; None when there is none, or it belongs to another life. 0 means any life.

        One that belongs to a key is renewed only while its owner proved to be alive of late.
        """
        lease = self._leases.get(key)
        if lease is None or (incarnation and incarnation != lease.incarnation) or now > lease.proved_until:
            return None
        lease.at = now
        lease.seen_at = wall
        lease.unsaved = True
        lease.doubt = None
        queue = lease.queue
        if queue is not None:
            if queue.stage is Stage.FRESH:
                queue.leases.move_to_end(key)
            else:
                self._leave(key, lease)
                self._wait(key, lease, Stage.FRESH)
        return lease

    def park(self, key: str) -> Lease:
        """The agent is lost: its lease is kept, and is not due again before it is granted anew."""
        lease = self._leases[key]
        lease.lost = True
        self._vanished.pop(key, None)
        self._leave(key, lease)
        return lease

    def vanish(self, key: str, now: Seconds, *, closed: bool) -> Lease | None:
        """Its last connection ended, `closed` by itself or given up by the server; None when that is no news."""
        lease = self._leases.get(key)
        if lease is None or lease.lost or not lease.expected or lease.gone_at is not None:
            return None
        lease.doubt = lease.doubt or Doubt()
        lease.doubt.gone_at, lease.doubt.closed = now, closed
        self._vanished.pop(key, None)
        self._vanished[key] = lease
        return lease

    def return_(self, key: str) -> Lease | None:
        """It has a connection again; None when nobody knew otherwise."""
        lease = self._leases.get(key)
        if lease is None or lease.gone_at is None:
            return None
        lease.doubt = None
        self._vanished.pop(key, None)
        return lease

    def vanished(self, before: Seconds) -> list[tuple[str, Lease]]:
        """Those whose last connection ended by `before` and that were not heard since."""
        found = []
        for key, lease in list(self._vanished.items()):
            if lease.gone_at is None or lease.lost:
                del self._vanished[key]
            elif lease.gone_at > before:
                break
            else:
                found.append((key, lease))
        return found

    def next_due(self, grace: Seconds) -> Seconds | None:
        """When somebody may be due next, by silence or `grace` after vanishing."""
        heads = [self._heads[0][0]] if self._heads else []
        gone = next((lease.gone_at for lease in self._vanished.values() if lease.gone_at is not None), None)
        return min([*heads, *([gone + grace] if gone is not None else [])], default=None)

    def silent(self) -> Iterator["Lease"]:
        """Those that missed beats, or whose connection was given up, with nothing that proves more."""
        for (stage, _), queue in self._queues.items():
            if stage is Stage.LATE:
                yield from (lease for lease in queue.leases.values() if lease.doubt is None or not lease.doubt.proves)
        for lease in self._vanished.values():
            in_time = lease.queue is None or lease.queue.stage is Stage.FRESH
            if in_time and lease.doubt is not None and lease.gone_at is not None and not lease.doubt.proves:
                yield lease

    def believed(self) -> int:
        """How many agents are believed alive by what they send."""
        without_ttl = sum(1 for lease in self._vanished.values() if lease.queue is None)
        return without_ttl + sum(len(queue.leases) for queue in self._queues.values())

    def drop(self, key: str) -> None:
        """The agent is gone."""
        self._vanished.pop(key, None)
        lease = self._leases.pop(key, None)
        if lease is not None:
            self._leave(key, lease)

    def extend(self, missed: Seconds, now: Seconds) -> None:
        """Gives every lease what the registry itself missed, and at most a full ttl from now: the order stays."""
        for lease in self._leases.values():
            lease.at = min(now, lease.at + missed)
            lease.proved_until += missed
            if lease.doubt is not None:
                # What was asked meanwhile may have been asked of nobody.
                lease.doubt.asked_at, lease.doubt.deaf = None, False
                if lease.doubt.gone_at is not None:
                    lease.doubt.gone_at = min(now, lease.doubt.gone_at + missed)

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
