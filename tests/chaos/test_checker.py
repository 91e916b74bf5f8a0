"""The checker finds every kind of lie: a history is made up for each."""

from typing import Any

import pytest
from msgspec.structs import replace

from tests.chaos.checker import Held, Observed, Said, Told, violations

E1, E2 = "1000-aaaaaaaa", "2000-bbbbbbbb"

A1 = Told("a", "registered", E1, 1, 1, cause=("i", 1))
A2 = Told("a", "updated", E1, 2, 2, cause=("i", 2))
B1 = Told("b", "registered", E1, 3, 1, cause=("i", 3))
B2 = Told("b", "deregistered", E1, 4, 2, cause=("i", 4))

RIGHT = Observed(
    said=[
        Said("a", "register", 1, 1),
        Said("a", "update", 2, 2),
        Said("b", "register", 1, 3),
        Said("b", "deregister", 2, 4),
    ],
    tried={"a": 2, "b": 2},
    told=[A1, A2, B1, B2],
    listed=[Held("a", 2, 2)],
    rolled=[A1, A2, B2],
    kept=[A1, A2, B1, B2],
)


def rules(seen: Observed) -> set[str]:
    return {wrong.partition(":")[0] for wrong in violations(seen)}


def test_a_right_history_has_no_violation():
    assert violations(RIGHT) == []


@pytest.mark.parametrize(
    "wrong, broken",
    [
        ({"told": [A1, B1, B2]}, {"acknowledged_is_told", "told_is_listed", "kept_is_told"}),
        ({"told": [A1, A2, A2, B1, B2]}, {"told_once"}),
        ({"told": [A2, A1, B1, B2]}, {"told_in_order", "told_is_listed"}),
        ({"told": [A1, replace(A2, mark=9), B1, B2]}, {"acknowledged_is_told", "told_is_listed"}),
        ({"kept": [A1, A2, B1]}, {"kept_is_told"}),
        ({"kept": [A1, replace(A2, cause=("i", 1)), B1, B2]}, set()),  # the server's own word counts
        ({"rolled": [A1, replace(A2, cause=("i", 1)), B2]}, {"a_command_happens_once"}),
        ({"rolled": [A1, B2]}, {"rolled_is_listed"}),
        ({"rolled": [A1, A2]}, set()),  # a tombstone that ended
        ({"rolled": [A1, A2, B1]}, {"rolled_is_listed"}),
        ({"listed": []}, {"acknowledged_stands", "told_is_listed", "rolled_is_listed"}),
        ({"listed": [Held("a", 1, 1)]}, {"acknowledged_stands", "told_is_listed", "rolled_is_listed"}),
        ({"listed": [Held("a", 2, 2), Held("b", 3, 1)]}, {"acknowledged_stands", "told_is_listed", "rolled_is_listed"}),
        ({"listed": [Held("a", 2, 2, lost=True)]}, {"told_is_listed", "rolled_is_listed"}),
        ({"oddities": ["update a: not found"]}, {"nothing_odd_was_answered"}),
    ],
)
def test_a_lie_is_found(wrong: dict[str, Any], broken: set[str]):
    assert rules(replace(RIGHT, **wrong)) == broken


def test_who_is_lost_without_having_died_is_found_and_who_died_is_not():
    lost = Told("a", "lost", E1, 5, 2, lost=True, cause=("i", 2))
    seen = replace(
        RIGHT,
        told=[*RIGHT.told, lost],
        rolled=[*RIGHT.rolled, lost],
        kept=[*RIGHT.kept, lost],
        listed=[Held("a", 5, 2, lost=True)],
    )

    assert rules(seen) == {"nobody_is_lost_wrongly"}
    assert violations(replace(seen, mortal=frozenset({"a"}))) == []


def test_a_word_that_was_sent_and_not_answered_may_stand_or_not():
    later = Told("a", "updated", E1, 5, 3, cause=("i", 5))
    seen = replace(RIGHT, tried={"a": 3, "b": 2})
    happened = {
        "told": [*RIGHT.told, later],
        "rolled": [*RIGHT.rolled, later],
        "kept": [*RIGHT.kept, later],
        "listed": [Held("a", 5, 3)],
    }

    assert violations(seen) == []
    assert violations(replace(seen, **happened)) == []
    assert rules(replace(RIGHT, **happened)) == {"acknowledged_stands"}


def test_of_a_watcher_that_compared_anew_only_what_stands_counts():
    anew = Told("a", "updated", E2, 1, 2)
    seen = replace(
        RIGHT,
        told=[A1, anew],
        rolled=[anew],
        compared_anew=True,
        kept=None,
        listed=[Held("a", 1, 2)],
    )

    assert violations(seen) == []
    assert rules(replace(seen, listed=[Held("a", 1, 1)])) >= {"acknowledged_stands"}
    assert rules(replace(seen, told=[A1, anew, A2])) == {"told_in_order"}
