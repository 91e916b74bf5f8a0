"""Whether an agent fits a question, and why not."""

import pytest

from rollcall.core.errors import Invalid
from rollcall.core.query import Query, check, mismatch
from rollcall.core.records import Liveness, Record, Status


def record(**said):
    return Record(id="a1", role="worker", name="x", registered_at="", updated_at="", **said)


def fits(query, record, liveness=Liveness.LIVE):
    return not mismatch(query, record, liveness)


@pytest.mark.parametrize("liveness", list(Liveness))
def test_without_include_only_the_live_fit(liveness):
    assert fits(Query(), record(), liveness) == (liveness is Liveness.LIVE)
    assert fits(Query(include=(liveness,)), record(), liveness)
    assert fits(Query(include=("all",)), record(), liveness)


@pytest.mark.parametrize("status", list(Status))
def test_without_status_only_the_running_fit(status):
    assert fits(Query(), record(status=status)) == (status is Status.RUNNING)
    assert fits(Query(status=(status,)), record(status=status))
    assert fits(Query(status=("all",)), record(status=status))


def test_every_capability_is_needed_and_one_of_any():
    able = record(capabilities=("ocr", "plan"))

    assert fits(Query(capabilities=("ocr", "plan")), able)
    assert not fits(Query(capabilities=("ocr", "fly")), able)
    assert fits(Query(any_of=("fly", "plan")), able)
    assert not fits(Query(any_of=("fly", "swim")), able)


def test_labels_must_be_equal():
    assert fits(Query(labels={"zone": "a"}), record(labels={"zone": "a", "x": "y"}))
    assert not fits(Query(labels={"zone": "a"}), record(labels={"zone": "b"}))
    assert not fits(Query(labels={"zone": "a"}), record())


def test_a_name_is_one_of_those_that_are_asked():
    named = record()

    assert fits(Query(names=("x",)), named)
    assert fits(Query(names=("y", "x")), named)
    assert not fits(Query(names=("y", "X", "")), named)
    assert mismatch(Query(names=("y", "z")), named, Liveness.LIVE) == "name is 'x', asked is y or z"


def test_every_pointer_that_is_asked_is_said_just_so():
    pointing = record(pointers={"log": "/var/log", "session": "s1"})

    assert fits(Query(pointers={"log": "/var/log"}), pointing)
    assert fits(Query(pointers={"log": "/var/log", "session": "s1"}), pointing)
    assert not fits(Query(pointers={"log": "/var/log", "session": "s2"}), pointing)
    assert not fits(Query(pointers={"log": "/var"}), pointing)
    assert mismatch(Query(pointers={"no": "x"}), pointing, Liveness.LIVE) == "pointer no is None, asked is 'x'"


@pytest.mark.parametrize(
    "version, range, inside",
    [("1.2.3", ">=1.2,<2", True), ("2.0", ">=1.2,<2", False), ("2.0rc1", ">=1", True), ("latest", ">=0", False)],
)
def test_a_version_lies_in_a_range(version, range, inside):
    assert fits(Query(version=range), record(version=version)) == inside


def test_the_reason_says_what_is_missing():
    assert mismatch(Query(capabilities=("fly",)), record(), Liveness.LIVE) == "lacks capability fly"
    assert "draining" in mismatch(Query(), record(status=Status.DRAINING), Liveness.LIVE)
    assert "lost" in mismatch(Query(), record(), Liveness.LOST)


@pytest.mark.parametrize("query", [Query(status=("runing",)), Query(include=("dead",)), Query(version="newest please")])
def test_a_word_that_would_match_nobody_by_mistake_is_invalid(query):
    with pytest.raises(Invalid):
        check(query)
