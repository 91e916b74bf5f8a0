"""houmao, section 6: which agent is meant by an id, a name or a tmux session, and that nothing is guessed."""

import random
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollcall.faces.files.houmao.forms import local
from rollcall.faces.files.houmao.lookup import ambiguous, by_name, by_session, known
from rollcall.faces.files.houmao.record import LocalRecord
from tests.contract.houmao import NOW, OVER, STATES, ago, document, with_


def agents(*pairs: tuple[str, str]) -> list[LocalRecord]:
    """Agents of id and name."""
    return [local(document(id=id, name=name)) for id, name in pairs]


def ids(records: list[LocalRecord]) -> list[str]:
    return [record.agent_id for record in records]


# --- by name ----------------------------------------------------------------------------------------------------------


def test_a_name_is_matched_exactly():
    found = agents(("a", "gpu"), ("b", "gpu2"), ("c", "GPU"), ("d", "gp"), ("e", "gpu-gpu"))

    assert ids(by_name(found, "gpu")) == ["a"]


def test_a_name_of_several_ids_is_ambiguous_and_told_in_the_order_of_ids():
    found = agents(("c", "gpu"), ("a", "gpu"), ("b", "gpu"), ("d", "cpu"))

    assert ids(by_name(found, "gpu")) == ["a", "b", "c"]


def test_a_name_of_nobody_is_nobody():
    assert by_name(agents(("gpu", "x")), "gpu") == []
    assert by_name([], "gpu") == []
    assert by_name(agents(("a", "x")), "") == []


@pytest.mark.parametrize(("held", "asked"), [("gpu", "HOUMAO-gpu"), ("HOUMAO-gpu", "gpu")])
def test_the_prefix_is_an_alias(held, asked):
    assert ids(by_name(agents(("a", held), ("b", "cpu")), asked)) == ["a"]


@pytest.mark.parametrize("asked", ["gpu", "HOUMAO-gpu"])
def test_the_alias_is_the_last_resort(asked):
    found = agents(("a", "HOUMAO-gpu"), ("b", "gpu"))

    assert [record.agent_name for record in by_name(found, asked)] == [asked]


def test_an_alias_of_several_is_ambiguous():
    assert ids(by_name(agents(("b", "HOUMAO-gpu"), ("a", "HOUMAO-gpu")), "gpu")) == ["a", "b"]


@pytest.mark.parametrize("other", ["houmao-gpu", "HOUMAO_gpu", "HOUMAO-HOUMAO-gpu", "HOUMAOgpu", "gpu-HOUMAO"])
def test_nothing_else_is_an_alias(other):
    assert by_name(agents(("a", other)), "gpu") == []


def test_no_state_no_lease_and_no_order_chooses_among_names():
    records = [
        local(document(id="new")),
        local(document("stopped", id="old")),
        local(with_(document(id="over", until=ago(hours=1)), "liveness.published_at", ago(hours=2))),
        local(document("retired", id="past")),
    ]
    for order in range(5):
        random.Random(order).shuffle(records)
        assert ids(by_name(records, "gpu")) == ["new", "old", "over", "past"]


# --- by session -------------------------------------------------------------------------------------------------------


def test_a_session_is_matched_exactly():
    records = [local(document(id=id, session=session)) for id, session in (("a", "s-1"), ("b", "s-11"), ("c", "S-1"))]

    assert ids(by_session(records, "s-1", NOW)) == ["a"]
    assert by_session(records, "s", NOW) == []
    assert by_session(records, "", NOW) == []


@pytest.mark.parametrize("state", OVER)
def test_the_last_session_of_a_stopped_agent_never_matches(state):
    assert by_session([local(document(state, session="s-1"))], "s-1", NOW) == []


def test_a_last_session_that_is_not_the_current_one_does_not_match():
    record = local(with_(document(session="now"), "terminal.last_session_name", "before"))

    assert by_session([record], "before", NOW) == []
    assert ids(by_session([record], "now", NOW)) == ["gpu-1"]


def test_only_active_and_fresh_agents_are_found_by_their_session():
    assert by_session([local(document("relaunching", session="s"))], "s", NOW) == []
    assert by_session([local(document(session="s"))], "s", NOW + timedelta(hours=25)) == []


# --- known ------------------------------------------------------------------------------------------------------------


def test_an_id_comes_before_a_name():
    assert ids(known(agents(("a", "b"), ("b", "c")), "b")) == ["b"]


@pytest.mark.parametrize("state", STATES)
def test_an_agent_is_known_in_any_state(state):
    records = [local(document(state, id="a", name="x"))]

    assert ids(known(records, "a")) == ids(known(records, "x")) == ["a"]


@pytest.mark.parametrize(("name", "ref"), [("gpu", "gpu"), ("gpu", "HOUMAO-gpu"), ("HOUMAO-gpu", "gpu")])
def test_all_of_a_name_are_known_in_the_order_of_ids(name, ref):
    assert ids(known(agents(("b", name), ("a", name), ("c", "x")), ref)) == ["a", "b"]


def test_an_id_has_no_alias():
    assert known(agents(("gpu", "x")), "HOUMAO-gpu") == []


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["a", "b", "HOUMAO-a", "HOUMAO-b"])), unique_by=min),
    st.sampled_from(["a", "b", "c", "HOUMAO-a"]),
)
def test_what_is_known_is_in_order_and_called_so(pairs, ref):
    found = known(agents(*pairs), ref)

    assert ids(found) == sorted(ids(found))
    for record in found:
        assert ref in (record.agent_id, record.agent_name) or ref.removeprefix("HOUMAO-") == (
            record.agent_name.removeprefix("HOUMAO-")
        )
    assert bool(found) == any(
        ref == id or ref.removeprefix("HOUMAO-") == name.removeprefix("HOUMAO-") for id, name in pairs
    )


# --- texts ------------------------------------------------------------------------------------------------------------


def test_an_ambiguous_name_is_told_with_its_candidates_and_the_way_on():
    candidates = [{"agent_id": id, "agent_name": "gpu", "session_root": f"/run/{id}"} for id in "ab"]

    assert ambiguous("gpu", candidates).message == (
        "Local managed-agent resolution is ambiguous for --agent-name `gpu` (friendly name).\n"
        "Candidates:\n"
        "- agent_id=a agent_name=gpu session_root=/run/a\n"
        "- agent_id=b agent_name=gpu session_root=/run/b\n"
        "Retry with `--agent-id <id>`."
    )
