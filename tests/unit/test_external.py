"""Agents that another registry owns: nothing is heard of them here, so nothing is believed and nobody is ever lost."""

import pytest

from rollcall.core.guard import FEWEST
from rollcall.core.leases import Leases
from rollcall.core.liveness import liveness, missed_beats, observation
from rollcall.core.records import EXTERNAL, Liveness, Record, Status

LONG = 1e9


def record(id="a1", ttl=30.0, **said):
    return Record(id=id, role="worker", name=id, registered_at="", updated_at="", ttl=ttl, **said)


def external(id="a1", **said):
    return record(id, origin=EXTERNAL, **said)


@pytest.mark.parametrize("status", list(Status))
def test_no_beat_is_expected_of_an_agent_of_another_registry(status):
    assert not external(status=status).beating
    assert record(status=status).beating == (status in {Status.RUNNING, Status.PAUSED, Status.DRAINING})


def test_another_origin_changes_nothing():
    assert record(origin="docker").beating
    assert record(origin="External").beating


@pytest.mark.parametrize("now", [0.0, 29.0, LONG])
def test_whether_an_agent_of_another_registry_lives_is_unknown(now):
    lease = Leases().grant("w.a1", external(), 0.0)

    assert liveness(external(), lease, now) is Liveness.UNKNOWN
    assert missed_beats(external(), lease, now) == 0


def test_an_agent_of_another_registry_has_no_end_of_a_lease():
    lease = Leases().grant("w.a1", external(), 0.0)

    assert "expires_at" in observation(record(), lease, revision=1, now=0.0, wall=0)
    assert "expires_at" not in observation(external(), lease, revision=1, now=0.0, wall=0)


def test_an_agent_of_another_registry_is_never_due_and_never_vanishes():
    leases = Leases()
    leases.grant("w.a1", external(), 0.0)

    assert list(leases.due(LONG)) == []
    assert leases.next_due(1.0) is None
    assert leases.vanish("w.a1", 1.0, closed=True) is None
    assert leases.vanished(LONG) == []


def test_an_agent_that_becomes_another_registrys_is_no_longer_due():
    leases = Leases()
    leases.grant("w.a1", record(), 0.0)

    leases.amend("w.a1", external())
    assert list(leases.due(LONG)) == []

    leases.amend("w.a1", record())
    assert [key for key, _, _ in leases.due(LONG)] == ["w.a1", "w.a1"]


def test_agents_of_other_registries_are_not_in_the_numbers_of_the_guard():
    leases = Leases()
    for number in range(FEWEST):
        leases.grant(f"w.own{number}", record(f"own{number}"), 0.0)
        leases.grant(f"w.theirs{number}", external(f"theirs{number}"), 0.0)

    list(leases.due(26.0))

    assert leases.believed() == FEWEST
    assert len(list(leases.silent())) == FEWEST
