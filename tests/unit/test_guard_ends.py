"""Whatever happens, the guard ends: for every agent, and as a whole."""

from hypothesis import given
from hypothesis import strategies as st

from rollcall.core.guard import FEWEST, SHARE, Guard
from tests.unit.test_guard import WALL, lease

looks = st.lists(
    st.tuples(st.floats(0.01, 4.0), st.integers(0, 20), st.integers(0, 5), st.sampled_from([0.0, 2.0, 5.0])),
    max_size=60,
)

TTL = 30.0


@given(looks)
def test_no_doubt_lasts_longer_than_the_ttl_it_began_with(history):
    """Whatever is weighed: after one ttl it rests, for one look at least, and only very many make it begin."""
    guard, now, until, longest = Guard(), 0.0, None, 0.0
    for pause, silent, others, ttl in history:
        now += pause
        before, longest = guard.active, ttl or longest
        guard.weigh(now, silent=silent, believed=silent + others, ttl=ttl)
        if until is not None and now >= until:
            assert not guard.active
        if guard.active and not before:
            assert silent >= FEWEST and silent > SHARE * (silent + others)
            until = now + longest
        elif not guard.active:
            until = None


@given(st.lists(st.tuples(st.floats(0.01, 2.0), st.sampled_from(["weigh", "calm", "blind", "release"])), max_size=40))
def test_an_agent_is_never_held_longer_than_its_own_ttl_beyond_its_lease_or_until_sight_is_back(history):
    guard, now, sight, silent = Guard(), 0.0, 0.0, lease(at=0.0, ttl=3.0)
    for pause, what in history:
        now += pause
        match what:
            case "weigh":
                guard.weigh(now, silent=10, believed=20, ttl=3.0)
            case "calm":
                guard.weigh(now, silent=0, believed=20, ttl=3.0)
            case "blind":
                guard.blind(now, 1.0, "blind")
                sight = now + 1.0
            case "release":
                guard.release(now)
                assert not guard.holds(now, silent)

        assert not (guard.holds(now, silent) and now >= max(6.0, sight))
        assert guard.active or not guard.holds(now, silent)
        assert (guard.says(now, WALL) is not None) is guard.active


def test_it_does_not_doubt_the_same_silence_twice():
    guard = Guard()
    guard.weigh(100.0, silent=10, believed=20, ttl=TTL)
    assert guard.active

    for now in range(130, 400):
        guard.weigh(float(now), silent=10, believed=20, ttl=TTL)
        assert not guard.active, now


@given(st.integers(0, 50), st.integers(0, 50), st.sampled_from([0.5, 2.0, 30.0]), st.floats(0.05, 0.4))
def test_of_silence_that_goes_on_it_rests_for_good(silent, others, ttl, every):
    guard, now, begun = Guard(), 0.0, 0
    while now < 4 * ttl + 10 * every:
        now += every
        before = guard.active
        guard.weigh(now, silent=silent, believed=silent + others, ttl=ttl)
        begun += guard.active and not before

    assert begun <= 1
