"""Presence: which connections speak for whom, and who has none left when one ends."""

from hypothesis import given
from hypothesis import strategies as st

from rollcall.core.presence import Connection, Presence


def connection(number=1, server="s1", start="2026-11-20T10:00:00Z"):
    return Connection(server, number, start)


def test_an_agent_is_without_connection_when_its_last_one_ended():
    presence = Presence()
    presence.bind("w.a1", connection(1))
    presence.bind("w.a1", connection(2))

    assert presence.ended(connection(1)) == []
    assert presence.connected("w.a1")
    assert presence.ended(connection(2)) == ["w.a1"]
    assert not presence.connected("w.a1")


def test_a_connection_that_ends_takes_all_those_along_who_have_no_other():
    presence = Presence()
    for key in ("w.a1", "w.a2", "w.a3"):
        presence.bind(key, connection(1))
    presence.bind("w.a2", connection(2))

    assert presence.ended(connection(1)) == ["w.a1", "w.a3"]
    assert [presence.connected(key) for key in ("w.a1", "w.a2", "w.a3")] == [False, True, False]


def test_a_connection_that_speaks_for_nobody_ends_nobody():
    presence = Presence()
    presence.bind("w.a1", connection(1))

    assert presence.ended(connection(7)) == []
    assert presence.connected("w.a1")


def test_a_connection_ends_once():
    presence = Presence()
    presence.bind("w.a1", connection(1))

    assert presence.ended(connection(1)) == ["w.a1"]
    assert presence.ended(connection(1)) == []


def test_binding_twice_is_binding_once():
    presence = Presence()
    presence.bind("w.a1", connection(1))
    presence.bind("w.a1", connection(1))

    assert presence.ended(connection(1)) == ["w.a1"]
    assert presence.connections() == []


def test_the_same_number_on_another_server_or_after_a_restart_is_another_connection():
    presence = Presence()
    presence.bind("w.a1", connection(1))

    assert presence.ended(connection(1, server="s2")) == []
    assert presence.ended(connection(1, start="2026-11-20T11:00:00Z")) == []
    assert presence.connected("w.a1")


def test_an_unbound_agent_is_told_of_no_connections_end():
    presence = Presence()
    presence.bind("w.a1", connection(1))
    presence.bind("w.a2", connection(1))
    presence.bind("w.a1", connection(2))

    presence.unbind("w.a1")
    presence.unbind("w.nobody")

    assert not presence.connected("w.a1")
    assert presence.connections() == [connection(1)]
    assert presence.ended(connection(1)) == ["w.a2"]
    assert presence.ended(connection(2)) == []


def test_an_agent_may_be_bound_again_after_its_last_connection_ended():
    presence = Presence()
    presence.bind("w.a1", connection(1))
    presence.ended(connection(1))

    presence.bind("w.a1", connection(2))

    assert presence.connected("w.a1")
    assert presence.ended(connection(2)) == ["w.a1"]


steps = st.lists(
    st.tuples(st.sampled_from(["bind", "bind", "end", "unbind"]), st.integers(0, 3), st.integers(0, 3)), max_size=50
)


@given(steps)
def test_it_knows_just_the_pairs_that_were_bound_and_did_not_end(history):
    """A plain set of pairs says the same after every step."""
    presence, pairs = Presence(), set()
    for what, agent, number in history:
        key, one = f"w.{agent}", connection(number)
        match what:
            case "bind":
                presence.bind(key, one)
                pairs.add((key, one))
            case "unbind":
                presence.unbind(key)
                pairs = {pair for pair in pairs if pair[0] != key}
            case "end":
                spoken_for = {key for key, other in pairs if other == one}
                pairs = {pair for pair in pairs if pair[1] != one}
                gone = presence.ended(one)
                assert len(gone) == len(set(gone))
                assert set(gone) == spoken_for - {key for key, _ in pairs}

        assert set(presence.connections()) == {one for _, one in pairs}
        assert {f"w.{agent}" for agent in range(4) if presence.connected(f"w.{agent}")} == {key for key, _ in pairs}
