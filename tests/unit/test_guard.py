"""The guard: silence of very many at once is doubted, for a time, with proof excepted."""

import pytest

from rollcall.core.guard import CALM, Guard
from rollcall.core.instants import instant
from rollcall.core.lease import Doubt, Lease

TTL = 30.0
WALL = instant("2026-11-20T10:00:00.000Z")


def lease(at=0.0, ttl=TTL, closed=False, deaf=False):
    one = Lease(1, at)
    one.ttl = ttl
    if closed or deaf:
        one.doubt = Doubt()
        one.doubt.closed, one.doubt.deaf = closed, deaf
    return one


def entered(now=100.0, silent=10, believed=20, ttl=TTL):
    guard = Guard()
    guard.weigh(now, silent=silent, believed=believed, ttl=ttl)
    assert guard.active
    return guard


def calmed(guard):
    """Ended by beats that were back from 101 on."""
    guard.says(100.0, WALL)
    guard.weigh(101.0, silent=0, believed=20, ttl=TTL)
    guard.weigh(101.0 + CALM, silent=0, believed=20, ttl=TTL)
    assert not guard.active
    return guard


@pytest.mark.parametrize(
    ("silent", "believed", "doubted"),
    [
        (4, 4, False),  # all of a small fleet
        (4, 1000, False),
        (5, 5, True),
        (5, 0, True),  # none of them has a ttl
        (5, 33, True),  # 15.2 %
        (5, 34, False),  # 14.7 %
        (15, 100, False),  # 15 % is not above 15 %
        (16, 100, True),
        (150_000, 1_000_000, False),
        (150_001, 1_000_000, True),
    ],
)
def test_more_than_15_percent_and_at_least_5_are_doubted(silent, believed, doubted):
    guard = Guard()

    guard.weigh(100.0, silent=silent, believed=believed, ttl=TTL)

    assert guard.active is doubted


def test_those_lost_of_silence_within_the_last_ttl_count_too():
    guard = Guard()
    for number in range(3):
        guard.lost(100.0 + number)

    guard.weigh(125.0, silent=2, believed=17, ttl=TTL)

    assert guard.active
    assert (guard.says(125.0, WALL).silent, guard.says(125.0, WALL).believed) == (5, 20)


def test_those_lost_longer_than_a_ttl_ago_count_no_more():
    guard = Guard()
    for number in range(3):
        guard.lost(100.0 + number)

    guard.weigh(133.0, silent=2, believed=17, ttl=TTL)

    assert not guard.active


def test_while_it_rests_it_holds_nobody_and_says_nothing():
    guard = Guard()
    guard.weigh(100.0, silent=4, believed=4, ttl=TTL)

    assert not guard.holds(100.0, lease(at=60.0))
    assert guard.says(100.0, WALL) is None


@pytest.mark.parametrize("proof", ["closed", "deaf"])
def test_who_is_proved_gone_is_never_held(proof):
    guard = entered(now=100.0)

    assert guard.holds(100.0, lease(at=70.0))
    assert not guard.holds(100.0, lease(at=70.0, **{proof: True}))


def test_a_doubt_that_proves_nothing_is_held():
    guard = entered(now=100.0)
    asked = lease(at=70.0)
    asked.doubt = Doubt()
    asked.doubt.asked_at, asked.doubt.gone_at = 95.0, 99.0

    assert guard.holds(100.0, asked)


def test_an_agent_is_held_at_most_its_own_ttl_beyond_its_lease():
    guard = entered(now=100.0, ttl=30.0)
    short = lease(at=98.0, ttl=2.0)

    assert guard.holds(101.9, short)
    assert not guard.holds(102.0, short)
    assert guard.holds(129.9, lease(at=70.0, ttl=30.0))
    assert not guard.holds(130.0, lease(at=70.0, ttl=30.0))


def test_beats_that_are_back_for_a_while_end_it():
    guard = entered(now=100.0)

    guard.weigh(101.0, silent=4, believed=20, ttl=TTL)
    assert guard.active
    guard.weigh(101.0 + CALM, silent=4, believed=20, ttl=TTL)

    assert not guard.active
    assert not guard.holds(101.0 + CALM, lease(at=70.0))
    assert guard.says(101.0 + CALM, WALL) is None


def test_beats_that_are_back_for_a_moment_do_not_end_it():
    guard = entered(now=100.0, silent=10, believed=20)

    for moment, silent in ((101.0, 4), (101.0 + CALM / 2, 10), (101.0 + CALM, 4), (101.0 + CALM * 1.9, 4)):
        guard.weigh(moment, silent=silent, believed=20, ttl=TTL)

        assert guard.active


def test_it_ends_after_one_ttl_whatever_happens():
    guard = entered(now=100.0, silent=10, believed=20)

    guard.weigh(129.9, silent=10, believed=20, ttl=TTL)
    assert guard.active
    guard.weigh(130.0, silent=10, believed=20, ttl=TTL)
    assert not guard.active


def test_it_does_not_doubt_the_same_silence_again_when_its_time_was_over():
    guard = entered(now=100.0, silent=10, believed=20)

    guard.weigh(130.0, silent=10, believed=20, ttl=TTL)
    for number in range(10):
        guard.lost(130.0 + number / 10)
        guard.weigh(130.0 + number / 10, silent=9 - number, believed=19 - number, ttl=TTL)
        assert not guard.active


def test_it_doubts_a_new_silence_after_the_old_one_was_over():
    guard = entered(now=100.0, silent=10, believed=20)
    guard.weigh(130.0, silent=10, believed=20, ttl=TTL)

    guard.weigh(140.0, silent=1, believed=20, ttl=TTL)
    guard.weigh(200.0, silent=10, believed=20, ttl=TTL)

    assert guard.active


@pytest.mark.parametrize("ended", ["by time", "by an operator"])
def test_it_doubts_a_new_silence_also_when_nobody_was_due_in_between(ended):
    guard = entered(now=100.0, silent=10, believed=20)
    if ended == "by time":
        guard.weigh(130.0, silent=10, believed=20, ttl=TTL)
    else:
        guard.release(101.0)
    for number in range(10):
        guard.lost(130.0 + number / 100)

    guard.weigh(4000.0, silent=10, believed=20, ttl=TTL)

    assert guard.active


def test_a_look_at_which_nobody_is_due_does_not_end_it():
    guard = Guard()
    for number in range(3):
        guard.lost(95.0 + number)
    guard.weigh(100.0, silent=2, believed=17, ttl=TTL)

    guard.weigh(100.05, silent=2, believed=17, ttl=0.0)

    assert guard.active


def test_losses_that_follow_from_a_silence_that_was_doubted_are_no_news():
    guard = entered(now=100.0, silent=10, believed=40)
    guard.weigh(130.0, silent=10, believed=40, ttl=TTL)
    for number in range(10):
        guard.lost(131.0 + number / 10)

    guard.weigh(160.0, silent=1, believed=30, ttl=TTL)

    assert not guard.active


def test_it_may_doubt_again_at_once_when_beats_ended_it():
    guard = calmed(entered(now=100.0))

    guard.weigh(104.0, silent=10, believed=20, ttl=TTL)

    assert guard.active


def test_an_operator_ends_it_and_it_does_not_doubt_the_same_silence_again():
    guard = entered(now=100.0)

    guard.release(101.0)

    assert not guard.active
    guard.weigh(101.1, silent=10, believed=20, ttl=TTL)
    assert not guard.active
    assert not guard.holds(101.1, lease(at=70.0))


def test_an_operator_ends_it_also_while_it_is_blind():
    guard = Guard()
    guard.blind(100.0, 3.0, "the bus was away for 7.0 s")

    guard.release(101.0)

    assert not guard.active
    assert not guard.is_blind(101.0)
    assert not guard.holds(101.0, lease(at=70.0))


def test_releasing_a_guard_that_rests_changes_nothing():
    guard = Guard()

    guard.release(99.0)
    guard.weigh(100.0, silent=10, believed=20, ttl=TTL)

    assert guard.active


def test_whoever_was_blind_doubts_any_silence_for_a_while():
    guard = Guard()

    guard.blind(100.0, 3.0, "the bus was away for 7.0 s")

    assert guard.holds(100.0, lease(at=69.0))
    guard.weigh(102.9, silent=0, believed=100, ttl=0.0)
    assert guard.active
    guard.weigh(103.0, silent=0, believed=100, ttl=0.0)
    assert not guard.active


def test_to_the_blind_only_a_closed_connection_proves_anything():
    guard = Guard()

    guard.blind(100.0, 3.0, "the bus was away for 7.0 s")

    assert guard.is_blind(102.9)
    assert guard.holds(102.9, lease(at=70.0, deaf=True))
    assert not guard.holds(102.9, lease(at=70.0, closed=True))
    assert not guard.is_blind(103.0)
    assert not guard.holds(103.0, lease(at=73.5, deaf=True))


def test_who_is_blind_twice_is_blind_until_the_later_end():
    guard = Guard()
    guard.blind(100.0, 3.0, "the bus was away for 7.0 s")

    guard.blind(102.0, 3.0, "this worker stood still for 1.0 s")

    guard.weigh(104.9, silent=0, believed=100, ttl=0.0)
    assert guard.active
    guard.weigh(105.0, silent=0, believed=100, ttl=0.0)
    assert not guard.active


def test_many_that_are_still_silent_after_it_was_blind_are_doubted_for_themselves():
    guard = Guard()
    guard.blind(100.0, 3.0, "the bus was away for 7.0 s")

    guard.weigh(103.0, silent=10, believed=20, ttl=TTL)

    assert "10 of 20" in guard.says(103.0, WALL).why
    assert guard.holds(103.0, lease(at=73.0))


def test_who_is_blind_while_it_holds_doubts_silence_as_long_as_after_any_blindness():
    guard = entered(now=100.0)

    guard.blind(129.0, 3.0, "the bus was away for 20.0 s")

    guard.weigh(131.9, silent=10, believed=20, ttl=TTL)
    assert guard.holds(131.9, lease(at=120.0, ttl=10.0))
    guard.weigh(132.0, silent=10, believed=20, ttl=TTL)
    assert not guard.active


def test_beats_that_are_back_do_not_end_blindness():
    guard = entered(now=100.0)
    guard.blind(101.0, 3.0, "the bus was away for 1.0 s")

    guard.weigh(102.0, silent=0, believed=20, ttl=TTL)

    assert guard.active


def test_it_explains_itself_with_numbers_and_times():
    guard = entered(now=100.0, silent=10, believed=20)
    guard.held = 7

    said = guard.says(104.0, WALL)

    assert "10 of 20 agents (50 %) fell silent within 30 s and no connection was seen to close" in said.why
    assert (said.silent, said.believed, said.held) == (10, 20, 7)
    assert (said.since, said.until) == ("2026-11-20T09:59:56.000Z", "2026-11-20T10:00:26.000Z")
    assert said.until in said.why


def test_it_says_the_same_times_though_two_clocks_are_read_in_turn():
    guard = entered(now=100.0)

    first = guard.says(100.0, WALL)
    second = guard.says(100.004, WALL + 6)

    assert first == second


def test_a_second_guard_tells_its_own_times():
    guard = calmed(entered(now=100.0))

    guard.weigh(104.0, silent=10, believed=20, ttl=TTL)

    said = guard.says(104.0, WALL)
    assert (said.since, said.until) == ("2026-11-20T10:00:00.000Z", "2026-11-20T10:00:30.000Z")
