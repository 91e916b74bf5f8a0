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
        """Every moment that must be known, oldest first."""
        self.happened = []
        """Every moment that there was."""
        self.whole = {}
        """Of epochs that are over: whether they were followed to their end."""
        self.changes = []
        self.pruned_up_to = ("", 0)
        self._batch = []
        self.snapshot.become(whole([], self.epoch, 0), horizon=0, at=self.at)
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

    def miss(self, id, kind, waits):
        """A change is never heard of, only the next one of that agent: states are known again after that."""
        self.commit()
        self.at += waits
        self.revision += 1
        one = change(self.epoch, self.revision, id, UPDATED, at=self.at)
        self.places[id] = one
        self._note()
        self.snapshot.doubt(self.epoch)
        self.change(id, kind, waits)
        self.commit()
        self.snapshot.rebase(self.revision, self.at)
        self.known = [one for one in self.known if one.moment.epoch != self.epoch] + self.known[-1:]

    def change_over(self, lost, seen_to_its_end, waits):
        """Another roll takes the place of this one; it holds what this one held, but for those who are `lost`."""
        self.commit()
        held = [one for id, one in sorted(self.places.items()) if id not in lost]
        self.at += waits + 1
        self.whole[self.epoch] = seen_to_its_end
        self.epoch = epoch_at(self.at)
        self.places = {}
        for one in held:
            self.revision += 1
            self.places[one.id] = change(self.epoch, self.revision, one.id, one.kind, at=self.at)
        roll = whole([folded(one) for one in self.places.values()], self.epoch, self.revision)
        ended_at = self.at if seen_to_its_end else None
        self.snapshot.become(roll, horizon=self.revision, at=self.at, ended_at=ended_at)
        self._note()

    def prune(self, keep, age):
        """Forgets what is beyond the newest `keep` changes, or older than `age`."""
        self.commit()
        before = self.at - age
        self.snapshot.prune(keep=keep, before=before)
        doomed = [*self.changes[: max(0, len(self.changes) - keep)], *(one for one in self.changes if one.at < before)]
        self.pruned_up_to = max([self.pruned_up_to, *(order(one) for one in doomed)])
        # Of rolls that are over nothing needs to be known once their changes are gone.
        left = {self.epoch, *(one.epoch for one in self.changes if order(one) > self.pruned_up_to)}
        if doomed:
            self.known = [
                one for one in self.known if order(one.moment) >= self.pruned_up_to and one.moment.epoch in left
            ]

    def _note(self):
        one = Known(Moment(self.epoch, self.revision, self.at), self.standing)
        self.known.append(one)
        self.happened.append(one)

    def told(self, moment, **asked):
        return {one.id: one.record.name for one in standing(self.past, moment, **asked)}


def standing(past, moment, **asked):
    found, after = past.standing(moment, limit=EVERYBODY, **asked)
    assert after == ""
    return found


ids = st.sampled_from("abcde")
waits = st.integers(0, 3)
changes = st.tuples(st.just(World.change), ids, st.sampled_from(ChangeKind), waits)
commits = st.tuples(st.just(World.commit))
prunings = st.tuples(st.just(World.prune), st.integers(0, 12), st.integers(0, 20))
other_rolls = st.tuples(st.just(World.change_over), st.sets(ids, max_size=2), st.booleans(), waits)
misses = st.tuples(st.just(World.miss), ids, st.sampled_from([ChangeKind.UPDATED, ChangeKind.DEREGISTERED]), waits)
events = [changes] * 5 + [commits, prunings, other_rolls, misses]
steps = st.lists(st.one_of(events), max_size=40)


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


def rows(world, what):
    with sqlite3.connect(world.snapshot.path) as connection:
        return connection.execute(f"SELECT {what}").fetchall()


REGISTERED, UPDATED, LOST = ChangeKind.REGISTERED, ChangeKind.UPDATED, ChangeKind.LOST
DEREGISTERED, EXPIRED = ChangeKind.DEREGISTERED, ChangeKind.EXPIRED

worlds = settings(max_examples=80, deadline=None)


@given(steps=steps)
@worlds
def test_a_moment_is_all_the_changes_up_to_it_folded(directory, steps):
    world = lived(directory, steps)

    for one in world.known:
        assert world.past.at_revision(*order(one.moment)) == one.moment
        assert world.told(one.moment) == one.there, one


@given(steps=steps)
@worlds
def test_what_is_not_known_for_sure_is_not_told(directory, steps):
    world = lived(directory, steps)

    for one in world.happened:
        found = world.past.at_revision(*order(one.moment))
        assert found is None or world.told(found) == one.there, one


@given(steps=steps)
@worlds
def test_a_revision_never_comes_back_so_it_needs_no_epoch(directory, steps):
    world = lived(directory, steps)

    for one in world.happened:
        revision = one.moment.revision
        same = [other for other in world.happened if other.moment.revision == revision]
        found = world.past.at_revision("", revision)
        # An epoch that was empty gave the next one its revision.
        assert found in [world.past.at_revision(*order(other.moment)) for other in same]


@given(steps=steps)
@worlds
def test_a_time_is_the_last_moment_before_it(directory, steps):
    world = lived(directory, steps)

    for at in range(BEGAN - 1, world.at + 2):
        expected = max((one for one in world.happened if one.moment.at <= at), key=by_time, default=None)
        found = world.past.at_time(at)
        assert found is None or (expected is not None and world.told(found) == expected.there), at
        if expected in world.known and world.whole.get(expected.moment.epoch, True):
            assert found == expected.moment, at


def by_time(known):
    return known.moment.at, order(known.moment)


@given(steps=steps)
@worlds
def test_history_begins_with_the_first_moment_that_is_known(directory, steps):
    world = lived(directory, steps)
    begins = world.past.begins()

    assert world.past.at_revision(*order(begins)) == begins
    then = world.past.at_time(begins.at)
    assert then is None or order(then) >= order(begins)
    assert order(begins) <= order(world.known[0].moment)
    for one in world.happened:
        assert order(one.moment) >= order(begins) or world.past.at_revision(*order(one.moment)) is None


@given(steps=steps, keep=st.integers(0, 12))
@worlds
def test_pruning_leaves_the_newest_changes_and_who_was_there_before_them(directory, steps, keep):
    world = lived(directory, steps)

    world.prune(keep, age=1000)

    left = rows(world, "epoch, revision FROM changes ORDER BY 1, 2")
    assert left == [order(one) for one in world.changes if order(one) > world.pruned_up_to]
    begins = dict(rows(world, "epoch, begins FROM states"))
    for epoch, revision in begins.items():
        there = world.told(Moment(epoch, revision, 0))
        base = rows(world, f"id, kind FROM bases WHERE epoch = '{epoch}'")
        assert {id for id, _ in base} == there.keys()
        assert not {kind for _, kind in base} & ENDINGS
    assert {epoch for (epoch,) in rows(world, "DISTINCT epoch FROM bases")} <= begins.keys()


@given(steps=steps, keep=st.integers(0, 12))
@worlds
def test_pruning_says_how_many_changes_it_removed(directory, steps, keep):
    world = lived(directory, steps)
    before = rows(world, "count(*) FROM changes")[0][0]

    removed = world.snapshot.prune(keep=keep, before=0)

    assert rows(world, "count(*) FROM changes")[0][0] == before - removed
    assert world.snapshot.prune(keep=keep, before=0) == 0


@pytest.mark.parametrize("ending", sorted(ENDINGS))
def test_who_ended_before_the_horizon_does_not_come_back(world, ending):
    now = happen(world, ("a", REGISTERED), ("b", REGISTERED), ("a", UPDATED), ("a", ending), ("b", UPDATED))

    world.prune(keep=1, age=1000)

    assert world.told(now) == {"b": "b at 5"}
    assert rows(world, "id, revision FROM bases") == [("b", 2)]


def test_who_comes_back_stands_on_what_it_says_then(world):
    gone = happen(world, ("a", REGISTERED), ("a", DEREGISTERED))
    back = happen(world, ("a", REGISTERED))

    assert world.told(gone) == {}
    assert world.told(back) == {"a": "a at 3"}


def test_who_is_not_on_the_next_roll_stands_there_no_more_and_stood_before(world):
    before = happen(world, ("a", REGISTERED), ("b", REGISTERED))

    world.change_over({"a"}, True, 1)

    assert world.told(world.known[-1].moment) == {"b": "b at 3"}
    assert world.told(before) == {"a": "a at 1", "b": "b at 2"}


def test_an_ending_at_the_horizon_is_known_by_time_as_by_revision(world):
    horizon = happen(world, ("a", REGISTERED), ("b", REGISTERED), ("b", DEREGISTERED))
    world.change("a", UPDATED, 10)
    world.commit()

    world.prune(keep=1, age=1000)

    assert world.past.at_time(horizon.at + 5) == horizon == world.past.begins()
    assert world.told(horizon) == {"a": "a at 1"}


def test_what_is_left_of_an_earlier_roll_is_known_until_the_next_one_is_pruned(world):
    ended = happen(world, ("a", REGISTERED), ("b", REGISTERED), ("a", UPDATED))
    world.change_over(set(), True, 1)
    happen(world, ("a", UPDATED))

    world.prune(keep=2, age=1000)
    assert world.past.at_revision(*order(ended)) == ended
    assert world.told(ended) == {"a": "a at 3", "b": "b at 2"}

    world.prune(keep=1, age=1000)
    assert world.past.at_revision(*order(ended)) is None
    assert world.past.begins().epoch > ended.epoch


def test_a_role_and_an_id_narrow_what_is_told(world):
    for number, (id, role) in enumerate([("a", "worker"), ("b", "scout"), ("a", "scout"), ("c", "worker")], 1):
        world.snapshot.apply(prepared([folded(change(world.epoch, number, id, REGISTERED, role=role))]))
    now = Moment(world.epoch, 4, BEGAN + 4)

    assert world.told(now, role="scout") == {"a": "a at 3", "b": "b at 2"}
    assert world.told(now, role="worker") == {"c": "c at 4"}
    assert world.told(now, id="a") == {"a": "a at 3"}
    assert world.told(now, id="c") == {"c": "c at 4"}
    assert world.told(now, id="b", role="worker") == {}
    assert world.told(Moment(world.epoch, 2, 0), role="worker") == {"a": "a at 1"}


def test_pages_follow_each_other_by_id(world):
    now = happen(world, *((id, REGISTERED) for id in "dbeac"), ("b", DEREGISTERED))

    world.prune(keep=3, age=1000)  # Some are known by what they stand on, some by what they said since.

    pages, after = [], None
    while after != "":
        page, after = world.past.standing(now, after=after or "", limit=2)
        pages.append([one.id for one in page])

    assert [id for page in pages for id in page] == ["a", "c", "d", "e"]
    assert max(len(page) for page in pages) <= 2


def test_a_file_that_holds_no_roll_knows_no_moment(directory):
    path = Path(tempfile.mkdtemp(dir=directory)) / "new.db"
    Snapshot.open(path, now=BEGAN)
    past = Past(path)

    assert past.begins() is None
    assert past.at_time(BEGAN) is None
    assert past.at_revision("", 0) is None


def test_a_roll_that_was_seen_from_its_beginning_was_empty_then(world):
    happen(world, ("a", REGISTERED))

    assert world.past.begins() == world.past.at_time(BEGAN) == Moment(world.epoch, 0, BEGAN)
    assert world.told(world.past.begins()) == {}
    assert world.past.at_time(BEGAN - 1) is None


def test_of_a_file_of_an_older_rollcall_nothing_is_known_but_the_present(world):
    happen(world, ("a", REGISTERED), ("b", REGISTERED), ("a", DEREGISTERED))
    now = happen(world, ("b", UPDATED))
    world.snapshot.close()
    with sqlite3.connect(world.snapshot.path) as file:
        file.executescript("DROP TABLE bases; DROP TABLE states; PRAGMA user_version = 3")

    world.snapshot = Snapshot.open(world.snapshot.path, now=BEGAN)
    assert world.snapshot.doubtful()
    assert world.past.begins() is None
    world.snapshot.rebase(now.revision, now.at)

    assert not world.snapshot.doubtful()
    assert world.past.begins() == now
    assert world.told(now) == {"b": "b at 4"}
    assert world.past.at_revision(world.epoch, 3) is None
    later = happen(world, ("c", REGISTERED))
    assert world.told(later) == {"b": "b at 4", "c": "c at 5"}


def test_while_something_is_missing_nothing_of_that_roll_is_known(world):
    before = happen(world, ("a", REGISTERED))
    world.change_over(set(), True, 1)
    now = happen(world, ("b", REGISTERED))

    world.snapshot.doubt(world.epoch)

    assert world.past.at_revision(*order(now)) is None
    assert world.past.at_time(now.at) is None
    assert world.told(before) == {"a": "a at 1"}
    assert world.past.at_time(before.at) == before


def test_a_roll_that_was_not_followed_to_its_end_is_known_as_far_as_it_was(world):
    last = happen(world, ("a", REGISTERED), ("a", UPDATED))
    world.change_over(set(), False, 5)

    assert world.past.at_time(last.at) == last
    assert world.past.at_time(last.at + 1) is None
    assert world.past.at_revision(world.epoch, last.revision) is None
    assert world.past.at_time(world.at).epoch == world.epoch


def test_a_roll_that_was_followed_to_its_end_is_known_until_the_next_one_began(world):
    last = happen(world, ("a", REGISTERED))
    world.change_over(set(), True, 5)

    assert world.past.at_time(world.at - 1) == last
    assert world.past.at_time(world.at).epoch == world.epoch
    assert world.past.at_revision(last.epoch, last.revision + 1) is None


def test_states_are_known_again_from_what_the_file_holds_on_and_not_from_before(world):
    early = happen(world, ("a", REGISTERED))
    now = happen(world, ("b", REGISTERED))

    world.snapshot.rebase(early.revision, early.at)

    assert world.past.at_revision(*order(early)) is None
    assert world.past.at_time(early.at) is None
    assert world.told(now) == {"a": "a at 1", "b": "b at 2"}


def test_lost_agents_stand_in_the_past_as_lost(world):
    world.change("a", REGISTERED, 1)
    lost = change(world.epoch, 2, "a", LOST, lost_at=timestamp(BEGAN + 2))
    world.commit()
    world.snapshot.apply(prepared([folded(lost)]))

    assert standing(world.past, Moment(world.epoch, 2, BEGAN + 2)) == [lost]


def test_the_past_is_read_while_somebody_writes(world):
    now = happen(world, ("a", REGISTERED))
    with sqlite3.connect(world.snapshot.path) as writer:
        writer.execute("DELETE FROM changes")

        assert world.told(now) == {"a": "a at 1"}
        writer.rollback()
