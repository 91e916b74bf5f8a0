"""What becomes of a file and of the running agents when they are compared with what both had before: pure rules.

Entries are compared field by field. Where one side changed a field, that side wins; where both did, differently, it
is a conflict, and the policy decides.
"""

from collections.abc import Mapping
from copy import deepcopy
from enum import StrEnum
from typing import Any

from msgspec import Struct, field

Entry = dict[str, Any]  # Any: as the file has it, with members that we do not know

IGNORED = frozenset({"last_updated", "last_updated_at", "instance", "id"})
"""Members whose difference is no change."""

WHOLE = "*"
"""Stands where a field belongs when it is about the entry itself."""

_ABSENT: Any = object()


class Policy(StrEnum):
    """Who wins a conflict: a side, whoever changed last, or nobody."""

    RUNTIME = "runtime"
    FILE = "file"
    NEWEST = "newest"
    HOLD = "hold"


class Direction(StrEnum):
    """Which way changes go."""

    BOTH = "both"
    RUNTIME_TO_FILE = "runtime_to_file"
    FILE_TO_RUNTIME = "file_to_runtime"


class Deletions(StrEnum):
    """What becomes of an entry that one side deleted: the other side stays, or follows."""

    KEEP = "keep"
    PROPAGATE = "propagate"


class Rules(Struct, frozen=True, kw_only=True):
    """How to merge. Without `add_missing` nothing is added to the file that only runs."""

    policy: Policy = Policy.RUNTIME
    direction: Direction = Direction.BOTH
    deletions: Deletions = Deletions.KEEP
    add_missing: bool = True

    @property
    def to_file(self) -> bool:
        """Whether the file may change."""
        return self.direction is not Direction.FILE_TO_RUNTIME

    @property
    def to_runtime(self) -> bool:
        """Whether the running side may change."""
        return self.direction is not Direction.RUNTIME_TO_FILE


class Running(Struct, frozen=True):
    """An agent as the running side has it. Not `complete`: of fields that it does not name it knows nothing.

    `changed_at` is when it changed last, in seconds since 1970; an agent that is only `defined` does not run.
    """

    fields: Entry
    complete: bool = False
    changed_at: float = 0.0
    defined: bool = False


class Base(Struct, frozen=True):
    """What each side had after the last sync."""

    file: dict[str, Entry] = {}
    runtime: dict[str, Entry] = {}


class Conflict(Struct, frozen=True):
    """A field that both sides changed differently; `winner` is the side that stays, or ``hold``."""

    id: str
    field: str
    file: Any
    runtime: Any
    winner: str


class Merged(Struct):
    """What has to happen on each side."""

    file: dict[str, Entry] = field(default_factory=dict)
    """Entries of the file that are new or change, as they shall be."""
    to_runtime: dict[str, Entry] = field(default_factory=dict)
    """Members that agents on the running side get."""
    gone: dict[str, list[str]] = field(default_factory=dict)
    """Members that go on the running side."""
    register: dict[str, Entry] = field(default_factory=dict)
    delete_from_file: list[str] = field(default_factory=list)
    deregister: list[str] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    held: set[tuple[str, str]] = field(default_factory=set)
    """What stays as it is on both sides, and so is no common ground."""


def merge(file: Mapping[str, Entry], runtime: Mapping[str, Running], base: Base, rules: Rules) -> Merged:
    """Compares the two sides with what they had."""
    merged = Merged()
    for id in [*file, *(id for id in runtime if id not in file)]:
        if id in file and id in runtime:
            _both(id, file[id], runtime[id], base, rules, merged)
        elif id in file:
            _only_file(id, file[id], base, rules, merged)
        else:
            _only_runtime(id, runtime[id], base, rules, merged)
    return merged


def compared(entry: Entry) -> Entry:
    """What of an entry is compared."""
    return {name: value for name, value in entry.items() if name not in IGNORED}


def _both(id: str, entry: Entry, running: Running, base: Base, rules: Rules, merged: Merged) -> None:
    was_file, was_running = base.file.get(id, {}), base.runtime.get(id, {})
    new, sent, gone = deepcopy(entry), {}, []
    for name in _fields(entry, running, was_file):
        mine, theirs = entry.get(name, _ABSENT), _opinion(running, name)
        if same(mine, theirs) or (theirs is _UNKNOWN and not _changed(mine, was_file.get(name, _ABSENT))):
            continue
        winner = _winner(id, name, mine, theirs, was_file, was_running, entry, running, rules, merged)
        if winner == "file" and rules.to_runtime:
            if mine is _ABSENT:
                gone.append(name)
            else:
                sent[name] = deepcopy(mine)
        elif winner == "runtime" and rules.to_file:
            if theirs is _ABSENT:
                new.pop(name, None)
            else:
                new[name] = deepcopy(theirs)
        else:
            merged.held.add((id, name))
    if not same(new, entry):
        merged.file[id] = new
    if sent:
        merged.to_runtime[id] = sent
    if gone:
        merged.gone[id] = gone


_UNKNOWN: Any = object()


def _opinion(running: Running, name: str) -> Any:  # Any: the value of a field, or one of two marks
    """What the running side says of a field."""
    if name in running.fields:
        return running.fields[name]
    return _ABSENT if running.complete else _UNKNOWN


def _winner(
    id: str,
    name: str,
    mine: Any,
    theirs: Any,
    was_file: Entry,
    was_running: Entry,
    entry: Entry,
    running: Running,
    rules: Rules,
    merged: Merged,
) -> str:
    """Which side a field is taken from; empty when it stays as it is."""
    if theirs is _UNKNOWN:
        return "file"
    file_changed = _changed(mine, was_file.get(name, _ABSENT))
    runtime_changed = _changed(theirs, was_running.get(name, _ABSENT))
    if file_changed and runtime_changed:
        # What a side never had is no word against the other's.
        if mine is _ABSENT and name not in was_file:
            return "runtime"
        if theirs is _ABSENT and name not in was_running:
            return "file"
        winner = _by_policy(rules.policy, entry, running)
        seen = [None if one is _ABSENT else deepcopy(one) for one in (mine, theirs)]
        merged.conflicts.append(Conflict(id, name, seen[0], seen[1], winner))
        return "" if winner == Policy.HOLD else winner
    if file_changed:
        return "file"
    return "runtime" if runtime_changed else ""


def _by_policy(policy: Policy, entry: Entry, running: Running) -> str:
    if policy is not Policy.NEWEST:
        return str(policy)
    written = entry.get("last_updated")
    at = float(written) if isinstance(written, int | float) and not isinstance(written, bool) else 0.0
    return "file" if at > running.changed_at else "runtime"


def _only_file(id: str, entry: Entry, base: Base, rules: Rules, merged: Merged) -> None:
    if id in base.runtime:
        merged.conflicts.append(Conflict(id, WHOLE, "there", "deleted", _stays(rules, "file")))
        if rules.deletions is Deletions.PROPAGATE and rules.to_file:
            merged.delete_from_file.append(id)
        else:
            merged.held.add((id, WHOLE))
    elif id not in base.file and rules.to_runtime:
        merged.register[id] = deepcopy(entry)
    else:
        merged.held.add((id, WHOLE))


def _only_runtime(id: str, running: Running, base: Base, rules: Rules, merged: Merged) -> None:
    if id in base.file:
        merged.conflicts.append(Conflict(id, WHOLE, "deleted", "there", _stays(rules, "runtime")))
        if rules.deletions is Deletions.PROPAGATE and rules.to_runtime:
            merged.deregister.append(id)
        else:
            merged.held.add((id, WHOLE))
    elif id not in base.runtime and rules.add_missing and rules.to_file:
        merged.file[id] = new_entry(id, running)
    else:
        merged.held.add((id, WHOLE))


def _stays(rules: Rules, other: str) -> str:
    """Who wins when one side deleted an entry: the `other` stays unless deletions are passed on."""
    if rules.deletions is Deletions.KEEP:
        return other
    return "runtime" if other == "file" else "file"


def new_entry(id: str, running: Running) -> Entry:
    """The entry of an agent that only runs."""
    entry: Entry = {
        "id": id,
        "name": id,
        "type": "unknown",
        "description": None,
        "version": "1.0.0",
        "enabled": True,
        "capabilities": [],
        "roles": [],
        "access_control": {},
    }
    return {**entry, **deepcopy(running.fields), "id": id}


def _fields(entry: Entry, running: Running, was: Entry) -> list[str]:
    names = [*entry, *running.fields, *was]
    return [name for name in dict.fromkeys(names) if name not in IGNORED]


def _changed(now: Any, before: Any) -> bool:
    return not same(now, before)


def same(one: Any, other: Any) -> bool:  # Any: JSON
    """Whether JSON sees no difference: Python takes 1 and true for equal."""
    if one is _ABSENT or other is _ABSENT or one is _UNKNOWN or other is _UNKNOWN:
        return one is other
    if isinstance(one, bool) is not isinstance(other, bool):
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)
