"""Finding agents by id, by name or by terminal session. What is not unique is not chosen."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from rollcall.core.errors import Conflict
from rollcall.faces.files.houmao.names import spellings
from rollcall.faces.files.houmao.ownership import active
from rollcall.faces.files.houmao.record import LocalRecord


class Ambiguous(Conflict):
    """More than one agent has the name."""


class HasNames(Protocol):
    """Whatever is found by its id or its name."""

    @property
    def agent_id(self) -> str: ...

    @property
    def agent_name(self) -> str: ...


Named = TypeVar("Named", bound=HasNames)


def by_name(records: Iterable[Named], name: str) -> list[Named]:
    """The records of a name, in the order of their ids; only if there is none, those of its other spellings."""
    found = sorted(records, key=lambda record: record.agent_id)
    exact = [record for record in found if record.agent_name == name]
    return exact or [record for record in found if record.agent_name in spellings(name)]


def by_session(records: Iterable[LocalRecord], session: str, now: datetime) -> list[LocalRecord]:
    """The active records that run in a terminal session; the last session of a stopped one is none."""
    return [record for record in records if record.terminal.current_session_name == session and active(record, now)]


def known(records: Iterable[Named], ref: str) -> list[Named]:
    """The record of an id, in whatever state; if there is none, all of that name."""
    found = list(records)
    return [record for record in found if record.agent_id == ref] or by_name(found, ref)


def ambiguous(name: str, candidates: Sequence[Mapping[str, object]]) -> Ambiguous:
    """Says no to a name of several agents, with the way on; of each candidate it tells what is given."""
    lines = "".join("- " + " ".join(f"{member}={value}" for member, value in one.items()) + "\n" for one in candidates)
    return Ambiguous(
        f"Local managed-agent resolution is ambiguous for --agent-name `{name}` (friendly name).\nCandidates:\n{lines}"
        "Retry with `--agent-id <id>`."
    )
