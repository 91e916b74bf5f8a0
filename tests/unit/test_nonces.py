"""Each nonce once, within bounds, and nothing forgotten before its time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollcall.core.errors import Busy
from rollcall.core.instants import timestamp
from rollcall.core.records import Cause
from rollcall.core.senders import VERSION, Sender
from rollcall.identity.nonces import MOST, MOST_OF_ONE, SKEW, Nonces

NOW = 1_795_000_000_000
CAUSE = Cause("i1", 7)


def sender(nonce="n1", user="UA", at=NOW):
    return Sender(v=VERSION, account="AGENTS", user=user, sub="s", ts=timestamp(at), nonce=nonce, sig="x")


def test_a_nonce_counts_once():
    nonces = Nonces()

    assert nonces.take(sender(), None, NOW)
    assert not nonces.take(sender(), None, NOW)
    assert not nonces.take(sender(), CAUSE, NOW)


def test_the_same_command_read_again_is_no_replay_and_another_one_is():
    nonces = Nonces()

    assert nonces.take(sender(), CAUSE, NOW)
    assert nonces.take(sender(), CAUSE, NOW)
    assert not nonces.take(sender(), Cause("i1", 8), NOW)
    assert not nonces.take(sender(), Cause("i2", 7), NOW)
    assert not nonces.take(sender(), None, NOW)
    assert len(nonces) == 1


def test_two_keys_may_have_the_same_nonce():
    nonces = Nonces()

    assert nonces.take(sender(user="UA"), None, NOW)
    assert nonces.take(sender(user="UB"), None, NOW)
    assert not nonces.take(sender(user="UA"), None, NOW)


def test_the_time_of_a_signature_does_not_make_its_nonce_another_one():
    """Who holds the key may sign the same nonce anew; it was used, whatever the time says."""
    nonces = Nonces()
    nonces.take(sender(at=NOW - 25_000), None, NOW)

    assert not nonces.take(sender(at=NOW), None, NOW)


def test_a_full_table_refuses_what_comes_and_forgets_nothing():
    nonces = Nonces(most=4, most_of_one=4)
    for number in range(4):
        assert nonces.take(sender(f"n{number}", at=NOW - number * 7_000), None, NOW)

    for number in range(20):
        with pytest.raises(Busy, match="wait a little"):
            nonces.take(sender(f"more{number}", user=f"U{number}"), None, NOW)

    assert len(nonces) == 4
    assert not any(nonces.take(sender(f"n{number}"), None, NOW) for number in range(4))


def test_a_full_table_still_knows_a_command_that_is_read_again():
    nonces = Nonces(most=1, most_of_one=1)
    nonces.take(sender(), CAUSE, NOW)

    assert nonces.take(sender(), CAUSE, NOW)


def test_one_key_has_its_part_of_the_table_and_no_more():
    nonces = Nonces(most=4, most_of_one=2)
    for number in range(2):
        assert nonces.take(sender(f"n{number}"), None, NOW)

    with pytest.raises(Busy):
        nonces.take(sender("n2"), None, NOW)
    assert nonces.take(sender("n2", user="UB"), None, NOW)


def test_one_key_cannot_fill_the_table_of_a_worker():
    assert 0 < MOST_OF_ONE <= MOST // 2


def test_room_comes_back_once_signatures_are_too_old():
    nonces = Nonces(most=2, most_of_one=2)
    nonces.take(sender("n1"), None, NOW)
    nonces.take(sender("n2"), None, NOW)

    later = NOW + SKEW + 20_000
    assert nonces.take(sender("n3", at=later), None, later)
    assert nonces.take(sender("n4", at=later), None, later)
    with pytest.raises(Busy):
        nonces.take(sender("n5", at=later), None, later)
    assert len(nonces) == 2


def test_the_part_of_a_key_comes_back_too():
    nonces = Nonces(most=4, most_of_one=1)
    for number in range(5):
        now = NOW + number * (SKEW + 20_000)
        assert nonces.take(sender(f"n{number}", at=now), None, now)


@pytest.mark.parametrize(("off", "why"), [(-30_001, "in the future"), (30_001, "old"), (3_600_000, "old")])
def test_a_signature_of_another_time_is_late_and_says_what_to_do(off, why):
    said = Nonces().late(sender(at=NOW - off), NOW)

    assert why in said
    assert "30 s are allowed" in said
    assert "set the clock" in said


@pytest.mark.parametrize("off", [-30_000, -1, 0, 1, 30_000])
def test_thirty_seconds_each_way_are_in_time(off):
    assert Nonces().late(sender(at=NOW - off), NOW) == ""


def test_what_another_worker_took_is_refused_here():
    nonces = Nonces()
    nonces.learn(sender(), CAUSE, NOW)

    assert not nonces.take(sender(), Cause("i1", 8), NOW)
    assert nonces.take(sender(), CAUSE, NOW)


def test_learning_twice_takes_no_more_room_and_keeps_what_was_known():
    nonces = Nonces()
    nonces.learn(sender(), CAUSE, NOW)
    nonces.learn(sender(), Cause("i1", 9), NOW)

    assert len(nonces) == 1
    assert nonces.take(sender(), CAUSE, NOW)


def test_what_is_too_old_to_be_replayed_is_not_learned():
    nonces = Nonces()
    nonces.learn(sender(at=NOW - SKEW - 1), CAUSE, NOW)
    nonces.learn(sender(at=NOW + SKEW + 1), CAUSE, NOW)

    assert len(nonces) == 0


def test_learning_leaves_half_of_the_room_to_what_comes_here():
    nonces = Nonces(most=10, most_of_one=5)
    for number in range(50):
        nonces.learn(sender(f"n{number}", user=f"U{number}"), None, NOW)
    assert len(nonces) == 5

    for number in range(5):
        assert nonces.take(sender(f"own{number}"), None, NOW)


def test_a_worker_that_only_learns_goes_on_learning():
    """It may lead next: then it has to know the nonces of the last half minute, not those of an hour ago."""
    nonces = Nonces(most=10, most_of_one=5)
    for number in range(5):
        nonces.learn(sender(f"n{number}"), None, NOW)
    later = NOW + SKEW + 20_000
    nonces.learn(sender("late", at=later), CAUSE, later)

    assert not nonces.take(sender("late", at=later), Cause("i1", 9), later)


steps = st.lists(
    st.tuples(
        st.integers(0, 15_000),  # time that passes
        st.integers(-SKEW, SKEW),  # how far the time of the signature is off
        st.sampled_from(["UA", "UB", "UC"]),
        st.sampled_from(["n1", "n2", "n3", "n4"]),
    ),
    max_size=60,
)


@given(steps)
def test_no_signature_that_is_still_in_time_is_taken_twice(steps):
    nonces, now, taken = Nonces(), NOW, {}
    for passed, off, user, nonce in steps:
        now += passed
        one = sender(nonce, user=user, at=now - off)
        first = taken.get((user, nonce))
        if nonces.take(one, None, now):
            # Whoever took the same one before is by now too old for anybody to send it again.
            assert first is None or nonces.late(first, now)
            taken[user, nonce] = one


@given(steps, st.integers(1, 6), st.integers(1, 6))
def test_bounds_hold_whatever_comes_and_everything_is_forgotten_in_the_end(steps, most, most_of_one):
    nonces, now = Nonces(most=most, most_of_one=min(most, most_of_one)), NOW
    for passed, off, user, nonce in steps:
        now += passed
        try:
            nonces.take(sender(nonce, user=user, at=now - off), None, now)
        except Busy:
            assert len(nonces) > 0
        assert len(nonces) <= most

    end = now + 2 * SKEW + 20_000
    assert nonces.take(sender("last", at=end), None, end)
    assert len(nonces) == 1
