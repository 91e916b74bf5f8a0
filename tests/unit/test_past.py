"""The past of a roll: at every moment that a file still knows, it tells who was there, whatever was pruned since."""

import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from rollcall.core import codec
from rollcall.core.instants import timestamp
from rollcall.core.records import ENDINGS, Change, ChangeKind, Record
from rollcall.store.past import Moment, Past
from rollcall.store.rows import Folded, prepared, whole
from rollcall.store.snapshot import Snapshot

BEGAN = 1_795_000_000_000
EVERYBODY = 1000


def epoch_at(at):
    return f"{at:013d}-0123abcd"


def change(epoch, revision, id, kind=ChangeKind.UPDATED, *, at=None, role="worker", **said):
    at = BEGAN + revision if at is None else at
    record = Record(
        id=id, role=role, name=f"{id} at {revision}", registered_at=timestamp(at), updated_at=timestamp(at), **said
    )
    return Change(kind=kind, record=record, revision=revision, epoch=epoch, at=at)


def folded(one):
    return Folded(one, codec.encode_record(one.record), None)


class Known(Struct, frozen=True):
    """A moment that came about, and who was there then: by id, what was said last."""

    moment: Moment
    there: dict[str, str]


class World:
    """A snapshot, and beside it what it must know: folded in memory, change by change."""

    def __init__(self, path):
        self.snapshot = Snapshot.open(path, now=BEGAN)
        self.past = Past(path)
        self.at, self.revision = BEGAN, 0
        self.epoch = epoch_at(self.at)
        self.places = {}
        self.known = []
        """Every moment since each roll was held whole, oldest first."""
        self.unknown = []
        self.changes = []
        self.pruned_up_to = ("", 0)
        self._batch = []
        self.snapshot.become(whole([], self.epoch, 0), horizon=0)
        self._note()

    @property
    def standing(self):
        return {id: one.record.name for id, one in self.places.items() if one.kind not in ENDINGS}

    def change(self, id, kind, waits):
        """Something happens; to an agent that is not there, that it registers."""
        if id not in self.standing:
            kind = ChangeKind.REGISTERED
        self.at += waits
        self.revision += 1
        one = change(self.epoch, self.revision, id, kind, at=self.at)
        self.places[id] = one
        self.changes.append(one)
        self._batch.append(folded(one))
        self._note()

    def commit(self):
        if self._batch:
            self.snapshot.apply(prepared(self._batch))
            self._batch = []

    def change_over(self, lost, waits):
        """Another roll takes the place of this one; it holds what this one held, but for those who are `lost`."""
        self.commit()
        held = [one for id, one in sorted(self.places.items()) if id not in lost]
        if not held:
            return
        self.at += waits + 1
        self.epoch = epoch_at(self.at)
        self.places = {}
        for one in held:
            self.revision += 1
            self.places[one.id] = change(self.epoch, self.revision, one.id, one.kind, at=self.at)
        seeded = list(self.places.values())
        self.changes += seeded
        self.snapshot.become(whole([folded(one) for one in seeded], self.epoch, self.revision), horizon=self.revision)
        self._note()

    def prune(self, keep, age):
        """Forgets what is beyond the newest `keep` changes, or older than `age`."""
        self.commit()
        before = self.at - age
        self.snapshot.prune(keep=keep, before=before)
        doomed = [*self.changes[: max(0, len(self.changes) - keep)], *(one for one in self.changes if one.at < before)]
        self.pruned_up_to = max([self.pruned_up_to, *((one.epoch, one.revision) for one in doomed)])
        self.unknown += [one for one in self.known if order(one.moment) < self.pruned_up_to]
        self.known = [one for one in self.known if order(one.moment) >= self.pruned_up_to]

    def _note(self):
        self.known.append(Known(Moment(self.epoch, self.revision, self.at), self.standing))

    def told(self, moment, **asked):
        return {one.id: one.record.name for one in self.past.standing(moment, limit=EVERYBODY, **asked)}


ids = st.sampled_from("abcde")
waits = st.integers(0, 3)
changes = st.tuples(st.just(World.change), ids, st.sampled_from(ChangeKind), waits)
commits = st.tuples(st.just(World.commit))
prunings = st.tuples(st.just(World.prune), st.integers(0, 12), st.integers(0, 20))
other_rolls = st.tuples(st.just(World.change_over), st.sets(ids, max_size=2), waits)
steps = st.lists(st.one_of(changes, changes, changes, changes, commits, prunings, other_rolls), max_size=40)


def lived(directory, steps):
    """A world in which all that happened."""
    world = World(Path(tempfile.mkdtemp(dir=directory)) / "w.db")
    for step, *how in steps:
        step(world, *how)
    world.commit()
    return world


def order(moment):
    return moment.epoch, moment.revision


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """In memory where that can be: nothing here is about crashes."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path_factory.mktemp("past")
        return
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        yield Path(directory)


@pytest.fixture
def world(directory):
    return lived(directory, [])


def happen(world, *told):
    """`told`: (id, kind), one after the other, a millisecond apart."""
    for id, kind in told:
        world.change(id, kind, 1)
    world.commit()
    return world.known[-1].moment


def rows(world):
    with sqlite3.connect(world.snapshot.path) as connection:
        return connection.execute("SELECT epoch, revision, id, kind FROM changes ORDER BY 1, 2").fetchall()


REGISTERED, UPDATED, LOST = ChangeKind.REGISTERED, ChangeKind.UPDATED, ChangeKind.LOST
DEREGISTERED, EXPIRED = ChangeKind.DEREGISTERED, ChangeKind.EXPIRED

worlds = settings(max_examples=150, deadline=None)


@given(steps=steps)
@worlds
def test_a_moment_that_is_known_is_all_the_changes_up_to_it_folded(directory, steps):
    world = lived(directory, steps)

    for one in world.known:
        assert world.past.knows(one.moment), one
        assert world.told(one.moment) == one.there, one


@given(steps=steps)
@worlds
def test_what_was_pruned_away_is_not_known_any_more(directory, steps):
    world = lived(directory, steps)

    assert [one for one in world.unknown if world.past.knows(one.moment)] == []


@given(steps=steps)
@worlds
def test_history_begins_with_the_first_moment_that_is_known(directory, steps):
    world = lived(directory, steps)

    assert world.past.begins() == world.known[0].moment


@given(steps=steps)
@worlds
def test_time_and_revision_say_the_same(directory, steps):
    world = lived(directory, steps)
    last_of = {one.moment.at: one for one in world.known}

    for at in range(BEGAN - 1, world.at + 2):
        expected = max((one for one in last_of.values() if one.moment.at <= at), key=at_of, default=None)
        found = world.past.moment(at)

        if expected is None:
            assert found is None or not world.past.knows(found), at
        else:
            assert found == expected.moment == world.past.at_revision(*order(expected.moment))
            assert world.past.knows(found)


def at_of(known):
    return known.moment.at


@given(steps=steps, keep=st.integers(0, 12))
@worlds
def test_pruning_leaves_the_last_change_of_each_agent_that_is_there_and_what_came_later(directory, steps, keep):
    world = lived(directory, steps)

    world.prune(keep, age=1000)

    left = rows(world)
    old = [(id, kind) for epoch, revision, id, kind in left if (epoch, revision) <= world.pruned_up_to]
    assert len({id for id, _ in old}) == len(old)
    assert {id for id, _ in old} <= world.known[0].there.keys()
    assert not {kind for _, kind in old} & ENDINGS
    later = [order(one) for one in world.changes if order(one) > world.pruned_up_to]
    assert [row[:2] for row in left if row[:2] > world.pruned_up_to] == later


@given(steps=steps, keep=st.integers(0, 12))
@worlds
def test_pruning_says_how_many_changes_it_removed(directory, steps, keep):
    world = lived(directory, steps)
    before = len(rows(world))

    removed = world.snapshot.prune(keep=keep, before=0)

    assert len(rows(world)) == before - removed
    assert world.snapshot.prune(keep=keep, before=0) == 0


@pytest.mark.parametrize("ending", sorted(ENDINGS))
def test_who_ended_before_the_horizon_does_not_come_back(world, ending):
    now = happen(world, ("a", REGISTERED), ("b", REGISTERED), ("a", UPDATED), ("a", ending), ("b", UPDATED))

    world.prune(keep=1, age=1000)

    assert world.told(now) == {"b": "b at 5"}
    assert [row[1:3] for row in rows(world)] == [(2, "b"), (5, "b")]


def test_who_comes_back_stands_on_what_it_says_then(world):
    gone = happen(world, ("a", REGISTERED), ("a", DEREGISTERED))
    back = happen(world, ("a", REGISTERED))

    assert world.told(gone) == {}
    assert world.told(back) == {"a": "a at 3"}


def test_who_is_not_on_the_next_roll_stands_there_no_more_and_stood_before(world):
    before = happen(world, ("a", REGISTERED), ("b", REGISTERED))

    world.change_over({"a"}, 1)

    assert world.told(world.known[-1].moment) == {"b": "b at 3"}
    assert world.told(before) == {"a": "a at 1", "b": "b at 2"}


def test_an_ending_at_the_horizon_is_known_by_time_as_by_revision(world):
    horizon = happen(world, ("a", REGISTERED), ("b", REGISTERED), ("b", DEREGISTERED))
    world.change("a", UPDATED, 10)
    world.commit()

    world.prune(keep=1, age=1000)

    assert world.past.moment(horizon.at + 5) == horizon == world.past.begins()
    assert world.told(horizon) == {"a": "a at 1"}


def test_what_is_left_of_an_earlier_roll_is_known_until_the_next_one_is_pruned(world):
    ended = happen(world, ("a", REGISTERED), ("b", REGISTERED), ("a", UPDATED))
    world.change_over(set(), 1)
    happen(world, ("a", UPDATED))

    world.prune(keep=3, age=1000)
    assert world.past.knows(ended)
    assert world.told(ended) == {"a": "a at 3", "b": "b at 2"}

    world.prune(keep=1, age=1000)
    assert not world.past.knows(ended)
    assert world.past.begins().epoch > ended.epoch


def test_a_role_and_an_id_narrow_what_is_told(world):
    for number, (id, role) in enumerate([("a", "worker"), ("b", "scout"), ("a", "scout"), ("c", "worker")], 1):
        world.snapshot.apply(prepared([folded(change(world.epoch, number, id, REGISTERED, role=role))]))
    now = Moment(world.epoch, 4, BEGAN + 4)

    assert world.told(now, role="scout") == {"a": "a at 3", "b": "b at 2"}
    assert world.told(now, role="worker") == {"c": "c at 4"}
    assert world.told(now, id="a") == {"a": "a at 3"}
    assert world.told(now, id="b", role="worker") == {}
    assert world.told(Moment(world.epoch, 2, 0), role="worker") == {"a": "a at 1"}


def test_pages_follow_each_other_by_id(world):
    now = happen(world, *((id, REGISTERED) for id in "dbeac"), ("b", DEREGISTERED))

    pages = [world.past.standing(now, after=after, limit=2) for after in ("", "c", "e")]

    assert [[one.id for one in page] for page in pages] == [["a", "c"], ["d", "e"], []]


def test_a_file_that_holds_no_roll_knows_no_moment(directory):
    path = Path(tempfile.mkdtemp(dir=directory)) / "new.db"
    Snapshot.open(path, now=BEGAN)
    past = Past(path)

    assert past.begins() is None
    assert past.moment(BEGAN) is None
    assert not past.knows(Moment("", 0, 0))


def test_a_roll_that_was_seen_from_its_beginning_was_empty_then(world):
    happen(world, ("a", REGISTERED))

    assert world.past.begins() == world.past.moment(BEGAN) == Moment(world.epoch, 0, BEGAN)
    assert world.told(world.past.begins()) == {}
    assert world.past.moment(BEGAN - 1) is None


def test_lost_agents_stand_in_the_past_as_lost(world):
    world.change("a", REGISTERED, 1)
    lost = change(world.epoch, 2, "a", LOST, lost_at=timestamp(BEGAN + 2))
    world.commit()
    world.snapshot.apply(prepared([folded(lost)]))

    assert world.past.standing(Moment(world.epoch, 2, BEGAN + 2), limit=1) == [lost]


def test_the_past_is_read_while_somebody_writes(world):
    now = happen(world, ("a", REGISTERED))
    with sqlite3.connect(world.snapshot.path) as writer:
        writer.execute("DELETE FROM changes")

        assert world.told(now) == {"a": "a at 1"}
        writer.rollback()
