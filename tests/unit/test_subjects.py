"""Tokens: exactly one spelling of every name, and no other is taken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollcall.bus.subjects import Subjects, is_client, key, names, text, token
from rollcall.core.errors import Invalid
from rollcall.core.names import checked_name, checked_realm

allowed = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=30).filter(
    lambda name: len(name.encode()) <= 128
)


def test_bytes_outside_the_plain_ones_are_written_in_upper_case_hex():
    assert token("a/b.c") == "a=2Fb=2Ec"
    assert token("* >") == "=2A=20=3E"
    assert token("é") == "=C3=A9"
    assert token("plain-Name_9") == "plain-Name_9"


@given(allowed)
def test_a_spelled_name_reads_back_and_is_one_token(name):
    spelled = token(name)

    assert text(spelled) == name
    assert not set(spelled) & set(".*> \t\r\n")


@given(allowed, allowed)
def test_two_names_never_share_a_spelling(one, other):
    assert (token(one) == token(other)) == (one == other)


@pytest.mark.parametrize(
    "spelled",
    ["a=2fb", "=41", "a=2", "=", "a b", "*", ">", "a.b", "=FF", "=C3", "=00", "", "=0A", "=ED=A0=80", "a=2Fb=2e"],
)
def test_any_other_spelling_is_invalid(spelled):
    with pytest.raises(Invalid):
        text(spelled)


def test_a_key_reads_back():
    assert names(key("wor ker", "a.1")) == ("wor ker", "a.1")
    with pytest.raises(Invalid):
        names("one")
    with pytest.raises(Invalid):
        names("a.b.c")


@pytest.mark.parametrize("name", ["", "x" * 129, "a\nb", "a\x00", "a\x7f", "a\x85", "é" * 65, "\ud800"])
def test_a_name_that_cannot_be_one_is_invalid(name):
    with pytest.raises(Invalid):
        checked_name("id", name)


@pytest.mark.parametrize("realm", ["", "a b", "x" * 33, "a.b", "*", "é"])
def test_a_realm_is_a_short_plain_word(realm):
    with pytest.raises(Invalid):
        checked_realm(realm)


def test_a_client_token_is_long_enough_not_to_be_guessed():
    assert is_client("a" * 16)
    assert is_client("U" + "A" * 55)
    assert not is_client("a" * 15)
    assert not is_client("a" * 65)
    assert not is_client("a" * 16 + ".*")


def test_every_subject_begins_with_the_realm():
    subjects = Subjects("lab")

    assert subjects.command("register", "worker.a1") == "rollcall.lab.register.worker.a1"
    assert subjects.changes("worker.a1") == "rollcall.lab.changes.worker.a1"
    assert subjects.outcome("t" * 16, "worker.a1") == f"rollcall.lab.outcome.{'t' * 16}.worker.a1"
    assert subjects.roll("worker.a1") == "$KV.rollcall_lab.worker.a1"
    assert subjects.commands() == [f"rollcall.lab.{verb}.*.*" for verb in ("register", "update", "deregister")]
