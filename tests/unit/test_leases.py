"""Leases: who is late, who is overdue, and that nobody in time ever is."""

from hypothesis import given
from hypothesis import strategies as st

from rollcall.core.lease import Stage
from rollcall.core.leases import Leases
from rollcall.core.liveness import liveness, missed_beats
from rollcall.core.records import Beat, Liveness, Record, Status


def record(id="a1", ttl=30.0, **said):
    return Record(id=id, role="worker", name=id, registered_at="", updated_at="", ttl=ttl, **said)


def due(leases, now):
    return [(key, stage) for key, _, stage in leases.due(now)]


def test_an_agent_is_late_after_two_missed_beats_and_overdue_after_its_ttl():
    leases = Leases()
    leases.grant("w.a1", record(), 0.0)

    assert due(leases, 24.9) == []
    assert due(leases, 25.0) == [("w.a1", Stage.FRESH)]
    assert due(leases, 29.9) == []
    assert due(leases, 30.0) == [("w.a1", Stage.LATE)]


def test_an_overdue_agent_stays_overdue_until_it_is_parked():
    leases = Leases()
    leases.grant("w.a1", record(), 0.0)
    due(leases, 25.0)

    assert due(leases, 30.0) == [("w.a1", Stage.LATE)]
    assert due(leases, 30.2) == [("w.a1", Stage.LATE)]
    leases.park("w.a1")
    assert due(leases, 60.0) == []


def test_a_beat_renews_the_lease_from_every_stage():
    leases = Leases()
    leases.grant("w.a1", record(), 0.0)
    due(leases, 25.0)

    assert leases.beat("w.a1", 0, 26.0, 1) is not None

    assert due(leases, 50.9) == []
    assert due(leases, 51.0) == [("w.a1", Stage.FRESH)]


def test_a_beat_of_another_life_renews_nothing():
    leases = Leases()
    leases.grant("w.a1", record(incarnation=5), 0.0)

    assert leases.beat("w.a1", 4, 20.0, 1) is None
    assert leases.beat("w.a1", 5, 20.0, 1) is not None
    assert leases.beat("w.a1", 0, 21.0, 1) is not None
    assert leases.beat("w.nobody", 0, 21.0, 1) is None


def test_without_a_ttl_nobody_is_ever_due():
    leases = Leases()
    leases.grant("w.a1", record(ttl=None), 0.0)

    assert due(leases, 1e9) == []


def test_where_no_beat_is_expected_nobody_is_due():
    leases = Leases()
    leases.grant("w.a1", record(status=Status.STOPPED), 0.0)
    assert due(leases, 1e9) == []

    leases.amend("w.a1", record())
    assert due(leases, 1e9) == [("w.a1", Stage.FRESH), ("w.a1", Stage.LATE)]


def test_a_shorter_ttl_holds_at_once():
    leases = Leases()
    leases.grant("w.a1", record(), 0.0)

    leases.amend("w.a1", record(ttl=5.0))

    assert due(leases, 5.0) == [("w.a1", Stage.FRESH), ("w.a1", Stage.LATE)]


def test_extending_gives_everybody_what_was_missed():
    leases = Leases()
    leases.grant("w.a1", record(), 0.0)

    leases.extend(10.0, 20.0)

    assert due(leases, 34.9) == []
    assert due(leases, 35.0) == [("w.a1", Stage.FRESH)]


steps = st.lists(
    st.tuples(
        st.sampled_from(["beat", "grant", "park", "drop", "amend", "sweep"]),
        st.integers(0, 4),
        st.sampled_from([2.0, 3.0, None]),
        st.floats(0.01, 2.0),
    ),
    max_size=60,
)


@given(steps)
def test_what_is_due_is_exactly_what_is_silent_for_its_ttl(history):
    """The queues and the heap agree with a plain look at every lease."""
    leases, last, ttls, parked, now = Leases(), {}, {}, set(), 0.0
    for what, number, ttl, pause in history:
        key, now = f"w.{number}", now + pause
        match what:
            case "beat":
                if leases.beat(key, 0, now, 0) is not None:
                    last[key] = now
            case "grant":
                leases.grant(key, record(key, ttl), now)
                last[key], ttls[key] = now, ttl
                parked.discard(key)
            case "park" if key in last:
                leases.park(key)
                parked.add(key)
            case "drop":
                leases.drop(key)
                last.pop(key, None)
                parked.discard(key)
            case "amend" if key in last:
                leases.amend(key, record(key, ttl))
                ttls[key] = ttl
            case "sweep":
                due(leases, now)
    now += 0.2  # one that was seen overdue is looked at again a tenth of a second later
    due(leases, now)
    found = {key for key, stage in due(leases, now + 0.2) if stage is Stage.LATE}
    now += 0.2

    plain = {key for key, at in last.items() if ttls[key] is not None and key not in parked and at + ttls[key] <= now}
    surely = {key for key in plain if last[key] + ttls[key] <= now - 0.2}
    assert surely <= found <= plain


def test_liveness_follows_its_precedence():
    leases = Leases()
    lease = leases.grant("w.a1", record(), 0.0)
    running = record()

    assert liveness(running, lease, 1.0) is Liveness.LIVE
    lease.stuck_for = 6.0
    assert liveness(running, lease, 1.0) is Liveness.STUCK
    assert liveness(running, lease, 25.0) is Liveness.SUSPECT
    assert liveness(running, lease, 31.0) is Liveness.SUSPECT
    assert liveness(record(lost_at="2026-11-18T11:06:00.000Z"), lease, 1.0) is Liveness.LOST
    assert liveness(record(status=Status.DEFINED), lease, 1.0) is Liveness.UNKNOWN
    assert liveness(record(ttl=None), leases.grant("w.b", record("b", None), 0.0), 1e9) is Liveness.LIVE


def test_a_beat_is_missed_half_an_interval_after_it_was_due():
    lease = Leases().grant("w.a1", record(), 0.0)

    assert [missed_beats(record(), lease, now) for now in (0, 10, 14.9, 15, 24.9, 25)] == [0, 0, 0, 1, 1, 2]


def test_a_beat_says_health_only_when_there_is_some():
    assert not Beat(incarnation=5, loop_lag=0.1).says_health
    assert Beat(cpu_percent=0.0).says_health
    assert Beat(metrics={"x": 1}).health.metrics == {"x": 1}


def test_a_look_that_stops_in_the_middle_loses_nobody():
    leases = Leases()
    for number in range(3):
        leases.grant(f"w.{number}", record(str(number), 2.0), 0.0)
    looking = leases.due(5.0)
    next(looking)
    looking.close()

    leases.grant("w.later", record("later", 2.0), 6.0)

    assert {key for key, _ in due(leases, 9.0)} == {"w.0", "w.1", "w.2", "w.later"}


def test_an_amended_lease_keeps_its_place_among_those_heard_later():
    leases = Leases()
    leases.grant("w.silent", record("silent"), 0.0)
    leases.grant("w.lively", record("lively", 6.0), 4.0)

    leases.amend("w.silent", record("silent", 6.0))

    assert [key for key, _ in due(leases, 6.0)] == ["w.silent", "w.silent"]
