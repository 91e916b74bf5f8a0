"""Finding agents by id, by name or by terminal session. What is not unique is not chosen."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from rollcall.core.errors import Conflict
from rollcall.faces.files.houmao.names import spellings


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


def ambiguous(name: str, candidates: Sequence[Mapping[str, object]]) -> Ambiguous:
    """Says no to a name of several agents, with the way on; of each candidate it tells what is given."""
    lines = "".join("- " + " ".join(f"{member}={value}" for member, value in one.items()) + "\n" for one in candidates)
    return Ambiguous(
        f"Local managed-agent resolution is ambiguous for --agent-name `{name}` (friendly name).\nCandidates:\n{lines}"
        "Retry with `--agent-id <id>`."
    )
