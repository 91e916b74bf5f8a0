"""The tables of decide: who may take a place, change it, give it back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from rollcall.core.commands import Deregister, Expire, Lose, Mode, Recover, Register, Update
from rollcall.core.decide import Accepted, Rejected, Unchanged, decide
from rollcall.core.errors import Conflict, Denied, Invalid, NotFound, Unauthorized
from rollcall.core.patch import merge
from rollcall.core.records import Cause, ChangeKind, Place, Profile, Record, Status

NOW = 1_795_000_000_000
LATER = NOW + 60_000


def profile(**said):
    return Profile(**{"name": "billing", "incarnation": 5, **said})


def register(mode=Mode.CLAIM, seq=2, role="worker", **said):
    return Register(role=role, id="a1", profile=profile(**said), mode=mode, cause=Cause("i1", seq))


def held(**said):
    """The place of an agent that registered with what is said."""
    outcome = decide(None, register(seq=1, **{k: v for k, v in said.items() if k not in OWN}), now=NOW)
    record = replace(outcome.record, **{k: v for k, v in said.items() if k in OWN})
    return Place(record, 7, ChangeKind.REGISTERED, NOW)


OWN = {"lost_at"}


def gone():
    return Place(held().record, 9, ChangeKind.DEREGISTERED, NOW)


def refused(outcome):
    assert isinstance(outcome, Rejected), outcome
    return outcome.error


@pytest.mark.parametrize("place", [None, gone()])
@pytest.mark.parametrize("mode", list(Mode))
def test_a_free_place_goes_to_whoever_comes(place, mode):
    outcome = decide(place, register(mode), now=LATER)

    assert isinstance(outcome, Accepted)
    assert outcome.kind is ChangeKind.REGISTERED
    assert outcome.record.registered_at == "2026-11-18T11:07:40.000Z"
    assert (outcome.record.id, outcome.record.role, outcome.record.registered_seq) == ("a1", "worker", 2)


@pytest.mark.parametrize("owner", ["", "vers:shared"])
def test_the_same_life_saying_the_same_changes_nothing(owner):
    outcome = decide(held(owner=owner), register(owner=owner), now=LATER)

    assert isinstance(outcome, Unchanged)


@pytest.mark.parametrize("owner", ["", "vers:shared"])
def test_the_same_life_saying_something_else_is_an_update(owner):
    outcome = decide(held(owner=owner), register(owner=owner, capabilities=("ocr",)), now=LATER)

    assert isinstance(outcome, Accepted)
    assert outcome.kind is ChangeKind.UPDATED
    assert outcome.record.registered_at == held().record.registered_at
    assert outcome.record.updated_at != held().record.updated_at


def test_the_same_life_of_a_lost_agent_is_registered_again():
    outcome = decide(held(lost_at="2026-11-18T11:06:00.000Z"), register(), now=LATER)

    assert isinstance(outcome, Accepted)
    assert (outcome.kind, outcome.record.lost_at) == (ChangeKind.REGISTERED, None)


def test_the_owners_newer_life_supersedes_and_keeps_the_place_in_line():
    outcome = decide(held(owner="o"), register(owner="o", incarnation=6), now=LATER)

    assert isinstance(outcome, Accepted)
    assert outcome.kind is ChangeKind.REGISTERED
    assert outcome.record.registered_seq == 1
    assert outcome.record.registered_at == held().record.registered_at


def test_the_owners_older_life_is_a_conflict_that_names_the_held_one():
    error = refused(decide(held(owner="o"), register(owner="o", incarnation=4), now=LATER))

    assert isinstance(error, Conflict)
    assert error.details["holder"]["incarnation"] == 5
    assert error.details["revision"] == 7


@pytest.mark.parametrize("mode", [Mode.CLAIM, Mode.TAKEOVER])
@pytest.mark.parametrize("lost_at", [None, "2026-11-18T11:06:00.000Z"])
@pytest.mark.parametrize("comes", ["", "p"])
def test_anothers_place_is_denied_in_every_state(mode, lost_at, comes):
    place = held(owner="o", lost_at=lost_at)

    assert isinstance(refused(decide(place, register(mode, owner=comes, incarnation=9), now=LATER)), Denied)


@pytest.mark.parametrize("incarnation", [4, 6])
def test_a_live_unowned_place_is_a_conflict_that_names_the_holder_and_the_way(incarnation):
    error = refused(decide(held(registered_by="ops"), register(incarnation=incarnation), now=LATER))

    assert isinstance(error, Conflict)
    assert "registered by 'ops'" in error.message
    assert "takeover" in error.message


@pytest.mark.parametrize("status", [Status.STOPPED, Status.RETIRED, Status.DEFINED])
def test_an_unowned_place_that_nobody_lives_in_goes_to_a_newer_life(status):
    outcome = decide(held(status=status), register(incarnation=6), now=LATER)

    assert isinstance(outcome, Accepted)
    assert outcome.kind is ChangeKind.REGISTERED


def test_a_lost_unowned_place_goes_to_a_newer_life_and_not_to_an_older_one():
    place = held(lost_at="2026-11-18T11:06:00.000Z")

    assert isinstance(decide(place, register(incarnation=6), now=LATER), Accepted)
    assert isinstance(refused(decide(place, register(incarnation=4), now=LATER)), Conflict)


def test_a_disconnected_unowned_place_goes_to_a_newer_life():
    assert isinstance(decide(held(), register(incarnation=6), now=LATER, disconnected=True), Accepted)


def test_takeover_wins_over_a_live_unowned_place():
    assert isinstance(decide(held(), register(Mode.TAKEOVER, incarnation=1), now=LATER), Accepted)


@pytest.mark.parametrize("lost_at", [None, "2026-11-18T11:06:00.000Z"])
def test_create_refuses_every_id_that_is_held(lost_at):
    assert isinstance(refused(decide(held(lost_at=lost_at), register(Mode.CREATE), now=LATER)), Conflict)


@pytest.mark.parametrize("mode", list(Mode))
def test_a_held_id_keeps_its_role(mode):
    error = refused(decide(held(), register(mode, role="scout"), now=LATER))

    assert isinstance(error, Conflict)


@pytest.mark.parametrize("said", [{"id": "a2"}, {"role": "scout"}])
def test_a_body_that_names_another_agent_than_the_subject_is_invalid(said):
    command = replace(register(), profile=profile(**said))

    assert isinstance(refused(decide(None, command, now=NOW)), Invalid)


def test_an_nkey_owner_needs_a_signature():
    assert isinstance(refused(decide(None, register(owner="nkey:UABC"), now=NOW)), Unauthorized)


def update(patch, **options):
    return Update(role="worker", id="a1", patch=patch, cause=Cause("i1", 3), **options)


def test_an_update_merges_and_keeps_what_it_does_not_name():
    place = held(labels={"zone": "a", "tier": "1"})

    outcome = decide(place, update({"labels": {"zone": "b", "tier": None}, "status": "draining"}), now=LATER)

    assert isinstance(outcome, Accepted)
    assert outcome.record.labels == {"zone": "b"}
    assert outcome.record.status is Status.DRAINING
    assert outcome.record.name == "billing"
    assert outcome.record.cause == Cause("i1", 3)


def test_null_means_no_lease_in_a_patch_as_in_a_record():
    assert decide(held(), update({"ttl": None}), now=LATER).record.ttl is None


def test_an_update_that_says_the_same_changes_nothing():
    assert isinstance(decide(held(), update({"name": "billing"}), now=LATER), Unchanged)


@pytest.mark.parametrize("place", [None, gone()])
def test_an_update_of_nobody_is_not_found(place):
    assert isinstance(refused(decide(place, update({}), now=LATER)), NotFound)


def test_an_update_under_another_role_is_not_found():
    command = Update(role="scout", id="a1", patch={}, cause=Cause("i1", 3))

    assert isinstance(refused(decide(held(), command, now=LATER)), NotFound)


@pytest.mark.parametrize(
    "name, value",
    [
        ("id", "a2"),
        ("role", "scout"),
        ("incarnation", 6),
        ("owner", "me"),
        ("registered_by", "me"),
        ("registered_at", "2020-01-01T00:00:00.000Z"),
        ("updated_at", "2020-01-01T00:00:00.000Z"),
        ("lost_at", "2020-01-01T00:00:00.000Z"),
        ("cause", {"inbox_epoch": "x", "seq": 1}),
        ("registered_seq", 99),
        ("signature", "x"),
    ],
)
def test_a_fixed_member_may_be_named_only_as_it_is(name, value):
    assert isinstance(refused(decide(held(), update({name: value}), now=LATER)), Invalid)
    assert not isinstance(decide(held(), update({"id": "a1", "incarnation": 5}), now=LATER), Rejected)


@pytest.mark.parametrize(
    "patch",
    [
        {"name": None},
        {"name": 5},
        {"ttl": -1},
        {"ttl": 0.1},
        {"capabilities": "ocr"},
        {"status": "gone"},
        {"name": "x" * 257},
        {"capabilities": ["c"] * 257},
        {"services": [{"name": "s", "port": 70000}]},
    ],
)
def test_a_patch_that_breaks_a_limit_or_a_type_is_invalid(patch):
    assert isinstance(refused(decide(held(), update(patch), now=LATER)), Invalid)


def test_an_expected_revision_must_be_the_held_one():
    assert isinstance(decide(held(), update({"name": "x"}, expected=7), now=LATER), Accepted)
    error = refused(decide(held(), update({"name": "x"}, expected=6), now=LATER))
    assert isinstance(error, Conflict)
    assert error.details["revision"] == 7


def test_another_lifes_update_and_goodbye_are_conflicts():
    goodbye = Deregister(role="worker", id="a1", incarnation=4, cause=Cause("i1", 3))

    assert isinstance(refused(decide(held(), update({}, incarnation=4), now=LATER)), Conflict)
    assert isinstance(refused(decide(held(), goodbye, now=LATER)), Conflict)


def test_an_update_with_a_beat_ends_being_lost_and_one_without_does_not():
    place = held(lost_at="2026-11-18T11:06:00.000Z")

    assert decide(place, update({"name": "x"}, beat=True), now=LATER).record.lost_at is None
    assert decide(place, update({"name": "x"}), now=LATER).record.lost_at is not None


def test_deregister_keeps_the_last_record_and_a_second_one_finds_nobody():
    goodbye = Deregister(role="worker", id="a1", reason="done", cause=Cause("i1", 3))

    outcome = decide(held(), goodbye, now=LATER)

    assert isinstance(outcome, Accepted)
    assert (outcome.kind, outcome.reason, outcome.record.name) == (ChangeKind.DEREGISTERED, "done", "billing")
    assert isinstance(refused(decide(gone(), goodbye, now=LATER)), NotFound)


def test_lost_recovered_and_expired_keep_the_cause():
    cause = held().record.cause
    lost = decide(held(), Lose(role="worker", id="a1", reason="silent"), now=LATER)
    assert isinstance(lost, Accepted)
    assert (lost.kind, lost.record.cause) == (ChangeKind.LOST, cause)

    back = decide(Place(lost.record, 8, lost.kind, LATER), Recover(role="worker", id="a1", reason=""), now=LATER)
    assert isinstance(back, Accepted)
    assert (back.kind, back.record.lost_at, back.record.cause) == (ChangeKind.RECOVERED, None, cause)

    expired = decide(Place(lost.record, 8, lost.kind, LATER), Expire(role="worker", id="a1", reason=""), now=LATER)
    assert isinstance(expired, Accepted)
    assert (expired.kind, expired.record.cause) == (ChangeKind.EXPIRED, cause)


def test_an_agent_that_came_back_is_not_forgotten():
    assert decide(held(), Expire(role="worker", id="a1", reason=""), now=LATER) == Unchanged(held())


def test_who_is_lost_is_not_lost_twice_and_who_is_live_does_not_recover():
    lost = held(lost_at="2026-11-18T11:06:00.000Z")

    assert isinstance(decide(lost, Lose(role="worker", id="a1", reason=""), now=LATER), Unchanged)
    assert isinstance(decide(held(), Recover(role="worker", id="a1", reason=""), now=LATER), Unchanged)


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(json, json)
def test_merging_twice_is_merging_once(target, patch):
    once = merge(target, patch)

    assert merge(once, patch) == once


def test_merge_gives_the_examples_of_rfc_7396():
    cases = [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ]

    assert [merge(target, patch) for target, patch, _ in cases] == [result for _, _, result in cases]


@given(st.lists(st.integers(0, 9), max_size=12))
def test_nothing_is_changed_in_place(numbers):
    place = held(labels={"zone": "a"}, metadata={"n": [1, {"deep": True}]})
    before = (place.record.labels.copy(), repr(place.record.metadata))

    for number in numbers:
        decide(place, update({"labels": {"zone": str(number)}, "metadata": {"n": None}}), now=LATER)

    assert (place.record.labels, repr(place.record.metadata)) == before
    assert isinstance(place.record, Record)
