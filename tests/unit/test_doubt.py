"""Doubt: what speaks against an agent since it was last heard, and that any sign of life ends it."""

from hypothesis import given
from hypothesis import strategies as st

from rollcall.core.lease import Doubt, Stage
from rollcall.core.leases import Leases
from rollcall.core.liveness import liveness
from rollcall.core.records import Liveness, Status
from tests.unit.test_leases import due, record


def vanished(leases, before):
    return [key for key, _ in leases.vanished(before)]


def test_whose_last_connection_ended_has_vanished_until_a_sign_of_life():
    leases = Leases()
    for number in range(5):
        leases.grant(f"w.{number}", record(str(number)), 0.0)
        leases.vanish(f"w.{number}", 10.0 + number, closed=True)
    assert vanished(leases, 12.0) == ["w.0", "w.1", "w.2"]

    leases.beat("w.0", 0, 15.0, 1)
    leases.grant("w.1", record("1"), 15.0)
    leases.return_("w.2")
    leases.drop("w.3")

    assert vanished(leases, 99.0) == ["w.4"]
    leases.park("w.4")
    assert vanished(leases, 99.0) == []


def test_vanishing_is_news_once_and_only_of_those_who_are_believed():
    leases = Leases()
    leases.grant("w.a1", record(), 0.0)
    leases.grant("w.lost", record("lost"), 0.0)
    leases.park("w.lost")

    assert leases.vanish("w.a1", 10.0, closed=True) is leases["w.a1"]
    assert leases.vanish("w.a1", 11.0, closed=False) is None
    assert leases.vanish("w.lost", 10.0, closed=True) is None
    assert leases.vanish("w.nobody", 10.0, closed=True) is None
    assert (leases["w.a1"].gone_at, leases["w.a1"].doubt.closed) == (10.0, True)


def test_a_return_is_news_only_of_who_had_vanished():
    leases = Leases()
    leases.grant("w.a1", record(), 0.0)
    assert leases.return_("w.a1") is None
    assert leases.return_("w.nobody") is None

    leases.vanish("w.a1", 10.0, closed=True)

    assert leases.return_("w.a1") is leases["w.a1"]
    assert leases.return_("w.a1") is None
    assert leases["w.a1"].doubt is None


def test_a_return_is_no_beat():
    leases = Leases()
    leases.grant("w.a1", record(), 0.0)
    leases.vanish("w.a1", 10.0, closed=True)

    leases.return_("w.a1")

    assert due(leases, 25.0) == [("w.a1", Stage.FRESH)]


def test_a_beat_and_a_grant_end_every_doubt():
    leases = Leases()
    for number, end in enumerate((leases.beat, leases.grant)):
        key = f"w.{number}"
        leases.grant(key, record(str(number)), 0.0)
        leases.vanish(key, 10.0, closed=True)
        leases[key].doubt.asked_at, leases[key].doubt.deaf = 11.0, True

        end(key, *((0, 12.0, 1) if end == leases.beat else (record(str(number)), 12.0)))

        assert (leases[key].doubt, leases[key].gone_at) == (None, None)


def test_a_beat_of_another_life_ends_no_doubt():
    leases = Leases()
    leases.grant("w.a1", record(incarnation=5), 0.0)
    leases.vanish("w.a1", 10.0, closed=True)

    leases.beat("w.a1", 4, 12.0, 1)

    assert vanished(leases, 10.0) == ["w.a1"]


def test_who_vanishes_again_vanishes_anew():
    leases = Leases()
    for number in range(2):
        leases.grant(f"w.{number}", record(str(number)), 0.0)
        leases.vanish(f"w.{number}", 10.0 + number, closed=True)

    leases.beat("w.0", 0, 12.0, 1)
    leases.vanish("w.0", 20.0, closed=True)

    assert vanished(leases, 19.0) == ["w.1"]
    assert vanished(leases, 20.0) == ["w.1", "w.0"]


def test_extending_gives_the_vanished_their_time_too():
    leases = Leases()
    leases.grant("w.a1", record(), 0.0)
    leases.vanish("w.a1", 10.0, closed=True)

    leases.extend(7.0, 20.0)

    assert leases["w.a1"].gone_at == 17.0
    assert vanished(leases, 16.9) == []
    assert vanished(leases, 17.0) == ["w.a1"]


def test_what_was_asked_during_an_absence_may_have_been_asked_of_nobody():
    leases = Leases()
    leases.grant("w.a1", record(), 0.0)
    leases.vanish("w.a1", 10.0, closed=True)
    leases["w.a1"].doubt.asked_at, leases["w.a1"].doubt.deaf = 11.0, True

    leases.extend(7.0, 20.0)

    doubt = leases["w.a1"].doubt
    assert (doubt.asked_at, doubt.deaf, doubt.closed) == (None, False, True)


def test_the_next_look_is_for_whoever_is_due_first_by_silence_or_by_grace():
    leases = Leases()
    assert leases.next_due(1.0) is None
    leases.grant("w.a1", record(), 0.0)
    leases.grant("w.b1", record("b1", None), 0.0)
    assert leases.next_due(1.0) == 25.0

    leases.vanish("w.b1", 10.0, closed=True)

    assert leases.next_due(1.0) == 11.0
    assert leases.next_due(50.0) == 25.0
    leases.return_("w.b1")
    assert leases.next_due(1.0) == 25.0


def silent(leases):
    return [lease.host for lease in leases.silent()]


def test_the_silent_are_those_who_missed_beats_or_were_given_up_with_nothing_that_proves_more():
    leases = Leases()
    for name in ("lively", "late", "deaf", "closed", "given-up", "both"):
        leases.grant(f"w.{name}", record(name, host=name), 0.0)
    for name in ("lively", "closed", "given-up"):
        leases.beat(f"w.{name}", 0, 20.0, 1)
    leases.vanish("w.closed", 21.0, closed=True)
    leases.vanish("w.given-up", 21.0, closed=False)
    leases.vanish("w.both", 21.0, closed=False)
    assert silent(leases) == ["given-up", "both"]

    due(leases, 25.0)
    leases["w.deaf"].doubt = leases["w.deaf"].doubt or Doubt()
    leases["w.deaf"].doubt.deaf = True

    assert sorted(silent(leases)) == ["both", "given-up", "late"]
    assert leases.believed() == 6
    leases.park("w.late")
    leases.beat("w.both", 0, 26.0, 1)
    leases.return_("w.given-up")
    assert silent(leases) == []
    assert leases.believed() == 5


def test_who_has_no_ttl_or_is_stopped_never_makes_more_silent_than_believed():
    leases = Leases()
    leases.grant("w.endless", record("endless", None), 0.0)
    leases.grant("w.stopped", record("stopped", status=Status.STOPPED), 0.0)

    leases.vanish("w.endless", 1.0, closed=False)
    leases.vanish("w.stopped", 1.0, closed=False)

    assert (len(silent(leases)), leases.believed()) == (1, 1)


def test_an_absence_gives_nobody_more_than_a_full_ttl_so_that_the_order_stays():
    leases = Leases()
    leases.grant("w.quiet", record("quiet", 6.0), 0.0)
    leases.grant("w.beats", record("beats", 6.0), 0.0)
    leases.vanish("w.quiet", 1.0, closed=True)

    leases.extend(30.0, 2.0)
    leases.beat("w.beats", 0, 2.5, 1)
    leases.vanish("w.beats", 3.0, closed=True)

    assert due(leases, 7.0) == [("w.quiet", Stage.FRESH)]
    assert due(leases, 7.5) == [("w.beats", Stage.FRESH)]
    assert vanished(leases, 2.0) == ["w.quiet"]
    assert vanished(leases, 3.0) == ["w.quiet", "w.beats"]


def test_three_losses_within_a_minute_are_flapping_until_the_first_is_a_minute_old():
    lease = Leases().grant("w.a1", record(), 0.0)
    lease.flaps = (100.0, 130.0)
    assert not lease.flapping(130.0)

    lease.flaps = (100.0, 130.0, 159.0)

    assert lease.flapping(159.0)
    assert lease.flapping(159.9)
    assert not lease.flapping(160.0)


def test_another_life_of_the_same_id_flaps_on():
    leases = Leases()
    leases.grant("w.a1", record(incarnation=1), 0.0).flaps = (1.0, 2.0, 3.0)

    assert leases.grant("w.a1", record(incarnation=2), 4.0).flapping(4.0)


def test_whose_last_connection_ended_is_suspect_though_its_lease_runs():
    leases = Leases()
    lease = leases.grant("w.a1", record(), 0.0)

    leases.vanish("w.a1", 1.0, closed=True)

    assert liveness(record(), lease, 1.0) is Liveness.SUSPECT
    assert liveness(record(status=Status.STOPPED), lease, 1.0) is Liveness.UNKNOWN
    leases.return_("w.a1")
    assert liveness(record(), lease, 1.0) is Liveness.LIVE


comings = st.lists(
    st.tuples(
        st.sampled_from(["vanish", "vanish", "return", "beat", "grant", "park", "drop", "look"]), st.integers(0, 4)
    ),
    max_size=60,
)


@given(comings)
def test_the_vanished_are_exactly_those_with_nothing_heard_since(history):
    """A plain look at everybody says the same."""
    leases, gone, standing, lost = Leases(), {}, set(), set()
    for now, (what, number) in enumerate(history):
        key = f"w.{number}"
        match what:
            case "vanish":
                news = leases.vanish(key, float(now), closed=True) is not None
                assert news == (key in standing and key not in lost and key not in gone)
                if news:
                    gone[key] = now
            case "return":
                back = leases.return_(key) is not None
                assert key in lost or back == (key in gone)
                gone.pop(key, None)
            case "beat":
                if leases.beat(key, 0, float(now), 0) is not None:
                    gone.pop(key, None)
            case "grant":
                leases.grant(key, record(key), float(now))
                standing.add(key)
                lost.discard(key)
                gone.pop(key, None)
            case "park" if key in standing:
                leases.park(key)
                lost.add(key)
                gone.pop(key, None)
            case "drop":
                leases.drop(key)
                standing.discard(key)
                lost.discard(key)
                gone.pop(key, None)
            case "look":
                horizon = now - number
                assert vanished(leases, horizon) == [
                    key for key, at in sorted(gone.items(), key=by_time) if at <= horizon
                ]
    assert vanished(leases, len(history)) == sorted(gone, key=gone.get)


def by_time(item):
    return item[1]
