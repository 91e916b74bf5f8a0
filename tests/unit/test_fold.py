"""Folding: twice changes nothing, and where a batch ends does not matter."""

from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from rollcall.core.fold import fold
from rollcall.core.records import Change, ChangeKind, Record


def change(revision, kind=ChangeKind.UPDATED):
    record = Record(id="a1", role="worker", name=str(revision), registered_at="", updated_at="")
    return Change(kind=kind, record=record, revision=revision, epoch="e", at=revision)


histories = st.lists(st.tuples(st.integers(1, 50), st.sampled_from(ChangeKind)), unique_by=lambda pair: pair[0]).map(
    lambda pairs: [change(revision, kind) for revision, kind in sorted(pairs)]
)


@given(histories)
def test_folding_a_history_twice_changes_nothing(history):
    once = reduce(fold, history, None)

    assert reduce(fold, history, once) == once


@given(histories, st.randoms())
def test_the_newest_change_stands_whatever_is_repeated(history, random):
    disturbed = [one for one in history for _ in range(random.randint(1, 2))]

    place = reduce(fold, disturbed, None)

    assert (place.record.name if place else None) == (history[-1].record.name if history else None)


def test_an_older_change_leaves_the_place_as_it_is():
    place = fold(None, change(5))

    assert fold(place, change(4)) is place
    assert fold(place, change(5)) is place


def test_a_place_is_gone_after_an_ending():
    assert fold(None, change(1, ChangeKind.DEREGISTERED)).gone
    assert fold(None, change(1, ChangeKind.EXPIRED)).gone
    assert not fold(fold(None, change(1, ChangeKind.EXPIRED)), change(2, ChangeKind.REGISTERED)).gone
