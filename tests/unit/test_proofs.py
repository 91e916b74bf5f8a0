"""What a record proves: every way to change what was signed is found, and what the registry does keeps the proof."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from rollcall.bus.follow import Stored
from rollcall.bus.inbox import read_command
from rollcall.bus.subjects import Subjects, key
from rollcall.core import codec
from rollcall.core.commands import Expire, Lose, Recover
from rollcall.core.decide import Accepted, decide
from rollcall.core.fold import fold
from rollcall.core.records import Change, ChangeKind, Entry, Liveness, Place
from rollcall.identity.keys import new_key
from rollcall.identity.proofs import Against, Validity, as_it_stands, proofs, statement
from rollcall.identity.signing import SenderSigner
from rollcall.worker.clock import Clock
from rollcall.worker.identity import Identity, IdentitySettings

NOW = 1_795_000_000_000
AT = Subjects("default")
MINE, OTHER, BOSS = new_key(), new_key(), new_key()
OPERATORS = frozenset({BOSS.public})


class Still(Clock):
    """A clock that a test moves."""

    def __init__(self):
        self.time = NOW

    def now(self):
        return self.time / 1000

    def wall(self):
        return self.time


class Story:
    """One agent's life, told by the rules of the registry itself: each command a second after the one before."""

    def __init__(self, id="a1", role="worker"):
        self.id, self.role = id, role
        self.clock = Still()
        self._identity = Identity(IdentitySettings(operators=OPERATORS), self.clock, Counter())
        self._place: Place | None = None
        self.changes: list[Change] = []

    def say(self, verb, body=b"", *, by=None, to=None, **headers):
        """A command, signed `by` a key, and handing over `to` another."""
        self.clock.time += 1000
        subject = AT.command(verb, key(self.role, self.id))
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        if by is not None:
            headers["Agent-Sender"] = SenderSigner(by, "AGENTS").sign(subject, data, self.clock.time)
        if to is not None:
            headers["Rollcall-Successor"] = SenderSigner(to, "AGENTS").sign(subject, data, self.clock.time)
        stored = Stored(len(self.changes) + 1, subject, headers, data, self.clock.time, 0)
        return self._decided(self._identity.signed(read_command(stored, "i1", 0), stored))

    def observe(self, command):
        self.clock.time += 1000
        return self._decided(command(role=self.role, id=self.id, **({} if command is Recover else {"reason": "x"})))

    def _decided(self, command):
        outcome = decide(self._place, command, now=self.clock.time)
        assert isinstance(outcome, Accepted), outcome
        change = Change(
            kind=outcome.kind,
            record=codec.decode_record(codec.encode_record(outcome.record)),
            revision=len(self.changes) + 1,
            epoch="e1",
            at=self.clock.time,
            reason=outcome.reason,
        )
        self._place = fold(self._place, change)
        self.changes.append(change)
        return self


def life():
    """Everything that may happen to an agent of one key."""
    return (
        Story()
        .say("register", {"name": "x", "ttl": 30, "capabilities": ["ocr"], "labels": {"zone": "a"}}, by=MINE)
        .say("update", {"labels": {"zone": "b"}, "description": "d"}, by=MINE)
        .observe(Lose)
        .observe(Recover)
        .say("update", {"ttl": None}, by=MINE)
        .say("register", {"name": "y", "incarnation": 2}, by=MINE)
        .observe(Lose)
        .say("deregister", {"reason": "done"}, by=MINE)
        .say("register", {"name": "z", "incarnation": 3}, by=MINE)
        .observe(Lose)
        .observe(Expire)
    )


def validities(changes, operators=frozenset()):
    return [one.validity for one in proofs(changes, Against(operators=operators))]


def alone(change):
    """What a right record proves without the one before: an update says just a part."""
    return Validity.PARTIAL if ".update." in change.record.signature.sender else Validity.VALID


def entry(change):
    record = {name: getattr(change.record, name) for name in change.record.__struct_fields__}
    return Entry(**record, revision=change.revision, liveness=Liveness.LIVE)


def forged(change, **changed):
    """The same change, its record saying something else."""
    return replace(change, record=replace(change.record, **changed))


def test_a_life_of_one_key_is_valid_from_its_beginning_to_its_end():
    story = life()

    found = proofs(story.changes)

    assert {one.validity for one in found} == {Validity.VALID}
    assert {one.signer for one in found} == {MINE.public}
    assert {one.why for one in found} == {""}
    assert [one.kind for one in found] == [change.kind for change in story.changes]


def test_what_was_lost_and_came_back_keeps_its_proof():
    for change in life().changes:
        if change.kind is not ChangeKind.DEREGISTERED:
            assert as_it_stands(entry(change), change.revision).validity is alone(change), change.kind


def test_a_history_that_begins_late_is_still_followed():
    changes = life().changes

    for start in range(len(changes)):
        first, *rest = validities(changes[start:])
        assert first is alone(changes[start]), start
        assert set(rest) <= {Validity.VALID}, start


def test_who_signs_nothing_proves_nothing():
    story = Story().say("register", {"name": "x"}).say("update", {"name": "y"}).observe(Lose).say("deregister")

    assert set(validities(story.changes)) == {Validity.UNSIGNED}
    assert as_it_stands(entry(story.changes[0]), 1).validity is Validity.UNSIGNED


def test_an_agent_that_nobody_owned_may_get_an_owner():
    story = Story().say("register", {"name": "x"})
    story.observe(Lose).say("register", {"name": "x", "incarnation": 4}, by=MINE)

    assert validities(story.changes) == [Validity.UNSIGNED, Validity.UNSIGNED, Validity.VALID]


def test_both_keys_prove_a_hand_over_and_the_new_one_proves_what_follows():
    story = Story().say("register", {"name": "x"}, by=MINE)
    story.say("update", {"owner": f"nkey:{OTHER.public}"}, by=MINE, to=OTHER)
    story.say("update", {"name": "y"}, by=OTHER)

    found = proofs(story.changes)

    assert [(one.validity, one.signer) for one in found] == [
        (Validity.VALID, MINE.public),
        (Validity.VALID, MINE.public),
        (Validity.VALID, OTHER.public),
    ]
    assert as_it_stands(entry(story.changes[1]), 2).validity is Validity.PARTIAL


def test_a_record_that_was_signed_for_another_realm_proves_nothing_here():
    changes = life().changes

    assert {one.validity for one in proofs(changes, Against(realm="default"))} == {Validity.VALID}
    elsewhere = proofs(changes, Against(realm="other"))
    assert elsewhere[0].validity is Validity.INVALID
    assert "realm 'default'" in elsewhere[0].why


def test_a_hand_over_without_the_word_of_the_new_key_is_none():
    story = Story().say("register", {"name": "x"}, by=MINE)
    story.say("update", {"owner": f"nkey:{OTHER.public}"}, by=MINE, to=OTHER)
    first, second = story.changes
    signature = second.record.signature
    third = new_key()
    agreed_by_third = SenderSigner(third, "AGENTS").sign(
        AT.command("update", "worker.a1"), signature.payload.encode(), NOW
    )
    of_other_words = SenderSigner(OTHER, "AGENTS").sign(AT.command("update", "worker.a1"), b"{}", NOW)
    of_another_agent = SenderSigner(OTHER, "AGENTS").sign(
        AT.command("update", "worker.a2"), signature.payload.encode(), NOW
    )
    for changed in (
        {"signature": replace(signature, successor=of_other_words)},
        {"signature": replace(signature, successor=of_another_agent)},
        {"signature": replace(signature, successor="")},
        {"signature": replace(signature, successor=signature.sender)},
        {"signature": replace(signature, successor=agreed_by_third)},
        {"signature": replace(signature, successor=agreed_by_third), "owner": f"nkey:{third.public}"},
        {"owner": f"nkey:{MINE.public}"},
        {"owner": f"nkey:{third.public}"},
        {"owner": ""},
    ):
        last = forged(second, **changed)
        assert validities([first, last])[-1] is Validity.INVALID, changed
        assert as_it_stands(entry(last), 2).validity is Validity.INVALID, changed


def test_what_an_operator_does_counts_where_the_operator_is_known():
    story = Story().say("register", {"name": "x"}, by=MINE).say("update", {"name": "y"}, by=BOSS)
    story.say("deregister", by=BOSS).say("register", {"name": "z", "owner": "vers:shared"}, by=BOSS)

    assert set(validities(story.changes, OPERATORS)) == {Validity.VALID}
    assert validities(story.changes) == [Validity.VALID] + [Validity.INVALID] * 3
    assert "no known operator" in proofs(story.changes)[-1].why


def test_a_signature_that_was_taken_away_from_an_owned_record_is_missed():
    changes = life().changes
    for at in range(len(changes)):
        bare = forged(changes[at], signature=None)
        found = proofs([*changes[:at], bare])[-1]
        assert (found.validity, "nobody signed it" in found.why) == (Validity.INVALID, True), changes[at].kind
        assert as_it_stands(entry(bare), at).validity is Validity.INVALID


def test_an_owner_that_was_taken_away_with_the_signature_is_missed():
    """Nothing that happens in a registry leaves a standing agent without the owner that it had."""
    changes = life().changes[:2]
    bare = forged(changes[1], signature=None, owner="")

    assert validities([changes[0], bare])[-1] is Validity.INVALID


def test_another_key_does_not_register_over_a_standing_agent():
    mine = Story().say("register", {"name": "x"}, by=MINE)
    theirs = Story().say("register", {"name": "evil", "incarnation": 9}, by=OTHER)
    taken = replace(theirs.changes[0], revision=2)

    assert validities([mine.changes[0], taken]) == [Validity.VALID, Validity.INVALID]


def test_a_command_is_told_once():
    """The same signed words put into a history a second time undo what came between."""
    story = Story().say("register", {"name": "x"}, by=MINE)
    story.say("update", {"status": "paused"}, by=MINE).say("update", {"status": "running"}, by=MINE)
    again = replace(story.changes[1], revision=4)

    assert validities([*story.changes, again])[-1] is Validity.INVALID


CHANGED = {
    "name": "evil",
    "id": "a2",
    "role": "boss",
    "description": "evil",
    "status": "stopped",
    "version": "9",
    "capabilities": ("rule",),
    "endpoints": {"http": "http://evil"},
    "metadata": {"n": 1},
    "labels": {"zone": "evil"},
    "depends_on": ("evil",),
    "ttl": 31.0,
    "heartbeat_interval": 7.0,
    "incarnation": 77,
    "registered_by": "evil",
    "owner": f"nkey:{OTHER.public}",
    "host": "evil",
    "origin": "evil",
    "keep": True,
    "pointers": {"log": "evil"},
    "extensions": {"x": {}},
}


@pytest.mark.parametrize("name", CHANGED)
def test_no_member_of_a_registration_can_be_changed(name):
    first = life().changes[0]
    last = forged(first, **{name: CHANGED[name]})

    assert validities([last]) == [Validity.INVALID]
    assert as_it_stands(entry(last), 1).validity is Validity.INVALID


@pytest.mark.parametrize("name", CHANGED)
def test_no_member_can_be_changed_anywhere_in_a_history(name):
    changes = life().changes
    for at in range(len(changes)):
        last = forged(changes[at], **{name: CHANGED[name]})
        assert validities([*changes[:at], last])[-1] is Validity.INVALID, changes[at].kind


def test_a_member_that_an_update_gave_is_proved_by_the_record_alone():
    updated = life().changes[1]

    for changed in ({"labels": {"zone": "c"}}, {"description": "e"}, {"owner": f"nkey:{OTHER.public}"}, {"id": "a2"}):
        assert as_it_stands(entry(forged(updated, **changed)), 2).validity is Validity.INVALID, changed


@pytest.mark.parametrize("kind", list(ChangeKind))
def test_what_was_signed_to_do_one_thing_is_not_told_as_another(kind):
    changes = life().changes
    registered, updated, gone = changes[0], changes[1], changes[7]
    assert gone.kind is ChangeKind.DEREGISTERED

    if kind is not ChangeKind.UPDATED:
        assert validities([registered, replace(updated, kind=kind)])[-1] is Validity.INVALID
    if kind is not ChangeKind.DEREGISTERED:
        assert validities([*changes[:7], replace(gone, kind=kind)])[-1] is Validity.INVALID


def test_the_signature_of_one_change_is_none_of_another():
    changes = life().changes
    for at, change in enumerate(changes):
        for other in changes:
            if other.record.signature == change.record.signature:
                continue
            last = forged(change, signature=other.record.signature)
            found = validities([*changes[:at], last])[-1]
            assert found is Validity.INVALID, (change.kind, other.kind, other.revision)


def test_a_signature_for_another_agent_role_or_realm_is_none():
    words = {"name": "x"}
    record = Story().say("register", words, by=MINE).changes[0].record
    for id, role in (("a2", "worker"), ("a1", "boss")):
        strange = Story(id, role).say("register", words, by=MINE).changes[0].record
        last = replace(strange, id=record.id, role=record.role)
        assert as_it_stands(Entry(**_members(last), revision=1, liveness=Liveness.LIVE), 1).validity is Validity.INVALID


def _members(record):
    return {name: getattr(record, name) for name in record.__struct_fields__}


def test_ids_that_are_spelled_with_escapes_are_proved_too():
    for id in ("a/b.c", "*", ">", "a b", " ", "é🐟", "x" * 128, "=41"):
        story = Story(id, "r ö.*").say("register", {"name": "x"}, by=MINE).say("update", {"name": "y"}, by=MINE)
        assert set(validities(story.changes)) == {Validity.VALID}, id


SIGNED = [change for change in life().changes if change.record.signature.payload is not None]
CHAR = st.characters(exclude_categories=("Cs",))


@given(change=st.sampled_from(SIGNED), at=st.integers(0, 10_000), char=CHAR)
def test_a_changed_character_of_the_payload_is_found(change, at, char):
    before = change.record.signature.payload
    at %= len(before)
    payload = before[:at] + char + before[at + 1 :]
    if payload == before:
        return
    signature = replace(change.record.signature, payload=payload)

    assert as_it_stands(entry(forged(change, signature=signature)), 1).validity is Validity.INVALID


@given(change=st.sampled_from(life().changes), at=st.integers(0, 10_000), char=CHAR)
def test_a_changed_character_of_the_header_is_found(change, at, char):
    before = change.record.signature.sender
    # The last letter of a signature has four bits that no byte needs: two spellings may mean the same 64 bytes.
    at %= len(before) - 3
    sender = before[:at] + char + before[at + 1 :]
    if sender == before:
        return
    signature = replace(change.record.signature, sender=sender)

    assert as_it_stands(entry(forged(change, signature=signature)), 1).validity is Validity.INVALID


@given(
    patch=st.dictionaries(
        st.sampled_from(["name", "description", "host", "version"]), st.text(CHAR, max_size=20), min_size=1
    ),
    said=st.fixed_dictionaries({"name": st.text(CHAR, max_size=20)}, optional={"ttl": st.floats(0.5, 100)}),
)
def test_whatever_is_said_and_patched_is_valid_and_any_other_name_is_not(patch, said):
    story = Story().say("register", said, by=MINE)
    place = story.changes[0].record
    if all(getattr(place, name) == value for name, value in patch.items()):
        return
    story.say("update", patch, by=MINE)

    assert validities(story.changes) == [Validity.VALID, Validity.VALID]
    first, last = story.changes
    assert validities([first, forged(last, name=f"{last.record.name}!")])[-1] is Validity.INVALID


def test_an_agent_that_says_itself_as_the_sdk_does_needs_no_copy_of_its_words():
    profile = codec.as_profile({"id": "a1", "role": "worker", "name": "x", "capabilities": ["ocr"]})
    change = Story().say("register", statement(profile), by=MINE).changes[0]

    assert change.record.signature.payload is None
    assert as_it_stands(entry(change), 1).validity is Validity.VALID
    assert as_it_stands(entry(forged(change, name="evil")), 1).validity is Validity.INVALID


def test_a_signature_that_is_no_signature_proves_nothing():
    change = life().changes[0]
    signature = change.record.signature
    claim = json.dumps({"v": 1, "account": "A", "user": MINE.public, "sub": json.loads(signature.sender)["sub"]})
    newer = signature.sender.replace('"v":1', '"v":2')
    for sender in ("", "{", claim, newer, "null", "[]"):
        last = forged(change, signature=replace(signature, sender=sender))
        assert as_it_stands(entry(last), 1).validity is Validity.INVALID, sender


def test_a_reason_that_was_signed_is_told_as_it_was():
    changes = life().changes[:8]
    gone = changes[-1]
    assert (gone.kind, gone.reason) == (ChangeKind.DEREGISTERED, "done")

    assert validities([*changes[:-1], replace(gone, reason="fired")])[-1] is Validity.INVALID
