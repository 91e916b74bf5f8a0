"""houmao, section 6: which agent is meant by an id, a name or a tmux session, and that nothing is guessed."""

import random

import pytest

from rollcall.faces.files.houmao.forms import local
from rollcall.faces.files.houmao.lookup import ambiguous, by_name
from rollcall.faces.files.houmao.record import LocalRecord
from tests.contract.houmao import ago, document, with_


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
