"""A registration that names the revision it replaces: compare-and-set, and taking over with open eyes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from rollcall.core.commands import Mode, Signer
from rollcall.core.decide import Accepted, Unchanged, decide
from rollcall.core.errors import Conflict, Denied
from rollcall.core.records import ChangeKind, Place, Signature, Status
from tests.unit.test_decide import LATER, NOW, gone, held, refused, register

HELD = 7
"""The revision of whoever is held in these tests."""

OPERATOR = Signer(key="UOPS", at=LATER, signature=Signature(sender="{}"), operator=True)
STRANGER = Signer(key="UOTHER", at=LATER, signature=Signature(sender="{}"))


def expecting(revision, mode=Mode.CLAIM, signer=None, **said):
    return replace(register(mode, **said), expected=revision, signer=signer)


def owned(owner, **said):
    """A place of an owner, however that came about."""
    place = held(**said)
    return Place(replace(place.record, owner=owner), place.revision, place.kind, place.at)


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("place", [None, gone()])
def test_expecting_nothing_registers_where_nothing_is_held(mode, place):
    outcome = decide(place, expecting(0, mode), now=LATER)

    assert isinstance(outcome, Accepted)
    assert outcome.kind is ChangeKind.REGISTERED


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("place", [None, gone()])
@pytest.mark.parametrize("revision", [HELD, 9])
def test_expecting_somebody_is_a_conflict_where_nothing_is_held(mode, place, revision):
    error = refused(decide(place, expecting(revision, mode), now=LATER))

    assert isinstance(error, Conflict)
    assert error.details["revision"] == 0


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("revision", [0, HELD - 1, HELD + 1])
@pytest.mark.parametrize("owner", ["", "o"])
def test_another_revision_than_the_held_one_is_a_conflict_whoever_comes(mode, revision, owner):
    error = refused(decide(held(owner=owner), expecting(revision, mode, owner=owner, incarnation=9), now=LATER))

    assert isinstance(error, Conflict)
    assert f"revision {HELD}, not {revision}" in error.message
    assert error.details["revision"] == HELD


def test_the_held_revision_lets_the_same_life_say_more_and_the_same():
    assert decide(held(), expecting(HELD, version="2"), now=LATER).kind is ChangeKind.UPDATED
    assert isinstance(decide(held(), expecting(HELD), now=LATER), Unchanged)


def test_the_held_revision_alone_lets_a_claim_take_no_more_than_it_may():
    assert isinstance(refused(decide(held(), expecting(HELD, incarnation=9), now=LATER)), Conflict)
    assert isinstance(refused(decide(held(owner="o"), expecting(HELD, incarnation=9), now=LATER)), Denied)
    assert isinstance(refused(decide(held(owner="o"), expecting(HELD, owner="o", incarnation=4), now=LATER)), Conflict)
    vacant = held(status=Status.STOPPED)
    assert isinstance(decide(vacant, expecting(HELD, incarnation=9), now=LATER), Accepted)


@pytest.mark.parametrize("owner", ["", "o"])
@pytest.mark.parametrize("lost_at", [None, "2026-11-18T11:06:00.000Z"])
def test_create_refuses_a_held_id_though_it_names_the_revision(owner, lost_at):
    error = refused(decide(held(owner=owner, lost_at=lost_at), expecting(HELD, Mode.CREATE, owner=owner), now=LATER))

    assert isinstance(error, Conflict)
    assert "choose another id" in error.message


@pytest.mark.parametrize("incarnation", [1, 5, 9])
@pytest.mark.parametrize("comes", ["", "p", "o"])
def test_takeover_at_the_held_revision_wins_over_an_owner_that_is_no_key(comes, incarnation):
    place = owned("o")

    outcome = decide(
        place, expecting(HELD, Mode.TAKEOVER, owner=comes, incarnation=incarnation, version="2"), now=LATER
    )

    assert isinstance(outcome, Accepted)
    assert (outcome.record.owner, outcome.record.incarnation, outcome.record.version) == (comes, incarnation, "2")
    assert outcome.record.registered_at == place.record.registered_at
    assert outcome.record.registered_seq == place.record.registered_seq


def test_takeover_without_a_revision_does_not_win_over_another_owner():
    assert isinstance(refused(decide(owned("o"), register(Mode.TAKEOVER, owner="p"), now=LATER)), Denied)


@pytest.mark.parametrize("signer", [None, STRANGER])
@pytest.mark.parametrize("revision", [None, HELD])
def test_takeover_never_wins_over_a_key(signer, revision):
    error = refused(decide(owned("nkey:UOWNER"), expecting(revision, Mode.TAKEOVER, signer, incarnation=9), now=LATER))

    assert isinstance(error, Denied)
    assert error.details["owner"] == "nkey:UOWNER"


@pytest.mark.parametrize("revision", [None, HELD])
def test_an_operator_takes_over_also_from_a_key(revision):
    outcome = decide(owned("nkey:UOWNER"), expecting(revision, Mode.TAKEOVER, OPERATOR, incarnation=1), now=LATER)

    assert isinstance(outcome, Accepted)


def test_an_operator_who_names_another_revision_takes_nobody_by_surprise():
    error = refused(decide(owned("nkey:UOWNER"), expecting(HELD - 1, Mode.TAKEOVER, OPERATOR), now=LATER))

    assert isinstance(error, Conflict)


def test_takeover_at_the_held_revision_keeps_the_role():
    error = refused(decide(held(), expecting(HELD, Mode.TAKEOVER, role="scout"), now=LATER))

    assert isinstance(error, Conflict)
    assert "register it as scout" in error.message


@given(st.sampled_from(Mode), st.sampled_from(["", "o", "nkey:UOWNER"]), st.integers(0, 12), st.sampled_from(["", "o"]))
def test_what_happens_at_another_revision_never_happens(mode, owner, revision, comes):
    outcome = decide(owned(owner), expecting(revision, mode, owner=comes, incarnation=9), now=NOW)

    assert revision == HELD or isinstance(refused(outcome), Conflict)
