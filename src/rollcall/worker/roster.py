"""The roll in memory: every place, its lease, and the agents of each role in order of registration."""

from collections.abc import Iterable, Iterator, Sequence

from rollcall.bus.subjects import key
from rollcall.core import liveness as live
from rollcall.core.fold import fold
from rollcall.core.healing import Healed, began
from rollcall.core.instants import Milliseconds, Seconds, instant
from rollcall.core.lease import FLAPS, Lease
from rollcall.core.leases import Leases
from rollcall.core.records import Beat, Change, ChangeKind, Liveness, Place, Record
from rollcall.worker.clock import Clock
from rollcall.worker.lean import Lean
from rollcall.worker.progress import Progress

_SIGNS_OF_LIFE = frozenset({ChangeKind.REGISTERED, ChangeKind.RECOVERED})


class Role:
    """The agents of one role, and the last revision that touched it."""

    __slots__ = ("_in_order", "members", "revision", "told", "tombstones")

    def __init__(self) -> None:
        self.members: dict[str, Place] = {}
        self.revision = 0
        self.told = 0
        """The revisions of all changes that were folded, summed up: who heard each of them has the same sum."""
        self.tombstones = 0
        self._in_order: list[Place] | None = None

    def touched(self, revision: int) -> None:
        """A change of this revision was about one of them."""
        self.revision = max(self.revision, revision)

    def put(self, place: Place) -> None:
        """Adds or renews an agent."""
        self.members[place.record.id] = place
        self._in_order = None

    def remove(self, id: str) -> None:
        """Takes an agent away."""
        self.members.pop(id, None)
        self._in_order = None

    def in_order(self) -> Sequence[Place]:
        """Oldest registration first; the id breaks a tie."""
        if self._in_order is None:
            self._in_order = sorted(self.members.values(), key=order)
        return self._in_order


def order(place: Place) -> tuple[int, str]:
    """What agents of a role are sorted by."""
    return place.record.registered_seq, place.record.id


class Roster:
    """What a worker has folded, up to `revision` of the roll of `epoch`."""

    def __init__(self, clock: Clock, *, proofs: bool = True) -> None:
        self.clock = clock
        self.epoch = ""
        self.healings: list[Healed] = []
        self.progress = Progress()
        self.rolls = Progress()
        """When the roll began that is held."""
        self.leases = Leases(proofs=proofs)
        self._lean = Lean()
        self.roles: dict[str, Role] = {}
        self._places: dict[str, Place] = {}
        self._tombstones: dict[str, Place] = {}
        # Since when, in monotonic seconds and in that order.
        self._lost: dict[str, Seconds] = {}

    def __len__(self) -> int:
        return len(self._places)

    @property
    def revision(self) -> int:
        """Up to where the roll is folded."""
        return self.progress.at

    def place(self, id: str) -> Place | None:
        """What the roll holds for `id`; a tombstone too."""
        return self._places.get(id) or self._tombstones.get(id)

    def standing(self, id: str) -> Place | None:
        """The agent, unless it is gone."""
        return self._places.get(id)

    def restore(self, place: Place, seen_at: Milliseconds | None, beat: Beat | None) -> None:
        """Takes a place from the snapshot, with the last beat that told of health; it has a full ttl from now."""
        self._lean(place.record)
        if place.gone:
            self._bury(place)
            self._role(place.record.role).touched(place.revision)
            return
        self._put(place)
        self._role(place.record.role).touched(place.revision)
        lease = self._grant(place.record)
        lease.seen_at, lease.beat = seen_at, beat
        if place.record.lost_at is not None:
            self.leases.park(key(place.record.role, place.record.id))
            self._await_forgetting(place.record)

    def restored(self) -> None:
        """Everything was taken from the snapshot."""
        self._lost = dict(sorted(self._lost.items(), key=lambda item: item[1]))

    def become(self, epoch: str, revision: int, places: Iterable[Place], healings: list[Healed]) -> None:
        """Holds another roll from now on, all at once. Who is in both keeps the lease: the agents did nothing."""
        self.epoch, self.healings = epoch, healings
        self.progress.start(revision)
        self.rolls.advance(began(epoch))
        self.roles, self._places, self._tombstones, self._lost = {}, {}, {}, {}
        for place in places:
            self._lean(place.record)
            if place.gone:
                self._bury(place)
            else:
                self._put(place)
                self._keep_lease(place.record)
            self._role(place.record.role).touched(place.revision)
        standing = {key(place.record.role, id) for id, place in self._places.items()}
        for gone in self.leases.keys() - standing:
            self.leases.drop(gone)

    def fold(self, change: Change) -> Place | None:
        """Folds a change that the roll tells; returns what stood before."""
        before = self.place(change.id)
        self._lean(change.record)
        place = fold(before, change)
        if place is before:
            return before
        if before is not None and not before.gone and before.record.role != change.role:
            self._remove(before)
        if place.gone:
            self._remove(place)
            self._bury(place)
        else:
            self._put(place)
            self._unbury(change.id)
            self._lease_after(before, change)
        role = self._role(change.role)
        role.touched(change.revision)
        role.told += change.revision
        return before

    def forget(self, id: str) -> None:
        """Drops what the roll no longer holds."""
        self._unbury(id)
        place = self._places.get(id)
        if place is not None:
            self._remove(place)
            self._role(place.record.role).touched(self.revision)

    def lost_before(self, horizon: Seconds, most: int) -> list[Place]:
        """At most so many of those that were lost before a monotonic time, the longest lost first."""
        found: list[Place] = []
        for id, since in self._lost.items():
            if since > horizon or len(found) == most:
                break
            found.append(self._places[id])
        return found

    @property
    def tombstones(self) -> int:
        """How many agents that are gone are remembered."""
        return len(self._tombstones)

    def ended_tombstones(self, before: Milliseconds) -> list[str]:
        """The ids whose tombstone was set before a wall-clock time."""
        return [id for id, place in self._tombstones.items() if place.at < before]

    def places(self) -> Iterable[Place]:
        """Every agent and every tombstone."""
        yield from self._places.values()
        yield from self._tombstones.values()

    def agents(self) -> Iterable[Place]:
        """Every agent that is not gone."""
        return self._places.values()

    def lease(self, record: Record) -> Lease:
        """The lease of an agent that is not gone."""
        return self.leases[key(record.role, record.id)]

    def liveness(self, place: Place, now: Seconds) -> Liveness:
        """Whether the agent is believed alive."""
        return live.liveness(place.record, self.lease(place.record), now)

    def observation(self, place: Place, now: Seconds, wall: Milliseconds) -> dict[str, object]:
        """What makes an entry of the place's record."""
        if place.gone:
            return {"revision": place.revision, "liveness": Liveness.UNKNOWN}
        return live.observation(place.record, self.lease(place.record), revision=place.revision, now=now, wall=wall)

    def members(self, role: str) -> Iterator[Place]:
        """The agents of a role, oldest registration first."""
        found = self.roles.get(role)
        return iter(found.in_order() if found is not None else ())

    def _keep_lease(self, record: Record) -> None:
        agent = key(record.role, record.id)
        lease = self.leases.get(agent)
        if lease is None or lease.incarnation != record.incarnation or (lease.lost and record.lost_at is None):
            lease = self._grant(record)
        else:
            self.leases.amend(agent, record)
        if record.lost_at is not None:
            self.leases.park(agent)
            self._await_forgetting(record)

    def _lease_after(self, before: Place | None, change: Change) -> None:
        record = change.record
        if record.lost_at is not None:
            self._lose(record, flap=change.kind is ChangeKind.LOST)
        elif change.kind in _SIGNS_OF_LIFE or _revived(before, record):
            lease = self._grant(record)
            if change.kind is ChangeKind.REGISTERED:
                lease.seen_at = instant(record.updated_at)
        else:
            self.leases.amend(key(record.role, record.id), record)

    def _lose(self, record: Record, *, flap: bool) -> None:
        agent = key(record.role, record.id)
        if self.leases.get(agent) is None:
            # The first that this worker hears of the agent: a seeded roll may begin so, and a history of sixteen.
            self._grant(record)
        self.leases.amend(agent, record)
        lease = self.leases.park(agent)
        if flap:
            lease.flaps = (*lease.flaps, self.clock.now())[-FLAPS:]
        if record.id not in self._lost:
            self._await_forgetting(record)

    def _await_forgetting(self, record: Record) -> None:
        if record.keep:
            self._lost.pop(record.id, None)
        else:
            self._lost[record.id] = self._lost_since(record)

    def _lost_since(self, record: Record) -> Seconds:
        """In monotonic seconds: it may have been another worker, in another life, that lost the agent."""
        assert record.lost_at is not None
        return self.clock.now() - max(0, self.clock.wall() - instant(record.lost_at)) / 1000

    def _grant(self, record: Record) -> Lease:
        return self.leases.grant(key(record.role, record.id), record, self.clock.now())

    def _put(self, place: Place) -> None:
        if place.record.lost_at is None:
            self._lost.pop(place.record.id, None)
        self._places[place.record.id] = place
        self._role(place.record.role).put(place)

    def _remove(self, place: Place) -> None:
        record = place.record
        self._places.pop(record.id, None)
        self._lost.pop(record.id, None)
        self._role(record.role).remove(record.id)
        self.leases.drop(key(record.role, record.id))

    def _bury(self, place: Place) -> None:
        self._unbury(place.record.id)
        self._tombstones[place.record.id] = place
        self._role(place.record.role).tombstones += 1

    def _unbury(self, id: str) -> None:
        """Ends a tombstone; a role of which nothing is left ends with it."""
        place = self._tombstones.pop(id, None)
        if place is None:
            return
        role = self._role(place.record.role)
        role.tombstones -= 1
        if not role.tombstones and not role.members:
            del self.roles[place.record.role]

    def _role(self, name: str) -> Role:
        role = self.roles.get(name)
        if role is None:
            role = self.roles[name] = Role()
        return role


def _revived(before: Place | None, record: Record) -> bool:
    """An update that ended being lost, or brought back an intent under which beats are expected."""
    if before is None or before.gone:
        return True
    was_expected = before.record.lost_at is None and before.record.beating
    return not was_expected and record.lost_at is None and record.beating
